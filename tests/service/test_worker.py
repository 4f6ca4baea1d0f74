"""What an upload worker makes of its manager's words."""
from __future__ import annotations

import os
from typing import Any, List

from dfly.service.worker import RemoteFile
from dfly.store import GONE
from dfly.task import Geometry
from tests.net.loopback import PIECE


def remote_file(**facts: Any) -> RemoteFile:
    message = {"task": "ab" * 32, "version": "v1", "length": 8 * PIECE, "piece_size": PIECE,
               "token": "00" * 16, "have": "3", "arriving": True, **facts}
    return RemoteFile(message, os.open(os.devnull, os.O_RDONLY))


def news(first: int, new: int, **facts: Any) -> Any:
    return {"length": 8 * PIECE, "arriving": True, "first": first, "new": f"{new:x}", **facts}


def test_news_adds_pieces_and_only_those_that_are_new_are_heard_of() -> None:
    file = remote_file()
    heard: List[int] = []
    stop = file.subscribe(heard.append)
    file.follow(news(1, 0b1011))
    assert file.have == 0b10111 and heard == [2, 4]
    stop()
    file.follow(news(7, 1))
    assert file.have == 0b10010111 and heard == [2, 4]


def test_news_without_pieces_tells_the_length_and_that_no_more_come() -> None:
    file = remote_file(length=None)
    assert file.geometry == Geometry(None, PIECE)
    file.follow(news(0, 0, length=2 * PIECE, arriving=False))
    assert file.geometry == Geometry(2 * PIECE, PIECE)
    assert file.have == 0b11 and not file.arriving


def test_a_task_that_ended_fails_whoever_sends_it() -> None:
    file = remote_file()
    heard: List[int] = []
    file.subscribe(heard.append)
    file.forget()
    assert heard == [GONE] and file.failed is not None
