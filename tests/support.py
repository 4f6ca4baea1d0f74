"""An HTTP source for tests, scriptable down to its faults.

    with SourceServer() as source:
        source.add("/disk.img", content, etag='"one"')         # bytes, or the Path of a file
        source.next("/disk.img", cut_after=1000)               # the next request only
        ... download source.url("/disk.img") ...
        assert source.body_bytes == len(content) and source.log[0].header("range") == "bytes=0-"

Each path has a Page: what it serves and how it misbehaves. Every request leaves an Exchange in
`log`. Connections are threads with blocking sockets; files go out by sendfile, so it serves
hundreds of MB at the machine's speed, or at `rate_bps` over all connections together. It binds to
loopback unless told otherwise. Nothing of dfly is imported here: a test must not be blind to a
fault that both sides share.
"""
from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple, Union

MONDAY = "Mon, 05 Jan 2026 10:00:00 GMT"
TUESDAY = "Tue, 06 Jan 2026 10:00:00 GMT"
WAIT_S = 10.0            # how long a test waits for something that must happen
HEAD_MAX = 256 * 1024    # bytes of a request's head
CHUNK = 64 * 1024        # bytes per chunk of a chunked answer
SEND_MAX = 1 << 20       # bytes of one system call: how coarse the count of bytes sent is
REASONS = {200: "OK", 206: "Partial Content", 302: "Found", 304: "Not Modified",
           401: "Unauthorized", 404: "Not Found", 416: "Range Not Satisfiable",
           503: "Service Unavailable"}


# (status that refuses the request, 0 = none; headers of the answer, whatever it is)
Guard = Callable[["Exchange"], Tuple[int, List[Tuple[str, str]]]]


@dataclass(frozen=True)
class Page:
    """What one path serves. The defaults are a well-behaved static file server's."""

    content: Union[bytes, Path] = b""
    etag: str = '"one"'            # "" = none told
    last_modified: str = MONDAY    # "" = none told
    ranges: bool = True            # False: answers 200 with everything whatever the Range
    conditional: bool = True       # False: never answers 304
    if_range: bool = True          # False: ignores If-Range, gives the range of what there is
    framing: str = "length"        # or "chunked", or "close" (ends with the connection)
    headers: Tuple[Tuple[str, str], ...] = ()   # added to every answer that has a body
    authorization: str = ""        # this Authorization header or 401
    guard: Optional[Guard] = None  # asked first: lets a request in, or says what it wants
    # -- faults
    status: int = 0                # answer this status and nothing else
    redirect: str = ""             # answer `status` or 302 with this Location
    raw: Optional[bytes] = None    # send exactly these bytes and close
    content_range: str = ""        # a false Content-Range, sent as it stands; "none" = leave it out
    false_length: int = 0          # added to the Content-Length told; closes after the true body
    surplus: bytes = b""           # sent beyond the body's end
    cut_after: Optional[int] = None      # the connection is cut after so many body bytes
    stall_after: Optional[int] = None    # silent after so many, until `go_on` or the client leaves
    becomes: Optional[Page] = None       # the page from the time that ...
    becomes_after: int = 0               # ... an answer has sent so many body bytes

    @property
    def size(self) -> int:
        if isinstance(self.content, Path):
            return self.content.stat().st_size
        return len(self.content)


@dataclass
class Exchange:
    """One request and what became of it."""

    method: str
    target: str
    headers: Dict[str, str]        # names in lower case
    connection: int                # which connection it came on, counted from 0
    status: int = 0
    start: int = 0                 # bytes [start, stop) of the content that the answer promised
    stop: int = 0
    sent: int = 0                  # body bytes handed to the kernel (framing not counted)
    ended: bool = False            # all that was meant to be sent was, or the client left
    client_left: bool = False      # it left before its answer was all sent

    def header(self, name: str) -> str:
        return self.headers.get(name.lower(), "")

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Gate:
    """The rate that all connections share: each asks when its next bytes may go."""

    def __init__(self, rate_bps: float) -> None:
        self.rate_bps = rate_bps   # 0 = unlimited
        self._free_at = 0.0
        self._lock = threading.Lock()

    @property
    def portion(self) -> int:
        """Bytes to send at once: 20 ms of the rate, so that connections share it evenly."""
        if not self.rate_bps:
            return 1 << 30
        return max(4096, min(256 * 1024, int(self.rate_bps / 50)))

    def wait_s(self, count: int) -> float:
        """Book `count` bytes; how long to wait before they may go."""
        if not self.rate_bps:
            return 0.0
        with self._lock:
            now = time.monotonic()
            begin = max(self._free_at, now)
            self._free_at = begin + count / self.rate_bps
            return begin - now


class SourceServer:
    """A threaded HTTP/1.1 server on a port of its own; it serves inside its `with`.

    `rate_bps` limits all connections together (0 = not). `tls`: a server's context for https."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, rate_bps: float = 0.0,
                 tls: Optional[ssl.SSLContext] = None) -> None:
        self.log: List[Exchange] = []
        self.gate = Gate(rate_bps)
        self._pages: Dict[str, Page] = {}
        self._script: Dict[str, List[Dict[str, Any]]] = {}
        self._changed = threading.Condition()    # guards all of the above and wakes `wait_until`
        self._stopping = threading.Event()
        self._wake, self._waker = socket.socketpair()    # readable from `go_on` to the end
        self._sockets: Set[socket.socket] = set()
        self._connections = 0
        self._tls = tls
        self._threads: List[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=1024)
        self.host, self.port = self._listener.getsockname()[:2]

    # ------------------------------------------------------------------ what a test tells it
    def __enter__(self) -> SourceServer:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cut every connection and join every thread; may be called again."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self.go_on()
        self._shut(self._listener)
        self._acceptor.join(WAIT_S)    # from here on no thread and no connection is new
        with self._changed:
            sockets = list(self._sockets)
        for sock in sockets:
            self._shut(sock)
        for thread in self._threads:
            thread.join(WAIT_S)
        self._wake.close()
        self._waker.close()

    def url(self, path: str = "/", *, login: str = "") -> str:
        scheme = "https" if self._tls else "http"
        at = login + "@" if login else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{at}{host}:{self.port}{path}"

    def add(self, path: str, content: Union[bytes, Path] = b"", **how: Any) -> str:
        """Serve `content` at `path`; `how` = fields of Page. Returns the URL."""
        with self._changed:
            self._pages[path] = Page(content=content, **how)
        return self.url(path)

    def change(self, path: str, **how: Any) -> None:
        """From now on the page differs in these fields."""
        with self._changed:
            self._pages[path] = replace(self._pages[path], **how)

    def next(self, path: str, **how: Any) -> None:
        """The next request for `path` (after those already told) is served with these fields of
        its page changed; with none it's served well."""
        with self._changed:
            self._script.setdefault(path, []).append(how)

    def go_on(self) -> None:
        """End every stall, now and to come."""
        self._waker.send(b".")

    def cut_all(self) -> None:
        """Cut every connection that is open now."""
        with self._changed:
            sockets = list(self._sockets)
        for sock in sockets:
            self._shut(sock)

    # ------------------------------------------------------------------- what a test asks it
    @property
    def body_bytes(self) -> int:
        """Bytes of content sent in all answers."""
        return sum(exchange.sent for exchange in list(self.log))

    @property
    def connections(self) -> int:
        """Connections accepted so far."""
        return self._connections

    @property
    def open_connections(self) -> int:
        return len(self._sockets)

    def requests(self, path: str) -> List[Exchange]:
        return [exchange for exchange in list(self.log) if exchange.path == path]

    def ranges(self, path: str) -> List[str]:
        """The Range headers asked for, in order of arrival; "" for a request without."""
        return [exchange.header("range") for exchange in self.requests(path)]

    def wait_until(self, true: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Block until `true()`; it's asked again whenever something happens here. AssertionError
        if it doesn't come true. In a coroutine: `await asyncio.to_thread(source.wait_until, ...)`.
        """
        with self._changed:
            assert self._changed.wait_for(true, timeout_s), f"never came true: {true}"

    # -------------------------------------------------------------------------- connections
    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:    # closed: we stop
                return
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            with self._changed:
                number, self._connections = self._connections, self._connections + 1
                self._sockets.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock, number), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                sock = self._secured(sock, self._tls)
            reader = sock.makefile("rb")
            while not self._stopping.is_set() and self._answer_one(sock, reader, number):
                self._note()
        except (OSError, ValueError):    # the client left, or sent no HTTP: as a server sees it
            pass
        finally:
            self._shut(sock)
            with self._changed:
                self._sockets.discard(sock)
                self._changed.notify_all()

    def _secured(self, raw: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        """`raw` under TLS; it's the new socket that `close` must cut from now on."""
        sock = tls.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        with self._changed:
            self._sockets.discard(raw)
            self._sockets.add(sock)
        sock.do_handshake()
        return sock

    @staticmethod
    def _shut(sock: socket.socket) -> None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:    # it was already
            pass
        sock.close()

    def _note(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _answer_one(self, sock: socket.socket, reader: Any, number: int) -> bool:
        """Read one request and answer it; True if the connection lives on."""
        exchange = _read_request(reader, number)
        if exchange is None:
            return False
        page = self._page_for(exchange)
        answer = _Answer.of(page, exchange)
        try:
            return _Sending(self, sock, page, exchange).run(answer)
        except OSError:
            exchange.client_left = True
            return False
        finally:
            exchange.ended = True
            self._note()

    def _page_for(self, exchange: Exchange) -> Page:
        with self._changed:
            self.log.append(exchange)
            page = self._pages.get(exchange.path, Page(status=404))
            script = self._script.get(exchange.path)
            if script:
                page = replace(page, **script.pop(0))
            self._changed.notify_all()
        return page

    def _become(self, path: str, page: Page) -> None:
        with self._changed:
            self._pages[path] = page


def _read_request(reader: Any, number: int) -> Optional[Exchange]:
    line = reader.readline(HEAD_MAX).decode("latin-1")
    if not line.strip():
        return None
    method, target, _ = line.split(" ", 2)
    headers: Dict[str, str] = {}
    while True:
        line = reader.readline(HEAD_MAX).decode("latin-1").strip()
        if not line:
            break
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Exchange(method, target, headers, number)


# ------------------------------------------------------------------------------------ answers
@dataclass
class _Answer:
    """The status, the headers and which bytes of the content follow."""

    status: int
    headers: List[Tuple[str, str]] = field(default_factory=list)
    start: int = 0
    stop: int = 0

    @classmethod
    def of(cls, page: Page, exchange: Exchange) -> _Answer:
        told: List[Tuple[str, str]] = []
        if page.guard is not None:
            status, told = page.guard(exchange)
            if status:
                return cls(status, told)
        if page.authorization and exchange.header("authorization") != page.authorization:
            return cls(401, [("WWW-Authenticate", 'Basic realm="files"')])
        if page.redirect:
            return cls(page.status or 302, [("Location", page.redirect), *told, *page.headers])
        if page.status:
            return cls(page.status, list(page.headers))
        told += [("ETag", page.etag)] if page.etag else []
        if page.last_modified:
            told.append(("Last-Modified", page.last_modified))
        if page.conditional and _unchanged(page, exchange):
            return cls(304, told)
        size = page.size
        told += page.headers
        span = _asked_range(page, exchange)
        if span is None:
            return cls(200, told, 0, size)
        start, stop = span[0], min(span[1], size)
        if start >= size:
            return cls(416, [("Content-Range", f"bytes */{size}")])
        if page.content_range != "none":
            true = f"bytes {start}-{stop - 1}/{size}"
            told.append(("Content-Range", page.content_range or true))
        return cls(206, told, start, stop)


def _unchanged(page: Page, exchange: Exchange) -> bool:
    tags = exchange.header("if-none-match")
    if tags:
        return bool(page.etag) and page.etag in [tag.strip() for tag in tags.split(",")]
    since = exchange.header("if-modified-since")
    return bool(since and page.last_modified) and (
        parsedate_to_datetime(since) >= parsedate_to_datetime(page.last_modified))


def _asked_range(page: Page, exchange: Exchange) -> Optional[Tuple[int, int]]:
    """(start, stop) where a range is asked for and is to be given."""
    asked = exchange.header("range")
    if not page.ranges or not asked.startswith("bytes="):
        return None
    condition = exchange.header("if-range")
    if page.if_range and condition and condition not in (page.etag, page.last_modified):
        return None
    first, _, last = asked[len("bytes="):].partition("-")
    if not first:
        return max(0, page.size - int(last)), page.size
    return int(first), int(last) + 1 if last else page.size


class _Sending:
    """One answer on its way out."""

    def __init__(self, server: SourceServer, sock: socket.socket, page: Page,
                 exchange: Exchange) -> None:
        self._server = server
        self._sock = sock
        self._page = page
        self._exchange = exchange

    def run(self, answer: _Answer) -> bool:
        """Send it all; True if the connection lives on."""
        page, exchange = self._page, self._exchange
        exchange.status, exchange.start, exchange.stop = answer.status, answer.start, answer.stop
        if page.raw is not None:
            self._sock.sendall(page.raw)
            return False
        self._sock.sendall(self._head(answer))
        if answer.status == 304 or exchange.method == "HEAD":
            return True
        if not self._body(answer.start, answer.stop):
            return False
        if page.framing == "chunked" and answer.status in (200, 206):
            self._sock.sendall(b"0\r\n\r\n")
        if page.surplus:
            self._sock.sendall(page.surplus)
        if page.framing == "close" or page.false_length:
            return False
        return exchange.header("connection").lower() != "close"

    def _head(self, answer: _Answer) -> bytes:
        headers = list(answer.headers)
        size = answer.stop - answer.start
        framing = self._page.framing if answer.status in (200, 206) else "length"
        if framing == "chunked":
            headers.append(("Transfer-Encoding", "chunked"))
        elif framing == "close":
            headers.append(("Connection", "close"))
        elif answer.status != 304:
            headers.append(("Content-Length", str(size + self._page.false_length)))
        lines = [f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'As Told')}"]
        lines += [f"{name}: {value}" for name, value in headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _body(self, start: int, stop: int) -> bool:
        """Send content [start, stop); False if a fault (or the client) ended it."""
        page = self._page
        marks = {mark for mark in (page.cut_after, page.stall_after) if mark is not None}
        if page.becomes is not None:
            marks.add(page.becomes_after)
        position = start
        for mark in sorted(marks):
            if start + mark <= stop:
                self._content(position, start + mark)
                position = start + mark
                if not self._at_mark(mark):
                    return False
        self._content(position, stop)
        return True

    def _at_mark(self, mark: int) -> bool:
        page = self._page
        if page.becomes is not None and mark == page.becomes_after:
            self._server._become(self._exchange.path, page.becomes)
        if mark == page.cut_after:
            return False
        return mark != page.stall_after or self._stall()

    def _stall(self) -> bool:
        """Wait for go_on; False if the client left before."""
        self._server._note()
        wake = self._server._wake
        readable, _, _ = select.select([self._sock, wake], [], [])
        if wake in readable:
            return not self._server._stopping.is_set()
        if not self._sock.recv(1):
            self._exchange.client_left = True
        return False

    def _content(self, start: int, stop: int) -> None:
        if isinstance(self._page.content, Path):
            with open(self._page.content, "rb") as file:
                self._portions(start, stop, file.fileno())
        else:
            self._portions(start, stop, None)

    def _portions(self, start: int, stop: int, fd: Optional[int]) -> None:
        chunked = self._page.framing == "chunked"
        position = start
        while position < stop:
            count = min(self._server.gate.portion, stop - position)
            if chunked:
                count = min(count, CHUNK)
            wait_s = self._server.gate.wait_s(count)
            if wait_s and self._server._stopping.wait(wait_s):
                raise ConnectionAbortedError("the source stops")
            if chunked:
                self._sock.sendall(b"%x\r\n" % count)
            self._portion(position, count, fd)
            if chunked:
                self._sock.sendall(b"\r\n")
            position += count

    def _portion(self, position: int, count: int, fd: Optional[int]) -> None:
        """Send `count` bytes, by sendfile where that can be."""
        while count:
            size = min(count, SEND_MAX)
            # Counted first: the client may have the bytes, and a test look, before send returns.
            self._exchange.sent += size
            sent = 0
            try:
                sent = self._send(position, size, fd)
            finally:
                self._exchange.sent -= size - sent
            position += sent
            count -= sent

    def _send(self, position: int, size: int, fd: Optional[int]) -> int:
        if fd is None:
            assert isinstance(self._page.content, bytes)
            return self._sock.send(memoryview(self._page.content)[position:position + size])
        if isinstance(self._sock, ssl.SSLSocket):
            return self._sock.send(os.pread(fd, size, position))
        sent = os.sendfile(self._sock.fileno(), fd, position, size)
        if not sent:
            raise ConnectionAbortedError("the file shrank")
        return sent


def open_descriptors(process: str = "self") -> Set[str]:
    """NUMBER:NAME of what the process has open, but for what it looks at in /proc."""
    folder = f"/proc/{process}/fd"
    found = set()
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            found.add(f"{name}:{os.readlink(f'{folder}/{name}')}")
    return {entry for entry in found if "/proc/" not in entry}
