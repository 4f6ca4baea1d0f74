"""A daemon without its network: what it keeps of its tasks, and what it forgets."""
from __future__ import annotations

import asyncio
from argparse import Namespace
from pathlib import Path
from typing import Any

from dfly.config import PeerSettings, load
from dfly.errors import DflyError
from dfly.service.peer import Peer


class Ended:
    """A download that is over, and that callers still wait for or not."""

    is_over = True
    is_done = True

    def __init__(self, waiters: int) -> None:
        self.waiters = waiters
        self.abandoned = False

    async def abandon(self, error: DflyError) -> None:
        self.abandoned = True


def test_what_left_the_store_is_no_longer_among_what_is_shared(tmp_path: Path) -> None:
    async def scene() -> None:
        peer = Peer(load(PeerSettings, Namespace(store=str(tmp_path / "store"),
                                                 socket=str(tmp_path / "s")), {}))
        try:
            gone, awaited = Ended(0), Ended(1)
            downloads: Any = {"gone": gone, "awaited": awaited}
            peer._downloads = downloads
            peer.sharing.tasks |= {"gone", "awaited"}
            await peer._forget_over()
            assert gone.abandoned and not awaited.abandoned
            assert set(downloads) == peer.sharing.tasks == {"awaited"}
        finally:
            peer.store.close()
    asyncio.run(scene())
