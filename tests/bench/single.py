"""One file to one host: cold through a manager, warm from another host, and out of its own store.

Beside curl, wget and aria2 in the same run, from the same nginx. Without --rate everything is on
the loopback interface; with it each role has a network namespace of its own and a link of that
rate (needs root and the testbed). `cpu_s` is what the receiving host spent, its daemon and `dfly
get` together; `sender_cpu_s` is what the host spent that sent to it, `manager_cpu_s` the manager.
"""
from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from dfly.units import GIB, parse_rate, parse_size
from tests.bench import measure, rivals
from tests.bench.nginx import PORT, start
from tests.cluster import Cluster, Role, build, star_missing, star_module

SOURCE, MANAGER, FIRST, SECOND = 0, 1, 2, 3   # hosts of the star


class Bench:
    """One run: the cluster, the file, and the copies made of it."""

    def __init__(self, cluster: Cluster, folder: Path, size: int) -> None:
        self.cluster = cluster
        self.folder = folder
        self.size = size
        (folder / "www").mkdir()
        self.digest = measure.random_file(folder / "www" / "file", size)
        start(cluster, folder, folder / "www", SOURCE)
        self.url = f"http://{cluster.address(SOURCE)}:{PORT}/file"

    def rival(self, name: str) -> Dict[str, float]:
        target = self.folder / f"{name}-copy"
        measure.wake_memory(self.folder, 2 * self.size)
        argv = rivals.command(name, self.url, target)
        star = self.cluster.star
        used = measure.spent(
            lambda: subprocess.Popen(argv, stdout=subprocess.DEVNULL) if star is None else
            star.popen(SECOND, argv, stdout=subprocess.DEVNULL))
        self._check(target)
        return {"seconds": round(used.seconds, 3), "cpu_s": round(used.cpu_s, 2)}

    def get(self, peer: Role, host: int, sender: Role, manager: Role) -> Dict[str, float]:
        """`dfly get` on `host`, through its daemon `peer`, to its end."""
        target = self.folder / f"{peer.name}-copy"
        measure.wake_memory(self.folder, 2 * self.size)
        roles = [peer, sender, manager]
        before = self._cpu(roles)
        used = measure.spent(
            lambda: self.cluster.get_popen(peer, self.url, "-q", "-O", str(target), host=host,
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        received, sent, managed = (now - then for now, then in zip(self._cpu(roles), before))
        self._check(target)
        result = {"seconds": round(used.seconds, 3),
                  "mb_per_s": round(self.size / 1e6 / used.seconds, 1)}
        for name, cpu_s in (("cpu_s", received + used.cpu_s), ("sender_cpu_s", sent),
                            ("manager_cpu_s", managed)):
            result[name] = round(cpu_s, 2)
            result[f"{name}_per_gib"] = round(cpu_s * GIB / self.size, 3)
        return result

    @staticmethod
    def _cpu(roles: Sequence[Role]) -> List[float]:
        return [measure.cpu_seconds([role.process]) for role in roles]

    def _check(self, target: Path) -> None:
        measure.check_copies([target], self.digest)
        target.unlink()


def run(size: int, rate: str, names: List[str]) -> Dict[str, Any]:
    with ExitStack() as stack:
        folder = stack.enter_context(measure.scratch())
        star: Optional[Any] = None
        if rate:
            star = stack.enter_context(star_module().Star(hosts=3, host_rate=rate,
                                                          source_rate=rate))
        cluster = stack.enter_context(Cluster(folder, star))
        bench = Bench(cluster, folder, size)
        manager = cluster.manager(host=MANAGER if rate else 0)
        first, second = (cluster.peer("--manager", manager.where, host=host if rate else 0,
                                      name=name)
                         for host, name in ((FIRST, "first"), (SECOND, "second")))
        cluster.warm_up()
        result: Dict[str, Any] = {"bench": "single", "size_mb": round(size / 1e6, 1), "rate": rate}
        result["rivals"] = {name: bench.rival(name) for name in names}
        result["cold"] = bench.get(first, FIRST if rate else 0, manager, manager)
        result["warm"] = bench.get(second, SECOND if rate else 0, first, manager)
        result["hit"] = bench.get(second, SECOND if rate else 0, first, manager)
        for name in names:
            for kind in ("cold", "warm"):
                result[kind][f"over_{name}"] = round(
                    result[kind]["seconds"] / result["rivals"][name]["seconds"], 3)
        if rate:
            result["bound_s"] = round(size / parse_rate(rate), 3)
            result["ratio_bound"] = round(result["warm"]["seconds"] / result["bound_s"], 3)
        result["rss_mb"] = measure.rss_mb(second.process)
        return result


def main() -> None:
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--size", default="1G")
    parser.add_argument("--rate", default="", help="of each link, as 1gbit; without: loopback")
    parser.add_argument("--rivals", default="curl,wget,aria2http", help="or none")
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    if args.rate and star_missing():
        sys.stderr.write(f"{star_missing()}\n")
        raise SystemExit(2)
    measure.missing("nginx:nginx-light", *(["tc:iproute2"] if args.rate else []))
    names = rivals.checked(args.rivals)
    build()
    size = parse_size(args.size)
    measure.report(measure.medians([run(size, args.rate, names) for _ in range(args.runs)]))


if __name__ == "__main__":
    main()
