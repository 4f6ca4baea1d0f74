"""The cluster manager: links to the peers, swarms, and the scheduler's driver.

Every fact that a peer tells goes to core/scheduler.py as an event; every order that comes back
goes out on that peer's link. The manager itself is host 0 of its swarms: it fetches from the
source (swarms.py) and gives pieces like any parent (pieces.py). Its state is soft: peers that
come back say again what they hold.
"""
from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from ipaddress import ip_address, ip_network
from typing import Any, Callable, Deque, Dict, Optional, Tuple, Type, Union

from dfly import __version__
from dfly.access import Access, SourceFacts, settled
from dfly.clock import Clock
from dfly.config import ServeSettings
from dfly.core import events as core
from dfly.core.cost import LocalityCost
from dfly.core.pacing import PRODUCTION
from dfly.core.scheduler import Scheduler, SchedulerLimits
from dfly.errors import DflyError, NetworkError, ProtocolError, printable
from dfly.names import canonical_url, is_shared_url, join_address
from dfly.net.http_client import HttpClient
from dfly.net.http_server import (
    Answer,
    GivenAway,
    HttpServer,
    Request,
    Response,
    Upgrade,
    json_response,
)
from dfly.net.limiter import Limiter
from dfly.net.link import Link
from dfly.net.mover import Movers
from dfly.net.stream import Stream
from dfly.service.config_server import Registrar, Registry
from dfly.service.givers import Givers, GiversSource, SharedIngest
from dfly.service.hostlinks import (
    DigestNews,
    HostLink,
    Member,
    location_labels,
    note_parent,
    size_of,
    slots_of,
)
from dfly.service.ingest import Ingest, IngestLimits
from dfly.service.load import Load
from dfly.service.metrics import METRICS_TYPE, Metrics
from dfly.service.pieces import PieceServer, Served, task_asked_for
from dfly.service.runtime import Leftovers, Ready, Tasks, run_role
from dfly.service.sources import MANAGER_TRIES, looked, source_for, weight_of
from dfly.service.swarms import LedTask, Swarms, is_named_by_digest
from dfly.service.workers import Spawn, WorkerLimits, Workers
from dfly.source import SourceChanged
from dfly.source.http import HttpSource
from dfly.store.disk import DiskStore
from dfly.task import TaskSpec, count_of, full_set, run_set, runs_of
from dfly.wire.messages import (
    LINK_PROTOCOL,
    LOOK,
    STREAMING,
    Accepted,
    Busy,
    Changed,
    Have,
    Hello,
    Join,
    Lease,
    LeaseFailed,
    Leave,
    Message,
    Offer,
    Pace,
    Parent,
    Revoke,
    Sized,
    Stored,
    TaskFailed,
    Urgent,
    Welcome,
    refusal,
)
from dfly.wire.session import Role, Session

log = logging.getLogger("dfly.manager")

JOINS_MAX = 256              # joins of one host that may wait for a source
OFFERS_MAX = 2_000           # tasks that one host may offer
OFFERED_MAX = 4 << 20        # bytes of piece sets in them: a thousand usual ones have 128 KiB
QUARANTINED_MAX = 10_000     # host ids remembered
STEP_LEASES = 100            # granted in one turn of the loop: some 10 ms
KEEP_S = 600.0               # a task without members stays open this long
TEND_S = 30.0
UPLOADS_PER_SLOT = 8         # bodies served at once, per upload slot


class Manager:
    """One running manager."""

    def __init__(self, settings: ServeSettings, spawn: Spawn) -> None:
        self.settings = settings
        self._spawn = spawn
        self._workers: Optional[Workers] = None
        self.metrics = Metrics()
        self.clock = Clock()
        self.port = 0
        self.started_at = self.clock.now()
        self._rng = random.Random()
        self._scheduler = Scheduler(SchedulerLimits(work_max=STEP_LEASES, pace=PRODUCTION),
                                    LocalityCost(), random.Random())
        self._hosts: Dict[int, HostLink] = {}
        self._quarantined: Dict[bytes, None] = {}   # host ids, the oldest first
        self._next_host = core.SEED + 1
        self._offers: Dict[str, Dict[int, Offer]] = {}   # task id -> host -> offer, not yet taken
        self._rules = [(ip_network(cidr, strict=False), location_labels(where)) for cidr, _, where
                       in (rule.partition("=") for rule in settings.location_rules)]
        self._timer: Optional[asyncio.TimerHandle] = None
        self._timer_at = 0.0
        self._batch_s = settings.batch_s   # that peers gather reports for
        self._deciding = False
        self._pending: Deque[core.Event] = deque()
        self._load = Load(lambda lag_s: self.decide(core.ManagerLagged(lag_s)),
                          lambda: self._scheduler.active_leases > 0,
                          lambda: len(self._hosts), self._rng)
        self._news = DigestNews(self._hosts)
        self._tasks = Tasks(log)
        self.store = DiskStore(settings.store, quota=settings.quota)
        self.movers = Movers()
        self._source_limit = Limiter(settings.source_limit_bps)
        self.swarms = Swarms(self.store, self._ingest, self, self.metrics, self.clock,
                             settings.revalidate_s)
        self._givers = Givers(self._hosts, self._offers, self.swarms.of_task, self.clock)
        self._pieces = PieceServer(self._served, self.metrics,
                                   (Limiter(settings.upload_limit_bps),),
                                   settings.upload_slots * UPLOADS_PER_SLOT)
        self.registry = Registry(self.clock)
        self._handlers: Dict[Type[Message], Callable[[HostLink, Any], None]] = {
            Hello: self._on_hello, Join: self._on_join, Offer: self._on_offer,
            Have: self._on_have, Urgent: self._on_urgent, Leave: self._on_leave,
            Stored: self._on_stored, LeaseFailed: self._on_lease_failed,
        }
        self._orders: Dict[Type[core.Effect], Callable[[Any], None]] = {
            core.Grant: self._grant, core.Withdraw: self._withdraw,
            core.Quarantine: self._quarantine, core.Pace: self._pace,
        }

    # ------------------------------------------------------------------------------ life
    async def main(self, stop: asyncio.Event, ready: Ready) -> None:
        """Serve until `stop`; then put everything away."""
        loop = asyncio.get_running_loop()
        self.movers.start(loop)
        self._client = HttpClient(self.movers, per_host=32)
        self.decide(core.HostJoined(core.SEED, location_labels(self.settings.location),
                                    self.settings.upload_slots))
        quick = None if self.settings.workers else self._pieces.quick   # workers come first
        server = HttpServer(self._on_request, self.movers, quick=quick,
                            connections_max=2 * self.settings.links_max)
        registrar = Registrar(self.settings, self._client, self.registry)
        try:
            self.port = await server.listen_tcp(self.settings.listen, self.settings.port)
            self._start_workers(server)
            await registrar.start(self.port, self._tasks)
            self._tasks.start(self._tend())
            log.info("dfly %s manager %s: port %d, store %s", __version__, self.settings.name,
                     self.port, self.settings.store)
            ready(join_address(self.settings.listen, self.port))
            await stop.wait()
        finally:
            await self._put_away(server)

    async def _put_away(self, server: HttpServer) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._load.stop()
        self._news.stop()
        await self._tasks.stop()
        for host in list(self._hosts.values()):
            host.link.abort(NetworkError("the manager stops"))
        await self.swarms.stop()
        await server.close(1.0)
        if self._workers is not None:
            await self._workers.stop()
        await self._client.close()
        self.movers.stop()
        self.store.close()

    def _start_workers(self, server: HttpServer) -> None:
        settings = self.settings
        if settings.workers:
            limits = WorkerLimits(settings.workers, settings.upload_slots * UPLOADS_PER_SLOT,
                                  settings.upload_limit_bps)
            self._workers = Workers(limits, self._spawn, server.adopt, self.metrics)
            self._workers.start()

    async def _tend(self) -> None:
        leftovers = Leftovers(self.store)
        while True:
            await asyncio.sleep(TEND_S)
            self.swarms.tend(KEEP_S)
            leftovers.collect()

    def _ingest(self, spec: TaskSpec, access: Access) -> Ingest:
        limits = IngestLimits(connections=self.settings.source_connections, tries=MANAGER_TRIES,
                              limiters=(self._source_limit,))
        if is_shared_url(spec.url):
            hosts = GiversSource(self._givers, self.store, self._client, spec)
            return SharedIngest(hosts, spec, lambda: self._givers.checked(
                spec.task_id, self.decide), limits=limits, rng=self._rng)
        return Ingest(source_for(spec, HttpSource(self._client)), spec, access, limits=limits,
                      rng=self._rng)

    # --------------------------------------------------------------------------- machine
    def decide(self, event: core.Event) -> None:
        """Tell the scheduler a fact and carry out its orders. Facts that come up while orders
        are carried out wait their turn."""
        self._pending.append(event)
        if self._deciding:
            return
        self._deciding = True
        try:
            while self._pending:
                for order in self._scheduler.step(self._pending.popleft(), self.clock.now()):
                    self._orders[type(order)](order)
        finally:
            self._deciding = False
            self._set_timer()   # whatever failed, the leases under way go on being watched

    def _set_timer(self) -> None:
        """Be woken at the scheduler's deadline. One that has moved to later leaves the timer as
        it is: most do, with every report."""
        due = self._scheduler.deadline()
        if due is None or self._timer is not None and self._timer_at <= due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        delay = max(0.0, due - self.clock.now())
        self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.decide(core.TimePassed())

    def _grant(self, order: core.Grant) -> None:
        host, task = self._hosts.get(order.child), self.swarms.of_swarm(order.swarm)
        if host is None or task is None:
            return  # gone while the order was on its way
        self.metrics.add("dfly_leases_total")
        self._load.watch()
        if order.parent not in host.parents:
            parent = self._hosts[order.parent]
            assert parent.hello is not None
            note_parent(host, order.parent, self._hosts)
            host.link.send(Parent(order.parent, parent.hello.port, parent.address))
        self._news.tell_of(host, task, run_set(order.first, order.count))
        host.link.send(Lease(order.lease, order.swarm, order.parent, order.first, order.count,
                             order.deadline_s))

    def _withdraw(self, order: core.Withdraw) -> None:
        host = self._hosts.get(order.child)
        if host is not None:
            host.link.send(Revoke(order.lease, order.swarm))

    def _quarantine(self, order: core.Quarantine) -> None:
        host = self._hosts.get(order.host)
        if host is None or host.hello is None:
            return
        self._quarantined[host.hello.host_id] = None
        if len(self._quarantined) > QUARANTINED_MAX:
            del self._quarantined[next(iter(self._quarantined))]
        self.metrics.add("dfly_quarantined_total")
        log.warning("host %s (%s) is quarantined: %s", printable(host.hello.name),
                    host.address, order.why)

    def _pace(self, order: core.Pace) -> None:
        """Each host hears it with its next report: one that has nothing to report needn't know,
        and thousands aren't told at once while the loop is late already."""
        self._batch_s = max(self.settings.batch_s, order.batch_s)

    # ----------------------------------------------------------------------------- links
    async def _serve_link(self, stream: Stream) -> None:
        link = Link(stream, Session(Role.MANAGER, self.clock.now()), self.clock,
                    self._load.backlog)
        host = HostLink(self._next_host, link, address=stream.remote[0])
        self._next_host += 1
        self._hosts[host.number] = host
        self._load.watch()
        try:
            await link.run(lambda message: self._on_message(host, message))
        except ProtocolError as error:
            self.metrics.add("dfly_link_errors_total", kind="protocol")
            log.warning("link from %s: %s", host.address, error)
        except DflyError as error:
            self.metrics.add("dfly_link_errors_total", kind="network")
            log.info("link from %s: %s", host.address, error)
        finally:
            self._lose(host)

    def _lose(self, host: HostLink) -> None:
        del self._hosts[host.number]
        for task_id in list(host.offers):
            self._forget_offer(host, self._offers[task_id][host.number])
        for swarm in host.swarms:
            task = self.swarms.of_swarm(swarm)
            if task is not None:
                task.forget(host.number)
        if host.hello is not None:
            self.decide(core.HostLost(host.number))

    def _on_message(self, host: HostLink, message: Message) -> None:
        handler = self._handlers.get(type(message))
        if handler is not None:  # Bye has no handler: the session has closed by itself
            handler(host, message)

    def _on_hello(self, host: HostLink, hello: Hello) -> None:
        if len(self._hosts) > self.settings.links_max:
            self._send_away(host, "full", f"this manager has its {self.settings.links_max} peers")
            return
        if self._load.excess:
            self._send_away(host, "overload", self._load.excess)
            return
        host.hello = hello
        host.address = hello.address or host.address
        host.labels = location_labels(hello.location) or self._labels_by_rule(host.address)
        trusted = hello.host_id not in self._quarantined
        host.batch_s = self._batch_s
        host.link.send(Welcome(self.settings.name, self.settings.heartbeat_s, self._batch_s))
        self.decide(core.HostJoined(host.number, (*host.labels, host.address),
                                    slots_of(hello), trusted))

    def _send_away(self, host: HostLink, reason: str, why: str) -> None:
        """The host must come back later: its link ends."""
        self.metrics.add("dfly_links_refused_total", reason=reason)
        host.link.send(Busy(self._load.retry_s(), why))

    def _labels_by_rule(self, address: str) -> Tuple[str, ...]:
        try:
            where = ip_address(address)
        except ValueError:
            return ()  # a name: rules are about addresses
        return next((labels for network, labels in self._rules if where in network), ())

    # --------------------------------------------------------------------- peers' messages
    def _on_join(self, host: HostLink, join: Join) -> None:
        if host.joins >= JOINS_MAX:
            host.link.send(refusal(join.request, NetworkError(
                "too many joins of this host wait for their sources", "try again")))
            return
        if self._load.joins_full:
            self._send_away(host, "overload", self._load.excess)
            return
        host.joins += 1
        size = self._load.join_waits(weight_of(join.spec, join.access))
        self._tasks.start(self._admit(host, join, size))

    async def _admit(self, host: HostLink, join: Join, size: int) -> None:
        try:
            # What can't be fetched is refused in one line.
            spec, access = settled(join.spec, join.access)
            if join.flags & LOOK:
                host.link.send(looked(join.request, spec, await self.swarms.look(spec, access)))
                return
            task, facts = await self.swarms.lead(spec, access)
        except DflyError as error:
            host.link.send(refusal(join.request, error))
            return
        finally:
            host.joins -= 1
            self._load.join_ends(size)
        if host.number not in self._hosts or task.error is not None:
            host.link.send(refusal(join.request, task.error or NetworkError("the link ended")))
            return
        held = 0
        if join.version == task.file.version and join.piece_size == task.file.geometry.piece_size:
            held = self._possible(task, join.have)
        self._accept(host, task, join, held, facts)

    def _possible(self, task: LedTask, have: int) -> int:
        """What a peer claims to hold, less pieces that can't exist."""
        count = task.file.geometry.piece_count
        if count is None:
            count = task.file.have.bit_length()
        return have & full_set(count)

    def _accept(self, host: HostLink, task: LedTask, asked: Union[Join, Offer], held: int,
                facts: SourceFacts = SourceFacts()) -> None:
        geometry = task.file.geometry
        wants = isinstance(asked, Join)
        inline: Optional[bytes] = None
        if task.inline and wants and task.file.complete:   # else its pieces follow as they come
            assert geometry.length is not None
            inline = task.file.read(0, geometry.length)
        host.link.send(Accepted(asked.request, task.swarm, task.task_id, task.file.version,
                                geometry.length, geometry.piece_size, task.token,
                                held != 0, inline, facts))
        if inline is not None:
            return  # it has everything, and nobody needs it as a parent
        host.swarms.setdefault(task.swarm, Member())
        task.members.add(host.number)
        if wants:
            task.givers.discard(host.number)   # whatever it offered before
        self._news.tell(host, task)
        first, limit_bps = None, 0
        if isinstance(asked, Join):
            limit_bps = asked.limit_bps
            if asked.flags & STREAMING:
                first = next((first for first, _ in runs_of(~held & full_set(
                    geometry.piece_count or held.bit_length() + 1))), None)
        self.decide(core.PeerJoined(task.swarm, host.number, held, wants, first, limit_bps))

    def _on_offer(self, host: HostLink, offer: Offer) -> None:
        size = size_of(offer)
        if len(host.offers) >= OFFERS_MAX or host.offered + size > OFFERED_MAX:
            return
        offers = self._offers.setdefault(offer.task_id, {})
        before = offers.get(host.number)
        host.offers.add(offer.task_id)
        host.offered += size - (size_of(before) if before is not None else 0)
        offers[host.number] = offer
        task = self.swarms.of_task(offer.task_id)
        if task is not None:
            self.opened(task)
        self._givers.came(offer.task_id)

    def opened(self, task: LedTask) -> None:
        """A task is led: hosts that offered this version of it join. Other offers are void, and
        so is any offer of a private task: an offer proves nothing to the source, and would be
        answered with all that a Join must prove itself for. (Where a digest names the content,
        another version may be as true as this one, and waits for another time.)"""
        geometry = task.file.geometry
        for number, offer in list(self._offers.get(task.task_id, {}).items()):
            fits = (not task.private and offer.version == task.file.version
                    and (offer.piece_size, offer.length)
                    == (geometry.piece_size, geometry.length))
            if fits or not is_named_by_digest(task.spec):
                self._forget_offer(self._hosts[number], offer)
            if fits:
                self._accept(self._hosts[number], task, offer, self._givers.believed(
                    task, number, self._possible(task, offer.have)))

    def _forget_offer(self, host: HostLink, offer: Offer) -> None:
        offers = self._offers[offer.task_id]
        del offers[host.number]
        if not offers:
            del self._offers[offer.task_id]
        host.offers.discard(offer.task_id)
        host.offered -= size_of(offer)

    def _on_have(self, host: HostLink, have: Have) -> None:
        task = self._task_of(host, have.swarm)
        if task is not None:
            self.decide(core.PiecesHeld(have.swarm, host.number,
                                        self._possible(task, have.pieces)))

    def _on_urgent(self, host: HostLink, urgent: Urgent) -> None:
        if self._task_of(host, urgent.swarm) is not None:
            self.decide(core.ReaderAt(urgent.swarm, host.number, urgent.piece))

    def _on_leave(self, host: HostLink, leave: Leave) -> None:
        task = self._task_of(host, leave.swarm)
        if task is not None:
            del host.swarms[leave.swarm]
            task.forget(host.number)
            self.decide(core.PeerLeft(leave.swarm, host.number))

    def _on_stored(self, host: HostLink, stored: Stored) -> None:
        self.metrics.add("dfly_reports_total")
        if host.batch_s != self._batch_s:
            host.batch_s = self._batch_s
            host.link.send(Pace(self._batch_s))
        if self._task_of(host, stored.swarm) is not None:
            self.decide(core.PiecesStored(stored.swarm, host.number, stored.pieces))

    def _on_lease_failed(self, host: HostLink, failed: LeaseFailed) -> None:
        self.metrics.add("dfly_leases_failed_total", reason=failed.reason.name.lower())
        log.info("host %s gave up lease %d: %s", host.address, failed.lease,
                 printable(failed.detail) or failed.reason.name)
        self.decide(core.LeaseEnded(failed.lease, failed.reason, failed.piece, host.number))

    def _task_of(self, host: HostLink, swarm: int) -> Optional[LedTask]:
        """The task of a swarm that this host is in; None if it has ended, or never was."""
        return self.swarms.of_swarm(swarm) if swarm in host.swarms else None

    # --------------------------------------------------------------- news of tasks (Audience)
    def digests_grew(self, task: LedTask) -> None:
        self._news.grew(task)

    def sized(self, task: LedTask) -> None:
        length = task.file.geometry.length
        assert length is not None
        for number in task.members:
            self._hosts[number].link.send(Sized(task.swarm, length))

    def closed(self, task: LedTask) -> None:
        self._news.forget(task)
        if self._workers is not None:
            self._workers.forget(task.task_id)
        self.decide(core.SwarmClosed(task.swarm))

    def ended(self, task: LedTask, error: DflyError) -> None:
        for number in task.members:
            host = self._hosts[number]
            host.swarms.pop(task.swarm, None)
            if isinstance(error, SourceChanged):
                host.link.send(Changed(task.swarm))
            else:
                host.link.send(TaskFailed(task.swarm, error.exit_code, error.what, error.hint,
                                          getattr(error, "status", 0)))
        task.members.clear()
        task.awaiting.clear()

    # ------------------------------------------------------------------------------ HTTP
    def _served(self, task_id: str) -> Optional[Served]:
        task = self.swarms.of_task(task_id)
        if task is None or task.error is not None:
            return None
        return Served(task.file, task.token, arriving=task.fetching is not None)

    async def _on_request(self, request: Request) -> Answer:
        if request.path == "/v1/managers":
            return await self.registry.answer(request)
        if request.method not in ("GET", "HEAD"):
            return Response(405, [("Allow", "GET, HEAD")], b"method not allowed\n")
        if request.path == "/v1/link":
            return self._upgrade(request)
        pieces = self._by_worker(request) or self._pieces.route(request)
        if pieces is not None:
            return pieces
        pages: Dict[str, Callable[[], Response]] = {
            "/v1/status": lambda: json_response(self.status()),
            "/healthz": lambda: Response(200, body=b"ok\n"),
            "/metrics": self._metrics_page,
        }
        page = pages.get(request.path)
        return page() if page is not None else Response(404, body=b"not found\n")

    def _by_worker(self, request: Request) -> Optional[GivenAway]:
        """The connection is a worker's, if pieces of a task are asked for and one has room."""
        if self._workers is None or not request.body.done:
            return None
        task = self.swarms.of_task(task_asked_for(request.path))
        if task is None or task.error is not None:
            return None
        given = self._workers.give(task, request.stream, request.sent())
        return GivenAway() if given else None

    def _upgrade(self, request: Request) -> "Response | Upgrade":
        if (request.headers.get("Upgrade", "") or "").lower() != LINK_PROTOCOL:
            return Response(426, [("Upgrade", LINK_PROTOCOL), ("Connection", "Upgrade")],
                            b"this is the control link of dfly peers\n")
        return Upgrade(LINK_PROTOCOL, self._serve_link)

    def _metrics_page(self) -> Response:
        self.metrics.set("dfly_build_info", 1, version=__version__, role="serve")
        self.metrics.set("dfly_links", len(self._hosts))
        self.metrics.set("dfly_tasks", len(self.swarms.all))
        return Response(200, [("Content-Type", METRICS_TYPE)], self.metrics.render())

    def status(self) -> Dict[str, Any]:
        """What `dfly status` shows of a manager."""
        hosts = [host for host in self._hosts.values() if host.hello is not None]
        return {
            "role": "serve", "name": self.settings.name, "version": __version__,
            "uptime_s": round(self.clock.now() - self.started_at, 1),
            "hosts": [{"name": printable(host.hello.name) if host.hello else "",
                       "address": host.address, "location": printable("/".join(host.labels)),
                       "tasks": len(host.swarms)} for host in hosts],
            "tasks": [self._task_status(task) for task in self.swarms.all],
            "source_bytes": int(self.metrics.value("dfly_source_bytes_total")),
            "served_bytes": int(self.metrics.value("dfly_sent_bytes_total")),
            "leases": self._scheduler.active_leases,
        }

    def _task_status(self, task: LedTask) -> Dict[str, Any]:
        return {
            "task": task.task_id, "url": printable(canonical_url(task.spec.url).partition("?")[0]),
            "version": printable(task.file.version), "length": task.file.geometry.length,
            "pieces": task.file.geometry.piece_count, "pieces_seeded": count_of(task.file.have),
            "peers": len(task.members), "source_bytes": task.source_bytes, "state": task.state,
        }


def run(settings: ServeSettings, ready: Callable[[str], None], spawn: Spawn) -> int:
    """The manager, until it is told to stop; its exit code."""
    async def role(stop: asyncio.Event) -> None:
        await Manager(settings, spawn).main(stop, ready)
    return run_role(role)
