"""The live lines, the dots and the summary, as functions of what happened and of a width."""
from __future__ import annotations

import itertools
import re
from typing import Any, List, Optional

import pytest

from dfly.cli.dots import LINES_AT_ONCE, STYLES, Dots
from dfly.cli.progress import ALONE, Meter, columns_of, cut, live_line, picture, summary

MB = 1_000_000
WIDTHS = [*range(1, 210), 500]


def meter_at(received: int, length: Optional[int] = 100 * MB, seconds: float = 1.0,
             name: str = "file.iso", **shares: int) -> Meter:
    meter = Meter(name, started_at=50.0)
    meter.update({"bytes": received, "length": length,
                  **{f"from_{origin}": size for origin, size in shares.items()}}, 50.0 + seconds)
    return meter


def plain(line: str) -> str:
    return re.sub(r"\x1b\[\d*m", "", line)


# ------------------------------------------------------------------ one line
def test_the_line_tells_all_there_is_room_for() -> None:
    meter = meter_at(25 * MB, peers=20 * MB, manager=4 * MB, source=MB)
    assert live_line(meter, 160) == (
        " 25%  [#######==                             ]  25.0 MB/s  ETA 0:03   "
        "23.8 MiB of 95.4 MiB  #peers 80% =manager 16% -source 4%  file.iso")
    assert live_line(meter, 79) == (
        " 25%  [##=          ]  25.0 MB/s  ETA 0:03   #peers 80% =manager 16% -source 4%")


@pytest.mark.parametrize("name", ["file.iso", "x" * 300, "日本語の" * 30, "é\u0301" * 50, "",
                                  "a\x1b[2J\n\r\t\x7f\u202eb"])
def test_no_line_exceeds_the_width(name: str) -> None:
    shares = {"peers": 90 * MB, "manager": 2 * MB, "source": 6 * MB, "cache": MB}
    for meter in (meter_at(99 * MB, name=name, **shares), meter_at(99 * MB, None, name=name),
                  meter_at(0, 0, name=name), Meter(name, 0.0),
                  meter_at(1 << 61, 1 << 62, 1e-9, name=name), meter_at(1, 1 << 62, name=name)):
        for width, among in itertools.product(WIDTHS, (False, True)):
            line = live_line(meter, width, among=among)
            assert columns_of(line) <= width
            assert line.isprintable()
            assert plain(live_line(meter, width, colours=True, among=among)) == line


def test_the_percent_is_always_there() -> None:
    meter = meter_at(99 * MB, peers=90 * MB, source=9 * MB)
    for width in range(4, 210):
        assert live_line(meter, width).startswith(" 99%")
        assert live_line(meter, width, among=True).startswith(" 99%")


def test_what_matters_least_goes_first_when_it_gets_narrow() -> None:
    meter = meter_at(50 * MB, peers=50 * MB)
    gone: List[str] = []
    for width in range(160, 3, -1):
        line = live_line(meter, width)
        for word in ("file.iso", " of ", "#peers", "[", "ETA", "MB/s"):
            if word not in line and word not in gone:
                gone.append(word)
    assert gone == [" of ", "file.iso", "#peers", "[", "ETA", "MB/s"]


def test_among_others_the_name_matters_more_than_the_origin() -> None:
    meter = meter_at(50 * MB, name="ubuntu.iso", peers=50 * MB)
    assert live_line(meter, 79, among=True) == (
        " 50%  [########         ]  50.0 MB/s  ETA 0:01      ubuntu.iso")
    assert live_line(meter, 16, among=True) == " 50%  ubuntu.iso"


def test_the_bar_shows_whose_bytes_these_are() -> None:
    def bar(meter: Meter) -> str:
        return live_line(meter, 160).split("[")[1].split("]")[0].rstrip()

    assert bar(meter_at(100 * MB, peers=50 * MB, manager=25 * MB, source=25 * MB)) == (
        "#" * 19 + "=" * 10 + "-" * 9)
    assert bar(meter_at(50 * MB, cache=50 * MB)) == "." * 19
    assert bar(meter_at(50 * MB)) == "*" * 19   # the daemon doesn't say
    assert bar(meter_at(3 * MB, source=3 * MB)) == "-"
    assert bar(meter_at(0)) == ""


def test_the_parts_of_a_bar_are_as_many_cells_as_all_of_it() -> None:
    for width, size in itertools.product(range(60, 200), range(0, 101, 7)):
        shares = {"peers": size * 333_333, "manager": size * 333_333, "source": size * 333_334}
        line = live_line(meter_at(size * MB, **shares), width)
        inside = line.split("[")[1].split("]")[0]
        assert len(inside.rstrip()) == int(size / 100 * len(inside))


def test_colours_name_the_origin_and_nothing_else_changes() -> None:
    meter = meter_at(50 * MB, peers=40 * MB, manager=10 * MB)
    line = live_line(meter, 120, colours=True)
    assert "\x1b[32m" + "#" * 11 + "\x1b[0m\x1b[36m===\x1b[0m" in line
    assert "\x1b[32m#peers\x1b[0m 80%" in line
    assert "\x1b" not in live_line(meter, 120)


def test_no_part_jumps_while_numbers_change() -> None:
    """Each column begins where it did; only a legend that gets longer may move what follows."""
    places = set()
    for size, seconds in ((MB, 10.0), (12 * MB, 3.0), (50 * MB, 2.0), (99 * MB, 1000.0)):
        line = live_line(meter_at(size, peers=size, seconds=seconds), 120)
        places.add((line.index("]"), line.index("B/s"), line.index("#peers")))
    assert len(places) == 1


def test_an_unknown_length_has_neither_percent_nor_eta_and_a_bar_that_moves() -> None:
    meter = meter_at(3 * MB, length=None, source=3 * MB)
    line = live_line(meter, 80)
    assert line.startswith("2.86 MiB  [") and "<=>" in line and "ETA" not in line and "%" in line
    seen = set()
    for step in range(40):
        meter.update({"bytes": 3 * MB + step}, 52.0 + step)
        after = live_line(meter, 80)
        assert after.index("]") == line.index("]")
        seen.add(after.index("<=>"))
    assert seen == set(range(min(seen), max(seen) + 1)) and len(seen) > 5


def test_sizes_and_percents_end_their_bars_in_one_column() -> None:
    known, unknown = meter_at(3 * MB), meter_at(3 * MB, None)
    for width in range(40, 200):
        places = {live_line(meter, width, among=True).index("]") for meter in (known, unknown)}
        assert len(places) == 1


def test_nothing_yet_is_no_division_by_zero() -> None:
    assert live_line(Meter("x", 0.0), 40) == "waiting for an answer: x"
    assert "waiting" in live_line(Meter("x", 0.0), 79, among=True)
    assert live_line(meter_at(0, length=0), 40).startswith("     0 B")
    assert "ETA" not in live_line(meter_at(0), 80)


def test_a_stalled_download_says_for_how_long() -> None:
    meter = meter_at(10 * MB)
    meter.update({"bytes": 10 * MB}, 53.0)
    assert "stalled" not in live_line(meter, 100)
    meter.update({"bytes": 10 * MB}, 123.0)
    assert "stalled 1:12" in live_line(meter, 100)
    meter.update({"bytes": 11 * MB}, 123.5)
    assert "stalled" not in live_line(meter, 100) and "ETA" in live_line(meter, 100)
    meter.update({"bytes": 100 * MB}, 124.0)
    meter.update({"bytes": 100 * MB}, 200.0)   # all is here, it is being checked
    assert "stalled" not in live_line(meter, 100)


@pytest.mark.parametrize("left_s, text", [(3, "ETA 0:03"), (80, "ETA 1:20"), (3909, "ETA 1:05:09"),
                                          (99 * 3600, "ETA 99:00:00")])
def test_the_eta_is_a_clock(left_s: int, text: str) -> None:
    assert text in live_line(meter_at(MB, MB * (left_s + 1)), 100)
    assert "ETA" not in live_line(meter_at(MB, MB * 101 * 3600), 100)


# ------------------------------------------------------------------ several lines
def three() -> List[Meter]:
    return [meter_at(10 * MB * index, name=f"file-{index}.iso", peers=10 * MB * index)
            for index in (1, 2, 3)]


def total_of(meters: List[Meter]) -> Meter:
    size = sum(meter.received for meter in meters)
    return meter_at(size, 300 * MB, name="total: 0 of 3 files", peers=size)


def test_the_picture_is_a_line_for_each_file_and_a_total() -> None:
    meters = three()
    assert picture(meters, total_of(meters), (79, 23)) == [
        " 10%  [#                ]  10.0 MB/s  ETA 0:09      file-1.iso",
        " 20%  [###              ]  20.0 MB/s  ETA 0:04      file-2.iso",
        " 30%  [#####            ]  30.0 MB/s  ETA 0:02      file-3.iso",
        " 20%  [###              ]  60.0 MB/s  ETA 0:04      total: 0 of 3 files",
        "      #peers 100%"]


def test_one_file_alone_needs_no_total() -> None:
    meter = meter_at(10 * MB, peers=10 * MB)
    assert picture([meter], None, (79, 23)) == [live_line(meter, 79)]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 40])
def test_what_does_not_fit_the_rows_is_counted(count: int) -> None:
    meters = [meter_at(index * MB, name=f"f{index}", peers=index * MB) for index in range(count)]
    for rows in range(1, 50):
        lines = picture(meters, total_of(meters), (79, rows))
        assert len(lines) <= rows
        shown = [line for line in lines if re.search(r" f\d+$", line)]
        assert any("total" in line for line in lines)
        more = [line for line in lines if line.startswith("...")]
        assert more == ([f"... and {count - len(shown)} more"]
                        if len(shown) < count and rows > 1 else [])


def test_no_line_of_a_picture_exceeds_the_width() -> None:
    meters = three()
    for width in WIDTHS:
        for line in picture(meters * 20, total_of(meters), (width, 10)):
            assert columns_of(line) <= width


# ------------------------------------------------------------------ columns
def test_columns_are_counted_as_terminals_do() -> None:
    assert columns_of("abc") == 3
    assert columns_of("日本") == 4
    assert columns_of("e\u0301") == 1
    assert columns_of("\uff21") == 2   # full-width A


@pytest.mark.parametrize("text", ["abcdefghijklmnop.iso", "日本語の長い名前です.iso",
                                  "e\u0301" * 30])
def test_a_cut_text_keeps_both_ends(text: str) -> None:
    for width in range(45):
        short = cut(text, width)
        assert columns_of(short) <= width
        if columns_of(text) <= width:
            assert short == text
        elif width > 8:
            assert "..." in short and columns_of(short) >= width - 2
            assert text.startswith(short.split("...")[0]) and text.endswith(short.split("...")[1])


# ------------------------------------------------------------------ the meter
def test_the_rate_follows_and_forgets() -> None:
    meter = meter_at(10 * MB)
    assert meter.rate_bps == pytest.approx(10 * MB)
    for second in range(2, 20):
        meter.update({"bytes": 10 * MB, "length": 100 * MB}, 50.0 + second)
    assert meter.rate_bps < 0.1 * MB
    before = meter.rate_bps
    meter.update({"bytes": 99 * MB}, 50.0 + 19)   # no time passed: nothing to divide by
    assert meter.rate_bps == before


def test_numbers_that_are_none_change_nothing() -> None:
    meter = meter_at(10 * MB, peers=10 * MB)
    meter.update({"bytes": "many", "length": -1, "from_peers": None, "from_source": True}, 60.0)
    assert (meter.received, meter.length, meter.shares) == (10 * MB, 100 * MB, [10 * MB, 0, 0, 0])


def test_the_rate_is_the_mean_at_first() -> None:
    meter = meter_at(0, seconds=0.01)
    for tenth in range(1, 11):
        meter.update({"bytes": 2 * MB * tenth, "length": 100 * MB}, 50.0 + tenth / 10)
    assert meter.rate_bps == pytest.approx(20 * MB, rel=0.2)


# ------------------------------------------------------------------ the summary
def test_the_summary_gives_the_p2p_share() -> None:
    meter = meter_at(100 * MB, peers=90 * MB, manager=7 * MB, source=3 * MB)
    assert summary(meter, "out/file.iso", 2.0) == (
        "out/file.iso: 95.4 MiB in 2.00 s (50.0 MB/s); "
        "P2P 97%: peers 90% manager 7% source 3%")


def test_the_summary_never_rounds_something_to_nothing_or_all() -> None:
    meter = meter_at(100 * MB, peers=100 * MB - 1, source=1)
    assert "P2P 99%: peers 99% source <1%" in summary(meter, "x", 1.0)


def test_what_was_here_already_counts_for_nobody() -> None:
    assert summary(meter_at(5 * MB, cache=5 * MB), "x", 0.1).endswith(
        "; all of it was on this host")
    assert meter_at(5 * MB, cache=4 * MB, peers=MB).p2p_share == 1.0


def test_control_characters_never_reach_the_terminal() -> None:
    meter = meter_at(MB, name="a\x1b[2Jb\n")
    assert "\x1b" not in live_line(meter, 100) and "\n" not in live_line(meter, 100)
    assert "\n" not in summary(meter, "a\nb", 1.0)


def test_every_level_of_a_line_is_part_of_the_one_before() -> None:
    for richer, poorer in zip(ALONE, ALONE[1:]):
        assert set(poorer) < set(richer)


# ------------------------------------------------------------------ dots
def drawn(style: str, length: Optional[int], steps: int = 4, size: int = -1,
          **shares: int) -> List[str]:
    """All lines of a download that takes `steps` times 0.4 s."""
    size = size if size >= 0 else length or 0
    meter, dots, lines = Meter("x", 100.0), Dots(style), []
    for step in range(1, steps + 1):
        part: Any = {"bytes": max(size * step // steps, shares.get("cache", 0)), "length": length,
                     **{f"from_{origin}": count for origin, count in shares.items()}}
        meter.update(part, 100.0 + 0.4 * step)
        before = dots.unfinished()
        new = dots.take(meter)
        assert (new[0] if new and "skipping" not in new[0] else dots.unfinished()
                ).startswith(before if "skipping" not in "".join(new) else "")
        lines += new
    return [*lines, dots.finish(meter, 0.4 * steps)]


def test_dots_look_as_wgets() -> None:
    assert drawn("default", 120_000) == [
        "     0K .......... .......... .......... .......... .......... 42% 73.2K 1s",
        "    50K .......... .......... .......... .......... .......... 85% 73.2K 0s",
        "   100K .......... ........                                   100% 73.2K=1.6s"]
    assert drawn("mega", 3_000_000)[-1] == (
        "     0K ........ ........ ........ ........ ........ ......  100% 1.79M=1.6s")


@pytest.mark.parametrize("style, line_bytes", [("default", 50 << 10), ("binary", 384 << 10),
                                               ("mega", 3 << 20), ("giga", 32 << 20)])
def test_each_style_has_wgets_dots_and_lines(style: str, line_bytes: int) -> None:
    lines = drawn(style, 3 * line_bytes, steps=7)
    dot, _, per_line = STYLES[style]
    assert dot * per_line == line_bytes
    assert [line.split("K")[0].strip() for line in lines] == [
        str(index * line_bytes >> 10) for index in range(4)]
    assert [line.count(".") - line.split("%")[1].count(".") for line in lines[:3]] == [per_line] * 3
    assert [line.split("%")[0][-3:] for line in lines] == [" 33", " 66", "100", "100"]
    assert len({line.index("%") for line in lines}) == 1


def test_dots_of_an_unknown_or_no_length() -> None:
    assert "%" not in "".join(drawn("default", None, size=120_000))
    assert drawn("default", 0) == [
        "     0K" + " " * 56 + "0.00 =1.6s"]


def test_what_was_here_already_is_skipped() -> None:
    lines = drawn("default", 200 << 10, cache=70 << 10)
    assert lines[0] == "        [ skipping 50K ]"
    assert lines[1].startswith("    50K ,,,,,,,,,, ,,,,,,,,,, ..........")


def test_a_daemon_that_lies_fills_no_log() -> None:
    lines = drawn("default", 1 << 62, steps=3)
    assert len(lines) < 10 and "skipping" in lines[0]
    assert len(drawn("default", 1 << 30, steps=1)) <= LINES_AT_ONCE + 2


def test_the_dots_suit_the_length_where_nobody_chose() -> None:
    for length in (100, 5 * MB, 300 * MB, 3_000 * MB):
        assert len(drawn("", length, steps=50)) <= 201
    assert len(drawn("", 5 * MB, steps=50)) > 50


def test_a_length_that_shrinks_does_no_harm() -> None:
    dots, meter = Dots("default"), Meter("x", 0.0)
    meter.update({"bytes": 100 << 10, "length": 1 << 20}, 1.0)
    dots.take(meter)
    meter.update({"bytes": 10, "length": 5}, 2.0)
    assert dots.take(meter) == []
    assert "100%" in dots.finish(meter, 2.0)
