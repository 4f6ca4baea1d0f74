"""The disk store's record of its tasks and pieces: one SQLite database in WAL mode.

Only SQL and its errors are here; what the rows mean for files is disk.py's. Marks come by the
thousand and from many threads, so they are queued (`later`, cheap, never waits) and written by
`commit` in one transaction. Any other statement writes the queue first: the order of facts is
the order of calls. `synchronous=NORMAL`: what was committed survives `kill -9`; a power cut may
take the last seconds but leaves the database consistent, and the boot id tells which pieces to
doubt then.
"""
from __future__ import annotations

import os
import sqlite3
import threading
from dataclasses import dataclass
from typing import Any, Callable, Iterator, List, NoReturn, Optional, Tuple

from dfly.digest import SHA256_SIZE
from dfly.errors import FileError, NoSpace
from dfly.store import TaskRecord
from dfly.store.piecefile import PieceRecord
from dfly.task import Geometry, run_set

FORMAT = 1  # PRAGMA user_version; another number is another, unreadable format
CACHE_KIB = 256  # an idle daemon should be small; a batch touches a handful of pages

_SCHEMA = """
CREATE TABLE tasks(
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL UNIQUE, version TEXT NOT NULL,
    url TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL,
    length INTEGER, piece_size INTEGER NOT NULL, reserved INTEGER NOT NULL,
    pinned INTEGER NOT NULL DEFAULT 0, created_at REAL NOT NULL, accessed_at REAL NOT NULL,
    last_use INTEGER NOT NULL, boot TEXT NOT NULL,
    sealed_size INTEGER, sealed_mtime_ns INTEGER, durable INTEGER NOT NULL DEFAULT 0);
CREATE TABLE pieces(
    task INTEGER NOT NULL, piece INTEGER NOT NULL, digest BLOB NOT NULL, held INTEGER NOT NULL,
    PRIMARY KEY(task, piece)) WITHOUT ROWID;
"""
_MARK = ("INSERT OR REPLACE INTO pieces SELECT ?1, ?2, ?3, 1"
         " WHERE EXISTS (SELECT 1 FROM tasks WHERE key = ?1)")
_LEARN = ("INSERT INTO pieces SELECT ?1, ?2, ?3, 0 WHERE EXISTS (SELECT 1 FROM tasks"
          " WHERE key = ?1) ON CONFLICT(task, piece) DO UPDATE SET digest = ?3 WHERE held = 0")
_RECORDS = """
SELECT task_id, version, url, tag, digest, length, piece_size, sealed_size IS NOT NULL, pinned,
    created_at, accessed_at,
    (SELECT COUNT(*) FROM pieces WHERE task = key AND held),
    (SELECT MAX(piece) FROM pieces WHERE task = key AND held)
FROM tasks ORDER BY last_use, key
"""


class IndexDamaged(Exception):
    """The file isn't a sound index of this format."""


@dataclass(frozen=True)
class TaskRow:
    """A task as it was recorded. `boot` = which boot of the host its pieces were written in."""

    key: int
    version: str
    geometry: Geometry
    seal: Optional[Tuple[int, int]]
    boot: str
    durable: bool


class Index:
    """See the head of this file. Raises IndexDamaged, FileError, NoSpace."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._queue: List[Tuple[str, Tuple[Any, ...]]] = []
        self._queueing = threading.Lock()
        self._using = threading.RLock()  # one connection, one user at a time
        self._closed = False
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise FileError(f"can't open {path}: {error}") from error
        try:
            self._prepare()
        except sqlite3.OperationalError as error:
            self._db.close()
            self._raise(error)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise IndexDamaged(str(error)) from error
        except IndexDamaged:
            self._db.close()
            raise
        (self._last_use,) = self._one("SELECT COALESCE(MAX(last_use), 0) FROM tasks") or (0,)

    def _prepare(self) -> None:
        self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
            return
        if version != FORMAT:
            raise IndexDamaged(f"it has format {version}, this dfly reads {FORMAT}")
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise IndexDamaged(str(verdict))

    # ------------------------------------------------------------------ tasks
    def insert(self, record: TaskRecord, reserved: int, boot: str) -> int:
        """A new task without pieces; its key, which is never used again."""
        self._run("INSERT INTO tasks(task_id, version, url, tag, digest, length, piece_size,"
                  " reserved, created_at, accessed_at, last_use, boot)"
                  " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                  (record.task_id, record.version, record.url, record.tag, record.digest,
                   record.length, record.piece_size, reserved, record.created_at,
                   record.accessed_at, self._next_use(), boot))
        (key,) = self._one("SELECT key FROM tasks WHERE task_id = ?", record.task_id) or (0,)
        return int(key)

    def task(self, task_id: str) -> Optional[TaskRow]:
        row = self._one("SELECT key, version, length, piece_size, sealed_size, sealed_mtime_ns,"
                        " boot, durable FROM tasks WHERE task_id = ?", task_id)
        if row is None:
            return None
        key, version, length, piece_size, sealed_size, sealed_mtime_ns, boot, durable = row
        seal = None if sealed_size is None else (sealed_size, sealed_mtime_ns)
        return TaskRow(key, version, Geometry(length, piece_size), seal, boot, bool(durable))

    def task_id_of(self, key: int) -> Optional[str]:
        row = self._one("SELECT task_id FROM tasks WHERE key = ?", key)
        return None if row is None else str(row[0])

    def pieces(self, key: int) -> PieceRecord:
        record = PieceRecord()
        digests, have = bytearray(), 0
        known = 0
        rows = self._all("SELECT piece, digest, held FROM pieces WHERE task = ? ORDER BY piece",
                         key)
        for first, count, held, raw in _runs(rows):
            digests.extend(bytes(first * SHA256_SIZE - len(digests)))
            digests.extend(raw)
            known |= run_set(first, count)
            have |= run_set(first, count) if held else 0
        record.digests, record.known, record.have = digests, known, have
        return record

    def records(self, path_of: Callable[[str], str]) -> List[TaskRecord]:
        found = []
        for row in self._all(_RECORDS):
            (task_id, version, url, tag, digest, length, piece_size, complete, pinned,
             created_at, accessed_at, held, last_held) = row
            geometry = Geometry(length, piece_size)
            size = held * piece_size
            if held and last_held + 1 == geometry.piece_count:
                size -= piece_size - geometry.size_of(last_held)
            found.append(TaskRecord(task_id, version, url, tag, digest, length, piece_size, size,
                                    bool(complete), bool(pinned), created_at, accessed_at,
                                    path_of(task_id)))
        return found

    def tenants(self) -> List[Tuple[str, int, bool]]:
        """(task id, reserved bytes, pinned), the least recently used first."""
        return [(task_id, reserved, bool(pinned)) for task_id, reserved, pinned in
                self._all("SELECT task_id, reserved, pinned FROM tasks ORDER BY last_use, key")]

    def delete(self, key: int) -> None:
        with self._using:
            self._run("DELETE FROM pieces WHERE task = ?", (key,))
            self._run("DELETE FROM tasks WHERE key = ?", (key,))

    def pin(self, task_id: str, pinned: bool) -> bool:
        return self._run("UPDATE tasks SET pinned = ? WHERE task_id = ?", (pinned, task_id)) > 0

    def reserved(self, key: int) -> int:
        row = self._one("SELECT reserved FROM tasks WHERE key = ?", key)
        return 0 if row is None else int(row[0])

    def reserve(self, key: int, size: int) -> None:
        self._run("UPDATE tasks SET reserved = ? WHERE key = ?", (size, key))

    # ------------------------------------------------------------------ queued facts
    def mark(self, key: int, piece_index: int, digest: bytes) -> int:
        return self.later(_MARK, key, piece_index, digest)

    def unmark(self, key: int, pieces: List[int]) -> None:
        for piece_index in pieces:
            self.later("UPDATE pieces SET held = 0 WHERE task = ? AND piece = ?", key, piece_index)
        self.later("UPDATE tasks SET sealed_size = NULL, sealed_mtime_ns = NULL, durable = 0"
                   " WHERE key = ?", key)

    def learn(self, key: int, first: int, digests: bytes) -> None:
        """Queued whole, cut into rows by whoever commits: the caller may be an event loop."""
        self.later(_LEARN, key, first, digests)

    def size(self, key: int, length: int) -> None:
        self.later("UPDATE tasks SET length = ?, reserved = ? WHERE key = ?", length, length, key)

    def seal(self, key: int, size: int, mtime_ns: int) -> None:
        self.later("UPDATE tasks SET sealed_size = ?, sealed_mtime_ns = ?, durable = 0"
                   " WHERE key = ?", size, mtime_ns, key)

    def confirm(self, key: int, boot: str) -> None:
        self.later("UPDATE tasks SET boot = ? WHERE key = ?", boot, key)

    def make_durable(self, key: int, mtime_ns: int) -> None:
        """The file as it was at that time is on the disk, whatever happens to the host."""
        self.later("UPDATE tasks SET durable = 1 WHERE key = ? AND sealed_mtime_ns = ?",
                   key, mtime_ns)

    def touch(self, key: int, now: float) -> None:
        self.later("UPDATE tasks SET accessed_at = ?, last_use = ? WHERE key = ?",
                   now, self._next_use(), key)

    def later(self, statement: str, *values: Any) -> int:
        """Queue a statement; how many wait now."""
        with self._queueing:
            if not self._closed:
                self._queue.append((statement, values))
            return len(self._queue)

    # ------------------------------------------------------------------ database
    def commit(self) -> None:
        """Write what is queued. If that fails it stays queued, for the next attempt."""
        with self._using:
            with self._queueing:
                batch, self._queue = self._queue, []
            if not batch or self._closed:
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                for statement, values in batch:
                    if statement is _LEARN:
                        self._db.executemany(statement, _learnt_rows(*values))
                    else:
                        self._db.execute(statement, values)
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                with self._queueing:
                    self._queue = batch + self._queue
                self._raise(error)

    def close(self) -> None:
        """Write what is queued, then close. Later calls find nothing and change nothing."""
        with self._using:
            if self._closed:
                return
            try:
                self.commit()
            finally:
                self._closed = True
                self._db.close()

    def _run(self, statement: str, values: Tuple[Any, ...]) -> int:
        with self._using:
            self.commit()
            if self._closed:
                return 0
            try:
                return self._db.execute(statement, values).rowcount
            except sqlite3.Error as error:
                self._raise(error)

    def _all(self, query: str, *values: Any) -> List[Tuple[Any, ...]]:
        with self._using:
            self.commit()
            if self._closed:
                return []
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                self._raise(error)

    def _one(self, query: str, *values: Any) -> Optional[Tuple[Any, ...]]:
        rows = self._all(query, *values)
        return rows[0] if rows else None

    def _next_use(self) -> int:
        with self._queueing:
            self._last_use += 1
            return int(self._last_use)

    def _raise(self, error: sqlite3.Error) -> NoReturn:
        if "full" in str(error):
            raise NoSpace(f"can't write {self.path}: {error}", "free some space") from error
        raise FileError(f"can't use {self.path}: {error}",
                        "restart the daemon: it checks the index and rebuilds a damaged one"
                        ) from error


def _learnt_rows(key: int, first: int, digests: bytes) -> Iterator[Tuple[int, int, bytes]]:
    for step in range(len(digests) // SHA256_SIZE):
        yield key, first + step, digests[step * SHA256_SIZE:(step + 1) * SHA256_SIZE]


def _runs(rows: List[Tuple[Any, ...]]) -> Iterator[Tuple[int, int, bool, bytes]]:
    """Rows (piece, digest, held) in order -> runs (first, count, held, digests): an int used as
    a bitmap is copied at each change, so a change per run, not per piece."""
    start = 0
    for position in range(1, len(rows) + 1):
        last = position == len(rows)
        if not last and (rows[position][0] == rows[position - 1][0] + 1
                         and rows[position][2] == rows[start][2]):
            continue
        run = rows[start:position]
        yield run[0][0], len(run), bool(run[0][2]), b"".join(digest for _, digest, _ in run)
        start = position


def remove_database(path: str) -> None:
    """Delete an index and its side files."""
    for name in (path, path + "-wal", path + "-shm"):
        try:
            os.unlink(name)
        except FileNotFoundError:
            pass  # side files exist only while SQLite needs them
