"""A download's parents: their numbers, and what is asked of them over HTTP.

The other side of pieces.py. An answer that isn't what was asked for is a ParentFailed that says
which kind of failure it is; what follows from that is the machine's and the manager's.
"""
from __future__ import annotations

import json
from typing import Dict, List, Sequence, Tuple

from dfly.config import join_address
from dfly.errors import NetworkError, ProtocolError
from dfly.net.http_client import ClientResponse, HttpClient
from dfly.service.managers import Address
from dfly.service.pieces import TOKEN_HEADER, path_of, version_tag
from dfly.store import TaskFile
from dfly.task import set_from_bytes
from dfly.wire.http11 import format_content_range
from dfly.wire.messages import Failure

LISTING_MAX = 1 << 20   # bytes of a parent's piece set in JSON
ANSWER_S = 5.0          # for a parent's head or piece set


class ParentFailed(NetworkError):
    """A parent doesn't give what was asked of it."""

    def __init__(self, what: str, failure: Failure) -> None:
        super().__init__(what)
        self.failure = failure


class Parents:
    """The parents of one task's pieces, by numbers that hold for all links."""

    def __init__(self, client: HttpClient, file: TaskFile) -> None:
        self.addresses: List[Address] = []   # by number
        self._numbers: Dict[Address, int] = {}
        self._client = client
        self._file = file

    def number_of(self, address: Address) -> int:
        if address not in self._numbers:
            self._numbers[address] = len(self.addresses)
            self.addresses.append(address)
        return self._numbers[address]

    async def ask_for(self, address: Address, token: bytes, start: int,
                      stop: int) -> ClientResponse:
        """The answer that is about to bring exactly the bytes [start, stop), or ParentFailed."""
        response = await self._ask(address, path_of(self._file.task_id), token,
                                   [("Range", f"bytes={start}-{stop - 1}")])
        try:
            self._check(response, start, stop)
        except ParentFailed:
            response.release()
            raise
        return response

    async def held_by(self, address: Address, token: bytes) -> int:
        """Pieces that a parent holds and whose digests we know: no others can be trusted."""
        response = await self._ask(address, path_of(self._file.task_id) + "/pieces", token)
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

    async def _ask(self, address: Address, path: str, token: bytes,
                   headers: Sequence[Tuple[str, str]] = ()) -> ClientResponse:
        ours = [(TOKEN_HEADER, token.hex()), ("If-Match", version_tag(self._file.version))]
        url = f"http://{join_address(*address)}{path}"
        try:
            return await self._client.request("GET", url, [*headers, *ours], timeout_s=ANSWER_S)
        except NetworkError as error:
            raise ParentFailed(error.what, Failure.REFUSED) from None

    def _check(self, response: ClientResponse, start: int, stop: int) -> None:
        status = response.status
        if status in (404, 412, 416):
            raise ParentFailed(f"the parent does not hold the pieces ({status})",
                               Failure.NOT_HELD)
        if status in (429, 503):
            raise ParentFailed("the parent is busy", Failure.BUSY)
        length = self._file.geometry.length
        given = response.headers.get("Content-Range", "")
        if status != 206 or given != format_content_range(start, stop, length):
            raise ParentFailed(f"the parent answered {status} {given!r} to bytes "
                               f"{start}-{stop - 1}", Failure.BROKEN)
