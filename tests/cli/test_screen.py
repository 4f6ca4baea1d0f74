"""What a person sees who watches `dfly get`: through a small terminal that does as they do."""
from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import threading
from typing import Any, Dict, Iterator, List

import pytest

from dfly.cli.progress import columns_of
from dfly.cli.screen import NORMAL, QUIET, TERSE, VERBOSE, Screen, choose_style
from dfly.cli.terminal import Terminal
from dfly.clock import ManualClock
from dfly.errors import NetworkError, UsageError

MB = 1_000_000
URL = "http://files.example/dir/file.iso"
TOKEN = re.compile(r"\x1b\[(\d*)([A-Za-z])|([\s\S])")


class Glass(io.StringIO):
    """A terminal: what was scrolled out stays in `lines`; the last `rows` of them are in reach."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        super().__init__()
        self.size = os.terminal_size((columns, rows))
        self.lines: List[List[str]] = [[]]
        self.row = self.column = 0
        self.writes: List[str] = []
        self.broken: List[OSError] = []

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1_000_000   # nobody's

    def write(self, text: str) -> int:
        if self.broken:
            raise self.broken[0]
        self.writes.append(text)
        for count, letter, character in TOKEN.findall(text):
            if letter:
                self._order(int(count or 0), letter)
            elif character == "\r":
                self.column = 0
            elif character == "\n":
                self._next_row()
            else:
                self._put(character)
        return len(text)

    def shown(self) -> List[str]:
        """All rows that aren't empty, from the first ever."""
        rows = ["".join(line).rstrip() for line in self.lines]
        return [row for row in rows if row]

    def narrow(self, columns: int, wraps: bool) -> None:
        """Another width; rows that are too wide are wrapped, or cut, as terminals differ."""
        self.size = os.terminal_size((columns, self.size.lines))
        lines: List[List[str]] = []
        for index, line in enumerate(self.lines):
            if index == self.row:
                row = len(lines) + (self.column // columns if wraps else 0)
            text = "".join(line).rstrip()
            parts = [text[at:at + columns] for at in range(0, len(text), columns)] or [""]
            lines += [list(part) for part in (parts if wraps else parts[:1])]
        self.row, self.column = row, min(self.column, columns - 1)
        self.lines = lines

    def _order(self, count: int, letter: str) -> None:
        line = self.lines[self.row]
        if letter == "A":
            self.row = max(0, len(self.lines) - self.size.lines, self.row - max(1, count))
        elif letter == "K":
            del line[0 if count == 2 else self.column:]
        elif letter == "J":
            assert (self.row, self.column) != (max(0, len(self.lines) - self.size.lines), 0), (
                "this clears the whole screen, which goes into tmux's memory")
            del line[self.column:]
            del self.lines[self.row + 1:]
        else:
            assert letter == "m", letter

    def _put(self, character: str) -> None:
        wide = columns_of(character)
        if self.column + wide > self.size.columns:
            self._next_row()
        line = self.lines[self.row]
        line += " " * (self.column - len(line))
        line[self.column:self.column + max(1, wide)] = [character, ""][:max(1, wide)]
        self.column += wide

    def _next_row(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.lines):
            self.lines.append([])


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture
def glass(monkeypatch: pytest.MonkeyPatch) -> Iterator[Glass]:
    glass = Glass()
    real = os.get_terminal_size
    monkeypatch.setattr(os, "get_terminal_size",
                        lambda fd=1: glass.size if fd == glass.fileno() else real(fd))
    yield glass


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


def progress(size: int, length: Any = 100 * MB, **shares: int) -> Dict[str, Any]:
    return {"event": "progress", "bytes": size, "length": length,
            **{f"from_{origin}": count for origin, count in (shares or {"peers": size}).items()}}


def done(length: int = 100 * MB) -> Dict[str, Any]:
    return {**progress(length, length), "event": "done", "path": "/store/x", "seconds": 1.0}


def tell(screen: Screen, clock: ManualClock, sizes: Dict[Any, int], **more: Any) -> None:
    """News of several rows, after the time that the daemon lets pass."""
    clock.advance(0.4)
    for row, size in sizes.items():
        row.event(progress(size, **more))


# ------------------------------------------------------------------ which style
@pytest.mark.parametrize("wanted, told, style", [
    ("", {}, "none"),
    ("", {"terminal": True}, "bar"),
    ("", {"terminal": True, "to_log": True}, "dot"),
    ("", {"to_log": True}, "dot"),
    ("", {"show": True}, "dot"),
    ("", {"terminal": True, "verbosity": QUIET}, "none"),
    ("", {"terminal": True, "verbosity": TERSE}, "none"),
    ("", {"terminal": True, "verbosity": QUIET, "show": True}, "bar"),
    ("bar", {}, "dot"),
    ("bar", {"terminal": True}, "bar"),
    ("bar:force", {}, "bar"),
    ("bar:force:noscroll", {"to_log": True}, "bar"),
    ("bar:noscroll", {}, "dot"),
    ("bar:force", {"verbosity": QUIET}, "none"),
    ("dot", {"terminal": True}, "dot"),
    ("dot:giga", {}, "dot:giga"),
    ("none", {"terminal": True, "show": True}, "none"),
    ("json", {"terminal": True}, "json"),
    ("bar:force", {"as_json": True}, "json"),
])
def test_the_style_is_wgets_or_todays(wanted: str, told: Dict[str, Any], style: str) -> None:
    stream = Glass() if told.pop("terminal", False) else io.StringIO()
    assert choose_style(wanted, stream=stream, **told) == style


def test_a_dumb_terminal_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for term in ("dumb", None):
        monkeypatch.delenv("TERM")
        if term:
            monkeypatch.setenv("TERM", term)
        assert choose_style("", stream=Glass()) == "none"
        assert choose_style("bar", stream=Glass()) == "dot"
        monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize("wanted", ["bars", "dot:tiny", "bar:fast", "none:x", "json:y", ":",
                                    "dot:mega:giga", "\x1b[2J"])
def test_no_such_style_is_wrong_usage(wanted: str) -> None:
    if wanted == ":":
        assert choose_style(wanted, stream=io.StringIO()) == "none"
        return
    with pytest.raises(UsageError) as caught:
        choose_style(wanted)
    assert "\x1b" not in str(caught.value) and "dot:mega" in str(caught.value)


# ------------------------------------------------------------------ one file on a terminal
def test_there_is_something_to_see_at_once(glass: Glass, clock: ManualClock) -> None:
    Screen("bar", stream=glass, clock=clock).begin(URL)
    assert glass.shown() == ["waiting for an answer: file.iso"]


def test_the_line_is_redrawn_in_place_and_the_summary_stays(
        glass: Glass, clock: ManualClock) -> None:
    screen = Screen("bar", stream=glass, clock=clock)
    row = screen.begin(URL)
    for size in range(0, 100 * MB, 10 * MB):
        tell(screen, clock, {row: size})
        assert len(glass.shown()) == 1
    assert glass.shown()[0].startswith(" 90%  [") and "#peers 100%" in glass.shown()[0]
    row.done("out/file.iso", done())
    assert glass.shown() == ["out/file.iso: 95.4 MiB in 4.00 s (25.0 MB/s); "
                             "P2P 100%: peers 100%"]
    assert glass.column == 0


def test_each_redraw_is_one_write_and_ten_a_second_at_most(
        glass: Glass, clock: ManualClock) -> None:
    screen = Screen("bar", stream=glass, clock=clock)
    rows = [screen.begin(f"{URL}{index}") for index in range(3)]
    for step in range(1000):
        rows[step % 3].event(progress(step * 1000))
        clock.advance(0.002)
    assert 15 <= len(glass.writes) <= 21
    for text in glass.writes[1:]:
        # Nothing is cleared before it is drawn over: only rests of lines, and what is below.
        assert text.startswith("\r ") and text.count("\x1b[J") == 1
        assert re.search(r"\x1b\[J\r\x1b\[\dA$", text)


def test_warnings_scroll_above_the_line(glass: Glass, clock: ManualClock) -> None:
    screen = Screen("bar", stream=glass, clock=clock)
    row = screen.begin(URL)
    tell(screen, clock, {row: MB})
    row.event({"event": "warning", "what": "no \x1b[2Jmanager " + "x" * 200})
    screen.warn("another")
    shown = glass.shown()
    assert shown[0].startswith("dfly: warning: no \\x1b[2Jmanager xxx")
    assert shown[-2] == "dfly: warning: another"
    assert shown[-1].startswith("  1%  [")
    assert len([text for text in shown if "%" in text]) == 1


def test_a_failure_takes_the_lines_place(glass: Glass, clock: ManualClock) -> None:
    screen = Screen("bar", stream=glass, clock=clock)
    row = screen.begin(URL)
    tell(screen, clock, {row: MB})
    row.failed(NetworkError("cut", "try again"))
    assert glass.shown() == ["dfly: cut: try again"]


def test_an_interruption_says_how_far_it_came_and_how_to_go_on(
        glass: Glass, clock: ManualClock) -> None:
    screen = Screen("bar", stream=glass, clock=clock)
    row = screen.begin(URL)
    tell(screen, clock, {row: 42 * MB})
    glass.write("^C")   # the terminal's echo
    row.interrupted()
    row.event(progress(50 * MB))   # another thread's last news
    row.failed(NetworkError("cut"))
    assert glass.shown() == ["dfly: interrupted at 42%; the same command goes on from what is "
                             "here already"]
    assert glass.column == 0


def test_quiet_with_the_bar_leaves_the_bar(glass: Glass, clock: ManualClock) -> None:
    screen = Screen("bar", stream=glass, clock=clock, verbosity=QUIET)
    row = screen.begin(URL)
    tell(screen, clock, {row: 42 * MB})
    row.event({"event": "warning", "what": "hush"})
    row.done("x", done())
    (line,) = glass.shown()
    assert line.startswith("100%  [####")
    other = screen.begin(URL)
    clock.advance(1)
    other.event(progress(MB))
    other.interrupted()
    assert glass.shown() == [line] and glass.column == 0


# ------------------------------------------------------------------ several files
def test_a_line_for_each_file_and_a_total(glass: Glass, clock: ManualClock) -> None:
    screen = Screen("bar", stream=glass, clock=clock, files=3)
    rows = [screen.begin(f"http://files.example/file-{index}.iso") for index in range(3)]
    for step in range(1, 6):
        tell(screen, clock, {row: step * MB * (index + 1) for index, row in enumerate(rows)})
    rows[1].done("file-1.iso", done())
    shown = glass.shown()
    assert shown[0].startswith("file-1.iso: 95.4 MiB in 2.00 s")
    assert shown[1].startswith("  5%  [") and shown[1].endswith("  file-0.iso")
    assert shown[2].startswith(" 15%  [##") and shown[2].endswith("  file-2.iso")
    assert shown[3].startswith(" 40%  [######") and shown[3].endswith("  1 of 3 files")
    assert shown[4] == "      #peers 100%"
    assert len(shown) == 5


@pytest.mark.parametrize("columns, failed, ending", [
    (80, 0, "  0 of 3 files"), (40, 0, "  0/3 files"), (20, 0, "  0 of 3 files"), (15, 0, "  0/3"),
    (80, 1, "  0 of 3 files, 1 failed"), (60, 1, "  0 of 3 files"), (40, 1, "  0/3 files")])
def test_the_total_tells_its_files_however_narrow(
        glass: Glass, clock: ManualClock, columns: int, failed: int, ending: str) -> None:
    glass.size = os.terminal_size((columns, 24))
    screen = Screen("bar", stream=glass, clock=clock, files=3)
    rows = [screen.begin(f"http://files.example/file-{index}.iso") for index in range(3)]
    for row in rows[:failed]:
        row.failed(NetworkError("cut"))
    for size in (MB, 2 * MB):
        tell(screen, clock, dict.fromkeys(rows[failed:], size))
    assert any(line.endswith(ending) and len(line) < columns for line in glass.shown())


def test_the_total_knows_no_length_before_all_have_begun(
        glass: Glass, clock: ManualClock) -> None:
    screen = Screen("bar", stream=glass, clock=clock, files=3)
    first, second = screen.begin(f"{URL}1"), screen.begin(f"{URL}2")
    clock.advance(1)
    first.failed(NetworkError("cut"))
    clock.advance(1)
    second.event(progress(10 * MB))
    assert "[" in glass.shown()[-2] and "<=>" in glass.shown()[-2]
    assert "  0 of 3 files, 1 failed" in glass.shown()[-2]
    third = screen.begin(f"{URL}3")
    clock.advance(1)
    third.event(progress(30 * MB))
    assert glass.shown()[-2].startswith(" 20%  [###")


def test_more_files_than_rows_are_counted_and_nothing_scrolls(
        glass: Glass, clock: ManualClock) -> None:
    glass.size = os.terminal_size((80, 10))
    screen = Screen("bar", stream=glass, clock=clock)
    rows = [screen.begin(f"{URL}{index}") for index in range(50)]
    for step in range(1, 10):
        tell(screen, clock, dict.fromkeys(rows, step * MB))
        assert len(glass.lines) == 9
    assert glass.shown()[-3] == "... and 44 more"
    glass.size = os.terminal_size((80, 3))
    glass.lines, glass.row = glass.lines[:3], 0
    tell(screen, clock, dict.fromkeys(rows, 20 * MB))
    assert len(glass.lines) <= 3


@pytest.mark.parametrize("wraps", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_a_narrower_terminal_keeps_no_garbage(
        glass: Glass, clock: ManualClock, wraps: bool, count: int) -> None:
    glass.size = os.terminal_size((120, 40))
    screen = Screen("bar", stream=glass, clock=clock, files=count)
    screen.warn("-")
    rows = [screen.begin(f"{URL}{index}") for index in range(count)]
    for columns in (120, 119, 60, 33, 20, 90, 25, 200, 30):
        glass.narrow(columns, wraps)
        tell(screen, clock, dict.fromkeys(rows, MB))
        tell(screen, clock, dict.fromkeys(rows, 2 * MB))
        before, *lines = glass.shown()
        assert before == "dfly: warning: -"
        assert len(lines) == (1 if count == 1 else count + 2)
        assert all(columns_of(line) < columns for line in lines)
    glass.narrow(120, wraps)
    for row in rows:
        row.done("x", done())
    assert [line[:11] for line in glass.shown()] == ["dfly: warni", *["x: 95.4 MiB"] * count]


def test_lines_are_cleared_first_only_where_the_width_changed(
        glass: Glass, clock: ManualClock) -> None:
    """Rows keep in mind that they were wrapped, some terminals', until they're cleared whole."""
    screen = Screen("bar", stream=glass, clock=clock)
    row = screen.begin(URL)
    cleared = []
    for columns in (80, 60, 60, 100, 100):
        glass.size = os.terminal_size((columns, 24))
        tell(screen, clock, {row: MB})
        cleared.append("\x1b[2K" in glass.writes[-1])
    assert cleared == [False, True, False, True, False]


def test_behind_a_prompt_nothing_is_drawn(
        glass: Glass, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminal, "in_foreground", lambda self: False)
    screen = Screen("bar", stream=glass, clock=clock)
    row = screen.begin(URL)
    tell(screen, clock, {row: MB})
    assert glass.writes == []
    row.done("x", done())
    assert glass.writes == ["x: 95.4 MiB in 0.40 s (250 MB/s); P2P 100%: peers 100%\n"]


def test_what_a_shell_wrote_since_is_not_cleared(
        glass: Glass, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Screen("bar", stream=glass, clock=clock).begin(URL)
    glass.write("\nprompt$ ")
    monkeypatch.setattr(Terminal, "in_foreground", lambda self: False)
    row.done("x", done())
    assert glass.shown()[1].startswith("prompt$ x: 95.4 MiB")


def test_many_threads_tell_at_once(glass: Glass) -> None:
    screen = Screen("bar", stream=glass, files=8)

    def fetch(index: int) -> None:
        row = screen.begin(f"http://files.example/{index}")
        for step in range(200):
            row.event(progress(step))
        row.done(f"file-{index}", done())

    threads = [threading.Thread(target=fetch, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(line.split(":")[0] for line in glass.shown()) == [
        f"file-{index}" for index in range(8)]


def test_who_interrupts_waits_for_no_writer(glass: Glass, clock: ManualClock) -> None:
    screen = Screen("bar", stream=glass, clock=clock)
    row = screen.begin(URL)
    screen._lock.acquire()   # what was interrupted held it
    row.interrupted()
    assert "goes on" in "".join(glass.shown())


def test_several_interrupted_rows_say_so_once(glass: Glass, clock: ManualClock) -> None:
    screen = Screen("bar", stream=glass, clock=clock)
    rows = [screen.begin(f"{URL}{index}") for index in range(3)]
    tell(screen, clock, dict.fromkeys(rows, MB))
    for row in rows:
        row.interrupted()
    assert "".join(glass.shown()) == (
        "dfly: interrupted; the same command goes on from what is here already")


# ------------------------------------------------------------------ colours
@pytest.mark.parametrize("environ, terminal, coloured", [
    ({}, True, True), ({"NO_COLOR": ""}, True, True), ({"NO_COLOR": "0"}, True, False),
    ({"TERM": "dumb"}, True, False), ({}, False, False)])
def test_colours_are_for_terminals_that_want_them(
        glass: Glass, clock: ManualClock, monkeypatch: pytest.MonkeyPatch,
        environ: Dict[str, str], terminal: bool, coloured: bool) -> None:
    monkeypatch.delenv("NO_COLOR")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    stream = glass if terminal else io.StringIO()
    screen = Screen("bar", stream=stream, clock=clock)   # --progress=bar:force
    row = screen.begin(URL)
    tell(screen, clock, {row: 60 * MB})
    text = "".join(glass.writes) if terminal else stream.getvalue()
    assert " 60%  [" in re.sub(r"\x1b\[\d+m", "", text)
    assert ("\x1b[32m" in text) is coloured


def test_without_a_terminal_columns_are_the_environments(
        clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    for told, room in (("50", 49), ("many", 79), ("0", 79), ("99999999", 79), ("", 79)):
        monkeypatch.setenv("COLUMNS", told)
        assert Terminal(io.StringIO()).room() == (room, 23)


def test_a_real_terminals_size_is_read_each_time() -> None:
    import fcntl
    import struct
    import termios
    first, second = pty.openpty()
    with open(second, "w") as stream:
        terminal = Terminal(stream)
        for columns, rows in ((100, 30), (40, 10)):
            fcntl.ioctl(second, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            assert terminal.room() == (columns - 1, rows - 1)
    os.close(first)


# ------------------------------------------------------------------ logs
def test_a_log_gets_dots(clock: ManualClock) -> None:
    log = io.StringIO()
    screen = Screen("dot:default", stream=log, clock=clock)
    row = screen.begin("http://user:secret@files.example/x/file.iso")
    texts = []
    for step in range(1, 5):
        clock.advance(0.4)
        row.event(progress(step * 30_000, 120_000, source=step * 30_000))
        texts.append(log.getvalue())
    assert texts[0].endswith("     0K .......... .......... .........")
    assert texts[1].endswith(" 42% 73.2K 1s\n    50K ........")
    row.done("file.iso", {**progress(120_000, 120_000, source=120_000), "event": "done"})
    assert log.getvalue() == (
        "--2023-11-14 22:13:20--  http://user:*password*@files.example/x/file.iso\n"
        "     0K .......... .......... .......... .......... .......... 42% 73.2K 1s\n"
        "    50K .......... .......... .......... .......... .......... 85% 73.2K 0s\n"
        "   100K .......... ........                                   100% 73.2K=1.6s\n"
        "file.iso: 117 KiB in 1.60 s (75.0 kB/s); P2P 0%: source 100%\n")


def test_a_message_ends_the_dots_before_it(clock: ManualClock) -> None:
    log = io.StringIO()
    screen = Screen("dot:default", stream=log, clock=clock)
    row = screen.begin(URL)
    clock.advance(1)
    row.event(progress(3_000, 100_000))
    row.event({"event": "warning", "what": "hm"})
    row.event(progress(4_100, 100_000))
    row.failed(NetworkError("cut"))
    assert log.getvalue().splitlines()[1:] == [
        "     0K ..", "dfly: warning: hm", "     0K ....", "dfly: cut"]


def test_several_files_share_a_log_line_by_line(clock: ManualClock) -> None:
    log = io.StringIO()
    screen = Screen("dot:default", stream=log, clock=clock)
    rows = [screen.begin(f"http://files.example/{name}") for name in "ab"]
    for step in range(1, 5):
        clock.advance(0.4)
        for row in rows:
            row.event(progress(step * 30_000, 120_000))
    for row, name in zip(rows, "ab"):
        row.done(name, done(120_000))
    lines = log.getvalue().splitlines()
    assert [line[:10] for line in lines[2:]] == [
        "a:      0K", "b:      0K", "a:     50K", "b:     50K",
        "a:    100K", "a: 117 KiB", "b:    100K", "b: 117 KiB"]


def test_quiet_and_terse_logs(clock: ManualClock) -> None:
    for verbosity, text in ((QUIET, ""), (TERSE, (
            '2023-11-14 22:13:20 URL:http://files.example/dir/file.iso '
            '[100000000/100000000] -> "out" [1]\n'))):
        log = io.StringIO()
        row = Screen("none", stream=log, clock=clock, verbosity=verbosity).begin(URL)
        row.event({**progress(0), "event": "accepted"})
        row.done("out", done())
        assert log.getvalue() == text
    log = io.StringIO()
    row = Screen("none", stream=log, clock=clock, verbosity=TERSE).begin(URL)
    row.done("-", {"event": "done", "bytes": 7})
    assert log.getvalue().endswith('[7] -> "-" [1]\n')


@pytest.mark.parametrize("event, text", [
    ({"length": 100 * MB, "via": "manager", "manager": "10.0.0.1:65002"},
     f"{URL}: 95.4 MiB, by way of the manager 10.0.0.1:65002, saving to: other.iso\n"),
    ({"length": None, "via": "source", "manager": ""},
     f"{URL}: unknown length, from the source, saving to: other.iso\n"),
    ({"length": 1, "via": "manager", "manager": "\x1b[2J"},
     f"{URL}: 1 B, by way of the manager \\x1b[2J, saving to: other.iso\n")])
def test_verbose_says_which_way_it_goes(
        clock: ManualClock, event: Dict[str, Any], text: str) -> None:
    log = io.StringIO()
    screen = Screen("none", stream=log, clock=clock, verbosity=VERBOSE)
    screen.begin(URL, name="other.iso").event({"event": "accepted", **event})
    assert log.getvalue() == text


@pytest.mark.parametrize("verbosity", [QUIET, NORMAL])
def test_a_servers_answer_is_shown_as_wget_does(verbosity: int) -> None:
    log = io.StringIO()
    Screen("none", stream=log, verbosity=verbosity).server_answer(
        {"status": 200, "reason": "OK", "headers": [["Content-Length", "6"], ["X", "a\x1b[2Jb"]]})
    assert log.getvalue() == "  HTTP/1.1 200 OK\n  Content-Length: 6\n  X: a\\x1b[2Jb\n"


def test_a_content_that_no_server_has_has_no_answer() -> None:
    log = io.StringIO()
    Screen("none", stream=log).server_answer({}, url=URL)
    assert log.getvalue() == f"{URL}:\n  no server was asked: hosts of the cluster have it\n"


@pytest.mark.parametrize("facts", [{"headers": 5}, {"headers": [5, ["a"], {"a": "b"}]},
                                   {"headers": [["n", "v"]] * 10_000, "status": [], "reason": 5}])
def test_a_strange_answer_does_no_harm(facts: Dict[str, Any]) -> None:
    log = io.StringIO()
    Screen("none", stream=log).server_answer(facts, url=URL)
    assert log.getvalue().startswith(f"{URL}:\n  HTTP/1.1 ")
    assert log.getvalue().count("\n") <= 205


# ------------------------------------------------------------------ JSON
@pytest.mark.parametrize("style", ["none", "dot"])
def test_a_log_that_is_full_is_named_and_ends_nothing(
        style: str, capsys: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as log:   # closing it writes what is left
        screen = Screen(style, stream=log, verbosity=VERBOSE)
        row = screen.begin(URL)
        row.event({"event": "accepted", "task": "t", "length": 5})
        row.done("f", {"event": "done", "length": 5, "bytes": 5})
        screen.warn("what nobody reads")
    assert capsys.readouterr().err == (
        "dfly: warning: /dev/full: No space left on device: nothing more is told there\n")


def test_no_cookie_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"status": 200, "cookies": ["h\tFALSE\t/\tFALSE\t0\tsession\thunter2"]}
    event = {"event": "accepted", "task": "t", "length": 5, "facts": facts}
    for style in ("json", "none"):
        log = io.StringIO()
        row = Screen(style, stream=log, verbosity=VERBOSE).begin(URL)
        row.event(event)
        row.done("f", {"event": "done", "length": 5, "bytes": 5})
        out = capsys.readouterr().out
        assert "hunter2" not in log.getvalue() + out and ('"status": 200' in out) == (
            style == "json")
    assert facts["cookies"]   # whoever saves them has them still


def test_json_is_one_event_a_line_and_nothing_else(
        clock: ManualClock, capsys: pytest.CaptureFixture[str]) -> None:
    log = io.StringIO()
    screen = Screen("json", stream=log, clock=clock, explain=True)
    first, second = screen.begin(f"{URL}1"), screen.begin(f"{URL}2")
    first.event(progress(5))
    second.event({"event": "warning", "what": "hm"})
    first.done("out", done())
    second.failed(NetworkError("cut", "mend"))
    third = screen.begin(URL)
    third.interrupted()
    screen.warn("hush")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(event["event"], event["url"]) for event in events] == [
        ("progress", f"{URL}1"), ("warning", f"{URL}2"), ("done", f"{URL}1"),
        ("failed", f"{URL}2"), ("failed", URL)]
    assert events[2]["target"] == "out" and events[4]["exit_code"] == 130
    assert log.getvalue() == "dfly: cut: mend\n"


# ------------------------------------------------------------------ --explain
def test_the_explanation_follows_the_summary(clock: ManualClock) -> None:
    log = io.StringIO()
    screen = Screen("none", stream=log, clock=clock, explain=True)
    story = {"total_s": 2.0, "source_s": 1.5}
    screen.begin(URL).done("x", {**done(), "story": story})
    assert log.getvalue().splitlines()[-1] == (
        "In short: most of the time went to waiting for the source.")
    screen.begin(URL).failed(NetworkError("cut", "mend"), {"event": "failed", "story": story})
    assert "dfly: cut: mend\n\nWhere the time went" in log.getvalue()


# ------------------------------------------------------------------ a stream that is no more
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_what_cannot_be_shown_ends_no_download(
        glass: Glass, clock: ManualClock, code: int) -> None:
    screen = Screen("bar", stream=glass, clock=clock)
    row = screen.begin(URL)
    glass.broken.append(OSError(code, "gone"))
    tell(screen, clock, {row: MB})
    glass.broken.clear()
    row.done("x", done())
    assert len(glass.writes) == 1


def test_a_reader_that_left_is_told_to_the_caller(glass: Glass, clock: ManualClock) -> None:
    row = Screen("bar", stream=glass, clock=clock).begin(URL)
    glass.broken.append(BrokenPipeError())
    with pytest.raises(BrokenPipeError):
        row.failed(NetworkError("cut"))
