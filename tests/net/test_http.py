"""Server and client together, and each against raw bytes: what HTTP allows, what mischief does."""
from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any, AsyncIterator, Awaitable, Callable, List, Tuple, Union

import pytest

from dfly.errors import DigestMismatch, NetworkError, ProtocolError, ServerError, UsageError
from dfly.net.http_client import HttpClient
from dfly.net.http_server import (
    AddressInUse,
    FileBody,
    HttpServer,
    PiecesBody,
    Request,
    Response,
    Upgrade,
    error_response,
    json_response,
)
from dfly.net.route import Route
from dfly.net.stream import Stream, TimedOut
from dfly.wire.ranges import format_content_range, parse_range
from tests.net.loopback import (
    PIECE,
    CollectSink,
    FakeTaskFile,
    listening,
    moving,
    off_loop,
    read_all,
    read_exactly,
    run,
    until,
)

CONTENT = random.Random(8).randbytes(3 * PIECE + 777)
Answer = Union[Response, Upgrade]


class Site:
    """A handler for tests: paths to answers, and what came in."""

    def __init__(self) -> None:
        self.requests: List[Request] = []
        self.ended = 0
        self.closed = asyncio.Event()
        self.task_file = FakeTaskFile(CONTENT)
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        self.file.write(CONTENT)
        self.file.flush()

    async def handle(self, request: Request) -> Answer:
        self.requests.append(request)
        answer: Callable[[Request], Awaitable[Answer]] = getattr(self, "on_" + request.path[1:])
        return await answer(request)

    def close(self) -> None:
        self.file.close()
        self.task_file.close()

    def end(self) -> None:
        self.ended += 1

    async def on_file(self, request: Request) -> Answer:
        wanted = request.headers.get("Range")
        span = parse_range(wanted, len(CONTENT)) if wanted else None
        start, stop = span or (0, len(CONTENT))
        headers = [("Content-Range", format_content_range(start, stop, len(CONTENT)))]
        return Response(206 if span else 200, headers if span else (),
                        FileBody(self.file.fileno(), start, stop - start, self.end))

    async def on_pieces(self, request: Request) -> Answer:
        return Response(200, (), PiecesBody(self.task_file, 0, len(CONTENT), None, self.end))

    async def on_echo(self, request: Request) -> Answer:
        return Response(200, (), await request.read_body(100_000))

    async def on_query(self, request: Request) -> Answer:
        return json_response([request.method, request.query])

    async def on_ignore(self, request: Request) -> Answer:
        return Response(200, (), b"didn't read it")

    async def on_parts(self, request: Request) -> Answer:
        async def parts() -> AsyncIterator[bytes]:
            for number in range(100):
                yield b"%d," % number
            yield b""
        return Response(200, (), parts())

    async def on_forever(self, request: Request) -> Answer:
        async def parts() -> AsyncIterator[bytes]:
            try:
                yield b"begun"
                await asyncio.get_running_loop().create_future()
            finally:
                self.closed.set()
        return Response(200, (), parts())

    async def on_breaks(self, request: Request) -> Answer:
        async def parts() -> AsyncIterator[bytes]:
            yield b"begun"
            raise RuntimeError("a bug in a handler's iterator")
        return Response(200, (), parts())

    async def on_bug(self, request: Request) -> Answer:
        raise RuntimeError("a bug in a handler")

    async def on_known(self, request: Request) -> Answer:
        raise ServerError("the source failed", "try later", 502)

    async def on_nothing(self, request: Request) -> Answer:
        return Response(204)

    async def on_told(self, request: Request) -> Answer:
        return Response(200, [("Content-Length", "12345")])

    async def on_upgrade(self, request: Request) -> Answer:
        async def talk(stream: Stream) -> None:
            while True:
                data = await stream.read_some()
                if not data:
                    return
                await stream.write(data.upper())
        return Upgrade("shout/1", talk)


class World:
    def __init__(self, site: Site, server: HttpServer, client: HttpClient, port: int) -> None:
        self.site, self.server, self.client, self.port = site, server, client, port

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def get(self, path: str, *headers: Tuple[str, str], method: str = "GET",
                  body: bytes = b"") -> Tuple[int, bytes]:
        response = await self.client.request(method, self.url(path), headers, body)
        return response.status, await response.read(1 << 24)

    async def raw(self, data: bytes, half_close: bool = True) -> bytes:
        """Send bytes, end our side, and read all that comes."""
        def talk() -> bytes:
            with socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock:
                sock.sendall(data)
                if half_close:
                    sock.shutdown(socket.SHUT_WR)
                try:
                    return read_all(sock)
                except ConnectionResetError:
                    return b"reset"
        return await off_loop(talk)


@contextlib.asynccontextmanager
async def world(**limits: Any) -> AsyncIterator[World]:
    async with moving() as movers:
        site = Site()
        server = HttpServer(site.handle, movers, **limits)
        port = await server.listen_tcp("127.0.0.1", 0)
        client = HttpClient(movers)
        try:
            yield World(site, server, client, port)
        finally:
            await client.close()
            await server.close(5)
            site.close()


def listed(folder: Path) -> List[str]:
    return sorted(os.listdir(folder))


# ------------------------------------------------------------------------------- the job
def test_requests_follow_each_other_on_one_connection() -> None:
    async def scenario() -> None:
        async with world() as w:
            assert await w.get("/query?a=1&b=%20x&a=2&c=") == (
                200, b'["GET",{"a":"1","b":" x","c":""}]\n')
            assert await w.get("/file") == (200, CONTENT)
            assert await w.get("/pieces") == (200, CONTENT)
            assert await w.get("/parts") == (200, b"".join(b"%d," % n for n in range(100)))
            assert await w.get("/nothing") == (204, b"")
            assert await w.get("/file", method="HEAD") == (200, b"")
            assert await w.get("/parts", method="HEAD") == (200, b"")
            assert await w.get("/file", ("Range", "bytes=5-14")) == (206, CONTENT[5:15])
            assert await w.get("/file", ("Range", "bytes=-7")) == (206, CONTENT[-7:])
            assert (await w.get("/file", ("Range", "bytes=99999999-")))[0] == 416
            assert w.server.connections == 1 and w.site.ended == 5
    run(scenario())


def test_bodies_arrive_by_the_movers() -> None:
    async def scenario() -> None:
        async with world() as w:
            for path in ("/file", "/pieces", "/parts"):
                response = await w.client.request("GET", w.url(path))
                sink = CollectSink()
                size = await response.receive(sink)
                assert size == len(sink.content) and sink.finished == 1
                assert sink.threads == {"mover-0"}
            assert w.server.connections == 1
    run(scenario())


def test_what_the_client_says_about_itself() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.get("/query")
            headers = w.site.requests[-1].headers
            assert headers.get("Host") == f"127.0.0.1:{w.port}"
            assert headers.get("Accept-Encoding") == "identity"
            assert (headers.get("User-Agent") or "").startswith("dfly/")
            await w.get("/query", ("user-agent", "x"), ("Host", "files.example"))
            headers = w.site.requests[-1].headers
            assert headers.all("User-Agent") == ["x"] and headers.all("Host") == ["files.example"]
            await w.get("/query?q=\u00fc")
            assert w.site.requests[-1].query == {"q": "\u00fc"}
    run(scenario())


def test_heads_tell_lengths_dates_and_connections() -> None:
    async def scenario() -> None:
        async with world() as w:
            response = await w.client.request("HEAD", w.url("/file"))
            assert response.headers.get("Content-Length") == str(len(CONTENT))
            assert (response.headers.get("Date") or "").endswith(" GMT")
            response.release()
            response = await w.client.request("HEAD", w.url("/told"))
            assert response.headers.all("Content-Length") == ["12345"]
            response.release()
            old = await w.raw(b"GET /parts HTTP/1.0\r\n\r\n")
            assert b"chunked" not in old and old.endswith(b"98,99,")
            kept = await w.raw(b"GET /nothing HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
            assert kept.count(b"HTTP/1.1 204") == 2 and b"Connection: keep-alive" in kept
    run(scenario())


def test_pipelined_requests_are_answered_in_order() -> None:
    async def scenario() -> None:
        async with world() as w:
            ask = (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none"
                   b"GET /file HTTP/1.1\r\nHost: a\r\nRange: bytes=0-3\r\n\r\n"
                   b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                   b"3\r\ntwo\r\n0\r\n\r\n"
                   b"GET /parts HTTP/1.1\r\nHost: a\r\n\r\n"
                   b"GET /query HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                   b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
            reply = await w.raw(ask, half_close=False)
            places = [reply.find(part) for part in (b"one", CONTENT[:4], b"two", b"0\r\n\r\n",
                                                    b'["GET"')]
            assert -1 not in places and places == sorted(places)
            assert reply.count(b"HTTP/1.1 ") == 5
            assert [request.path for request in w.site.requests][-1] == "/query"
    run(scenario())


def test_a_body_the_handler_left_is_read_past_or_ends_the_connection() -> None:
    async def scenario() -> None:
        async with world() as w:
            post = b"POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
            last = b"GET /query HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            small = await w.raw(post % 1000 + b"x" * 1000 + last)
            assert small.count(b"HTTP/1.1 200") == 2
            large = await w.raw(post % 100_000 + b"x" * 100_000 + last)
            assert large.count(b"HTTP/1.1 200") == 1 and b"Connection: close" in large
            chunked = await w.raw(b"POST /ignore HTTP/1.1\r\nHost: a\r\n"
                                  b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + last)
            assert chunked.count(b"HTTP/1.1 200") == 1
    run(scenario())


def test_continue_is_said_when_the_body_is_wanted() -> None:
    async def scenario() -> None:
        async with world() as w:
            head = (b"POST /%b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n"
                    b"Expect: 100-continue\r\n\r\n")

            def wanted() -> bytes:
                with socket.create_connection(("127.0.0.1", w.port), timeout=20) as sock:
                    sock.sendall(head % (b"echo", 4))
                    assert read_exactly(sock, 25) == b"HTTP/1.1 100 Continue\r\n\r\n"
                    sock.sendall(b"body")
                    sock.shutdown(socket.SHUT_WR)
                    return read_all(sock)
            assert (await off_loop(wanted)).endswith(b"body")
            unwanted = await w.raw(head % (b"ignore", 4), half_close=False)
            assert b"100 Continue" not in unwanted and b"Connection: close" in unwanted
            too_long = await w.raw(head % (b"echo", 999_999), half_close=False)
            assert too_long.startswith(b"HTTP/1.1 413 ") and b"100 Continue" not in too_long
    run(scenario())


def test_a_connection_is_given_away_by_upgrade() -> None:
    async def scenario() -> None:
        async with world() as w:
            response = await w.client.request("GET", w.url("/upgrade"), [
                ("Connection", "Upgrade"), ("Upgrade", "shout/1")])
            assert response.status == 101 and response.headers.get("Upgrade") == "shout/1"
            stream = response.take_stream()
            await stream.write(b"hello")
            assert await stream.read_some() == b"HELLO"
            stream.close()
            early = await w.raw(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
                                b"Upgrade: shout/1\r\n\r\nalready here")
            assert early.endswith(b"\r\n\r\nALREADY HERE")
    run(scenario())


def test_absolute_targets_are_understood() -> None:
    async def scenario() -> None:
        async with world() as w:
            reply = await w.raw(b"GET http://a/query?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")
            assert reply.endswith(b'["GET",{"x":"1"}]\n')
            assert w.site.requests[-1].target == "http://a/query?x=1"
    run(scenario())


# --------------------------------------------------------------------- mischief and bugs
@pytest.mark.parametrize("garbage", [
    b"\x16\x03\x01\x02\x00\x01\x00", b"\x16"])
def test_a_tls_hello_is_closed_at_once_without_a_word(garbage: bytes) -> None:
    async def scenario() -> None:
        async with world() as w:
            assert await w.raw(garbage, half_close=False) in (b"", b"reset")
            assert not w.site.requests
    run(scenario())


@pytest.mark.parametrize("data,status", [
    (b"\x00\x01\x02", 400), (b"SSH-2.0-OpenSSH\r\n", 400), (b"GET /\r\n\r\n", 400),
    (b"GET / HTTP/3.0\r\n\r\n", 505), (b"GET /" + b"a" * 70_000, 414),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000, 431),
    (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 999999\r\n\r\n", 413),
    (b"GET /query?" + b"a=1&" * 200 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400),
])
def test_malformed_requests_are_answered_and_the_connection_ends(data: bytes, status: int) -> None:
    async def scenario() -> None:
        async with world() as w:
            reply = await w.raw(data, half_close=False)
            assert reply.startswith(b"HTTP/1.1 %d " % status), reply[:100]
            assert b"Connection: close" in reply and reply.count(b"HTTP/1.1") == 1
    run(scenario())


def test_random_bytes_never_disturb_the_server() -> None:
    async def scenario() -> None:
        async with world() as w:
            rng = random.Random(12)
            for _ in range(60):
                seed = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" * 2
                data = bytearray(seed if rng.random() < .7 else rng.randbytes(200))
                for _ in range(rng.randrange(1, 6)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                await w.raw(bytes(data))
            assert await w.get("/query") == (200, b'["GET",{}]\n')
    run(scenario())


def test_heads_that_drip_and_connections_that_idle_are_ended() -> None:
    async def scenario() -> None:
        async with world(head_timeout_s=0.05, idle_timeout_s=0.05) as w:
            assert await w.raw(b"GET / HT", half_close=False) in (b"", b"reset")
            assert await w.raw(b"", half_close=False) == b""
            reply = await w.raw(b"GET /query HTTP/1.1\r\nHost: a\r\n\r\n", half_close=False)
            assert reply.startswith(b"HTTP/1.1 200")
    run(scenario())


def test_a_bug_in_a_handler_is_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with world() as w:
            status, body = await w.get("/bug")
            assert status == 500 and b"internal error" in body and b"a bug" not in body
            status, body = await w.get("/known")
            assert status == 500 and b'"error":"the source failed","hint":"try later"' in body
            assert await w.get("/query") == (200, b'["GET",{}]\n')
    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert "a bug in a handler" in caplog.text and "Traceback" in caplog.text


def test_an_answer_that_breaks_off_never_looks_complete(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with world() as w:
            response = await w.client.request("GET", w.url("/breaks"))
            with pytest.raises(NetworkError, match="after 5 bytes"):
                await response.read(100)
            response = await w.client.request("GET", w.url("/breaks"))
            with pytest.raises(NetworkError):
                await response.receive(CollectSink())
    run(scenario())
    assert "a bug in a handler's iterator" in caplog.text


def test_a_stream_of_parts_is_closed_when_the_client_leaves() -> None:
    async def scenario() -> None:
        async with world() as w:
            response = await w.client.request("GET", w.url("/forever"))
            response.release()
            await asyncio.wait_for(w.site.closed.wait(), 5)
    run(scenario())


def test_a_client_that_leaves_ends_the_sending_of_pieces() -> None:
    async def scenario() -> None:
        async with world() as w:
            w.site.task_file.have = 1
            response = await w.client.request("GET", w.url("/pieces"))
            response.release()
            await until(lambda: w.site.ended > 0)
            assert not w.site.task_file.watchers
    run(scenario())


def test_over_the_bound_connections_are_refused_with_503() -> None:
    async def scenario() -> None:
        async with world(connections_max=2) as w:
            held = [await Stream.connect("127.0.0.1", w.port) for _ in range(2)]
            await until(lambda: w.server.connections == 2)
            status, _ = await w.get("/query")
            assert status == 503
            response = await w.client.request("GET", w.url("/query"))
            assert response.headers.get("Retry-After")
            response.release()
            held.pop().close()
            await until(lambda: w.server.connections < 2)
            assert (await w.get("/query"))[0] == 200
            held.pop().close()
    run(scenario())


# ------------------------------------------------------------------- listening, closing
def test_a_port_in_use_is_said() -> None:
    async def scenario() -> None:
        async with world() as w:
            with pytest.raises(AddressInUse, match=f"127.0.0.1:{w.port}.*in use"):
                await w.server.listen_tcp("127.0.0.1", w.port)
            with pytest.raises(NetworkError):
                await w.server.listen_tcp("192.0.2.1", 0)
            assert await w.server.listen_tcp("::1", 0) > 0
    run(scenario())


def test_unix_sockets_are_private_and_stale_ones_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "socket")
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(path)
        stale.close()
        async with world() as w:
            await w.server.listen_unix(path)
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            response = await w.client.request("GET", "http://local/query",
                                              route=Route(unix_path=path))
            assert await response.read(100) == b'["GET",{}]\n'
            other = HttpServer(w.site.handle, w.server.movers)
            with pytest.raises(AddressInUse):
                await other.listen_unix(path)
            (tmp_path / "file").write_text("precious")
            with pytest.raises(NetworkError, match="no socket"):
                await other.listen_unix(str(tmp_path / "file"))
            assert (tmp_path / "file").read_text() == "precious"
            await other.close(0)
            assert listed(tmp_path) == ["file", "socket"]
        assert listed(tmp_path) == ["file"]
    run(scenario())


def test_closing_lets_answers_end_but_not_for_ever() -> None:
    async def scenario() -> None:
        async with world() as w:
            idle = await Stream.connect("127.0.0.1", w.port)
            busy = await w.client.request("GET", w.url("/file"))
            endless = await w.client.request("GET", w.url("/forever"))
            closing = asyncio.ensure_future(w.server.close(0.2))
            assert await busy.read(1 << 24) == CONTENT
            assert await idle.read_some() == b""
            await closing
            assert w.server.connections == 0 and w.site.closed.is_set()
            endless.release()
            idle.close()
    run(scenario())


# ---------------------------------------------------------------- the client's own cases
@contextlib.asynccontextmanager
async def scripted(*answers: bytes) -> AsyncIterator[Tuple[HttpClient, str, List[bytes]]]:
    """A server that gives each connection the next answer and closes it; the requests."""
    heads: List[bytes] = []
    with listening() as listener:
        def serve() -> None:
            for answer in answers:
                sock, _ = listener.accept()
                with sock:
                    data = b""
                    while b"\r\n\r\n" not in data:
                        block = sock.recv(10_000)
                        if not block:
                            break
                        data += block
                    heads.append(data)
                    sock.sendall(answer)
        served = off_loop(serve)
        async with moving() as movers:
            client = HttpClient(movers)
            yield client, f"http://127.0.0.1:{listener.getsockname()[1]}/x", heads
            await client.close()
        await served


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_a_pooled_connection_that_died_is_replaced_silently() -> None:
    async def scenario() -> None:
        async with scripted(OK, OK) as (client, url, heads):
            for _ in range(2):  # the server closes after each answer: the second finds a dead one
                response = await client.request("GET", url)
                assert await response.read(10) == b"ok"
            assert len(heads) == 2
    run(scenario())


def test_a_pooled_connection_that_dies_under_the_request_is_replaced_once() -> None:
    async def scenario() -> None:
        with listening() as listener:
            def serve() -> int:
                count = 0
                for number in range(2):
                    sock, _ = listener.accept()
                    with sock:
                        for _ in range(1 if number else 2):
                            data = b""
                            while b"\r\n\r\n" not in data:
                                data += sock.recv(10_000)
                            count += 1
                            if count != 2:  # the second request is read, and not answered
                                sock.sendall(OK)
                return count
            served = off_loop(serve)
            async with moving() as movers:
                client = HttpClient(movers)
                url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
                for _ in range(2):
                    response = await client.request("GET", url)
                    assert await response.read(10) == b"ok"
                assert await served == 3
                await client.close()
    run(scenario())


def test_a_post_never_goes_out_twice() -> None:
    async def scenario() -> None:
        async with scripted(OK, b"") as (client, url, heads):
            response = await client.request("GET", url)
            await response.read(10)
            with pytest.raises(NetworkError, match="without an answer"):
                await client.request("POST", url, body=b"order")
            assert len(heads) == 2 and b"Content-Length: 5\r\n" in heads[1]
    run(scenario())


@pytest.mark.parametrize("answer,error,words", [
    (b"", NetworkError, "without an answer"),
    (b"HTTP/1.1 200 OK\r\nContent-Le", NetworkError, "inside a head"),
    (b"\x15\x03\x01\x00\x02\x02\x0a", ProtocolError, "not HTTP"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", ProtocolError, "differ"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000, ProtocolError, "more than 65536"),
    (b"HTTP/1.1 100 Continue\r\n\r\n" * 20, ProtocolError, "interim"),
    (b"HTTP/1.1 100 Continue\r\n\r\n", NetworkError, "without an answer"),
])
def test_answers_that_are_none(answer: bytes, error: type, words: str) -> None:
    async def scenario() -> None:
        async with scripted(answer) as (client, url, _):
            with pytest.raises(error, match=words):
                await client.request("GET", url)
    run(scenario())


@pytest.mark.parametrize("answer,error,words", [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", NetworkError, "3 of 10|after 3 bytes"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", NetworkError, "after 3"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n", ProtocolError, "chunk size"),
])
@pytest.mark.parametrize("by_mover", [False, True])
def test_bodies_that_break(answer: bytes, error: type, words: str, by_mover: bool) -> None:
    async def scenario() -> None:
        async with scripted(answer) as (client, url, _):
            response = await client.request("GET", url)
            with pytest.raises(error, match=words):
                await (response.receive(CollectSink()) if by_mover else response.read(100))
            with pytest.raises(NetworkError, match="released"):
                await response.read(1)
    run(scenario())


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + b"x" * 100 + b"\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000,
])
def test_an_answer_longer_than_due_is_not_collected(answer: bytes) -> None:
    async def scenario() -> None:
        async with scripted(answer) as (client, url, _):
            response = await client.request("GET", url)
            with pytest.raises(ProtocolError, match="more than 50 bytes"):
                await response.read(50)
    run(scenario())


def test_surplus_bytes_and_closing_answers_don_t_go_back_to_the_pool() -> None:
    async def scenario() -> None:
        close = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
        until = b"HTTP/1.1 200 OK\r\n\r\nok"
        async with scripted(OK + b"HTTP/1.1 200 OK\r\n", close, until, OK) as (client, url, heads):
            for _ in range(4):
                response = await client.request("GET", url)
                assert await response.read(10) == b"ok"
            assert len(heads) == 4
    run(scenario())


def test_silence_times_out() -> None:
    async def scenario() -> None:
        with listening() as listener:
            async with moving() as movers:
                client = HttpClient(movers)
                url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
                with pytest.raises(TimedOut, match="no answer in 0.05 s"):
                    await client.request("GET", url, timeout_s=0.05)
                await client.close()
    run(scenario())


def test_urls_that_can_t_be_fetched_are_usage_errors() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            client = HttpClient(movers)
            for url in ("ftp://files.example/", "http://", "http://a b/", "nonsense"):
                with pytest.raises(UsageError):
                    await client.request("GET", url)
            with pytest.raises(ProtocolError, match="can't be a header"):
                await client.request("GET", "http://127.0.0.1:1/", [("X", "a\r\nY: b")])
            await client.close()
    run(scenario())


def test_a_cancelled_receive_has_let_go_of_its_sink() -> None:
    async def scenario() -> None:
        async with world() as w:
            w.site.task_file.have = 1
            response = await w.client.request("GET", w.url("/pieces"))
            sink = CollectSink()
            task = asyncio.ensure_future(response.receive(sink))
            await until(lambda: len(sink.content) > 0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            size = len(sink.content)
            w.site.task_file.mark(1)
            assert len(sink.content) == size and not sink.finished
    run(scenario())


def test_a_sink_that_refuses_closes_the_connection() -> None:
    async def scenario() -> None:
        async with world() as w:
            response = await w.client.request("GET", w.url("/file"))
            with pytest.raises(DigestMismatch):
                await response.receive(CollectSink(PIECE, DigestMismatch("piece 0")))
            assert (await w.get("/query"))[0] == 200
    run(scenario())


def test_idle_connections_are_closed_after_their_time() -> None:
    async def scenario() -> None:
        with listening() as listener:
            def serve() -> bytes:
                sock, _ = listener.accept()
                with sock:
                    sock.recv(10_000)
                    sock.sendall(OK)
                    return sock.recv(1)
            served = off_loop(serve)
            async with moving() as movers:
                client = HttpClient(movers, idle_s=0.05)
                response = await client.request(
                    "GET", f"http://127.0.0.1:{listener.getsockname()[1]}/")
                await response.read(10)
                assert await asyncio.wait_for(served, 5) == b""
                await client.close()
    run(scenario())


def test_json_answers_for_people() -> None:
    answer = error_response(UsageError("bad\x1b[31m", "hint"), 400)
    assert answer.status == 400 and isinstance(answer.body, bytes)
    assert json.loads(answer.body) == {"error": "bad\\x1b[31m", "hint": "hint", "exit_code": 2}
