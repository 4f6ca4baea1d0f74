"""What starting dfly costs: wall and CPU seconds of whole processes that have little to do, from
the built executable with its compiled code cached, as on any host that ran it once.

`--against` another build, its processes and this one's take turns: what a change costs is a few
milliseconds, and the machine's own moods are more."""
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


def measured(cluster: Cluster, name: str, words: Sequence[str], runs: int,
             against: str = "") -> Dict[str, Any]:
    """Medians over `runs` of one command line; `name`_more_s is how much longer than the other
    build's it took, pair by pair."""
    programs = [list(cluster.program)]
    if against:
        programs.append([*programs[0][:-1], against])
    argvs = [words] if name == "python" else [[*program, *words] for program in programs]
    for argv in argvs:
        spent(cluster, argv)
    rounds = [[spent(cluster, argv) for argv in argvs] for _ in range(runs)]
    seconds = [used[0].seconds for used in rounds]
    result: Dict[str, Any] = {
        f"{name}_s": round(statistics.median(seconds), 4),
        f"{name}_min_max": [round(min(seconds), 4), round(max(seconds), 4)],
        f"{name}_cpu_s": round(statistics.median(used[0].cpu_s for used in rounds), 4)}
    if len(argvs) > 1:
        more = [used[0].seconds - used[1].seconds for used in rounds]
        result[f"{name}_more_s"] = round(statistics.median(more), 4)
    return result


def run(runs: int, against: str = "") -> Dict[str, Any]:
    result: Dict[str, Any] = {"bench": "startup", "runs": runs, "python": PYTHON}
    with measure.scratch() as folder, SourceServer() as source, Cluster(folder) as cluster:
        digest = measure.random_file(folder / "file", SIZE)
        url = source.add("/file", Path(folder / "file"))
        peer = cluster.peer("--manager", cluster.manager().where)
        copy = folder / "copy"
        cases: Dict[str, List[str]] = {
            "python": [PYTHON, "-c", "pass"], "version": ["--version"], "help": ["--help"],
            "help_get": ["help", "get"],
            "get_cached": ["get", url, "-q", "-O", str(copy), "--socket", peer.socket,
                           "--settings", str(folder / "empty.conf")]}
        for name, words in cases.items():
            result.update(measured(cluster, name, words, runs, against))
        measure.check_copies([copy], digest)
        result.update(seconds=result["get_cached_s"], cpu_s=result["get_cached_cpu_s"])
    return result


def main() -> None:
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--against", default="", metavar="FILE", help="another build of dfly")
    args = parser.parse_args()
    build()
    measure.report(run(args.runs, args.against))


if __name__ == "__main__":
    main()
