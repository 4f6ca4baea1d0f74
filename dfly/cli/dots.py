"""A download as wget draws it in a log: a dot for so many bytes, and at each line's end how far
it is, how fast and how long it will take.

Pure: `Dots` is told a Meter and gives back text. Numbers are written as wget writes them, since
programs read such logs.
"""
from __future__ import annotations

from typing import Dict, List, Tuple

from dfly.cli.progress import ORIGINS, Meter

# bytes of a dot, dots of a cluster, dots of a line
STYLES: Dict[str, Tuple[int, int, int]] = {
    "default": (1 << 10, 10, 50),
    "binary": (8 << 10, 16, 48),
    "mega": (64 << 10, 8, 48),
    "giga": (1 << 20, 8, 32),
}
LINES_MANY = 200       # a file of more lines gets larger dots, unless somebody chose
LINES_AT_ONCE = 1000   # whatever a daemon says: more than these at a time are skipped
CACHE = ORIGINS.index("cache")


class Dots:
    """The lines of one download. `style` '' = one that suits the length."""

    def __init__(self, style: str = "") -> None:
        self._style = style
        self._shape: Tuple[int, int, int] = STYLES[style or "default"]
        self._began = False
        self._line = 0         # index of the unfinished line, from the file's first byte
        self._skipped = 0      # dots of that line which were here before
        self._dots = 0         # dots of that line

    def take(self, meter: Meter) -> List[str]:
        """The lines that got full; `unfinished()` tells of the one begun."""
        lines: List[str] = []
        if not self._began:
            self._begin(meter, lines)
        size, _, per_line = self._shape
        dots = max(meter.received // size, self._line * per_line + self._dots)
        if dots // per_line - self._line > LINES_AT_ONCE:
            self._skip_to(dots, lines)
        while dots // per_line > self._line:
            self._dots = per_line
            lines.append(self._row(meter))
            self._line, self._dots, self._skipped = self._line + 1, 0, 0
        self._dots = dots % per_line
        return lines

    def unfinished(self) -> str:
        """What is drawn of the last line: it only ever gets longer until it's finished."""
        return self._drawn()

    def finish(self, meter: Meter, duration_s: float) -> str:
        """The last line, begun or not: it gives the mean rate and the time all of it took."""
        size, _, per_line = self._shape
        left = -(-meter.received // size) - self._line * per_line
        self._dots = min(max(self._dots, left), per_line)
        text = self._padded() + ("100%" if meter.length else "")
        rate = meter.received / duration_s if duration_s > 0 else 0.0
        return f"{text} {_rate(rate):>5}={_short(duration_s)}"

    def _begin(self, meter: Meter, lines: List[str]) -> None:
        self._began = True
        if not self._style and meter.length:
            for name in STYLES:
                self._shape = STYLES[name]
                if meter.length <= LINES_MANY * self._shape[0] * self._shape[2]:
                    break
        here = min(meter.shares[CACHE], meter.received) // self._shape[0]
        if here:
            self._skip_to(here, lines)

    def _skip_to(self, dots: int, lines: List[str]) -> None:
        size, _, per_line = self._shape
        self._line, self._skipped = divmod(dots, per_line)
        self._dots = self._skipped
        if self._line:
            lines.append(f"        [ skipping {self._line * per_line * size >> 10}K ]")

    def _row(self, meter: Meter) -> str:
        text = self._padded()
        if meter.length:
            size, _, per_line = self._shape
            done = min(meter.length, (self._line + 1) * per_line * size)
            text += f"{100 * done // meter.length:3d}%"
        eta_s = meter.eta_s()
        eta = f" {_short(int(eta_s + 0.5))}" if eta_s is not None else ""
        return f"{text} {_rate(meter.rate_bps):>5}{eta}"

    def _drawn(self) -> str:
        size, cluster, per_line = self._shape
        text = f"{self._line * per_line * size >> 10:6d}K"
        for index in range(self._dots):
            text += ("" if index % cluster else " ") + ("," if index < self._skipped else ".")
        return text

    def _padded(self) -> str:
        """The dots and the blank where those that lack would be."""
        size, cluster, per_line = self._shape
        head = len(f"{self._line * per_line * size >> 10:6d}K")
        return self._drawn().ljust(head + per_line + -(-per_line // cluster))


def _rate(rate_bps: float) -> str:
    """'1.84M', '533M': three digits and a letter, 1024s."""
    for letter in (" ", "K", "M", "G"):
        if rate_bps < 1000 or letter == "G":
            break
        rate_bps /= 1024
    return f"{rate_bps:.{2 if rate_bps < 10 else 1 if rate_bps < 100 else 0}f}{letter}"


def _short(duration_s: float) -> str:
    """'0s', '1.4s', '1m20s', '2h5m', '3d4h'."""
    if duration_s < 10 and duration_s != int(duration_s):
        return f"{duration_s:.1f}s"
    whole = int(duration_s + 0.5)
    for under, large, small, letters in ((100, 1, 1, "s"), (6000, 60, 1, "ms"),
                                         (172_800, 3600, 60, "hm")):
        if whole < under:
            rest = f"{whole % large // small}{letters[1]}" if len(letters) > 1 else ""
            return f"{whole // large}{letters[0]}{rest}"
    return f"{whole // 86_400}d{whole % 86_400 // 3600}h"
