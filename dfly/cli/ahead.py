"""Many small files in one command: downloads that run ahead of their turn.

The daemon would wait for the source, the manager and the client in turn, once for each file. So a
few requests are under way at once, and each download is told of, named and delivered when its turn
comes, in the order of the command line. How many at once grows with each small file that came; a
large one brings it back to one, since that shares the link with nobody for the better.
"""
from __future__ import annotations

import threading
from collections import deque
from itertools import islice
from queue import SimpleQueue
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, Optional, Tuple

from dfly.cli.download import Download
from dfly.clock import Clock

WIDTH_MAX = 8        # downloads under way at once: more bring nothing on a few cores
SMALL_MAX = 8 << 20  # bytes

Event = Dict[str, Any]


def ahead(downloads: Iterable[Download]) -> Iterator[Begun]:
    """Each download in its order, begun already. Whoever takes the next has run the last to its
    end."""
    begun: Deque[Begun] = deque()
    coming = iter(downloads)
    work: SimpleQueue[Optional[Begun]] = SimpleQueue()
    width, threads = 1, 0
    try:
        while True:
            for download in islice(coming, max(0, width - len(begun))):
                begun.append(Begun(download))
                work.put(begun[-1])
            if threads < width:
                threads += 1
                threading.Thread(target=_fetch_all, args=(work,), daemon=True).start()
            if not begun:
                return
            first = begun.popleft()
            yield first
            if first.length is not None:
                width = min(width + 1, WIDTH_MAX) if first.length <= SMALL_MAX else 1
    finally:
        for _ in range(threads):
            work.put(None)


def _fetch_all(work: SimpleQueue[Optional[Begun]]) -> None:
    for begun in iter(work.get, None):
        begun.fetch()


class Begun:
    """One download whose first half runs on another thread."""

    def __init__(self, download: Download) -> None:
        self.request = download.request
        self.began_at = Clock().now()
        self.length: Optional[int] = None   # bytes, once it's done
        self._download = download
        self._in_turn = False
        self._news: SimpleQueue[Optional[Event]] = SimpleQueue()
        self._done: Optional[Tuple[Event, int]] = None
        self._error: Optional[BaseException] = None

    def run(self, on_event: Callable[[Event], None]) -> Tuple[str, Event]:
        """As Download.run; events from before its turn come at once, progress left out."""
        self._in_turn = True
        for event in iter(self._news.get, None):
            on_event(event)
        if self._error is not None:
            raise self._error
        assert self._done is not None
        done, fd = self._done
        path = self._download.deliver(done, fd)
        length = done.get("length")
        self.length = length if isinstance(length, int) else None
        return path, done

    def fetch(self) -> None:
        """The first half; called once, by the thread whose work it is."""
        try:
            self._done = self._download.fetch(self._on_event)
        except BaseException as error:
            self._error = error  # it is raised where the download has its turn
        finally:
            self._news.put(None)

    def _on_event(self, event: Event) -> None:
        if self._in_turn or event.get("event") != "progress":
            self._news.put(event)
