"""The driver of a control link: a session over a real socket, and every way in which it ends."""
from __future__ import annotations

import asyncio
import socket
from typing import Callable, List, Optional, Tuple

import pytest

from dfly.clock import Clock
from dfly.errors import DflyError, NetworkError, ProtocolError
from dfly.net import link as module
from dfly.net.link import Backlog, Link
from dfly.net.stream import Stream
from dfly.wire.frame import FrameDecoder, pack_frame
from dfly.wire.messages import (
    Busy,
    Bye,
    Digests,
    Hello,
    Lease,
    Message,
    Ping,
    Stored,
    Welcome,
    decode,
)
from dfly.wire.session import Role, Session
from tests.net.loopback import off_loop, pair, run

CLOCK = Clock()
HELLO = Hello(b"h" * 16, 65003, "host-1")
Handle = Callable[[Link, Message], None]


class Far:
    """The peer's end: a blocking socket, its calls made off the loop."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._frames = FrameDecoder()

    async def say(self, *messages: Message) -> None:
        await off_loop(self.sock.sendall, b"".join(message.encode() for message in messages))

    async def hear(self, count: int) -> List[Message]:
        heard: List[Message] = []
        while len(heard) < count:
            data = await off_loop(self.sock.recv, 1 << 16)
            assert data, f"ended after {heard}"
            heard += [decode(code, body) for code, body in self._frames.feed(data)]
        return heard

    async def end(self) -> None:
        """Read up to the end of the connection."""
        while await off_loop(self.sock.recv, 1 << 16):
            pass


def manager_link(stream: Stream, backlog: Optional[Backlog] = None) -> Link:
    return Link(stream, Session(Role.MANAGER, CLOCK.now()), CLOCK, backlog)


def serve(link: Link, handle: Handle, heartbeat_s: float = 10.0) -> "asyncio.Task[None]":
    """Run a manager's end that welcomes whoever says Hello."""
    def hear(message: Message) -> None:
        if isinstance(message, Hello):
            link.send(Welcome("m", heartbeat_s, 0.0))
        handle(link, message)
    return asyncio.ensure_future(link.run(hear))


async def opened(handle: Handle = lambda link, message: None, heartbeat_s: float = 10.0,
                 backlog: Optional[Backlog] = None) -> Tuple[Link, "asyncio.Task[None]", Far]:
    stream, sock = pair()
    link, far = manager_link(stream, backlog), Far(sock)
    running = serve(link, handle, heartbeat_s)
    await far.say(HELLO)
    assert isinstance((await far.hear(1))[0], Welcome)
    return link, running, far


async def error_of(running: "asyncio.Task[None]") -> Optional[BaseException]:
    await asyncio.wait({running}, timeout=10.0)
    assert running.done()
    return running.exception()


def test_messages_are_handled_whatever_the_cuts_and_answered() -> None:
    def answer(link: Link, message: Message) -> None:
        if isinstance(message, Stored):
            link.send(Lease(message.pieces[0], 1, 0, 0, 1, 1.0))

    async def scenario() -> None:
        _, running, far = await opened(answer)
        data = b"".join(Stored(1, (number,)).encode() for number in range(40))
        for start in range(0, len(data), 7):
            await off_loop(far.sock.sendall, data[start:start + 7])
        leases = await far.hear(40)
        assert [lease.lease for lease in leases if isinstance(lease, Lease)] == list(range(40))
        far.sock.close()
        assert isinstance(await error_of(running), NetworkError)
    run(scenario())


def test_what_came_behind_the_http_head_counts() -> None:
    async def scenario() -> None:
        stream, sock = pair()
        stream.buffer += HELLO.encode()
        heard: List[Message] = []
        running = serve(manager_link(stream), lambda link, message: heard.append(message))
        far = Far(sock)
        assert isinstance((await far.hear(1))[0], Welcome)
        assert heard == [HELLO] and not stream.buffer
        sock.close()
        assert isinstance(await error_of(running), NetworkError)
    run(scenario())


def test_one_turn_of_the_loop_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: List[int] = []
    send_now = Stream.send_now

    def counted(self: Stream, data: memoryview, more: bool = False) -> int:
        writes.append(len(data))
        return send_now(self, data, more)
    monkeypatch.setattr(Stream, "send_now", counted)

    async def scenario() -> None:
        link, running, far = await opened()
        writes.clear()
        for number in range(50):
            link.send(Lease(number, 1, 0, 0, 1, 1.0))
        assert not writes
        await far.hear(50)
        assert len(writes) == 1
        far.sock.close()
        await error_of(running)
    run(scenario())


def test_who_does_not_read_is_cut_off_not_buffered_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_QUEUE_MAX", 1 << 20)
    digests = Digests(1, 0, bytes(32 * 8_192))

    async def scenario() -> None:
        backlog = Backlog(1 << 30, 1 << 10)
        link, running, far = await opened(backlog=backlog)
        sent = 0
        while not running.done() and sent < 200:
            link.send(digests)
            sent += 1
            assert backlog.size <= (1 << 20) + len(digests.encode())
            await asyncio.sleep(0)
        error = await error_of(running)
        assert isinstance(error, NetworkError) and "too slowly" in error.what
        assert backlog.size == 0
        far.sock.close()
    run(scenario())


def test_when_all_read_slowly_the_bound_is_on_all_together() -> None:
    digests = Digests(1, 0, bytes(32 * 8_192))

    async def scenario() -> None:
        backlog = Backlog(2 << 20, 1 << 10)
        links = [await opened(backlog=backlog) for _ in range(4)]
        for _ in range(200):   # the kernel takes some megabytes of each
            for link, _, _ in links:
                link.send(digests)
            await asyncio.sleep(0)
            assert backlog.size <= (2 << 20) + 4 * len(digests.encode())
            if not all(link.is_open for link, _, _ in links):
                break
        else:
            pytest.fail("no link was ended")
        for link, running, far in links:
            link.abort(NetworkError("over"))
            await error_of(running)
            far.sock.close()
        assert backlog.size == 0
    run(scenario())


def test_what_a_slow_reader_left_arrives_when_he_reads() -> None:
    digests = Digests(1, 0, bytes(range(32)) * 8_192)

    async def scenario() -> None:
        link, running, far = await opened()
        for _ in range(20):
            link.send(digests)
            await asyncio.sleep(0)
        assert await far.hear(20) == [digests] * 20
        far.sock.close()
        await error_of(running)
    run(scenario())


def test_bytes_that_are_no_message_are_answered_by_bye() -> None:
    async def scenario() -> None:
        _, running, far = await opened()
        await off_loop(far.sock.sendall, pack_frame(999, b""))
        (bye,) = await far.hear(1)
        assert isinstance(bye, Bye) and "999" in bye.what
        assert isinstance(await error_of(running), ProtocolError)
        far.sock.close()
    run(scenario())


def test_a_mistake_in_the_handler_ends_its_link_alone() -> None:
    def fail(link: Link, message: Message) -> None:
        if isinstance(message, Stored):
            raise RuntimeError("a mistake")

    async def scenario() -> None:
        _, first, far = await opened(fail)
        _, other, far_too = await opened()
        await far.say(Stored(1, (1,)))
        assert isinstance(await error_of(first), RuntimeError)
        await far_too.say(Ping(7))
        assert len(await far_too.hear(1)) == 1
        for sock in (far.sock, far_too.sock):
            sock.close()
        await error_of(other)
    run(scenario())


def test_a_handler_may_abort_its_own_link() -> None:
    async def scenario() -> None:
        _, running, far = await opened(
            lambda link, message: link.abort(NetworkError("enough")) if isinstance(message, Stored)
            else None)
        await far.say(Stored(1, (1,)), Stored(1, (2,)))
        assert str(await error_of(running)) == "enough"
        far.sock.close()
    run(scenario())


def test_a_link_aborted_before_it_runs_says_why() -> None:
    async def scenario() -> None:
        stream, sock = pair()
        link = manager_link(stream)
        link.abort(NetworkError("not wanted"))
        with pytest.raises(NetworkError, match="not wanted"):
            await link.run(lambda message: None)
        assert stream.closed
        sock.close()
    run(scenario())


def test_cancelled_it_closes_the_connection_and_watches_nothing() -> None:
    async def scenario() -> None:
        link, running, far = await opened()
        link.send(Lease(1, 1, 0, 0, 1, 1.0))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(await far.hear(1)) == 1   # what was said before arrives
        await far.end()
        far.sock.close()
        link.send(Lease(2, 1, 0, 0, 1, 1.0))
        link.abort(NetworkError("late"))
    run(scenario())


def test_busy_ends_an_open_link_and_arrives_though_the_peer_is_still_talking() -> None:
    async def scenario() -> None:
        link, running, far = await opened()
        await far.say(*(Stored(1, (number,)) for number in range(1_000)))
        link.send(Busy(2.0, "overload"))
        assert not link.is_open
        await far.say(Stored(1, (1,)))
        assert await far.hear(1) == [Busy(2.0, "overload")]
        far.sock.close()
        assert await error_of(running) is None
    run(scenario())


def test_silence_is_asked_about_and_then_the_link_is_given_up() -> None:
    async def scenario() -> None:
        _, running, far = await opened(heartbeat_s=0.1)
        assert isinstance((await far.hear(1))[0], Ping)
        error = await error_of(running)
        assert isinstance(error, DflyError) and "silent" in error.what
        far.sock.close()
    run(scenario())
