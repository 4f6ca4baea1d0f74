"""The scheduler's books: what they hold must follow who is there."""
from __future__ import annotations

from dfly.core.swarm import Host, Peer, Swarm
from dfly.task import full_set
from dfly.wire.messages import Failure
from tests.core.test_scheduler import Playbook

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


def test_a_neighbour_that_never_gives_is_not_waited_for_for_ever() -> None:
    """It says it holds everything, and refuses each time: soon the pieces come from afar."""
    book = Playbook(2)
    book.fetched(0, 1)
    book.join(2, have=0b11, wants=False, labels=("same",))
    book.join(1, labels=("same",))
    began = book.now
    while book.now < began + 10 and not any(lease.parent == 0 for lease in book.granted):
        for lease in book.of_parent(2):
            book.failed(lease, Failure.NOT_HELD)
        book.wait(0.1)
    assert book.now < began + 5
    book.run_to_end()
    assert not book.leases


def hold(swarm: Swarm, peer: Peer) -> None:
    swarm.claim(peer, full_set(PIECES))
    peer.have = full_set(PIECES)
