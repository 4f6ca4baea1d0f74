"""From a source into a task file: each byte asked for once, whatever goes wrong on the way.

Used by the manager, and by a peer that goes back to the source. `begin` asks one question that is
a ranged GET of the first window; its answer tells version, length and whether ranges work, and its
body rests in the socket until `fetch` takes it. Then:

- With ranges, a few workers take runs of missing pieces in order of position. A run that breaks
  goes on at the very byte where it broke, under If-Range.
- Without, one body is read from its start. Pieces held already are compared with what comes
  (another content can't slip in), not written again.
- Ranges that stop working on the way turn the first into the second.
- Where neither a validator of the source nor a digest told beforehand shows that two answers are
  of the same content, there is one body, too. If it breaks, the next is asked to begin with
  bytes that came already, and these are compared.

Pieces are hashed, compared and marked in the movers' threads (intake.py); all that is in this file
runs on the event loop, and so does `on_piece`. Choosing a task's geometry, and what to do when
the source has changed, is the caller's.
"""
from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass
from random import Random
from typing import (
    TYPE_CHECKING,
    Awaitable,
    Callable,
    Coroutine,
    List,
    Optional,
    Sequence,
    Tuple,
)

from dfly.access import Access, Manners, SourceFacts
from dfly.clock import Clock
from dfly.errors import (
    DflyError,
    DigestMismatch,
    NetworkError,
    ProtocolError,
    ServerError,
)
from dfly.service.intake import ContentSink, Enough, Intake, Meter, WholeDigest
from dfly.source import (
    RangesBroken,
    Source,
    SourceBody,
    SourceChanged,
    SourceRefused,
    SourceRequest,
    Version,
    shown_url,
)
from dfly.store import TaskFile
from dfly.store.sink import PieceMismatch
from dfly.task import PIECE_SIZE_MIN, Geometry, TaskSpec, full_set, lowest, run_set, runs_of
from dfly.units import format_duration, format_size

if TYPE_CHECKING:
    from dfly.net.limiter import Limiter

log = logging.getLogger(__name__)

RETRY_AFTER_MAX_S = 60.0   # a source that asks for a longer pause gets this one
DOUBLINGS_MAX = 20         # of the pause between tries
PROBE_SIZE = 1             # bytes asked for where none may be needed: some sources never say 304
BEGIN_TRIES = 2            # of a network failure at the very start: don't keep the user waiting
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # statuses worth another try
NOT_BEGUN = "check the URL and whether its server runs"
BROKE_OFF = "the same command goes on from what came, which is kept"
WINDOW_GROWTH = 16         # windows are this part of what lies before: a busy loop is asked less
CROWDED = (429, 503)       # statuses by which a source says "too many connections"


@dataclass(frozen=True)
class IngestLimits:
    """`tries` = failures in a row, without a new piece between, until we give up."""

    connections: int = 4
    tries: int = 0             # 0: as many as the caller's manners say, else no more than these
    backoff_s: float = 0.5
    window_pieces: int = 8
    limiters: Sequence[Limiter] = ()


@dataclass(frozen=True)
class Content:
    """What `begin` found. `length` None = not told. `unchanged`: it's the known version."""

    version: Version
    length: Optional[int]
    ranges: bool
    unchanged: bool
    final_url: str
    authorised: bool = False          # the source was told a secret of the caller
    facts: SourceFacts = SourceFacts()
    provable: bool = True             # a mixture with another content would show


class Ingest:
    """One task's way from its source. `pause` is asyncio.sleep; tests put a recorder there."""

    def __init__(self, source: Source, spec: TaskSpec,
                 access: Access = Access(), *,
                 limits: IngestLimits = IngestLimits(), clock: Optional[Clock] = None,
                 rng: Optional[Random] = None,
                 pause: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._source = source
        self._access = access
        self._content: Optional[Content] = None
        self._body: Optional[SourceBody] = None    # begin's, until fetch takes it
        self._shortcut = ""
        self._clock = clock or Clock()
        self._rng = rng or Random()
        self._pause = pause
        self.spec = spec
        self.limits = limits
        self.meter = Meter()
        self.on_trouble: Callable[[str], None] = _nobody   # hears of each failure that is mended
        self.ranges_broken = False

    @property
    def source_bytes(self) -> int:
        """Content bytes received from the source so far."""
        return self.meter.received

    @property
    def manners(self) -> Manners:
        """The caller's."""
        return self._access.manners

    @property
    def tries(self) -> float:
        """Failures in a row until we give up."""
        wanted = self.manners.tries or math.inf
        return min(wanted, self.limits.tries) if self.limits.tries else wanted

    @property
    def may_range(self) -> bool:
        """True if the source (asked by `begin`) gives parts of a content of known length."""
        content = self._content
        return (content is not None and content.ranges and not self.ranges_broken
                and content.length is not None)

    @property
    def place(self) -> str:
        """The URL as people may see it."""
        return shown_url(self.spec.url)

    # ------------------------------------------------------------------------------- begin
    async def begin(self, known: Optional[Version] = None, *, start: int = 0,
                    stop: Optional[int] = None) -> Content:
        """Ask the source what it serves. With `known`, an unchanged source sends no body. To
        resume, give the first missing bytes [start, stop): should it send a body nevertheless,
        then of these (with neither, of one byte). One request, unless the source misunderstands
        ranges or fails."""
        await self.close()
        if known is None or not known.has_validator:
            known, start, stop = None, 0, None if start else stop
        elif not start and stop is None:
            stop = PROBE_SIZE
        attempts = Attempts(self, beginning=True)
        while True:
            try:
                body = await self._first(known, start, stop)
                break
            except DflyError as error:
                await attempts.failed(error)
        same = body.unchanged or (known is not None and body.version.same_as(known))
        version = known if same and known is not None else body.version
        length = body.total if version.length is None else version.length
        try:
            self.check_size(length)
        except DigestMismatch:
            await body.close()
            raise
        ranged = body.ranged or (body.unchanged and length is not None)
        provable = self._is_provable(body.version)
        self._content = Content(version, length, ranged and not self.ranges_broken, same,
                                body.final_url, body.authorised, body.facts, provable)
        self._shortcut = body.final_url if body.redirected else ""
        all_of_it = body.stop == body.total or not body.ranged
        if body.unchanged or not (provable or all_of_it):
            await body.close()
        else:
            self._body = body
        return self._content

    def check_size(self, length: Optional[int]) -> None:
        """DigestMismatch for another length than was told of the content beforehand."""
        told = self.spec.size
        if told is not None and self.spec.span is None and length not in (None, told):
            raise DigestMismatch(f"{self.place} has {length} bytes, not the {told} that were told",
                                 "it is another file, or its description is wrong")

    def _is_provable(self, version: Version) -> bool:
        """True if bytes of two answers may be put together, as another content would show."""
        spec = self.spec
        return version.has_validator or spec.digest is not None or spec.checks is not None

    async def _first(self, known: Optional[Version], start: int,
                     stop: Optional[int]) -> SourceBody:
        """The first window, or all of it where the source can't tell one properly."""
        window = self.limits.window_pieces * PIECE_SIZE_MIN
        end = start + window if stop is None else min(stop, start + window)
        request = SourceRequest(self.spec.url, self._access, start, end, unless=known)
        try:
            return await self._source.open(request)
        except RangesBroken as error:
            self.lose_ranges(error)
        except SourceRefused as error:
            if error.status != 416:
                raise
            if start > 0:    # what we knew was longer: another version, then
                return await self._first(known, 0, None)
            self.lose_ranges(error)
        return await self._source.open(SourceRequest(self.spec.url, self._access, unless=known))

    def lose_ranges(self, why: DflyError) -> None:
        log.warning("%s; going on without ranges", why.what)
        self.ranges_broken = True

    # ------------------------------------------------------------------------------- fetch
    async def fetch(self, task_file: TaskFile, *, on_piece: Callable[[int], None],
                    wanted: Optional[int] = None) -> None:
        """Bring the `wanted` pieces (default: all) that `task_file` doesn't hold; `on_piece` is
        called on the loop for each, before this returns. If that completes the content, its
        digest is checked.

        SourceChanged: the caller begins a new version. What arrived before any error stays."""
        assert self._content is not None, "begin comes first"
        body, self._body = self._body, None
        digest = self.spec.digest
        whole = WholeDigest(task_file, digest) if digest is not None else None
        began_at, received = self._clock.now(), self.source_bytes
        try:
            await _Transfer(self, self._content, task_file, on_piece, wanted).run(body)
            await _posted()
            if whole is not None and task_file.complete:
                await whole.check(self.place)
            log.info("%s: %s came in %s", self.place, format_size(self.source_bytes - received),
                     format_duration(self._clock.now() - began_at))
        finally:
            if body is not None:
                await body.close()
            if whole is not None:
                await whole.close()

    async def open(self, start: int, stop: Optional[int], *, ranged: bool) -> SourceBody:
        """Ask for bytes [start, stop) of the version begun with, or for the whole of it."""
        assert self._content is not None
        version = self._content.version
        request = SourceRequest(self.spec.url, self._access, start if ranged else 0,
                                stop if ranged else None, if_version=version,
                                shortcut=self._shortcut)
        body = await self._source.open(request)
        self._shortcut = body.final_url if body.redirected else ""
        return body

    async def close(self) -> None:
        """Drop what `begin` left; a running `fetch` is ended by cancelling it."""
        if self._body is not None:
            body, self._body = self._body, None
            await body.close()

    async def pause(self, failures: int, error: DflyError) -> None:
        """Wait before the next try: twice as long each time, with jitter, or as told."""
        delay_s = min(self._access.manners.retry_wait_s,
                      self.limits.backoff_s * 2.0 ** min(failures - 1, DOUBLINGS_MAX))
        delay_s *= 0.5 + self._rng.random()
        told_s = getattr(error, "retry_after_s", None)
        if told_s is not None:
            delay_s = max(delay_s, min(told_s, RETRY_AFTER_MAX_S))
        log.info("%s; trying again in %.1f s", error.what, delay_s)
        self.on_trouble(f"{error.what}; tried again after {delay_s:.1f} s")
        await self._pause(delay_s)


class Attempts:
    """Counts failures in a row and decides whether there's another try."""

    def __init__(self, ingest: Ingest, *, beginning: bool = False) -> None:
        self._ingest = ingest
        self._beginning = beginning
        self._failures = 0

    async def failed(self, error: DflyError, *, progress: bool = False) -> None:
        """Return when it's time to try again, or raise `error`."""
        self._failures = 1 if progress else self._failures + 1
        tries = self._ingest.tries
        manners = self._ingest.manners
        if self._beginning and not isinstance(error, SourceRefused) and not manners.retry_refused:
            tries = min(tries, BEGIN_TRIES)
        if not is_transient(error, manners.retry_statuses):
            raise error
        if self._failures >= tries:
            if self._failures > 1:
                error.what += f" (tried {self._failures} times)"
                error.args = (error.what,)
            if not error.hint:
                error.hint = NOT_BEGUN if self._beginning else BROKE_OFF
            raise error
        await self._ingest.pause(self._failures, error)


def _nobody(what: str) -> None:
    """The log has it, too."""


def is_transient(error: DflyError, statuses: Sequence[int]) -> bool:
    """True if the same question may be answered otherwise a bit later."""
    if isinstance(error, ServerError):
        return error.status in TRANSIENT or error.status in statuses
    return isinstance(error, (NetworkError, PieceMismatch, Truncated))


class Truncated(ProtocolError):
    """A body ended, properly by its framing, before the content did."""

    hint = "the source tells a wrong length: tell its administrator"


def held_state(held: Optional[TaskFile]) -> Tuple[Optional[Version], int, Optional[int]]:
    """(version held, first missing bytes) for asking the source what it has now."""
    if held is None or held.failed is not None:
        return None, 0, None
    try:
        known = Version.parse(held.version)
    except DflyError as error:
        log.warning("task %s was stored by another release: %s", held.task_id[:12], error)
        return None, 0, None
    count = held.geometry.piece_count
    if count is None or held.complete:
        return known, 0, None
    first = lowest(full_set(count) & ~held.have)
    gap = lowest(held.have >> first) if held.have >> first else count - first
    return known, held.geometry.start(first), held.geometry.stop(first + gap - 1)


# ------------------------------------------------------------------------------- transfer
class _RangesLost(Exception):
    """The source has given up ranges in the middle; `_Transfer.whole` is what it gave instead."""


@dataclass
class _Run:
    """Bytes up to `stop` for one worker; its sink knows how far they came. `body`: begin's."""

    stop: int
    sink: ContentSink
    attempts: Attempts
    body: Optional[SourceBody] = None


class _Transfer:
    """One `fetch`."""

    def __init__(self, ingest: Ingest, content: Content, task_file: TaskFile,
                 on_piece: Callable[[int], None], wanted: Optional[int]) -> None:
        loop = asyncio.get_running_loop()
        self._ingest = ingest
        self._content = content
        self._task_file = task_file
        self._wanted = wanted
        self._intake = Intake(task_file, lambda piece: _post(loop, on_piece, piece),
                              self._satisfied, ingest.place, ingest.meter,
                              ingest.spec.checks)
        self._unassigned = 0                   # piece set: wanted, and in no worker's run
        self._returned: List[_Run] = []        # runs that a worker gave back
        self._workers = 0                      # workers at work
        self._whole: Optional[SourceBody] = None

    async def run(self, body: Optional[SourceBody]) -> None:
        geometry = self._task_file.geometry
        if None not in (geometry.length, self._content.length) and (
                geometry.length != self._content.length):
            raise SourceChanged(f"{self._ingest.place} has {self._content.length} bytes now, "
                                f"not {geometry.length}")
        if self._satisfied():
            return
        try:
            if self._ingest.may_range and self._content.provable and geometry.length is not None:
                if await self._in_ranges(geometry, body):
                    return
                body = self._whole
            await self._in_order(body)
        finally:
            for left in (body, self._whole):   # the latter also if another worker failed first
                if left is not None:
                    await left.close()

    def _missing(self) -> int:
        """Piece set: what is still wanted; of an unknown length, never empty."""
        wanted, count = self._wanted, self._task_file.geometry.piece_count
        if wanted is None:
            wanted = -1
        if count is not None:
            wanted &= full_set(count)
        return wanted & ~self._task_file.have

    def _satisfied(self) -> bool:
        known = self._task_file.geometry.length is not None or self._wanted is not None
        return known and not self._missing()

    async def _receive(self, body: SourceBody, sink: ContentSink) -> bool:
        """The body into the sink; False if it was cut short, as the rest is of no use."""
        try:
            await body.receive(sink, self._ingest.limits.limiters)
        except Enough:
            return False
        finally:
            await body.close()
        if body.stop is not None and sink.position < body.stop:
            raise Truncated(f"{self._ingest.place}: sent {sink.position - body.start} "
                            f"of {body.stop - body.start} bytes")
        return True

    # -------------------------------------------------------------------------- by ranges
    async def _in_ranges(self, geometry: Geometry, body: Optional[SourceBody]) -> bool:
        """False if the source gave up ranges on the way."""
        self._unassigned = self._missing()
        first = self._first_run(geometry, body)
        if first is not None:
            self._returned.append(first)
        elif body is not None:
            await body.close()
        self._workers = self._ingest.limits.connections
        try:
            await _all([self._work(geometry) for _ in range(self._workers)])
        except _RangesLost:
            return False
        return True

    def _first_run(self, geometry: Geometry, body: Optional[SourceBody]) -> Optional[_Run]:
        """The pieces that begin's body touches, as far as they're wanted in one go."""
        if body is None or body.start % geometry.piece_size:
            return None
        assert body.stop is not None
        touched = geometry.pieces_of(body.start, body.stop)
        count = lowest(~(self._unassigned >> touched.start))
        if not count:
            return None
        return self._assign(geometry, touched.start, min(count, len(touched)), body)

    def _assign(self, geometry: Geometry, first: int, count: int,
                body: Optional[SourceBody] = None) -> _Run:
        self._unassigned &= ~run_set(first, count)
        stop = geometry.stop(first + count - 1)
        overlaps = body is not None and (body.stop is None or body.stop > stop)
        sink = ContentSink(self._intake, geometry.start(first), stop, overlaps=overlaps)
        return _Run(stop, sink, Attempts(self._ingest), body)

    def _next_run(self, geometry: Geometry) -> Optional[_Run]:
        if self._returned:
            return self._returned.pop()
        self._unassigned &= self._missing()    # others may bring pieces meanwhile
        if not self._unassigned:
            return None
        first, count = next(runs_of(self._unassigned))
        window = max(self._ingest.limits.window_pieces, first // WINDOW_GROWTH)
        return self._assign(geometry, first, min(count, window))

    async def _work(self, geometry: Geometry) -> None:
        """One connection's worth of runs."""
        try:
            run = self._next_run(geometry)
            while run is not None and await self._bring(run):
                run = self._next_run(geometry)
        finally:
            self._workers -= 1

    async def _bring(self, run: _Run) -> bool:
        """The whole run, over as many tries as it takes; False if this worker shall end."""
        while run.sink.position < run.stop and not self._satisfied():
            stored = run.sink.stored
            try:
                await self._receive(await self._body_for(run), run.sink)
            except RangesBroken as error:
                self._ingest.lose_ranges(error)
                raise _RangesLost from None
            except DflyError as error:
                if self._workers > 1 and getattr(error, "status", 0) in CROWDED:
                    log.info("%s; going on with %d connections", error.what, self._workers - 1)
                    self._returned.append(run)
                    return False
                if isinstance(error, PieceMismatch):
                    run.sink.rewind()
                await run.attempts.failed(error, progress=run.sink.stored > stored)
        return True

    async def _body_for(self, run: _Run) -> SourceBody:
        if run.body is not None:
            body, run.body = run.body, None
            return body
        body = await self._ingest.open(run.sink.position, run.stop, ranged=True)
        if body.ranged:
            return body
        if self._whole is None:
            self._whole = body
        else:
            await body.close()
        raise _RangesLost

    # --------------------------------------------------------------------------- in order
    async def _in_order(self, body: Optional[SourceBody]) -> None:
        """One body after another, from the start or from the first missing piece, to the end."""
        attempts = Attempts(self._ingest)
        sink: Optional[ContentSink] = None
        while not self._satisfied():
            stored = sink.stored if sink is not None else 0
            try:
                if body is None:
                    body = await self._reopen(sink)
                if sink is None or not sink.goes_on_at(body.start):
                    length = self._task_file.geometry.length
                    sink, stored = ContentSink(self._intake, body.start, length,
                                               recalls=not self._content.provable), 0
                if await self._receive(body, sink):
                    self._end(sink)
            except RangesBroken as error:
                self._ingest.lose_ranges(error)
            except DflyError as error:
                if sink is not None and isinstance(error, PieceMismatch):
                    sink.rewind()
                await attempts.failed(error, progress=sink is not None and sink.stored > stored)
            body = None
        if sink is not None and sink.repeated:
            log.warning("%s: %s came again: the source gives no ranges", self._ingest.place,
                        format_size(sink.repeated))

    async def _reopen(self, sink: Optional[ContentSink]) -> SourceBody:
        """The rest from the first missing byte if the source may be asked so, else the whole."""
        geometry = self._task_file.geometry
        first = lowest(self._missing())
        position = geometry.start(first)
        if sink is not None and sink.position // geometry.piece_size == first:
            position = sink.position - sink.recalled
        elif not self._content.provable and first and self._task_file.have >> first - 1 & 1:
            position = geometry.start(first - 1)
        ranged = position > 0 and geometry.length is not None and not self._ingest.ranges_broken
        return await self._ingest.open(position, None, ranged=ranged)

    def _end(self, sink: ContentSink) -> None:
        """A body ended properly: so must the content."""
        length = self._task_file.geometry.length
        if length is None:
            self._ingest.check_size(sink.position)
            sink.end()
            self._task_file.set_length(sink.position)
        elif sink.position < length:
            raise Truncated(f"{self._ingest.place}: sent {sink.position} of {length} bytes")


async def _all(works: List[Coroutine[object, object, None]]) -> None:
    """Run them together. The first error ends the others and is raised; those that the others
    meet while they end tell nothing new."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _posted() -> None:
    """Let what was posted to the loop until now be done: a body's end may bring a last piece."""
    done = asyncio.Event()    # a future would be in the way of a cancellation meanwhile
    asyncio.get_running_loop().call_soon(done.set)
    await done.wait()


def _post(loop: asyncio.AbstractEventLoop, on_piece: Callable[[int], None], piece: int) -> None:
    loop.call_soon_threadsafe(on_piece, piece)
