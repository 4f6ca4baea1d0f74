"""An HTTP/1.1 server: connections in, requests to one handler, responses out.

One task a connection; it reads a head, asks the handler and sends what that returned: bytes and
streams of bytes from the loop, files and pieces by the movers, or gives the connection away
(Upgrade). What is asked for and who may ask is the handler's. Everything a stranger can hold on to
(connections, heads, time) is bounded here, and nothing he sends raises further than his own task.
"""
from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import socket
import stat
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import (
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Dict,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)
from urllib.parse import parse_qsl, unquote

from dfly.clock import Clock
from dfly.errors import DflyError, NetworkError, printable
from dfly.net.limiter import Limiter
from dfly.net.mover import Job, Movers
from dfly.net.serving import PiecesBody as PiecesBody
from dfly.net.serving import Quick, Serving
from dfly.net.stream import READ_MAX, Stream, network_error, numeric_address
from dfly.wire.bodies import Body, body_of
from dfly.wire.http11 import (
    VERSION_1_0,
    Headers,
    HeadParser,
    HttpError,
    RequestHead,
    ResponseHead,
    keep_alive,
)

BACKLOG = 4_096         # connections the kernel holds for us: a whole swarm may come at once
ACCEPTS_MAX = 256       # connections taken in one turn of the loop
ACCEPT_PAUSE_S = 0.5    # when descriptors ran out; nothing tells when there are some again
REFUSED_MAX = 64        # connections over the bound that are told so; more are just closed
RETRY_AFTER_S = 2       # what they are told
UNREAD_MAX = 64 * 1024  # bytes of a request's body that are read for nothing to keep a connection
QUERY_FIELDS_MAX = 100
TLS_HELLO = 0x16        # first byte of a TLS connection: someone took us for an HTTPS server

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
log = logging.getLogger(__name__)


class AddressInUse(NetworkError):
    """Somebody listens there already."""


# --------------------------------------------------------------------- what handlers see
class Request:
    """One request. `path` is decoded, `target` is as it came; `query` holds first values."""

    def __init__(self, head: RequestHead, stream: Stream, body: Body,
                 idle_timeout_s: float) -> None:
        self.head = head
        self.method = head.method
        self.target = head.target
        self.headers = head.headers
        self.stream = stream
        self.remote = stream.remote
        self.body = body
        self.path, self.query = _split_target(head.target)
        self.expects_continue = ("100-continue" in head.headers.tokens("Expect")
                                 and not body.done and head.version > VERSION_1_0)
        self._idle_timeout_s = idle_timeout_s

    def sent(self) -> bytes:
        """What the other side has sent, from this request on (which has no body)."""
        assert self.body.done
        return self.head.encode() + bytes(self.stream.buffer)

    async def read_body(self, limit: int) -> bytes:
        """The whole body; HttpError with status 413 if it is more than `limit` bytes."""
        content = bytearray()
        too_long = HttpError(f"a request body of more than {limit} bytes", 413)
        if (self.body.remaining or 0) > limit:
            raise too_long
        if self.expects_continue:
            self.expects_continue = False
            await self.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n", self._idle_timeout_s)
        while not self.body.done:
            data = await self.stream.read_some(READ_MAX, self._idle_timeout_s)
            if not data:
                raise NetworkError(f"{self.stream.name}: the connection ended inside a request")
            parts, used = self.body.feed(memoryview(data))
            for part in parts:
                content += part
            self.stream.buffer[:0] = data[used:]
            if len(content) > limit:
                raise too_long
        return bytes(content)


@dataclass(frozen=True)
class FileBody:
    """`count` bytes of an open file from `offset`. `on_end` is called on the loop when the
    response is over, whether any of it was sent or not."""

    fd: int
    offset: int
    count: int
    on_end: Optional[Callable[[], None]] = None


ResponseBody = Union[bytes, FileBody, PiecesBody, AsyncIterator[bytes]]


@dataclass(frozen=True)
class Response:
    """An answer. Lengths, Date and Connection are added; an async iterator is sent chunked, and
    closed (`aclose`) when the other side hangs up. `ends`: the connection does, with it."""

    status: int = 200
    headers: Sequence[Tuple[str, str]] = ()
    body: ResponseBody = b""
    limits: Sequence[Limiter] = ()
    ends: bool = False


@dataclass(frozen=True)
class Upgrade:
    """101, and then the connection is `run`'s; it is closed when that returns."""

    protocol: str
    run: Callable[[Stream], Awaitable[None]]
    headers: Sequence[Tuple[str, str]] = ()


class GivenAway:
    """No answer from here: the handler has passed the (plain) socket to another process, with
    what `Request.sent` says; it is closed here, and only here."""


Answer = Union[Response, Upgrade, GivenAway]
Handler = Callable[[Request], Awaitable[Answer]]


def json_response(value: Any, status: int = 200) -> Response:
    data = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    return Response(status, (("Content-Type", "application/json"),), data)


def error_response(error: DflyError, status: int) -> Response:
    return json_response({"error": printable(error.what), "hint": printable(error.hint),
                          "exit_code": error.exit_code}, status)


def _split_target(target: str) -> Tuple[str, Dict[str, str]]:
    if not target.startswith("/") and "://" in target:  # absolute form, as proxies are asked
        authority = target.partition("://")[2]
        target = authority[len(authority.partition("/")[0].partition("?")[0]):]
        target = target if target.startswith("/") else "/" + target
    path, _, text = target.partition("?")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
    except ValueError as error:
        raise HttpError(f"malformed query: {error}") from None
    query: Dict[str, str] = {}
    for name, value in pairs:
        query.setdefault(name, value)
    return unquote(path), query


# ---------------------------------------------------------------------------- the server
class HttpServer:
    """`handler` answers every request, from any number of listening sockets; but what `quick`
    can answer never comes to it."""

    def __init__(self, handler: Handler, movers: Movers, *, quick: Optional[Quick] = None,
                 connections_max: int = 2_048, head_timeout_s: float = 15.0,
                 idle_timeout_s: float = 75.0) -> None:
        self.handler = handler
        self.quick = quick
        self.movers = movers
        self.head_timeout_s = head_timeout_s
        self.idle_timeout_s = idle_timeout_s
        self.is_closing = False
        self._connections_max = connections_max
        self._loop = asyncio.get_running_loop()
        self._listeners: List[socket.socket] = []
        self._unix_paths: List[Tuple[str, int]] = []   # path and inode
        self._connections: Dict[asyncio.Task[None], _Connection] = {}
        self._refused: Set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def listen_tcp(self, host: str, port: int) -> int:
        """Listen; the port (port 0 = any that is free). AddressInUse, NetworkError."""
        where = f"{host or '0.0.0.0'}:{port}"
        family, address = (numeric_address(host or "0.0.0.0", port)
                           or await self._address_of(host, port))
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(address)
            self._listen(sock)
        except OSError as error:
            sock.close()
            raise _listen_error(where, error) from None
        return int(sock.getsockname()[1])

    async def _address_of(self, name: str, port: int) -> Tuple[int, Any]:
        """(family, address) to bind for a name of this host."""
        try:
            found = await self._loop.getaddrinfo(name, port, type=socket.SOCK_STREAM,
                                                 flags=socket.AI_PASSIVE)
        except (socket.gaierror, UnicodeError):
            raise NetworkError(f"can't listen on {printable(name)}:{port}: no such host name",
                               "give an address of this host, or 0.0.0.0 for all") from None
        return int(found[0][0]), found[0][4]

    async def listen_unix(self, path: str) -> None:
        """Listen on a Unix socket that only this user may use. One left behind by a process that
        is gone is replaced; AddressInUse if somebody answers on it."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(sock.fileno(), 0o600)  # before bind: the name never exists with other rights
            try:
                sock.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                _remove_stale(path)
                sock.bind(path)
            self._listen(sock)
            self._unix_paths.append((path, os.stat(path).st_ino))
        except OSError as error:
            sock.close()
            raise _listen_error(path, error) from None
        except BaseException:
            sock.close()
            raise

    async def close(self, grace_s: float) -> None:
        """Listen no more, end idle connections now and the others when their response is sent, but
        after `grace_s` in any case."""
        self.is_closing = True
        for sock in self._listeners:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()
        for path, inode in self._unix_paths:
            try:
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
            except OSError:
                pass  # gone already, which is all that was wanted
        for connection in list(self._connections.values()):
            connection.close_soon()
        tasks = {*self._connections, *self._refused}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    # -------------------------------------------------------------------------- accepting
    def adopt(self, sock: socket.socket, remote: Tuple[str, int], sent: bytes) -> None:
        """Serve a connection that another process took, and read `sent` from."""
        stream = Stream(sock, remote)
        stream.buffer += sent
        self._welcome(stream)

    def _listen(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._listeners.append(sock)
        self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("can't take connections: %s", network_error("accept", error))
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(ACCEPT_PAUSE_S, self._resume, listener)
                return
            try:
                remote = address[:2] if listener.family != socket.AF_UNIX else ("unix", 0)
                self._welcome(Stream(sock, remote))
            except OSError:  # it was reset before its options could be set
                sock.close()

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _welcome(self, stream: Stream) -> None:
        if len(self._connections) < self._connections_max:
            connection = _Connection(self, stream)
            task = self._loop.create_task(connection.run())
            self._connections[task] = connection
            task.add_done_callback(self._forget)
        elif len(self._refused) < REFUSED_MAX:
            refusal = self._loop.create_task(_refuse(stream))
            self._refused.add(refusal)
            refusal.add_done_callback(self._refused.discard)
        else:
            stream.close()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).stream.close()  # a task cancelled at once closed nothing


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on. One whose queue is full (EAGAIN) has somebody."""
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        raise OSError(errno.EEXIST, "a file of that name is there, which is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    os.unlink(path)


async def _refuse(stream: Stream) -> None:
    head = ResponseHead(503, headers=Headers([
        ("Retry-After", str(RETRY_AFTER_S)), ("Content-Length", "0"), ("Connection", "close")]))
    try:
        await stream.write(head.encode(), 1.0)
        await stream.finish()
    except NetworkError:
        pass  # it has left, or doesn't listen: refused all the same
    finally:
        stream.close()


def _listen_error(where: str, error: OSError) -> NetworkError:
    reason = error.strerror or str(error)
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(f"can't listen on {where}: {reason}",
                            "another process has it: stop that, or choose another")
    hint = "choose a port above 1023" if error.errno == errno.EACCES and ":" in where else ""
    return NetworkError(f"can't listen on {where}: {reason}", hint)


# -------------------------------------------------------------------------- a connection
class _Connection:
    """Requests of one connection, one after the other; what was pipelined waits in the buffer."""

    def __init__(self, server: HttpServer, stream: Stream) -> None:
        self.stream = stream
        self.is_idle = True  # no request has begun: may be closed without harm
        self._serving: Optional[Serving] = None   # in a mover, requests and all
        self._server = server
        self._clock = Clock()

    async def run(self) -> None:
        stream = self.stream
        try:
            while await self._one_request():
                self.is_idle = True
                if self._server.is_closing:
                    break
            if not stream.closed:
                await stream.finish()
        except HttpError as error:
            await self._answer_malformed(error)
        except NetworkError as error:
            log.debug("%s", error)
        except DflyError as error:
            log.warning("%s: %s", stream.name, error)
        except Exception:
            log.exception("%s: a connection failed", stream.name)
        finally:
            stream.close()

    def close_soon(self) -> None:
        """The server listens no more: end now, or after the answer that is being given."""
        if self._serving is not None:
            self._serving.close_soon()
        elif self.is_idle:
            self.stream.close()

    async def _serve_quickly(self, quick: Quick) -> bool:
        """Leave the connection to a mover. False = it ends here; else what the mover couldn't
        answer is in the buffer."""
        server = self._server
        self._serving = serving = Serving(self.stream, quick, server.head_timeout_s,
                                          server.idle_timeout_s)
        try:
            await server.movers.keep(serving).wait()
        finally:
            self._serving = None
        return not serving.has_ended and bool(self.stream.buffer)

    async def _one_request(self) -> bool:
        """False = the connection ends here."""
        server, stream = self._server, self.stream
        if not await stream.fill(server.idle_timeout_s):
            return False
        if (server.quick is not None and stream.buffer.startswith(server.quick.prefix)
                and not await self._serve_quickly(server.quick)):
            return False
        if stream.buffer[0] == TLS_HELLO:
            log.debug("%s speaks TLS, this port doesn't", stream.name)
            stream.close()
            return False
        self.is_idle = False
        head = await stream.read_head(HeadParser("request"), server.head_timeout_s)
        if head is None:
            return False
        assert isinstance(head, RequestHead)
        request = Request(head, stream, body_of(head), server.idle_timeout_s)
        answer, is_sound = await self._ask(request)
        if isinstance(answer, Upgrade):
            await self._upgrade(request, answer)
            return False
        if isinstance(answer, GivenAway):
            stream.close()   # at once: to finish it would end it for the other process, too
            return False
        unread = request.body.remaining
        stays = (is_sound and keep_alive(head) and not server.is_closing and not answer.ends
                 and not request.expects_continue and unread is not None and unread <= UNREAD_MAX)
        stays = await self._send(request, answer, stays)
        return stays and await self._drop_rest(request)

    async def _drop_rest(self, request: Request) -> bool:
        """Read what the handler left of the request's body; False if that can't be done."""
        try:
            await request.read_body(UNREAD_MAX)
        except HttpError as error:  # the answer is out already: no second one
            log.debug("%s: %s", self.stream.name, error)
            return False
        return True

    async def _ask(self, request: Request) -> Tuple[Answer, bool]:
        """The handler's answer, and whether all went well."""
        try:
            return await self._server.handler(request), True
        except HttpError as error:
            return error_response(error, error.status), True
        except DflyError as error:
            log.warning("%s %s: %s", request.method, printable(request.target), error)
            return error_response(error, 500), False
        except Exception:
            log.exception("%s %s failed", request.method, printable(request.target))
            return error_response(DflyError("internal error", "see the server's log"), 500), False

    async def _answer_malformed(self, error: HttpError) -> None:
        """The stream's state is unknown: say what is wrong, and end it."""
        log.debug("%s: %s", self.stream.name, error)
        try:
            answer = error_response(error, error.status)
            assert isinstance(answer.body, bytes)
            head = self._head(answer, VERSION_1_0, False)
            await self.stream.write(head + answer.body, self._server.head_timeout_s)
            await self.stream.finish()
        except NetworkError as failure:
            log.debug("%s", failure)

    async def _upgrade(self, request: Request, answer: Upgrade) -> None:
        await request.read_body(UNREAD_MAX)
        headers = Headers([("Upgrade", answer.protocol), ("Connection", "Upgrade"),
                           *answer.headers])
        await self.stream.write(ResponseHead(101, headers=headers).encode(),
                                self._server.head_timeout_s)
        await answer.run(self.stream)
        self.stream.close()

    # ---------------------------------------------------------------------------- sending
    def _head(self, answer: Response, version: Tuple[int, int], stays: bool,
              is_head: bool = False) -> bytes:
        headers = Headers(answer.headers)
        headers.set("Date", http_date(int(self._clock.wall())))
        if answer.status >= 200 and answer.status not in (204, 304):
            length = _length_of(answer.body)
            if length is None:
                headers.remove("Content-Length")
                if version > VERSION_1_0:
                    headers.set("Transfer-Encoding", "chunked")
            elif not (is_head and length == 0 and "Content-Length" in headers):
                headers.set("Content-Length", str(length))  # to HEAD a handler may have told it
        if not stays:
            headers.set("Connection", "close")
        elif version == VERSION_1_0:
            headers.set("Connection", "keep-alive")
        return ResponseHead(answer.status, headers=headers).encode()

    async def _send(self, request: Request, answer: Response, stays: bool) -> bool:
        """Send the answer; whether the connection stays."""
        body = answer.body
        version = request.head.version
        if not isinstance(body, (bytes, FileBody, PiecesBody)) and version == VERSION_1_0:
            stays = False  # its end is the connection's
        try:
            head = self._head(answer, version, stays, request.method == "HEAD")
            if request.method == "HEAD" or answer.status in (204, 304):
                await self.stream.write(head, self._server.idle_timeout_s)
            elif isinstance(body, bytes):
                await self.stream.write(head + body, self._server.idle_timeout_s)
            elif isinstance(body, (FileBody, PiecesBody)):
                await self._send_by_mover(head, body, answer.limits).wait()
            else:
                await self._send_parts(head, body, version > VERSION_1_0)
        finally:
            if isinstance(body, (FileBody, PiecesBody)):
                if body.on_end is not None:
                    body.on_end()
            elif not isinstance(body, bytes):
                await _close_parts(body)
        return stays

    def _send_by_mover(self, head: bytes, body: Union[FileBody, PiecesBody],
                       limits: Sequence[Limiter]) -> Job:
        movers = self._server.movers
        if isinstance(body, FileBody):
            return movers.send_file(self.stream, head, body.fd, body.offset, body.count, limits)
        return movers.send_pieces(self.stream, head, body.task_file, body.start, body.stop,
                                  limits, on_sent=body.on_sent)

    async def _send_parts(self, head: bytes, parts: AsyncIterator[bytes],
                          is_chunked: bool) -> None:
        """Send the head with the first of what the iterator gives, then the rest; stop it as soon
        as nobody listens any more."""
        loop = asyncio.get_running_loop()
        gone = loop.create_task(self.stream.wait_hung_up())
        pump = loop.create_task(self._pump(head, parts, is_chunked))
        try:
            await asyncio.wait({gone, pump}, return_when=asyncio.FIRST_COMPLETED)
            if not pump.done():
                raise NetworkError(f"{self.stream.name}: hung up before the answer's end")
            pump.result()
        finally:
            gone.cancel()
            pump.cancel()
            await asyncio.gather(gone, pump, return_exceptions=True)

    async def _pump(self, head: bytes, parts: AsyncIterator[bytes], is_chunked: bool) -> None:
        timeout_s = self._server.idle_timeout_s
        async for part in parts:
            if part:
                part = b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part
                await self.stream.write(head + part, timeout_s)
                head = b""
        if head or is_chunked:
            await self.stream.write(head + (b"0\r\n\r\n" if is_chunked else b""), timeout_s)


def _length_of(body: ResponseBody) -> Optional[int]:
    if isinstance(body, bytes):
        return len(body)
    if isinstance(body, FileBody):
        return body.count
    if isinstance(body, PiecesBody):
        return body.stop - body.start
    return None


async def _close_parts(parts: AsyncIterator[bytes]) -> None:
    """Run an async generator's `finally` now, not when the collector finds it."""
    close = getattr(parts, "aclose", None)
    if close is not None:
        await close()


@lru_cache(maxsize=4)
def http_date(wall: int) -> str:
    """IMF-fixdate (RFC 9110 5.6.7), whatever the locale."""
    now = time.gmtime(wall)
    return (f"{_DAYS[now.tm_wday]}, {now.tm_mday:02d} {_MONTHS[now.tm_mon - 1]} {now.tm_year} "
            f"{now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d} GMT")
