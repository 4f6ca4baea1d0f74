"""A server's side of Digest (RFC 7616) for tests, written apart from dfly's and judged by curl.

    keeper = Gatekeeper("ann", "secret", algorithm="SHA-256")
    server.add("/f", content, guard=keeper)
"""
from __future__ import annotations

import hashlib
import itertools
import threading
from typing import Dict, List, Optional, Set, Tuple
from urllib.request import parse_http_list, parse_keqv_list

from tests.support import Exchange

Headers = List[Tuple[str, str]]


class Gatekeeper:
    """`uses`: requests that one nonce is good for, 0 = all; `renews`: each answer gives the next
    nonce. `log` has a word for each request: 'none', 'stale', 'wrong', 'replay' or 'in'."""

    def __init__(self, user: str, password: str, *, realm: str = "files", algorithm: str = "MD5",
                 qop: str = "auth", uses: int = 0, renews: bool = False,
                 userhash: bool = False, opaque: str = 'o,p"q', also: Tuple[str, ...] = ()) -> None:
        self.user, self.password, self.realm = user, password, realm
        self.algorithm, self.qop = algorithm, qop
        self.uses, self.renews, self.userhash = uses, renews, userhash
        self.opaque, self.also = opaque, also
        self.log: List[str] = []
        self.parameters: List[Dict[str, str]] = []    # of each Authorization
        self._numbers = itertools.count(1)
        self._counts: Dict[str, Set[int]] = {}        # nonce -> nc seen
        self._keys: Dict[str, str] = {}               # cnonce -> key of its session
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> Tuple[int, Headers]:
        with self._lock:
            verdict = self._verdict(exchange)
            self.log.append(verdict)
            if verdict != "in":
                return 401, self._challenges(stale=verdict == "stale")
            if not self.renews:
                return 0, []
            return 0, [("Authentication-Info", f'nextnonce="{self._nonce()}", qop=auth')]

    def _challenges(self, stale: bool) -> Headers:
        realm, opaque = (text.replace("\\", "\\\\").replace('"', '\\"')
                         for text in (self.realm, self.opaque))
        parts = [f'Digest realm="{realm}"', f'nonce="{self._nonce()}"', f'opaque="{opaque}"']
        parts += [f"algorithm={self.algorithm}"] if self.algorithm else []
        parts += [f'qop="{self.qop}"'] if self.qop else []
        parts += ["stale=true"] if stale else []
        parts += ["userhash=true"] if self.userhash else []
        return [*(("WWW-Authenticate", text) for text in self.also),
                ("WWW-Authenticate", ", ".join(parts))]

    def _nonce(self) -> str:
        nonce = f"n{next(self._numbers)}=="
        self._counts[nonce] = set()
        return nonce

    def _verdict(self, exchange: Exchange) -> str:
        scheme, _, rest = exchange.header("authorization").partition(" ")
        if scheme != "Digest":
            return "none"
        given: Dict[str, str] = parse_keqv_list(parse_http_list(rest))
        self.parameters.append(given)
        nonce = given["nonce"]
        counts = self._counts.get(nonce)
        if counts is None or (self.uses and len(counts) >= self.uses):
            return "stale"
        if given["response"] != self._response(exchange, given) or given["opaque"] != self.opaque:
            return "wrong"
        if self.qop:
            if int(given["nc"], 16) in counts:
                return "replay"
            counts.add(int(given["nc"], 16))
        return "in"

    def _response(self, exchange: Exchange, given: Dict[str, str]) -> Optional[str]:
        hashed = self._hashed
        user = hashed(f"{self.user}:{self.realm}") if self.userhash else self.user
        if given["username"].encode("latin-1").decode() != user or given["uri"] != exchange.target:
            return None
        key = hashed(f"{self.user}:{self.realm}:{self.password}")
        if self.algorithm.endswith("-sess"):
            key = self._keys.setdefault(given["cnonce"],
                                        hashed(f"{key}:{given['nonce']}:{given['cnonce']}"))
        asked = hashed(f"{exchange.method}:{exchange.target}")
        if not self.qop:
            return hashed(f"{key}:{given['nonce']}:{asked}")
        if given["qop"] == "auth-int":
            asked = hashed(f"{exchange.method}:{exchange.target}:{hashed('')}")
        return hashed(f"{key}:{given['nonce']}:{given['nc']}:{given['cnonce']}:{given['qop']}:"
                      f"{asked}")

    def _hashed(self, text: str) -> str:
        name = "sha256" if self.algorithm.startswith("SHA-256") else "md5"
        return hashlib.new(name, text.encode()).hexdigest()
