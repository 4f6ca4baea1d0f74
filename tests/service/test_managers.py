"""A peer's link to its manager: what it does with what it hears, against a real one on loopback."""
from __future__ import annotations

import asyncio
import random
from typing import Awaitable, Callable, List, Sequence, Union

import pytest

from dfly.clock import Clock
from dfly.errors import NetworkError
from dfly.net.http_server import HttpServer, Request, Response, Upgrade
from dfly.net.link import Link
from dfly.net.mover import Movers
from dfly.net.stream import Stream
from dfly.service import managers
from dfly.service.managers import ManagerLink, SwarmMessage
from dfly.task import TaskSpec
from dfly.wire.messages import (
    LINK_PROTOCOL,
    Accepted,
    Busy,
    Changed,
    Hello,
    Join,
    Lease,
    Leave,
    Message,
    Parent,
    Urgent,
    Welcome,
)
from dfly.wire.session import Role, Session

TASK = "ab" * 32
CLOCK = Clock()
Answer = Callable[[Link, Message], None]


class Leaver:
    """A member that leaves its swarm at the first word."""

    def __init__(self, link: ManagerLink, swarm: int) -> None:
        self.heard: List[SwarmMessage] = []
        self._link = link
        self._swarm = swarm

    def told(self, message: SwarmMessage) -> None:
        self.heard.append(message)
        self._link.leave(self._swarm)

    def link_lost(self) -> None:
        raise AssertionError("it has left")


class Failing:
    """A member with a mistake in it."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def told(self, message: SwarmMessage) -> None:
        raise RuntimeError("a mistake")

    def link_lost(self) -> None:
        self.lost.set()


def with_manager(answer: Answer, story: Callable[[ManagerLink], Awaitable[None]],
                 turned_away: Sequence[Union[Busy, int]] = ()) -> None:
    """Run `story` with a link to a manager that answers by `answer`. The first attempts to open
    the link are `turned_away`: by Busy, or by this HTTP status."""
    left = list(turned_away)

    async def serve(stream: Stream) -> None:
        link = Link(stream, Session(Role.MANAGER, CLOCK.now()), CLOCK)

        def handle(message: Message) -> None:
            if isinstance(message, Hello):
                busy = left.pop(0) if left else None
                link.send(busy if isinstance(busy, Busy) else Welcome("manager", 10.0, 0.0))
            if link.is_open:
                answer(link, message)
        await link.run(handle)

    async def handler(request: Request) -> Union[Response, Upgrade]:
        if left and isinstance(left[0], int):
            return Response(left.pop(0))
        return Upgrade(LINK_PROTOCOL, serve)

    async def run() -> None:
        movers = Movers(1)
        movers.start(asyncio.get_running_loop())
        server = HttpServer(handler, movers)
        port = await server.listen_tcp("127.0.0.1", 0)
        link = ManagerLink(("127.0.0.1", port), lambda: Hello(bytes(16), 1), CLOCK,
                           random.Random(1), lambda: None)
        link.start()
        try:
            assert turned_away or await link.opened(10.0)
            await asyncio.wait_for(story(link), 20.0)
        finally:
            await link.stop()
            await server.close(1.0)
            movers.stop()
    asyncio.run(run())


def join(request: int) -> Join:
    return Join(request, TaskSpec("http://files.example/a"))


def accept(link: Link, request: int) -> None:
    link.send(Accepted(request, request, TASK, "v", 10 << 20, 1 << 20))


def test_a_member_that_leaves_hears_nothing_of_what_was_kept_for_it() -> None:
    def answer(link: Link, message: Message) -> None:
        if isinstance(message, Join):
            accept(link, message.request)
            link.send(Changed(message.request))
            link.send(Lease(1, message.request, 0, 0, 1, 10.0))

    async def story(link: ManagerLink) -> None:
        first = await link.join(join, 10.0)
        await link.join(join, 10.0)   # behind its answer, all that belongs to the first has come
        member = Leaver(link, first.swarm)
        link.attach(first.swarm, member)
        assert [type(message) for message in member.heard] == [Changed]
    with_manager(answer, story)


def test_a_manager_that_floods_a_link_with_parents_gets_a_new_one(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managers, "PARENTS_MAX", 3)

    def answer(link: Link, message: Message) -> None:
        if isinstance(message, Join):
            for number in range(1, 6):
                link.send(Parent(number, 1, "192.0.2.1"))

    async def story(link: ManagerLink) -> None:
        with pytest.raises(NetworkError):
            await link.join(join, 10.0)
        assert await link.opened(10.0)
        assert link.parents == {0: link.address}
    with_manager(answer, story)


@pytest.mark.parametrize("address, port", [
    ("../../x y", 80), ("a\r\nEvil: 1", 80), ("", 80), ("a" * 256, 80), ("192.0.2.1", 0)])
def test_a_manager_that_tells_an_impossible_parent_loses_its_link(address: str, port: int) -> None:
    """What it says becomes the address of a connection, and a header."""
    def answer(link: Link, message: Message) -> None:
        if isinstance(message, Join):
            link.send(Parent(1, port, address))
            accept(link, message.request)

    async def story(link: ManagerLink) -> None:
        with pytest.raises(NetworkError):
            await link.join(join, 10.0)
        assert link.parents == {0: link.address}
    with_manager(answer, story)


async def lose_a_member(link: ManagerLink) -> None:
    """One joins, asks for a piece, and is gone by what the manager answers."""
    accepted = await link.join(join, 10.0)
    member = Failing()
    link.attach(accepted.swarm, member)
    link.reader_at(accepted.swarm, 0)
    await member.lost.wait()


def test_a_member_that_fails_costs_the_link_but_not_the_next_one() -> None:
    def answer(link: Link, message: Message) -> None:
        if isinstance(message, Join):
            accept(link, message.request)
        if isinstance(message, Urgent):
            link.send(Changed(message.swarm))

    async def story(link: ManagerLink) -> None:
        await lose_a_member(link)
        assert await link.opened(10.0)
        await link.join(join, 10.0)
    with_manager(answer, story)


def test_an_answer_that_crosses_a_leave_is_asked_for_again() -> None:
    heard: List[str] = []

    def answer(link: Link, message: Message) -> None:
        heard.append(type(message).__name__)
        if isinstance(message, Leave) or heard == ["Hello", "Join"]:
            return
        if isinstance(message, Urgent):   # the answer to the first Join, late
            link.send(Accepted(1, 7, TASK, "v", 10 << 20, 1 << 20))
        elif isinstance(message, Join):
            link.send(Accepted(message.request, 7, TASK, "v", 10 << 20, 1 << 20))

    async def story(link: ManagerLink) -> None:
        joining = asyncio.ensure_future(link.join(join, 10.0))
        await asyncio.sleep(0)    # the Join is on its way
        link.leave(7)             # of another download of the same task, which ends now
        link.reader_at(7, 0)
        accepted = await joining
        assert heard == ["Hello", "Join", "Leave", "Urgent", "Leave", "Join"]
        assert accepted.request == 2
    with_manager(answer, story)


# ---------------------------------------------------------------------------------- busy
def nothing(link: Link, message: Message) -> None:
    """What a manager says that has nothing to say."""


def test_a_busy_manager_is_waited_for_and_left_alone_meanwhile() -> None:
    async def story(link: ManagerLink) -> None:
        began_at = CLOCK.now()
        told: List[float] = []
        assert await link.opened(1.0, told.append)   # less than it asks for
        assert CLOCK.now() - began_at > 0.7 * (0.8 + 0.9)   # jitter takes 0.3 at most
        assert told and all(0 < busy_s <= managers.BUSY_PATIENCE_S for busy_s in told)
        assert link.busy_s == 0.0 and link.refused is None
    with_manager(nothing, story, [Busy(0.8, "full"), Busy(0.9, "full")])


def test_a_manager_that_stays_busy_for_too_long_counts_as_gone(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managers, "BUSY_PATIENCE_S", 0.3)

    async def story(link: ManagerLink) -> None:
        assert not await link.opened(5.0)
        assert "busy: full" in str(link.refused) and link.busy_s == 0.0
    with_manager(nothing, story, [Busy(10.0, "full")])


def test_a_manager_without_a_free_connection_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managers, "BUSY_RETRY_S", 0.2)

    async def story(link: ManagerLink) -> None:
        assert await link.opened(5.0)
    with_manager(nothing, story, [503, 503])


def test_busy_on_an_open_link_ends_the_membership_and_the_link_comes_back() -> None:
    def answer(link: Link, message: Message) -> None:
        if isinstance(message, Join):
            accept(link, message.request)
        if isinstance(message, Urgent):
            link.send(Busy(0.2, "overload"))

    async def story(link: ManagerLink) -> None:
        await lose_a_member(link)
        assert not link.is_open and link.busy_s > 0
        assert await link.opened(0.01)
        await link.join(join, 10.0)
    with_manager(answer, story)
