"""When a manager has enough: its loop's lag, the joins that wait, the bytes that nobody reads."""
from __future__ import annotations

import asyncio
import random
import time
from typing import List

import pytest

from dfly.service import load as module
from dfly.service.load import Load


class Heard:
    """What a Load tells of its loop's lag."""

    def __init__(self) -> None:
        self.all: List[float] = []
        self._more = asyncio.Event()

    def note(self, lag_s: float) -> None:
        self.all.append(lag_s)
        self._more.set()

    async def next(self) -> float:
        self._more.clear()
        await asyncio.wait_for(self._more.wait(), 10.0)
        return self.all[-1]


def load_of(heard: Heard, works: bool = True, links: int = 0) -> Load:
    return Load(heard.note, lambda: works, lambda: links, random.Random(1))


def unwatched() -> Load:
    return Load(lambda lag_s: None, lambda: False, lambda: 0, random.Random(1))


def stand_still() -> None:
    time.sleep(0.5)


def test_a_late_loop_lets_nobody_in_until_it_has_caught_up() -> None:
    async def scenario() -> None:
        heard = Heard()
        load = load_of(heard)
        load.watch()
        assert load.excess == ""
        load.lag_s = 10.0    # as after many late turns
        first = await heard.next()
        assert load.excess == "it can't keep up with the peers it has"
        assert load.retry_s() >= 0.5 * module.RETRY_S
        while load.excess:
            assert await heard.next() < first
        load.stop()
    asyncio.run(scenario())


def test_a_turn_that_takes_long_is_measured() -> None:
    async def scenario() -> None:
        heard = Heard()
        load = load_of(heard)
        load.watch()
        asyncio.get_running_loop().call_soon(stand_still)
        lag_s = await heard.next()
        load.stop()
        assert 0.3 * module.LAG_SMOOTHING < lag_s < 5.0
    asyncio.run(scenario())


def test_what_so_many_links_explain_is_no_lag() -> None:
    async def scenario() -> None:
        heard = Heard()
        load = load_of(heard, links=7_000)
        load.watch()
        load.lag_s = 0.1
        assert await heard.next() < 0.05
        load.stop()
    asyncio.run(scenario())


def test_nothing_is_measured_while_nothing_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAG_EVERY_S", 0.01)
    monkeypatch.setattr(module, "QUIET_ROUNDS", 3)

    async def scenario() -> None:
        heard = Heard()
        load = load_of(heard, works=False)
        for rounds in (3, 6):
            load.watch()
            while len(heard.all) < rounds:
                await heard.next()
            await asyncio.sleep(0.1)
            assert len(heard.all) == rounds and heard.all[-1] == 0.0
        load.stop()
    asyncio.run(scenario())


def test_waiting_joins_are_bounded_by_their_bytes() -> None:
    load = unwatched()
    sizes = []
    while not load.joins_full:
        sizes.append(load.join_waits(60_000))
    assert 500 < len(sizes) < 2_000 and load.excess
    for size in sizes:
        load.join_ends(size)
    assert not load.excess


def test_unread_bytes_let_nobody_in() -> None:
    load = unwatched()
    load.backlog.size = module.UNSENT_MAX + 1
    assert load.excess == "its peers read too slowly"


def test_hosts_that_came_at_once_come_back_apart() -> None:
    load = unwatched()
    times = sorted(load.retry_s() for _ in range(1_000))
    assert times[-1] - times[0] > 0.8 * module.RETRY_S and times[0] > 1.0
    load.lag_s = 1e6
    assert max(load.retry_s() for _ in range(100)) <= 1.5 * module.RETRY_MAX_S
