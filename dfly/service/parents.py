"""A download's parents: their numbers, and what is asked of them over HTTP.

The other side of pieces.py. An answer that isn't what was asked for is a ParentFailed that says
which kind of failure it is; what follows from that is the machine's and the manager's.
"""
from __future__ import annotations

import json
from typing import Dict, List, Tuple

from dfly.errors import NetworkError, ProtocolError
from dfly.names import join_address
from dfly.net.fetching import Fetch, Lines
from dfly.net.http_client import USER_AGENT, HttpClient
from dfly.net.transfer import Sink
from dfly.service.managers import Address
from dfly.service.pieces import TOKEN_HEADER, path_of, version_tag
from dfly.store import TaskFile
from dfly.task import set_from_bytes
from dfly.wire.http11 import Headers, RequestHead, ResponseHead
from dfly.wire.messages import Failure
from dfly.wire.ranges import format_content_range

LISTING_MAX = 1 << 20   # bytes of a parent's piece set in JSON
LISTING_S = 5.0         # for a parent's piece set


class ParentFailed(NetworkError):
    """A parent doesn't give what was asked of it."""

    def __init__(self, what: str, failure: Failure) -> None:
        super().__init__(what)
        self.failure = failure


class Parents:
    """The parents of one task's pieces, by numbers that hold for all links."""

    def __init__(self, client: HttpClient, lines: Lines, file: TaskFile) -> None:
        self.addresses: List[Address] = []   # by number
        self._numbers: Dict[Address, int] = {}
        self._client = client
        self._lines = lines
        self._file = file
        self._beginnings: Dict[Address, bytes] = {}   # of requests, up to the range
        self._token = b""                             # which is in them

    def number_of(self, address: Address) -> int:
        if address not in self._numbers:
            self._numbers[address] = len(self.addresses)
            self.addresses.append(address)
        return self._numbers[address]

    def fetch_of(self, parent: int, token: bytes, run: Tuple[int, int], sink: Sink) -> Fetch:
        """What fetches exactly the pieces of the run (first, count) into `sink`. Another answer
        is a ParentFailed."""
        geometry = self._file.geometry
        start, stop = geometry.start(run[0]), geometry.stop(run[0] + run[1] - 1)
        wanted = format_content_range(start, stop, geometry.length)
        request = b"%bRange: bytes=%d-%d\r\n\r\n" % (
            self._beginning(self.addresses[parent], token), start, stop - 1)
        tail = f"Content-Range: {wanted}\r\nContent-Length: {stop - start}\r\n\r\n".encode()
        return Fetch(request, tail, stop - start, sink, lambda head: _check(head, wanted))

    def begin(self, parent: int, fetch: Fetch) -> None:
        self._lines.fetch(self.addresses[parent], fetch)

    def _beginning(self, address: Address, token: bytes) -> bytes:
        if token != self._token:
            self._beginnings.clear()
            self._token = token
        known = self._beginnings.get(address)
        if known is None:
            head = RequestHead("GET", path_of(self._file.task_id), Headers([
                ("Host", join_address(*address)), ("User-Agent", USER_AGENT),
                *self._credentials(token)]))
            known = self._beginnings[address] = head.encode()[:-2]
        return known

    def _credentials(self, token: bytes) -> List[Tuple[str, str]]:
        return [(TOKEN_HEADER, token.hex()), ("If-Match", version_tag(self._file.version))]

    async def held_by(self, address: Address, token: bytes) -> int:
        """Pieces that a parent holds and whose digests we know: no others can be trusted."""
        url = f"http://{join_address(*address)}{path_of(self._file.task_id)}/pieces"
        response = await self._client.request("GET", url, self._credentials(token),
                                              timeout_s=LISTING_S)
        try:
            body = await response.read(LISTING_MAX)
        finally:
            response.release()
        try:
            pieces = bytes.fromhex(json.loads(body)["pieces"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ProtocolError("a parent's piece set that can't be read") from None
        count = self._file.geometry.piece_count
        held = set_from_bytes(pieces, count) if count is not None else (
            int.from_bytes(pieces, "little"))
        return held & self._file.known


def _check(head: ResponseHead, wanted: str) -> None:
    """ParentFailed if the answer isn't the range that was asked for."""
    status = head.status
    if status in (404, 412, 416):
        raise ParentFailed(f"the parent does not hold the pieces ({status})", Failure.NOT_HELD)
    if status in (429, 503):
        raise ParentFailed("the parent is busy", Failure.BUSY)
    given = head.headers.get("Content-Range", "")
    if status != 206 or given != wanted:
        raise ParentFailed(f"the parent answered {status} {given!r}, not the {wanted!r} that was "
                           "asked for", Failure.BROKEN)
