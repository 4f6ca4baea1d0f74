"""Runs of one download, from a real parent on loopback: what the machine hears of their ends."""
from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from typing import Any, AsyncIterator, Coroutine, Dict, List, Tuple

import pytest

from dfly.core import download as core
from dfly.errors import NetworkError, NoSpace
from dfly.net.fetching import Lines
from dfly.net.http_server import HttpServer, Request, Response
from dfly.service.metrics import Metrics
from dfly.service.origins import PEERS, carrier
from dfly.service.parents import Parents
from dfly.service.pieces import PieceServer, Served
from dfly.service.runs import Runs
from dfly.store.memory import MemoryStore
from dfly.task import Geometry
from dfly.wire.messages import Failure
from tests.net.loopback import GUARD_S, PIECE, moving, until

TASK = "ab" * 32
TOKEN = b"t" * 16
CONTENT = random.Random(9).randbytes(4 * PIECE + 5)
PIECES = [CONTENT[start:start + PIECE] for start in range(0, len(CONTENT), PIECE)]


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, GUARD_S))


class Scene:
    """A parent's file and its server, a child's file and its runs."""

    def __init__(self) -> None:
        geometry = Geometry(len(CONTENT), PIECE)
        self.stores = MemoryStore(), MemoryStore()
        self.parent: Any = self.stores[0].open(TASK, "v", geometry)
        self.child: Any = self.stores[1].open(TASK, "v", geometry)
        self.child.learn(0, b"".join(hashlib.sha256(piece).digest() for piece in PIECES))
        self.served: Dict[str, Served] = {TASK: Served(self.parent, TOKEN, arriving=True)}
        self.events: "asyncio.Queue[core.Event]" = asyncio.Queue()
        self.came: List[Tuple[int, str]] = []
        self.child.subscribe(lambda piece: self.came.append((piece, carrier())))
        self.runs: Any = None

    def hold(self, *pieces: int) -> None:
        for piece in pieces:
            self.parent.put(piece, PIECES[piece], hashlib.sha256(PIECES[piece]).digest())

    def begin(self, number: int, first: int, count: int, deadline_s: float = 20.0) -> None:
        order = core.FetchRun(number, 0, first, count, deadline_s)
        self.runs.begin(order, TOKEN, PEERS)


@contextlib.asynccontextmanager
async def scene(slots: int = 8) -> AsyncIterator[Scene]:
    async with moving(2) as movers:
        here = Scene()
        pieces = PieceServer(here.served.get, Metrics(), (), slots)

        async def handle(request: Request) -> Response:
            return pieces.route(request) or Response(404)
        server = HttpServer(handle, movers, quick=pieces.quick)
        port = await server.listen_tcp("127.0.0.1", 0)
        lines = Lines(movers)
        nothing: Any = None
        parents = Parents(nothing, lines, here.child)
        assert parents.number_of(("127.0.0.1", port)) == 0
        here.runs = Runs(here.child, parents, (), here.events.put_nowait, Metrics())
        try:
            yield here
        finally:
            await here.runs.end()
            await lines.close()
            await server.close(1.0)
    for store in here.stores:
        store.close()


def test_runs_bring_their_pieces() -> None:
    async def scenario() -> None:
        async with scene() as here:
            here.hold(0, 1, 2, 3, 4)
            here.begin(1, 1, 2)
            here.begin(2, 4, 1)
            here.begin(3, 0, 1)
            ends = [await here.events.get() for _ in range(3)]
            assert sorted(ends, key=repr) == [core.RunEnded(number) for number in (1, 2, 3)]
            assert sorted(here.came) == [(piece, PEERS) for piece in (0, 1, 2, 4)]
            assert here.child.have == 0b10111 and len(here.runs) == 0
            assert here.child.read(PIECE, 2 * PIECE) == CONTENT[PIECE:3 * PIECE]
    run(scenario())


def test_a_deadline_ends_a_run_and_only_that() -> None:
    async def scenario() -> None:
        async with scene() as here:
            here.hold(0)
            here.begin(1, 0, 2, deadline_s=0.1)   # piece 1 doesn't come
            here.begin(2, 3, 1, deadline_s=20)
            ended = await here.events.get()
            assert isinstance(ended, core.RunEnded)
            assert (ended.run, ended.failure, ended.piece) == (1, Failure.TIMEOUT, 1)
            here.hold(3)
            assert await here.events.get() == core.RunEnded(2)
            assert here.child.have == 0b1001
    run(scenario())


def test_a_stopped_run_is_heard_of_no_more() -> None:
    async def scenario() -> None:
        async with scene() as here:
            here.begin(1, 0, 1)
            here.begin(2, 1, 1)
            here.runs.stop(1)
            here.runs.stop(1)
            here.hold(0, 1)
            assert await here.events.get() == core.RunEnded(2)
            await here.runs.end()
            assert here.events.empty()
    run(scenario())


@pytest.mark.parametrize("trouble, failure", [
    ("another token", Failure.NOT_HELD), ("another version", Failure.NOT_HELD),
    ("not held", Failure.NOT_HELD), ("busy", Failure.BUSY), ("gone", Failure.REFUSED),
    ("bad bytes", Failure.BAD_DIGEST), ("ends early", Failure.BROKEN),
])
def test_each_failure_has_its_name(trouble: str, failure: Failure) -> None:
    async def scenario() -> None:
        async with scene(slots=0 if trouble == "busy" else 8) as here:
            here.hold(0)
            if trouble == "another token":
                here.served[TASK] = Served(here.parent, b"u" * 16, arriving=False)
            elif trouble == "another version":
                here.parent.version = "w"
            elif trouble == "not held":
                here.served[TASK] = Served(here.parent, TOKEN, arriving=False)
            elif trouble == "gone":
                here.runs._parents.addresses[0] = ("127.0.0.1", 1)
            elif trouble == "bad bytes":
                wrong = bytes(PIECE)
                here.parent.put(1, wrong, hashlib.sha256(wrong).digest())
            here.begin(1, 0, 2)
            if trouble == "ends early":
                await until(lambda: bool(here.child.have))
                here.parent.fail(NetworkError("gone"))
            ended = await here.events.get()
            assert isinstance(ended, core.RunEnded) and ended.failure is failure, ended
            assert ended.piece == (1 if here.child.have else 0)
    run(scenario())


def test_a_store_that_fails_dooms_the_download() -> None:
    async def scenario() -> None:
        async with scene() as here:
            here.hold(0)

            def full(offset: int, data: object) -> bool:
                raise NoSpace("the disk is full")
            here.child.write = full
            here.begin(1, 0, 1)
            ended = await here.events.get()
            assert isinstance(ended, core.Doomed) and isinstance(ended.error, NoSpace)
    run(scenario())


def test_many_deadlines_of_ended_runs_are_cleared_away() -> None:
    async def scenario() -> None:
        async with scene() as here:
            here.hold(0)
            for number in range(300):
                here.begin(number, 0, 1, deadline_s=1_000)
                assert await here.events.get() == core.RunEnded(number)
            assert len(here.runs._due) <= 300
    run(scenario())
