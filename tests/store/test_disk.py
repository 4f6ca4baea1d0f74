"""The disk store: the common suite, then what only a disk has: crashes, owners, damage, links.

`crash` leaves a store as `kill -9` would, in this process; test_kill.py does it with a real one.
"""
from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from dfly.clock import ManualClock
from dfly.errors import FileError, NoSpace, StoreBusy
from dfly.store import PieceStore, disk
from dfly.store.disk import DiskStore
from dfly.store.index import Index
from dfly.task import Geometry, set_of
from dfly.units import MIB
from tests.conformance import (
    ALL,
    CONTENT,
    GEOMETRY,
    LENGTH,
    PIECE,
    StoreConformance,
    digest,
    fill,
    piece,
    store_piece,
    task,
)

REPOSITORY = Path(__file__).resolve().parents[2]


class TestDiskStore(StoreConformance):
    def make(self, tmp_path: Any, **limits: Any) -> PieceStore:
        return DiskStore(str(tmp_path), **limits)


class Host:
    """A folder, and stores that live in it one after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stores: List[DiskStore] = []

    def start(self, boot_id: str = "boot1", **limits: Any) -> DiskStore:
        self.stores.append(DiskStore(str(self.root), boot_id=boot_id, **limits))
        return self.stores[-1]

    def data(self, name: str = "a") -> Path:
        return self.root / "tasks" / task(name)[:2] / task(name) / "data"

    def crash(self) -> None:
        """Nothing that waits in memory is written any more; the lock goes, as the kernel does."""
        store = self.stores[-1]
        store._flusher.stop()
        store._index._queue.clear()
        store.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path / "store")
    yield host
    for store in host.stores:
        store.close()


def edit(path: Path, data: bytes, offset: int = 0) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


# ---------------------------------------------------------------------- resume
def test_a_task_goes_on_where_it_was(host: Host) -> None:
    first = host.start()
    file = first.open(task("a"), "v1", GEOMETRY, url="http://files.example/a", tag="t")
    file.learn(0, b"".join(digest(index) for index in range(4)))
    store_piece(file, 1)
    store_piece(file, 3)
    identity = first.host_id
    first.close()
    second = host.start()
    again = second.open(task("a"), "v1", GEOMETRY)
    assert again.have == set_of([1, 3]) and again.known == set_of([0, 1, 2, 3])
    assert again.digest_of(2) == digest(2) and again.read(PIECE, PIECE) == piece(1)
    assert second.host_id == identity and second.records()[0].url == "http://files.example/a"
    for index in (0, 2, 4, 5):
        store_piece(again, index)
    assert again.complete and again.read(0, LENGTH) == CONTENT


def test_a_complete_task_is_found_complete(host: Host) -> None:
    fill(host.start().open(task("a"), "v1", GEOMETRY))
    host.stores[0].pin(task("a"), True)
    host.stores[0].close()
    second = host.start()
    file = second.find(task("a"))
    assert file is not None and file.complete and file.whole() and file.version == "v1"
    assert second.records()[0].pinned and second.records()[0].complete


def test_a_length_found_late_is_kept(host: Host) -> None:
    file = host.start().open(task("a"), "v1", Geometry(None, PIECE))
    fill(file)
    file.set_length(LENGTH)
    host.stores[0].close()
    again = host.start().find(task("a"))
    assert again is not None and again.complete and again.geometry == GEOMETRY


def test_the_last_batch_alone_is_lost_in_a_crash(host: Host) -> None:
    store = host.start()
    file = store.open(task("a"), "v1", GEOMETRY)
    store_piece(file, 0)
    store.flush()
    store_piece(file, 1)
    file.write(2 * PIECE, piece(2))  # written, not marked
    host.crash()
    again = host.start().open(task("a"), "v1", GEOMETRY)
    assert again.have & ~0b11 == 0 and again.have & 1
    assert fill(again).complete


def test_64_marks_are_committed_without_waiting(host: Host, tmp_path: Path) -> None:
    store = host.start()
    store._flusher.stop()  # no thread: the count alone
    file = store.open(task("many"), "v", Geometry(100 * 1000, 1000))
    for index in range(70):
        store_piece_of_zeros(file, index)
    host.crash()
    again = host.start().find(task("many"))
    assert again is not None and again.have == set_of(range(64))


def store_piece_of_zeros(file: Any, index: int) -> None:
    file.write(index * 1000, bytes(1000))
    file.mark(index, hashlib.sha256(bytes(1000)).digest())


# ---------------------------------------------------------------------- doubt
def test_after_another_boot_unsynced_pieces_are_read_again(host: Host) -> None:
    file = host.start("boot1").open(task("a"), "v1", GEOMETRY)
    for index in (0, 1, 2, 4):
        store_piece(file, index)
    host.stores[0].close()
    edit(host.data(), bytes(100), PIECE)      # a page that never reached the disk
    edit(host.data(), bytes(100), 4 * PIECE)
    store = host.start("boot2")
    again = store.open(task("a"), "v1", GEOMETRY)
    assert again.have == set_of([0, 2])
    assert again.known == set_of([0, 1, 2, 4])
    store.close()
    third = host.start("boot2").find(task("a"))
    assert third is not None and third.have == set_of([0, 2])


def test_without_a_crash_nothing_is_read_again(host: Host,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    fill(host.start("boot1").open(task("a"), "v1", GEOMETRY))
    host.crash()
    forbid_reading(monkeypatch)
    assert host.start("boot1").find(task("a")) is not None


def test_what_was_synced_isnt_doubted(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    store = host.start("boot1")
    file = store.open(task("a"), "v1", GEOMETRY)
    fill(file)
    store.sync(file.key)
    store.close()
    forbid_reading(monkeypatch)
    again = host.start("boot2").find(task("a"))
    assert again is not None and again.complete


def test_a_repair_after_the_sync_is_doubted_again(host: Host) -> None:
    store = host.start("boot1")
    file = store.open(task("a"), "v1", GEOMETRY)
    fill(file)
    store.sync(file.key)
    file.unmark(1)
    store_piece(file, 0)
    store.close()
    edit(host.data(), b"?")
    again = host.start("boot2").find(task("a"))
    assert again is not None and again.have == ALL & ~1


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> bytes:
        raise AssertionError("the pieces were read")
    monkeypatch.setattr("dfly.store.piecefile.os.pread", refuse)


def test_a_doubtful_file_that_a_user_edits_isnt_repaired_in_place(host: Host,
                                                                  tmp_path: Path) -> None:
    fill(host.start("boot1").open(task("a"), "v1", GEOMETRY))
    host.stores[0].close()
    os.link(host.data(), tmp_path / "mine")
    edit(tmp_path / "mine", b"my own words")
    store = host.start("boot2")
    assert store.find(task("a")) is None
    fill(store.open(task("a"), "v1", GEOMETRY))
    assert (tmp_path / "mine").read_bytes()[:12] == b"my own words"


# ---------------------------------------------------------------------- links, foreign hands
def test_a_linked_file_edited_by_its_user_leaves_the_store(host: Host, tmp_path: Path) -> None:
    store = host.start()
    file = fill(store.open(task("a"), "v1", GEOMETRY))
    assert file.path == str(host.data())
    os.link(file.path, tmp_path / "mine")
    assert file.whole() and store.find(task("a")) is file  # a link alone is no change
    edit(tmp_path / "mine", b"my own words")
    assert not file.whole() and store.find(task("a")) is None and store.records() == []
    assert not host.data().exists() and (tmp_path / "mine").stat().st_size == LENGTH


def test_an_edit_while_no_daemon_ran_is_noticed(host: Host, tmp_path: Path) -> None:
    fill(host.start().open(task("a"), "v1", GEOMETRY))
    host.stores[0].close()
    os.link(host.data(), tmp_path / "mine")
    edit(tmp_path / "mine", b"my own words")
    assert host.start().find(task("a")) is None


@pytest.mark.parametrize("daemon_runs", [True, False])
def test_a_data_file_deleted_by_hand_is_no_task_any_more(host: Host, daemon_runs: bool) -> None:
    store = host.start()
    fill(store.open(task("a"), "v1", GEOMETRY))
    host.data().unlink()
    if not daemon_runs:
        store.close()
        store = host.start()
    assert store.find(task("a")) is None and store.records() == []
    assert fill(store.open(task("a"), "v1", GEOMETRY)).complete


def test_a_symlink_in_place_of_the_data_is_refused(host: Host, tmp_path: Path) -> None:
    fill(host.start().open(task("a"), "v1", GEOMETRY))
    host.stores[0].close()
    (tmp_path / "secret").write_bytes(CONTENT)
    host.data().unlink()
    host.data().symlink_to(tmp_path / "secret")
    with pytest.raises(FileError):
        host.start().find(task("a"))


def test_tasks_that_users_have_links_to_cost_no_room(host: Host, tmp_path: Path) -> None:
    store = host.start(quota=2 * LENGTH, high=1.0, low=0.6)
    os.link(str(fill(store.open(task("a"), "v1", GEOMETRY)).path), tmp_path / "mine")
    fill(store.open(task("b"), "v1", GEOMETRY))
    fill(store.open(task("c"), "v1", GEOMETRY))
    assert len(store.records()) == 3
    (tmp_path / "mine").unlink()
    store.make_room(1)
    assert [record.task_id for record in store.records()] == [task("c")]


def test_modes(host: Host) -> None:
    umask = os.umask(0o027)
    try:
        host.start().open(task("a"), "v1", GEOMETRY)
    finally:
        os.umask(umask)
    assert host.root.stat().st_mode & 0o777 == 0o700
    assert host.data().stat().st_mode & 0o777 == 0o640


# ---------------------------------------------------------------------- owners
def test_a_second_owner_is_refused_by_name(host: Host) -> None:
    fill(host.start().open(task("a"), "v1", GEOMETRY))
    script = "import sys; from dfly.store.disk import DiskStore; DiskStore(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", script, str(host.root)], capture_output=True,
                          text=True, timeout=30, check=False, cwd=REPOSITORY)
    assert "StoreBusy" in done.stderr and f"process {os.getpid()}" in done.stderr
    with pytest.raises(StoreBusy):
        host.start()
    assert host.stores[0].verify(task("a")) == 0
    host.stores[0].close()
    assert host.start().find(task("a")) is not None


def test_a_folder_that_cant_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="can't use the store"):
        DiskStore(str(tmp_path / "file"))


# ---------------------------------------------------------------------- damage
@pytest.mark.parametrize("where", ["header", "pages", "everything"])
def test_a_damaged_index_is_kept_aside_and_begun_anew(host: Host, where: str,
                                                      caplog: pytest.LogCaptureFixture) -> None:
    store = host.start()
    for name in "abcdefgh":
        file = store.open(task(name), "v1", GEOMETRY)
        file.learn(0, b"".join(digest(index) for index in range(6)))
    store.close()
    index = host.root / "index"
    size = index.stat().st_size
    start, stop = {"header": (0, 100), "pages": (4096, size), "everything": (0, size)}[where]
    edit(index, os.urandom(stop - start), start)
    again = host.start()
    assert again.records() == [] and "damaged" in caplog.text
    assert (host.root / "index.damaged").exists()
    assert not host.data("a").exists()  # content without digests is rubbish
    assert fill(again.open(task("a"), "v1", GEOMETRY)).complete
    again.close()
    assert host.start().find(task("a")) is not None


def test_an_index_of_another_format_is_kept_aside(host: Host) -> None:
    host.start().close()
    index = Index(str(host.root / "index"))
    index._run("PRAGMA user_version = 99", ())
    index.close()
    assert host.start().records() == []
    assert (host.root / "index.damaged").exists()


def test_damage_while_running_is_an_error_not_a_crash(host: Host) -> None:
    store = host.start()
    file = store.open(task("a"), "v1", GEOMETRY)
    store.flush()
    store._index._db.execute("DROP TABLE pieces")
    fill(file)  # marks don't fail for the index's sake
    with pytest.raises(FileError, match="restart the daemon"):
        store.flush()
    assert file.complete
    store._index._queue.clear()


def test_rubbish_folders_are_swept(host: Host) -> None:
    host.start().open(task("a"), "v1", GEOMETRY)
    host.stores[0].close()
    rubbish = host.data("b")
    rubbish.parent.mkdir(parents=True)
    rubbish.write_bytes(b"crashed between file and row")
    (rubbish.parent / "link").symlink_to(host.data("a"))
    store = host.start()
    assert not rubbish.parent.exists() and host.data("a").exists()
    assert len(store.records()) == 1


def test_a_damaged_host_id_is_made_anew(host: Host) -> None:
    host.start().close()
    (host.root / "host-id").write_bytes(b"\xff\xfe garbage")
    assert len(host.start().host_id) == 16


# ---------------------------------------------------------------------- room
def test_a_file_that_the_disk_cant_hold_is_refused_at_once(host: Host) -> None:
    store = host.start()
    fill(store.open(task("kept"), "v", GEOMETRY))
    with pytest.raises(NoSpace, match="can't hold 1024 TiB"):
        store.open(task("huge"), "v", Geometry(1 << 50, 16 * MIB))
    assert not host.data("huge").exists()
    assert [record.task_id for record in store.records()] == [task("kept")]


def refuse_room(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_room_while_preallocating(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    store = host.start()
    monkeypatch.setattr(os, "posix_fallocate", refuse_room)
    with pytest.raises(NoSpace, match=r"no room for 1.25 MiB.* free"):
        store.open(task("a"), "v", GEOMETRY)
    assert store.records() == [] and not host.data().parent.exists()
    monkeypatch.undo()
    assert fill(store.open(task("a"), "v", GEOMETRY)).complete


def test_a_file_system_without_preallocation_will_do(host: Host,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")
    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    assert fill(host.start().open(task("a"), "v", GEOMETRY)).complete


def test_no_room_while_writing_keeps_what_is_held(host: Host,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    store = host.start()
    file = store.open(task("a"), "v", Geometry(None, PIECE))
    store_piece(file, 0)
    monkeypatch.setattr(os, "pwrite", refuse_room)
    with pytest.raises(NoSpace, match="No space left.*256 KiB held are kept"):
        file.write(PIECE, piece(1))
    monkeypatch.undo()
    assert file.have == 1 and file.failed is None
    store_piece(file, 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a failed test has files open


def test_a_real_full_disk(small_disk: Path) -> None:
    store = DiskStore(str(small_disk / "store"))
    with pytest.raises(NoSpace):
        store.open(task("huge"), "v", Geometry(8 * MIB, PIECE))
    file = store.open(task("a"), "v", Geometry(None, PIECE))
    (small_disk / "other").write_bytes(bytes(2 * MIB))
    with pytest.raises(NoSpace):
        for index in range(16):
            file.write(index * PIECE, bytes(PIECE))
            file.mark(index, digest(0, bytes(PIECE)))
    held = file.have
    assert held
    (small_disk / "other").unlink()
    store.close()
    again = DiskStore(str(small_disk / "store"))
    resumed = again.find(task("a"))
    assert resumed is not None and resumed.have == held and again.verify(task("a")) == 0
    again.close()


def test_a_file_that_grows_leaves_the_index_its_room(small_disk: Path) -> None:
    store = DiskStore(str(small_disk / "store"))
    file = store.open(task("a"), "v", Geometry(None, PIECE))
    with pytest.raises(NoSpace, match="can't hold"):
        for index in (7, 11, 15, *range(7)):   # reserved up to there, written only here and there
            file.write(index * PIECE, bytes(PIECE))
            file.mark(index, digest(0, bytes(PIECE)))
    disk = os.statvfs(small_disk)
    assert disk.f_bavail * disk.f_frsize > PIECE
    assert fill(store.open(task("b"), "v", GEOMETRY)).complete   # the other gave way
    assert [record.task_id for record in store.records()] == [task("b")]
    store.close()


# ---------------------------------------------------------------------- memory of its own
def test_files_that_no_one_uses_are_let_go(host: Host) -> None:
    store = host.start()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(60):
        fill(store.open(task(str(number)), "v", GEOMETRY))
    assert len(os.listdir("/proc/self/fd")) - before <= 18
    for number in range(60):
        file = store.find(task(str(number)))
        assert file is not None and file.complete and file.read(PIECE, 10) == piece(1)[:10]


def test_uses_keep_their_order_over_a_restart(host: Host) -> None:
    clock = ManualClock()  # stands still: order comes from use, not from time
    store = host.start(clock=clock)
    for name in "abc":
        store.open(task(name), "v", GEOMETRY)
    store.find(task("a"))
    store.close()
    store = host.start(clock=clock)
    store.find(task("b"))
    assert [record.task_id for record in store.records()] == [task(n) for n in "cab"]


def test_eviction_frees_the_room_of_a_file_that_is_still_open(host: Host) -> None:
    store = host.start(quota=4 * LENGTH)
    old, linked, held = (fill(store.open(task(name), "v1", GEOMETRY)) for name in "abc")
    os.link(linked.path, host.root / "mine")
    held.hold()
    store.make_room(int(2.5 * LENGTH))
    assert os.fstat(old.fileno()).st_blocks == 0 and old.failed is not None
    assert (host.root / "mine").read_bytes() == CONTENT == held.read(0, LENGTH)


def test_who_takes_hold_while_others_are_evicted_keeps_the_file(
        host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    store = host.start(quota=4 * LENGTH)
    files = [fill(store.open(task(name), "v1", GEOMETRY)) for name in "abc"]
    remove = disk.remove_folder

    def remove_slowly(folder: str) -> None:
        if folder.endswith(task("a")):
            files[1].hold()
        remove(folder)
    monkeypatch.setattr(disk, "remove_folder", remove_slowly)
    store.make_room(int(2.5 * LENGTH))
    assert files[0].failed is not None and files[1].failed is None
    assert files[1].read(0, LENGTH) == CONTENT and store.find(task("b")) is files[1]


def test_eviction_frees_room_before_it_writes_to_the_index(
        host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk there is none to write to it in."""
    store = host.start(quota=2 * LENGTH)
    old = fill(store.open(task("a"), "v1", GEOMETRY))
    delete = Index.delete

    def delete_if_freed(index: Index, key: int) -> None:
        assert os.fstat(old.fileno()).st_blocks == 0
        delete(index, key)
    monkeypatch.setattr(Index, "delete", delete_if_freed)
    assert fill(store.open(task("b"), "v1", GEOMETRY)).complete
    assert [record.task_id for record in store.records()] == [task("b")]


def test_a_crash_while_a_task_is_dropped_leaves_nothing_of_it(
        host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(host.start().open(task("a"), "v1", GEOMETRY))

    def crash(index: Index, key: int) -> None:
        raise NoSpace("the disk is full", "")
    monkeypatch.setattr(Index, "delete", crash)
    with pytest.raises(NoSpace):
        host.stores[-1].remove(task("a"))
    monkeypatch.undo()
    host.crash()
    store = host.start()
    assert store.find(task("a")) is None and store.records() == []
    assert not host.data().parent.exists()


def test_tasks_are_looked_over_only_when_room_may_be_short(
        host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    store = host.start(quota=10 * LENGTH, high=1.0, low=0.8)
    looks: List[int] = []
    tenants = Index.tenants
    monkeypatch.setattr(Index, "tenants", lambda self: looks.append(1) or tenants(self))
    for name in "abcdefghij":
        fill(store.open(task(name), "v1", GEOMETRY))
    assert len(looks) == 1
    store.remove(task("a"))
    store.open(task("k"), "v1", GEOMETRY)      # fits, but only a look can tell
    assert len(looks) == 2 and len(store.records()) == 10
    store.open(task("l"), "v1", GEOMETRY)
    assert len(looks) == 3 and len(store.records()) < 10
