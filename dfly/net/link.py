"""The real driver of a control link: a Session's rules over a Stream, on asyncio.

It only moves bytes and time: what may be said is wire/session.py, what it means is the service's
`handle`. A manager has thousands of these, so a link costs no task, future or registration per
message: its socket is watched from its first to its last byte, what comes is read and handled in
that callback, and messages sent in one turn of the loop leave in one write. A side that reads too
slowly is cut off rather than buffered for: its state is soft, and it may come back.
"""
from __future__ import annotations

import asyncio
from typing import Callable, Optional

from dfly.clock import Clock
from dfly.errors import DflyError, NetworkError, ProtocolError
from dfly.net.stream import Stream
from dfly.wire.messages import Bye, Message
from dfly.wire.session import Session, State

READ_SIZE = 64 * 1024     # of one read: then others on the loop get their turn
SEND_QUEUE_MAX = 8 << 20  # bytes unsent: the digests of the largest tasks, several times over
BYE_S = 1.0               # how long a parting word may take
_NOTHING = memoryview(b"")


class Backlog:
    """Bytes unsent on many links together: over `most`, a link may leave only `fair` of its own."""

    __slots__ = ("_fair", "_most", "size")

    def __init__(self, most: int, fair: int) -> None:
        self.size = 0
        self._most = most
        self._fair = fair

    @property
    def full(self) -> bool:
        return self.size > self._most

    def allows(self, own: int) -> bool:
        """May a link leave so many bytes unsent?"""
        return own <= SEND_QUEUE_MAX and (self.size <= self._most or own <= self._fair)


class Link:
    """One control link. `run()` serves it to its end; `send()` may be called meanwhile.

    `backlog` is shared with other links, which then are bounded together, too."""

    def __init__(self, stream: Stream, session: Session, clock: Clock,
                 backlog: Optional[Backlog] = None) -> None:
        self.session = session
        self._backlog = backlog or Backlog(SEND_QUEUE_MAX, SEND_QUEUE_MAX)
        self._counted = 0          # of the backlog: this link's
        self.remote = stream.remote
        self._stream = stream
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._handle: Callable[[Message], None] = _ignore
        self._ended: "asyncio.Future[None]" = self._loop.create_future()
        self._drained: "Optional[asyncio.Future[None]]" = None
        self._descriptor = -1      # watched by the loop; -1 = not, or no more
        self._reading = False
        self._writing = False
        self._flush_due = False
        self._rest = _NOTHING      # taken from the session, not yet sent
        self._timer: Optional[asyncio.TimerHandle] = None
        self._error: Optional[DflyError] = None

    @property
    def is_open(self) -> bool:
        return self.session.state is State.OPEN and self._error is None

    async def run(self, handle: Callable[[Message], None]) -> None:
        """Read until the link ends. A Bye or Busy ends it quietly (after `handle` saw it);
        everything else raises why: NetworkError, or ProtocolError after a Bye was tried."""
        if self._error is not None:
            self._stream.close()
            raise self._error
        self._handle = handle
        assert not self._stream.secure, "TLS may want to write in order to read"
        self._descriptor = self._stream.sock.fileno()
        try:
            if self._descriptor < 0:
                raise NetworkError(f"{self._name()}: the connection was closed here")
            early = bytes(self._stream.buffer)   # came behind the HTTP head
            self._stream.buffer.clear()
            self._watch(reading=True, writing=False)
            self._set_timer()
            self._flush()  # a peer's Hello waits since the session was made
            if early:
                self._take_in(early)
            await self._ended
            await self._close(linger=True)
        except ProtocolError as error:
            self._say_bye(error)
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            await self._close()

    def send(self, message: Message) -> None:
        """Queue a message; on a link that has ended it is dropped (the end is being handled)."""
        session = self.session
        if session.is_closed or self._error is not None:
            return
        session.send(message)
        if session.is_closed:   # that was the last word
            self._end(None)
        unsent = session.queued + len(self._rest)
        if self._writing:
            self._count(unsent)
        if not self._backlog.allows(unsent):
            self.abort(NetworkError(f"{self._name()} reads too slowly: "
                                    f"{unsent >> 10} KiB wait to be sent"))
        elif not self._flush_due and not self._writing:
            self._flush_due = True   # at the end of this turn of the loop
            self._loop.call_soon(self._flush)

    def abort(self, error: DflyError) -> None:
        """End the link; `run()` raises `error`."""
        if self._error is None:
            self._error = error
            self._end(error)

    # --------------------------------------------------------------------------- reading
    def _on_readable(self) -> None:
        try:
            data = self._stream.read_now(READ_SIZE)
        except DflyError as error:
            self._end(error)
            return
        if isinstance(data, bytes):
            if data:
                self._take_in(data)
            else:
                self._end(NetworkError(f"{self._name()} closed the link"))

    def _take_in(self, data: bytes) -> None:
        """Handle the messages that `data` completes; whatever fails ends the link."""
        session, handle = self.session, self._handle
        was_open = session.state is State.OPEN
        self._flush_due = True   # below
        try:
            for message in session.receive(data, self._clock.now()):
                handle(message)
        except Exception as error:   # a mistake of the handler's ends this link, not the loop
            self._end(error)
            return
        if session.state is State.CLOSED:
            self._end(None)
        elif not was_open and session.state is State.OPEN:
            self._set_timer()   # from now on silence counts
        self._flush()

    def _end(self, error: Optional[Exception]) -> None:
        """`run()` goes on, and raises `error`; only the first end counts."""
        self._watch(reading=False, writing=self._writing)
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
            self._ended.exception()   # looked at: `run` may be over, or never begin

    # --------------------------------------------------------------------------- writing
    def _flush(self) -> None:
        """Send what waits, as far as the socket takes it now."""
        self._flush_due = False
        if self._descriptor < 0 or self._writing:
            return
        try:
            self._send_rest()
        except DflyError as error:
            self._rest = _NOTHING
            self.abort(error)
        self._count(self.session.queued + len(self._rest))
        if self._drained is not None and not self._writing and not self._drained.done():
            self._drained.set_result(None)

    def _count(self, unsent: int) -> None:
        self._backlog.size += unsent - self._counted
        self._counted = unsent

    def _send_rest(self) -> None:
        while self._rest or self.session.queued:
            if not self._rest:
                self._rest = memoryview(self.session.take())
            sent = self._stream.send_now(self._rest)
            if sent < 0:
                self._watch(reading=self._reading, writing=True)
                return
            self._rest = self._rest[sent:]

    def _on_writable(self) -> None:
        self._watch(reading=self._reading, writing=False)
        self._flush()

    def _watch(self, *, reading: bool, writing: bool) -> None:
        """Have the loop tell when the socket can be read, and written."""
        descriptor, loop = self._descriptor, self._loop
        if descriptor < 0:
            return
        if reading != self._reading:
            self._reading = reading
            if reading:
                loop.add_reader(descriptor, self._on_readable)
            else:
                loop.remove_reader(descriptor)
        if writing != self._writing:
            self._writing = writing
            if writing:
                loop.add_writer(descriptor, self._on_writable)
            else:
                loop.remove_writer(descriptor)

    async def _close(self, linger: bool = False) -> None:
        """Let a last message (Bye, Busy) leave, but not for long; then the connection ends.
        `linger`: so that it arrives though the other side may still be sending."""
        if self._descriptor < 0:
            return
        try:
            self._watch(reading=False, writing=self._writing)
            self._flush()
            if self._writing and self.session.is_closed:
                self._drained = self._loop.create_future()
                await asyncio.wait({self._drained}, timeout=BYE_S)
            self._watch(reading=False, writing=False)
            if linger:
                await self._stream.finish()
        finally:
            self._watch(reading=False, writing=False)
            self._descriptor = -1
            self._count(0)
            self._stream.close()

    # ----------------------------------------------------------------------------- inside
    def _name(self) -> str:
        return f"{self.remote[0]}:{self.remote[1]}"

    def _say_bye(self, error: ProtocolError) -> None:
        if self.session.state is not State.CLOSED:
            self.session.send(Bye(error.exit_code, error.what, error.hint))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
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


def _ignore(message: Message) -> None:
    """Until `run()` says who handles them."""
