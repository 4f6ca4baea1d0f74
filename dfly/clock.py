"""Time as an argument: the one place that asks the system what time it is.

Machines in core/ get `now` passed in; services own a Clock and pass it on. `now()` is monotonic
seconds of no known origin; `wall()` is seconds since 1970, only for what people or other hosts
will read.
"""
from __future__ import annotations

import time


class Clock:
    """The system's clock."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class ManualClock(Clock):
    """A clock that moves only when told: for tests and simulation."""

    def __init__(self, now: float = 0.0, wall: float = 1_700_000_000.0) -> None:
        self._now = now
        self._wall = wall

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._wall

    def advance(self, duration_s: float) -> None:
        assert duration_s >= 0, duration_s
        self._now += duration_s
        self._wall += duration_s
