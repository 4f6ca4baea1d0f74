"""The hosts of a manager as it knows them: each on its link, with its part in every swarm.

And what they are told of piece digests: with a lease what it brings, as soon as it is known; in
rounds what else came. A round goes through thousands of members a few at a time, so that neither
a piece from the source nor a late joiner costs a turn of the loop that others would wait for.
No decision about leases here, and no message from a host: that is manager.py.
"""
from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Set, Tuple

from dfly.core import events as core
from dfly.core.cost import labels_of
from dfly.digest import SHA256_SIZE
from dfly.net.link import Link
from dfly.service.swarms import LedTask
from dfly.task import count_of, runs_of
from dfly.wire.messages import DIGESTS_MAX, Digests, Hello, Offer

LABELS_MAX = 16
SLOTS_USUAL = 16
SLOTS_FACT_MAX = 1_000       # no host may claim more upload slots
PARENTS_SPARE = 1_000        # told parents that are gone, kept beside twice those that aren't
DIGESTS_EVERY = 64           # pieces from the source after which all members hear digests
SLICE_S = 0.01               # between two turns of the loop in which members are told,
TOLD_PER_S = 5_000           # so many of them a second: a tenth of the loop's time
KEPT_MAX = 4 << 20           # bytes of digests kept to be told once more, as they were encoded


@dataclass
class Member:
    """A host in a swarm: which digests it was told, and which it has leases for without."""

    told: int = 0      # piece set
    awaits: int = 0    # piece set


@dataclass
class HostLink:
    """One peer on its link."""

    number: int
    link: Link
    hello: Optional[Hello] = None
    address: str = ""
    labels: Tuple[str, ...] = ()
    batch_s: float = 0.0   # that it was told
    parents: Set[int] = field(default_factory=lambda: {core.SEED})   # told on this link
    swarms: Dict[int, Member] = field(default_factory=dict)
    offers: Set[str] = field(default_factory=set)   # task ids
    offered: int = 0   # bytes of their piece sets
    joins: int = 0


Hosts = Dict[int, HostLink]


def note_parent(host: HostLink, parent: int, hosts: Mapping[int, HostLink]) -> None:
    """The host knows this parent from now on. Numbers aren't used twice, so those of hosts that
    are gone do no harm: they are dropped when they have become many."""
    host.parents.add(parent)
    if len(host.parents) > PARENTS_SPARE + 2 * len(hosts):
        host.parents = {number for number in host.parents if number in hosts} | {core.SEED}


def location_labels(location: str) -> Tuple[str, ...]:
    """A location's labels, as many as count."""
    return labels_of(location)[:LABELS_MAX]


def size_of(offer: Offer) -> int:
    """Bytes that the piece set of an offer takes while it waits."""
    return offer.have.bit_length() // 8


def slots_of(hello: Hello) -> int:
    """Upload slots that a host claims, within reason."""
    claimed = hello.facts.get("upload_slots", SLOTS_USUAL)
    if not isinstance(claimed, int) or isinstance(claimed, bool):
        return SLOTS_USUAL
    return max(0, min(claimed, SLOTS_FACT_MAX))


class DigestNews:
    """Tells the members of swarms the digests of their pieces."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._rounds: Dict[int, asyncio.TimerHandle] = {}   # by swarm: one goes on
        self._kept: Dict[Tuple[int, int, int], Digests] = {}
        self._kept_bytes = 0

    def stop(self) -> None:
        for timer in self._rounds.values():
            timer.cancel()

    def forget(self, task: LedTask) -> None:
        """The task is over."""
        timer = self._rounds.pop(task.swarm, None)
        if timer is not None:
            timer.cancel()
        for key in [key for key in self._kept if key[0] == task.swarm]:
            self._kept_bytes -= len(self._kept.pop(key).digests)

    # ------------------------------------------------------------------------------ telling
    def tell_of(self, host: HostLink, task: LedTask, pieces: int) -> None:
        """See that the host knows these pieces' digests, now or as soon as there are any."""
        member = host.swarms.get(task.swarm)
        if member is None or not pieces & ~member.told:
            return
        self.tell(host, task)
        member.awaits |= pieces & ~member.told
        if member.awaits:
            task.awaiting.add(host.number)

    def tell(self, host: HostLink, task: LedTask) -> None:
        """All digests that there are and the host doesn't know. Who gives a shared task needs
        none, and what we have of it may come from another, who lies."""
        member = host.swarms.get(task.swarm)
        if member is None or host.number in task.givers:
            return
        known = task.file.known
        for first, count in runs_of(known & ~member.told):
            for start in range(first, first + count, DIGESTS_MAX):
                some = min(DIGESTS_MAX, first + count - start)
                host.link.send(self._digests(task, start, some))
        member.told = known
        member.awaits &= ~known
        if not member.awaits:
            task.awaiting.discard(host.number)

    def _digests(self, task: LedTask, first: int, count: int) -> Digests:
        key = (task.swarm, first, count)
        kept = self._kept.get(key)
        if kept is None:
            kept = Digests(task.swarm, first, task.file.digests(first, count))
            if self._kept_bytes + count * SHA256_SIZE > KEPT_MAX:
                self._kept.clear()
                self._kept_bytes = 0
            self._kept[key] = kept
            self._kept_bytes += count * SHA256_SIZE
        return kept

    # ------------------------------------------------------------------------------- rounds
    def grew(self, task: LedTask) -> None:
        """A piece came from the source. Who has a lease for it hears its digest; who hasn't will
        with his lease, or with every so many pieces, or when all are here: so that nobody is
        lost for long if this manager goes."""
        known = count_of(task.file.known)
        if known - task.news_at >= DIGESTS_EVERY or task.file.complete:
            task.news_for_all, task.news_at = True, known
        if task.swarm not in self._rounds:
            self._begin(task)

    def _begin(self, task: LedTask) -> None:
        known = task.file.known
        if task.news_for_all:
            task.news_for_all = False
            numbers = list(task.members)
        else:
            numbers = [number for number in task.awaiting
                       if self._hosts[number].swarms[task.swarm].awaits & known]
        self._go_on(task, numbers, known, asyncio.get_running_loop().time() - SLICE_S)

    def _go_on(self, task: LedTask, numbers: List[int], known: int, since: float) -> None:
        """Tell as many as the time since the last turn allows; the rest in later ones; then what
        came meanwhile."""
        self._rounds.pop(task.swarm, None)
        loop = asyncio.get_running_loop()
        now = loop.time()
        count = 1 + int((now - since) * TOLD_PER_S)
        for number in numbers[-count:]:
            host = self._hosts.get(number)
            if host is not None:
                self.tell(host, task)
        del numbers[-count:]
        if numbers:
            self._rounds[task.swarm] = loop.call_at(now + SLICE_S, self._go_on, task, numbers,
                                                    known, now)
        elif task.news_for_all or task.file.known != known:
            self._rounds[task.swarm] = loop.call_at(now + SLICE_S, self._begin, task)
