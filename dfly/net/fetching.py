"""A client's connections that stay in their movers while one range after another comes on them.

A Fetch is one range, asked of one address: its request, who judges an answer that isn't the one
hoped for, and the sink for the bytes. A Line is one connection: it sends a request, reads the head
and feeds the body to the sink, all on the mover's thread, and rests there until the next. Lines
choose lines for fetches, on the loop: a rested one, or a new one. What is fetched, and what an
answer means, is its caller's.

The head hoped for ends with lines that are known beforehand (`tail`). What stands before them is
taken as good if it is the same, byte by byte, as before the tail of a head that the strict parser
and the caller took; any other head goes to these two.
"""
from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Callable, Deque, Dict, Optional, Sequence, Set, Tuple

from dfly.errors import NetworkError, ProtocolError
from dfly.net.limiter import Limiter
from dfly.net.mover import Job, Movers
from dfly.net.stream import WANT_READ, Stream, TimedOut, numeric_address
from dfly.net.transfer import (
    AGAIN,
    DONE,
    READABLE,
    WORTHWHILE,
    WRITABLE,
    Sink,
    Transfer,
)
from dfly.units import KIB
from dfly.wire.bodies import LengthBody, body_of
from dfly.wire.http11 import HEAD_MAX, HeadParser, HttpError, ResponseHead, keep_alive
from dfly.wire.lines import HEAD_END

ANSWER_S = 5.0        # to connect, and then for the answer's head
BYTES_S = 15.0        # for the next bytes of the body; the other side may itself wait for them
REST_S = 30.0         # a line that rests for so long is closed
RESTING_MAX = 256     # lines that rest, over all addresses
PER_ADDRESS_MAX = 8   # of them, to one address
HEAD_ROOM = 4 * KIB   # a head comes together with the first bytes of its body
KNOWN_MAX = 64        # beginnings of heads remembered
Address = Tuple[str, int]


class Cancelled(NetworkError):
    """Its own side didn't want it any more."""


class Fetch:
    """One range of one task. `check` raises what follows from a head that isn't the one asked
    for; it is called on a mover's thread, as the sink is. `on_end` is called on the loop when no
    thread uses the sink any more: with None if all came, else with what was wrong."""

    def __init__(self, request: bytes, tail: bytes, size: int, sink: Sink,
                 check: Callable[[ResponseHead], None]) -> None:
        self.request = request
        self.tail = tail
        self.size = size
        self.sink = sink
        self.check = check
        self.limits: Sequence[Limiter] = ()
        self.is_answered = False   # a whole head came
        self.is_cancelled = False
        self.line: Optional[Line] = None
        self.connecting: Optional[asyncio.Task[Stream]] = None   # while it has no line
        self.on_end: Callable[[Optional[BaseException]], None] = _nobody

    def cancel(self) -> None:
        """On the loop. `on_end` follows, with Cancelled if nothing else was quicker."""
        self.is_cancelled = True
        if self.line is not None:
            self.line.job.cancel()
        elif self.connecting is not None:
            self.connecting.cancel()


def _nobody(error: Optional[BaseException]) -> None:
    return


class KnownHeads:
    """Beginnings of heads that were found good. Any thread."""

    def __init__(self) -> None:
        self._known: Set[bytes] = set()

    def __contains__(self, prefix: bytes) -> bool:
        return prefix in self._known

    def add(self, prefix: bytes) -> None:
        if len(self._known) >= KNOWN_MAX:
            self._known = set()
        self._known.add(prefix)


class Line(Transfer):
    """One connection, plain TCP. `Lines.ended` is posted at the end of each fetch, `Lines.gone`
    at the connection's."""

    job: Job

    def __init__(self, stream: Stream, address: Address, lines: Lines) -> None:
        super().__init__(stream)
        self.address = address
        self.mover = 0
        self._lines = lines
        self._lock = threading.Lock()
        self._given: Optional[Fetch] = None   # under the lock: from the loop to the mover
        self._to_send = memoryview(b"")       # likewise: what is left of its request
        self._is_over = False                 # likewise
        self._is_closing = False
        self._fetch: Optional[Fetch] = None   # from here on the mover's own
        self._unsent = memoryview(b"")
        self._head = bytearray()
        self._left: Optional[int] = None      # bytes of the body to come; None = head first
        self._is_used = False                 # a fetch was answered before
        self.renew(ANSWER_S)

    # ------------------------------------------------------------------------ on the loop
    def ask(self, fetch: Fetch) -> bool:
        """Fetch it next. False if the connection has ended meanwhile. On a connection that rests
        the request goes out from here: the mover needn't wake up before there's an answer."""
        with self._lock:
            if self._is_over:
                return False
            assert self._given is None, "one at a time"
            fetch.line = self
            self._given = fetch
            self._to_send = memoryview(fetch.request)
            if self._is_used:
                self._send_now()
        return True

    def _send_now(self) -> None:
        """Under the lock. What doesn't go out at once, for whatever reason, is the mover's."""
        fetch = self._given
        assert fetch is not None
        try:
            self._wake_late(fetch)
            sent = max(0, self.stream.send_now(self._to_send))
        except NetworkError:
            sent = 0   # the mover will meet the same error, and end the line by it
        self._to_send = self._to_send[sent:]
        if self._to_send:
            self.wake()

    def put_away(self, future: asyncio.Future[int]) -> None:
        """The mover has let go. Its fetches were told of any error; of a line that rested nobody
        needs to hear."""
        if not future.cancelled():
            future.exception()
        self.stream.close()

    def look_for(self, fetch: Fetch) -> None:
        """Its answer is due: the mover hasn't seen any of it if it hasn't begun."""
        if self._given is fetch:
            self.wake()

    def close_soon(self) -> None:
        """End it, if it rests."""
        self._is_closing = True
        self.wake()

    # ----------------------------------------------------------------- on the mover's thread
    def waits_for(self) -> str:
        if self._fetch is None:
            return "nothing was asked"
        if self._left is None:
            return "no answer"
        return f"nothing came after {self._fetch.size - self._left} of {self._fetch.size} bytes"

    def end(self, error: Optional[BaseException] = None) -> None:
        with self._lock:
            self._is_over = True
            given, self._given = self._given, None
        fetch = self._fetch or given
        self._fetch = None
        mailbox = self._lines.mailbox
        if fetch is not None:
            mailbox.post(self._lines.ended, self, fetch, self._reason(fetch, error))
        mailbox.post(self._lines.gone, self)

    def _reason(self, fetch: Fetch, error: Optional[BaseException]) -> BaseException:
        name = self.stream.name
        if fetch.is_cancelled:
            return Cancelled(f"{name}: cancelled")
        error = error or NetworkError(f"{name}: the connection was closed here")
        if (self._is_used and not self._head and not fetch.is_answered
                and isinstance(error, NetworkError) and not isinstance(error, TimedOut)):
            return _Died(error.what)
        return error

    def step(self, workspace: memoryview, allowed: int) -> int:
        if self._fetch is None:
            limits = self.limits
            if not self._begin():
                return self._rest()
            if self.limits is not limits:   # these were not asked whether they allow a turn
                return AGAIN
        fetch = self._fetch
        assert fetch is not None
        if self._unsent:
            need = self._send(fetch)
            if need != DONE:
                return need
        left = self._left
        if left is None:
            return self._read_head(fetch, workspace, allowed)
        size = min(left, len(workspace), allowed)
        count = self.stream.recv_now(workspace[:size])
        if count > 0:
            return self._take(fetch, workspace[:count], count == size)
        if count == WANT_READ:
            return self._until_worthwhile(fetch)
        raise NetworkError(f"{self.stream.name}: the connection ended after "
                           f"{fetch.size - left} of {fetch.size} bytes")

    def _begin(self) -> bool:
        with self._lock:
            fetch, self._given = self._given, None
            self._fetch = fetch
            self._unsent = self._to_send
        if fetch is None:
            return False
        self._left = None
        self.limits = fetch.limits
        self.renew(ANSWER_S)
        return True

    def _rest(self) -> int:
        """Nothing is taken out of the socket: the loop may be asking at this moment."""
        if self._is_closing:
            return DONE
        has_ended = self.stream.hung_up_now()
        if has_ended is False and self._given is None:
            raise ProtocolError(f"{self.stream.name}: an answer to nothing")
        return DONE if has_ended else AGAIN if has_ended is False else READABLE

    def _wake_late(self, fetch: Fetch) -> None:
        """Not for the first bytes of the answer, but for those with which a piece may be whole;
        who refuses ends the connection, and that wakes up, too. Of a stranger that isn't expected
        yet: he could keep the line for ANSWER_S by a few bytes."""
        if self._is_used:
            self.stream.low_water(min(fetch.size, WORTHWHILE))

    def _send(self, fetch: Fetch) -> int:
        self._wake_late(fetch)
        while self._unsent:   # on a new line it fails, or waits, as connecting does
            count = self.stream.send_now(self._unsent)
            if count < 0:
                return WRITABLE
            self._unsent = self._unsent[count:]
        self.renew(ANSWER_S)
        return DONE

    def _read_head(self, fetch: Fetch, workspace: memoryview, allowed: int) -> int:
        size = min(fetch.size, len(workspace) - HEAD_ROOM, allowed) + HEAD_ROOM
        count = self.stream.recv_now(workspace[:size])
        if count == WANT_READ:
            return READABLE
        if count <= 0:
            raise NetworkError(f"{self.stream.name}: closed the connection "
                               f"{'inside a head' if self._head else 'without an answer'}")
        start = 0   # of the body within the workspace
        if not self._head and count >= len(fetch.tail):
            start = self._known_head(fetch, bytes(workspace[:min(count, HEAD_ROOM)]))
        if not start:
            seen = len(self._head)
            self._head += workspace[:min(count, HEAD_MAX + 1)]
            stop = self._head.find(HEAD_END, max(0, seen - len(HEAD_END)))
            if stop < 0:
                return self._part_of_head()
            start = stop + len(HEAD_END) - seen
            self._judge(fetch, bytes(self._head[:stop + len(HEAD_END)]))
            self._head.clear()
        fetch.is_answered = True
        self._left = fetch.size
        self.renew(BYTES_S)
        return self._take(fetch, workspace[start:count], count == size)

    def _known_head(self, fetch: Fetch, data: bytes) -> int:
        """Where the body begins in `data`, if the head is as hoped for; else 0."""
        stop = data.find(fetch.tail)
        return stop + len(fetch.tail) if stop > 0 and data[:stop] in self._lines.known else 0

    def _part_of_head(self) -> int:
        """A head that has begun: what isn't HTTP at all is refused at once."""
        try:
            if HeadParser("response").feed(bytes(self._head)) is not None:
                raise HttpError("a head with bare line ends")   # strict where we needn't be lax
        except HttpError as error:
            raise self._named(error) from None
        return READABLE

    def _judge(self, fetch: Fetch, data: bytes) -> None:
        """The strict way: any failure raises."""
        parser = HeadParser("response")
        try:
            head = parser.feed(data)
            if not isinstance(head, ResponseHead) or parser.rest:
                raise HttpError("a head that ends twice")
            fetch.is_answered = True
            fetch.check(head)
            body = body_of(head, "GET")
        except HttpError as error:
            raise self._named(error) from None
        if not isinstance(body, LengthBody) or body.length != fetch.size:
            raise ProtocolError(f"{self.stream.name}: an answer of another size than asked for")
        if not keep_alive(head):
            self._is_closing = True
        elif data.endswith(fetch.tail) and len({name.lower() for name, _ in head.headers}) == len(
                head.headers):   # a length given twice is no good beginning for others
            self._lines.known.add(data[:-len(fetch.tail)])

    def _named(self, error: HttpError) -> HttpError:
        return HttpError(f"{self.stream.name}: {error.what}", error.status, error.hint)

    def _take(self, fetch: Fetch, view: memoryview, is_more: bool) -> int:
        """Bytes of the body; `is_more`: the socket may hold further ones."""
        assert self._left is not None
        if len(view) > self._left:
            raise ProtocolError(f"{self.stream.name}: more bytes than asked for")
        if view:
            fetch.sink.feed(view)
            self.moved += len(view)
            self._left -= len(view)
        if not self._left:
            return self._complete(fetch)
        return AGAIN if is_more else self._until_worthwhile(fetch)

    def _until_worthwhile(self, fetch: Fetch) -> int:
        """As Receive does: wake up where a piece may end, not for every segment."""
        assert self._left is not None
        done = fetch.size - self._left
        self.stream.low_water(min(self._left, WORTHWHILE - done % WORTHWHILE))
        return READABLE

    def _complete(self, fetch: Fetch) -> int:
        fetch.sink.finish()
        self._fetch = None
        self._is_used = True
        self.renew(REST_S)
        self._lines.mailbox.post(self._lines.ended, self, fetch, None)
        return DONE if self._is_closing else READABLE


class _Died(NetworkError):
    """A rested connection ended before any byte of an answer: nothing is known to be wrong."""


class Lines:
    """The lines of one process. Everything on the loop."""

    def __init__(self, movers: Movers) -> None:
        self.known = KnownHeads()
        self.mailbox = movers.mailbox
        self._movers = movers
        self._resting: Dict[Address, Dict[Line, None]] = {}   # the one used last comes last
        self._rested = 0
        self._lines: Set[Line] = set()
        self._busy = [0] * len(movers.loads)                  # fetches under way in each mover
        self._connecting: Set[asyncio.Task[Stream]] = set()
        self._loop = asyncio.get_running_loop()
        self._asked: Deque[Tuple[float, Fetch]] = deque()     # when an answer is due, in order
        self._watch: Optional[asyncio.TimerHandle] = None
        self._is_closed = False

    def fetch(self, address: Address, fetch: Fetch) -> None:
        """Begin; `fetch.on_end` tells how it went."""
        line = self._take_rested(address)
        if line is not None and line.ask(fetch):
            self._busy[line.mover] += 1
            while self._asked and self._asked[0][1].line is None:
                self._asked.popleft()   # over
            self._asked.append((self._loop.time() + ANSWER_S, fetch))
            if self._watch is None:
                self._watch = self._loop.call_later(ANSWER_S, self._look)
        else:
            self._fetch_anew(address, fetch)

    async def close(self) -> None:
        """End all lines; what is under way fails."""
        self._is_closed = True
        if self._watch is not None:
            self._watch.cancel()
        for line in list(self._lines):
            line.job.cancel()
        connecting = list(self._connecting)
        for task in connecting:
            task.cancel()
        if connecting:
            await asyncio.wait(connecting)

    def _look(self) -> None:
        """Lines whose answers are due by now must look for them: their movers don't know how long
        they wait already."""
        self._watch = None
        now = self._loop.time()
        while self._asked and self._asked[0][0] <= now:
            _, fetch = self._asked.popleft()
            if fetch.line is not None:
                fetch.line.look_for(fetch)
        if self._asked:
            self._watch = self._loop.call_at(self._asked[0][0], self._look)

    # ------------------------------------------------------------------------ choosing
    def _take_rested(self, address: Address) -> Optional[Line]:
        """The one used last, but of those in the idlest mover."""
        resting = self._resting.get(address)
        if not resting:
            return None
        line = min(reversed(resting), key=lambda line: self._busy[line.mover])
        self._unrest(line)
        return line

    def _unrest(self, line: Line) -> None:
        resting = self._resting.get(line.address)
        if resting is not None and line in resting:
            del resting[line]
            self._rested -= 1
            if not resting:
                del self._resting[line.address]

    def _fetch_anew(self, address: Address, fetch: Fetch) -> None:
        if numeric_address(*address) is not None:
            try:
                self._open(Stream.connecting(*address), address, fetch)
            except NetworkError as error:   # never before `fetch` has returned
                self.mailbox.post(fetch.on_end, error)
        else:
            task = self._loop.create_task(
                Stream.connect(*address, timeout_s=ANSWER_S))   # it knows how to look up a name
            fetch.connecting = task
            self._connecting.add(task)
            task.add_done_callback(lambda task: self._connected(task, address, fetch))

    def _connected(self, task: asyncio.Task[Stream], address: Address, fetch: Fetch) -> None:
        self._connecting.discard(task)
        fetch.connecting = None
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            fetch.on_end(Cancelled(f"{address[0]}:{address[1]}: cancelled"))
        elif error is not None:
            fetch.on_end(error)
        else:
            self._open(task.result(), address, fetch)

    def _open(self, stream: Stream, address: Address, fetch: Fetch) -> None:
        if fetch.is_cancelled or self._is_closed:
            stream.close()
            self.mailbox.post(fetch.on_end, Cancelled(f"{stream.name}: cancelled"))
            return
        line = Line(stream, address, self)
        loads = [busy + load for busy, load in zip(self._busy, self._movers.loads)]
        line.mover = loads.index(min(loads)) if loads else 0
        self._busy[line.mover] += 1
        asked = line.ask(fetch)
        assert asked
        try:
            line.job = self._movers.keep(line, line.mover)
        except NetworkError:
            stream.close()   # shutting down, as the line has told
            return
        self._lines.add(line)
        line.job.future.add_done_callback(line.put_away)

    # ---------------------------------------------------------------------- what they tell
    def ended(self, line: Line, fetch: Fetch, error: Optional[BaseException]) -> None:
        self._busy[line.mover] -= 1
        fetch.line = None
        if isinstance(error, _Died) and not self._is_closed:
            self._fetch_anew(line.address, fetch)
            return
        if error is None and line in self._lines and not self._is_closed:
            self._rest(line)
        fetch.on_end(error)

    def gone(self, line: Line) -> None:
        self._lines.discard(line)
        self._unrest(line)

    def _rest(self, line: Line) -> None:
        resting = self._resting.setdefault(line.address, {})
        resting[line] = None
        self._rested += 1
        surplus: Optional[Line] = None
        if len(resting) > PER_ADDRESS_MAX:
            surplus = next(iter(resting))
        elif self._rested > RESTING_MAX:
            surplus = next(iter(next(iter(self._resting.values()))))
        if surplus is not None:
            self._unrest(surplus)
            surplus.close_soon()
