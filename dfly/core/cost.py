"""Which parent would be fastest: the one interface behind which parents are compared.

A CostModel predicts how long a parent would take to send a number of bytes to a child, and is
told how long it really took. LocalityCost is the prior: near before far, less busy before busy,
corrected by what each parent has shown so far. It holds a few floats per host and nothing per
pair, so its memory follows the fleet. No choosing here: filters and sampling are the scheduler's.
"""
from __future__ import annotations

from typing import Dict, Protocol, Tuple

FIRST_GUESS_BPS = 12.5e6   # of one upload until something was measured: 100 Mbit/s
FARTHER = 1.6              # factor of time for each level of location that isn't shared
LEARNING = 0.15            # weight of one observation
TRUST = 8.0                # a parent counts as at most this much faster or slower than the fleet
SURE = 2.5                 # a parent that differs by less than this factor differs by chance
LEVELS_MAX = 8             # levels of location that are looked at
_FACTORS = [FARTHER ** levels for levels in range(LEVELS_MAX + 1)]


class CostModel(Protocol):
    """Predicts and learns; hosts are the scheduler's numbers."""

    def place(self, host: int, labels: Tuple[str, ...]) -> None:
        """The host is there, at this location (widest label first)."""
        ...

    def forget(self, host: int) -> None:
        """The host is gone."""
        ...

    def predict(self, parent: int, child: int, size: int, load: int) -> float:
        """Seconds to send `size` bytes while the parent serves `load` other leases."""
        ...

    def observe(self, parent: int, child: int, size: int, load: int, took_s: float) -> None:
        """A lease of `size` bytes, granted at that load, took so long."""
        ...


class LocalityCost:
    """time = size x (load + 1) x seconds per byte of this parent x FARTHER ** levels apart.

    A parent counts as different from the fleet only if it's clearly so: in a fleet of equals
    the noise of measurements, followed, would crowd some parents and leave others idle (measured
    on ten hosts with shaped links: 1.39 instead of 1.29 times the bound)."""

    def __init__(self) -> None:
        self._fleet = 1.0 / FIRST_GUESS_BPS        # seconds per byte and lease, over all parents
        self._shown: Dict[int, float] = {}         # the same, of one parent
        self._labels: Dict[int, Tuple[str, ...]] = {}

    def place(self, host: int, labels: Tuple[str, ...]) -> None:
        self._labels[host] = labels[:LEVELS_MAX]

    def forget(self, host: int) -> None:
        self._shown.pop(host, None)
        self._labels.pop(host, None)

    def predict(self, parent: int, child: int, size: int, load: int) -> float:
        unit_s = self._fleet
        shown = self._shown.get(parent, unit_s)
        if not unit_s / SURE < shown < unit_s * SURE:
            unit_s = shown
        return size * (load + 1) * unit_s * self._factor(parent, child)

    def observe(self, parent: int, child: int, size: int, load: int, took_s: float) -> None:
        if size <= 0 or not took_s > 0:
            return  # a clock that stood still teaches nothing
        factor = self._factor(parent, child)
        unit_s = took_s / (size * (load + 1) * factor)
        fleet = self._fleet
        unit_s = min(max(unit_s, fleet / TRUST), fleet * TRUST)
        self._fleet = fleet + LEARNING / 8 * (unit_s - fleet)
        shown = self._shown.get(parent, fleet)
        self._shown[parent] = shown + LEARNING * (unit_s - shown)

    def _factor(self, parent: int, child: int) -> float:
        here, there = self._labels.get(parent, ()), self._labels.get(child, ())
        return 1.0 if here == there else _FACTORS[levels_apart(here, there)]


def labels_of(location: str) -> Tuple[str, ...]:
    """'eu/dc1/rack7' as labels, the widest first."""
    return tuple(part for part in location.split("/") if part)


def levels_shared(one: Tuple[str, ...], other: Tuple[str, ...]) -> int:
    """Labels that two locations have in common, from the widest on."""
    shared = 0
    for left, right in zip(one, other):
        if left != right:
            break
        shared += 1
    return shared


def levels_apart(one: Tuple[str, ...], other: Tuple[str, ...]) -> int:
    """Levels of location below the last shared one: 0 = same place; unknown = as the other."""
    return min(len(one), len(other)) - levels_shared(one, other)
