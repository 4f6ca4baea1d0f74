"""The thin client of a role's HTTP interface: one blocking request on a unix or TCP socket.

`dfly get`, `status` and `cache` need no more than this, and a client that starts in a blink must
not import asyncio. What a download is and where bytes come from is the daemon's business.
"""
from __future__ import annotations

import _socket  # what socket is made of; its own, with selectors, costs each start 2.5 ms

from dfly.config import check_socket_path
from dfly.errors import DflyError, NetworkError, ProtocolError, error_from_wire
from dfly.names import join_address
from dfly.wire.bodies import Body, body_of
from dfly.wire.http11 import (
    VERSION_1_0,
    VERSION_1_1,
    Headers,
    HeadParser,
    HttpError,
    RequestHead,
    ResponseHead,
)

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, Optional, Tuple, Union

    Connection = _socket.socket   # socket.socket is one, too
    Address = Union[str, Tuple[str, int]]  # path of a unix socket, or (host, port)

RECEIVE_SIZE = 256 * 1024
HEAD_SIZE = 16 * 1024   # bytes asked for while the head is read: events come in less
LINE_MAX = 1 << 20      # bytes of one event
ANSWER_MAX = 64 << 20   # bytes of one JSON answer: a manager's status with thousands of hosts
ANSWER_TIMEOUT_S = 30.0
BRIEF = "/v1/status?brief=1"  # who the daemon is, without its downloads


class NobodyThere(NetworkError):
    """Nothing listens at the address: for a unix socket, no daemon runs."""


class Answer:
    """A response whose body is still on the connection; a context manager that closes it."""

    def __init__(self, connection: Connection, head: ResponseHead, body: Body,
                 received: bytes, name: str) -> None:
        self.status = head.status
        self._connection = connection
        self._body = body
        self._received = received
        self._name = name

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def cut(self) -> None:
        """End the connection from another thread: its reader gets an error at once."""
        try:
            self._connection.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was faster: it is cut already

    def parts(self) -> Iterator[memoryview]:
        """The content as it comes; a part is valid until the next is asked for."""
        view = memoryview(self._received)
        buffer = memoryview(b"")
        while not self._body.done:
            if not len(view):
                buffer = buffer or memoryview(bytearray(RECEIVE_SIZE))
                size = _receive_into(self._connection, buffer, self._name)
                if not size:
                    self._end()
                    break
                view = buffer[:size]
            contents, used = self._body.feed(view)
            view = view[used:]
            yield from contents

    def _end(self) -> None:
        """The other side has closed: fine, if its answer ends so."""
        try:
            self._body.eof()
        except ProtocolError:
            raise NetworkError(f"{self._name} ended in the middle of its answer",
                               "repeat the command: what came is kept") from None

    def lines(self) -> Iterator[bytes]:
        """The content cut at line ends."""
        pending = bytearray()
        for part in self.parts():
            pending += part
            if b"\n" not in pending[-len(part):]:
                if len(pending) > LINE_MAX:
                    raise ProtocolError(f"{self._name} sent a line of over {LINE_MAX} bytes")
                continue
            *whole, rest = bytes(pending).split(b"\n")
            pending = bytearray(rest)
            yield from whole
        if pending:
            yield bytes(pending)

    def events(self) -> Iterator[Dict[str, Any]]:
        """The content as one JSON object a line."""
        for line in self.lines():
            event = _json(line, self._name)
            if not isinstance(event, dict):
                raise ProtocolError(f"{self._name} sent no event: {line[:100]!r}")
            yield event

    def json(self) -> Any:
        """The content as one JSON value."""
        data = bytearray()
        for part in self.parts():
            data += part
            if len(data) > ANSWER_MAX:
                raise ProtocolError(f"{self._name} sent an answer of over {ANSWER_MAX} bytes")
        return _json(bytes(data), self._name)

    def check(self) -> Answer:
        """Itself, or the error that the other side answered with."""
        if self.status < 400:
            return self
        with self:
            raise _told_error(self.json(), self.status, self._name)


def failure_of(event: Dict[str, Any], otherwise: str = "") -> DflyError:
    """The error that a "failed" event tells of; `otherwise` where it says nothing."""
    code = event.get("exit_code")
    return error_from_wire(code if isinstance(code, int) else 1,
                           str(event.get("what", otherwise)), str(event.get("hint", "")))


def ask(address: Address, method: str, target: str, value: Any = None,
        timeout_s: Optional[float] = ANSWER_TIMEOUT_S, *, events: bool = False) -> Answer:
    """Send one request (`value` as JSON, unless None) and read the head of the answer.
    `timeout_s` bounds each wait for bytes; None = the other side may be silent for ever. `events`:
    the answer is lines of which one says that it's the last, so it may end with the connection:
    that spares both sides the framing."""
    name = _name_of(address)
    content = _encoded(value)
    headers = Headers([("Host", "localhost" if isinstance(address, str) else name),
                       ("Connection", "close"), ("Content-Length", str(len(content)))])
    if content:
        headers.add("Content-Type", "application/json")
    head = RequestHead(method, target, headers, VERSION_1_0 if events else VERSION_1_1).encode()
    connection = _connect(address, timeout_s, name)
    try:
        connection.sendall(head + content)
        response, received = _read_head(connection, name)
        body = body_of(response, method)
    except (OSError, HttpError) as error:
        connection.close()
        raise _translated(error, name) from None
    except BaseException:
        connection.close()
        raise
    return Answer(connection, response, body, received, name)


def ask_json(address: Address, method: str, target: str, value: Any = None,
             timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
    """Like `ask`, for the whole answer as a JSON value; an error status is raised."""
    with ask(address, method, target, value, timeout_s).check() as answer:
        return answer.json()


def _name_of(address: Address) -> str:
    if isinstance(address, str):
        return f"the peer daemon at {address}"
    return join_address(*address)


def _connect(address: Address, timeout_s: Optional[float], name: str) -> Connection:
    try:
        if not isinstance(address, str):
            import socket
            remote = socket.create_connection(address, timeout_s)
            remote.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return remote
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(check_socket_path(address))
        except BaseException:
            connection.close()
            raise
        return connection
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NobodyThere(f"{name}: nobody listens there ({error.strerror})") from None
    except OSError as error:
        raise _translated(error, name) from None


def _read_head(connection: Connection, name: str) -> Tuple[ResponseHead, bytes]:
    parser = HeadParser("response")
    while True:
        data = connection.recv(HEAD_SIZE)
        if not data:
            raise NetworkError(f"{name} closed the connection without an answer")
        head = parser.feed(data)
        if isinstance(head, ResponseHead):
            if head.status >= 200:
                return head, parser.rest
            rest, parser = parser.rest, HeadParser("response")  # 1xx: the real one follows
            head = parser.feed(rest) if rest else None
            if isinstance(head, ResponseHead):
                return head, parser.rest


def _receive_into(connection: Connection, buffer: memoryview, name: str) -> int:
    try:
        return connection.recv_into(buffer)
    except OSError as error:
        raise _translated(error, name) from None


def _translated(error: Exception, name: str) -> DflyError:
    if isinstance(error, HttpError):
        return ProtocolError(f"{name} doesn't speak HTTP as dfly does: {error.what}")
    if isinstance(error, PermissionError):
        return NetworkError(f"{name}: permission denied", "it belongs to another user")
    if isinstance(error, _socket.timeout):
        return NetworkError(f"{name} didn't answer in time")
    return NetworkError(f"{name}: {getattr(error, 'strerror', None) or error}")


def _encoded(value: Any) -> bytes:
    import json  # here and below, because asking for help must not pay for it
    return b"" if value is None else json.dumps(value).encode()


def _json(data: bytes, name: str) -> Any:
    import json
    try:
        return json.loads(data)
    except ValueError:
        raise ProtocolError(f"{name} sent what is no JSON: {data[:100]!r}") from None


def _told_error(value: Any, status: int, name: str) -> DflyError:
    """The error that {"error": what, "hint": hint, "exit_code": code} tells of."""
    told = value if isinstance(value, dict) else {}
    what = str(told.get("error") or f"{name} answered {status}")
    code = told.get("exit_code")
    return error_from_wire(code if isinstance(code, int) else 2 if status == 400 else 8,
                           what, str(told.get("hint") or ""))
