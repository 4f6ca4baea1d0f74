"""The registry of managers: who is near, who is alive, what is refused."""
from __future__ import annotations

import json
from typing import Any

import pytest

from dfly.clock import ManualClock
from dfly.errors import DflyError, ProtocolError, UsageError
from dfly.service.config_server import MANAGERS_MAX, Registry, _registration


def registry() -> "tuple[Registry, ManualClock]":
    clock = ManualClock()
    return Registry(clock, expire_s=30.0), clock


def test_the_nearest_manager_comes_first() -> None:
    known, _ = registry()
    known.register("10.0.0.1:65002", "far", "us/dc9")
    known.register("10.0.0.2:65002", "region", "eu/dc2")
    known.register("10.0.0.3", "near", "eu/dc1/rack7")
    names = [entry.name for entry in known.ranked("eu/dc1/rack7")]
    assert names == ["near", "region", "far"]
    assert known.ranked("")[2].address == "10.0.0.3:65002", "the usual port is filled in"


def test_who_falls_silent_is_forgotten_and_who_speaks_is_kept() -> None:
    known, clock = registry()
    known.register("10.0.0.1:65002", "one", "")
    known.register("10.0.0.2:65002", "two", "")
    clock.advance(20)
    known.register("10.0.0.1:65002", "one again", "")
    clock.advance(20)
    assert [entry.name for entry in known.ranked("")] == ["one again"]


def test_there_is_room_for_so_many_and_no_more() -> None:
    known, _ = registry()
    for number in range(MANAGERS_MAX):
        known.register(f"10.0.{number // 256}.{number % 256}:65002", "m", "")
    with pytest.raises(UsageError, match="no more"):
        known.register("10.9.9.9:65002", "m", "")
    known.register("10.0.0.1:65002", "known ones may go on", "")


@pytest.mark.parametrize("address", ["", ":", "a b", "host:0", "host:99999", "http://x@y/", "h/p"])
def test_an_address_that_cannot_be_is_refused(address: str) -> None:
    known, _ = registry()
    with pytest.raises(UsageError):
        known.register(address, "m", "")


@pytest.mark.parametrize("told", [
    None, [], 1, "x", {}, {"address": 1}, {"address": "h", "name": 3}, {"address": ":0"},
    {"address": ":x"}, {"address": "h" * 300}, {"address": "h", "location": ["eu"]},
])
def test_a_registration_of_another_shape_is_refused(told: Any) -> None:
    with pytest.raises(ProtocolError, match="malformed registration"):
        _registration(json.dumps(told).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 50_000])
def test_a_registration_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(DflyError):
        _registration(body)


def test_names_are_made_safe_to_print() -> None:
    known, _ = registry()
    known.register("10.0.0.1:65002", "evil\x1b[2J\nname", "eu\x00")
    (entry,) = known.ranked("")
    assert entry.name.isprintable() and entry.location.isprintable()
