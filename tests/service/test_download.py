"""One task on this host, by what its manager says; the manager's link is a stand-in that notes."""
from __future__ import annotations

import asyncio
import random
from typing import Any, List, Tuple

import pytest

from dfly.clock import Clock
from dfly.errors import DflyError
from dfly.service.download import Means, TaskDownload
from dfly.service.metrics import Metrics
from dfly.service.wish import Wish
from dfly.store.memory import MemoryStore
from dfly.task import Geometry, TaskSpec
from dfly.units import MIB
from dfly.wire.messages import Accepted, TaskFailed

SPEC = TaskSpec("http://files.example/a")
SWARM = 5


class NotingLink:
    """As much of a ManagerLink as a member uses."""

    name = "manager"
    address = ("192.0.2.1", 1)

    def __init__(self) -> None:
        self.calls: List[Tuple[str, int]] = []

    def attach(self, swarm: int, member: object) -> None:
        self.calls.append(("attach", swarm))

    def leave(self, swarm: int) -> None:
        self.calls.append(("leave", swarm))


def test_a_download_that_failed_leaves_its_swarm_at_once_and_only_once() -> None:
    async def run() -> None:
        store: Any = MemoryStore()
        nothing: Any = None
        means = Means(store, nothing, nothing, Metrics(), Clock(), random.Random(1), (), nothing)
        file = store.open(SPEC.task_id, "v", Geometry(10 * MIB, MIB))
        download = TaskDownload(means, Wish(SPEC), file)
        link: Any = NotingLink()
        download.start_led(link, Accepted(1, SWARM, SPEC.task_id, "v", 10 * MIB, MIB))
        download.told(TaskFailed(SWARM, 9, "the content contradicts its digest"))
        # A retry may join the same swarm before this download is put away.
        assert link.calls == [("attach", SWARM), ("leave", SWARM)]
        with pytest.raises(DflyError):
            await download.done
        await download.abandon(DflyError("put away"))
        assert len(link.calls) == 2
    asyncio.run(run())
