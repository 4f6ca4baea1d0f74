"""One task on this host, by what its manager says; the manager's link is a stand-in that notes."""
from __future__ import annotations

import asyncio
import gc
import hashlib
import random
import tracemalloc
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, List, Tuple

import pytest

from dfly.access import Access, Login, TlsSettings
from dfly.clock import Clock
from dfly.digest import Digest
from dfly.errors import DflyError, DigestMismatch, FileError, NetworkError, NoSpace
from dfly.net.limiter import Limiter
from dfly.service.download import Means, TaskDownload
from dfly.service.metrics import Metrics
from dfly.service.runtime import Leftovers
from dfly.service.wish import Wish, join_of
from dfly.store.memory import MemoryStore
from dfly.store.sink import PieceMismatch
from dfly.task import Geometry, TaskSpec
from dfly.units import MIB
from dfly.wire.messages import Accepted, Changed, TaskFailed

SPEC = TaskSpec("http://files.example/a")
SWARM = 5
WISH = Wish(SPEC)


class NotingLink:
    """As much of a ManagerLink as a member uses."""

    name = "manager"
    address = ("192.0.2.1", 1)

    def __init__(self) -> None:
        self.calls: List[Tuple[str, int]] = []

    def stored(self, swarm: int, piece: int) -> None:
        self.calls.append(("stored", piece))

    def attach(self, swarm: int, member: object) -> None:
        self.calls.append(("attach", swarm))

    def leave(self, swarm: int) -> None:
        self.calls.append(("leave", swarm))


def download_of(length: int, wish: Wish = WISH) -> Tuple[TaskDownload, Any]:
    """A download that nobody leads yet, and its file in a store in memory."""
    store: Any = MemoryStore()
    nothing: Any = None
    managers: Any = SimpleNamespace(any_known=False)
    loop = asyncio.get_running_loop()
    lines: Any = SimpleNamespace(mailbox=SimpleNamespace(post=loop.call_soon_threadsafe))
    means = Means(store, nothing, lines, managers, Metrics(), Clock(), random.Random(1), (),
                  nothing)
    file = store.open(SPEC.task_id, "v", Geometry(length, MIB))
    return TaskDownload(means, wish, file), file


def test_a_download_that_failed_leaves_its_swarm_at_once_and_only_once() -> None:
    async def run() -> None:
        download, _ = download_of(10 * MIB)
        link: Any = NotingLink()
        download.start_led(link, accepted(10 * MIB))
        download.told(TaskFailed(SWARM, 9, "the content contradicts its digest"))
        # A retry may join the same swarm before this download is put away.
        assert link.calls == [("attach", SWARM), ("leave", SWARM)]
        with pytest.raises(DflyError):
            await download.done
        await download.abandon(DflyError("put away"))
        assert len(link.calls) == 2
    asyncio.run(run())


def test_a_content_of_wrong_digest_leaves_the_store_before_anybody_hears_of_it() -> None:
    async def run() -> None:
        download, file = download_of(10 * MIB)
        link: Any = NotingLink()
        download.start_led(link, accepted(10 * MIB))
        file.put(0, bytes(MIB), hashlib.sha256(bytes(MIB)).digest())
        download.told(TaskFailed(SWARM, 9, "the content's digest is another"))
        with pytest.raises(DigestMismatch, match="another"):
            await download.done
        assert download._means.store.find(SPEC.task_id) is None
        await download.abandon(DflyError("put away"))
    asyncio.run(run())


def test_a_source_whose_piece_is_wrong_costs_none_of_the_pieces_held() -> None:
    class LyingIngest:
        async def fetch(self, file: Any, **_: Any) -> None:
            raise PieceMismatch("piece 1 has wrong bytes", "", 1)

        async def close(self) -> None:
            pass

    async def run() -> None:
        download, file = download_of(10 * MIB)
        file.put(0, bytes(MIB), hashlib.sha256(bytes(MIB)).digest())
        ingest: Any = LyingIngest()
        download.start_alone(ingest)
        with pytest.raises(PieceMismatch):
            await download.done
        await download.abandon(DflyError("put away"))
        kept = download._means.store.find(SPEC.task_id)
        assert kept is file and file.have == 1 and file.failed is None
    asyncio.run(run())


class WaitingIngest:
    """A source that gives nothing."""

    async def fetch(self, file: Any, **_: Any) -> None:
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        return


@pytest.mark.parametrize("wish, asked", [
    (Wish(SPEC), True), (Wish(SPEC, alone=True), False),
    (Wish(SPEC, Access(tls=TlsSettings(cert="CERT", key="KEY"))), False)])
def test_whoever_wants_no_swarm_is_told_of_to_no_manager(wish: Wish, asked: bool) -> None:
    class Managers:
        any_known = True
        heard = False

        def for_task(self, task_id: str) -> List[Any]:
            self.heard = True
            return []

        async def next_opening(self) -> None:
            await asyncio.get_running_loop().create_future()

    async def run() -> None:
        download, _ = download_of(10 * MIB, wish)
        managers: Any = Managers()
        download._means = replace(download._means, managers=managers)
        ingest: Any = WaitingIngest()
        download.start_alone(ingest)
        for _ in range(5):
            await asyncio.sleep(0)
        assert managers.heard is asked
        await download.abandon(DflyError("put away"))
        with pytest.raises(DflyError):
            await download.done
    asyncio.run(run())


def test_a_join_tells_no_key() -> None:
    login = Login("http://files.example:80", "user", "hush")
    free = join_of(Wish(SPEC, Access(logins=(login,)), limit_bps=9.5), None, (), 1)
    assert free.access.logins == (login,) and free.limit_bps == 10
    kept = join_of(Wish(SPEC, Access(logins=(login,), tls=TlsSettings(cert="C", key="KEY"))),
                   None, (Limiter(7.0),), 1)
    assert kept.access == Access() and kept.limit_bps == 7


def test_a_complete_file_that_proves_damaged_is_not_delivered_again() -> None:
    async def run() -> None:
        download, file = download_of(10)
        link: Any = NotingLink()
        download.start_led(link, accepted(10))
        file.put(0, b"0123456789", hashlib.sha256(b"0123456789").digest())
        await download.done
        assert download.is_done and not download.is_over
        file.unmark(1)   # as `dfly cache verify` does
        await asyncio.sleep(0)
        assert download.is_over
        assert link.calls[-1] == ("leave", SWARM)
        await download.abandon(DflyError("put away"))
    asyncio.run(run())


def test_a_small_task_that_the_store_cant_take_fails_for_its_callers() -> None:
    async def run() -> None:
        download, file = download_of(10)

        def full(*_: object) -> None:
            raise NoSpace("the disk is full")
        file.put = full
        link: Any = NotingLink()
        download.start_led(link, replace(accepted(10), inline=b"0123456789"))
        with pytest.raises(NoSpace):
            await asyncio.wait_for(asyncio.shield(download.done), 5)
        assert download.is_over and ("leave", SWARM) in link.calls
    asyncio.run(run())


def test_a_file_that_left_the_store_is_closed_once_its_download_is_put_away() -> None:
    """Its room on the disk is free only then; downloads hang together in cycles."""
    async def run() -> "weakref.ref[Any]":
        download, file = download_of(10 * MIB)
        store = download._means.store
        leftovers = Leftovers(store)
        link: Any = NotingLink()
        download.start_led(link, accepted(10 * MIB))
        assert store.remove(SPEC.task_id)
        with pytest.raises(FileError):
            await download.done
        await download.abandon(FileError("put away"))
        gone = weakref.ref(file)
        del download, file
        await asyncio.sleep(0)
        leftovers.collect()
        return gone
    gc.disable()
    try:
        assert asyncio.run(run())() is None
    finally:
        gc.enable()


def accepted(length: int) -> Accepted:
    return Accepted(1, SWARM, SPEC.task_id, "v", length, MIB)


# ------------------------------------------------------------------ whole, and its swarm over
@pytest.mark.parametrize("message, content, stays", [
    (TaskFailed(SWARM, NetworkError.exit_code, "gone"), b"x", True),
    (Changed(SWARM), b"x", True),
    (TaskFailed(SWARM, DigestMismatch.exit_code, "wrong"), b"x", True),
    (TaskFailed(SWARM, DigestMismatch.exit_code, "wrong"), b"y", False)])
def test_what_is_whole_is_offered_anew_when_its_swarm_ends(
        message: Any, content: bytes, stays: bool) -> None:
    """A manager can't take from a host what is right here, and who was deceived offers nothing."""
    async def scenario() -> None:
        download, file = download_of(1)
        digest = Digest("sha256", hashlib.sha256(b"x").digest())
        download.wish = replace(download.wish, spec=replace(SPEC, digest=digest))
        link: Any = NotingLink()
        offers: List[str] = []
        found = asyncio.Event()

        def asked(task_id: str) -> List[object]:
            offers.append(task_id)
            found.set()
            return []
        managers: Any = download._means.managers
        managers.for_task, managers.next_opening = asked, asyncio.Event().wait
        file.put(0, content, hashlib.sha256(content).digest())
        download.start_led(link, Accepted(1, SWARM, file.task_id, "v", 1, MIB, b"t"))
        assert download.is_done and not offers
        download.told(message)
        assert ("leave", SWARM) in link.calls
        if stays:
            await asyncio.wait_for(found.wait(), 5)
            assert not download.is_over
        else:
            await asyncio.wait(set(download._tasks._running), timeout=5)
            assert download.is_over and not offers
            assert download._means.store.records() == []
        await download.abandon(FileError("the test is over"))
    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_a_file_that_is_gone_is_offered_no_more() -> None:
    """Its Offer would bring this host into a swarm where another download of it is by then."""
    async def scenario() -> bool:
        download, file = download_of(1)
        file.put(0, b"x", hashlib.sha256(b"x").digest())
        managers: Any = download._means.managers
        managers.for_task, managers.next_opening = lambda _: [], asyncio.Event().wait
        download.start_seeding()
        await asyncio.sleep(0)
        download._means.store.remove(file.task_id)
        await asyncio.sleep(0.01)
        assert download._led is not None
        gone = download.is_over and download._led.cancelled()
        await download.abandon(FileError("the test is over"))
        return gone
    assert asyncio.run(scenario())


def test_nothing_waits_while_a_manager_leads_and_its_loss_is_heard_each_time() -> None:
    async def scenario() -> None:
        download, file = download_of(1)
        file.put(0, b"x", hashlib.sha256(b"x").digest())
        link: Any = NotingLink()
        link.asked = 0
        managers: Any = download._means.managers
        managers.for_task, managers.next_opening = lambda _: [link], asyncio.Event().wait
        found = asyncio.Event()

        async def opened(*_: Any) -> bool:
            return True

        async def join(*_: Any) -> Accepted:
            link.asked += 1
            if link.asked == 2:   # lost again before it is known that it was found
                asyncio.get_running_loop().call_soon(download.link_lost)
            found.set()
            return Accepted(1, SWARM, file.task_id, "v", 1, MIB, b"t")
        link.opened, link.join = opened, join
        download.start_led(link, Accepted(1, SWARM, file.task_id, "v", 1, MIB, b"t"))
        await asyncio.sleep(0.01)
        assert download.is_done and not download._tasks._running
        for times in (1, 3):
            download.link_lost()
            await asyncio.wait_for(found.wait(), 5)
            await asyncio.sleep(0.01)
            found.clear()
            assert link.asked == times and not download._tasks._running
        await download.abandon(FileError("the test is over"))
    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_a_task_that_is_kept_is_small() -> None:
    """A daemon may hold thousands, of which nothing is wanted just now."""
    async def scenario() -> float:
        kept = [download_of(1) for _ in range(20)]
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            kept += [download_of(1) for _ in range(200)]
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        return (after - before) / 200
    assert asyncio.run(scenario()) < 14_000   # with a store and a file of its own
