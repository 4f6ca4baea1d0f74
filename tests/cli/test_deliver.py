from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import threading
from pathlib import Path
from typing import Any, Iterator

import pytest

from dfly.cli import deliver as deliver_module
from dfly.cli.deliver import deliver
from dfly.errors import FileError, NoSpace

CONTENT = os.urandom(3 * 1024 * 1024 + 17)


class Stored:
    """A complete file as the store keeps it."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(CONTENT)
        self.path = str(path)
        self.fd = os.open(path, os.O_RDONLY)

    def deliver(self, target: Path, *, named: bool = True, size: int = len(CONTENT)) -> str:
        return deliver(self.path if named else None, self.fd, size, str(target))


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Stored]:
    (tmp_path / "store").mkdir()
    stored = Stored(tmp_path / "store" / "data")
    yield stored
    os.close(stored.fd)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def no_reflink(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EOPNOTSUPP, "not supported")
    monkeypatch.setattr(fcntl, "ioctl", refuse)


def assert_delivered(target: Path) -> None:
    assert target.read_bytes() == CONTENT
    assert os.listdir(target.parent) == [target.name]


def test_link(stored: Stored, out: Path) -> None:
    assert stored.deliver(out / "f") == "link"
    assert_delivered(out / "f")
    assert os.path.samefile(stored.path, out / "f")


def test_twice_to_one_place(stored: Stored, out: Path) -> None:
    stored.deliver(out / "f")
    assert stored.deliver(out / "f") == "link"  # renaming a file over itself does nothing
    assert_delivered(out / "f")


def test_an_older_file_is_replaced_not_written(stored: Stored, out: Path) -> None:
    (out / "f").write_bytes(b"old")
    with open(out / "f", "rb") as reader:
        stored.deliver(out / "f")
        assert reader.read() == b"old"
    assert_delivered(out / "f")


def test_copy_when_it_has_no_name(stored: Stored, out: Path, no_reflink: None) -> None:
    os.utime(stored.path, (1_500_000_000, 1_600_000_000))
    assert stored.deliver(out / "f", named=False) == "copy"
    assert_delivered(out / "f")
    assert not os.path.samefile(stored.path, out / "f")
    assert os.stat(out / "f").st_mtime == 1_600_000_000  # as a link would show


def test_copy_when_the_mode_would_differ(stored: Stored, out: Path, no_reflink: None) -> None:
    umask = os.umask(0o077)
    try:
        assert stored.deliver(out / "f") == "copy"
    finally:
        os.umask(umask)
    assert_delivered(out / "f")
    assert os.stat(out / "f").st_mode & 0o777 == 0o600


def test_reflink_where_the_disk_can(stored: Stored, out: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    def clone(fd: int, request: int, source_fd: int) -> int:
        assert request == 0x40049409
        os.pwrite(fd, os.pread(source_fd, len(CONTENT), 0), 0)
        return 0
    monkeypatch.setattr(fcntl, "ioctl", clone)
    assert stored.deliver(out / "f", named=False) == "reflink"
    assert_delivered(out / "f")


def test_link_refused_by_the_file_system(stored: Stored, out: Path, no_reflink: None,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")
    monkeypatch.setattr(os, "link", refuse)
    assert stored.deliver(out / "f") == "copy"
    assert_delivered(out / "f")


def test_a_name_that_is_another_version_by_now(stored: Stored, out: Path,
                                               no_reflink: None) -> None:
    os.unlink(stored.path)
    Path(stored.path).write_bytes(b"?" * len(CONTENT))
    assert stored.deliver(out / "f") == "copy"
    assert_delivered(out / "f")


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP])
def test_copy_by_hand(stored: Stored, out: Path, no_reflink: None, code: int,
                      monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(code, "can't")
    monkeypatch.setattr(os, "copy_file_range", refuse)
    assert stored.deliver(out / "f", named=False) == "copy"
    assert_delivered(out / "f")


def test_copy_range_that_stops_midway(stored: Stored, out: Path, no_reflink: None,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.copy_file_range

    def short(source: int, target: int, count: int, at: int, to: int) -> int:
        return real(source, target, min(count, 1000), at, to) if at < 3000 else 0
    monkeypatch.setattr(os, "copy_file_range", short)
    assert stored.deliver(out / "f", named=False) == "copy"
    assert_delivered(out / "f")


def test_only_the_length_asked_for(stored: Stored, out: Path, no_reflink: None) -> None:
    assert stored.deliver(out / "f", size=1000) == "copy"
    assert (out / "f").read_bytes() == CONTENT[:1000]


def test_a_store_file_that_was_cut_short(stored: Stored, out: Path, no_reflink: None) -> None:
    os.truncate(stored.path, 1000)
    (out / "f").write_bytes(b"old")
    with pytest.raises(FileError, match="only 1000 of its"):
        stored.deliver(out / "f")
    assert (out / "f").read_bytes() == b"old" and os.listdir(out) == ["f"]


def test_a_folder(stored: Stored, out: Path) -> None:
    with pytest.raises(FileError, match="it's a folder"):
        stored.deliver(out)
    assert os.listdir(out) == []


@pytest.mark.parametrize("name", ["missing/f", "f" * 300, "plain/f"])
def test_impossible_targets(stored: Stored, out: Path, name: str) -> None:
    (out / "plain").write_bytes(b"not a folder")
    with pytest.raises(FileError, match="can't write"):
        stored.deliver(out / name)
    assert os.listdir(out) == ["plain"]


def test_unwritable_folder(stored: Stored, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", path)
    monkeypatch.setattr(deliver_module.os, "open", refuse)  # root may write anywhere
    with pytest.raises(FileError, match="Permission denied"):
        stored.deliver(out / "f")


def test_a_full_disk_leaves_nothing(stored: Stored, out: Path, no_reflink: None,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "f").write_bytes(b"old")
    calls = []

    def fill_up(*_: Any) -> int:
        calls.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "copy_file_range", fill_up)
    with pytest.raises(NoSpace, match="3.00 MiB"):
        stored.deliver(out / "f", named=False)
    assert calls and (out / "f").read_bytes() == b"old" and os.listdir(out) == ["f"]


def test_a_real_full_disk_leaves_nothing(stored: Stored, out: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(out)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        with pytest.raises(NoSpace):
            stored.deliver(out / "f")
        assert os.listdir(out) == []
        assert stored.deliver(out / "f", size=1000) == "copy"  # across file systems
        assert (out / "f").read_bytes() == CONTENT[:1000]
    finally:
        subprocess.run(["umount", "--lazy", str(out)], check=True)


def test_a_symlink_stays_and_its_file_is_replaced(stored: Stored, out: Path) -> None:
    (out / "real").mkdir()
    (out / "real" / "f").write_bytes(b"old")
    (out / "f").symlink_to(out / "real" / "f")
    stored.deliver(out / "f")
    assert (out / "f").is_symlink()
    assert_delivered(out / "real" / "f")


def test_devices_and_fifos_are_written_not_replaced(stored: Stored, out: Path) -> None:
    fifo = out / "fifo"
    os.mkfifo(fifo)
    got = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    assert stored.deliver(fifo) == "copy"
    reader.join()
    assert got == [CONTENT] and os.listdir(out) == ["fifo"]
    assert stored.deliver(Path("/dev/null")) == "copy"
    assert not os.path.isfile("/dev/null")
