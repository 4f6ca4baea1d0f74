"""A source that gives a part of each content: bytes [start, stop) of what another source has.

From outside the part is a content of its own: offsets count from its first byte, and the length
of its version is that of the part. Inside, every request is for a range of the whole. A source
that ignores ranges sends all of it: what lies before the part is skipped as it comes, and its
connection is left where the part ends. What to do about failures isn't decided here.

The length of the whole is known once the source told it; a resumed download begins without. It
isn't part of what is stored, so a whole that grew beyond the part, and kept its validators, is
still the same part.
"""
from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Optional, Sequence, Tuple

from dfly.errors import DflyError, ProtocolError, UsageError
from dfly.source import (
    BEYOND,
    RangesBroken,
    Source,
    SourceBody,
    SourceChanged,
    SourceRefused,
    SourceRequest,
    Version,
    shown_url,
)

if TYPE_CHECKING:
    from dfly.net.limiter import Limiter
    from dfly.net.transfer import Sink

log = logging.getLogger(__name__)


class SpanSource:
    """`span` = (start, stop): stop None is the content's end, a negative start counts from it."""

    def __init__(self, inner: Source, span: Tuple[int, Optional[int]]) -> None:
        start, stop = span
        if stop is not None and (start < 0 or stop <= start):
            raise UsageError(f"not a part of a content: bytes {start} to {stop}",
                             "give a start and a later stop, or how many bytes from the end")
        self._inner = inner
        self._start = start
        self._stop = stop
        self._total: Optional[int] = None   # bytes of the whole, as last told
        self._ranges_broken = False

    async def open(self, request: SourceRequest) -> SpanBody:
        """See Source.open; SourceRefused (416) if the whole ends before the part begins."""
        if request.if_version is None:
            self._total = None
        if self._start >= 0 or self._total is not None:
            return await self._ask(request)
        first = await self._asked(request, 0, None if self._gives_up_ranges(request) else 1)
        if not first.ranged:
            return await self._as_span(first, request)
        self._total = await _measured(first)
        if self._total is None:
            raise self._nowhere(request.url)
        # The answer to come must be of the state whose length we know.
        return await self._ask(replace(request, unless=None, if_version=(
            request.if_version or self._outside(first.version))))

    async def _ask(self, request: SourceRequest) -> SpanBody:
        begin, end = self._bounds(self._total)
        start, stop = begin + request.start, end
        if request.stop is not None:
            stop = begin + request.stop if end is None else min(end, begin + request.stop)
        if stop is not None and start >= stop:
            raise self._beyond(request.url, self._total)
        if self._gives_up_ranges(request):
            start, stop = 0, None
        try:
            body = await self._asked(request, start, stop)
        except SourceRefused as error:
            if error.status != BEYOND or request.start > 0:
                raise
            raise self._beyond(request.url, await self._length(request)) from None
        return await self._as_span(body, request)

    def _gives_up_ranges(self, request: SourceRequest) -> bool:
        """True if a caller who asks for no range had bad luck with one before."""
        return self._ranges_broken and not request.is_ranged

    async def _asked(self, request: SourceRequest, start: int, stop: Optional[int]) -> SourceBody:
        """The answer of the inner source to `request`, but for bytes [start, stop) of the whole."""
        try:
            return await self._inner.open(replace(
                request, start=start, stop=stop, if_version=self._inside(request.if_version),
                unless=self._inside(request.unless)))
        except RangesBroken:
            self._ranges_broken = True
            raise

    async def _as_span(self, body: SourceBody, request: SourceRequest) -> SpanBody:
        try:
            return self._cut(body, request)
        except BaseException:
            await body.close()
            raise

    def _cut(self, body: SourceBody, request: SourceRequest) -> SpanBody:
        if body.unchanged:
            assert request.unless is not None
            return SpanBody(body, request.unless, (0, 0), request)
        total = self._total = body.total
        if total is None and self._start < 0:
            raise self._nowhere(request.url)
        begin, end = self._bounds(total)
        if total is not None and begin >= total:
            raise self._beyond(request.url, total)
        version = self._outside(body.version)
        if request.if_version is not None and request.if_version.contradicts(version):
            raise SourceChanged(f"{shown_url(request.url)} changed while it was fetched")
        return SpanBody(body, version, (begin, end), request)

    async def _length(self, request: SourceRequest) -> Optional[int]:
        """Bytes of the whole, by the cheapest question; None if the source doesn't tell."""
        try:
            return await _measured(await self._inner.open(SourceRequest(
                request.url, request.access, 0, 1)))
        except DflyError as error:
            log.info("%s; its length would have been told", error.what)
            return None

    def _bounds(self, total: Optional[int]) -> Tuple[int, Optional[int]]:
        """[start, stop) of the part in a whole of `total` bytes, clipped to it."""
        if total is None:
            return self._start, self._stop
        start = self._start if self._start >= 0 else max(0, total + self._start)
        return start, total if self._stop is None else min(self._stop, total)

    def _inside(self, version: Optional[Version]) -> Optional[Version]:
        """The version of the whole that a version of the part belongs to."""
        return version if version is None else replace(version, length=self._total)

    def _outside(self, version: Version) -> Version:
        """The version of the part; its length is known once that of the whole is."""
        start, stop = self._bounds(self._total)
        if self._total is None or stop is None:
            return replace(version, length=None)
        return replace(version, length=max(0, stop - start))

    def _beyond(self, url: str, total: Optional[int]) -> SourceRefused:
        return _beyond(url, self._start, total)

    def _nowhere(self, url: str) -> ProtocolError:
        return ProtocolError(f"{shown_url(url)}: tells no length, so its last {-self._start} bytes "
                             "can't be found", "ask for all of it, or for a part counted from "
                             "the start")


class SpanBody:
    """SourceBody of a part, `bounds` = its [start, stop) in the whole, over a body of the whole.

    Unless it was cut by its answer already, this is what comes: bytes to skip, the part (or the
    range of it that was asked for), bytes that are of no use."""

    def __init__(self, inner: SourceBody, version: Version,
                 bounds: Tuple[int, Optional[int]], request: SourceRequest) -> None:
        begin, end = bounds
        self.version = version
        self.total = version.length
        self.start = max(0, inner.start - begin)
        self.stop = inner.stop
        if inner.stop is not None:
            self.stop = max(0, (inner.stop if end is None else min(inner.stop, end)) - begin)
        self.ranged = inner.ranged and request.is_ranged
        self.unchanged = inner.unchanged
        self.final_url = inner.final_url
        self.redirected = inner.redirected
        self.authorised = inner.authorised
        self.facts = inner.facts
        self._inner = inner
        self._begin = begin
        self._end = end
        self._url = request.url

    async def receive(self, sink: Sink, limits: Sequence[Limiter] = ()) -> int:
        """See SourceBody.receive. Limits are charged with what is skipped, too: it's on the
        wire."""
        inner = self._inner
        cut_at = None
        if self._end is not None and (inner.stop is None or inner.stop > self._end):
            cut_at = self._end
        part = _SpanSink(sink, self._begin, inner.start, cut_at)
        try:
            await inner.receive(part, limits)
        except _PartWhole:
            pass    # the rest is refused as the body is closed
        if inner.total is None and part.position <= self._begin:
            raise _beyond(self._url, self._begin, part.position)
        return part.fed

    async def close(self) -> None:
        await self._inner.close()


class _PartWhole(DflyError):
    """Ends a body that goes on beyond the part; people never see it."""


class _SpanSink:
    """Passes on what lies in [begin, cut_at) of a whole that comes from byte `position` on;
    `cut_at` None: all from `begin` on."""

    def __init__(self, sink: Sink, begin: int, position: int, cut_at: Optional[int]) -> None:
        self.fed = 0
        self._sink = sink
        self._begin = begin
        self.position = position
        self._cut_at = cut_at

    def feed(self, view: memoryview) -> None:
        skipped = min(len(view), max(0, self._begin - self.position))
        stop = len(view) if self._cut_at is None else self._cut_at - self.position
        part = view[skipped:stop]
        self.position += len(view)
        if len(part):
            self.fed += len(part)
            self._sink.feed(part)
        if self._cut_at is not None and self.position >= self._cut_at:
            self._sink.finish()
            raise _PartWhole("the part is whole")

    def finish(self) -> None:
        self._sink.finish()


class _Nowhere:
    """A sink for the byte of an answer whose head is what matters."""

    def feed(self, view: memoryview) -> None: ...

    def finish(self) -> None: ...


async def _measured(body: SourceBody) -> Optional[int]:
    """The length of the whole by this answer, which is done with. A range's one byte is read, so
    that the connection lives on."""
    try:
        if body.ranged:
            await body.receive(_Nowhere())
        return body.total
    finally:
        await body.close()


def _beyond(url: str, start: int, total: Optional[int]) -> SourceRefused:
    has = "ends before that" if total is None else f"has {total} bytes"
    what = f"a part from byte {start} on" if start >= 0 else f"its last {-start} bytes"
    return SourceRefused(f"{shown_url(url)} {has}: there is nothing of {what}",
                         "ask for a part that the file has", BEYOND)
