"""Small files through a warm daemon: the whole `dfly get` process for one file, and for many files
in one command. Each file is new: source, manager, daemon and client all take part."""
from __future__ import annotations

import resource
import statistics
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

from dfly.units import parse_size
from tests.bench import measure
from tests.cluster import Cluster, Role, build
from tests.support import SourceServer


class Scene:
    """A source, a manager, and a peer that has served one file already."""

    def __init__(self, folder: Path, source: SourceServer, cluster: Cluster) -> None:
        self._folder = folder
        self._source = source
        self._cluster = cluster
        self._count = 0
        self.manager = cluster.manager()
        self.peer = cluster.peer("--manager", self.manager.where)
        self.get(1, 1000)

    def get(self, count: int, size: int) -> Tuple[float, float]:
        """(seconds, CPU seconds) of one command that downloads `count` new files; fails unless
        they are the source's."""
        wanted: List[Tuple[Path, str]] = []
        urls: List[str] = []
        target = self._folder / f"run{self._count}"
        for _ in range(count):
            self._count += 1
            name = f"file{self._count}"
            digest = measure.random_file(self._folder / name, size)
            urls.append(self._source.add(f"/{name}", self._folder / name))
            wanted.append((target / name, digest))
        before, began_at = _children_cpu_s(), time.perf_counter()
        got = self._cluster.get(self.peer, urls[0], *urls[1:], "-q", "-P", str(target))
        seconds = time.perf_counter() - began_at
        cpu_s = _children_cpu_s() - before
        if got.code:
            raise SystemExit(f"dfly get failed with {got.code}: {got.err}")
        for path, digest in wanted:
            measure.check_copies([path], digest)
        return seconds, cpu_s


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(scene: Scene, name: str, count: int, size: int, runs: int) -> Dict[str, Any]:
    """Medians of `runs` commands; `roles_cpu_s` is what daemon and manager used for one."""
    roles: List[Role] = [scene.peer, scene.manager]
    before = [measure.cpu_seconds([role.process]) for role in roles]
    results = [scene.get(count, size) for _ in range(runs)]
    used = [measure.cpu_seconds([role.process]) - old for role, old in zip(roles, before)]
    seconds = [result[0] for result in results]
    return {f"{name}_s": round(statistics.median(seconds), 4),
            f"{name}_min_max": [round(min(seconds), 4), round(max(seconds), 4)],
            f"{name}_cpu_s": round(statistics.median(result[1] for result in results), 4),
            f"{name}_peer_cpu_s": round(used[0] / runs, 4),
            f"{name}_manager_cpu_s": round(used[1] / runs, 4)}


def run(args: Any) -> Dict[str, Any]:
    result: Dict[str, Any] = {"bench": "small", "count": args.count, "runs": args.runs,
                              "size": parse_size(args.size), "big_size": parse_size(args.big_size)}
    with measure.scratch() as folder, SourceServer() as source, Cluster(folder) as cluster:
        scene = Scene(folder, source, cluster)
        for name, count, size in (("one", 1, args.size), ("many", args.count, args.size),
                                  ("one_big", 1, args.big_size),
                                  ("many_big", args.big_count, args.big_size)):
            result.update(measured(scene, name, count, parse_size(size), args.runs))
        result["seconds"] = result["many_s"]
        result["cpu_s"] = round(sum(result[f"many_{whose}cpu_s"]
                                    for whose in ("", "peer_", "manager_")), 3)
        result["peer_rss_mb"] = measure.rss_mb(scene.peer.process)
        result["manager_rss_mb"] = measure.rss_mb(scene.manager.process)
    return result


def main() -> None:
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--count", type=int, default=200, help="files in one command")
    parser.add_argument("--size", default="10K")
    parser.add_argument("--big-count", type=int, default=20)
    parser.add_argument("--big-size", default="1M")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    build()
    measure.report(run(args))


if __name__ == "__main__":
    main()
