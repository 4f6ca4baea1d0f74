from __future__ import annotations

from typing import List

import pytest

from dfly.errors import NoSpace
from dfly.store.eviction import Room, Tenant, choose_victims

ROOM = Room("the store", 100, 0.9, 0.6)


def tenants(*sizes: int, fixed: str = "") -> List[Tenant]:
    """Tasks a, b, c ... of these sizes; those named in `fixed` may not go."""
    return [Tenant(name, size, name not in fixed) for name, size in zip("abcdef", sizes)]


@pytest.mark.parametrize("size, victims", [
    (0, []), (10, []), (11, ["a", "b"]), (20, ["a", "b"]), (21, ["a", "b", "c"]),
    (100, ["a", "b", "c", "d"])])
def test_oldest_first_down_to_the_low_mark(size: int, victims: List[str]) -> None:
    assert choose_victims(ROOM, tenants(20, 20, 20, 20), size) == victims


def test_what_may_not_go_is_passed_over() -> None:
    assert choose_victims(ROOM, tenants(20, 20, 20, 20, fixed="ac"), 20) == ["b", "d"]


def test_above_the_low_mark_is_well_if_it_fits() -> None:
    assert choose_victims(ROOM, tenants(80, 5, fixed="a"), 20) == ["b"]


def test_the_impossible_evicts_nothing_and_tells_numbers() -> None:
    with pytest.raises(NoSpace, match="can't hold 61 B more: it may use 100 B, of which 40 B"):
        choose_victims(ROOM, tenants(40, 20, 20, fixed="a"), 61)


def test_what_frees_nothing_stays() -> None:
    assert choose_victims(ROOM, tenants(0, 50, 0, 45), 0) == ["b"]
