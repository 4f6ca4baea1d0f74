"""How hard the manager may be worked: report batching and run length follow the load.

Two budgets: reports a second decide how long peers gather what they stored before they tell
(`batch_s`), leases a second decide how many pieces one lease carries (`run_length`). Both
follow what was measured over the last window; before there is a measurement they follow the
number of hosts that download, because a storm of joins is over before it was measured. No
choice of pieces or parents here.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

WINDOW_S = 0.25             # one measurement
FIRST_CHILD_BPS = 125e6     # what a downloading host moves until measured: 1 Gbit/s
SMOOTHING = 0.3             # weight of the newest window
LAG_BATCH_MAX_S = 0.025     # batching for lag's sake goes no further
LAG_FREE_S = 0.002          # a loop this late isn't loaded
LAG_GRANTS_S = 0.1          # and one this late grants as many leases as it may all the same
PLANNED = 0.5               # of the leases a second, for whole runs: the last ones are shorter
BURST_S = 0.1               # credit for leases is saved up for so long
DEBT_S = 0.1               # and children without any may overdraw it as far
STEP = 1.5                  # the batching interval changes by this factor or not at all


@dataclass(frozen=True)
class PaceLimits:
    """Budgets of one manager process."""

    reports_per_s: float = 12_000.0
    leases_per_s: float = 20_000.0
    batch_min_s: float = 0.005
    batch_max_s: float = 0.25
    batch_floor: float = 0.0   # of the batching that keeps all downloading hosts in the budget
    grants_per_s: Optional[float] = None   # leases when all come at once; None = leases_per_s


# What a manager in Python is good for: about half of one core, at some 60 us a report and 80 us a
# lease, sent. The rest is for storms.
PRODUCTION = PaceLimits(reports_per_s=5_000, grants_per_s=6_000, batch_max_s=1.5, batch_floor=1.0)


class Pacing:
    """Counts facts, answers with `batch_s` and run lengths."""

    def __init__(self, limits: PaceLimits) -> None:
        self._limits = limits
        self.batch_s = limits.batch_min_s
        self.child_bps = FIRST_CHILD_BPS   # what one downloading host gets, on average
        self._lag_s = 0.0
        self._active = 0
        self._window_at: Optional[float] = None
        self._reports = 0
        self._bytes = 0
        self._credit = BURST_S * self._budget          # leases that may be granted now
        self._credit_at = 0.0

    def joined(self) -> bool:
        """One more host downloads. True if the batching interval changed."""
        self._active += 1
        return self._adopt(max(self._active / self._limits.reports_per_s, self.batch_s))

    def left(self) -> None:
        """One host fewer downloads."""
        assert self._active > 0
        self._active -= 1

    def reported(self, size: int, now: float) -> bool:
        """One report of `size` stored bytes. True if the batching interval changed."""
        self._reports += 1
        self._bytes += size
        if self._window_at is None:
            self._window_at = now
        span_s = now - self._window_at
        if span_s < WINDOW_S:
            return False
        reports_per_s, bps = self._reports / span_s, self._bytes / span_s
        quiet = span_s > 4 * WINDOW_S  # a pause in the middle measures nothing
        self._window_at, self._reports, self._bytes = now, 0, 0
        if quiet:
            return False
        if self._active:
            self.child_bps += SMOOTHING * (bps / self._active - self.child_bps)
        return self._adopt(self.batch_s * reports_per_s / self._limits.reports_per_s)

    def lagged(self, lag_s: float) -> None:
        """The manager's loop is so late: from the next measurement on, reports that come faster
        than they can be heard are gathered, and leases get longer."""
        self._lag_s = lag_s

    def run_length(self, piece_size: int) -> int:
        """Pieces of one lease that keep the leases of all swarms within the budget; a manager
        whose loop is late has a smaller one."""
        pieces_per_s = self._active * self.child_bps / piece_size
        budget = self._limits.leases_per_s / max(1.0, self._lag_s / LAG_FREE_S)
        return max(1, -int(-pieces_per_s // (PLANNED * budget)))

    def may_grant(self, now: float) -> bool:
        """The budget has room for one more lease to a child that has some."""
        span_s = now - self._credit_at
        if span_s > 0:
            self._credit_at = now
            budget = self._budget
            self._credit = min(self._credit + span_s * budget, BURST_S * budget)
        return self._credit >= 1

    def spend(self) -> None:
        """Nothing is saved up any more: extra leases of a crowd that is coming wait a little."""
        self._credit = min(self._credit, 0.0)

    def granted(self) -> None:
        """A lease: even without credit, for a child that has none; others wait the longer."""
        self._credit = max(self._credit - 1, -DEBT_S * self._budget)

    @property
    def _budget(self) -> float:
        """Leases a second; a manager whose loop is late has fewer to give."""
        limits = self._limits
        return (limits.grants_per_s or limits.leases_per_s) / max(1.0, self._lag_s / LAG_GRANTS_S)

    def _adopt(self, wanted_s: float) -> bool:
        limits = self._limits
        least_s = max(limits.batch_min_s, min(self._lag_s, LAG_BATCH_MAX_S),
                      limits.batch_floor * self._active / limits.reports_per_s)
        wanted_s = min(max(wanted_s, least_s), limits.batch_max_s)
        at_a_bound = wanted_s in (limits.batch_min_s, limits.batch_max_s)
        if not at_a_bound and self.batch_s / STEP < wanted_s < self.batch_s * STEP:
            return False
        changed = wanted_s != self.batch_s
        self.batch_s = wanted_s
        return changed
