"""The runs of one download: each leased run becomes one fetch from its parent.

What the machine orders (`FetchRun`, `StopRun`) is begun and ended here, at no more cost than the
fetch itself: no task and no timer per run. How a run ended is told in the machine's words. Which
run, from whom, and what follows from a failure is decided elsewhere.
"""
from __future__ import annotations

import asyncio
import heapq
import logging
from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple

from dfly.clock import Clock
from dfly.core import download as core
from dfly.errors import DflyError, FileError, NetworkError, NoSpace
from dfly.net.fetching import Cancelled, Fetch
from dfly.net.limiter import Limiter
from dfly.service.metrics import Metrics
from dfly.service.origins import OriginSink
from dfly.service.parents import ParentFailed, Parents
from dfly.store import TaskFile
from dfly.store.sink import PieceMismatch, PieceSink
from dfly.wire.messages import Failure

log = logging.getLogger("dfly.download")

STALE_MAX = 1_000   # deadlines of runs that ended, before they are cleared away


class Runs:
    """Runs under way, by the machine's numbers. `tell` hears RunEnded, or Doomed where it's the
    store that failed. Everything on the loop."""

    def __init__(self, file: TaskFile, parents: Parents, limits: Sequence[Limiter],
                 tell: Callable[[core.Event], None], metrics: Metrics) -> None:
        self._file = file
        self._parents = parents
        self._limits = limits
        self._tell = tell
        self._metrics = metrics
        self._clock = Clock()
        self._loop = asyncio.get_running_loop()
        self._fetches: Dict[int, Fetch] = {}
        self._expired: Set[int] = set()            # cancelled by their deadline
        self._due: List[Tuple[float, int]] = []    # heap: deadline, run
        self._timer: Optional[asyncio.TimerHandle] = None
        self._open = 0                             # fetches whose sinks are still used
        self._let_go: Optional[asyncio.Future[None]] = None

    def __len__(self) -> int:
        return len(self._fetches)

    def begin(self, order: core.FetchRun, token: bytes, origin: str) -> None:
        """Fetch a run from its parent; the store tells of its pieces as it marks them."""
        sink = PieceSink(self._file, order.first, expected=True, on_piece=_unneeded)
        fetch = self._parents.fetch_of(order.parent, token, (order.first, order.count),
                                       OriginSink(sink, origin))
        fetch.limits = self._limits
        fetch.on_end = lambda error: self._ended(order, fetch, error)
        self._fetches[order.run] = fetch
        self._open += 1
        self._watch(order)
        self._parents.begin(order.parent, fetch)

    def stop(self, run: int) -> None:
        """Nobody wants it any more, nor hears of its end."""
        fetch = self._fetches.pop(run, None)
        if fetch is not None:
            fetch.cancel()

    async def end(self) -> None:
        """Stop all; returns when no thread uses the file any more."""
        for run in list(self._fetches):
            self.stop(run)
        if self._timer is not None:
            self._timer.cancel()
        if self._open:
            self._let_go = self._loop.create_future()
            await self._let_go

    # ------------------------------------------------------------------------ deadlines
    def _watch(self, order: core.FetchRun) -> None:
        due = self._clock.now() + order.deadline_s
        if len(self._due) > 2 * len(self._fetches) + STALE_MAX:
            self._due = [entry for entry in self._due if entry[1] in self._fetches]
            heapq.heapify(self._due)
        heapq.heappush(self._due, (due, order.run))
        if self._due[0][1] == order.run:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            delay_s = max(0.0, self._due[0][0] - self._clock.now())
            self._timer = self._loop.call_later(delay_s, self._expire)

    def _expire(self) -> None:
        now = self._clock.now()
        while self._due and (self._due[0][0] <= now or self._due[0][1] not in self._fetches):
            _, run = heapq.heappop(self._due)
            fetch = self._fetches.get(run)
            if fetch is not None:
                self._expired.add(run)
                fetch.cancel()
        self._set_timer()

    # ----------------------------------------------------------------------------- ends
    def _ended(self, order: core.FetchRun, fetch: Fetch, error: Optional[BaseException]) -> None:
        self._open -= 1
        if not self._open and self._let_go is not None:
            self._let_go.set_result(None)
        is_wanted = self._fetches.pop(order.run, None) is not None
        is_expired = order.run in self._expired
        self._expired.discard(order.run)
        if is_wanted:
            self._tell(self._event_of(order, fetch, error, is_expired))

    def _event_of(self, order: core.FetchRun, fetch: Fetch, error: Optional[BaseException],
                  is_expired: bool) -> core.Event:
        if error is None:
            return core.RunEnded(order.run)
        if isinstance(error, Cancelled) and is_expired:
            return core.RunEnded(order.run, Failure.TIMEOUT, self._first_missing(order),
                                 f"not done within {order.deadline_s:.0f} s")
        if isinstance(error, PieceMismatch):
            self._metrics.add("dfly_bad_pieces_total")
            log.warning("a parent sent a bad piece: %s", error)
            return core.RunEnded(order.run, Failure.BAD_DIGEST, error.piece_index, error.what)
        if isinstance(error, (NoSpace, FileError)):
            return core.Doomed(error)
        failure = Failure.BROKEN
        if isinstance(error, ParentFailed):
            failure = error.failure
        elif isinstance(error, NetworkError) and not fetch.is_answered:
            failure = Failure.REFUSED
        if not isinstance(error, DflyError):   # whatever it was, the machine must know
            log.error("a run failed", exc_info=error)
        what = error.what if isinstance(error, DflyError) else repr(error)
        return core.RunEnded(order.run, failure, self._first_missing(order), what)

    def _first_missing(self, order: core.FetchRun) -> int:
        for piece in range(order.first, order.first + order.count):
            if not self._file.have >> piece & 1:
                return piece
        return order.first + order.count - 1


def _unneeded(piece: int) -> None:
    """The store's own news of a piece says more."""
