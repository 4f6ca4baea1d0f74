"""Users and passwords the way HTTP wants them: Basic (RFC 7617) and Digest (RFC 7616).

A server that wants a login says so by challenges; the strongest that can be answered is, and from
then on the answer goes along unasked, until the server says otherwise. Everything here is of one
user at one server (or proxy), without I/O: header values in, header values out. A challenge comes
from anyone: what is malformed in it is left alone, and no list in it is longer than a bound.
"""
from __future__ import annotations

import hashlib
import os
import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Dict, Iterable, List, Match, Optional, Tuple

CHALLENGE_MAX = 8 * 1024   # characters of one header value that are looked at
CHALLENGES_MAX = 32        # of one answer
PARAMETERS_MAX = 32        # of one challenge
CNONCE_SIZE = 16           # random bytes: as good as the server's own nonce
ANSWERS_MAX = 2            # to the challenges of one request: the second only to a stale nonce

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_ELEMENT = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*(?:"|$))+')   # of a list with commas between
_PARAMETER = re.compile(rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|((?:[^\s,"=][^\s,"]*)?))')
_SCHEME = re.compile(rf"({_TOKEN})(?:\s+(.*))?", re.DOTALL)
_HASHES: Dict[str, Tuple[int, str]] = {"sha-256": (2, "sha256"), "md5": (1, "md5")}  # strength


@dataclass(frozen=True)
class Challenge:
    """`scheme` and the names of `parameters` in lower case."""

    scheme: str
    parameters: Dict[str, str]

    def get(self, name: str) -> str:
        return self.parameters.get(name, "")

    @property
    def strength(self) -> int:
        """0 = can't be answered; Basic is the weakest that can."""
        if self.scheme == "basic":
            return 1
        if self.scheme != "digest" or "nonce" not in self.parameters or not _can_qop(self):
            return 0
        return 1 + _HASHES.get(_algorithm(self), (-1, ""))[0]


def _algorithm(challenge: Challenge) -> str:
    """In lower case, less the mark of a session."""
    name = (challenge.get("algorithm") or "MD5").lower()
    return name[:-5] if name.endswith("-sess") else name


def _qops(challenge: Challenge) -> List[str]:
    return [part.strip().lower() for part in challenge.get("qop").split(",") if part.strip()]


def _can_qop(challenge: Challenge) -> bool:
    qops = _qops(challenge)
    return not qops or "auth" in qops or "auth-int" in qops


def parse_challenges(values: Iterable[str]) -> List[Challenge]:
    """The challenges of WWW-Authenticate headers: several in one, or in several."""
    found: List[Challenge] = []
    for value in values:
        current: Optional[Challenge] = None
        for element in _ELEMENT.findall(value[:CHALLENGE_MAX]):
            text = element.strip()
            parameter, scheme = _PARAMETER.fullmatch(text), _SCHEME.fullmatch(text)
            if parameter is None and scheme is not None and len(found) < CHALLENGES_MAX:
                current = Challenge(scheme.group(1).lower(), {})
                found.append(current)
                parameter = _PARAMETER.fullmatch((scheme.group(2) or "").strip())
            if parameter is not None and current is not None:
                _keep(parameter, current.parameters)
    return found


def parse_parameters(value: str) -> Dict[str, str]:
    """Those of Authentication-Info."""
    into: Dict[str, str] = {}
    for element in _ELEMENT.findall(value[:CHALLENGE_MAX]):
        parameter = _PARAMETER.fullmatch(element.strip())
        if parameter is not None:
            _keep(parameter, into)
    return into


def _keep(parameter: Match[str], into: Dict[str, str]) -> None:
    name, quoted, plain = parameter.groups()
    if len(into) < PARAMETERS_MAX:
        into.setdefault(name.lower(),
                        plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))


# ---------------------------------------------------------------------------------- answers
class Credentials:
    """One user's way into one server."""

    def __init__(self, user: str, password: str, *, preempt: bool = False) -> None:
        self._user = user
        self._password = password
        self._basic = preempt
        self._digest: Optional[_Digest] = None

    def header(self, method: str, target: str) -> str:
        """The Authorization for a request; "" as long as nothing was asked for. `target` as it
        stands in the request line."""
        if self._digest is not None:
            return self._digest.header(method, target)
        if self._basic:
            login = _as_bytes(f"{self._user}:{self._password}")
            return "Basic " + b64encode(login).decode("ascii")
        return ""

    def take(self, challenges: Iterable[str], sent: str, answers: int) -> bool:
        """Take up the challenges that refused a request; True if it is worth another try, with a
        new `header`. `sent` = the Authorization that it bore, `answers` = how many challenges to
        this request were answered before."""
        offered = [one for one in parse_challenges(challenges) if one.strength]
        if not offered:
            return False
        best = max(offered, key=lambda one: one.strength)
        if best.scheme == "basic":
            self._basic, self._digest = True, None
            return answers == 0 and not sent.startswith("Basic ")
        is_stale = best.get("stale").lower() == "true"
        nonce = _quoted("nonce", best.get("nonce"))
        if not is_stale and (answers or nonce in sent):
            return False    # it is the password that was refused
        self._digest = _Digest(best, self._user, self._password)
        return answers < ANSWERS_MAX

    def heard(self, told: str) -> None:
        """The Authentication-Info of an answer: perhaps another nonce for the next request."""
        nonce = parse_parameters(told).get("nextnonce", "")
        if nonce and self._digest is not None:
            self._digest.renew(nonce)


class _Digest:
    """The answers to one Digest challenge, and to the nonces that follow it. Text is as header
    values are: Latin-1 for the bytes on the wire."""

    def __init__(self, challenge: Challenge, user: str, password: str) -> None:
        self._challenge = challenge
        self._hash = _HASHES[_algorithm(challenge)][1]
        self._nonce = challenge.get("nonce")
        self._count = 0
        self._cnonce = os.urandom(CNONCE_SIZE).hex()
        self._user = _as_bytes(user).decode("latin-1")
        secret = _as_bytes(password).decode("latin-1")
        self._key = self._hashed(f"{self._user}:{challenge.get('realm')}:{secret}")
        if (challenge.get("algorithm") or "").lower().endswith("-sess"):
            # of the first nonce, also when another follows: the key of a session (3.4.2)
            self._key = self._hashed(f"{self._key}:{self._nonce}:{self._cnonce}")

    def renew(self, nonce: str) -> None:
        if nonce != self._nonce:
            self._nonce, self._count = nonce, 0

    def header(self, method: str, target: str) -> str:
        self._count += 1
        told, qops, count = self._challenge, _qops(self._challenge), f"{self._count:08x}"
        qop = "" if not qops else "auth" if "auth" in qops else "auth-int"
        asked = f"{method}:{target}" + (f":{self._hashed('')}" if qop == "auth-int" else "")
        middle = f"{count}:{self._cnonce}:{qop}:" if qop else ""
        response = self._hashed(f"{self._key}:{self._nonce}:{middle}{self._hashed(asked)}")
        hides_user = told.get("userhash").lower() == "true"
        user = self._hashed(f"{self._user}:{told.get('realm')}") if hides_user else self._user
        parts = [_quoted("username", user), _quoted("realm", told.get("realm")),
                 _quoted("nonce", self._nonce), _quoted("uri", target),
                 _quoted("response", response)]
        if qop:
            parts += [f"qop={qop}", f"nc={count}", _quoted("cnonce", self._cnonce)]
        parts += [f"algorithm={told.get('algorithm')}"] if told.get("algorithm") else []
        parts += [_quoted("opaque", told.get("opaque"))] if "opaque" in told.parameters else []
        parts += ["userhash=true"] if hides_user else []
        return "Digest " + ", ".join(parts)

    def _hashed(self, text: str) -> str:
        return hashlib.new(self._hash, text.encode("latin-1"), usedforsecurity=False).hexdigest()


def _as_bytes(text: str) -> bytes:
    """UTF-8; an argument that isn't text at all goes as the bytes that were typed."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeError:
        return text.encode("utf-8", "replace")


def _quoted(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}="{escaped}"'
