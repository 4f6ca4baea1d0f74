"""The manager's tasks: from a first Join to a swarm, and from the source into the store.

A LedTask is one version of one task that this manager leads: its file, its token, its fetch.
Opening one (asking the source, making the file) happens once however many hosts ask at the same
time. Who gets which piece from whom is core/scheduler.py's; links are manager.py's.
"""
from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Protocol, Set, Tuple

from dfly.access import Access, SourceFacts
from dfly.clock import Clock
from dfly.core.events import SEED, Event, PiecesStored, SwarmOpened, SwarmSized
from dfly.errors import (
    AuthError,
    DflyError,
    DigestMismatch,
    NetworkError,
    NoManager,
    ServerError,
)
from dfly.names import is_shared_url
from dfly.service.content import discard, file_from_source
from dfly.service.ingest import Content, Ingest, held_state
from dfly.service.metrics import Metrics
from dfly.service.runtime import Tasks
from dfly.source import SourceChanged, Version
from dfly.store import PieceStore, TaskFile
from dfly.task import INLINE_MAX, TaskSpec, members

log = logging.getLogger("dfly.swarms")

TOKEN_SIZE = 16      # random bytes: as hard to guess as an AES key
TASKS_MAX = 10_000   # tasks led at a time
WHOLE = (200, 206)   # statuses with all that a source says; one that is unchanged says less
LOOKS_MAX = 10_000   # answers of sources that are remembered for those who only look


class Audience(Protocol):
    """The manager, as its tasks see it."""

    def decide(self, event: Event) -> None:
        """Tell the scheduler, and carry out what it orders."""

    def opened(self, task: LedTask) -> None: ...

    def digests_grew(self, task: LedTask) -> None: ...

    def sized(self, task: LedTask) -> None: ...

    def closed(self, task: LedTask) -> None:
        """The task is led no more."""

    def ended(self, task: LedTask, error: DflyError) -> None:
        """The task can't go on: its members must be told. SourceChanged: join again."""


@dataclass
class LedTask:
    """One version of one task. `swarm` is its number on every link and in the scheduler."""

    swarm: int
    spec: TaskSpec
    version: Version
    file: TaskFile
    token: bytes
    private: bool
    checked_at: float
    facts: SourceFacts = SourceFacts()   # what the source said; nobody's cookies
    fetching: "Optional[asyncio.Task[None]]" = None
    error: Optional[DflyError] = None
    source_bytes: int = 0
    members: Set[int] = field(default_factory=set)     # hosts
    awaiting: Set[int] = field(default_factory=set)    # those with leases on undigested pieces
    givers: Set[int] = field(default_factory=set)      # of a shared task: who holds all of it
    checked: bool = False          # of a shared task: what came from them has its digest
    news_for_all: bool = False     # digests that those without leases on them haven't heard of
    news_at: int = 0               # digests that there were when all were last to hear
    used_at: float = 0.0

    @property
    def task_id(self) -> str:
        return self.file.task_id

    def forget(self, host: int) -> None:
        """The host isn't in the swarm any more."""
        self.members.discard(host)
        self.awaiting.discard(host)
        self.givers.discard(host)

    @property
    def state(self) -> str:
        if self.error is not None:
            return "failed"
        return "seeded" if self.file.complete else "fetching"

    @property
    def inline(self) -> bool:
        """So small that it rides in the answer to Join."""
        length = self.file.geometry.length
        return length is not None and length <= INLINE_MAX


class _Arrivals:
    """Pieces on their way from the source to the swarm. While the length isn't known, the latest
    is held back: it may be the short last one, and nobody could ask for its bytes rightly."""

    def __init__(self, task: LedTask, announce: Callable[[LedTask, int], None], *,
                 hold_back: bool) -> None:
        self._task = task
        self._announce = announce
        self._hold_back = hold_back
        self._waiting: List[int] = []

    def add(self, piece: int) -> None:
        self._waiting.append(piece)
        while len(self._waiting) > self._hold_back:
            self._announce(self._task, self._waiting.pop(0))

    def end(self) -> None:
        for piece in self._waiting:
            self._announce(self._task, piece)


class Lead(NamedTuple):
    """A task for one who joins it, and what the source said to him."""

    task: LedTask
    facts: SourceFacts


class _Opening(NamedTuple):
    """A task that is being opened, and on whose behalf."""

    access: Access
    task: "asyncio.Task[Lead]"


class Swarms:
    """All tasks that this manager leads."""

    def __init__(self, store: PieceStore, ingest: Callable[[TaskSpec, Access], Ingest],
                 audience: Audience, metrics: Metrics, clock: Clock, revalidate_s: float) -> None:
        self._store = store
        self._make_ingest = ingest
        self._audience = audience
        self._metrics = metrics
        self._clock = clock
        self._revalidate_s = revalidate_s
        self._tasks: Dict[str, LedTask] = {}
        self._swarms: Dict[int, LedTask] = {}
        self._openings: Dict[str, _Opening] = {}
        self._looks: "Dict[Tuple[str, str], asyncio.Task[Content]]" = {}
        self._next_swarm = 1
        self._work = Tasks(log)

    def of_swarm(self, swarm: int) -> Optional[LedTask]:
        return self._swarms.get(swarm)

    def of_task(self, task_id: str) -> Optional[LedTask]:
        return self._tasks.get(task_id)

    @property
    def all(self) -> List[LedTask]:
        return list(self._swarms.values())

    async def stop(self) -> None:
        asking: "List[asyncio.Task[Any]]" = [opening.task for opening in self._openings.values()]
        asking += self._looks.values()
        for task in asking:
            task.cancel()
        if asking:
            await asyncio.wait(asking)
        await self._work.stop()

    # -------------------------------------------------------------------------- opening
    async def lead(self, spec: TaskSpec, access: Access) -> Lead:
        """The task that a Join asks for, its version checked with the source at most every
        `revalidate_s`. All who ask while it opens wait for the same answer, unless the source
        refused another's access; who asks for a private task, or by secrets of his own, is checked
        with the source for himself, and so is who wants the cookies that it sets."""
        task_id = spec.task_id
        while True:
            task = self._tasks.get(task_id)
            opening = self._openings.get(task_id)
            _check_proof(spec, task)
            if task is not None and task.error is None and self._is_fresh(task):
                task.used_at = self._clock.now()   # else `tend` could end it while we ask
            elif opening is None:
                return await asyncio.shield(self._begin_to_open(spec, access))
            else:
                try:
                    task = (await asyncio.shield(opening.task)).task
                except (AuthError, ServerError):
                    if opening.access.secrets == access.secrets:
                        raise
                    continue   # what the source says to another needn't be what it says to us
            return Lead(task, await self._facts_for(task, spec, access))

    async def _facts_for(self, task: LedTask, spec: TaskSpec, access: Access) -> SourceFacts:
        """What the source says to a joiner, asked where that may be another thing than it said to
        whoever opened the task. Nobody gets bytes that it wouldn't give to him."""
        may_differ = task.private or access.volunteers
        if not may_differ and not access.wants_cookies:
            return task.facts
        content = await self._ask(spec, access)
        if may_differ and not is_named_by_digest(spec) and not _same(task, content):
            raise NetworkError("the source gives this caller another content than the swarm's, or "
                               "one that can't be told from it", "nothing of the two is mixed")
        return content.facts

    async def look(self, spec: TaskSpec, access: Access) -> Content:
        """What the source has, without a byte of it fetched; asked at most every `revalidate_s`
        for callers who are as one to it. (Who shares a content is known without asking.)"""
        task = self._tasks.get(spec.task_id)
        _check_proof(spec, task)
        if task is not None and task.error is None and self._is_fresh(task) and (
                not task.private and not access.volunteers and not access.wants_cookies
                and task.facts.status in WHOLE):
            return Content(task.version, task.file.geometry.length, True, False, "",
                           facts=task.facts)
        key = spec.task_id, access.name
        looking = self._looks.get(key)
        if looking is None:
            if len(self._looks) >= LOOKS_MAX:
                raise NetworkError("too many ask what sources have", "try again later")
            looking = self._looks[key] = asyncio.ensure_future(self._ask(spec, access))
            looking.add_done_callback(lambda done: self._forget_look(
                key, 0.0 if _failed(done) or is_shared_url(spec.url) else self._revalidate_s))
        return await asyncio.shield(looking)

    def _forget_look(self, key: Tuple[str, str], after_s: float) -> None:
        asyncio.get_running_loop().call_later(after_s, self._looks.pop, key, None)

    def _begin_to_open(self, spec: TaskSpec, access: Access) -> "asyncio.Task[Lead]":
        """To ask the source on behalf of this caller."""
        self._make_place()
        task_id = spec.task_id
        opening = asyncio.ensure_future(self._open(spec, access))
        self._openings[task_id] = _Opening(access, opening)
        opening.add_done_callback(lambda _: self._openings.pop(task_id))
        return opening

    def _make_place(self) -> None:
        """Each open task costs a descriptor: beyond so many, those that nobody is in go first."""
        if len(self._swarms) + len(self._openings) < TASKS_MAX:
            return
        idle = [task for task in self.all if not task.members and task.fetching is None]
        if not idle:
            raise NetworkError(f"this manager leads {TASKS_MAX} tasks: no more", "try again later")
        self._drop(min(idle, key=lambda task: task.used_at))

    def _is_fresh(self, task: LedTask) -> bool:
        """No need to ask the source: it said so just now, or what is here is what was asked for
        whatever the source has by now."""
        return (task.fetching is not None or task.file.complete and is_named_by_digest(task.spec)
                or self._clock.now() - task.checked_at < self._revalidate_s)

    async def _ask(self, spec: TaskSpec, access: Access) -> Content:
        """What the source says to this caller; it must let him in."""
        ingest = self._make_ingest(spec, access)
        try:
            return await ingest.begin(stop=1)
        finally:
            await ingest.close()

    async def _open(self, spec: TaskSpec, access: Access) -> Lead:
        task_id = spec.task_id
        ingest = self._make_ingest(spec, access)
        handed_on = False
        try:
            held = await asyncio.to_thread(self._store.find, task_id)
            known, start, stop = held_state(held)
            content = await ingest.begin(known, start=start, stop=stop)
            current = self._tasks.get(task_id)
            if current is not None and current.error is None:
                if _same(current, content):
                    current.checked_at = current.used_at = self._clock.now()
                    return Lead(current, content.facts)
                self._replace(current)
            file = await asyncio.to_thread(file_from_source, self._store, spec, content)
            task = self._begin(spec, content, file)
            handed_on = True
            task.fetching = self._work.start(self._fetch(task, ingest))
            if task.inline:
                await asyncio.shield(task.fetching)
                if task.error is not None:
                    raise task.error
            return Lead(task, content.facts)
        finally:
            if not handed_on:
                await ingest.close()

    def _begin(self, spec: TaskSpec, content: Content, file: TaskFile) -> LedTask:
        now = self._clock.now()
        task = LedTask(self._next_swarm, spec, content.version, file,
                       secrets.token_bytes(TOKEN_SIZE), content.authorised, now,
                       replace(content.facts, cookies=()), used_at=now)
        self._next_swarm += 1
        self._tasks[task.task_id] = task
        self._swarms[task.swarm] = task
        file.hold()
        self._audience.decide(SwarmOpened(task.swarm, file.geometry.piece_count,
                                          file.geometry.piece_size))
        if file.have:
            self._audience.decide(PiecesStored(task.swarm, SEED, tuple(members(file.have))))
        self._audience.opened(task)
        return task

    # ------------------------------------------------------------------------- fetching
    async def _fetch(self, task: LedTask, ingest: Ingest) -> None:
        """The one fetch of this version. Errors end the task; what arrived stays in the store."""
        unsized = task.file.geometry.length is None
        arrivals = _Arrivals(task, self._announce, hold_back=unsized)
        try:
            await ingest.fetch(task.file, on_piece=arrivals.add)
            if unsized:
                count = task.file.geometry.piece_count
                assert count is not None
                self._audience.decide(SwarmSized(task.swarm, count))
                self._audience.sized(task)
            arrivals.end()
            log.info("task %s is seeded: %d bytes from the source", task.task_id[:12],
                     task.source_bytes)
        except DflyError as error:
            log.warning("task %s: %s", task.task_id[:12], error)
            try:
                if isinstance(error, DigestMismatch):   # this content is never offered again
                    await discard(self._store, task.file, error)
            finally:
                self._end(task, error)   # who hears of it finds it gone
        except Exception:   # a mistake of ours: members must hear of it, or they wait for ever
            log.exception("task %s: its fetch failed", task.task_id[:12])
            self._end(task, DflyError("the manager failed", "see its log"))
        finally:
            task.fetching = None
            task.checked_at = self._clock.now()
            await ingest.close()

    def _announce(self, task: LedTask, piece: int) -> None:
        """A piece from the source is in the store: whoever wants it may have it now."""
        size = task.file.geometry.size_of(piece)
        task.source_bytes += size
        self._metrics.add("dfly_source_bytes_total", size)
        self._metrics.add("dfly_pieces_stored_total")
        self._audience.digests_grew(task)
        self._audience.decide(PiecesStored(task.swarm, SEED, (piece,)))

    # --------------------------------------------------------------------------- ending
    def _replace(self, task: LedTask) -> None:
        self._end(task, SourceChanged("the source has a new version"))

    def _end(self, task: LedTask, error: DflyError) -> None:
        """The task's swarm ends with `error`; joins from now on open it anew."""
        if task.swarm not in self._swarms:
            return
        task.error = error
        if task.fetching is not None and isinstance(error, SourceChanged):
            task.fetching.cancel()
        self._audience.ended(task, error)
        self._drop(task)

    def _drop(self, task: LedTask) -> None:
        self._audience.closed(task)
        del self._swarms[task.swarm]
        if self._tasks.get(task.task_id) is task:
            del self._tasks[task.task_id]
        task.file.release()

    def tend(self, keep_s: float) -> None:
        """Forget tasks that nobody has been in for `keep_s`; their bytes stay in the store."""
        now = self._clock.now()
        for task in self.all:
            if task.members or task.fetching is not None:
                task.used_at = now
            elif now - task.used_at > keep_s:
                self._drop(task)


def _check_proof(spec: TaskSpec, task: Optional[LedTask]) -> None:
    """To know the digest of a private content proves nothing to its source."""
    if task is not None and task.private and is_shared_url(spec.url):
        raise NoManager("it is led as a private content now, of which not all hosts may have",
                        "ask its source for it")


def _same(task: LedTask, content: Content) -> bool:
    return content.unchanged or content.version.same_as(task.version)


def is_named_by_digest(spec: TaskSpec) -> bool:
    """True if its content can't be another one ever."""
    return spec.digest is not None and spec.digest.is_strong


def _failed(done: "asyncio.Task[Content]") -> bool:
    return done.cancelled() or done.exception() is not None
