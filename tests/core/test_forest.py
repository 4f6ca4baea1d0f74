"""The trees of a large swarm: places, levels, who waits, who is asked first."""
from __future__ import annotations

import random
from typing import List, Tuple

import pytest

from dfly.core.forest import BUSY, FULL, LEVEL_ANY, Forest
from dfly.core.swarm import Host, Lease, Peer, Swarm
from dfly.task import full_set

PIECES = 16
STREAMS = 4


def planted(level: "int | None" = None) -> Tuple[Swarm, Forest]:
    swarm = Swarm(1, PIECES, 1 << 20)
    forest = Forest(PIECES, STREAMS, level)
    swarm.plant(forest)
    return swarm, forest


def member(swarm: Swarm, number: int, labels: Tuple[str, ...] = (), slots: int = 16,
           have: int = 0) -> Peer:
    peer = Peer(swarm, Host(number, slots, True, labels))
    peer.wants = True
    peer.have = have
    swarm.peers[number] = peer
    peer.host.peers[1] = peer
    assert swarm.forest is not None
    swarm.forest.enrol(peer, 0.0)
    return peer


def hang(child: Peer, parent: Peer, number: int, stream: int) -> Lease:
    lease = Lease(number, child, parent, 4 * stream, 4)
    child.swarm.attach(lease)
    return lease


def picked(forest: Forest, stream: int, busy_max: int = FULL, below: int = LEVEL_ANY
           ) -> List[Peer]:
    openings = forest.everywhere[stream]
    return list(dict.fromkeys(openings.pick(busy_max, 50, random.Random(1), below)))


@pytest.mark.parametrize("pieces", (4, 5, 16, 1023))
def test_streams_share_all_pieces_out(pieces: int) -> None:
    forest = Forest(pieces, STREAMS)
    together = 0
    for stream, part in enumerate(forest.sets):
        assert part and not together & part
        together |= part
        assert {forest.stream_of(piece) for piece in range(pieces) if part >> piece & 1} == {stream}
    assert together == full_set(pieces)


def test_trees_get_equally_many_inner_places() -> None:
    swarm, forest = planted()
    for number in range(1, 42):
        member(swarm, number)
    inner = forest.groves[None].inner
    assert sum(inner) == 41 and max(inner) - min(inner) <= 1


def test_a_host_without_slots_or_trust_has_no_children() -> None:
    swarm, forest = planted()
    assert member(swarm, 1, slots=0).stream == -1
    assert forest.groves[None].inner == [0] * STREAMS


def test_the_idle_are_asked_first_then_the_ones_near_the_root() -> None:
    swarm, forest = planted()
    peers = [member(swarm, number) for number in range(1, 10)]
    root, deep = peers[0], peers[4]              # both of stream 0
    assert root.stream == deep.stream == 0
    forest.stand(root, 0)
    forest.stand(deep, 3)
    assert picked(forest, 0) == [root, deep]
    leases = [hang(peers[position], root, position, 0) for position in (1, 2)]
    assert picked(forest, 0) == [deep, root]     # with two children it is busier
    leases += [hang(peers[position], root, position, 0) for position in (3, 5, 6)]
    assert picked(forest, 0, busy_max=FULL - 1) == [deep]
    for lease in leases:
        swarm.detach(lease)
    assert picked(forest, 0) == [root, deep]


def test_who_has_children_waits_only_for_lower_levels_and_keeps_his_own() -> None:
    swarm, forest = planted()
    peers = [member(swarm, number) for number in range(1, 10)]
    upper, lower = peers[0], peers[4]
    forest.stand(upper, 0)
    forest.stand(lower, 2)
    assert forest.below(lower, 0) == LEVEL_ANY    # nobody hangs on it yet
    hang(peers[1], lower, 1, 0)
    assert forest.below(lower, 0) == 2
    assert picked(forest, 0, below=2) == [upper]
    forest.stand(lower, 1)
    assert lower.level == 2
    assert forest.below(lower, 1) == LEVEL_ANY    # a leaf there


def test_who_leaves_takes_its_place_along() -> None:
    swarm, forest = planted()
    peer = member(swarm, 1, have=full_set(PIECES))
    assert picked(forest, peer.stream) == [peer]   # holds its stream: a place at once
    stream = peer.stream
    forest.leave(peer)
    assert picked(forest, stream) == [] and peer.busy == BUSY
    assert forest.groves[None].inner[stream] == forest.groves[None].placed[stream] == 0
    forest.leave(peer)                             # twice is once


def test_who_waits_longest_is_first_and_who_has_least_is_before() -> None:
    swarm, forest = planted()
    peers = [member(swarm, number) for number in range(1, 5)]
    grove = forest.groves[None]
    for peer in (peers[2], peers[0], peers[2]):
        forest.wait(peer, 1)
    assert forest.next_waiting(grove, 1) is peers[2]
    peers[0].wants = False
    assert forest.next_waiting(grove, 1) is None
    hang(peers[0], peers[1], 1, 0)
    peers[0].wants = True
    forest.delay(peers[0])
    forest.delay(peers[3])
    assert [forest.next_delayed(), forest.next_delayed()] == [peers[3], peers[0]]
    assert not forest.delays and forest.next_delayed() is None


def test_a_location_has_a_grove_of_its_own() -> None:
    swarm, forest = planted(level=0)
    here = [member(swarm, number, ("r1",), have=full_set(PIECES)) for number in range(1, 5)]
    there = member(swarm, 9, ("r2",))
    assert here[0].grove is here[1].grove is not there.grove
    assert there.grove is not None and there.grove.openings[0].least == BUSY
    assert len(picked(forest, here[0].stream)) == 1    # known everywhere, too
    assert here[0].grove is not None and here[0].grove.openings[here[0].stream].least == 0


def test_a_location_that_everybody_has_left_is_forgotten() -> None:
    swarm, forest = planted(level=0)
    for number in range(100):
        passing = member(swarm, number, (f"r{number}",))
        forest.leave(passing)
        swarm.leave(passing)
    assert list(forest.groves) == [None] and not swarm.groups
