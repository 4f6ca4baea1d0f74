"""What a download looks like: the live lines on a terminal and the sentence at its end.

Pure: a `Meter` is told events and the time; `live_line()`, `picture()` and `summary()` are
functions of meters and of a width. Who writes to which stream is screen.py's business.

A line's parts keep their width from one redraw to the next, so that nothing in it jumps; what
matters least is left out first where it gets narrow. Widths count columns, not characters.
"""
from __future__ import annotations

from dfly.errors import printable
from dfly.units import format_duration, format_rate, format_size

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

    Part = List[Tuple[str, str]]  # text and its colour ('' = the terminal's own)

SMOOTHING_S = 3.0      # the shown rate forgets what happened this long ago by two thirds
STALLED_S = 5.0        # without a byte for so long, waiting is told instead of an ETA
BAR_MIN, BAR_MAX = 10, 42
NAME_MIN, NAME_MAX = 8, 40
ETA_MAX_S = 100 * 3600
ORIGINS = ("peers", "manager", "source", "cache")
MARKS = "#=-."         # what ORIGINS' bytes look like in the bar
INDENT = " " * 6       # where bars begin
UNTOLD = "*"           # bytes that came from who knows where
COLOURS = ("32", "36", "33", "34")  # ORIGINS' colours: green, cyan, yellow, blue
# What a line shows beside its percent, the richest first: alone it says where bytes came from,
# as one of many it says whose line it is.
ALONE = (("bar", "rate", "eta", "size", "legend", "name"),
         ("bar", "rate", "eta", "legend", "name"), ("bar", "rate", "eta", "legend"),
         ("bar", "rate", "eta"), ("rate", "eta"), ("rate",), ())
AMONG = (("bar", "rate", "eta", "size", "name"), ("bar", "rate", "eta", "name"),
         ("bar", "rate", "name"), ("rate", "name"), ("name",), ())


class Meter:
    """One download so far. Times are the caller's clock in seconds, sizes are bytes."""

    def __init__(self, name: str, started_at: float) -> None:
        self.name = name
        self.short_names: Tuple[str, ...] = ()   # for where there's no room, the longest first
        self.started_at = started_at
        self.length: Optional[int] = None
        self.received = 0
        self.shares: List[int] = [0] * len(ORIGINS)  # in ORIGINS' order
        self.rate_bps = 0.0
        self.updated_at = 0.0
        self.moved_at = started_at
        self.updates = 0

    def update(self, event: Mapping[str, Any], now: float) -> None:
        """Take the numbers of a progress or done event. They come from the daemon: what is no
        number is left as it was."""
        before = self.received
        self.updates += 1
        self.length = _count(event.get("length"), self.length)
        self.shares = [_count(event.get(f"from_{origin}"), old) or 0
                       for origin, old in zip(ORIGINS, self.shares)]
        self.received = _count(event.get("bytes"), sum(self.shares)) or 0
        if event.get("event") == "done" and self.length is not None:
            self.received = self.length
        self._measure(max(0, self.received - before), now)

    def _measure(self, arrived: int, now: float) -> None:
        if arrived:
            self.moved_at = now
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

    def stalled_s(self) -> float:
        """How long no byte came, at the last update; 0 where that is no news."""
        silent_s = self.updated_at - self.moved_at
        return silent_s if silent_s >= STALLED_S and self.received != self.length else 0.0


# ------------------------------------------------------------------------------ live lines
def picture(meters: Sequence[Meter], total: Optional[Meter], size: Tuple[int, int],
            colours: bool = False) -> List[str]:
    """The lines of the downloads under way, at most `size` = (columns, rows) of them; with a
    `total`, that comes last."""
    columns, rows = size
    if total is None:
        return [live_line(meter, columns, colours) for meter in meters[:max(1, rows)]]
    last = [live_line(total, columns, colours, among=True)]
    legend: Part = [(INDENT, ""), *_legend(total)]
    if len(INDENT) < _width(legend) <= columns and rows >= 4:
        last.append(_painted(legend, colours))
    room = max(0, rows - len(last))
    shown = meters if len(meters) <= room else meters[:max(0, room - 1)]
    lines = [live_line(meter, columns, colours, among=True) for meter in shown]
    if len(shown) < len(meters) and room:
        lines.append(cut(f"... and {len(meters) - len(shown)} more", columns))
    return [*lines, *last]


def live_line(meter: Meter, width: int, colours: bool = False, among: bool = False) -> str:
    """One line of at most `width` columns; `among` others its name matters more than where its
    bytes came from."""
    if not meter.updates and not among:
        return cut(f"waiting for an answer: {printable(meter.name)}", width)
    parts = _parts(meter, among)
    for kept in AMONG if among else ALONE:
        line = _fitted(meter, parts, kept, width)
        if line is not None:
            return _painted(line, colours)
    return cut(parts["first"][0][0], width)


def _parts(meter: Meter, among: bool) -> Dict[str, Part]:
    """All that a line could show, but the bar, whose width isn't known yet. Among others, each
    part is as wide whatever it says: columns."""
    known = meter.length is not None and meter.length > 0
    done = _done(meter)
    first = f"{int(done * 100):3d}%" if known else format_size(meter.received).rjust(8)
    size = f"{format_size(meter.received)} of {format_size(meter.length or 0)}" if known else ""
    return {"first": [(first, "")], "rate": [(format_rate(meter.rate_bps).rjust(9), "")],
            "eta": [(_waiting(meter).ljust(12 if among else 9), "")],
            "size": [(size.ljust(20) if among or known else "", "")],
            "legend": _legend(meter), "name": [(cut(printable(meter.name), NAME_MAX), "")]}


def _fitted(meter: Meter, parts: Mapping[str, Part], kept: Sequence[str],
            width: int) -> Optional[Part]:
    """These parts side by side; None where they're too wide."""
    words = [parts["first"], *(parts[name] for name in kept if name not in ("bar", "name"))]
    used = [_width(word) for word in words if _width(word)]
    spare = width - sum(used) - 2 * (len(used) - 1)
    # A bar that follows the terminal's width alone keeps its own while the words change. The size
    # is a luxury: it comes when nothing else is short of room.
    ample = max(BAR_MIN, min(BAR_MAX, width // 4))
    name = parts["name"][0][0] if "name" in kept else ""
    whole = columns_of(name) if "legend" in kept else NAME_MAX  # columns don't follow a name
    name_min = (whole if "size" in kept else NAME_MIN) + 2 if name else 0
    bar_min = (ample if "size" in kept else BAR_MIN) + 2 if "bar" in kept else 0
    # Beside a size, which is wider than a percent, a bar ends where those of others end.
    wider = _width(parts["first"]) - 4 if bar_min else 0
    spare -= name_min + bar_min - wider
    if spare < 0:
        return None
    if bar_min:
        wide = min(bar_min - 2 + spare, ample)
        spare -= wide - (bar_min - 2)
        words.insert(1, _bar(meter, wide - wider))
    if name:
        room = name_min - 2 + spare
        fitting = (short for short in (name, *meter.short_names) if columns_of(short) <= room)
        words.append([(next(fitting, cut(name, room)), "")])
    return _side_by_side(words)


def _side_by_side(words: Sequence[Part]) -> Part:
    line: Part = []
    for word in words:
        if _width(word):
            line += [("  ", ""), *word] if line else word
    return line


def _done(meter: Meter) -> float:
    return min(1.0, meter.received / meter.length) if meter.length else 0.0


def _waiting(meter: Meter) -> str:
    """'ETA 1:05:09', or for how long nothing came."""
    if not meter.updates:
        return "waiting"
    silent_s = meter.stalled_s()
    if silent_s:
        return f"stalled {_clock(silent_s)}"
    eta_s = meter.eta_s()
    return f"ETA {_clock(eta_s)}" if eta_s is not None and eta_s < ETA_MAX_S else ""


def _clock(duration_s: float) -> str:
    minutes, seconds = divmod(int(duration_s + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _bar(meter: Meter, width: int) -> Part:
    """'[####==-    ]', `width` columns with its ends: how far it is, and whose bytes those are."""
    inner = width - 2
    if not meter.length:
        return [("[" + _pointer(meter.updates, inner) + "]", "")]
    filled = int(_done(meter) * inner)
    total = sum(meter.shares)
    bar: Part = [("[", "")]
    ends = [(2 * filled * sum(meter.shares[:index + 1]) + total) // (2 * total)
            for index in range(len(ORIGINS))] if total else []
    for index, (begin, end) in enumerate(zip([0, *ends], ends)):
        bar.append((MARKS[index] * (end - begin), COLOURS[index]))
    if not total:
        bar.append((UNTOLD * filled, ""))
    return [*bar, (" " * (inner - filled) + "]", "")]


def _pointer(updates: int, inner: int) -> str:
    """Something that moves to and fro: bytes come, but nobody knows of how many."""
    steps = max(1, inner - 3)
    place = updates % (2 * steps)
    return " " * min(place, 2 * steps - place) + "<=>" + " " * max(
        0, inner - 3 - min(place, 2 * steps - place))


def _legend(meter: Meter) -> Part:
    """'#peers 80% =manager 15% -source 5%' of the bytes so far; empty before there are any."""
    total = sum(meter.shares)
    legend: Part = []
    for origin, count, mark, colour in zip(ORIGINS, meter.shares, MARKS, COLOURS):
        if count:
            legend.append((" " if legend else "", ""))
            legend.append((f"{mark}{origin}", colour))
            legend.append((f" {percent(count, total)}", ""))
    return legend


def _painted(line: Part, colours: bool) -> str:
    if not colours:
        return "".join(text for text, _ in line)
    return "".join(f"\x1b[{colour}m{text}\x1b[0m" if colour and text else text
                   for text, colour in line)


# ------------------------------------------------------------------------------ columns
def columns_of(text: str) -> int:
    """How many columns of a terminal printable text takes."""
    if text.isascii():
        return len(text)
    return sum(_columns_of_one(character) for character in text)


def cut(text: str, width: int) -> str:
    """Printable text in at most `width` columns; too long, it lacks its middle: what a name ends
    in says much."""
    if columns_of(text) <= width:
        return text
    if width <= 5:
        return _begin_of(text, width)
    tail = _begin_of(text[::-1], (width - 3) // 2)[::-1]
    return _begin_of(text, width - 3 - columns_of(tail)) + "..." + tail


def _begin_of(text: str, width: int) -> str:
    taken = 0
    for index, character in enumerate(text):
        taken += _columns_of_one(character)
        if taken > width:
            return text[:index]
    return text


def _columns_of_one(character: str) -> int:
    if character.isascii():
        return 1
    import unicodedata  # only names that aren't ASCII pay for its tables
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _width(part: Part) -> int:
    return sum(columns_of(text) for text, _ in part)


# ------------------------------------------------------------------------------ at the end
def percent(count: int, total: int) -> str:
    """Rounded, but nothing that isn't all says 100% and nothing that is some says 0%."""
    part = 100 * count / total
    if 0 < part < 1:
        return "<1%"
    return f"{int(part) if part > 99 else round(part)}%"


def summary(meter: Meter, target: str, duration_s: float) -> str:
    """The sentence at the end of a download."""
    rate = meter.received / duration_s if duration_s > 0 else 0.0
    text = (f"{printable(target)}: {format_size(meter.received)} in "
            f"{format_duration(duration_s)} ({format_rate(rate)})")
    if meter.p2p_share is None:
        return text + ("; all of it was on this host" if meter.received else "")
    peers, manager, source, _ = meter.shares
    return (f"{text}; P2P {percent(peers + manager, peers + manager + source)}: "
            f"{origins_of(meter.shares)}")


def origins_of(shares: Sequence[int]) -> str:
    """'peers 80% manager 15% source 5%', from bytes in ORIGINS' order; '' where there are none."""
    total = sum(shares)
    return " ".join(f"{origin} {percent(count, total)}"
                    for origin, count in zip(ORIGINS, shares) if count)


def _count(value: Any, otherwise: Optional[int]) -> Optional[int]:
    good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if good else otherwise
