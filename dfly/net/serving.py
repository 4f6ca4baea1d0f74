"""A server's connection that stays in its mover while one request for pieces follows another.

The mover's thread takes each head apart from the bytes, asks `quick` for the answer and sends it;
asyncio hears of nothing. What `quick` doesn't answer (any other request, a refusal, no HTTP at
all) ends the transfer with the bytes in the stream's buffer: the server then answers them as it
would have without this file. So nothing is refused here, and nothing here is a second parser.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional, Sequence

from dfly.net.limiter import Limiter
from dfly.net.stream import HEAD_READ, Stream
from dfly.net.transfer import (
    AGAIN,
    DONE,
    IDLE_S,
    READABLE,
    PiecesHeld,
    SendPieces,
    Transfer,
)
from dfly.wire.lines import HEAD_END

QUICK_HEAD_MAX = 4_096   # bytes of a head that is worth the way: those for pieces have 400


@dataclass(frozen=True)
class PiecesBody:
    """The bytes [start, stop) of a task, as its pieces come. `on_sent` hears on a mover's thread
    of each count of bytes sent; `on_end`, on any thread, when the response is over, whether any
    of it was sent or not."""

    task_file: PiecesHeld
    start: int
    stop: int
    on_sent: Optional[Callable[[int], None]] = None
    on_end: Optional[Callable[[], None]] = None


@dataclass(frozen=True)
class QuickAnswer:
    """The whole head of an answer after which the connection stays, and its body."""

    head: bytes
    body: PiecesBody
    limits: Sequence[Limiter]


@dataclass(frozen=True)
class Quick:
    """Who answers at once. `answer` gets one whole head, from its first byte to the empty line,
    on a mover's thread; None: another than this must answer. Only requests that begin with
    `prefix` are worth asking."""

    prefix: bytes
    answer: Callable[[bytes], Optional[QuickAnswer]]


class Serving(Transfer):
    """Answers from the stream's buffer and its socket for as long as `quick` can."""

    def __init__(self, stream: Stream, quick: Quick, head_timeout_s: float,
                 idle_timeout_s: float) -> None:
        super().__init__(stream)
        self.has_ended = False   # the other side did, between two requests
        self._quick = quick
        self._head_timeout_s = head_timeout_s
        self._rest_s = idle_timeout_s
        self._sending: Optional[SendPieces] = None
        self._body: Optional[PiecesBody] = None
        self._moved_before = 0
        self._is_closing = False
        self.renew(head_timeout_s)

    def close_soon(self) -> None:
        """Any thread: end when the answer under way is sent, or now if there's none."""
        self._is_closing = True
        self.wake()

    def waits_for(self) -> str:
        if self._sending is not None:
            return self._sending.waits_for()
        return "no whole request came"

    def end(self, error: Optional[BaseException] = None) -> None:
        self._let_go()

    def step(self, workspace: memoryview, allowed: int) -> int:
        if self._sending is None:
            limits = self.limits
            need = self._next_request(workspace)
            if need is not None:
                return need
            if self.limits is not limits:   # these were not asked whether they allow a turn
                return AGAIN
        sending = self._sending
        assert sending is not None
        need = sending.step(workspace, allowed)
        self.moved = self._moved_before + sending.moved
        if need != DONE:
            self.watching = sending.watching
            return need
        self._let_go()
        if self._is_closing:
            return DONE
        self.renew(self._rest_s)
        return AGAIN if self.stream.buffer else READABLE

    def _let_go(self) -> None:
        if self._sending is not None:
            self._sending.end()
            self._sending = None
        body, self._body = self._body, None
        if body is not None and body.on_end is not None:
            body.on_end()

    def _next_request(self, workspace: memoryview) -> Optional[int]:
        """None when an answer is about to be sent, else what is needed for one."""
        buffer = self.stream.buffer
        stop = buffer.find(HEAD_END) if buffer else -1
        if stop < 0:
            if self._is_closing and not buffer:
                return DONE
            count = self.stream.recv_now(workspace[:HEAD_READ])
            if count < 0:
                return READABLE
            if count == 0:
                self.has_ended = not buffer
                return DONE   # the server reads the end itself, and says what is missing
            if not buffer:
                self.renew(self._head_timeout_s)   # for all of it, however slowly it drips
            buffer += workspace[:count]
            stop = buffer.find(HEAD_END)
        prefix = self._quick.prefix
        if stop < 0:
            is_hopeful = (len(buffer) < QUICK_HEAD_MAX
                          and buffer[:len(prefix)] == prefix[:len(buffer)])
            return READABLE if is_hopeful else DONE
        stop += len(HEAD_END)
        answer = None
        if stop <= QUICK_HEAD_MAX and buffer.startswith(prefix):
            answer = self._quick.answer(bytes(buffer[:stop]))
        if answer is None:
            return DONE
        del buffer[:stop]
        self._begin(answer)
        return None

    def _begin(self, answer: QuickAnswer) -> None:
        body = answer.body
        self._body = body
        self._sending = SendPieces(self.stream, answer.head, body.task_file, body.start,
                                   body.stop, body.on_sent)
        self._sending.wake = self.wake
        self._moved_before = self.moved
        self.limits = answer.limits
        self.renew(IDLE_S)
