"""The daemon's local socket: what `dfly get`, `dfly status` and `dfly cache` ask of it.

HTTP over a unix socket that only this user (or root) can open. Requests are JSON, a download's
news are lines of JSON; dfly(7) lists them. A caller that closes its connection cancels its own
download and nobody else's. No rule of downloading here.
"""
from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict, replace
from typing import Any, AsyncIterator, Dict, List, Mapping, Optional, Protocol, Sequence

from dfly import __version__
from dfly.access import SourceFacts
from dfly.clock import Clock
from dfly.config import PeerSettings
from dfly.digest import Digest
from dfly.errors import (
    DflyError,
    DigestMismatch,
    FileError,
    ProtocolError,
    UsageError,
    printable,
)
from dfly.names import canonical_url, is_task_id
from dfly.net.http_server import PiecesBody, Request, Response, error_response, json_response
from dfly.service.download import Started, TaskDownload
from dfly.service.managers import Managers
from dfly.service.metrics import Metrics
from dfly.service.sharing import Sharing
from dfly.service.story import Story
from dfly.service.wish import Seen, Wish, wish_of
from dfly.source import SourceChanged, Version
from dfly.store import PieceStore
from dfly.task import members, run_set
from dfly.wire.ranges import RangeError, format_content_range, parse_range

log = logging.getLogger("dfly.control")

WISH_MAX = 1 << 20          # bytes of a POST /v1/get: a CA bundle and piece hashes with it
PROGRESS_S = 0.4            # between two lines of progress
RESTARTS_MAX = 3            # a source that changes more often than this can't be fetched
NDJSON = "application/x-ndjson"


class Daemon(Protocol):
    """What the local socket needs of the daemon behind it."""

    settings: PeerSettings
    clock: Clock
    metrics: Metrics
    store: PieceStore
    managers: Managers
    port: int
    started_at: float
    stop_asked: asyncio.Event
    sharing: Sharing

    @property
    def downloads(self) -> List[TaskDownload]: ...

    def download_of(self, task_id: str) -> Optional[TaskDownload]: ...

    async def start(self, wish: Wish) -> Started: ...

    async def look(self, wish: Wish) -> Seen: ...

    async def check(self, download: TaskDownload, digests: Sequence[Digest]) -> None: ...

    def touch(self) -> None: ...

    def metrics_page(self) -> Response: ...


class Control:
    """Answers the local socket of one daemon."""

    def __init__(self, peer: Daemon) -> None:
        self._peer = peer

    async def answer(self, request: Request) -> Response:
        self._peer.touch()
        try:
            return await self._route(request)
        except UsageError as error:
            return error_response(error, 400)
        except DflyError as error:
            return error_response(error, 500)

    async def _route(self, request: Request) -> Response:
        method, parts = request.method, request.path.strip("/").split("/")
        if parts == ["v1", "get"] and method == "POST":
            wish = wish_of(_json(await request.read_body(WISH_MAX)))
            return Response(200, [("Content-Type", NDJSON)], self._news(wish))
        if parts == ["v1", "look"] and method == "POST":
            wish = wish_of(_json(await request.read_body(WISH_MAX)))
            return json_response(_seen(await self._peer.look(wish)))
        if parts == ["v1", "share"] and method == "POST":
            asked = _json(await request.read_body(WISH_MAX))
            return Response(200, [("Content-Type", NDJSON)], self._sharing(asked))
        if parts == ["v1", "status"] and method == "GET":
            return json_response(self._brief() if "brief" in request.query else self._status())
        if parts == ["v1", "stop"] and method == "POST":
            self._peer.stop_asked.set()
            return json_response({"stopping": True})
        if parts == ["v1", "cache"] and method == "GET":
            records = await asyncio.to_thread(self._peer.store.records)
            return json_response({"tasks": [asdict(record) for record in records]})
        if len(parts) >= 3 and is_task_id(parts[2]):
            return await self._route_task(request, parts)
        if parts == ["metrics"]:
            return self._peer.metrics_page()
        return error_response(UsageError(f"no such request: {method} {request.path}"), 404)

    async def _route_task(self, request: Request, parts: List[str]) -> Response:
        method, task_id = request.method, parts[2]
        if parts[1] == "cache" and len(parts) == 3 and method == "DELETE":
            return await self._remove(task_id)
        if parts[1] == "cache" and parts[3:] == ["verify"] and method == "POST":
            return await self._verify(task_id)
        if parts[1] == "tasks" and parts[3:] == ["content"] and method == "GET":
            return self._content(request, task_id)
        return error_response(UsageError(f"no such request: {method} {request.path}"), 404)

    # -------------------------------------------------------------------------- downloads
    async def _news(self, wish: Wish) -> AsyncIterator[bytes]:
        """One download as lines of JSON, from accepted to done or failed."""
        try:
            for restart in range(RESTARTS_MAX + 1):
                try:
                    async for events in self._attempt(wish):
                        yield b"".join(map(_line, events))
                    return
                except DigestMismatch as error:
                    if not wish.partial:
                        raise
                    log.info("%s: starting again without %s", error, wish.partial)
                    wish = replace(wish, partial="")
                    yield _line({"event": "warning", "what": printable(
                        f"{error.what}, with the part that was here: starting again without it")})
                except SourceChanged as error:
                    if restart == RESTARTS_MAX:
                        raise
                    log.info("%s: starting again", error)
                    yield _line({"event": "warning",
                                 "what": "the source changed: starting again"})
        except DflyError as error:
            self._peer.metrics.add("dfly_downloads_total", outcome="failed")
            yield _line(_failed(error))

    async def _attempt(self, wish: Wish) -> AsyncIterator[List[Dict[str, Any]]]:
        """The events that come at a time: those of a small task, which came whole with the
        manager's answer, all at once."""
        peer = self._peer
        began_at = peer.clock.now()
        download, facts = await peer.start(wish)
        before = download.received.pieces
        download.waiters += 1
        download.file.hold()
        story = Story(download, peer.clock, began_at) if wish.explain else None
        try:
            events = [{"event": "accepted", "task": download.file.task_id,
                       "length": download.file.geometry.length,
                       "via": "manager" if download.led_by else "source",
                       "manager": download.led_by, **_told(download.file.version, facts)}]
            warned = ""
            if wish.checks or not _has_come(download):
                yield events
                events = []
            while not download.done.done():
                await asyncio.wait({download.done}, timeout=PROGRESS_S)
                peer.touch()
                if download.warning != warned:
                    warned = download.warning
                    yield [{"event": "warning", "what": printable(warned)}]
                yield [{"event": "progress", **progress_of(download, before)}]
            download.done.result()
            done_at = peer.clock.now()
            await peer.check(download, wish.checks)
            if not download.file.whole():
                raise FileError("the file in the store was changed by someone",
                                "run the command again")
            peer.metrics.add("dfly_downloads_total", outcome="done")
            yield [*events, {"event": "done", "task": download.file.task_id,
                             "path": download.file.path,
                             "seconds": round(peer.clock.now() - began_at, 3),
                             **progress_of(download, before),
                             **({"story": story.told(done_at)} if story else {})}]
        finally:
            if story is not None:
                story.end()
            download.waiters -= 1
            download.file.release()
            await self._let_go(download)

    async def _let_go(self, download: TaskDownload) -> None:
        """A caller went away before the end, and was the last: stop fetching."""
        if not download.waiters and not download.done.done():
            await download.abandon(FileError("every caller went away",
                                             "run the same command again to go on"))

    async def _sharing(self, asked: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """The sharing of one file as lines of JSON, from progress to done or failed."""
        events = self._peer.sharing.share(str(asked.get("path", "")), asked.get("identity"))
        try:
            async for event in events:
                yield _line(event)
        except DflyError as error:
            yield _line(_failed(error))
        finally:
            await events.aclose()

    def _content(self, request: Request, task_id: str) -> Response:
        """The bytes in order, as their pieces come."""
        download = self._peer.download_of(task_id)
        if download is None or download.is_over:
            return error_response(UsageError("no such download here"), 404)
        length = download.file.geometry.length
        if length is None:
            return Response(200, [("Content-Type", "application/octet-stream")],
                            _in_order(download))
        wanted = request.headers.get("Range")
        try:
            span = parse_range(wanted, length) if wanted else None
        except RangeError as error:
            return error_response(error, 416)
        start, stop = span or (0, length)
        body = PiecesBody(download.file, start, stop, on_sent=_Reader(download, start).sent)
        headers = [("Content-Type", "application/octet-stream"), ("Accept-Ranges", "bytes")]
        if span is not None:
            headers.append(("Content-Range", format_content_range(start, stop, length)))
        return Response(206 if span else 200, headers, body)

    # ------------------------------------------------------------------------------ cache
    async def _remove(self, task_id: str) -> Response:
        download = self._peer.download_of(task_id)
        if download is not None and download.waiters:
            return error_response(FileError("the task is being downloaded",
                                            "wait, or stop that dfly get"), 409)
        removed = await asyncio.to_thread(self._peer.store.remove, task_id)
        if not removed:
            return error_response(UsageError(f"no task {task_id[:12]} in the store",
                                             "dfly cache ls lists them"), 404)
        return json_response({"removed": task_id})

    async def _verify(self, task_id: str) -> Response:
        try:
            bad = await asyncio.to_thread(self._peer.store.verify, task_id)
        except LookupError:
            return error_response(UsageError(f"no task {task_id[:12]} in the store",
                                             "dfly cache ls lists them"), 404)
        return json_response({"bad": list(members(bad))})

    # ----------------------------------------------------------------------------- status
    def _brief(self) -> Dict[str, Any]:
        """What every `dfly get` asks for: it mustn't cost more the more tasks there are."""
        peer = self._peer
        return {
            "role": "peer", "name": peer.settings.name, "version": __version__,
            "uptime_s": round(peer.clock.now() - peer.started_at, 1), "port": peer.port,
            "store": peer.settings.store,
            "managers": [{"address": link.name, "linked": link.is_open,
                          "why": str(link.refused or "")} for link in peer.managers.links]}

    def _status(self) -> Dict[str, Any]:
        peer = self._peer
        return {
            **self._brief(),
            "downloads": [{"task": download.file.task_id, "url": shown_url(download),
                           "state": download.state, "runs": download.runs,
                           "manager": download.led_by, "warning": printable(download.warning),
                           **progress_of(download)} for download in peer.downloads],
            "sent_bytes": int(peer.metrics.value("dfly_sent_bytes_total")),
        }


def _told(version: str, facts: SourceFacts) -> Dict[str, Any]:
    """What a source said beside the content, as events show it."""
    try:
        modified = Version.parse(version).last_modified
    except ProtocolError:   # a newer manager's way of writing versions
        modified = ""
    return {"last_modified": modified, "facts": facts.to_json()}


def _seen(seen: Seen) -> Dict[str, Any]:
    return {"length": seen.length, "via": "manager" if seen.manager else "source",
            "manager": seen.manager, **_told(seen.version, seen.facts)}


def _failed(error: DflyError) -> Dict[str, Any]:
    """The last event of what didn't come to a good end."""
    return {"event": "failed", "exit_code": error.exit_code, "what": printable(error.what),
            "hint": printable(error.hint), "status": getattr(error, "status", 0)}


def _has_come(download: TaskDownload) -> bool:
    return download.done.done() and download.done.exception() is None


class _Reader:
    """Tells a download where its in-order reader is, whenever it enters a new piece."""

    def __init__(self, download: TaskDownload, start: int) -> None:
        self._download = download
        self._position = start
        self._piece = start // download.file.geometry.piece_size
        self._loop = asyncio.get_running_loop()
        download.reader_at(self._piece)

    def sent(self, size: int) -> None:
        """Called by a mover."""
        self._position += size
        piece = self._position // self._download.file.geometry.piece_size
        if piece != self._piece:
            self._piece = piece
            self._loop.call_soon_threadsafe(self._download.reader_at, piece)


async def _in_order(download: TaskDownload) -> AsyncIterator[bytes]:
    """Content of a task whose length isn't known yet, piece by piece."""
    loop = asyncio.get_running_loop()
    news = asyncio.Event()
    file = download.file
    stop = file.subscribe(lambda _: _wake(loop, news))
    download.done.add_done_callback(lambda _: news.set())
    piece = 0
    try:
        while not (download.done.done() and _past_end(file.geometry.piece_count, piece)):
            news.clear()
            if file.have & run_set(piece, 1):
                start, end = file.geometry.start(piece), file.geometry.stop(piece)
                yield await asyncio.to_thread(file.read, start, end - start)
                piece += 1
                continue
            if download.done.done():
                download.done.result()
            download.reader_at(piece)
            await news.wait()
    finally:
        stop()


def _wake(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    loop.call_soon_threadsafe(news.set)


def _past_end(piece_count: Optional[int], piece: int) -> bool:
    return piece_count is not None and piece >= piece_count


def progress_of(download: TaskDownload, before: int = 0) -> Dict[str, Any]:
    """The numbers of a download, as every event and `dfly status` show them (bytes), for a caller
    who came when the pieces `before` were here."""
    got = download.received.sizes(download.file.geometry, before)
    return {"bytes": sum(got.values()), "length": download.file.geometry.length,
            **{f"from_{origin}": size for origin, size in got.items()},
            "p2p_lost": download.lost_p2p}


def shown_url(download: TaskDownload) -> str:
    """The URL without what may be secret: credentials and query values."""
    try:
        return printable(canonical_url(download.wish.spec.url).partition("?")[0])
    except UsageError:
        return ""


def _json(body: bytes) -> Dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise UsageError("the request isn't JSON") from None
    if not isinstance(value, dict):
        raise ProtocolError("the request isn't a JSON object")
    return value


def _line(event: Dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"
