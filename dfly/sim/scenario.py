"""One simulated run as data: the fleet, its links, its faults, and what came out.

The lower bound is the fluid one: nobody can be done before the source has sent the file once,
before a host's own downlink has taken it, or before all uplinks together have sent it N times.
"""
from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Callable, List, Optional, Tuple

from dfly.core.cost import LocalityCost
from dfly.core.scheduler import Scheduler, SchedulerLimits
from dfly.sim.network import Grain, Rack
from dfly.sim.swarm import Delays, SimHost, SimSwarm
from dfly.sim.world import World
from dfly.task import Geometry, piece_size_for

UNLIMITED_BPS = 1e12           # what a rate of 0 means: 8 Tbit/s
QUANTA_WANTED = 400_000        # of all transfers together: what a run's time allows
PARTS_MAX = 8                  # quanta in a piece at most
QUANTA_MAX = 10_000_000        # beyond that, a quantum is several pieces


@dataclass(frozen=True)
class Fault:
    """At `at` seconds, host number `host` is lost, stalls, or lies from the start."""

    kind: str   # "lost", "stalled", "liar"
    host: int
    at: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """Hosts are numbered from 1; 0 is the manager. Rates in bytes per second, 0 = no limit."""

    hosts: int
    size: int
    host_bps: float
    source_bps: float
    piece_size: int = 0                  # 0 = as production chooses
    latency_s: float = 0.0005            # of every path, one way
    seed: int = 1
    join_every_s: float = 0.0            # 0 = all at once
    sized: bool = True
    upload_slots: int = 16
    seed_slots: int = 16
    readers: int = 0                     # the first so many hosts read in order
    labels: Tuple[Tuple[str, ...], ...] = ((),)   # dealt out to the hosts in turn
    faults: Tuple[Fault, ...] = ()
    racks: int = 0                       # the hosts hang on so many, in blocks; 0 = all on the core
    rack_bps: float = 0.0                # of each rack's link to the core, either way
    manager_rack: Optional[int] = None   # where the manager hangs; None = on the core
    goodput: float = 1.0                 # share of every link's rate that is payload
    startup_s: float = 0.0               # from the start to the first join
    run_s: float = 0.0                   # a parent's time for one request
    fact_s: float = 0.0                  # the manager's time for one report
    lease_s: float = 0.0                 # and for one lease
    limits: SchedulerLimits = field(default_factory=SchedulerLimits)

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.size, self.piece_size or piece_size_for(self.size))

    @property
    def bound_s(self) -> float:
        """The fluid lower bound, hosts all there from the start, links all payload."""
        source, host = _rate(self.source_bps), _rate(self.host_bps)
        rack = _rate(self.rack_bps) if self.racks else UNLIMITED_BPS
        return max(self.size / source, self.size / host, self.size / rack,
                   self.hosts * self.size / (source + self.hosts * host))


@dataclass(frozen=True)
class Outcome:
    """What a run gave. Times are seconds from each host's join to its last piece."""

    times_s: Tuple[float, ...]
    makespan_s: float          # from the start to the last host's last piece
    bound_s: float
    source_copies: float
    leases: int
    reports: int
    seed_copies: float         # what the manager sent, in files
    far_share: float           # of all pieces: leased from a host of another region
    rack_copies: float         # files that crossed into the rack that took most
    trace: str

    @property
    def median_s(self) -> float:
        return self._quantile(0.5)

    @property
    def p95_s(self) -> float:
        return self._quantile(0.95)

    @property
    def ratio(self) -> float:
        return self.makespan_s / self.bound_s if self.bound_s else 1.0

    def _quantile(self, share: float) -> float:
        ordered = sorted(self.times_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def simulate(scenario: Scenario) -> Outcome:
    """Run it; CheckFailed if a rule was broken."""
    rng = random.Random(scenario.seed)
    world = World()
    scheduler = Scheduler(scenario.limits, LocalityCost(), rng)
    delays = Delays(scenario.latency_s, scenario.run_s, scenario.fact_s, scenario.lease_s)
    swarm = SimSwarm(world, scheduler, scenario.geometry, delays, _grain(scenario))
    swarm.expected_hosts = scenario.hosts
    racks = [Rack(_rate(scenario.rack_bps) * scenario.goodput) for _ in range(scenario.racks)]
    hosts = _hosts(scenario, racks)
    _plan_faults(scenario, world, swarm, hosts)
    source = _rate(scenario.source_bps) * scenario.goodput
    manager = SimHost(0, source, source, scenario.seed_slots, ())
    if scenario.manager_rack is not None:
        manager.rack = racks[scenario.manager_rack]
        manager.labels = (f"rack{scenario.manager_rack}",)
    world.at(scenario.startup_s, lambda _: swarm.open(manager, source, scenario.sized))
    for position, host in enumerate(hosts):
        world.at(scenario.startup_s + position * scenario.join_every_s, _join(swarm, host))
    world.run(_limit_s(scenario))
    swarm.checkers.finished(swarm.incomplete())
    done = [host for host in hosts if host.done_at is not None]
    times = tuple((host.done_at or 0.0) - (host.joined_at or 0.0) for host in done)
    return Outcome(
        times, max((host.done_at or 0.0 for host in done), default=0.0), scenario.bound_s,
        swarm.source_pieces / max(1, scenario.geometry.piece_count or 0), swarm.leases,
        swarm.reports, swarm.hosts[0].sent / max(1, scenario.size),
        swarm.far_pieces / max(1, len(done) * (scenario.geometry.piece_count or 0)),
        max((rack.received for rack in racks), default=0.0) / max(1, scenario.size),
        swarm.trace.hexdigest())


def _hosts(scenario: Scenario, racks: List[Rack]) -> List[SimHost]:
    rate = _rate(scenario.host_bps) * scenario.goodput
    hosts: List[SimHost] = []
    for number in range(1, scenario.hosts + 1):
        labels = scenario.labels[(number - 1) % len(scenario.labels)]
        host = SimHost(number, rate, rate, scenario.upload_slots, labels)
        host.reader = number <= scenario.readers
        if racks:
            rack = (number - 1) * len(racks) // scenario.hosts
            host.rack = racks[rack]
            host.labels = (*labels, f"rack{rack}")
        hosts.append(host)
    return hosts


def _rate(bps: float) -> float:
    return bps if bps > 0 else UNLIMITED_BPS


def _grain(scenario: Scenario) -> Grain:
    """Parts of a piece where a fleet is small, several pieces at once where it is large."""
    pieces = scenario.hosts * (scenario.geometry.piece_count or 1)
    return Grain(parts=max(1, min(PARTS_MAX, QUANTA_WANTED // pieces)),
                 pieces=max(1, round(pieces / QUANTA_MAX)))


def _limit_s(scenario: Scenario) -> float:
    """When to give a run up: long after any sensible end."""
    pieces = scenario.geometry.piece_count or 0
    return (600 + scenario.startup_s + scenario.hosts * scenario.join_every_s
            + 50 * scenario.bound_s / scenario.goodput
            + pieces * (50 * scenario.latency_s
                        + scenario.hosts * (scenario.run_s + scenario.fact_s + scenario.lease_s)))


def _join(swarm: SimSwarm, host: SimHost) -> Callable[[object], None]:
    return lambda _: swarm.join(host)


def _plan_faults(scenario: Scenario, world: World, swarm: SimSwarm, hosts: List[SimHost]) -> None:
    for fault in scenario.faults:
        host = hosts[fault.host - 1]
        if fault.kind == "liar":
            host.liar = True
        elif fault.kind == "stalled":
            world.at(fault.at, swarm.stall, host)
        else:
            assert fault.kind == "lost", fault.kind
            world.at(fault.at, swarm.lose, host)
