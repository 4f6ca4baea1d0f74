"""A swarm whose length isn't known: pieces appear as the source gives them."""
from __future__ import annotations

from random import Random
from typing import Dict, List

from dfly.core.cost import LocalityCost
from dfly.core.events import (
    SEED,
    Grant,
    HostJoined,
    PeerJoined,
    PiecesStored,
    SwarmOpened,
    SwarmSized,
)
from dfly.core.scheduler import Scheduler, SchedulerLimits


def test_children_that_joined_before_any_piece_get_each_as_it_appears() -> None:
    scheduler = Scheduler(SchedulerLimits(), LocalityCost(), Random(1))
    got: Dict[int, List[int]] = {1: [], 2: []}
    now = 0.0

    def step(event: object) -> None:
        nonlocal now
        now += 0.01
        for effect in scheduler.step(event, now):   # type: ignore[arg-type]
            if isinstance(effect, Grant):
                got[effect.child] += range(effect.first, effect.first + effect.count)
                step(PiecesStored(1, effect.child, tuple(
                    range(effect.first, effect.first + effect.count))))

    for host in (SEED, 1, 2):
        step(HostJoined(host, (), 8))
    step(SwarmOpened(1, None, 1 << 20))
    for host in (1, 2):
        step(PeerJoined(1, host, 0, True))
    for piece in range(9):
        step(PiecesStored(1, SEED, (piece,)))
        assert got == {1: [*range(piece + 1)], 2: [*range(piece + 1)]}
    step(SwarmSized(1, 10))
    step(PiecesStored(1, SEED, (9,)))
    assert got[1] == got[2] == [*range(10)] and scheduler.active_leases == 0
