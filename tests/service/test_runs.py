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
from dfly.net import fetching
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
DIGESTS = b"".join(hashlib.sha256(piece).digest() for piece in PIECES)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, GUARD_S))


class Scene:
    """A parent's file and its server, a child's file and its runs."""

    def __init__(self, digests: bool) -> None:
        geometry = Geometry(len(CONTENT), PIECE)
        self.stores = MemoryStore(), MemoryStore()
        self.parent: Any = self.stores[0].open(TASK, "v", geometry)
        self.child: Any = self.stores[1].open(TASK, "v", geometry)
        if digests:
            self.child.learn(0, DIGESTS)
        self.served: Dict[str, Served] = {TASK: Served(self.parent, TOKEN, arriving=True)}
        self.events: "asyncio.Queue[core.Event]" = asyncio.Queue()
        self.came: List[Tuple[int, str]] = []
        self.child.subscribe(lambda piece: self.came.append((piece, carrier())))
        self.runs: Any = None

    def hold(self, *pieces: int) -> None:
        for piece in pieces:
            self.parent.put(piece, PIECES[piece], hashlib.sha256(PIECES[piece]).digest())

    def learn(self, first: int, stop: int) -> None:
        """The manager's word on some pieces."""
        self.runs.settle(self.child.learn(first, DIGESTS[32 * first:32 * stop]))

    def begin(self, number: int, first: int, count: int, deadline_s: float = 20.0) -> None:
        order = core.FetchRun(number, 0, first, count, deadline_s)
        self.runs.begin(order, TOKEN, PEERS)


@contextlib.asynccontextmanager
async def scene(slots: int = 8, digests: bool = True) -> AsyncIterator[Scene]:
    async with moving(2) as movers:
        here = Scene(digests)
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


def test_a_parent_that_falls_silent_has_run_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "BYTES_S", 0.2)

    async def scenario() -> None:
        async with scene() as here:
            here.begin(1, 0, 1)       # its piece is on its way, says the parent
            ended = await here.events.get()
            assert isinstance(ended, core.RunEnded) and ended.failure is Failure.TIMEOUT, ended
    run(scenario())


@pytest.mark.parametrize("lie", (False, True))
def test_a_piece_quicker_than_its_digest_ends_its_run_when_the_word_comes(lie: bool) -> None:
    """Whoever sends wrong bytes is found out, even if nobody could tell when they came."""
    async def scenario() -> None:
        async with scene(digests=False) as here:
            here.hold(0)
            if lie:
                here.parent.put(1, bytes(PIECE), hashlib.sha256(bytes(PIECE)).digest())
            else:
                here.hold(1)
            here.begin(1, 0, 2)
            await until(lambda: here.child.awaited == 0b11 and not len(here.runs))
            assert here.events.empty() and not here.child.have
            here.learn(0, 1)
            assert here.events.empty() and here.child.have == 0b01
            here.learn(1, 4)
            ended = here.events.get_nowait()
            if lie:
                assert (ended.run, ended.failure, ended.piece) == (1, Failure.BAD_DIGEST, 1)
            else:
                assert ended == core.RunEnded(1)
            assert here.child.have == (0b01 if lie else 0b11)
    run(scenario())


def test_a_word_that_comes_with_the_last_bytes_is_heard() -> None:
    """The loop hears of the digest before it hears that the run's bytes came."""
    async def scenario() -> None:
        async with scene(digests=False) as here:
            here.parent.put(0, bytes(PIECE), hashlib.sha256(bytes(PIECE)).digest())
            loop, await_digest = asyncio.get_running_loop(), here.child.await_digest

            def await_and_learn(piece: int, digest: bytes) -> None:
                await_digest(piece, digest)
                loop.call_soon_threadsafe(here.learn, 0, 5)
            here.child.await_digest = await_and_learn
            here.begin(1, 0, 1)
            ended = await here.events.get()
            assert isinstance(ended, core.RunEnded) and ended.failure is Failure.BAD_DIGEST
    run(scenario())


def test_a_word_that_never_comes_is_not_waited_for_beyond_the_deadline() -> None:
    async def scenario() -> None:
        async with scene(digests=False) as here:
            here.hold(0, 1)
            here.begin(1, 0, 1, deadline_s=0.3)
            here.begin(2, 1, 1, deadline_s=0.3)
            await until(lambda: not len(here.runs))
            here.runs.stop(2)
            ended = await here.events.get()
            assert isinstance(ended, core.RunEnded)
            assert (ended.run, ended.failure) == (1, Failure.TIMEOUT) and here.events.empty()
    run(scenario())


def test_two_may_wait_for_the_end_and_one_may_give_up() -> None:
    async def scenario() -> None:
        async with scene() as here:
            here.begin(1, 0, 1)       # the parent has nothing to send yet
            waiters = [asyncio.ensure_future(here.runs.end()) for _ in range(3)]
            await asyncio.sleep(0)
            waiters[0].cancel()
            done, _ = await asyncio.wait(waiters, timeout=5)
            assert len(done) == 3 and [waiter.cancelled() for waiter in waiters] == [
                True, False, False]
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
