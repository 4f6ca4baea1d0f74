"""File names from URLs, and names that are taken."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dfly.cli.target import Target, name_from_url, target_for
from dfly.errors import FileError


@pytest.mark.parametrize("url, name", [
    ("http://h/a/file.iso", "file.iso"),
    ("http://h/a%20b", "a b"),
    ("http://h/", "index.html"),
    ("http://h", "index.html"),
    ("http://h/dir/", "index.html"),
    ("http://h/f?x=1", "f?x=1"),
    ("http://h/f#part", "f"),
    ("http://h/a%2Fb", "a_b"),
    ("http://h/%2e%2e", "index.html"),
    ("http://h/..", "index.html"),
    ("http://h/..%2f..%2fetc%2fpasswd", ".._.._etc_passwd"),
    ("http://h/a%00b%1b%0ac%7f", "a_b__c_"),
    ("http://h/a%5cb", "a_b"),
    ("http://h/%C3%A9", "\u00e9"),
    ("http://h/%ff", "\ufffd"),
    ("http://h/%E2%80%AE", "_"),                # a right-to-left override
    ("http://h/f?a=/../b", "f?a=_.._b"),
])
def test_a_name_is_never_a_path(url: str, name: str) -> None:
    assert name_from_url(url) == name


def test_a_long_name_is_cut_and_keeps_its_suffix() -> None:
    name = name_from_url("http://h/" + "\u00e9" * 300 + ".tar.gz")
    assert len(name.encode()) <= 240 and name.endswith(".gz")
    assert len(name_from_url("http://h/x." + "y" * 500).encode()) <= 240


def put(target: Target, content: bytes, folder: Path) -> str:
    source = folder / "source"
    source.write_bytes(content)
    with open(source, "rb") as file:
        return target.put(None, file.fileno())


def test_numbers_fill_the_first_gap(tmp_path: Path) -> None:
    for taken in ("f", "f.2"):
        (tmp_path / taken).write_bytes(b"old")
    target = target_for("http://h/f", None, str(tmp_path))
    assert put(target, b"new", tmp_path) == str(tmp_path / "f.1")
    assert put(target, b"newer", tmp_path) == str(tmp_path / "f.3")
    assert (tmp_path / "f").read_bytes() == b"old" == (tmp_path / "f.2").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["f", "f.1", "f.2", "f.3", "source"]


def test_a_dangling_link_is_taken_too(tmp_path: Path) -> None:
    (tmp_path / "f").symlink_to("/nonexistent/elsewhere")
    assert put(target_for("http://h/f", None, str(tmp_path)), b"x", tmp_path).endswith("f.1")


def test_devices_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    target = target_for("http://h/f", str(pipe), None)
    target.check()
    assert put(target, b"through", tmp_path) == str(pipe)
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()


def test_p_does_not_move_o(tmp_path: Path) -> None:
    assert target_for("http://h/f", "here/x", str(tmp_path)).path == "here/x"


def test_checks_come_before_the_download(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a folder"):
        target_for("http://h/f", str(tmp_path), None).check()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError):
        target_for("http://h/f", str(tmp_path / "file" / "x"), None).check()


def test_a_name_that_the_locale_cannot_say_gets_underscores() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from dfly.cli.target import name_from_url\n"
         "print(name_from_url('http://files.example/n%C3%A4.bin'))"], capture_output=True,
        cwd=Path(__file__).resolve().parents[2], text=True, check=True,
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert done.stdout == "n_.bin\n"


def test_a_current_folder_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileError):
        target_for("http://files.example/a", None, None).check()
