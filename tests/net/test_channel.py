"""Messages with open files between two processes."""
from __future__ import annotations

import asyncio
import os
import socket
from typing import Any, Awaitable, Callable, List, Tuple

import pytest

from dfly.errors import NetworkError, ProtocolError
from dfly.net.channel import MESSAGE_MAX, ROOM, Channel, Message
from dfly.net.stream import HEAD_READ
from dfly.task import PIECES_MAX, VERSION_MAX, full_set
from dfly.wire.http11 import HEAD_MAX


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 10)
    asyncio.run(bounded())


class End:
    """One end, with what came to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.got: List[Tuple[Message, int]] = []
        self.news = asyncio.Event()
        self.ended = asyncio.Event()
        self.channel = Channel(sock)
        self.channel.start(self._take, self.ended.set)

    def _take(self, message: Message, fd: int) -> None:
        self.got.append((message, fd))
        self.news.set()

    async def until(self, count: int) -> None:
        while len(self.got) < count:
            self.news.clear()
            await self.news.wait()


def ends() -> Tuple[Channel, End]:
    ours, theirs = Channel.pair()
    return ours, End(theirs)


def test_messages_come_in_order_and_whole() -> None:
    async def body() -> None:
        ours, theirs = ends()
        sent: List[Any] = [{"n": number, "text": "x" * (number * 7)} for number in range(100)]
        for message in sent:
            assert ours.send(message)
        await theirs.until(100)
        assert [message for message, _ in theirs.got] == sent
        assert {fd for _, fd in theirs.got} == {-1}
        ours.close()
        await theirs.ended.wait()
        assert theirs.channel.closed
    run(body)


def test_an_open_file_comes_along_and_is_the_same_file(tmp_path: Any) -> None:
    async def body() -> None:
        ours, theirs = ends()
        (tmp_path / "file").write_bytes(b"content")
        fd = os.open(tmp_path / "file", os.O_RDONLY)
        assert ours.send({"with": "file"}, fd)
        os.close(fd)
        await theirs.until(1)
        message, received = theirs.got[0]
        assert message == {"with": "file"} and os.pread(received, 100, 0) == b"content"
        assert not os.get_inheritable(received)
        os.close(received)
        ours.close()
        theirs.channel.close()
    run(body)


def test_a_full_channel_says_so_and_tells_when_there_is_room() -> None:
    async def body() -> None:
        ours, other = Channel.pair()
        sent = 0
        while ours.send({"n": sent, "text": "x" * 10_000}):
            sent += 1
            assert sent < 10 * ROOM // 10_000
        room = asyncio.Event()
        ours.when_writable(room.set)
        ours.when_writable(room.set)   # once is enough
        theirs = End(other)
        await room.wait()
        assert ours.send({"n": sent})
        await theirs.until(sent + 1)
        assert [message["n"] for message, _ in theirs.got] == list(range(sent + 1))
        ours.close()
        theirs.channel.close()
    run(body)


def test_the_other_sides_end_is_told_once_and_sending_is_refused_after_it() -> None:
    async def body() -> None:
        ours, other = Channel.pair()
        calls: List[int] = []
        ours.start(lambda message, fd: None, lambda: calls.append(1))
        other.close()
        assert not ours.send({"n": 1})
        await asyncio.sleep(0)
        assert not ours.send({"n": 2})
        assert calls == [1] and ours.closed
        ours.close()
    run(body)


def test_a_message_too_long_is_refused_before_it_is_sent() -> None:
    async def body() -> None:
        ours, theirs = ends()
        with pytest.raises(ProtocolError):
            ours.send({"text": "x" * MESSAGE_MAX})
        assert ours.send({"text": "y"})
        await theirs.until(1)
        ours.close()
        theirs.channel.close()
    run(body)


@pytest.mark.parametrize("message", [
    {"kind": "task", "task": "ab" * 32, "version": "\x1f" * VERSION_MAX, "token": "cd" * 32,
     "have": f"{full_set(PIECES_MAX):x}"},
    {"kind": "connection", "head": (b"x" * (HEAD_MAX + HEAD_READ)).hex(), "remote": ["::1", 1]},
], ids=["pieces", "head"])
def test_the_longest_that_is_said_comes_whole(message: Message) -> None:
    async def body() -> None:
        ours, theirs = ends()
        ours._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 208 * 1024)   # Linux's bound
        assert ours.send(message)
        await theirs.until(1)
        assert theirs.got == [(message, -1)]
        ours.close()
        theirs.channel.close()
    run(body)


def test_a_system_without_a_pair_to_spare_is_an_error_for_people(
        monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", refuse)
    with pytest.raises(NetworkError, match="Too many open files"):
        Channel.pair()
