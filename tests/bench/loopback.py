"""N peers on plain loopback fetch one file at once from a source of limited rate."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

from dfly.units import MIB, parse_rate, parse_size
from tests.bench import measure
from tests.cluster import Cluster, build
from tests.support import SourceServer


def run(hosts: int, size: int, source_bps: float) -> Dict[str, Any]:
    with measure.scratch() as folder, SourceServer(rate_bps=source_bps) as source, \
            Cluster(folder) as cluster:
        digest = measure.random_file(folder / "file", size)
        url = source.add("/file", Path(folder / "file"))
        manager = cluster.manager()
        peers = [cluster.peer("--manager", manager.where, name=f"p{number}")
                 for number in range(hosts)]
        cluster.warm_up()
        idle_cpu = measure.cpu_seconds([role.process for role in cluster.roles])
        measure.wake_memory(folder, (hosts + 1) * size)
        ends = measure.Finishers()
        copies = [folder / f"copy{number}" for number in range(hosts)]
        outs = [open(folder / f"out{number}", "wb") for number in range(hosts)]
        for peer, copy, out in zip(peers, copies, outs):
            ends.add(cluster.get_popen(peer, url, "-O", str(copy), "--json", stdout=out))
        seconds = ends.wait()
        for out in outs:
            out.close()
        cpu = measure.cpu_seconds([role.process for role in cluster.roles]) - idle_cpu
        measure.check_copies(copies, digest)
        lines = [[json.loads(line) for line in Path(out.name).read_bytes().splitlines()]
                 for out in outs]
        bound = size / source_bps if source_bps else 0.001
        return {"bench": "loopback", "hosts": hosts, "size_mib": size // MIB,
                "source_bps": source_bps, **measure.summary(seconds, bound),
                "source_copies": round(source.body_bytes / size, 3), "cpu_s": round(cpu, 2),
                "without_p2p": sum(measure.p2p_lost(events) for events in lines),
                "manager_rss_mb": measure.rss_mb(manager.process),
                "peer_rss_mb": max(measure.rss_mb(peer.process) for peer in peers)}


def main() -> None:
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--hosts", type=int, default=40)
    parser.add_argument("--size", default="100M")
    parser.add_argument("--source-rate", default="25MB", help="all connections together")
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    build()
    runs = [run(args.hosts, parse_size(args.size), parse_rate(args.source_rate))
            for _ in range(args.runs)]
    measure.report(measure.medians(runs))


if __name__ == "__main__":
    main()
