"""A forest for a large swarm: few long leases a host, each stream of pieces down its own tree.

A manager that may grant a host no more than a handful of leases cuts the task into that many
streams (SplitStream: Castro and others, 2003). A host is an inner node of one tree, its own
stream's, with about as many children as there are streams, and a leaf of the others: so it sends
what it receives, and every piece is passed on as it comes (cut-through). The time for a piece to
reach everybody is streams x log(hosts) / log(streams) pieces' time, least for about three, and
little more for four or five.

Waiting never goes round in a circle: who waits for a piece in a tree stands on a higher level
than whom he waits for, and a node with children keeps its level when it needs another parent.
Places in trees are found in constant time: pools of open nodes by their children and level.
State and the choice of places; leases are leases.py's.
"""
from __future__ import annotations

import random
from bisect import bisect_right
from collections import deque
from typing import Deque, Iterator, List, Optional

from dfly.core.events import SEED
from dfly.core.swarm import Peer, Pool
from dfly.task import lowest, run_set

BUSY = 4             # classes of open nodes: 0 or 1 child, up to half full, up to full, over full
LEVEL_ANY = 1 << 30  # a child on which nobody waits stands above all


class Openings:
    """Nodes of one tree that can take one more child."""

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

    def pick(self, busy_max: int, tries: int, rng: random.Random) -> Iterator[Peer]:
        """A few that could do: the least busy first, of these the ones nearest to the root."""
        for busy in range(busy_max + 1):
            levels = self._levels[busy]
            while levels and tries > 0:
                pool = self._pools[busy][lowest(levels)]
                for _ in range(min(tries, len(pool))):
                    yield pool.pick(rng)
                    tries -= 1
                levels &= levels - 1


class Forest:
    """The trees of one swarm, and who waits for a place in them."""

    def __init__(self, piece_count: int, streams: int) -> None:
        assert piece_count >= streams > 1, (piece_count, streams)
        bounds = [piece_count * stream // streams for stream in range(streams + 1)]
        self.sets = [run_set(first, stop - first) for first, stop in zip(bounds, bounds[1:])]
        self._bounds = bounds
        self.streams = streams
        self.inner = [0] * streams                  # nodes that have children, or may
        self.openings = [Openings() for _ in range(streams)]
        self.waiting: List[Deque[Peer]] = [deque() for _ in range(streams)]   # for a place
        self._delayed: List[Deque[Peer]] = [deque() for _ in range(streams)]  # by the budget
        self.joined_at = 0.0                        # when somebody came last

    # -------------------------------------------------------------------------- inner nodes
    def enrol(self, peer: Peer, now: float) -> None:
        """Make the peer an inner node of the tree that has the fewest."""
        host = peer.host
        if peer.stream >= 0 or host.slots < 1 or not host.trusted or host.number == SEED:
            return
        self.joined_at = now
        peer.stream = min(range(self.streams), key=self.inner.__getitem__)
        self.inner[peer.stream] += 1
        if not self.sets[peer.stream] & ~peer.have:
            self.stand(peer, 0)

    def leave(self, peer: Peer) -> None:
        if peer.stream >= 0:
            self._close(peer)
            self.inner[peer.stream] -= 1
            peer.stream = -1

    def stand(self, peer: Peer, level: int) -> None:
        """The peer has a place in its own tree; with children there it keeps the one it had."""
        if peer.level < 0 or not peer.host.uploads:
            self._close(peer)
            peer.level = level
        self.refresh(peer)

    def refresh(self, peer: Peer) -> None:
        """Note how busy the node is now."""
        busy = self._busy(peer)
        if busy != peer.busy:
            self._close(peer)
            if busy < BUSY:
                self.openings[peer.stream].add(peer, busy)
                peer.busy = busy

    def _close(self, peer: Peer) -> None:
        if peer.busy < BUSY:
            self.openings[peer.stream].discard(peer, peer.busy)
            peer.busy = BUSY

    def _busy(self, peer: Peer) -> int:
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
    def wait(self, child: Peer, stream: int) -> None:
        """The child wants a place in this tree."""
        if not child.waits >> stream & 1:
            child.waits |= 1 << stream
            self.waiting[stream].append(child)

    def next_waiting(self, stream: int) -> Optional[Peer]:
        """Who has waited longest; it waits no longer."""
        queue = self.waiting[stream]
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
        best, least = -1, BUSY + 1
        for stream in range(self.streams):
            if not child.waits >> stream & 1 and self.wanted(child, stream):
                if stream == child.stream:
                    return stream
                busy = self.openings[stream].least
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
