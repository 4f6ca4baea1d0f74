from __future__ import annotations

import threading
from typing import Iterator, List

import pytest

from dfly.errors import NoSpace
from dfly.store import flusher as flusher_module
from dfly.store.flusher import Flusher

PATIENCE_S = 20  # a test that waits so long has failed


class Work:
    """Work that tells when it was done, and fails the first `failures` times."""

    def __init__(self, failures: int = 0) -> None:
        self.calls = 0
        self.done = threading.Event()
        self._failures = failures

    def __call__(self) -> None:
        self.calls += 1
        if self.calls <= self._failures:
            raise NoSpace("disk full")
        self.done.set()


@pytest.fixture
def flushers() -> Iterator[List[Flusher]]:
    made: List[Flusher] = []
    yield made
    for flusher in made:
        flusher.stop()


def test_an_idle_store_has_no_thread(flushers: List[Flusher]) -> None:
    before = threading.active_count()
    flushers.append(Flusher(Work()))
    assert threading.active_count() == before


def test_many_marks_one_commit(flushers: List[Flusher]) -> None:
    commit = Work()
    flushers.append(Flusher(commit))
    for _ in range(1000):
        flushers[0].soon()
    assert commit.done.wait(PATIENCE_S)
    assert commit.calls <= 2  # a second one if the thousand took longer than the delay


def test_a_failed_commit_is_tried_again(flushers: List[Flusher], monkeypatch: pytest.MonkeyPatch,
                                        caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(flusher_module, "RETRY_AFTER_S", 0.0)
    commit = Work(failures=2)
    flushers.append(Flusher(commit))
    flushers[0].soon()
    assert commit.done.wait(PATIENCE_S) and commit.calls == 3
    assert "disk full" in caplog.text


def test_syncs_come_later_than_commits(flushers: List[Flusher],
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    commit, far = Work(), Work()
    flushers.append(Flusher(commit))
    flushers[0].sync_later(far)
    flushers[0].soon()
    assert commit.done.wait(PATIENCE_S) and not far.done.is_set()
    monkeypatch.setattr(flusher_module, "SYNC_AFTER_S", 0.0)
    near = Work()
    other = Flusher(Work())
    flushers.append(other)
    other.sync_later(near)
    assert near.done.wait(PATIENCE_S)


def test_stop_leaves_late_work_undone(flushers: List[Flusher]) -> None:
    late = Work()
    flusher = Flusher(Work())
    flusher.sync_later(late)
    flusher.stop()
    flusher.soon()
    assert late.calls == 0
