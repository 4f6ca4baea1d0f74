"""Pieces over HTTP: what the movers answer by themselves is what the loop would have answered.

Two servers of the same tasks, one with the quick way and one without, get the same bytes.
"""
from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import Any, AsyncIterator, Dict, List, Optional, Tuple

import pytest

from dfly.net.http_server import HttpServer, Request, Response
from dfly.net.mover import Movers
from dfly.service.metrics import Metrics
from dfly.service.pieces import KNOWN_MAX, PieceServer, Served, version_tag
from dfly.wire.http11 import HeadParser, ResponseHead
from tests.net.loopback import PIECE, FakeTaskFile, moving, off_loop, read_exactly, run, until

CONTENT = random.Random(3).randbytes(2 * PIECE + 99)
TASK, OTHER = "ab" * 32, "cd" * 32
TOKEN = bytes(range(16))
TAG = version_tag("v1")
Parsed = Tuple[int, List[Tuple[str, str]], bytes]


class VersionedFile(FakeTaskFile):
    version = "v1"


class World:
    """Tasks, and a server of them with and one without the quick way."""

    def __init__(self, movers: Movers, slots_max: int = 8) -> None:
        self.whole = VersionedFile(CONTENT)
        self.part = VersionedFile(CONTENT, have=0b001)
        self.tasks: Dict[str, Served] = {TASK: Served(self.whole, TOKEN, arriving=False),
                                         OTHER: Served(self.part, TOKEN, arriving=False)}
        self.metrics = Metrics()
        self.asked = 0      # requests that came to the loop
        self.pieces = PieceServer(self.tasks.get, self.metrics, (), slots_max)
        self.quick = HttpServer(self._handle, movers, quick=self.pieces.quick)
        self.slow = HttpServer(self._handle, movers)
        self.ports: Tuple[int, int] = (0, 0)

    async def _handle(self, request: Request) -> Response:
        self.asked += 1
        return self.pieces.route(request) or Response(404, body=b"not found\n")

    async def both(self, *parts: bytes) -> Tuple[List[Parsed], List[Parsed]]:
        """What each server says to these bytes and then the end."""
        answers = [off_loop(talk, port, parts) for port in self.ports]
        quick, slow = await asyncio.gather(*answers)
        return parsed(quick), parsed(slow)


@contextlib.asynccontextmanager
async def world(**options: Any) -> AsyncIterator[World]:
    async with moving(2) as movers:
        here = World(movers, **options)
        here.ports = (await here.quick.listen_tcp("127.0.0.1", 0),
                      await here.slow.listen_tcp("127.0.0.1", 0))
        try:
            yield here
        finally:
            await here.quick.close(1.0)
            await here.slow.close(1.0)
            here.whole.close()
            here.part.close()


def talk(port: int, parts: Tuple[bytes, ...]) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(20)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):   # refused before all of it was sent
            for part in parts:
                sock.sendall(part)
            sock.shutdown(socket.SHUT_WR)
        data = bytearray()
        with contextlib.suppress(ConnectionError):
            while True:
                block = sock.recv(1 << 20)
                if not block:
                    break
                data += block
        return bytes(data)


def parsed(data: bytes) -> List[Parsed]:
    """The answers; headers sorted and without Date: the two ways write them in other orders."""
    answers = []
    while data:
        parser = HeadParser("response")
        head = parser.feed(data)
        assert isinstance(head, ResponseHead), data[:200]
        size = int(head.headers.get("Content-Length") or 0)
        headers = sorted((name.lower(), value) for name, value in head.headers
                         if name.lower() != "date")
        assert head.headers.get("Date")
        answers.append((head.status, headers, parser.rest[:size]))
        data = parser.rest[size:]
    return answers


def ask(start: int, last: int, task: str = TASK, token: bytes = TOKEN,
        tag: Optional[str] = TAG) -> bytes:
    match = f"If-Match: {tag}\r\n" if tag is not None else ""
    return (f"GET /v1/tasks/{task} HTTP/1.1\r\nHost: parent:1\r\nUser-Agent: test\r\n"
            f"Dfly-Token: {token.hex()}\r\n{match}Range: bytes={start}-{last}\r\n\r\n").encode()


def test_ranges_are_answered_without_the_loop() -> None:
    async def scenario() -> None:
        async with world() as here:
            spans = [(0, PIECE - 1), (PIECE, 2 * PIECE - 1), (5, 5), (2 * PIECE, len(CONTENT) - 1),
                     (0, len(CONTENT) - 1)]
            quick, slow = await here.both(*(ask(*span) for span in spans))
            assert quick == slow and len(quick) == len(spans)
            assert [body for _, _, body in quick] == [CONTENT[a:b + 1] for a, b in spans]
            assert here.asked == len(spans)   # those to the other server
            sent = here.metrics.value("dfly_sent_bytes_total")
            assert sent == 2 * sum(b + 1 - a for a, b in spans)
    run(scenario())


@pytest.mark.parametrize("request_", [
    ask(0, 9, token=b"x" * 16), ask(0, 9, token=b""), ask(0, 9, task="ef" * 32),
    ask(0, 9, tag='"other"'), ask(0, 9, tag=None), ask(9, 8), ask(len(CONTENT), len(CONTENT) + 5),
    ask(5, len(CONTENT) + 5), ask(0, 10 ** 18), ask(0, 9, task=OTHER),
    ask(PIECE - 5, PIECE + 5, task=OTHER), ask(0, 9).replace(b"GET", b"HEAD"),
    ask(0, 9).replace(b"bytes=0-9", b"bytes=-9"), ask(0, 9).replace(b"bytes=0-9", b"bytes=7-"),
    ask(0, 9).replace(b"Range: bytes=0-9\r\n", b""),
    ask(0, 9).replace(b"Range:", b"Range: bytes=3-4\r\nRange:"),
    ask(0, 9).replace(b"HTTP/1.1", b"HTTP/1.0"), ask(0, 9).replace(TASK.encode(), b"%61" * 64),
    ask(0, 9).replace(b"Host:", b"Connection: close\r\nHost:"),
    ask(0, 9).replace(b"Host:", b"Content-Length: 3\r\nHost:") + b"abc",
    ask(0, 9).replace(b"User-Agent", b"Transfer-Encoding"),
    ask(0, 9).replace(TASK.encode(), TASK.encode() + b"/pieces"),
    ask(0, 9).replace(b"\r\nHost: parent:1", b""), ask(0, 9).replace(b"Host: ", b"Host : "),
    ask(0, 9).replace(TOKEN.hex().encode(), TOKEN.hex().upper().encode()),
    ask(0, 9).replace(b"\r\nUser", b"\nUser"), ask(0, 9).replace(b" HTTP", b"?a=b HTTP"),
    ask(0, 9).replace(b"bytes=0-9", b"bytes=0-" + b"9" * 30), b"GET /v1/tasks/", b"GET /v1/tasks/x",
    b"GET /v1/tasks/" + b"a" * 5_000, b"GET /v1/tasks/" + b"a" * 70_000 + b"\r\n\r\n",
])
@pytest.mark.parametrize("before", [b"", ask(1, 3)])
def test_the_quick_way_has_no_verdicts_of_its_own(request_: bytes, before: bytes) -> None:
    async def scenario() -> None:
        async with world() as here:
            quick, slow = await here.both(before + request_)
            assert quick == slow
    run(scenario())


def test_no_cut_and_no_damage_makes_a_difference() -> None:
    async def scenario() -> None:
        rng = random.Random(11)
        async with world() as here:
            for number in range(150):
                data = bytearray(ask(rng.randrange(PIECE), rng.randrange(2 * PIECE)) * 2)
                for _ in range(rng.randrange(3)):
                    place = rng.randrange(len(data))
                    data[place:place + rng.randrange(2)] = rng.choice(
                        [b"", b"\r", b"\n", b" ", b"0", b":", b"\r\n", rng.randbytes(1)])
                cuts = sorted(rng.sample(range(1, len(data)), rng.randrange(4)))
                parts = [bytes(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)])]
                quick, slow = await here.both(*parts)
                assert quick == slow, (number, bytes(data))
    run(scenario())


def test_a_request_byte_by_byte() -> None:
    async def scenario() -> None:
        async with world() as here:
            data = ask(0, 99) + ask(100, 199)
            quick, slow = await here.both(*(data[i:i + 1] for i in range(len(data))))
            assert quick == slow and [status for status, _, _ in quick] == [206, 206]
    run(scenario())


def test_the_state_of_the_task_is_looked_at_each_time() -> None:
    """A head that was taken once is only as good as what it asks for is now."""
    async def scenario() -> None:
        async with world() as here:
            with socket.create_connection(("127.0.0.1", here.ports[0])) as sock:
                async def status() -> int:
                    await off_loop(sock.sendall, ask(0, 0))
                    head = bytearray()
                    while not head.endswith(b"\r\n\r\n"):
                        head += await off_loop(read_exactly, sock, 1)
                    if b" 206 " in head:
                        await off_loop(read_exactly, sock, 1)
                    return int(head.split()[1])
                assert [await status(), await status()] == [206, 206]
                here.tasks[TASK] = Served(here.whole, b"another", arriving=False)
                assert await status() == 404
            assert here.pieces.quick.answer(ask(0, 0)) is None
            here.tasks[TASK] = Served(here.whole, TOKEN, arriving=False)
            answer = here.pieces.quick.answer(ask(0, 0))
            assert answer is not None and answer.body.on_end is not None
            answer.body.on_end()
            here.whole.version = "v2"
            assert here.pieces.quick.answer(ask(0, 0)) is None
    run(scenario())


def test_bodies_are_counted_whoever_sends_them() -> None:
    async def scenario() -> None:
        async with world(slots_max=1) as here:
            here.tasks[OTHER] = Served(here.part, TOKEN, arriving=True)
            with socket.create_connection(("127.0.0.1", here.ports[0])) as first:
                await off_loop(first.sendall, ask(PIECE, 2 * PIECE - 1, task=OTHER))
                assert await off_loop(here.part.subscribed.wait, 10)   # it waits for its piece
                quick, slow = await here.both(ask(0, 9))
                assert quick == slow and quick[0][0] == 503
                here.part.mark(1)
                data = await off_loop(read_exactly, first, PIECE)
                assert b" 206 " in data
            await until(lambda: not here.pieces._active)
            answers = parsed(await off_loop(talk, here.ports[0], (ask(0, 9),)))
            assert answers[0][0] == 206
    run(scenario())


def test_what_is_remembered_of_heads_is_bounded() -> None:
    async def scenario() -> None:
        async with world() as here:
            for number in range(2 * KNOWN_MAX):
                head = ask(0, 9).replace(b"test", b"test%d" % number)
                answer = here.pieces.quick.answer(head)
                assert answer is not None and answer.body.on_end is not None
                answer.body.on_end()
            assert len(here.pieces._known) <= KNOWN_MAX
            for number in range(KNOWN_MAX):   # a stranger's heads aren't remembered at all
                here.pieces.quick.answer(ask(0, 9, token=b"%16d" % number))
            assert all(b"Dfly-Token: " + TOKEN.hex().encode() in known
                       for known in here.pieces._known)
    run(scenario())
