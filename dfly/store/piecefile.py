"""One task's pieces in one open file: the TaskFile that both stores hand out.

This file knows descriptors, digests and piece sets; it doesn't know where the file lies or how
the record of its pieces survives. That's its Ledger's work (an SQLite index on disk, nothing in
memory).

Two locks, always taken in this order, so that an event loop never waits for a disk:
`_writing` is held during pwrite and while a piece becomes held. Hence no byte of a held piece
changes after it was verified, even if two parents send the same piece and one of them lies, and
no write is under way when a complete file's size and time are recorded. File systems serialise
writes to one file anyway, so it costs nothing. `_state` guards the values and is never held
across a system call or a call to someone else's code.
"""
from __future__ import annotations

import copy
import errno
import hashlib
import os
import threading
import weakref
from contextvars import Context, copy_context
from typing import Callable, Dict, List, Optional, Protocol, Tuple

from dfly.clock import Clock
from dfly.digest import SHA256_SIZE
from dfly.errors import (
    DflyError,
    DigestMismatch,
    FileError,
    NoSpace,
    ProtocolError,
    printable,
)
from dfly.names import is_task_id
from dfly.store import GONE, Buffer, Watcher
from dfly.task import (
    PIECES_MAX,
    Geometry,
    count_of,
    full_set,
    members,
    run_set,
    runs_of,
    set_of,
)
from dfly.units import MIB, format_size

CLOCK = Clock()
GROWTH_SIZE = 64 * MIB  # an unknown length asks the store for room in steps of this
BLOCK_SIZE = 512  # what st_blocks counts in, whatever the file system's own block is
READ_SIZE = MIB  # bytes read at once when a piece is verified: bounded memory for any piece size


class Ledger(Protocol):
    """What a store keeps about its files; `key` names one version of one task for ever."""

    def marked(self, key: int, piece_index: int, digest: bytes) -> None: ...

    def unmarked(self, key: int, piece_set: int) -> None: ...

    def learned(self, key: int, first: int, digests: bytes) -> None: ...

    def sized(self, key: int, length: int) -> None:
        """The content will be `length` bytes long. NoSpace if that can't be."""

    def sealed(self, key: int, size: int, mtime_ns: int) -> None:
        """The file is complete and looked like this."""

    def grown(self, key: int, size: int) -> int:
        """The file of unknown length needs `size` bytes: how many it may have now. NoSpace."""

    def confirmed(self, key: int, bad: int) -> None:
        """All doubtful pieces were read again; those of the set `bad` aren't held."""

    def spoiled(self, key: int) -> None:
        """Someone else changed the complete file."""


class PieceRecord:
    """What is known of a file's pieces when it's opened: nothing, or what the ledger kept."""

    def __init__(self, have: int = 0, known: int = 0, digests: Optional[bytearray] = None) -> None:
        self.have = have
        self.known = known
        self.digests = bytearray() if digests is None else digests  # 32 bytes per piece

    def note_run(self, first: int, digests: bytes) -> bool:
        """Put consecutive digests on record; False if all of them were there already."""
        start, stop = first * SHA256_SIZE, first * SHA256_SIZE + len(digests)
        run = run_set(first, len(digests) // SHA256_SIZE)
        if self.known & run == run and self.digests[start:stop] == digests:
            return False
        if stop > len(self.digests):
            self.digests.extend(bytes(stop - len(self.digests)))
        self.digests[start:stop] = digests
        self.known |= run
        return True

    def digest_of(self, piece_index: int) -> Optional[bytes]:
        if not self.known >> piece_index & 1:
            return None
        start = piece_index * SHA256_SIZE
        return bytes(self.digests[start:start + SHA256_SIZE])


def held_bytes(geometry: Geometry, have: int) -> int:
    """Bytes of content in the pieces of the set."""
    total = count_of(have) * geometry.piece_size
    count = geometry.piece_count
    if count and have >> (count - 1) & 1:
        total -= geometry.piece_size - geometry.size_of(count - 1)
    return total


def grow_in_steps(reserve: Callable[[int], None], size: int) -> int:
    """Room reserved for a content of unknown length that has come to `size` bytes: a step ahead,
    so that the store isn't asked at each write; just enough where a step doesn't fit."""
    step = -(-size // GROWTH_SIZE) * GROWTH_SIZE
    try:
        reserve(step)
    except NoSpace:
        reserve(size)
        return size
    return step


class PieceFile:
    """A TaskFile over a descriptor, which it owns and closes when the last reference goes."""

    def __init__(self, key: int, task_id: str, version: str, geometry: Geometry, *, fd: int,
                 ledger: Ledger) -> None:
        self.key = key
        self.task_id = task_id
        self.version = version
        self.geometry = geometry
        self.path: Optional[str] = None
        self.failed: Optional[DflyError] = None
        self.holds = 0
        self.seal: Optional[Tuple[int, int]] = None  # size, mtime_ns since it's complete
        self._modified_at: Optional[float] = None    # what the source says
        self.written = 0       # bytes since it was opened, and how long that took
        self.disk_s = 0.0
        self._fd = fd
        self._ledger = ledger
        self._pieces = PieceRecord()
        self._doubtful = 0   # piece set: held, says the ledger, but a crash may have eaten bytes
        self._allowance = 0  # bytes that an unknown length may grow to without asking again
        self._claims: Dict[int, weakref.ref[object]] = {}
        # Written, but nobody told their digests yet: what they should be, and who brought them.
        self._awaited: Dict[int, Tuple[bytes, Context]] = {}
        self._watchers: List[Watcher] = []
        self._writing = threading.Lock()
        self._state = threading.Lock()
        self._confirming = threading.Lock()
        weakref.finalize(self, os.close, fd)

    def resume(self, pieces: PieceRecord, seal: Optional[Tuple[int, int]], *,
               doubtful: bool = False) -> None:
        """Take over what the ledger kept, before anyone else sees this file. If it's doubtful,
        nothing is held until `confirm` has read it."""
        self._pieces = pieces
        if doubtful:
            self._doubtful, pieces.have = pieces.have, 0
        else:
            self.seal = seal

    def renewed(self) -> PieceFile:
        """After `fail`: the same pieces in a file that isn't failed, for the next attempt."""
        assert self.failed is not None
        with self._writing:  # a write under way ends first, later ones find this file failed
            file = PieceFile(self.key, self.task_id, self.version, self.geometry,
                             fd=os.dup(self._fd), ledger=self._ledger)
        with self._state:
            file.resume(PieceRecord(self.have, self.known, bytearray(self._pieces.digests)),
                        self.seal)
        file.path = self.path
        return file

    @property
    def have(self) -> int:
        return self._pieces.have

    @property
    def known(self) -> int:
        return self._pieces.known

    @property
    def complete(self) -> bool:
        count = self.geometry.piece_count
        return count is not None and self._pieces.have == full_set(count)

    @property
    def held_bytes(self) -> int:
        return held_bytes(self.geometry, self._pieces.have)

    def fileno(self) -> int:
        return self._fd

    # -------------------------------------------------------------------- bytes
    def claim(self, piece_index: int, writer: object) -> bool:
        with self._state:
            if self._pieces.have >> piece_index & 1 or piece_index in self._awaited:
                return False
            reference = self._claims.get(piece_index)
            owner = reference() if reference is not None else None
            if owner is None:
                self._claims[piece_index] = weakref.ref(writer)
            return owner is None or owner is writer

    def write(self, offset: int, data: Buffer) -> bool:
        view = memoryview(data)
        stop = offset + len(view)
        assert offset >= 0
        touched = self.geometry.pieces_of(offset, stop)
        with self._writing:
            self._check_alive()
            self._check_fits(stop)
            self._grow(stop)
            held = self._pieces.have & run_set(touched.start, len(touched))
            if not held:
                self._pwrite(view, offset)
                return True
            for first, count in runs_of(run_set(touched.start, len(touched)) & ~held):
                begin = max(offset, self.geometry.start(first))
                end = min(stop, self.geometry.stop(first + count - 1))
                self._pwrite(view[begin - offset:end - offset], begin)
        return False

    def put(self, piece_index: int, data: Buffer, digest: bytes) -> None:
        with self._writing:
            self._check_alive()
            if not self._pieces.have >> piece_index & 1:
                self._check_piece(piece_index, digest)
                start = self.geometry.start(piece_index)
                assert len(data) <= self.geometry.piece_size
                self._check_fits(start + len(data))
                self._grow(start + len(data))
                self._pwrite(memoryview(data), start)
            fresh = self._admit(piece_index, digest)
        if fresh:
            self._tell(piece_index)

    def read(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._fd, size, offset)
        except OSError as error:
            raise self._file_error("read", error) from error

    def _pwrite(self, view: memoryview, offset: int) -> None:
        began_at = CLOCK.now()
        self.written += len(view)
        try:
            while view:
                count = os.pwrite(self._fd, view, offset)
                view = view[count:]
                offset += count
        except OSError as error:
            raise self._file_error("write", error) from error
        self.disk_s += CLOCK.now() - began_at

    def _check_fits(self, stop: int) -> None:
        """Under `_writing`. A sender who began while the length was unknown may go on beyond it."""
        length = self.geometry.length
        if length is not None and stop > length:
            raise ProtocolError(f"bytes up to {stop} for {self.task_id}, which has {length}")

    @property
    def unwritten(self) -> int:
        """Bytes that this file was promised and that are still free on the disk."""
        if self.complete or self.failed is not None:
            return 0
        length = self.geometry.length
        promised = self._allowance if length is None else length
        return max(0, promised - os.fstat(self._fd).st_blocks * BLOCK_SIZE)

    def _grow(self, size: int) -> None:
        if self.geometry.length is None and size > self._allowance:
            self._allowance = self._ledger.grown(self.key, size)

    def _file_error(self, verb: str, error: OSError) -> DflyError:
        place = self.path or "the memory store"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
            return NoSpace(f"can't write {place}: {error.strerror}",
                           f"free some space, the {format_size(self.held_bytes)} held are kept")
        return FileError(f"can't {verb} {place}: {error.strerror}")

    # -------------------------------------------------------------------- pieces
    def mark(self, piece_index: int, digest: bytes) -> None:
        with self._writing:
            self._check_alive()
            fresh = self._admit(piece_index, digest)
        if fresh:
            self._tell(piece_index)

    def unmark(self, piece_set: int) -> None:
        with self._writing:
            with self._state:
                gone = self._pieces.have & piece_set
                self._pieces.have &= ~gone
                self.seal = None if gone else self.seal
            if gone:
                self._ledger.unmarked(self.key, gone)
        if gone:
            self._tell(GONE)

    def digest_of(self, piece_index: int) -> Optional[bytes]:
        with self._state:
            return self._pieces.digest_of(piece_index)

    def digests(self, first: int, count: int) -> bytes:
        wanted = run_set(first, count)
        with self._state:
            unknown = wanted & ~self._pieces.known
            if unknown:
                raise LookupError(f"{count_of(unknown)} digests of {self.task_id} aren't known")
            return bytes(self._pieces.digests[first * SHA256_SIZE:(first + count) * SHA256_SIZE])

    @property
    def awaited(self) -> int:
        with self._state:
            return set_of(self._awaited)

    def learn(self, first: int, digests: bytes) -> int:
        count, rest = divmod(len(digests), SHA256_SIZE)
        limit = self.geometry.piece_count
        if rest or first < 0 or first + count > (PIECES_MAX if limit is None else limit):
            raise ProtocolError(f"digests of pieces {first} to {first + count} of a task with "
                                f"{'an unknown number of' if limit is None else limit} pieces")
        with self._state:
            for piece_index in members(self._pieces.have & run_set(first, count)):
                told = digests[(piece_index - first) * SHA256_SIZE:][:SHA256_SIZE]
                if told != self._pieces.digest_of(piece_index):
                    raise ProtocolError(f"the digest told for piece {piece_index} of "
                                        f"{self.task_id} contradicts the piece held")
            news = self._pieces.note_run(first, digests)
            vouched = [(piece_index, self._awaited.pop(piece_index)) for piece_index
                       in range(first, first + count) if piece_index in self._awaited]
        if news:
            self._ledger.learned(self.key, first, digests)
        wrong = 0
        for piece_index, (digest, bringer) in vouched:
            if digest == self.digest_of(piece_index):
                bringer.run(self.mark, piece_index, digest)
            else:
                wrong |= 1 << piece_index
        return wrong

    def await_digest(self, piece_index: int, digest: bytes) -> None:
        with self._state:
            told = self._pieces.digest_of(piece_index)
            if told is None:
                self._awaited[piece_index] = digest, copy_context()
        if told is not None:
            self.mark(piece_index, digest)

    def set_length(self, length: int) -> None:
        with self._writing:
            if self.geometry.length == length:
                return
            self._check_length(length)
            self._ledger.sized(self.key, length)
            try:
                os.ftruncate(self._fd, length)
            except OSError as error:
                raise self._file_error("write", error) from error
            with self._state:
                self.geometry = Geometry(length, self.geometry.piece_size)
                self._pieces.known &= full_set(self.geometry.piece_count or 0)
            self._seal_if_complete()

    def _check_length(self, length: int) -> None:
        sized = Geometry(length, self.geometry.piece_size)
        count = sized.piece_count
        assert count is not None
        if self.geometry.length is not None:
            raise ProtocolError(f"a length of {length} bytes for {self.task_id}, "
                                f"which has {self.geometry.length}")
        if not 0 <= length <= PIECES_MAX * sized.piece_size:
            raise ProtocolError(f"a length of {length} bytes is beyond any task")
        if self._pieces.have.bit_length() > count:
            raise ProtocolError(f"a length of {length} bytes for {self.task_id}, "
                                f"of which piece {self._pieces.have.bit_length() - 1} is held")

    def _admit(self, piece_index: int, digest: bytes) -> bool:
        """Under `_writing`: the piece is held from now on; False if it was before."""
        self._check_piece(piece_index, digest)
        with self._state:
            fresh = not self._pieces.have >> piece_index & 1
            self._pieces.note_run(piece_index, digest)
            self._pieces.have |= 1 << piece_index
            self._claims.pop(piece_index, None)
        if fresh:
            self._ledger.marked(self.key, piece_index, digest)
            self._seal_if_complete()
        return fresh

    def _check_piece(self, piece_index: int, digest: bytes) -> None:
        count = self.geometry.piece_count
        assert len(digest) == SHA256_SIZE
        assert 0 <= piece_index < PIECES_MAX, piece_index
        if count is not None and piece_index >= count:   # the length was told while it came
            raise ProtocolError(f"piece {piece_index} of {self.task_id}, which has {count}")
        on_record = self.digest_of(piece_index)
        if on_record is not None and on_record != digest:
            raise DigestMismatch(f"piece {piece_index} of {self.task_id} has another digest")

    # -------------------------------------------------------------------- life
    def stamp(self, modified_at: float) -> None:
        with self._writing:
            if modified_at == self._modified_at:
                return
            self._modified_at = modified_at
            if self.seal is not None and self._stat() == self.seal and (
                    os.fstat(self._fd).st_mtime != modified_at):
                self.seal = None
                self._seal_if_complete()

    def subscribe(self, watcher: Watcher) -> Callable[[], None]:
        with self._state:
            self._watchers = self._watchers + [watcher]
            gone = self.failed is not None
        if gone:
            watcher(GONE)

        def stop() -> None:
            with self._state:
                self._watchers = [other for other in self._watchers if other is not watcher]
        return stop

    def fail(self, error: DflyError) -> None:
        with self._state:
            first = self.failed is None
            if first:
                self.failed = error
        if first:
            self._tell(GONE)

    def forget(self, why: str) -> None:
        """The store dropped this file. What is complete stays readable for those who have it
        open; what isn't never will be, and who waits for it is told."""
        if self.failed is not None:
            return  # told already
        if self.complete:
            self._tell(GONE)
        else:
            self.fail(FileError(f"task {self.task_id} {why}"))

    def give_back(self, why: str) -> None:
        """Free the room of a file that was deleted, although someone may have it open. Not if it
        is held, or has another name: then it is a user's."""
        with self._state:
            if self.holds or os.fstat(self._fd).st_nlink:
                return
            self.failed = self.failed or FileError(f"task {self.task_id} {why}")
        try:
            os.ftruncate(self._fd, 0)
        except OSError as error:
            raise self._file_error("free", error) from error

    def hold(self) -> None:
        with self._state:
            self.holds += 1

    def release(self) -> None:
        with self._state:
            assert self.holds > 0
            self.holds -= 1

    def settle(self) -> None:
        """Once after creation: an empty content is complete at once."""
        with self._writing:
            self._seal_if_complete()

    def whole(self) -> bool:
        if self.failed is not None or self.seal is None:
            return self.failed is None
        with self._writing:
            changed = self.seal is not None and self._stat() != self.seal
        if changed:
            self.fail(FileError(f"{self.path} was changed by someone else",
                                "it has left the store, download it again"))
            self._ledger.spoiled(self.key)
        return not changed

    def confirm(self) -> None:
        """Read the doubtful pieces; those that match their digests are held again. A second
        caller waits for the first. Meanwhile pieces may arrive: each goes its own way."""
        with self._confirming:
            if not self._doubtful:
                return
            for piece_index in members(self._doubtful):
                self._confirm_piece(piece_index)
            bad, self._doubtful = self._doubtful & ~self.have, 0
            self._ledger.confirmed(self.key, bad)

    def _confirm_piece(self, piece_index: int) -> None:
        digest = self.digest_of(piece_index)
        assert digest is not None
        if not self.claim(piece_index, self):
            return  # it's being received anew, or already was
        if self._digest_on_disk(piece_index) == digest:
            self.mark(piece_index, digest)
        with self._state:
            self._claims.pop(piece_index, None)

    def bad_pieces(self, piece_set: int) -> int:
        """The pieces of the set whose bytes contradict the digest on record."""
        bad = 0
        for piece_index in members(piece_set & self.known):
            if self._digest_on_disk(piece_index) != self.digest_of(piece_index):
                bad |= 1 << piece_index
        return bad

    def _digest_on_disk(self, piece_index: int) -> bytes:
        stop = self.geometry.stop(piece_index)
        position = self.geometry.start(piece_index)
        seal = hashlib.sha256()
        while position < stop:
            data = self.read(position, min(READ_SIZE, stop - position))
            if not data:
                break
            seal.update(data)
            position += len(data)
        return seal.digest()

    def _seal_if_complete(self) -> None:
        """Under `_writing`, so that no write can follow the look."""
        if self.complete and self.seal is None:
            if self._modified_at is not None:
                try:
                    os.utime(self._fd, (self._modified_at, self._modified_at))
                except (OSError, OverflowError) as error:
                    raise FileError(f"can't set the time of {self.path}: {error}") from error
            self.seal = self._stat()
            self._ledger.sealed(self.key, *self.seal)

    def _stat(self) -> Tuple[int, int]:
        facts = os.fstat(self._fd)
        return facts.st_size, facts.st_mtime_ns

    def _check_alive(self) -> None:
        if self.failed is not None:  # a copy: raising the one kept would gather tracebacks in it
            raise copy.copy(self.failed)

    def _tell(self, event: int) -> None:
        for watcher in self._watchers:
            watcher(event)


def resumes(file: PieceFile, version: str, geometry: Geometry) -> bool:
    """True if `file` is what is asked for. A length learnt since is taken over."""
    if file.version != version or file.geometry.piece_size != geometry.piece_size:
        return False
    if geometry.length is None or geometry.length == file.geometry.length:
        return True
    if file.geometry.length is not None:
        return False
    try:
        file.set_length(geometry.length)
    except ProtocolError:
        return False  # what is held can't be a part of that content
    return True


def check_task_id(task_id: str) -> None:
    """A task id names a folder: nothing else that came from outside ever may."""
    if not is_task_id(task_id):
        raise ProtocolError(f"not a task id: {printable(task_id[:80])!r}")
