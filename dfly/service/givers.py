"""The manager's source for what no server has: the hosts that share it.

A host that holds a whole content offers it. When someone joins such a task, the manager fetches it
from one of those hosts as it would from a server, checks it against the digest that is its name,
and leads the swarm as any other. So a host that offers other bytes than it says can waste time,
but never gets them through: its word of the pieces isn't passed on as truth before the whole is
checked (hosts that tell the truth would be taken for liars by it), and it is asked last next time.
No task is opened or ended here.
"""
from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from dataclasses import dataclass, replace
from random import Random
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

from dfly.access import SourceFacts
from dfly.clock import Clock
from dfly.core.events import Event, PiecesHeld
from dfly.digest import Digest
from dfly.errors import DigestMismatch, NetworkError, NoManager, ProtocolError, ServerError
from dfly.names import is_shared_url, join_address
from dfly.net.http_client import ClientResponse, HttpClient
from dfly.net.limiter import Limiter
from dfly.net.transfer import Sink
from dfly.service.content import is_shared, shared_version
from dfly.service.hostlinks import Hosts
from dfly.service.ingest import Ingest, IngestLimits
from dfly.service.pieces import TOKEN_HEADER, path_of, version_tag
from dfly.service.swarms import LedTask
from dfly.source import SourceRefused, SourceRequest, Version
from dfly.store import PieceStore, TaskFile
from dfly.task import TaskSpec, check_geometry, full_set, piece_size_for
from dfly.wire.http11 import HttpError
from dfly.wire.messages import Offer
from dfly.wire.ranges import format_content_range

log = logging.getLogger("dfly.givers")

START_S = 20.0        # so long after a manager's start all hosts have come back
RETURN_S = 5.0        # so long after its loss a host may
ANSWER_S = 10.0       # for a host's answer to a request for pieces
DOUBTS_MAX = 10_000   # hosts in doubt that are remembered, the oldest first
TRIES = 8             # of hosts, without a new piece between: they hear of their swarm by and by
BACKOFF_S = 0.1
_PLACE = re.compile(r"[0-9A-Za-z._:-]{1,255}")   # a number or a name
FAULTS = (DigestMismatch, NetworkError, ProtocolError, ServerError)   # that may be a giver's
ONCE_MORE = "share the file once more: dfly share FILE"


class Giver(NamedTuple):
    """A host that holds all of a content, as it says."""

    number: int
    host_id: bytes
    address: str
    port: int

    @property
    def name(self) -> str:
        return join_address(self.address, self.port)


class Givers:
    """Who gives what, of all hosts of a manager. `offers` are those that wait for a swarm."""

    def __init__(self, hosts: Hosts, offers: Mapping[str, Mapping[int, Offer]],
                 led: Callable[[str], Optional[LedTask]], clock: Clock) -> None:
        self.led = led
        self._hosts = hosts
        self._offers = offers
        self._clock = clock
        self._started_at = clock.now()
        self._doubts: Dict[bytes, int] = {}   # by host id: how often it may have been at fault
        self._waiting: Dict[str, List["asyncio.Future[None]"]] = {}   # by task id

    # ------------------------------------------------------------------------------- news
    def came(self, task_id: str) -> None:
        """A host offered this task, or gives it from now on."""
        for future in self._waiting.pop(task_id, []):
            if not future.done():
                future.set_result(None)

    async def _wait_for_one(self, task_id: str, timeout_s: float) -> None:
        """Returns when a host came, or after that long."""
        future: "asyncio.Future[None]" = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(task_id, [])
        waiting.append(future)
        try:
            await asyncio.wait({future}, timeout=timeout_s)
        finally:
            if future in waiting:
                waiting.remove(future)
            if not waiting and self._waiting.get(task_id) is waiting:
                del self._waiting[task_id]

    def doubt(self, host_id: bytes) -> None:
        """What this host shares didn't come, or wasn't it; another may be at fault."""
        self._doubts[host_id] = self._doubts.pop(host_id, 0) + 1
        if len(self._doubts) > DOUBTS_MAX:
            del self._doubts[next(iter(self._doubts))]

    # ------------------------------------------------------------------------------ offers
    async def best_offer(self, spec: TaskSpec) -> Offer:
        """What hosts say of a content that isn't led yet: most of those that were never in doubt.
        NoManager if there is none, which is sure only a while after this manager's start."""
        assert spec.digest is not None
        task_id = spec.task_id
        until = self._started_at + START_S
        while True:
            fitting = [(self._doubts_of(number), offer) for number, offer
                       in self._offers.get(task_id, {}).items() if _fits(offer, spec.digest)]
            if fitting:
                break
            rest_s = until - self._clock.now()
            if rest_s <= 0:
                raise NoManager("no host of this cluster has it", ONCE_MORE)
            await self._wait_for_one(task_id, rest_s)
        least = min(doubts for doubts, _ in fitting)
        sure = [offer for doubts, offer in fitting if doubts == least]
        votes = Counter(offer.length for offer in sure)
        return max(sure, key=lambda offer: votes[offer.length])

    def _doubts_of(self, number: int) -> int:
        hello = self._hosts[number].hello
        return self._doubts.get(hello.host_id, 0) if hello is not None else 0

    # ------------------------------------------------------------------------------ givers
    def believed(self, task: LedTask, number: int, held: int) -> int:
        """What others may know of the pieces that a host says it holds: of a shared task, nothing
        before we know what is in them. Meanwhile it gives to us."""
        if not is_shared_url(task.spec.url) or task.checked:
            return held
        if held == full_set(task.file.geometry.piece_count or 0):
            task.givers.add(number)
        return 0

    def checked(self, task_id: str, decide: Callable[[Event], None]) -> None:
        """All of a shared task came, and has its digest: its givers are parents as any."""
        task = self.led(task_id)
        if task is not None:
            task.checked = True
            for number in sorted(task.givers):
                decide(PiecesHeld(task.swarm, number,
                                  full_set(task.file.geometry.piece_count or 0)))

    async def next_giver(self, task_id: str, failures: Mapping[int, int]) -> Giver:
        """The host to ask: one that failed least often, was least in doubt, came first. NoManager
        if there is none, and none comes (back) in time."""
        until = self._clock.now() + RETURN_S
        while True:
            givers = self._givers_of(task_id)
            if givers:
                return min(givers, key=lambda giver: (
                    failures.get(giver.number, 0), self._doubts.get(giver.host_id, 0),
                    giver.number))
            rest_s = until - self._clock.now()
            if rest_s <= 0:
                raise NoManager("the hosts that shared it are gone, and not all of it came",
                                f"what came is kept; {ONCE_MORE}")
            await self._wait_for_one(task_id, rest_s)

    def _givers_of(self, task_id: str) -> List[Giver]:
        task = self.led(task_id)
        found = []
        for number in sorted(task.givers) if task is not None else ():
            host = self._hosts[number]
            if host.hello is not None and host.hello.port and _PLACE.fullmatch(host.address):
                found.append(Giver(number, host.hello.host_id, host.address, host.hello.port))
        return found


def _fits(offer: Offer, digest: Digest) -> bool:
    """True if the host says that it holds all of a content that can be, and may be given to all
    who know its digest."""
    try:
        count = check_geometry(offer.length, offer.piece_size).piece_count
    except ProtocolError:
        return False
    return (bool(count) and offer.have == full_set(count or 0)
            and offer.piece_size == piece_size_for(offer.length)
            and offer.version == shared_version(digest, offer.length).token)


# ---------------------------------------------------------------------------------- source
class GiversSource:
    """Source of one shared task. What the content is, is known without asking anyone: from what
    the store holds, or from the offers."""

    def __init__(self, givers: Givers, store: PieceStore, client: HttpClient,
                 spec: TaskSpec) -> None:
        self.givers = givers
        self.asked: Dict[int, Giver] = {}   # by number
        self._store = store
        self._client = client
        self._spec = spec
        self._task_id = spec.task_id
        self._failures: Dict[int, int] = {}

    async def open(self, request: SourceRequest) -> _Body:
        """See Source.open. NoManager."""
        if request.if_version is None:
            return await self._describe(request)
        task = self.givers.led(self._task_id)
        assert task is not None and request.stop is not None, "it is fetched while it is led"
        giver = await self.givers.next_giver(self._task_id, self._failures)
        self.asked[giver.number] = giver
        wanted = format_content_range(request.start, request.stop, task.file.geometry.length)
        try:
            response = await self._ask(giver, task, request)
            try:
                _check(response, giver, wanted, request.stop - request.start)
            except BaseException:
                response.release()
                raise
        except (NetworkError, SourceRefused):
            self.failed(giver)
            raise
        return _Body(request.if_version, task.file.geometry.length,
                     _Rest(self, giver, response, request.start, request.stop))

    async def _ask(self, giver: Giver, task: LedTask, request: SourceRequest) -> ClientResponse:
        assert request.stop is not None
        headers = [(TOKEN_HEADER, task.token.hex()),
                   ("If-Match", version_tag(task.file.version)),
                   ("Range", f"bytes={request.start}-{request.stop - 1}")]
        url = f"http://{giver.name}{path_of(self._task_id)}"
        try:
            return await self._client.request("GET", url, headers, timeout_s=ANSWER_S)
        except HttpError as error:
            raise _at_fault(giver, error.what) from None

    async def _describe(self, request: SourceRequest) -> _Body:
        """The content without a byte of it."""
        task = self.givers.led(self._task_id)
        if task is not None and not task.private:
            return _Body(task.version, task.file.geometry.length)
        held = await asyncio.to_thread(self._store.find, self._task_id)
        if held is not None and held.complete and is_shared(held, self._spec.digest):
            version = Version.parse(held.version)
            return _Body(version, held.geometry.length, unchanged=version == request.unless)
        offer = await self.givers.best_offer(self._spec)
        return _Body(Version.parse(offer.version), offer.length)

    def failed(self, giver: Giver) -> None:
        """It doesn't give what it said: others come first."""
        self._failures[giver.number] = self._failures.get(giver.number, 0) + 1


@dataclass
class _Rest:
    """Bytes [start, stop) that a giver is about to send."""

    source: GiversSource
    giver: Giver
    response: ClientResponse
    start: int
    stop: int


class _Body:
    """SourceBody: what a giver sends, or nothing but what is known."""

    ranged = True
    redirected = False
    authorised = False
    final_url = ""
    facts = SourceFacts()

    def __init__(self, version: Version, total: Optional[int], rest: Optional[_Rest] = None, *,
                 unchanged: bool = False) -> None:
        self.version = version
        self.total = total
        self.unchanged = unchanged
        self.start = rest.start if rest is not None else 0
        self.stop = rest.stop if rest is not None else 0
        self._rest = rest

    async def receive(self, sink: Sink, limits: Sequence[Limiter] = ()) -> int:
        """See SourceBody.receive."""
        rest, self._rest = self._rest, None
        if rest is None:
            sink.finish()
            return 0
        try:
            return await rest.response.receive(sink, limits, idle_timeout_s=ANSWER_S)
        except (NetworkError, HttpError) as error:
            rest.source.failed(rest.giver)
            raise _at_fault(rest.giver, error.what) from None
        finally:
            rest.response.release()

    async def close(self) -> None:
        rest, self._rest = self._rest, None
        if rest is not None:
            rest.response.release()


def _check(response: ClientResponse, giver: Giver, wanted: str, size: int) -> None:
    """Raise unless the answer is exactly the range that was asked for."""
    if response.status in (429, 503):
        raise SourceRefused(f"host {giver.name} is busy", status=response.status)
    if response.status == 206 and response.headers.get("Content-Range") == wanted and (
            response.headers.get("Content-Length") == str(size)):
        return
    raise _at_fault(giver, f"it answered {response.status} to a request for pieces")


def _at_fault(giver: Giver, why: str) -> NetworkError:
    return NetworkError(f"host {giver.name} doesn't give what it shares: {why}", ONCE_MORE)


class SharedIngest(Ingest):
    """From the hosts that share a content into the manager's store. `on_checked` is called once
    all of it is here and has its digest."""

    def __init__(self, source: GiversSource, spec: TaskSpec, on_checked: Callable[[], None], *,
                 limits: IngestLimits, rng: Random) -> None:
        super().__init__(source, spec, rng=rng,
                         limits=replace(limits, tries=TRIES, backoff_s=BACKOFF_S))
        self._givers_source = source
        self._on_checked = on_checked

    async def fetch(self, task_file: TaskFile, *, on_piece: Callable[[int], None],
                    wanted: Optional[int] = None) -> None:
        """See Ingest.fetch."""
        try:
            await super().fetch(task_file, on_piece=on_piece, wanted=wanted)
        except FAULTS:
            for giver in self._givers_source.asked.values():
                log.warning("host %s may not share what it says", giver.name)
                self._givers_source.givers.doubt(giver.host_id)
            raise
        self._on_checked()
