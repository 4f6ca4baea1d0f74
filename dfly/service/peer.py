"""The daemon of one host: a store, the links to the managers, downloads, and pieces for others.

It ties the parts together and owns their lives; the rules of one download are in download.py,
the local socket's requests in control.py. One daemon serves every caller of its host, and a task
that two callers want is downloaded once.
"""
from __future__ import annotations

import asyncio
import logging
import os
import random
from dataclasses import replace
from functools import partial
from typing import Callable, Dict, List, Optional, Sequence
from weakref import WeakValueDictionary

from dfly import __version__
from dfly.clock import Clock
from dfly.config import (
    BUILT_IN,
    PeerSettings,
    origin_of,
    private_dir,
    with_server_values,
)
from dfly.digest import Digest
from dfly.errors import (
    DflyError,
    FileError,
    NetworkError,
    NoManager,
    ProtocolError,
    ServerError,
)
from dfly.names import is_shared_url
from dfly.net.fetching import Lines
from dfly.net.http_client import HttpClient
from dfly.net.http_server import AddressInUse, HttpServer, Request, Response
from dfly.net.limiter import Limiter
from dfly.net.mover import Movers
from dfly.service.content import (
    check_content,
    discard,
    file_for,
    file_from_source,
    is_shared,
)
from dfly.service.control import Control
from dfly.service.discovery import Discovery
from dfly.service.download import MANAGERS_OWN, Means, Started, TaskDownload
from dfly.service.ingest import Ingest, IngestLimits, held_state, is_transient
from dfly.service.managers import LINK_WAIT_S, ManagerLink, Managers
from dfly.service.metrics import METRICS_TYPE, Metrics
from dfly.service.pieces import PieceServer, Served
from dfly.service.runtime import Leftovers, Ready, Tasks, run_role
from dfly.service.sharing import Sharing
from dfly.service.sources import MANAGER_TRIES, looking, source_for
from dfly.service.wish import Seen, Wish, join_of
from dfly.source import SourceChanged, Version
from dfly.source.http import HttpSource
from dfly.store import PieceStore, TaskFile
from dfly.store.disk import DiskStore
from dfly.task import TaskSpec
from dfly.units import parse_http_date
from dfly.wire.messages import Accepted, Hello

log = logging.getLogger("dfly.peer")

OFFERS_MAX = 1_000           # stored tasks that a starting daemon offers
UPLOADS_PER_SLOT = 4         # bodies served at once, per upload slot: leases may overlap
TEND_S = 1.0                 # between looks at idleness


class Peer:
    """One running daemon."""

    def __init__(self, settings: PeerSettings) -> None:
        self.settings = settings
        self.clock = Clock()
        self.metrics = Metrics()
        self.port = 0
        self.started_at = self.clock.now()
        self._rng = random.Random()
        self._tasks = Tasks(log)
        self._downloads: Dict[str, TaskDownload] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._active_at = self.clock.now()
        self._upload = Limiter(settings.upload_limit_bps)
        self._download = Limiter(settings.download_limit_bps)
        self.store: PieceStore = DiskStore(settings.store, quota=settings.quota)
        self.movers = Movers()
        self.managers = Managers(self._hello, self.clock, self._rng)
        self.stop_asked = asyncio.Event()
        self.sharing = Sharing(self)

    # ------------------------------------------------------------------------ life
    async def main(self, stop: asyncio.Event, ready: Ready) -> None:
        """Serve until `stop`, a POST /v1/stop, or idleness; then put everything away."""
        self.movers.start(asyncio.get_running_loop())
        self._client = HttpClient(self.movers, per_host=32)
        self._lines = Lines(self.movers)
        self._means = Means(self.store, self._client, self._lines, self.managers, self.metrics,
                            self.clock, self._rng, (self._download,), self._ingest)
        pieces = PieceServer(self._served, self.metrics, (self._upload,),
                             self.settings.upload_slots * UPLOADS_PER_SLOT)
        self._pieces = pieces
        tcp = HttpServer(self._on_tcp, self.movers, quick=pieces.quick)
        local = HttpServer(Control(self).answer, self.movers)
        try:
            self.port = await self._listen(tcp)
            private_dir(os.path.dirname(self.settings.socket))
            await local.listen_unix(self.settings.socket)
            await Discovery(self.settings, self._client, self.managers,
                            self._follow_settings).start(self._tasks)
            self._tasks.start(self._offer_stored())
            self._tasks.start(self._tend(stop))
            log.info("dfly %s peer: port %d, socket %s, store %s", __version__, self.port,
                     self.settings.socket, self.settings.store)
            ready(self.settings.socket)
            await _first_of(stop, self.stop_asked)
        finally:
            await self._put_away([local, tcp])

    async def _put_away(self, servers: Sequence[HttpServer]) -> None:
        await self._tasks.stop()
        leaving = NetworkError("the daemon stops", "run the same command again to go on")
        for download in list(self._downloads.values()):
            await download.abandon(leaving)
        await self.managers.stop()
        for server in servers:
            await server.close(1.0)
        await self._client.close()
        await self._lines.close()
        self.movers.stop()
        self.store.close()

    async def _listen(self, server: HttpServer) -> int:
        host, port = self.settings.listen, self.settings.port
        try:
            return await server.listen_tcp(host, port)
        except AddressInUse as error:
            if origin_of(self.settings, "port") != BUILT_IN:
                raise
            taken = await server.listen_tcp(host, 0)
            log.warning("%s; using port %d", error.what, taken)
            return taken

    async def _tend(self, stop: asyncio.Event) -> None:
        """Once a second: forget what is over, leave when idle for long enough."""
        leftovers = Leftovers(self.store)
        while not stop.is_set():
            await asyncio.sleep(TEND_S)
            await self._forget_over()
            leftovers.collect()
            idle_s = self.clock.now() - self._active_at
            if 0 < self.settings.idle_exit_s < idle_s:
                log.info("idle for %.0f s: leaving", idle_s)
                self.stop_asked.set()

    async def _forget_over(self) -> None:
        for task_id, download in list(self._downloads.items()):
            if download.is_over and not download.waiters:
                del self._downloads[task_id]
                self.sharing.tasks.discard(task_id)
                await download.abandon(FileError("the file left the store"))
            elif not download.is_done or task_id in self.sharing.tasks:
                self.touch()

    def touch(self) -> None:
        """Something was asked of this daemon: it isn't idle."""
        self._active_at = self.clock.now()

    # --------------------------------------------------------------------- managers
    def _hello(self) -> Hello:
        settings = self.settings
        facts = {"cores": os.cpu_count() or 1, "version": __version__,
                 "upload_slots": settings.upload_slots}
        return Hello(self.store.host_id, self.port, settings.name, settings.location,
                     settings.address, facts)

    def _follow_settings(self, values: Dict[str, str]) -> None:
        """The config server's values, wherever this host doesn't say otherwise."""
        self.settings = with_server_values(self.settings, values)
        for line in self.settings.rejected:
            log.warning("%s", line)
        self._upload.set_rate(self.settings.upload_limit_bps)
        self._download.set_rate(self.settings.download_limit_bps)

    # -------------------------------------------------------------------- downloads
    def download_of(self, task_id: str) -> Optional[TaskDownload]:
        return self._downloads.get(task_id)

    @property
    def downloads(self) -> List[TaskDownload]:
        return list(self._downloads.values())

    async def start(self, wish: Wish) -> Started:
        """The download that fulfils the wish, found or begun. Every caller is checked anew: by
        the manager, or by the source itself."""
        self.touch()
        task_id = wish.spec.task_id
        lock = self._locks.setdefault(task_id, asyncio.Lock())  # lives as long as anyone waits
        async with lock:
            return await self._start(wish, task_id)

    async def _start(self, wish: Wish, task_id: str) -> Started:
        shared = is_shared_url(wish.spec.url)
        if wish.spec.digest is not None:
            here = await self._whole_here(wish.spec, any_version=shared)
            if here is not None:
                return Started(here, here.facts)
        why = wish.why_alone
        for link in [] if why else self.managers.for_task(task_id):
            if not await link.opened(LINK_WAIT_S):
                why = _trouble(link, link.refused or NetworkError("no answer"))
                continue
            held = await asyncio.to_thread(self.store.find, task_id)
            try:
                accepted = await self._joined(link, wish, held)
            except (*MANAGERS_OWN, NoManager) as error:
                why = _trouble(link, error)
                continue
            try:
                download = await self._adopt(link, accepted, wish)
                download.facts = replace(accepted.facts, cookies=())
                return Started(download, accepted.facts)
            except ProtocolError as error:   # it accepted what can't be
                link.leave(accepted.swarm)
                self.managers.distrust(task_id, link.address)
                why = _trouble(link, error)
                log.warning("%s", why)
        if wish.no_source or self.settings.no_source:
            raise NoManager(f"no manager can give the file{why and f' ({why})'}",
                            "share it once more by dfly share, or name another --manager"
                            if shared else "name one by --manager, or allow the source")
        return await self._start_alone(wish, task_id, why)

    async def seed(self, spec: TaskSpec) -> Optional[TaskDownload]:
        """The shared content that the store holds whole, offered to others; None if it doesn't
        hold it, or only another version of the task."""
        lock = self._locks.setdefault(spec.task_id, asyncio.Lock())
        async with lock:
            return await self._whole_here(spec, any_version=False)

    async def _whole_here(self, spec: TaskSpec, any_version: bool) -> Optional[TaskDownload]:
        """What is here of a content that its digest names: nobody need be asked for it."""
        current = self._downloads.get(spec.task_id)
        if current is not None and not current.is_over and not current.is_done:
            return None
        file = await asyncio.to_thread(self.store.find, spec.task_id)
        if file is None or not file.complete or not (any_version or is_shared(file, spec.digest)):
            return None
        if current is not None and not current.is_over and current.file is file:
            return current
        await self._current(spec.task_id, "")   # whatever there is, is over
        download = self._begin(Wish(spec, no_source=True), file)
        download.start_seeding()
        return download

    async def _adopt(self, link: ManagerLink, accepted: Accepted, wish: Wish) -> TaskDownload:
        task_id = accepted.task_id
        if task_id != wish.spec.task_id:
            raise ProtocolError(f"manager {link.name} answered for another task")
        current = await self._current(task_id, accepted.version)
        if current is not None:
            if not wish.no_source:
                if is_shared_url(current.wish.spec.url):
                    current.wish = wish   # this one knows where there is a source
                current.allow_source()
            current.lead(link, accepted)
            return current
        file = await asyncio.to_thread(file_for, self.store, accepted, wish.spec)
        download = self._begin(wish, file)
        download.start_led(link, accepted)
        return download

    async def _joined(self, link: ManagerLink, wish: Wish, held: Optional[TaskFile]) -> Accepted:
        """The manager's answer. Where the source refused it for now, it is asked again until the
        caller's tries are used up."""
        manners = wish.access.manners
        tried = 0
        while True:
            try:
                return await link.join(partial(join_of, wish, held, self._means.limits),
                                       wish.patience_s)
            except ServerError as error:
                tried += MANAGER_TRIES
                if (not is_transient(error, manners.retry_statuses)
                        or 0 < manners.tries <= tried):
                    raise
                log.info("%s; joining again", error.what)
                await asyncio.sleep(manners.retry_wait_s * self._rng.uniform(0.5, 1.0))

    async def look(self, wish: Wish) -> Seen:
        """What the source has; nothing is fetched but its answer."""
        self.touch()
        task_id = wish.spec.task_id
        for link in [] if wish.why_alone else self.managers.for_task(task_id):
            if await link.opened(LINK_WAIT_S):
                try:
                    seen = await link.look(partial(looking, wish.spec, wish.access),
                                           wish.patience_s)
                except (*MANAGERS_OWN, ProtocolError) as error:
                    log.info("%s", _trouble(link, error))
                    continue
                return Seen(seen.version, seen.length, seen.facts, link.name)
        if wish.no_source or self.settings.no_source:
            raise NoManager("no manager can tell what the source has",
                            "name one by --manager, or allow the source")
        ingest = self._ingest(wish, ())
        try:
            content = await ingest.begin(stop=1)
        finally:
            await ingest.close()
        return Seen(content.version.token, content.length, content.facts)

    async def _start_alone(self, wish: Wish, task_id: str, why: str) -> Started:
        current = self._downloads.get(task_id)
        if (current is not None and not current.is_over and not current.is_done
                and current.wish.access.secrets == wish.access.secrets):
            return Started(current, current.facts)
        held = await asyncio.to_thread(self.store.find, task_id)
        ingest = self._ingest(wish, (self._download, Limiter(wish.limit_bps)))
        try:
            known, start, stop = held_state(held)
            content = await ingest.begin(known, start=start, stop=stop)
            current = await self._current(task_id, content.version.token)
            if current is not None:
                await ingest.close()
                return Started(current, content.facts)
            file = await asyncio.to_thread(file_from_source, self.store, wish.spec, content)
        except BaseException:
            await ingest.close()
            raise
        download = self._begin(wish, file)
        download.facts = replace(content.facts, cookies=())
        if why and not wish.alone:
            download.warn(f"no P2P: {why}")
        download.start_alone(ingest)
        return Started(download, content.facts)

    async def _current(self, task_id: str, version: str) -> Optional[TaskDownload]:
        """The download of this very version, if one lives; one of another version is ended."""
        current = self._downloads.get(task_id)
        if current is None:
            return None
        if not current.is_over and current.file.version == version:
            return current
        del self._downloads[task_id]
        await current.abandon(SourceChanged("the source changed during the download"))
        return None

    def _begin(self, wish: Wish, file: TaskFile) -> TaskDownload:
        _date(file)
        download = TaskDownload(self._means, wish, file)
        self._downloads[file.task_id] = download
        return download

    def _ingest(self, wish: Wish, limits: Sequence[Limiter]) -> Ingest:
        return Ingest(source_for(wish.spec, HttpSource(self._client)), wish.spec, wish.access,
                      limits=IngestLimits(limiters=tuple(limits)), rng=self._rng)

    async def check(self, download: TaskDownload, digests: Sequence[Digest]) -> None:
        """DigestMismatch if the whole content isn't as told; and the task leaves the store, unless
        its own digest says that it is right: then it's this caller who has a wrong one."""
        spec, file = download.wish.spec, download.file
        for digest in digests:
            try:
                await asyncio.to_thread(check_content, file, digest, spec.url)
            except DflyError as error:
                if digest == spec.digest or not await _is_proved(file, spec):
                    await discard(self.store, file, error)
                raise

    async def _offer_stored(self) -> None:
        """What the store holds complete is offered to the managers."""
        if not self.managers.any_known:
            return
        stored = await asyncio.to_thread(self.store.records)
        for record in [record for record in stored if record.complete][-OFFERS_MAX:]:
            file = await asyncio.to_thread(self.store.find, record.task_id)
            if file is not None and record.task_id not in self._downloads:
                digest = Digest.parse(record.digest) if record.digest else None
                spec = TaskSpec(record.url, record.tag, digest=digest)
                self._begin(Wish(spec, no_source=True), file).start_seeding()

    # ---------------------------------------------------------------------- serving
    def _served(self, task_id: str) -> Optional[Served]:
        download = self._downloads.get(task_id)
        if download is None or download.is_over or not download.token:
            return None
        if download.is_done and not download.file.whole():
            return None
        self.touch()
        return Served(download.file, download.token, arriving=not download.is_done)

    async def _on_tcp(self, request: Request) -> Response:
        """What other hosts may ask of this one."""
        if request.method in ("GET", "HEAD"):
            pieces = self._pieces.route(request)
            if pieces is not None:
                return pieces
            if request.path == "/healthz":
                return Response(200, body=b"ok\n")
            if request.path == "/metrics":
                return self.metrics_page()
        return Response(404, body=b"not found\n")

    def metrics_page(self) -> Response:
        self.metrics.set("dfly_build_info", 1, version=__version__, role="peer")
        self.metrics.set("dfly_tasks", len(self._downloads))
        self.metrics.set("dfly_links", sum(link.is_open for link in self.managers.links))
        return Response(200, [("Content-Type", METRICS_TYPE)], self.metrics.render())


def _date(file: TaskFile) -> None:
    """The file gets the time that the source tells for it."""
    try:
        version = Version.parse(file.version)
    except ProtocolError:   # a newer release wrote it
        return
    modified_at = parse_http_date(version.last_modified)
    if modified_at is not None:
        file.stamp(modified_at)


def _trouble(link: ManagerLink, error: DflyError) -> str:
    """Why this manager doesn't help, for people."""
    return error.what if link.name in error.what else f"manager {link.name}: {error.what}"


async def _is_proved(file: TaskFile, spec: TaskSpec) -> bool:
    """True if the content is the one that the task's own strong digest names."""
    if spec.digest is None or not spec.digest.is_strong:
        return False
    try:
        await asyncio.to_thread(check_content, file, spec.digest, spec.url)
    except DflyError as error:
        log.warning("%s", error)
        return False
    return True


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def run(settings: PeerSettings, ready: Callable[[str], None]) -> int:
    """The daemon, until it is told to stop; its exit code."""
    async def role(stop: asyncio.Event) -> None:
        await Peer(settings).main(stop, ready)
    return run_role(role)
