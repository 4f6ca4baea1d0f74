"""The real driver of a control link: a Session's rules over a Stream, on asyncio.

It only moves bytes and time: what may be said is wire/session.py, what it means is the service's
`handle`. Messages sent in one turn of the loop leave in one write. A side that reads too slowly
is cut off rather than buffered for: its state is soft, and it may come back.
"""
from __future__ import annotations

import asyncio
from typing import Callable, Optional

from dfly.clock import Clock
from dfly.errors import DflyError, NetworkError, ProtocolError
from dfly.net.stream import Stream
from dfly.wire.messages import Bye, Message
from dfly.wire.session import Session, State

READ_SIZE = 256 * 1024
SEND_QUEUE_MAX = 8 << 20  # bytes unsent: the digests of the largest tasks, several times over
BYE_S = 1.0               # how long a parting word may take


class Link:
    """One control link. `run()` serves it to its end; `send()` may be called meanwhile."""

    def __init__(self, stream: Stream, session: Session, clock: Clock) -> None:
        self.session = session
        self.remote = stream.remote
        self._stream = stream
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._reader: Optional["asyncio.Task[None]"] = None
        self._writer: Optional["asyncio.Task[None]"] = None
        self._timer: Optional[asyncio.TimerHandle] = None
        self._error: Optional[DflyError] = None
        self._unsent = 0

    @property
    def is_open(self) -> bool:
        return self.session.state is State.OPEN and self._error is None

    async def run(self, handle: Callable[[Message], None]) -> None:
        """Read until the link ends. A Bye or Busy ends it quietly (after `handle` saw it);
        everything else raises why: NetworkError, or ProtocolError after a Bye was tried."""
        self._reader = asyncio.current_task()
        self._flush()  # a peer's Hello waits since the session was made
        self._set_timer()
        try:
            while self.session.state is not State.CLOSED:
                data = await self._stream.read_some(READ_SIZE)
                if not data:
                    raise NetworkError(f"{self._name()} closed the link")
                for message in self.session.receive(data, self._clock.now()):
                    handle(message)
                if self._error is not None:   # `handle` has aborted its own link
                    raise self._error
                if self.session.queued:
                    self._flush()
        except ProtocolError as error:
            self._say_bye(error)
            raise
        except asyncio.CancelledError:
            if self._error is None:
                raise  # someone else wants this task to end
            raise self._error from None
        finally:
            self._reader = None
            if self._timer is not None:
                self._timer.cancel()
            if self._writer is not None:
                await self._finish_writing()
            self._stream.close()

    def send(self, message: Message) -> None:
        """Queue a message; on a link that has ended it is dropped (the end is being handled)."""
        if self.session.state is State.CLOSED or self._error is not None:
            return
        self.session.send(message)
        if self.session.queued + self._unsent > SEND_QUEUE_MAX:
            self.abort(NetworkError(f"{self._name()} reads too slowly: "
                                    f"{SEND_QUEUE_MAX >> 20} MiB wait to be sent"))
        else:
            self._flush()

    def abort(self, error: DflyError) -> None:
        """End the link; `run()` raises `error`."""
        if self._error is None:
            self._error = error
            if self._reader is not None and self._reader is not asyncio.current_task():
                self._reader.cancel()

    # ----------------------------------------------------------------------------- inside
    def _name(self) -> str:
        return f"{self.remote[0]}:{self.remote[1]}"

    def _flush(self) -> None:
        if self._writer is None and self.session.queued:
            self._writer = self._loop.create_task(self._write())

    async def _write(self) -> None:
        await asyncio.sleep(0)  # let this turn of the loop finish: its messages share a write
        try:
            while True:
                data = self.session.take()
                if not data:
                    break
                self._unsent = len(data)
                await self._stream.write(data)
                self._unsent = 0
        except DflyError as error:
            self.abort(error)
        finally:
            self._writer = None

    async def _finish_writing(self) -> None:
        """Let a last message (Bye, Busy) leave, but not for long."""
        assert self._writer is not None
        await asyncio.wait({self._writer}, timeout=BYE_S)
        if self._writer is not None:
            self._writer.cancel()

    def _say_bye(self, error: ProtocolError) -> None:
        if self.session.state is not State.CLOSED:
            self.session.send(Bye(error.exit_code, error.what, error.hint))
            self._flush()

    def _set_timer(self) -> None:
        due = self.session.deadline()
        if due is not None:
            delay = max(0.0, due - self._clock.now())
            self._timer = self._loop.call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        try:
            self.session.tick(self._clock.now())
        except DflyError as error:
            self.abort(error)
            return
        self._flush()
        self._set_timer()
