from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Iterator

import pytest

from dfly.errors import FileError
from dfly.store import TaskRecord
from dfly.store.index import Index, IndexDamaged
from dfly.task import set_of
from tests.conformance import task


def record(name: str) -> TaskRecord:
    return TaskRecord(task(name), "v", "", "", "", 100_000, 1000, 0, False, False, 1.0, 2.0, "")


def digest(piece_index: int) -> bytes:
    return hashlib.sha256(b"%d" % piece_index).digest()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(str(tmp_path / "index"))
    yield index
    index.close()


@pytest.mark.parametrize("seed", range(10))
def test_pieces_come_back_as_they_were(index: Index, seed: int) -> None:
    rng = random.Random(seed)
    key = index.insert(record("a"), 0, "boot")
    held = set(rng.sample(range(100), rng.randrange(60)))
    told = set(rng.sample(range(100), rng.randrange(60)))
    for piece_index in held:
        index.mark(key, piece_index, digest(piece_index))
    for piece_index in told:
        index.learn(key, piece_index, digest(piece_index))
    pieces = index.pieces(key)
    assert (pieces.have, pieces.known) == (set_of(held), set_of(held | told))
    for piece_index in range(100):
        expected = digest(piece_index) if piece_index in held | told else None
        assert pieces.digest_of(piece_index) == expected


def test_what_is_told_never_changes_a_held_piece(index: Index) -> None:
    key = index.insert(record("a"), 0, "boot")
    index.mark(key, 0, digest(0))
    index.learn(key, 0, digest(8) + digest(9))
    pieces = index.pieces(key)
    assert (pieces.have, pieces.digest_of(0), pieces.digest_of(1)) == (1, digest(0), digest(9))


def test_facts_of_a_deleted_task_leave_no_rows(index: Index) -> None:
    old = index.insert(record("a"), 0, "boot")
    index.delete(old)
    index.delete(old)   # not there any more: nothing happens
    index.mark(old, 0, digest(0))
    index.learn(old, 1, digest(1))
    new = index.insert(record("a"), 0, "boot")
    assert new != old and index.pieces(old).known == 0 and index.pieces(new).known == 0


def test_a_failed_commit_keeps_its_facts_in_order(index: Index) -> None:
    key = index.insert(record("a"), 0, "boot")
    index._db.execute("ALTER TABLE pieces RENAME TO away")
    index.mark(key, 0, digest(0))
    with pytest.raises(FileError):
        index.commit()
    index.unmark(key, [0])
    index.mark(key, 1, digest(1))
    index._db.execute("ALTER TABLE away RENAME TO pieces")
    assert index.pieces(key).have == 0b10


def test_a_file_that_isnt_an_index(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.write_bytes(b"neither SQLite nor empty" * 100)
    with pytest.raises(IndexDamaged):
        Index(str(path))
    with pytest.raises(FileError, match="can't open"):
        Index(str(tmp_path / "missing" / "index"))
