"""What a manager tells its upload workers, and which connections it passes to them."""
from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import random
import socket
import threading
from typing import Any, AsyncIterator, Dict, List, Optional

import pytest

from dfly.net.channel import MESSAGE_MAX, SENT_HEX_MAX, Channel, Message
from dfly.service import workers as module
from dfly.service.metrics import Metrics
from dfly.service.swarms import LedTask
from dfly.service.worker import Worker
from dfly.service.workers import WorkerLimits, Workers
from dfly.source import Version
from dfly.task import PIECES_MAX, Geometry, TaskSpec, full_set, members, set_of
from tests.net.loopback import PIECE, FakeTaskFile, off_loop, pair, read_all, run, until

CONTENT = random.Random(5).randbytes(3 * PIECE)
OTHER = random.Random(6).randbytes(3 * PIECE)
SPEC = TaskSpec("http://source/file")
HEAD = b"GET /v1/tasks/%s HTTP/1.1\r\nHost: h\r\nDfly-Token: %s\r\nRange: bytes=0-99\r\n\r\n"
BIG = b"x" * (SENT_HEX_MAX // 2)   # so long that a few of it fill a channel


class NamedFile(FakeTaskFile):
    task_id = SPEC.task_id
    version = "v1"


class Process:
    """As much of a Popen as is asked for."""

    pid = 4321

    def wait(self, timeout: Optional[float] = None) -> int:
        return 0


class Far:
    """A worker's end of a channel. It reads nothing until it is told to."""

    def __init__(self, theirs: socket.socket) -> None:
        self.got: List[Message] = []
        self.files: Dict[int, int] = {}   # number of message -> size of the file it came with
        self.channel = Channel(theirs)

    def read(self) -> None:
        self.channel.start(self._take, lambda: None)

    def _take(self, message: Message, fd: int) -> None:
        if fd >= 0:
            self.files[len(self.got)] = os.fstat(fd).st_size
            os.close(fd)
        self.got.append(message)

    def kinds(self) -> List[str]:
        return [message["kind"] for message in self.got]

    async def until(self, count: int) -> None:
        await until(lambda: len(self.got) >= count)


class Scene:
    """Workers whose processes are this one."""

    def __init__(self, count: int = 1) -> None:
        self.fars: List[Far] = []
        self.failures: List[OSError] = []   # what the next spawns raise
        self.files: List[NamedFile] = []
        self.far_sockets: List[socket.socket] = []
        limits = WorkerLimits(count, slots=8, upload_limit_bps=0)
        self.workers = Workers(limits, self.spawn, lambda *_: None, Metrics())

    def spawn(self, theirs: socket.socket) -> Any:
        if self.failures:
            raise self.failures.pop(0)
        self.fars.append(Far(theirs.dup()))
        return Process()

    def task(self, swarm: int = 1, content: bytes = CONTENT, **options: Any) -> LedTask:
        file = NamedFile(content, **options)
        self.files.append(file)
        return LedTask(swarm, SPEC, Version(), file, bytes([swarm]) * 16,  # type: ignore[arg-type]
                       private=False, checked_at=0.0)

    def give(self, task: LedTask, head: bytes = b"head") -> bool:
        """Whether a worker took a connection that has sent this."""
        stream, far = pair()
        self.far_sockets.append(far)
        given = self.workers.give(task, stream, head)
        stream.close()
        return given

    def fill(self, task: LedTask) -> None:
        """Until the channels have no room: nobody reads meanwhile."""
        for _ in range(1000):
            if not self.give(task, BIG):
                return
        raise AssertionError("a channel without an end")


@contextlib.asynccontextmanager
async def scene(**options: Any) -> AsyncIterator[Scene]:
    here = Scene(**options)
    here.workers.start()
    try:
        yield here
    finally:
        await here.workers.stop()
        for far in here.fars:
            far.channel.close()
        for owner in (*here.files, *here.far_sockets):
            owner.close()


def pieces_of(message: Message) -> List[int]:
    return [message["first"] + piece for piece in members(int(message["new"], 16))]


# ------------------------------------------------------------------------------ replacement
async def _worker(theirs: socket.socket) -> None:
    await Worker(theirs.detach()).main(asyncio.Event())


def request(task: LedTask) -> bytes:
    return HEAD % (task.task_id.encode(), task.token.hex().encode())


def test_a_task_replaced_while_its_worker_was_behind_is_served_from_its_own_file() -> None:
    async def body() -> None:
        real: List[asyncio.Task[None]] = []

        class RealWorker(Scene):
            def spawn(self, theirs: socket.socket) -> Any:
                real.append(asyncio.ensure_future(_worker(theirs.dup())))
                return Process()

        here = RealWorker()
        here.workers.start()
        old, new = here.task(1), here.task(2, OTHER)
        assert here.give(old)
        here.fill(old)
        here.workers.forget(old.task_id)
        assert not here.give(new)          # it's known from now on, though no worker has room
        for far in here.far_sockets:
            far.close()
        await until(lambda: here.give(new))
        stream, far = pair()
        assert here.workers.give(new, stream, request(new))
        stream.close()
        far.shutdown(socket.SHUT_WR)
        answer = await off_loop(read_all, far)
        assert answer.startswith(b"HTTP/1.1 206 ") and answer.endswith(OTHER[:100])
        await here.workers.stop()
        await asyncio.gather(*real)
        for owner in (far, *here.files, *here.far_sockets):
            owner.close()
        real.clear()
        gc.collect()   # the worker's files are closed once nothing refers to them
    run(body())


def test_what_was_told_of_the_old_task_is_gone_before_the_new_is_told() -> None:
    async def body() -> None:
        async with scene() as here:
            old, new = here.task(1), here.task(2, OTHER[:PIECE])
            here.fill(old)
            here.workers.forget(old.task_id)
            assert not here.give(new)
            (far,) = here.fars
            far.read()
            await until(lambda: far.kinds()[-1:] == ["gone"])
            told = len(far.got)
            assert here.give(new)
            await far.until(told + 2)
            assert far.kinds()[told:] == ["task", "connection"]
            assert far.got[told]["token"] == new.token.hex() and far.files[told] == PIECE
            assert far.kinds().count("gone") == 1
    run(body())


def test_a_task_that_lost_pieces_is_told_anew() -> None:
    async def body() -> None:
        async with scene() as here:
            task, (far,) = here.task(), here.fars
            assert here.give(task)
            far.read()
            file = here.files[0]
            file.have = 0b011
            file.remove()                # what an unmarked piece sounds like
            await until(lambda: "gone" in far.kinds())
            assert here.give(task)
            await far.until(6)
            assert far.kinds() == ["begin", "task", "connection", "gone", "task", "connection"]
            assert [far.got[1]["have"], far.got[4]["have"]] == ["7", "3"]
    run(body())


def test_one_worker_that_proves_dead_keeps_no_other_from_the_news() -> None:
    async def body() -> None:
        async with scene(count=3) as here:
            task = here.task(have=0)
            assert all(here.give(task) for _ in range(3))
            here.fars[0].channel.close()
            here.files[0].mark(1)
            for far in here.fars[1:]:
                far.read()
                await far.until(4)
                assert pieces_of(far.got[3]) == [1]
    run(body())


# ------------------------------------------------------------------------------------- news
def test_a_worker_is_told_the_pieces_that_are_new_and_no_others() -> None:
    async def body() -> None:
        async with scene() as here:
            task, (far,) = here.task(have=set_of(range(5_000))), here.fars
            file = here.files[0]
            file.geometry = Geometry(6_000 * PIECE, PIECE)
            assert here.give(task)
            far.read()
            for count, piece in enumerate((5_001, 5_999, 5_000), 4):
                file.mark(piece)
                await far.until(count)
            assert far.kinds()[3:] == ["news"] * 3
            assert [pieces_of(message) for message in far.got[3:]] == [[5_001], [5_999], [5_000]]
            assert all(len(str(message)) < 300 for message in far.got[3:])
    run(body())


def test_pieces_that_come_before_the_loop_gets_to_it_are_one_piece_of_news() -> None:
    async def body() -> None:
        async with scene() as here:
            task, (far,) = here.task(have=0), here.fars
            file = here.files[0]
            assert here.give(task)
            far.read()
            marking = threading.Thread(target=lambda: [file.mark(piece) for piece in range(3)])
            marking.start()
            marking.join()
            await far.until(4)
            file.mark(3)
            await far.until(5)
            assert [pieces_of(message) for message in far.got[3:]] == [[0, 1, 2], [3]]
    run(body())


def test_what_came_while_the_channel_was_full_is_told_at_once_when_it_has_room() -> None:
    async def body() -> None:
        async with scene() as here:
            task, (far,) = here.task(have=0), here.fars
            file = here.files[0]
            here.fill(task)
            for piece in range(20):
                file.mark(piece)
                await asyncio.sleep(0)
            far.read()
            await until(lambda: far.kinds()[-1:] == ["news"])
            assert far.kinds().count("news") == 1
            assert pieces_of(far.got[-1]) == list(range(20))
    run(body())


def test_a_length_learnt_and_the_end_of_a_fetch_are_told_with_the_next_connection() -> None:
    async def body() -> None:
        async with scene() as here:
            task, (far,) = here.task(length=None), here.fars
            task.fetching = asyncio.ensure_future(asyncio.sleep(0))
            assert here.give(task)
            await task.fetching
            task.fetching = None
            here.files[0].geometry = Geometry(len(CONTENT), PIECE)
            assert here.give(task) and here.give(task)
            far.read()
            await far.until(6)
            assert far.kinds() == ["begin", "task", "connection", "news", "connection",
                                   "connection"]
            assert (far.got[1]["length"], far.got[1]["arriving"]) == (None, True)
            assert (far.got[3]["length"], far.got[3]["arriving"]) == (len(CONTENT), False)
            assert pieces_of(far.got[3]) == []
    run(body())


# ----------------------------------------------------------------------------------- bounds
def test_the_largest_task_and_the_longest_head_fit() -> None:
    async def body() -> None:
        async with scene() as here:
            task, (far,) = here.task(have=full_set(PIECES_MAX - 1)), here.fars
            here.files[0].geometry = Geometry(PIECES_MAX * PIECE, PIECE)
            far.read()
            assert here.give(task, BIG)
            here.files[0].mark(PIECES_MAX - 1)
            await far.until(4)
            assert far.kinds() == ["begin", "task", "connection", "news"]
            assert int(far.got[1]["have"], 16) == full_set(PIECES_MAX - 1)
            assert bytes.fromhex(far.got[2]["head"]) == BIG
            assert pieces_of(far.got[3]) == [PIECES_MAX - 1]
    run(body())


def test_a_connection_that_fits_in_no_message_is_not_given() -> None:
    async def body() -> None:
        async with scene(count=2) as here:
            task = here.task()
            assert not here.give(task, b"x" * MESSAGE_MAX)
            assert here.give(task)
            assert len(here.workers.pids) == 2
    run(body())


# -------------------------------------------------------------------------------- processes
def test_a_worker_that_cannot_be_started_again_now_is_started_later(
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "RESTART_S", 0.01)

    async def body() -> None:
        async with scene(count=2) as here:
            here.failures = [OSError(errno.EAGAIN, "no process to spare") for _ in range(3)]
            here.fars[0].channel.close()
            await until(lambda: len(here.fars) == 3)
            assert len(here.workers.pids) == 2 and not here.failures
            assert here.give(here.task())
    with caplog.at_level(logging.WARNING, "dfly.workers"):
        run(body())
    assert sum("no process to spare" in line for line in caplog.messages) == 1, caplog.messages
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_workers_stop_while_one_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESTART_S", 0.01)

    async def body() -> None:
        async with scene() as here:
            here.failures = [OSError(errno.EAGAIN, "no process to spare") for _ in range(9_999)]
            here.fars[0].channel.close()
            await until(lambda: len(here.failures) < 9_990)
            assert here.workers.pids == []
    run(body())
