"""The real driver of core/download.py: one task on this host, from first wish to seeding.

It carries out the machine's orders with sockets, store and source, and tells it what came of
them. It outlives the download: a complete task stays in its swarm as a parent, and offers itself
again when a manager returns. What to fetch from whom is never decided here.
"""
from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, replace
from functools import partial
from typing import Callable, ClassVar, Dict, NamedTuple, Optional, Sequence, Type, Union

from dfly.access import SourceFacts
from dfly.clock import Clock
from dfly.core import download as core
from dfly.digest import sha256
from dfly.errors import (
    DflyError,
    DigestMismatch,
    FileError,
    NetworkError,
    NoSpace,
    ProtocolError,
    ServerError,
    TlsError,
    error_from_wire,
)
from dfly.net.fetching import Lines
from dfly.net.http_client import HttpClient
from dfly.net.limiter import Limiter
from dfly.service.content import check_content, discard
from dfly.service.ingest import Ingest, held_state
from dfly.service.managers import (
    LINK_WAIT_S,
    Address,
    ManagerLink,
    Managers,
    SwarmMessage,
)
from dfly.service.metrics import Metrics
from dfly.service.origins import MANAGER, PEERS, Received, carried, carrier
from dfly.service.parents import Parents
from dfly.service.partial import Comparing, take_before
from dfly.service.runs import Runs
from dfly.service.runtime import Tasks
from dfly.service.story import ParentStory, Troubles
from dfly.service.wish import Wish, join_of
from dfly.source import SourceChanged
from dfly.store import GONE, PieceStore, TaskFile
from dfly.store.sink import PieceMismatch
from dfly.wire.messages import (
    Accepted,
    Changed,
    Digests,
    Lease,
    Offer,
    Revoke,
    Sized,
    TaskFailed,
)

log = logging.getLogger("dfly.download")
LIMITS = core.DownloadLimits()

# Errors that a manager has itself and this host need not: with its network, its disk, whom it
# trusts.
MANAGERS_OWN = (NetworkError, TlsError, NoSpace, FileError)


@dataclass(frozen=True)
class Means:
    """What a peer lends to each of its downloads."""

    store: PieceStore
    client: HttpClient
    lines: Lines
    managers: Managers
    metrics: Metrics
    clock: Clock
    rng: random.Random
    limits: Sequence[Limiter]                        # of the host
    ingest: Callable[[Wish, Sequence[Limiter]], Ingest]


class Started(NamedTuple):
    """A download for one who asked for it, and what the source said to him."""

    download: TaskDownload
    facts: SourceFacts


class TaskDownload:
    """One version of one task on this host. (With 30 attributes or more CPython keeps a table of
    their names for each instance, and a daemon has thousands of them.)"""

    def __init__(self, means: Means, wish: Wish, file: TaskFile) -> None:
        self.file = file
        self.wish = wish
        self.received = Received(cache=file.have)
        self.token = b""
        self._warning = ""
        self.troubles = Troubles(means.clock)
        self.losses = Troubles(means.clock)    # of P2P
        self.waiters = 0
        self.facts = SourceFacts()   # what the source said; nobody's cookies
        self.led_by = ""        # the manager that leads or led
        self.done: "asyncio.Future[None]" = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(_retrieve)
        self._means = means
        self._machine = core.Download(LIMITS, may_use_source=not wish.no_source, rng=means.rng)
        limits = (*means.limits, *([Limiter(wish.limit_bps)] if wish.limit_bps else ()))
        self._parents = Parents(means.client, means.lines, file)
        self._runs = Runs(file, self._parents, limits, self._step, means.metrics)
        self._tasks = Tasks(log)
        self._source: "Optional[asyncio.Task[None]]" = None
        self._ingest: Optional[Ingest] = None
        self._led: "Optional[asyncio.Task[None]]" = None
        self._link: Optional[ManagerLink] = None
        self._swarm = 0
        self._stays = False     # led, by one manager or another, as long as it lives
        self._is_lost = False   # by its manager, or it never had one
        self._timer: Optional[asyncio.TimerHandle] = None
        self._due: Optional[float] = None     # what it is set to
        self._comparing: Optional[Comparing] = None
        self._gone = False      # the file left the store
        self._held = True
        file.hold()   # not evicted while it is being filled
        self._unsubscribe = file.subscribe(self._from_any_thread)

    # ------------------------------------------------------------------- life of the task
    def start_led(self, link: ManagerLink, accepted: Accepted) -> None:
        """A manager accepted this host."""
        self._step(core.Opened(self.file.geometry.piece_count, self.file.have))
        if self.wish.partial:
            self._compare(self.wish.partial)
        self._stays = True
        self._join_swarm(link, accepted)

    def start_alone(self, ingest: Ingest) -> None:
        """No manager: everything that is missing comes from the source, by `ingest`."""
        self._ingest = ingest
        self._step(core.Opened(self.file.geometry.piece_count, self.file.have))
        if self.is_done:
            self._ingest = None
            self._tasks.start(ingest.close())
        self._step(core.NoManagerAnswers())
        if self._means.managers.any_known and not self.wish.why_alone:
            self._stays = True
            self._lose_leader()

    def lead(self, link: ManagerLink, accepted: Accepted) -> None:
        """A manager accepted this host once more, for another caller."""
        self._stays = True
        if (self._link, self._swarm) != (link, accepted.swarm):
            self._join_swarm(link, accepted)

    def start_seeding(self) -> None:
        """The store held all of it when the daemon started: offer it."""
        self._step(core.Opened(self.file.geometry.piece_count, self.file.have))
        self._stays = True
        self._lose_leader()

    @property
    def is_done(self) -> bool:
        return self._machine.state is core.State.DONE

    @property
    def is_over(self) -> bool:
        """It failed, or its file left the store: of no use to anyone any more."""
        return (self._gone or self._machine.state is core.State.FAILED
                or self.file.failed is not None)

    @property
    def state(self) -> str:
        return self._machine.state.value

    @property
    def lost_p2p(self) -> bool:
        return self._machine.lost_p2p

    @property
    def runs(self) -> int:
        """Runs being fetched now."""
        return len(self._runs)

    @property
    def uses_source(self) -> bool:
        """This host itself goes to the source now."""
        return self._source is not None and not self._source.done()

    def parents_told(self) -> Dict[Address, ParentStory]:
        """What each parent gave so far."""
        return {self._parents.addresses[number]: told
                for number, told in self._runs.told.items()}

    @property
    def warning(self) -> str:
        """What callers should know by now; "" = nothing."""
        return self._warning

    def warn(self, what: str) -> None:
        self._warning = what
        self.losses.add(what)

    def allow_source(self) -> None:
        """A later caller doesn't forbid the source."""
        self._machine.may_use_source = True

    def reader_at(self, piece: int) -> None:
        """A reader of this host waits for `piece`."""
        self._step(core.ReaderAt(piece))

    async def abandon(self, error: DflyError) -> None:
        """Stop: nobody here wants it (or this version of it) any more. Pieces stay."""
        self._fail(error)
        self._step(core.Doomed(error))
        self._unsubscribe()
        if self._timer is not None:
            self._timer.cancel()
        self._leave()
        await self._tasks.stop()
        await self._runs.end()
        self._let_go()

    def _let_go(self) -> None:
        """From now on the file may be evicted, and what was a caller's secret is forgotten."""
        if self._held:
            self._held = False
            self.file.release()
        self.wish = replace(self.wish, access=self.wish.access.without_secrets())

    # -------------------------------------------------------------------------- machine
    def _step(self, event: core.Event) -> None:
        for effect in self._machine.step(event, self._means.clock.now()):
            self._HANDLERS[type(effect)](self, effect)
        due = self._machine.deadline()
        if due != self._due:
            self._set_timer(due)

    def _set_timer(self, due: Optional[float]) -> None:
        self._due = due
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            delay_s = max(0.0, due - self._means.clock.now())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_time)

    def _on_time(self) -> None:
        self._due = None   # whatever is due next, the timer must be set for it
        self._step(core.TimePassed())

    def _from_any_thread(self, piece: int) -> None:
        self._means.lines.mailbox.post(self._on_file, piece, carrier())

    def _on_file(self, piece: int, origin: str) -> None:
        if piece != GONE:
            self.received.add(piece, origin)
            self._means.metrics.add("dfly_pieces_stored_total")
            self._step(core.PieceStored(piece))
            return
        self._gone = True
        error = self.file.failed or FileError("the file was removed, or found damaged")
        self._step(core.Doomed(error))
        self._go_unled()   # else it would offer what it hasn't, where another download may be
        self._leave()

    def _leave(self) -> None:
        """Out of the swarm, at once: left later, it could be one that a retry has joined."""
        if self._link is not None:
            self._link.leave(self._swarm)
            self._link = None

    def _on_complete(self, effect: core.Complete) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._let_go()

    def _on_give_up(self, effect: core.GiveUp) -> None:
        error = effect.error
        if isinstance(error, DigestMismatch) and not isinstance(error, PieceMismatch):
            self._tasks.start(self._discard(error))
        else:
            self._fail(error)
        self._go_unled()
        self._leave()
        self._let_go()

    def _fail(self, error: DflyError) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    async def _discard(self, error: DigestMismatch) -> None:
        """What came is the wrong content: it leaves the store before any caller hears of it."""
        try:
            await discard(self._means.store, self.file, error)
        except DflyError as trouble:
            log.warning("task %s stays in the store: %s", self.file.task_id[:12], trouble)
        finally:
            self._fail(error)

    # ------------------------------------------------------------------------------ led
    def _join_swarm(self, link: ManagerLink, accepted: Accepted) -> None:
        self._link, self._swarm, self.led_by = link, accepted.swarm, link.name
        geometry = self.file.geometry
        if accepted.piece_size != geometry.piece_size or (
                None not in (accepted.length, geometry.length)
                and accepted.length != geometry.length):
            self._distrust(ProtocolError("another geometry for the same version"))
            return
        self.token = accepted.token
        self._is_lost = False
        if self._comparing is not None:
            self._comparing.drop_all()
        if not self.is_done:
            self._step(core.Led())
        if accepted.inline is not None:
            self._take_inline(accepted.inline)
            return
        if accepted.length is not None and geometry.length is None:
            self.told(Sized(accepted.swarm, accepted.length))   # said while we weren't linked
        if self._link is link:   # nothing said so far was nonsense
            link.attach(accepted.swarm, self)

    def _take_inline(self, content: bytes) -> None:
        """A small task came whole with the answer, over the authenticated link."""
        if self.file.geometry.length != len(content):
            self._distrust(ProtocolError("a small task of wrong length"))
            return
        try:
            for piece in self.file.geometry.pieces_of(0, len(content)):
                data = content[self.file.geometry.start(piece):self.file.geometry.stop(piece)]
                if not self.file.have >> piece & 1:
                    with carried(MANAGER):
                        self.file.put(piece, data, sha256(data))
        except DflyError as error:
            self._step(core.Doomed(error))

    def told(self, message: SwarmMessage) -> None:
        """What the manager says of our swarm."""
        try:
            self._follow(message)
        except ProtocolError as error:
            self._distrust(error)
        except DflyError as error:   # the store has no room for what it says
            self._step(core.Doomed(error))

    def _distrust(self, error: ProtocolError) -> None:
        """The manager says what can't be: go on without it."""
        log.warning("manager %s is not followed any more: %s", self.led_by, error)
        self.warn(f"manager {self.led_by} says what can't be: {error.what}")
        link, self._link = self._link, None
        if link is not None:
            self._means.managers.distrust(self.file.task_id, link.address)
            link.leave(self._swarm)
        self._step(core.ManagerLost(for_good=True))
        self._lose_leader()

    def _follow(self, message: SwarmMessage) -> None:
        if isinstance(message, Lease):
            assert self._link is not None
            address = self._link.parents.get(message.parent)
            count = self.file.geometry.piece_count
            if address is None or (count is not None and message.first + message.count > count):
                raise ProtocolError("a lease of unknown pieces or from an unknown parent")
            lease = core.LeaseGranted(message.lease, self._parents.number_of(address),
                                      message.first, message.count, message.deadline_s)
            if self._comparing is None or not self._comparing.holds(lease):
                self._step(lease)
        elif isinstance(message, Digests):
            self._runs.settle(self.file.learn(message.first, message.digests))
            if self._comparing is not None:
                self._comparing.told()
        elif isinstance(message, Revoke):
            if self._comparing is not None:
                self._comparing.drop(message.lease)
            self._step(core.LeaseWithdrawn(message.lease))
        elif isinstance(message, Sized):
            self.file.set_length(message.length)
            count = self.file.geometry.piece_count
            assert count is not None
            self._step(core.Sized(count))
        elif self.is_done:
            self._leave()
            self._tasks.start(self._outlive_swarm(message))
        elif isinstance(message, Changed):
            self._step(core.Doomed(SourceChanged("the source changed during the download")))
        else:
            self._on_task_failed(message)

    async def _outlive_swarm(self, message: Union[Changed, TaskFailed]) -> None:
        """The swarm is over, and what is here whole may be wanted in another. But if all of it
        was found to be wrong there, it may be so here."""
        spec = self.wish.spec
        digest = spec.digest
        if (isinstance(message, TaskFailed) and digest is not None
                and message.exit_code == DigestMismatch.exit_code):
            try:
                await asyncio.to_thread(check_content, self.file, digest, spec.url)
            except DigestMismatch as error:
                await self._discard(error)
                return
            except DflyError as error:
                log.warning("task %s can't be read: %s", self.file.task_id[:12], error)
                return
        self._lose_leader()

    def _on_task_failed(self, message: TaskFailed) -> None:
        error = error_from_wire(message.exit_code, message.what, message.hint)
        if isinstance(error, ServerError):
            error.status = message.status
        if isinstance(error, MANAGERS_OWN) and not self.is_done:
            # The manager can't get it; this host may, and others hold pieces.
            self.warn(f"the manager could not get the file: {error.what}")
            self._step(core.ManagerLost(for_good=True))
            self._step(core.NoManagerAnswers())
            return
        self._step(core.Doomed(error))

    def link_lost(self) -> None:
        self._link = None
        if not self.is_done:
            self.troubles.add(f"the link to manager {self.led_by} was lost")
        self._step(core.ManagerLost())
        self._lose_leader()

    def _lose_leader(self) -> None:
        """If it was, or shall be, led: find another manager."""
        self._is_lost = True
        if self._stays and (self._led is None or self._led.done()):
            self._led = self._tasks.start(self._find_leaders())

    def _go_unled(self) -> None:
        self._stays = False
        if self._led is not None:
            self._led.cancel()

    async def _find_leaders(self) -> None:
        """Who is found may be lost before this ends. (While one leads, nothing waits here.)"""
        while self._is_lost:
            self._is_lost = False
            await self._find_leader()

    async def _find_leader(self) -> None:
        while True:
            opening = asyncio.ensure_future(self._means.managers.next_opening())
            try:
                for link in self._means.managers.for_task(self.file.task_id):
                    if (await link.opened(LINK_WAIT_S, self._manager_busy)
                            and await self._ask_to_lead(link)):
                        return
                if not self.is_done:
                    self._step(core.NoManagerAnswers())
                await opening
            finally:
                opening.cancel()

    def _manager_busy(self, for_s: float) -> None:
        self._step(core.ManagerBusy(for_s))

    async def _ask_to_lead(self, link: ManagerLink) -> bool:
        """True if `link`'s manager leads us now, or has told that this version is over."""
        make, timeout_s = (self._offer, None) if self.is_done else (
            partial(join_of, self.wish, self.file, self._runs.limits), LINK_WAIT_S * 5)
        try:
            accepted = await link.join(make, timeout_s)
        except DflyError as error:
            log.info("manager %s does not lead %s: %s", link.name, self.file.task_id[:12], error)
            return False
        if accepted.version != self.file.version:
            link.leave(accepted.swarm)
            if not self.is_done:
                self._step(core.Doomed(SourceChanged("the source changed during the download")))
            return True
        self._join_swarm(link, accepted)
        return True

    def _offer(self, request: int) -> Offer:
        geometry = self.file.geometry
        assert geometry.length is not None
        return Offer(request, self.file.task_id, self.file.version, geometry.piece_size,
                     geometry.length, self.file.have)

    def _tell_stored(self, effect: core.TellStored) -> None:
        if self._link is not None:
            self._link.stored(self._swarm, effect.piece)

    def _tell_failed(self, effect: core.TellFailed) -> None:
        self._means.metrics.add("dfly_leases_failed_total", reason=effect.failure.name.lower())
        self.troubles.add(f"a run of pieces failed ({effect.failure.name.lower()}): "
                          f"{effect.detail}")
        if self._link is not None:
            self._link.failed(effect.lease, self._swarm, effect.piece, effect.failure,
                              effect.detail)

    def _tell_reader(self, effect: core.TellReader) -> None:
        if self._link is not None:
            self._link.reader_at(self._swarm, effect.piece)

    # ----------------------------------------------------------------------------- runs
    def _fetch_run(self, effect: core.FetchRun) -> None:
        by_manager = (self._link is not None
                      and self._parents.addresses[effect.parent] == self._link.address)
        self._runs.begin(effect, self.token, MANAGER if by_manager else PEERS)

    # ---------------------------------------------------------------- without a manager
    def _ask_parent(self, effect: core.AskParent) -> None:
        self._tasks.start(self._carry_question(effect.parent))

    async def _carry_question(self, parent: int) -> None:
        try:
            pieces = await self._parents.held_by(self._parents.addresses[parent], self.token)
        except DflyError as error:
            log.info("parent %s has nothing: %s", self._parents.addresses[parent][0], error)
            self._step(core.ParentSilent(parent))
        else:
            self._step(core.ParentHolds(parent, pieces))

    def _fetch_source(self, effect: core.FetchSource) -> None:
        if self._machine.lost_p2p and not self.warning:
            self.warn("the managers and all known parents were lost")
        self._source = self._tasks.start(self._carry_source(effect.pieces))

    def _stop_source(self, effect: core.StopSource) -> None:
        if self._source is not None and not self.done.done():
            self._source.cancel()
        self._source = None

    async def _carry_source(self, pieces: Optional[int]) -> None:
        ingest = self._ingest or self._means.ingest(self.wish, self._runs.limits)
        prepared, self._ingest = self._ingest is not None, None
        ingest.on_trouble = self.troubles.add
        ended = core.SourceEnded()
        try:
            if not prepared:
                await self._check_source(ingest, pieces)
            elif self.wish.partial:
                self._warn_of_partial(await take_before(self.wish.partial, self.file, ingest,
                                                        self._count_source))
            await ingest.fetch(self.file, on_piece=self._count_source, wanted=pieces)
            count = self.file.geometry.piece_count
            if count is not None:
                self._step(core.Sized(count))
        except DflyError as error:
            ended = core.SourceEnded(error)
        except Exception:   # whoever waits must hear of it
            log.exception("the fetch from the source failed")
            ended = core.SourceEnded(DflyError("the daemon failed", "see its log"))
        finally:
            await ingest.close()
        # The file's own news of the last pieces is on its way through the loop: let it pass.
        asyncio.get_running_loop().call_soon(self._step, ended)

    # ---------------------------------------------------------------- a file that came in part
    def _compare(self, path: str) -> None:
        """Its news of pieces are on their way by the mailbox; leases go behind them."""
        post = partial(self._means.lines.mailbox.post, self._step)
        try:
            self._comparing = Comparing(path, self.file, post)
            self._tasks.start(self._take_known(self._comparing))
        except FileError as error:
            self._warn_of_partial(error.what)

    async def _take_known(self, comparing: Comparing) -> None:
        self._warn_of_partial(await comparing.run(self.done))

    def _warn_of_partial(self, why: str) -> None:
        if why:
            self.troubles.add(why)
            self._warning = self._warning or f"{why}: fetching all of it"

    async def _check_source(self, ingest: Ingest, pieces: Optional[int]) -> None:
        """The source must still have the version whose pieces this host holds. A source without
        validators can't tell, but bytes whose digests are known can't be wrong ones; others come
        behind pieces that are held, which are compared."""
        known, start, stop = held_state(self.file)
        content = await ingest.begin(known, start=start, stop=stop)
        missing = pieces or 0
        is_compared = not (content.provable or (known is not None and known.has_validator))
        if not (content.unchanged or is_compared) and missing & ~self.file.known:
            raise SourceChanged("the source changed during the download")

    def _count_source(self, piece: int) -> None:
        self._means.metrics.add("dfly_source_bytes_total", self.file.geometry.size_of(piece))

    _HANDLERS: ClassVar[Dict[Type[core.Effect], Callable[..., None]]] = {
        core.FetchRun: _fetch_run, core.StopRun: lambda self, stop: self._runs.stop(stop.run),
        core.TellStored: _tell_stored, core.TellFailed: _tell_failed, core.TellReader: _tell_reader,
        core.AskParent: _ask_parent, core.FetchSource: _fetch_source,
        core.StopSource: _stop_source, core.Complete: _on_complete, core.GiveUp: _on_give_up,
    }


def _retrieve(future: "asyncio.Future[None]") -> None:
    """An error that no caller waits for any more is not an unhandled one."""
    if not future.cancelled():
        future.exception()
