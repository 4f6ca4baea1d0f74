"""How many hosts does one manager hold: thousands of control links, one swarm, no bytes moved.

One process drives all links over loopback to one `dfly serve`; its hosts join at once, follow
their leases in virtual time at --host-rate (leases share the downlink, children share an uplink,
cut-through) and report as Pace says. The manager is real: it fetches the content from a local
HTTP server, and its pieces' digests are compared with the source's.

  lease_p99_s   report to next lease: from sending a Stored that ends a lease to the next Lease
                received; nothing if leases for all that the host still misses are there already.
                It holds what the host waits for others to get pieces, not only the manager's
                delay. `waits` says how many waited at all, lease_max_s how long at worst.
  pong_p99_s    the manager's delay alone: from a Ping to its Pong, on one link of twenty.
  host_lag_p99_s  how late the driver itself ran: what it adds to the two above.

The run fails (exit 1) if a link is lost, a host is told something wrong, or any host stays
incomplete. --knee looks for the number of links at which lease_p99_s or pong_p99_s passes a second.
"""
from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import resource
import sys
import time
import urllib.request
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

from dfly.service.runtime import allow_descriptors
from dfly.task import piece_size_for
from dfly.units import parse_rate, parse_size
from tests.bench import measure
from tests.bench.virtual_hosts import Outcome, Plan, VirtualHosts
from tests.cluster import Cluster, Role, build
from tests.support import SourceServer

DESCRIPTORS_SPARE = 200
SOURCE_ENDS_S = 10.0
KNEE_S = 1.0
KNEE_STEP = 1.25


def piece_digests(path: Path, piece_size: int) -> bytes:
    found = []
    with open(path, "rb") as file:
        while True:
            piece = file.read(piece_size)
            if not piece:
                return b"".join(found)
            found.append(hashlib.sha256(piece).digest())


def serve_file(path: str, pipe: Connection) -> None:
    """The source, in a process of its own: it tells its URL, and at the end what it sent."""
    with SourceServer() as source:
        pipe.send(source.add("/file", Path(path)))
        try:
            pipe.recv()
            pipe.send(source.body_bytes)
        except EOFError:
            return   # the run has failed already


@contextmanager
def source_of(path: Path) -> Iterator[Connection]:
    """A source of this file; the pipe to it."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve_file, args=(str(path), there))
    process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join(SOURCE_ENDS_S)
        process.kill()


def status(manager: Role) -> Dict[str, Any]:
    with urllib.request.urlopen(f"http://{manager.where}/v1/status", timeout=30) as answer:
        found: Dict[str, Any] = json.load(answer)
        return found


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4) if ordered else 0.0


def run(args: Any, links: int, folder: Path) -> Dict[str, Any]:
    size = parse_size(args.size)
    content = folder / "file"
    if not content.exists():
        measure.random_file(content, size)
    digests = piece_digests(content, piece_size_for(size))
    (folder / str(links)).mkdir()
    with source_of(content) as source, Cluster(folder / str(links)) as cluster:
        manager = cluster.manager("--links-max", str(links + 100), *args.serve)
        plan = Plan(manager.port, source.recv(), links,
                    parse_rate(args.host_rate), parse_rate(args.seed_rate), args.upload_slots,
                    args.connecting or links, digests, args.timeout)
        idle_cpu = measure.cpu_seconds([manager.process])
        own_cpu = time.process_time()
        hosts = VirtualHosts(plan)
        gc.freeze()
        gc.disable()
        try:
            outcome = hosts.run()
            cpu = measure.cpu_seconds([manager.process]) - idle_cpu
            own_cpu = time.process_time() - own_cpu
            said = status(manager)
        finally:
            hosts.close()
            gc.enable()
        source.send(None)
        source_copies = round(source.recv() / size, 3)
        if len(said["hosts"]) != links:
            outcome.trouble.append(f"the manager counts {len(said['hosts'])} links")
        result = figures(links, outcome, cpu)
        result.update(bench="capacity", links=links, size_mb=round(size / 1e6, 1),
                      bound_s=round(size / plan.host_bps, 3),
                      cpu_s=round(cpu, 2), rss_mb=round(measure.rss_mb(manager.process), 1),
                      driver_cpu_s=round(own_cpu, 2),
                      source_copies=source_copies)
        if outcome.trouble or outcome.done != links:
            sys.stderr.write("".join(f"{line}\n" for line in outcome.trouble[:10]))
            sys.stderr.write(f"{outcome.done} of {links} hosts are complete\n")
            log = manager.text().splitlines()[-10:]
            sys.stderr.write("".join(f"manager: {line}\n" for line in log))
            measure.report(result)
            raise SystemExit(1)
        return result


def figures(links: int, outcome: Outcome, cpu: float) -> Dict[str, Any]:
    spread = max(outcome.seconds, 1e-9)
    return {
        "seconds": round(outcome.seconds, 2), "linked_s": round(outcome.linked_s, 2),
        "joined_s": round(outcome.joined_s, 2), "complete": outcome.done,
        "lost": outcome.lost, "busy": outcome.busy,
        "lease_p50_s": percentile(outcome.lease_waits, 0.5),
        "lease_p99_s": percentile(outcome.lease_waits, 0.99),
        "lease_max_s": percentile(outcome.lease_waits, 1.0),
        "ends": len(outcome.lease_waits), "waits": sum(map(bool, outcome.lease_waits)),
        "pong_p50_s": percentile(outcome.pongs, 0.5),
        "pong_p99_s": percentile(outcome.pongs, 0.99),
        "host_lag_p99_s": percentile(outcome.lags, 0.99),
        "leases": outcome.leases, "leases_per_s": round(outcome.leases / spread),
        "run": round(outcome.leased_pieces / max(1, outcome.leases), 2),
        "revoked": outcome.revoked,
        "reports": outcome.reports, "reports_per_s": round(outcome.reports / spread),
        "pieces_per_report": round(outcome.reported_pieces / max(1, outcome.reports), 2),
        "pieces_per_s": round(outcome.reported_pieces / spread), "batch_s": outcome.batch_s,
        "cores": round(cpu / spread, 2)}


def knee(args: Any, folder: Path) -> List[Dict[str, Any]]:
    """Runs with more and more links, up to the first that passes KNEE_S or can't be done."""
    results: List[Dict[str, Any]] = []
    links = args.links
    while not results or max(results[-1]["lease_p99_s"], results[-1]["pong_p99_s"]) <= KNEE_S:
        if not enough_descriptors(links):
            break
        results.append(run(args, links, folder))
        sys.stderr.write(f"{links} links: lease_p99_s {results[-1]['lease_p99_s']}, "
                         f"pong_p99_s {results[-1]['pong_p99_s']}\n")
        links = int(links * KNEE_STEP)
    return results


def enough_descriptors(links: int) -> bool:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= links + DESCRIPTORS_SPARE


def main() -> None:
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--links", type=int, default=7_000)
    parser.add_argument("--size", default="500MB")
    parser.add_argument("--host-rate", default="1gbit", help="each host, each way")
    parser.add_argument("--seed-rate", default="10gbit", help="the manager's uplink")
    parser.add_argument("--upload-slots", type=int, default=16, help="of each host")
    parser.add_argument("--connecting", type=int, default=0,
                        help="handshakes under way at a time; 0 = all")
    parser.add_argument("--timeout", type=float, default=150.0, help="seconds for one run")
    parser.add_argument("--knee", action="store_true",
                        help=f"from --links on, a quarter more each time, until lease_p99_s or "
                             f"pong_p99_s passes {KNEE_S:.0f} s")
    parser.add_argument("--serve", nargs="*", default=[], help="more options for dfly serve")
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    allow_descriptors()
    if not enough_descriptors(args.links):
        sys.stderr.write(f"{args.links} links need {args.links + DESCRIPTORS_SPARE} open files "
                         f"here and in the manager: raise the limit first (ulimit -n)\n")
        raise SystemExit(2)
    build()
    with measure.scratch() as folder:
        if args.knee:
            found = knee(args, folder)
            measure.report({"bench": "capacity", "knee": [
                {key: result[key] for key in ("links", "lease_p99_s", "pong_p99_s", "seconds",
                                              "cores", "rss_mb")} for result in found]})
            return
        results = []
        for number in range(args.runs):
            results.append(run(args, args.links, folder))
            (folder / str(args.links)).rename(folder / f"run{number}")
        measure.report(measure.medians(results))


if __name__ == "__main__":
    main()
