"""Memory of the roles, from /proc: a peer and a manager with nothing to do, and the peak of both
and of a giving peer while one large file passes through them."""
from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict

from dfly.units import MIB, parse_size
from tests.bench import measure
from tests.cluster import Cluster, Role, build
from tests.support import SourceServer


def threads_of(role: Role) -> int:
    return sum(1 for _ in Path(f"/proc/{role.process.pid}/task").iterdir())


def run(size: int) -> Dict[str, Any]:
    result: Dict[str, Any] = {"bench": "memory", "size_mib": size // MIB}
    with measure.scratch() as folder, SourceServer() as source, Cluster(folder) as cluster:
        digest = measure.random_file(folder / "file", size)
        url = source.add("/file", Path(folder / "file"))
        manager = cluster.manager()
        giver = cluster.peer("--manager", manager.where, name="giver")
        taker = cluster.peer("--manager", manager.where, name="taker")
        # The link stands before the peer's answer names it, so an answer means that it idles.
        cluster.run("status", "--socket", taker.socket)
        result.update(peer_idle_mb=measure.rss_mb(taker.process, "VmRSS"),
                      peer_idle_threads=threads_of(taker),
                      manager_idle_mb=measure.rss_mb(manager.process, "VmRSS"))
        began_at = time.perf_counter()
        for peer, name in ((giver, "copy1"), (taker, "copy2")):
            got = cluster.get(peer, url, "-q", "-O", str(folder / name), timeout_s=600)
            if got.code:
                raise SystemExit(f"dfly get failed with {got.code}: {got.err}")
            measure.check_copies([folder / name], digest)
            (folder / name).unlink()
        result.update(seconds=round(time.perf_counter() - began_at, 3),
                      manager_peak_mb=measure.rss_mb(manager.process),
                      giver_peak_mb=measure.rss_mb(giver.process),
                      taker_peak_mb=measure.rss_mb(taker.process),
                      taker_after_mb=measure.rss_mb(taker.process, "VmRSS"),
                      rss_mb=measure.rss_mb(taker.process))
    return result


def main() -> None:
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--size", default="1G")
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    build()
    measure.report(measure.medians([run(parse_size(args.size)) for _ in range(args.runs)]))


if __name__ == "__main__":
    main()
