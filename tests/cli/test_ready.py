"""The pipe by which a started role says that it serves, or why it doesn't."""
from __future__ import annotations

import os
from typing import Callable

import pytest

from dfly.cli.ready import run_role, wait_ready
from dfly.errors import DflyError, StoreBusy, UsageError


def test_where_it_serves_arrives_before_it_ends() -> None:
    read_fd, write_fd = os.pipe()

    def role(ready: Callable[[str], None]) -> int:
        ready("127.0.0.1:7")
        assert wait_ready(read_fd, "role", 5) == "127.0.0.1:7"
        return 5

    assert run_role("role", str(write_fd), role) == 5


def test_its_error_arrives_whole_and_goes_on_up() -> None:
    read_fd, write_fd = os.pipe()

    def role(ready: Callable[[str], None]) -> int:
        raise StoreBusy("in use\nready nowhere", "by pid 7")

    with pytest.raises(StoreBusy):
        run_role("role", str(write_fd), role)
    with pytest.raises(StoreBusy) as caught:
        wait_ready(read_fd, "role", 5)
    assert (caught.value.what, caught.value.hint) == ("in use\\x0aready nowhere", "by pid 7")


@pytest.mark.parametrize("said", [b"", b"nonsense\n", b"failed x\nwhat\nhint\n", b"failed 4\n"])
def test_anything_else_is_an_error(said: bytes) -> None:
    read_fd, write_fd = os.pipe()
    os.write(write_fd, said)
    os.close(write_fd)
    with pytest.raises(DflyError):
        wait_ready(read_fd, "role", 5)


def test_silence_has_an_end() -> None:
    read_fd, write_fd = os.pipe()
    with pytest.raises(DflyError, match="didn't come up within 0.01 s"):
        wait_ready(read_fd, "role", 0.01)
    os.close(write_fd)


def test_a_starter_that_left_is_no_harm() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)

    def role(ready: Callable[[str], None]) -> int:
        ready("somewhere")
        return 0

    assert run_role("role", str(write_fd), role) == 0


@pytest.mark.parametrize("fd", ["x", "-1", "99999", "1" * 30])
def test_what_is_no_descriptor_is_refused(fd: str) -> None:
    with pytest.raises(UsageError, match="no open file descriptor"):
        run_role("role", fd, lambda ready: 0)


def test_a_full_standard_error_ends_no_role(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of a daemon that a download starts lies where its store does."""
    read_fd, write_fd = os.pipe()

    def role(ready: Callable[[str], None]) -> int:
        ready("127.0.0.1:7")
        return 5

    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr("sys.stderr", full)
        assert run_role("role", str(write_fd), role) == 5
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    assert wait_ready(read_fd, "role", 5) == "127.0.0.1:7"
