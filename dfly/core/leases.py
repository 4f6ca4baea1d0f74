"""Leases from their granting to their end.

  - A child keeps a window of leases that covers the time a report and a new lease take; load is
    charged when a lease is granted.
  - A child for which nobody has anything waits in its swarm's `hungry` pool, and whatever frees
    a slot or brings a piece serves a few of that pool: no event looks at all hosts.
  - A lease is over when all its pieces are reported, when the child gives it up, or when the
    child, the parent or the swarm goes; what it still owed is leased again at once.
  - A lease that shows no progress for longer than predicted is leased a second time from another
    parent (the first to bring a piece wins), then withdrawn; when a child has nothing else left
    to ask for, that happens sooner (endgame).
Who gets what from whom is choice.py; who is avoided is trust.py; which facts lead here is
scheduler.py.
"""
from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Deque, Dict, List, Optional, Tuple, Union

from dfly.core.branches import Branches
from dfly.core.choice import ChoiceLimits, Chooser, Offer
from dfly.core.cost import CostModel
from dfly.core.events import Effect, Grant, Pace, Quarantine, Withdraw
from dfly.core.pacing import PaceLimits, Pacing
from dfly.core.swarm import SLOTS_ANY, Host, Lease, Peer, Swarm
from dfly.core.trust import Trust, TrustLimits
from dfly.task import lowest
from dfly.wire.messages import Failure

LIMITED_S = 1.0     # a child with a limit of its own has leases for so long
FAR_S = 10.0        # who failed a child may be near it: so long it waits for nobody near
HEDGED = 3          # checks without progress: so many until a lease is revoked, one once hedged
RATE_SPAN_S = 0.1   # a child's rate is measured over at least this,
RATE_COUNT = 16     # or over so many pieces,
RATE_LEAST_S = 0.02 # if they took so long
WINDOW_GAIN = 1.5   # leases over what fits on the way, so that a window can be seen to help;
STARTUP_GAIN = 3.0  # more while each measurement of a child's rate
GROWTH = 1.25       # is so much above those before,
PLATEAUS = 3        # until so many aren't
Subject = Union[Lease, Swarm, Peer, None]


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
    forest_runs: int = 80          # the budget allows a host fewer leases than this: a forest,
    forest_streams: int = 4        # of so many trees,
    forest_hosts: int = 256        # if so many want the task
    settled_s: float = 0.25        # nobody came for so long: no places are kept for who may come
    tick_s: float = 0.01           # what the budget delays is looked at again
    choice: ChoiceLimits = field(default_factory=ChoiceLimits)
    trust: TrustLimits = field(default_factory=TrustLimits)
    pace: PaceLimits = field(default_factory=PaceLimits)


class Leases:
    """All leases under way, with the queues and alarms that make new ones.

    The scheduler sets `now` and `out` at each step, says what happened, then lets it `work()`.
    """

    def __init__(self, limits: SchedulerLimits, cost: CostModel, rng: random.Random) -> None:
        self.limits = limits
        self._cost = cost
        self._rng = rng
        self._branches = Branches(self)
        self.choose = Chooser(limits.choice, cost, rng)
        self._trust = Trust(limits.trust)
        self._last_number = 0
        self._alarms: List[Tuple[float, int, Subject]] = []
        self._alarm_number = 0
        self.pacing = Pacing(limits.pace)
        self.by_number: Dict[int, Lease] = {}
        self.to_fill: Deque[Peer] = deque()    # children that may need leases
        self.to_serve: Deque[Peer] = deque()   # parents that may have something to give
        self._delayed: Deque[Union[Peer, Swarm]] = deque()   # get more when the budget allows
        self._ticking = False
        self.hosts = 0      # with an open link
        self.slots = 0      # upload slots of all of them together
        self.granted = 0    # leases, ever
        self.stop_at = 0   # leases ever, when this step has done enough
        self.now = 0.0
        self.out: List[Effect] = []

    @property
    def is_idle(self) -> bool:
        return not self.to_fill and not self.to_serve

    @property
    def may_grant(self) -> bool:
        """The budget has room for another lease to a child that has some."""
        return self.pacing.may_grant(self.now)

    @property
    def next_alarm(self) -> Optional[float]:
        return self._alarms[0][0] if self._alarms else None

    # ----------------------------------------------------------------------- what was stored
    def hold(self, peer: Peer, got: int) -> None:
        """The peer holds these pieces too: leases that brought them go on or are over."""
        peer.swarm.claim(peer, got)
        peer.have |= got
        peer.leased &= ~got
        peer.holders_only &= ~got
        for lease in list(peer.leases.values()):
            if lease.left & got:
                self._progress(lease, got)

    def _progress(self, lease: Lease, got: int) -> None:
        child, now = lease.child, self.now
        lease.left &= ~got
        alone = not lease.hedged and not lease.twin   # else it may have been the other's piece
        if alone and lease.progress_at == lease.granted_at and not lease.depth:
            first_s = now - lease.granted_at
            child.least_s = min(first_s, child.least_s * 1.002) if child.least_s else first_s
        lease.progress_at = now
        if alone:
            self._trust.heard(lease.parent.host, now)
        if not lease.left:
            self._succeed(lease)

    def measure(self, peer: Peer, count: int) -> None:
        """So many pieces came in one report: the child's rate, and the manager's load."""
        now = self.now
        peer.rate_count += count
        span_s = now - peer.rate_at
        if span_s >= RATE_SPAN_S or (peer.rate_count >= RATE_COUNT and span_s >= RATE_LEAST_S):
            if span_s < 5 * RATE_SPAN_S:  # else it was idle meanwhile, which measures nothing
                self._learn_rate(peer, peer.rate_count / span_s)
            peer.rate_at, peer.rate_count = now, 0
        self.announce(self.pacing.reported(count * peer.swarm.piece_size, now))

    def _learn_rate(self, peer: Peer, rate_pps: float) -> None:
        share = 0.5 if peer.rate_pps else 1.0
        peer.rate_pps += share * (rate_pps - peer.rate_pps)
        if rate_pps > GROWTH * peer.rate_best:
            peer.rate_best, peer.plateau = rate_pps, 0
        else:
            peer.plateau += 1

    def announce(self, changed: bool) -> None:
        """Tell the peers the batching interval, if it changed."""
        if changed:
            self.out.append(Pace(self.pacing.batch_s))

    # ------------------------------------------------------------------- leases: beginning
    def work(self) -> None:
        """Fill children and use free slots until nothing is left or the step is long enough."""
        while self.granted < self.stop_at:
            if self.to_fill:
                self._fill(self.to_fill.popleft())
            elif self.to_serve:
                self._serve(self.to_serve.popleft())
            else:
                break

    def _fill(self, child: Peer) -> None:
        """Give a child leases until its window is full."""
        if not child.wants or child.ready_at > self.now:
            return
        swarm = child.swarm
        if swarm.forest is not None or self._branches.is_vast(swarm):
            self._branches.fill(child)
            return
        window, run_max = self._shape(child)
        room = window - len(child.leases)
        while room > 0:
            if child.leases and not self.may_grant:
                self._delay(child)
                return
            offer = self.choose.for_child(child, run_max, self.now)
            if offer is None:
                break
            self.grant(child, offer)
            room -= 1
        if room > 0 and child.may_need:
            self._starve(child)
            return
        swarm.hungry.discard(child)
        if room > 0 and child.leases and not child.ending:
            self.begin_endgame(child)

    def _delay(self, child: Peer) -> None:
        """The budget has no room for more leases to a child that has some."""
        if not child.delayed:
            child.delayed = True
            self._delayed.append(child)
        self._tick_later()

    def _tick_later(self) -> None:
        if not self._ticking:
            self._ticking = True
            self._alarm(self.now + self.limits.tick_s, None)

    def _tick(self) -> None:
        """Spend what the budget has gained on those that it delayed, the first ones first."""
        self._ticking = False
        for _ in range(min(len(self._delayed), self.limits.work_max)):
            if not self.may_grant:
                break
            waiting = self._delayed.popleft()
            waiting.delayed = False
            if isinstance(waiting, Peer):
                self.to_fill.append(waiting)
            else:
                self._branches.tend(waiting)
        if self._delayed:
            self._tick_later()

    def tend_later(self, swarm: Swarm) -> None:
        if not swarm.delayed:
            swarm.delayed = True
            self._delayed.append(swarm)
        self._tick_later()

    def _starve(self, child: Peer) -> None:
        """Nobody has anything for it now: it waits among the hungry."""
        swarm = child.swarm
        child.ending = False
        swarm.hungry.add(child)
        self.look_again(swarm)

    def look_again(self, swarm: Swarm) -> None:
        if not swarm.retry_due:
            swarm.retry_due = True
            self._alarm(self.now + self.limits.retry_s, swarm)

    def begin_endgame(self, child: Peer) -> None:
        """All that is missing is leased: from now on those leases get less time."""
        child.ending = True
        for lease in child.leases.values():
            self._watch(lease, max(self.now, lease.progress_at + self._slow_s(lease)))

    def _shape(self, child: Peer) -> Tuple[int, int]:
        """What _shape_free says; a child with a limit of its own gets no more than it can take
        in LIMITED_S."""
        window, run_max = self._shape_free(child)
        if child.limit_bps:
            pieces = 2 + LIMITED_S * child.limit_bps / child.swarm.piece_size
            window = min(window, int(pieces))
            run_max = min(run_max, max(1, int(pieces / window)))
        return window, run_max

    def _shape_free(self, child: Peer) -> Tuple[int, int]:
        """(leases that the child should have, pieces of one lease at most).

        Together they cover what is on the way at its rate while a report and the next lease
        travel, half more so that it shows when more would help (as BBR sizes a TCP window).
        Long runs: a fixed number of streams, and no host serves more than it receives, which
        makes every host an inner node about once (a forest: see SplitStream, 2003).
        Else more leases than three quarters of an average host's slots would only starve others:
        beyond that, and beyond the manager's budget of leases, runs get longer.
        """
        limits, swarm = self.limits, child.swarm
        run_max = self.pacing.run_length(swarm.piece_size)
        slots = self.slots // self.hosts
        most = max(2, min(limits.window_max, 3 * slots // 4))
        gain = WINDOW_GAIN if child.plateau >= PLATEAUS else STARTUP_GAIN
        wanted = 2 + int(gain * child.rate_pps * child.least_s)
        if run_max == 1:
            swarm.slot_cap = SLOTS_ANY
            return min(max(limits.window_min, wanted), most), -(-wanted // most)
        streams = min(limits.choice.streams, max(2, slots))
        if wanted <= streams * run_max:
            swarm.slot_cap = streams
            return streams, run_max
        swarm.slot_cap = SLOTS_ANY
        return (min(max(streams, -(-wanted // run_max)), max(most, streams)),
                max(run_max, -(-wanted // most)))

    def _serve(self, parent: Peer) -> None:
        """Let a parent's free slots serve children that wait."""
        swarm = parent.swarm
        if swarm.forest is not None:
            self._branches.serve(parent)
            return
        if not swarm.hungry or parent.host.free <= 0:
            return
        tries = self.limits.serve_tries
        while tries and swarm.hungry and parent.host.free > 0:
            if self.granted >= self.stop_at:
                self.to_serve.append(parent)
                return
            child = swarm.hungry.pick(self._rng)
            if child.leases and not self.may_grant:
                self._delay(child)
                return
            offer = None
            window, run_max = self._shape(child)
            if child.ready_at <= self.now:
                offer = self.choose.for_pair(parent, child, run_max, self.now)
            if offer is None:
                tries -= 1
                continue
            self.grant(child, offer)
            if len(child.leases) >= window or not child.may_need:
                swarm.hungry.discard(child)

    def grant(self, child: Peer, offer: Offer, twin: bool = False, stream: int = -1) -> Lease:
        self._last_number += 1
        self.granted += 1
        self.pacing.granted()
        now, parent, swarm = self.now, offer.parent, child.swarm
        lease = Lease(self._last_number, child, parent, offer.first, offer.pieces)
        lease.depth = offer.depth
        lease.waited = offer.depth > 0
        lease.load = len(parent.host.uploads)
        lease.granted_at = lease.progress_at = child.hungry_at = now
        lease.twin, lease.stream = twin, stream
        lease.expect_s = self._cost.predict(parent.host.number, child.host.number,
                                            swarm.piece_size, lease.load)
        swarm.attach(lease)
        self.by_number[lease.number] = lease
        slow_s = self._slow_s(lease)
        self._watch(lease, now + slow_s)
        self.out.append(Grant(lease.number, swarm.number, child.host.number, parent.host.number,
                               offer.first, offer.pieces, 4 * slow_s * offer.pieces))
        if offer.pieces > 1 and swarm.hungry:
            self.to_serve.append(child)  # it may pass on what it is getting
        return lease

    # ---------------------------------------------------------------------- leases: ending
    def _succeed(self, lease: Lease) -> None:
        """All pieces are there."""
        child, parent = lease.child, lease.parent
        took_s = self.now - lease.granted_at
        unit_s = took_s / lease.count
        child.unit_s += 0.2 * (unit_s - child.unit_s) if child.unit_s else unit_s
        child.patience = max(1.0, child.patience * 0.9)
        if lease.hedged or lease.twin:
            self.out.append(Withdraw(lease.number, child.swarm.number, child.host.number))
        else:
            self._trust.success(parent.host, child)
            if lease.depth == 0:
                self._cost.observe(parent.host.number, child.host.number,
                                   lease.count * child.swarm.piece_size, lease.load, took_s)
        self._release(lease)

    def end(self, lease: Lease, tell: bool) -> None:
        """The lease is over before its pieces are there: what it owed is leased again."""
        if tell:
            self.out.append(Withdraw(lease.number, lease.child.swarm.number,
                                      lease.child.host.number))
        child = lease.child
        lost = self._release(lease)
        if lost:
            for waiting in child.host.uploads.values():
                if waiting.parent is child \
                        and (waiting.stream < 0 or waiting.stream != child.stream):
                    child.holders_only |= waiting.left & lost
        self.to_fill.append(child)

    def _release(self, lease: Lease) -> int:
        del self.by_number[lease.number]
        lost = lease.child.swarm.detach(lease)
        for peer in lease.parent.host.peers.values():
            self.to_serve.append(peer)
        return lost

    def fail(self, lease: Lease, failure: Failure) -> None:
        """The child has given the lease up, and says why."""
        child, parent, now = lease.child, lease.parent, self.now
        trust = self._trust
        if _is_blamed(lease, failure):
            child.far_until = now + FAR_S
        self.end(lease, tell=False)
        if failure == Failure.LOCAL:
            child.ready_at = now + trust.limits.avoid_s
            self._alarm(child.ready_at, child)
        elif failure == Failure.BAD_DIGEST:
            trust.strike(parent.host, child, now)
            if trust.condemn(parent.host, child.host):
                self._quarantine(parent.host)
        elif failure in (Failure.NOT_HELD, Failure.BUSY):
            trust.avoid(parent.host, child, self.limits.retry_s, now)
        elif failure != Failure.REVOKED:
            trust.strike(parent.host, child, now)

    def _quarantine(self, host: Host) -> None:
        self.out.append(Quarantine(host.number, "sent bytes that contradict their digest"))
        for peer in host.peers.values():
            peer.swarm.givers.discard(peer)
            for group in peer.groups:
                group.givers.discard(peer)
        for lease in list(host.uploads.values()):
            self.end(lease, tell=True)

    # ------------------------------------------------------------------------------- time
    def _alarm(self, at: float, subject: Subject) -> None:
        self._alarm_number += 1
        heapq.heappush(self._alarms, (at, self._alarm_number, subject))

    def _watch(self, lease: Lease, at: float) -> None:
        """Look at the lease then (and not at an earlier plan's time)."""
        lease.check_at = at
        self._alarm(at, lease)

    def ring(self) -> None:
        alarms = self._alarms
        self.stop_at = self.granted + self.limits.work_max
        while alarms and alarms[0][0] <= self.now:
            subject = heapq.heappop(alarms)[2]
            if isinstance(subject, Lease):
                if self.by_number.get(subject.number) is subject \
                        and subject.check_at <= self.now:
                    self._check(subject)
            elif isinstance(subject, Peer):
                self.to_fill.append(subject)
            elif subject is None:
                self._tick()
            else:
                self._retry(subject)

    def _retry(self, swarm: Swarm) -> None:
        """Look again at children that wait, in case an event that would help them was missed."""
        if swarm.forest is not None:
            swarm.retry_due = self._branches.retry(swarm)
            if swarm.retry_due:
                self._alarm(self.now + self.limits.retry_s, swarm)
            return
        for _ in range(min(len(swarm.hungry), self.limits.retry_children)):
            self.to_fill.append(swarm.hungry.pick(self._rng))
        swarm.retry_due = bool(swarm.hungry)
        if swarm.retry_due:
            self._alarm(self.now + self.limits.retry_s, swarm)

    def _slow_s(self, lease: Lease) -> float:
        """Seconds without a new piece after which a lease counts as slow."""
        limits, child = self.limits, lease.child
        factor = limits.slow_factor if child.need else limits.endgame_factor
        expect_s = max(lease.expect_s, child.unit_s)
        if child.limit_bps:    # its leases share that, whatever its parents could do
            expect_s = max(expect_s, len(child.leases) * child.swarm.piece_size / child.limit_bps)
        slow_s = limits.slow_min_s + self.pacing.batch_s + factor * expect_s
        if lease.stream >= 0:
            if not lease.parent.have >> lowest(lease.left) & 1:
                slow_s *= 2            # in a tree too; but there all above may be watched as well
        elif lease.left & ~lease.parent.have:
            slow_s *= 1 + lease.depth  # it waits itself: blame those above first
        return slow_s * child.patience

    def _check(self, lease: Lease) -> None:
        """Hedge a slow lease, then take it back."""
        slow_s = self._slow_s(lease)
        could = bool(lease.parent.have >> lowest(lease.left) & 1)   # the parent, go on
        if could and lease.waited:
            lease.progress_at = self.now   # it can since a moment ago: its time begins here
        lease.waited = not could
        if lease.progress_at + slow_s > self.now:
            lease.checked = 0
            self._watch(lease, lease.progress_at + slow_s)
            return
        offer = None
        if lease.stream >= 0 and could:
            lease.checked = HEDGED      # its rest is long: another place in the tree for it
        elif not lease.twin and not lease.hedged:
            offer = self.choose.for_rest(lease, self.now)
        if offer is not None:
            lease.hedged, lease.checked = True, HEDGED
            self.grant(lease.child, offer, twin=True)
        elif could:
            lease.checked += 1
        # else it waits for a piece that nobody has yet, or only the busy: no one is to blame
        self._trust.suspect(lease, slow_s, self.now)
        if lease.checked > HEDGED:
            self._revoke(lease)
        else:
            self._watch(lease, self.now + slow_s)

    def _revoke(self, lease: Lease) -> None:
        child, parent = lease.child, lease.parent
        if parent.host.avoid_until <= self.now:   # else it isn't the child's link that is slow
            child.patience = min(child.patience * 2, 64.0)
        took_s = self.now - lease.granted_at
        self._cost.observe(parent.host.number, child.host.number,
                           child.swarm.piece_size, lease.load, took_s)
        child.far_until = self.now + FAR_S
        self.end(lease, tell=True)
        self._trust.strike(parent.host, child, self.now)


def _is_blamed(lease: Lease, failure: Failure) -> bool:
    """The parent failed the child. Not if it was only busy, or hadn't what it was itself still to
    get: as a swarm begins, it may not even know of the task yet."""
    if failure == Failure.NOT_HELD:
        return not lease.depth
    return failure not in (Failure.LOCAL, Failure.REVOKED, Failure.BUSY)
