"""Other tools in the same set-up: a run of the testbed's own benchmark, or of the tool itself."""
from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

from dfly.units import MIB
from tests.bench import measure
from tests.cluster import testbed

PROGRAMS = {"wget": "wget", "curl": "curl", "aria2http": "aria2c:aria2", "aria2": "aria2c:aria2",
            "transmission": "transmission-cli"}
RUN_MAX_S = 900.0


def checked(names: str) -> List[str]:
    """The rivals in a list like 'wget,libtorrent' (or 'none'); exit 2 tells what to install."""
    rivals = [name for name in names.split(",") if name and name != "none"]
    for name in rivals:
        if name == "libtorrent":
            if importlib.util.find_spec("libtorrent") is None:
                sys.stderr.write("this benchmark needs libtorrent: pip install libtorrent for "
                                 f"{sys.executable}, or name --rivals without it\n")
                raise SystemExit(2)
        elif name in PROGRAMS:
            measure.missing(PROGRAMS[name])
        else:
            sys.stderr.write(f"no such rival: {name} (known: {', '.join(PROGRAMS)}, libtorrent)\n")
            raise SystemExit(2)
    return rivals


def in_star(name: str, hosts: int, size: int, host_rate: str, source_rate: str,
            latency_ms: float) -> Dict[str, Any]:
    """One run of a rival in a star like ours (whole MiB; its source needs no manager)."""
    done = subprocess.run(
        [sys.executable, str(testbed() / "bench_rival.py"), "--rival", name, "--verify",
         "--hosts", str(hosts), "--size", str(max(1, round(size / MIB))), "--host-rate", host_rate,
         "--source-rate", source_rate, "--latency-ms", str(latency_ms)],
        capture_output=True, timeout=RUN_MAX_S, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr.decode('utf-8', 'replace')[-300:]}")
    figures = json.loads(done.stdout)
    return {"seconds": figures["max"], "median_s": figures["median"],
            "source_copies": figures["source_copies"], "cpu_s": figures["cpu_s"]}


def command(name: str, url: str, target: Path) -> Sequence[str]:
    """The command line of a downloader that fetches `url` to `target`, quietly."""
    return {"curl": ["curl", "-sS", "-f", "-o", str(target), url],
            "wget": ["wget", "-q", "--no-config", "-O", str(target), url],
            "aria2http": ["aria2c", "-q", "--no-conf", "-x4", "-s4", "-k1M",
                          "--file-allocation=none", "-d", os.path.dirname(target),
                          "-o", target.name, url]}[name]
