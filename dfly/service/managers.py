"""The managers as a peer sees them: which one leads which task, and the link to each.

A ManagerLink keeps one control link open (reconnecting with growing, jittered pauses), sends
joins and reports, and hands what a manager says about a swarm to the member that registered for
it. It decides nothing about downloads: that is core/download.py through service/download.py.
"""
from __future__ import annotations

import asyncio
import logging
import random
import re
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Protocol, Tuple, Union

from dfly.clock import Clock
from dfly.digest import sha256
from dfly.errors import DflyError, NetworkError, ProtocolError, error_from_wire, printable
from dfly.names import join_address
from dfly.net.link import Link
from dfly.net.stream import Stream, TimedOut
from dfly.service.runtime import Tasks
from dfly.wire.http11 import Headers, HeadParser, RequestHead, ResponseHead
from dfly.wire.messages import (
    LINK_PROTOCOL,
    STORED_MAX,
    Accepted,
    Busy,
    Bye,
    Changed,
    Digests,
    Failure,
    Hello,
    Join,
    Lease,
    LeaseFailed,
    Leave,
    Message,
    Offer,
    Pace,
    Parent,
    Refused,
    Revoke,
    Sized,
    Stored,
    TaskFailed,
    Urgent,
    Welcome,
)
from dfly.wire.session import Role, Session

log = logging.getLogger("dfly.managers")

LINK_WAIT_S = 6.0        # for a link to open before the next manager is asked
CONNECT_S = 5.0          # TCP, upgrade and Welcome: a live manager needs milliseconds
RETRY_FIRST_S = 0.25
RETRY_MAX_S = 15.0
BUSY_MAX_S = 300.0       # a manager that asks for a longer absence gets this one
BUSY_RETRY_S = 5.0       # where an overloaded one doesn't say for how long
BUSY_PATIENCE_S = 60.0   # a manager that stays busy for longer counts as gone
DISTRUST_S = 600.0       # a manager that talked nonsense about a task isn't asked about it again
EARLY_MAX = 10_000       # messages kept for a swarm between Accepted and `attach`
PARENTS_MAX = 100_000    # hosts told on one link: beyond, it begins anew with an empty table
_ADDRESS = re.compile(r"[0-9A-Za-z._:%-]{1,255}")   # a number or a name

SwarmMessage = Union[Digests, Sized, Changed, TaskFailed, Lease, Revoke]
Address = Tuple[str, int]


class Member(Protocol):
    """Whoever takes part in a swarm through a link."""

    def told(self, message: SwarmMessage) -> None:
        """The manager said this about our swarm. Leases name parents by the link's numbers."""

    def link_lost(self) -> None:
        """The link is gone, and the membership with it."""


@dataclass
class _Swarm:
    member: Optional[Member]
    early: List[SwarmMessage]


class ManagerLink:
    """The link to the manager at `address`."""

    def __init__(self, address: Address, hello: Callable[[], Hello], clock: Clock,
                 rng: random.Random, on_open: Callable[[], None]) -> None:
        self.address = address
        self.parents: Dict[int, Address] = {0: address}
        self.refused: Optional[DflyError] = None   # why the last attempt failed
        self._hello = hello
        self._on_open = on_open
        self._clock = clock
        self._rng = rng
        self._link: Optional[Link] = None
        self._opened = asyncio.Event()
        self._tried = asyncio.Event()     # set while the latest attempt has failed
        self._batch_s = 0.0
        self._requests: Dict[int, "asyncio.Future[Accepted]"] = {}
        self._next_request = 1
        self._joining = 0
        self._left: Dict[int, int] = {}   # swarm -> first request after leaving it, while joining
        self._swarms: Dict[int, _Swarm] = {}
        self._stored: Dict[int, List[int]] = {}
        self._report: Optional[asyncio.Handle] = None
        self._reported_at = 0.0
        self._tasks = Tasks(log)
        self._nudge = asyncio.Event()
        self._away_s = 0.0                # how long the last Busy asked us to stay away
        self._busy_since: Optional[float] = None

    # ------------------------------------------------------------------------- the link
    @property
    def name(self) -> str:
        return join_address(*self.address)

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    def start(self) -> None:
        self._tasks.start(self._keep())

    async def stop(self) -> None:
        self.send_reports()
        if self._link is not None and self._link.is_open:
            self._link.send(Bye(0, "the peer leaves"))
        await self._tasks.stop()

    @property
    def busy_s(self) -> float:
        """How much longer to wait for this manager, which lives but has too much to do; 0 = it
        isn't so, or was for too long."""
        if self._busy_since is None:
            return 0.0
        return max(0.0, self._busy_since + BUSY_PATIENCE_S - self._clock.now())

    async def opened(self, timeout_s: float,
                     on_busy: Optional[Callable[[float], None]] = None) -> bool:
        """Wait until the link is open; False once an attempt has failed or time is up. A link
        that waits between attempts tries again at once, but a busy manager is waited for: each
        time it says so, `on_busy` hears for how long (`busy_s`)."""
        if self.is_open:
            return True
        self._tried.clear()
        self._nudge.set()
        while True:
            if on_busy is not None and self.busy_s:
                on_busy(self.busy_s)
            await self._tried_or_opened(self.busy_s or timeout_s)
            if self.is_open or not self.busy_s:
                return self.is_open
            self._tried.clear()

    async def _tried_or_opened(self, timeout_s: float) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._opened, self._tried)]
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _keep(self) -> None:
        pause_s = RETRY_FIRST_S
        while True:
            self._away_s = 0.0
            began_at = self._clock.now()
            try:
                await self._serve(await self._connect())
            except DflyError as error:
                if not self._away_s and not isinstance(error, TimedOut):
                    self._busy_since = None   # (in time, an overloaded one may not answer)
                self._note(error)
            except Exception:   # a mistake of ours ends one link, not the keeping of it
                log.exception("the link to manager %s failed", self.name)
            finally:
                was_open = self.is_open
                self._lose()
            if was_open and self._clock.now() - began_at > RETRY_MAX_S:
                pause_s = RETRY_FIRST_S   # it did well for long: this is no row of failures
            self._tried.set()
            wait_s = max(self._away_s, pause_s) * self._rng.uniform(0.7, 1.3)
            pause_s = min(2 * pause_s, RETRY_MAX_S)
            await self._pause(wait_s, may_hurry=not self._away_s)

    async def _pause(self, wait_s: float, may_hurry: bool) -> None:
        self._nudge.clear()
        try:
            await asyncio.wait_for(self._nudge.wait() if may_hurry else asyncio.Event().wait(),
                                   wait_s)
        except asyncio.TimeoutError:
            return

    def _note(self, error: DflyError) -> None:
        if str(error) != str(self.refused):  # one line per kind of trouble, not per attempt
            log.warning("manager %s: %s", self.name, error)
        self.refused = error

    async def _connect(self) -> Stream:
        stream = await Stream.connect(self.address[0], self.address[1], timeout_s=CONNECT_S)
        try:
            head = RequestHead("GET", "/v1/link", Headers([
                ("Host", self.name), ("Connection", "Upgrade"), ("Upgrade", LINK_PROTOCOL)]))
            await stream.write(head.encode())
            answer = await stream.read_head(HeadParser("response"), CONNECT_S)
            if isinstance(answer, ResponseHead) and answer.status == 503:
                raise self._is_busy(BUSY_RETRY_S, "it has all the connections it may have")
            if not isinstance(answer, ResponseHead) or answer.status != 101:
                status = answer.status if isinstance(answer, ResponseHead) else "nothing"
                raise ProtocolError(f"{self.name} answered {status} to a control link",
                                    "is that a dfly manager?")
        except BaseException:
            stream.close()
            raise
        return stream

    async def _serve(self, stream: Stream) -> None:
        """Run the link to its end."""
        self.parents = {0: self.address}
        self._link = Link(stream, Session(Role.PEER, self._clock.now(), self._hello()),
                          self._clock)
        await self._link.run(self._on_message)

    def _is_busy(self, away_s: float, reason: str) -> NetworkError:
        """The manager lives and wants us to come back later; the error to note."""
        self._away_s = min(away_s, BUSY_MAX_S)
        if self._busy_since is None:
            self._busy_since = self._clock.now()
        return NetworkError(f"busy: {reason}")

    def _lose(self) -> None:
        self._link = None
        was_open = self._opened.is_set()
        self._opened.clear()
        self._stored.clear()  # a rejoin says everything that we hold
        for future in self._requests.values():
            if not future.done():
                future.set_exception(NetworkError(f"the link to manager {self.name} was lost"))
        self._requests.clear()
        self._left.clear()
        swarms, self._swarms = self._swarms, {}
        for swarm in swarms.values():
            if swarm.member is not None:
                swarm.member.link_lost()
        if was_open:
            log.warning("the link to manager %s was lost", self.name)

    # --------------------------------------------------------------------------- hearing
    def _on_message(self, message: Message) -> None:
        if isinstance(message, (Digests, Sized, Changed, TaskFailed, Lease, Revoke)):
            self._on_swarm_message(message)
        elif isinstance(message, Parent):
            self._on_parent(message)
        elif isinstance(message, (Accepted, Refused)):
            self._on_answer(message)
        elif isinstance(message, (Welcome, Pace)):
            self._batch_s = message.batch_s
            if isinstance(message, Welcome):
                self.refused = self._busy_since = None
                self._opened.set()
                self._tried.clear()
                self._on_open()
                log.info("linked to manager %s (%s)", message.manager, self.name)
        elif isinstance(message, Busy):
            self._note(self._is_busy(message.retry_after_s, message.reason))
        elif isinstance(message, Bye):
            self._note(error_from_wire(message.exit_code, message.what, message.hint))

    def _on_parent(self, message: Parent) -> None:
        if message.parent not in self.parents and len(self.parents) >= PARENTS_MAX:
            raise ProtocolError(f"manager {self.name} told more than {PARENTS_MAX} parents")
        if not _ADDRESS.fullmatch(message.address) or not message.port:
            raise ProtocolError(f"manager {self.name} told an impossible parent: "
                                f"{printable(message.address[:80])!r}, port {message.port}")
        self.parents[message.parent] = (message.address, message.port)

    def _on_swarm_message(self, message: SwarmMessage) -> None:
        swarm = self._swarms.get(message.swarm)
        if swarm is None:
            return  # we left; the manager hadn't heard of it yet
        if swarm.member is not None:
            swarm.member.told(message)
        elif len(swarm.early) < EARLY_MAX:
            swarm.early.append(message)

    def _on_answer(self, message: Union[Accepted, Refused]) -> None:
        future = self._requests.pop(message.request, None)
        if future is None or future.done():
            if isinstance(message, Accepted) and message.swarm and (
                    message.swarm not in self._swarms):
                self.leave(message.swarm)  # whoever asked has gone
            return
        if isinstance(message, Refused):
            error = error_from_wire(message.exit_code, message.what, message.hint)
            if message.status:
                error.status = message.status  # type: ignore[attr-defined]
            future.set_exception(error)
        else:
            if message.swarm:   # 0: we only looked
                self._swarms.setdefault(message.swarm, _Swarm(None, []))
            future.set_result(message)

    # --------------------------------------------------------------------------- saying
    async def join(self, join: Callable[[int], Union[Join, Offer]],
                   timeout_s: Optional[float]) -> Accepted:
        """Send the Join (or Offer) that `join` makes for a request number; the answer, or its
        error. Leases may follow at once: they are kept until `attach`. `timeout_s` None: as
        long as the link lives (an Offer may never be taken up)."""
        self._joining += 1
        try:
            while True:
                request = self._next_request
                accepted = await self._ask(join, timeout_s)
                if self._left.get(accepted.swarm, 0) <= request:
                    return accepted
                # A Leave and this answer crossed: who knows whether we are in. Out, and again.
                self.leave(accepted.swarm)
        finally:
            self._joining -= 1
            if not self._joining:
                self._left.clear()

    async def look(self, join: Callable[[int], Join], timeout_s: float) -> Accepted:
        """What the source has, by a Join that only looks."""
        accepted = await self._ask(join, timeout_s)
        if accepted.swarm:
            self.leave(accepted.swarm)
            raise ProtocolError(f"manager {self.name} can't just look: it is older")
        return accepted

    async def _ask(self, join: Callable[[int], Union[Join, Offer]],
                   timeout_s: Optional[float]) -> Accepted:
        link = self._link
        if link is None or not link.is_open:
            raise NetworkError(f"no link to manager {self.name}")
        request = self._next_request
        self._next_request += 1
        future: "asyncio.Future[Accepted]" = asyncio.get_running_loop().create_future()
        self._requests[request] = future
        link.send(join(request))
        try:
            return await asyncio.wait_for(future, timeout_s)
        except asyncio.TimeoutError:
            raise NetworkError(f"manager {self.name} did not answer within "
                               f"{timeout_s:.0f} s") from None
        finally:
            self._requests.pop(request, None)

    def attach(self, swarm: int, member: Member) -> None:
        """`member` hears of this swarm from now on, and what was said since Accepted."""
        entry = self._swarms.setdefault(swarm, _Swarm(None, []))
        entry.member = member
        early, entry.early = entry.early, []
        for message in early:
            if self._swarms.get(swarm) is entry:   # what came before may have made it leave
                member.told(message)

    def leave(self, swarm: int) -> None:
        self._swarms.pop(swarm, None)
        self._stored.pop(swarm, None)
        if self._joining:
            self._left[swarm] = self._next_request
        self._say(Leave(swarm))

    def stored(self, swarm: int, piece: int) -> None:
        """Report a piece; reports are gathered for as long as the manager's Pace says."""
        self._stored.setdefault(swarm, []).append(piece)
        if self._report is None:
            loop = asyncio.get_running_loop()
            wait_s = self._reported_at + self._batch_s - loop.time()
            self._report = (loop.call_later(wait_s, self.send_reports) if wait_s > 0
                            else loop.call_soon(self.send_reports))

    def send_reports(self) -> None:
        if self._report is not None:
            self._report.cancel()
            self._report = None
            self._reported_at = asyncio.get_running_loop().time()
        gathered, self._stored = self._stored, {}
        for swarm, pieces in gathered.items():
            for start in range(0, len(pieces), STORED_MAX):
                self._say(Stored(swarm, tuple(pieces[start:start + STORED_MAX])))

    def failed(self, lease: int, swarm: int, piece: int, failure: Failure, detail: str) -> None:
        self.send_reports()  # what came before the failure must be known before it
        self._say(LeaseFailed(lease, swarm, piece, failure, detail))

    def reader_at(self, swarm: int, piece: int) -> None:
        self._say(Urgent(swarm, piece))

    def _say(self, message: Message) -> None:
        if self._link is not None and self._link.is_open:
            self._link.send(message)


class Managers:
    """All managers that this peer knows, one link each."""

    def __init__(self, hello: Callable[[], Hello], clock: Clock, rng: random.Random) -> None:
        self._hello = hello
        self._clock = clock
        self._rng = rng
        self._links: Dict[Address, ManagerLink] = {}
        self._order: List[Address] = []
        self._openings: "List[asyncio.Future[None]]" = []
        self._distrusted: Dict[Tuple[str, Address], float] = {}   # until when

    def distrust(self, task_id: str, address: Address) -> None:
        """This manager said what can't be about this task: it isn't asked for a while."""
        now = self._clock.now()
        for key, until in list(self._distrusted.items()):
            if until <= now:
                del self._distrusted[key]
        self._distrusted[task_id, address] = now + DISTRUST_S

    def _trusted(self, task_id: str, address: Address) -> bool:
        return self._distrusted.get((task_id, address), 0.0) <= self._clock.now()

    def update(self, addresses: List[Address]) -> None:
        """The managers are these now, the nearest first. Links to others stay while in use."""
        for address in addresses:
            if address not in self._links:
                link = ManagerLink(address, self._hello, self._clock, self._rng, self._opened)
                self._links[address] = link
                link.start()
        self._order = list(addresses)

    def _opened(self) -> None:
        openings, self._openings = self._openings, []
        for future in openings:
            if not future.done():
                future.set_result(None)

    async def next_opening(self) -> None:
        """Returns when a link (any) opens from now on."""
        future: "asyncio.Future[None]" = asyncio.get_running_loop().create_future()
        self._openings.append(future)
        await future

    @property
    def any_known(self) -> bool:
        return bool(self._order)

    @property
    def links(self) -> List[ManagerLink]:
        return [self._links[address] for address in self._order]

    def for_task(self, task_id: str) -> List[ManagerLink]:
        """By rendezvous hashing: the same first manager for this task on every host, and the
        same stand-ins behind it (Thaler & Ravishankar 1998)."""
        def weight(address: Address) -> bytes:
            seed = f"{task_id} {join_address(*address)}"
            return sha256(seed.encode())
        return [self._links[a] for a in sorted(self._order, key=weight, reverse=True)
                if self._trusted(task_id, a)]

    async def stop(self) -> None:
        for link in self._links.values():
            await link.stop()
