"""HTTP/1.1 heads: whole, byte by byte, cut anywhere, and mutated."""
from __future__ import annotations

import random
from typing import Optional, Tuple

import pytest

from dfly.wire.bodies import body_of
from dfly.wire.http11 import (
    HEADERS_MAX,
    Head,
    Headers,
    HeadParser,
    HttpError,
    RequestHead,
    ResponseHead,
    keep_alive,
)

REQUEST = (b"GET /v1/tasks/ab?x=1 HTTP/1.1\r\nHost: files.example:8080\r\nRange: bytes=0-99\r\n"
           b"X-Empty:\r\nX-Twice: one\r\nx-twice:  two \t\r\n\r\n")
RESPONSE = (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 100\r\n"
            b"Content-Range: bytes 0-99/1000\r\nX-Latin: caf\xe9\r\n\r\n")


def parse(kind: str, data: bytes, cuts: Tuple[int, ...] = ()) -> Tuple[Optional[Head], bytes]:
    """Feed `data` cut at the given places; the head and what came behind it."""
    parser = HeadParser(kind)
    edges = [0, *sorted(cuts), len(data)]
    for start, stop in zip(edges, edges[1:]):
        head = parser.feed(data[start:stop])
        if head is not None:
            return head, parser.rest + data[stop:]
    return None, b""


def refusal(kind: str, data: bytes) -> HttpError:
    with pytest.raises(HttpError) as caught:
        parse(kind, data)
    return caught.value


def request(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join(["POST / HTTP/1.1", "Host: a", *lines, "", ""]).encode("latin-1") + body


# --------------------------------------------------------------------------------- heads
def test_a_request_head_is_read_and_the_rest_kept() -> None:
    head, rest = parse("request", REQUEST + b"body")
    assert isinstance(head, RequestHead) and rest == b"body"
    assert (head.method, head.target, head.version) == ("GET", "/v1/tasks/ab?x=1", (1, 1))
    assert head.headers.get("range") == "bytes=0-99"
    assert head.headers.get("x-empty") == ""
    assert head.headers.all("X-TWICE") == ["one", "two"]


def test_a_response_head_is_read() -> None:
    head, _ = parse("response", RESPONSE)
    assert isinstance(head, ResponseHead)
    assert (head.status, head.reason) == (206, "Partial Content")
    assert head.headers.get("X-Latin") == "caf\xe9"


@pytest.mark.parametrize("line", [b"HTTP/1.1 200\r\n", b"HTTP/1.1 200 \r\n", b"HTTP/1.0 200 OK\n"])
def test_odd_but_harmless_status_lines_pass(line: bytes) -> None:
    head, _ = parse("response", line + b"\r\n")
    assert isinstance(head, ResponseHead) and head.status == 200


def test_a_server_may_end_its_lines_with_a_bare_lf_and_a_client_may_not() -> None:
    head, rest = parse("response", b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx")
    assert head is not None and head.headers.get("Content-Length") == "1" and rest == b"x"
    assert refusal("request", b"GET / HTTP/1.1\nHost: a\n\n").status == 400
    assert refusal("request", b"GET / HTTP/1.1\r\nHost: a\r\n\n").status == 400


def test_empty_lines_before_a_request_are_skipped() -> None:
    head, rest = parse("request", b"\r\n\r\n" + REQUEST + b"!")
    assert isinstance(head, RequestHead) and rest == b"!"


@pytest.mark.parametrize("kind,data", [("request", REQUEST), ("request", b"\r\n" + REQUEST),
                                       ("response", RESPONSE)])
def test_cuts_anywhere_change_nothing(kind: str, data: bytes) -> None:
    data += b"rest"
    whole = parse(kind, data)
    assert whole[0] is not None
    assert parse(kind, data, tuple(range(1, len(data)))) == whole
    rng = random.Random(1)
    for _ in range(200):
        cuts = tuple(rng.randrange(len(data)) for _ in range(rng.randrange(6)))
        assert parse(kind, data, cuts) == whole


@pytest.mark.parametrize("kind,data", [("request", REQUEST), ("response", RESPONSE)])
def test_what_was_parsed_encodes_to_the_same_head(kind: str, data: bytes) -> None:
    head, _ = parse(kind, data)
    assert head is not None
    assert parse(kind, head.encode()) == (head, b"")


@pytest.mark.parametrize("bad", [
    b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",            # two spaces
    b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    b"GET / x HTTP/1.1\r\nHost: a\r\n\r\n",           # a space in the target
    b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\r\nHost: a\r\n\r\n",                      # HTTP/0.9
    b"G\xc3T / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",                        # no Host
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a/../b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",            # space before the colon
    b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",  # obs-fold
    b"GET / HTTP/1.1\r\n folded: a\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",  # bare CR
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n: no name\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX(): a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n\r\n",  # bare LF smuggles a header
])
def test_malformed_requests_are_refused_with_400(bad: bytes) -> None:
    assert refusal("request", bad).status == 400


def test_a_servers_header_with_control_bytes_counts_as_not_there() -> None:
    told = b"X-Odd: a\x01\x1b[31m\x7fb\r\nETag: \x02\r\nContent-Length: 0\r\n\r\n"
    head, rest = parse("response", b"HTTP/1.1 200 OK\r\n" + told + b"!")
    assert head is not None and list(head.headers) == [("Content-Length", "0")] and rest == b"!"
    assert refusal("request", b"GET / HTTP/1.1\r\nHost: a\r\n" + told).status == 400


@pytest.mark.parametrize("bad", [
    b"X: a\x00b", b"X: a\rb", b"X: a\x01\x00", b"Content-Length: 1\x01",
    b"transfer-encoding: chunked\x0b", b"Content-Encoding: \x08gzip", b"X\x01: a", b"X : \x01",
    b" folded\x01", b"no colon\x01", b": \x01"])
def test_a_servers_header_that_may_matter_is_refused(bad: bytes) -> None:
    assert "malformed header" in refusal(
        "response", b"HTTP/1.1 200 OK\r\n" + bad + b"\r\n\r\n").what


@pytest.mark.parametrize("kind,start", [("request", b"\x16\x03\x01"), ("request", b"\x00"),
                                        ("request", b"\x80\x01"), ("response", b"SSH-2.0"),
                                        ("response", b"\x15\x03"), ("response", b"<html>")])
def test_garbage_is_refused_at_its_first_bytes(kind: str, start: bytes) -> None:
    assert refusal(kind, start).status == 400


@pytest.mark.parametrize("version", [b"2.0", b"0.9", b"1.2", b"3.1"])
def test_other_versions_are_refused(version: bytes) -> None:
    assert refusal("request", b"GET / HTTP/" + version + b"\r\nHost: a\r\n\r\n").status == 505


def test_long_heads_are_refused_by_what_is_long() -> None:
    assert refusal("request", b"GET /" + b"a" * 70_000).status == 414
    long_header = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000
    assert refusal("request", long_header).status == 431
    assert refusal("request", long_header + b"\r\n\r\n").status == 431
    many = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * HEADERS_MAX + b"\r\n"
    assert refusal("request", many).status == 431
    assert refusal("request", b"\r\n" * 40_000).status == 400
    assert refusal("response", b"HTTP/1.1 200 " + b"a" * 70_000).status == 431


def test_a_head_of_exactly_the_bound_passes() -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n"
    padded = data.replace(b"X: ", b"X: " + b"a" * (500 - len(data)))
    assert HeadParser("request", 500).feed(padded) is not None
    with pytest.raises(HttpError):
        HeadParser("request", 499).feed(padded)


def test_mutated_heads_give_a_head_or_an_http_error_and_nothing_else() -> None:
    rng = random.Random(7)
    survivors = 0
    for round_number in range(6_000):
        kind, seed = (("request", REQUEST), ("response", RESPONSE))[round_number % 2]
        data = bytearray(seed)
        for _ in range(rng.randrange(1, 5)):
            place = rng.randrange(len(data))
            action = rng.randrange(3)
            if action == 0:
                data[place] = rng.choice(b"\r\n :\x00\xff0Aa,;") if rng.random() < .5 \
                    else rng.randrange(256)
            elif action == 1:
                del data[place]
            else:
                data[place:place] = rng.choice([b"\r\n", b"\n", b"\r", b" ", b":", b"\r\n\r\n"])
        cuts = tuple(rng.randrange(len(data)) for _ in range(rng.randrange(4)))
        outcomes = [_outcome(kind, bytes(data), ()), _outcome(kind, bytes(data), cuts)]
        assert outcomes[0] == outcomes[1], bytes(data)
        survivors += isinstance(outcomes[0], tuple)
    assert 0 < survivors < 6_000


def _outcome(kind: str, data: bytes, cuts: Tuple[int, ...]) -> object:
    try:
        head, rest = parse(kind, data, cuts)
        if head is not None:
            body_of(head, "GET")
        return head, rest
    except HttpError as error:
        return error.status


def test_headers_keep_order_and_forget_case() -> None:
    headers = Headers([("A", "1"), ("B", "2"), ("a", "3")])
    assert headers.get("a") == "1" and headers.all("A") == ["1", "3"] and "b" in headers
    headers.set("a", "9")
    assert list(headers) == [("a", "9"), ("B", "2")]
    headers.set("C", "x")
    headers.remove("b")
    assert list(headers) == [("a", "9"), ("C", "x")] and headers.get("B", "none") == "none"
    assert Headers([("Connection", "Keep-Alive, Upgrade")]).tokens("connection") == [
        "keep-alive", "upgrade"]


@pytest.mark.parametrize("head", [
    RequestHead("GET", "/a b"), RequestHead("G T", "/"), RequestHead("GET", "/\r\nX: y"),
    RequestHead("GET", "/", Headers([("X", "a\r\nY: b")])),
    RequestHead("GET", "/", Headers([("X: y", "a")])),
    ResponseHead(200, "OK\r\nX: y"), ResponseHead(200, "", Headers([("Location", "a\nb")])),
])
def test_a_head_that_would_split_is_never_written(head: Head) -> None:
    with pytest.raises(HttpError):
        head.encode()


def test_text_beyond_latin_1_goes_out_as_utf_8() -> None:
    assert b"X: \xe2\x82\xac\r\n" in RequestHead("GET", "/", Headers([("X", "\u20ac")])).encode()


@pytest.mark.parametrize("version,connection,stays", [
    ((1, 1), None, True), ((1, 1), "close", False), ((1, 1), "x, Close", False),
    ((1, 0), None, False), ((1, 0), "Keep-Alive", True),
])
def test_keep_alive(version: Tuple[int, int], connection: Optional[str], stays: bool) -> None:
    headers = Headers([("Connection", connection)] if connection else [])
    head = RequestHead("GET", "/", headers, version)
    assert keep_alive(head) is stays
    assert keep_alive(ResponseHead(200), head) is stays
