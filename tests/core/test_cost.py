"""Predicted times: near before far, idle before busy, what was shown before what was guessed."""
from __future__ import annotations

import math

import pytest

from dfly.core.cost import FARTHER, FIRST_GUESS_BPS, TRUST, LocalityCost, levels_apart

MB = 10**6
PLACES = {1: ("eu", "fra", "z1", "r1", "h1"), 2: ("eu", "fra", "z1", "r1", "h2"),
          3: ("eu", "fra", "z1", "r2", "h3"), 4: ("eu", "fra", "z2", "r9", "h4"),
          5: ("eu", "ams", "z1", "r1", "h5"), 6: ("us", "nyc", "z1", "r1", "h6")}


def model() -> LocalityCost:
    cost = LocalityCost()
    for host, labels in PLACES.items():
        cost.place(host, labels)
    return cost


def test_the_nearer_the_faster_by_rack_zone_idc_and_region() -> None:
    cost = model()
    times = [cost.predict(parent, 1, MB, 0) for parent in (2, 3, 4, 5, 6)]
    assert times == sorted(times) and len(set(times)) == 5
    assert times[1] / times[0] == pytest.approx(FARTHER)


def test_the_first_guess_is_a_time_in_seconds() -> None:
    cost = LocalityCost()
    assert cost.predict(1, 2, MB, 0) == pytest.approx(MB / FIRST_GUESS_BPS)


def test_time_grows_with_load_and_size() -> None:
    cost = model()
    assert cost.predict(2, 1, MB, 3) == pytest.approx(4 * cost.predict(2, 1, MB, 0))
    assert cost.predict(2, 1, 2 * MB, 0) == pytest.approx(2 * cost.predict(2, 1, MB, 0))


def shown(cost: LocalityCost, slow: float) -> None:
    """Parent 2 takes `slow` times as long as the rest of the fleet takes, again and again."""
    expected = {parent: cost.predict(parent, 1, MB, 0) for parent in PLACES if parent != 1}
    for _ in range(60):
        for parent, took_s in expected.items():
            cost.observe(parent, 1, MB, 0, took_s * (slow if parent == 2 else 1))


def test_a_slow_parent_is_learned_and_forgotten() -> None:
    cost = model()
    usual = cost.predict(2, 1, MB, 0)
    shown(cost, slow=8.0)
    slow = cost.predict(2, 1, MB, 0)
    assert slow > 3 * usual
    cost.forget(2)
    cost.place(2, PLACES[2])
    assert cost.predict(2, 1, MB, 0) < slow / 2


def test_a_parent_that_is_a_little_slower_is_like_the_others() -> None:
    cost = model()
    shown(cost, slow=1.5)
    assert cost.predict(2, 1, MB, 0) * FARTHER == pytest.approx(cost.predict(3, 1, MB, 0))


def test_one_absurd_observation_moves_little() -> None:
    for absurd in (1e9, 1e-12):
        cost = model()
        before = cost.predict(2, 1, MB, 0)
        cost.observe(2, 1, MB, 0, absurd)
        assert before / 2 < cost.predict(2, 1, MB, 0) < before * (1 + TRUST)
        assert before / 1.5 < cost.predict(4, 1, MB, 0) / FARTHER**2 < before * 1.5


@pytest.mark.parametrize("took_s", (0.0, -1.0, math.nan))
def test_impossible_times_teach_nothing(took_s: float) -> None:
    cost = model()
    before = cost.predict(2, 1, MB, 0)
    cost.observe(2, 1, MB, 0, took_s)
    assert cost.predict(2, 1, MB, 0) == before


def test_unknown_and_unlabelled_hosts_are_as_good_as_any() -> None:
    cost = model()
    assert cost.predict(77, 78, MB, 0) == cost.predict(2, 2, MB, 0)
    assert cost.predict(77, 1, MB, 0) == pytest.approx(MB / FIRST_GUESS_BPS)


def test_levels_apart() -> None:
    assert levels_apart(("a", "b", "c"), ("a", "b", "c")) == 0
    assert levels_apart(("a", "b", "c"), ("a", "b", "x")) == 1
    assert levels_apart(("a", "b", "c"), ("x", "b", "c")) == 3   # the same name elsewhere
    assert levels_apart(("a",), ("a", "b", "c")) == 0            # nothing says otherwise


def test_endless_labels_are_cut() -> None:
    cost = LocalityCost()
    cost.place(1, tuple("abc" * 1000))
    cost.place(2, tuple("xyz" * 1000))
    assert math.isfinite(cost.predict(1, 2, MB, 0))
