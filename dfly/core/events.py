"""What the manager's brain is told and what it orders: the vocabulary of core/scheduler.py.

Events are facts, in the past tense; effects are orders. All ids are small ints that the driver
gives out: a host (0 = the manager itself, which holds what came from the source), a swarm; the
scheduler numbers the leases. Facts come from peers, so any of them may be false, late or about
something that is gone: the scheduler ignores what it can't use. No codec here (that is
wire/messages.py) and no rule (that is the scheduler's).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple, Union

from dfly.wire.messages import Failure

SEED = 0  # the host number of the manager itself


# -------------------------------------------------------------------------------- events
@dataclass(frozen=True)
class HostJoined:
    """A link is open. `labels`: the location, widest first (region, IDC, zone, rack, host).

    `upload_slots` = leases it serves at once, over all swarms. `trusted` False: it was
    quarantined before and may download but never serve.
    """

    host: int
    labels: Tuple[str, ...]
    upload_slots: int
    trusted: bool = True


@dataclass(frozen=True)
class HostLost:
    """Its link is gone: it neither serves nor wants anything any more."""

    host: int


@dataclass(frozen=True)
class SwarmOpened:
    """A task is being distributed; `piece_count` None = not known yet."""

    swarm: int
    piece_count: Optional[int]
    piece_size: int


@dataclass(frozen=True)
class SwarmSized:
    """The piece count, unknown so far, is known."""

    swarm: int
    piece_count: int


@dataclass(frozen=True)
class SwarmClosed:
    """The task is over, for whatever reason."""

    swarm: int


@dataclass(frozen=True)
class PeerJoined:
    """A host serves what it holds of a task (`have`, a piece set) and `wants` the rest or not.

    `urgent_at`: a reader takes the bytes in order, now at this piece. `limit_bps`: the host takes
    no more bytes a second, 0 = what comes. Joining again is fine.
    """

    swarm: int
    host: int
    have: int = 0
    wants: bool = True
    urgent_at: Optional[int] = None
    limit_bps: int = 0


@dataclass(frozen=True)
class PeerLeft:
    """The host neither wants nor serves this task any more."""

    swarm: int
    host: int


@dataclass(frozen=True)
class PiecesStored:
    """The host has verified and stored these pieces (host 0: fetched them from the source)."""

    swarm: int
    host: int
    pieces: Sequence[int]


@dataclass(frozen=True)
class PiecesHeld:
    """The host holds exactly this piece set (after an eviction or a repair)."""

    swarm: int
    host: int
    pieces: int


@dataclass(frozen=True)
class LeaseEnded:
    """A child gave a lease up at `piece`; the pieces before it are stored or reported apart.

    `host`: who says so; a host that isn't the lease's child is not believed. None = the driver
    knows it itself.
    """

    lease: int
    failure: Failure
    piece: int
    host: Optional[int] = None


@dataclass(frozen=True)
class ReaderAt:
    """A reader on this host waits for `piece` and goes on from there."""

    swarm: int
    host: int
    piece: int


@dataclass(frozen=True)
class ManagerLagged:
    """The manager's own loop runs so late, on average: its host has more to do than it can."""

    lag_s: float


@dataclass(frozen=True)
class TimePassed:
    """Nothing happened but time: sent at `deadline()`."""


Event = Union[HostJoined, HostLost, SwarmOpened, SwarmSized, SwarmClosed, PeerJoined, PeerLeft,
              PiecesStored, PiecesHeld, LeaseEnded, ReaderAt, ManagerLagged, TimePassed]


# ------------------------------------------------------------------------------- effects
@dataclass(frozen=True)
class Grant:
    """Tell `child`: fetch pieces first .. first+count-1 from `parent` within `deadline_s`.

    The parent holds the pieces or is about to (it has an older lease on them, or is the manager
    that is fetching them): then it sends each as soon as it has verified it.
    """

    lease: int
    swarm: int
    child: int
    parent: int
    first: int
    count: int
    deadline_s: float


@dataclass(frozen=True)
class Withdraw:
    """Tell `child` to stop this lease. A child that has finished it already ignores this."""

    lease: int
    swarm: int
    child: int


@dataclass(frozen=True)
class Quarantine:
    """This host serves nobody any more; its leases are withdrawn. Keep it for its next joining."""

    host: int
    why: str


@dataclass(frozen=True)
class Pace:
    """Tell every peer to gather its reports for `batch_s` before it sends them."""

    batch_s: float


Effect = Union[Grant, Withdraw, Quarantine, Pace]
