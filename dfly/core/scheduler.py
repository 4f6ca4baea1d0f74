"""The manager's brain: facts about hosts and pieces in, leases out.

Here is what follows from each fact for the books (swarm.py): who is there, who holds and wants
what. Leases begin and end in leases.py, pieces and parents are chosen by choice.py, trust.py
says whom to avoid, pacing.py how long reports are gathered and how long runs are.
A fact may be false, late or about something gone: what doesn't fit is ignored and counted in
`ignored`. A step does a bounded amount of work; what is left over it does when called again at
`deadline()`, which is then now.
"""
from __future__ import annotations

import random
from typing import Any, Callable, Dict, List, Optional, Type

from dfly.core.cost import CostModel
from dfly.core.events import (
    SEED,
    Effect,
    Event,
    HostJoined,
    HostLost,
    LeaseEnded,
    ManagerLagged,
    PeerJoined,
    PeerLeft,
    PiecesHeld,
    PiecesStored,
    ReaderAt,
    SwarmClosed,
    SwarmOpened,
    SwarmSized,
    TimePassed,
)
from dfly.core.leases import Leases, SchedulerLimits
from dfly.core.swarm import Host, Lease, Peer, Swarm
from dfly.task import PIECES_MAX
from dfly.wire.messages import Failure

__all__ = ["Scheduler", "SchedulerLimits"]


class Scheduler:
    """A machine (machine.py): `step(event, now)`, `deadline()`."""

    def __init__(self, limits: SchedulerLimits, cost: CostModel, rng: random.Random) -> None:
        self._cost = cost
        self._leases = Leases(limits, cost, rng)
        self._hosts: Dict[int, Host] = {}
        self._swarms: Dict[int, Swarm] = {}
        self.ignored = 0    # facts that didn't fit
        self._handlers: Dict[Type[Any], Callable[[Any], None]] = {
            HostJoined: self._host_joined, HostLost: self._host_lost,
            SwarmOpened: self._swarm_opened, SwarmSized: self._swarm_sized,
            SwarmClosed: self._swarm_closed, PeerJoined: self._peer_joined,
            PeerLeft: self._peer_left, PiecesStored: self._pieces_stored,
            PiecesHeld: self._pieces_held, LeaseEnded: self._lease_ended,
            ReaderAt: self._reader_at, ManagerLagged: self._manager_lagged,
            TimePassed: self._time_passed}

    def step(self, event: Event, now: float) -> List[Effect]:
        """Orders that follow from one fact."""
        leases = self._leases
        leases.now = max(now, leases.now)
        leases.out = []
        self._handlers[type(event)](event)
        leases.ring()
        leases.work()
        return leases.out

    def deadline(self) -> Optional[float]:
        return self._leases.next_alarm if self._leases.is_idle else self._leases.now

    @property
    def batch_s(self) -> float:
        """What the last Pace said: for hosts that join later."""
        return self._leases.pacing.batch_s

    @property
    def active_leases(self) -> int:
        """Leases under way."""
        return len(self._leases.by_number)

    @property
    def granted(self) -> int:
        """Leases, ever."""
        return self._leases.granted

    # ----------------------------------------------------------------- hosts and swarms
    def _host_joined(self, event: HostJoined) -> None:
        if event.host in self._hosts:
            self._forget_host(event.host)
        host = Host(event.host, max(0, event.upload_slots), event.trusted, tuple(event.labels))
        self._hosts[event.host] = host
        self._leases.hosts += 1
        self._leases.slots += host.slots
        self._cost.place(event.host, event.labels)

    def _host_lost(self, event: HostLost) -> None:
        if event.host not in self._hosts:
            self.ignored += 1
            return
        self._forget_host(event.host)
        self._cost.forget(event.host)

    def _forget_host(self, number: int) -> None:
        for peer in list(self._hosts[number].peers.values()):
            self._forget_peer(peer, tell=False)
        self._leases.hosts -= 1
        self._leases.slots -= self._hosts.pop(number).slots

    def _swarm_opened(self, event: SwarmOpened) -> None:
        count = event.piece_count
        if event.swarm in self._swarms or event.piece_size <= 0 \
                or (count is not None and not 0 <= count <= PIECES_MAX):
            self.ignored += 1
            return
        self._swarms[event.swarm] = Swarm(event.swarm, count, event.piece_size)
        if SEED in self._hosts:
            self._peer_joined(PeerJoined(event.swarm, SEED, 0, wants=False))

    def _swarm_sized(self, event: SwarmSized) -> None:
        swarm = self._swarms.get(event.swarm)
        if swarm is None or swarm.sized or not len(swarm.copies) <= event.piece_count <= PIECES_MAX:
            self.ignored += 1
            return
        swarm.extend(event.piece_count)
        swarm.sized = True
        for peer in list(swarm.peers.values()):
            self._check_complete(peer)

    def _swarm_closed(self, event: SwarmClosed) -> None:
        swarm = self._swarms.pop(event.swarm, None)
        if swarm is None:
            self.ignored += 1
            return
        for peer in list(swarm.peers.values()):
            self._forget_peer(peer, tell=True)

    # ---------------------------------------------------------------------------- peers
    def _peer_joined(self, event: PeerJoined) -> None:
        swarm, host = self._swarms.get(event.swarm), self._hosts.get(event.host)
        if swarm is None or host is None or event.have < 0:
            self.ignored += 1
            return
        peer = swarm.peers.get(event.host)
        if peer is None:
            peer = Peer(swarm, host)
            swarm.peers[event.host] = peer
            host.peers[event.swarm] = peer
            swarm.offer(peer)
        self._set_held(peer, event.have)
        peer.urgent_at = self._piece_or_none(event.urgent_at)
        peer.hungry_at = self._leases.now
        peer.limit_bps = event.limit_bps
        wants = event.wants and event.host != SEED
        if wants and not peer.wants:
            peer.wants = True
            swarm.wanting += 1
            self._leases.announce(self._leases.pacing.joined())
        elif peer.wants and not wants:
            self._stop_wanting(peer)
        self._check_complete(peer)
        if swarm.forest is not None:
            swarm.forest.enrol(peer, self._leases.now)
        self._leases.to_fill.append(peer)
        self._leases.to_serve.append(peer)

    def _peer_left(self, event: PeerLeft) -> None:
        peer = self._peer(event.swarm, event.host)
        if peer is None:
            self.ignored += 1
            return
        self._forget_peer(peer, tell=True)

    def _forget_peer(self, peer: Peer, tell: bool) -> None:
        """The peer is gone: its leases end, its copies don't count, its children go elsewhere."""
        swarm, host = peer.swarm, peer.host
        self._stop_wanting(peer)
        for lease in list(peer.leases.values()):
            self._leases.end(lease, tell)
        for lease in [lease for lease in host.uploads.values() if lease.parent is peer]:
            self._leases.end(lease, tell=True)
        gone, peer.have = peer.have, 0
        if host.number != SEED:
            swarm.disclaim(peer, gone)
        if swarm.forest is not None:
            swarm.forest.leave(peer)
        swarm.leave(peer)
        swarm.givers.discard(peer)
        del swarm.peers[host.number], host.peers[swarm.number]

    def _stop_wanting(self, peer: Peer) -> None:
        peer.swarm.hungry.discard(peer)
        if peer.wants:
            peer.wants = False
            peer.swarm.wanting -= 1
            self._leases.pacing.left()

    def _check_complete(self, peer: Peer) -> None:
        if peer.wants and peer.swarm.sized and not peer.missing:
            self._stop_wanting(peer)
            for lease in list(peer.leases.values()):
                self._leases.end(lease, tell=True)

    def _peer(self, swarm: int, host: int) -> Optional[Peer]:
        known = self._swarms.get(swarm)
        return known.peers.get(host) if known is not None else None

    @staticmethod
    def _piece_or_none(piece: Optional[int]) -> Optional[int]:
        return piece if piece is not None and 0 <= piece < PIECES_MAX else None

    # --------------------------------------------------------------------------- pieces
    def _pieces_stored(self, event: PiecesStored) -> None:
        peer = self._peer(event.swarm, event.host)
        if peer is None:
            self.ignored += 1
            return
        swarm = peer.swarm
        if event.host == SEED and not swarm.sized and event.pieces:
            swarm.extend(min(max(event.pieces) + 1, PIECES_MAX))
        got, count = 0, len(swarm.copies)
        for piece in event.pieces:
            if 0 <= piece < count:
                got |= 1 << piece
            else:
                self.ignored += 1
        got &= ~peer.have
        if got:
            self._leases.hold(peer, got)
            if event.host != SEED:
                self._leases.measure(peer, len(event.pieces))
        if peer.wants:
            self._check_complete(peer)
        swarm.offer(peer)
        self._leases.to_serve.append(peer)
        if peer.wants:
            self._leases.to_fill.append(peer)

    def _pieces_held(self, event: PiecesHeld) -> None:
        peer = self._peer(event.swarm, event.host)
        if peer is None or event.pieces < 0:
            self.ignored += 1
            return
        self._set_held(peer, event.pieces)
        self._check_complete(peer)
        self._leases.to_fill.append(peer)
        self._leases.to_serve.append(peer)

    def _set_held(self, peer: Peer, pieces: int) -> None:
        """Exactly these: leases on what is gone end, for there is nothing to wait for."""
        swarm = peer.swarm
        if peer.host.number == SEED and not swarm.sized:
            swarm.extend(min(pieces.bit_length(), PIECES_MAX))
        pieces &= swarm.full
        lost = peer.have & ~pieces
        if lost:
            peer.have &= pieces
            if peer.host.number != SEED:
                swarm.disclaim(peer, lost)
            for lease in list(peer.host.uploads.values()):
                if lease.parent is peer and lease.left & lost:
                    self._leases.end(lease, tell=True)
        got = pieces & ~peer.have
        if got:
            self._leases.hold(peer, got)

    def _reader_at(self, event: ReaderAt) -> None:
        peer = self._peer(event.swarm, event.host)
        if peer is None or self._piece_or_none(event.piece) is None:
            self.ignored += 1
            return
        peer.urgent_at = event.piece
        self._leases.to_fill.append(peer)

    # --------------------------------------------------------------------------- leases
    def _lease_ended(self, event: LeaseEnded) -> None:
        lease = self._leases.by_number.get(event.lease)
        if lease is None or (event.host is not None and event.host != lease.child.host.number):
            self.ignored += 1
            return
        self._leases.fail(lease, event.failure)
        if event.failure == Failure.NOT_HELD:
            self._doubt(lease)

    def _doubt(self, lease: Lease) -> None:
        """A parent doesn't hold what it said it holds. Once a second child says so of it, it is
        so: one alone could talk the swarm out of every copy. (The seed's facts are our own.)"""
        parent, child = lease.parent, lease.child
        false = lease.left & parent.have
        if parent.host.number == SEED or lease.depth or not false:
            return
        if parent.host.doubted_by in (-1, child.host.number):
            parent.host.doubted_by = child.host.number
            return
        self._set_held(parent, parent.have & ~false)

    def _manager_lagged(self, event: ManagerLagged) -> None:
        self._leases.pacing.lagged(max(0.0, event.lag_s))

    def _time_passed(self, event: TimePassed) -> None:
        """Alarms ring in every step."""
