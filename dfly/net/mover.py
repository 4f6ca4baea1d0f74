"""The byte movers: a few threads that carry bodies, so that asyncio only sees heads.

Each mover is one `selectors` loop. It owns a socket while a body passes, gives it turns of bounded
size, and returns it to asyncio's thread at the end; the socket is closed there, never here, and
only after it left the selector. A transfer is always in exactly one place:

    in the selector    until the socket is readable or writable
    ready              its last turn ended at its bound: next round
    limited            out of the selector, in the queue of the limiter that is in debt
    parked             waiting for a piece; `wake` brings it back
    ended              on its way to the loop's thread

Nothing polls: a mover sleeps in `select` until a socket, the wake-up pipe, the next refill of a
limiter or the next timeout. How to move bytes is transfer.py's; this file knows of none.
"""
from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import mmap
import os
import selectors
import threading
from collections import deque
from typing import Callable, Deque, Dict, List, Optional, Sequence, Tuple, Union

from dfly.clock import Clock
from dfly.errors import NetworkError
from dfly.net.limiter import Limiter, allowance_of, charge
from dfly.net.mailbox import Mailbox
from dfly.net.stream import Stream, TimedOut
from dfly.net.transfer import (
    AGAIN,
    DONE,
    IDLE_S,
    PARKED,
    READABLE,
    PiecesHeld,
    Receive,
    SendFile,
    SendPieces,
    Sink,
    Transfer,
)
from dfly.units import MIB
from dfly.wire.bodies import Body

TURN_MAX = MIB  # bytes one transfer moves until the next one's turn; also the receive buffer


class Job:
    """One transfer under way. Await `wait()` (or `future`) on the loop; the result is the number
    of content bytes moved. On any failure or cancellation the stream is closed."""

    def __init__(self, transfer: Transfer, loop: asyncio.AbstractEventLoop,
                 is_kept: bool = False) -> None:
        self.transfer = transfer
        self.is_kept = is_kept
        self.future: asyncio.Future[int] = loop.create_future()
        self._let_go: asyncio.Future[None] = loop.create_future()
        self.cancelled = False
        self._is_aborted = False  # not cancelled by who awaits it: its stream was closed
        self.future.add_done_callback(self._on_done)
        self.recall: Callable[[], None] = _nothing
        # The mover's own notes, touched by its thread only:
        self.fd = transfer.stream.sock.fileno()
        self.events = 0          # what the selector watches for; 0 = not in it
        self.is_queued = False   # in the ready queue
        self.is_limited = False  # found no allowance at its last turn
        self.is_waiting = False  # in the queue of a limiter
        self.is_ended = False
        self.idle_at = 0.0
        self.look_at = math.inf  # its earliest entry among the timeouts

    def cancel(self) -> None:
        """End the transfer; the stream is closed as soon as the mover has let go of it."""
        if not self.cancelled:
            self.cancelled = True
            self.recall()

    def abort(self) -> None:
        """The stream was closed on the loop: as `cancel`, but who awaits gets a NetworkError."""
        self._is_aborted = not self.cancelled
        self.cancel()

    def _on_done(self, future: asyncio.Future[int]) -> None:
        if future.cancelled():
            self.cancel()

    async def wait(self) -> int:
        """The result. If the waiting task is cancelled the job is too, and only when no thread
        uses its file or sink any more does the cancellation go on."""
        try:
            return await asyncio.shield(self.future)
        except asyncio.CancelledError:
            self.cancel()
            while not self._let_go.done():
                try:
                    await asyncio.shield(self._let_go)
                except asyncio.CancelledError:
                    continue  # cancelled once more: it is being done
            raise

    def finish(self, error: Optional[BaseException]) -> None:
        """On the loop's thread: the mover has let go."""
        if self._let_go.done():
            return
        stream = self.transfer.stream
        stream.attach()
        abandoned = self.cancelled or self.future.cancelled()
        if error is not None or abandoned:
            stream.close()
        self._let_go.set_result(None)
        if self.future.done():
            return
        if self._is_aborted:
            closed = NetworkError(f"{stream.name}: the connection was closed here")
            self.future.set_exception(closed)
        elif abandoned:
            self.future.cancel()
        elif error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self.transfer.moved)


def _nothing() -> None:
    return


_Note = Union[Job, Limiter]  # a job to look at (new, woken, cancelled); a limiter that changed


class _Mover:
    """One thread and its selector."""

    def __init__(self, mailbox: Mailbox, clock: Clock, name: str) -> None:
        self.load = 0  # jobs given and not ended, each for one body; written under the lock
        self.kept = 0  # those that stay for many; likewise
        self._mailbox = mailbox
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        # Pages of its own, which cost memory only once they are used: an idle daemon is small.
        self._workspace = memoryview(mmap.mmap(-1, TURN_MAX))
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._selector.register(self._wake_in, selectors.EVENT_READ, None)
        self._lock = threading.Lock()
        self._inbox: Deque[_Note] = deque()
        self._is_signalled = False
        self._is_stopping = False
        self._is_closed = False
        self._jobs: Dict[Job, None] = {}
        self._ready: Deque[Job] = deque()
        self._waiting: Dict[Limiter, Deque[Job]] = {}
        self._refills: List[Tuple[float, int, Limiter]] = []   # heap
        self._timeouts: List[Tuple[float, int, Job]] = []      # heap; an entry may be too early
        self._order = itertools.count()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------ any thread
    def give(self, job: Job) -> None:
        assert not self._is_closed  # Movers.stop, on this same thread, has forgotten it by then
        job.transfer.stream.detach(job.abort)
        job.recall = lambda: self.post(job)
        job.transfer.wake = job.recall
        self._count(job, 1)
        self.post(job)

    def _count(self, job: Job, change: int) -> None:
        with self._lock:
            if job.is_kept:
                self.kept += change
            else:
                self.load += change

    def post(self, note: _Note) -> None:
        """Have the thread look at `note`. A mover that has closed has ended its jobs already."""
        with self._lock:
            if self._is_closed:
                return
            self._inbox.append(note)
            if not self._is_signalled:
                self._is_signalled = True
                os.write(self._wake_out, b"\0")

    def stop(self) -> None:
        """End all jobs and the thread; on the loop's thread."""
        with self._lock:
            if not self._is_closed and not self._is_signalled:
                self._is_signalled = True
                os.write(self._wake_out, b"\0")
            self._is_stopping = True
        self._thread.join()

    # ------------------------------------------------------------------ the mover's thread
    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._round()
        finally:
            self._close()

    def _round(self) -> None:
        for key, _ in self._selector.select(self._patience_s()):
            if key.data is not None:
                self._queue(key.data)
        self._read_inbox()
        now = self._clock.now()
        self._refill(now)
        self._expire(now)
        for _ in range(len(self._ready)):
            self._turn(self._ready.popleft(), now)

    def _patience_s(self) -> Optional[float]:
        if self._ready:
            return 0.0
        times = [heap[0][0] for heap in (self._refills, self._timeouts) if heap]
        return max(0.0, min(times) - self._clock.now()) if times else None

    def _read_inbox(self) -> None:
        if not self._is_signalled:
            return
        with self._lock:
            os.read(self._wake_in, 16)
            self._is_signalled = False
            notes = list(self._inbox)
            self._inbox.clear()
        for note in notes:
            if isinstance(note, Limiter):
                self._schedule_refill(note, self._clock.now())
                continue
            if note not in self._jobs and not note.is_ended:
                self._jobs[note] = None
                self._touch(note, self._clock.now())
            self._queue(note)

    def _queue(self, job: Job) -> None:
        if not job.is_queued and not job.is_ended:
            job.is_queued = True
            self._ready.append(job)

    def _touch(self, job: Job, now: float) -> None:
        job.idle_at = now + job.transfer.idle_timeout_s
        self._look_later(job)

    def _look_later(self, job: Job) -> None:
        if job.idle_at < job.look_at:
            job.look_at = job.idle_at
            heapq.heappush(self._timeouts, (job.idle_at, next(self._order), job))

    def _turn(self, job: Job, now: float) -> None:
        job.is_queued = False
        if job.is_ended:
            return
        if job.cancelled:
            self._end(job, NetworkError("cancelled"))
            return
        self._mailbox.hold()
        try:
            limits = job.transfer.limits
            allowed = allowance_of(limits, now) if limits else TURN_MAX
            if allowed <= 0:
                self._limit(job, now)
                return
            if job.is_limited:
                job.is_limited = False
                self._touch(job, now)
            self._move(job, min(allowed, TURN_MAX), now)
        except Exception as error:  # whatever it is, it is the job's: the thread goes on
            self._end(job, error)
        finally:
            self._mailbox.let_go()

    def _move(self, job: Job, allowed: int, now: float) -> None:
        transfer = job.transfer
        before = transfer.moved
        try:
            need = transfer.step(self._workspace, allowed)
        finally:
            moved = transfer.moved - before
            if moved:
                charge(transfer.limits, moved, now)
            if moved or transfer.is_renewed:
                transfer.is_renewed = False
                self._touch(job, now)
        if need == DONE:
            self._end(job, None)
        elif need == AGAIN:
            self._queue(job)
        elif need == PARKED:
            self._watch(job, selectors.EVENT_READ if transfer.watching else 0)
        else:
            self._watch(job, selectors.EVENT_READ if need == READABLE else selectors.EVENT_WRITE)

    def _watch(self, job: Job, events: int) -> None:
        """Have the selector watch the job's socket for `events`; 0 = not at all."""
        if events == job.events:
            return
        if not job.events:
            self._selector.register(job.fd, events, job)
        elif not events:
            self._selector.unregister(job.fd)
        else:
            self._selector.modify(job.fd, events, job)
        job.events = events

    def _end(self, job: Job, error: Optional[BaseException]) -> None:
        job.is_ended = True
        del self._jobs[job]
        try:
            self._watch(job, 0)
            job.transfer.end(error)
        except Exception as failure:
            error = error or failure
        self._count(job, -1)
        self._mailbox.post(job.finish, error)

    # ------------------------------------------------------------------- limits and time
    def _limit(self, job: Job, now: float) -> None:
        """Out of the selector, until the limiter that takes longest allows a turn."""
        if job.is_waiting:
            return
        self._watch(job, 0)
        job.is_limited = job.is_waiting = True
        slowest = max(job.transfer.limits, key=lambda limit: limit.ready_at(now))
        queue = self._waiting.get(slowest)
        if queue is None:
            queue = self._waiting[slowest] = deque()
            slowest.watch(self.post)
            self._schedule_refill(slowest, now)
        queue.append(job)

    def _schedule_refill(self, limit: Limiter, now: float) -> None:
        heapq.heappush(self._refills, (limit.ready_at(now), next(self._order), limit))

    def _refill(self, now: float) -> None:
        """Turns for those who wait, first come first served, as far as their limiter allows."""
        while self._refills and self._refills[0][0] <= now:
            _, _, limit = heapq.heappop(self._refills)
            queue = self._waiting.get(limit)
            if queue is None:
                continue
            while queue and limit.allowance(now) > 0:
                job = queue.popleft()
                job.is_waiting = False
                self._turn(job, now)
            if queue:
                self._schedule_refill(limit, now)
            else:
                del self._waiting[limit]
                limit.unwatch(self.post)

    def _expire(self, now: float) -> None:
        while self._timeouts and self._timeouts[0][0] <= now:
            due, _, job = heapq.heappop(self._timeouts)
            if job.is_ended or due != job.look_at:
                continue  # over, or looked at since
            job.look_at = math.inf
            if job.idle_at <= now and not job.is_limited:
                self._turn(job, now)  # the socket may hold less than it was to wake us for
            if job.is_ended:
                continue
            if job.is_limited:  # it isn't the other side that it waits for
                self._touch(job, now)
            elif job.idle_at > now:
                self._look_later(job)
            else:
                self._end(job, TimedOut(f"{job.transfer.stream.name}: timed out: "
                                        f"{job.transfer.waits_for()} in "
                                        f"{job.transfer.idle_timeout_s:g} s"))

    def _close(self) -> None:
        """Last act of the thread: no job is left, no descriptor is kept."""
        with self._lock:
            self._is_closed = True
            notes = list(self._inbox)
            os.close(self._wake_out)
        for note in notes:
            if isinstance(note, Job) and not note.is_ended:
                self._jobs[note] = None
        for job in list(self._jobs):
            self._end(job, NetworkError("shutting down"))
        for limit in self._waiting:
            limit.unwatch(self.post)
        self._selector.close()
        os.close(self._wake_in)


class Movers:
    """The movers of a process. `start` on the loop that will await the jobs."""

    def __init__(self, threads: int = 2, clock: Optional[Clock] = None) -> None:
        assert threads >= 1, threads
        self._threads = threads
        self._clock = clock or Clock()
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._mailbox: Optional[Mailbox] = None
        self._movers: List[_Mover] = []

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        assert not self._movers, "started twice"
        self._loop = loop
        self._mailbox = Mailbox(loop)
        self._movers = [_Mover(self._mailbox, self._clock, f"mover-{number}")
                        for number in range(self._threads)]

    def stop(self) -> None:
        """On the loop's thread: every job ends with a NetworkError, every thread ends."""
        movers, self._movers = self._movers, []
        for mover in movers:
            mover.stop()
        if movers:
            self.mailbox.close()

    @property
    def mailbox(self) -> Mailbox:
        """By which the loop hears of what movers (and others) did."""
        assert self._mailbox is not None, "not started"
        return self._mailbox

    @property
    def loads(self) -> List[int]:
        """Bodies under way in each mover, those of kept connections not counted."""
        return [mover.load for mover in self._movers]

    def send_file(self, stream: Stream, head: bytes, fd: int, offset: int, count: int,
                  limits: Sequence[Limiter] = (), idle_timeout_s: float = IDLE_S) -> Job:
        """Send `head`, then `count` bytes of the file from `offset`."""
        return self._give(SendFile(stream, head, fd, offset, offset + count),
                          limits, idle_timeout_s)

    def send_pieces(self, stream: Stream, head: bytes, task_file: PiecesHeld, start: int,
                    stop: int, limits: Sequence[Limiter] = (), idle_timeout_s: float = IDLE_S,
                    on_sent: Optional[Callable[[int], None]] = None) -> Job:
        """Send `head`, then the bytes [start, stop) of the task as its pieces come. `on_sent`
        hears on the mover's thread of each count of bytes that went out."""
        return self._give(SendPieces(stream, head, task_file, start, stop, on_sent),
                          limits, idle_timeout_s)

    def receive(self, stream: Stream, body: Body, sink: Sink, limits: Sequence[Limiter] = (),
                idle_timeout_s: float = IDLE_S) -> Job:
        """Receive `body` into `sink`; what came behind the body stays in `stream.buffer`."""
        return self._give(Receive(stream, body, sink), limits, idle_timeout_s)

    def keep(self, transfer: Transfer, mover: Optional[int] = None) -> Job:
        """A connection on which one body follows another stays in a mover: in number `mover`, or
        in the one that keeps the fewest."""
        return self._place(transfer, mover)

    def _give(self, transfer: Transfer, limits: Sequence[Limiter],
              idle_timeout_s: float) -> Job:
        transfer.limits = tuple(limits)
        transfer.idle_timeout_s = idle_timeout_s
        return self._place(transfer, None, is_kept=False)

    def _place(self, transfer: Transfer, number: Optional[int], is_kept: bool = True) -> Job:
        try:
            if not self._movers or self._loop is None:
                raise NetworkError("shutting down")
            if transfer.stream.closed:
                raise NetworkError(f"{transfer.stream.name}: the connection was closed here")
            job = Job(transfer, self._loop, is_kept)
            if number is not None:
                mover = self._movers[number]
            elif is_kept:
                mover = min(self._movers, key=lambda mover: mover.kept)
            else:
                mover = min(self._movers, key=lambda mover: mover.load)
            mover.give(job)
        except BaseException as error:
            transfer.end(error)
            raise
        return job
