"""Report batching and run length follow the load."""
from __future__ import annotations

import pytest

from dfly.core.pacing import PaceLimits, Pacing

MIB = 1 << 20
LIMITS = PaceLimits(reports_per_s=1000.0, leases_per_s=500.0)


def crowd(hosts: int) -> Pacing:
    pacing = Pacing(LIMITS)
    for _ in range(hosts):
        pacing.joined()
    return pacing


def test_a_few_hosts_report_at_once_and_lease_piece_by_piece() -> None:
    pacing = crowd(3)
    assert pacing.batch_s == LIMITS.batch_min_s
    assert Pacing(PaceLimits()).run_length(MIB) == 1
    assert pacing.run_length(8 * MIB) == 1


def test_a_storm_of_joins_is_met_before_it_is_measured() -> None:
    pacing = crowd(100)
    assert pacing.batch_s == pytest.approx(0.1, rel=0.5)
    assert pacing.run_length(MIB) > 10
    assert crowd(100_000).batch_s == LIMITS.batch_max_s


def test_runs_get_longer_with_hosts_and_with_smaller_pieces() -> None:
    assert crowd(400).run_length(MIB) == pytest.approx(4 * crowd(100).run_length(MIB), rel=0.1)
    assert crowd(100).run_length(MIB) == pytest.approx(4 * crowd(100).run_length(4 * MIB), rel=0.1)


def test_slow_hosts_are_noticed_and_runs_get_short_again() -> None:
    pacing = crowd(100)
    for step in range(100):   # 100 hosts that get 100 kB/s each
        pacing.reported(int(100 * 1e5 * 0.1), now=step * 0.1)
    assert pacing.child_bps == pytest.approx(1e5, rel=0.3)
    assert pacing.run_length(MIB) == 1


def test_reports_over_the_budget_are_gathered_longer_and_fewer_again_less() -> None:
    pacing = crowd(4)
    for step in range(4000):
        pacing.reported(MIB, now=step / 4000)       # 4,000 a second
    busy = pacing.batch_s
    assert busy > 3 * LIMITS.batch_min_s
    for step in range(200):
        pacing.reported(MIB, now=2 + step / 20)     # 20 a second
    assert pacing.batch_s == LIMITS.batch_min_s


def test_a_pause_is_not_a_measurement() -> None:
    pacing = crowd(4)
    before = pacing.child_bps
    pacing.reported(MIB, now=1.0)
    pacing.reported(MIB, now=500.0)
    assert pacing.child_bps == before


def test_a_manager_that_runs_late_gets_fewer_leases_and_reports() -> None:
    pacing = crowd(40)
    busy = pacing.run_length(MIB)
    pacing.lagged(0.05)
    assert pacing.run_length(MIB) >= 10 * busy
    for step in range(10):
        pacing.reported(MIB, now=step / 10)
    assert pacing.batch_s >= 0.025
    pacing.lagged(0.0)
    for step in range(10, 20):
        pacing.reported(MIB, now=step / 10)
    assert pacing.batch_s < 0.025


def test_many_hosts_gather_reports_even_while_few_come() -> None:
    pacing = Pacing(PaceLimits(reports_per_s=1000.0, batch_floor=1.0))
    for _ in range(100):
        pacing.joined()
    for step in range(20):
        pacing.reported(MIB, now=step / 10)
    assert pacing.batch_s >= 0.1 / 1.5
    for _ in range(99):
        pacing.left()
    for step in range(20, 40):
        pacing.reported(MIB, now=step / 10)
    assert pacing.batch_s < 0.01


# ------------------------------------------------------------------------ the lease budget
def test_extra_leases_wait_for_the_budget_and_credit_is_bounded() -> None:
    pacing = Pacing(PaceLimits(leases_per_s=1000.0))
    granted = 0
    while pacing.may_grant(1.0):
        pacing.granted()
        granted += 1
    assert 50 <= granted <= 200                     # what was saved up, however long ago
    assert not pacing.may_grant(1.0005)
    assert pacing.may_grant(1.01)
    for _ in range(100_000):
        pacing.granted()                            # children with nothing overdraw it
    assert pacing.may_grant(2.0)                    # and it recovers in bounded time


def test_a_late_manager_has_a_smaller_budget() -> None:
    pacing = Pacing(PaceLimits(leases_per_s=1000.0))
    pacing.may_grant(0.0)
    for _ in range(100):
        pacing.granted()
    pacing.lagged(10.0)
    assert not pacing.may_grant(0.05)
    pacing.lagged(0.0)
    assert pacing.may_grant(0.1)
