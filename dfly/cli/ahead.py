"""Many files in one command: jobs that run ahead of their turn.

A small file is a round of messages with the daemon, at whose end both mostly wait; so some run at
once, each on a thread for its first half. The rest stays as without them: files are put in their
places and told of one after the other, in the order of the command line. How many run at once
grows with each small file that came; a large one brings it back to one, since that shares the link
with nobody for the better. With a number of jobs given, so many run at once whatever their size,
and each is finished as soon as it can be.
"""
from __future__ import annotations

import threading
from collections import deque
from itertools import islice
from queue import SimpleQueue
from typing import Deque, Iterable, Iterator, List, Optional

from dfly.cli import interrupted_code
from dfly.cli.deliver import stop_copies
from dfly.cli.job import DeadlinePassed, Job

WIDTH_MAX = 8        # jobs under way at once: more bring nothing on a few cores
SMALL_MAX = 8 << 20  # bytes


def ahead(jobs: Iterable[Job]) -> Iterator[int]:
    """The exit code of each job, in their order."""
    begun: Deque[_Begun] = deque()
    coming = iter(jobs)
    work: SimpleQueue[Optional[_Begun]] = SimpleQueue()
    width, threads = 1, 0
    try:
        while True:
            for job in islice(coming, max(0, width - len(begun))):
                begun.append(_Begun(job, at_once=False))
                work.put(begun[-1])
            if threads < width:
                threads += 1
                threading.Thread(target=_work, args=(work,), daemon=True).start()
            if not begun:
                return
            first = begun.popleft()
            yield first.code()
            if first.job.length is not None:
                width = min(width + 1, WIDTH_MAX) if first.job.length <= SMALL_MAX else 1
    finally:
        for _ in range(threads):
            work.put(None)


def at_once(jobs: List[Job], width: int) -> Iterator[int]:
    """The same, with so many at once; each is finished on its own."""
    work: SimpleQueue[Optional[_Begun]] = SimpleQueue()
    begun = [_Begun(job, at_once=True) for job in jobs]
    for one in begun:
        work.put(one)
    for _ in range(min(width, len(jobs))):
        work.put(None)
        threading.Thread(target=_work, args=(work,), daemon=True).start()
    try:
        for one in begun:
            yield one.code()
    except (KeyboardInterrupt, DeadlinePassed):   # the program ends with it
        stop_copies()
        raise


def _work(work: SimpleQueue[Optional[_Begun]]) -> None:
    for begun in iter(work.get, None):
        begun.run()


class _Begun:
    """One job whose first half (or all of it) runs on another thread."""

    def __init__(self, job: Job, *, at_once: bool) -> None:
        self.job = job
        self._at_once = at_once
        self._came = threading.Event()
        self._code = 0
        self._error: Optional[BaseException] = None

    def run(self) -> None:
        """Called once, by the thread whose work it is."""
        try:
            self.job.fetch()
            if self._at_once:
                self._code = self.job.finish()
        except BaseException as error:
            self._error = error   # raised where its code is asked for
        finally:
            self._came.set()

    def code(self) -> int:
        """Its exit code, when it has run."""
        try:
            self._came.wait()
        except KeyboardInterrupt as stop:
            self.job.row.interrupted(interrupted_code(stop))
            raise
        except DeadlinePassed as error:
            self.job.row.failed(error)
            raise
        if self._error is not None:
            raise self._error
        return self._code if self._at_once else self.job.finish()
