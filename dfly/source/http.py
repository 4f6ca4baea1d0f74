"""A source over HTTP: one request, its redirects, and an answer checked to the letter.

What a source answers is believed only where it is exactly what was asked for: a 206 must carry the
Content-Range of the request, the total and the validator of the version; a 200 means that the
source ignores ranges, and is used as the whole content; an encoded body is refused, because ranges,
lengths and digests are of the plain bytes. What to do about a refusal (again, later, another way)
is the business of ingest. Retrying, pieces and files may not be here.

The caller's headers are for the origin that the caller named. When a redirect leaves it (another
scheme, host or port), only those that can't be a secret go along (PLAIN).
"""
from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from dfly.access import SourceFacts
from dfly.clock import Clock
from dfly.errors import (
    AuthError,
    DflyError,
    NetworkError,
    ProtocolError,
    TlsError,
    UsageError,
    printable,
)
from dfly.names import split_url
from dfly.source import (
    RangesBroken,
    SourceChanged,
    SourceRefused,
    SourceRequest,
    Version,
    shown_url,
)
from dfly.wire.http11 import (
    REASONS,
    Headers,
    HttpError,
    format_content_range,
    parse_content_range,
    parse_unsatisfied_range,
)

if TYPE_CHECKING:
    from dfly.net.http_client import ClientResponse, HttpClient
    from dfly.net.limiter import Limiter
    from dfly.net.transfer import Sink

REDIRECTS = (301, 302, 303, 307, 308)
REDIRECT_BODY_MAX = 16 * 1024  # bytes: shorter ones are read, so that the connection is kept
FILE_NAME_MAX = 255            # bytes of a name that file systems take
PLAIN = ("accept", "accept-language", "user-agent", "cache-control", "pragma")
OURS = ("range", "if-range", "if-match", "if-none-match", "if-modified-since",
        "if-unmodified-since", "connection", "content-length", "transfer-encoding", "te", "trailer",
        "upgrade", "expect", "keep-alive", "proxy-connection")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
HINTS = {403: "the source forbids it: check the URL, or give credentials with --header",
         404: "check the URL", 410: "check the URL", 429: "the source wants fewer requests: "
         "try again later", 503: "the source is overloaded: try again later"}


def checked_headers(headers: Sequence[Tuple[str, str]]) -> Tuple[Tuple[str, str], ...]:
    """A caller's headers as they go to the source; UsageError for those that can't be given."""
    kept: List[Tuple[str, str]] = []
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or any(c in value for c in "\r\n\0"):
            raise UsageError(f"not a header: {printable(name)!r}", "write it like 'Name: value'")
        if name.lower() in OURS:
            raise UsageError(f"the header {name} can't be given", "dfly sets it itself")
        if name.lower() == "accept-encoding":
            if value.strip().lower() not in ("identity", ""):
                raise UsageError("Accept-Encoding can only be identity",
                                 "dfly spreads the bytes as they are")
            continue
        kept.append((name, value))
    return tuple(kept)


class HttpSource:
    """Opens http and https URLs."""

    def __init__(self, client: HttpClient, *, redirects_max: int = 20, timeout_s: float = 30.0,
                 clock: Optional[Clock] = None) -> None:
        self._client = client
        self._redirects_max = redirects_max
        self._timeout_s = timeout_s
        self._clock = clock or Clock()

    async def open(self, request: SourceRequest) -> HttpBody:
        """See Source.open."""
        hop = _Hop.first(request.url, request.access.headers)
        if request.shortcut:
            hop = hop.to(request.shortcut)
        seen = {hop.url}
        while True:
            response = await self._ask(hop, request)
            try:
                target = _redirect_target(hop.url, response)
                if target is None:
                    return self._judge(response, hop, request)
                await _discard(response)
                hop = hop.to(target)
                self._check_redirect(hop.url, seen, request.url)
            except BaseException:
                response.release()
                raise

    def _check_redirect(self, url: str, seen: set[str], asked: str) -> None:
        if url in seen:
            raise ProtocolError(f"{shown_url(asked)}: redirects in a loop, again to "
                                f"{shown_url(url)}", "tell the source's administrator")
        if len(seen) > self._redirects_max:
            raise ProtocolError(f"{shown_url(asked)}: more than {self._redirects_max} redirects",
                                "tell the source's administrator")
        seen.add(url)

    async def _ask(self, hop: _Hop, request: SourceRequest) -> ClientResponse:
        headers = [*hop.headers, *_conditions(request)]
        try:
            return await self._client.request(
                "GET", hop.url, headers, timeout_s=self._timeout_s,
                tls=request.access.tls)
        except (NetworkError, TlsError, ProtocolError) as error:
            # Said anew with the URL; `from None` because the first line says it all.
            raise _kind_of(error)(f"can't fetch {shown_url(hop.url)}: {error.what}",
                                  error.hint or _hint_for(error)) from None

    def _judge(self, response: ClientResponse, hop: _Hop, request: SourceRequest) -> HttpBody:
        """The answer as a body, or the error that it means."""
        status = response.status
        if status == 304 and request.unless is not None:
            span = _Span(0, 0, request.unless.length)
            return self._body(response, hop, span, request.unless, request)
        if status == 206 and request.is_ranged:
            span = _span_of(response, request, hop.url)
        elif status == 200:
            span = _whole(response)
        elif status == 416 and _total_of_416(response) == 0:
            span = _Span(0, 0, 0)
        else:
            raise self._refusal(response, hop.url, request)
        _check_encoding(response.headers, hop.url)
        version = _version_of(response.headers, span.total)
        _check_version(version, request, hop.url, ranged=status == 206)
        return self._body(response, hop, span, version, request)

    def _body(self, response: ClientResponse, hop: _Hop, span: _Span,
              version: Version, request: SourceRequest) -> HttpBody:
        body = HttpBody(response, span, version, self._timeout_s)
        body.final_url = hop.url
        body.redirected = hop.redirected
        body.authorised = request.access.has_secrets
        return body

    def _refusal(self, response: ClientResponse, url: str, request: SourceRequest) -> DflyError:
        status = response.status
        reason = printable(response.head.reason[:80]) or REASONS.get(status, "")
        what = f"{shown_url(url)}: {status} {reason}".rstrip()
        if status == 401:
            return AuthError(what, "give a user and password in the URL, or --header")
        if status == 407:
            return AuthError(what, "a proxy on the way wants a password")
        if status == 416 and request.if_version is not None:
            return SourceChanged(f"{shown_url(url)} changed: it has no more the bytes asked for")
        if status < 400:
            return ProtocolError(f"{what}: not an answer to a download")
        hint = HINTS.get(status, "the source has a fault: try again later" if status >= 500
                         else "check the URL and the headers given")
        return SourceRefused(what, hint, status, self._retry_after(response.headers))

    def _retry_after(self, headers: Headers) -> Optional[float]:
        """Seconds that the source asks to wait for (RFC 9110 10.2.3)."""
        value = (headers.get("Retry-After") or "").strip()
        if value.isascii() and value.isdigit():
            return float(value[:9])
        at = _moment(value)
        if at is None:
            return None
        now = _moment(headers.get("Date") or "")
        return max(0.0, at - (self._clock.wall() if now is None else now))


@dataclass(frozen=True)
class _Span:
    """Bytes [start, stop) of a content of `total` bytes."""

    start: int
    stop: Optional[int]
    total: Optional[int]


class HttpBody:
    """SourceBody over a response."""

    def __init__(self, response: ClientResponse, span: _Span, version: Version,
                 timeout_s: float) -> None:
        self.version = version
        self.total = span.total
        self.start = span.start
        self.stop = span.stop
        self.ranged = response.status == 206
        self.unchanged = response.status == 304
        self.final_url = response.url
        self.redirected = False
        self.facts = SourceFacts(response.status, file_name=_file_name(response.headers))
        self.authorised = False
        self._timeout_s = timeout_s
        self._response: Optional[ClientResponse] = response
        if span.start == span.stop:    # nothing of use is to come
            response.release()
            self._response = None

    async def receive(self, sink: Sink, limits: Sequence[Limiter] = ()) -> int:
        """See SourceBody.receive. The connection is kept if all went well, else closed."""
        response, self._response = self._response, None
        if response is None:
            sink.finish()
            return 0
        try:
            return await response.receive(sink, limits, idle_timeout_s=self._timeout_s)
        except NetworkError as error:
            raise NetworkError(f"{shown_url(self.final_url)}: {error.what}",
                               error.hint) from None
        except HttpError as error:    # the framing of the body, not what its bytes mean
            raise ProtocolError(f"{shown_url(self.final_url)}: {error.what}",
                                "tell the source's administrator") from None
        finally:
            response.release()

    async def close(self) -> None:
        if self._response is not None:
            self._response.release()
            self._response = None


# --------------------------------------------------------------------------- requests, hops
@dataclass(frozen=True)
class _Hop:
    """One URL on the way, without user and password, and the headers that may go there."""

    url: str
    headers: Tuple[Tuple[str, str], ...]
    redirected: bool = False

    @classmethod
    def first(cls, url: str, headers: Sequence[Tuple[str, str]]) -> _Hop:
        return cls("", checked_headers(headers))._at(url)

    def to(self, url: str) -> _Hop:
        """The next hop: another origin gets no header that may be a secret."""
        headers = self.headers
        if _origin(url) != _origin(self.url):
            headers = tuple(pair for pair in headers if pair[0].lower() in PLAIN)
        return replace(self, headers=headers, redirected=True)._at(url)

    def _at(self, url: str) -> _Hop:
        parts = split_url(url)
        headers = self.headers
        if parts.username is not None or parts.password is not None:
            login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            if not any(name.lower() == "authorization" for name, _ in headers):
                basic = base64.b64encode(login.encode()).decode("ascii")
                headers += (("Authorization", f"Basic {basic}"),)
        place = parts.netloc.rpartition("@")[2]
        path, query = _ascii(parts.path) or "/", _ascii(parts.query)
        clean = urlunsplit((parts.scheme, place, path, query, ""))
        return replace(self, url=clean, headers=headers)


def _origin(url: str) -> Tuple[str, str, Optional[int]]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or default


def _ascii(text: str) -> str:
    """What a request line may carry: other characters escaped, escapes left as they are."""
    return quote(text, safe="!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _conditions(request: SourceRequest) -> List[Tuple[str, str]]:
    """The headers that dfly itself asks by."""
    headers = [("Accept-Encoding", "identity")]
    if request.is_ranged:
        last = "" if request.stop is None else str(request.stop - 1)
        headers.append(("Range", f"bytes={request.start}-{last}"))
        if request.if_version is not None and request.if_version.range_condition:
            headers.append(("If-Range", request.if_version.range_condition))
    if request.unless is not None and request.unless.etag:
        headers.append(("If-None-Match", request.unless.etag))
    elif request.unless is not None and request.unless.last_modified:
        headers.append(("If-Modified-Since", request.unless.last_modified))
    return headers


def _redirect_target(base: str, response: ClientResponse) -> Optional[str]:
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


async def _discard(response: ClientResponse) -> None:
    """Read a short body away so that the connection lives; close on any other."""
    length = response.headers.get("Content-Length") or ""
    if length.isdigit() and int(length[:9]) <= REDIRECT_BODY_MAX:
        await response.read(REDIRECT_BODY_MAX)
    response.release()


# ---------------------------------------------------------------------------------- answers
def _span_of(response: ClientResponse, request: SourceRequest, url: str) -> _Span:
    """The range that a 206 brings, which must be the one asked for."""
    told = response.headers.get("Content-Range")
    if told is None:
        raise RangesBroken(f"{shown_url(url)}: 206 without Content-Range")
    try:
        start, stop, total = parse_content_range(told)
    except ProtocolError as error:
        raise RangesBroken(f"{shown_url(url)}: {error.what}") from None
    if total is None:
        raise RangesBroken(f"{shown_url(url)}: 206 that doesn't tell the length of the whole")
    asked = total if request.stop is None else min(request.stop, total)
    if (start, stop) != (request.start, asked):
        raise RangesBroken(f"{shown_url(url)}: asked for bytes {request.start}-{asked - 1}, "
                           f"got {format_content_range(start, stop, total)}")
    length = _content_length(response.headers)
    if length is not None and length != stop - start:
        raise RangesBroken(f"{shown_url(url)}: a range of {stop - start} bytes in a body "
                           f"of {length}")
    return _Span(start, stop, total)


def _whole(response: ClientResponse) -> _Span:
    length = _content_length(response.headers)
    return _Span(0, length, length)


def _content_length(headers: Headers) -> Optional[int]:
    """The framing was checked when the head was read: a length that is there is a number."""
    if "Transfer-Encoding" in headers:
        return None
    text = (headers.get("Content-Length") or "").partition(",")[0].strip()
    return int(text) if text else None


def _total_of_416(response: ClientResponse) -> Optional[int]:
    return parse_unsatisfied_range(response.headers.get("Content-Range") or "")


def _check_encoding(headers: Headers, url: str) -> None:
    encodings = [token for token in headers.tokens("Content-Encoding") if token != "identity"]
    if encodings:
        raise ProtocolError(f"{shown_url(url)}: sent {printable(encodings[0][:40])}-encoded "
                            "although asked not to",
                            "switch the encoding of this path off at the source")


def _version_of(headers: Headers, total: Optional[int]) -> Version:
    return Version.of((headers.get("ETag") or "").strip(),
                      (headers.get("Last-Modified") or "").strip(), total, os.urandom(8).hex())


def _check_version(version: Version, request: SourceRequest, url: str, *, ranged: bool) -> None:
    """SourceChanged unless the answer is of the version asked for. The same strong ETag with
    another total isn't another version, it's a lie about the total."""
    wanted = request.if_version
    if wanted is None or not wanted.contradicts(version):
        return
    strong = version.etag and not version.etag.startswith("W/")
    if ranged and strong and version.etag == wanted.etag:
        raise RangesBroken(f"{shown_url(url)}: tells a length of {version.length} bytes, "
                           f"before it was {wanted.length}")
    raise SourceChanged(f"{shown_url(url)} changed while it was fetched")


def _file_name(headers: Headers) -> str:
    """The file name of Content-Disposition as a plain base name, or ""."""
    value = headers.get("Content-Disposition")
    if not value:
        return ""
    from email.message import Message  # a megabyte, which a peer doesn't need
    message = Message()
    message["Content-Disposition"] = value
    try:
        told = message.get_filename("") or ""
    except (ValueError, LookupError):    # an escape or a charset that isn't one
        return ""
    name = re.split(r"[/\\]", told)[-1]
    name = "".join(c for c in name if c.isprintable()).lstrip(".").strip()
    return name if len(name.encode("utf-8", "replace")) <= FILE_NAME_MAX else ""


def _moment(date: str) -> Optional[float]:
    """Seconds since 1970 of an HTTP date; None if it isn't one."""
    from email.utils import parsedate_to_datetime
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _hint_for(error: DflyError) -> str:
    return "is an HTTP server there?" if isinstance(error, HttpError) else ""


def _kind_of(error: DflyError) -> type[DflyError]:
    for kind in (TlsError, ProtocolError):
        if isinstance(error, kind):
            return kind
    return NetworkError
