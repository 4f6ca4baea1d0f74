"""A real process that writes pieces is killed at points it doesn't choose; the next one must find
that every piece on record has the right bytes, and go on.

The child says on a pipe after each step what it did, and the parent kills it after a number of
steps drawn from a seed. No time is involved: a step may or may not have reached the index.
"""
from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dfly.store.disk import DiskStore
from dfly.task import Geometry, members
from tests.conformance import task

REPOSITORY = Path(__file__).resolve().parents[2]
PIECE = 4096
COUNT = 400
GEOMETRY = Geometry(PIECE * COUNT - 5, PIECE)
CONTENT = hashlib.shake_128(b"kill").digest(GEOMETRY.length or 0)

WRITER = """
import hashlib, os, random, sys, threading
from dfly.store.disk import DiskStore
from dfly.task import Geometry
root, task_id, seed, known_length = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1"
PIECE, LENGTH = 4096, 4096 * 400 - 5
content = hashlib.shake_128(b"kill").digest(LENGTH)
store = DiskStore(root)
file = store.open(task_id, "v1", Geometry(LENGTH if known_length else None, PIECE))
order = [index for index in range(400) if not file.have >> index & 1]
random.Random(seed).shuffle(order)
said = threading.Lock()

def say(what):
    with said:
        os.write(1, what)

def work(mine):
    for index in mine:
        data = content[index * PIECE:(index + 1) * PIECE]
        half = len(data) // 2
        file.write(index * PIECE, data[:half])
        say(b"h")
        file.write(index * PIECE + half, data[half:])
        say(b"w")
        file.mark(index, hashlib.sha256(data).digest())
        say(b"m")

say(b"0")
threads = [threading.Thread(target=work, args=(order[n::2],)) for n in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
file.set_length(LENGTH)
say(b"!")
sys.stdin.read()
"""


def run_and_kill(root: Path, seed: int, steps: int, known_length: bool) -> int:
    """Start a writer, read `steps` of its steps, kill it; how many marks it had told."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root), task("a"), str(seed), str(int(known_length))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd=REPOSITORY)
    assert child.stdin is not None and child.stdout is not None
    told = b""
    while len(told) < steps and not told.endswith(b"!"):
        data = os.read(child.stdout.fileno(), steps - len(told))
        assert data, "the writer died by itself"
        told += data
    child.send_signal(signal.SIGKILL)
    child.stdin.close()
    told += child.stdout.read()
    child.stdout.close()
    child.wait()
    return told.count(b"m")


@pytest.mark.parametrize("seed", range(6))
def test_what_the_index_holds_has_the_right_bytes(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    known_length = bool(seed % 2)
    root = tmp_path / "store"
    held_before = 0
    for life in range(3):
        marked = run_and_kill(root, seed * 10 + life, rng.randrange(1, 500), known_length)
        store = DiskStore(str(root))
        file = store.open(task("a"), "v1", GEOMETRY)
        held = list(members(file.have))
        for index in held:
            data = file.read(index * PIECE, PIECE)[:GEOMETRY.size_of(index)]
            assert data == CONTENT[index * PIECE:(index + 1) * PIECE], (life, index)
        assert len(held) >= held_before + marked - 64 - 2  # a batch, and a mark of each thread
        assert len(held) <= held_before + marked + 2       # marked, but killed before it said so
        held_before = len(held)
        store.close()
        known_length = True  # the parent has told it by now


def test_killed_after_the_last_step_it_is_complete_or_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "store"
    run_and_kill(root, 1, 10_000, known_length=False)
    store = DiskStore(str(root))
    file = store.open(task("a"), "v1", GEOMETRY)
    for index in range(COUNT):
        data = CONTENT[index * PIECE:(index + 1) * PIECE]
        file.write(index * PIECE, data)
        file.mark(index, hashlib.sha256(data).digest())
    assert file.complete and file.whole() and file.read(0, len(CONTENT)) == CONTENT
    store.close()
