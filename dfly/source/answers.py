"""What an answer of a source means: a body that is what was asked for, or an error.

Pure functions over heads. What a source answers is believed only where it is exactly what was
asked for: a 206 must carry the Content-Range of the request, the total and the validator of the
version; a 200 means that the source ignores ranges, and is used as the whole content; an encoded
body is refused, because ranges, lengths and digests are of the plain bytes.
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Optional, Tuple

from dfly.errors import AuthError, DflyError, ProtocolError, printable
from dfly.net.route import ProxyDenied
from dfly.source import (
    RangesBroken,
    SourceChanged,
    SourceRefused,
    SourceRequest,
    Version,
    shown_url,
)
from dfly.source.challenge import parse_challenges
from dfly.source.visit import Outfit
from dfly.units import parse_http_date
from dfly.wire.http11 import REASONS, Headers, ResponseHead
from dfly.wire.ranges import format_content_range, parse_content_range, parse_unsatisfied_range

HINTS = {403: "the source forbids it: check the URL, or give credentials with --header",
         404: "check the URL", 410: "check the URL", 429: "the source wants fewer requests: "
         "try again later", 503: "the source is overloaded: try again later"}


@dataclass(frozen=True)
class Span:
    """Bytes [start, stop) of a content of `total` bytes."""

    start: int
    stop: Optional[int]
    total: Optional[int]


def answer_of(head: ResponseHead, request: SourceRequest,
              url: str) -> Optional[Tuple[Span, Version]]:
    """Which bytes of which version an answer brings; None if it refuses them."""
    status = head.status
    if status == 304 and request.unless is not None:
        return Span(0, 0, request.unless.length), request.unless
    if status == 206 and request.is_ranged:
        span = _span_of(head, request, url)
    elif status == 200:
        span = _whole(head)
    elif status == 416 and _total_of_416(head) == 0:
        span = Span(0, 0, 0)
    else:
        return None
    _check_encoding(head.headers, url)
    version = _version_of(head.headers, span.total)
    _check_version(version, request, url, ranged=status == 206)
    return span, version


def refusal_of(head: ResponseHead, request: SourceRequest, sent: Outfit, url: str,
               now: float) -> DflyError:
    """The error that an answer without a body means; `now` = seconds since 1970."""
    status = head.status
    reason = printable(head.reason[:80]) or REASONS.get(status, "")
    what = f"{shown_url(url)}: {status} {reason}".rstrip()
    proxy = sent.route.proxy
    if status == 401:
        return AuthError(what, _login_hint(head, sent))
    if status == 407 and proxy is not None:
        return AuthError(f"{proxy.name}: {what}", ProxyDenied.hint)
    if status == 407:
        return AuthError(what, "a proxy on the way wants a password")
    if status == 416 and request.if_version is not None:
        return SourceChanged(f"{shown_url(url)} changed: it has no more the bytes asked for")
    if status < 400:
        return ProtocolError(f"{what}: not an answer to a download")
    hint = HINTS.get(status, "the source has a fault: try again later" if status >= 500
                     else "check the URL and the headers given")
    if proxy is not None and url.startswith("http:"):    # it may be the proxy that says so
        what += f" (through {proxy.name})"
    return SourceRefused(what, hint, status, _retry_after(head.headers, now))


def _retry_after(headers: Headers, now: float) -> Optional[float]:
    """Seconds that the source asks to wait for (RFC 9110 10.2.3)."""
    value = (headers.get("Retry-After") or "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    at = parse_http_date(value)
    if at is None:
        return None
    told = parse_http_date(headers.get("Date") or "")
    return max(0.0, at - (now if told is None else told))


def _span_of(head: ResponseHead, request: SourceRequest, url: str) -> Span:
    """The range that a 206 brings, which must be the one asked for."""
    told = head.headers.get("Content-Range")
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
    length = _content_length(head.headers)
    if length is not None and length != stop - start:
        raise RangesBroken(f"{shown_url(url)}: a range of {stop - start} bytes in a body "
                           f"of {length}")
    return Span(start, stop, total)


def _whole(head: ResponseHead) -> Span:
    length = _content_length(head.headers)
    return Span(0, length, length)


def _content_length(headers: Headers) -> Optional[int]:
    """The framing was checked when the head was read: a length that is there is a number."""
    if "Transfer-Encoding" in headers:
        return None
    text = (headers.get("Content-Length") or "").partition(",")[0].strip()
    return int(text) if text else None


def is_bare_nothing(head: ResponseHead) -> bool:
    """True of a refusal of ranges that says that the content is empty, and not which version of
    it that is. An answer to the plain request says that, too."""
    return (head.status == 416 and _total_of_416(head) == 0
            and not (head.headers.get("ETag") or head.headers.get("Last-Modified")))


def _total_of_416(head: ResponseHead) -> Optional[int]:
    return parse_unsatisfied_range(head.headers.get("Content-Range") or "")


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


def _login_hint(head: ResponseHead, sent: Outfit) -> str:
    """What to do about a 401."""
    if sent.own_login:
        return "the Authorization header that was given is refused"
    if sent.login:
        return "user name or password is refused"
    offered = parse_challenges(head.headers.all("WWW-Authenticate"))
    if offered and not any(challenge.strength for challenge in offered):
        schemes = printable(", ".join(sorted({challenge.scheme for challenge in offered}))[:80])
        return (f"it wants a login by {schemes}: give what it needs with "
                "--header 'Authorization: ...'")
    return ("give --user and --password, or a netrc, or where a token is wanted "
            "--header 'Authorization: ...'")
