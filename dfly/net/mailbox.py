"""Calls from any thread into the loop's, in the order in which they were posted.

One wake-up of the loop serves all that was posted before it comes to deliver: a wake-up costs more
than most of what it announces. A thread that is about to post several times holds the mailbox
meanwhile. Nothing here knows what the calls do.
"""
from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from typing import Any, Callable, Deque, Tuple

log = logging.getLogger(__name__)


class Mailbox:
    """A queue of calls that ends in one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: Deque[Tuple[Callable[..., None], Tuple[Any, ...]]] = deque()
        self._is_signalled = False   # a delivery is on its way, and hasn't begun
        self._mine = threading.local()

    def post(self, call: Callable[..., None], *args: Any) -> None:
        """Have the loop call `call(*args)`. A loop that has ended never will."""
        self._calls.append((call, args))
        if not self._is_signalled and not getattr(self._mine, "is_holding", False):
            self._signal()

    def hold(self) -> None:
        """This thread posts more in a moment: `let_go` will wake the loop, once."""
        self._mine.is_holding = True

    def let_go(self) -> None:
        self._mine.is_holding = False
        if self._calls and not self._is_signalled:
            self._signal()

    def _signal(self) -> None:
        # Two threads may come here at once: the second delivery then finds nothing, or less.
        self._is_signalled = True
        try:
            self._loop.call_soon_threadsafe(self.deliver)
        except RuntimeError:   # the loop has ended, and with it all who could be told
            self._calls.clear()

    def deliver(self) -> None:
        """On the loop's thread: make the calls that were posted until now."""
        self._is_signalled = False   # first: what is posted from here on signals anew
        for _ in range(len(self._calls)):
            if not self._calls:
                return   # a call delivered them itself
            call, args = self._calls.popleft()
            try:
                call(*args)
            except Exception:   # a mistake in one must not lose the others
                log.exception("a call from another thread failed")
