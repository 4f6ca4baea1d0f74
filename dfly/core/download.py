"""The peer's side of one task, as a machine: what to fetch from whom, and what to tell whom.

Pure (see machine.py): events are facts, effects are orders to the driver (service/download.py),
piece bytes never come here. The states, and what moves between them:

    WAITING   nothing is led yet; the driver asks the managers
    LED       a manager leads: every lease becomes a run, every stored piece a report
    ALONE     the link was lost: runs in flight go on; back to LED if a manager answers, else,
              at once if none can be reached, or after `patience_s`,
    PARENTS   runs from parents that were met before and say what they hold; when nobody has
              anything that is missing, or all fail, but not before the manager had `patience_s`
              to come back (more, if it says that it is merely busy),
    SOURCE    what is missing comes from the source (if it may), in pieces nobody else had
    DONE, FAILED

A manager that comes back leads again from any of the middle states. Pieces are never given up:
each state only adds to `have`.
"""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Callable, ClassVar, Dict, List, Optional, Set, Tuple, Type, Union

from dfly.errors import DflyError, NoManager
from dfly.task import count_of, full_set, lowest, run_set, runs_of
from dfly.wire.messages import Failure


# -------------------------------------------------------------------------------- events
@dataclass(frozen=True)
class Opened:
    """The task is known: its number of pieces (None: unknown yet) and what the store holds."""

    piece_count: Optional[int]
    have: int


@dataclass(frozen=True)
class Sized:
    piece_count: int


@dataclass(frozen=True)
class Led:
    """A manager accepted us (again)."""


@dataclass(frozen=True)
class ManagerLost:
    """`for_good`: it lives, but is of no more use to this task."""

    for_good: bool = False


@dataclass(frozen=True)
class ManagerBusy:
    """It lives, but lets nobody in: it is worth waiting for so long, and the source isn't asked
    before."""

    for_s: float


@dataclass(frozen=True)
class NoManagerAnswers:
    """None was configured, or none can be reached: act alone now."""


@dataclass(frozen=True)
class LeaseGranted:
    lease: int
    parent: int
    first: int
    count: int
    deadline_s: float


@dataclass(frozen=True)
class LeaseWithdrawn:
    lease: int


@dataclass(frozen=True)
class PieceStored:
    """Verified and on disk, from wherever."""

    piece: int


@dataclass(frozen=True)
class RunEnded:
    """`failure` None: all pieces of the run came. `piece`: where it broke."""

    run: int
    failure: Optional[Failure] = None
    piece: int = 0
    detail: str = ""


@dataclass(frozen=True)
class ParentHolds:
    parent: int
    pieces: int


@dataclass(frozen=True)
class ParentSilent:
    """The parent doesn't answer, or doesn't have this task."""

    parent: int


@dataclass(frozen=True)
class SourceEnded:
    error: Optional[DflyError] = None


@dataclass(frozen=True)
class Doomed:
    """This download can't go on whoever helps: the disk is full, the task itself has failed."""

    error: DflyError


@dataclass(frozen=True)
class ReaderAt:
    """A streaming reader waits for this piece."""

    piece: int


@dataclass(frozen=True)
class TimePassed:
    pass


Event = Union[Opened, Sized, Led, ManagerLost, ManagerBusy, NoManagerAnswers, LeaseGranted,
              LeaseWithdrawn, PieceStored, RunEnded, ParentHolds, ParentSilent, SourceEnded,
              Doomed, ReaderAt, TimePassed]


# ------------------------------------------------------------------------------- effects
@dataclass(frozen=True)
class FetchRun:
    run: int
    parent: int
    first: int
    count: int
    deadline_s: float


@dataclass(frozen=True)
class StopRun:
    run: int


@dataclass(frozen=True)
class TellStored:
    piece: int


@dataclass(frozen=True)
class TellFailed:
    lease: int
    failure: Failure
    piece: int
    detail: str


@dataclass(frozen=True)
class TellReader:
    piece: int


@dataclass(frozen=True)
class AskParent:
    """Ask this parent which pieces it holds: ParentHolds or ParentSilent will follow."""

    parent: int


@dataclass(frozen=True)
class FetchSource:
    """Fetch these pieces (None: all there are) from the source; SourceEnded will follow."""

    pieces: Optional[int]


@dataclass(frozen=True)
class StopSource:
    pass


@dataclass(frozen=True)
class Complete:
    pass


@dataclass(frozen=True)
class GiveUp:
    error: DflyError


Effect = Union[FetchRun, StopRun, TellStored, TellFailed, TellReader, AskParent, FetchSource,
               StopSource, Complete, GiveUp]


class State(Enum):
    WAITING = "waiting"
    LED = "led"
    ALONE = "alone"
    PARENTS = "parents"
    SOURCE = "source"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class DownloadLimits:
    patience_s: float = 3.0    # a manager's restart takes about this long
    ask_again_s: float = 1.0   # between rounds of asking parents without a manager
    idle_rounds: int = 3       # rounds without a new piece before the source is asked
    runs: int = 4              # at once, without a manager
    run_pieces: int = 8        # pieces in such a run
    run_deadline_s: float = 60.0
    parents_max: int = 64      # parents remembered


@dataclass
class _Run:
    parent: int
    first: int
    count: int
    lease: Optional[int]


_ENDED = (State.DONE, State.FAILED)


class Download:
    """One task on one host. `may_use_source`: False for --no-source."""

    def __init__(self, limits: DownloadLimits, *, may_use_source: bool, rng: Random) -> None:
        self.state = State.WAITING
        self.have = 0
        self.lost_p2p = False      # a manager led once, and this host had to go on without one
        self._limits = limits
        self.may_use_source = may_use_source
        self._rng = rng
        self._count: Optional[int] = None
        self._opened = False
        self._runs: Dict[int, _Run] = {}
        self._run_of_lease: Dict[int, int] = {}
        self._next_run = 1
        self._parents: Dict[int, int] = {}   # parent -> pieces it said it holds, oldest first
        self._asked: Set[int] = set()
        self._rounds = 0
        self._due: Optional[float] = None
        self._patient_until = 0.0            # a lost manager may come back: no source before
        self._source_on = False

    # -------------------------------------------------------------------------- machine
    def step(self, event: Event, now: float) -> List[Effect]:
        if self.state in _ENDED and not isinstance(event, (PieceStored, LeaseGranted)):
            return []
        return self._HANDLERS[type(event)](self, event, now)

    def deadline(self) -> Optional[float]:
        return self._due

    @property
    def missing(self) -> Optional[int]:
        """Piece set still to come; None while the number of pieces is unknown."""
        return None if self._count is None else full_set(self._count) & ~self.have

    # ------------------------------------------------------------------- opening, ending
    def _on_opened(self, event: Opened, now: float) -> List[Effect]:
        self._opened = True
        self._count = event.piece_count
        self.have |= event.have
        return self._check_complete()

    def _on_sized(self, event: Sized, now: float) -> List[Effect]:
        self._count = event.piece_count
        return self._check_complete()

    def _check_complete(self) -> List[Effect]:
        if self.state in _ENDED or self.missing != 0:
            return []
        self.state = State.DONE
        self._due = None
        effects: List[Effect] = [StopRun(run) for run in self._runs]
        if self._source_on:
            effects.append(StopSource())
        self._runs.clear()
        self._run_of_lease.clear()
        return [*effects, Complete()]

    def _on_doomed(self, event: Doomed, now: float) -> List[Effect]:
        return self._fail(event.error)

    def _fail(self, error: DflyError) -> List[Effect]:
        self.state = State.FAILED
        self._due = None
        effects: List[Effect] = [StopRun(run) for run in self._runs]
        if self._source_on:
            effects.append(StopSource())
        self._runs.clear()
        self._run_of_lease.clear()
        return [*effects, GiveUp(error)]

    # ------------------------------------------------------------------------------ led
    def _on_led(self, event: Led, now: float) -> List[Effect]:
        self.state = State.LED
        self._due = None
        self._rounds = 0
        effects: List[Effect] = []
        if self._source_on:
            self._source_on = False
            effects.append(StopSource())
        for run, lent in list(self._runs.items()):
            if lent.lease is None:  # the manager doesn't know it, and will lease its pieces
                del self._runs[run]
                effects.append(StopRun(run))
        return effects

    def _on_lease(self, event: LeaseGranted, now: float) -> List[Effect]:
        self._remember(event.parent)
        wanted = run_set(event.first, event.count) & ~self.have
        if not wanted:  # a duplicate that arrived after its pieces did
            return [TellStored(piece) for piece in range(event.first, event.first + event.count)]
        if self.state is not State.LED or event.lease in self._run_of_lease:
            return []
        first = lowest(wanted)
        count = wanted.bit_length() - first
        run = self._start(event.parent, first, count, event.lease)
        self._run_of_lease[event.lease] = run
        told: List[Effect] = [TellStored(piece) for piece
                              in range(event.first, event.first + event.count)
                              if not wanted >> piece & 1]
        return [*told, FetchRun(run, event.parent, first, count, event.deadline_s)]

    def _start(self, parent: int, first: int, count: int, lease: Optional[int]) -> int:
        run = self._next_run
        self._next_run += 1
        self._runs[run] = _Run(parent, first, count, lease)
        return run

    def _on_withdrawn(self, event: LeaseWithdrawn, now: float) -> List[Effect]:
        run = self._run_of_lease.pop(event.lease, None)
        if run is None:
            return []
        del self._runs[run]
        return [StopRun(run)]

    def _on_stored(self, event: PieceStored, now: float) -> List[Effect]:
        if self.have >> event.piece & 1:
            return []
        self.have |= 1 << event.piece
        self._rounds = 0
        return [TellStored(event.piece), *self._check_complete()]

    def _on_run_ended(self, event: RunEnded, now: float) -> List[Effect]:
        run = self._runs.pop(event.run, None)
        if run is None:
            return []
        if run.lease is None:
            if event.failure is not None:
                self._parents.pop(run.parent, None)
            return self._go_on(now)
        self._run_of_lease.pop(run.lease, None)
        effects: List[Effect] = []
        if event.failure is not None:
            if event.failure is Failure.BAD_DIGEST:
                self._parents.pop(run.parent, None)
            effects.append(TellFailed(run.lease, event.failure, event.piece, event.detail))
        return effects + self._go_on(now)

    def _on_reader(self, event: ReaderAt, now: float) -> List[Effect]:
        if self.state is State.LED and not self.have >> event.piece & 1:
            return [TellReader(event.piece)]
        return []

    # ---------------------------------------------------------------------------- alone
    def _on_manager_lost(self, event: ManagerLost, now: float) -> List[Effect]:
        if self.state is State.LED:
            self.state = State.ALONE
            self._patient_until = now + (0.0 if event.for_good else self._limits.patience_s)
            self._due = self._patient_until
        return []

    def _on_manager_busy(self, event: ManagerBusy, now: float) -> List[Effect]:
        self._patient_until = max(self._patient_until, now + event.for_s)
        return []

    def _on_no_manager(self, event: NoManagerAnswers, now: float) -> List[Effect]:
        if self.state is State.WAITING:
            return self._to_source(now)
        if self.state is State.ALONE:
            return self._to_parents(now)
        return []

    def _on_time(self, event: TimePassed, now: float) -> List[Effect]:
        if self._due is None or now < self._due:
            return []
        self._due = None
        if self.state is State.ALONE:
            return self._to_parents(now)
        if self.state is State.PARENTS:
            self._rounds += 1
            self._asked.clear()  # whoever hasn't answered by now is not waited for
            started = self._go_on(now)
            if self.state is not State.PARENTS:
                return started
            if (self._rounds > self._limits.idle_rounds and not self._runs
                    and now >= self._patient_until):
                return self._to_source(now)
            return started + self._ask(now)
        return []

    def _to_parents(self, now: float) -> List[Effect]:
        self.state = State.PARENTS
        self._rounds = 0
        return self._ask(now)

    def _ask(self, now: float) -> List[Effect]:
        """One round: ask every parent that was met; go on at the latest when the next is due."""
        self._asked = set(self._parents)
        if not self._parents and not self._runs:
            return self._to_source(now)
        self.lost_p2p = self.lost_p2p or now >= self._patient_until
        self._due = now + self._limits.ask_again_s
        return [AskParent(parent) for parent in self._parents]

    def _on_parent_holds(self, event: ParentHolds, now: float) -> List[Effect]:
        self._asked.discard(event.parent)
        if event.parent in self._parents:
            self._parents[event.parent] = event.pieces
        return self._go_on(now)

    def _on_parent_silent(self, event: ParentSilent, now: float) -> List[Effect]:
        self._asked.discard(event.parent)
        self._parents.pop(event.parent, None)
        return self._go_on(now)

    def _remember(self, parent: int) -> None:
        if parent not in self._parents:
            if len(self._parents) >= self._limits.parents_max:
                self._parents.pop(next(iter(self._parents)))
            self._parents[parent] = 0

    def _go_on(self, now: float) -> List[Effect]:
        """Without a manager: keep `runs` runs going from whoever holds what is missing.

        Waits for the answers of this round, so that the runs are spread over all who hold."""
        if self.state is not State.PARENTS or self._asked:
            return []
        effects: List[Effect] = []
        while len(self._runs) < self._limits.runs:
            choice = self._choose()
            if choice is None:
                break
            parent, first, count = choice
            run = self._start(parent, first, count, None)
            effects.append(FetchRun(run, parent, first, count, self._limits.run_deadline_s))
        if not self._runs and not self._parents:  # while some live, others may yet feed them
            return [*effects, *self._to_source(now)]
        return effects

    def _choose(self) -> Optional[Tuple[int, int, int]]:
        """A run that a known parent holds, from the parent with the fewest runs of ours."""
        wanted = self.missing
        if wanted is None:
            return None
        for run in self._runs.values():
            wanted &= ~run_set(run.first, run.count)
        load: Dict[int, int] = {}
        for run in self._runs.values():
            load[run.parent] = load.get(run.parent, 0) + 1
        useful = [parent for parent, pieces in self._parents.items() if pieces & wanted]
        if not useful:
            return None
        least = min(load.get(parent, 0) for parent in useful)
        parent = self._rng.choice([p for p in useful if load.get(p, 0) == least])
        # Start anywhere: hosts that lost the same manager then fetch different pieces, and can
        # give them to each other.
        runs = list(runs_of(self._parents[parent] & wanted))
        first, count = self._rng.choice(runs)
        return parent, first, min(count, self._limits.run_pieces)

    # --------------------------------------------------------------------------- source
    def _to_source(self, now: float) -> List[Effect]:
        if now < self._patient_until:
            self._due = self._patient_until
            return []
        self.lost_p2p = self.lost_p2p or self.state is not State.WAITING
        if not self.may_use_source:
            return self._fail(NoManager(
                "no manager or peer can give the rest of the file",
                "start a manager, or allow the source (without --no-source)"))
        self.state = State.SOURCE
        self._due = None
        self._source_on = True
        return [FetchSource(self.missing if self._opened else None)]

    def _on_source_ended(self, event: SourceEnded, now: float) -> List[Effect]:
        if not self._source_on:
            return []
        self._source_on = False
        if event.error is not None:
            return self._fail(event.error)
        missing = self.missing
        assert missing is None or missing == 0 or self.state is not State.SOURCE, (
            f"the source ended without {count_of(missing)} pieces")
        return self._check_complete()

    # Of the class: one of each task would be larger than all else of its machine.
    _HANDLERS: ClassVar[Dict[Type[Event], Callable[..., List[Effect]]]] = {
        Opened: _on_opened, Sized: _on_sized, Led: _on_led,
        ManagerLost: _on_manager_lost, ManagerBusy: _on_manager_busy,
        NoManagerAnswers: _on_no_manager,
        LeaseGranted: _on_lease, LeaseWithdrawn: _on_withdrawn,
        PieceStored: _on_stored, RunEnded: _on_run_ended,
        ParentHolds: _on_parent_holds, ParentSilent: _on_parent_silent,
        SourceEnded: _on_source_ended, Doomed: _on_doomed,
        ReaderAt: _on_reader, TimePassed: _on_time,
    }
