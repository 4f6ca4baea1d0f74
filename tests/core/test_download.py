"""The peer's machine, by playbook: facts in, orders out."""
from __future__ import annotations

from random import Random
from typing import List, Optional

from dfly.core import download as d
from dfly.errors import NetworkError, NoManager, NoSpace
from dfly.wire.messages import Failure


class Play:
    """A download whose clock and facts the test gives."""

    def __init__(self, pieces: Optional[int] = 4, have: int = 0,
                 may_use_source: bool = True) -> None:
        self.machine = d.Download(d.DownloadLimits(), may_use_source=may_use_source,
                                  rng=Random(1))
        self.now = 0.0
        self.pieces = pieces
        self.have = have

    def led(self) -> "Play":
        assert self.hear(d.Opened(self.pieces, self.have), d.Led()) == []
        return self

    def hear(self, *events: d.Event) -> List[d.Effect]:
        effects: List[d.Effect] = []
        for event in events:
            effects += self.machine.step(event, self.now)
        return effects

    def wait(self) -> List[d.Effect]:
        """Let time pass up to the machine's own deadline."""
        due = self.machine.deadline()
        assert due is not None
        self.now = due
        return self.hear(d.TimePassed())


def test_a_lease_becomes_a_run_and_every_piece_a_report() -> None:
    play = Play(2).led()
    assert play.hear(d.LeaseGranted(70, 5, 0, 2, 9.0)) == [d.FetchRun(1, 5, 0, 2, 9.0)]
    assert play.hear(d.PieceStored(0)) == [d.TellStored(0)]
    assert play.hear(d.PieceStored(1)) == [d.TellStored(1), d.StopRun(1), d.Complete()]
    assert play.machine.state is d.State.DONE


def test_held_pieces_are_not_fetched_but_reported() -> None:
    play = Play(4, have=0b0010).led()
    assert play.hear(d.LeaseGranted(70, 5, 1, 1, 9.0)) == [d.TellStored(1)]
    assert play.hear(d.LeaseGranted(71, 5, 1, 3, 9.0)) == [d.TellStored(1),
                                                           d.FetchRun(1, 5, 2, 2, 9.0)]


def test_a_complete_store_is_complete_at_once() -> None:
    assert Play(2).hear(d.Opened(2, 0b11)) == [d.Complete()]
    assert Play(0).hear(d.Opened(0, 0)) == [d.Complete()]


def test_a_failed_run_is_told_with_its_reason() -> None:
    play = Play().led()
    play.hear(d.LeaseGranted(70, 5, 0, 2, 9.0))
    assert play.hear(d.RunEnded(1, Failure.BROKEN, 1, "cut")) == [
        d.TellFailed(70, Failure.BROKEN, 1, "cut")]


def test_a_withdrawn_lease_stops_its_run_once() -> None:
    play = Play().led()
    play.hear(d.LeaseGranted(70, 5, 0, 1, 9.0))
    assert play.hear(d.LeaseWithdrawn(70)) == [d.StopRun(1)]
    assert play.hear(d.LeaseWithdrawn(70), d.RunEnded(1, Failure.REVOKED)) == []


def test_unknown_length_completes_when_sized() -> None:
    play = Play(None).led()
    play.hear(d.LeaseGranted(1, 0, 0, 1, 9.0), d.PieceStored(0), d.RunEnded(1))
    assert play.hear(d.Sized(1)) == [d.Complete()]


def test_readers_are_told_only_what_is_missing() -> None:
    play = Play(4, have=1).led()
    assert play.hear(d.ReaderAt(0)) == []
    assert play.hear(d.ReaderAt(2)) == [d.TellReader(2)]


def test_a_manager_that_returns_in_time_leads_on() -> None:
    play = Play().led()
    play.hear(d.LeaseGranted(70, 5, 0, 1, 9.0))
    assert play.hear(d.ManagerLost()) == []
    assert play.hear(d.PieceStored(0), d.RunEnded(1)) == [d.TellStored(0)]
    assert play.hear(d.Led()) == []
    assert play.machine.deadline() is None and not play.machine.lost_p2p


def test_without_a_manager_known_parents_give_the_rest() -> None:
    play = Play(3).led()
    play.hear(d.LeaseGranted(70, 5, 0, 1, 9.0), d.PieceStored(0), d.RunEnded(1), d.ManagerLost())
    assert play.wait() == [d.AskParent(5)]
    assert play.hear(d.ParentHolds(5, 0b111)) == [d.FetchRun(2, 5, 1, 2, 60.0)]
    assert play.hear(d.PieceStored(1), d.PieceStored(2))[-1] == d.Complete()
    assert play.machine.lost_p2p


def test_parents_that_bring_nothing_new_lead_to_the_source() -> None:
    play = Play(3).led()
    play.hear(d.LeaseGranted(70, 5, 0, 1, 9.0), d.PieceStored(0), d.RunEnded(1), d.ManagerLost())
    assert play.wait() == [d.AskParent(5)]
    for _ in range(3):
        assert play.hear(d.ParentHolds(5, 0b001)) == []
        assert play.wait() == [d.AskParent(5)]
    play.hear(d.ParentHolds(5, 0b001))
    assert play.wait() == [d.FetchSource(0b110)]
    assert play.hear(d.PieceStored(1), d.PieceStored(2)) == [
        d.TellStored(1), d.TellStored(2), d.StopSource(), d.Complete()]


def test_silent_parents_lead_to_the_source_at_once() -> None:
    play = Play(3).led()
    play.hear(d.LeaseGranted(70, 5, 0, 1, 9.0), d.ManagerLost())
    play.hear(d.RunEnded(1, Failure.BROKEN, 0, "cut"))
    assert play.wait() == [d.AskParent(5)]
    assert play.hear(d.ParentSilent(5)) == [d.FetchSource(0b111)]


def test_a_manager_has_time_to_come_back_before_the_source_is_asked() -> None:
    for for_good in (False, True):
        play = Play(3).led()
        play.hear(d.LeaseGranted(70, 5, 0, 1, 9.0), d.RunEnded(1, Failure.BROKEN, 0, "cut"))
        play.hear(d.ManagerLost(for_good))
        assert play.hear(d.NoManagerAnswers()) == [d.AskParent(5)]   # parents help meanwhile
        play.now += 0.1
        gone = play.hear(d.ParentSilent(5))
        if not for_good:
            assert gone == [] and not play.machine.lost_p2p
            gone = play.wait()
            assert play.now == d.DownloadLimits().patience_s
        assert gone == [d.FetchSource(0b111)] and play.machine.lost_p2p


def test_a_busy_manager_is_waited_for_while_parents_go_on_helping() -> None:
    play = Play(3).led()
    play.hear(d.LeaseGranted(70, 5, 0, 1, 9.0), d.PieceStored(0), d.RunEnded(1), d.ManagerLost(),
              d.ManagerBusy(30.0))
    patient_until = play.now + 30.0
    assert play.wait() == [d.AskParent(5)]
    while play.now < 20.0:
        assert play.hear(d.ParentHolds(5, 0b001)) == []
        assert play.wait() == [d.AskParent(5)] and not play.machine.lost_p2p
    assert play.hear(d.ParentHolds(5, 0b010))[-1] == d.FetchRun(2, 5, 1, 1, 60.0)
    play.hear(d.PieceStored(1), d.RunEnded(2))
    while not (orders := play.hear(d.ParentHolds(5, 0b010)) or play.wait()) \
            or orders == [d.AskParent(5)]:
        assert play.now <= patient_until + 1.0
    assert orders == [d.FetchSource(0b100)] and play.now >= patient_until


def test_no_source_fails_only_when_the_manager_stays_away() -> None:
    play = Play(3, may_use_source=False).led()
    assert play.hear(d.ManagerLost(), d.NoManagerAnswers()) == []
    assert play.hear(d.Led()) == []   # it came back in time
    assert play.hear(d.ManagerLost(), d.NoManagerAnswers()) == []
    (effect,) = play.wait()
    assert isinstance(effect, d.GiveUp) and isinstance(effect.error, NoManager)


def test_no_source_means_no_source() -> None:
    play = Play(3, may_use_source=False)
    (effect,) = play.hear(d.NoManagerAnswers())
    assert isinstance(effect, d.GiveUp) and isinstance(effect.error, NoManager)
    assert play.hear(d.Opened(3, 0), d.TimePassed()) == []


def test_no_manager_at_all_is_the_source_for_everything() -> None:
    play = Play(2)
    assert play.hear(d.NoManagerAnswers()) == [d.FetchSource(None)]
    assert play.hear(d.Opened(2, 0)) == []
    play.hear(d.PieceStored(0), d.PieceStored(1))
    assert play.machine.state is d.State.DONE


def test_a_failing_source_is_the_end_and_says_why() -> None:
    play = Play(2)
    error = NetworkError("files.example: connection refused")
    play.hear(d.NoManagerAnswers())
    assert play.hear(d.SourceEnded(error)) == [d.GiveUp(error)]


def test_a_manager_that_appears_stops_the_source() -> None:
    play = Play(2)
    play.hear(d.NoManagerAnswers(), d.Opened(2, 0))
    assert play.hear(d.Led()) == [d.StopSource()]
    assert play.hear(d.SourceEnded()) == []
    assert play.hear(d.LeaseGranted(1, 5, 0, 2, 9.0)) == [d.FetchRun(1, 5, 0, 2, 9.0)]


def test_without_a_manager_load_is_spread_over_parents() -> None:
    play = Play(64).led()
    play.hear(*(d.LeaseGranted(n, n, n, 1, 9.0) for n in (1, 2, 3)))
    play.hear(*(d.RunEnded(n, Failure.BROKEN, n) for n in (1, 2, 3)), d.ManagerLost())
    assert len(play.wait()) == 3
    assert play.hear(d.ParentHolds(1, (1 << 64) - 1), d.ParentHolds(2, (1 << 64) - 1)) == []
    runs = play.hear(d.ParentHolds(3, (1 << 64) - 1))
    assert all(isinstance(run, d.FetchRun) for run in runs) and len(runs) == 4
    assert {run.parent for run in runs} == {1, 2, 3}
    covered = [piece for run in runs for piece in range(run.first, run.first + run.count)]
    assert len(covered) == len(set(covered)), "no piece is fetched twice at once"


def test_a_parent_that_never_answers_is_not_waited_for() -> None:
    play = Play(8).led()
    play.hear(*(d.LeaseGranted(n, n, n, 1, 9.0) for n in (1, 2)))
    play.hear(*(d.RunEnded(n, Failure.BROKEN, n) for n in (1, 2)), d.ManagerLost())
    play.wait()
    assert play.hear(d.ParentHolds(1, 0xFF)) == []
    assert any(isinstance(effect, d.FetchRun) and effect.parent == 1 for effect in play.wait())


def test_a_doomed_download_stops_everything_and_says_why() -> None:
    play = Play(4).led()
    play.hear(d.LeaseGranted(70, 5, 0, 2, 9.0))
    error = NoSpace("the disk is full")
    assert play.hear(d.Doomed(error)) == [d.StopRun(1), d.GiveUp(error)]
    play = Play(4)
    play.hear(d.NoManagerAnswers())
    assert play.hear(d.Doomed(error)) == [d.StopSource(), d.GiveUp(error)]
