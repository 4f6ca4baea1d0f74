"""Ranges of bytes as HTTP's headers write them (RFC 9110 14), for both roles."""
from __future__ import annotations

import re
from typing import Optional, Tuple

from dfly.errors import ProtocolError
from dfly.wire.bodies import LENGTH_MAX
from dfly.wire.http11 import HttpError

_FLAGS = re.ASCII | re.IGNORECASE
_RANGE = r"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*"
_CONTENT_RANGE = r"bytes[ \t]+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)"
_UNSATISFIED = r"bytes[ \t]+\*/([0-9]{1,19})"


class RangeError(HttpError):
    """A range that lies outside its content."""

    def __init__(self, what: str) -> None:
        super().__init__(what, 416)


def parse_range(value: str, length: int) -> Optional[Tuple[int, int]]:
    """[start, stop) of a `Range` header for a content of `length` bytes, clipped to it.

    None = answer with the whole content: several ranges, another unit, or malformed (RFC 9110
    14.2 lets a server ignore those). RangeError when it lies outside the content.
    """
    match = re.fullmatch(_RANGE, value.strip(), _FLAGS)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        size = min(int(match[2]), length)
        if not size:
            raise RangeError(f"range {value[:60]!r} of {length} bytes is empty")
        return length - size, length
    start = int(match[1])
    last = int(match[2]) if match[2] else length - 1
    if match[2] and last < start:
        return None
    if start >= length:
        raise RangeError(f"range {value[:60]!r} begins beyond the {length} bytes there are")
    return start, min(last + 1, length)


def parse_content_range(value: str) -> Tuple[int, int, Optional[int]]:
    """(start, stop, total) of a `Content-Range` header; total None for `*`."""
    match = re.fullmatch(_CONTENT_RANGE, value.strip(), _FLAGS)
    if match is None:
        raise ProtocolError(f"malformed Content-Range: {value[:100]!r}")
    start, stop = int(match[1]), int(match[2]) + 1
    total = None if match[3] == "*" else int(match[3])
    if stop <= start or stop > LENGTH_MAX or (total is not None and stop > total):
        raise ProtocolError(f"impossible Content-Range: {value[:100]!r}")
    return start, stop, total


def parse_unsatisfied_range(value: str) -> Optional[int]:
    """The total in the `Content-Range: bytes */TOTAL` of a 416 answer; None if it has none."""
    match = re.fullmatch(_UNSATISFIED, value.strip(), _FLAGS)
    return int(match[1]) if match else None


def format_content_range(start: int, stop: int, total: Optional[int]) -> str:
    assert 0 <= start < stop, (start, stop)
    return f"bytes {start}-{stop - 1}/{'*' if total is None else total}"
