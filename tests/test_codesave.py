"""Keeping compiled code: written whole or not at all, and nothing is left of an attempt."""
from __future__ import annotations

import marshal
import os
import subprocess
import sys
from pathlib import Path
from typing import List

from dfly import codesave

CODE = compile("x = 1", "<dfly>/x.py", "exec")


def save(folder: Path) -> List[str]:
    """Save CODE as dfly.x; the names that lie in the folder then."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        codesave.save(fd, "dfly.x", CODE)
    finally:
        os.close(fd)
    return sorted(os.listdir(folder))


def test_code_is_kept_behind_its_checksum(tmp_path: Path) -> None:
    assert save(tmp_path) == ["dfly.x"]
    assert marshal.loads((tmp_path / "dfly.x").read_bytes()[4:]) == CODE


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A limit of the size of files stands for a full disk."""
    program = ("import os, resource, sys; from dfly.codesave import save; "
               "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); "
               "save(os.open(sys.argv[1], os.O_RDONLY), 'dfly.x', compile('x = 1', 'x', 'exec'))")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, text=True,
                          cwd=Path(__file__).parent.parent, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == []


def test_a_name_that_is_taken_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "dfly.x").mkdir()
    assert save(tmp_path) == ["dfly.x"] and os.listdir(tmp_path / "dfly.x") == []


def test_the_attempt_of_another_process_is_left_alone(tmp_path: Path) -> None:
    """The same number, in another container on the same home."""
    other = f".dfly.x.{os.getpid()}"
    (tmp_path / other).write_bytes(b"half")
    assert save(tmp_path) == [other] and (tmp_path / other).read_bytes() == b"half"
