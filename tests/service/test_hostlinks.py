"""Who hears of which digests, and when: a few members a turn, each digest once."""
from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Dict, List, Set

import pytest

from dfly.core import events as core
from dfly.service import hostlinks as module
from dfly.service.hostlinks import DigestNews, HostLink, Member, note_parent, slots_of
from dfly.task import full_set, run_set, set_of
from dfly.wire.messages import Digests, Hello, Message, decode


@dataclass
class File:
    """The digests of a task's file; `pieces` there will be."""

    pieces: int
    known: int = 0

    @property
    def complete(self) -> bool:
        return self.known == full_set(self.pieces)

    def digests(self, first: int, count: int) -> bytes:
        assert not run_set(first, count) & ~self.known
        return b"".join(piece.to_bytes(32, "big") for piece in range(first, first + count))


@dataclass
class Task:
    file: File
    swarm: int = 1
    members: Set[int] = field(default_factory=set)
    awaiting: Set[int] = field(default_factory=set)
    givers: Set[int] = field(default_factory=set)
    news_for_all: bool = False
    news_at: int = 0


@dataclass
class Ear:
    """A link that notes the pieces whose digests it was told."""

    heard: List[int] = field(default_factory=list)
    frames: Set[int] = field(default_factory=set)   # ids of the encoded bytes

    def send(self, message: Message) -> None:
        assert isinstance(message, Digests)
        frame = message.encode()
        self.frames.add(id(frame))
        told = decode(message.code, frame[6:])
        assert told == message
        self.heard += range(message.first, message.first + len(message.digests) // 32)


class Scene:
    """A task with so many pieces and members, and their links."""

    def __init__(self, pieces: int, members: int) -> None:
        self.file = File(pieces)
        self.task: Any = Task(self.file)
        self.ears: Dict[int, Ear] = {}
        self.hosts: Dict[int, HostLink] = {}
        self.news = DigestNews(self.hosts)
        for number in range(1, members + 1):
            ear: Any = Ear()
            self.ears[number] = ear
            self.hosts[number] = HostLink(number, ear, swarms={1: Member()})
            self.task.members.add(number)

    def come(self, *pieces: int) -> None:
        """Pieces come from the source."""
        for piece in pieces:
            self.file.known |= 1 << piece
            self.news.grew(self.task)

    def lease(self, host: int, pieces: int) -> None:
        self.news.tell_of(self.hosts[host], self.task, pieces)

    def lose(self, host: int) -> None:
        del self.hosts[host]
        self.task.members.discard(host)
        self.task.awaiting.discard(host)


def test_a_lease_brings_what_is_known_and_what_it_waits_for_as_it_comes() -> None:
    async def story() -> None:
        scene = Scene(pieces=1_000, members=3)
        scene.come(0, 1)
        scene.lease(2, set_of([1, 5]))
        assert set(scene.ears[2].heard) == {0, 1}
        scene.come(4)
        assert 4 not in scene.ears[2].heard   # nobody waits for it
        await settled(scene)
        scene.come(5)
        await settled(scene)
        assert sorted(scene.ears[2].heard) == [0, 1, 4, 5]
        assert scene.ears[1].heard == [] and not scene.task.awaiting
        scene.news.stop()
    asyncio.run(story())


def test_who_gives_a_shared_task_is_told_no_digest_of_it() -> None:
    """It has them, and those that came from another giver may be made up."""
    async def story() -> None:
        scene = Scene(pieces=3, members=2)
        scene.task.givers.add(1)
        scene.come(0, 1, 2)
        await settled(scene)
        assert scene.ears[1].heard == [] and scene.ears[2].heard == [0, 1, 2]
        scene.news.stop()
    asyncio.run(story())


def test_every_so_many_pieces_and_at_the_end_all_hear_each_digest_once() -> None:
    async def story() -> None:
        scene = Scene(pieces=200, members=300)
        for start in range(0, 200, 10):
            scene.come(*range(start, start + 10))
            await asyncio.sleep(0)
        await settled(scene)
        for ear in scene.ears.values():
            assert sorted(ear.heard) == list(range(200))
        scene.news.stop()
    asyncio.run(story())


def test_a_round_never_tells_thousands_in_one_turn() -> None:
    async def story() -> None:
        scene = Scene(pieces=1, members=2_000)
        scene.come(0)
        turns = []
        while sum(turns) < 2_000:
            before = sum(len(ear.heard) for ear in scene.ears.values())
            turns.append(before - sum(turns))
            await asyncio.sleep(0)
        assert turns[1] <= 1 + module.TOLD_PER_S * module.SLICE_S + 5
        await settled(scene)
        assert all(ear.heard == [0] for ear in scene.ears.values())
        # All were told the same bytes: encoded once.
        assert len({frame for ear in scene.ears.values() for frame in ear.frames}) == 1
    asyncio.run(story())


def test_hosts_that_go_during_a_round_are_passed_over_and_an_ended_task_forgotten() -> None:
    async def story() -> None:
        scene = Scene(pieces=1, members=500)
        scene.come(0)
        for number in range(1, 400):
            scene.lose(number)
        scene.hosts[400].swarms.clear()   # left the swarm, but is still there
        await settled(scene)
        assert scene.ears[450].heard == [0] and scene.ears[400].heard == []

        other = Scene(pieces=1, members=500)
        other.come(0)
        other.news.forget(other.task)
        told = sum(len(ear.heard) for ear in other.ears.values())
        await asyncio.sleep(0.1)
        assert sum(len(ear.heard) for ear in other.ears.values()) == told < 500
    asyncio.run(story())


def test_kept_digests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_MAX", 3 * 32)
    scene = Scene(pieces=100, members=1)
    scene.file.known = full_set(100)
    for piece in range(50):
        scene.hosts[1].swarms[1].told = ~(1 << piece)
        scene.news.tell(scene.hosts[1], scene.task)
        assert len(scene.news._kept) <= 3
    assert scene.ears[1].heard == list(range(50))


def test_parents_that_are_gone_are_dropped_when_they_have_become_many() -> None:
    scene = Scene(pieces=1, members=2)
    for number in range(10, 10 + 3 * module.PARENTS_SPARE):
        note_parent(scene.hosts[1], number, scene.hosts)
    note_parent(scene.hosts[1], 2, scene.hosts)
    assert len(scene.hosts[1].parents) <= module.PARENTS_SPARE + 4
    assert {core.SEED, 2} <= scene.hosts[1].parents


@pytest.mark.parametrize("claim, slots", [
    (8, 8), (-3, 0), (10 ** 9, module.SLOTS_FACT_MAX), ("8", module.SLOTS_USUAL),
    (True, module.SLOTS_USUAL), (None, module.SLOTS_USUAL), (2.5, module.SLOTS_USUAL)])
def test_slots_are_what_a_host_claims_within_reason(claim: object, slots: int) -> None:
    assert slots_of(Hello(bytes(16), 1, facts={"upload_slots": claim})) == slots


async def settled(scene: Scene) -> None:
    """Until no round goes on."""
    for _ in range(2_000):
        if not scene.news._rounds:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("a round did not end")
