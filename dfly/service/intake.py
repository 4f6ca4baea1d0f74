"""Content on its way into a task file: bytes to pieces, and the digest over all of them.

The sinks here run in movers' threads and know neither sources nor tries. What a piece is worth is
decided by the store's PieceSink; the rule of this file is that a piece held already is never
written again: its bytes are compared with what is held, so that a source whose content changed
without saying so can't get a half of it in. Of a body that broke the last bytes are recalled where
nothing else shows that the next one goes on with the same content. Where digests of parts were
told beforehand, a piece is compared with those before it is held.
"""
from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from dataclasses import dataclass, field
from typing import Callable, Optional, Union

from dfly.digest import SIZES, Digest, new_hasher
from dfly.errors import DflyError, DigestMismatch, ProtocolError
from dfly.source import SourceChanged
from dfly.store import TaskFile
from dfly.store.sink import PieceMismatch, PieceSink
from dfly.task import Vouched, lowest
from dfly.units import KIB, MIB

log = logging.getLogger(__name__)

HASH_TURN = 16 * MIB  # bytes of the whole digest hashed in one turn of a thread
HASH_READ = MIB       # bytes read at once for it
RECALL = 16 * KIB     # bytes by which one body is compared with the next


class Enough(DflyError):
    """Ends a body that has nothing more for us; people never see it."""


class Meter:
    """Content bytes received, counted in several threads."""

    def __init__(self) -> None:
        self.received = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self.received += count


@dataclass
class Intake:
    """What all sinks of one transfer share. `on_piece` and `satisfied` are called in movers'
    threads; `place` says for people where the bytes come from. `vouched`: digests of parts, told
    beforehand; DigestMismatch at once if the content's length can't be theirs."""

    task_file: TaskFile
    on_piece: Callable[[int], None]
    satisfied: Callable[[], bool]   # nothing more is wanted
    place: str
    meter: Meter = field(default_factory=Meter)
    vouched: Optional[Vouched] = None

    def __post_init__(self) -> None:
        vouched, geometry = self.vouched, self.task_file.geometry
        if vouched is None:
            return
        if not vouched.fits or geometry.piece_size % vouched.length:
            log.warning("%s: pieces of %d bytes can't be compared with hashes told beforehand of "
                        "every %d bytes", self.place, geometry.piece_size, vouched.length)
            self.vouched = None
        elif geometry.length is not None and geometry.length not in vouched_lengths(vouched):
            raise not_vouched(vouched, self.place, geometry.length)


def vouched_lengths(vouched: Vouched) -> range:
    """The lengths that a content of these parts can have."""
    count = len(vouched.values) // SIZES[vouched.algorithm]
    if count == 0:
        return range(1)
    return range((count - 1) * vouched.length + 1, count * vouched.length + 1)


def not_vouched(vouched: Vouched, place: str, length: int) -> DigestMismatch:
    """What to say of a content with another number of parts."""
    lengths = vouched_lengths(vouched)
    return DigestMismatch(f"{place} has {length} bytes, but the hashes told beforehand are of "
                          f"{lengths.start} to {lengths.stop - 1}", "the source has another file, "
                          "or the hashes are of another version")


class VouchedParts:
    """Takes the bytes of pieces, each from its start, and compares them part by part with what was
    told beforehand: PieceMismatch before the last byte of a wrong piece gets any further."""

    def __init__(self, intake: Intake, vouched: Vouched) -> None:
        self._intake = intake
        self._vouched = vouched
        self._hasher = new_hasher(vouched.algorithm)
        self._size = SIZES[vouched.algorithm]

    def feed(self, position: int, view: memoryview) -> None:
        """The next bytes, which begin at byte `position` of the content; all of one piece."""
        length = self._vouched.length
        total = self._intake.task_file.geometry.length
        while len(view):
            part = view[:length - position % length]
            self._hasher.update(part)
            position += len(part)
            view = view[len(part):]
            if position % length == 0 or position == total:
                self._compare(position)

    def end(self, position: int) -> None:
        """The content ends here, as nobody could tell before."""
        if position % self._vouched.length:
            self._compare(position)
        if position not in vouched_lengths(self._vouched):
            raise not_vouched(self._vouched, self._intake.place, position)

    def rewind(self) -> None:
        """Forget what came of the part that isn't finished."""
        self._hasher = new_hasher(self._vouched.algorithm)

    def _compare(self, stop: int) -> None:
        """The part that ends before byte `stop`; one that was never told is of a longer content."""
        index = (stop - 1) // self._vouched.length
        told = self._vouched.values[index * self._size:(index + 1) * self._size]
        found = self._hasher.digest()
        self.rewind()
        if not told:
            raise not_vouched(self._vouched, self._intake.place, stop)
        if found != told:
            piece_index = (stop - 1) // self._intake.task_file.geometry.piece_size
            raise PieceMismatch(f"{self._intake.place}: piece {piece_index} isn't what its hash "
                                "told beforehand says", "the source, or a mirror of it, has "
                                "another file", piece_index)


class HeldPiece:
    """Takes the bytes of a piece that is held, and compares."""

    def __init__(self, intake: Intake, piece_index: int) -> None:
        self._intake = intake
        self._expected = intake.task_file.digest_of(piece_index)
        self._hasher = hashlib.sha256()

    def feed(self, view: memoryview) -> None:
        self._hasher.update(view)

    def finish(self) -> None:
        if self._expected is not None and self._hasher.digest() != self._expected:
            raise SourceChanged(f"{self._intake.place} changed: it differs from pieces held")


class ContentSink:
    """Content from byte `start`, where a piece begins, up to `stop` (None = unknown) into pieces.

    It outlives a body: after one that broke, the next goes on at `position`; or, with `recalls`,
    up to `recalled` bytes before, which must be the same once more. What comes beyond `stop` is a
    ProtocolError; or, if a body is known to go on (`overlaps`), Enough."""

    def __init__(self, intake: Intake, start: int, stop: Optional[int], *,
                 overlaps: bool = False, recalls: bool = False) -> None:
        assert start % intake.task_file.geometry.piece_size == 0, start
        self.position = start
        self.stored = 0            # pieces that weren't held before
        self.repeated = 0          # bytes of pieces that were
        self._intake = intake
        self._stop = stop
        self._overlaps = overlaps
        self._recall = RECALL if recalls else 0
        self._tail = b""           # the last bytes that came
        self._again = 0            # bytes of it that are to come again
        self._piece: Optional[Union[HeldPiece, PieceSink]] = None  # not all of its bytes came yet
        vouched = intake.vouched
        self._parts = VouchedParts(intake, vouched) if vouched is not None else None

    @property
    def recalled(self) -> int:
        """Bytes before `position` that can be compared."""
        return len(self._tail)

    def goes_on_at(self, start: int) -> bool:
        """True if a body that begins with this byte of the content is the next one here."""
        again = self.position - start
        if not 0 <= again <= self.recalled:
            return False
        self._again = again
        return True

    def feed(self, view: memoryview) -> None:
        self._intake.meter.add(len(view))
        view = self._compared(view)
        if self._recall:
            self._tail = (self._tail + bytes(view[-self._recall:]))[-self._recall:]
        room = len(view) if self._stop is None else self._stop - self.position
        geometry = self._intake.task_file.geometry
        rest = view[:room]
        while len(rest):
            piece_index = self.position // geometry.piece_size
            piece_stop = geometry.stop(piece_index)
            part = rest[:piece_stop - self.position]
            if self._parts is not None:
                self._parts.feed(self.position, part)
            self._current(piece_index).feed(part)
            rest = rest[len(part):]
            self.position += len(part)
            if self.position == piece_stop:
                self._close_piece(geometry.size_of(piece_index))
        if len(view) > room:
            raise self._too_much()

    def _compared(self, view: memoryview) -> memoryview:
        """What is left of it once that which comes again was compared."""
        if not self._again:
            return view
        again = view[:self._again]
        position = len(self._tail) - self._again
        if again != self._tail[position:position + len(again)]:
            raise SourceChanged(f"{self._intake.place} changed: it differs from what came before")
        self._again -= len(again)
        return view[len(again):]

    def finish(self) -> None:
        """A body's end means nothing here: whoever asked for it knows if more is to come."""

    def end(self) -> None:
        """The content ends here, and with it a piece shorter than the others."""
        if self._parts is not None:
            self._parts.end(self.position)
        if self._piece is not None:
            self._close_piece(self.position % self._intake.task_file.geometry.piece_size)

    def rewind(self) -> None:
        """Forget what came of the piece that isn't finished."""
        if self._piece is not None:
            self.position -= self.position % self._intake.task_file.geometry.piece_size
            self._piece = None
            self._tail = b""
        if self._parts is not None:
            self._parts.rewind()

    def _current(self, piece_index: int) -> Union[HeldPiece, PieceSink]:
        if self._piece is None:
            intake = self._intake
            if intake.task_file.have >> piece_index & 1:
                self._piece = HeldPiece(intake, piece_index)
            else:
                self._piece = PieceSink(intake.task_file, piece_index, on_piece=intake.on_piece,
                                        expected=False)
        return self._piece

    def _close_piece(self, size: int) -> None:
        piece, self._piece = self._piece, None
        assert piece is not None
        piece.finish()
        if isinstance(piece, PieceSink):
            self.stored += 1
        else:
            self.repeated += size
        if self.position != self._stop and self._intake.satisfied():
            raise Enough("nothing more is missing")

    def _too_much(self) -> DflyError:
        if self._overlaps:
            return Enough("the run is whole")
        return ProtocolError(f"{self._intake.place}: the body is longer than the length told, "
                             f"{self._stop} bytes", "tell the source's administrator")


class WholeDigest:
    """Hashes the content in order while its pieces arrive in any, so that little is left to do
    at the end. Made on the event loop; the hashing is done in threads."""

    def __init__(self, task_file: TaskFile, digest: Digest) -> None:
        self._task_file = task_file
        self._digest = digest
        self._hasher = digest.hasher()
        self._position = 0
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._stop_watching = task_file.subscribe(self._on_piece)
        self._following = asyncio.ensure_future(self._follow())

    async def check(self, place: str) -> None:
        """DigestMismatch unless the (complete) content has the digest."""
        assert self._task_file.complete
        self._news.set()
        await self._following
        found = Digest(self._digest.algorithm, self._hasher.digest())
        if found != self._digest:
            raise DigestMismatch(f"{place}: the content's digest is {found}, not {self._digest}",
                                 "check the digest; if it's right, the source has another file")

    async def close(self) -> None:
        self._stop_watching()
        self._following.cancel()
        # Its errors were told by `check`, or don't matter because the transfer failed before.
        await asyncio.gather(self._following, return_exceptions=True)

    def _on_piece(self, _: int) -> None:
        self._loop.call_soon_threadsafe(self._news.set)

    async def _follow(self) -> None:
        while not (self._task_file.complete and self._position == self._ready()):
            self._news.clear()
            stop = min(self._ready(), self._position + HASH_TURN)
            if stop > self._position:
                await asyncio.to_thread(self._hash, stop)
            else:
                await self._news.wait()

    def _ready(self) -> int:
        """Bytes from the start that are held without a gap."""
        geometry = self._task_file.geometry
        first_missing = lowest(~self._task_file.have)
        return geometry.stop(first_missing - 1) if first_missing else 0

    def _hash(self, stop: int) -> None:
        while self._position < stop:
            data = self._task_file.read(self._position, min(HASH_READ, stop - self._position))
            if not data:
                raise ProtocolError("the task's file is shorter than its pieces")
            self._hasher.update(data)
            self._position += len(data)
