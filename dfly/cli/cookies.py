"""Cookie files in Netscape's format, as wget, curl and browsers' add-ons write them.

A line has seven fields with tabs between: domain (a leading dot, and maybe ':port'), whether hosts
below it are meant, path, whether for https only, when it ends (0 = with the session), name, value.
Lines go to the daemon without the port, which only wget knows; by which requests they are sent is
judged there.
"""
from __future__ import annotations

import os
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from dfly.access import COOKIES_BYTES_MAX, COOKIES_MAX
from dfly.cli.inputs import read_input, shown
from dfly.cli.target import write_error
from dfly.errors import UsageError
from dfly.names import DEFAULT_PORTS, split_url
from dfly.source.jar import HTTP_ONLY
from dfly.units import MIB

BYTES_MAX = 16 * MIB
HEADER = "# HTTP Cookie File\n# Written by dfly get; lines may be changed by hand.\n\n"


class Cookie(NamedTuple):
    """One line; `expires_at` in seconds since 1970, 0 = with the session."""

    domain: str        # lower case, without leading dot
    port: str          # "" = any
    below: bool        # hosts below the domain, too
    path: str
    secure: bool
    expires_at: int
    name: str
    value: str

    @property
    def place(self) -> Tuple[str, str, str, str]:
        """Two cookies of one place: the later replaces the earlier."""
        return self.domain, self.path, self.name, self.port

    def may_go_to(self, host: str, port: str) -> bool:
        suits = host == self.domain or (self.below and host.endswith("." + self.domain))
        return suits and self.port in ("", port)

    def line(self) -> str:
        domain = "." * self.below + self.domain + (self.port and ":" + self.port)
        return "\t".join((domain, _flag(self.below), self.path, _flag(self.secure),
                          str(self.expires_at), self.name, self.value))


class Jar:
    """The cookies of a file, those that a source set put among them, and the file again."""

    def __init__(self, cookies: Iterable[Cookie] = ()) -> None:
        self._cookies: Dict[Tuple[str, str, str, str], Cookie] = {}
        for cookie in cookies:
            self._cookies[cookie.place] = cookie

    def __len__(self) -> int:
        return len(self._cookies)

    @classmethod
    def read(cls, path: str) -> Jar:
        """FileError; UsageError for a file that has text, but no cookie in it."""
        lines = read_input(path, BYTES_MAX).decode("utf-8-sig", errors="replace").split("\n")
        cookies = [cookie for line in lines for cookie in [parse_cookie(line)] if cookie]
        if not cookies and any(line.strip() and not line.startswith("#") for line in lines):
            raise UsageError(f"{shown(path)} is no cookie file",
                             "it takes Netscape's format: seven fields a line, tabs between")
        return cls(cookies)

    def lines_for(self, urls: Sequence[str], now: float) -> Tuple[str, ...]:
        """Those that may go to the hosts of these URLs and haven't ended. UsageError where they
        are more than can be sent along."""
        places = [_place(url) for url in urls]
        lines = tuple(cookie._replace(port="").line() for cookie in self._live(now)
                      if any(cookie.may_go_to(host, port) for host, port in places))
        if len(lines) > COOKIES_MAX or sum(map(len, lines)) > COOKIES_BYTES_MAX:
            raise UsageError(f"{len(lines)} cookies for {places[0][0]} are too many",
                             f"the most are {COOKIES_MAX}, and {COOKIES_BYTES_MAX // 1024} KiB")
        return lines

    def merge(self, lines: Iterable[str]) -> None:
        """Put in what a source set, for all its ports; what is no cookie is left out."""
        for line in lines:
            cookie = parse_cookie(line)
            if cookie is None:
                continue
            for place in [place for place in self._cookies if place[:3] == cookie.place[:3]]:
                del self._cookies[place]
            self._cookies[cookie.place] = cookie

    def save(self, path: str, now: float, *, keep_session: bool = False) -> None:
        """Replace the file at once, for nobody else's eyes. FileError, NoSpace."""
        text = HEADER + "".join(cookie.line() + "\n" for cookie in self._live(now)
                                if cookie.expires_at or keep_session)
        final = os.path.realpath(path)   # a link stays, the file it names is replaced
        temporary = f"{final}.dfly-{os.urandom(4).hex()}"
        try:
            if os.path.exists(final) and not os.path.isfile(final):   # /dev/stdout
                with open(final, "w", encoding="utf-8") as device:
                    device.write(text)
                return
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with open(fd, "w", encoding="utf-8") as file:
                    file.write(text)
                os.replace(temporary, final)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise write_error(path, error) from None

    def _live(self, now: float) -> List[Cookie]:
        return [cookie for cookie in self._cookies.values()
                if not cookie.expires_at or cookie.expires_at > now]


def parse_cookie(line: str) -> Optional[Cookie]:
    """None for a comment, or what is no cookie."""
    line = line.rstrip("\r\n")
    if line.startswith(HTTP_ONLY):
        line = line[len(HTTP_ONLY):]
    fields = line.split("\t")
    if len(fields) == 6:
        fields.append("")   # an empty value, whose tab an editor ate
    if line.startswith("#") or len(fields) != 7 or not all(map(_is_clean, fields)):
        return None
    told, below, path, secure, expires, name, value = fields
    domain, _, port = told.lower().lstrip(".").partition(":")
    moment = _moment(expires)
    if not domain or not path.startswith("/") or not (name or value) or moment is None or (
            port and not port.isdecimal()):
        return None
    return Cookie(domain, port, below.upper() == "TRUE", path, secure.upper() == "TRUE", moment,
                  name, value)


def _is_clean(field: str) -> bool:
    return all(char >= " " and char != "\x7f" for char in field)


def _moment(text: str) -> Optional[int]:
    """Some write fractions, or -1 for the session."""
    try:
        return max(0, int(float(text or "0")))
    except (ValueError, OverflowError):
        return None


def _flag(flag: bool) -> str:
    return "TRUE" if flag else "FALSE"


def _place(url: str) -> Tuple[str, str]:
    parts = split_url(url)
    return parts.hostname or "", str(parts.port or DEFAULT_PORTS[parts.scheme])
