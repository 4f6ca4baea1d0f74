"""Connections whose requests a mover answers: how they wait, end, and are handed back."""
from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from typing import Any, AsyncIterator, List, Optional, Sequence

import pytest

from dfly.errors import NetworkError
from dfly.net.http_server import HttpServer, Request, Response
from dfly.net.limiter import Limiter
from dfly.net.serving import PiecesBody, Quick, QuickAnswer
from tests.net.loopback import (
    PIECE,
    FakeTaskFile,
    moving,
    off_loop,
    read_all,
    read_exactly,
    run,
    until,
)

CONTENT = random.Random(4).randbytes(3 * PIECE)
GET = b"GET /p/%d HTTP/1.1\r\nHost: h\r\n\r\n"   # the piece is all that it says
HEAD = b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\n\r\n" % PIECE


class Site:
    """Answers /p/N quickly, everything else on the loop."""

    def __init__(self, have: Optional[int] = None, limits: Sequence[Limiter] = ()) -> None:
        self.file = FakeTaskFile(CONTENT, have)
        self.limits = limits
        self.ended: List[int] = []
        self.slow: List[str] = []
        self.quick = Quick(b"GET /p/", self._answer)
        self.port = 0
        self.server: Any = None

    def _answer(self, head: bytes) -> Optional[QuickAnswer]:
        if not head.startswith(b"GET /p/") or head[7:8] not in b"012":
            return None
        piece = int(head[7:8])
        return QuickAnswer(HEAD, PiecesBody(self.file, piece * PIECE, (piece + 1) * PIECE, None,
                                            lambda: self.ended.append(piece)), self.limits)

    async def handle(self, request: Request) -> Response:
        self.slow.append(request.path)
        return Response(200, body=request.path.encode())


@contextlib.asynccontextmanager
async def serving(site: Site, **times: float) -> AsyncIterator[socket.socket]:
    """A client's connection to a server of the site."""
    async with moving() as movers:
        site.server = HttpServer(site.handle, movers, quick=site.quick, **times)  # type: ignore
        site.port = await site.server.listen_tcp("127.0.0.1", 0)
        try:
            with socket.create_connection(("127.0.0.1", site.port)) as sock:
                sock.settimeout(20)
                yield sock
        finally:
            await site.server.close(1.0)
            site.file.close()


async def piece_of(sock: socket.socket, piece: int) -> None:
    data = await off_loop(read_exactly, sock, len(HEAD) + PIECE)
    assert data == HEAD + CONTENT[piece * PIECE:(piece + 1) * PIECE]


def test_one_connection_goes_to_and_fro() -> None:
    async def scenario() -> None:
        site = Site()
        async with serving(site) as sock:
            for round_ in range(3):
                await off_loop(sock.sendall, GET % 0 + GET % 2)
                await piece_of(sock, 0)
                await piece_of(sock, 2)
                await off_loop(sock.sendall, GET % 7)
                assert (await off_loop(read_exactly, sock, 200 if round_ > 9 else 1)) == b"H"
                rest = b""
                while not rest.endswith(b"/p/7"):
                    rest += await off_loop(sock.recv, 4096)
            assert site.slow == ["/p/7"] * 3 and site.ended == [0, 2] * 3
    run(scenario())


def test_a_piece_that_is_to_come_is_waited_for_and_the_next_request_with_it() -> None:
    async def scenario() -> None:
        site = Site(have=0b100)
        async with serving(site) as sock:
            await off_loop(sock.sendall, GET % 1 + GET % 2)
            assert await off_loop(site.file.subscribed.wait, 10)
            assert site.ended == []
            site.file.mark(1)
            await piece_of(sock, 1)
            await piece_of(sock, 2)
    run(scenario())


@pytest.mark.parametrize("leaves", ["hangs up", "the task fails", "resets"])
def test_whatever_ends_the_waiting_gives_back_the_slot(leaves: str) -> None:
    async def scenario() -> None:
        site = Site(have=0)
        async with serving(site) as sock:
            await off_loop(sock.sendall, GET % 1)
            assert await off_loop(site.file.subscribed.wait, 10)
            if leaves == "the task fails":
                site.file.fail(NetworkError("gone"))
                assert await off_loop(read_all, sock) in (b"", HEAD)   # the head may be out
            elif leaves == "hangs up":
                sock.close()
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.close()
            await until(lambda: bool(site.ended))
            assert site.ended == [1] and not site.file.watchers
            await until(lambda: not site.server.connections)
    run(scenario())


@pytest.mark.parametrize("sent", [GET % 0, GET % 0 + b"GET /p/", b"GET /p/"])
def test_silence_ends_the_connection(sent: bytes) -> None:
    async def scenario() -> None:
        site = Site()
        async with serving(site, head_timeout_s=0.2, idle_timeout_s=0.2) as sock:
            await off_loop(sock.sendall, sent)
            if sent.startswith(GET % 0):
                await piece_of(sock, 0)
            assert await off_loop(read_all, sock) == b""
            assert site.server.connections == 0 or not site.slow
    run(scenario())


def test_a_head_that_drips_has_one_time_for_all_of_it() -> None:
    async def scenario() -> None:
        site = Site()
        async with serving(site, head_timeout_s=0.3, idle_timeout_s=20) as sock:
            await off_loop(sock.sendall, GET % 0)
            await piece_of(sock, 0)
            began = time.monotonic()
            with contextlib.suppress(OSError):
                for byte in b"GET /p/0 HTTP/1.1\r\nHost: " + b"h" * 400:
                    await off_loop(sock.sendall, bytes([byte]))
                    await asyncio.sleep(0.02)
            assert time.monotonic() - began < 5
    run(scenario())


def test_closing_ends_the_idle_and_lets_the_others_finish() -> None:
    async def scenario() -> None:
        site = Site(have=0b001)
        async with serving(site) as sock:
            await off_loop(sock.sendall, GET % 0)
            await piece_of(sock, 0)
            with socket.create_connection(("127.0.0.1", site.port)) as busy:
                await off_loop(busy.sendall, GET % 1 + GET % 0)
                assert await off_loop(site.file.subscribed.wait, 10)
                closing = asyncio.ensure_future(site.server.close(10.0))
                assert await off_loop(read_all, sock) == b""
                assert not closing.done()
                site.file.mark(1)
                await piece_of(busy, 1)
                rest = await off_loop(read_all, busy)   # answered on the loop, to say so:
                assert b"Connection: close" in rest and rest.endswith(b"/p/0")
                await closing
            assert site.ended == [0, 1]
    run(scenario())


def test_limits_hold_from_the_first_piece_on() -> None:
    async def scenario() -> None:
        site = Site(limits=(Limiter(2e6),))
        async with serving(site) as sock:
            began = time.monotonic()
            await off_loop(sock.sendall, GET % 0 + GET % 1 + GET % 2)
            for piece in range(3):
                await piece_of(sock, piece)
            assert time.monotonic() - began > 0.7 * 3 * PIECE / 2e6
    run(scenario())


def test_strangers_bytes_end_at_the_loop() -> None:
    async def scenario() -> None:
        rng = random.Random(6)
        site = Site()
        async with serving(site) as sock:
            for _ in range(60):
                with socket.create_connection(("127.0.0.1", site.port)) as other:
                    other.settimeout(20)
                    await off_loop(other.sendall, b"GET /p/" + rng.randbytes(rng.randrange(3_000)))
                    other.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(ConnectionError):
                        data = await off_loop(read_all, other)
                        assert data == b"" or data.startswith(b"HTTP/1.1 4"), data[:99]
            await off_loop(sock.sendall, GET % 1)
            await piece_of(sock, 1)
    run(scenario())
