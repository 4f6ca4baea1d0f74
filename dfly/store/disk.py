"""The store on a disk: a folder that one daemon owns.

    ROOT/lock                      held by the owner (flock), its process id inside
    ROOT/host-id                   32 hex digits, made once
    ROOT/index                     SQLite: tasks, pieces, digests, uses, pins (index.py)
    ROOT/tasks/ab/ab12...ef/data   content of the task ab12...ef, sparse, room reserved

What the index says is true of the files as long as the host hasn't crashed: rows are written
after bytes, so a folder without a row is rubbish and is swept at start. Of what is dropped the
bytes go first (a full disk has no room for the index to say so): a row without a file is dropped
when its task is looked for.
After a crash of the host (another boot id) pieces that were never synced are doubtful: they are
read again, against their digests, when their task is first opened. No name in here is made from
anything but a checked task id.
"""
from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from typing import Deque, List, Optional, Set

from dfly.clock import Clock
from dfly.errors import DflyError, FileError
from dfly.names import is_task_id
from dfly.store import TaskRecord
from dfly.store.eviction import Room, Tenant, choose_victims
from dfly.store.flusher import Flusher
from dfly.store.folder import host_id, make_file, own_folder, remove_folder, this_boot
from dfly.store.index import Index, IndexDamaged, remove_database
from dfly.store.piecefile import PieceFile, check_task_id, grow_in_steps, resumes
from dfly.task import Geometry, members

COMMIT_PIECES = 64  # marks in one transaction, at most
INDEX_ROOM = 1 << 20  # bytes of the disk left to the index: it must be able to say what is here
RECENT_FILES = 16   # files kept open though no one uses them: spares reloading per request

_log = logging.getLogger(__name__)


class DiskStore:
    """See PieceStore. `quota` in bytes; 0 = what the disk has. StoreBusy, FileError."""

    def __init__(self, root: str, *, quota: int = 0, high: float = 0.9, low: float = 0.8,
                 clock: Optional[Clock] = None, boot_id: str = "") -> None:
        self.root = os.path.abspath(root)
        self._quota = quota
        self._watermarks = (high, low)
        self._clock = clock or Clock()
        self._boot_id = boot_id or this_boot()
        self._live: weakref.WeakValueDictionary[str, PieceFile] = weakref.WeakValueDictionary()
        self._unfinished: weakref.WeakSet[PieceFile] = weakref.WeakSet()
        self._recent: Deque[PieceFile] = deque(maxlen=RECENT_FILES)
        self.dropped = 0
        self._lock = threading.RLock()     # which file is a task's; never held while one is read
        self._opening = threading.Lock()   # two who open one task at once get one file
        self._lagging = False  # the last commit failed: marks don't try, the flusher does
        self._unsynced: Set[int] = set()   # keys of tasks that wait for a sync
        self._reserved_max: Optional[int] = None  # no less than all tasks reserve; None = unknown
        self._lock_fd = own_folder(self.root)
        try:
            self.host_id = host_id(os.path.join(self.root, "host-id"))
            self._index = _open_index(os.path.join(self.root, "index"))
            self._sweep()
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._flusher = Flusher(self._commit_late)

    # ------------------------------------------------------------------ tasks
    def open(self, task_id: str, version: str, geometry: Geometry, *, url: str = "",
             tag: str = "", digest: str = "") -> PieceFile:
        check_task_id(task_id)
        found = self.find(task_id)
        if found is not None and resumes(found, version, geometry):
            return found
        with self._opening:
            found = self._current(task_id)  # another thread may have made it meanwhile
            if found is not None and resumes(found, version, geometry):
                return found
            self._drop(task_id, "gave way to another version")
            length = geometry.length or 0
            self.make_room(length)
            now = self._clock.wall()
            return self._create(TaskRecord(task_id, version, url, tag, digest, geometry.length,
                                           geometry.piece_size, 0, False, False, now, now, ""))

    def find(self, task_id: str) -> Optional[PieceFile]:
        if not is_task_id(task_id):
            return None
        file = self._current(task_id)
        while file is not None:
            file.confirm()
            if self._in_place(file):
                break
            file = self._current(task_id)  # another thread replaced it meanwhile
        if file is None or not file.whole():
            return None
        self._index.touch(file.key, self._clock.wall())
        self._flusher.soon()
        return file

    def records(self) -> List[TaskRecord]:
        return self._index.records(self._path)

    def remove(self, task_id: str) -> bool:
        return is_task_id(task_id) and self._drop(task_id, "was removed from the store")

    def verify(self, task_id: str) -> int:
        file = self._current(task_id) if is_task_id(task_id) else None
        if file is None:
            raise LookupError(f"no task {task_id} in the store")
        file.confirm()
        if not file.whole() and file.failed is not None:
            raise file.failed
        bad = file.bad_pieces(file.have)
        file.unmark(bad)
        return bad

    def pin(self, task_id: str, pinned: bool) -> None:
        if not self._index.pin(task_id, pinned):
            raise LookupError(f"no task {task_id} in the store")

    def make_room(self, size: int) -> None:
        self._make_room(size, keep="")

    def flush(self) -> None:
        self._index.commit()

    def close(self) -> None:
        self._flusher.stop()
        try:
            self._index.close()
        finally:
            self._recent.clear()
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
            self._lock_fd = -1

    # ------------------------------------------------------------------ Ledger
    def marked(self, key: int, piece_index: int, digest: bytes) -> None:
        waiting = self._index.mark(key, piece_index, digest)
        self._flusher.soon()
        if waiting >= COMMIT_PIECES and not self._lagging:
            self._commit_now()

    def unmarked(self, key: int, piece_set: int) -> None:
        self._index.unmark(key, list(members(piece_set)))
        self._flusher.soon()

    def learned(self, key: int, first: int, digests: bytes) -> None:
        self._index.learn(key, first, digests)
        self._flusher.soon()

    def sized(self, key: int, length: int) -> None:
        self._reserve(key, length)
        self._index.size(key, length)
        self._flusher.soon()

    def sealed(self, key: int, size: int, mtime_ns: int) -> None:
        self._index.seal(key, size, mtime_ns)
        self._flusher.soon()
        self._sync_later(key)

    def confirmed(self, key: int, bad: int) -> None:
        if bad:
            self._index.unmark(key, list(members(bad)))
        self._index.confirm(key, self._boot_id)
        self._flusher.soon()

    def grown(self, key: int, size: int) -> int:
        return grow_in_steps(lambda room: self._reserve(key, room), size)

    def spoiled(self, key: int) -> None:
        task_id = self._index.task_id_of(key)
        if task_id is not None:
            _log.warning("task %s left the store: its file was changed by someone else", task_id)
            self._drop(task_id, "was changed by someone else", key)

    # ------------------------------------------------------------------ files
    def _current(self, task_id: str) -> Optional[PieceFile]:
        """The task's file as the store has it now, loaded if need be."""
        with self._lock:
            file = self._live.get(task_id) or self._load(task_id)
        if file is not None and file.failed is not None:
            renewed = file.renewed()  # outside the lock: it waits for a write under way
            with self._lock:
                if self._live.get(task_id) is not file:
                    return self._live.get(task_id)
                self._keep(renewed)
            return renewed
        return file

    def _keep(self, file: PieceFile) -> None:
        file.path = self._path(file.task_id)
        self._live[file.task_id] = file
        self._recent.append(file)
        if not file.complete:
            self._unfinished.add(file)

    def _load(self, task_id: str) -> Optional[PieceFile]:
        row = self._index.task(task_id)
        if row is None:
            return None
        doubtful = not row.durable and (row.boot != self._boot_id or not self._boot_id)
        fd = self._open_data(task_id)
        if fd is None:
            return None
        facts = os.fstat(fd)
        if (row.seal is not None and facts.st_nlink > 1
                and row.seal != (facts.st_size, facts.st_mtime_ns)):
            os.close(fd)  # a user edits it: never to be repaired in place
            self.spoiled(row.key)
            return None
        file = PieceFile(row.key, task_id, row.version, row.geometry, fd=fd, ledger=self)
        file.resume(self._index.pieces(row.key), row.seal, doubtful=doubtful)
        self._keep(file)
        if not doubtful:
            file.settle()
        if row.seal is not None and not row.durable:
            self._sync_later(row.key)
        return file

    def _open_data(self, task_id: str) -> Optional[int]:
        path = self._path(task_id)
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            _log.warning("task %s left the store: its file is gone", task_id)
            self._drop(task_id, "lost its file")
            return None
        except OSError as error:
            raise FileError(f"can't open {path}: {error.strerror}") from error

    def _create(self, record: TaskRecord) -> PieceFile:
        path = self._path(record.task_id)
        geometry = Geometry(record.length, record.piece_size)
        with self._lock:
            fd = make_file(path, record.length or 0)
            try:
                key = self._index.insert(record, record.length or 0, self._boot_id)
            except DflyError:
                os.close(fd)
                remove_folder(os.path.dirname(path))
                raise
            self._note_reserved(record.length or 0)
            file = PieceFile(key, record.task_id, record.version, geometry, fd=fd, ledger=self)
            self._keep(file)
        file.settle()
        return file

    def _in_place(self, file: PieceFile) -> bool:
        """False if this isn't the task's file any more. If that is someone else's doing (the data
        file was deleted or replaced by hand), the task leaves the store."""
        with self._lock:
            if self._live.get(file.task_id) is not file:
                return False
            try:
                facts = os.stat(self._path(file.task_id), follow_symlinks=False)
            except OSError:
                facts = None  # gone, or out of reach: either way not to be delivered from
            mine = os.fstat(file.fileno())
            if facts is not None and (facts.st_ino, facts.st_dev) == (mine.st_ino, mine.st_dev):
                return True
        file.fail(FileError(f"{file.path} is gone", "it was deleted or replaced by someone else"))
        self.spoiled(file.key)
        return False

    def _drop(self, task_id: str, why: str, key: int = 0, *, evict: bool = False) -> bool:
        """Forget the task; with `key`, only if that is still what the task is; with `evict`, only
        if nobody holds it, but free its room even if it's open. The data goes first: on a full
        disk the index can't be written before something has gone."""
        with self._lock:
            row = self._index.task(task_id)
            if (key and (row is None or row.key != key)) or (evict and self._in_use(task_id)):
                return False
            file = self._live.pop(task_id, None)
            if file is not None and file in self._recent:
                self._recent.remove(file)
            if row is not None:
                self.dropped += 1
                remove_folder(os.path.dirname(self._path(task_id)))
        if file is not None:
            file.forget(why)  # outside the lock: it calls watchers
            if evict:
                file.give_back(why)
        if row is not None:
            with self._lock:
                self._index.delete(row.key)
        return row is not None

    def _path(self, task_id: str) -> str:
        assert is_task_id(task_id), task_id
        return os.path.join(self.root, "tasks", task_id[:2], task_id, "data")

    def _sweep(self) -> None:
        """Delete folders without a row: a crash came between the two."""
        known = {task_id for task_id, _, _ in self._index.tenants()}
        top = os.path.join(self.root, "tasks")
        try:
            os.makedirs(top, exist_ok=True)
            folders = [os.path.join(top, prefix, name) for prefix in os.listdir(top)
                       for name in os.listdir(os.path.join(top, prefix)) if name not in known]
        except OSError as error:
            raise FileError(f"can't read the store {self.root}: {error.strerror}") from error
        for folder in folders:
            remove_folder(folder)

    # ------------------------------------------------------------------ room
    def _make_room(self, size: int, keep: str) -> None:
        with self._lock:
            if self._surely_fits(size):
                return
            rows = self._index.tenants()
            self._reserved_max = sum(reserved for _, reserved, _ in rows)
            tenants = [Tenant(task_id, self._cost(task_id, reserved),
                              not pinned and task_id != keep and not self._in_use(task_id))
                       for task_id, reserved, pinned in rows]
            room = self._room(sum(tenant.size for tenant in tenants))
            victims = choose_victims(room, tenants, size)
        for task_id in victims:
            self._drop(task_id, "was evicted to make room", evict=True)

    def _surely_fits(self, size: int) -> bool:
        """True if nothing need go even if the tasks took all that they ever reserved: it spares
        most calls a look at every task. (What fits beside more also fits beside less, because the
        free part of the disk is the same.)"""
        used = self._reserved_max
        return used is not None and self._room(used).is_calm(used + size)

    def _room(self, used: int) -> Room:
        try:
            disk = os.statvfs(self.root)
        except OSError as error:
            raise FileError(f"can't look at the store {self.root}: {error.strerror}") from error
        with self._lock:  # what files were promised is free on the disk until they are written
            promised = sum(file.unwritten for file in self._unfinished)
        capacity = used + max(0, disk.f_bavail * disk.f_frsize - INDEX_ROOM - promised)
        capacity = min(capacity, self._quota) if self._quota else capacity
        return Room(f"the store {self.root}", capacity, *self._watermarks)

    def _cost(self, task_id: str, reserved: int) -> int:
        """Bytes that evicting the task would free: none while a user has a hard link to it."""
        try:
            return 0 if os.stat(self._path(task_id)).st_nlink > 1 else reserved
        except OSError:
            return 0  # gone, or out of reach: nothing to be gained

    def _in_use(self, task_id: str) -> bool:
        file = self._live.get(task_id)
        return file is not None and file.holds > 0

    def _reserve(self, key: int, size: int) -> None:
        more = size - self._index.reserved(key)
        if more > 0:
            self._make_room(more, keep=self._index.task_id_of(key) or "")
            self._index.reserve(key, size)
            self._note_reserved(more)

    def _note_reserved(self, more: int) -> None:
        with self._lock:
            if self._reserved_max is not None:
                self._reserved_max += more

    # ------------------------------------------------------------------ late work
    def _commit_late(self) -> None:
        self._lagging = True  # until proved otherwise
        self._index.commit()
        self._lagging = False

    def _commit_now(self) -> None:
        """Marking a piece can't fail for the index's sake: what isn't written stays queued, for
        the flusher to try again."""
        try:
            self._commit_late()
        except DflyError as error:
            _log.warning("the index lags behind: %s", error)

    def _sync_later(self, key: int) -> None:
        with self._lock:
            if key in self._unsynced:
                return
            self._unsynced.add(key)
        self._flusher.sync_later(lambda: self.sync(key))

    def sync(self, key: int) -> None:
        """Write a complete file through to the disk, so that no crash makes it doubtful."""
        with self._lock:
            self._unsynced.discard(key)
            task_id = self._index.task_id_of(key)
            fd = None if task_id is None else self._open_data(task_id)
        if fd is None:
            return
        try:
            seen = os.fstat(fd).st_mtime_ns
            os.fsync(fd)
        except OSError as error:
            raise FileError(f"can't sync task {task_id}: {error.strerror}") from error
        finally:
            os.close(fd)
        self._index.make_durable(key, seen)
        self._flusher.soon()


def _open_index(path: str) -> Index:
    """The index; a damaged one is kept aside and a new, empty one begun."""
    try:
        return Index(path)
    except IndexDamaged as error:
        _log.warning("the store begins anew: its index %s is damaged (%s) and kept as %s.damaged",
                     path, error, path)
    try:
        os.replace(path, path + ".damaged")
        remove_database(path)
        return Index(path)
    except (OSError, IndexDamaged) as error:
        raise FileError(f"can't replace the damaged index {path}: {error}",
                        "delete it and start again") from error
