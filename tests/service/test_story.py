"""Where the time of a download went, as its story books it."""
from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from dfly.clock import ManualClock
from dfly.service.story import TROUBLES_MAX, ParentStory, Story, Troubles


def download_at(clock: ManualClock) -> Any:
    return SimpleNamespace(
        file=SimpleNamespace(written=0, disk_s=0.0, have=0, known=0), led_by="m:1", runs=0,
        uses_source=False, troubles=Troubles(clock), losses=Troubles(clock),
        parents_told=lambda: {("192.0.2.1", 7): ParentStory("peers", 10, 2, 1, 1.5),
                              ("192.0.2.2", 7): ParentStory("manager", 30, 1)})


@pytest.mark.parametrize("led, known, has_runs, uses_source, where", [
    ("m:1", 0b10, 1, False, "parents_s"),   # somebody has it, and it doesn't come
    ("m:1", 0b01, 0, False, "source_s"),    # nobody has more than we: the manager waits, too
    ("m:1", 0b10, 0, True, "source_s"),     # on our own
    ("", 0, 0, True, "source_s"),
])
def test_a_wait_is_booked_on_whom_it_was_for(led: str, known: int, has_runs: int,
                                             uses_source: bool, where: str) -> None:
    async def scene() -> Any:
        clock = ManualClock()
        download = download_at(clock)
        download.led_by, download.runs, download.uses_source = led, has_runs, uses_source
        download.file.have, download.file.known = 0b01, known
        clock.advance(0.5)
        story = Story(download, clock, began_at=0.0)
        clock.advance(2)
        story._look()
        download.file.written += 5
        download.file.disk_s += 0.25
        clock.advance(1)
        told = story.told(done_at=3.0)
        story.end()
        return told
    told = asyncio.run(scene())
    assert (told["total_s"], told["asked_s"], told["check_s"]) == (3.5, 0.5, 0.5)
    assert told["moving_s"] == 1 and told[where] == 2 and told["disk_s"] == 0.25
    assert sum(told[name] for name in ("asked_s", "moving_s", "source_s", "parents_s")) == 3.5


def test_parents_are_told_by_what_they_gave() -> None:
    async def scene() -> Any:
        clock = ManualClock()
        story = Story(download_at(clock), clock, 0.0)
        story.end()
        return story.told(0.0)["parents"]
    first, second = asyncio.run(scene())
    assert (first["address"], first["bytes"], first["origin"]) == ("192.0.2.2:7", 30, "manager")
    assert (second["runs"], second["failed"], second["seconds"]) == (2, 1, 1.5)


def test_troubles_are_bounded_and_tell_how_many_are_forgotten() -> None:
    clock = ManualClock()
    troubles = Troubles(clock)
    for number in range(TROUBLES_MAX + 7):
        clock.advance(1)
        troubles.add(f"no {number}\x1b")
    assert troubles.forgotten == 7 and len(troubles.since(0)) == TROUBLES_MAX
    assert troubles.since(1.0)[-1] == {"at_s": TROUBLES_MAX + 6.0,
                                       "what": f"no {TROUBLES_MAX + 6}\\x1b"}
