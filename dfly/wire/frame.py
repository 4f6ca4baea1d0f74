"""Frames: how messages are cut out of the bytes of a control link.

A frame is a u32 length, a u16 message code, and `length` bytes of body, all big-endian. The
length is bounded before anything is kept, so a remote can make a link hold at most one frame
beyond what it reads at a time. No I/O, and no meaning of codes: that is messages.py.
"""
from __future__ import annotations

import struct
from typing import List, Tuple

from dfly.errors import ProtocolError

HEADER = struct.Struct("!IH")
HEADER_SIZE = HEADER.size
BODY_MAX = 1 << 20  # bytes; the largest honest body is a piece set (128 KiB) or digests (512 KiB)


class FrameError(ProtocolError):
    """The bytes can't be frames."""


def pack_frame(code: int, body: bytes) -> bytes:
    """One frame, ready to send."""
    assert len(body) <= BODY_MAX, (code, len(body))
    return HEADER.pack(len(body), code) + body


class FrameDecoder:
    """Bytes in, whole (code, body) frames out."""

    def __init__(self, body_max: int = BODY_MAX) -> None:
        self._body_max = body_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> List[Tuple[int, bytes]]:
        """The frames that `data` completes; FrameError for a length over the bound."""
        buffer = self._buffer
        if buffer:
            buffer += data
        source = buffer or data   # whole frames are mostly cut out of what came, uncopied
        frames: List[Tuple[int, bytes]] = []
        position, have = 0, len(source)
        while have - position >= HEADER_SIZE:
            size, code = HEADER.unpack_from(source, position)
            if size > self._body_max:
                raise FrameError(f"a frame of {size} bytes (message {code}) is over the bound "
                                 f"of {self._body_max}")
            end = position + HEADER_SIZE + size
            if end > have:
                break
            frames.append((code, bytes(source[position + HEADER_SIZE:end])))
            position = end
        if source is buffer:
            del buffer[:position]
        elif position < have:
            buffer += data[position:]
        return frames

    @property
    def pending(self) -> int:
        """Bytes kept of a frame that isn't whole yet."""
        return len(self._buffer)
