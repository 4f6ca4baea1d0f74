"""The scheduler's books: what they hold must follow who is there."""
from __future__ import annotations

from dfly.core.events import SEED
from dfly.core.swarm import Host, Peer, Swarm
from dfly.core.trust import Trust, TrustLimits
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


def test_what_the_seed_holds_does_not_count_as_inside_after_a_loss() -> None:
    """The seed shares a rack with peers: what the lost one held must come from the seed again."""
    swarm = Swarm(1, PIECES, 1 << 20)
    seed = Peer(swarm, Host(SEED, 16, trusted=True, labels=("r1",)))
    seed.have = full_set(PIECES)
    peer = Peer(swarm, Host(1, 16, trusted=True, labels=("r1",)))
    hold(swarm, peer)
    (group,) = seed.groups
    assert group.inside == full_set(PIECES)
    group.lose(0b11)
    assert group.inside == full_set(PIECES)      # the peer holds them yet
    peer.have = 0
    group.lose(full_set(PIECES))
    assert group.inside == 0


def test_strikes_do_not_shorten_what_silence_has_earned() -> None:
    trust, now = Trust(TrustLimits()), 100.0
    swarm = Swarm(1, PIECES, 1 << 20)
    parent, child = (Peer(swarm, Host(number, 16, trusted=True)) for number in (1, 2))
    parent.host.avoid_until = now + 60
    for _ in range(TrustLimits().strikes_max):
        trust.strike(parent.host, child, now)
    assert parent.host.avoid_until == now + 60


def hold(swarm: Swarm, peer: Peer) -> None:
    swarm.claim(peer, full_set(PIECES))
    peer.have = full_set(PIECES)
