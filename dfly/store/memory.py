"""A store in memory: for managers that only pass content on, and for tests.

The twin of disk.py, simple enough to be seen right: a dict of files, nothing to resume, nothing
to flush. Content lies in anonymous files (memfd), so that sendfile works on it as on a disk.
"""
from __future__ import annotations

import os
import tempfile
import threading
from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Tuple

from dfly.clock import Clock
from dfly.errors import FileError
from dfly.store import TaskRecord
from dfly.store.eviction import Room, Tenant, choose_victims
from dfly.store.piecefile import PieceFile, check_task_id, grow_in_steps, resumes
from dfly.task import Geometry
from dfly.units import SIZE_MAX


@dataclass
class _Entry:
    file: PieceFile
    record: TaskRecord   # what doesn't change with every piece
    last_use: int        # counts uses: a clock may stand still or go back
    reserved: int = 0    # bytes that this task may fill


class MemoryStore:
    """See PieceStore. `quota` in bytes; 0 = as much as there is."""

    def __init__(self, *, quota: int = 0, high: float = 0.9, low: float = 0.8,
                 clock: Optional[Clock] = None) -> None:
        self.host_id = os.urandom(16)
        self._room = Room("the memory store", quota or SIZE_MAX, high, low)
        self._clock = clock or Clock()
        self._entries: Dict[str, _Entry] = {}
        self._keys: Dict[int, str] = {}
        self._uses = 0
        self._next_key = 1
        self._opening = threading.Lock()  # two who open one task at once get one file
        self.dropped = 0
        self._lock = threading.RLock()

    def open(self, task_id: str, version: str, geometry: Geometry, *, url: str = "",
             tag: str = "", digest: str = "") -> PieceFile:
        check_task_id(task_id)
        with self._opening:
            found = self.find(task_id)
            if found is not None and resumes(found, version, geometry):
                return found
            self._drop(task_id, "gave way to another version")
            self.make_room(geometry.length or 0)
            return self._create(task_id, version, geometry, (url, tag, digest))

    def _create(self, task_id: str, version: str, geometry: Geometry,
                origin: Tuple[str, str, str]) -> PieceFile:
        with self._lock:
            key = self._next_key
            self._next_key += 1
            file = PieceFile(key, task_id, version, geometry, fd=_anonymous_file(), ledger=self)
            now = self._clock.wall()
            record = TaskRecord(task_id, version, *origin, geometry.length,
                                geometry.piece_size, 0, False, False, now, now, "")
            self._keys[key] = task_id
            self._entries[task_id] = _Entry(file, record, self._use(), geometry.length or 0)
        file.settle()
        return file

    def find(self, task_id: str) -> Optional[PieceFile]:
        with self._lock:
            entry = self._entries.get(task_id)
            if entry is None:
                return None
            file = entry.file
            entry.last_use = self._use()
            entry.record = replace(entry.record, accessed_at=self._clock.wall())
        if file.failed is not None:
            file = self._renew(entry, file)
        return file if file.whole() else None

    @staticmethod
    def _renew(entry: _Entry, failed: PieceFile) -> PieceFile:
        renewed = failed.renewed()  # outside the lock: it waits for a write under way
        if entry.file is failed:
            entry.file = renewed
        return entry.file

    def records(self) -> List[TaskRecord]:
        with self._lock:
            entries = sorted(self._entries.values(), key=lambda entry: entry.last_use)
        return [replace(entry.record, length=entry.file.geometry.length,
                        held_bytes=entry.file.held_bytes, complete=entry.file.complete)
                for entry in entries]

    def remove(self, task_id: str) -> bool:
        return self._drop(task_id, "was removed from the store")

    def verify(self, task_id: str) -> int:
        entry = self._entry(task_id)
        file = self._renew(entry, entry.file) if entry.file.failed is not None else entry.file
        if not file.whole() and file.failed is not None:
            raise file.failed
        bad = file.bad_pieces(file.have)
        file.unmark(bad)
        return bad

    def pin(self, task_id: str, pinned: bool) -> None:
        with self._lock:
            entry = self._entry(task_id)
            entry.record = replace(entry.record, pinned=pinned)

    def make_room(self, size: int) -> None:
        self._make_room(size, keep="")

    def flush(self) -> None:
        """Nothing here outlives the process."""

    def close(self) -> None:
        with self._lock:
            self._entries.clear()
            self._keys.clear()

    # ------------------------------------------------------------------ Ledger
    def marked(self, key: int, piece_index: int, digest: bytes) -> None:
        """The file itself is the record, here as in the next ones."""

    def unmarked(self, key: int, piece_set: int) -> None: ...

    def learned(self, key: int, first: int, digests: bytes) -> None: ...

    def sealed(self, key: int, size: int, mtime_ns: int) -> None: ...

    def confirmed(self, key: int, bad: int) -> None: ...

    def sized(self, key: int, length: int) -> None:
        self._reserve(key, length)

    def grown(self, key: int, size: int) -> int:
        return grow_in_steps(lambda room: self._reserve(key, room), size)

    def spoiled(self, key: int) -> None:
        self._drop(self._keys.get(key, ""), "was changed by someone else", key)

    # ------------------------------------------------------------------ inside
    def _make_room(self, size: int, keep: str) -> None:
        with self._lock:
            entries = sorted(self._entries.values(), key=lambda entry: entry.last_use)
            tenants = [Tenant(entry.file.task_id, entry.reserved, self._evictable(entry, keep))
                       for entry in entries]
            victims = choose_victims(self._room, tenants, size)
        for task_id in victims:
            self._drop(task_id, "was evicted to make room")

    @staticmethod
    def _evictable(entry: _Entry, keep: str) -> bool:
        return (not entry.record.pinned and not entry.file.holds
                and entry.file.task_id != keep)

    def _drop(self, task_id: str, why: str, key: int = 0) -> bool:
        """Forget the task; with `key`, only if that is still what the task is."""
        with self._lock:
            if key and self._keys.get(key) != task_id:
                return False
            entry = self._entries.pop(task_id, None)
            if entry is not None:
                del self._keys[entry.file.key]
                self.dropped += 1
        if entry is not None:
            entry.file.forget(why)  # outside the lock: it calls watchers
        return entry is not None

    def _reserve(self, key: int, size: int) -> None:
        with self._lock:
            entry = self._entries.get(self._keys.get(key, ""))
        if entry is not None:  # else it left the store: who still writes, writes for himself
            self._make_room(max(0, size - entry.reserved), keep=entry.file.task_id)
            entry.reserved = size

    def _entry(self, task_id: str) -> _Entry:
        with self._lock:
            entry = self._entries.get(task_id)
        if entry is None:
            raise LookupError(f"no task {task_id} in the store")
        return entry

    def _use(self) -> int:
        self._uses += 1
        return self._uses


def _anonymous_file() -> int:
    """A descriptor of a file that has no name and goes with its last descriptor."""
    try:
        if hasattr(os, "memfd_create"):
            return os.memfd_create("dfly")
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    except OSError as error:
        raise FileError(f"can't make a file in memory: {error.strerror}") from error
