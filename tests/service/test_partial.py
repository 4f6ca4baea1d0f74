"""A file that came in part: what of it is taken, and when none of it is."""
from __future__ import annotations

import asyncio
import hashlib
import os
import random
from pathlib import Path
from typing import Any, List, Optional

import pytest

from dfly.core.download import LeaseGranted
from dfly.errors import FileError
from dfly.service.partial import TURN_SIZE, WRONG_MAX, Comparing, Partial
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


# ----------------------------------------------------------------------------- while it is led
class Led:
    """A download's part: what it hears, in order: taken pieces, and leases that may go on."""

    def __init__(self, path: str) -> None:
        self.file = task_file()
        self.heard: List[str] = []
        self.file.subscribe(lambda piece: self.heard.append(f"took {piece}"))
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.comparing = Comparing(path, self.file,
                                   lambda lease: self.heard.append(f"lease {lease.lease}"))
        self.work = asyncio.ensure_future(self.comparing.run(self.done))

    def tell(self, pieces: int) -> None:
        know(self.file, pieces)
        self.comparing.told()

    async def hears(self, *words: str) -> None:
        """Exactly this, and nothing more in a while."""
        for _ in range(200):
            if len(self.heard) >= len(words):
                break
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        assert self.heard == list(words)
        self.heard.clear()

    async def end(self) -> str:
        self.done.set_result(None)
        return await asyncio.wait_for(self.work, 5)


def lease(number: int, first: int, count: int = 1) -> LeaseGranted:
    return LeaseGranted(number, 1, first, count, 60.0)


def test_a_lease_waits_until_its_pieces_were_compared(tmp_path: Path) -> None:
    async def scene() -> None:
        led = Led(written(tmp_path / "f", CONTENT[:6 * PIECE + 9]))
        assert not led.comparing.holds(lease(1, 6, 5))     # nothing of that is here
        led.tell(0b1)
        assert led.comparing.holds(lease(2, 0))
        await led.hears("took 0", "lease 2")
        assert led.comparing.holds(lease(3, 4, 4))         # the manager itself is yet to get them
        assert led.comparing.holds(lease(4, 5))
        await led.hears()
        led.comparing.drop(4)
        led.tell(0b110000)
        await led.hears("took 4", "took 5", "lease 3")
        assert led.comparing.holds(lease(5, 3))
        led.comparing.drop_all()
        led.tell(full_set(11))
        await led.hears("took 1", "took 2", "took 3")
        assert await asyncio.wait_for(led.work, 5) == ""   # nothing more can be taken
        assert not led.comparing.holds(lease(6, 0))
    asyncio.run(scene())


def test_what_is_leased_is_compared_first(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("dfly.service.partial.TURN_SIZE", PIECE)
    assert TURN_SIZE >= MIB

    async def scene() -> None:
        led = Led(written(tmp_path / "f", CONTENT[:4 * PIECE]))
        led.tell(0b1111)
        assert led.comparing.holds(lease(1, 2)) and led.comparing.holds(lease(2, 3))
        await led.hears("took 2", "lease 1", "took 3", "lease 2", "took 0", "took 1")
        assert await led.end() == ""
    asyncio.run(scene())


def test_leases_of_another_file_or_one_that_cant_be_read_go_on(tmp_path: Path) -> None:
    async def scene(content: bytes, why: str) -> None:
        led = Led(written(tmp_path / "f", content))
        assert led.comparing.holds(lease(1, 0, 9))
        os.truncate(tmp_path / "f", 5 * PIECE if content == CONTENT else len(content))
        led.tell(full_set(11) & ~0b11111)
        assert why in await asyncio.wait_for(led.work, 5)
        assert led.heard == ["lease 1"] and not led.comparing.holds(lease(2, 0))
    asyncio.run(scene(bytes(len(CONTENT)), "isn't the beginning"))
    asyncio.run(scene(CONTENT, "shorter"))


def test_the_end_of_the_download_ends_it(tmp_path: Path) -> None:
    async def scene() -> None:
        led = Led(written(tmp_path / "f", CONTENT))
        assert led.comparing.holds(lease(1, 3))
        assert await led.end() == "" and led.heard == ["lease 1"]
    asyncio.run(scene())
    with pytest.raises(FileError):
        Comparing(str(tmp_path / "none"), task_file(), print)
