"""Plays one swarm: the manager around the real scheduler, hosts that do as they are told.

A host fetches what is leased to it, gathers what it stored for the manager's batching interval
and reports it; orders and reports take the latency of the network, and the manager's time where a
fact or a lease is said to cost some: then it hears facts one after the other and lags as a real
one does. The manager gets the pieces from the source in order, at the source's rate. Hosts may
go, lie, stall or join late: the faults come from scenario.py as data.
"""
from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from typing import Deque, Dict, List, Optional, Tuple

from dfly.core.events import (
    SEED,
    Event,
    Grant,
    HostJoined,
    HostLost,
    LeaseEnded,
    ManagerLagged,
    Pace,
    PeerJoined,
    PiecesStored,
    ReaderAt,
    SwarmOpened,
    SwarmSized,
    TimePassed,
    Withdraw,
)
from dfly.core.scheduler import Scheduler
from dfly.sim.checkers import Checkers
from dfly.sim.network import Endpoint, Flow, Grain, Network, cross
from dfly.sim.world import World
from dfly.task import Geometry, full_set, lowest
from dfly.wire.messages import Failure

SWARM = 1
LAG_EVERY_S = 0.25     # a manager that costs time tells its scheduler so often how late it is


@dataclass(frozen=True)
class Delays:
    """What things take. Seconds; 0 = ideal."""

    latency_s: float = 0.0    # of every path, one way
    run_s: float = 0.0        # a parent's time for one request, one after the other
    fact_s: float = 0.0       # the manager's time for one report
    lease_s: float = 0.0      # and for one lease


class SimHost(Endpoint):
    """A virtual host."""

    __slots__ = ("done_at", "flows", "joined_at", "labels", "liar", "pending", "reader",
                 "serves_at", "slots")

    def __init__(self, number: int, up_bps: float, down_bps: float, slots: int,
                 labels: Tuple[str, ...]) -> None:
        super().__init__(number, up_bps, down_bps)
        self.slots = slots
        self.labels = labels
        self.flows: Dict[int, Flow] = {}       # by lease, as a child
        self.pending: List[int] = []           # stored and not reported
        self.joined_at: Optional[float] = None
        self.done_at: Optional[float] = None
        self.serves_at = 0.0                   # when it is free for the next request
        self.liar = False                      # sends wrong bytes
        self.reader = False                    # somebody reads the bytes in order


class SimSwarm:
    """One run: hosts, network, manager, source."""

    def __init__(self, world: World, scheduler: Scheduler, geometry: Geometry, delays: Delays,
                 grain: Grain) -> None:
        assert geometry.piece_count is not None
        self.world = world
        self.scheduler = scheduler
        self.geometry = geometry
        self.full = full_set(geometry.piece_count)
        self.hosts: Dict[int, SimHost] = {}
        self.slots: Dict[int, int] = {}
        self.checkers = Checkers(self.slots, self.full)
        self.leases = 0
        self.reports = 0
        self.waiting_hosts = 0           # joined, alive, not complete
        self.far_pieces = 0              # leased from a host of another region
        self.source_pieces = 0
        self.source_bps = 0.0
        self.expected_hosts = 0          # that join in all
        self.sized = True                # False: the length shows at the end only
        self.trace = hashlib.sha256()
        self._delays = delays
        self._latency_s = delays.latency_s
        self._busy_until = 0.0           # the manager is
        self._lag_s = 0.0                # smoothed, between a fact's coming and its hearing
        self._lag_at = 0.0               # when the scheduler was told of it
        self._inbox: Deque[Tuple[float, Event]] = deque()   # facts not heard yet, when they came
        self._wake_at: Optional[float] = None
        self._fetch_through_at = 0.0     # when the piece before was at the manager
        sizes = [geometry.size_of(piece) for piece in range(geometry.piece_count)]
        self._network = Network(world, delays.latency_s, sizes, grain,
                                self._pieces_arrived)

    # -------------------------------------------------------------------------- manager
    def tell(self, event: Event) -> None:
        """The manager learns this now and gives its orders."""
        self.checkers.told(event)
        now = self.world.now
        said_at = max(now, self._busy_until)
        if isinstance(event, PiecesStored):
            said_at += self._delays.fact_s
        for effect in self.scheduler.step(event, now):
            if isinstance(effect, Grant):
                self.leases += 1
                self.trace.update(repr((now, effect.lease, effect.child, effect.parent,
                                        effect.first, effect.count)).encode())
                self.checkers.granted(effect)
                said_at += self._delays.lease_s
                self.world.at(said_at + 2 * self._latency_s, self._ask_parent, effect)
            elif isinstance(effect, Withdraw):
                self.checkers.withdrawn(effect.lease)
                self.world.at(said_at + 2 * self._latency_s, self._stop_lease, effect)
            elif not isinstance(effect, Pace):  # hosts ask the scheduler for its pace directly
                self.trace.update(repr((now, effect)).encode())
        self._busy_until = said_at
        deadline = self.scheduler.deadline()
        if deadline is not None and (self._wake_at is None or deadline < self._wake_at):
            self._wake_at = max(deadline, said_at)
            self.world.at(self._wake_at, self._wake, self._wake_at)

    def _wake(self, at: float) -> None:
        if self._wake_at == at:
            self._wake_at = None
            self.tell(TimePassed())

    def _come(self, event: Event) -> None:
        """A fact reaches the manager, which hears it when it is through with those before."""
        if not self._inbox and self._busy_until <= self.world.now:
            self.tell(event)
            return
        self._inbox.append((self.world.now, event))
        if len(self._inbox) == 1:
            self.world.at(self._busy_until, self._hear)

    def _hear(self, _: object) -> None:
        now = self.world.now
        if self._busy_until > now:   # time passed, and the manager had to think about it
            self.world.at(self._busy_until, self._hear)
            return
        came_at, event = self._inbox[0]
        self._lag_s += 0.01 * (now - came_at - self._lag_s)
        if now - self._lag_at > LAG_EVERY_S:
            self._lag_at = now
            self.tell(ManagerLagged(self._lag_s))
        self.tell(event)
        self._inbox.popleft()
        if self._inbox:
            self.world.at(self._busy_until, self._hear)

    def open(self, manager: SimHost, source_bps: float, sized: bool) -> None:
        """The task is registered: the manager begins to fetch it."""
        self.source_bps, self.sized = source_bps, sized
        self.hosts[SEED] = manager
        self.slots[SEED] = manager.slots
        self.tell(HostJoined(SEED, manager.labels, manager.slots))
        self.checkers.joined(SEED, 0)
        self.tell(SwarmOpened(SWARM, self.geometry.piece_count if sized else None,
                              self.geometry.piece_size))
        if not self.geometry.piece_count and not sized:
            self.tell(SwarmSized(SWARM, 0))
        self._fetch(0)

    def _fetch(self, piece: int) -> None:
        """The source sends its next piece; on the way to the manager's rack there may be two."""
        if piece < (self.geometry.piece_count or 0):
            now, size = self.world.now, self.geometry.size_of(piece)
            sent_at = now + size / self.source_bps
            next_at = max(sent_at, self._fetch_through_at)
            self._fetch_through_at = cross(None, self.hosts[SEED].rack, size, now, sent_at)
            self.world.at(self._fetch_through_at, self._fetched, piece)
            self.world.at(next_at, self._fetch, piece + 1)

    def _fetched(self, piece: int) -> None:
        self.source_pieces += 1
        self._network.stored(self.hosts[SEED], piece, piece + 1)
        self.tell(PiecesStored(SWARM, SEED, (piece,)))
        if not self.sized and piece + 1 == self.geometry.piece_count:
            self.tell(SwarmSized(SWARM, piece + 1))

    # ---------------------------------------------------------------------------- hosts
    def join(self, host: SimHost) -> None:
        """The host links up and wants the task."""
        assert host.alive
        self.hosts[host.number] = host
        self.slots[host.number] = host.slots
        host.joined_at = self.world.now
        if host.have == self.full:
            host.done_at = self.world.now
            self._check_over()
        else:
            self.waiting_hosts += 1
        self._come(HostJoined(host.number, host.labels, host.slots))
        self.checkers.joined(host.number, host.have)
        self._come(PeerJoined(SWARM, host.number, host.have, True, 0 if host.reader else None))

    def lose(self, host: SimHost) -> None:
        """The host dies; its link's end tells the manager."""
        if not host.alive or host.joined_at is None:
            return
        host.alive = False
        if host.done_at is None:
            self.waiting_hosts -= 1
            self._check_over()
        for flow in host.flows.values():
            self._network.close(flow)
        self.world.at(self.world.now + self._latency_s, self._come, HostLost(host.number))

    def stall(self, host: SimHost) -> None:
        """The host sends nothing any more and doesn't say so."""
        host.stalled = True

    def _ask_parent(self, grant: Grant) -> None:
        """The child's request has reached the parent."""
        if not self._delays.run_s:
            self._begin_lease(grant)
            return
        parent = self.hosts[grant.parent]
        parent.serves_at = max(parent.serves_at, self.world.now) + self._delays.run_s
        self.world.at(parent.serves_at, self._begin_lease, grant)

    def _begin_lease(self, grant: Grant) -> None:
        child, parent = self.hosts[grant.child], self.hosts[grant.parent]
        if not child.alive:
            return
        if not parent.alive:
            self._give_up(child, grant.lease, Failure.REFUSED, grant.first)
            return
        if grant.parent != SEED and parent.labels[:1] != child.labels[:1]:
            self.far_pieces += grant.count
        flow = Flow(grant.lease, parent, child, grant.first, grant.first + grant.count)
        child.flows[grant.lease] = flow
        self._network.start(flow)

    def _stop_lease(self, order: Withdraw) -> None:
        flow = self.hosts[order.child].flows.pop(order.lease, None)
        if flow is not None:
            self._network.close(flow)

    def _give_up(self, child: SimHost, lease: int, failure: Failure, piece: int) -> None:
        self._report(child)
        self.world.at(self.world.now + self._latency_s, self._come,
                      LeaseEnded(lease, failure, piece, child.number))

    def _pieces_arrived(self, flow: Flow, first: int, stop: int) -> None:
        child = self.hosts[flow.receiver.number]
        if not child.alive:
            return
        if self.hosts[flow.sender.number].liar:
            self._network.close(flow)
            child.flows.pop(flow.lease, None)
            self._give_up(child, flow.lease, Failure.BAD_DIGEST, first)
            return
        if stop == flow.stop:
            child.flows.pop(flow.lease, None)
        old = child.have >> first & (1 << stop - first) - 1
        if old == (1 << stop - first) - 1:
            return
        if not child.pending:
            self.world.at(self.world.now + self.scheduler.batch_s, self._report, child)
        child.pending.extend([piece for piece in range(first, stop)
                              if not old >> piece - first & 1] if old else range(first, stop))
        self._network.stored(child, first, stop)
        if child.have == self.full:
            child.done_at = self.world.now
            self.waiting_hosts -= 1
            self._check_over()
            self.trace.update(repr((self.world.now, child.number)).encode())

    def _report(self, child: SimHost) -> None:
        """Tell the manager what was stored since the last report."""
        if not child.pending or not child.alive:
            return
        self.reports += 1
        report = PiecesStored(SWARM, child.number, tuple(child.pending))
        child.pending.clear()
        self.world.at(self.world.now + self._latency_s, self._come, report)
        if child.reader and child.have != self.full:
            self.world.at(self.world.now + self._latency_s, self._come,
                          ReaderAt(SWARM, child.number, lowest(self.full & ~child.have)))

    def _check_over(self) -> None:
        """Nobody waits, and nobody is still to come."""
        if not self.waiting_hosts and len(self.hosts) > self.expected_hosts:
            self.world.over = True

    def incomplete(self) -> List[int]:
        """Hosts that are alive, wanted the task and haven't got all of it."""
        return [host.number for host in self.hosts.values()
                if host.alive and host.joined_at is not None and host.done_at is None]
