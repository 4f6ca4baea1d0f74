"""What the scheduler knows: hosts, swarms, peers (a host in a swarm), leases.

State and its bookkeeping, no rule: who gets what from whom is choice.py, what follows from an
event is scheduler.py. Everything that an event touches is found in constant time: piece sets
are ints, rarity is kept as bitmaps by the power of two of a piece's copies, carriers of a piece
are a list that is sampled and cleaned as it is read. A copy counts when it is promised (a lease
was granted), not only when it is stored, so that two decisions in a row see each other.
"""
from __future__ import annotations

import random
from typing import TYPE_CHECKING, Dict, Generic, List, Optional, Sequence, Tuple, TypeVar

from dfly.core.cost import LEVELS_MAX
from dfly.core.events import SEED
from dfly.task import full_set, lowest, run_set

if TYPE_CHECKING:
    from dfly.core.forest import Forest, Grove

T = TypeVar("T")
SLOTS_ANY = 1 << 30  # no cap: a host's own upload slots decide
ENTERING_EACH = 2    # leases from outside that a group has for each of its peers
ENTERING_MORE = 4    # and for all together
LOOK_MAX = 64        # peers of a group that are asked who else holds what one has lost
CARRIERS_SPARE = 16  # entries of a list of carriers that may be untrue, however few are true


class Pool(Generic[T]):
    """A set that gives a random member in constant time, the same for one seed."""

    __slots__ = ("_at", "_items")

    def __init__(self) -> None:
        self._items: List[T] = []
        self._at: Dict[T, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item: T) -> bool:
        return item in self._at

    def add(self, item: T) -> None:
        if item not in self._at:
            self._at[item] = len(self._items)
            self._items.append(item)

    def discard(self, item: T) -> None:
        position = self._at.pop(item, None)
        if position is None:
            return
        last = self._items.pop()
        if last is not item:
            self._items[position] = last
            self._at[last] = position

    def pick(self, rng: random.Random) -> T:
        """Any member; there must be one."""
        items = self._items
        return items[int(rng.random() * len(items))]


class Group:
    """The peers of a swarm that share a location: a region, a rack, a host.

    A piece should come into it once: who needs what somebody inside holds or is getting takes it
    there. Bits of `inside` may be missing after a loss (a piece comes in twice then), never wrong
    for long."""

    __slots__ = ("entering", "givers", "inside", "peers")

    def __init__(self) -> None:
        self.peers: Dict[Peer, None] = {}     # a set that keeps its order
        self.givers: Pool[Peer] = Pool()      # of these, who has a free upload slot
        self.inside = 0                       # pieces that a peer, not the seed, holds or gets
        self.entering = 0                     # leases from outside

    @property
    def is_full(self) -> bool:
        """So many leases come in that more would only make them slower."""
        return self.entering >= ENTERING_EACH * len(self.peers) + ENTERING_MORE

    def lose(self, pieces: int) -> None:
        """Somebody here holds these pieces no longer: others may."""
        self.inside &= ~pieces
        for count, peer in enumerate(self.peers):
            if count == LOOK_MAX:
                break
            if peer.host.number != SEED:
                self.inside |= (peer.have | peer.leased) & pieces


class Host:
    """A machine with an open link, in whatever number of swarms."""

    __slots__ = ("accused", "avoid_until", "doubted_by", "labels", "number", "peers", "sent_at",
                 "silences", "slots", "strikes", "trusted", "uploads")

    def __init__(self, number: int, slots: int, trusted: bool,
                 labels: Tuple[str, ...] = ()) -> None:
        self.number = number
        self.labels = labels                   # its location, widest first
        self.slots = slots
        self.trusted = trusted
        self.uploads: Dict[int, Lease] = {}    # leases that it serves, over all swarms
        self.peers: Dict[int, Peer] = {}       # by swarm
        self.strikes = 0                       # failures as a parent since its last success
        self.avoid_until = 0.0                 # serves nobody before (too many strikes)
        self.sent_at = 0.0                     # when a child last reported a piece of its
        self.silences = 0                      # times that nothing came from it, in a row
        self.doubted_by = -1                   # last child that didn't find what it claims
        self.accused: List[int] = []           # parents that it said sent wrong bytes

    @property
    def free(self) -> int:
        """Upload slots that no lease takes."""
        return self.slots - len(self.uploads)


class Lease:
    """One run on its way from a parent to a child."""

    __slots__ = ("check_at", "checked", "child", "count", "depth", "expect_s", "first",
                 "granted_at", "hedged", "left", "load", "number", "parent", "progress_at",
                 "stream", "twin", "waited")

    def __init__(self, number: int, child: Peer, parent: Peer, first: int, count: int) -> None:
        self.number = number
        self.child = child
        self.parent = parent
        self.first = first
        self.count = count
        self.left = run_set(first, count)  # pieces not stored yet
        self.depth = 0             # leases in a row that wait for each other above this one
        self.stream = -1           # of the tree in which it is a branch
        self.load = 0              # leases that the parent served when this was granted
        self.expect_s = 0.0        # predicted time of the whole run
        self.granted_at = 0.0
        self.progress_at = 0.0     # of the last piece stored, or since when more could be
        self.hedged = False        # its rest was leased a second time
        self.twin = False          # is such a second lease
        self.check_at = 0.0        # when to look whether it goes on
        self.checked = 0           # times that it was found behind its prediction
        self.waited = False        # its parent had nothing to send when last looked at


class Peer:
    """A host in a swarm: what it holds, what it is getting, what it wants."""

    __slots__ = ("avoid", "busy", "delayed", "ending", "far_until", "grove", "groups", "have",
                 "holders_only", "host", "hungry_at", "leased", "leases", "least_s", "level",
                 "limit_bps", "listed", "patience", "plateau", "rate_at", "rate_best", "rate_count",
                 "rate_pps", "ready_at", "stream", "swarm", "unit_s", "urgent_at", "waits", "wants")

    def __init__(self, swarm: Swarm, host: Host) -> None:
        self.swarm = swarm
        self.host = host
        self.have = 0                       # pieces that it says it holds
        self.leased = 0                     # pieces that some lease is bringing
        self.leases: Dict[int, Lease] = {}  # as a child
        self.wants = False
        self.ending = False                 # everything it misses is leased: endgame
        self.urgent_at: Optional[int] = None
        self.listed = 0                     # pieces in whose list of carriers it stands
        self.holders_only = 0               # pieces that others wait for it to repair
        self.far_until = 0.0                # takes pieces from anywhere before
        self.avoid: Dict[int, Tuple[float, int]] = {}  # parent -> (until, failures)
        self.ready_at = 0.0                 # gets no lease before (its own disk failed)
        self.hungry_at = 0.0                # of the last lease granted to it
        self.limit_bps = 0                  # takes no more bytes a second; 0 = what comes
        self.patience = 1.0                 # factor on "too slow", for slow links
        self.rate_pps = 0.0                 # pieces a second that it stores
        self.rate_best = 0.0                # the most that it stored, and
        self.plateau = 0                    # times in a row that it didn't store clearly more
        self.rate_at = 0.0                  # since when rate_count is counted
        self.rate_count = 0
        self.unit_s = 0.0                   # seconds that one piece of a lease takes it
        self.least_s = 0.0                  # from a grant to its first piece, the least lately
        self.groups: List[Group] = swarm.enter(self)   # by location, widest first
        self.delayed = False                # gets its next lease when the budget allows
        self.grove: Optional[Grove] = None  # the part of the trees in which it stands
        self.stream = -1                    # of the tree in which it may have children
        self.level = -1                     # of its place there; -1 = none yet
        self.busy = 4                       # class of its open place there; 4 = none
        self.waits = 0                      # trees in which it waits for a place, as a bitmap

    def enters(self, parent: Peer) -> Sequence[Group]:
        """The groups that pieces from this parent would come into."""
        if not self.groups:
            return ()
        shared = 0
        for one, other in zip(self.groups, parent.groups):
            if one is not other:
                break
            shared += 1
        return self.groups[shared:] if shared else self.groups

    @property
    def missing(self) -> int:
        """Pieces known to exist that it doesn't hold."""
        return self.swarm.full & ~self.have

    @property
    def need(self) -> int:
        """Pieces that it doesn't hold and that no lease is bringing."""
        return self.swarm.full & ~(self.have | self.leased)

    @property
    def may_need(self) -> bool:
        """It needs pieces now, or will: more appear while the length isn't known."""
        return not self.swarm.sized or bool(self.need)


class Swarm:
    """One task under way."""

    __slots__ = ("carriers", "copies", "delayed", "forest", "full", "givers", "groups", "hungry",
                 "levels", "number", "peers", "piece_size", "retry_due", "sized",
                 "slot_cap", "wanting")

    def __init__(self, number: int, piece_count: Optional[int], piece_size: int) -> None:
        self.number = number
        self.piece_size = piece_size
        self.sized = piece_count is not None
        self.full = 0                         # pieces known to exist
        self.peers: Dict[int, Peer] = {}      # by host
        self.carriers: List[List[Peer]] = []  # by piece: hold it or are getting it, or did
        self.copies: List[int] = []           # by piece: peers that hold it or are getting it
        self.levels: List[int] = [0]          # pieces by copies: 0, 1, 2-3, 4-7, ...
        self.givers: Pool[Peer] = Pool()      # peers with a free upload slot (not the seed)
        self.hungry: Pool[Peer] = Pool()      # children that wait for a piece or a parent
        self.slot_cap = SLOTS_ANY             # leases that one host serves here at most
        self.groups: Dict[Tuple[str, ...], Group] = {}   # by location
        self.delayed = False                  # who waits gets leases when the budget allows
        self.wanting = 0                      # peers that want pieces
        self.forest: Optional[Forest] = None  # its trees, when it is so large that it has any
        self.retry_due = False                # an alarm is set for the hungry
        if piece_count is not None:
            self.extend(piece_count)

    @property
    def seed(self) -> Optional[Peer]:
        return self.peers.get(SEED)

    def extend(self, piece_count: int) -> None:
        """Pieces up to this count are known to exist."""
        known = len(self.copies)
        if piece_count <= known:
            return
        self.copies.extend([0] * (piece_count - known))
        self.carriers.extend([] for _ in range(piece_count - known))
        self.levels[0] |= run_set(known, piece_count - known)
        self.full = full_set(piece_count)

    # ------------------------------------------------------------------------- locations
    def enter(self, peer: Peer) -> List[Group]:
        """The groups of the peer's location, one for each label."""
        labels = peer.host.labels[:LEVELS_MAX]
        groups = []
        for count in range(1, len(labels) + 1):
            group = self.groups.get(labels[:count])
            if group is None:
                group = self.groups[labels[:count]] = Group()
            group.peers[peer] = None
            groups.append(group)
        return groups

    def leave(self, peer: Peer) -> None:
        """The peer is gone, and so is what it held."""
        labels = peer.host.labels[:LEVELS_MAX]
        for count, group in enumerate(peer.groups, 1):
            del group.peers[peer]
            group.givers.discard(peer)
            if not group.peers:
                del self.groups[labels[:count]]
                if self.forest is not None:
                    self.forest.groves.pop(group, None)

    # ------------------------------------------------------------------ copies and carriers
    def claim(self, peer: Peer, pieces: int) -> None:
        """The peer will hold these pieces: they count as copies, and it as their carrier."""
        if peer.host.number == SEED:
            return  # the seed isn't a copy: rarity is about peers
        for group in peer.groups:
            group.inside |= pieces
        if self.forest is not None:
            self.levels[0] &= ~pieces
            return
        new = pieces & ~(peer.have | peer.leased)
        unlisted = pieces & ~peer.listed
        peer.listed |= unlisted
        copies, levels, carriers = self.copies, self.levels, self.carriers
        rest, piece = new | unlisted, 0
        while rest:
            gap = lowest(rest)
            piece += gap
            rest >>= gap + 1
            bit = 1 << piece
            if new & bit:
                count = copies[piece] = copies[piece] + 1
                if count & (count - 1) == 0:
                    level = count.bit_length()
                    if level == len(levels):
                        levels.append(0)
                    levels[level - 1] ^= bit
                    levels[level] ^= bit
            if unlisted & bit:
                if len(carriers[piece]) > 2 * copies[piece] + CARRIERS_SPARE:
                    self._weed(piece)
                carriers[piece].append(peer)
            piece += 1

    def plant(self, forest: Forest) -> None:
        """From now on pieces go down trees: copies are no longer counted, nor carriers listed
        (with thousands of hosts and long runs both would cost more than all the rest)."""
        self.forest = forest
        self.slot_cap = SLOTS_ANY
        self.levels = self.levels[:1]
        self.carriers = []

    def _weed(self, piece: int) -> None:
        """Drop the carriers that aren't any more: else hosts that come and go fill the list."""
        bit, true = 1 << piece, []
        for peer in self.carriers[piece]:
            if (peer.have | peer.leased) & bit:
                true.append(peer)
            else:
                peer.listed &= ~bit
        self.carriers[piece] = true

    def disclaim(self, peer: Peer, pieces: int) -> None:
        """These copies of the peer are gone."""
        if pieces:
            for group in peer.groups:
                group.lose(pieces)
        if self.forest is not None:
            return
        copies, levels = self.copies, self.levels
        piece = 0
        while pieces:
            gap = lowest(pieces)
            piece += gap
            pieces >>= gap + 1
            count = copies[piece]
            assert count > 0, piece
            copies[piece] = count - 1
            if count & (count - 1) == 0:
                bit, level = 1 << piece, count.bit_length()
                levels[level] ^= bit
                levels[level - 1] ^= bit
            piece += 1

    # ----------------------------------------------------------------------------- leases
    def attach(self, lease: Lease) -> None:
        """A lease begins: its load is charged and its pieces count as copies at once."""
        child, parent = lease.child, lease.parent
        self.claim(child, lease.left)
        child.leased |= lease.left
        child.leases[lease.number] = lease
        host = parent.host
        assert host.free > 0 and parent is not child
        host.uploads[lease.number] = lease
        for group in child.enters(parent):
            group.entering += 1
        for peer in host.peers.values():
            if len(host.uploads) >= min(host.slots, peer.swarm.slot_cap):
                peer.swarm.givers.discard(peer)
                for group in peer.groups:
                    group.givers.discard(peer)
            if peer.swarm.forest is not None:
                peer.swarm.forest.refresh(peer)

    def detach(self, lease: Lease) -> int:
        """A lease is over: its slot is free again. Returns its pieces that nobody brings now."""
        child, host = lease.child, lease.parent.host
        del child.leases[lease.number]
        del host.uploads[lease.number]
        for group in child.enters(lease.parent):
            group.entering -= 1
        for peer in host.peers.values():
            self.offer(peer)
        if not lease.left:
            return 0
        lost = lease.left
        for other in child.leases.values():
            lost &= ~other.left
        child.leased &= ~lost
        self.disclaim(child, lost)
        return lost

    @staticmethod
    def offer(peer: Peer) -> None:
        """Note the peer as one that can give, if it can."""
        host = peer.host
        if peer.swarm.forest is not None:
            peer.swarm.forest.refresh(peer)
        if len(host.uploads) < min(host.slots, peer.swarm.slot_cap) and host.trusted \
                and host.number != SEED:
            peer.swarm.givers.add(peer)
            for group in peer.groups:
                group.givers.add(peer)
