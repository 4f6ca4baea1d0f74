"""Cookies of one caller's visit: those of his cookie file, and those that sources set meanwhile.

The rules (which domain, which path, for how long) are http.cookiejar's, made as strict as browsers
are; here are the lines of Netscape's file format, the bounds, and which cookies are whose.
http.cookiejar costs a start 20 ms, so it is imported when there is a cookie.
"""
from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Callable, Iterator, List, Optional, Sequence, Set, Tuple
from urllib.parse import urlsplit

from dfly.access import COOKIES_BYTES_MAX, COOKIES_MAX

if TYPE_CHECKING:
    from http.cookiejar import Cookie, CookieJar

SET_MAX = 50                   # Set-Cookie headers of one answer; browsers keep no more of a site
SET_SIZE_MAX = 4 * 1024        # characters of one, as browsers have it
HTTP_ONLY = "#HttpOnly_"   # curl's mark; wget takes such a line for a comment
EXPIRES_MAX = 10**11           # seconds since 1970 that are written: the year 5138
LINE_SPARE = 40                # characters of a line beside domain, path, name and value
_LOCAL = ".local"              # how http.cookiejar marks a host without a domain
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_LONG_AGE = re.compile(r'(max-age\s*=\s*"?\d{9})\d+', re.IGNORECASE)   # no float holds the rest
_PLACE = re.compile(r"(\[[^\]]*\]|[^:\[]+)(?::(\d{1,5}))?")   # host:port, [address]:port
_Key = Tuple[str, str, str]    # domain, path, name


class Jar:
    """`lines`: of a Netscape cookie file; what isn't a cookie among them is left alone."""

    def __init__(self, lines: Sequence[str] = ()) -> None:
        self._lines = lines
        self._jar: Optional[CookieJar] = None
        self._given: Set[str] = set()     # the caller's, as they stand in a Cookie header
        self._set: Set[_Key] = set()      # those of sources
        self._bare_hosts: Set[str] = set()

    def header(self, url: str) -> Tuple[str, bool]:
        """The value of Cookie for a request ("" = none), and whether any of it is the caller's."""
        if self._jar is None and not self._lines:
            return "", False
        request = _Request(url)
        self._open().add_cookie_header(request)  # type: ignore[arg-type]
        return request.cookie, any(f"; {pair};" in f"; {request.cookie};" for pair in self._given)

    def keep(self, url: str, values: Sequence[str]) -> None:
        """What an answer from `url` set by these Set-Cookie headers, as far as there is room."""
        kept = [_LONG_AGE.sub(r"\1", value) for value in values[:SET_MAX]
                if len(value) <= SET_SIZE_MAX]
        if not kept:
            return
        request = _Request(url)
        if "." not in request.hostname:
            self._bare_hosts.add(request.hostname)
        jar = self._open()
        count, size = len(jar), sum(map(_size, jar))
        # what an answer only deletes is done by make_cookies
        for cookie in jar.make_cookies(_Response(kept), request):  # type: ignore[arg-type]
            if _is_part_of_address(cookie.domain, request.hostname):
                continue
            if count < COOKIES_MAX and size + _size(cookie) <= COOKIES_BYTES_MAX:
                jar.set_cookie_if_ok(cookie, request)  # type: ignore[arg-type]
                self._set.add(_key(cookie))
                count, size = count + 1, size + _size(cookie)
        self._set.intersection_update(map(_key, jar))    # what has gone is forgotten
        self._bare_hosts.intersection_update(
            cookie.domain[:-len(_LOCAL)] for cookie in jar if cookie.domain.endswith(_LOCAL))

    def lines(self) -> Tuple[str, ...]:
        """What sources set and is still valid, as lines of a Netscape cookie file."""
        if self._jar is None:
            return ()
        return tuple(self._line(cookie) for cookie in self._jar
                     if _key(cookie) in self._set and not cookie.is_expired())

    def _open(self) -> CookieJar:
        if self._jar is None:
            from http.cookiejar import CookieJar, DefaultCookiePolicy
            self._jar = CookieJar(DefaultCookiePolicy(
                strict_domain=True, strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain))
            for cookie in _cookies(self._lines[:COOKIES_MAX]):
                self._jar.set_cookie(cookie)
                self._given.add(_pair(cookie))
        return self._jar

    def _line(self, cookie: Cookie) -> str:
        domain = cookie.domain
        if domain.endswith(_LOCAL) and domain[:-len(_LOCAL)] in self._bare_hosts:
            domain = domain[:-len(_LOCAL)]
        hidden = HTTP_ONLY if any(name.lower() == "httponly" for name in _rest(cookie)) else ""
        name, value = (cookie.name, cookie.value) if cookie.value is not None else (
            "", cookie.name)
        fields = [domain, "TRUE" if domain.startswith(".") else "FALSE", cookie.path,
                  "TRUE" if cookie.secure else "FALSE",
                  str(min(int(cookie.expires or 0), EXPIRES_MAX)), name, value]
        return hidden + "\t".join(field.replace("\t", " ") for field in fields)


def _is_part_of_address(domain: str, host: str) -> bool:
    """True for the domain .0.0.1 at 127.0.0.1, which http.cookiejar takes."""
    return domain.replace(".", "").isdigit() and domain != host


def _key(cookie: Cookie) -> _Key:
    return cookie.domain, cookie.path, cookie.name


def _pair(cookie: Cookie) -> str:
    return cookie.name if cookie.value is None else f"{cookie.name}={cookie.value}"


def _size(cookie: Cookie) -> int:
    """Characters of its line at most."""
    return len(cookie.domain) + len(cookie.path) + len(_pair(cookie)) + LINE_SPARE


def _rest(cookie: Cookie) -> List[str]:
    """Names of attributes that http.cookiejar has no field for."""
    return list(vars(cookie).get("_rest", ()))


def _cookies(lines: Sequence[str]) -> Iterator[Cookie]:
    now = time.time()
    for line in lines:
        cookie = _cookie(line.rstrip("\r\n"))
        if cookie is not None and not cookie.is_expired(int(now)):
            yield cookie


def _cookie(line: str) -> Optional[Cookie]:
    """The cookie of a line; None if it has none."""
    from http.cookiejar import Cookie
    line = line[len(HTTP_ONLY):] if line.startswith(HTTP_ONLY) else line
    fields = line.split("\t")
    if line.startswith("#") or len(fields) != 7 or _UNSAFE.search(line):
        return None
    domain, subdomains, path, secure, expires, name, value = fields
    place = _PLACE.fullmatch(domain.lower())    # wget writes the port, if it is unusual
    if place is None or not expires.isascii() or not (expires or "0").isdigit() or not path:
        return None
    host, port = place.groups()
    if "." not in host:
        host += _LOCAL
    until = int(expires[:15] or 0) or None
    is_domain = subdomains.upper() == "TRUE"
    if not name:
        name, text = value, None
    else:
        text = value
    return Cookie(0, name, text, port, port is not None, host, is_domain,
                  host.startswith("."), path, True, secure.upper() == "TRUE", until,
                  until is None, None, None, {})


class _Request:
    """As much of urllib's Request as http.cookiejar asks for."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.cookie = ""
        self.type = parts.scheme
        host = parts.hostname or ""
        self.hostname = f"[{host}]" if ":" in host else host    # as http.cookiejar has it; its
        self.host = f"h:{parts.port}" if parts.port else "h"    # look at `host` is for the port
        self.unverifiable = False     # redirects of a download are the caller's wish
        self.origin_req_host = self.hostname
        self._url = url

    def get_full_url(self) -> str:
        return self._url

    def has_header(self, name: str) -> bool:
        return False

    def get_header(self, name: str, default: Any = None) -> Any:
        return default

    def add_unredirected_header(self, name: str, value: str) -> None:
        if name == "Cookie":
            self.cookie = value


class _Response:
    """As much of a response as http.cookiejar asks for."""

    def __init__(self, values: Sequence[str]) -> None:
        self._values = list(values)
        self.info: Callable[[], _Response] = lambda: self

    def get_all(self, name: str, default: Any = None) -> Any:
        return self._values if name == "Set-Cookie" else default
