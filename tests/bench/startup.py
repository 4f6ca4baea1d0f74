"""What starting dfly costs: wall and CPU seconds of whole processes that have little to do, from
the built executable with its compiled code cached, as on any host that ran it once."""
from __future__ import annotations

import os
import statistics
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Sequence

from tests.bench import measure
from tests.cluster import PYTHON, Cluster, build
from tests.support import SourceServer

SIZE = 10_000


def spent(cluster: Cluster, argv: Sequence[str]) -> measure.Spent:
    """What one process takes that keeps its compiled code in the cluster's folder."""
    environ = {**os.environ, "HOME": str(cluster.folder),
               "XDG_CACHE_HOME": str(cluster.folder / "cache")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return measure.spent(lambda: subprocess.Popen(
        argv, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL))


def run(runs: int) -> Dict[str, Any]:
    result: Dict[str, Any] = {"bench": "startup", "runs": runs, "python": PYTHON}
    with measure.scratch() as folder, SourceServer() as source, Cluster(folder) as cluster:
        digest = measure.random_file(folder / "file", SIZE)
        url = source.add("/file", Path(folder / "file"))
        peer = cluster.peer("--manager", cluster.manager().where)
        copy = folder / "copy"
        dfly = list(cluster.program)
        cached = [*dfly, "get", url, "-q", "-O", str(copy), "--socket", peer.socket,
                  "--settings", str(folder / "empty.conf")]
        cases: Dict[str, List[str]] = {
            "python": [PYTHON, "-c", "pass"], "version": [*dfly, "--version"],
            "help": [*dfly, "--help"], "help_get": [*dfly, "help", "get"], "get_cached": cached}
        for argv in cases.values():
            spent(cluster, argv)
        for name, argv in cases.items():
            used = [spent(cluster, argv) for _ in range(runs)]
            seconds = [one.seconds for one in used]
            cpu_s = statistics.median(one.cpu_s for one in used)
            result.update({f"{name}_s": round(statistics.median(seconds), 4),
                           f"{name}_min_max": [round(min(seconds), 4), round(max(seconds), 4)],
                           f"{name}_cpu_s": round(cpu_s, 4)})
        measure.check_copies([copy], digest)
        result.update(seconds=result["get_cached_s"], cpu_s=result["get_cached_cpu_s"])
    return result


def main() -> None:
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    build()
    measure.report(run(args.runs))


if __name__ == "__main__":
    main()
