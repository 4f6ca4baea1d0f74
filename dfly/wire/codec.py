"""How a message's tail is written and read: bytes, texts and JSON, each behind its length.

Every read names its bound; whatever is missing, over its bound or not what it should be is a
MessageError. Only messages.py uses this: it is apart so that the list of messages reads as one.
"""
from __future__ import annotations

import json
import struct
from typing import Any, Dict, List, Mapping, Tuple

from dfly.digest import Digest
from dfly.errors import ProtocolError, UsageError
from dfly.names import URL_MAX
from dfly.task import PIECES_MAX, TaskSpec, set_to_bytes

TEXT_MAX = 4_096         # bytes of one short text: names, labels, error lines
JSON_MAX = 128 * 1024    # bytes of one JSON tail: a Join with 64 KiB of headers is the largest
BITMAP_MAX = PIECES_MAX // 8
HEADERS_MAX = 100        # request headers of a caller carried in a Join
HEADERS_BYTES_MAX = 64 * 1024
Headers = Tuple[Tuple[str, str], ...]
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


    def piece_set(self) -> int:
        return int.from_bytes(self.take(BITMAP_MAX), "little")

    def wish(self) -> Tuple[TaskSpec, Headers]:
        return _wish_of(self.mapping())


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


def put_set(piece_set: int) -> bytes:
    """A piece set: a bitmap, little-endian, bit i = piece i."""
    return put_bytes(set_to_bytes(piece_set), BITMAP_MAX)


def put_wish(spec: TaskSpec, headers: Headers) -> bytes:
    """What a Join asks for, as JSON."""
    return put_mapping({"url": spec.url, "tag": spec.tag, "filters": list(spec.filters),
                        "digest": str(spec.digest) if spec.digest else "",
                        "headers": [list(pair) for pair in headers]})


def _wish_of(wanted: Dict[str, Any]) -> Tuple[TaskSpec, Headers]:
    """TaskSpec and headers out of a Join's JSON, every type and bound checked."""
    url, tag = wanted.get("url"), wanted.get("tag", "")
    filters, digest = wanted.get("filters", []), wanted.get("digest", "")
    headers = wanted.get("headers", [])
    texts = [url, tag, digest]
    if isinstance(filters, list) and len(filters) <= HEADERS_MAX:
        texts += filters
    else:
        raise MessageError("a Join with malformed filters")
    if not all(isinstance(text, str) and len(text) <= URL_MAX for text in texts):
        raise MessageError("a Join with a malformed URL, tag, filter or digest")
    if not isinstance(headers, list) or len(headers) > HEADERS_MAX:
        raise MessageError("a Join with malformed headers")
    pairs: List[Tuple[str, str]] = []
    for pair in headers:
        if not (isinstance(pair, list) and len(pair) == 2
                and all(isinstance(part, str) for part in pair)):
            raise MessageError("a Join with malformed headers")
        pairs.append((pair[0], pair[1]))
    if sum(len(name) + len(value) for name, value in pairs) > HEADERS_BYTES_MAX:
        raise MessageError("a Join with too many bytes of headers")
    try:
        known = Digest.parse(digest) if digest else None
    except UsageError as error:
        raise MessageError(str(error)) from None
    return TaskSpec(str(url), str(tag), tuple(filters), known), tuple(pairs)
