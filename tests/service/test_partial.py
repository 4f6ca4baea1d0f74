"""A file that came in part: what of it is taken, and when none of it is."""
from __future__ import annotations

import asyncio
import hashlib
import os
import random
from pathlib import Path
from typing import Any, List, Optional

import pytest

from dfly.errors import FileError
from dfly.service.partial import WRONG_MAX, Partial
from dfly.source import Version
from dfly.store import TaskFile
from dfly.store.memory import MemoryStore
from dfly.task import Geometry, full_set, members
from dfly.units import MIB

PIECE = 256 * 1024
CONTENT = random.Random(5).randbytes(10 * PIECE + 1000)
MONDAY = "Mon, 05 Jan 2026 10:00:00 GMT"
MONDAY_S = 1_767_607_200.0


def task_file(last_modified: str = MONDAY) -> TaskFile:
    version = Version.of("", last_modified, len(CONTENT), "ab")
    return MemoryStore().open("ab" * 32, version.token, Geometry(len(CONTENT), PIECE))


def know(file: TaskFile, pieces: int) -> None:
    """A manager tells their digests."""
    for piece in members(pieces):
        file.learn(piece, digest(piece))


def piece_of(index: int) -> bytes:
    return CONTENT[index * PIECE:(index + 1) * PIECE]


def digest(index: int) -> bytes:
    return hashlib.sha256(piece_of(index)).digest()


def written(path: Path, content: bytes, modified_at: float = MONDAY_S + 60) -> str:
    path.write_bytes(content)
    os.utime(path, (modified_at, modified_at))
    return str(path)


@pytest.mark.parametrize("size", (0, 1, PIECE - 1, PIECE, 5 * PIECE + 7, len(CONTENT) - 1,
                                  len(CONTENT)))
def test_pieces_that_match_their_digests_are_taken(tmp_path: Path, size: int) -> None:
    file = task_file()
    know(file, full_set(11))
    with Partial(written(tmp_path / "f", CONTENT[:size])) as partial:
        partial.take_known(file)
        assert partial.done_with(file) and not partial.other
    assert file.have == full_set(11 if size == len(CONTENT) else size // PIECE)
    assert all(file.read(i * PIECE, PIECE) == piece_of(i) for i in members(file.have))


def test_nothing_is_taken_before_its_digest_is_told(tmp_path: Path) -> None:
    file = task_file()
    with Partial(written(tmp_path / "f", CONTENT)) as partial:
        partial.take_known(file)
        assert not file.have and not partial.done_with(file)
        know(file, 0b1010)
        partial.take_known(file)
        assert file.have == 0b1010 and not partial.done_with(file)


def test_a_wrong_piece_costs_itself_and_some_make_it_another_file(tmp_path: Path) -> None:
    damaged = bytearray(CONTENT)
    damaged[3 * PIECE] ^= 1
    file = task_file()
    know(file, full_set(11))
    with Partial(written(tmp_path / "f", bytes(damaged))) as partial:
        partial.take_known(file)
        assert file.have == full_set(11) & ~(1 << 3) and partial.done_with(file)
    other = task_file()
    know(other, full_set(11))
    with Partial(written(tmp_path / "g", bytes(len(CONTENT)))) as partial:
        partial.take_known(other)
        assert not other.have and "isn't the beginning" in partial.other
        assert bin(partial._looked_at).count("1") == WRONG_MAX   # and no more was read


def test_a_longer_file_is_another(tmp_path: Path) -> None:
    file = task_file()
    know(file, full_set(11))
    with Partial(written(tmp_path / "f", CONTENT + b"x")) as partial:
        partial.take_known(file)
        assert not file.have and "longer" in partial.other and partial.done_with(file)


class FakeIngest:
    """A source that has CONTENT, and ranges or none."""

    def __init__(self, file: TaskFile, may_range: bool = True) -> None:
        self.may_range = may_range
        self.asked: List[Optional[int]] = []
        self._file = file

    async def fetch(self, file: TaskFile, *, on_piece: Any, wanted: Optional[int] = None) -> None:
        self.asked.append(wanted)
        for piece in members(wanted or 0):
            file.put(piece, piece_of(piece), digest(piece))
            on_piece(piece)


def taken_before(file: TaskFile, path: str, may_range: bool = True) -> Partial:
    ingest: Any = FakeIngest(file, may_range)

    async def scene() -> Partial:
        with Partial(path) as partial:
            await partial.take_before(file, ingest, lambda piece: None)
        return partial
    partial = asyncio.run(scene())
    assert len(ingest.asked) <= 1
    return partial


def test_without_digests_the_last_whole_piece_decides(tmp_path: Path) -> None:
    file = task_file()
    partial = taken_before(file, written(tmp_path / "f", CONTENT[:6 * PIECE + 9]))
    assert file.have == full_set(6) and not partial.other


def test_without_digests_another_last_piece_takes_nothing(tmp_path: Path) -> None:
    content = CONTENT[:5 * PIECE] + bytes(PIECE)
    file = task_file()
    partial = taken_before(file, written(tmp_path / "f", content))
    assert file.have == 1 << 5 and "isn't the beginning" in partial.other   # the source's own


def test_a_file_older_than_the_content_takes_nothing(tmp_path: Path) -> None:
    file = task_file()
    partial = taken_before(file, written(tmp_path / "f", CONTENT[:6 * PIECE], MONDAY_S - 1))
    assert not file.have and "older" in partial.other


@pytest.mark.parametrize("size", (0, PIECE, PIECE + 5))
def test_too_little_to_be_compared_takes_nothing(tmp_path: Path, size: int) -> None:
    file = task_file()
    taken_before(file, written(tmp_path / "f", CONTENT[:size]))
    assert not file.have


def test_without_ranges_nothing_is_taken_on_trust(tmp_path: Path) -> None:
    file = task_file()
    taken_before(file, written(tmp_path / "f", CONTENT[:6 * PIECE]), may_range=False)
    assert not file.have


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none"):
        with pytest.raises(FileError):
            Partial(str(path))


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "f", CONTENT)
    file = task_file()
    know(file, full_set(11))
    with Partial(path) as partial:
        os.truncate(path, MIB)
        with pytest.raises(FileError, match="shorter"):
            partial.take_known(file)
    assert file.have == full_set(MIB // PIECE)
