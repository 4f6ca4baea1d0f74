"""What is distributed: tasks, their pieces, and sets of pieces.

A task is one immutable content. Its id says which URL (or which digest) it came from, its version
which state of that URL; the pair names bytes that never change. A piece set is a plain int used as
a bitmap (bit i = piece i): union, difference and "nothing left" are single operations on it,
whatever the count. Nothing here touches the network or the disk.
"""
from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Iterable, Iterator, Optional, Tuple

from dfly.digest import Digest
from dfly.errors import ProtocolError
from dfly.names import canonical_url
from dfly.units import KIB, MIB

PIECE_SIZE_MIN = 256 * KIB
PIECE_SIZE_MAX = 16 * MIB
PIECES_WANTED = 1024     # the smallest piece size that keeps a task at this many or fewer
PIECES_MAX = 1 << 20     # bound for what a remote may claim: 16 TiB in 16 MiB pieces
INLINE_MAX = 64 * KIB    # a task up to this size rides in the answer to Join
VERSION_MAX = 512        # bytes of a version on the wire
MIRRORS_MAX = 32         # other URLs of one content
VOUCHED_MAX = 8_192      # piece hashes told beforehand (Metalink): a quarter of a MiB of SHA-256


# ------------------------------------------------------------------------------ identity
@dataclass(frozen=True)
class Vouched:
    """Digests of a content's parts that were told beforehand (a Metalink's): part i is bytes
    [i * length, (i + 1) * length), the last may be short; `values` are raw, one after the other."""

    algorithm: str
    length: int
    values: bytes

    @property
    def name(self) -> str:
        """64 hex digits that name all of it."""
        seal = f"{self.algorithm} {self.length}\0".encode() + self.values
        return hashlib.sha256(seal).hexdigest()

    @property
    def fits(self) -> bool:
        """True if pieces can be cut so that each is a whole number of parts."""
        return 0 < self.length <= PIECE_SIZE_MAX and self.length & (self.length - 1) == 0


@dataclass(frozen=True)
class TaskSpec:
    """What a user asks for. `filters` = names of query parameters that don't matter; `mirrors` =
    other URLs of the same content; `span` = only bytes [start, stop) of it, stop None = its end,
    a negative start counts from the end; `trust` = Access.trust_name of whoever asks; `vouched`
    and `size` (bytes) are what was told of the whole content beforehand."""

    url: str
    tag: str = ""
    filters: Tuple[str, ...] = ()
    digest: Optional[Digest] = None
    mirrors: Tuple[str, ...] = ()
    span: Optional[Tuple[int, Optional[int]]] = None
    trust: str = ""
    vouched: Optional[Vouched] = None
    size: Optional[int] = None

    @property
    def checks(self) -> Optional[Vouched]:
        """Digests that the pieces of this task can be compared with."""
        fits = self.vouched is not None and self.vouched.fits and self.span is None
        return self.vouched if fits else None

    @property
    def task_id(self) -> str:
        """64 hex digits: over the digest alone where a strong one is known, else URL and tag."""
        seal = hashlib.sha256()
        if self.digest is not None and self.digest.is_strong:
            seal.update(b"dfly task by digest\0" + str(self.digest).encode())
        else:
            for part in (b"dfly task by url", canonical_url(self.url, self.filters).encode(),
                         self.tag.encode("utf-8", "surrogatepass"), *self._particulars()):
                seal.update(len(part).to_bytes(4, "big") + part)
        return seal.hexdigest()

    def _particulars(self) -> Iterator[bytes]:
        """What makes another content of the same URL, or of whom its bytes may be."""
        for mirror in self.mirrors:
            yield b"mirror " + canonical_url(mirror, self.filters).encode()
        if self.span is not None:
            yield f"span {self.span[0]} {self.span[1]}".encode()
        if self.trust:
            yield b"trust " + self.trust.encode()
        if self.vouched is not None:
            yield b"vouched " + self.vouched.name.encode()
        if self.size is not None:
            yield f"size {self.size}".encode()


# ------------------------------------------------------------------------------ geometry
def piece_size_for(length: Optional[int], vouched: Optional[Vouched] = None) -> int:
    """Bytes per piece: smallest power of two within bounds for at most PIECES_WANTED pieces, and
    not less than the parts whose digests are told.

    An unknown length gets 1 MiB: 1,024 pieces hold a GiB, and PIECES_MAX a TiB.
    """
    size = PIECE_SIZE_MIN
    if vouched is not None and vouched.fits:
        size = max(size, vouched.length)
    if length is None:
        return max(size, MIB)
    while size < PIECE_SIZE_MAX and size * PIECES_WANTED < length:
        size *= 2
    return size


@dataclass(frozen=True)
class Geometry:
    """How a content of `length` bytes is cut. Length None = not known yet (chunked source)."""

    length: Optional[int]
    piece_size: int

    @property
    def piece_count(self) -> Optional[int]:
        """Number of pieces; an empty content has none; None while the length is unknown."""
        if self.length is None:
            return None
        return -(-self.length // self.piece_size)

    def start(self, piece_index: int) -> int:
        """Offset in bytes of the piece's first byte."""
        return piece_index * self.piece_size

    def stop(self, piece_index: int) -> int:
        """Offset in bytes just past the piece (the last may be short)."""
        end = (piece_index + 1) * self.piece_size
        return end if self.length is None else min(end, self.length)

    def size_of(self, piece_index: int) -> int:
        return self.stop(piece_index) - self.start(piece_index)

    def pieces_of(self, start: int, stop: int) -> range:
        """Indexes of the pieces that the bytes [start, stop) touch."""
        if stop <= start:
            return range(0)
        return range(start // self.piece_size, -(-stop // self.piece_size))


def check_geometry(length: Optional[int], piece_size: int) -> Geometry:
    """Geometry from a remote's claim, or ProtocolError."""
    fits = PIECE_SIZE_MIN <= piece_size <= PIECE_SIZE_MAX and piece_size & (piece_size - 1) == 0
    if not fits or (length is not None and not 0 <= length <= PIECES_MAX * piece_size):
        raise ProtocolError(f"impossible task geometry: {length} bytes in {piece_size}-byte pieces")
    return Geometry(length, piece_size)


# ---------------------------------------------------------------------------- piece sets
def full_set(piece_count: int) -> int:
    """The piece set that holds pieces 0 .. piece_count-1."""
    return (1 << piece_count) - 1


def run_set(first: int, count: int) -> int:
    """The piece set of one run."""
    return ((1 << count) - 1) << first


def set_of(pieces: Iterable[int]) -> int:
    bitmap = 0
    for piece_index in pieces:
        bitmap |= 1 << piece_index
    return bitmap


def members(piece_set: int) -> Iterator[int]:
    """Piece indexes in the set, ascending."""
    while piece_set:
        lowest_bit = piece_set & -piece_set
        yield lowest_bit.bit_length() - 1
        piece_set ^= lowest_bit


def lowest(piece_set: int) -> int:
    """Smallest piece index in a non-empty set."""
    assert piece_set
    return (piece_set & -piece_set).bit_length() - 1


def count_of(piece_set: int) -> int:
    """Number of pieces in the set (int.bit_count came with Python 3.10)."""
    return bin(piece_set).count("1")


def runs_of(piece_set: int) -> Iterator[Tuple[int, int]]:
    """The set as (first, count) runs, ascending."""
    base = 0
    while piece_set:
        gap = lowest(piece_set)
        piece_set >>= gap
        base += gap
        count = lowest(~piece_set)
        yield base, count
        piece_set >>= count
        base += count


def set_to_bytes(piece_set: int) -> bytes:
    """Little-endian bitmap, without trailing zero bytes."""
    return piece_set.to_bytes((piece_set.bit_length() + 7) // 8, "little")


def set_from_bytes(data: bytes, piece_count: int) -> int:
    """A piece set from a remote's bitmap; pieces that can't exist are a ProtocolError."""
    piece_set = int.from_bytes(data, "little")
    if piece_set.bit_length() > piece_count:
        raise ProtocolError(f"a piece set claims piece {piece_set.bit_length() - 1} "
                            f"of a task with {piece_count}")
    return piece_set
