"""How a message's tail is written and read: bytes, texts and JSON, each behind its length.

Every read names its bound; whatever is missing, over its bound or not what it should be is a
MessageError. Only messages.py uses this: it is apart so that the list of messages reads as one.
"""
from __future__ import annotations

import json
import struct
from typing import Any, Dict, Mapping

from dfly.errors import ProtocolError

TEXT_MAX = 4_096         # bytes of one short text: names, labels, error lines
JSON_MAX = 128 * 1024    # bytes of one JSON tail: a Join with 64 KiB of headers is the largest
_U32 = struct.Struct("!I")


class MessageError(ProtocolError):
    """A body that isn't its message."""


class Reader:
    """Takes the tail of a body apart; anything missing or over its bound is a MessageError."""

    def __init__(self, body: bytes, position: int) -> None:
        self._body = body
        self._position = position

    def take(self, bound: int) -> bytes:
        if self._position + 4 > len(self._body):
            raise MessageError("a message ends inside a field")
        (size,) = _U32.unpack_from(self._body, self._position)
        start = self._position + 4
        if size > bound:
            raise MessageError(f"a field of {size} bytes is over its bound of {bound}")
        if start + size > len(self._body):
            raise MessageError("a message ends inside a field")
        self._position = start + size
        return self._body[start:self._position]

    def text(self, bound: int = TEXT_MAX) -> str:
        try:
            return self.take(bound).decode("utf-8")
        except UnicodeDecodeError:
            raise MessageError("a text that isn't UTF-8") from None

    def mapping(self) -> Dict[str, Any]:
        try:
            value = json.loads(self.take(JSON_MAX))
        except (ValueError, RecursionError):
            raise MessageError("a JSON field that isn't JSON") from None
        if not isinstance(value, dict):
            raise MessageError("a JSON field that isn't an object")
        return value


def put_bytes(data: bytes, bound: int) -> bytes:
    assert len(data) <= bound, (len(data), bound)
    return _U32.pack(len(data)) + data


def put_text(text: str, bound: int = TEXT_MAX) -> bytes:
    data = text.encode("utf-8", "replace")
    if len(data) > bound:  # an over-long text is cut, never a reason to break a link
        data = data[:bound].decode("utf-8", "ignore").encode("utf-8")
    return put_bytes(data, bound)


def put_mapping(value: Mapping[str, Any]) -> bytes:
    return put_bytes(json.dumps(value, separators=(",", ":"), sort_keys=True).encode(), JSON_MAX)
