"""What `dfly get` says and where: messages, live lines or dots on one stream (standard error or a
log), JSON events on standard output.

A `Screen` hands out a `Row` for each file under way; rows may be told news by different threads.
Nothing is drawn but when a row has news: the daemon sends some of each download every 0.4 s, so
rates sink and lines fit a terminal that got another size even where no byte comes.

What can't be shown must not end a download: a full disk under the log, or a terminal that was
closed, ends only the telling. (A reader of a pipe that left ends the command, as everywhere.)
"""
from __future__ import annotations

import sys
from _thread import allocate_lock  # threading's own costs each start 1 ms

from dfly.cli import INTERRUPTED, called_as, complain
from dfly.cli.progress import ORIGINS, Meter, live_line, picture, summary
from dfly.cli.table import print_json
from dfly.cli.target import name_from_url
from dfly.clock import Clock
from dfly.errors import DflyError, UsageError, printable
from dfly.units import format_size

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, List, Mapping, Optional, TextIO, Tuple

    from dfly.cli.dots import Dots

    Event = Mapping[str, Any]

QUIET, TERSE, NORMAL, VERBOSE = range(4)  # -q, -nv, none, -v
REDRAW_S = 0.1     # at most ten times a second: no flicker, no noticeable work
LOCK_S = 0.1       # who interrupts waits no longer than this for a thread that is writing
HEADERS_MAX = 200  # lines of a server's answer that are shown
RESUMABLE = "the same command goes on from what is here already"
DOT_STYLES = ("", "default", "binary", "mega", "giga")


def choose_style(wanted: str, *, as_json: bool = False, to_log: bool = False, show: bool = False,
                 verbosity: int = NORMAL, stream: Optional[TextIO] = None) -> str:
    """'bar', 'dot' or 'dot:STYLE', 'none' or 'json' for `Screen`, from --progress's value ('':
    not given) and what else the command line says; `show` is --show-progress. UsageError."""
    kind, _, how = wanted.partition(":")
    if kind not in ("", "bar", "dot", "none", "json") or (
            how and (kind not in ("bar", "dot")
                     or kind == "dot" and how not in DOT_STYLES
                     or kind == "bar" and set(how.split(":")) - {"force", "noscroll"})):
        raise UsageError(f"no such progress: {printable(wanted)!r}",
                         "write bar, bar:force, dot, dot:binary, dot:mega, dot:giga, none or json")
    if as_json or kind == "json":
        return "json"
    if kind == "none" or (verbosity < NORMAL and not show):
        return "none"
    if kind == "dot":
        return wanted
    if kind == "bar" and "force" in how.split(":"):
        return "bar"
    stream = stream or sys.stderr
    if not to_log and stream.isatty():
        from dfly.cli.terminal import is_terminal
        if is_terminal(stream):
            return "bar"
    return "dot" if kind == "bar" or to_log or show else "none"


class Screen:
    """All the downloads of one command line. `style` as from `choose_style()`; `files` = how many
    there will be, 0 where nobody knows."""

    def __init__(self, style: str = "", *, verbosity: int = NORMAL,
                 stream: Optional[TextIO] = None, files: int = 0, explain: bool = False,
                 clock: Optional[Clock] = None) -> None:
        self._stream = stream or sys.stderr
        self.verbosity = verbosity
        self.style = style or choose_style("", verbosity=verbosity, stream=self._stream)
        self.clock = clock or Clock()
        self._explain = explain
        self._program = called_as()
        self._lock = allocate_lock()
        self._rows: List[Row] = []             # under way, in the order they began
        self._files = files
        self._begun = self._done = self._failed = 0
        self._ended = [0] * len(ORIGINS)       # bytes by origin of what was done,
        self._ended_bytes = 0                  # and all of them
        self._total = Meter("", self.clock.now())
        self._drawn_at = float("-inf")
        self._partial: Tuple[Optional[Row], int] = None, 0  # whose dots end the log, how many
        self._over = False                     # interrupted: nothing is drawn any more
        self._mute = False                     # the stream is no more
        self._terminal = None
        self._colours = False
        if self.style == "bar":
            from dfly.cli.terminal import Terminal, wants_colours
            self._terminal = Terminal(self._stream)
            self._colours = wants_colours(self._stream)

    def begin(self, url: str, name: str = "") -> Row:
        """The next download, to be told of by the row; `name` = what the file will be called."""
        now = self.clock.now()
        row = Row(self, url, Meter(name or name_from_url(url), now))
        with self._lock:
            if not self._begun:
                self._total.started_at = self._total.moved_at = now
            self._begun += 1
            self._rows.append(row)
            if self.style.startswith("dot"):
                from dfly.cli.dots import Dots
                row.dots = Dots(self.style.partition(":")[2])
                if self.verbosity >= NORMAL:
                    self._tell(f"--{self._date()}--  {_without_password(url)}")
            elif self._terminal is not None:
                self._show(row, self.clock.now())
        return row

    def say(self, what: str) -> None:
        """A line for people, unless they want none."""
        with self._lock:
            if self.verbosity >= NORMAL and self.style != "json":
                self._tell(f"{self._program}: {what}")

    def warn(self, what: str) -> None:
        with self._lock:
            if self.verbosity > QUIET and self.style != "json":
                self._tell(f"{self._program}: warning: {what}")

    def server_answer(self, facts: Mapping[str, Any], url: str = "") -> None:
        """Status line and headers as `wget -S` prints them, also when quiet: they were asked
        for. `facts` = {status, reason, headers: [[name, value], ...]}, from a server."""
        with self._lock:
            if self.style == "json":
                self._json(url, {"event": "answer", **{
                    key: facts.get(key) for key in ("status", "reason", "headers")}})
                return
            self._tell(*([f"{_without_password(url)}:"] if url else []), *_answer(facts))

    # ------------------------------------------------------------------------ what rows tell
    def took(self, row: Row, event: Event) -> None:
        """An event of a row before its last."""
        kind = event.get("event")
        now = self.clock.now()
        with self._lock:
            if self._over:
                return
            self._json(row.url, _without_cookies(event))
            if kind == "warning" and self.verbosity > QUIET and self.style != "json":
                self._tell(f"{self._program}: warning: {event.get('what', '')}")
            elif kind in ("accepted", "progress"):
                row.meter.update(event, now)
                if kind == "accepted" and self.verbosity >= VERBOSE and self.style != "json":
                    self._tell(_ways(row, event))
                self._show(row, now)

    def finished(self, row: Row, path: str, event: Event) -> None:
        now = self.clock.now()
        with self._lock:
            row.meter.update(event, now)
            if row.dots is not None:
                self._dot(row)
                self._dot_line(row, row.dots.finish(row.meter, now - row.meter.started_at))
            self._json(row.url, {**event, "target": path})
            self._leave(row, True)
            self._tell(*self._last_words(row, path, event, now))

    def broke(self, row: Row, error: DflyError, event: Optional[Event]) -> None:
        with self._lock:
            self._json(row.url, {"event": "failed", "exit_code": error.exit_code,
                                 "what": error.what, "hint": error.hint})
            self._leave(row, False)
            if not self._over:  # else it fails because the user left, and that was said
                self._tell(f"{self._program}: {error}", *(self._explained(event) if event else []))

    def let_be(self, row: Row, why: str) -> None:
        with self._lock:
            self._json(row.url, {"event": "left", "what": why})
            self._leave(row, True)
            if self.verbosity > QUIET and self.style != "json":
                self._tell(f"{self._program}: {why}")

    def broken_off(self, row: Row, exit_code: int) -> None:
        """The first row that says so speaks for all; nothing is drawn from now on."""
        got = self._lock.acquire(timeout=LOCK_S)  # its owner may be what was interrupted
        try:
            self._json(row.url, {"event": "failed", "exit_code": exit_code, "what": "interrupted",
                                 "hint": ""})
            first, self._over = not self._over, True
            alone = len(self._rows) == 1 and row.meter.length and row.meter.received
            self._leave(row, False)
            if not first:
                return
            far = f" at {100 * row.meter.received // (row.meter.length or 1)}%" if alone else ""
            if self.verbosity > QUIET and self.style != "json":
                self._tell(f"{self._program}: interrupted{far}; {RESUMABLE}")
            elif self._terminal is not None:
                self._write(self._terminal.cleared())
        finally:
            if got:
                self._lock.release()

    def _last_words(self, row: Row, path: str, event: Event, now: float) -> List[str]:
        if self.style == "json":
            return []
        meter = row.meter
        lines = []
        if self.verbosity == TERSE:
            size = f"{meter.received}/{meter.length}" if meter.length is not None else (
                f"{meter.received}")
            lines.append(f'{self._date()} URL:{_without_password(row.url)} [{size}] '
                         f'-> "{path}" [1]')
        elif self.verbosity >= NORMAL:
            lines.append(summary(meter, path if path != "-" else meter.name,
                                 now - meter.started_at))
        elif self._terminal is not None:
            lines.append(live_line(meter, self._terminal.room()[0]).rstrip())
        return lines + self._explained(event)

    def _explained(self, event: Event) -> List[str]:
        if not self._explain or self.style == "json":
            return []
        from dfly.cli.story import explanation
        return explanation(event)

    # ------------------------------------------------------------------------ drawing
    def _leave(self, row: Row, done: bool) -> None:
        if row not in self._rows:
            return
        self._rows.remove(row)
        self._done += done
        self._failed += not done
        if done:
            self._ended = [sum(pair) for pair in zip(self._ended, row.meter.shares)]
            self._ended_bytes += row.meter.received

    def _show(self, row: Row, now: float) -> None:
        if row.dots is not None:
            self._dot(row)
        elif now - self._drawn_at >= REDRAW_S:
            self._write(self._lines(now))

    def _lines(self, now: float) -> str:
        """The live lines as they are now, '' where there are none."""
        terminal = self._terminal
        if terminal is None or self._over or not self._rows or not terminal.in_foreground():
            return ""
        self._drawn_at = now
        total = self._sum_up(now) if max(self._files, self._begun) > 1 else None
        return terminal.drawn(picture([row.meter for row in self._rows], total, terminal.room(),
                                      self._colours))

    def _sum_up(self, now: float) -> Meter:
        meters = [row.meter for row in self._rows]
        shares = [sum(column) for column in zip(self._ended, *(meter.shares for meter in meters))]
        lengths = [meter.length for meter in meters if meter.length is not None]
        known = len(lengths) == len(meters) and self._begun >= self._files
        self._total.length = self._ended_bytes + sum(lengths) if known else None
        self._total.update({"bytes": self._ended_bytes + sum(meter.received for meter in meters),
                            **{f"from_{o}": share for o, share in zip(ORIGINS, shares)}}, now)
        of = f" of {self._files}" if self._files >= self._begun else ""
        lost = f", {self._failed} failed" if self._failed else ""
        self._total.name = f"{self._done}{of} files{lost}"
        if of:
            few = f"{self._done}/{self._files}"
            self._total.short_names = (f"{self._done}{of} files", f"{few} files", few)
        return self._total

    def _dot(self, row: Row) -> None:
        """What is new of a row's dots: as they come where it is alone, else in whole lines that
        begin with its name."""
        assert row.dots is not None
        row.shares_log = row.shares_log or len(self._rows) > 1
        for line in row.dots.take(row.meter):
            self._dot_line(row, line)
        if not row.shares_log:
            text = row.dots.unfinished()
            whose, shown = self._partial
            if whose is not row:
                self._end_partial()
                shown = 0
            self._write(text[shown:])
            self._partial = row, len(text)

    def _dot_line(self, row: Row, line: str) -> None:
        whose, shown = self._partial
        if whose is row:
            self._partial = None, 0
            self._write(line[shown:] + "\n")
            return
        name = f"{printable(row.meter.name)}: " if row.shares_log else ""
        self._tell(name + line)

    def _end_partial(self) -> None:
        if self._partial[0] is not None:
            self._partial = None, 0
            self._write("\n")

    # ------------------------------------------------------------------------ writing
    def _tell(self, *lines: str) -> None:
        """Lines that stay, above those under way."""
        if not lines:
            return
        self._end_partial()
        text = "\n".join(map(printable, lines))
        if self._terminal is None:
            self._write(text + "\n")
        else:
            self._write(self._terminal.said(text) + self._lines(self.clock.now()))

    def _write(self, text: str) -> None:
        if not text or self._mute:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self._mute = True  # the stream is full or gone: why not to fail, see above
            if self._stream is not sys.stderr:
                self._forget_log(error)

    def _forget_log(self, error: OSError) -> None:
        """What is still on its way to a log would fail once more when that is closed."""
        import os
        try:
            fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(fd, self._stream.fileno(), inheritable=False)
            os.close(fd)
        except OSError:
            return   # it has no descriptor: nothing is on its way
        complain(f"{self._program}: warning: {printable(self._stream.name)}: {error.strerror}: "
                 "nothing more is told there")

    def _json(self, url: str, event: Event) -> None:
        if self.style == "json":
            print_json({"url": _without_password(url), **event})

    def _date(self) -> str:
        import time
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.clock.wall()))


class Row:
    """One file under way. Any thread may call, and none after one of the three last words."""

    def __init__(self, screen: Screen, url: str, meter: Meter) -> None:
        self.url = url
        self.meter = meter
        self.dots: Optional[Dots] = None
        self.shares_log = False   # others had dots there while this one had
        self._screen = screen

    def event(self, event: Event) -> None:
        """An event before the last."""
        self._screen.took(self, event)

    def done(self, path: str, event: Event) -> None:
        """It is at `path` ('-': standard output); the daemon's last event."""
        self._screen.finished(self, path, event)

    def failed(self, error: DflyError, event: Optional[Event] = None) -> None:
        """`event`: the daemon's last, where it came that far; --explain reads it."""
        self._screen.broke(self, error, event)

    def left(self, why: str) -> None:
        """There was nothing to do for it."""
        self._screen.let_be(self, why)

    def interrupted(self, exit_code: int = INTERRUPTED) -> None:
        """By a signal; what came is kept, and that's what is said."""
        self._screen.broken_off(self, exit_code)


def _ways(row: Row, event: Event) -> str:
    """What -v says once a download is taken on."""
    length = row.meter.length
    size = format_size(length) if length is not None else "unknown length"
    by = event.get("manager") if event.get("via") == "manager" else None
    return (f"{_without_password(row.url)}: {size}, "
            f"{f'by way of the manager {by}' if by else 'from the source'}, "
            f"saving to: {row.meter.name}")


def _answer(facts: Mapping[str, Any]) -> List[str]:
    headers = facts.get("headers")
    pairs = [pair for pair in (headers if isinstance(headers, (list, tuple)) else [])
             if isinstance(pair, (list, tuple)) and len(pair) == 2]
    if not facts:
        return ["  no server was asked: hosts of the cluster have it"]
    status = f"{facts.get('status', '')} {facts.get('reason') or ''}".rstrip()
    return [f"  HTTP/1.1 {status}", *(f"  {name}: {value}" for name, value in pairs[:HEADERS_MAX]),
            *([f"  ... and {len(pairs) - HEADERS_MAX} more"] if len(pairs) > HEADERS_MAX else [])]


def _without_cookies(event: Event) -> Event:
    """An event for whoever reads standard output, often a log: --save-cookies has them in a file
    that is the user's alone."""
    facts = event.get("facts")
    if not isinstance(facts, dict) or "cookies" not in facts:
        return event
    return {**event, "facts": {name: fact for name, fact in facts.items() if name != "cookies"}}


def _without_password(url: str) -> str:
    """A URL for logs."""
    scheme, colon, rest = url.partition("://")
    user, at, host = rest.partition("/")[0].rpartition("@")
    if not at or ":" not in user:
        return url
    return f"{scheme}{colon}{user.partition(':')[0]}:*password*@{rest[len(user) + 1:]}"
