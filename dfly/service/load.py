"""What a manager's work has piled up to, and when it is enough.

Three things can pile up: turns of the loop (it runs late), joins that wait for a source, and
bytes that peers haven't read yet. Each has a bound here; over it, newcomers are told to come back
later, and whoever makes it worse is. Nothing is measured while nothing goes on.
"""
from __future__ import annotations

import asyncio
import random
from typing import Callable, Optional

from dfly.net.link import Backlog

LAG_EVERY_S = 0.1
LAG_SMOOTHING = 0.2
TURN_S_PER_LINK = 20e-6      # of a turn in which a fifth of all links has something to say
QUIET_ROUNDS = 20            # measurements without work until it isn't measured any more
LAG_MAX_S = 1.0              # over this nobody new is let in: those who are would wait for seconds
JOIN_BYTES = 2_048           # that a waiting join takes, its headers not counted
JOINS_BYTES_MAX = 64 << 20   # of all joins that wait: some 30,000 usual ones
UNSENT_MAX = 256 << 20       # of all links together
UNSENT_FAIR = 64 << 10       # what one link may leave unsent even then
RETRY_S = 5.0                # until a host should try again
RETRY_MAX_S = 30.0           # and when the loop is very late
RETRY_SPREAD = (0.5, 1.5)    # or those who came at once would come back at once


class Load:
    """Of one manager. `heed` hears how late the loop runs, smoothed and less what so many
    `links` explain, whenever it was measured; `works` says whether anything goes on."""

    def __init__(self, heed: Callable[[float], None], works: Callable[[], bool],
                 links: Callable[[], int], rng: random.Random) -> None:
        self.backlog = Backlog(UNSENT_MAX, UNSENT_FAIR)
        self.lag_s = 0.0
        self._heed = heed
        self._works = works
        self._links = links
        self._rng = rng
        self._joins_bytes = 0
        self._timer: Optional[asyncio.TimerHandle] = None
        self._due = 0.0
        self._quiet = 0

    # ------------------------------------------------------------------------------- lag
    def watch(self) -> None:
        """There is work: measure, until there is none."""
        self._quiet = 0
        if self._timer is None:
            self._measure_later()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _measure_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + LAG_EVERY_S
        self._timer = loop.call_at(self._due, self._measure)

    def _measure(self) -> None:
        late_s = max(0.0, asyncio.get_running_loop().time() - self._due)
        self.lag_s += LAG_SMOOTHING * (late_s - self.lag_s)
        self._quiet = 0 if self._works() else self._quiet + 1
        if self._quiet < QUIET_ROUNDS:
            self._measure_later()
        else:
            self._timer, self.lag_s = None, 0.0
        self._heed(max(0.0, self.lag_s - TURN_S_PER_LINK * self._links()))

    # ----------------------------------------------------------------------------- joins
    def join_waits(self, headers_size: int) -> int:
        """One more join waits for its source: the bytes it is counted with, for `join_ends`."""
        size = JOIN_BYTES + headers_size
        self._joins_bytes += size
        return size

    def join_ends(self, size: int) -> None:
        self._joins_bytes -= size
        assert self._joins_bytes >= 0

    @property
    def joins_full(self) -> bool:
        return self._joins_bytes >= JOINS_BYTES_MAX

    # ------------------------------------------------------------------------- admission
    @property
    def excess(self) -> str:
        """Why nobody new is let in; '' = they are."""
        if self.lag_s > LAG_MAX_S:
            return "it can't keep up with the peers it has"
        if self.joins_full:
            return "too many joins wait for their sources"
        if self.backlog.full:
            return "its peers read too slowly"
        return ""

    def retry_s(self) -> float:
        """How long a host that isn't let in should stay away."""
        spread = self._rng.uniform(*RETRY_SPREAD)
        return min(RETRY_MAX_S, RETRY_S * max(1.0, self.lag_s)) * spread
