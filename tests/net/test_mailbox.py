"""The mailbox: every call arrives, once, in order, and many share a wake-up."""
from __future__ import annotations

import asyncio
import logging
import threading
from typing import List

import pytest

from dfly.net.mailbox import Mailbox
from tests.net.loopback import off_loop, run, until


def test_calls_of_many_threads_arrive_each_in_its_order() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        came: List[List[int]] = [[] for _ in range(4)]
        all_came = asyncio.Event()

        def note(number: int, value: int) -> None:
            assert threading.current_thread() is threading.main_thread()
            came[number].append(value)
            if sum(map(len, came)) == 4 * 2_000:
                all_came.set()

        def post(number: int) -> None:
            for value in range(2_000):
                if value % 7 == 0:
                    mailbox.hold()
                mailbox.post(note, number, value)
                if value % 7 == 5:
                    mailbox.let_go()
            mailbox.let_go()
        await asyncio.gather(*(off_loop(post, number) for number in range(4)))
        await all_came.wait()
        assert came == [list(range(2_000))] * 4
        mailbox.close()
    run(scenario())


def test_what_is_held_wakes_the_loop_once() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        deliveries: List[int] = []
        came: List[int] = []
        deliver = mailbox.deliver

        def counted() -> None:
            deliveries.append(len(came))
            deliver()
        mailbox.deliver = counted  # type: ignore[method-assign]

        def post() -> None:
            mailbox.hold()
            for value in range(50):
                mailbox.post(came.append, value)
            mailbox.let_go()
        await off_loop(post)
        await until(lambda: len(came) >= 50)
        assert deliveries == [0] and came == list(range(50))
        mailbox.close()
    run(scenario())


def test_a_call_that_fails_loses_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        came: List[int] = []
        mailbox.post(came.append, 1)
        mailbox.post(came.__getitem__, 100)
        mailbox.post(came.append, 2)
        await asyncio.sleep(0)
        assert came == [1, 2]
        mailbox.close()
    with caplog.at_level(logging.ERROR):
        run(scenario())
    assert "a call from another thread failed" in caplog.text


def test_closing_delivers_what_came_before_and_nothing_after() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        came: List[int] = []
        await off_loop(mailbox.post, came.append, 1)
        mailbox.close()
        assert came == [1]
        await off_loop(mailbox.post, came.append, 2)
        mailbox.post(came.append, 3)
        await asyncio.sleep(0)
        mailbox.deliver()
        assert came == [1]
    run(scenario())
