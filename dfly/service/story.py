"""Why one download took as long as it did, for `dfly get --explain`.

A Story looks at a download ten times a second on behalf of one caller and books each moment where
it belongs; what the download did anyhow (runs by parent, troubles) it reads at the end. Nothing
here changes anything.
"""
from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from dfly.clock import Clock
from dfly.errors import printable
from dfly.names import join_address

if TYPE_CHECKING:
    from dfly.service.download import TaskDownload

LOOK_S = 0.1          # between two looks
TROUBLES_MAX = 50     # told in full; of more, the last
PARENTS_MAX = 200     # told, those that gave most


@dataclass
class ParentStory:
    """What one parent gave; `seconds` = of its runs, one beside the other."""

    origin: str
    bytes: int = 0
    runs: int = 0
    failed: int = 0
    seconds: float = 0.0


class Troubles:
    """What went wrong on the way, as it happened; the oldest of many are forgotten."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: List[Tuple[float, str]] = []   # a deque would have room for all from the start
        self._count = 0

    def add(self, what: str) -> None:
        self._count += 1
        self._kept.append((self._clock.now(), what))
        del self._kept[:-TROUBLES_MAX]

    def since(self, began_at: float) -> List[Dict[str, Any]]:
        """Those of a caller who came then."""
        return [{"at_s": round(at - began_at, 2), "what": printable(what)}
                for at, what in self._kept if at >= began_at]

    @property
    def forgotten(self) -> int:
        return self._count - len(self._kept)


class Story:
    """Of one caller's wait, until `end`."""

    def __init__(self, download: TaskDownload, clock: Clock, began_at: float) -> None:
        self._download = download
        self._clock = clock
        self._began_at = began_at
        self._accepted_at = clock.now()
        self._seen_at = self._accepted_at
        self._written = download.file.written
        self._disk_s = download.file.disk_s
        self._spent: Dict[str, float] = {"source_s": 0.0, "parents_s": 0.0, "moving_s": 0.0}
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)

    def end(self) -> None:
        self._timer.cancel()

    def _look_again(self) -> None:
        self._look()
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)

    def _look(self) -> None:
        now, written = self._clock.now(), self._download.file.written
        doing = "moving_s" if written > self._written else self._awaited()
        self._spent[doing] += now - self._seen_at
        self._seen_at, self._written = now, written

    def _awaited(self) -> str:
        """Nothing came: whom we wait for. While no digest of what is missing is known, the
        manager itself has no more yet: it waits for the source."""
        download = self._download
        missing = ~download.file.have
        if not download.led_by or (not download.runs and download.uses_source):
            return "source_s"
        return "parents_s" if missing & download.file.known else "source_s"

    def told(self, done_at: float) -> Dict[str, Any]:
        """As the last event carries it (dfly(7)); since `done_at` the content was compared with
        its digests."""
        self._look()
        download = self._download
        parents = sorted(download.parents_told().items(), key=lambda entry: -entry[1].bytes)
        return {
            "total_s": round(self._clock.now() - self._began_at, 3),
            "asked_s": round(self._accepted_at - self._began_at, 3),
            **{name: round(spent, 3) for name, spent in self._spent.items()},
            "disk_s": round(download.file.disk_s - self._disk_s, 3),
            "check_s": round(self._clock.now() - done_at, 3),
            "parents": [{"address": join_address(*address), "origin": parent.origin,
                         "bytes": parent.bytes, "runs": parent.runs, "failed": parent.failed,
                         "seconds": round(parent.seconds, 3)}
                        for address, parent in parents[:PARENTS_MAX]],
            "retries": download.troubles.since(self._began_at),
            "retries_more": download.troubles.forgotten,
            "p2p_lost": download.losses.since(self._began_at),
        }
