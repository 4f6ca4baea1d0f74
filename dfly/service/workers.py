"""A manager's upload workers: processes that send pieces, so that more than one core does.

The manager accepts all connections on its one port. One that asks for pieces is passed, socket
and all, to the worker with the fewest so far, and comes back only if it asks for something else.
Each worker is told of a task with the first connection that wants it, and from then on of each
piece. A worker that dies is started again; what it served breaks, and peers ask once more.
"""
from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
from dataclasses import dataclass, field
from functools import partial
from typing import Callable, Dict, List, Set, Tuple

from dfly.errors import DflyError
from dfly.net.channel import Channel, Message
from dfly.net.stream import Stream
from dfly.service.metrics import Metrics
from dfly.service.runtime import Tasks
from dfly.service.swarms import LedTask

log = logging.getLogger("dfly.workers")

END_S = 3.0            # a worker that was told to end gets so long
RESTART_S = 1.0        # after which one that died is started again, so that none spins
Spawn = Callable[[socket.socket], "subprocess.Popen[bytes]"]
Adopt = Callable[[socket.socket, Tuple[str, int], bytes], None]


@dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    channel: Channel
    given: int = 0                                           # connections
    told: Set[str] = field(default_factory=set)              # task ids
    behind: Dict[str, None] = field(default_factory=dict)    # tasks whose news it hasn't heard


@dataclass(frozen=True)
class WorkerLimits:
    """What all workers together may do."""

    count: int
    slots: int
    upload_limit_bps: float


class Workers:
    """`adopt` takes a connection that a worker gave back."""

    def __init__(self, limits: WorkerLimits, spawn: Spawn, adopt: Adopt, metrics: Metrics) -> None:
        self._limits = limits
        self._spawn = spawn
        self._adopt = adopt
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._workers: List[_Worker] = []
        self._tasks: Dict[str, LedTask] = {}
        self._subscribed: Dict[str, Callable[[], None]] = {}
        self._background = Tasks(log)
        self._stopping = False

    def start(self) -> None:
        for _ in range(self._limits.count):
            self._start_one()

    async def stop(self) -> None:
        """End all workers, politely first."""
        self._stopping = True
        for stop in self._subscribed.values():
            stop()
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.channel.close()
        await self._background.stop()
        await asyncio.gather(*(asyncio.to_thread(_reap, worker.process) for worker in workers))

    @property
    def pids(self) -> List[int]:
        return [worker.process.pid for worker in self._workers]

    # ------------------------------------------------------------------- tasks and pieces
    def give(self, task: LedTask, stream: Stream, head: bytes) -> bool:
        """Pass a connection on which `task` is asked for, with what it sent so far; False: no
        worker can take it now."""
        for worker in sorted(self._workers, key=lambda worker: worker.given):
            if self._know(worker, task) and worker.channel.send(
                    {"kind": "connection", "remote": list(stream.remote), "head": head.hex()},
                    stream.sock.fileno()):
                worker.given += 1
                return True
        return False

    def forget(self, task_id: str) -> None:
        """The task is led no more."""
        self._tasks.pop(task_id, None)
        stop = self._subscribed.pop(task_id, None)
        if stop is not None:
            stop()
        self._tell(task_id)

    def _know(self, worker: _Worker, task: LedTask) -> bool:
        """See that the worker knows the task; False if it can't be told now."""
        task_id = task.task_id
        if task_id in worker.told and self._tasks.get(task_id) is task:
            return not worker.behind or self._catch_up(worker)
        if self._tasks.get(task_id) is not task:
            self.forget(task_id)
            self._tasks[task_id] = task
            self._subscribed[task_id] = task.file.subscribe(partial(self._hear, task_id))
        if not worker.channel.send(_state_of(task), task.file.fileno()):
            return False
        worker.told.add(task_id)
        worker.behind.pop(task_id, None)
        return True

    def _hear(self, task_id: str, piece: int) -> None:
        """Any thread: a piece was marked."""
        self._loop.call_soon_threadsafe(self._grew, task_id)

    def _grew(self, task_id: str) -> None:
        """A piece came."""
        if task_id in self._tasks:
            self._tell(task_id)

    def _tell(self, task_id: str) -> None:
        """There is news of this task for those who know it."""
        for worker in self._workers:
            if task_id in worker.told:
                worker.behind[task_id] = None
                self._catch_up(worker)

    def _catch_up(self, worker: _Worker) -> bool:
        """Tell the worker what it hasn't heard; False if it has no room for all of it now."""
        for task_id in list(worker.behind):
            task = self._tasks.get(task_id)
            news: Message = ({"kind": "gone", "task": task_id} if task is None
                             else _state_of(task))
            if not worker.channel.send(news):
                worker.channel.when_writable(partial(self._catch_up, worker))
                return False
            del worker.behind[task_id]
            if task is None:
                worker.told.discard(task_id)
        return True

    # --------------------------------------------------------------------------- processes
    def _start_one(self) -> None:
        limits = self._limits
        channel, theirs = Channel.pair()
        try:
            process = self._spawn(theirs)
        except OSError as error:
            channel.close()
            raise DflyError(f"can't start an upload worker: {error}") from None
        finally:
            theirs.close()
        worker = _Worker(process, channel)
        channel.start(self._on_message, lambda: self._on_death(worker))
        channel.send({"kind": "begin", "limit_bps": limits.upload_limit_bps / limits.count,
                      "slots": -(-limits.slots // limits.count)})
        self._workers.append(worker)

    def _on_message(self, message: Message, fd: int) -> None:
        if message["kind"] == "sent":
            self._metrics.add("dfly_sent_bytes_total", message["count"])
        elif message["kind"] == "connection":
            host, port = message["remote"]
            self._adopt(socket.socket(fileno=fd), (host, port), bytes.fromhex(message["head"]))

    def _on_death(self, worker: _Worker) -> None:
        """Its end of the channel is closed: it has ended, or is about to."""
        if self._stopping:
            return
        self._workers.remove(worker)
        self._background.start(self._replace(worker))

    async def _replace(self, worker: _Worker) -> None:
        code = await asyncio.to_thread(_reap, worker.process)
        log.warning("upload worker %d ended (%d): another is started", worker.process.pid, code)
        await asyncio.sleep(RESTART_S)
        self._start_one()


def _state_of(task: LedTask) -> Message:
    file = task.file
    return {"kind": "task", "task": task.task_id, "version": file.version,
            "length": file.geometry.length, "piece_size": file.geometry.piece_size,
            "token": task.token.hex(), "have": f"{file.have:x}",
            "arriving": task.fetching is not None}


def _reap(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process that is ending; one that doesn't is killed."""
    try:
        return process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def spawner(command: List[str], environ: Dict[str, str]) -> Spawn:
    """Starts `command` with the channel's descriptor as its last word."""
    def spawn(theirs: socket.socket) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*command, str(theirs.fileno())], env=environ,
                                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
    return spawn
