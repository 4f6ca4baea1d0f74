"""An upload worker: a process of its own that sends a manager's pieces, on the manager's port.

The manager (workers.py) passes it connections on which pieces are asked for, the open files of
its tasks, and which pieces they hold. A request that isn't for a task known here goes back, with
its connection, to the manager. Nothing is decided or stored here; when the manager ends, so does
this.
"""
from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import weakref
from typing import Callable, Dict, List, Optional, Union

from dfly.errors import DflyError, NetworkError, UsageError
from dfly.net.channel import Channel, Message
from dfly.net.http_server import GivenAway, HttpServer, Request, Response
from dfly.net.limiter import Limiter
from dfly.net.mover import Movers
from dfly.service.metrics import Metrics
from dfly.service.pieces import PieceServer, Served, task_asked_for
from dfly.service.runtime import run_role
from dfly.store import GONE
from dfly.task import Geometry, members

log = logging.getLogger("dfly.worker")

COUNT_EVERY_S = 0.5    # how often the bytes sent are told to the manager
CLOSE_S = 1.0
CONNECTIONS_MAX = 65_536   # the manager admits them: this is only not less


class RemoteFile:
    """A task's file as the manager tells of it: what sending needs of a TaskFile."""

    def __init__(self, message: Message, fd: int) -> None:
        self.task_id: str = message["task"]
        self.version: str = message["version"]
        self.geometry = Geometry(message["length"], message["piece_size"])
        self.have = int(message["have"], 16)
        self.failed: Optional[DflyError] = None
        self.token = bytes.fromhex(message["token"])
        self.arriving: bool = message["arriving"]
        self._fd = fd
        self._watchers: List[Callable[[int], None]] = []
        self._watching = threading.Lock()   # both movers may come at once
        weakref.finalize(self, os.close, fd)   # when the last transfer out of it has ended

    def fileno(self) -> int:
        return self._fd

    def follow(self, message: Message) -> None:
        """The manager's news: pieces that came since its last word."""
        self.arriving = message["arriving"]
        if self.geometry.length is None and message["length"] is not None:
            self.geometry = Geometry(message["length"], self.geometry.piece_size)
        new = (int(message["new"], 16) << message["first"]) & ~self.have
        self.have |= new
        for piece in members(new):
            self._tell(piece)

    def forget(self) -> None:
        """The task ended."""
        self.failed = NetworkError("the manager has ended this task")
        self._tell(GONE)

    def subscribe(self, watcher: Callable[[int], None]) -> Callable[[], None]:
        with self._watching:
            self._watchers = [*self._watchers, watcher]

        def stop() -> None:
            with self._watching:
                self._watchers = [other for other in self._watchers if other is not watcher]
        return stop

    def _tell(self, event: int) -> None:
        for watcher in self._watchers:
            watcher(event)


class Worker:
    """The process."""

    def __init__(self, channel_fd: int) -> None:
        self._channel = Channel(socket.socket(fileno=channel_fd))
        self._metrics = Metrics()
        self._movers = Movers()
        self._files: Dict[str, RemoteFile] = {}
        self._server: Optional[HttpServer] = None
        self._pieces: Optional[PieceServer] = None
        self._told = 0
        self._over = asyncio.Event()

    async def main(self, stop: asyncio.Event) -> None:
        """Serve until `stop`, or until the manager is gone."""
        loop = asyncio.get_running_loop()
        self._movers.start(loop)
        self._channel.start(self._on_message, self._over.set)
        counting = loop.create_task(self._count())
        ends = [loop.create_task(event.wait()) for event in (stop, self._over)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*ends, counting):
                task.cancel()
            if self._server is not None:
                await self._server.close(CLOSE_S)
            self._movers.stop()
            self._channel.close()

    def _on_message(self, message: Message, fd: int) -> None:
        kind = message["kind"]
        if kind == "begin":
            limits = (Limiter(message["limit_bps"]),)
            self._pieces = PieceServer(self._served, self._metrics, limits, message["slots"])
            self._server = HttpServer(self._on_request, self._movers, quick=self._pieces.quick,
                                      connections_max=CONNECTIONS_MAX)
        elif kind == "task":
            assert message["task"] not in self._files, "what was told before is gone first"
            self._files[message["task"]] = RemoteFile(message, fd)
        elif kind == "news":
            self._files[message["task"]].follow(message)
        elif kind == "gone":
            gone = self._files.pop(message["task"], None)
            if gone is not None:
                gone.forget()
        elif kind == "connection" and self._server is not None:
            host, port = message["remote"]
            self._server.adopt(socket.socket(fileno=fd), (host, port),
                               bytes.fromhex(message["head"]))

    def _served(self, task_id: str) -> Optional[Served]:
        file = self._files.get(task_id)
        return None if file is None else Served(file, file.token, file.arriving)

    async def _on_request(self, request: Request) -> "Union[Response, GivenAway]":
        assert self._pieces is not None
        if task_asked_for(request.path) in self._files:
            answer = self._pieces.route(request)
            assert answer is not None
            return answer
        if not request.body.done:
            return Response(405, [("Allow", "GET, HEAD")], ends=True)
        # Not for us: the manager answers. If it has no room the connection ends.
        self._channel.send({"kind": "connection", "remote": list(request.remote),
                            "head": request.sent().hex()}, request.stream.sock.fileno())
        return GivenAway()

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(COUNT_EVERY_S)
            sent = int(self._metrics.value("dfly_sent_bytes_total"))
            if sent > self._told and self._channel.send({"kind": "sent", "count":
                                                         sent - self._told}):
                self._told = sent


def run(channel_fd: str) -> int:
    """The worker at the other end of this inherited socket; its exit code."""
    try:
        os.fstat(int(channel_fd))
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"--worker-fd: {channel_fd!r} is no open file descriptor",
                         "a manager starts its workers itself: dfly serve --workers N") from None

    async def role(stop: asyncio.Event) -> None:
        await Worker(int(channel_fd)).main(stop)
    return run_role(role)
