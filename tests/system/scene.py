"""What the system tests speak of: clusters whose end is looked at, contents, running downloads.

No dfly process is started or judged here by any other way than tests/cluster.py's.
"""
from __future__ import annotations

import hashlib
import json
import os
import random
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

from tests.cluster import Cluster, Got, Role
from tests.support import SourceServer

PIECE = 256 * 1024   # dfly's smallest piece: what files of a few MiB are cut into
HUNG_S = 30.0        # a download that takes this long is killed, and its test fails

Event = Dict[str, Any]


def content_of(pieces: float, seed: int = 1) -> bytes:
    """Bytes for so many pieces, no two of them alike."""
    return random.Random(seed).randbytes(int(pieces * PIECE))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sent(source: SourceServer, path: str) -> int:
    """Body bytes that the source has sent of one path."""
    return sum(exchange.sent for exchange in source.requests(path))


def becomes(true: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Wait until another process has done what nothing tells of; False if it hasn't in time."""
    end = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# -------------------------------------------------------------------------------- clusters
@contextmanager
def clean_cluster(folder: Path, program: Path) -> Iterator[Cluster]:
    """A cluster in `folder`. At its end nothing runs any more, no socket and no half-written file
    is left, and no role has met an error that it didn't know."""
    cache = folder / "cache" / "dfly"
    cache.mkdir(parents=True)
    (cache / "code").symlink_to(program.parent / "code")   # compiled once for all tests
    with Cluster(folder, program=(sys.executable, str(program))) as cluster:
        yield cluster
    assert processes_of(folder) == {}
    killed = {role.folder for role in cluster.roles if role.process.returncode == -9}
    assert [path for path in folder.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)
            and path.parent not in killed] == []
    assert half_written(folder) == []
    for role in cluster.roles:
        assert "Traceback" not in role.text() and " ERROR " not in role.text(), role.text()


def half_written(folder: Path) -> List[Path]:
    """Temporary files that dfly makes on the way to a final name."""
    return [path for path in folder.rglob("*")
            if path.name.startswith(".dfly-") or path.name.endswith(".new")]


def processes_of(folder: Path) -> Dict[int, str]:
    """Live processes whose command line names the folder."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                line = Path(entry.path, "cmdline").read_bytes()
            except OSError:
                continue   # it has just ended
            if os.fsencode(f"{folder}/") in line and int(entry.name) != os.getpid():
                found[int(entry.name)] = line.replace(b"\0", b" ").decode()
    return found


# ------------------------------------------------------------------------------- downloads
class Running:
    """A `dfly get --json` whose events are read as they come."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.lines: List[bytes] = []
        self._alarm = threading.Timer(HUNG_S, process.kill)
        self._alarm.start()

    def until(self, true: Callable[[Event], bool]) -> Event:
        """Read to the first event of which `true` holds."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            event: Event = json.loads(line)
            if true(event):
                return event
        raise AssertionError(f"never came true; the events were {self.lines}, "
                             f"stderr {self.end().err}")

    def end(self) -> Got:
        """Read to the end."""
        process = self.process
        assert process.stdout is not None and process.stderr is not None
        self.lines += process.stdout
        err = process.stderr.read().decode()
        process.wait(HUNG_S)
        self._alarm.cancel()
        return Got(process.returncode, b"".join(self.lines), err)


def start_get(cluster: Cluster, peer: Role, url: str, target: Path, *flags: str) -> Running:
    return Running(cluster.get_popen(peer, url, "-O", str(target), "--json", *flags))


def holds(pieces: float) -> Callable[[Event], bool]:
    """True of an event that tells of so many pieces received."""
    return lambda event: event.get("bytes", 0) >= pieces * PIECE


def warnings_of(got: Got) -> List[str]:
    return [event["what"] for event in got.events if event["event"] == "warning"]


def assert_failed(got: Got, code: int, *says: str) -> None:
    """One line on stderr that says what and what to do, and the exit code for it. (A warning that
    P2P was lost may have come before it.)"""
    assert got.code == code, (got.code, got.err)
    lines = [line for line in got.err.splitlines() if not line.startswith("dfly: warning: ")]
    assert len(lines) == 1 and lines[0].startswith("dfly: "), got.err
    print(lines[0])   # for whoever wants to read them all: pytest -rP
    for part in says:
        assert part in got.err, (part, got.err)
