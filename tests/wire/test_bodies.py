"""Where HTTP/1.1 bodies end: whole, cut anywhere, truncated, and mutated."""
from __future__ import annotations

import random
from typing import List, Tuple, Type

import pytest

from dfly.errors import ProtocolError
from dfly.wire.bodies import (
    CHUNK_LINE_MAX,
    PARTS_MAX,
    TRAILER_MAX,
    Body,
    ChunkedBody,
    CloseBody,
    LengthBody,
    NoBody,
    body_of,
)
from dfly.wire.http11 import HeadParser, HttpError, ResponseHead


def framing(*lines: str, version: str = "1.1") -> Body:
    """Of a request with these header lines."""
    text = "\r\n".join([f"POST / HTTP/{version}", "Host: a", *lines, "", ""])
    head = HeadParser("request").feed(text.encode("latin-1"))
    assert head is not None
    return body_of(head)


def test_a_body_is_framed_by_length_or_chunks() -> None:
    assert isinstance(framing(), NoBody)
    assert framing("Content-Length: 12").remaining == 12
    assert framing("Content-Length: 12", "content-length: 12").remaining == 12
    assert isinstance(framing("Transfer-Encoding: Chunked"), ChunkedBody)


@pytest.mark.parametrize("lines", [
    ("Content-Length: 1", "Transfer-Encoding: chunked"),
    ("Content-Length: 1", "Content-Length: 2"), ("Content-Length: 1, 2",),
    ("Content-Length: -1",), ("Content-Length: +1",), ("Content-Length: 0x1",),
    ("Content-Length: 1 2",), ("Content-Length:",), ("Content-Length: 1e3",),
    ("Content-Length: 99999999999999999999",), ("Content-Length: 9999999999999999999",),
    ("Content-Length: \xb2",),
    ("Transfer-Encoding: gzip, chunked",), ("Transfer-Encoding: chunked, chunked",),
    ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), ("Transfer-Encoding: xchunked",),
    ("Transfer-Encoding: identity",), ("Transfer-Encoding: chunked;q=1",), ("Transfer-Encoding:",),
])
def test_ambiguous_framing_is_refused(lines: Tuple[str, ...]) -> None:
    with pytest.raises(HttpError) as caught:
        framing(*lines)
    assert caught.value.status == 400


def test_chunks_in_http_1_0_are_refused() -> None:
    with pytest.raises(HttpError):
        framing("Transfer-Encoding: chunked", version="1.0")


@pytest.mark.parametrize("status,method,kind", [
    (200, "GET", CloseBody), (200, "HEAD", NoBody), (204, "GET", NoBody), (304, "GET", NoBody),
    (101, "GET", NoBody), (200, "CONNECT", NoBody), (404, "CONNECT", CloseBody),
])
def test_a_response_without_length(status: int, method: str, kind: Type[Body]) -> None:
    assert type(body_of(ResponseHead(status), method)) is kind


def drink(body: Body, data: bytes, cuts: Tuple[int, ...] = ()) -> Tuple[bytes, bytes]:
    """Feed all of `data`; (content, what was left over)."""
    content = bytearray()
    rest = bytearray()
    edges = [0, *sorted(cuts), len(data)]
    for start, stop in zip(edges, edges[1:]):
        view = memoryview(data)[start:stop]
        while len(view) and not body.done:
            parts, used = body.feed(view)
            assert used > 0 and sum(map(len, parts)) <= used
            content += b"".join(parts)
            view = view[used:]
        rest += view
    return bytes(content), bytes(rest)


def test_a_body_by_length_takes_exactly_that() -> None:
    body = LengthBody(5)
    assert drink(body, b"abc") == (b"abc", b"") and body.remaining == 2
    with pytest.raises(ProtocolError, match="truncated body: 3 of 5"):
        body.eof()
    assert drink(body, b"defgh") == (b"de", b"fgh") and body.done and body.remaining == 0
    body.eof()
    assert LengthBody(0).done


def test_a_body_until_close_ends_with_the_connection() -> None:
    body = CloseBody()
    assert drink(body, b"abc") == (b"abc", b"") and not body.done and body.remaining is None
    body.eof()
    assert body.done


CHUNKED = b"5\r\nhello\r\n0A;ext=\"v\"\r\n 0123\r\n678\r\n0\r\nX-Sum: 1\r\n\r\n"


def test_chunks_are_joined_and_trailers_dropped() -> None:
    body = ChunkedBody()
    assert drink(body, CHUNKED + b"next") == (b"hello 0123\r\n678", b"next")
    assert body.done and body.remaining == 0


def test_chunks_cut_anywhere() -> None:
    rng = random.Random(3)
    every = tuple(range(1, len(CHUNKED)))
    for cuts in [every, *(tuple(rng.sample(every, 4)) for _ in range(100))]:
        body = ChunkedBody()
        assert drink(body, CHUNKED + b"next", cuts) == (b"hello 0123\r\n678", b"next")
        assert body.done


def test_every_truncation_of_a_chunked_body_is_noticed() -> None:
    for size in range(len(CHUNKED)):
        body = ChunkedBody()
        drink(body, CHUNKED[:size])
        assert not body.done
        with pytest.raises(ProtocolError, match="truncated"):
            body.eof()


@pytest.mark.parametrize("bad", [
    b"\r\n", b"x\r\n", b"-1\r\n", b"+1\r\nx", b"0x1\r\n", b" 1\r\n", b"1 2\r\n", b"1\n",
    b"5\r\nhelloX\r\n", b"5\r\nhello\n", b"5\r\nhello0\r\n", b"1\x00\r\n", b"1;a\rb\r\n",
    b"fffffffffffffffff\r\n", b"ffffffffffffffff\r\n", b"1" * (CHUNK_LINE_MAX + 1),
    b"1;" + b"a" * CHUNK_LINE_MAX + b"\r\n",
    b"0\r\nno colon\r\n\r\n", b"0\r\n folded: x\r\n\r\n",
    b"0\r\n" + (b"X: " + b"a" * 500 + b"\r\n") * (TRAILER_MAX // 500 + 1) + b"\r\n",
])
def test_malformed_chunks_are_refused(bad: bytes) -> None:
    with pytest.raises(HttpError):
        drink(ChunkedBody(), bad)
    with pytest.raises(HttpError):
        drink(ChunkedBody(), bad, tuple(range(1, len(bad))))


def test_mutated_chunks_end_give_content_or_an_http_error() -> None:
    rng = random.Random(11)
    for _ in range(3_000):
        data = bytearray(CHUNKED)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        cuts = tuple(rng.randrange(len(data)) for _ in range(3))
        results: List[object] = []
        for places in ((), cuts):
            try:
                results.append(drink(ChunkedBody(), bytes(data), places))
            except HttpError:
                results.append("refused")
        assert results[0] == results[1], bytes(data)


def test_a_flood_of_tiny_chunks_is_handed_out_in_bounded_portions() -> None:
    data = b"1\r\nx\r\n" * (PARTS_MAX * 2)
    parts, used = ChunkedBody().feed(memoryview(data))
    assert len(parts) == PARTS_MAX and used < len(data)
    assert drink(ChunkedBody(), data)[0] == b"x" * (PARTS_MAX * 2)
