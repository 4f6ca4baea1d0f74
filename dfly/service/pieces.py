"""Serving pieces over HTTP: the same few answers from a manager and from a peer.

    GET /v1/tasks/ID          Range: bytes=a-b   Dfly-Token: hex   If-Match: "version tag"
    GET /v1/tasks/ID/pieces                      Dfly-Token: hex

A range that this host was leased but doesn't hold yet is sent as its pieces arrive and verify
(cut-through). The token is the swarm's: who has none learns nothing, not even that the task is
here. The version tag keeps bytes of two versions apart.
"""
from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache
from typing import Callable, Optional, Protocol, Sequence, Tuple

from dfly.net.http_server import PiecesBody, Request, Response, json_response
from dfly.net.limiter import Limiter
from dfly.net.transfer import PiecesHeld
from dfly.service.metrics import Metrics
from dfly.task import run_set, set_to_bytes
from dfly.wire.http11 import RangeError, format_content_range, parse_range

TOKEN_HEADER = "Dfly-Token"
BUSY_RETRY_S = 1


@lru_cache(maxsize=1024)   # asked for with every piece
def version_tag(version: str) -> str:
    """The entity tag of a task's version: quoted, safe in a header whatever the version is."""
    return '"' + hashlib.sha256(version.encode()).hexdigest()[:32] + '"'


class VersionHeld(PiecesHeld, Protocol):
    """As much of a TaskFile as serving needs: a worker has no more of it."""

    @property
    def version(self) -> str: ...


@dataclass(frozen=True)
class Served:
    """A task that may be served: to whom (`token`), and whether missing pieces are on their way."""

    file: VersionHeld
    token: bytes
    arriving: bool


class PieceServer:
    """Answers for the tasks that `find` knows; at most `slots_max` bodies at once."""

    def __init__(self, find: Callable[[str], Optional[Served]], metrics: Metrics,
                 limits: Sequence[Limiter], slots_max: int) -> None:
        self._find = find
        self._metrics = metrics
        self._limits = tuple(limits)
        self._slots_max = slots_max
        self._active = 0

    def route(self, request: Request) -> Optional[Response]:
        """The response, if the path is one of ours."""
        task_id = task_asked_for(request.path)
        if not task_id:
            return None
        return self.answer(request, task_id, listing=request.path.endswith("/pieces"))

    def answer(self, request: Request, task_id: str, listing: bool) -> Response:
        """The response to a request for a task's bytes, or for its piece set (`listing`)."""
        served = self._find(task_id)
        given = request.headers.get(TOKEN_HEADER, "") or ""
        if served is None or not hmac.compare_digest(given.encode(), served.token.hex().encode()):
            return Response(404, body=b"no such task, or not for you\n")
        wanted = request.headers.get("If-Match")
        tag = version_tag(served.file.version)
        if wanted is not None and wanted != tag:
            return Response(412, body=b"another version\n")
        if listing:
            return self._list(served, tag)
        if self._active >= self._slots_max:
            return Response(503, [("Retry-After", str(BUSY_RETRY_S))], b"busy\n")
        return self._send(request, served, tag)

    def _list(self, served: Served, tag: str) -> Response:
        geometry = served.file.geometry
        return json_response({"version": tag, "length": geometry.length,
                              "piece_size": geometry.piece_size,
                              "pieces": set_to_bytes(served.file.have).hex()})

    def _send(self, request: Request, served: Served, tag: str) -> Response:
        file = served.file
        length = file.geometry.length
        try:
            span = _span(request.headers.get("Range"), length, file)
        except RangeError as error:
            total = "*" if length is None else str(length)
            return Response(416, [("Content-Range", f"bytes */{total}")], f"{error}\n".encode())
        start, stop = span or (0, length or 0)
        pieces = file.geometry.pieces_of(start, stop)
        needed = run_set(pieces.start, len(pieces)) if pieces else 0
        if needed & ~file.have and not served.arriving:
            return Response(404, body=b"pieces not held\n")
        self._active += 1
        body = PiecesBody(file, start, stop, on_sent=self._sent, on_end=self._ended)
        headers = [("ETag", tag), ("Accept-Ranges", "bytes"),
                   ("Content-Type", "application/octet-stream")]
        if span is None:
            return Response(200, headers, body, limits=self._limits)
        headers.append(("Content-Range", format_content_range(start, stop, length)))
        return Response(206, headers, body, limits=self._limits)

    def _sent(self, size: int) -> None:
        self._metrics.add("dfly_sent_bytes_total", size)

    def _ended(self) -> None:
        self._active -= 1


def _span(value: Optional[str], length: Optional[int],
          file: VersionHeld) -> Optional[Tuple[int, int]]:
    """(start, stop) asked for; None = the whole. Of a task without a length, up to what is held."""
    if length is None:
        known = (file.have.bit_length() * file.geometry.piece_size)
        if value is None:
            raise RangeError("the length isn't known yet: ask for a range")
        return parse_range(value, known)
    return None if value is None else parse_range(value, length)


def task_asked_for(path: str) -> str:
    """The task whose bytes or piece set this path names; "" for another path."""
    parts = path.split("/")
    ours = parts[:3] == ["", "v1", "tasks"] and (len(parts) == 4 or parts[4:] == ["pieces"])
    return parts[3] if ours else ""


def path_of(task_id: str) -> str:
    return f"/v1/tasks/{task_id}"
