"""The scheduler by playbook: facts in, orders out, one rule at a time."""
from __future__ import annotations

import random
from dataclasses import replace
from typing import Dict, List, Optional, Tuple, Type, TypeVar

import pytest

from dfly.core import events as core
from dfly.core.choice import ChoiceLimits
from dfly.core.cost import LocalityCost
from dfly.core.events import SEED, Effect, Event, Grant, Pace, Quarantine, Withdraw
from dfly.core.pacing import PaceLimits
from dfly.core.scheduler import Scheduler, SchedulerLimits
from dfly.core.trust import TrustLimits
from dfly.task import full_set, members, run_set, set_of
from dfly.wire.messages import Failure

SWARM = 7
LIMITS = SchedulerLimits()
# A budget so small that every lease is a long run, as in a swarm of thousands.
CROWDED = replace(LIMITS, pace=PaceLimits(leases_per_s=60.0))
E = TypeVar("E", bound=Effect)


class Playbook:
    """A scheduler with one swarm, a clock, and the leases under way."""

    def __init__(self, pieces: Optional[int] = 8, limits: SchedulerLimits = LIMITS,
                 seed_slots: int = 16, piece_size: int = 1 << 20) -> None:
        self.scheduler = Scheduler(limits, LocalityCost(), random.Random(1))
        self.now = 100.0
        self.leases: Dict[int, Grant] = {}
        self.granted: List[Grant] = []     # in order, ever
        self.tell(core.HostJoined(SEED, (), seed_slots))
        self.tell(core.SwarmOpened(SWARM, pieces, piece_size))

    def tell(self, event: Event, after: float = 0.0) -> List[Effect]:
        self.now += after
        effects = self.scheduler.step(event, self.now)
        for effect in effects:
            if isinstance(effect, Grant):
                self.leases[effect.lease] = effect
                self.granted.append(effect)
            elif isinstance(effect, Withdraw):
                self.leases.pop(effect.lease, None)
        return effects

    def join(self, host: int, have: int = 0, wants: bool = True, slots: int = 16,
             labels: Tuple[str, ...] = (), urgent_at: Optional[int] = None) -> List[Effect]:
        self.tell(core.HostJoined(host, labels, slots))
        return self.tell(core.PeerJoined(SWARM, host, have, wants, urgent_at))

    def fetched(self, *pieces: int) -> List[Effect]:
        """The manager has got these pieces from the source."""
        return self.tell(core.PiecesStored(SWARM, SEED, pieces))

    def stored(self, host: int, *pieces: int) -> List[Effect]:
        effects = self.tell(core.PiecesStored(SWARM, host, pieces), after=0.01)
        for lease in self.of_child(host):
            if not run_set(lease.first, lease.count) & ~set_of(pieces):
                self.leases.pop(lease.lease, None)
        return effects

    def failed(self, lease: Grant, failure: Failure) -> List[Effect]:
        self.leases.pop(lease.lease, None)
        return self.tell(core.LeaseEnded(lease.lease, failure, lease.first, lease.child))

    def lost(self, host: int) -> List[Effect]:
        for lease in [*self.of_child(host), *self.of_parent(host)]:
            self.leases.pop(lease.lease, None)
        return self.tell(core.HostLost(host))

    def wait(self, seconds: float) -> List[Effect]:
        """Let time pass, ringing each alarm when it is due."""
        until, effects = self.now + seconds, []
        while True:
            due = self.scheduler.deadline()
            if due is None or due > until:
                break
            effects += self.tell(core.TimePassed(), after=max(0.0, due - self.now))
        self.now = until
        return effects

    def of_child(self, host: int) -> List[Grant]:
        return [lease for lease in self.leases.values() if lease.child == host]

    def of_parent(self, host: int) -> List[Grant]:
        return [lease for lease in self.leases.values() if lease.parent == host]

    def run_to_end(self) -> None:
        """Every lease succeeds, oldest first, until nothing is under way."""
        while self.leases:
            lease = self.leases[min(self.leases)]
            self.stored(lease.child, *range(lease.first, lease.first + lease.count))
            self.leases.pop(lease.lease, None)


def only(kind: Type[E], effects: List[Effect]) -> List[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def pieces_of(grants: List[Grant]) -> List[int]:
    return sorted(piece for grant in grants for piece in members(run_set(grant.first, grant.count)))


def test_a_child_that_limits_itself_gets_what_it_can_take_and_blames_nobody() -> None:
    book = Playbook(pieces=40)
    book.fetched(*range(40))
    book.tell(core.HostJoined(1, (), 16))
    book.tell(core.PeerJoined(SWARM, 1, limit_bps=(1 << 20) // 10))    # 10 s a piece
    grants = book.of_child(1)
    assert 1 <= len(grants) <= 2
    assert all(grant.deadline_s > 40 for grant in grants)    # each has half of the limit
    assert only(Withdraw, book.wait(19)) == []
    free = Playbook(pieces=40)
    free.fetched(*range(40))
    free.join(1)
    assert len(free.of_child(1)) > 2 and only(Withdraw, free.wait(19))


# ------------------------------------------------------------------------------ the seed
def test_a_piece_is_leased_from_the_manager_as_soon_as_it_is_fetched() -> None:
    book = Playbook()
    assert only(Grant, book.join(1)) == []
    (grant,) = only(Grant, book.fetched(0))
    assert (grant.child, grant.parent, grant.first, grant.count) == (1, SEED, 0, 1)
    assert grant.swarm == SWARM and grant.deadline_s > 0


def test_the_seed_sends_every_piece_once_before_any_twice() -> None:
    book = Playbook(pieces=12)
    for host in (1, 2, 3):
        book.join(host)
    book.fetched(*range(12))
    book.run_to_end()
    from_seed = [grant for grant in book.granted if grant.parent == SEED]
    assert pieces_of(from_seed[:12]) == list(range(12))
    assert len(book.granted) == 36


def test_a_seed_that_has_sent_everything_helps_with_a_few_leases_at_a_time() -> None:
    book = Playbook(pieces=32)
    for host in range(10, 18):
        book.join(host, have=(1 << 32) - 1, wants=False, slots=16)
    book.fetched(*range(32))
    for host in (2, 3, 4, 5):
        book.join(host)
    parents = [grant.parent for grant in book.granted]
    assert 0 < parents.count(SEED) <= ChoiceLimits().seed_helps < len(parents) / 2


def test_the_seed_is_the_parent_of_last_resort() -> None:
    book = Playbook(pieces=2)
    book.fetched(0, 1)
    book.join(1, have=0b11, wants=False, slots=1)
    book.join(2)
    assert sorted(grant.parent for grant in book.granted) == [SEED, 1]   # one slot, then the seed


def test_an_idle_seed_helps_a_child_that_starves_though_new_pieces_are_to_come() -> None:
    book = Playbook(pieces=4)
    book.join(1, slots=0)                # gets piece 0 and can't pass it on
    book.fetched(0)
    book.stored(1, 0)
    book.join(2)
    assert book.of_child(2) == []
    book.wait(1.0)
    assert [(lease.parent, lease.first) for lease in book.of_child(2)] == [(SEED, 0)]


def test_a_piece_that_was_lost_with_its_host_leaves_the_seed_again() -> None:
    book = Playbook(pieces=1)
    book.join(1)
    book.fetched(0)
    book.stored(1, 0)
    book.join(2, slots=0)
    assert book.of_child(2)[0].parent == 1
    (again,) = only(Grant, book.lost(1))
    assert (again.child, again.parent) == (2, SEED)


# ----------------------------------------------------------------------------- the choice
def test_rarest_first() -> None:
    book = Playbook(pieces=6)
    book.fetched(*range(6))
    for host in (1, 2, 3, 4):
        book.join(host, have=0b111110, wants=False)
    book.join(5, have=0b000001, wants=False)
    book.join(6)
    assert book.of_child(6)[0].first == 0 and book.of_child(6)[0].parent == 5


def test_what_is_near_is_taken_there_even_when_the_near_are_busier() -> None:
    book = Playbook(pieces=64)
    book.join(1, have=full_set(32), wants=False, labels=("eu", "a", "r1"), slots=100)
    book.join(2, have=full_set(64), wants=False, labels=("us", "b", "r9"), slots=100)
    book.join(3, labels=("eu", "a", "r1"))
    assert book.of_child(3)
    for lease in book.of_child(3):
        assert lease.parent == (1 if lease.first < 32 else 2)


def test_near_and_far_are_alike_to_hosts_that_share_no_location() -> None:
    book = Playbook(pieces=64)
    book.join(1, have=full_set(64), wants=False, labels=("eu", "a"), slots=100)
    book.join(2, have=full_set(64), wants=False, labels=("us", "b"), slots=100)
    book.join(3, labels=("asia", "c"))
    parents = [lease.parent for lease in book.of_child(3)]
    assert parents.count(1) > 0 < parents.count(2)


def test_a_rack_takes_each_piece_once_and_waits_for_it() -> None:
    book = Playbook(pieces=8)
    book.join(1, have=full_set(8), wants=False, slots=100)
    book.join(2, labels=("r1",))
    book.join(3, labels=("r1",))
    assert pieces_of(book.of_child(2)) == list(range(8)) and not book.of_child(3)
    book.stored(2, *range(8))
    assert {lease.parent for lease in book.of_child(3)} == {2}


def test_a_rack_whose_carrier_fails_takes_the_pieces_again() -> None:
    book = Playbook(pieces=8)
    book.join(1, have=full_set(8), wants=False, slots=100)
    book.join(2, labels=("r1",))
    book.join(3, labels=("r1",))
    book.lost(2)
    book.wait(1.0)
    assert pieces_of(book.of_child(3)) == list(range(8))


@pytest.mark.parametrize("failure, sent_away", [(Failure.NOT_HELD, False), (Failure.BUSY, False),
                                                (Failure.BROKEN, True)])
def test_who_asked_too_early_stays_in_its_rack(failure: Failure, sent_away: bool) -> None:
    """2 is to get from 1 what 1 is getting itself; as the swarm begins, 1 may not know of it."""
    book = Playbook(pieces=64, limits=CROWDED)
    for host in (7, 8, 9):
        book.join(host, have=full_set(64), wants=False)
    book.join(1, labels=("r1",))
    book.wait(0.2)
    book.join(2, labels=("r1",))
    book.wait(0.2)
    assert {lease.parent for lease in book.of_child(2)} == {1}
    for lease in book.of_child(2):
        book.failed(lease, failure)
    book.wait(0.2)
    assert ({grant.parent for grant in book.granted if grant.child == 2} != {1}) is sent_away


def test_nobody_waits_for_a_busy_rack_for_ever() -> None:
    book = Playbook(pieces=8)
    book.join(1, have=full_set(8), wants=False, slots=100)
    book.join(2, have=full_set(8), wants=False, slots=0, labels=("r1",))
    book.join(3, labels=("r1",))
    assert not book.of_child(3)
    book.wait(3.0)
    assert {lease.parent for lease in book.of_child(3)} == {1}


def test_a_crowd_gets_a_first_lease_each_before_anybody_gets_many() -> None:
    book = Playbook(pieces=64, limits=replace(LIMITS, pace=PaceLimits(leases_per_s=1000.0)))
    for host in range(1, 61):
        book.join(host, have=full_set(64), wants=False, slots=16)
    for host in range(100, 160):
        book.join(host)
    assert all(book.of_child(host) for host in range(100, 160))
    before = len(book.granted)
    assert before <= 60 + 100                     # one each, and what was saved up
    book.wait(0.2)
    assert 100 <= len(book.granted) - before <= 210  # the budget, and no more


def test_upload_slots_are_never_exceeded() -> None:
    book = Playbook(pieces=32, seed_slots=2)
    book.fetched(*range(32))
    for host in range(1, 6):
        book.join(host, slots=3)
    assert len(book.of_parent(SEED)) == 2
    for lease in list(book.leases.values()):
        book.stored(lease.child, lease.first)
        assert all(len(book.of_parent(host)) <= 3 for host in range(1, 6))
        assert len(book.of_parent(SEED)) <= 2


def test_a_host_without_slots_gives_nothing_and_gets_everything() -> None:
    book = Playbook(pieces=4)
    book.fetched(*range(4))
    book.join(1, have=0b1111, wants=False, slots=0)
    book.join(2)
    book.run_to_end()
    assert {grant.parent for grant in book.granted} == {SEED}
    assert pieces_of(book.granted) == [0, 1, 2, 3]


def test_a_child_has_a_window_of_leases_and_a_report_refills_it() -> None:
    book = Playbook(pieces=100)
    book.fetched(*range(100))
    book.join(1)
    window = len(book.of_child(1))
    assert window == LIMITS.window_min
    first = book.of_child(1)[0]
    assert len(only(Grant, book.stored(1, first.first))) == 1
    assert len(book.of_child(1)) == window


def test_a_reader_gets_its_next_pieces_first() -> None:
    book = Playbook(pieces=200)
    book.join(1, have=full_set(200), wants=False, slots=100)
    book.join(2, urgent_at=50)
    assert [grant.first for grant in book.granted[:8]] == list(range(50, 58))
    for piece in range(50, 58):
        book.stored(2, piece)
    book.tell(core.ReaderAt(SWARM, 2, 150))
    stored = pieces_of(book.of_child(2))
    book.stored(2, *stored)
    assert set(range(150, 158)) - set(stored) <= set(pieces_of(book.of_child(2)))


# ------------------------------------------------------------------------- loss and faults
def test_what_a_lost_parent_owed_is_leased_again_at_once() -> None:
    book = Playbook(pieces=4)
    for host in (1, 2):
        book.join(host, have=0b1111, wants=False)
    book.join(3)
    owed = [lease.first for lease in book.of_parent(1)]
    assert owed
    effects = book.lost(1)
    assert len(only(Withdraw, effects)) == len(owed)
    assert sorted(grant.first for grant in only(Grant, effects)) == sorted(owed)
    assert {grant.parent for grant in only(Grant, effects)} == {2}


def test_what_a_lost_child_was_getting_goes_to_others() -> None:
    book = Playbook(pieces=1, seed_slots=1)
    book.join(1)
    book.fetched(0)
    book.join(2)
    assert book.of_child(2) == []
    (grant,) = only(Grant, book.lost(1))
    assert (grant.child, grant.parent, grant.first) == (2, SEED, 0)


def test_a_peer_that_leaves_is_told_to_stop_and_so_are_its_children() -> None:
    book = Playbook(pieces=4)
    book.fetched(0, 1)
    book.join(1)
    book.stored(1, 0)
    book.join(2)
    children = [lease.lease for lease in book.leases.values() if 1 in (lease.child, lease.parent)]
    effects = book.tell(core.PeerLeft(SWARM, 1))
    assert {order.lease for order in only(Withdraw, effects)} == set(children)


def test_wrong_bytes_mean_quarantine_at_once() -> None:
    book = Playbook(pieces=16)
    book.fetched(*range(16))
    book.join(1, have=full_set(16), wants=False, slots=8)
    book.join(2)
    book.join(3)
    lies = book.of_parent(1)
    assert len(lies) == 8
    effects = book.failed(lies[0], Failure.BAD_DIGEST)
    assert [order.host for order in only(Quarantine, effects)] == [1]
    assert {order.lease for order in only(Withdraw, effects)} == {
        lease.lease for lease in lies[1:]}
    book.run_to_end()
    assert 1 not in {grant.parent for grant in book.granted[len(lies) + 20:]}
    assert book.of_parent(1) == []


def test_a_host_that_was_quarantined_before_never_serves() -> None:
    book = Playbook(pieces=2)
    book.tell(core.HostJoined(1, (), 16, trusted=False))
    book.tell(core.PeerJoined(SWARM, 1, 0b11, wants=False))
    book.join(2)
    assert book.leases == {}


def test_the_seed_is_never_quarantined() -> None:
    book = Playbook(pieces=1)
    book.join(1)
    book.fetched(0)
    effects = book.failed(book.of_child(1)[0], Failure.BAD_DIGEST)
    assert only(Quarantine, effects) == []
    book.wait(TrustLimits().avoid_s + 0.3)
    assert len(book.of_child(1)) == 1    # after a pause it is asked again


def test_who_accuses_everybody_is_believed_no_longer() -> None:
    book = Playbook(pieces=64)
    for host in range(1, 7):
        book.join(host, have=full_set(64), wants=False)
    book.join(9)
    accused = []
    for _ in range(40):
        if book.of_child(9):
            accused += only(Quarantine, book.failed(book.of_child(9)[0], Failure.BAD_DIGEST))
    assert len(accused) == LIMITS.trust.accused_max


def test_a_pair_that_failed_is_avoided_for_a_while_then_tried_again() -> None:
    book = Playbook(pieces=1)
    book.join(1, have=1, wants=False)
    book.join(2)
    assert only(Grant, book.failed(book.of_child(2)[0], Failure.REFUSED)) == []
    assert only(Grant, book.wait(TrustLimits().avoid_s * 0.9)) == []
    (again,) = only(Grant, book.wait(1.0))
    assert again.parent == 1
    book.failed(again, Failure.REFUSED)
    assert only(Grant, book.wait(TrustLimits().avoid_s * 1.5)) == []    # longer each time
    assert len(only(Grant, book.wait(5.0))) == 1


def test_a_parent_that_fails_several_children_is_avoided_by_all() -> None:
    book = Playbook(pieces=1)
    book.join(1, have=1, wants=False)
    for host in range(2, 2 + TrustLimits().strikes_max):
        book.join(host, slots=0)
        book.failed(book.of_child(host)[0], Failure.BROKEN)
    book.join(50)
    assert book.of_child(50) == []
    book.wait(TrustLimits().strikes_s + 1)
    assert book.of_child(50) != []


def test_a_child_whose_disk_failed_gets_nothing_for_a_while() -> None:
    book = Playbook(pieces=4)
    book.fetched(*range(4))
    book.join(1)
    for lease in book.of_child(1):
        book.failed(lease, Failure.LOCAL)
    assert book.of_child(1) == []
    book.wait(TrustLimits().avoid_s + 0.1)
    assert len(book.of_child(1)) == 4


def test_two_children_that_find_nothing_correct_a_false_claim() -> None:
    book = Playbook(pieces=1)
    book.join(1, have=1, wants=False)     # a lie
    book.join(2, slots=0)
    book.join(3, slots=0)
    book.failed(book.of_child(2)[0], Failure.NOT_HELD)
    assert book.leases and book.of_parent(1)
    book.failed(book.of_child(3)[0], Failure.NOT_HELD)
    book.fetched(0)                       # no copy is left in the books: the seed sends it
    assert {lease.parent for lease in book.leases.values()} == {SEED}


# -------------------------------------------------------------------------- slow, endgame
def test_a_slow_lease_is_leased_again_elsewhere_and_the_first_wins() -> None:
    book = Playbook(pieces=1)
    book.join(1, have=1, wants=False)
    book.join(2, have=1, wants=False)
    book.join(3)
    (slow,) = book.of_child(3)
    (twin,) = only(Grant, book.wait(1.0))
    assert twin.child == 3 and {slow.parent, twin.parent} == {1, 2} and twin.first == slow.first
    told = only(Withdraw, book.stored(3, 0))
    assert {order.lease for order in told} == {slow.lease, twin.lease}
    assert book.scheduler.active_leases == 0


def test_a_lease_that_stays_slow_is_taken_back() -> None:
    book = Playbook(pieces=1)
    for host in (1, 2):
        book.join(host, have=1, wants=False)
    book.join(3)
    (slow,) = book.of_child(3)
    assert slow.lease in {order.lease for order in only(Withdraw, book.wait(3.0))}


def test_a_lease_that_goes_on_is_left_alone() -> None:
    book = Playbook(pieces=512, limits=replace(LIMITS, pace=PaceLimits(leases_per_s=30.0)))
    book.join(1, have=full_set(512), wants=False)
    book.join(2)
    book.wait(0.4)                        # the budget's delay
    runs = book.of_child(2)
    assert min(lease.count for lease in runs) >= 4
    for step in range(3):                 # each run shows a piece in time
        assert only(Withdraw, book.wait(0.4)) == []
        assert len(book.granted) == len(runs)
        book.tell(core.PiecesStored(SWARM, 2, [lease.first + step for lease in runs]))


def test_a_silent_parent_is_avoided_by_everybody() -> None:
    book = Playbook(pieces=32)
    book.join(1, have=full_set(32), wants=False, slots=64)
    book.join(2)
    book.wait(3.0)                        # nothing ever comes from it
    book.join(3, have=full_set(32), wants=False, slots=64)
    before = len(book.granted)
    book.join(4)
    assert {grant.parent for grant in book.granted[before:]} == {3}


def test_the_end_of_a_download_is_less_patient() -> None:
    """With nothing else to ask for, a child's slow lease is hedged sooner."""
    def hedged_after(limits: SchedulerLimits) -> float:
        book = Playbook(pieces=1, limits=limits, piece_size=16 << 20)
        for host in (1, 2):
            book.join(host, have=1, wants=False)
        book.join(3)
        start = book.now
        while len(book.granted) < 2:
            due = book.scheduler.deadline()
            assert due is not None
            book.tell(core.TimePassed(), after=max(0.0, due - book.now))
        return book.now - start
    patient = replace(LIMITS, endgame_factor=LIMITS.slow_factor)
    assert hedged_after(LIMITS) < hedged_after(patient)


def test_a_peer_that_became_complete_has_no_leases() -> None:
    book = Playbook(pieces=2)
    book.fetched(0, 1)
    book.join(1)
    assert len(book.of_child(1)) == 2
    effects = book.tell(core.PiecesHeld(SWARM, 1, 0b11))     # it got them otherwise
    assert book.scheduler.active_leases == 0
    assert only(Grant, effects) == []


def test_evicted_pieces_are_leased_from_others() -> None:
    book = Playbook(pieces=2)
    for host in (1, 2):
        book.join(host, have=0b11, wants=False)
    book.join(3)
    gone = book.of_parent(1)
    if not gone:
        gone = book.of_parent(2)
    parent = gone[0].parent
    effects = book.tell(core.PiecesHeld(SWARM, parent, 0))
    assert {order.lease for order in only(Withdraw, effects)} == {lease.lease for lease in gone}
    assert pieces_of(book.of_child(3)) == [0, 1] and book.of_parent(parent) == []


# -------------------------------------------------------------------------------- runs
def crowd(book: Playbook, hosts: int) -> None:
    for host in range(1, hosts + 1):
        book.join(host)


def test_crowded_swarms_lease_runs_also_from_hosts_that_only_lease_them() -> None:
    book = Playbook(pieces=64, limits=CROWDED, seed_slots=2)
    crowd(book, 6)
    book.fetched(*range(8))
    assert max(grant.count for grant in book.granted) > 1
    passed_on = [grant for grant in book.granted if grant.parent != SEED]
    assert passed_on                      # nobody but the manager holds anything yet
    older = {grant.lease: grant for grant in book.granted}
    for grant in passed_on:
        above = [lease for lease in older.values() if lease.child == grant.parent
                 and lease.lease < grant.lease
                 and run_set(lease.first, lease.count) & run_set(grant.first, grant.count)]
        assert above                      # it waits for an older lease


def test_a_branch_is_not_blamed_for_the_time_in_which_its_parent_had_nothing() -> None:
    """The clock of a lease that waits for its parent's pieces starts when these are there."""
    limits = replace(CROWDED, forest_hosts=6, forest_runs=1000)
    book = Playbook(pieces=64, limits=limits)
    crowd(book, 6)
    book.wait(10.0)
    waiting = [lease for lease in book.leases.values() if lease.parent != SEED]
    assert waiting
    book.fetched(*range(64))
    first = [lease for lease in book.leases.values() if lease.parent == SEED]
    assert only(Withdraw, book.wait(0.3)) == []
    for lease in first:                   # those below may go on only from here on
        book.stored(lease.child, *range(lease.first, lease.first + lease.count))
    assert only(Withdraw, book.wait(0.3)) == []
    assert only(Withdraw, book.wait(60.0))   # but not for ever


def test_who_comes_complete_to_a_forest_serves_there() -> None:
    limits = replace(CROWDED, forest_hosts=6, forest_runs=1000)
    book = Playbook(pieces=64, limits=limits, seed_slots=1)
    crowd(book, 6)
    book.wait(1.0)
    for host in (20, 21, 22, 23):
        book.join(host, have=full_set(64), wants=False)
    before = len(book.granted)
    crowd(book, 12)
    book.wait(0.3)
    assert len(book.granted) > before
    assert {lease.parent for lease in book.granted} & {20, 21, 22, 23}


def test_waits_for_waits_are_bounded() -> None:
    limits = replace(CROWDED, choice=ChoiceLimits(depth_max=2))
    book = Playbook(pieces=64, limits=limits, seed_slots=1)
    book.fetched(*range(8))
    for host in range(1, 30):
        book.join(host, slots=2)
    depth: Dict[int, int] = {}
    for grant in book.granted:
        run = run_set(grant.first, grant.count)
        depth[grant.lease] = 0 if grant.parent == SEED else 1 + max(
            depth[above.lease] for above in book.granted if above.child == grant.parent
            and above.lease < grant.lease and run & run_set(above.first, above.count))
    assert max(depth.values()) == 2


def test_what_others_wait_for_is_repaired_from_holders_only() -> None:
    """1 gets a run from the seed, 2 waits for it at 1. When 1 loses its lease, it must not get
    those pieces from 2, which waits for them itself."""
    book = Playbook(pieces=16, limits=CROWDED, seed_slots=1)
    book.join(1)
    book.join(2)
    book.fetched(*range(4))
    waiting = [lease for lease in book.of_child(2) if lease.parent == 1]
    assert waiting
    (first,) = [lease for lease in book.of_child(1) if lease.parent == SEED]
    before = len(book.granted)
    book.failed(first, Failure.BROKEN)
    book.wait(TrustLimits().avoid_s + 0.3)
    owed = set(pieces_of(waiting))
    repairs = [grant for grant in book.granted[before:] if (grant.child, grant.parent) == (1, 2)]
    assert not owed & set(pieces_of(repairs))


# ------------------------------------------------------------------------- unknown length
def test_pieces_of_unknown_count_are_spread_as_they_appear() -> None:
    book = Playbook(pieces=None)
    book.join(1)
    for piece in range(3):
        (grant,) = only(Grant, book.fetched(piece))
        assert grant.first == piece
        book.stored(1, piece)
    book.join(2)
    assert pieces_of(book.of_child(2)) == [0, 1, 2]
    book.stored(2, 0, 1, 2)
    book.tell(core.SwarmSized(SWARM, 3))
    book.fetched(3)                       # there is no such piece
    assert book.leases == {}
    assert book.scheduler.ignored == 1


# ------------------------------------------------------------------------------- pace
def test_reports_are_batched_as_the_number_of_hosts_and_reports_grows() -> None:
    limits = replace(LIMITS, pace=PaceLimits(reports_per_s=1000.0))
    book = Playbook(pieces=10_000, limits=limits)
    paces: List[float] = []
    for host in range(1, 41):
        paces += [order.batch_s for order in only(Pace, book.join(host))]
    assert paces and paces == sorted(paces)
    assert book.scheduler.batch_s == paces[-1] == pytest.approx(40 / 1000, rel=0.5)
    book.fetched(*range(10_000))
    quiet: List[float] = []
    for _ in range(400):                  # 10 reports a second: far below the budget
        lease = next(iter(book.leases.values()))
        effects = book.tell(core.PiecesStored(SWARM, lease.child, (lease.first,)), after=0.1)
        book.leases.pop(lease.lease, None)
        quiet += [order.batch_s for order in only(Pace, effects)]
    assert quiet and book.scheduler.batch_s == limits.pace.batch_min_s


def test_one_step_does_a_bounded_amount_of_work() -> None:
    book = Playbook(pieces=400, limits=replace(LIMITS, work_max=10), seed_slots=1000)
    crowd(book, 20)
    effects = book.fetched(*range(400))
    assert len(only(Grant, effects)) <= 12
    assert book.scheduler.deadline() == book.now
    book.wait(0.0)
    assert len(book.leases) == 20 * LIMITS.window_min


# ------------------------------------------------------------------------------- lies
def test_facts_that_do_not_fit_are_ignored_and_counted() -> None:
    book = Playbook(pieces=4)
    book.join(1)
    book.fetched(0)
    (lease,) = book.of_child(1)
    nonsense: List[Event] = [
        core.HostLost(99), core.SwarmOpened(SWARM, 4, 1 << 20), core.SwarmOpened(8, -1, 1 << 20),
        core.SwarmOpened(8, 4, 0), core.SwarmSized(SWARM, 9), core.SwarmSized(5, 1),
        core.SwarmClosed(5), core.PeerJoined(5, 1), core.PeerJoined(SWARM, 99),
        core.PeerJoined(SWARM, 1, -1), core.PeerLeft(SWARM, 99), core.PiecesStored(5, 1, (0,)),
        core.PiecesStored(SWARM, 99, (0,)), core.PiecesStored(SWARM, 1, (-1,)),
        core.PiecesStored(SWARM, 1, (4,)), core.PiecesStored(SWARM, 1, (1 << 40,)),
        core.PiecesHeld(SWARM, 99, 1), core.PiecesHeld(SWARM, 1, -5),
        core.LeaseEnded(12345, Failure.BROKEN, 0, 1),
        core.LeaseEnded(lease.lease, Failure.BAD_DIGEST, 0, 99),   # not the lease's child
        core.ReaderAt(SWARM, 99, 0), core.ReaderAt(SWARM, 1, -1), core.ReaderAt(SWARM, 1, 1 << 40)]
    for count, event in enumerate(nonsense, 1):
        assert only(Quarantine, book.tell(event)) == []
        assert book.scheduler.ignored == count, event
    assert book.scheduler.active_leases == 1


def test_a_claim_of_pieces_beyond_the_end_grants_nothing() -> None:
    book = Playbook(pieces=2)
    book.join(1, have=1 << 100 | 0b10, wants=False)
    book.join(2)
    assert pieces_of(book.of_child(2)) == [1]


def test_a_closed_swarm_withdraws_everything() -> None:
    book = Playbook(pieces=4)
    book.fetched(*range(4))
    book.join(1)
    under_way = set(book.leases)
    assert {order.lease for order in only(Withdraw, book.tell(core.SwarmClosed(SWARM)))} \
        == under_way
    assert book.scheduler.active_leases == 0
    book.tell(core.SwarmOpened(SWARM, 2, 1 << 20))
    book.fetched(0)
    assert book.leases == {}


def test_an_empty_task_needs_nothing() -> None:
    book = Playbook(pieces=0)
    assert book.join(1) == [] and book.wait(5.0) == []


@pytest.mark.parametrize("seed", range(12))
def test_any_order_of_facts_keeps_the_books_straight(seed: int) -> None:
    """Random facts, true and false; after each the books must agree with themselves."""
    rng = random.Random(seed)
    limits = CROWDED if seed % 2 else LIMITS
    book = Playbook(pieces=24 if seed % 3 else None, limits=limits, seed_slots=3)
    for _ in range(600):
        book.tell(random_fact(rng, book), after=rng.choice((0.0, 0.001, 0.3)))
        due = book.scheduler.deadline()
        if due is not None and due <= book.now:
            book.tell(core.TimePassed())
        check_books(book.scheduler)


def random_fact(rng: random.Random, book: Playbook) -> Event:
    host, piece = rng.randrange(9), rng.randrange(26)
    lease = rng.choice(list(book.leases.values())) if book.leases else None
    if lease is not None and rng.random() < 0.4:
        return core.PiecesStored(SWARM, lease.child, tuple(
            range(lease.first, lease.first + rng.randint(1, lease.count))))
    if lease is not None and rng.random() < 0.2:
        return core.LeaseEnded(lease.lease, rng.choice(list(Failure)), lease.first, lease.child)
    return rng.choice((
        core.HostJoined(host or 1, ("r", str(host % 3)), rng.randrange(5)),
        core.HostLost(host), core.PeerJoined(SWARM, host, rng.getrandbits(24),
                                             rng.random() < 0.8),
        core.PeerLeft(SWARM, host or 1), core.PiecesStored(SWARM, host, (piece,)),
        core.PiecesStored(SWARM, SEED, (piece % 24,)), core.PiecesHeld(SWARM, host,
                                                                       rng.getrandbits(24)),
        core.ReaderAt(SWARM, host, piece), core.TimePassed(), core.PeerJoined(SWARM, host),
        core.SwarmSized(SWARM, 24) if rng.random() < 0.1 else core.TimePassed()))


def check_books(scheduler: Scheduler) -> None:
    leases = scheduler._leases.by_number
    for host in scheduler._hosts.values():
        assert len(host.uploads) <= host.slots
        assert all(leases[number] is lease for number, lease in host.uploads.items())
    for swarm in scheduler._swarms.values():
        copies = [0] * len(swarm.copies)
        for peer in swarm.peers.values():
            leased = 0
            for lease in peer.leases.values():
                assert lease.left and leases[lease.number] is lease
                leased |= lease.left
            assert peer.leased == leased & ~peer.have == leased
            for piece in members(peer.have | peer.leased):
                copies[piece] += peer.host.number != SEED
        assert swarm.copies == copies
        for level, pieces in enumerate(swarm.levels):
            assert all(copies[piece].bit_length() == level for piece in members(pieces))
        assert sum(bin(pieces).count("1") for pieces in swarm.levels) == len(copies)
