"""What a download looks like: the live line on a terminal and the sentence at its end.

Pure: a `Meter` is told events and the time, `live_line()` and `summary()` are functions of it and
of a width. Who writes to which stream is get.py's business.
"""
from __future__ import annotations

from dfly.errors import printable
from dfly.units import format_duration, format_rate, format_size

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, List, Mapping, Optional

SMOOTHING_S = 3.0      # the shown rate forgets what happened this long ago by two thirds
BAR_MIN, BAR_MAX = 10, 40
NAME_MAX = 40
ETA_MAX_S = 100 * 3600
ORIGINS = ("peers", "manager", "source", "cache")


class Meter:
    """One download so far. Times are the caller's clock in seconds, sizes are bytes."""

    def __init__(self, name: str, started_at: float) -> None:
        self.name = name
        self.started_at = started_at
        self.length: Optional[int] = None
        self.received = 0
        self.shares: List[int] = [0] * len(ORIGINS)  # in ORIGINS' order
        self.rate_bps = 0.0
        self.updated_at = 0.0

    def update(self, event: Mapping[str, Any], now: float) -> None:
        """Take the numbers of a progress or done event. They come from the daemon: what is no
        number is left as it was."""
        before = self.received
        self.length = _count(event.get("length"), self.length)
        self.shares = [_count(event.get(f"from_{origin}"), old) or 0
                       for origin, old in zip(ORIGINS, self.shares)]
        self.received = _count(event.get("bytes"), sum(self.shares)) or 0
        if event.get("event") == "done" and self.length is not None:
            self.received = self.length
        self._measure(max(0, self.received - before), now)

    def _measure(self, arrived: int, now: float) -> None:
        since = self.updated_at or self.started_at
        span_s = now - since
        if span_s <= 0:
            return
        # At first the plain mean since the start: a rate that climbs from 0 says a false ETA.
        weight = min(1.0, span_s / min(SMOOTHING_S, now - self.started_at))
        self.rate_bps += weight * (arrived / span_s - self.rate_bps)
        self.updated_at = now

    @property
    def p2p_share(self) -> Optional[float]:
        """The part of what came over the network that came from peers or a manager, 0 to 1."""
        peers, manager, source, _ = self.shares
        moved = peers + manager + source
        return (peers + manager) / moved if moved else None

    def eta_s(self) -> Optional[float]:
        if self.length is None or self.rate_bps < 1:
            return None
        return max(0, self.length - self.received) / self.rate_bps


def live_line(meter: Meter, width: int) -> str:
    """One line of at most `width` characters; what matters least is left out first."""
    rate = format_rate(meter.rate_bps)
    eta_s = meter.eta_s()
    eta = f"ETA {format_duration(eta_s)}" if eta_s is not None and eta_s < ETA_MAX_S else ""
    share = _origins(meter)
    name = printable(meter.name)
    name = name if len(name) <= NAME_MAX else name[:NAME_MAX - 3] + "..."
    if meter.length:
        done = min(1.0, meter.received / meter.length)
        first = f"{int(done * 100):3d}%"
    else:
        done, first = 0.0, format_size(meter.received)
    parts = [first, rate, eta, share, name]
    for dropped in (None, 4, 3, 2, 1):
        if dropped is not None:
            parts[dropped] = ""
        line = _joined(parts, meter.length is not None, done, width)
        if len(line) <= width:
            return line
    return first[:width]


def _joined(parts: List[str], with_bar: bool, done: float, width: int) -> str:
    words = [part for part in parts if part]
    spare = width - len("  ".join(words)) - 2
    if with_bar and spare >= BAR_MIN:
        words.insert(1, _bar(done, min(spare, BAR_MAX)))
    return "  ".join(words)


def _bar(done: float, width: int) -> str:
    """'[=====>    ]', `width` characters with its ends."""
    inner = width - 2
    filled = int(done * inner)
    head = ">" if 0 < filled < inner else ""
    return "[" + ("=" * (filled - len(head)) + head).ljust(inner) + "]"


def _origins(meter: Meter) -> str:
    """'peers 80% manager 15% source 5%' of the bytes so far; '' before there are any."""
    total = sum(meter.shares)
    if not total:
        return ""
    return " ".join(f"{origin} {_percent(count, total)}"
                    for origin, count in zip(ORIGINS, meter.shares) if count)


def _percent(count: int, total: int) -> str:
    """Rounded, but nothing that isn't all says 100% and nothing that is some says 0%."""
    percent = 100 * count / total
    if 0 < percent < 1:
        return "<1%"
    return f"{int(percent) if percent > 99 else round(percent)}%"


def summary(meter: Meter, target: str, duration_s: float) -> str:
    """The sentence at the end of a download."""
    rate = meter.received / duration_s if duration_s > 0 else 0.0
    text = (f"{printable(target)}: {format_size(meter.received)} in "
            f"{format_duration(duration_s)} ({format_rate(rate)})")
    share = meter.p2p_share
    if share is None:
        return text + ("; all of it was on this host" if meter.received else "")
    peers, manager, source, _ = meter.shares
    return f"{text}; P2P {_percent(peers + manager, peers + manager + source)}: {_origins(meter)}"


def _count(value: Any, otherwise: Optional[int]) -> Optional[int]:
    good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if good else otherwise
