"""Serving pieces over HTTP: the same few answers from a manager and from a peer.

    GET /v1/tasks/ID          Range: bytes=a-b   Dfly-Token: hex   If-Match: "version tag"
    GET /v1/tasks/ID/pieces                      Dfly-Token: hex

A range that this host was leased but doesn't hold yet is sent as its pieces arrive and verify
(cut-through). The token is the swarm's: who has none learns nothing, not even that the task is
here. The version tag keeps bytes of two versions apart.

Nearly all requests differ from one before only in the numbers of their last line, the range. The
movers ask `quick` for those: a head whose bytes up to these numbers are the same as those of a
head that the strict parser took means the same, so that verdict is remembered and only the task's
state, the token and the range are looked at anew. Whatever else comes, and every refusal, is
`route`'s.
"""
from __future__ import annotations

import hashlib
import hmac
import re
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Callable, Dict, List, Optional, Protocol, Sequence, Tuple

from dfly.clock import Clock
from dfly.names import is_task_id
from dfly.net.http_server import PiecesBody, Request, Response, http_date, json_response
from dfly.net.limiter import Limiter
from dfly.net.serving import Quick, QuickAnswer
from dfly.net.transfer import PiecesHeld
from dfly.service.metrics import Metrics
from dfly.task import run_set, set_to_bytes
from dfly.wire.http11 import VERSION_1_1, Headers, HeadParser, HttpError, RequestHead, ResponseHead
from dfly.wire.ranges import RangeError, format_content_range, parse_range

TOKEN_HEADER = "Dfly-Token"
BUSY_RETRY_S = 1
TASKS_PATH = "/v1/tasks/"
KNOWN_MAX = 256     # beginnings of heads remembered, of requests that were granted
_RANGE_LINE = b"\r\nRange: bytes="
_RANGE_END = re.compile(rb"([0-9]{1,18})-([0-9]{1,18})\r\n\r\n")
# Headers of a request that change nothing in the answer; with any other it isn't a usual one.
_USUAL = {"host", "user-agent", "accept", "accept-encoding", TOKEN_HEADER.lower(), "if-match",
          "range"}


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


@dataclass(frozen=True)
class _Asked:
    """What the bytes of a head before its range say."""

    task_id: str
    token: bytes
    tag: Optional[str]


class PieceServer:
    """Answers for the tasks that `find` knows; at most `slots_max` bodies at once. `find` is
    called from the loop and from movers."""

    def __init__(self, find: Callable[[str], Optional[Served]], metrics: Metrics,
                 limits: Sequence[Limiter], slots_max: int) -> None:
        self._find = find
        self._metrics = metrics
        self._limits = tuple(limits)
        self._slots_max = slots_max
        self._active = 0
        self._lock = threading.Lock()   # of `_active`
        self._known: Dict[bytes, _Asked] = {}
        self._clock = Clock()
        self.quick = Quick(f"GET {TASKS_PATH}".encode(), self._answer_quickly)

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
            return _refusal(404, "no such task, or not for you")
        wanted = request.headers.get("If-Match")
        tag = version_tag(served.file.version)
        if wanted is not None and wanted != tag:
            return _refusal(412, "another version")
        if listing:
            return self._list(served, tag)
        if not self._take_slot():
            return _refusal(503, "busy", ("Retry-After", str(BUSY_RETRY_S)))
        answer = self._send(request, served, tag)
        if not isinstance(answer.body, PiecesBody):
            self._ended()
        return answer

    def _take_slot(self) -> bool:
        with self._lock:
            if self._active >= self._slots_max:
                return False
            self._active += 1
            return True

    # ------------------------------------------------------------------- on a mover's thread
    def _answer_quickly(self, head: bytes) -> Optional[QuickAnswer]:
        """The answer to a usual request, if it is granted; None = let `route` see."""
        begin = head.rfind(_RANGE_LINE)
        numbers = _RANGE_END.fullmatch(head, begin + len(_RANGE_LINE)) if begin >= 0 else None
        if numbers is None:
            return None
        prefix = head[:begin]
        asked = self._known.get(prefix) or _usual_request(head)
        served = self._find(asked.task_id) if asked is not None else None
        if asked is None or served is None or not hmac.compare_digest(asked.token, served.token):
            return None
        file = served.file
        tag = version_tag(file.version)
        length = file.geometry.length
        start, stop = int(numbers[1]), int(numbers[2]) + 1
        if (asked.tag not in (None, tag) or length is None or not start < stop <= length
                or not (served.arriving or _holds(file, start, stop)) or not self._take_slot()):
            return None
        if prefix not in self._known:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[prefix] = asked
        body = PiecesBody(file, start, stop, on_sent=self._sent, on_end=self._ended)
        date = http_date(int(self._clock.wall()))
        return QuickAnswer(_same_head(tag, date) + b"Content-Range: bytes %d-%d/%d\r\n"
                           b"Content-Length: %d\r\n\r\n" % (start, stop - 1, length,
                                                            stop - start),
                           body, self._limits)

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
            return _refusal(416, str(error), ("Content-Range", f"bytes */{total}"))
        start, stop = span or (0, length or 0)
        if not served.arriving and not _holds(file, start, stop):
            return _refusal(404, "pieces not held")
        body = PiecesBody(file, start, stop, on_sent=self._sent, on_end=self._ended)
        headers = _headers_of(tag)
        if span is None:
            return Response(200, headers, body, limits=self._limits)
        headers.append(("Content-Range", format_content_range(start, stop, length)))
        return Response(206, headers, body, limits=self._limits)

    def _sent(self, size: int) -> None:
        self._metrics.add("dfly_sent_bytes_total", size)

    def _ended(self) -> None:
        with self._lock:
            self._active -= 1


def _refusal(status: int, why: str, *headers: Tuple[str, str]) -> Response:
    """It ends the connection: who asked for pieces may sleep until so many bytes have come, or
    the end."""
    return Response(status, headers, f"{why}\n".encode(), ends=True)


def _usual_request(head: bytes) -> Optional[_Asked]:
    """What the head asks for, if it is a request for pieces and has nothing unusual."""
    parser = HeadParser("request")
    try:
        request = parser.feed(head)
    except HttpError:
        return None
    if not isinstance(request, RequestHead) or parser.rest:
        return None
    names = [name.lower() for name, _ in request.headers]
    task_id = request.target[len(TASKS_PATH):]
    if (request.method != "GET" or request.version != VERSION_1_1
            or not request.target.startswith(TASKS_PATH) or not is_task_id(task_id)
            or len(set(names)) < len(names) or not _USUAL.issuperset(names)):
        return None
    text = request.headers.get(TOKEN_HEADER) or ""
    try:
        token = bytes.fromhex(text)
    except ValueError:
        return None
    if token.hex() != text:   # spaces and capitals mean the same to fromhex
        return None
    return _Asked(task_id, token, request.headers.get("If-Match"))


def _holds(file: PiecesHeld, start: int, stop: int) -> bool:
    pieces = file.geometry.pieces_of(start, stop)
    needed = run_set(pieces.start, len(pieces)) if pieces else 0
    return not needed & ~file.have


def _headers_of(tag: str) -> List[Tuple[str, str]]:
    return [("ETag", tag), ("Accept-Ranges", "bytes"),
            ("Content-Type", "application/octet-stream")]


@lru_cache(maxsize=16)
def _same_head(tag: str, date: str) -> bytes:
    """The lines that all answers of one second have in common, the differing ones come last."""
    head = ResponseHead(206, headers=Headers([*_headers_of(tag), ("Date", date)]))
    return head.encode()[:-2]


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
    return TASKS_PATH + task_id
