"""Lines of HTTP: taken apart exactly as the patterns of RFC 9110 and 9112 say."""
from __future__ import annotations

import random
import re
from typing import Optional, Tuple

import pytest

from dfly.wire.lines import (
    chunk_size,
    head_end,
    is_negligible,
    is_text,
    is_token,
    split_header,
    split_request_line,
    split_status_line,
)

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e\x80-\xff]+) (HTTP/[0-9]\.[0-9])")
STATUS_LINE = re.compile(rb"(HTTP/[0-9]\.[0-9]) ([1-9][0-9]{2})((?: [\t\x20-\x7e\x80-\xff]*)?)")
HEADER_LINE = re.compile(rb"(" + TOKEN + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
HEAD_END = re.compile(rb"\n\r?\n")
LINES = [b"GET /a?b HTTP/1.1", b"HTTP/1.1 200 OK", b"HTTP/1.0 404", b"Host: a:1", b"X:\t a \t",
         b"1fF ;x=y", b"0", b"a\r\n\r\nb\n\n", b"GET  / HTTP/1.1", b"HTTP/1.1 200 "]
MUTATIONS = 20_000


def mutated(rng: random.Random) -> bytes:
    line = bytearray(rng.choice(LINES))
    for _ in range(rng.randrange(4)):
        position = rng.randrange(len(line) + 1)
        line[position:position + rng.randrange(2)] = rng.choice(
            [b"", b" ", b"\t", b":", b"\r", b"\n", b"\0", b"\x7f", b"\x80", b"9", b"f", b"/",
             bytes([rng.randrange(256)])])
    return bytes(line)


def by_pattern(pattern: "re.Pattern[bytes]", line: bytes) -> Optional[Tuple[bytes, ...]]:
    match = pattern.fullmatch(line)
    return tuple(match.groups()) if match else None


def test_every_line_is_what_the_pattern_says() -> None:
    rng = random.Random(1)
    for _ in range(MUTATIONS):
        line = mutated(rng)
        assert split_request_line(line) == by_pattern(REQUEST_LINE, line)
        status = by_pattern(STATUS_LINE, line)
        assert split_status_line(line) == (status and (status[0], int(status[1]), status[2]))
        header = by_pattern(HEADER_LINE, line)
        assert split_header(line) == (header and (header[0], header[1].rstrip(b" \t")))
        size = by_pattern(CHUNK_LINE, line)
        assert chunk_size(line) == (int(size[0], 16) if size else None)
        end = HEAD_END.search(line)
        assert head_end(bytearray(line), 0) == (end.end() if end else 0)


@pytest.mark.parametrize("code", range(256))
def test_each_byte_has_its_place(code: int) -> None:
    byte = bytes([code])
    assert is_token(byte) == bool(re.fullmatch(TOKEN, byte))
    assert is_text(byte) == bool(re.fullmatch(rb"[\t\x20-\x7e\x80-\xff]*", byte))
    assert is_text(b"") and not is_token(b"")


@pytest.mark.parametrize("code", range(256))
def test_a_header_with_control_bytes_may_be_left_out(code: int) -> None:
    may_be = code < 0x20 and code not in b"\0\t\r\n" or code == 0x7f
    value = b"a" + bytes([code]) + b"b"
    assert is_negligible(b"X-Any: " + value) is may_be or split_header(b"X-Any: " + value)
    for name in (b"Content-Length", b"transfer-encoding", b"Content-Encoding", b"", b"X Y",
                 b"X" + bytes([code]) if may_be else b" X"):
        assert not is_negligible(name + b": " + value)
