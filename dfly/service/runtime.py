"""What every role has in common while it runs: its loop, its signals, its log.

A role is a coroutine that gets a `stop` event and returns when it is set and everything is put
away. No role-specific code here.
"""
from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import sys
from typing import Awaitable, Callable, Set

from dfly.errors import printable
from dfly.store import PieceStore

GC_THRESHOLDS = (10_000, 10, 20)  # objects more than freed; rounds of the younger generation
LEFTOVER_ROUNDS = 8  # collections after tasks left the store, one a second in a peer

Ready = Callable[[str], None]  # told once that the role serves, and where


class _OneLine(logging.Formatter):
    """Log lines stay lines: what a remote sent can't start a new one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


def set_up_log(level: int = logging.INFO) -> None:
    """Log to stderr, where systemd and people look."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def run_role(role: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run a role until SIGTERM or SIGINT, or until it sets `stop` itself; exit code 0."""
    async def whole() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await role(stop)

    allow_descriptors()
    spare_collections()
    asyncio.run(whole())
    return 0


def spare_collections() -> None:
    """Look for garbage in cycles less often, and not among what was loaded at the start: else a
    role that holds many tasks or links spends a tenth of its time on looking at them again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


class Leftovers:
    """What files that left the store leave behind. A file is closed, and its room on the disk free,
    when nobody refers to it any more; but downloads are full of cycles, few collections are made,
    and some references last for seconds (fetches whose answers are watched for)."""

    def __init__(self, store: PieceStore) -> None:
        self._store = store
        self._seen = store.dropped
        self._rounds = 0   # to come

    def collect(self) -> None:
        """Now and then; it costs nothing while no task left the store."""
        if self._store.dropped != self._seen:
            self._seen = self._store.dropped
            self._rounds = LEFTOVER_ROUNDS
        if self._rounds:
            self._rounds -= 1
            gc.collect()


def allow_descriptors() -> None:
    """As many open files as the system lets this process have: the usual 1,024 are fewer than
    the links of a manager, or the tasks that a peer has to give."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:   # some systems have a lower bound than they say
        logging.getLogger("dfly").warning("only %d files may be open: %s", soft, error)


async def finished(work: Awaitable[None]) -> None:
    """`work` to its end even if whoever waits is cancelled meanwhile: a thread can't be stopped,
    and what it uses mustn't be taken from it."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    finally:
        if not task.done():
            await asyncio.wait({task})


class Tasks:
    """Background asyncio tasks that are kept, watched and ended together."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._running: "Set[asyncio.Task[None]]" = set()

    def start(self, work: Awaitable[None]) -> "asyncio.Task[None]":
        task: "asyncio.Task[None]" = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._log.error("a background task failed", exc_info=task.exception())

    async def stop(self) -> None:
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
