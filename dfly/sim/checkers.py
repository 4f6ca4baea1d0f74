"""What must hold in every run, watched from outside the scheduler.

A checker sees what the manager is told and what it orders, keeps its own books, and raises
CheckFailed with one line. Checkers share no state with the scheduler, so that a mistake in its
books can't hide itself.
"""
from __future__ import annotations

from typing import Dict, Iterable, List, Set

from dfly.core.events import SEED, Grant, HostLost, LeaseEnded, PeerLeft, PiecesStored
from dfly.task import run_set, set_of

CYCLE_EVERY = 4  # times as many grants as active leases between two searches for a cycle


class CheckFailed(AssertionError):
    """A run broke a rule."""


class LeaseBook:
    """Every lease that is under way, from grants and facts alone."""

    def __init__(self) -> None:
        self.grants: Dict[int, Grant] = {}
        self.left: Dict[int, int] = {}
        self.as_child: Dict[int, List[int]] = {}
        self.as_parent: Dict[int, List[int]] = {}

    def granted(self, grant: Grant) -> None:
        self.grants[grant.lease] = grant
        self.left[grant.lease] = run_set(grant.first, grant.count)
        self.as_child.setdefault(grant.child, []).append(grant.lease)
        self.as_parent.setdefault(grant.parent, []).append(grant.lease)

    def ended(self, lease: int) -> None:
        grant = self.grants.pop(lease, None)
        if grant is not None:
            del self.left[lease]
            self.as_child[grant.child].remove(lease)
            self.as_parent[grant.parent].remove(lease)

    def stored(self, event: PiecesStored) -> None:
        got = set_of(event.pieces)
        for lease in list(self.as_child.get(event.host, ())):
            self.left[lease] &= ~got
            if not self.left[lease]:
                self.ended(lease)

    def lost(self, host: int) -> None:
        for lease in [*self.as_child.get(host, ()), *self.as_parent.get(host, ())]:
            self.ended(lease)

    def leased_to(self, host: int) -> int:
        """Pieces that leases under way are bringing to this host."""
        pieces = 0
        for lease in self.as_child.get(host, ()):
            pieces |= self.left[lease]
        return pieces


class Checkers:
    """The rules, asked at every grant and fact of one swarm."""

    def __init__(self, slots: Dict[int, int], full: int) -> None:
        self.book = LeaseBook()
        self._slots = slots
        self._full = full
        self._held: Dict[int, int] = {}    # what each host has reported
        self._gone: Set[int] = set()
        self._from_source = 0
        self._since_search = 0

    # ---------------------------------------------------------------------------- facts
    def joined(self, host: int, have: int) -> None:
        self._held[host] = have
        self._gone.discard(host)

    def told(self, event: object) -> None:
        """The manager is about to be told this."""
        if isinstance(event, PiecesStored):
            self._held[event.host] = self._held.get(event.host, 0) | set_of(event.pieces)
            self.book.stored(event)
            if event.host == SEED:
                self._source_sent(set_of(event.pieces))
        elif isinstance(event, LeaseEnded):
            self.book.ended(event.lease)
        elif isinstance(event, (HostLost, PeerLeft)):
            self._gone.add(event.host)
            self._held.pop(event.host, None)
            self.book.lost(event.host)

    def _source_sent(self, pieces: int) -> None:
        if pieces & self._from_source:
            raise CheckFailed("a piece left the source twice")
        self._from_source |= pieces

    # --------------------------------------------------------------------------- orders
    def granted(self, grant: Grant) -> None:
        pieces = run_set(grant.first, grant.count)
        if pieces & ~self._full:
            raise CheckFailed(f"lease {grant.lease}: pieces that don't exist")
        if grant.parent in self._gone or grant.child in self._gone:
            raise CheckFailed(f"lease {grant.lease}: a host that is gone")
        if grant.parent == grant.child:
            raise CheckFailed(f"lease {grant.lease}: a host is its own parent")
        self._check_able(grant, pieces)
        self.book.granted(grant)
        serving = len(self.book.as_parent[grant.parent])
        if serving > self._slots[grant.parent]:
            raise CheckFailed(f"host {grant.parent} serves {serving} leases with "
                              f"{self._slots[grant.parent]} slots")
        self._since_search += 1
        if self._since_search > len(self.book.grants) * CYCLE_EVERY:
            self._since_search = 0
            self.search_cycle()

    def _check_able(self, grant: Grant, pieces: int) -> None:
        """No piece is leased from a host that can't get it."""
        if grant.parent == SEED:
            return  # what it doesn't have yet, it gets from the source
        able = self._held.get(grant.parent, 0) | self.book.leased_to(grant.parent)
        if pieces & ~able:
            raise CheckFailed(f"lease {grant.lease}: host {grant.parent} neither has nor gets "
                              f"its pieces")

    def withdrawn(self, lease: int) -> None:
        self.book.ended(lease)

    def search_cycle(self) -> None:
        """No lease waits for itself through others (Kahn's algorithm over what waits)."""
        book = self.book
        waits: Dict[int, List[int]] = {}
        for lease, grant in book.grants.items():
            missing = book.left[lease] & ~self._held.get(grant.parent, 0)
            waits[lease] = [above for above in book.as_child.get(grant.parent, ())
                            if missing & book.left[above]] if missing else []
        pending = {lease: len(above) for lease, above in waits.items()}
        below: Dict[int, List[int]] = {}
        for lease, above in waits.items():
            for upper in above:
                below.setdefault(upper, []).append(lease)
        free = [lease for lease, count in pending.items() if not count]
        done = 0
        while free:
            lease = free.pop()
            done += 1
            for lower in below.get(lease, ()):
                pending[lower] -= 1
                if not pending[lower]:
                    free.append(lower)
        if done != len(waits):
            raise CheckFailed(f"{len(waits) - done} leases wait for each other in a circle")

    def finished(self, incomplete: Iterable[int]) -> None:
        """Every live host that wants the task ends with all of it."""
        self.search_cycle()
        missing = list(incomplete)
        if missing:
            raise CheckFailed(f"{len(missing)} live hosts never finished (first: host "
                              f"{missing[0]})")
