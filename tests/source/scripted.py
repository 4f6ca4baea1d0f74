"""A source for tests that answers as http.py does, without a network: from a table of places, each
with its content, its validators and its faults. What was asked, and how much was read of each
answer, is on record."""
from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Awaitable, Callable, Dict, List, Optional, Sequence, Tuple

from dfly.access import SourceFacts
from dfly.errors import NetworkError
from dfly.source import RangesBroken, SourceChanged, SourceRefused, SourceRequest, Version

STEP = 1000   # bytes fed at once


@dataclass
class Place:
    """What a URL serves. The defaults are a well-behaved file server's."""

    content: bytes = b""
    etag: str = '"one"'
    last_modified: str = "Mon, 05 Jan 2026 10:00:00 GMT"
    ranges: bool = True
    told: bool = True                  # the length, where all of it is sent
    error: Optional[Callable[[], Exception]] = None   # raised by every open
    broken_ranges: bool = False
    cut_after: Optional[int] = None    # every body is cut after so many bytes ...
    cut_mildly: bool = False           # ... and seems to end properly
    redirects_to: str = ""
    on_open: Optional[Callable[[], Awaitable[None]]] = None
    on_feed: Optional[Callable[[int], None]] = None   # before each step; how many bytes it has

    @property
    def total(self) -> int:
        return len(self.content)


@dataclass
class ScriptedSource:
    places: Dict[str, Place] = field(default_factory=dict)
    asked: List[SourceRequest] = field(default_factory=list)
    bodies: List[ScriptedBody] = field(default_factory=list)
    once: Dict[str, List[Dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    def next(self, url: str, **how: Any) -> None:
        """The next request for `url` is served with these fields of its place changed."""
        self.once[url].append(how)

    def urls(self) -> List[str]:
        return [request.url for request in self.asked]

    def ranges(self) -> List[Tuple[int, Optional[int]]]:
        return [(request.start, request.stop) for request in self.asked]

    @property
    def all_closed(self) -> bool:
        return all(body.closed for body in self.bodies)

    async def open(self, request: SourceRequest) -> ScriptedBody:
        self.asked.append(request)
        place = self.places[request.url]
        if self.once[request.url]:
            place = Place(**{**place.__dict__, **self.once[request.url].pop(0)})
        if place.on_open is not None:
            await place.on_open()
        if place.error is not None:
            raise place.error()
        body = ScriptedBody.of(place, request)
        self.bodies.append(body)
        return body


class ScriptedBody:
    """See SourceBody."""

    def __init__(self, place: Place, version: Version, span: Tuple[int, int],
                 request: SourceRequest) -> None:
        self.version = version
        self.total: Optional[int] = version.length
        self.start, self._stop = span
        self.stop: Optional[int] = self._stop
        self.ranged = False
        self.unchanged = False
        self.final_url = place.redirects_to or request.url
        self.redirected = bool(place.redirects_to)
        self.authorised = any(request.access.secrets[:3])
        self.facts = SourceFacts()
        self.sent = 0
        self.closed = False
        self._place = place

    @classmethod
    def of(cls, place: Place, request: SourceRequest) -> ScriptedBody:
        total = place.total
        version = Version.of(place.etag, place.last_modified, total, f"{id(place) % 997:08x}")
        unless, wanted = request.unless, request.if_version
        if unless is not None and unless.etag and unless.etag == place.etag:
            body = cls(place, unless, (0, 0), request)
            body.unchanged = True
            return body
        same = wanted is None or wanted.range_condition in ("", place.etag, place.last_modified)
        if request.is_ranged and place.ranges and same:
            if place.broken_ranges:
                raise RangesBroken("a range of its own")
            if request.start >= total and total:
                if wanted is not None:
                    raise SourceChanged("it has no more the bytes asked for")
                raise SourceRefused("416", status=416)
            stop = total if request.stop is None else min(request.stop, total)
            body = cls(place, version, (request.start, stop), request)
            body.ranged = total > 0
        else:
            if not place.told:
                version = Version.of(place.etag, place.last_modified, None, version.nonce)
            body = cls(place, version, (0, total), request)
            body.stop = version.length
        if wanted is not None and wanted.contradicts(version):
            raise SourceChanged("it changed while it was fetched")
        return body

    async def receive(self, sink: Any, limits: Sequence[Any] = ()) -> int:
        assert not self.closed
        position, stop = self.start, self._stop
        if self._place.cut_after is not None:
            stop = min(stop, position + self._place.cut_after)
        while position < stop:
            if self._place.on_feed is not None:
                self._place.on_feed(self.sent)
            part = self._place.content[position:min(stop, position + STEP)]
            position += len(part)
            self.sent += len(part)
            sink.feed(memoryview(part))
        if position < self._stop and not self._place.cut_mildly:
            raise NetworkError("the connection ended")
        sink.finish()
        return self.sent

    async def close(self) -> None:
        self.closed = True


class Basket:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.finished = 0

    def feed(self, view: memoryview) -> None:
        assert not self.finished
        self.content += view

    def finish(self) -> None:
        self.finished += 1
