"""The live line and the summary, as functions of what happened and of a width."""
from __future__ import annotations

import pytest

from dfly.cli.progress import Meter, live_line, summary

MB = 1_000_000


def meter_at(received: int, length: "int | None" = 100 * MB, seconds: float = 1.0,
             **shares: int) -> Meter:
    meter = Meter("file.iso", started_at=50.0)
    meter.update({"bytes": received, "length": length,
                  **{f"from_{origin}": size for origin, size in shares.items()}}, 50.0 + seconds)
    return meter


def test_the_line_tells_all_there_is_room_for() -> None:
    line = live_line(meter_at(25 * MB, peers=20 * MB, manager=4 * MB, source=MB), 120)
    assert line == (" 25%  [========>                             ]  25.0 MB/s  ETA 3.00 s  "
                    "peers 80% manager 16% source 4%  file.iso")


@pytest.mark.parametrize("width", range(1, 200))
def test_the_line_never_exceeds_the_width(width: int) -> None:
    meter = meter_at(99 * MB, peers=90 * MB, source=9 * MB)
    assert len(live_line(meter, width)) <= width
    assert live_line(meter, width).startswith(" 99%"[:width])


def test_the_name_goes_first_when_it_gets_narrow() -> None:
    meter = meter_at(50 * MB, peers=50 * MB)
    assert live_line(meter, 45) == " 50%  50.0 MB/s  ETA 1.00 s  peers 100%"
    assert live_line(meter, 30) == " 50%  50.0 MB/s  ETA 1.00 s"
    assert live_line(meter, 5) == " 50%"


def test_an_unknown_length_has_neither_percent_nor_bar_nor_eta() -> None:
    line = live_line(meter_at(3 * MB, length=None, source=3 * MB), 80)
    assert line == "2.86 MiB  3.00 MB/s  source 100%  file.iso"


def test_nothing_yet_is_no_division_by_zero() -> None:
    assert live_line(Meter("x", 0.0), 40) == "0 B  0 B/s  x"
    assert live_line(meter_at(0, length=0), 40).startswith("0 B")
    assert "ETA" not in live_line(meter_at(0), 80)


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
    meter = Meter("a\x1b[2Jb\n", 0.0)
    assert "\x1b" not in live_line(meter, 100) and "\n" not in live_line(meter, 100)
    assert "\n" not in summary(meter, "a\nb", 1.0)


def test_the_rate_is_the_mean_at_first() -> None:
    meter = meter_at(0, seconds=0.01)
    for tenth in range(1, 11):
        meter.update({"bytes": 2 * MB * tenth, "length": 100 * MB}, 50.0 + tenth / 10)
    assert meter.rate_bps == pytest.approx(20 * MB, rel=0.2)
