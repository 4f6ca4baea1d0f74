"""The manager's brain: facts about hosts and pieces in, leases out.

Rules, each in the function that its name suggests:
  - a child keeps a window of leases that covers the time a report and a new lease take;
  - pieces, parents and the seed are chosen by choice.py; load is charged when a lease is granted;
  - a child for which nobody has anything waits in its swarm's `hungry` pool, and whatever frees
    a slot or brings a piece serves a few of that pool: no event looks at all hosts;
  - a lease is over when all its pieces are reported, when the child gives it up, or when the
    child, the parent or the swarm goes; what it still owed is leased again at once;
  - a lease that shows no progress for longer than predicted is leased a second time from
    another parent (the first to bring a piece wins), then withdrawn; when a child has nothing
    else left to ask for, that happens sooner (endgame);
  - who sends wrong bytes is quarantined at once; who fails otherwise is avoided for a while, by
    the child, and after several failures by everybody;
  - report batching and run length follow the load (pacing.py).
A fact may be false, late or about something gone: what doesn't fit is ignored and counted in
`ignored`. A step does a bounded amount of work; what is left over it does when called again at
`deadline()`, which is then now.
"""
from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple, Type, Union

from dfly.core.choice import ChoiceLimits, Chooser, Offer
from dfly.core.cost import CostModel
from dfly.core.events import (
    SEED,
    Effect,
    Event,
    Grant,
    HostJoined,
    HostLost,
    LeaseEnded,
    Pace,
    PeerJoined,
    PeerLeft,
    PiecesHeld,
    PiecesStored,
    Quarantine,
    ReaderAt,
    SwarmClosed,
    SwarmOpened,
    SwarmSized,
    TimePassed,
    Withdraw,
)
from dfly.core.pacing import PaceLimits, Pacing
from dfly.core.swarm import SLOTS_ANY, Host, Lease, Peer, Swarm
from dfly.task import PIECES_MAX
from dfly.wire.messages import Failure


@dataclass(frozen=True)
class SchedulerLimits:
    """Bounds and times of the scheduler; the defaults are those of production."""

    window_min: int = 12           # leases of one piece that a child has at least
    window_max: int = 32           # and at most
    serve_tries: int = 4           # hungry children asked for one freed slot or new piece
    work_max: int = 2_000          # leases granted in one step
    slow_factor: float = 3.0       # times the prediction without progress: too slow
    endgame_factor: float = 1.5    # the same when the child has nothing else to ask for
    slow_min_s: float = 0.5        # never hedge sooner
    retry_s: float = 0.25          # hungry children are looked at again
    retry_children: int = 64       # how many of them
    avoid_s: float = 2.0           # a pair after one failure; doubles with each, up to
    avoid_max_s: float = 120.0
    strikes_max: int = 4           # failures of a parent without success: avoided by all
    strikes_s: float = 5.0
    accused_max: int = 3           # parents that one child may accuse of wrong bytes
    choice: ChoiceLimits = field(default_factory=ChoiceLimits)
    pace: PaceLimits = field(default_factory=PaceLimits)


HEDGED = 3  # checks without progress: so many until a lease is revoked, one once it is hedged
RATE_SPAN_S = 0.1   # a child's rate is measured over at least this
WINDOW_GAIN = 1.5   # leases over what fits on the way, so that a window can be seen to help
Subject = Union[Lease, Swarm, Peer]


class Scheduler:
    """A machine (machine.py): `step(event, now)`, `deadline()`."""

    def __init__(self, limits: SchedulerLimits, cost: CostModel, rng: random.Random) -> None:
        self._limits = limits
        self._cost = cost
        self._rng = rng
        self._choose = Chooser(limits.choice, cost, rng)
        self._pacing = Pacing(limits.pace)
        self._hosts: Dict[int, Host] = {}
        self._swarms: Dict[int, Swarm] = {}
        self._leases: Dict[int, Lease] = {}
        self._slots = 0     # upload slots of all hosts together
        self._last_lease = 0
        self._now = 0.0
        self._out: List[Effect] = []
        self._to_fill: Deque[Peer] = deque()
        self._to_serve: Deque[Peer] = deque()
        self._alarms: List[Tuple[float, int, Subject]] = []
        self._alarm_number = 0
        self.ignored = 0    # facts that didn't fit
        self.granted = 0    # leases, ever
        self._handlers: Dict[Type[Any], Callable[[Any], None]] = {
            HostJoined: self._host_joined, HostLost: self._host_lost,
            SwarmOpened: self._swarm_opened, SwarmSized: self._swarm_sized,
            SwarmClosed: self._swarm_closed, PeerJoined: self._peer_joined,
            PeerLeft: self._peer_left, PiecesStored: self._pieces_stored,
            PiecesHeld: self._pieces_held, LeaseEnded: self._lease_ended,
            ReaderAt: self._reader_at, TimePassed: self._time_passed}

    def step(self, event: Event, now: float) -> List[Effect]:
        """Orders that follow from one fact."""
        self._now = max(now, self._now)
        self._out = []
        self._handlers[type(event)](event)
        if self._alarms and self._alarms[0][0] <= now:
            self._ring()
        self._work()
        return self._out

    def deadline(self) -> Optional[float]:
        if self._to_fill or self._to_serve:
            return self._now
        return self._alarms[0][0] if self._alarms else None

    @property
    def batch_s(self) -> float:
        """What the last Pace said: for hosts that join later."""
        return self._pacing.batch_s

    @property
    def active_leases(self) -> int:
        return len(self._leases)

    # ----------------------------------------------------------------- hosts and swarms
    def _host_joined(self, event: HostJoined) -> None:
        if event.host in self._hosts:
            self._forget_host(event.host)
        host = Host(event.host, max(0, event.upload_slots), event.trusted)
        self._hosts[event.host] = host
        self._slots += host.slots
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
        self._slots -= self._hosts[number].slots
        del self._hosts[number]

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
        peer.hungry_at = self._now
        wants = event.wants and event.host != SEED
        if wants and not peer.wants:
            peer.wants = True
            self._announce(self._pacing.joined())
        elif peer.wants and not wants:
            self._stop_wanting(peer)
        self._check_complete(peer)
        self._to_fill.append(peer)
        self._to_serve.append(peer)

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
            self._end(lease, tell)
        for lease in [lease for lease in host.uploads.values() if lease.parent is peer]:
            self._end(lease, tell=True)
        if host.number != SEED:
            swarm.disclaim(peer.have)
        peer.have = 0
        swarm.givers.discard(peer)
        del swarm.peers[host.number], host.peers[swarm.number]

    def _stop_wanting(self, peer: Peer) -> None:
        peer.swarm.hungry.discard(peer)
        if peer.wants:
            peer.wants = False
            self._pacing.left()

    def _check_complete(self, peer: Peer) -> None:
        if peer.wants and peer.swarm.sized and not peer.missing:
            self._stop_wanting(peer)
            for lease in list(peer.leases.values()):
                self._end(lease, tell=True)

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
            self._hold(peer, got)
            self._count(peer, len(event.pieces))
        if peer.wants:
            self._check_complete(peer)
        swarm.offer(peer)
        self._to_serve.append(peer)
        if peer.wants:
            self._to_fill.append(peer)

    def _hold(self, peer: Peer, got: int) -> None:
        """The peer holds these pieces too: leases that brought them go on or are over."""
        peer.swarm.claim(peer, got)
        peer.have |= got
        peer.leased &= ~got
        peer.holders_only &= ~got
        now = self._now
        for lease in list(peer.leases.values()):
            if not lease.left & got:
                continue
            lease.left &= ~got
            if lease.progress_at == lease.granted_at and not lease.depth and not lease.hedged:
                first_s = now - lease.granted_at
                peer.least_s = min(first_s, peer.least_s * 1.002) if peer.least_s else first_s
            lease.progress_at = now
            if not lease.hedged and not lease.twin:
                lease.parent.host.sent_at = now
                lease.parent.host.silences = 0
            if not lease.left:
                self._succeed(lease)

    def _count(self, peer: Peer, count: int) -> None:
        """Measure: what the peer stores, and what the manager has to bear."""
        now = self._now
        if peer.host.number == SEED:
            return
        peer.rate_count += count
        span_s = now - peer.rate_at
        if span_s >= RATE_SPAN_S:
            if span_s < 5 * RATE_SPAN_S:  # else it was idle meanwhile, which measures nothing
                peer.rate_pps += 0.5 * (peer.rate_count / span_s - peer.rate_pps)
            peer.rate_at, peer.rate_count = now, 0
        self._announce(self._pacing.reported(count * peer.swarm.piece_size, now))

    def _announce(self, changed: bool) -> None:
        if changed:
            self._out.append(Pace(self._pacing.batch_s))

    def _pieces_held(self, event: PiecesHeld) -> None:
        peer = self._peer(event.swarm, event.host)
        if peer is None or event.pieces < 0:
            self.ignored += 1
            return
        self._set_held(peer, event.pieces)
        self._check_complete(peer)
        self._to_fill.append(peer)
        self._to_serve.append(peer)

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
                swarm.disclaim(lost)
            for lease in list(peer.host.uploads.values()):
                if lease.parent is peer and lease.left & lost:
                    self._end(lease, tell=True)
        got = pieces & ~peer.have
        if got:
            self._hold(peer, got)

    def _reader_at(self, event: ReaderAt) -> None:
        peer = self._peer(event.swarm, event.host)
        if peer is None or self._piece_or_none(event.piece) is None:
            self.ignored += 1
            return
        peer.urgent_at = event.piece
        self._to_fill.append(peer)

    # ------------------------------------------------------------------- leases: beginning
    def _work(self) -> None:
        """Fill children and use free slots until nothing is left or the step is long enough."""
        stop_at = self.granted + self._limits.work_max
        while self.granted < stop_at:
            if self._to_fill:
                self._fill(self._to_fill.popleft())
            elif self._to_serve:
                self._serve(self._to_serve.popleft())
            else:
                break

    def _fill(self, child: Peer) -> None:
        """Give a child leases until its window is full."""
        if not child.wants or child.ready_at > self._now:
            return
        swarm = child.swarm
        window, run_max = self._shape(child)
        room = window - len(child.leases)
        while room > 0:
            offer = self._choose.for_child(child, run_max, self._now)
            if offer is None:
                break
            self._grant(child, offer)
            room -= 1
        if room > 0 and child.may_need:
            self._starve(child)
            return
        swarm.hungry.discard(child)
        if room > 0 and child.leases and not child.ending:
            self._begin_endgame(child)

    def _starve(self, child: Peer) -> None:
        """Nobody has anything for it now: it waits among the hungry."""
        swarm = child.swarm
        child.ending = False
        swarm.hungry.add(child)
        if not swarm.retry_due:
            swarm.retry_due = True
            self._alarm(self._now + self._limits.retry_s, swarm)

    def _begin_endgame(self, child: Peer) -> None:
        """All that is missing is leased: from now on those leases get less time."""
        child.ending = True
        for lease in child.leases.values():
            self._alarm(max(self._now, lease.progress_at) + self._slow_s(lease), lease)

    def _shape(self, child: Peer) -> Tuple[int, int]:
        """(leases that the child should have, pieces of one lease at most).

        Together they cover what is on the way at its rate while a report and the next lease
        travel, half more so that it shows when more would help (as BBR sizes a TCP window).
        Long runs: a fixed number of streams, and no host serves more than it receives, which
        makes every host an inner node about once (a forest: see SplitStream, 2003).
        Else more leases than three quarters of an average host's slots would only starve others:
        beyond that, and beyond the manager's budget of leases, runs get longer.
        """
        limits = self._limits
        run_max = self._pacing.run_length(child.swarm.piece_size)
        most = min(limits.window_max, max(2, 3 * self._slots // (4 * max(1, len(self._hosts)))))
        wanted = 2 + int(WINDOW_GAIN * child.rate_pps * child.least_s)
        if run_max > 1:
            streams = min(limits.choice.streams, max(2, self._slots // len(self._hosts)))
            child.swarm.slot_cap = streams
            return streams, max(run_max, -(-wanted // streams))
        child.swarm.slot_cap = SLOTS_ANY
        return (min(max(limits.window_min, wanted), most),
                max(run_max, -(-wanted // most)))

    def _serve(self, parent: Peer) -> None:
        """Let a parent's free slots serve children that wait."""
        swarm = parent.swarm
        if not swarm.hungry or parent.host.free <= 0:
            return
        tries = self._limits.serve_tries
        while tries and swarm.hungry and parent.host.free > 0:
            child = swarm.hungry.pick(self._rng)
            offer = None
            window, run_max = self._shape(child)
            if child.ready_at <= self._now:
                offer = self._choose.for_pair(parent, child, run_max, self._now)
            if offer is None:
                tries -= 1
                continue
            self._grant(child, offer)
            if len(child.leases) >= window or not child.may_need:
                swarm.hungry.discard(child)

    def _grant(self, child: Peer, offer: Offer, twin: bool = False) -> Lease:
        self._last_lease += 1
        self.granted += 1
        now, parent, swarm = self._now, offer.parent, child.swarm
        lease = Lease(self._last_lease, child, parent, offer.first, offer.pieces)
        lease.depth = offer.depth
        lease.load = len(parent.host.uploads)
        lease.granted_at = lease.progress_at = child.hungry_at = now
        lease.twin = twin
        lease.expect_s = self._cost.predict(parent.host.number, child.host.number,
                                            swarm.piece_size, lease.load)
        swarm.attach(lease)
        self._leases[lease.number] = lease
        slow_s = self._slow_s(lease)
        self._alarm(now + slow_s, lease)
        self._out.append(Grant(lease.number, swarm.number, child.host.number, parent.host.number,
                               offer.first, offer.pieces, 4 * slow_s * offer.pieces))
        if offer.pieces > 1 and swarm.hungry:
            self._to_serve.append(child)  # it may pass on what it is getting
        return lease

    # ---------------------------------------------------------------------- leases: ending
    def _succeed(self, lease: Lease) -> None:
        """All pieces are there."""
        child, parent = lease.child, lease.parent
        took_s = self._now - lease.granted_at
        unit_s = took_s / lease.count
        child.unit_s += 0.2 * (unit_s - child.unit_s) if child.unit_s else unit_s
        child.patience = max(1.0, child.patience * 0.9)
        if lease.hedged or lease.twin:
            self._out.append(Withdraw(lease.number, child.swarm.number, child.host.number))
        else:
            parent.host.strikes = 0
            child.avoid.pop(parent.host.number, None)
            if lease.depth == 0:
                self._cost.observe(parent.host.number, child.host.number,
                                   lease.count * child.swarm.piece_size, lease.load, took_s)
        self._release(lease)

    def _end(self, lease: Lease, tell: bool) -> None:
        """The lease is over before its pieces are there: what it owed is leased again."""
        if tell:
            self._out.append(Withdraw(lease.number, lease.child.swarm.number,
                                      lease.child.host.number))
        child = lease.child
        lost = self._release(lease)
        if lost:
            for waiting in child.host.uploads.values():
                if waiting.parent is child:
                    child.holders_only |= waiting.left & lost
        self._to_fill.append(child)

    def _release(self, lease: Lease) -> int:
        del self._leases[lease.number]
        lost = lease.child.swarm.detach(lease)
        for peer in lease.parent.host.peers.values():
            self._to_serve.append(peer)
        return lost

    def _lease_ended(self, event: LeaseEnded) -> None:
        lease = self._leases.get(event.lease)
        if lease is None or (event.host is not None and event.host != lease.child.host.number):
            self.ignored += 1
            return
        child, parent, failure = lease.child, lease.parent, event.failure
        self._end(lease, tell=False)
        if failure == Failure.REVOKED:
            return
        if failure == Failure.LOCAL:
            child.ready_at = self._now + self._limits.avoid_s
            self._alarm(child.ready_at, child)
        elif failure == Failure.BAD_DIGEST:
            self._blame(parent, child)
        elif failure == Failure.NOT_HELD:
            self._correct(parent, lease)
            self._avoid(parent, child, self._limits.retry_s)
        elif failure == Failure.BUSY:
            self._avoid(parent, child, self._limits.retry_s)
        else:
            self._strike(parent, child)

    def _correct(self, parent: Peer, lease: Lease) -> None:
        """The parent doesn't hold what it said it holds. (The seed's facts are the driver's.)"""
        false = lease.left & parent.have
        if parent.host.number != SEED and lease.depth == 0 and false:
            self._set_held(parent, parent.have & ~false)

    def _blame(self, parent: Peer, child: Peer) -> None:
        """Wrong bytes: quarantine, unless the child says so of everyone. Never the seed."""
        host, accused = parent.host, child.host.accused
        self._strike(parent, child)
        if host.number == SEED or not host.trusted:
            return
        if host.number not in accused:
            if len(accused) >= self._limits.accused_max:
                self.ignored += 1
                return
            accused.append(host.number)
        self._out.append(Quarantine(host.number, "sent bytes that contradict their digest"))
        host.trusted = False
        for peer in host.peers.values():
            peer.swarm.givers.discard(peer)
        for lease in list(host.uploads.values()):
            self._end(lease, tell=True)

    def _strike(self, parent: Peer, child: Peer) -> None:
        """A failure that is the parent's, the child's or the path's: avoid the pair, and the
        parent altogether once several have failed in a row."""
        _, failures = child.avoid.get(parent.host.number, (0.0, 0))
        limits = self._limits
        self._avoid(parent, child, min(limits.avoid_s * 2 ** failures, limits.avoid_max_s),
                    failures + 1)
        if parent.host.number == SEED:
            return
        parent.host.strikes += 1
        if parent.host.strikes >= limits.strikes_max:
            parent.host.strikes = 0
            parent.host.avoid_until = self._now + limits.strikes_s

    def _avoid(self, parent: Peer, child: Peer, span_s: float, failures: int = 0) -> None:
        if parent.host.number == SEED:  # nobody is without a way out for long
            span_s = min(span_s, self._limits.avoid_s)
        child.avoid[parent.host.number] = (self._now + span_s, min(failures, 10))
        if len(child.avoid) > self._limits.window_max:
            for number, (until, _) in list(child.avoid.items()):
                if until <= self._now:
                    del child.avoid[number]

    # ------------------------------------------------------------------------------- time
    def _time_passed(self, event: TimePassed) -> None:
        """Alarms ring in every step."""

    def _alarm(self, at: float, subject: Subject) -> None:
        self._alarm_number += 1
        heapq.heappush(self._alarms, (at, self._alarm_number, subject))

    def _ring(self) -> None:
        alarms = self._alarms
        while alarms and alarms[0][0] <= self._now:
            subject = heapq.heappop(alarms)[2]
            if isinstance(subject, Lease):
                if self._leases.get(subject.number) is subject:
                    self._check(subject)
            elif isinstance(subject, Peer):
                self._to_fill.append(subject)
            else:
                self._retry(subject)

    def _retry(self, swarm: Swarm) -> None:
        """Look again at children that wait, in case an event that would help them was missed."""
        for _ in range(min(len(swarm.hungry), self._limits.retry_children)):
            self._to_fill.append(swarm.hungry.pick(self._rng))
        swarm.retry_due = bool(swarm.hungry)
        if swarm.retry_due:
            self._alarm(self._now + self._limits.retry_s, swarm)

    def _slow_s(self, lease: Lease) -> float:
        """Seconds without a new piece after which a lease counts as slow."""
        limits, child = self._limits, lease.child
        factor = limits.slow_factor if child.need else limits.endgame_factor
        expect_s = max(lease.expect_s, child.unit_s)
        slow_s = limits.slow_min_s + self._pacing.batch_s + factor * expect_s
        if lease.left & ~lease.parent.have:
            slow_s *= 1 + lease.depth  # it waits itself: blame those above first
        return slow_s * child.patience

    def _check(self, lease: Lease) -> None:
        """Hedge a slow lease, then take it back."""
        slow_s = self._slow_s(lease)
        if lease.progress_at + slow_s > self._now:
            self._alarm(lease.progress_at + slow_s, lease)
            return
        lease.checked += 1
        self._suspect(lease, slow_s)
        if not lease.twin and not lease.hedged:
            offer = self._choose.for_rest(lease, self._now)
            if offer is not None:
                lease.hedged = True
                lease.checked = HEDGED
                self._grant(lease.child, offer, twin=True)
        if lease.checked > HEDGED:
            self._revoke(lease)
            return
        self._alarm(self._now + slow_s, lease)

    def _suspect(self, lease: Lease, slow_s: float) -> None:
        """A parent of which no child has heard for that long serves nobody for a while."""
        host = lease.parent.host
        heard_at = max(host.sent_at, lease.granted_at)
        if host.number != SEED and heard_at + slow_s <= self._now \
                and not lease.left & ~lease.parent.have and host.avoid_until <= self._now:
            host.avoid_until = self._now + self._limits.strikes_s * 2 ** min(host.silences, 6)
            host.silences += 1

    def _revoke(self, lease: Lease) -> None:
        child, parent = lease.child, lease.parent
        if parent.host.avoid_until <= self._now:   # else it isn't the child's link that is slow
            child.patience = min(child.patience * 2, 64.0)
        took_s = self._now - lease.granted_at
        self._cost.observe(parent.host.number, child.host.number,
                           child.swarm.piece_size, lease.load, took_s)
        self._end(lease, tell=True)
        self._strike(parent, child)
