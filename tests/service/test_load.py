"""When a manager has enough: its loop's lag, the joins that wait, the bytes that nobody reads."""
from __future__ import annotations

import asyncio
import random
import time
from typing import List

import pytest

from dfly.service import load as module
from dfly.service.load import Load


def quiet(heard: List[float], works: bool = False, links: int = 0) -> Load:
    return Load(heard.append, lambda: works, lambda: links, random.Random(1))


async def measured(load: Load, heard: List[float], count: int) -> None:
    while len(heard) < count:
        await asyncio.sleep(0.01)


def test_a_late_loop_is_noticed_and_lets_nobody_in_until_it_has_caught_up() -> None:
    async def scenario() -> None:
        heard: List[float] = []
        load = quiet(heard, works=True)
        load.watch()
        await asyncio.sleep(0.01)
        assert load.excess == ""
        load.lag_s = 10.0    # as after many late turns
        await measured(load, heard, 1)
        assert load.excess == "it can't keep up with the peers it has"
        assert load.retry_s() >= 0.5 * module.RETRY_S
        while load.excess:
            await asyncio.sleep(0.05)
        assert heard[0] > heard[-1]
        load.stop()
    asyncio.run(asyncio.wait_for(scenario(), 20.0))


def test_a_turn_that_takes_long_is_measured() -> None:
    async def scenario() -> None:
        heard: List[float] = []
        load = quiet(heard, works=True)
        load.watch()
        await asyncio.sleep(0)
        time.sleep(0.5)   # the loop stands still: what is measured here
        await measured(load, heard, 1)
        load.stop()
        assert 0.3 * module.LAG_SMOOTHING < heard[0] < 5.0
    asyncio.run(scenario())


def test_what_so_many_links_explain_is_no_lag() -> None:
    async def scenario() -> None:
        heard: List[float] = []
        load = quiet(heard, works=True, links=7_000)
        load.watch()
        load.lag_s = 0.1
        await measured(load, heard, 1)
        load.stop()
        assert heard[0] < 0.05
    asyncio.run(scenario())


def test_nothing_is_measured_while_nothing_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAG_EVERY_S", 0.01)
    monkeypatch.setattr(module, "QUIET_ROUNDS", 3)

    async def scenario() -> None:
        heard: List[float] = []
        load = quiet(heard)
        load.watch()
        await measured(load, heard, 3)
        await asyncio.sleep(0.1)
        assert len(heard) == 3 and heard[-1] == 0.0
        load.watch()
        await measured(load, heard, 6)
        load.stop()
    asyncio.run(scenario())


def test_waiting_joins_are_bounded_by_their_bytes() -> None:
    load = quiet([])
    sizes = []
    while not load.joins_full:
        sizes.append(load.join_waits(60_000))
    assert 500 < len(sizes) < 2_000 and load.excess
    for size in sizes:
        load.join_ends(size)
    assert not load.excess


def test_unread_bytes_let_nobody_in() -> None:
    load = quiet([])
    load.backlog.size = module.UNSENT_MAX + 1
    assert load.excess == "its peers read too slowly"


def test_hosts_that_came_at_once_come_back_apart() -> None:
    load = quiet([])
    times = sorted(load.retry_s() for _ in range(1_000))
    assert times[-1] - times[0] > 0.8 * module.RETRY_S and times[0] > 1.0
    load.lag_s = 1e6
    assert max(load.retry_s() for _ in range(100)) <= 1.5 * module.RETRY_MAX_S
