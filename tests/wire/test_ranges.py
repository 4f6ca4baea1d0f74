"""Ranges of bytes as headers write them."""
from __future__ import annotations

from typing import Callable, Optional, Tuple

import pytest

from dfly.errors import ProtocolError
from dfly.wire.ranges import (
    RangeError,
    format_content_range,
    parse_content_range,
    parse_range,
    parse_unsatisfied_range,
)


@pytest.mark.parametrize("value,span", [
    ("bytes=0-99", (0, 100)), ("bytes=10-10", (10, 11)), ("bytes=990-5000", (990, 1000)),
    ("bytes=5-", (5, 1000)), ("bytes=-10", (990, 1000)), ("bytes=-5000", (0, 1000)),
    ("Bytes = 0-1", None), ("BYTES=0-1", (0, 2)), ("bytes=0-1,5-6", None), ("bytes=5-4", None),
    ("bytes=-", None), ("bytes=a-b", None), ("items=0-1", None), ("", None),
    ("bytes=0-99999999999999999999", None), ("bytes=\u0661-2", None),
])
def test_a_range_is_clipped_or_ignored(value: str, span: Optional[Tuple[int, int]]) -> None:
    assert parse_range(value, 1000) == span


@pytest.mark.parametrize("value,length", [("bytes=1000-", 1000), ("bytes=2000-3000", 1000),
                                          ("bytes=-0", 1000), ("bytes=0-", 0), ("bytes=-5", 0)])
def test_a_range_outside_is_unsatisfiable(value: str, length: int) -> None:
    with pytest.raises(RangeError) as caught:
        parse_range(value, length)
    assert caught.value.status == 416


@pytest.mark.parametrize("text,value", [("bytes 0-99/1000", (0, 100, 1000)),
                                        ("bytes 5-5/*", (5, 6, None))])
def test_a_content_range_round_trips(text: str, value: Tuple[int, int, Optional[int]]) -> None:
    assert parse_content_range(text) == value
    assert format_content_range(*value) == text


@pytest.mark.parametrize("text", ["", "bytes", "bytes 5-4/10", "bytes 0-10/10", "bytes */10",
                                  "bytes=0-1/2", "items 0-1/2", "bytes -1-1/2", "bytes 0-/2",
                                  "bytes 0-9999999999999999999/*"])
def test_an_impossible_content_range_is_a_protocol_error(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_content_range(text)


def test_the_total_of_an_unsatisfied_range() -> None:
    parsed: Callable[[str], Optional[int]] = parse_unsatisfied_range
    assert parsed("bytes */0") == 0 and parsed("bytes */77") == 77 and parsed("bytes 0-1/2") is None
