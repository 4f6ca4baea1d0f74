"""Where the pieces of a download came from: counted once each, as the store marks them.

The store tells its watchers of a piece in the context of whoever brought it, so whoever carries
a body says by `carried()` whose it is, and the watcher asks `carrier()`. Counting anywhere else
would count a piece that two transfers brought twice, or after its download is reported as done.
"""
from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Dict, Iterator

from dfly.net.transfer import Sink
from dfly.store.piecefile import held_bytes
from dfly.task import Geometry

PEERS, MANAGER, SOURCE = "peers", "manager", "source"
CACHE = "cache"   # this host had them


@dataclass
class Received:
    """Piece sets by origin. `cache`: held before this download began."""

    cache: int = 0
    came: Dict[str, int] = field(default_factory=lambda: {PEERS: 0, MANAGER: 0, SOURCE: 0})

    def add(self, piece: int, origin: str) -> None:
        if origin == CACHE:
            self.cache |= 1 << piece
        else:
            self.came[origin] |= 1 << piece

    @property
    def pieces(self) -> int:
        """All of them so far."""
        every = self.cache
        for pieces in self.came.values():
            every |= pieces
        return every

    def sizes(self, geometry: Geometry, before: int = 0) -> Dict[str, int]:
        """Content bytes by origin. For a caller who came when the pieces `before` were here
        already, those are "cache"."""
        sets = {origin: pieces & ~before for origin, pieces in self.came.items()}
        return {"cache": held_bytes(geometry, self.cache | before),
                **{origin: held_bytes(geometry, pieces) for origin, pieces in sets.items()}}


_carrier: ContextVar[str] = ContextVar("carrier", default=SOURCE)


def carrier() -> str:
    """Whose bytes are being stored; the source's unless told otherwise."""
    return _carrier.get()


@contextmanager
def carried(origin: str) -> Iterator[None]:
    """What is stored meanwhile is of `origin`."""
    before = _carrier.set(origin)
    try:
        yield
    finally:
        _carrier.reset(before)


class OriginSink:
    """A sink whose pieces are known to come from `origin`."""

    def __init__(self, sink: Sink, origin: str) -> None:
        self._sink = sink
        self._origin = origin

    def feed(self, view: memoryview) -> None:
        with carried(self._origin):
            self._sink.feed(view)

    def finish(self) -> None:
        with carried(self._origin):
            self._sink.finish()
