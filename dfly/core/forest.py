"""A forest for a large swarm: few long leases a host, each stream of pieces down its own tree.

A manager that may grant a host no more than a handful of leases cuts the task into that many
streams (SplitStream: Castro and others, 2003). A host has children in one tree, its own stream's,
about as many as there are streams, and is a leaf of the others: so it sends what it receives, and
every piece is passed on as it comes (cut-through). The time for a piece to reach everybody is
streams x log(hosts) / log(streams) pieces' time: least for three, little more for four or five.

Waiting never goes round in a circle: who waits for a piece in a tree stands on a higher level
than whom he waits for, and who has children keeps his level when he needs another parent.
Where hosts have locations, a tree enters each about once: its part there is a grove. Places are
found in constant time: pools of those who can take a child, by their children and their level.
State and the choice of places; leases are leases.py's.
"""
from __future__ import annotations

import random
from bisect import bisect_right
from collections import deque
from typing import Deque, Dict, Iterator, List, Optional, Sequence

from dfly.core.events import SEED
from dfly.core.swarm import Group, Peer, Pool
from dfly.task import lowest, run_set

BUSY = 4             # classes of open places: 0 or 1 child, up to half full, to full, over full
FULL = 3             # the last of them
LEVEL_ANY = 1 << 30  # a child on which nobody waits stands above all


class Openings:
    """Peers in one tree that can take one more child."""

    def __init__(self) -> None:
        self._pools: List[List[Pool[Peer]]] = [[] for _ in range(BUSY)]   # by class and level
        self._levels = [0] * BUSY        # the same as bitmaps of levels: where pools aren't empty

    def add(self, peer: Peer, busy: int) -> None:
        pools = self._pools[busy]
        while len(pools) <= peer.level:
            pools.append(Pool())
        pools[peer.level].add(peer)
        self._levels[busy] |= 1 << peer.level

    def discard(self, peer: Peer, busy: int) -> None:
        pool = self._pools[busy][peer.level]
        pool.discard(peer)
        if not len(pool):
            self._levels[busy] &= ~(1 << peer.level)

    @property
    def least(self) -> int:
        """How busy the least busy is; BUSY = there is none."""
        for busy, levels in enumerate(self._levels):
            if levels:
                return busy
        return BUSY

    def pick(self, busy_max: int, tries: int, rng: random.Random,
             below: int = LEVEL_ANY) -> Iterator[Peer]:
        """A few that could do: the least busy first, of these the ones nearest to the root; of
        those over full the farthest, for all that hangs on one flows the slower."""
        for busy in range(busy_max + 1):
            levels = self._levels[busy]
            if below < LEVEL_ANY:
                levels &= (1 << below) - 1
            while levels and tries > 0:
                level = lowest(levels) if busy < FULL else levels.bit_length() - 1
                pool = self._pools[busy][level]
                for _ in range(min(tries, len(pool))):
                    yield pool.pick(rng)
                    tries -= 1
                levels &= ~(1 << level)

    def pick_high(self, tries: int, rng: random.Random) -> Iterator[Peer]:
        """A few near the root, for a child on which many will hang."""
        high = 0
        for levels in self._levels[:FULL]:
            high |= levels
        while high and tries > 0:
            level = lowest(high)
            for busy in range(FULL):
                if tries > 0 and self._levels[busy] >> level & 1:
                    yield self._pools[busy][level].pick(rng)
                    tries -= 1
            high &= high - 1
        full = self._levels[FULL]
        while full and tries > 0:
            yield self._pools[FULL][lowest(full)].pick(rng)
            tries -= 1
            full &= full - 1


class Grove:
    """The part of every tree that stands in one rack, zone or region: a tree enters it about
    once, by whoever stands first in it."""

    def __init__(self, streams: int) -> None:
        self.inner = [0] * streams       # peers that have children in a tree, or may
        self.placed = [0] * streams      # of these, who has a place there
        self.openings = [Openings() for _ in range(streams)]
        self.waiting: List[Deque[Peer]] = [deque() for _ in range(streams)]   # for a place


class Forest:
    """The trees of one swarm, and who waits for a place in them."""

    def __init__(self, piece_count: int, streams: int, level: Optional[int] = None) -> None:
        """`level`: of the locations in which groves stand; None = one stands for all."""
        assert piece_count >= streams > 1, (piece_count, streams)
        bounds = [piece_count * stream // streams for stream in range(streams + 1)]
        self.sets = [run_set(first, stop - first) for first, stop in zip(bounds, bounds[1:])]
        self._bounds = bounds
        self.streams = streams
        self._level = level
        whole = Grove(streams)
        self.groves: Dict[Optional[Group], Grove] = {None: whole}
        self.everywhere = whole.openings if level is None \
            else [Openings() for _ in range(streams)]
        self._delayed: List[Deque[Peer]] = [deque() for _ in range(streams)]  # by the budget
        self.joined_at = 0.0                     # when somebody came last

    # ------------------------------------------------------------------------- inner places
    def enrol(self, peer: Peer, now: float) -> Grove:
        """Let the peer have children in the tree where the fewest do, near it."""
        if peer.grove is not None:
            return peer.grove
        home = peer.groups[self._level] \
            if self._level is not None and self._level < len(peer.groups) else None
        grove = self.groves.get(home)
        if grove is None:
            grove = self.groves[home] = Grove(self.streams)
        peer.grove = grove
        host = peer.host
        if host.slots > 0 and host.trusted and host.number != SEED:
            self.joined_at = now
            peer.stream = min(range(self.streams), key=grove.inner.__getitem__)
            grove.inner[peer.stream] += 1
            if not self.sets[peer.stream] & ~peer.have:
                self.stand(peer, 0)
        return grove

    def leave(self, peer: Peer) -> None:
        grove, stream = peer.grove, peer.stream
        if grove is None or stream < 0:
            return
        self._close(peer)
        grove.inner[stream] -= 1
        if peer.level >= 0:
            grove.placed[stream] -= 1
        peer.stream = peer.level = -1

    def stand(self, peer: Peer, level: int) -> None:
        """The peer has a place in its own tree; with children there it keeps the one it had."""
        assert peer.grove is not None
        if peer.level < 0 or not peer.host.uploads:
            self._close(peer)
            if peer.level < 0:
                peer.grove.placed[peer.stream] += 1
            peer.level = level
        self.refresh(peer)

    def refresh(self, peer: Peer) -> None:
        """Note how busy the peer is now."""
        busy = self._busy(peer)
        if busy != peer.busy:
            self._close(peer)
            if busy < BUSY:
                for openings in self._openings(peer):
                    openings.add(peer, busy)
                peer.busy = busy

    def _close(self, peer: Peer) -> None:
        if peer.busy < BUSY:
            for openings in self._openings(peer):
                openings.discard(peer, peer.busy)
            peer.busy = BUSY

    def _openings(self, peer: Peer) -> Sequence[Openings]:
        assert peer.grove is not None
        near, all_of_them = peer.grove.openings[peer.stream], self.everywhere[peer.stream]
        return (near,) if near is all_of_them else (near, all_of_them)

    def _busy(self, peer: Peer) -> int:
        """The class of its open place; BUSY = it has none."""
        host = peer.host
        children = len(host.uploads)
        if peer.stream < 0 or peer.level < 0 or children >= host.slots or not host.trusted:
            return BUSY
        if children >= self.streams:
            return 3
        return 0 if children < 2 else 1 if children < self.streams // 2 else 2

    def stream_of(self, piece: int) -> int:
        return bisect_right(self._bounds, piece) - 1

    # ------------------------------------------------------------------------------ waiting
    @staticmethod
    def wait(child: Peer, stream: int) -> None:
        """The child wants a place in this tree."""
        assert child.grove is not None
        if not child.waits >> stream & 1:
            child.waits |= 1 << stream
            child.grove.waiting[stream].append(child)

    @staticmethod
    def next_waiting(grove: Grove, stream: int) -> Optional[Peer]:
        """Who has waited longest; it waits no longer."""
        queue = grove.waiting[stream]
        while queue:
            child = queue.popleft()
            child.waits &= ~(1 << stream)
            if child.wants:
                return child
        return None

    def delay(self, child: Peer) -> None:
        """The child gets more when the budget allows: after those that have fewer leases."""
        if not child.delayed:
            child.delayed = True
            self._delayed[min(len(child.leases), self.streams - 1)].append(child)

    @property
    def delays(self) -> bool:
        return any(self._delayed)

    def next_delayed(self) -> Optional[Peer]:
        for queue in self._delayed:
            while queue:
                child = queue.popleft()
                child.delayed = False
                if child.wants:
                    return child
        return None

    def best_stream(self, child: Peer) -> int:
        """Of the trees in which the child could have a place, the one whose places are the least
        busy; -1 = it needs none. Its own comes first: there it makes room for others."""
        grove = child.grove
        assert grove is not None
        best, least = -1, BUSY + 1
        for offset in range(self.streams):
            stream = (max(child.stream, 0) + offset) % self.streams   # not all the same one first
            if not child.waits >> stream & 1 and self.wanted(child, stream):
                if stream == child.stream:
                    return stream
                busy = (grove.openings if grove.placed[stream] else self.everywhere)[stream].least
                if busy < least:
                    best, least = stream, busy
        return best

    def wanted(self, child: Peer, stream: int) -> int:
        """What the child could be leased of this stream: one lease at a time (piece set)."""
        pieces = self.sets[stream]
        return 0 if child.leased & pieces else child.need & pieces

    def below(self, child: Peer, stream: int) -> int:
        """Whom the child may wait for: nodes on levels below this."""
        return child.level if stream == child.stream and child.level >= 0 \
            and child.host.uploads else LEVEL_ANY
