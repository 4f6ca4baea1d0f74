"""A file that came in part, by wget, curl or whatever: what it has needn't come again.

It is never believed. Where a manager tells digests, pieces that match theirs are taken; a lease
of such pieces waits until they were compared, else they would come again meanwhile. Where the
source is asked alone, nobody tells any: then the last whole piece is fetched and compared, and the
file must not be older than the source says its content is; if both hold, the pieces before it are
taken. Nothing here writes to that file.
"""
from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from itertools import islice
from typing import Callable, Dict

from dfly.core.download import LeaseGranted
from dfly.errors import DflyError, FileError
from dfly.service.ingest import Ingest
from dfly.service.origins import CACHE, carried
from dfly.service.runtime import finished
from dfly.source import Version
from dfly.store import TaskFile
from dfly.task import full_set, members, run_set
from dfly.units import MIB, parse_http_date

WRONG_MAX = 3           # pieces that don't match, until the file counts as another one
TURN_SIZE = 8 * MIB     # bytes compared, about, until those are looked at that are leased now


class Partial:
    """The file at `path`, opened; FileError if it can't be."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise FileError(f"can't read {path}: {error.strerror}") from None
        facts = os.fstat(self._fd)
        if not stat.S_ISREG(facts.st_mode):
            os.close(self._fd)
            raise FileError(f"{path} is no file to go on with")
        self.path = path
        self.size = facts.st_size
        self.modified_at = facts.st_mtime
        self.other = ""        # why it isn't the beginning of the content; "" = it may be
        self._looked_at = 0    # piece set
        self._wrong = 0

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *error: object) -> None:
        """Not while a thread still reads: whoever uses threads waits for them."""
        os.close(self._fd)

    def whole_pieces(self, file: TaskFile) -> int:
        """The set of pieces all of whose bytes it has."""
        geometry = file.geometry
        length = geometry.length
        if length is not None and self.size > length:
            self.other = f"{self.path} is longer than the source's {length} bytes"
            return 0
        count = self.size // geometry.piece_size
        if self.size == length and geometry.piece_count is not None:
            count = geometry.piece_count
        return full_set(count)

    # ------------------------------------------------------------------- with digests
    def unseen(self, file: TaskFile) -> int:
        """The set of pieces that may be here and were not looked at."""
        return 0 if self.other else self.whole_pieces(file) & ~file.have & ~self._looked_at

    def take_known(self, file: TaskFile, first: int = 0) -> None:
        """Take pieces whose digest is known and matches (blocking): those of the set `first`, or
        some. To be called again while any of the `unseen` is known."""
        wanted = self.unseen(file) & file.known
        turn = max(1, TURN_SIZE // file.geometry.piece_size)
        for piece in islice(members(wanted & first or wanted), turn):
            if self.other:
                return
            data = self._read(file, piece)
            digest = hashlib.sha256(data).digest()
            if digest == file.digest_of(piece):
                with carried(CACHE):
                    file.put(piece, data, digest)
            else:
                self._wrong += 1
                if self._wrong >= WRONG_MAX:
                    self.other = f"{self.path} isn't the beginning of this content"
            self._looked_at |= 1 << piece   # now: what was not looked at is waited for

    def done_with(self, file: TaskFile) -> bool:
        """True if nothing can be taken any more."""
        if self.other or file.failed is not None:
            return True
        return file.geometry.length is not None and not self.unseen(file)

    # ---------------------------------------------------------------- from the source alone
    async def take_before(self, file: TaskFile, ingest: Ingest,
                          on_piece: Callable[[int], None]) -> None:
        """Take the pieces before the last whole one, if that is the source's, too."""
        pieces = self.whole_pieces(file)
        last = pieces.bit_length() - 1
        told_at = parse_http_date(Version.parse(file.version).last_modified)
        if told_at is not None and told_at > self.modified_at:
            self.other = f"{self.path} is older than what the source has now"
        if self.other or last < 1 or not ingest.may_range:
            return
        await ingest.fetch(file, on_piece=on_piece, wanted=run_set(last, 1))
        await finished(asyncio.to_thread(self._take_up_to, file, last))

    def _take_up_to(self, file: TaskFile, last: int) -> None:
        if hashlib.sha256(self._read(file, last)).digest() != file.digest_of(last):
            self.other = f"{self.path} isn't the beginning of what the source has now"
            return
        for piece in members(full_set(last) & ~file.have):
            data = self._read(file, piece)
            with carried(CACHE):
                file.put(piece, data, hashlib.sha256(data).digest())

    def _read(self, file: TaskFile, piece: int) -> bytes:
        start, size = file.geometry.start(piece), file.geometry.size_of(piece)
        data = b""
        while len(data) < size:
            try:
                part = os.pread(self._fd, size - len(data), start + len(data))
            except OSError as error:
                raise FileError(f"can't read {self.path}: {error.strerror}") from None
            if not part:
                raise FileError(f"{self.path} became shorter while it was read")
            data += part
        return data


async def take_before(path: str, file: TaskFile, ingest: Ingest,
                      on_piece: Callable[[int], None]) -> str:
    """The same from a source alone; its errors are raised."""
    try:
        with Partial(path) as partial:
            await partial.take_before(file, ingest, on_piece)
            return partial.other
    except FileError as error:
        return error.what


# ----------------------------------------------------------------------------- while it is led
class Comparing:
    """A led download's partial file. Leases that waited are given to `grant`, after all news of
    what was taken."""

    def __init__(self, path: str, file: TaskFile, grant: Callable[[LeaseGranted], None]) -> None:
        """FileError if there is no such file."""
        self._partial = Partial(path)
        self._file = file
        self._told = asyncio.Event()   # more to do, or the end
        self._grant = grant
        self._held: Dict[int, LeaseGranted] = {}   # by lease
        self._is_on = True

    def holds(self, lease: LeaseGranted) -> bool:
        """True if it has to wait, because what it would fetch may be here. (The digests come with
        the lease, or as soon as the manager itself has the pieces.)"""
        may_be_here = self._is_on and not self._partial.other and (
            self._partial.whole_pieces(self._file) & run_set(lease.first, lease.count))
        if not may_be_here:
            return False
        self._held[lease.lease] = lease
        self._told.set()
        return True

    def told(self) -> None:
        """The manager told digests."""
        self._told.set()

    def drop(self, lease: int) -> None:
        """It was taken back."""
        self._held.pop(lease, None)

    def drop_all(self) -> None:
        """Their manager is gone."""
        self._held.clear()

    async def run(self, done: asyncio.Future[None]) -> str:
        """Compare until nothing can be taken any more; why not all of it could be used, "" = it
        could."""
        partial, file, why = self._partial, self._file, ""
        done.add_done_callback(lambda _: self._told.set())
        try:
            with partial:
                while not partial.done_with(file) and not done.done():
                    self._told.clear()
                    await finished(asyncio.to_thread(partial.take_known, file, self._leased()))
                    self._let_go()
                    if not partial.unseen(file) & file.known and not partial.done_with(file):
                        await self._told.wait()
            why = partial.other
        except DflyError as error:   # then all of it comes over the network
            why = error.what
        self._is_on = False
        self._let_go()
        return why

    def _leased(self) -> int:
        leased = 0
        for lease in self._held.values():
            leased |= run_set(lease.first, lease.count)
        return leased

    def _let_go(self) -> None:
        """Whatever was compared."""
        unseen = self._partial.unseen(self._file) if self._is_on else 0
        for lease in list(self._held.values()):
            if not unseen & run_set(lease.first, lease.count):
                del self._held[lease.lease]
                self._grant(lease)
