"""Several sources of one file as one source.

Whose bytes may lie beside whose is the rule that all here serves:

- Lengths must agree, always.
- If what comes is compared with a digest told beforehand (`checked`), that is enough: requests
  are spread, each to the mirror where it should be done soonest, and a liar costs a piece.
- If not, two mirrors have the same content only by the same strong ETag, or the same Last-Modified
  and length. One mirror, the first that answers, gives everything; another takes over only when
  that one fails, and where it can't be told to have the same, the caller begins anew
  (SourceChanged) rather than mix.

To the caller there is one version, that of the first mirror that answered. Each mirror is asked
under its own, as learned at its first answer, so that one which changes on the way is noticed. A
mirror that fails rests, longer each time, and the next is asked within the same `open`. Pieces,
and whether to try again when all have failed, are the business of ingest.
"""
from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

from dfly.clock import Clock
from dfly.errors import (
    AuthError,
    DflyError,
    DigestMismatch,
    NetworkError,
    ProtocolError,
    ServerError,
    TlsError,
)
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
from dfly.units import KIB, format_size

if TYPE_CHECKING:
    from dfly.net.limiter import Limiter
    from dfly.net.transfer import Sink

log = logging.getLogger(__name__)

REST_S = 1.0             # a mirror's pause after its first failure; doubled with each in a row
REST_MAX_S = 60.0
DOUBLINGS_MAX = 10
PATIENCE = 3             # failures in a row until the one that gives everything isn't first
PATIENCE_S = 5.0         # for so long may no mirror do well before a last resort is taken
MEASURABLE = 64 * KIB    # bytes of a body that say something about speed
FADE_S = 30.0            # an idle mirror's speed counts for so long; then it's tried anew
CRAWL_AFTER_S = 10.0     # a body that took so long ...
CRAWL = 8                # ... at less than this part of another mirror's speed is given up
_FAILURES = (NetworkError, TlsError, ServerError, AuthError, ProtocolError, SourceChanged)
_TELLING = (ServerError, AuthError, TlsError, ProtocolError, DflyError)   # most telling first
_TRANSIENT = (408, 425, 429)    # statuses worth another try, beside those from 500 on


@dataclass(eq=False)
class _Mirror:
    """One URL and what is known of it."""

    url: str
    order: int                           # as the caller named them
    version: Optional[Version] = None    # its own, since it was found to have the content
    shortcut: str = ""                   # where it redirected to
    other_content: bool = False          # what it has is something else
    whole_only: bool = False             # it ignored a range
    wholes: int = 0                      # times that it gave all of the content, from its start
    busy: int = 0                        # requests and bodies under way
    failures: int = 0                    # in a row; of requests at the same time, one counts
    failed_at: float = 0.0
    rests_until: float = 0.0
    speed_bps: float = 0.0
    measured_at: float = 0.0

    def begin_anew(self) -> None:
        self.version, self.other_content, self.whole_only = None, False, False
        self.wholes = 0

    def failed(self, began_at: float, now: float, told_s: float) -> None:
        """What was begun then has failed now; `told_s`: the pause that it asked for itself."""
        if began_at < self.failed_at:
            return
        rest_s = max(told_s, REST_S * 2.0 ** min(self.failures, DOUBLINGS_MAX))
        self.rests_until = now + min(REST_MAX_S, rest_s)
        self.failures += 1
        self.failed_at = now

    def did_well(self) -> None:
        self.failures, self.rests_until = 0, 0.0

    def speed(self, now: float) -> float:
        """Bytes per second of one body lately; 0 = not known (any more)."""
        if not self.busy and now - self.measured_at > FADE_S:
            return 0.0
        return self.speed_bps

    def measured(self, count: int, spent_s: float, now: float) -> None:
        """`count` bytes came in `spent_s`."""
        if count < MEASURABLE or spent_s <= 0:
            return
        before = self.speed(now) or count / spent_s
        self.speed_bps = (before + count / spent_s) / 2
        self.measured_at = now


class _IgnoresRanges(RangesBroken):
    """A mirror that is no use for a range as long as there are others."""


class MirrorSource:
    """`urls` in order of preference, the first is that of the requests. `checked`: a digest of
    the whole, or of each piece, is compared with what comes. `sealed`: so it was with all that a
    version in `unless` stands for, because a task's name holds that digest. `lengths`: those that
    the content can have, if anything was told of that."""

    def __init__(self, inner: Source, urls: Sequence[str], *, checked: bool, sealed: bool = False,
                 lengths: Optional[range] = None, clock: Optional[Clock] = None) -> None:
        self._inner = inner
        self._mirrors = [_Mirror(url, order) for order, url in enumerate(dict.fromkeys(urls))]
        assert self._mirrors, "a source of no URLs"
        self._checked = checked
        self._sealed = sealed
        self._lengths = lengths
        self._clock = clock or Clock()
        self._home: Optional[_Mirror] = None   # whose version is the caller's
        self._missed_at: Optional[float] = None   # since when no mirror does well

    async def open(self, request: SourceRequest) -> MirrorBody:
        """See Source.open. With `if_version` it goes on with what the last open without began."""
        if request.if_version is None:
            self._home = None
            for mirror in self._mirrors:
                mirror.begin_anew()
        failures: List[DflyError] = []
        mirrors = self._ranked(request)
        for mirror in mirrors:
            began_at = self._clock.now()
            try:
                body = await self._ask(mirror, request, alone=len(mirrors) == 1)
            except _IgnoresRanges as error:
                failures.append(error)
            except _FAILURES as error:
                if request.if_version is None and getattr(error, "status", 0) == BEYOND:
                    raise    # an answer: what we knew was longer, or ranges don't work
                self._failed(mirror, error, began_at)
                failures.append(error)
            else:
                self._missed_at = None
                return body
        raise self._verdict(request, failures)

    # ------------------------------------------------------------------------ one mirror
    async def _ask(self, mirror: _Mirror, request: SourceRequest, *, alone: bool) -> MirrorBody:
        going_on = request.if_version is not None
        unless = request.unless if _is_strong(request.unless) else None
        asked = replace(request, url=mirror.url, shortcut=mirror.shortcut, unless=unless,
                        if_version=mirror.version if going_on else None)
        began_at = self._clock.now()
        mirror.busy += 1
        try:
            choosy = request.is_ranged and not alone and (going_on or self._checked)
            if choosy and mirror.whole_only:
                raise _IgnoresRanges(f"{shown_url(mirror.url)}: ignores ranges")
            body = await self._open(mirror, asked)
            try:
                mirror.whole_only = request.is_ranged and not (
                    body.ranged or body.unchanged or body.total == 0)
                if choosy and mirror.whole_only:
                    raise _IgnoresRanges(f"{shown_url(mirror.url)}: ignores ranges")
                version = self._judged(mirror, body, request)
            except BaseException:
                await body.close()
                raise
        except BaseException:
            mirror.busy -= 1
            raise
        return MirrorBody(body, version, mirror, self, began_at)

    async def _open(self, mirror: _Mirror, asked: SourceRequest) -> SourceBody:
        try:
            body = await self._inner.open(asked)
        except SourceChanged:
            mirror.other_content = True
            raise
        except SourceRefused as error:
            if error.status != BEYOND or self._home is None:
                raise
            mirror.other_content = True    # it's shorter
            raise SourceChanged(f"{shown_url(mirror.url)} has another length") from None
        mirror.shortcut = body.final_url if body.redirected else ""
        return body

    def _judged(self, mirror: _Mirror, body: SourceBody, request: SourceRequest) -> Version:
        """The caller's version, if the answer is of that; else SourceChanged."""
        wanted, known = request.if_version, request.unless
        length = body.version.length
        if self._lengths is not None and length is not None and length not in self._lengths:
            mirror.other_content = wanted is not None
            raise ProtocolError(f"{shown_url(mirror.url)}: has {length} bytes, which the "
                                "hashes told beforehand aren't of", "it has another file")
        if wanted is None:
            self._home = mirror
            mirror.version = body.version
            if known is not None and (body.unchanged or self._is_held(body.version, known)):
                return known
            return _comparable(body.version)
        if mirror.version is None and not self._joins(body.version, wanted):
            mirror.other_content = True
            raise SourceChanged(f"{shown_url(mirror.url)} has another content, by what it says")
        if mirror.version is None:
            mirror.version = body.version
        elif mirror.version.length is None:
            mirror.version = replace(mirror.version, length=body.version.length)
        if not self._checked:
            self._home = mirror
        return wanted

    def _is_held(self, found: Version, known: Version) -> bool:
        """True if what was held before may be completed by what was found now."""
        if self._sealed and None not in (found.length, known.length):
            return found.length == known.length
        return _alike(found, known)

    def _joins(self, found: Version, wanted: Version) -> bool:
        """True if a mirror that says so may give bytes of the version wanted."""
        versions = [wanted, *(mirror.version for mirror in self._mirrors if mirror.version)]
        lengths = {version.length for version in (found, *versions)} - {None}
        if len(lengths) > 1:
            return False
        return self._checked or any(_alike(found, version) for version in versions)

    # ----------------------------------------------------------------------- all of them
    def _ranked(self, request: SourceRequest) -> List[_Mirror]:
        """Whom to ask, in this order."""
        mirrors = [mirror for mirror in self._mirrors if not mirror.other_content]
        now = self._clock.now()
        best = max([mirror.speed(now) for mirror in mirrors], default=0.0) or 1.0

        def rank(mirror: _Mirror) -> Tuple[int, float, bool, float, int]:
            """Who gives ranges, if it's for one; if not, who didn't give all of it before (the
            caller wasn't content with that); awake before resting; the home of what isn't checked;
            where it would be done soonest, one not measured taken for as good as any."""
            rests_until = mirror.rests_until if mirror.rests_until > now else 0.0
            home = not self._checked and mirror is self._home
            if home and mirror.failures < PATIENCE:
                rests_until = 0.0
            share = (mirror.busy + 1) / (mirror.speed(now) or best)
            if not self._checked or request.if_version is None:
                share = 0.0
            poor = mirror.whole_only if request.is_ranged else self._checked * mirror.wholes
            return poor, rests_until, not home, share, mirror.order
        return sorted(mirrors, key=rank)

    def _failed(self, mirror: _Mirror, error: DflyError, began_at: float) -> None:
        now = self._clock.now()
        mirror.failed(began_at, now, getattr(error, "retry_after_s", None) or 0.0)
        log.info("%s; %s rests for %.0f s", error.what, shown_url(mirror.url),
                 max(0.0, mirror.rests_until - now))

    def _verdict(self, request: SourceRequest, failures: List[DflyError]) -> DflyError:
        """What all failures together mean to the caller."""
        hopeful = [error for error in failures if _may_pass(error, request)]
        ranges: List[DflyError] = [error for error in failures if isinstance(error, RangesBroken)]
        now = self._clock.now()
        self._missed_at = now if self._missed_at is None else self._missed_at
        impatient = request.if_version is None or now - self._missed_at >= PATIENCE_S
        strangers = sum(mirror.other_content for mirror in self._mirrors)
        lost = strangers and not self._checked and not ranges and (impatient or not hopeful)
        if strangers == len(self._mirrors) or lost:
            return SourceChanged(f"{shown_url(request.url)}: no mirror has any more the content "
                                 f"that was begun with ({len(self._mirrors)} were asked)")
        ordered = ranges + hopeful if impatient else hopeful + ranges
        ordered += [error for kind in _TELLING for error in failures if isinstance(error, kind)]
        error = ordered[0]
        others = len(self._mirrors) - 1
        if others:
            error.what += f" (and {others} other mirror{'s' if others > 1 else ''} failed)"
            error.args = (error.what,)
        return error

    # ------------------------------------------------------------------- told by bodies
    def ended(self, mirror: _Mirror, error: Optional[BaseException], began_at: float) -> None:
        """A body that was asked for then is done with; `error` if it ended so."""
        mirror.busy -= 1
        if isinstance(error, (*_FAILURES, DigestMismatch)):
            self._failed(mirror, error, began_at)

    def measured(self, mirror: _Mirror, count: int, spent_s: float) -> None:
        mirror.measured(count, spent_s, self._clock.now())

    def watched(self, sink: Sink, mirror: _Mirror) -> _WatchedSink:
        return _WatchedSink(sink, mirror, self._clock, self._rivals(mirror))

    def _rivals(self, mirror: _Mirror) -> List[_Mirror]:
        """Those who could go on in this mirror's place."""
        return [other for other in self._mirrors if self._checked and other is not mirror]


class MirrorBody:
    """SourceBody of one mirror; what becomes of it is noted there."""

    def __init__(self, inner: SourceBody, version: Version, mirror: _Mirror,
                 source: MirrorSource, began_at: float) -> None:
        self.version = version
        self.total = inner.total
        self.start = inner.start
        self.stop = inner.stop
        self.ranged = inner.ranged
        self.unchanged = inner.unchanged
        self.final_url = inner.final_url
        self.redirected = False    # the way to each mirror is remembered here, not by the caller
        self.authorised = inner.authorised
        self.facts = inner.facts
        self._inner = inner
        self._mirror = mirror
        self._source = source
        self._began_at = began_at
        self._ended = False

    async def receive(self, sink: Sink, limits: Sequence[Limiter] = ()) -> int:
        """See SourceBody.receive."""
        watched = self._source.watched(sink, self._mirror)
        try:
            count = await self._inner.receive(watched, limits)
        except BaseException as error:
            self._end(error)
            raise
        finally:
            self._source.measured(self._mirror, watched.count, watched.lasted_s)
        if self.stop is not None and count < self.stop - self.start:
            self._end(NetworkError(f"{shown_url(self._mirror.url)}: the body was cut"))
        else:
            self._mirror.did_well()
            self._mirror.wholes += not self.ranged
        self._end(None)
        return count

    async def close(self) -> None:
        self._end(None)
        await self._inner.close()

    def _end(self, error: Optional[BaseException]) -> None:
        if not self._ended:
            self._ended = True
            self._source.ended(self._mirror, error, self._began_at)


class _WatchedSink:
    """Counts, in a mover's thread, and gives up a body that crawls while others run. What the
    loop's thread knows of the others is only read here, and may be a little old."""

    def __init__(self, sink: Sink, mirror: _Mirror, clock: Clock, rivals: List[_Mirror]) -> None:
        self.count = 0
        self._sink = sink
        self._mirror = mirror
        self._clock = clock
        self._rivals = rivals
        self._began_at = clock.now()

    @property
    def lasted_s(self) -> float:
        return self._clock.now() - self._began_at

    def feed(self, view: memoryview) -> None:
        self.count += len(view)
        self._sink.feed(view)
        lasted_s = self.lasted_s
        if lasted_s > CRAWL_AFTER_S:
            self._compare(self.count / lasted_s)

    def finish(self) -> None:
        self._sink.finish()

    def _compare(self, speed_bps: float) -> None:
        now = self._clock.now()
        best = max([rival.speed(now) for rival in self._rivals if not rival.other_content
                    and not rival.whole_only and rival.rests_until <= now], default=0.0)
        if speed_bps * CRAWL < best:
            raise NetworkError(f"{shown_url(self._mirror.url)}: crawls with "
                               f"{format_size(int(speed_bps))}/s, another mirror gave "
                               f"{format_size(int(best))}/s")


# --------------------------------------------------------------------------------- versions
def _is_strong(version: Optional[Version]) -> bool:
    """True if it has an ETag by which a mirror can be asked about another mirror's content."""
    return version is not None and bool(version.etag) and not version.etag.startswith("W/")


def _alike(one: Version, other: Version) -> bool:
    """True if two mirrors that say so have the same bytes."""
    if None not in (one.length, other.length) and one.length != other.length:
        return False
    if _is_strong(one) and one.etag == other.etag:
        return True
    dated = one.last_modified and one.last_modified == other.last_modified
    return bool(dated) and one.length is not None and one.length == other.length


def _comparable(version: Version) -> Version:
    """A version as it can be compared with those of other mirrors: without a weak ETag."""
    if _is_strong(version):
        return version
    return Version.of("", version.last_modified, version.length,
                      version.nonce or os.urandom(8).hex())


def _may_pass(error: DflyError, request: SourceRequest) -> bool:
    """True if it's worth asking again soon."""
    if isinstance(error, SourceRefused):
        return (error.status >= 500 or error.status in _TRANSIENT
                or error.status in request.access.manners.retry_statuses)
    return isinstance(error, NetworkError)
