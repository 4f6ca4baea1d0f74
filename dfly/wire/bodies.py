"""Where the body of an HTTP/1.1 message ends, and what of its bytes is content (RFC 9112 6, 7).

No I/O, and nothing is copied: content goes out as parts of what came in. As strict as http11.py is
about heads, and for the same reason: two readers of the same bytes must not disagree about the end
of a message. Whatever the bytes, the only exceptions are HttpError, and ProtocolError for an end
that comes too early. `dfly get` loads this file at each start.
"""
from __future__ import annotations

from dfly.errors import ProtocolError
from dfly.wire.http11 import VERSION_1_0, Head, Headers, HttpError, RequestHead, ResponseHead
from dfly.wire.lines import chunk_size, split_header

TYPE_CHECKING = False  # typing's own costs each start of a client 2 ms
if TYPE_CHECKING:
    from typing import List, Optional, Tuple

LENGTH_MAX = 1 << 62       # bytes of a body: keeps every sum within signed 64 bits
CHUNK_LINE_MAX = 1_024     # bytes of a chunk's size line with its extensions
TRAILER_MAX = 8 * 1024     # bytes of all trailer lines; they are read and dropped
PARTS_MAX = 1_024          # content parts one ChunkedBody.feed gives: one-byte chunks stay cheap


class Body:
    """Where a message's content ends. Base class, and as `NoBody` the one without content."""

    done = False

    @property
    def remaining(self) -> Optional[int]:
        """Bytes still to come on the connection; None if nobody knows yet."""
        raise NotImplementedError

    def feed(self, view: memoryview) -> Tuple[List[memoryview], int]:
        """(parts of `view` that are content, bytes of `view` used). Unless `done`, call again
        with the unused rest: a chunked body hands out a bounded number of parts at a time."""
        raise NotImplementedError

    def eof(self) -> None:
        """The connection ended: ProtocolError unless that is how this body may end."""
        raise NotImplementedError


class NoBody(Body):
    done = True

    @property
    def remaining(self) -> Optional[int]:
        return 0

    def feed(self, view: memoryview) -> Tuple[List[memoryview], int]:
        return [], 0

    def eof(self) -> None:
        return


class LengthBody(Body):
    """Exactly `length` bytes."""

    def __init__(self, length: int) -> None:
        assert 0 <= length <= LENGTH_MAX, length
        self.length = length
        self._left = length
        self.done = length == 0

    @property
    def remaining(self) -> Optional[int]:
        return self._left

    def feed(self, view: memoryview) -> Tuple[List[memoryview], int]:
        size = min(len(view), self._left)
        self._left -= size
        self.done = self._left == 0
        return ([view[:size]] if size else []), size

    def eof(self) -> None:
        if not self.done:
            raise ProtocolError(f"truncated body: {self.length - self._left} of {self.length} "
                                "bytes came")


class CloseBody(Body):
    """All bytes until the connection ends (HTTP/1.0 style)."""

    @property
    def remaining(self) -> Optional[int]:
        return 0 if self.done else None

    def feed(self, view: memoryview) -> Tuple[List[memoryview], int]:
        return ([view] if len(view) else []), len(view)

    def eof(self) -> None:
        self.done = True


class ChunkedBody(Body):
    """The chunked transfer coding (RFC 9112 7.1); extensions and trailers are dropped."""

    def __init__(self) -> None:
        self._line = bytearray()   # the unfinished size, end or trailer line
        self._state = "size"       # size -> data -> end -> size ...; size 0 -> trailer -> done
        self._left = 0             # bytes of this chunk's content still to come
        self._trailers = 0         # bytes of trailer lines so far

    @property
    def remaining(self) -> Optional[int]:
        return 0 if self.done else None

    def feed(self, view: memoryview) -> Tuple[List[memoryview], int]:
        parts: List[memoryview] = []
        used = 0
        while used < len(view) and not self.done and len(parts) < PARTS_MAX:
            if self._state == "data":
                size = min(self._left, len(view) - used)
                parts.append(view[used:used + size])
                self._left -= size
                used += size
                if not self._left:
                    self._state = "end"
            else:
                used += self._take_line(view[used:used + CHUNK_LINE_MAX + 1])
        return parts, used

    def _take_line(self, view: memoryview) -> int:
        """Moves bytes of `view` up to a line's end into the line; how many."""
        data = bytes(view[:64])    # a size line is short: don't copy a kilobyte for each
        stop = data.find(b"\n")
        if stop < 0 and len(view) > 64:
            data = bytes(view)
            stop = data.find(b"\n")
        size = stop + 1 if stop >= 0 else len(data)
        self._line += data[:size]
        if len(self._line) > CHUNK_LINE_MAX:
            raise HttpError(f"a chunk line of more than {CHUNK_LINE_MAX} bytes")
        if stop >= 0:
            line = bytes(self._line)
            self._line.clear()
            if not line.endswith(b"\r\n"):
                raise HttpError("a chunk line ends without CR")
            self._end_line(line[:-2])
        return size

    def _end_line(self, line: bytes) -> None:
        if self._state == "size":
            size = chunk_size(line)
            if size is None or size > LENGTH_MAX:
                raise HttpError(f"malformed chunk size: {line[:40]!r}")
            self._left = size
            self._state = "data" if self._left else "trailer"
        elif self._state == "end":
            if line:
                raise HttpError("a chunk is longer than its size says")
            self._state = "size"
        elif line:
            self._trailers += len(line)
            if split_header(line) is None or self._trailers > TRAILER_MAX:
                raise HttpError(f"malformed or too many trailers: {line[:40]!r}")
        else:
            self.done = True

    def eof(self) -> None:
        if not self.done:
            raise ProtocolError("truncated body: the connection ended inside a chunked body")


def body_of(head: Head, request_method: Optional[str] = None) -> Body:
    """How the body after `head` is framed (RFC 9112 6.3). For a response, `request_method` is
    what was asked: the answer to HEAD has lengths and no body."""
    length = _content_length(head.headers)
    codings = head.headers.all("Transfer-Encoding")
    if codings:
        _check_codings(head, codings, length)
    if isinstance(head, ResponseHead):
        if request_method == "HEAD" or head.status < 200 or head.status in (204, 304):
            return NoBody()
        if request_method == "CONNECT" and head.status < 300:
            return NoBody()
    if codings:
        return ChunkedBody()
    if length is not None:
        return LengthBody(length)
    return NoBody() if isinstance(head, RequestHead) else CloseBody()


def _content_length(headers: Headers) -> Optional[int]:
    values = {token.strip() for value in headers.all("Content-Length")
              for token in value.split(",")}
    if not values:
        return None
    if len(values) > 1:
        raise HttpError("several Content-Lengths that differ")
    text = values.pop()
    if (not 1 <= len(text) <= 19 or not (text.isascii() and text.isdecimal())
            or int(text) > LENGTH_MAX):
        raise HttpError(f"malformed Content-Length: {text[:40]!r}")
    return int(text)


def _check_codings(head: Head, codings: List[str], length: Optional[int]) -> None:
    if length is not None:
        raise HttpError("both Content-Length and Transfer-Encoding")
    if head.version == VERSION_1_0:
        raise HttpError("Transfer-Encoding in HTTP/1.0")
    if len(codings) != 1 or codings[0].strip().lower() != "chunked":
        raise HttpError(f"unknown transfer coding: {', '.join(codings)[:100]!r}")
