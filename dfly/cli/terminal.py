"""Lines that are redrawn in place on a terminal, below all that was said.

Between two writes the cursor stands at the first column of the first of those lines. Terminals
wrap what they show anew when they get narrower, some of them, and these keep the cursor with the
text it stood on: from there everything down is ours and is drawn over, however many rows it takes
now. From the end of the lines nobody could tell how many rows to go up. (Rows that a terminal
scrolled out while it got narrower are beyond reach.)

Each redraw is one write, and nothing is cleared before something is drawn over it: no flicker.
"""
from __future__ import annotations

import os

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Sequence, TextIO, Tuple

# The whole row goes first (with what the terminal echoed of Ctrl-C, and with its memory of having
# been wrapped), then all below. Not from the first column: in the first row that would clear the
# whole screen, and tmux keeps what a cleared screen showed.
CLEAR = "\x1b[2K \x1b[J\r\x1b[K"
SIZE = 80, 24  # columns and rows of what tells none


class Terminal:
    """The lines under way on one stream; text to write comes back, the caller writes it."""

    def __init__(self, stream: TextIO) -> None:
        self._fd = _descriptor(stream)
        self._drawn = False
        self._columns = 0    # as they were when the lines were drawn last

    def room(self) -> Tuple[int, int]:
        """(columns, rows) that lines may take now: a full line would wrap, and the row below the
        lines must exist."""
        columns, rows = SIZE
        try:
            columns, rows = os.get_terminal_size(self._fd)
        except OSError:  # no terminal: somebody forced the bar
            told = os.environ.get("COLUMNS", "")
            columns = int(told) if told.isascii() and told.isdigit() and len(told) < 5 else columns
        return max(1, (columns or SIZE[0]) - 1), max(1, (rows or SIZE[1]) - 1)

    def in_foreground(self) -> bool:
        """Whether the terminal listens to us: what runs behind a shell's prompt draws nothing
        over it."""
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:  # not the terminal that controls us, or none
            return True

    def drawn(self, lines: Sequence[str]) -> str:
        """The lines in the place of those drawn last; where the terminal got another width since,
        those may be wrapped, and are cleared first."""
        columns, _ = self.room()
        clear = CLEAR if self._drawn and columns != self._columns else ""
        self._columns = columns
        up = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
        self._drawn = bool(lines)
        return clear + "\r" + "\x1b[K\n".join(lines) + "\x1b[J\r" + up

    def said(self, text: str) -> str:
        """Text that stays, above the lines; these are gone until they're drawn again."""
        return f"{self.cleared()}{text}\n"

    def cleared(self) -> str:
        """The terminal as a prompt wants it; if one is there already, the cursor is the shell's."""
        clear = CLEAR if self._drawn and self.in_foreground() else ""
        self._drawn = False
        return clear


def _descriptor(stream: TextIO) -> int:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # a stream in memory
        return -1


def is_terminal(stream: TextIO) -> bool:
    """Whether lines can be redrawn there."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def wants_colours(stream: TextIO) -> bool:
    """As no-color.org has it."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")
