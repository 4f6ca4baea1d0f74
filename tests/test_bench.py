"""Benchmarks explain themselves, say what they lack, and print one line of JSON: their figures are
for people, so nothing here looks at one. What they measure with is right."""
from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest

from tests.bench import measure
from tests.bench.virtual_hosts import Plan, VirtualHosts

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


def test_the_clock_starts_before_the_process() -> None:
    def spawn() -> "subprocess.Popen[bytes]":
        time.sleep(0.05)
        return subprocess.Popen([sys.executable, "-S", "-c", "sum(range(1_000_000))"])
    used = measure.spent(spawn)
    assert used.seconds >= 0.05 and used.cpu_s > 0


def test_what_fails_is_not_measured() -> None:
    with pytest.raises(SystemExit, match="failed with 3"):
        measure.spent(lambda: subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(3)"]))


def test_memory_is_read_now_and_at_its_peak() -> None:
    program = "data = bytes(range(256)) * 200_000; del data; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-S", "-c", program], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as role:
        assert role.stdout is not None
        role.stdout.readline()
        now_mb, peak_mb = measure.rss_mb(role, "VmRSS"), measure.rss_mb(role)
        role.kill()
    assert 1 < now_mb < peak_mb - 40


@pytest.mark.parametrize("events, is_lost", [
    ([{"event": "accepted", "via": "manager"}, {"event": "done", "p2p_lost": False}], False),
    ([{"event": "accepted", "via": "manager"}, {"event": "warning", "what": "starting again"},
      {"event": "accepted", "via": "manager"}, {"event": "done", "p2p_lost": False}], False),
    ([{"event": "accepted", "via": "manager"}, {"event": "done", "p2p_lost": True}], True),
    ([{"event": "accepted", "via": "source"}, {"event": "warning", "what": "no P2P: refused"},
      {"event": "done", "p2p_lost": False}], True),
])
def test_without_p2p_is_who_had_no_manager(events: List[Dict[str, Any]], is_lost: bool) -> None:
    assert measure.p2p_lost(events) is is_lost


def test_a_virtual_host_that_nobody_answers_is_lost_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))   # and never listens
        hosts = VirtualHosts(Plan(unused.getsockname()[1], "http://x/", hosts=1, host_bps=1e6,
                                  seed_bps=1e6, upload_slots=1, connecting=1, digests=b"",
                                  timeout_s=5.0))
        outcome = hosts.run()
        hosts.close()
    assert outcome.lost == 1 and outcome.done == 0
    (trouble,) = outcome.trouble
    assert "refused" in trouble


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
