"""The manager's tasks: who opens one, and for whom the source's answer counts."""
from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Callable, List, Optional, Tuple, cast

import pytest

from dfly.access import Access
from dfly.clock import Clock
from dfly.digest import Digest
from dfly.errors import AuthError, DflyError, NetworkError, NoManager
from dfly.names import shared_url
from dfly.service.ingest import Content, Ingest
from dfly.service.metrics import Metrics
from dfly.service.swarms import Lead, LedTask, Swarms
from dfly.source import Version
from dfly.store import TaskFile
from dfly.store.memory import MemoryStore
from dfly.task import TaskSpec

LENGTH = 3 << 20
SPEC = TaskSpec("http://source/file")
MINE, THEIRS = (Access((("Authorization", name),)) for name in ("mine", "theirs"))


class Silent:
    """An audience that does nothing."""

    def decide(self, event: object) -> None: ...
    def opened(self, task: LedTask) -> None: ...
    def digests_grew(self, task: LedTask) -> None: ...
    def sized(self, task: LedTask) -> None: ...
    def closed(self, task: LedTask) -> None: ...
    def ended(self, task: LedTask, error: DflyError) -> None: ...


class Door:
    """A source that answers when told to, and lets in those with the right header only; `gives`:
    what else others get instead of a refusal."""

    def __init__(self, gives: Optional[Version] = None) -> None:
        self.gives = gives
        self.asked: List[Access] = []
        self.open = asyncio.Event()

    def ingest(self, spec: TaskSpec, access: Access) -> Ingest:
        return cast(Ingest, Entry(self, access))


class Entry:
    """One who asks there."""

    source_bytes = 0

    def __init__(self, door: Door, access: Access) -> None:
        self._door = door
        self._access = access

    async def begin(self, known: object = None, **_: object) -> Content:
        self._door.asked.append(self._access)
        await self._door.open.wait()
        if self._access != MINE and self._door.gives is not None:
            version = self._door.gives
            if version.nonce:   # each answer has its own
                version = replace(version, nonce=f"{len(self._door.asked):02x}")
            return Content(version, LENGTH, True, False, SPEC.url, self._access.volunteers)
        if self._access != MINE:
            raise AuthError("401 Unauthorized")
        return Content(Version(etag='"1"'), LENGTH, True, False, SPEC.url, True)

    async def fetch(self, file: TaskFile, *, on_piece: Callable[[int], None]) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None: ...


async def played(*askers: Access, gives: Optional[Version] = None) -> Tuple[List[Any], Door]:
    """What each of those heard who asked at the same time."""
    door, store = Door(gives), MemoryStore()
    swarms = Swarms(store, door.ingest, Silent(), Metrics(), Clock(), revalidate_s=60)
    asking = [asyncio.ensure_future(swarms.lead(SPEC, access)) for access in askers]
    await asyncio.sleep(0)   # all of them are in before the source says anything
    door.open.set()
    heard = await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), 5)
    await swarms.stop()
    store.close()
    return heard, door


def test_who_has_rights_isnt_refused_because_another_was() -> None:
    heard, door = asyncio.run(played(THEIRS, MINE, THEIRS, MINE))
    assert [type(answer) for answer in heard] == [AuthError, Lead, AuthError, Lead]
    assert heard[1].task is heard[3].task and door.asked[0] == THEIRS


def test_who_has_none_doesnt_come_in_with_another() -> None:
    heard, _ = asyncio.run(played(MINE, THEIRS, Access()))
    assert [type(answer) for answer in heard] == [Lead, AuthError, AuthError]


@pytest.mark.parametrize("count", (2, 20))
def test_the_same_question_is_put_once(count: int) -> None:
    heard, door = asyncio.run(played(*[THEIRS] * count))
    assert {type(answer) for answer in heard} == {AuthError}
    assert len(door.asked) == 1


def test_a_digest_opens_no_private_task() -> None:
    """It proves nothing to the source, which would have to be asked for it."""
    digest = Digest.parse("sha256:" + "ab" * 32)

    async def story() -> None:
        door, store = Door(), MemoryStore()
        door.open.set()
        swarms = Swarms(store, door.ingest, Silent(), Metrics(), Clock(), revalidate_s=60)
        lead = await swarms.lead(TaskSpec(SPEC.url, digest=digest), MINE)
        assert lead.task.private
        shared = TaskSpec(shared_url(str(digest)), digest=digest)
        for ask in (swarms.lead, swarms.look):
            with pytest.raises(NoManager, match="private"):
                await ask(shared, MINE)
        assert swarms.of_task(shared.task_id) is lead.task   # it goes on
        await swarms.stop()
        store.close()
    asyncio.run(story())


@pytest.mark.parametrize("askers", [(MINE, THEIRS), (MINE, Access()), (Access(), MINE),
                                    (Access(), THEIRS, MINE)])
@pytest.mark.parametrize("other", [Version(etag='"2"'), Version(nonce="ab")])
def test_nobody_gets_what_the_source_gives_to_another(askers: Tuple[Access, ...],
                                                      other: Version) -> None:
    heard, _ = asyncio.run(played(*askers, gives=other))
    first, *others = heard
    assert isinstance(first, Lead)
    for asker, answer in zip(askers[1:], others):
        if asker == MINE or askers[0] == MINE or other.nonce:
            assert isinstance(answer, NetworkError) and "another content" in answer.what
        else:   # two who get the same
            assert isinstance(answer, Lead) and answer.task is first.task


def test_who_asks_as_all_do_isnt_asked_for_again() -> None:
    heard, door = asyncio.run(played(*[Access()] * 3, gives=Version(etag='"2"')))
    assert len({id(answer.task) for answer in heard}) == 1 and len(door.asked) == 1


def test_those_who_get_the_same_share_it_whoever_they_are() -> None:
    heard, door = asyncio.run(played(MINE, THEIRS, gives=Version(etag='"1"')))
    assert heard[0].task is heard[1].task and door.asked == [MINE, THEIRS]
