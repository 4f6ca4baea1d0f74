"""Fetches over lines: exact bytes or an exact reason, and connections used again and again."""
from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from typing import Any, AsyncIterator, Callable, List, Optional, Tuple

import pytest

from dfly.errors import NetworkError, ProtocolError
from dfly.net import fetching
from dfly.net.fetching import Cancelled, Fetch, Lines
from dfly.net.limiter import Limiter
from dfly.net.stream import TimedOut
from dfly.wire.http11 import ResponseHead
from tests.net.loopback import PIECE, CollectSink, moving, read_exactly, run, until

CONTENT = random.Random(5).randbytes(2 * PIECE + 17)
REQUEST = b"GET /x HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1\r\n\r\n"


class Refused(NetworkError):
    """What `check` makes of any status but 206."""


def check(head: ResponseHead) -> None:
    if head.status != 206:
        raise Refused(f"status {head.status}")


def tail(size: int) -> bytes:
    return b"Content-Range: bytes 0-%d/*\r\nContent-Length: %d\r\n\r\n" % (size - 1, size)


def answer(content: bytes = CONTENT, lines: bytes = b"Date: today\r\n") -> bytes:
    return b"HTTP/1.1 206 Partial Content\r\n" + lines + tail(len(content)) + content


class Parent:
    """A listening socket whose connections are served by `script`, one thread each."""

    def __init__(self, script: Callable[[socket.socket], None]) -> None:
        self.script = script
        self.connections = 0
        self._socks: List[socket.socket] = []
        self._threads: List[threading.Thread] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address: Tuple[str, int] = ("127.0.0.1", self.listener.getsockname()[1])
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.settimeout(20)
            self.connections += 1
            self._socks.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            self.script(sock)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._accepting.join()
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


def saying(*answers: bytes, then: Optional[Callable[[socket.socket], None]] = None
           ) -> Callable[[socket.socket], None]:
    """A script: one answer per request, then the end (or `then`)."""
    def script(sock: socket.socket) -> None:
        for data in answers:
            if read_exactly(sock, len(REQUEST)) != REQUEST:
                return
            sock.sendall(data)
        if then is not None:
            then(sock)
    return script


def for_ever(data: bytes) -> Callable[[socket.socket], None]:
    def script(sock: socket.socket) -> None:
        while read_exactly(sock, len(REQUEST)) == REQUEST:
            sock.sendall(data)
    return script


@contextlib.asynccontextmanager
async def lines_to(script: Callable[[socket.socket], None], threads: int = 1
                   ) -> AsyncIterator[Tuple[Lines, Parent]]:
    async with moving(threads) as movers:
        lines = Lines(movers)
        parent = Parent(script)
        try:
            yield lines, parent
        finally:
            await lines.close()
            parent.close()


class Run:
    """One fetch, begun at once."""

    def __init__(self, lines: Lines, parent: Parent, size: int = len(CONTENT),
                 sink: Any = None, limits: Any = ()) -> None:
        self.sink = sink or CollectSink()
        self.fetch = Fetch(REQUEST, tail(size), size, self.sink, check)
        self.fetch.limits = limits
        self.end: asyncio.Future[Optional[BaseException]] = (
            asyncio.get_running_loop().create_future())
        self.fetch.on_end = self.end.set_result   # a second call raises
        lines.fetch(parent.address, self.fetch)

    async def error(self) -> BaseException:
        error = await self.end
        assert error is not None
        return error

    async def succeed(self) -> None:
        assert await self.end is None
        assert self.sink.content == CONTENT and self.sink.finished == 1


def test_one_connection_serves_one_fetch_after_the_other() -> None:
    async def scenario() -> None:
        async with lines_to(for_ever(answer())) as (lines, parent):
            for _ in range(5):
                await Run(lines, parent).succeed()
            assert parent.connections == 1
            runs = [Run(lines, parent) for _ in range(3)]
            for one in runs:
                await one.succeed()
            assert parent.connections == 3
    run(scenario())


@pytest.mark.parametrize("head", [b"Date: today\r\n", b"", b"Content-Type: a/b\r\nX: y\r\n"])
@pytest.mark.parametrize("size", [1, 100, 4096, 70_000])
def test_answers_in_any_cuts(head: bytes, size: int) -> None:
    async def scenario() -> None:
        data = answer(CONTENT[:PIECE + 5], head)

        def script(sock: socket.socket) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while read_exactly(sock, len(REQUEST)):
                for start in range(0, 1_000, size):
                    sock.sendall(data[start:min(start + size, 1_000)])
                sock.sendall(data[1_000:])
        async with lines_to(script) as (lines, parent):
            for _ in range(3):
                one = Run(lines, parent, PIECE + 5)
                assert await one.end is None and one.sink.content == CONTENT[:PIECE + 5]
    run(scenario())


def test_other_heads_that_mean_the_same_are_taken() -> None:
    async def scenario() -> None:
        other = (b"HTTP/1.1 206 Fine\r\ncontent-length: %d\r\nserver: x\r\n\r\n" % len(CONTENT)
                 + CONTENT)
        async with lines_to(saying(answer(), other, answer())) as (lines, parent):
            for _ in range(3):
                await Run(lines, parent).succeed()
            assert parent.connections == 1
    run(scenario())


@pytest.mark.parametrize("data, kind, words", [
    (b"HTTP/1.1 404 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno", Refused, "404"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Refused, "200"),
    (answer(CONTENT[:-1]), ProtocolError, "another size"),
    (answer(lines=b"Transfer-Encoding: chunked\r\n"), ProtocolError, "both"),
    (answer(lines=b"Content-Length: 7\r\n"), ProtocolError, "differ"),
    (answer()[:-1], NetworkError, "ended after"),
    (b"HTTP/1.1 206 OK\r\n\r\n", ProtocolError, "another size"),
    (b"SSH-2.0-x\r\n", ProtocolError, "not HTTP"),
    (b"HTTP/1.1 206 OK\r\nA" + b"a" * 70_000, ProtocolError, "more than"),
    (b"HTTP/1.1 206 OK\nA: b\n\n", ProtocolError, "bare"),
    (b"HTTP/1.1 206 OK\r\nA", NetworkError, "inside a head"),
    (b"", NetworkError, "without an answer"),
])
@pytest.mark.parametrize("before", [0, 1])
def test_answers_that_are_none(data: bytes, kind: type, words: str, before: int) -> None:
    """On a new line, and after a good answer, whose head is known by then."""
    async def scenario() -> None:
        script = saying(*[answer()] * before, data)
        async with lines_to(script) as (lines, parent):
            for _ in range(before):
                await Run(lines, parent).succeed()
            if before and data == b"":
                return   # that is a line which died: below
            one = Run(lines, parent)
            error = await one.error()
            assert isinstance(error, kind) and words in str(error), error
            assert not one.sink.finished
    run(scenario())


def test_an_answer_to_nothing_is_never_taken_for_the_next() -> None:
    """Whether it is seen with the answer before, while the line rests, or by the next fetch."""
    async def scenario() -> None:
        surplus = answer(CONTENT[::-1])
        async with lines_to(saying(answer() + surplus, answer(), answer())) as (lines, parent):
            seen = 0
            for _ in range(3):
                one = Run(lines, parent)
                error = await one.end
                seen += isinstance(error, ProtocolError)
                assert error is not None or one.sink.content in (CONTENT, CONTENT[::-1])
                await asyncio.sleep(0.02)
            assert seen or parent.connections > 1
    run(scenario())


def test_a_line_that_died_while_it_rested_is_replaced_once() -> None:
    async def scenario() -> None:
        async with lines_to(saying(answer())) as (lines, parent):   # one request a connection
            for number in range(4):
                await Run(lines, parent).succeed()
                assert parent.connections == number + 1
    run(scenario())


def test_nobody_listens() -> None:
    async def scenario() -> None:
        async with lines_to(for_ever(answer())) as (lines, parent):
            with socket.create_server(("127.0.0.1", 0)) as other:
                port = other.getsockname()[1]
            for host in ("127.0.0.1", "localhost", "no-such-host.invalid"):
                parent.address = (host, port)
                one = Run(lines, parent)
                assert not one.end.done()   # never before `fetch` has returned
                assert isinstance(await one.error(), NetworkError)
                assert not one.fetch.is_answered
    run(scenario())


def test_names_are_looked_up() -> None:
    async def scenario() -> None:
        async with lines_to(for_ever(answer())) as (lines, parent):
            parent.address = ("localhost", parent.address[1])
            for _ in range(2):
                await Run(lines, parent).succeed()
            assert parent.connections == 1
    run(scenario())


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("said", [b"", answer()[:40], answer()[:PIECE]])
def test_a_cancelled_fetch_has_let_go_of_its_sink(before: int, said: bytes) -> None:
    async def scenario() -> None:
        asked = threading.Event()

        def hang(sock: socket.socket) -> None:
            read_exactly(sock, len(REQUEST))
            sock.sendall(said)
            asked.set()
            read_exactly(sock, 1)
        async with lines_to(saying(*[answer()] * before, then=hang)) as (lines, parent):
            for _ in range(before):
                await Run(lines, parent).succeed()
            one = Run(lines, parent)
            await asyncio.get_running_loop().run_in_executor(None, asked.wait)
            one.fetch.cancel()
            assert isinstance(await one.error(), Cancelled)
            one.fetch.cancel()   # of no effect any more
            assert not one.sink.finished
    run(scenario())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_cancelled_at_once(host: str) -> None:
    async def scenario() -> None:
        async with lines_to(for_ever(answer())) as (lines, parent):
            parent.address = (host, parent.address[1])
            one = Run(lines, parent)
            one.fetch.cancel()
            assert isinstance(await one.error(), Cancelled)
    run(scenario())


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 206 ", answer()[:1_000]])
def test_silence_times_out(before: int, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "ANSWER_S", 0.1)
    monkeypatch.setattr(fetching, "BYTES_S", 0.1)

    async def scenario() -> None:
        def hang(sock: socket.socket) -> None:
            read_exactly(sock, len(REQUEST))
            sock.sendall(said)
            read_exactly(sock, 1)
        async with lines_to(saying(*[answer()] * before, then=hang)) as (lines, parent):
            for _ in range(before):
                await Run(lines, parent).succeed()
            error = await Run(lines, parent).error()
            assert isinstance(error, TimedOut), error
    run(scenario())


def test_a_refusal_is_heard_at_once_though_its_bytes_are_few() -> None:
    """The line sleeps until a whole piece is there, or the end of the connection."""
    async def scenario() -> None:
        refusal = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        async with lines_to(saying(answer(), refusal)) as (lines, parent):
            await Run(lines, parent).succeed()
            began = asyncio.get_running_loop().time()
            assert isinstance(await Run(lines, parent).error(), Refused)
            assert asyncio.get_running_loop().time() - began < fetching.ANSWER_S / 2
    run(scenario())


def test_a_sink_that_refuses_ends_the_fetch_with_its_words() -> None:
    async def scenario() -> None:
        async with lines_to(for_ever(answer())) as (lines, parent):
            wrong = ProtocolError("these bytes are wrong")
            assert await Run(lines, parent, sink=CollectSink(PIECE, wrong)).error() is wrong
            await Run(lines, parent).succeed()
            assert parent.connections == 2
    run(scenario())


def test_limits_hold_over_fetches_of_one_piece() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with lines_to(for_ever(answer())) as (lines, parent):
            limits = (Limiter(2e6),)
            began = loop.time()
            for _ in range(3):
                await Run(lines, parent, limits=limits).succeed()
            assert loop.time() - began > 0.7 * 3 * len(CONTENT) / 2e6
    run(scenario())


def test_lines_that_rest_are_few_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PER_ADDRESS_MAX", 2)
    monkeypatch.setattr(fetching, "REST_S", 0.2)

    async def scenario() -> None:
        async with lines_to(for_ever(answer()), threads=2) as (lines, parent):
            runs = [Run(lines, parent) for _ in range(6)]
            for one in runs:
                await one.succeed()
            await until(lambda: len(lines._lines) <= 2)
            assert parent.connections == 6
            await until(lambda: not lines._lines)
            assert not lines._resting and not lines._rested
            await Run(lines, parent).succeed()
    run(scenario())


def test_closing_ends_what_is_under_way() -> None:
    async def scenario() -> None:
        def hang(sock: socket.socket) -> None:
            read_exactly(sock, len(REQUEST) + 1)
        async with lines_to(hang) as (lines, parent):
            one = Run(lines, parent)
            await asyncio.sleep(0.05)
            await lines.close()
            assert isinstance(await one.error(), NetworkError)
            late = Run(lines, parent)
            assert isinstance(await late.error(), Cancelled)
    run(scenario())


def test_damage_anywhere_gives_the_bytes_or_an_error() -> None:
    """The quick look at a head must not take what the strict one refuses."""
    async def scenario() -> None:
        rng = random.Random(12)
        good = answer(CONTENT[:300])
        for _ in range(60):
            data = bytearray(good)
            place = rng.randrange(len(good) - 300)
            data[place:place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
            async with lines_to(saying(good, bytes(data))) as (lines, parent):
                first = Run(lines, parent, 300)
                assert await first.end is None
                second = Run(lines, parent, 300)
                error = await second.end
                assert error is not None or second.sink.content == CONTENT[:300], bytes(data[:99])
    run(scenario())
