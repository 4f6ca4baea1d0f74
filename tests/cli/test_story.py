"""What --explain says of a download, whatever a daemon tells of it."""
from __future__ import annotations

import itertools
from typing import Any, Dict, List

import pytest

from dfly.cli.story import PARENTS_SHOWN, RETRIES_SHOWN, SPANS, explanation

MB = 1_000_000


def event(peers: int = 0, manager: int = 0, source: int = 0, cache: int = 0,
          **story: Any) -> Dict[str, Any]:
    return {"event": "done", "from_peers": peers * MB, "from_manager": manager * MB,
            "from_source": source * MB, "from_cache": cache * MB, "story": story}


def parent(number: int, **changes: Any) -> Dict[str, Any]:
    return {"address": f"10.0.0.{number}:65003", "origin": "peers", "bytes": (100 - number) * MB,
            "runs": 5, "seconds": 2.0, "failed": 0, **changes}


def verdict(**told: Any) -> str:
    return explanation(event(**told))[-1]


def test_a_whole_story() -> None:
    told = event(800, 150, 50, total_s=42.3, asked_s=1.2, source_s=0.4, parents_s=3.1, disk_s=2.0,
                 moving_s=33.0, check_s=1.9,
                 parents=[parent(2, failed=1), parent(1, origin="manager")],
                 retries=[{"at_s": 3.2, "what": "10.0.0.3:65003 sent a bad digest"},
                          {"at_s": 70, "what": "a lease ran out"}], retries_more=4,
                 p2p_lost=[{"at_s": 12, "what": "manager 10.0.0.1:65002 is gone"}])
    assert explanation(told) == [
        "",
        "Where the time went         42 s",
        "  until the first answer  1.20 s   3%",
        "  bytes came                33 s  78%",
        "  waited for the source   0.40 s  <1%",
        "  waited for parents      3.10 s   7%",
        "  wrote to the disk       2.00 s   5%",
        "  checked the whole       1.90 s   4%",
        "  nothing of these        0.70 s   2%",
        "Where the bytes came from: 763 MiB from peers, 143 MiB from the manager, "
        "47.7 MiB from the source (peers 80% manager 15% source 5%)",
        "Parents                       bytes            rate  runs  failed",
        "  10.0.0.1:65003  manager  94.4 MiB  50%  49.5 MB/s     5",
        "  10.0.0.2:65003  peers    93.5 MiB  50%  49.0 MB/s     5       1",
        "Tried again:",
        "  at 3.20 s: 10.0.0.3:65003 sent a bad digest",
        "  at 1 min 10 s: a lease ran out",
        "  ... and 4 more",
        "P2P was lost:",
        "  at 12 s: manager 10.0.0.1:65002 is gone",
        "In short: most of the time went to moving the bytes, at 30.3 MB/s: the network and what "
        "peers could send bounded it; it had to go on without P2P."]


@pytest.mark.parametrize("field, words", [
    ("source_s", "waiting for the source"), ("parents_s", "waiting for parents"),
    ("disk_s", "own disk"), ("check_s", "whole file's digest"),
    ("asked_s", "until a manager or the source answered")])
def test_what_took_most_is_named(field: str, words: str) -> None:
    assert words in verdict(peers=10, total_s=10.0, moving_s=2.0, **{field: 7.0})
    assert "most of the time went to" in verdict(peers=10, total_s=10.0, **{field: 7.0})


def test_moving_is_bounded_by_whoever_sent_most() -> None:
    assert "what peers could send" in verdict(peers=9, source=1, total_s=2.0, moving_s=2.0)
    assert "what the source could send" in verdict(source=9, total_s=2.0, moving_s=2.0)
    assert "what the others could send" in verdict(
        peers=4, manager=3, source=3, total_s=2.0, moving_s=2.0)
    assert "at 5.00 MB/s" in verdict(source=10, total_s=2.0, moving_s=2.0)


def test_two_reasons_are_both_named() -> None:
    said = verdict(peers=1, total_s=10.0, source_s=4.0, disk_s=3.0)
    assert said == ("In short: much of the time went to waiting for the source, and much to "
                    "writing to this host's own disk.")


def test_no_reason_is_no_reason() -> None:
    assert "no single thing" in verdict(peers=1, total_s=10.0, **{
        field: 1.0 for field, _, _ in SPANS})
    assert "nothing held it up" in verdict(peers=1, total_s=0.01, moving_s=0.01)
    assert "on this host already" in verdict(cache=5, total_s=0.5, check_s=0.4)
    assert "the daemon didn't tell why" in verdict(peers=1, total_s=5.0)


def test_the_parents_are_the_ten_largest() -> None:
    lines = explanation(event(1, parents=[parent(number) for number in range(30, 0, -1)]))
    shown = [line for line in lines if "65003" in line]
    assert [line.split(":")[0].strip() for line in shown] == [
        f"10.0.0.{number}" for number in range(1, PARENTS_SHOWN + 1)]
    assert "  ... and 20 more, 1.48 GiB together" in lines


def test_parts_that_overlap_say_so() -> None:
    lines = explanation(event(1, total_s=10.0, moving_s=9.0, disk_s=8.0))
    assert "  (Some of it at once: the parts are more than the whole.)" in lines
    assert not any("nothing of these" in line for line in lines)


def test_no_story_is_an_older_daemon() -> None:
    for told in ({}, {"story": None}, {"story": []}, {"story": "long"}):
        assert explanation(told) == [
            "The peer daemon kept no story of this download: it is of an older version."]


STRANGE: List[Any] = [None, True, -1, float("nan"), float("inf"), 10 ** 400, -10 ** 400, "text",
                      "\x1b[2J\n", [], [5], [[]], [{}], [{"at_s": "x", "what": 5}], {}, {"a": 1},
                      [{"address": "\x1b[2J" * 9999, "bytes": 10 ** 400, "seconds": 1e-300}]]


@pytest.mark.parametrize("field", ["total_s", "retries_more", "parents", "retries", "p2p_lost",
                                   *(field for field, _, _ in SPANS)])
def test_whatever_it_says_it_breaks_nothing(field: str) -> None:
    for value, total_s in itertools.product(STRANGE, (0, 10, None)):
        told = event(1, total_s=total_s, moving_s=3.0)
        told["story"][field] = value
        told["from_manager"] = value
        lines = explanation(told)
        assert lines[-1].startswith("In short: ") and lines[-1].endswith(".")
        assert all(line.isprintable() and len(line) < 3000 for line in lines)


def test_however_much_it_says_it_stays_short() -> None:
    many = [{"at_s": 1.0, "what": "x" * 5000}] * 100_000
    lines = explanation(event(1, parents=[parent(1)] * 100_000, retries=many, p2p_lost=many,
                              retries_more=7))
    assert len(lines) < 100
    assert f"  ... and {100_007 - RETRIES_SHOWN} more" in lines


def test_nothing_that_takes_time_is_told_as_nothing() -> None:
    lines = explanation(event(1, total_s=100.0, disk_s=0.2, moving_s=99.8))
    assert [line.split()[-1] for line in lines if "disk" in line] == ["<1%"]
