"""Ingest: from a source with all its faults into a task file, each byte asked for once."""
from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import threading
from contextlib import asynccontextmanager
from typing import (
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    List,
    Mapping,
    Optional,
    Tuple,
    Type,
)

import pytest

from dfly.access import Access, Manners
from dfly.digest import Digest
from dfly.errors import (
    AuthError,
    DflyError,
    DigestMismatch,
    NetworkError,
    ProtocolError,
    ServerError,
)
from dfly.net.http_client import HttpClient
from dfly.net.limiter import Limiter
from dfly.net.mover import Movers
from dfly.service.ingest import RETRY_AFTER_MAX_S, Content, Ingest, IngestLimits
from dfly.service.intake import RECALL
from dfly.source import SourceChanged, SourceRefused, Version
from dfly.source.http import HttpSource
from dfly.store import TaskFile
from dfly.store.memory import MemoryStore
from dfly.store.sink import PieceMismatch
from dfly.task import (
    PIECE_SIZE_MIN,
    Geometry,
    TaskSpec,
    full_set,
    members,
    piece_size_for,
    run_set,
    set_of,
)
from dfly.units import KIB, MIB
from tests.support import MONDAY, TUESDAY, Exchange, Page, SourceServer

PIECE = PIECE_SIZE_MIN
WINDOW = 8 * PIECE       # what the first request asks for
CONTENT = random.Random(7).randbytes(21 * PIECE + 1234)
OTHER = random.Random(8).randbytes(len(CONTENT))
SIZE = len(CONTENT)
COUNT = 22


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer() as source:
        yield source


@pytest.fixture
def other() -> Iterator[SourceServer]:
    """A server of another origin."""
    with SourceServer() as source:
        yield source


class Trip:
    """One ingest into a memory store, with what it did on record."""

    def __init__(self, client: HttpClient, url: str, *, digest: Optional[Digest] = None,
                 headers: Tuple[Tuple[str, str], ...] = (), timeout_s: float = 20.0,
                 manners: Optional[Mapping[str, Any]] = None, size: Optional[int] = None,
                 **limits: Any) -> None:
        self.pauses: List[float] = []
        self.pieces: List[int] = []
        self.told_in_time = 0    # pieces that `fetch` told of before it returned
        self.threads = set[int]()
        self.news = asyncio.Event()
        self.store = MemoryStore()
        self.spec = TaskSpec(url, digest=digest, size=size)
        access = Access(headers, manners=Manners(**{
            "connect_timeout_s": timeout_s, "read_timeout_s": timeout_s, "retry_wait_s": 30.0,
            **(manners or {})}))
        self.ingest = Ingest(HttpSource(client), self.spec, access,
                             limits=IngestLimits(**{"tries": 3, **limits}),
                             rng=random.Random(1), pause=self._pause)
        self.content: Content
        self.file: TaskFile

    async def _pause(self, delay_s: float) -> None:
        self.pauses.append(delay_s)

    def _on_piece(self, piece_index: int) -> None:
        self.pieces.append(piece_index)
        self.threads.add(threading.get_ident())
        self.news.set()

    async def came(self, count: int) -> None:
        """Return when so many pieces have come."""
        while len(self.pieces) < count:
            self.news.clear()
            await self.news.wait()

    async def begin(self, known: Optional[Version] = None, **where: Any) -> Content:
        self.content = await self.ingest.begin(known, **where)
        return self.content

    def open(self, piece_size: int = 0) -> TaskFile:
        length = self.content.length
        geometry = Geometry(length, piece_size or piece_size_for(length))
        self.file = self.store.open(self.spec.task_id, self.content.version.token, geometry)
        return self.file

    def hold(self, pieces: int, content: bytes = CONTENT) -> None:
        """As if these pieces had come before."""
        geometry = self.file.geometry
        for piece_index in members(pieces):
            data = content[geometry.start(piece_index):geometry.stop(piece_index)]
            self.file.put(piece_index, data, hashlib.sha256(data).digest())

    async def fetch(self, wanted: Optional[int] = None) -> None:
        await self.ingest.fetch(self.file, on_piece=self._on_piece, wanted=wanted)
        self.told_in_time = len(self.pieces)

    async def whole(self) -> None:
        """The usual way, start to end."""
        await self.begin()
        self.open()
        await self.fetch()

    def bytes(self) -> bytes:
        assert self.file.complete and self.file.geometry.length is not None
        return self.file.read(0, self.file.geometry.length)


@asynccontextmanager
async def trip(url: str, **how: Any) -> AsyncIterator[Trip]:
    movers = Movers(threads=2)
    movers.start(asyncio.get_running_loop())
    client = HttpClient(movers)
    traveller = Trip(client, url, **how)
    try:
        yield traveller
    finally:
        await traveller.ingest.close()
        await client.close()
        movers.stop()


def travel(url: str, work: Optional[Callable[[Trip], Awaitable[None]]] = None,
           **how: Any) -> Trip:
    """Run `work` (default: fetch it all); the trip, to look at."""
    async def run() -> Trip:
        async with trip(url, **how) as traveller:
            await (work or Trip.whole)(traveller)
            return traveller
    return asyncio.run(asyncio.wait_for(run(), 30))


def fails(kind: Type[DflyError], url: str,
          work: Optional[Callable[[Trip], Awaitable[None]]] = None,
          **how: Any) -> Tuple[DflyError, Trip]:
    """As travel, but it must end with `kind`."""
    caught: List[DflyError] = []

    async def failing(traveller: Trip) -> None:
        with pytest.raises(kind) as error:
            await (work or Trip.whole)(traveller)
        caught.append(error.value)
    done = travel(url, failing, **how)
    return caught[0], done


def spans(exchanges: List[Exchange]) -> List[Tuple[int, int]]:
    """The [start, stop) that answers promised, in order of position."""
    return sorted((exchange.start, exchange.stop) for exchange in exchanges
                  if exchange.stop > exchange.start)


def assert_partition(server: SourceServer, path: str, length: int = SIZE) -> None:
    """Every byte of the content was promised by exactly one answer."""
    position = 0
    for start, stop in spans(server.requests(path)):
        assert start == position
        position = stop
    assert position == length == server.body_bytes


# ------------------------------------------------------------------------- when all goes well
def test_ranges_fetch_each_byte_once(server: SourceServer) -> None:
    done = travel(server.add("/f", CONTENT))
    assert done.bytes() == CONTENT
    content = done.content
    assert (content.version, content.length) == (Version('"one"', MONDAY, SIZE), SIZE)
    assert content.ranges and not content.unchanged and not content.authorised
    assert content.final_url == server.url("/f")
    assert sorted(done.pieces) == list(range(COUNT))
    assert done.threads == {threading.get_ident()}    # on_piece is called on the loop
    assert done.ingest.source_bytes == SIZE
    assert server.ranges("/f")[0] == f"bytes=0-{WINDOW - 1}"
    assert_partition(server, "/f")
    for exchange in server.log[1:]:
        assert exchange.header("if-range") == '"one"'
        assert exchange.stop - exchange.start <= WINDOW
    assert 2 <= server.connections <= 4
    assert [done.file.digest_of(piece) for piece in (0, COUNT - 1)] == [
        hashlib.sha256(CONTENT[:PIECE]).digest(), hashlib.sha256(CONTENT[21 * PIECE:]).digest()]


@pytest.mark.parametrize("length", [1, PIECE - 1, PIECE, PIECE + 1, WINDOW - 1, WINDOW, WINDOW + 1,
                                    WINDOW + PIECE, 2 * WINDOW])
@pytest.mark.parametrize("ranges", [True, False])
def test_lengths_around_the_boundaries(server: SourceServer, length: int, ranges: bool) -> None:
    done = travel(server.add("/f", CONTENT[:length], ranges=ranges))
    assert done.bytes() == CONTENT[:length]
    assert_partition(server, "/f", length)
    assert len(server.log) == (1 if length <= WINDOW or not ranges else 2)


@pytest.mark.parametrize("how", [{}, {"ranges": False}, {"ranges": False, "framing": "chunked"},
                                 {"ranges": False, "framing": "close"}])
def test_an_empty_file(server: SourceServer, how: Any) -> None:
    done = travel(server.add("/f", b"", **how), digest=Digest("sha256", hashlib.sha256().digest()))
    assert done.bytes() == b"" and done.pieces == []
    # A refusal of ranges doesn't say which version is empty; the plain answer does.
    assert len(server.log) == (1 if how else 2)


def test_a_source_without_ranges_is_read_in_one_go(server: SourceServer) -> None:
    done = travel(server.add("/f", CONTENT, ranges=False))
    assert done.bytes() == CONTENT
    assert done.pieces == list(range(COUNT))
    assert not done.content.ranges
    assert len(server.log) == 1 and server.body_bytes == SIZE


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("length", [5 * MIB + 77, 5 * MIB, MIB, 10])
def test_a_length_that_is_known_at_the_end_only(server: SourceServer, framing: str,
                                                length: int) -> None:
    content = CONTENT[:length]
    done = travel(server.add("/f", content, ranges=False, framing=framing))
    assert done.content.length is None and done.file.geometry.piece_size == MIB
    assert done.bytes() == content
    assert done.pieces == list(range(-(-length // MIB)))
    assert done.told_in_time == len(done.pieces)
    assert len(server.log) == 1


def test_chunked_ranges(server: SourceServer) -> None:
    done = travel(server.add("/f", CONTENT, framing="chunked"))
    assert done.bytes() == CONTENT and done.content.length == SIZE
    assert_partition(server, "/f")


def test_a_piece_larger_than_the_first_window_goes_on_where_that_ended(
        server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        await traveller.begin()
        traveller.open(piece_size=4 * MIB)
        await traveller.fetch()
    done = travel(server.add("/f", CONTENT), work)
    assert done.bytes() == CONTENT
    assert sorted(done.pieces) == [0, 1]
    assert_partition(server, "/f")
    assert f"bytes={WINDOW}-{4 * MIB - 1}" in server.ranges("/f")


def test_one_connection_takes_the_windows_in_order(server: SourceServer) -> None:
    done = travel(server.add("/f", CONTENT), connections=1, window_pieces=5)
    assert done.pieces == list(range(COUNT))
    edges = [5 * PIECE * window for window in range(5)] + [SIZE]
    assert server.ranges("/f") == [
        f"bytes={start}-{stop - 1}" for start, stop in zip(edges, edges[1:])]
    assert server.connections == 1


def test_limiters_are_charged(server: SourceServer) -> None:
    limiter = Limiter(100 * MIB)
    done = travel(server.add("/f", CONTENT), limiters=(limiter,))
    assert done.bytes() == CONTENT


def test_begin_alone_leaves_nothing_behind(server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        await traveller.begin()
        await traveller.begin()
        await traveller.ingest.close()
        await asyncio.to_thread(server.wait_until, lambda: server.open_connections == 0)
    travel(server.add("/f", CONTENT, stall_after=1), work)


# ---------------------------------------------------------------------------------- resuming
def test_an_unchanged_source_sends_only_what_is_missing(server: SourceServer) -> None:
    held = run_set(0, 5) | run_set(7, 3) | run_set(21, 1)

    async def work(traveller: Trip) -> None:
        known = Version('"one"', MONDAY, SIZE)
        content = await traveller.begin(known, start=5 * PIECE, stop=7 * PIECE)
        assert content.unchanged and content.version == known and content.ranges
        traveller.open()
        traveller.hold(held)
        await traveller.fetch()
    done = travel(server.add("/f", CONTENT), work)
    assert done.bytes() == CONTENT
    assert set_of(done.pieces) == full_set(COUNT) & ~held
    assert server.log[0].status == 304
    assert spans(server.log) == [(5 * PIECE, 7 * PIECE), (10 * PIECE, 18 * PIECE),
                                 (18 * PIECE, 21 * PIECE)]
    assert server.body_bytes == 13 * PIECE


def test_a_source_that_never_says_unchanged_sends_only_what_is_missing(
        server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        content = await traveller.begin(Version('"one"', MONDAY, SIZE),
                                        start=5 * PIECE, stop=7 * PIECE)
        assert content.unchanged
        traveller.open()
        traveller.hold(full_set(COUNT) & ~run_set(5, 2))
        await traveller.fetch()
    done = travel(server.add("/f", CONTENT, conditional=False), work)
    assert done.bytes() == CONTENT
    assert server.ranges("/f") == [f"bytes={5 * PIECE}-{7 * PIECE - 1}"]


def test_a_complete_and_unchanged_content_costs_one_question(server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        assert (await traveller.begin(Version('"one"', MONDAY, SIZE))).unchanged
        traveller.open()
        traveller.hold(full_set(COUNT))
        await traveller.fetch()
    travel(server.add("/f", CONTENT), work)
    assert len(server.log) == 1 and server.body_bytes == 0


def test_asking_again_costs_a_byte_where_a_source_never_says_unchanged(
        server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        assert (await traveller.begin(Version('"one"', MONDAY, SIZE))).unchanged
        await traveller.ingest.close()
        assert not (await traveller.begin(Version('"old"', MONDAY, SIZE))).unchanged
        traveller.open()
        await traveller.fetch()
    done = travel(server.add("/f", CONTENT, conditional=False), work)
    assert done.bytes() == CONTENT and done.ingest.source_bytes == SIZE
    assert server.ranges("/f")[:2] == ["bytes=0-0", "bytes=0-0"]
    assert server.body_bytes == SIZE + 1


def test_one_byte_proves_that_the_source_lets_us_in(server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        assert (await traveller.begin(stop=1)).length == SIZE
    travel(server.add("/f", CONTENT), work)
    assert server.ranges("/f") == ["bytes=0-0"] and server.body_bytes == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_changed_source_is_a_new_version(server: SourceServer, ranges: bool) -> None:
    async def work(traveller: Trip) -> None:
        content = await traveller.begin(Version('"old"', TUESDAY, SIZE + 5),
                                        start=5 * PIECE, stop=7 * PIECE)
        assert not content.unchanged and content.version == Version('"one"', MONDAY, SIZE)
        traveller.open()
        await traveller.fetch()
    done = travel(server.add("/f", CONTENT, ranges=ranges), work)
    assert done.bytes() == CONTENT
    assert_partition(server, "/f")


def test_a_changed_source_that_is_shorter_than_what_was_held(server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        content = await traveller.begin(Version('"old"', TUESDAY, 9 * SIZE), start=8 * SIZE)
        assert not content.unchanged
        traveller.open()
        await traveller.fetch()
    done = travel(server.add("/f", CONTENT), work)
    assert done.bytes() == CONTENT
    assert server.body_bytes == SIZE


def test_a_body_that_begins_inside_a_piece_of_the_new_version(server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        await traveller.begin(Version('"old"', TUESDAY, SIZE), start=PIECE, stop=3 * PIECE)
        traveller.open(piece_size=2 * PIECE)
        await traveller.fetch()
    assert travel(server.add("/f", CONTENT), work).bytes() == CONTENT


def test_without_validators_nothing_from_before_is_trusted(server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        known = Version.of("", "", SIZE, "0123")
        content = await traveller.begin(known, start=5 * PIECE)
        assert not content.unchanged and content.version.nonce not in ("", "0123")
        traveller.open()
        await traveller.fetch()
    done = travel(server.add("/f", CONTENT, etag="", last_modified=""), work)
    assert done.bytes() == CONTENT


# ------------------------------------------------------- a source that tells no validators
BARE = {"etag": "", "last_modified": ""}


def test_without_validators_all_comes_in_one_answer(server: SourceServer) -> None:
    done = travel(server.add("/f", CONTENT, **BARE))
    assert done.bytes() == CONTENT and not done.content.provable
    assert server.ranges("/f") == [f"bytes=0-{WINDOW - 1}", ""]
    assert done.ingest.source_bytes == SIZE


def test_without_validators_a_small_file_needs_one_request(server: SourceServer) -> None:
    done = travel(server.add("/f", CONTENT[:5000], **BARE))
    assert done.bytes() == CONTENT[:5000] and len(server.log) == 1


def test_without_validators_a_change_between_two_answers_is_never_mixed_in(
        server: SourceServer) -> None:
    url = server.add("/f", OTHER, **BARE)
    server.next("/f", content=CONTENT)    # begin's question; all that is kept is asked for after
    assert travel(url).bytes() == OTHER


def test_a_digest_makes_up_for_validators(server: SourceServer) -> None:
    digest = Digest("sha256", hashlib.sha256(CONTENT).digest())
    done = travel(server.add("/f", CONTENT, **BARE), digest=digest)
    assert done.bytes() == CONTENT and done.content.provable and len(server.log) > 2
    assert_partition(server, "/f")


@pytest.mark.parametrize("every", (1_000_000, MIB, 300_000))
def test_without_validators_a_body_goes_on_where_it_broke(server: SourceServer,
                                                          every: int) -> None:
    done = travel(server.add("/f", CONTENT, cut_after=every, **BARE))
    assert done.bytes() == CONTENT
    starts = [exchange.start for exchange in server.log[1:]]
    assert starts == list(range(0, SIZE - RECALL, every - RECALL))
    assert done.ingest.source_bytes == SIZE + RECALL * (len(starts) - 1)


@pytest.mark.parametrize("at", (MIB + 9, 2 * PIECE, PIECE - 1, 10))
def test_without_validators_the_rest_of_another_content_is_refused(server: SourceServer,
                                                                   at: int) -> None:
    url = server.add("/f", OTHER, **BARE)
    server.next("/f", content=CONTENT)
    server.next("/f", content=CONTENT, cut_after=at)
    error, done = fails(SourceChanged, url)
    assert "differs from what came before" in error.what
    assert done.pieces == list(range(at // PIECE))


def test_without_validators_what_is_held_is_compared_before_the_rest(
        server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        await traveller.begin()
        traveller.open()
        traveller.hold(run_set(0, 5))
        await traveller.ingest.close()
        await traveller.fetch()
    done = travel(server.add("/f", CONTENT, **BARE), work)
    assert done.bytes() == CONTENT and server.ranges("/f")[-1] == f"bytes={4 * PIECE}-"
    _, done = fails(SourceChanged, server.add("/f", OTHER, **BARE), work)
    assert not done.pieces


@pytest.mark.parametrize("framing", ("length", "chunked"))
def test_a_length_told_beforehand_must_be_the_contents(server: SourceServer,
                                                       framing: str) -> None:
    url = server.add("/f", CONTENT, framing=framing)
    assert travel(url, size=SIZE).bytes() == CONTENT
    for size in (SIZE - 1, SIZE + 1, 0):
        error, _ = fails(DigestMismatch, url, size=size)
        assert str(SIZE) in error.what and str(size) in error.what


def test_callers_say_what_is_worth_another_try(server: SourceServer) -> None:
    for count, manners in ((1, {}), (3, {"retry_statuses": (404,), "tries": 3})):
        server.log.clear()
        fails(SourceRefused, server.add("/none", status=404), manners=manners)
        assert len(server.log) == count
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]   # nobody listens there any more
    for pauses, manners in ((1, {"tries": 4}), (3, {"tries": 4, "retry_refused": True})):
        _, done = fails(NetworkError, f"http://127.0.0.1:{port}/f", tries=0, manners=manners)
        assert len(done.pauses) == pauses


def test_pauses_are_no_longer_than_the_caller_says(server: SourceServer) -> None:
    _, done = fails(SourceRefused, server.add("/busy", status=503), tries=0,
                    manners={"tries": 12, "retry_wait_s": 2.0})
    assert len(done.pauses) == 11 and max(done.pauses) <= 3.0 < sum(done.pauses)


def test_only_wanted_pieces_are_asked_for(server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        await traveller.begin(Version('"one"', MONDAY, SIZE))
        traveller.open()
        await traveller.fetch(wanted=set_of([3, 4, 20]))
        assert not traveller.file.complete
        await traveller.fetch(wanted=set_of([4, 5]))
    done = travel(server.add("/f", CONTENT), work)
    assert sorted(done.pieces) == [3, 4, 5, 20]
    assert spans(server.log) == [(3 * PIECE, 5 * PIECE), (5 * PIECE, 6 * PIECE),
                                 (20 * PIECE, 21 * PIECE)]


def test_the_first_windows_body_is_left_where_its_pieces_arent_wanted(
        server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        await traveller.begin()
        traveller.open()
        await traveller.fetch(wanted=run_set(2, 3))
        assert traveller.pieces == [2, 3, 4]
        await traveller.begin()
        await traveller.fetch(wanted=run_set(0, 2))
        assert sorted(traveller.pieces) == [0, 1, 2, 3, 4]
    travel(server.add("/f", CONTENT), work, connections=1)
    assert server.ranges("/f") == [f"bytes=0-{WINDOW - 1}", f"bytes={2 * PIECE}-{5 * PIECE - 1}",
                                   f"bytes=0-{WINDOW - 1}"]


def test_a_body_without_ranges_is_left_when_nothing_more_is_wanted(server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        await traveller.begin()
        traveller.open()
        await traveller.fetch(wanted=set_of([2]))
        await asyncio.to_thread(server.wait_until, lambda: server.log[0].client_left)
    url = server.add("/f", CONTENT, ranges=False, stall_after=3 * PIECE + 10)
    assert travel(url, work).pieces == [0, 1, 2]


def test_pieces_that_others_bring_meanwhile_are_not_asked_for(server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        await traveller.begin()
        traveller.open()
        fetching = asyncio.ensure_future(traveller.fetch())
        await asyncio.to_thread(server.wait_until, lambda: server.log[0].sent == PIECE)
        traveller.hold(run_set(8, 10))
        server.go_on()
        await fetching
    done = travel(server.add("/f", CONTENT, stall_after=PIECE), work, connections=1)
    assert done.bytes() == CONTENT
    assert server.ranges("/f") == [f"bytes=0-{WINDOW - 1}", f"bytes={18 * PIECE}-{SIZE - 1}"]


# ------------------------------------------------------------------------- when sources break
def test_a_broken_run_goes_on_at_the_very_byte(server: SourceServer) -> None:
    url = server.add("/f", CONTENT)
    server.next("/f", cut_after=PIECE + 1000)
    server.next("/f")
    server.next("/f", cut_after=77)
    done = travel(url, connections=2)
    assert done.bytes() == CONTENT
    assert server.body_bytes == done.ingest.source_bytes == SIZE
    assert f"bytes={PIECE + 1000}-{WINDOW - 1}" in server.ranges("/f")
    assert len(done.pauses) == 2


def test_progress_renews_the_tries(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, cut_after=PIECE)
    done = travel(url, connections=1, tries=2)
    assert done.bytes() == CONTENT
    assert server.body_bytes == SIZE
    assert len(done.pauses) == 7 + 7 + 5    # the last piece of each of three windows is no failure


@pytest.mark.parametrize("ranges", [True, False])
def test_a_source_that_always_cuts_is_given_up(server: SourceServer, ranges: bool) -> None:
    url = server.add("/f", CONTENT, cut_after=1000, ranges=ranges)
    error, done = fails(NetworkError, url, connections=1, tries=4)
    told = WINDOW - 3000 if ranges else SIZE
    assert f"1000 of {told} bytes (tried 4 times)" in error.what
    assert error.what.startswith(url)
    assert len(done.pauses) == 3
    assert 0.25 <= done.pauses[0] <= 0.75 and 1.0 <= done.pauses[2] <= 3.0
    assert done.file.have == 0


def test_a_source_that_dies_midway_leaves_what_came(server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        await traveller.begin()
        traveller.open()
        fetching = asyncio.ensure_future(traveller.fetch())
        await traveller.came(11)
        await asyncio.to_thread(server.close)
        await fetching
    url = server.add("/f", CONTENT)
    server.next("/f")
    server.next("/f", stall_after=3 * PIECE + 5)
    error, done = fails(NetworkError, url, work, connections=1)
    assert "can't fetch" in error.what and "(tried 3 times)" in error.what
    assert done.pieces == list(range(11))


def test_ranges_that_stop_working_turn_into_one_body(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, ranges=False)
    server.next("/f", ranges=True)
    done = travel(url)
    assert done.bytes() == CONTENT
    assert sorted(done.pieces) == list(range(COUNT))
    whole = [exchange for exchange in server.log if exchange.status == 200]
    assert 1 <= len(whole) <= 4 and len(server.log) == 1 + len(whole)


def test_the_pieces_held_come_again_and_are_compared(server: SourceServer,
                                                     caplog: pytest.LogCaptureFixture) -> None:
    url = server.add("/f", CONTENT, ranges=False)
    server.next("/f", ranges=True)
    done = travel(url, connections=1)
    assert done.bytes() == CONTENT
    assert done.ingest.source_bytes == SIZE + WINDOW
    assert "2.00 MiB came again" in caplog.text


@pytest.mark.parametrize("fault", [{"content_range": "none"}, {"content_range": "bytes 0-9/10"},
                                   {"content_range": f"bytes 0-{WINDOW - 1}/*"},
                                   {"false_length": 1}])
@pytest.mark.parametrize("from_the_start", [True, False])
def test_broken_ranges_are_done_without(server: SourceServer, fault: Any,
                                        from_the_start: bool) -> None:
    url = server.add("/f", CONTENT)
    if not from_the_start:
        server.next("/f")
    server.next("/f", **fault)
    done = travel(url, connections=1)
    assert done.bytes() == CONTENT
    assert server.ranges("/f")[-1] == ""


def test_a_length_that_was_a_lie_ends_the_version(server: SourceServer) -> None:
    url = server.add("/f", CONTENT)
    server.next("/f", content_range=f"bytes 0-{WINDOW - 1}/{SIZE + 1}")
    _, done = fails(SourceChanged, url, connections=1)
    assert done.file.have == full_set(8) and not done.file.complete


def test_a_range_with_more_bytes_than_it_says(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, framing="chunked", content_range="bytes 0-999/1000")
    error, done = fails(ProtocolError, url)
    assert "longer than the length told, 1000 bytes" in error.what and error.hint
    assert not done.pauses


def test_what_comes_behind_a_body_is_not_content(server: SourceServer) -> None:
    for ranges in (True, False):
        url = server.add("/f", CONTENT, surplus=b"HTTP/1.1 200 OK\r\n\r\n", ranges=ranges)
        assert travel(url).bytes() == CONTENT


def test_a_chunked_body_that_ends_before_its_length(server: SourceServer) -> None:
    url = server.add("/f", CONTENT[:5000], ranges=False, framing="chunked")
    server.next("/f", content=CONTENT, framing="length", cut_after=4000)
    error, _ = fails(ProtocolError, url)
    assert f"sent 5000 of {SIZE} bytes (tried 3 times)" in error.what


def test_a_body_without_ranges_starts_again_after_a_cut(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, ranges=False)
    server.next("/f", cut_after=3 * PIECE + 9)
    done = travel(url)
    assert done.bytes() == CONTENT
    assert server.ranges("/f")[1] == f"bytes={3 * PIECE + 9}-"    # it might have learnt to
    assert done.ingest.source_bytes == SIZE + 3 * PIECE + 9


def test_a_body_of_unknown_length_starts_again_after_a_cut(server: SourceServer) -> None:
    for framing in ("chunked",):
        url = server.add("/f", CONTENT, ranges=False, framing=framing)
        server.next("/f", cut_after=3 * MIB + 9)
        done = travel(url)
        assert done.bytes() == CONTENT and done.pieces == [0, 1, 2, 3, 4, 5]


def test_a_rest_is_taken_where_a_source_gives_it_the_second_time(server: SourceServer) -> None:
    url = server.add("/f", CONTENT)
    server.next("/f", ranges=False, cut_after=3 * PIECE + 9)
    done = travel(url)
    assert done.bytes() == CONTENT
    assert done.ingest.source_bytes == SIZE and len(server.log) == 2


# ------------------------------------------------------------------------ when it has changed
def test_a_source_that_changes_midway_ends_the_version(server: SourceServer) -> None:
    changed = Page(OTHER, etag='"two"')
    url = server.add("/f", CONTENT, becomes=changed, becomes_after=PIECE)
    error, done = fails(SourceChanged, url, connections=1)
    assert "changed while it was fetched" in error.what and not done.pauses
    assert done.pieces == list(range(8))
    assert done.file.read(0, WINDOW) == CONTENT[:WINDOW]


@pytest.mark.parametrize("how", [
    {"etag": '"two"', "if_range": False}, {"etag": "", "last_modified": TUESDAY, "if_range": False},
    {"content": OTHER + b"x", "etag": "", "last_modified": "", "if_range": False},
    {"content": OTHER[:WINDOW], "etag": "", "last_modified": "", "if_range": False}])
def test_a_change_is_noticed_by_whatever_is_told(server: SourceServer, how: Any) -> None:
    url = server.add("/f", **{"content": OTHER, **how})
    server.next("/f", content=CONTENT, etag='"one"', last_modified=MONDAY)
    _, done = fails(SourceChanged, url, connections=1)
    assert set_of(done.pieces) == run_set(0, 8)


def test_a_change_without_any_sign_is_noticed_by_the_pieces_held(server: SourceServer) -> None:
    url = server.add("/f", OTHER, ranges=False, etag="", last_modified="")
    server.next("/f", content=CONTENT, cut_after=3 * PIECE + 9)
    error, done = fails(SourceChanged, url)
    assert "differs from pieces held" in error.what
    assert done.file.read(0, 3 * PIECE) == CONTENT[:3 * PIECE] and done.file.have == 0b111


def test_a_task_file_of_another_length_is_refused(server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        await traveller.begin()
        geometry = Geometry(SIZE + 1, PIECE)
        traveller.file = traveller.store.open(traveller.spec.task_id, "other", geometry)
        await traveller.fetch()
    fails(SourceChanged, server.add("/f", CONTENT), work)


# ------------------------------------------------------------------------------------ digests
def test_the_whole_content_is_checked_against_its_digest(server: SourceServer) -> None:
    for algorithm in ("sha256", "md5"):
        right = Digest(algorithm, hashlib.new(algorithm, CONTENT).digest())
        wrong = Digest(algorithm, hashlib.new(algorithm, OTHER).digest())
        assert travel(server.add("/f", CONTENT), digest=right).bytes() == CONTENT
        error, _ = fails(DigestMismatch, server.url("/f"), digest=wrong)
        assert str(right) in error.what and str(wrong) in error.what


def test_a_part_is_not_checked_against_the_digest_of_the_whole(server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        await traveller.begin()
        traveller.open()
        await traveller.fetch(wanted=run_set(0, 8))
    travel(server.add("/f", CONTENT), work, digest=Digest("md5", bytes(16)))


def test_digests_told_before_guard_each_piece(server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        await traveller.begin()
        traveller.open()
        traveller.file.learn(0, b"".join(
            hashlib.sha256(CONTENT[start:start + PIECE]).digest()
            for start in range(0, SIZE, PIECE)))
        await traveller.fetch()
    url = server.add("/f", CONTENT)
    spoilt = bytearray(CONTENT)
    spoilt[2 * PIECE + 5] ^= 1
    server.next("/f", content=bytes(spoilt))
    done = travel(url, work, connections=1)
    assert done.bytes() == CONTENT
    assert server.ranges("/f")[1] == f"bytes={2 * PIECE}-{WINDOW - 1}"
    server.change("/f", content=bytes(spoilt))
    error, done = fails(PieceMismatch, url, work, connections=1)
    assert "tried 3 times" in error.what
    assert done.file.have == 0b11


# ----------------------------------------------------------------------- refusals and patience
def test_a_refusal_is_told_at_once(server: SourceServer) -> None:
    for status, kind in ((404, ServerError), (403, ServerError), (401, AuthError),
                         (501, ServerError)):
        error, done = fails(kind, server.add("/f", status=status))
        assert f"{server.url('/f')}: {status}" in error.what and not done.pauses
    error, _ = fails(ProtocolError, server.add("/f", CONTENT,
                                               headers=(("Content-Encoding", "br"),)))
    assert "br-encoded" in error.what


@pytest.mark.parametrize("retry_after,least_s,most_s", [
    ("7", 7.0, 7.0), ("86400", RETRY_AFTER_MAX_S, RETRY_AFTER_MAX_S), ("", 0.25, 0.75)])
def test_a_busy_source_is_asked_again_when_it_wants(server: SourceServer, retry_after: str,
                                                    least_s: float, most_s: float) -> None:
    url = server.add("/f", CONTENT)
    server.next("/f", status=503, headers=(("Retry-After", retry_after),) if retry_after else ())
    done = travel(url)
    assert done.bytes() == CONTENT
    assert len(done.pauses) == 1 and least_s <= done.pauses[0] <= most_s


def test_a_source_that_stays_busy_is_given_up(server: SourceServer) -> None:
    error, done = fails(ServerError, server.add("/f", status=503))
    assert "503" in error.what and "(tried 3 times)" in error.what
    assert len(done.pauses) == 2


def test_a_source_that_wants_fewer_connections_gets_fewer(server: SourceServer) -> None:
    url = server.add("/f", CONTENT)
    server.next("/f")
    server.next("/f", status=429)
    server.next("/f", status=503)
    done = travel(url, connections=3, window_pieces=3)
    assert done.bytes() == CONTENT
    assert not done.pauses and server.body_bytes == SIZE


def test_the_last_connection_waits(server: SourceServer) -> None:
    url = server.add("/f", CONTENT)
    server.next("/f")
    server.next("/f", status=429, headers=(("Retry-After", "3"),))
    done = travel(url, connections=1)
    assert done.bytes() == CONTENT and done.pauses == [3.0]


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    error, done = fails(NetworkError, f"http://127.0.0.1:{port}/f?key=hush", tries=9)
    assert "refused" in error.what and "hush" not in str(error)
    assert len(done.pauses) == 1    # at the start nobody is kept waiting long


def test_a_silent_source_is_given_up(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, stall_after=10)
    error, _ = fails(NetworkError, url, connections=1, tries=2, timeout_s=0.05)
    assert "timed out" in error.what


# --------------------------------------------------------------------- redirects and headers
def test_ranges_go_straight_to_where_the_first_was_redirected(server: SourceServer,
                                                              other: SourceServer) -> None:
    url = server.add("/f", redirect=other.add("/cdn", CONTENT))
    done = travel(url, headers=(("X-Token", "hush"),))
    assert done.bytes() == CONTENT and done.content.final_url == other.url("/cdn")
    assert len(server.log) == 1 and server.log[0].header("x-token") == "hush"
    assert not any(exchange.header("x-token") for exchange in other.log)
    assert_partition(other, "/cdn")


def test_a_redirect_that_has_expired_is_asked_for_again(server: SourceServer,
                                                        other: SourceServer) -> None:
    url = server.add("/f", redirect=other.add("/new", CONTENT))
    server.next("/f", redirect=other.add("/old", CONTENT))
    other.next("/old", status=0)
    other.change("/old", status=403)
    done = travel(url, connections=1)
    assert done.bytes() == CONTENT and not done.pauses
    assert len(server.log) == 2
    assert other.body_bytes == SIZE


def test_a_mirror_with_another_version_is_never_mixed_in(server: SourceServer,
                                                         other: SourceServer) -> None:
    url = server.add("/f", redirect=other.add("/two", OTHER, etag='"two"'))
    server.next("/f", redirect=other.add("/one", CONTENT))
    other.next("/one", status=0)
    other.change("/one", status=404)
    _, done = fails(SourceChanged, url, connections=1)
    assert done.file.read(0, WINDOW) == CONTENT[:WINDOW] and done.file.have == full_set(8)


# ------------------------------------------------------------------------------- cancellation
@pytest.mark.parametrize("how", [{}, {"ranges": False},
                                 {"ranges": False, "framing": "chunked"}])
def test_cancelling_ends_workers_and_connections(server: SourceServer, how: Any) -> None:
    async def work(traveller: Trip) -> None:
        await traveller.begin()
        traveller.open()
        fetching = asyncio.ensure_future(traveller.fetch())
        expected = 3 if traveller.content.ranges else 1    # the content has three windows
        await asyncio.to_thread(server.wait_until, lambda: len(server.log) == expected and all(
            exchange.sent == 100 * KIB for exchange in server.log))
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        await asyncio.to_thread(server.wait_until, lambda: server.open_connections == 0)
        assert len(asyncio.all_tasks()) <= 2    # this one and the one that waits for it
    done = travel(server.add("/f", CONTENT, stall_after=100 * KIB, **how), work,
                  digest=Digest("md5", bytes(16)))
    assert done.file.have == 0


def test_what_came_before_a_cancellation_counts(server: SourceServer) -> None:
    async def work(traveller: Trip) -> None:
        content = await traveller.begin()
        traveller.open()
        fetching = asyncio.ensure_future(traveller.fetch())
        await traveller.came(5)
        fetching.cancel()
        await asyncio.wait({fetching})
        server.change("/f", stall_after=None)
        await traveller.begin(content.version, start=5 * PIECE)
        await traveller.fetch()
    url = server.add("/f", CONTENT, stall_after=5 * PIECE + 10)
    done = travel(url, work, connections=1)
    assert done.bytes() == CONTENT
    assert server.body_bytes == SIZE + 10
