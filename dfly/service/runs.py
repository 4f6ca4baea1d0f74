"""The runs of one download: each leased run becomes one fetch from its parent.

What the machine orders (`FetchRun`, `StopRun`) is begun and ended here, at no more cost than the
fetch itself: no task and no timer per run. How a run ended is told in the machine's words; of
pieces that came before the manager's word of their digests, when that has come. Which run, from
whom, and what follows from a failure is decided elsewhere.
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
from dfly.net.stream import TimedOut
from dfly.service.metrics import Metrics
from dfly.service.origins import OriginSink
from dfly.service.parents import ParentFailed, Parents
from dfly.service.story import ParentStory
from dfly.store import TaskFile
from dfly.store.sink import PieceMismatch, PieceSink
from dfly.task import lowest, run_set
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
        self.limits = limits
        self._tell = tell
        self._metrics = metrics
        self._clock = Clock()
        self._loop = asyncio.get_running_loop()
        self.told: Dict[int, ParentStory] = {}          # by parent
        self._fetches: Dict[int, Fetch] = {}
        self._settling: Dict[int, core.FetchRun] = {}   # all came; the word on some is due
        self._refuted = 0    # piece set: proved wrong while they waited for the word
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
        fetch.limits = self.limits
        self._fetches[order.run] = fetch
        self._refuted &= ~run_set(order.first, order.count)
        self._open += 1
        parent = self.told.setdefault(order.parent, ParentStory(origin))
        parent.origin, began_at = origin, self._clock.now()
        fetch.on_end = lambda error: self._ended(order, fetch, error, began_at)
        self._watch(order)
        self._parents.begin(order.parent, fetch)

    def stop(self, run: int) -> None:
        """Nobody wants it any more, nor hears of its end."""
        self._settling.pop(run, None)
        fetch = self._fetches.pop(run, None)
        if fetch is not None:
            fetch.cancel()

    def settle(self, wrong: int) -> None:
        """The manager's word came on some pieces; those of the set `wrong` had waited for it in
        vain."""
        self._refuted |= wrong
        for order in list(self._settling.values()):
            event = self._settled(order)
            if event is not None:
                del self._settling[order.run]
                self._tell(event)

    async def end(self) -> None:
        """Stop all; returns when no thread uses the file any more."""
        for run in [*self._fetches, *self._settling]:
            self.stop(run)
        if self._timer is not None:
            self._timer.cancel()
        if self._open:
            if self._let_go is None:
                self._let_go = self._loop.create_future()
            await asyncio.shield(self._let_go)   # others may wait for it, too

    # ------------------------------------------------------------------------ deadlines
    def _watch(self, order: core.FetchRun) -> None:
        due = self._clock.now() + order.deadline_s
        if len(self._due) > 2 * len(self._fetches) + STALE_MAX:
            self._due = [entry for entry in self._due if self._is_under_way(entry[1])]
            heapq.heapify(self._due)
        heapq.heappush(self._due, (due, order.run))
        if self._due[0][1] == order.run:
            self._set_timer()

    def _is_under_way(self, run: int) -> bool:
        return run in self._fetches or run in self._settling

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            delay_s = max(0.0, self._due[0][0] - self._clock.now())
            self._timer = self._loop.call_later(delay_s, self._expire)

    def _expire(self) -> None:
        now = self._clock.now()
        while self._due and (self._due[0][0] <= now or not self._is_under_way(self._due[0][1])):
            _, run = heapq.heappop(self._due)
            fetch, order = self._fetches.get(run), self._settling.pop(run, None)
            if fetch is not None:
                self._expired.add(run)
                fetch.cancel()
            elif order is not None:
                self._tell(self._too_late(order))
        self._set_timer()

    # ----------------------------------------------------------------------------- ends
    def _ended(self, order: core.FetchRun, fetch: Fetch, error: Optional[BaseException],
               began_at: float) -> None:
        self._open -= 1
        self._note(order, error, began_at)
        if not self._open and self._let_go is not None:
            self._let_go.set_result(None)
            self._let_go = None
        is_wanted = self._fetches.pop(order.run, None) is not None
        is_expired = order.run in self._expired
        self._expired.discard(order.run)
        if not is_wanted:
            return
        event = self._event_of(order, fetch, error, is_expired) if error is not None \
            else self._settled(order)
        if event is not None:
            self._tell(event)
        else:
            self._settling[order.run] = order

    def _note(self, order: core.FetchRun, error: Optional[BaseException],
              began_at: float) -> None:
        """For whoever asks why it took so long."""
        parent = self.told[order.parent]
        parent.runs += 1
        parent.seconds += self._clock.now() - began_at
        if error is None:
            geometry = self._file.geometry
            parent.bytes += (geometry.stop(order.first + order.count - 1)
                             - geometry.start(order.first))
        elif not isinstance(error, Cancelled):
            parent.failed += 1

    def _settled(self, order: core.FetchRun) -> Optional[core.Event]:
        """The end of a run of which all bytes came; None while the word on some is due."""
        missing = run_set(order.first, order.count) & ~self._file.have
        if missing & self._refuted:
            piece = lowest(missing & self._refuted)
            return self._bad_piece(order, piece, f"piece {piece} of task {self._file.task_id} "
                                                 "has wrong bytes, as its digest says")
        return None if missing & self._file.awaited else core.RunEnded(order.run)

    def _bad_piece(self, order: core.FetchRun, piece: int, what: str) -> core.Event:
        self._metrics.add("dfly_bad_pieces_total")
        log.warning("a parent sent a bad piece: %s", what)
        return core.RunEnded(order.run, Failure.BAD_DIGEST, piece, what)

    def _too_late(self, order: core.FetchRun) -> core.Event:
        return core.RunEnded(order.run, Failure.TIMEOUT, self._first_missing(order),
                             f"not done within {order.deadline_s:.0f} s")

    def _event_of(self, order: core.FetchRun, fetch: Fetch, error: BaseException,
                  is_expired: bool) -> core.Event:
        if isinstance(error, Cancelled) and is_expired:
            return self._too_late(order)
        if isinstance(error, PieceMismatch):
            return self._bad_piece(order, error.piece_index, error.what)
        if isinstance(error, (NoSpace, FileError)):
            return core.Doomed(error)
        failure = Failure.BROKEN
        if isinstance(error, ParentFailed):
            failure = error.failure
        elif isinstance(error, TimedOut):
            failure = Failure.TIMEOUT
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
