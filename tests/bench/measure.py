"""What the benchmarks share: a random file, the lower bound, what a process took, the verdict."""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

from dfly.units import MIB


def parser(about: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=about,
                                   formatter_class=argparse.ArgumentDefaultsHelpFormatter)


def missing(*packages_of: str) -> None:
    """Exit 2 with the package to install for the first program that isn't here."""
    for entry in packages_of:
        program, _, package = entry.partition(":")
        if shutil.which(program) is None:
            sys.stderr.write(f"this benchmark needs {program}: install {package or program}\n")
            raise SystemExit(2)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory, so that no disk is in the way; removed at the end."""
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    folder = Path(tempfile.mkdtemp(prefix="dfly-bench-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wake_memory(folder: Path, size: int) -> None:
    """Write and delete `size` bytes. A virtual machine's memory may have to be fetched from its
    host the first time (0.7 s for each GiB was seen): no run is to pay that, dfly's or a
    rival's."""
    path = folder / "wake-memory"
    block = bytes(MIB)
    with open(path, "wb") as file:
        for _ in range(0, size, MIB):
            file.write(block)
    path.unlink()


def random_file(path: Path, size: int) -> str:
    """Write `size` random bytes; their sha256."""
    seal = hashlib.sha256()
    with open(path, "wb") as file:
        for start in range(0, size, MIB):
            data = os.urandom(min(MIB, size - start))
            seal.update(data)
            file.write(data)
    return seal.hexdigest()


def sha256_of(path: Path) -> str:
    seal = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            data = file.read(MIB)
            if not data:
                return seal.hexdigest()
            seal.update(data)


def bound_s(size: int, hosts: int, source_bps: float, host_bps: float,
            more_uplink_bps: float = 0.0) -> float:
    """Fluid lower bound (Kumar & Ross 2006): the source, one downlink, or all uplinks together
    limit; `more_uplink_bps` = uplinks of helpers that want nothing themselves."""
    together = source_bps + more_uplink_bps + hosts * host_bps
    return max(size / source_bps, size / host_bps, hosts * size / together)


def cpu_seconds(processes: "Sequence[subprocess.Popen[bytes]]") -> float:
    """CPU of running processes and of their ended children, from /proc."""
    ticks = 0
    for process in processes:
        try:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        ticks += sum(int(value) for value in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Spent:
    """Wall seconds of a process from before it was spawned, CPU seconds of it and its children."""

    seconds: float
    cpu_s: float


def spent(spawn: "Callable[[], subprocess.Popen[bytes]]") -> Spent:
    """Run what `spawn` starts to its end; a failed run isn't measured."""
    began_at = time.monotonic()
    process = spawn()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began_at
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed with {process.returncode}: {process.args!r}")
    return Spent(seconds, usage.ru_utime + usage.ru_stime)


def rss_mb(process: "subprocess.Popen[bytes]", key: str = "VmHWM") -> float:
    """Resident memory of a running process in MB, at its peak; with the key VmRSS, now."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    raise SystemExit(f"has ended: {process.args!r}")


class Finishers:
    """Waits for processes and notes when each ended, without polling: one wait per child."""

    def __init__(self) -> None:
        self.started_at = time.monotonic()
        self._processes: "Dict[int, subprocess.Popen[bytes]]" = {}
        self.seconds: Dict[int, float] = {}

    def add(self, process: "subprocess.Popen[bytes]") -> None:
        self._processes[process.pid] = process

    def wait(self) -> List[float]:
        """Seconds from the start to each end, in order of adding; fails if any failed."""
        import threading
        threads = [threading.Thread(target=self._one, args=(process,))
                   for process in self._processes.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        failed = [(process.args, process.returncode) for process in self._processes.values()
                  if process.returncode]
        if failed:
            raise SystemExit(f"a download failed: {failed[0]}")
        return [self.seconds[pid] for pid in self._processes]

    def _one(self, process: "subprocess.Popen[bytes]") -> None:
        process.wait()
        self.seconds[process.pid] = time.monotonic() - self.started_at


def summary(seconds: Sequence[float], bound: float) -> Dict[str, Any]:
    ordered = sorted(seconds)
    median = statistics.median(ordered)
    return {"seconds": round(ordered[-1], 3), "median_s": round(median, 3),
            "bound_s": round(bound, 3), "ratio_bound": round(ordered[-1] / bound, 3),
            "slowest_over_median": round(ordered[-1] / median, 3)}


def medians(runs: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """Of each number over several runs, in nested parts too; what isn't a number is the first
    run's."""
    return {**_merged(runs), "runs": len(runs)}


def _merged(runs: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    merged: Dict[str, Any] = {}
    for key, value in runs[0].items():
        values = [run[key] for run in runs]
        if isinstance(value, dict):
            merged[key] = _merged(values)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            same = len(set(values)) == 1   # a count stays one
            merged[key] = value if same else round(statistics.median(values), 3)
            if key == "seconds" and len(runs) > 1:
                merged["seconds_min_max"] = [min(values), max(values)]
        else:
            merged[key] = value
    return merged


def report(result: Dict[str, Any]) -> None:
    print(json.dumps(result), flush=True)


def check_copies(copies: Sequence[Path], digest: str) -> None:
    """A fast run with a wrong file is a failed run."""
    wrong = [str(copy) for copy in copies if sha256_of(copy) != digest]
    if wrong:
        raise SystemExit(f"files differ from the source: {wrong}")


def p2p_lost(events: Optional[List[Dict[str, Any]]]) -> bool:
    """Whether the download of these events (`dfly get --json`) had to do without a manager: from
    the start, or because it lost the one that led it. A warning alone may mean something else."""
    return any(event.get("p2p_lost") or event.get("via") == "source" for event in events or [])
