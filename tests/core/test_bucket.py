"""The token bucket is exact, whatever the times it is asked at."""
from __future__ import annotations

import random

import pytest

from dfly.core.bucket import UNLIMITED, TokenBucket


def test_it_starts_full_and_refills_at_its_rate() -> None:
    bucket = TokenBucket(100.0, burst=50)
    assert bucket.allowance(10.0) == 50
    bucket.take(50, 10.0)
    assert bucket.allowance(10.0) == 0
    assert bucket.allowance(10.25) == 25
    assert bucket.allowance(99.0) == 50  # never more than the burst


def test_debt_delays_what_comes_next() -> None:
    bucket = TokenBucket(100.0, burst=50)
    bucket.take(250, 0.0)
    assert bucket.allowance(1.999) == 0
    assert bucket.ready_at(0.0, 1) == pytest.approx(2.01)
    assert bucket.ready_at(0.0, 50) == pytest.approx(2.5)
    assert bucket.ready_at(0.0, 5_000) == pytest.approx(2.5)  # more than the burst never comes


def test_whoever_comes_when_told_finds_what_was_promised() -> None:
    rng = random.Random(5)
    for _ in range(2_000):
        bucket = TokenBucket(rng.uniform(1, 1e10), burst=rng.randrange(1, 1 << 22))
        now = rng.uniform(0, 1e7)
        bucket.take(rng.randrange(1 << 24), now)
        count = rng.randrange(1, bucket.burst + 1)
        at = bucket.ready_at(now, count)
        assert at >= now and bucket.allowance(at) >= count


def test_over_a_long_time_the_rate_holds_exactly() -> None:
    rng = random.Random(9)
    bucket = TokenBucket(1_000.0, burst=100)
    now, moved = 0.0, 0
    while now < 1_000.0:
        count = bucket.allowance(now) + rng.randrange(30)  # as sockets do: sometimes too much
        bucket.take(count, now)
        moved += count
        now = bucket.ready_at(now)
    assert moved == pytest.approx(1_000.0 * now + 100, abs=60)


def test_times_out_of_order_give_nothing_twice() -> None:
    bucket = TokenBucket(100.0, burst=100)
    bucket.take(100, 5.0)
    bucket.take(0, 4.0)
    assert bucket.allowance(5.0) == 0 and bucket.allowance(4.0) == 0
    assert bucket.ready_at(4.0, 50) == pytest.approx(5.5)


def test_rate_0_is_no_limit() -> None:
    bucket = TokenBucket(0, burst=1)
    bucket.take(10**12, 1.0)
    assert bucket.allowance(1.0) == UNLIMITED and bucket.ready_at(1.0, 10**9) == 1.0


def test_a_new_rate_counts_from_now() -> None:
    bucket = TokenBucket(100.0, burst=100)
    bucket.take(100, 0.0)
    bucket.set_rate(10.0, 0.5)
    assert bucket.allowance(0.5) == 50
    assert bucket.allowance(1.5) == 60
    bucket.set_rate(10.0, 1.5, burst=20)
    assert bucket.allowance(1.5) == 20
    bucket.set_rate(0, 1.5)
    assert bucket.allowance(1.5) == UNLIMITED
    bucket.set_rate(5.0, 2.0, burst=10)
    assert bucket.allowance(2.0) == 10
