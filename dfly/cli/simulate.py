"""Run the production scheduler over virtual hosts, links and faults, and measure it.

All hosts want one file that the manager fetches from a source. The same seed gives the same run.
If a rule is broken (a host that never finishes, a lease that can't work) the exit code is 1.
"""
from __future__ import annotations

import argparse
import random
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, List, NamedTuple, Optional, Tuple

from dfly.cli.table import print_json, table
from dfly.config import parse_at_least_one, parse_count
from dfly.errors import DflyError, UsageError
from dfly.task import PIECES_MAX
from dfly.units import format_duration, parse_duration, parse_rate, parse_size

if TYPE_CHECKING:
    from dfly.core.pacing import PaceLimits
    from dfly.sim.scenario import Fault, Outcome, Scenario

HOSTS_MAX = 100_000
PIECES_IN_ALL_MAX = 100_000_000    # hosts x pieces: what memory and patience allow
FAULT_SALT = 0x0FA17               # so that faults don't share the scheduler's random numbers

# The flags that make a run, as the help lists them: name, default, value, what it is.
OPTIONS = (
    ("hosts", "100", "N", "virtual hosts (default 100)"),
    ("size", "500M", "SIZE", "size of the file (default 500M)"),
    ("host-rate", "1gbit", "RATE",
     "of each host's uplink and downlink (default 1gbit); 0 = no limit"),
    ("source-rate", "10gbit", "RATE",
     "of the source and of the manager's uplink (default 10gbit); 0 = no limit"),
    ("piece-size", "0", "SIZE", "0, the default, is what a manager would choose"),
    ("latency", "500us", "TIME", "of every path, one way: half of a round trip (default 500us)"),
    ("racks", "0", "N", "racks that the hosts hang on, in blocks; 0, the default, is none"),
    ("rack-rate", "0", "RATE",
     "of each rack's link to the core, either way; 0, the default, is no limit"),
    ("manager-rack", "core", "N",
     "rack of the manager, from 0, or core (the default); the source is on the core"),
    ("goodput", "1", "SHARE", "of every link's rate that is payload (default 1)"),
    ("startup", "0", "TIME", "from the start to the first host's joining"),
    ("run-cost", "0", "TIME", "of a host for each lease that it serves, one by one"),
    ("report-cost", "0", "TIME", "of the manager for each report"),
    ("lease-cost", "0", "TIME", "of the manager for each lease"),
    ("leases", "0", "N", "a second that the manager may grant; 0, the default, is as production"),
    ("reports", "0", "N", "a second that it may hear; 0, the default, is as production"),
    ("gather", "0", "TIME",
     "at most that a host gathers pieces for a report; 0, the default, is as production"),
    ("upload-slots", "16", "N", "leases that a host serves at once (default 16)"),
    ("manager-slots", "16", "N", "the same for the manager (default 16)"),
    ("join-every", "0", "TIME", "a host joins each TIME; 0, the default, is all at once"),
    ("readers", "0", "N", "hosts that read the file in order while it arrives"),
    ("lose", "0", "N", "hosts that die on the way"),
    ("stall", "0", "N", "hosts that stop sending on the way without a word"),
    ("liars", "0", "N", "hosts that send wrong bytes"),
    ("seed", "1", "N", "of all randomness (default 1)"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for name, default, metavar, text in OPTIONS:
        parser.add_argument(f"--{name}", default=default, metavar=metavar, help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON object in the "
                        "table's stead")


def run(args: argparse.Namespace) -> int:
    from dfly.sim.checkers import CheckFailed
    from dfly.sim.scenario import simulate
    scenario = _scenario(args)
    try:
        outcome = simulate(scenario)
    except CheckFailed as error:
        raise DflyError(f"simulation with seed {scenario.seed} broke a rule: {error}",
                        f"repeat it by: {command(args)}") from None
    figures = _figures(outcome)
    if args.json:
        print_json({figure.key: figure.value for figure in figures})
    else:
        rows = [(figure.name, figure.shown) for figure in figures]
        print(table(("", ""), rows, right=(1,)).lstrip("\n"))
    return 0


class Figure(NamedTuple):
    """One result of a run: in JSON by `key`, in the table, where it is `shown`, by `name`."""

    key: str
    value: object
    name: str
    shown: str


def _figures(outcome: Outcome) -> List[Figure]:
    def seconds(key: str, value_s: float, name: str) -> Figure:
        return Figure(key, round(value_s, 6), name, format_duration(value_s))

    def copies(key: str, value: float, name: str) -> Figure:
        return Figure(key, round(value, 4), name, f"{value:.2f}")

    return [
        seconds("makespan_s", outcome.makespan_s, "last host done"),
        seconds("median_s", outcome.median_s, "median host"),
        seconds("p95_s", outcome.p95_s, "95 % of hosts"),
        seconds("bound_s", outcome.bound_s, "lower bound"),
        Figure("ratio", round(outcome.ratio, 4), "last host / bound", f"{outcome.ratio:.3f}"),
        copies("source_copies", outcome.source_copies, "copies out of the source"),
        copies("seed_copies", outcome.seed_copies, "copies out of the manager"),
        copies("rack_copies", outcome.rack_copies, "copies into the busiest rack"),
        Figure("leases", outcome.leases, "leases", str(outcome.leases)),
        Figure("reports", outcome.reports, "reports", str(outcome.reports)),
        Figure("trace", outcome.trace, "trace", outcome.trace[:16])]


def command(args: argparse.Namespace) -> str:
    """The command line that repeats a run."""
    words: List[str] = ["dfly", "simulate"]
    for name, *_ in OPTIONS:
        words += [f"--{name}", str(getattr(args, name.replace("-", "_")))]
    return shlex.join(words)


def _check_fleet(scenario: Scenario) -> None:
    """UsageError if the other options don't suit the number of hosts."""
    hosts, racks, readers = scenario.hosts, scenario.racks, scenario.readers
    if not 1 <= hosts <= HOSTS_MAX:
        raise UsageError(f"--hosts {hosts}: at least 1, at most {HOSTS_MAX}")
    if racks > hosts:
        raise UsageError(f"--racks {racks}: there are only {hosts} hosts to hang on them")
    if readers > hosts:
        raise UsageError(f"--readers {readers}: there are only {hosts} hosts")
    if scenario.rack_bps and not racks:
        raise UsageError("--rack-rate without racks", "give their number by --racks")


def _scenario(args: argparse.Namespace) -> Scenario:
    from dfly.core.scheduler import SchedulerLimits
    from dfly.sim.scenario import Scenario
    scenario = Scenario(
        parse_count(args.hosts), parse_size(args.size),
        parse_rate(args.host_rate), parse_rate(args.source_rate),
        piece_size=parse_size(args.piece_size), latency_s=_fine_duration(args.latency),
        seed=parse_count(args.seed), join_every_s=parse_duration(args.join_every),
        upload_slots=parse_at_least_one(args.upload_slots),
        seed_slots=parse_at_least_one(args.manager_slots), readers=parse_count(args.readers),
        racks=parse_count(args.racks), rack_bps=parse_rate(args.rack_rate),
        manager_rack=_manager_rack(args), goodput=_share(args.goodput),
        startup_s=_fine_duration(args.startup), run_s=_fine_duration(args.run_cost),
        fact_s=_fine_duration(args.report_cost), lease_s=_fine_duration(args.lease_cost),
        limits=SchedulerLimits(pace=_pace(args)))
    _check_fleet(scenario)
    pieces = scenario.geometry.piece_count
    assert pieces is not None
    if pieces > PIECES_MAX or pieces * scenario.hosts > PIECES_IN_ALL_MAX:
        raise UsageError(f"{scenario.hosts} hosts x {pieces} pieces are too many to simulate",
                         f"the most is {PIECES_IN_ALL_MAX}: use a larger --piece-size")
    return replace(scenario, faults=_faults(args, scenario))


def _pace(args: argparse.Namespace) -> PaceLimits:
    """What the manager can do: as in production, but for what is said otherwise."""
    from dfly.core.pacing import PRODUCTION
    leases, reports = float(parse_count(args.leases)), float(parse_count(args.reports))
    return replace(PRODUCTION, leases_per_s=leases or PRODUCTION.leases_per_s,
                   grants_per_s=leases or PRODUCTION.grants_per_s,
                   reports_per_s=reports or PRODUCTION.reports_per_s,
                   batch_max_s=_fine_duration(args.gather) or PRODUCTION.batch_max_s)


def _faults(args: argparse.Namespace, scenario: Scenario) -> Tuple[Fault, ...]:
    """Which hosts fail, how and when: by the seed alone."""
    from dfly.sim.scenario import Fault
    kinds = [kind for kind, text in (("lost", args.lose), ("stalled", args.stall),
                                     ("liar", args.liars)) for _ in range(parse_count(text))]
    if len(kinds) >= scenario.hosts:
        raise UsageError(f"{len(kinds)} of {scenario.hosts} hosts fail",
                         "at least one must be left to finish")
    rng = random.Random(scenario.seed ^ FAULT_SALT)
    failing = rng.sample(range(1, scenario.hosts + 1), len(kinds))
    span_s = scenario.bound_s + scenario.hosts * scenario.join_every_s
    return tuple(Fault(kind, host, 0.0 if kind == "liar" else rng.random() * span_s)
                 for kind, host in zip(kinds, failing))


def _manager_rack(args: argparse.Namespace) -> Optional[int]:
    if args.manager_rack == "core":
        return None
    rack, racks = parse_count(args.manager_rack), parse_count(args.racks)
    if rack >= racks:
        raise UsageError(f"--manager-rack {rack}: there are {racks} racks",
                         "they are counted from 0")
    return rack


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--goodput {text}: a share is above 0 and at most 1")
    return share


def _fine_duration(text: str) -> float:
    """Seconds, from microseconds too: a rack's latency and a lease's cost are below a
    millisecond."""
    if text.endswith("us"):
        return parse_duration(text[:-2]) / 1e6
    return parse_duration(text)
