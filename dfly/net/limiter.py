"""Rate limits that several movers share: a token bucket behind a lock.

A limiter belongs to a host, a task or a link; a transfer is given a sequence of them, may move
what the tightest allows and charges all. Nothing here waits: a mover that finds no allowance asks
`ready_at` and comes back then, and hears through `watch` when the rate changes before that.
"""
from __future__ import annotations

import threading
from typing import Callable, Optional, Sequence, Set

from dfly.clock import Clock
from dfly.core.bucket import UNLIMITED, TokenBucket
from dfly.units import KIB, MIB

TURN_S = 0.005      # what one socket may move at once, in time: many sockets share smoothly
TURN_MIN = 4 * KIB  # below this the calls cost more than the bytes
TURN_MAX = MIB
BURST_S = 0.05      # what is saved up while nobody moves: a late thread doesn't lose its rate


class Limiter:
    """`rate_bps` bytes per second over all who share it; 0 = unlimited."""

    def __init__(self, rate_bps: float = 0.0, *, name: str = "",
                 clock: Optional[Clock] = None) -> None:
        self.name = name
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._turn = _turn_of(rate_bps)
        self._bucket = TokenBucket(rate_bps, _burst_of(rate_bps))
        self._watchers: Set[Callable[[Limiter], None]] = set()

    @property
    def rate_bps(self) -> float:
        return self._bucket.rate_bps

    def set_rate(self, rate_bps: float) -> None:
        """A new rate at once, also for transfers that wait under the old one."""
        with self._lock:
            self._turn = _turn_of(rate_bps)
            self._bucket.set_rate(rate_bps, self._clock.now(), _burst_of(rate_bps))
            watchers = list(self._watchers)
        for tell in watchers:
            tell(self)

    def allowance(self, now: float) -> int:
        """Bytes that one socket may move at `now`; 0 = wait until `ready_at`."""
        if not self._bucket.rate_bps:
            return UNLIMITED
        with self._lock:
            allowed = self._bucket.allowance(now)
            return 0 if allowed < self._turn else self._turn

    def ready_at(self, now: float) -> float:
        """When a whole turn is allowed again."""
        with self._lock:
            return self._bucket.ready_at(now, self._turn)

    def take(self, count: int, now: float) -> None:
        """`count` bytes were moved."""
        with self._lock:
            self._bucket.take(count, now)

    def watch(self, tell: Callable[[Limiter], None]) -> None:
        """`tell(limiter)` is called at each change of the rate, from the thread that makes it."""
        with self._lock:
            self._watchers.add(tell)

    def unwatch(self, tell: Callable[[Limiter], None]) -> None:
        with self._lock:
            self._watchers.discard(tell)


def allowance_of(limits: Sequence[Limiter], now: float) -> int:
    """Bytes that all `limits` allow at `now`."""
    return min((limit.allowance(now) for limit in limits), default=UNLIMITED)


def charge(limits: Sequence[Limiter], count: int, now: float) -> None:
    for limit in limits:
        limit.take(count, now)


def _turn_of(rate_bps: float) -> int:
    return int(min(TURN_MAX, max(TURN_MIN, rate_bps * TURN_S)))


def _burst_of(rate_bps: float) -> int:
    return int(max(2 * _turn_of(rate_bps), rate_bps * BURST_S))
