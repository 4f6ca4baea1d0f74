"""Where pieces rest on a host: the interface that the rest of dfly knows.

A store keeps tasks; a task's content is one sparse file, and beside it stand the digest of every
piece and the set of pieces held. There are two stores, one for disks (disk.py) and one for memory
(memory.py); both pass tests/conformance.py. Nothing in this file does anything: no import of
sqlite3, no I/O. The rules that both stores keep:

- A piece enters `have` only after all its bytes were written; bytes of a held piece are never
  written again, so what was verified once stays what is served.
- A version's bytes never change. Another version of the same task is another file; whoever reads
  the old one keeps reading the old one.
- Any method may be called from any thread. Methods of a TaskFile that an event loop needs (`have`,
  `digest_of`, `learn`, `subscribe`) never wait for the disk; those of a PieceStore may (`open` and
  `find` re-verify a doubtful task, `verify` reads all of it): call them off the loop.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, List, Optional, Protocol, Union

from dfly.errors import DflyError
from dfly.task import Geometry

GONE = -1  # what a watcher is called with when its file failed, left the store or lost pieces

Buffer = Union[bytes, bytearray, memoryview]
Watcher = Callable[[int], None]  # called with a piece index, or GONE, from any thread


@dataclass(frozen=True)
class TaskRecord:
    """One line of `dfly cache ls`. Times are wall-clock seconds since 1970."""

    task_id: str
    version: str
    url: str
    tag: str
    digest: str             # as the user gave it ("sha256:..."), or ""
    length: Optional[int]   # bytes; None = not known yet
    piece_size: int
    held_bytes: int
    complete: bool
    pinned: bool
    created_at: float
    accessed_at: float
    path: str               # of the data file; "" where it has no name


class TaskFile(Protocol):
    """The pieces of one version of one task."""

    @property
    def task_id(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def geometry(self) -> Geometry: ...

    @property
    def have(self) -> int:
        """Piece set: written, verified, ready to be served."""

    @property
    def known(self) -> int:
        """Piece set: pieces whose digest is on record, held or not."""

    @property
    def complete(self) -> bool:
        """The length is known and every piece is held."""

    @property
    def written(self) -> int:
        """Bytes written since it was opened."""

    @property
    def disk_s(self) -> float:
        """Seconds that writing them took."""

    @property
    def path(self) -> Optional[str]:
        """The data file's name, for delivery by link; None where it has none."""

    @property
    def failed(self) -> Optional[DflyError]:
        """Why this file will never be complete, or must not be served; None = all is well."""

    def fileno(self) -> int:
        """A descriptor for sendfile and pread, valid as long as this object is referenced."""

    def claim(self, piece_index: int, writer: object) -> bool:
        """True if `writer` may write the piece in place, as it comes. One writer at a time: while
        it lives (weakly referenced) others get False, collect the piece and `put` it."""

    def write(self, offset: int, data: Buffer) -> bool:
        """Write bytes in place. Parts that fall into held pieces are left out: then False."""

    def put(self, piece_index: int, data: Buffer, digest: bytes) -> None:
        """Write a whole piece and mark it, in one step that no other writer can come between."""

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes (fewer only at the end of the file)."""

    def mark(self, piece_index: int, digest: bytes) -> None:
        """All bytes of the piece are written and `digest` is their SHA-256: it's held now.
        DigestMismatch if another digest is on record."""

    def await_digest(self, piece_index: int, digest: bytes) -> None:
        """All bytes of the piece are written in place and have this SHA-256, but nobody has told
        yet what they should have: held as soon as `learn` says the same, not held if it says
        another. Watchers hear of it in this caller's context (contextvars)."""

    def unmark(self, piece_set: int) -> None:
        """These pieces aren't held (their bytes proved bad); their digests stay on record.
        Watchers hear GONE: what they counted on isn't true any more."""

    def digest_of(self, piece_index: int) -> Optional[bytes]: ...

    def digests(self, first: int, count: int) -> bytes:
        """32 bytes per piece, in order; LookupError if one isn't known."""

    @property
    def awaited(self) -> int:
        """The set of pieces that `await_digest` left waiting."""

    def learn(self, first: int, digests: bytes) -> int:
        """Digests told by the manager, 32 bytes per piece from `first`; the set of awaited pieces
        that prove wrong by them. ProtocolError where they contradict a held piece or the geometry;
        then nothing is learnt."""

    def set_length(self, length: int) -> None:
        """The content turned out to be this long; ProtocolError if that can't be."""

    def stamp(self, modified_at: float) -> None:
        """Give the data file this time of modification (the source's Last-Modified) as soon as it
        is complete, so that a hard link delivered from it shows it. Never set it in another way:
        see `whole`."""

    def subscribe(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` with every piece marked from now on, GONE at failure or removal. Returns
        how to stop. Subscribe first, then look at `have`: no piece is missed between."""

    def fail(self, error: DflyError) -> None:
        """No one will complete this file. The first error stays."""

    def hold(self) -> None:
        """In use: not evicted until `release` was called as often."""

    def release(self) -> None: ...

    def whole(self) -> bool:
        """False if someone else changed the complete file under us (it may be a hard link that
        a user edits): it has failed and left the store, and is served no more."""


class PieceStore(Protocol):
    """All tasks of one host's daemon."""

    @property
    def host_id(self) -> bytes:
        """16 random bytes, made once; who this host is, whatever its name and address."""

    @property
    def dropped(self) -> int:
        """Tasks that have left the store since it was opened, for whatever reason."""

    def open(self, task_id: str, version: str, geometry: Geometry, *, url: str = "",
             tag: str = "", digest: str = "") -> TaskFile:
        """Resume this version of the task or begin it; room is made for it (see `make_room`).
        Another version, or another cut, of the same task is dropped. NoSpace, FileError."""

    def find(self, task_id: str) -> Optional[TaskFile]:
        """The task as it's stored, if its file is still whole. Counts as use of it."""

    def records(self) -> List[TaskRecord]:
        """All tasks, the least recently used first."""

    def remove(self, task_id: str) -> bool:
        """Forget the task and free its bytes; False if there was none."""

    def verify(self, task_id: str) -> int:
        """Read every held piece of the task again; the piece set of bad ones, now unmarked.
        LookupError if there's no such task."""

    def pin(self, task_id: str, pinned: bool) -> None:
        """A pinned task is never evicted. LookupError if there's no such task."""

    def make_room(self, size: int) -> None:
        """See that `size` more bytes fit. Above the high watermark tasks are evicted, the least
        recently used first, down to the low one; never one that is pinned or in use. NoSpace,
        and nothing evicted, if that can't suffice."""

    def flush(self) -> None:
        """Everything marked until now outlives the process."""

    def close(self) -> None: ...
