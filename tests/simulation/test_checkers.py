"""Every checker fails when its rule is broken: a checker that can't fail checks nothing."""
from __future__ import annotations

import pytest

from dfly.core.events import SEED, Grant, HostLost, LeaseEnded, PiecesStored
from dfly.sim.checkers import Checkers, CheckFailed
from dfly.wire.messages import Failure

SWARM = 1


def checkers(slots: int = 2, hosts: int = 4) -> Checkers:
    watch = Checkers(dict.fromkeys(range(hosts + 1), slots), full=0xFF)
    for host in range(hosts + 1):
        watch.joined(host, 0)
    return watch


def grant(lease: int, child: int, parent: int, first: int = 0, count: int = 1) -> Grant:
    return Grant(lease, SWARM, child, parent, first, count, 1.0)


def test_honest_orders_pass() -> None:
    watch = checkers()
    watch.told(PiecesStored(SWARM, SEED, (0, 1)))
    watch.granted(grant(1, 1, SEED, 0, 2))
    watch.granted(grant(2, 2, 1, 0, 2))           # waits for lease 1
    watch.told(PiecesStored(SWARM, 1, (0, 1)))
    watch.told(PiecesStored(SWARM, 2, (0, 1)))
    watch.finished([])


def test_a_parent_must_have_or_get_the_pieces() -> None:
    watch = checkers()
    with pytest.raises(CheckFailed, match="neither has nor gets"):
        watch.granted(grant(1, 1, 2))
    watch.told(PiecesStored(SWARM, 2, (0,)))
    watch.granted(grant(2, 1, 2))
    with pytest.raises(CheckFailed, match="neither has nor gets"):
        watch.granted(grant(3, 3, 1, 0, 2))       # it gets piece 0, not piece 1


def test_a_lease_that_ended_promises_nothing() -> None:
    watch = checkers()
    watch.granted(grant(1, 1, SEED))
    watch.told(LeaseEnded(1, Failure.BROKEN, 0, 1))
    with pytest.raises(CheckFailed, match="neither has nor gets"):
        watch.granted(grant(2, 2, 1))


def test_slots() -> None:
    watch = checkers(slots=2)
    watch.granted(grant(1, 1, SEED))
    watch.granted(grant(2, 2, SEED))
    with pytest.raises(CheckFailed, match="3 leases with 2 slots"):
        watch.granted(grant(3, 3, SEED))
    freed = checkers(slots=1)
    freed.granted(grant(1, 1, SEED))
    freed.told(PiecesStored(SWARM, 1, (0,)))
    freed.granted(grant(2, 2, SEED))
    freed.withdrawn(2)
    freed.granted(grant(3, 3, SEED))


def test_a_circle_of_waits() -> None:
    watch = checkers()
    watch.granted(grant(1, 1, SEED, 0))
    watch.granted(grant(2, 2, 1, 0))
    watch.told(LeaseEnded(1, Failure.BROKEN, 0, 1))
    watch.granted(grant(3, 1, 2, 0))              # 1 waits for 2, which waits for 1
    with pytest.raises(CheckFailed, match="circle"):
        watch.search_cycle()


def test_gone_hosts_strange_pieces_and_oneself() -> None:
    watch = checkers()
    watch.told(PiecesStored(SWARM, 1, (0,)))
    with pytest.raises(CheckFailed, match="its own parent"):
        watch.granted(grant(1, 1, 1))
    with pytest.raises(CheckFailed, match="don't exist"):
        watch.granted(grant(1, 1, SEED, 7, 2))
    watch.told(HostLost(1))
    with pytest.raises(CheckFailed, match="gone"):
        watch.granted(grant(1, 2, 1))


def test_a_piece_leaves_the_source_once() -> None:
    watch = checkers()
    watch.told(PiecesStored(SWARM, SEED, (3,)))
    with pytest.raises(CheckFailed, match="source twice"):
        watch.told(PiecesStored(SWARM, SEED, (3,)))


def test_every_live_host_must_finish() -> None:
    with pytest.raises(CheckFailed, match="2 live hosts never finished"):
        checkers().finished([3, 4])
