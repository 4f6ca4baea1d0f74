"""Whom to avoid, for how long, and whom to believe no longer.

Failures between a child and a parent are avoided by that child first, longer each time; several
in a row, or silence towards everybody, make a parent avoided by all for a while. Wrong bytes end
it at once and for as long as the host's link lives: that is quarantine. The seed is spared all
of it but a short pause, because nobody else may have the pieces. Only marks are set here; what
becomes of the leases is leases.py's.
"""
from __future__ import annotations

from dataclasses import dataclass

from dfly.core.events import SEED
from dfly.core.swarm import Host, Lease, Peer

AVOIDED_MAX = 64       # parents that one child remembers to avoid
DOUBLINGS_MAX = 10     # of any time to avoid somebody


@dataclass(frozen=True)
class TrustLimits:
    """How patient the scheduler is with parents."""

    avoid_s: float = 2.0           # a pair after one failure; doubles with each, up to
    avoid_max_s: float = 120.0
    strikes_max: int = 4           # failures of a parent without success: avoided by all
    strikes_s: float = 5.0         # for so long; doubles while nothing comes from it
    accused_max: int = 3           # parents that one child may accuse of wrong bytes


class Trust:
    """Sets the marks that choice.py reads."""

    def __init__(self, limits: TrustLimits) -> None:
        self.limits = limits

    def success(self, parent: Host, child: Peer) -> None:
        """A lease brought all its pieces."""
        parent.strikes = 0
        child.avoid.pop(parent.number, None)

    def heard(self, parent: Host, now: float) -> None:
        """Some child stored a piece of this parent's."""
        parent.sent_at = now
        parent.silences = 0

    def strike(self, parent: Host, child: Peer, now: float) -> None:
        """A failure that is the parent's, the child's or the path's."""
        limits = self.limits
        _, failures = child.avoid.get(parent.number, (0.0, 0))
        span_s = min(limits.avoid_s * 2 ** failures, limits.avoid_max_s)
        self.avoid(parent, child, span_s, now, min(failures + 1, DOUBLINGS_MAX))
        if parent.number == SEED:
            return
        parent.strikes += 1
        if parent.strikes >= limits.strikes_max:
            parent.strikes = 0
            parent.avoid_until = max(parent.avoid_until, now + limits.strikes_s)

    def avoid(self, parent: Host, child: Peer, span_s: float, now: float,
              failures: int = 0) -> None:
        """This child takes nothing from this parent for a while."""
        if parent.number == SEED:
            span_s = min(span_s, self.limits.avoid_s)
        child.avoid[parent.number] = (now + span_s, failures)
        if len(child.avoid) > AVOIDED_MAX:
            for number, (until, _) in list(child.avoid.items()):
                if until <= now:
                    del child.avoid[number]
        if len(child.avoid) > AVOIDED_MAX:  # all are recent: the oldest goes, whatever it did
            del child.avoid[next(iter(child.avoid))]

    def suspect(self, lease: Lease, slow_s: float, now: float) -> None:
        """If no child has heard from a slow lease's parent for that long, nobody takes anything
        from it for a while."""
        host = lease.parent.host
        if host.number == SEED or max(host.sent_at, lease.progress_at) + slow_s > now \
                or lease.left & ~lease.parent.have:
            return
        if host.avoid_until <= now:
            span_s = self.limits.strikes_s * 2 ** min(host.silences, DOUBLINGS_MAX)
            host.avoid_until = now + min(span_s, self.limits.avoid_max_s)
            host.silences += 1

    def condemn(self, parent: Host, accuser: Host) -> bool:
        """True if wrong bytes, told by `accuser`, put the parent in quarantine now. A host that
        accuses many is believed no longer: it may be its own memory that fails, or a lie."""
        if parent.number == SEED or not parent.trusted:
            return False
        if parent.number not in accuser.accused:
            if len(accuser.accused) >= self.limits.accused_max:
                return False
            accuser.accused.append(parent.number)
        parent.trusted = False
        return True
