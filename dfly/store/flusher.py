"""A small thread that does a store's late work: commits of marks, and syncs long after.

It sleeps on a condition until the next work is due, so an idle store costs no wake-ups; it starts
with the first work. It knows nothing of stores: it calls what it was given.
"""
from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Callable, Deque, Optional, Tuple

from dfly.clock import Clock
from dfly.errors import DflyError

COMMIT_AFTER_S = 0.1  # marks that a kill may lose: this long, or a batch
RETRY_AFTER_S = 5.0   # after a failed commit (disk full): marks wait in memory meanwhile
SYNC_AFTER_S = 60.0   # the kernel writes dirty pages after 30 s: a sync then costs no burst

_log = logging.getLogger(__name__)
Work = Callable[[], None]


class Flusher:
    """Runs `commit` soon after `soon()`, and each `sync_later(work)` a minute later."""

    def __init__(self, commit: Work) -> None:
        self._commit = commit
        self._commit_at: Optional[float] = None
        self._syncs: Deque[Tuple[float, Work]] = deque()
        self._clock = Clock()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: Optional[threading.Thread] = None

    def soon(self) -> None:
        with self._changed:
            if self._commit_at is None:
                self._commit_at = self._clock.now() + COMMIT_AFTER_S
                self._awaken()

    def sync_later(self, work: Work) -> None:
        with self._changed:
            self._syncs.append((self._clock.now() + SYNC_AFTER_S, work))
            self._awaken()

    def stop(self) -> None:
        """No work starts after this returns; what isn't done is left undone."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _awaken(self) -> None:
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._run, name="store", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        while True:
            work = self._next()
            if work is None:
                return
            try:
                work()
            except DflyError as error:
                _log.warning("the store goes on, but what it holds may not outlive it: %s", error)
                with self._changed:
                    self._commit_at = self._clock.now() + RETRY_AFTER_S

    def _next(self) -> Optional[Work]:
        """Wait for the next work that is due; None = stop."""
        with self._changed:
            while not self._stopping:
                now = self._clock.now()
                if self._commit_at is not None and self._commit_at <= now:
                    self._commit_at = None
                    return self._commit
                if self._syncs and self._syncs[0][0] <= now:
                    return self._syncs.popleft()[1]
                times = [at for at in (self._commit_at, self._syncs[0][0] if self._syncs else None)
                         if at is not None]
                self._changed.wait(min(times) - now if times else None)
        return None
