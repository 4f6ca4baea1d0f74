"""A star of network namespaces: N hosts with shaped links fetch one file at once.

The source is nginx on host 0; the manager has a host of its own. Needs root, nginx and the
testbed beside the checkout.
"""
from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Dict, List

from dfly.units import parse_rate, parse_size
from tests.bench import measure, nginx, rivals
from tests.cluster import Cluster, build, star_missing, star_module


def reshape(star: Any, host: int, rate: str) -> None:
    """Another rate for one host's link, both ways."""
    module = star_module()
    shape = module.tbf_args(module.parse_rate(rate), 50).split()
    star.run(host, ["tc", "qdisc", "replace", "dev", "eth0", "root", *shape])
    subprocess.run(["tc", "-n", star.sw, "qdisc", "replace", "dev", f"p{host}", "root", *shape],
                   check=True)


def run(args: Any, names: List[str]) -> Dict[str, Any]:
    size = parse_size(args.size)
    hosts = args.hosts
    module = star_module()
    racks: Dict[str, Any] = {"racks": args.racks, "rack_rate": args.rack_rate} if args.racks else {}
    with measure.scratch() as folder, module.Star(
            hosts=hosts + 1, host_rate=args.host_rate, source_rate=args.source_rate,
            latency_ms=args.latency_ms, **racks) as star, Cluster(folder, star) as cluster:
        boss = hosts + 1
        reshape(star, boss, args.manager_rate or args.source_rate)
        (folder / "www").mkdir()
        digest = measure.random_file(folder / "www" / "file", size)
        nginx.start(cluster, folder, folder / "www", 0)
        home = ["--location", f"rack{star.rack_of(boss)}"] if args.racks else []
        manager = cluster.manager(*home, host=boss)
        numbers = range(1, hosts + 1)
        peers = {}
        for number in numbers:
            where = ["--location", f"rack{star.rack_of(number)}"] if args.racks else []
            peers[number] = cluster.peer("--manager", manager.where, *where, host=number,
                                         name=f"p{number}")
        before = star.stats()
        cluster.warm_up()
        measure.wake_memory(folder, (hosts + 1) * size)
        idle_cpu = measure.cpu_seconds([role.process for role in cluster.roles])
        ends = measure.Finishers()
        copies = {number: folder / f"copy{number}" for number in numbers}
        url = f"http://{cluster.address(0)}:{nginx.PORT}/file"
        for number in numbers:
            out = open(folder / f"out{number}", "wb")
            ends.add(cluster.get_popen(peers[number], url, "-O", str(copies[number]), "--json",
                                       host=number, stdout=out))
            out.close()
        seconds = ends.wait()
        after = star.stats()
        cpu = measure.cpu_seconds([role.process for role in cluster.roles]) - idle_cpu
        measure.check_copies(list(copies.values()), digest)
        lines = [[json.loads(line) for line in (folder / f"out{number}").read_bytes().splitlines()]
                 for number in numbers]
        source_bps = parse_rate(args.source_rate)
        # The manager's uplink is the second copy of the source's: it, not the source, feeds hosts.
        bound = measure.bound_s(size, hosts, source_bps, parse_rate(args.host_rate))
        result = {"bench": "swarm", "hosts": hosts, "size_mb": round(size / 1e6, 1),
                  "host_rate": args.host_rate, "source_rate": args.source_rate,
                  "latency_ms": args.latency_ms, **measure.summary(seconds, bound),
                  "source_copies": round((after[0]["tx"] - before[0]["tx"]) / size, 3),
                  "manager_copies": round((after[boss]["tx"] - before[boss]["tx"]) / size, 2),
                  "cpu_s": round(cpu, 2),
                  "without_p2p": sum(measure.p2p_lost(events) for events in lines),
                  "manager_rss_mb": round(measure.rss_mb(manager.process), 1)}
        if args.racks:
            result["rack_in_copies"] = [round((after[f"rack{r}"]["rx"] - before[f"rack{r}"]["rx"])
                                              / size, 2) for r in range(args.racks)]
    result["rivals"] = {name: rivals.in_star(name, hosts, size, args.host_rate, args.source_rate,
                                             args.latency_ms) for name in names}
    return result


def main() -> None:
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--hosts", type=int, default=10)
    parser.add_argument("--host-rate", default="100mbit")
    parser.add_argument("--source-rate", default="200mbit")
    parser.add_argument("--manager-rate", default="", help="default: the source's")
    parser.add_argument("--size", default="100MB")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="round trip")
    parser.add_argument("--racks", type=int, default=0)
    parser.add_argument("--rack-rate", default=None)
    parser.add_argument("--rivals", default="wget,libtorrent", help="or none; without racks only")
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    if star_missing():
        sys.stderr.write(f"{star_missing()}\n")
        raise SystemExit(2)
    measure.missing("nginx:nginx-light", "tc:iproute2", "gcc")
    names = [] if args.racks else rivals.checked(args.rivals)   # the testbed's rivals know no racks
    build()
    measure.report(measure.medians([run(args, names) for _ in range(args.runs)]))


if __name__ == "__main__":
    main()
