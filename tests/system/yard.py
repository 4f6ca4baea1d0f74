"""Command lines beside each other: by wget, by dfly through a manager, by dfly without one.

Each runs in an empty folder of its own with a HOME of its own, and is judged by its exit code, by
what it wrote and by the tree of files that it left.
"""
from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, TypeVar

import pytest

from tests.cluster import Cluster, Role
from tests.support import SourceServer
from tests.system.scene import clean_cluster

WGET = shutil.which("wget")
WAYS = ("wget", "managed", "alone")
OURS = WAYS[1:]
END_S = 60.0   # no command line of these tests takes so long
needs_wget = pytest.mark.skipif(WGET is None, reason="wget isn't installed")
both = pytest.mark.parametrize("way", OURS)
T = TypeVar("T")


@dataclass(frozen=True)
class File:
    """What lies at a path. `at` = its time where that is the source's, None = about now."""

    content: bytes
    at: Optional[float] = None


Tree = Dict[str, File]


@dataclass(frozen=True)
class End:
    """What a command line came to."""

    code: int
    out: bytes
    err: str

    @property
    def said(self) -> str:
        return f"{self.code} {self.err[-2000:]}"


@dataclass
class Yard:
    """One source, one manager, two peers of it ("managed", "other") and one without."""

    cluster: Cluster
    source: SourceServer
    manager: Role
    peers: Dict[str, Role]
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def folder(self, way: str) -> Path:
        """An empty folder, with HOME beside it."""
        top = self.cluster.folder / f"{way}-{next(self.numbers)}"
        (top / "home").mkdir(parents=True)
        (top / "here").mkdir()
        return top / "here"

    def argv(self, way: str, words: Sequence[str]) -> List[str]:
        """`words` with the source's URL for {u}, its host and port for {h}."""
        at = self.source.url("")
        words = [word.replace("{u}", at).replace("{h}", at.partition("://")[2]) for word in words]
        if way not in self.peers:
            program = shutil.which(way)
            assert program is not None
            return [program, *words]
        return [*self.cluster.program, "get", *words, "--socket", self.peers[way].socket,
                "--settings", str(self.cluster.folder / "empty.conf")]

    def start(self, way: str, folder: Path, *words: str,
              env: Optional[Mapping[str, str]] = None, **options: Any) -> "subprocess.Popen[bytes]":
        """`way`: of WAYS, or another program beside them."""
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith("DFLY_") and not name.lower().endswith("_proxy")
                and name != "PYTHONDONTWRITEBYTECODE"}
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        process = subprocess.Popen(self.argv(way, words), cwd=folder, env={
            **kept, "HOME": str(folder.parent / "home"),
            "XDG_CACHE_HOME": str(self.cluster.folder / "cache"), "LC_ALL": "C.UTF-8",
            **(env or {})}, **options)
        self.cluster.others.append(process)
        return process

    def run(self, way: str, folder: Path, *words: str, stdin: bytes = b"",
            **options: Any) -> End:
        """To its end; no traceback, whatever it was."""
        process = self.start(way, folder, *words, stdin=subprocess.PIPE, **options)
        out, err = process.communicate(stdin, timeout=END_S)
        end = End(process.returncode, out or b"", (err or b"").decode("utf-8", "replace"))
        print(way, end.said)   # for whoever asks why: pytest shows it where a test fails
        assert "Traceback" not in end.err
        return end


@contextmanager
def open_yard(folder: Path, program: Path) -> Iterator[Yard]:
    with SourceServer() as source, clean_cluster(folder, program) as cluster:
        manager = cluster.manager("--revalidate", "0s")
        yield Yard(cluster, source, manager, {
            "managed": cluster.peer("--manager", manager.where, name="m"),
            "other": cluster.peer("--manager", manager.where, name="o"),
            "alone": cluster.peer(name="a")})


def each(do: Callable[[str], T], ways: Sequence[str] = WAYS) -> Dict[str, T]:
    """`do` of every way, all at once."""
    with ThreadPoolExecutor(len(ways)) as threads:
        return dict(zip(ways, threads.map(do, ways)))


def tree_of(folder: Path) -> Tree:
    """Folders end in a slash."""
    found: Tree = {}
    now = time.time()
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name + "/"] = File(b"")
            continue
        at = path.stat().st_mtime
        found[name] = File(path.read_bytes(), None if now - at < 600 else at)
    return found


def shown(tree: Tree) -> Dict[str, Tuple[int, Optional[float]]]:
    return {name: (len(file.content), file.at) for name, file in tree.items()}
