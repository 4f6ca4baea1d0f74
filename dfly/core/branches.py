"""Leases in a forest: who hangs where in the trees of a large swarm, and who waits for a place.

A child has one lease in every tree. Whoever makes room for others in his own tree, or has nothing
at all, gets a lease at once; the rest wait for the manager's budget, those with the fewest leases
first, and places for inner ones are kept free while hosts still come. A lease that is revoked or
lost leaves a run that is branched again elsewhere; towards the end a child shares out what is
slow. The trees are forest.py's, the leases leases.py's.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Optional

from dfly.core.forest import BUSY, FULL, Forest, Grove
from dfly.core.swarm import Peer, Swarm
from dfly.task import count_of, lowest

if TYPE_CHECKING:
    from dfly.core.leases import Leases

GROVE_LEAST = 4     # peers at a location, on average, that make it one to keep pieces in
SHARED_LEAST = 8    # pieces of half a lease that are worth a lease of their own


class Branches:
    """Grants the leases of forests."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    def is_vast(self, swarm: Swarm) -> bool:
        """The budget allows each host so few leases that the swarm becomes a forest now."""
        limits, count = self._leases.limits, len(swarm.copies)
        if swarm.wanting < limits.forest_hosts or not swarm.sized \
                or count < 2 * limits.forest_streams \
                or self._leases.pacing.run_length(swarm.piece_size) * limits.forest_runs < count:
            return False
        for peer in swarm.peers.values():     # else the many short runs would be in the way
            for lease in list(peer.leases.values()):
                self._leases.end(lease, tell=True)
        forest = Forest(count, limits.forest_streams, self._grove_level(swarm))
        swarm.plant(forest)
        self._leases.pacing.spend()   # else leaves sit near the roots, and trees grow deep
        for peer in swarm.peers.values():
            forest.enrol(peer, self._leases.now)
            peer.listed = peer.holders_only = 0
            if peer.wants:
                self._leases.to_fill.append(peer)
            swarm.hungry.discard(peer)
        return True

    @staticmethod
    def _grove_level(swarm: Swarm) -> Optional[int]:
        """The narrowest level of location at which several peers stand together."""
        groups: Dict[int, int] = {}
        for labels in swarm.groups:
            groups[len(labels)] = groups.get(len(labels), 0) + 1
        able = [level for level, count in groups.items()
                if count <= len(swarm.peers) // GROVE_LEAST]
        return max(able) - 1 if able else None

    def fill(self, child: Peer) -> None:
        """A place in every tree for the child, one after the other."""
        forest = child.swarm.forest
        assert forest is not None
        if not child.need:
            if child.leases and not child.ending:
                self._leases.begin_endgame(child)
            self._share(child)
            return
        child.ending = False
        forest.enrol(child, self._leases.now)
        while True:
            stream = forest.best_stream(child)
            if stream < 0:
                return
            if stream != child.stream and child.leases \
                    and (forest.delays or not self._leases.may_grant):
                forest.delay(child)   # who makes room for others or has nothing doesn't wait
                self._leases.tend_later(child.swarm)
                return
            self._branch_or_wait(child, stream)

    def _branch(self, child: Peer, stream: int, want: int, orphan: bool = False) -> bool:
        """Lease a run of a tree's pieces. Places are kept for inner ones while these come."""
        forest = child.swarm.forest
        assert forest is not None
        busy_max = FULL
        if stream != child.stream and not orphan:
            busy_max = self._busy_max(forest)
        offer = self._leases.choose.for_branch(child, stream, want, busy_max, self._leases.now)
        if offer is None and orphan:
            offer = self._leases.choose.for_orphan(child, want, self._leases.now)
        if offer is None:
            return False
        lease = self._leases.grant(child, offer, stream=stream)
        if stream == child.stream:
            forest.stand(child, lease.depth)
            self._leases.to_serve.append(child)
        return True

    def _busy_max(self, forest: Forest) -> int:
        """How busy a place for a leaf may be: fewer are left for who may come while hosts do."""
        settled = self._leases.now - forest.joined_at > self._leases.limits.settled_s
        return 2 if settled else 1

    def _branch_or_wait(self, child: Peer, stream: int) -> None:
        """A place in this tree, or in the queue for one."""
        forest = child.swarm.forest
        assert forest is not None
        if not self._branch(child, stream, forest.wanted(child, stream)):
            forest.wait(child, stream)
            self._leases.look_again(child.swarm)

    def _share(self, child: Peer) -> None:
        """A child with a tree's time to spare has the second half of its longest lease from
        somebody who is through with his own work: so all end together, however slow a branch."""
        forest, grove = child.swarm.forest, child.grove
        assert forest is not None
        if grove is None or not 0 < len(child.leases) < forest.streams \
                or not self._leases.may_grant:
            return
        lease = max(child.leases.values(), key=lambda lease: count_of(lease.left))
        count = count_of(lease.left)
        if count < 2 * SHARED_LEAST:
            return
        half = lowest(lease.left) + count // 2
        rest = lease.left >> half << half
        openings = grove.openings[forest.stream_of(half)]
        if not rest or openings.least > 0:
            return
        offer = self._leases.choose.for_share(child, openings, rest, self._leases.now)
        if offer is not None:
            lease.left &= ~rest
            lease.hedged = True   # so that it is withdrawn when it has brought the first half
            self._leases.grant(child, offer, stream=forest.stream_of(half))

    def tend(self, swarm: Swarm) -> None:
        """The budget has room again: for those with the fewest leases first."""
        forest = swarm.forest
        assert forest is not None
        while self._leases.granted < self._leases.stop_at and self._leases.may_grant:
            child = forest.next_delayed()
            if child is None:
                break
            stream = forest.best_stream(child)
            if stream < 0:
                continue
            self._branch_or_wait(child, stream)
            forest.delay(child)
        if forest.delays:
            self._leases.tend_later(swarm)

    def _place_next(self, swarm: Swarm, grove: Grove, stream: int, orphans: bool = False) -> bool:
        """A place in this tree for who waits longest for one. False if it can't be had."""
        forest = swarm.forest
        assert forest is not None
        if not orphans and grove.openings[stream].least > self._busy_max(forest):
            return False
        if self._leases.granted >= self._leases.stop_at:
            return False
        child = forest.next_waiting(grove, stream)
        if child is None:
            return False
        want = forest.wanted(child, stream)
        if not want:
            return True
        if child.leases and not self._leases.may_grant:
            forest.delay(child)
            self._leases.tend_later(swarm)
            return True
        late = orphans and self._leases.now - child.hungry_at > self._leases.limits.retry_s
        if self._branch(child, stream, want, late):
            return True
        forest.wait(child, stream)
        return False

    def serve(self, parent: Peer) -> None:
        """The parent may have room for those that wait for a place in its tree."""
        grove = parent.grove
        if parent.busy < BUSY and grove is not None:
            while grove.waiting[parent.stream] \
                    and self._place_next(parent.swarm, grove, parent.stream):
                pass

    def retry(self, swarm: Swarm) -> bool:
        """Look again at all that wait; who has waited long takes any place. True if some are
        left."""
        assert swarm.forest is not None
        left = False
        for grove in swarm.forest.groves.values():
            for stream, waiting in enumerate(grove.waiting):
                while waiting and self._place_next(swarm, grove, stream, orphans=True):
                    pass
                left = left or bool(waiting)
        return left
