"""Which tasks must go so that a new one fits: pure arithmetic on a list, for both stores.

Watermarks, so that a full store evicts rarely and then several tasks at once. A decision is made
before anything is deleted: where even evicting all wouldn't suffice, nothing is lost for nothing.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, List, Sequence

from dfly.errors import NoSpace
from dfly.units import format_size


@dataclass(frozen=True)
class Tenant:
    """A task's claim on the room: what evicting it frees, and whether it may be evicted."""

    task_id: str
    size: int
    evictable: bool


@dataclass(frozen=True)
class Room:
    """`capacity` bytes in all; eviction starts above `high` of them and stops at `low`."""

    place: str
    capacity: int
    high: float
    low: float

    def is_calm(self, used: int) -> bool:
        """True if so many bytes evict nothing."""
        return used <= self.high * self.capacity


def choose_victims(room: Room, tenants: Sequence[Tenant], size: int) -> List[str]:
    """Task ids to evict for `size` more bytes; `tenants` come least recently used first."""
    assert 0 <= room.low <= room.high <= 1 and size >= 0
    used = sum(tenant.size for tenant in tenants)
    if room.is_calm(used + size):
        return []
    evictable = [tenant for tenant in tenants if tenant.evictable and tenant.size]
    _check_possible(room, used, size, sum(tenant.size for tenant in evictable))
    return list(_oldest(evictable, used + size - int(room.low * room.capacity)))


def _oldest(tenants: Iterable[Tenant], surplus: int) -> Iterable[str]:
    for tenant in tenants:
        if surplus <= 0:
            return
        yield tenant.task_id
        surplus -= tenant.size


def _check_possible(room: Room, used: int, size: int, evictable: int) -> None:
    if used - evictable + size <= room.capacity:
        return
    raise NoSpace(
        f"{room.place} can't hold {format_size(size)} more: it may use "
        f"{format_size(room.capacity)}, of which {format_size(used - evictable)} are taken by "
        "tasks in use or pinned",
        "free disk space, or give the store a larger quota")
