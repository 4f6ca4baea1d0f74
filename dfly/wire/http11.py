"""HTTP/1.1 as values: the heads of messages, for both roles, without I/O (RFC 9110, RFC 9112).
Where the body ends that follows a head is bodies.py's, what a head says of ranges ranges.py's.

One parser serves servers and clients, because what one lets through the other must be able to
refuse. It is strict wherever two readers of the same bytes could disagree about where a message
ends (request smuggling): no folded lines, no bare CR, no space before a colon, no length given
twice with two values, no length beside a transfer coding, no coding but `chunked`. A server may
end its lines with a bare LF (small embedded ones do), and what it tells with control bytes, of
anything but the body, counts as not told; a client may do neither. Every buffer is bounded by a
constant below. Whatever the bytes, the only exception is HttpError, a ProtocolError that
also says which status a server should answer with. `dfly get` loads this file at each start, so
it has plain classes and no compiled patterns.
"""
from __future__ import annotations

from dfly.errors import ProtocolError
from dfly.wire.lines import (
    head_end,
    is_negligible,
    is_text,
    is_token,
    split_header,
    split_request_line,
    split_status_line,
    text_bytes,
)

TYPE_CHECKING = False  # typing's own costs each start of a client 2 ms
if TYPE_CHECKING:
    from typing import Dict, Iterable, Iterator, List, Optional, Tuple, Union

HEAD_MAX = 64 * 1024       # bytes of a request or response head; nginx and Apache allow 8 to 32 KiB
HEADERS_MAX = 256          # header lines in a head
VERSION_1_0 = (1, 0)
VERSION_1_1 = (1, 1)

REASONS: Dict[int, str] = {
    100: "Continue", 101: "Switching Protocols", 200: "OK", 201: "Created", 202: "Accepted",
    204: "No Content", 206: "Partial Content", 301: "Moved Permanently", 302: "Found",
    303: "See Other", 304: "Not Modified", 307: "Temporary Redirect", 308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict", 410: "Gone",
    413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable",
    429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}


class HttpError(ProtocolError):
    """Bytes that aren't HTTP; `status` is what a server should answer before it closes."""

    def __init__(self, what: str, status: int = 400, hint: str = "") -> None:
        super().__init__(what, hint)
        self.status = status


# --------------------------------------------------------------------------------- heads
class Headers:
    """Header lines in order; names compare without regard to case. Values are Latin-1 text."""

    __slots__ = ("_pairs",)
    __hash__ = None  # type: ignore[assignment]  # they change

    def __init__(self, pairs: Iterable[Tuple[str, str]] = ()) -> None:
        self._pairs: List[Tuple[str, str]] = list(pairs)

    def get(self, name: str, default: Optional[str] = None) -> Optional[str]:
        """The first value of `name`."""
        wanted = name.lower()
        for own, value in self._pairs:
            if own.lower() == wanted:
                return value
        return default

    def all(self, name: str) -> List[str]:
        wanted = name.lower()
        return [value for own, value in self._pairs if own.lower() == wanted]

    def tokens(self, name: str) -> List[str]:
        """All values of a comma-separated header, in lower case."""
        return [token.strip().lower() for value in self.all(name)
                for token in value.split(",") if token.strip()]

    def add(self, name: str, value: str) -> None:
        self._pairs.append((name, value))

    def set(self, name: str, value: str) -> None:
        """The only value of `name`, in the place of the first one before."""
        wanted = name.lower()
        for position, (own, _) in enumerate(self._pairs):
            if own.lower() == wanted:
                rest = [pair for pair in self._pairs[position + 1:] if pair[0].lower() != wanted]
                self._pairs[position:] = [(name, value), *rest]
                return
        self._pairs.append((name, value))

    def remove(self, name: str) -> None:
        wanted = name.lower()
        self._pairs = [pair for pair in self._pairs if pair[0].lower() != wanted]

    def copy(self) -> Headers:
        return Headers(self._pairs)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[Tuple[str, str]]:
        return iter(list(self._pairs))

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._pairs == other._pairs

    def __repr__(self) -> str:
        return f"Headers({self._pairs!r})"


class _Head:
    """What both heads are: values that compare by what they hold."""

    __slots__ = ("headers", "version")
    __hash__ = None  # type: ignore[assignment]  # their headers change

    def __init__(self, headers: Optional[Headers], version: Tuple[int, int]) -> None:
        self.headers = Headers() if headers is None else headers
        self.version = version

    def _line(self) -> str:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, _Head) and type(other) is type(self)
                and self._line() == other._line() and self.headers == other.headers)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._line()!r}, {self.headers!r})"


class RequestHead(_Head):
    """`target` is as it stands in the request line: a path with its query, or a whole URL."""

    __slots__ = ("method", "target")

    def __init__(self, method: str, target: str, headers: Optional[Headers] = None,
                 version: Tuple[int, int] = VERSION_1_1) -> None:
        super().__init__(headers, version)
        self.method = method
        self.target = target

    def _line(self) -> str:
        return f"{self.method} {self.target} HTTP/{self.version[0]}.{self.version[1]}"

    def encode(self) -> bytes:
        """The head as bytes; HttpError if a part of it can't be written safely."""
        line = self._line()
        data = text_bytes(line)
        if split_request_line(data) is None:
            raise HttpError(f"can't be a request line: {line[:200]!r}")
        return _encode(data, self.headers)


class ResponseHead(_Head):
    """`reason` may be empty; `encode` then fills in the usual one."""

    __slots__ = ("status", "reason")

    def __init__(self, status: int, reason: str = "", headers: Optional[Headers] = None,
                 version: Tuple[int, int] = VERSION_1_1) -> None:
        super().__init__(headers, version)
        self.status = status
        self.reason = reason

    def _line(self) -> str:
        reason = self.reason or REASONS.get(self.status, "Status")
        return f"HTTP/{self.version[0]}.{self.version[1]} {self.status} {reason}"

    def encode(self) -> bytes:
        """The head as bytes; HttpError if a part of it can't be written safely."""
        line = self._line()
        data = text_bytes(line)
        if split_status_line(data) is None:
            raise HttpError(f"can't be a status line: {line[:200]!r}")
        return _encode(data, self.headers)


if TYPE_CHECKING:
    Head = Union[RequestHead, ResponseHead]
else:
    Head = (RequestHead, ResponseHead)


def _encode(line: bytes, headers: Headers) -> bytes:
    out = [line]
    for name, value in headers:
        name_bytes, value_bytes = text_bytes(name), text_bytes(value)
        if not is_token(name_bytes) or not is_text(value_bytes):
            raise HttpError(f"can't be a header: {name[:100]!r}",
                            hint="a name is one word, a value has no line breaks")
        out.append(name_bytes + b": " + value_bytes)
    out.append(b"\r\n")
    return b"\r\n".join(out)


class HeadParser:
    """Bytes in, one head out; what follows it is in `rest`.

    Garbage is refused as early as it can be told: at the first bytes, else with the first line,
    so that a stranger on the port doesn't hold a connection until its time is over.
    """

    def __init__(self, kind: str, head_max: int = HEAD_MAX) -> None:
        assert kind in ("request", "response"), kind
        self._is_request = kind == "request"
        self._head_max = head_max
        self._buffer = bytearray()
        self._skipped = 0          # bytes of empty lines before a request line (RFC 9112 2.2)
        self._first: Optional[Head] = None
        self._done = False

    @property
    def rest(self) -> bytes:
        """Bytes fed after the head's end; empty before it came."""
        return bytes(self._buffer) if self._done else b""

    @property
    def started(self) -> bool:
        """True once any byte came."""
        return bool(self._buffer) or self._skipped > 0 or self._done

    def feed(self, data: bytes) -> Optional[Head]:
        """The head, once it is whole."""
        assert not self._done, "one parser reads one head"
        buffer = self._buffer
        seen = len(buffer)
        buffer += data
        if self._is_request and self._first is None:
            seen = 0 if self._skip_empty_lines() else seen
        if self._first is None:
            self._read_first_line()
        stop = head_end(buffer, max(0, seen - 2))
        size = self._skipped + (stop or len(buffer))
        if size > self._head_max:
            raise HttpError(f"a head of more than {self._head_max} bytes", 431)
        if not stop or self._first is None:
            return None
        self._read_headers(bytes(buffer[:stop]))
        del buffer[:stop]
        self._done = True
        return self._first

    def _skip_empty_lines(self) -> bool:
        size = 0
        while self._buffer.startswith(b"\r\n", size):
            size += 2
        del self._buffer[:size]
        self._skipped += size
        if self._skipped > self._head_max:
            raise HttpError("nothing but empty lines")
        return size > 0

    def _read_first_line(self) -> None:
        buffer = self._buffer
        self._refuse_hopeless(bytes(buffer[:16]))
        stop = buffer.find(b"\n", 0, self._head_max)
        if stop < 0:
            if len(buffer) + self._skipped > self._head_max:
                raise HttpError("a first line longer than a whole head may be",
                                414 if self._is_request else 431)
            return
        line = self._without_line_end(bytes(buffer[:stop + 1]))
        self._first = _request_line(line) if self._is_request else _status_line(line)

    def _refuse_hopeless(self, start: bytes) -> None:
        if self._is_request:
            hopeless = start[:1] != b"\r" and not is_token(start[:1] or b"-")
        else:
            hopeless = not b"HTTP/".startswith(start[:5])
        if hopeless:
            raise HttpError(f"not HTTP: it begins with {start!r}")

    def _without_line_end(self, line: bytes) -> bytes:
        if line.endswith(b"\r\n"):
            return line[:-2]
        if self._is_request:
            raise HttpError("a line ends without CR")
        return line[:-1]

    def _read_headers(self, data: bytes) -> None:
        assert self._first is not None
        lines = data.split(b"\n")[1:-2]  # less the first line, the empty one, and the cut's end
        if len(lines) > HEADERS_MAX:
            raise HttpError(f"more than {HEADERS_MAX} header lines", 431)
        if self._is_request and not data.endswith(b"\r\n\r\n"):
            raise HttpError("a line ends without CR")
        headers = self._first.headers
        for line in lines:
            line = self._without_line_end(line + b"\n")
            pair = split_header(line)
            if pair is not None:
                headers.add(pair[0].decode("ascii"), pair[1].decode("latin-1"))
            elif self._is_request or not is_negligible(line):
                raise HttpError(f"malformed header line: {line[:100]!r}")
        if isinstance(self._first, RequestHead):
            _check_host(self._first)


def _request_line(line: bytes) -> RequestHead:
    parts = split_request_line(line)
    if parts is None:
        raise HttpError(f"malformed request line: {line[:100]!r}")
    method, target, version = parts
    return RequestHead(method.decode("ascii"), target.decode("latin-1"), Headers(),
                       _version(version))


def _status_line(line: bytes) -> ResponseHead:
    parts = split_status_line(line)
    if parts is None:
        raise HttpError(f"malformed status line: {line[:100]!r}")
    version, status, reason = parts
    return ResponseHead(status, reason.decode("latin-1").strip(), Headers(), _version(version))


def _version(data: bytes) -> Tuple[int, int]:
    """(major, minor) of 'HTTP/1.1'."""
    version = int(data[5:6]), int(data[7:8])
    if version not in (VERSION_1_0, VERSION_1_1):
        raise HttpError(f"HTTP version {version[0]}.{version[1]}", 505, "only 1.0 and 1.1 here")
    return version


def _check_host(head: RequestHead) -> None:
    hosts = head.headers.all("Host")
    if len(hosts) > 1 or (not hosts and head.version == VERSION_1_1):
        raise HttpError(f"a request needs one Host header, this has {len(hosts)}")
    if hosts and any(c in "/@?#\\," or c.isspace() for c in hosts[0]):
        raise HttpError(f"malformed Host header: {hosts[0][:100]!r}")


def keep_alive(*heads: Head) -> bool:
    """True if the connection goes on after the exchange, as far as these heads say."""
    for head in heads:
        tokens = head.headers.tokens("Connection")
        if "close" in tokens or (head.version == VERSION_1_0 and "keep-alive" not in tokens):
            return False
    return True
