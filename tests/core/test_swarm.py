"""The scheduler's books: what they hold must follow who is there."""
from __future__ import annotations

from dfly.core.swarm import Host, Peer, Swarm
from dfly.task import full_set

PIECES = 8


def test_hosts_that_come_and_go_do_not_fill_the_lists_of_carriers() -> None:
    swarm = Swarm(1, PIECES, 1 << 20)
    staying = Peer(swarm, Host(1, 16, trusted=True))
    hold(swarm, staying)
    for number in range(2, 1_000):
        passing = Peer(swarm, Host(number, 16, trusted=True))
        hold(swarm, passing)
        swarm.disclaim(passing, passing.have)
        passing.have = 0
        swarm.leave(passing)
    assert max(len(carriers) for carriers in swarm.carriers) < 30
    assert all(staying in carriers for carriers in swarm.carriers)


def hold(swarm: Swarm, peer: Peer) -> None:
    swarm.claim(peer, full_set(PIECES))
    peer.have = full_set(PIECES)
