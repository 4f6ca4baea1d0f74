"""Several URLs in one command: begun ahead of their turn, told of and named in order."""
from __future__ import annotations

import json
import threading
from typing import Any, Callable, Dict, List, Tuple

import pytest

from dfly.cli import main
from dfly.cli.ahead import SMALL_MAX, WIDTH_MAX, ahead
from dfly.cli.download import Download, Request
from dfly.errors import NetworkError, ServerError

Event = Dict[str, Any]
TASK = "ab" * 32


class Slow(Download):
    """A download that begins at once and ends when it's told to."""

    under_way: "List[Slow]" = []
    most = 0

    def __init__(self, number: int, length: int = 10, error: str = "") -> None:
        super().__init__("", Request(f"http://f/{number}"), None)
        self.number = number
        self.length = length
        self.error = error
        self.go_on = threading.Event()
        self.begun = threading.Event()

    def fetch(self, on_event: Callable[[Event], None]) -> Tuple[Event, int]:
        Slow.under_way.append(self)
        Slow.most = max(Slow.most, len(Slow.under_way))
        self.begun.set()
        on_event({"event": "accepted"})
        on_event({"event": "progress"})
        assert self.go_on.wait(20)
        Slow.under_way.remove(self)
        if self.error:
            raise ServerError(self.error)
        return {"event": "done", "length": self.length}, self.number

    def deliver(self, done: Event, fd: int) -> str:
        return f"path{fd}"


@pytest.fixture(autouse=True)
def nothing_under_way() -> None:
    Slow.under_way = []
    Slow.most = 0


def play(downloads: List[Slow]) -> List[str]:
    told: List[str] = []
    for begun in ahead(downloads):
        number = int(begun.request.url.rpartition("/")[2])
        downloads[number].go_on.set()
        try:
            path, _ = begun.run(lambda event: None)
            told.append(path)
        except ServerError as error:
            told.append(error.what)
    return told


def test_all_come_in_order_and_more_at_once_as_they_prove_small() -> None:
    downloads = [Slow(number) for number in range(40)]
    assert play(downloads) == [f"path{number}" for number in range(40)]
    assert 2 < Slow.most <= WIDTH_MAX + 1


def test_large_files_go_one_after_the_other() -> None:
    downloads = [Slow(number, length=SMALL_MAX + 1) for number in range(6)]
    assert len(play(downloads)) == 6 and Slow.most == 1


def test_a_failure_is_told_in_its_turn_and_the_others_go_on() -> None:
    downloads = [Slow(number, error="no such file" if number == 3 else "") for number in range(6)]
    assert play(downloads) == ["path0", "path1", "path2", "no such file", "path4", "path5"]


def test_what_waits_gathers_no_progress() -> None:
    downloads = [Slow(number) for number in range(3)]
    turns = ahead(downloads)
    downloads[0].go_on.set()
    next(turns).run(lambda event: None)
    second = next(turns)
    assert downloads[2].begun.wait(20)
    for download in downloads:
        download.go_on.set()
    second.run(lambda event: None)
    seen: List[str] = []
    next(turns).run(lambda event: seen.append(event["event"]))
    assert seen == ["accepted"] and next(turns, None) is None


def test_an_unforeseen_error_comes_out_where_it_belongs() -> None:
    class Broken(Slow):
        def fetch(self, on_event: Callable[[Event], None]) -> Tuple[Event, int]:
            raise NetworkError("cut")

    (turn,) = ahead([Broken(0)])
    with pytest.raises(NetworkError, match="cut"):
        turn.run(lambda event: None)


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
    assert [event["url"] for event in told] == [url for url in urls for _ in range(2)]
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
