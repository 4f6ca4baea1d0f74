"""What a mover does for one body: the steps of sending a range of a file and of receiving.

A transfer is stepped by the mover's thread whenever its socket is ready. A step never waits, moves
at most what it is allowed and says what it needs next; whose turn it is, limits, timeouts and the
way back to asyncio are mover.py's. The interfaces that the store fills in (what can be sent in
pieces, what takes received bytes) are here, by shape, so that net/ and store/ don't know each
other. Nothing here may touch the event loop.
"""
from __future__ import annotations

import os
from typing import Callable, List, Optional, Protocol, Sequence, Tuple

from dfly.errors import DflyError, FileError, NetworkError, ProtocolError
from dfly.net.limiter import Limiter
from dfly.net.stream import WANT_READ, WANT_WRITE, Stream
from dfly.task import PIECE_SIZE_MIN, Geometry, lowest
from dfly.units import KIB
from dfly.wire.bodies import Body, LengthBody
from dfly.wire.http11 import HttpError

DONE = 0        # the body is through
AGAIN = 1       # the turn was used up, there may be more at once
READABLE = 2    # when the socket is readable
WRITABLE = 3    # when the socket is writable
PARKED = 4      # when `wake` was called, or (if `watching`) the socket is readable
IDLE_S = 30.0   # a transfer that moves nothing for so long has failed
TLS_WRITE = 16 * KIB  # one TLS record; a repeated write must offer as much as the refused one did
WORTHWHILE = PIECE_SIZE_MIN  # bytes of a body to wake up for: pieces end at multiples of it
_NEEDS = {WANT_READ: READABLE, WANT_WRITE: WRITABLE}


class Sink(Protocol):
    """Takes the content that a mover receives."""

    def feed(self, view: memoryview) -> None:
        """The next bytes, on the mover's thread. `view` is valid during the call only. What it
        raises ends the transfer and reaches whoever awaits it."""

    def finish(self) -> None:
        """The body is complete."""


class PiecesHeld(Protocol):
    """As much of a store's TaskFile as sending needs."""

    @property
    def geometry(self) -> Geometry: ...

    @property
    def have(self) -> int: ...

    @property
    def failed(self) -> Optional[DflyError]: ...

    def fileno(self) -> int: ...

    def subscribe(self, watcher: Callable[[int], None]) -> Callable[[], None]: ...


class Transfer:
    """Base: `moved` content bytes so far; `wake` is set by the mover, for any thread to call.
    `limits` and `idle_timeout_s` are those of what it does just now."""

    watching = False  # while parked: look out for the other side hanging up

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.moved = 0
        self.limits: Sequence[Limiter] = ()
        self.idle_timeout_s = IDLE_S
        self.is_renewed = False  # something else begins: the idle timeout counts from now on
        self.wake: Callable[[], None] = _nobody

    def renew(self, timeout_s: float) -> None:
        """Something else begins: what comes next has so much time, from now on."""
        self.idle_timeout_s = timeout_s
        self.is_renewed = True

    def step(self, workspace: memoryview, allowed: int) -> int:
        """Move up to about `allowed` bytes; one of the needs above."""
        raise NotImplementedError

    def waits_for(self) -> str:
        """What didn't come, for the message of a timeout."""
        raise NotImplementedError

    def end(self, error: Optional[BaseException] = None) -> None:
        """Let go of what the transfer holds; called once, whatever its end was."""


def _nobody() -> None:
    return


# ------------------------------------------------------------------------------- sending
class SendFile(Transfer):
    """A head, then the bytes [start, stop) of a file. The descriptor is duplicated: the caller
    may close his while the mover is still inside a system call."""

    def __init__(self, stream: Stream, head: bytes, fd: int, start: int, stop: int) -> None:
        super().__init__(stream)
        assert 0 <= start <= stop, (start, stop)
        self._head = memoryview(head)
        self._position = start
        self._start = start
        self._stop = stop
        self._fd = self._own(fd)

    def _own(self, fd: int) -> int:
        return os.dup(fd)

    def end(self, error: Optional[BaseException] = None) -> None:
        os.close(self._fd)

    def _reach(self) -> int:
        """Offset up to which bytes can be sent now."""
        return self._stop

    def _sent(self, count: int) -> None:
        self._position += count
        self.moved += count

    def waits_for(self) -> str:
        return f"the other side took {self.moved} of {self._stop - self._start} bytes"

    def step(self, workspace: memoryview, allowed: int) -> int:
        reach = self._reach()
        while self._head:
            count = self.stream.send_now(self._head, more=reach > self._position)
            if count < 0:
                return _NEEDS[count]
            self._head = self._head[count:]
        until = min(reach, self._position + allowed)
        need = AGAIN
        if self._position < until:
            need = (self._step_tls(workspace, until, reach) if self.stream.secure
                    else self._step_plain(until))
        if self._position == self._stop:
            return DONE
        return need if self._position < reach else self._short_of_bytes()

    def _short_of_bytes(self) -> int:
        return AGAIN

    def _step_plain(self, until: int) -> int:
        wanted = until - self._position
        count = self.stream.sendfile_now(self._fd, self._position, wanted)
        if count < 0:
            return _NEEDS[count]
        if count == 0:
            raise FileError(f"the file to send ends at byte {self._position}, "
                            f"not at {self._stop}", "it was changed while it was being sent")
        self._sent(count)
        return AGAIN if count == wanted else WRITABLE

    def _step_tls(self, workspace: memoryview, until: int, reach: int) -> int:
        """Read a part, then write it record by record. The size of a record depends on what is
        there, not on what is allowed, so that a refused write is repeated with no less."""
        size = min(max(until - self._position, TLS_WRITE), reach - self._position, len(workspace))
        size = os.preadv(self._fd, [workspace[:size]], self._position)
        if size == 0:
            raise FileError(f"the file to send ends at byte {self._position}, "
                            f"not at {self._stop}", "it was changed while it was being sent")
        sent = 0
        while sent < size and self._position < until:
            count = self.stream.send_now(workspace[sent:min(sent + TLS_WRITE, size)])
            if count < 0:
                return _NEEDS[count]
            sent += count
            self._sent(count)
        return AGAIN


class SendPieces(SendFile):
    """As SendFile, out of a task's file, as its pieces come: it parks before a piece that isn't
    held and goes on when that is marked (cut-through)."""

    def __init__(self, stream: Stream, head: bytes, task_file: PiecesHeld, start: int, stop: int,
                 on_sent: Optional[Callable[[int], None]] = None) -> None:
        self._task_file = task_file  # a reference keeps its descriptor valid: no duplicate
        super().__init__(stream, head, task_file.fileno(), start, stop)
        self.watching = True
        self._on_sent = on_sent
        self._held_until = start                 # all before this offset is held
        self._missing: Optional[int] = None      # the piece that it's parked for
        self._gone = False                       # failed, or left the store
        self._unsubscribe: Optional[Callable[[], None]] = None

    def _own(self, fd: int) -> int:
        return fd

    def end(self, error: Optional[BaseException] = None) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()

    def waits_for(self) -> str:
        if self._missing is not None:
            return f"piece {self._missing} to send didn't come"
        return super().waits_for()

    def _sent(self, count: int) -> None:
        super()._sent(count)
        if self._on_sent is not None:
            self._on_sent(count)

    def _reach(self) -> int:
        failed = self._task_file.failed
        if failed is not None:
            raise NetworkError(f"{self.stream.name}: the task being sent failed: {failed.what}",
                               failed.hint)
        if self._held_until <= self._position < self._stop:
            self._look_for_pieces()
        return self._held_until

    def _look_for_pieces(self) -> None:
        geometry = self._task_file.geometry
        piece_index = self._position // geometry.piece_size
        count = lowest(~(self._task_file.have >> piece_index))
        if count:
            self._held_until = min(self._stop, geometry.stop(piece_index + count - 1))
        if self._held_until < self._stop and self._unsubscribe is None:
            self._unsubscribe = self._task_file.subscribe(self._on_piece)
        if self._held_until > self._position:
            self._missing = None
            return
        if geometry.length is not None and self._position >= geometry.length:
            raise NetworkError(f"{self.stream.name}: the task being sent ends at byte "
                               f"{geometry.length}, not at {self._stop}")
        self._missing = piece_index

    def _short_of_bytes(self) -> int:
        """Park; looked again since subscribed and `_missing` set, so no piece is missed between."""
        if self._reach() > self._position:
            return AGAIN
        if self._gone:
            raise NetworkError(f"{self.stream.name}: the task being sent left the store, "
                               f"piece {self._missing} won't come")
        if self.watching:
            gone = self.stream.hung_up_now()
            if gone:
                raise NetworkError(f"{self.stream.name}: the connection was closed by the other "
                                   f"side while it waited for piece {self._missing}")
            self.watching = gone is None  # it sent something: readable from now on, useless
        return PARKED

    def _on_piece(self, piece_index: int) -> None:
        """Any thread: a piece was marked, or (negative) the task failed or was removed."""
        if piece_index < 0:
            self._gone = True
        if piece_index < 0 or piece_index == self._missing:
            self.wake()


# ----------------------------------------------------------------------------- receiving
def feed_body(body: Body, view: memoryview, name: str) -> Tuple[List[memoryview], int]:
    """`body.feed`, with the other side's name in its complaints."""
    try:
        return body.feed(view)
    except HttpError as error:
        raise HttpError(f"{name}: {error.what}", error.status, error.hint) from None


class Receive(Transfer):
    """One body, out of the stream's buffer first and then its socket, into a sink. Of a body whose
    length is known, up to WORTHWHILE bytes may wait in the kernel until the next boundary, the
    body's end, the connection's end or the idle timeout, whichever is first."""

    def __init__(self, stream: Stream, body: Body, sink: Sink) -> None:
        super().__init__(stream)
        self._body = body
        self._sink = sink

    def waits_for(self) -> str:
        return f"nothing came after {self._progress()}"

    def _progress(self) -> str:
        if isinstance(self._body, LengthBody):
            return f"{self.moved} of {self._body.length} bytes"
        return f"{self.moved} bytes"

    def step(self, workspace: memoryview, allowed: int) -> int:
        buffer = self.stream.buffer
        need = AGAIN
        if buffer and not self._body.done:
            received = bytes(buffer)
            buffer.clear()
            self._take(memoryview(received))
        elif not self._body.done:
            need = self._step_socket(workspace, allowed)
        if not self._body.done:
            return need
        self._sink.finish()
        return DONE

    def _step_socket(self, workspace: memoryview, allowed: int) -> int:
        size = min(len(workspace), allowed)
        left = self._body.remaining
        if left is not None:
            size = min(size, left)
        filled = 0
        count = 0
        while filled < size:  # TLS gives a record at a time; a plain socket all it has, at once
            count = self.stream.recv_now(workspace[filled:size])
            if count <= 0:
                break
            filled += count
            if not self.stream.secure:
                break
        if filled:
            self._take(workspace[:filled])
        if count < 0:
            self._rest_until_worthwhile()
            return _NEEDS[count]
        if count == 0:
            self._end_of_stream()
        if self.stream.secure or filled == size:
            return AGAIN
        self._rest_until_worthwhile()
        return READABLE

    def _rest_until_worthwhile(self) -> None:
        """Wake up at the next boundary where a piece may end, not for every segment: a third less
        CPU, and the kernel opens its window. Whole pieces are as early as without."""
        left = self._body.remaining
        if left:
            self.stream.low_water(min(left, WORTHWHILE - self.moved % WORTHWHILE))

    def end(self, error: Optional[BaseException] = None) -> None:
        self.stream.low_water(1)

    def _take(self, view: memoryview) -> None:
        used = 0
        while used < len(view) and not self._body.done:
            parts, count = feed_body(self._body, view[used:], self.stream.name)
            used += count
            for part in parts:
                self._sink.feed(part)
                self.moved += len(part)
        if used < len(view):
            self.stream.buffer += view[used:]

    def _end_of_stream(self) -> None:
        ended = f"{self.stream.name}: the connection ended after {self._progress()}"
        try:
            self._body.eof()
        except ProtocolError:
            raise NetworkError(ended) from None
        if self.stream.cut:
            raise NetworkError(ended, "TLS was cut off: perhaps not all of it came")
