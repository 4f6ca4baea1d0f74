"""Streams: connecting, heads against time, half-closed ends, and what happens at a close."""
from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from dfly.errors import NetworkError
from dfly.net.stream import Stream, TimedOut
from dfly.wire.http11 import HeadParser, HttpError, ResponseHead
from tests.net.loopback import listening, off_loop, pair, read_all, read_exactly, run

REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"


def free_port() -> int:
    with listening() as listener:
        return int(listener.getsockname()[1])


def test_a_connection_reads_and_writes() -> None:
    async def scenario() -> None:
        with listening() as listener:
            stream = await Stream.connect("localhost", listener.getsockname()[1])
            far, _ = listener.accept()
        assert stream.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert stream.remote[0] == "127.0.0.1"
        await stream.write(b"hello")
        assert far.recv(10) == b"hello"
        far.sendall(b"abcdef")
        assert await stream.read_some(4) == b"abcd"
        far.close()
        assert await stream.read_some() == b"ef" and await stream.read_some() == b""
        stream.close()
        stream.close()
    run(scenario())


def test_a_large_write_waits_for_its_reader() -> None:
    async def scenario() -> None:
        stream, far = pair()
        data = random.Random(2).randbytes(20 << 20)
        reader = off_loop(read_exactly, far, len(data))
        await stream.write(data)
        assert await reader == data
        stream.close()
        far.close()
    run(scenario())


def test_refused_and_unknown_say_where_and_what_to_do() -> None:
    async def scenario() -> None:
        port = free_port()
        with pytest.raises(NetworkError) as refused:
            await Stream.connect("127.0.0.1", port)
        assert str(refused.value) == (f"127.0.0.1:{port}: Connection refused: "
                                      "nothing listens there: check address and port")
        with pytest.raises(NetworkError, match=r"\[::1\]:"):
            await Stream.connect("::1", port)
        with pytest.raises(NetworkError, match="not a host name"):
            await Stream.connect("a" * 70, 80)
        with pytest.raises(NetworkError, match="nowhere.invalid:80"):
            await Stream.connect("nowhere.invalid", 80)
    run(scenario())


def test_all_addresses_of_a_name_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        with listening() as listener:
            port = listener.getsockname()[1]

            async def two_addresses(*_: Any, **__: Any) -> Any:
                return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
                        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two_addresses)
            stream = await Stream.connect("files.example", port)
            assert stream.remote == ("127.0.0.1", port)
            stream.close()
    run(scenario())


def test_a_listener_that_never_accepts_times_out() -> None:
    async def scenario() -> None:
        with listening() as listener:
            listener.listen(0)
            fillers = []
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
                fillers.append(filler)
            with pytest.raises(TimedOut, match="no connection in time"):
                await Stream.connect("127.0.0.1", listener.getsockname()[1], timeout_s=0.05)
            for filler in fillers:
                filler.close()
    run(scenario())


def test_unix_sockets(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "s")
        with pytest.raises(NetworkError, match="No such file"):
            await Stream.connect_unix(path)
        with pytest.raises(NetworkError, match="too long"):
            await Stream.connect_unix(path + "x" * 120)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            stream = await Stream.connect_unix(path)
            far, _ = listener.accept()
            await stream.write(b"x")
            assert far.recv(1) == b"x" and stream.remote == ("unix", 0)
            far.close()
            stream.close()
    run(scenario())


# --------------------------------------------------------------------------------- heads
def test_a_head_is_read_and_what_follows_stays_in_the_buffer() -> None:
    async def scenario() -> None:
        stream, far = pair()
        far.sendall(REPLY)
        head = await stream.read_head(HeadParser("response"), 5)
        assert isinstance(head, ResponseHead) and head.status == 200
        while len(stream.buffer) < 3:
            await asyncio.wait_for(stream.fill(), 5)
        assert bytes(stream.buffer) == b"abc"
        stream.buffer[:] = REPLY + REPLY  # pipelined: two heads without a read between
        assert await stream.read_head(HeadParser("response"), 5) is not None
        del stream.buffer[:3]
        assert await stream.read_head(HeadParser("response"), 5) is not None
        far.close()
        stream.buffer.clear()
        assert await stream.read_head(HeadParser("response"), 5) is None
        stream.close()
    run(scenario())


def test_a_head_cut_off_is_no_clean_end() -> None:
    async def scenario() -> None:
        stream, far = pair()
        far.sendall(REPLY[:20])
        far.close()
        with pytest.raises(NetworkError, match="inside a head"):
            await stream.read_head(HeadParser("response"), 5)
        stream.close()
    run(scenario())


def test_a_head_that_drips_is_cut_by_the_time_of_all_of_it() -> None:
    async def scenario() -> None:
        stream, far = pair()
        stop = threading.Event()

        def drip() -> None:
            for byte in REPLY * 50:
                if stop.wait(0.01):
                    return
                far.send(bytes([byte]))
        dripping = off_loop(drip)
        parser = HeadParser("response")
        head_max = REPLY.index(b"\r\n\r\n")
        with pytest.raises(TimedOut):
            await stream.read_head(parser, 0.1)
        assert head_max > 10 and parser.started
        stop.set()
        await dripping
        stream.close()
        far.close()
    run(scenario())


def test_garbage_in_place_of_a_head_is_refused_at_once() -> None:
    async def scenario() -> None:
        stream, far = pair()
        far.sendall(b"SSH-2.0-x\r\n")
        with pytest.raises(HttpError):
            await stream.read_head(HeadParser("response"), 5)
        stream.close()
        far.close()
    run(scenario())


# -------------------------------------------------------------------------------- ending
def test_closing_wakes_who_reads_and_who_writes() -> None:
    async def scenario() -> None:
        stream, far = pair()
        reader = asyncio.ensure_future(stream.read_some())
        writer = asyncio.ensure_future(stream.write(b"x" * (32 << 20)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        stream.close()
        for task in (reader, writer):
            with pytest.raises(NetworkError, match="closed here"):
                await task
        with pytest.raises(NetworkError):
            await stream.read_some()
        far.close()
    run(scenario())


def test_a_number_used_again_isn_t_touched_by_an_old_waiter() -> None:
    """The descriptor of a closed stream is another stream's before the old waiter has run."""
    async def scenario() -> None:
        old, old_far = pair()
        waiter = asyncio.ensure_future(old.read_some())
        await asyncio.sleep(0)
        number = old.sock.fileno()
        new, new_far = pair()
        old.close()
        young = Stream(socket.socket(fileno=os.dup2(new.sock.fileno(), number)))
        asyncio.get_running_loop().call_soon(new_far.sendall, b"still here")
        assert await young.read_some() == b"still here"  # it waits before the old waiter wakes
        with pytest.raises(NetworkError):
            await waiter
        for end in (new, young, new_far, old_far):
            end.close()
    run(scenario())


def test_a_cancelled_read_loses_no_byte() -> None:
    async def scenario() -> None:
        stream, far = pair()
        data = random.Random(3).randbytes(3_000_000)
        sender = off_loop(far.sendall, data)
        got = bytearray()
        rng = random.Random(4)
        while len(got) < len(data):
            task = asyncio.ensure_future(stream.read_some(rng.randrange(1, 5000)))
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            task.cancel()
            try:
                got += await task
            except asyncio.CancelledError:
                continue
        await sender
        assert bytes(got) == data
        stream.close()
        far.close()
    run(scenario())


def test_finish_lets_the_last_answer_arrive_though_unread_bytes_wait() -> None:
    async def scenario() -> None:
        stream, far = pair()
        far.sendall(b"a request nobody will read" * 1000)
        await stream.write(b"413 too long")
        closing = asyncio.ensure_future(stream.finish())
        assert await off_loop(read_all, far) == b"413 too long"
        far.close()
        await closing
        assert stream.closed
    run(scenario())


def test_a_half_closed_client_still_gets_its_answer() -> None:
    async def scenario() -> None:
        stream, far = pair()
        far.sendall(b"question")
        far.shutdown(socket.SHUT_WR)
        assert await stream.read_some() == b"question" and await stream.read_some() == b""
        await stream.write(b"answer")
        assert far.recv(10) == b"answer"
        stream.close()
        far.close()
    run(scenario())


def test_hanging_up_is_noticed_and_what_came_before_is_kept() -> None:
    async def scenario() -> None:
        stream, far = pair()
        assert stream.hung_up_now() is None
        watch = asyncio.ensure_future(stream.wait_hung_up())
        far.sendall(b"pipelined")
        await off_loop(far.close)
        await asyncio.wait_for(watch, 5)
        assert bytes(stream.buffer) == b"pipelined"
        stream.close()
    run(scenario())


def test_writing_to_one_who_left_is_a_network_error() -> None:
    async def scenario() -> None:
        stream, far = pair()
        far.close()
        with pytest.raises(NetworkError):
            for _ in range(100):
                await stream.write(b"x" * 100_000)
        stream.close()
    run(scenario())


def test_one_who_reads_nothing_times_a_write_out() -> None:
    async def scenario() -> None:
        stream, far = pair()
        with pytest.raises(TimedOut):
            await stream.write(b"x" * (64 << 20), 0.05)
        stream.close()
        far.close()
    run(scenario())


def test_a_fast_sender_doesn_t_have_the_loop_for_itself() -> None:
    async def scenario() -> None:
        stream, far = pair()
        far.sendall(b"x" * 500_000)
        others = []

        async def other() -> None:
            while True:
                others.append(1)
                await asyncio.sleep(0)
        task = asyncio.ensure_future(other())
        got = 0
        while got < 500_000:
            got += len(await stream.read_some(1000))
        assert len(others) > 10
        task.cancel()
        await asyncio.wait({task})
        stream.close()
        far.close()
    run(scenario())
