"""Where content comes from outside the swarm: the interface that ingest knows.

A source is asked for a URL, or for a range of it, and answers with a body and with the version
that it serves. Only values, interfaces and the errors of sources may be here; http.py is the
source that goes out. Ranges of two answers may be put together only when both carry the same
version, so the rules of comparing versions live here, once:

- A strong ETag decides; a weak one (W/) and Last-Modified count as far as the source keeps them.
- The length is part of the version.
- A source that names no validator can't be asked whether anything changed: each registration is a
  version of its own (`nonce`), and within it only the length can be compared.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional, Protocol, Sequence
from urllib.parse import urlsplit, urlunsplit

from dfly.access import Access, SourceFacts
from dfly.errors import DflyError, ProtocolError, ServerError
from dfly.task import VERSION_MAX

if TYPE_CHECKING:
    from dfly.net.limiter import Limiter
    from dfly.net.transfer import Sink

ETAG_MAX = 400  # characters: with the longest of the other fields a token stays in VERSION_MAX
BEYOND = 416    # the status by which HTTP says that a range lies beyond the end
_ETAG = re.compile(rf"[\x21-\x7e]{{1,{ETAG_MAX}}}")
_DATE = re.compile(r"[A-Za-z0-9,:+ -]{1,40}")
_TOKEN = re.compile(r"v1\|([0-9]{0,19})\|([A-Za-z0-9,:+ -]{0,40})\|([0-9a-f]{0,32})\|"
                    rf"([\x21-\x7e]{{0,{ETAG_MAX}}})")


# ------------------------------------------------------------------------------- versions
@dataclass(frozen=True)
class Version:
    """Which state of a URL. `etag` and `last_modified` as the source spelt them, "" = not told."""

    etag: str = ""
    last_modified: str = ""
    length: Optional[int] = None   # bytes; None = not told
    nonce: str = ""                # hex; only where there is no validator

    @classmethod
    def of(cls, etag: str, last_modified: str, length: Optional[int], nonce: str) -> Version:
        """From what a source said. A validator that is too long or has characters which don't
        belong there counts as not told; `nonce` is used only where none is left."""
        etag = etag if _ETAG.fullmatch(etag) else ""
        last_modified = last_modified if _DATE.fullmatch(last_modified) else ""
        return cls(etag, last_modified, length, "" if etag or last_modified else nonce)

    @property
    def token(self) -> str:
        """One printable line of at most VERSION_MAX bytes, for indexes and the wire."""
        length = "" if self.length is None else str(self.length)
        token = f"v1|{length}|{self.last_modified}|{self.nonce}|{self.etag}"
        assert len(token) <= VERSION_MAX and _TOKEN.fullmatch(token), token
        return token

    @classmethod
    def parse(cls, token: str) -> Version:
        """The inverse of `token`; ProtocolError for anything else."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise ProtocolError(f"not a version: {token[:100]!r}")
        length, last_modified, nonce, etag = match.groups()
        return cls(etag, last_modified, int(length) if length else None, nonce)

    @property
    def has_validator(self) -> bool:
        """True if the source can be asked whether it still serves this version."""
        return bool(self.etag or self.last_modified)

    @property
    def range_condition(self) -> str:
        """What If-Range may carry (RFC 9110 13.1.5: no weak ETag), or ""."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified

    def same_as(self, other: Version) -> bool:
        """True if the two are known to be the same bytes."""
        if self.nonce or other.nonce:
            return self == other
        comparable = (self.etag and other.etag) or (self.last_modified and other.last_modified)
        return bool(comparable) and not self.contradicts(other)

    def contradicts(self, other: Version) -> bool:
        """True if something that both tell differs. An answer to a ranged request may tell less
        than the first one did, so what isn't told contradicts nothing."""
        if None not in (self.length, other.length) and self.length != other.length:
            return True
        if self.etag and other.etag:
            return _opaque(self.etag) != _opaque(other.etag)
        if self.last_modified and other.last_modified:
            return self.last_modified != other.last_modified
        return False


def _opaque(etag: str) -> str:
    """An ETag less the mark of weakness: some servers mark the same bytes now and then."""
    return etag[2:] if etag.startswith("W/") else etag


# ---------------------------------------------------------------------- requests, answers
@dataclass(frozen=True)
class SourceRequest:
    """What is asked of a source. `start` and `stop` are bytes; with both at their defaults no
    range is asked for."""

    url: str
    access: Access = Access()
    start: int = 0
    stop: Optional[int] = None
    if_version: Optional[Version] = None      # the range of this version or nothing
    unless: Optional[Version] = None          # no body if the source still serves this version
    shortcut: str = ""     # where `url` redirected to before: asked first, `url` if that fails

    @property
    def is_ranged(self) -> bool:
        return self.start > 0 or self.stop is not None


class SourceBody(Protocol):
    """An answer; its body rests in the source until `receive`."""

    @property
    def version(self) -> Version: ...

    @property
    def total(self) -> Optional[int]:
        """Bytes of the whole content; None = not told."""

    @property
    def start(self) -> int:
        """Offset in the content of the body's first byte."""

    @property
    def stop(self) -> Optional[int]:
        """Offset just past the body's last byte; None = not known before it came."""

    @property
    def ranged(self) -> bool:
        """True if the source gave the range asked for; False: the whole content follows."""

    @property
    def unchanged(self) -> bool:
        """True if the source still serves the version of `unless`; there is no body."""

    @property
    def final_url(self) -> str:
        """Where the last redirect led; may carry secrets: not for people's eyes."""

    @property
    def redirected(self) -> bool: ...

    @property
    def authorised(self) -> bool:
        """True if the source was told a secret of the caller before it answered so."""

    @property
    def facts(self) -> SourceFacts:
        """What it said beside."""

    async def receive(self, sink: Sink, limits: Sequence[Limiter] = ()) -> int:
        """Feed the body to `sink` (in a mover's thread); bytes fed."""

    async def close(self) -> None:
        """Done with it; what wasn't received is refused. May be called twice."""


class Source(Protocol):
    async def open(self, request: SourceRequest) -> SourceBody:
        """Ask once (and follow redirects). SourceChanged, SourceRefused, RangesBroken,
        AuthError, NetworkError, TlsError, ProtocolError, UsageError."""


# ---------------------------------------------------------------------------------- errors
class SourceChanged(DflyError):
    """The source serves another version than the one asked for."""

    hint = "fetch it again: nothing of the two versions was mixed"


class SourceRefused(ServerError):
    """An error status; `retry_after_s` is what the source asked for, None if it didn't."""

    def __init__(self, what: str, hint: str = "", status: int = 0,
                 retry_after_s: Optional[float] = None) -> None:
        super().__init__(what, hint, status)
        self.retry_after_s = retry_after_s


class RangesBroken(ProtocolError):
    """The source answered a range with something else than exactly that range."""

    hint = "the source's support of ranges is broken; tell its administrator"


def shown_url(url: str) -> str:
    """`url` as people may see it: no user, no password, no query values, no fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return repr(url[:200])
    query = "&".join(pair.partition("=")[0] + ("=..." if "=" in pair else "")
                     for pair in parts.query.split("&"))
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, place, parts.path, query, ""))[:1000]
