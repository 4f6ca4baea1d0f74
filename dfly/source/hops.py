"""The way of one download: its URL, where redirects lead, and what of it goes along.

Values and pure functions only. A caller's headers are for the origin that he named, and for those
he allowed; any other that a redirect leads to gets only what can't be a secret (PLAIN).
"""
from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple
from urllib.parse import quote, unquote, urljoin, urlunsplit

from dfly.access import Login
from dfly.errors import ProtocolError, UsageError, printable
from dfly.names import origin_of, split_url
from dfly.source import shown_url

if TYPE_CHECKING:
    from dfly.net.http_client import ClientResponse

REDIRECTS = (301, 302, 303, 307, 308)
OURS = ("range", "if-range", "if-match", "if-none-match", "if-modified-since",
        "if-unmodified-since", "connection", "content-length", "transfer-encoding", "te", "trailer",
        "upgrade", "expect", "keep-alive", "proxy-connection")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def checked_headers(headers: Sequence[Tuple[str, str]]) -> Tuple[Tuple[str, str], ...]:
    """A caller's headers as they go to the source; UsageError for those that can't be given."""
    kept: List[Tuple[str, str]] = []
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or any(c in value for c in "\r\n\0"):
            raise UsageError(f"not a header: {printable(name)!r}", "write it like 'Name: value'")
        if name.lower() in OURS:
            raise UsageError(f"the header {name} can't be given", "dfly sets it itself")
        if name.lower() == "proxy-authorization":    # it isn't for the source
            raise UsageError(f"the header {name} can't be given",
                             "put user and password into the proxy's URL")
        if name.lower() == "accept-encoding":
            if value.strip().lower() not in ("identity", ""):
                raise UsageError("Accept-Encoding can only be identity",
                                 "dfly spreads the bytes as they are")
            continue
        kept.append((name, value))
    return tuple(kept)


@dataclass(frozen=True)
class Hop:
    """One URL on the way, without user and password (`login` = those that stood in it). `home` is
    the origin that the caller named."""

    url: str
    home: str
    login: Optional[Login] = None
    redirected: bool = False

    @classmethod
    def first(cls, url: str) -> Hop:
        return cls("", origin_of(url))._at(url)

    def to(self, url: str) -> Hop:
        """The next hop. A login stays with its origin."""
        return replace(self, redirected=True)._at(url)

    @property
    def origin(self) -> str:
        return origin_of(self.url)

    def _at(self, url: str) -> Hop:
        parts = split_url(url)
        login = self.login
        if parts.username is not None or parts.password is not None:
            login = Login(origin_of(url), unquote(parts.username or ""),
                          unquote(parts.password or ""))
        place = parts.netloc.rpartition("@")[2]
        path, query = _ascii(parts.path) or "/", _ascii(parts.query)
        return replace(self, url=urlunsplit((parts.scheme, place, path, query, "")), login=login)


def redirect_target(base: str, response: ClientResponse) -> Optional[str]:
    """Where the answer sends us; None if it doesn't."""
    location = response.headers.get("Location")
    if response.status not in REDIRECTS or not location:
        return None
    # Header values come as Latin-1; servers that put more into a Location mean UTF-8.
    text = location.encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        target = urljoin(base, _ascii(text))
        split_url(target)
    except (ValueError, UsageError):
        raise ProtocolError(f"{shown_url(base)}: redirects to {printable(text[:200])!r}",
                            "only http and https can be followed") from None
    return target.partition("#")[0]


def _ascii(text: str) -> str:
    """What a request line may carry: other characters escaped, escapes left as they are."""
    return quote(text, safe="!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
