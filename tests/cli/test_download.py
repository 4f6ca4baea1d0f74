"""A download to standard output: two answers of the daemon, and which of them says how it ended."""
from __future__ import annotations

from typing import Any, Dict

import pytest

from dfly.cli import main

URL = "http://files.example/f"
CONTENT = bytes(range(256)) * 300
HERE, GONE = "ab" * 32, "cd" * 32   # of the first the scripted daemon has the content
FAILED = {"event": "failed", "exit_code": 9, "what": "the content contradicts it",
          "hint": "ask for another"}


def accepted(task: str) -> Dict[str, Any]:
    return {"event": "accepted", "task": task, "length": len(CONTENT), "via": "source"}


@pytest.mark.parametrize("task", [HERE, GONE])
@pytest.mark.parametrize("short_by", [0, 1, len(CONTENT)])
def test_why_it_failed_is_what_the_events_say(
        daemon: Any, task: str, short_by: int, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Whether the content was there in whole, in part, or refused because it had failed."""
    daemon.content, daemon.content_short_by = CONTENT, short_by
    daemon.events = [accepted(task), FAILED]
    assert main(["get", "-O", "-", URL]) == 9
    assert capfdbinary.readouterr().err.endswith(
        b"dfly: the content contradicts it: ask for another\n")


def test_a_content_that_is_refused_in_spite_of_all_is_told(
        daemon: Any, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    daemon.events = [accepted(GONE), {"event": "done", "task": GONE, "length": len(CONTENT)}]
    assert main(["get", "-O", "-", URL]) == 8
    assert b"no such thing" in capfdbinary.readouterr().err


def test_events_that_end_without_a_word(daemon: Any,
                                        capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    daemon.content = CONTENT
    daemon.events = [accepted(GONE)]
    assert main(["get", "-O", "-", URL]) == 4
    assert b"ended in the middle of the download" in capfdbinary.readouterr().err
