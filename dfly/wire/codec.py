"""How a message's tail is written and read: bytes, texts and JSON, each behind its length.

Every read names its bound; whatever is missing, over its bound or not what it should be is a
MessageError. Only messages.py uses this: it is apart so that the list of messages reads as one.
"""
from __future__ import annotations

import json
import struct
from base64 import b64decode, b64encode
from typing import Any, Dict, Mapping, Optional, Tuple

from dfly.access import Access, SourceFacts, access_of, facts_of
from dfly.digest import SIZES, Digest
from dfly.errors import ProtocolError, UsageError
from dfly.names import URL_MAX
from dfly.task import MIRRORS_MAX, PIECES_MAX, VOUCHED_MAX, TaskSpec, Vouched, set_to_bytes

TEXT_MAX = 4_096         # bytes of one short text: names, labels, error lines
JSON_MAX = 128 * 1024    # bytes of one JSON tail: a source's facts with 64 KiB of cookies
WISH_MAX = 800 * 1024    # of what a Join asks for: a CA bundle and piece hashes are the largest
BITMAP_MAX = PIECES_MAX // 8
LIST_MAX = 100           # filters in a wish
SPAN_MAX = 1 << 62
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

    def mapping(self, bound: int = JSON_MAX) -> Dict[str, Any]:
        try:
            value = json.loads(self.take(bound))
        except (ValueError, RecursionError):
            raise MessageError("a JSON field that isn't JSON") from None
        if not isinstance(value, dict):
            raise MessageError("a JSON field that isn't an object")
        return value

    def piece_set(self) -> int:
        return int.from_bytes(self.take(BITMAP_MAX), "little")

    def wish(self) -> Tuple[TaskSpec, Access]:
        return wish_from(self.mapping(WISH_MAX))

    def facts(self) -> SourceFacts:
        try:
            return facts_of(self.mapping())
        except ProtocolError as error:
            raise MessageError(error.what) from None


def put_bytes(data: bytes, bound: int) -> bytes:
    assert len(data) <= bound, (len(data), bound)
    return _U32.pack(len(data)) + data


def put_text(text: str, bound: int = TEXT_MAX) -> bytes:
    data = text.encode("utf-8", "replace")
    if len(data) > bound:  # an over-long text is cut, never a reason to break a link
        data = data[:bound].decode("utf-8", "ignore").encode("utf-8")
    return put_bytes(data, bound)


def put_mapping(value: Mapping[str, Any], bound: int = JSON_MAX) -> bytes:
    return put_bytes(_dumped(value), bound)


def _dumped(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def put_facts(facts: SourceFacts) -> bytes:
    """What a source said; nothing where that is too much (escapes can make it many times longer):
    it is never a reason to break a link."""
    data = _dumped(facts.to_json())
    return put_bytes(data if len(data) <= JSON_MAX else b"{}", JSON_MAX)


def put_set(piece_set: int) -> bytes:
    """A piece set: a bitmap, little-endian, bit i = piece i."""
    return put_bytes(set_to_bytes(piece_set), BITMAP_MAX)


def put_wish(spec: TaskSpec, access: Access) -> bytes:
    """What a Join asks for, as JSON."""
    wanted: Dict[str, Any] = {
        "url": spec.url, "tag": spec.tag, "filters": list(spec.filters),
        "digest": str(spec.digest) if spec.digest else "", "access": access.to_json()}
    if spec.mirrors:
        wanted["mirrors"] = list(spec.mirrors)
    if spec.span is not None:
        wanted["span"] = list(spec.span)
    if spec.size is not None:
        wanted["size"] = spec.size
    if spec.vouched is not None:
        wanted["vouched"] = {"algorithm": spec.vouched.algorithm, "length": spec.vouched.length,
                             "values": b64encode(spec.vouched.values).decode("ascii")}
    return put_mapping(wanted, WISH_MAX)


def wish_from(wanted: Mapping[str, Any]) -> Tuple[TaskSpec, Access]:
    """TaskSpec and Access out of the JSON that asks for them, every type and bound checked."""
    url, tag, digest = wanted.get("url"), wanted.get("tag", ""), wanted.get("digest", "")
    filters = _texts(wanted.get("filters", []), LIST_MAX)
    mirrors = _texts(wanted.get("mirrors", []), MIRRORS_MAX)
    if not all(isinstance(text, str) and len(text) <= URL_MAX
               for text in (url, tag, digest, *filters, *mirrors)):
        raise MessageError("a wish with a malformed URL, tag, filter or digest")
    try:
        known = Digest.parse(digest) if digest else None
        access = access_of(wanted.get("access", {}))
    except (UsageError, ProtocolError) as error:
        raise MessageError(str(error)) from None
    spec = TaskSpec(str(url), str(tag), filters, known, mirrors, _span(wanted.get("span")),
                    vouched=_vouched(wanted.get("vouched")), size=_size(wanted.get("size")))
    return spec, access


def _texts(value: object, bound: int) -> Tuple[str, ...]:
    if not isinstance(value, list) or len(value) > bound:
        raise MessageError("a wish with a list that is none, or too long")
    return tuple(value)


def _span(value: object) -> Optional[Tuple[int, Optional[int]]]:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2:
        start, stop = value
        if (type(start) is int and abs(start) < SPAN_MAX
                and (stop is None or (type(stop) is int and 0 <= start < stop < SPAN_MAX))):
            return start, stop
    raise MessageError("a wish for an impossible span of bytes")


def _size(value: object) -> Optional[int]:
    if value is None or (type(value) is int and 0 <= value < SPAN_MAX):
        return value
    raise MessageError("a wish with an impossible size")


def _vouched(value: object) -> Optional[Vouched]:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise MessageError("a wish with malformed piece hashes")
    algorithm, length, values = (value.get(name) for name in ("algorithm", "length", "values"))
    if not (isinstance(algorithm, str) and algorithm in SIZES and type(length) is int
            and length > 0 and isinstance(values, str)):
        raise MessageError("a wish with malformed piece hashes")
    try:
        raw = b64decode(values, validate=True)
    except ValueError:
        raise MessageError("a wish with malformed piece hashes") from None
    if len(raw) % SIZES[algorithm] or len(raw) > VOUCHED_MAX * SIZES[algorithm]:
        raise MessageError("a wish with an impossible number of piece hashes")
    return Vouched(algorithm, length, raw)
