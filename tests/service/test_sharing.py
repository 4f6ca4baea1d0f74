"""A file of this host on its way into the store: shared is what the file was, or nothing."""
from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, Optional

import pytest

from dfly.clock import ManualClock
from dfly.digest import Digest, sha256
from dfly.errors import DflyError, FileError, NetworkError, NoManager, UsageError
from dfly.names import shared_url
from dfly.service import sharing as sharing_module
from dfly.service.content import is_shared, shared_version
from dfly.service.sharing import Reading, Sharing
from dfly.store import TaskFile
from dfly.store.memory import MemoryStore
from dfly.task import PIECE_SIZE_MIN, Geometry, TaskSpec

CONTENT = bytes(range(256)) * 3000 + b"end"   # three pieces, the last one short


DIGEST = Digest("sha256", sha256(CONTENT))
VERSION = shared_version(DIGEST, len(CONTENT)).token


class Link:
    """A manager that knows what it was offered."""

    name = "manager"
    refused: Optional[DflyError] = None

    def __init__(self, *answers: Optional[DflyError], is_open: bool = True) -> None:
        self.is_open = is_open
        self._answers = list(answers)

    async def opened(self, timeout_s: float) -> bool:
        return self.is_open

    async def look(self, join: Callable[[int], Any], timeout_s: float) -> None:
        assert join(1).spec.url.startswith("dfly://")
        error = self._answers.pop(0) if self._answers else None
        if error is not None:
            raise error


class Host:
    """A daemon with a store in memory; `seeded` are the tasks that it offers."""

    def __init__(self, *links: Link) -> None:
        self.store = MemoryStore()
        self.clock = ManualClock()
        self.managers: Any = SimpleNamespace(any_known=bool(links),
                                             for_task=lambda task_id: list(links))
        self.seeded: List[str] = []
        self.opened = 0
        self.download: Any = None

    def download_of(self, task_id: str) -> Any:
        return self.download

    async def seed(self, spec: TaskSpec) -> Any:
        file = self.store.find(spec.task_id)
        if file is None or not file.complete or not is_shared(file, spec.digest):
            return None
        self.seeded.append(spec.task_id)
        return SimpleNamespace()

    def touch(self) -> None: ...


def spec_of(content: bytes) -> TaskSpec:
    digest = Digest("sha256", sha256(content))
    return TaskSpec(shared_url(str(digest)), digest=digest)


async def shared(sharing: Sharing, path: object, identity: object = None) -> Dict[str, Any]:
    """The last event."""
    return [event async for event in sharing.share(str(path), identity)][-1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    os.utime(path, (1, 1))
    return path


def held(host: Host, content: bytes = CONTENT) -> Optional[TaskFile]:
    return host.store.find(spec_of(content).task_id)


def test_it_is_copied_offered_and_told(path: Path) -> None:
    host = Host(Link())
    sharing = Sharing(host)
    done = asyncio.run(shared(sharing, path))
    spec = spec_of(CONTENT)
    assert done == {"event": "done", "task": spec.task_id, "digest": str(spec.digest),
                    "url": spec.url, "length": len(CONTENT), "manager": "manager"}
    file = held(host)
    assert file is not None and file.complete and file.read(0, len(CONTENT)) == CONTENT
    assert host.seeded and sharing.tasks == {spec.task_id}
    (record,) = host.store.records()
    assert (record.url, record.digest) == (spec.url, str(spec.digest))


def test_two_hosts_name_the_same_version(path: Path) -> None:
    hosts = [Host(Link()), Host(Link())]
    for host in hosts:
        asyncio.run(shared(Sharing(host), path))
    (one,), (other,) = (host.store.records() for host in hosts)
    assert one.version == other.version


def test_a_file_known_well_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(Link())
    sharing = Sharing(host)
    reads: List[str] = []
    whole = Reading.find_digest

    def noted(self: Reading) -> Digest:
        reads.append(self.place)
        return whole(self)
    monkeypatch.setattr(Reading, "find_digest", noted)
    changed_at = os.stat(path).st_ctime

    def shared_at(wall: float) -> int:
        """How often it was read by then."""
        host.clock = ManualClock(wall=wall)
        assert asyncio.run(shared(sharing, path))["length"] == path.stat().st_size
        return len(reads)
    # One that changed just now may change again and show no other time.
    assert [shared_at(changed_at + 1), shared_at(changed_at + 1)] == [1, 2]
    assert [shared_at(changed_at + 3), shared_at(changed_at + 3)] == [3, 3]
    host.store.remove(spec_of(CONTENT).task_id)
    assert shared_at(changed_at + 3) == 4
    path.write_bytes(CONTENT[:-1])
    assert shared_at(changed_at + 3) == 5


# --------------------------------------------------------------------------- what changes
@pytest.mark.parametrize("change", ["grows", "shrinks", "is rewritten"])
def test_a_file_that_changes_between_the_readings_is_not_shared(
        path: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def and_then(self: Reading) -> Digest:
        digest = whole(self)
        with open(path, "r+b") as file:
            if change == "shrinks":
                file.truncate(len(CONTENT) - 1)
            else:
                file.seek(len(CONTENT) if change == "grows" else len(CONTENT) - 2)
                file.write(b"?")
        return digest
    whole = Reading.find_digest
    monkeypatch.setattr(Reading, "find_digest", and_then)
    host = Host(Link())
    if change == "grows":   # what was there at first is still the same
        assert asyncio.run(shared(Sharing(host), path))["length"] == len(CONTENT)
        return
    with pytest.raises(FileError, match="changed while it was read"):
        asyncio.run(shared(Sharing(host), path))
    assert host.store.records() == [] and host.seeded == []


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1, len(CONTENT)])
def test_a_file_that_changes_during_the_first_reading_is_not_shared(path: Path, size: int) -> None:
    reading = Reading.begin(str(path))
    with open(path, "r+b") as file:
        file.write(b"!")
        file.truncate(size)
    with pytest.raises(FileError, match="changed while it was read"):
        reading.find_digest()
    reading.end()


# -------------------------------------------------------------------- what the store has
def test_what_is_here_in_part_is_filled_up(path: Path) -> None:
    host = Host(Link())
    spec = spec_of(CONTENT)
    file = host.store.open(spec.task_id, VERSION, Geometry(len(CONTENT), PIECE_SIZE_MIN))
    file.put(0, CONTENT[:PIECE_SIZE_MIN], sha256(CONTENT[:PIECE_SIZE_MIN]))
    host.download = SimpleNamespace(is_over=False, is_done=False, file=file)
    asyncio.run(shared(Sharing(host), path))
    assert file.complete and held(host) is file   # a download that went on is done


@pytest.mark.parametrize("version", ["", "v"])
def test_a_part_that_someone_made_up_gives_way(path: Path, version: str) -> None:
    """Be it because its pieces are others, or because it came from a source."""
    host = Host(Link())
    spec = spec_of(CONTENT)
    wrong = bytes(PIECE_SIZE_MIN)
    file = host.store.open(spec.task_id, version or VERSION,
                           Geometry(len(CONTENT), PIECE_SIZE_MIN))
    file.put(0, wrong, sha256(wrong))
    host.download = SimpleNamespace(is_over=False, is_done=False, file=file)
    with pytest.raises(FileError, match="goes on here"):
        asyncio.run(shared(Sharing(host), path))
    host.download = None
    asyncio.run(shared(Sharing(host), path))
    found = held(host)
    assert found is not None and found.read(0, len(CONTENT)) == CONTENT


def test_what_came_from_a_source_is_kept_anew_to_be_shared(path: Path) -> None:
    """Only what was shared is given to all who know its digest."""
    host = Host(Link())
    spec = spec_of(CONTENT)
    file = host.store.open(spec.task_id, "v", Geometry(len(CONTENT), PIECE_SIZE_MIN))
    for piece in range(3):
        data = CONTENT[piece * PIECE_SIZE_MIN:(piece + 1) * PIECE_SIZE_MIN]
        file.put(piece, data, sha256(data))
    host.download = SimpleNamespace(is_over=False, is_done=True, file=file)
    asyncio.run(shared(Sharing(host), path))
    found = held(host)
    assert found is not None and found.version == VERSION and found.complete


# ------------------------------------------------------------------------- wrong questions
@pytest.mark.parametrize("kind, says", [
    ("fifo", "no regular file"), ("socket", "can't read"), ("folder", "is a folder"),
    ("empty", "is empty"), ("absent", "No such file"), ("device", "no regular file"),
    ("other", "another file")])
def test_what_is_no_file_is_refused_in_one_line(tmp_path: Path, kind: str, says: str) -> None:
    path = tmp_path / "it"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/null")
    elif kind != "absent":
        path.write_bytes(b"" if kind == "empty" else b"x")
    identity = [0, 0] if kind == "other" else None
    with pytest.raises(FileError, match=says) as caught:
        asyncio.run(shared(Sharing(Host(Link())), path, identity))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["", "relative", "/a\0b"])
def test_a_path_that_can_not_be(path: str) -> None:
    with pytest.raises(UsageError):
        asyncio.run(shared(Sharing(Host(Link())), path))


def test_the_file_of_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FileError, match="must be readable by the user of the peer daemon"):
        Reading.begin(str(path))


# -------------------------------------------------------------------------- the managers
def test_the_offer_may_come_a_little_later(path: Path) -> None:
    done = asyncio.run(shared(Sharing(Host(Link(NoManager("not yet")))), path))
    assert done["manager"] == "manager"


@pytest.mark.parametrize("links, says", [
    ([], "no manager was told"), ([Link(is_open=False)], "silent"),
    ([Link(NoManager("nobody has it"), NoManager("nobody has it"))], "nobody has it"),
    ([Link(*[NetworkError("no answer")] * 2)], "no answer")])
def test_no_manager_was_told_but_it_is_kept(path: Path, links: List[Link], says: str) -> None:
    host = Host(*links)
    with pytest.raises(NoManager, match=says) as caught:
        asyncio.run(shared(Sharing(host), path))
    assert "kept" in caught.value.hint and held(host) is not None and host.seeded


def test_the_next_manager_is_asked(path: Path) -> None:
    host = Host(Link(is_open=False), Link())
    assert asyncio.run(shared(Sharing(host), path))["manager"] == "manager"


def test_who_stops_listening_ends_the_reading(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing_module, "PROGRESS_S", 0.001)
    path.write_bytes(bytes(64 << 20))

    async def leave() -> Host:
        host = Host(Link())
        events = Sharing(host).share(str(path))
        assert (await events.__anext__())["event"] == "progress"
        await events.aclose()
        return host
    before = set(os.listdir("/proc/self/fd"))
    host = asyncio.run(leave())
    assert host.store.records() == [] and host.seeded == []
    assert set(os.listdir("/proc/self/fd")) <= before
