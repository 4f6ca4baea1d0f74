"""Who gets which run from whom: the choices of the scheduler, without their consequences.

A choice looks at a bounded number of pieces and parents, whatever the size of the swarm: rarest
pieces first by the swarm's bitmaps, parents by sampling a few that have a free slot and taking
the one with the least predicted time. The seed is special: it alone gives pieces that no peer
has or is getting, each once (Mundinger, Weber, Weiss 2008: what limits a swarm is how fast new
pieces leave the source), and other pieces only when there is nothing new and nobody else.

With runs longer than one piece a parent may also give what it is only getting itself. The lease
it waits for is older than the new one, so waiting can't go round in a circle; after a failure a
piece that others wait for is fetched only from hosts that hold it, for the same reason.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from dfly.core.cost import CostModel
from dfly.core.events import SEED
from dfly.core.forest import BUSY, FULL, Openings
from dfly.core.swarm import Group, Lease, Peer, Pool, Swarm
from dfly.task import count_of, lowest, run_set

SCAN_MAX = 8       # carriers looked at one by one when a piece has no more
URGENT_TRIES = 3   # of a reader's next pieces, for one lease
DEPTH_COST = 0.25  # a parent that waits itself counts as this much slower per wait


@dataclass(frozen=True)
class ChoiceLimits:
    """How far a choice looks."""

    parents: int = 4          # sampled for one piece
    pieces: int = 1           # tried for one lease before load alone decides
    depth_max: int = 5        # leases in a row that wait for each other
    streams: int = 8          # runs that one child receives at once
    urgent_pieces: int = 8    # how far ahead of a reader is urgent
    ahead_runs: int = 2       # runs that the seed promises before it has them
    seed_helps: int = 4       # leases of a seed that has nothing new to send
    near_patience_s: float = 2.0   # without a lease so long, a child waits for nobody near it
    patience_s: float = 0.2   # an idle seed helps a child that got nothing for so long


class Offer(NamedTuple):
    """A lease that could be granted."""

    parent: Peer
    first: int
    pieces: int   # how many from `first` on
    depth: int    # leases in a row that wait for each other above this one


class Chooser:
    """Chooses; keeps nothing but its random numbers."""

    def __init__(self, limits: ChoiceLimits, cost: CostModel, rng: random.Random) -> None:
        self._limits = limits
        self._cost = cost
        self._rng = rng

    # -------------------------------------------------------------------------- for a child
    def for_child(self, child: Peer, run_max: int, now: float) -> Optional[Offer]:
        """The next lease for a child, or None if nobody can give what it needs."""
        need = child.need
        if not need:
            return None
        if child.urgent_at is not None:
            offer = self._urgent(child, need, run_max, now)
            if offer is not None:
                return offer
        run_max = self._shorter(need, run_max)
        if len(child.groups) and self._is_near_others(child, now):
            return self._by_location(child, need, run_max, now)
        return self._anywhere(child, need, run_max, now)

    def _anywhere(self, child: Peer, need: int, run_max: int, now: float) -> Optional[Offer]:
        return (self._fresh(child, need, run_max, now)
                or self._rare(child, need, run_max, now)
                or self._sampled(child, need, run_max, now)
                or self._last_resort(child, need, run_max, now))

    def _is_near_others(self, child: Peer, now: float) -> bool:
        """Others share its location, don't fail it, and it doesn't wait for them in vain."""
        return len(child.groups[0].peers) > 1 and now >= child.far_until \
            and (bool(child.leases) or now - child.hungry_at < self._limits.near_patience_s)

    def _by_location(self, child: Peer, need: int, run_max: int, now: float) -> Optional[Offer]:
        """What nobody near has or is getting comes from afar, unless much does so already; what
        somebody has comes from there, even if that means to wait."""
        near: List[Tuple[Optional[Group], int]] = []
        full = False
        for group in reversed(child.groups):
            if len(group.peers) > 1:
                inside = self._inside(child.swarm, group)
                if need & inside and not full:
                    near.append((group, need & inside))
                need &= ~inside
                full = full or group.is_full
        if need and not full:
            near.append((None, need))
        for where, able in reversed(near):
            offer = (self._anywhere(child, able, run_max, now) if where is None
                     else self._within(where, child, able, run_max, now))
            if offer is not None:
                return offer
        return None

    @staticmethod
    def _inside(swarm: Swarm, group: Group) -> int:
        """Pieces that somebody in the group holds or is getting, or the seed there holds."""
        seed = swarm.seed
        if seed is None or seed not in group.peers:
            return group.inside
        return group.inside | seed.have

    def _within(self, group: Group, child: Peer, able: int, run_max: int,
                now: float) -> Optional[Offer]:
        """From somebody in the group, the seed last unless nobody has the pieces yet."""
        seed = child.swarm.seed
        local = seed is not None and seed in group.peers
        if local:
            offer = self._fresh(child, able, run_max, now)
            if offer is not None:
                return offer
        useful = [parent for parent in self._pick(group.givers)
                  if able & (parent.have if run_max == 1 else parent.have | parent.leased)]
        best = self._cheapest(child, useful, now)
        offer = None if best is None else self._from(best, child, able, run_max)
        if offer is None and local:
            assert seed is not None
            able &= seed.have & ~group.inside
            if able and self._usable(seed, child, now):
                offer = self._any_run(seed, able, run_max)
        return offer

    def _by_pair(self, parent: Peer, child: Peer, need: int) -> int:
        """What the child may take from this parent, if others near it aren't to give it."""
        for group in child.enters(parent):
            if len(group.peers) > 1:
                if group.is_full:
                    return 0
                need &= ~self._inside(child.swarm, group)
        return need

    def for_pair(self, parent: Peer, child: Peer, run_max: int, now: float) -> Optional[Offer]:
        """What this parent could give this child now."""
        need = child.need
        if not need or not self._usable(parent, child, now):
            return None
        if len(child.groups) and self._is_near_others(child, now):
            need = self._by_pair(parent, child, need)
            if not need:
                return None
        run_max = self._shorter(need, run_max)
        if parent.host.number == SEED:
            return (self._fresh(child, need, run_max, now)
                    or self._last_resort(child, need, run_max, now))
        return self._from(parent, child, need, run_max)

    def for_rest(self, lease: Lease, now: float) -> Optional[Offer]:
        """Another parent, holding it, for the first run of what a slow lease still owes."""
        child, first = lease.child, lowest(lease.left)
        count = min(lowest(~(lease.left >> first)), lease.count)
        parent = self._holder(child, first, now, lease.parent)
        seed = child.swarm.seed
        if parent is None and seed is not None and seed is not lease.parent \
                and seed.have >> first & 1 and self._usable(seed, child, now):
            parent = seed
        if parent is None:
            return None
        return Offer(parent, first, min(count, lowest(~(parent.have >> first))), 0)

    def for_branch(self, child: Peer, stream: int, want: int, busy_max: int,
                   now: float) -> Optional[Offer]:
        """A place in a tree for the first run of `want`, near the child if the tree is there. Who
        is the first there, or has lost whom he hung on, may go far, and to the seed."""
        swarm, grove = child.swarm, child.grove
        forest = swarm.forest
        assert forest is not None and grove is not None
        own = stream == child.stream or (busy_max > 1 and not grove.inner[stream])
        if own and want & swarm.levels[0]:
            offer = self._branch_from_seed(child, want & swarm.levels[0], now)
            if offer is not None:
                return offer
        below = 0 if child.holders_only & want & -want else forest.below(child, stream)
        near, far, few = grove.openings[stream], forest.everywhere[stream], self._limits.parents
        late = busy_max >= FULL and not own and near is not far
        offer = self._branch(child, near.pick(FULL - 1 if late else busy_max, few, self._rng,
                                              below), want, below, now)
        if offer is None and near is not far and own:
            offer = self._branch(child, far.pick_high(few, self._rng), want, below, now)
        elif offer is None and late:      # sooner far from it than from somebody over full
            offer = (self._branch(child, far.pick(FULL - 1, few, self._rng), want, below, now)
                     or self._branch(child, near.pick(FULL, few, self._rng), want, below, now))
        return self._branch_from_seed(child, want, now) if offer is None and own else offer

    def _branch(self, child: Peer, parents: Iterator[Peer], want: int, below: int,
                now: float) -> Optional[Offer]:
        """The best of a few open places; only on levels below `below` may the child wait."""
        first = lowest(want)
        count = lowest(~(want >> first))
        best: Optional[Offer] = None
        least = 0.0
        for parent in parents:
            if not self._usable(parent, child, now):
                continue
            can = parent.have | parent.leased if parent.level < below else parent.have
            able = lowest(~(can >> first))
            if not able:
                continue
            host = parent.host
            cost = self._cost.predict(host.number, child.host.number, child.swarm.piece_size,
                                      len(host.uploads))
            if best is None or cost < least:
                able = min(able, count)
                held = not run_set(first, able) & ~parent.have
                best, least = Offer(parent, first, able, 0 if held else 1 + parent.level), cost
        return best

    def for_share(self, child: Peer, openings: Openings, pieces: int,
                  now: float) -> Optional[Offer]:
        """All of these pieces from somebody who holds them and has little else to do."""
        first, count = lowest(pieces), count_of(pieces)
        idle = [parent for parent in openings.pick(0, self._limits.parents, self._rng)
                if not pieces & ~parent.have]
        best = self._cheapest(child, idle, now)
        if best is None or pieces != run_set(first, count):
            return None
        return Offer(best, first, count, 0)

    def for_orphan(self, child: Peer, want: int, now: float) -> Optional[Offer]:
        """What no tree gives in time, from whoever holds it, the seed at last."""
        useful = [parent for parent in self._pick(child.swarm.givers) if parent.have & want]
        best = self._cheapest(child, useful, now)
        if best is None:
            return self._branch_from_seed(child, want, now)
        able = want & best.have
        first = lowest(able)
        return Offer(best, first, lowest(~(able >> first)), 0)

    def _branch_from_seed(self, child: Peer, want: int, now: float) -> Optional[Offer]:
        """The seed promises in a forest all that it will have."""
        seed = child.swarm.seed
        if seed is None or seed is child or not self._usable(seed, child, now):
            return None
        able = want & (seed.have | seed.missing)
        if not able:
            return None
        first = lowest(able)
        count = lowest(~(able >> first))
        held = not run_set(first, count) & ~seed.have
        return Offer(seed, first, count, 0 if held else 1)

    def _shorter(self, need: int, run_max: int) -> int:
        """Runs get shorter as a download ends, so that its last ones end together. They are
        powers of two: then the runs of all children begin and end at the same pieces."""
        if run_max == 1:
            return 1
        run_max = max(1, min(run_max, 2 * count_of(need) // self._limits.streams))
        return 1 << (run_max.bit_length() - 1)

    # ------------------------------------------------------------------------- which pieces
    def _fresh(self, child: Peer, need: int, run_max: int, now: float) -> Optional[Offer]:
        """From the seed, what no peer has or is getting."""
        seed = child.swarm.seed
        if seed is None or seed is child:
            return None
        new = need & child.swarm.levels[0]
        if not new or not self._usable(seed, child, now):
            return None
        can = new & self._seed_can(seed, run_max)
        if not can:
            return None
        first = lowest(can)
        count = min(lowest(~(can >> first)), run_max - first % run_max)
        held = not run_set(first, count) & ~seed.have
        return Offer(seed, first, count, 0 if held else 1)

    def _seed_can(self, seed: Peer, run_max: int) -> int:
        """What the seed may promise: what it has; with runs, also what it is about to have."""
        coming = seed.missing
        if run_max == 1 or not coming or not seed.swarm.sized:
            return seed.have
        return seed.have | coming & run_set(lowest(coming), self._limits.ahead_runs * run_max)

    def _rare(self, child: Peer, need: int, run_max: int, now: float) -> Optional[Offer]:
        """Pieces with the fewest copies first, from the best of a few that carry them."""
        tries = self._limits.pieces
        for pieces in child.swarm.levels[1:]:
            able = need & pieces
            if not able:
                continue
            piece = _run_start(self._any_of(able, child.swarm.full), able, run_max)
            offer = self._carrier(child, piece, need, run_max, now)
            if offer is not None:
                return offer
            tries -= 1
            if not tries:
                break
        return None

    def _urgent(self, child: Peer, need: int, run_max: int, now: float) -> Optional[Offer]:
        """The next pieces of a reader, lowest first, from whoever carries them. (The seed gives
        them if nobody has them yet; it does no favours that would keep new pieces back.)"""
        assert child.urgent_at is not None
        coming = child.missing >> child.urgent_at
        if not coming:
            return None
        limits = self._limits
        start = child.urgent_at + lowest(coming)
        able = need & run_set(start, limits.urgent_pieces)
        run_max = min(run_max, limits.urgent_pieces)
        for _ in range(URGENT_TRIES):
            if not able:
                return None
            piece = lowest(able)
            offer = (self._carrier(child, piece, able, run_max, now)
                     or self._fresh(child, able & -able, 1, now))
            if offer is not None:
                return offer
            able &= able - 1
        return None

    def _last_resort(self, child: Peer, need: int, run_max: int, now: float) -> Optional[Offer]:
        """From the seed, a second time: once all is out, or to a child that starves."""
        swarm = child.swarm
        seed = swarm.seed
        if seed is None or not self._usable(seed, child, now):
            return None
        starving = not seed.host.uploads and now - child.hungry_at > self._limits.patience_s
        if swarm.levels[0] and not starving:
            return None
        able = need & seed.have
        if not able:
            return None
        return self._any_run(seed, _rarest(swarm, able), run_max)

    def _any_run(self, seed: Peer, able: int, run_max: int) -> Offer:
        """Of the pieces `able`, all of which the seed holds."""
        first = self._any_of(able, seed.swarm.full)
        return Offer(seed, first, min(lowest(~(able >> first)), run_max), 0)

    def _any_of(self, pieces: int, full: int) -> int:
        """A random member, near enough to even."""
        skip = int(self._rng.random() * full.bit_length())
        rest = pieces >> skip
        return skip + lowest(rest) if rest else lowest(pieces)

    # ------------------------------------------------------------------------- which parent
    def _usable(self, parent: Peer, child: Peer, now: float) -> bool:
        host = parent.host
        serving = len(host.uploads)
        if serving >= host.slots or parent is child or not host.trusted \
                or host.avoid_until > now:
            return False
        if serving >= child.swarm.slot_cap and host.number != SEED:
            return False
        if child.avoid:
            until, _ = child.avoid.get(host.number, (0.0, 0))
            return until <= now
        return True

    def _carrier(self, child: Peer, piece: int, need: int, run_max: int,
                 now: float) -> Optional[Offer]:
        """The best offer of this piece among a sample of its carriers."""
        bit = 1 << piece
        held_only = run_max == 1 or bool(child.holders_only & bit)
        sample = self._with_seed(child.swarm, self._sample(child.swarm, piece,
                                                           self._limits.parents))
        able = [parent for parent in sample
                if parent.have & bit or (not held_only and parent.leased & bit)]
        best = self._cheapest(child, able, now, bit)
        return None if best is None else self._run(best, child, piece, need, run_max)

    def _cheapest(self, child: Peer, parents: Iterable[Peer], now: float,
                  bit: int = 0) -> Optional[Peer]:
        """Of the parents that may serve the child now, the one with the least predicted time; who
        would have to wait for piece `bit` (a piece set of one) himself counts as slower."""
        best: Optional[Peer] = None
        least = 0.0
        for parent in parents:
            if not self._usable(parent, child, now):
                continue
            host = parent.host
            cost = self._cost.predict(host.number, child.host.number, child.swarm.piece_size,
                                      len(host.uploads))
            if bit and not parent.have & bit:
                cost *= 1 + DEPTH_COST * (1 + self._depth(parent, bit))
            if best is None or cost < least:
                best, least = parent, cost
        return best

    def _with_seed(self, swarm: Swarm, sample: List[Peer]) -> List[Peer]:
        """A seed that has sent out everything once is a parent like others, for a few leases at a
        time: an idle uplink helps nobody."""
        seed = swarm.seed
        if (seed is not None and not swarm.levels[0]
                and len(seed.host.uploads) < self._limits.seed_helps):
            sample.append(seed)
        return sample

    def _sample(self, swarm: Swarm, piece: int, count: int) -> List[Peer]:
        """A few carriers of the piece; entries that are no longer true are dropped."""
        carriers, bit = swarm.carriers[piece], 1 << piece
        sample: List[Peer] = []
        positions: Sequence[int]
        length = len(carriers)
        if length <= SCAN_MAX:
            positions = range(length - 1, -1, -1)
        else:
            rng = self._rng.random
            positions = sorted({int(rng() * length) for _ in range(count)}, reverse=True)
        for position in positions:
            peer = carriers[position]
            if (peer.have | peer.leased) & bit:
                sample.append(peer)
            else:
                peer.listed &= ~bit
                carriers[position] = carriers[-1]
                carriers.pop()
        return sample

    def _sampled(self, child: Peer, need: int, run_max: int, now: float) -> Optional[Offer]:
        """Anything useful from the best of a few peers with a free slot."""
        useful = [parent for parent in self._pick(child.swarm.givers)
                  if need & (parent.have if run_max == 1 else parent.have | parent.leased)]
        best = self._cheapest(child, useful, now)
        return None if best is None else self._from(best, child, need, run_max)

    def _pick(self, givers: Pool[Peer]) -> List[Peer]:
        """A few of those who have a free slot."""
        return [givers.pick(self._rng)
                for _ in range(min(len(givers), 2 * self._limits.parents))]

    def _from(self, parent: Peer, child: Peer, need: int, run_max: int) -> Optional[Offer]:
        """The rarest run that this parent could give."""
        can = parent.have if run_max == 1 else parent.have | parent.leased & ~child.holders_only
        able = need & can
        if not able:
            return None
        able = _rarest(child.swarm, able)
        piece = _run_start(self._any_of(able, child.swarm.full), able, run_max)
        return self._run(parent, child, piece, need, run_max)

    def _holder(self, child: Peer, piece: int, now: float, but: Peer) -> Optional[Peer]:
        """The best of a sample of the peers that hold the piece already, other than `but`."""
        forest, count = child.swarm.forest, 2 * self._limits.parents
        if forest is None:
            sample = self._sample(child.swarm, piece, count)
        else:
            openings = forest.everywhere[forest.stream_of(piece)]
            sample = list(openings.pick(BUSY - 1, count, self._rng))
        return self._cheapest(child, [parent for parent in sample if parent is not but
                                      and parent.have >> piece & 1], now)

    def _run(self, parent: Peer, child: Peer, piece: int, need: int,
             run_max: int) -> Optional[Offer]:
        """As much of a run from `piece` on as the parent can give within the depth allowed."""
        if run_max == 1:
            return Offer(parent, piece, 1, 0)
        most = run_max - piece % run_max
        can = need & (parent.have | parent.leased & ~child.holders_only)
        count = min(lowest(~(can >> piece)), most)
        waiting = run_set(piece, count) & ~parent.have if count else 0
        depth = 0
        if waiting:
            depth = 1 + self._depth(parent, waiting)
        if depth > self._limits.depth_max or not count:
            depth, count = 0, min(lowest(~(need & parent.have) >> piece), most)
        return Offer(parent, piece, count, depth) if count else None

    @staticmethod
    def _depth(parent: Peer, pieces: int) -> int:
        """The longest row of waits above these pieces."""
        depth = 0
        for lease in parent.leases.values():
            if lease.left & pieces and lease.depth > depth:
                depth = lease.depth
        return depth


def _rarest(swarm: Swarm, pieces: int) -> int:
    """Those of the piece set that have the fewest copies."""
    for level in swarm.levels:
        if pieces & level:
            return pieces & level
    return pieces


def _run_start(piece: int, able: int, run_max: int) -> int:
    """The first of `able` in the run that `piece` belongs to."""
    start = piece - piece % run_max
    return start + lowest(able >> start)
