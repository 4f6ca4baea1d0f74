"""A manager's upload workers: processes that send pieces, so that more than one core does.

The manager accepts all connections on its one port. One that asks for pieces is passed, socket
and all, to the worker with the fewest so far, and comes back only if it asks for something else.
Each worker is told of a task with the first connection that wants it, and from then on only what
is new of it, as it has room. What it was told is kept here, so that it never takes one version's
news for another's. A worker that dies is started again, however long that takes; what it served
breaks, and peers ask once more.
"""
from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
from dataclasses import dataclass, field
from functools import partial
from typing import Callable, Dict, List, Optional, Set, Tuple

from dfly.errors import DflyError, ProtocolError
from dfly.net.channel import Channel, Message
from dfly.net.stream import Stream
from dfly.service.metrics import Metrics
from dfly.service.runtime import Tasks
from dfly.service.swarms import LedTask
from dfly.task import lowest

log = logging.getLogger("dfly.workers")

END_S = 3.0            # a worker that was told to end gets so long
RESTART_S = 1.0        # after which one that died, or failed to start, is started again
Spawn = Callable[[socket.socket], "subprocess.Popen[bytes]"]
Adopt = Callable[[socket.socket, Tuple[str, int], bytes], None]


@dataclass(frozen=True)
class _State:
    """What there is to know of a task, or what a worker was told last. It holds no file open."""

    task_id: str
    swarm: int               # no two tasks have the same, whatever their names
    have: int
    length: Optional[int]
    arriving: bool

    @classmethod
    def of(cls, task: LedTask) -> _State:
        return cls(task.task_id, task.swarm, task.file.have, task.file.geometry.length,
                   task.fetching is not None)

    def whole(self, task: LedTask) -> Message:
        """For a worker that knows nothing of the task; its descriptor goes along."""
        return {"kind": "task", "task": self.task_id, "version": task.file.version,
                "length": self.length, "piece_size": task.file.geometry.piece_size,
                "token": task.token.hex(), "have": f"{self.have:x}", "arriving": self.arriving}

    def follows(self, told: _State) -> bool:
        """News can make this of what was told: the same task, and no piece was lost."""
        return self.swarm == told.swarm and not told.have & ~self.have

    def since(self, told: _State) -> Optional[Message]:
        """The news, for a worker that was `told` this before; None: there is none."""
        new = self.have & ~told.have
        if not new and (self.length, self.arriving) == (told.length, told.arriving):
            return None
        first = lowest(new) if new else 0
        return {"kind": "news", "task": self.task_id, "length": self.length,
                "arriving": self.arriving, "first": first, "new": f"{new >> first:x}"}


@dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    channel: Channel
    given: int = 0                                           # connections
    told: Dict[str, _State] = field(default_factory=dict)    # by task id
    behind: Dict[str, None] = field(default_factory=dict)    # those it may not have all news of


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
        self._grown: Set[str] = set()   # tasks with pieces that the loop is yet to hear of
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
        connection = {"kind": "connection", "remote": list(stream.remote), "head": head.hex()}
        try:
            for worker in sorted(self._workers, key=lambda worker: worker.given):
                if self._know(worker, task) and worker.channel.send(connection,
                                                                    stream.sock.fileno()):
                    worker.given += 1
                    return True
        except ProtocolError as error:   # what doesn't fit for one doesn't for any
            log.debug("task %s: %s", task.task_id[:12], error)
        return False

    def forget(self, task_id: str) -> None:
        """The task is led no more."""
        self._tasks.pop(task_id, None)
        stop = self._subscribed.pop(task_id, None)
        if stop is not None:
            stop()
        self._tell(task_id)

    def _know(self, worker: _Worker, task: LedTask) -> bool:
        """See that the worker knows the task as it is now; False if it can't be told now."""
        task_id = task.task_id
        if self._tasks.get(task_id) is not task:
            self.forget(task_id)
            self._tasks[task_id] = task
            self._subscribed[task_id] = task.file.subscribe(partial(self._hear, task_id))
        if task_id in worker.told:
            worker.behind[task_id] = None   # not all that is new is a piece
        if not self._catch_up(worker):
            return False
        if task_id not in worker.told:
            state = _State.of(task)
            if not worker.channel.send(state.whole(task), task.file.fileno()):
                return False
            worker.told[task_id] = state
        return True

    def _hear(self, task_id: str, event: int) -> None:
        """Any thread: a piece was marked, or some were lost. What comes before the loop gets to it
        is one piece of news. A piece is held before it's heard of, so whoever finds the task in
        the set is in time for the loop's look: no lock is needed."""
        if task_id not in self._grown:
            self._grown.add(task_id)
            self._loop.call_soon_threadsafe(self._grew, task_id)

    def _grew(self, task_id: str) -> None:
        self._grown.discard(task_id)   # first: what comes from now on is told anew
        if task_id in self._tasks:
            self._tell(task_id)

    def _tell(self, task_id: str) -> None:
        """There is news of this task for those who know it."""
        for worker in list(self._workers):   # one may prove to be dead
            if task_id in worker.told:
                worker.behind[task_id] = None
                self._catch_up(worker)

    def _catch_up(self, worker: _Worker) -> bool:
        """Tell the worker what it hasn't heard; False if it has no room for all of it now."""
        for task_id in list(worker.behind):
            told, task = worker.told[task_id], self._tasks.get(task_id)
            state = None if task is None else _State.of(task)
            if state is not None and not state.follows(told):
                state = None   # a new task of this name, or less of it: told with a connection
            news: Optional[Message] = ({"kind": "gone", "task": task_id} if state is None
                                       else state.since(told))
            if news is not None and not worker.channel.send(news):
                worker.channel.when_writable(partial(self._catch_up, worker))
                return False
            del worker.behind[task_id]
            if state is None:
                del worker.told[task_id]
            else:
                worker.told[task_id] = state
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
        said = ""
        while True:
            await asyncio.sleep(RESTART_S)
            try:
                self._start_one()
                return
            except DflyError as error:   # the system lacks something now: it may not for ever
                if str(error) != said:
                    said = str(error)
                    log.warning("%s: tried again every %g s", said, RESTART_S)


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
