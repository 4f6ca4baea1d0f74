"""A manager's view of hosts that share: whom it believes what, whom it asks, who is asked last."""
from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Dict, List, Optional, Tuple

import pytest

from dfly.clock import Clock
from dfly.core.events import PiecesHeld
from dfly.digest import Digest, sha256
from dfly.errors import DflyError, DigestMismatch, NetworkError, NoManager, ServerError
from dfly.names import shared_url
from dfly.net.http_client import HttpClient
from dfly.net.mover import Movers
from dfly.service import givers as givers_module
from dfly.service.content import shared_version
from dfly.service.givers import Givers, GiversSource, SharedIngest
from dfly.service.ingest import IngestLimits, held_state
from dfly.service.swarms import LedTask
from dfly.source import SourceRequest, Version
from dfly.store.memory import MemoryStore
from dfly.task import PIECE_SIZE_MIN, Geometry, TaskSpec, full_set
from dfly.wire.messages import Hello, Offer
from tests.support import SourceServer

CONTENT = random.Random(4).randbytes(5 * PIECE_SIZE_MIN + 7)
PIECES = 6
DIGEST = Digest("sha256", sha256(CONTENT))
SPEC = TaskSpec(shared_url(str(DIGEST)), digest=DIGEST)
TASK = SPEC.task_id
VERSION = shared_version(DIGEST, len(CONTENT))
OFFER = Offer(1, TASK, VERSION.token, PIECE_SIZE_MIN, len(CONTENT), full_set(PIECES))


class Town:
    """Hosts, their offers, and maybe the task that is led."""

    def __init__(self, *ports: int) -> None:
        self.hosts: Dict[int, Any] = {}
        self.offers: Dict[str, Dict[int, Offer]] = {}
        self.task: Optional[LedTask] = None
        for port in ports:
            self.add(port)
        self.store = MemoryStore()
        self.givers = Givers(self.hosts, self.offers, lambda _: self.task, Clock())

    def add(self, port: int, address: str = "127.0.0.1") -> int:
        number = len(self.hosts) + 1
        self.hosts[number] = SimpleNamespace(hello=Hello(bytes([number] * 16), port),
                                             address=address)
        return number

    def offer(self, number: int, **otherwise: Any) -> None:
        self.offers.setdefault(TASK, {})[number] = replace(OFFER, **otherwise)
        self.givers.came(TASK)

    def lead(self, spec: TaskSpec = SPEC) -> LedTask:
        file = self.store.open(TASK, VERSION.token, Geometry(len(CONTENT), PIECE_SIZE_MIN))
        self.task = LedTask(1, spec, VERSION, file, b"t" * 16, False, 0.0)
        return self.task


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(givers_module, "START_S", 0.0)
    monkeypatch.setattr(givers_module, "RETURN_S", 0.0)
    monkeypatch.setattr(givers_module, "BACKOFF_S", 0.001)


# ------------------------------------------------------------------------------- offers
@pytest.mark.parametrize("otherwise", [
    {"have": full_set(PIECES) - 1}, {"have": 0}, {"length": len(CONTENT) - 1}, {"length": 0},
    {"piece_size": 2 * PIECE_SIZE_MIN, "have": full_set(3)}, {"piece_size": 7},
    {"version": "what"}, {"length": 1 << 62},
    {"version": Version('"a-sources"', length=len(CONTENT)).token}])
def test_an_offer_of_what_can_not_be_counts_for_nothing(otherwise: Dict[str, Any]) -> None:
    async def ask() -> Offer:
        town = Town(1)
        town.offer(1, **otherwise)
        return await town.givers.best_offer(SPEC)
    with pytest.raises(NoManager):
        asyncio.run(ask())


def test_most_of_the_hosts_that_were_never_in_doubt_are_believed() -> None:
    short = len(CONTENT) - 1
    other = replace(OFFER, version=shared_version(DIGEST, short).token, length=short)

    async def ask() -> List[int]:
        town, heard = Town(1, 2, 3), []
        town.offers[TASK] = {1: other, 2: OFFER, 3: OFFER}
        for doubted in (2, 3, 1, 1):
            heard.append((await town.givers.best_offer(SPEC)).length)
            town.givers.doubt(town.hosts[doubted].hello.host_id)
        heard.append((await town.givers.best_offer(SPEC)).length)
        return heard
    assert asyncio.run(ask()) == [len(CONTENT), short, short, len(CONTENT), len(CONTENT)]


def test_a_manager_that_has_just_started_waits_for_hosts_to_come_back(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(givers_module, "START_S", 30.0)

    async def ask() -> Offer:
        town = Town(1)
        asking = asyncio.ensure_future(town.givers.best_offer(SPEC))
        await asyncio.sleep(0.01)
        assert not asking.done()
        town.offer(1, have=0)   # of no use, but it wakes who waits
        await asyncio.sleep(0.01)
        assert not asking.done()
        town.offer(1)
        return await asyncio.wait_for(asking, 5)
    assert asyncio.run(ask()) == OFFER


def test_no_more_doubts_are_remembered_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(givers_module, "DOUBTS_MAX", 3)
    town = Town()
    for number in (1, 2, 1, 3, 4, 5):
        town.givers.doubt(bytes([number]))
    assert list(town.givers._doubts) == [b"\x03", b"\x04", b"\x05"]


# ------------------------------------------------------------------------------- belief
def test_what_a_giver_holds_is_told_once_it_was_checked() -> None:
    town, told = Town(1, 2), []
    task = town.lead()
    whole = full_set(PIECES)
    assert town.givers.believed(task, 2, whole) == 0 == town.givers.believed(task, 1, 3)
    assert task.givers == {2}   # the other holds a part
    town.givers.checked(TASK, told.append)
    assert told == [PiecesHeld(1, 2, whole)]
    assert town.givers.believed(task, 1, whole) == whole
    town.task = None
    town.givers.checked(TASK, told.append)   # it ended meanwhile
    assert len(told) == 1


def test_a_task_of_a_source_believes_offers_as_ever() -> None:
    town = Town(1)
    task = town.lead(TaskSpec("http://files.example/a", digest=DIGEST))
    assert town.givers.believed(task, 1, 5) == 5 and not task.givers


# -------------------------------------------------------------------------------- fetching
async def fetched(town: Town, numbers: Tuple[int, ...]) -> bool:
    """Fetch it from the hosts; True if it came to its check."""
    movers = Movers(threads=2)
    movers.start(asyncio.get_running_loop())
    client = HttpClient(movers)
    checked: List[bool] = []
    source = GiversSource(town.givers, town.store, client, SPEC)
    ingest = SharedIngest(source, SPEC, lambda: checked.append(True),
                          limits=IngestLimits(connections=2, window_pieces=1),
                          rng=random.Random(1))
    try:
        held = town.store.find(TASK)
        known, start, stop = held_state(held)
        content = await ingest.begin(known, start=start, stop=stop)
        assert content.length == len(CONTENT) and not content.authorised
        task = town.lead()
        task.givers.update(numbers)
        town.offers.clear()
        await ingest.fetch(task.file, on_piece=lambda _: None)
    finally:
        await ingest.close()
        await client.close()
        movers.stop()
    return checked == [True]


def served(server: SourceServer, content: bytes = CONTENT, **faults: Any) -> int:
    """A host that serves `content` as the task's pieces; its port."""
    url = server.add(f"/v1/tasks/{TASK}", content, **faults)
    return int(url.split(":")[2].partition("/")[0])


def test_all_of_it_comes_from_one_host_by_the_swarms_token() -> None:
    with SourceServer() as server:
        town = Town(served(server))
        town.offer(1)
        assert asyncio.run(fetched(town, (1,)))
        assert town.task is not None and town.task.file.read(0, len(CONTENT)) == CONTENT
        assert server.body_bytes == len(CONTENT)
        heads = server.log
        assert {head.header("dfly-token") for head in heads} == {(b"t" * 16).hex()}
        assert all(head.header("if-match") for head in heads)


@pytest.mark.parametrize("faults", [
    {"status": 404}, {"status": 503}, {"cut_after": 1000}, {"ranges": False},
    {"content": CONTENT[:-1]}])
def test_the_next_host_gives_what_one_doesnt(faults: Dict[str, Any]) -> None:
    with SourceServer() as bad, SourceServer() as good:
        content = faults.pop("content", CONTENT)
        town = Town(served(bad, content, **faults), served(good))
        town.offer(1)
        assert asyncio.run(fetched(town, (1, 2)))
        assert town.task is not None and town.task.file.read(0, len(CONTENT)) == CONTENT
        assert bad.log and good.log


def test_no_host_gives_it() -> None:
    with SourceServer() as server:
        town = Town(served(server, status=404))
        town.offer(1)
        with pytest.raises((NetworkError, ServerError), match="404"):
            asyncio.run(fetched(town, (1,)))
        assert town.givers._doubts   # asked last the next time


def test_all_hosts_left() -> None:
    town = Town(1)
    town.offer(1)
    with pytest.raises(NoManager, match="are gone"):
        asyncio.run(fetched(town, ()))


def test_other_bytes_are_found_out_and_their_host_comes_last() -> None:
    with SourceServer() as bad, SourceServer() as good:
        town = Town(served(bad, bytes(len(CONTENT))), served(good))
        for number in (1, 2):
            town.offer(number)
        with pytest.raises(DigestMismatch):
            asyncio.run(fetched(town, (1, 2)))
        town.store.remove(TASK)   # as swarms.py does
        town.offer(1)
        assert asyncio.run(fetched(town, (1, 2)))
        assert good.body_bytes == len(CONTENT)


def test_an_address_that_is_none_is_not_asked() -> None:
    async def asked() -> DflyError:
        town = Town()
        numbers = [town.add(80, "evil.example/path?"), town.add(0), town.add(80, "")]
        town.lead().givers.update(numbers)
        with pytest.raises(NoManager) as caught:
            await town.givers.next_giver(TASK, {})
        return caught.value
    asyncio.run(asked())


def test_what_is_led_is_known_unless_it_is_private() -> None:
    async def described(private: bool) -> Version:
        town = Town()
        town.lead().private = private
        nothing: Any = None
        source = GiversSource(town.givers, town.store, nothing, SPEC)
        return (await source.open(SourceRequest(SPEC.url))).version
    assert asyncio.run(described(False)) == VERSION
    with pytest.raises(NoManager):
        asyncio.run(described(True))


@pytest.mark.parametrize("version", [VERSION, Version('"a-sources"', length=len(CONTENT))])
def test_what_the_manager_holds_whole_needs_no_host(version: Version) -> None:
    """If it came from a source, that could refuse it to who asks now."""
    town = Town()
    file = town.store.open(TASK, version.token, Geometry(len(CONTENT), PIECE_SIZE_MIN))
    for piece in range(PIECES):
        data = CONTENT[piece * PIECE_SIZE_MIN:(piece + 1) * PIECE_SIZE_MIN]
        file.put(piece, data, sha256(data))
    if version == VERSION:
        assert asyncio.run(fetched(town, ()))
        return
    with pytest.raises(NoManager, match="no host"):
        asyncio.run(fetched(town, ()))
