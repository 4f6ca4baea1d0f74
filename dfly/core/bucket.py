"""The token bucket: how many bytes may pass at a given time. The only one in dfly.

Pure arithmetic on a time that is passed in: no clock, no lock, no waiting. net/limiter.py shares
buckets among threads, the simulator uses them in virtual time. A bucket may go into debt, because
a socket is asked for bytes first and says how many it moved afterwards; what was moved too much
delays what comes next, so that over any long time the rate holds exactly.
"""
from __future__ import annotations

import math
from typing import Optional

UNLIMITED = 1 << 62  # the allowance without a limit: more bytes than anything holds


class TokenBucket:
    """`rate_bps` bytes a second, at most `burst` bytes at once; rate 0 = no limit. Starts full."""

    def __init__(self, rate_bps: float, burst: int) -> None:
        assert rate_bps >= 0 and burst >= 1, (rate_bps, burst)
        self._rate_bps = rate_bps
        self._burst = burst
        self._level = float(burst)            # bytes; negative = debt
        self._level_at: Optional[float] = None  # when the level was so; None = not yet used

    @property
    def rate_bps(self) -> float:
        return self._rate_bps

    @property
    def burst(self) -> int:
        return self._burst

    def take(self, count: int, now: float) -> None:
        """`count` bytes passed at `now`."""
        assert count >= 0, count
        if self._rate_bps:
            self._level = self._level_of(now) - count
            self._level_at = now if self._level_at is None else max(now, self._level_at)

    def allowance(self, now: float) -> int:
        """Bytes that may pass at `now`; 0 in debt."""
        if not self._rate_bps:
            return UNLIMITED
        return max(0, int(self._level_of(now)))

    def ready_at(self, now: float, count: int = 1) -> float:
        """The earliest time from `now` on when the allowance is `count` (at most the burst)."""
        if not self._rate_bps:
            return now
        wanted = min(count, self._burst)
        missing = wanted - self._level_of(now)
        if missing <= 0:
            return now
        # Another thread may have taken later than this one's `now`: the level is of that time
        ready_at = max(now, self._level_at or now) + missing / self._rate_bps
        while self._level_of(ready_at) < wanted:  # rounding: whoever comes then must find it
            ready_at = math.nextafter(ready_at, math.inf)
        return ready_at

    def set_rate(self, rate_bps: float, now: float, burst: Optional[int] = None) -> None:
        """From `now` on; what is in the bucket stays, as far as the burst holds it."""
        assert rate_bps >= 0 and (burst is None or burst >= 1), (rate_bps, burst)
        level = self._level_of(now) if self._rate_bps else float(burst or self._burst)
        self._rate_bps = rate_bps
        self._burst = burst or self._burst
        self._level = min(level, float(self._burst))
        self._level_at = now if self._level_at is None else max(now, self._level_at)

    def _level_of(self, now: float) -> float:
        if self._level_at is None:
            return self._level
        passed_s = max(0.0, now - self._level_at)  # threads may come with times out of order
        return min(float(self._burst), self._level + passed_s * self._rate_bps)
