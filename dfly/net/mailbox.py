"""Calls from any thread into the loop's, in the order in which they were posted.

One wake-up of the loop serves all that was posted before it comes to deliver: a wake-up costs more
than most of what it announces. A thread that is about to post several times holds the mailbox
meanwhile. The wake-up is a byte in a pipe, read once: half the cost of `call_soon_threadsafe`.
Nothing here knows what the calls do.
"""
from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from typing import Any, Callable, Deque, Tuple

WAKES_MAX = 64   # bytes read at a delivery: threads may signal at once
log = logging.getLogger(__name__)


class Mailbox:
    """A queue of calls that ends in one event loop; made on its thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._calls: Deque[Tuple[Callable[..., None], Tuple[Any, ...]]] = deque()
        self._is_signalled = False   # a delivery is on its way, and hasn't begun
        self._is_closed = False
        self._mine = threading.local()
        self._lock = threading.Lock()   # of the pipe's life
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        loop.add_reader(self._wake_in, self._on_wake)

    def post(self, call: Callable[..., None], *args: Any) -> None:
        """Have the loop call `call(*args)`. A mailbox that is closed never will."""
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

    def close(self) -> None:
        """On the loop's thread: deliver what was posted, and nothing more."""
        self.deliver()
        with self._lock:
            self._is_closed = True
            self._calls.clear()
            self._loop.remove_reader(self._wake_in)
            os.close(self._wake_in)
            os.close(self._wake_out)

    def _signal(self) -> None:
        with self._lock:
            if self._is_closed:
                self._calls.clear()
            elif threading.get_ident() == self._thread:
                self._is_signalled = True
                self._loop.call_soon(self.deliver)
            elif not self._is_signalled:
                self._is_signalled = True
                os.write(self._wake_out, b"\0")

    def _on_wake(self) -> None:
        os.read(self._wake_in, WAKES_MAX)
        self.deliver()

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
