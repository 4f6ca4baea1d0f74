"""Several URLs in one command: begun ahead of their turn, told of and named in order."""
from __future__ import annotations

import json
import threading
from typing import Any, Dict, List

import pytest

from dfly.cli import main
from dfly.cli.ahead import SMALL_MAX, WIDTH_MAX, ahead, at_once
from dfly.cli.download import Request
from dfly.cli.job import Choices, Job

Event = Dict[str, Any]
TASK = "ab" * 32


class Slow(Job):
    """A job that begins at once and ends when it's told to."""

    under_way: "List[Slow]" = []
    most = 0

    def __init__(self, number: int, length: int = 10, code: int = 0) -> None:
        super().__init__(Request(f"http://f/{number}"), None, Choices(""))
        self.number = number
        self.size = length
        self.ends_with = code
        self.go_on = threading.Event()
        self.begun = threading.Event()

    def fetch(self) -> None:
        Slow.under_way.append(self)
        Slow.most = max(Slow.most, len(Slow.under_way))
        self.begun.set()
        assert self.go_on.wait(20)
        Slow.under_way.remove(self)

    def finish(self) -> int:
        finished.append(self.number)
        self.length = self.size
        return self.ends_with


finished: List[int] = []


@pytest.fixture(autouse=True)
def nothing_under_way() -> None:
    Slow.under_way = []
    Slow.most = 0
    finished.clear()


def play(jobs: List[Slow]) -> List[int]:
    """Each goes on once it is due."""
    codes: List[int] = []
    turns = ahead(jobs)
    for job in jobs:
        job.go_on.set()
        codes.append(next(turns))
    assert next(turns, None) is None
    return codes


def test_all_come_in_order_and_more_at_once_as_they_prove_small() -> None:
    assert play([Slow(number) for number in range(40)]) == [0] * 40
    assert finished == list(range(40)) and 2 < Slow.most <= WIDTH_MAX + 1


def test_large_files_go_one_after_the_other() -> None:
    jobs = [Slow(number, length=SMALL_MAX + 1) for number in range(6)]
    assert len(play(jobs)) == 6 and Slow.most == 1


def test_a_failure_is_told_in_its_turn_and_the_others_go_on() -> None:
    jobs = [Slow(number, code=8 if number == 3 else 0) for number in range(6)]
    assert play(jobs) == [0, 0, 0, 8, 0, 0]


def test_an_unforeseen_error_comes_out_where_it_belongs() -> None:
    class Broken(Slow):
        def fetch(self) -> None:
            raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        list(ahead([Broken(0)]))
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        list(at_once([Broken(0), Broken(1)], 2))


def test_with_a_number_of_jobs_so_many_run_and_each_ends_on_its_own() -> None:
    jobs = [Slow(number, length=SMALL_MAX + 1, code=number) for number in range(7)]
    turns = at_once(jobs, 3)
    codes = threading.Thread(target=lambda: ended.extend(turns))
    ended: List[int] = []
    codes.start()
    for job in jobs[:3]:
        assert job.begun.wait(20)
    assert not jobs[3].begun.is_set()
    jobs[1].go_on.set()     # the second is done before the first
    assert jobs[3].begun.wait(20) and finished == [1]
    for job in jobs:
        job.go_on.set()
    codes.join(20)
    assert ended == list(range(7)) and sorted(finished) == ended and Slow.most == 3


# ------------------------------------------------------------------ through the command line
@pytest.fixture
def ready(daemon: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    daemon.content = b"content"
    daemon.events = [{"event": "accepted", "task": TASK, "length": 7},
                     {"event": "done", "task": TASK, "length": 7, "path": ""}]
    return daemon


def test_names_and_events_have_the_order_of_the_command_line(
        ready: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    urls = [f"http://f/{number}/same" for number in range(20)]
    assert main(["get", "--json", *urls]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["url"] for event in told if event["event"] == "done"] == urls
    assert sorted(event["url"] for event in told) == sorted(2 * urls)
    assert [event["target"] for event in told if event["event"] == "done"] == [
        "same", *(f"same.{number}" for number in range(1, 20))]
    asked = sorted(body["url"] for _, path, body in ready.requests if path == "/v1/get")
    assert asked == sorted(urls)


def test_a_rate_for_each_and_standard_output_keep_one_at_a_time(
        ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfly.cli.ahead.ahead", None)
    assert main(["get", "-q", "--limit-rate", "1g", "http://f/a", "http://f/b"]) == 0
    assert main(["get", "-q", "http://f/c"]) == 0


def test_the_worst_code_wins_whatever_its_place(ready: Any) -> None:
    ready.events = [{"event": "failed", "exit_code": 8, "what": "404", "hint": ""}]
    assert main(["get", "-q", "http://f/a", "http://f/b", "http://f/c"]) == 8
