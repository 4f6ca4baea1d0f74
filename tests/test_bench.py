"""Benchmarks explain themselves, say what they lack, and print one line of JSON: their figures are
for people, so nothing here looks at one."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

BENCH = Path(__file__).parent / "bench"
REPO = BENCH.parent.parent
NAMES = sorted(path.stem for path in BENCH.glob("*.py") if "def main(" in path.read_text())


def run(name: str, *options: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", f"tests.bench.{name}", *options], cwd=REPO,
                          env={**os.environ, **environ}, capture_output=True, text=True,
                          timeout=120, check=False)


def test_the_table_of_benchmarks_names_all_of_them() -> None:
    page = (BENCH / "README.md").read_text(encoding="utf-8")
    assert {"capacity", "loopback", "memory", "single", "small", "startup", "swarm"} <= set(NAMES)
    for name in NAMES:
        assert f"| `{name}` |" in page


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_is_measured_and_what_each_option_is(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert len(done.stdout.split("options:")[0].split()) > 15
    assert "--runs" in done.stdout


@pytest.mark.parametrize("name, environ, says", [
    ("single", {"PATH": "/nowhere"}, "install nginx-light"),
    ("swarm", {"DFLY_TESTBED": "/nowhere"}, "DFLY_TESTBED"),
])
def test_what_is_missing_is_named(name: str, environ: "dict[str, str]", says: str) -> None:
    done = run(name, **environ)
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_unknown_rival_is_refused() -> None:
    done = run("single", "--rivals", "wget,bittorrent2")
    assert done.returncode == 2 and "bittorrent2" in done.stderr


@pytest.mark.system
@pytest.mark.parametrize("name, options", [
    ("single", ["--size", "4M", "--rivals", "none"]),
    ("loopback", ["--hosts", "3", "--size", "2M"]),
])
def test_a_small_run_prints_one_line(name: str, options: List[str]) -> None:
    done = run(name, *options)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["bench"] == name and len(done.stdout.splitlines()) == 1
