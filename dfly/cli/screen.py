"""What `dfly get` says and where: messages and the live line on stderr, JSON events on stdout."""
from __future__ import annotations

import os
import sys

from dfly.cli.progress import Meter, live_line, summary
from dfly.cli.table import print_json
from dfly.cli.target import name_from_url
from dfly.clock import Clock
from dfly.errors import DflyError, printable

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

REDRAW_S = 0.1  # at most ten lines a second: no flicker, no noticeable work
RESUMABLE = "interrupted; the same command goes on from what is here already"


class Screen:
    """Tells of one download after another."""

    def __init__(self, quiet: bool, as_json: bool) -> None:
        self._quiet = quiet or as_json
        self._json = as_json
        self._clock = Clock()
        self._live = (not self._quiet and sys.stderr.isatty()
                      and os.environ.get("TERM", "dumb") != "dumb")
        self._drawn_at = float("-inf")
        self._line_shown = False
        self._url = ""
        self._meter = Meter("", 0.0)

    def begin(self, url: str, began_at: Optional[float] = None) -> None:
        """The next download; `began_at` = by the clock, where it wasn't just now."""
        self._url = url
        self._meter = Meter(name_from_url(url),
                            self._clock.now() if began_at is None else began_at)

    def event(self, event: Dict[str, Any]) -> None:
        """An event before the last."""
        self._print_json(event)
        kind = event.get("event")
        if kind == "warning":
            self.warn(str(event.get("what", "")))
        elif kind in ("accepted", "progress"):
            now = self._clock.now()
            self._meter.update(event, now)
            if self._live and now - self._drawn_at >= REDRAW_S:
                self._drawn_at = now
                self._draw()

    def warn(self, what: str) -> None:
        if not self._quiet:
            self._say(f"warning: {what}")

    def done(self, path: str, event: Dict[str, Any]) -> None:
        self._print_json({**event, "target": path})
        now = self._clock.now()
        self._meter.update(event, now)
        if not self._quiet:
            self._say(summary(self._meter, path if path != "-" else self._meter.name,
                              now - self._meter.started_at), prefix="")

    def failed(self, error: DflyError) -> None:
        self._print_json({"event": "failed", "exit_code": error.exit_code, "what": error.what,
                          "hint": error.hint})
        self._say(str(error))

    def interrupted(self) -> None:
        self._print_json({"event": "failed", "exit_code": 130, "what": "interrupted", "hint": ""})
        if not self._quiet:
            self._say(RESUMABLE)

    def _say(self, text: str, prefix: str = "dfly: ") -> None:
        clear = "\r\x1b[K" if self._line_shown else ""
        self._line_shown = False
        sys.stderr.write(f"{clear}{prefix}{printable(text)}\n")
        sys.stderr.flush()

    def _draw(self) -> None:
        import shutil  # 2 ms that only a live line costs
        width = max(20, shutil.get_terminal_size().columns - 1)  # a full line would wrap
        sys.stderr.write("\r" + live_line(self._meter, width) + "\x1b[K")
        sys.stderr.flush()
        self._line_shown = True

    def _print_json(self, event: Dict[str, Any]) -> None:
        if self._json:
            print_json({"url": self._url, **event})
