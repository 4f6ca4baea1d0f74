"""A part of a content as a content of its own."""
from __future__ import annotations

import asyncio
import hashlib
import random
from typing import Any, Coroutine, List, Optional, Tuple

import pytest

from dfly.errors import NetworkError, ProtocolError, UsageError
from dfly.net.http_client import HttpClient
from dfly.net.mover import Movers
from dfly.service.ingest import Ingest, IngestLimits
from dfly.source import RangesBroken, SourceChanged, SourceRefused, SourceRequest, Version
from dfly.source.http import HttpSource
from dfly.source.span import SpanBody, SpanSource
from dfly.store.memory import MemoryStore
from dfly.task import PIECE_SIZE_MIN, Geometry, TaskSpec, members, piece_size_for
from tests.source.scripted import Basket, Place, ScriptedSource
from tests.support import SourceServer

URL = "http://a/f"
CONTENT = random.Random(3).randbytes(10_000)
SIZE = len(CONTENT)
PIECE = PIECE_SIZE_MIN
BIG = random.Random(4).randbytes(21 * PIECE + 1234)
# (span, what a caller gets of 10,000 bytes)
SPANS = [((0, None), (0, SIZE)), ((0, 1), (0, 1)), ((0, SIZE), (0, SIZE)),
         ((0, SIZE + 5), (0, SIZE)),
         ((1, None), (1, SIZE)), ((2500, 7300), (2500, 7300)), ((3000, 4000), (3000, 4000)),
         ((SIZE - 1, None), (SIZE - 1, SIZE)), ((SIZE - 1, SIZE * 2), (SIZE - 1, SIZE)),
         ((-1, None), (SIZE - 1, SIZE)), ((-2500, None), (SIZE - 2500, SIZE)),
         ((-SIZE, None), (0, SIZE)), ((-SIZE - 7, None), (0, SIZE))]
VERSION = Version('"one"', "Mon, 05 Jan 2026 10:00:00 GMT")


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


def of_length(length: Optional[int]) -> Version:
    return Version(VERSION.etag, VERSION.last_modified, length)


class Scene:
    """A span of one scripted place."""

    def __init__(self, span: Tuple[int, Optional[int]], **place: Any) -> None:
        self.inner = ScriptedSource({URL: Place(**{"content": CONTENT, **place})})
        self.source = SpanSource(self.inner, span)

    async def open(self, start: int = 0, stop: Optional[int] = None, **how: Any) -> SpanBody:
        return await self.source.open(SourceRequest(URL, start=start, stop=stop, **how))

    async def get(self, start: int = 0, stop: Optional[int] = None,
                  **how: Any) -> Tuple[SpanBody, bytes]:
        body, basket = await self.open(start, stop, **how), Basket()
        assert await body.receive(basket) == len(basket.content)
        assert basket.finished == 1
        await body.close()
        return body, bytes(basket.content)


# --------------------------------------------------------------------------- what comes out
@pytest.mark.parametrize("span, bounds", SPANS)
@pytest.mark.parametrize("ranges", [True, False])
def test_a_whole_part(span: Tuple[int, Optional[int]], bounds: Tuple[int, int],
                      ranges: bool) -> None:
    scene = Scene(span, ranges=ranges)
    body, came = run(scene.get())
    length = bounds[1] - bounds[0]
    assert came == CONTENT[slice(*bounds)]
    assert (body.start, body.stop, body.total, body.version) == (
        0, length, length, of_length(length))
    assert not body.ranged and not body.unchanged
    assert scene.inner.all_closed


@pytest.mark.parametrize("span, bounds", SPANS)
@pytest.mark.parametrize("first", [0, 1, 400])
@pytest.mark.parametrize("count", [1, 700, None])
def test_a_range_of_a_part(span: Tuple[int, Optional[int]], bounds: Tuple[int, int], first: int,
                           count: Optional[int]) -> None:
    part = CONTENT[slice(*bounds)]
    scene = Scene(span)
    stop = None if count is None else first + count
    if first >= len(part):
        with pytest.raises(SourceRefused) as error:
            run(scene.get(first, stop))
        assert error.value.status == 416
        return
    body, came = run(scene.get(first, stop))
    assert came == part[first:stop]
    assert (body.start, body.stop) == (first, first + len(came))
    assert body.total == body.version.length == len(part)
    assert body.ranged == (first > 0 or stop is not None)
    assert all(inner.sent <= max(1, len(came)) for inner in scene.inner.bodies)


@pytest.mark.parametrize("span, bounds", SPANS)
def test_a_source_without_ranges_is_asked_for_a_range(span: Tuple[int, Optional[int]],
                                                      bounds: Tuple[int, int]) -> None:
    scene = Scene(span, ranges=False)
    body, came = run(scene.get(0, 300))
    assert came == CONTENT[slice(*bounds)]    # to ingest: ranges are ignored, the whole follows
    assert not body.ranged and (body.start, body.stop) == (0, len(came))
    assert len(scene.inner.asked) == 1
    assert scene.inner.bodies[0].sent <= bounds[1] + 999    # what lies behind isn't read


@pytest.mark.parametrize("span", [(0, 4000), (2500, 7300), (9999, 10_001), (0, None), (2500, None)])
def test_a_length_that_is_not_told(span: Tuple[int, Optional[int]]) -> None:
    scene = Scene(span, ranges=False, told=False)
    body, came = run(scene.get())
    assert came == CONTENT[span[0]:span[1]]
    assert body.total is None and body.stop is None and body.version.length is None


def test_the_body_is_left_where_the_part_ends() -> None:
    scene = Scene((500, 1500), ranges=False)
    run(scene.get())
    assert scene.inner.bodies[0].sent == 2000 and scene.inner.all_closed


def test_the_last_bytes_cost_one_byte_more() -> None:
    scene = Scene((-2500, None))
    run(scene.get(0, 1000))
    assert scene.inner.ranges() == [(0, 1), (7500, 8500)]
    assert scene.inner.asked[1].if_version == of_length(SIZE)    # of the state that was measured
    assert [body.sent for body in scene.inner.bodies] == [1, 1000]
    run(scene.get(1000, 2000, if_version=of_length(2500)))       # and only once
    assert scene.inner.ranges()[2:] == [(8500, 9500)]


def test_the_state_that_was_measured_is_the_one_that_is_read() -> None:
    scene = Scene((-2500, None))
    scene.inner.next(URL)
    scene.inner.next(URL, content=CONTENT + b"more", etag='"two"')
    with pytest.raises(SourceChanged):
        run(scene.get())


def test_beginning_anew_measures_anew() -> None:
    scene = Scene((-2500, None))
    run(scene.get())
    scene.inner.places[URL].content = CONTENT[:5000]
    body, came = run(scene.get(0, 100))
    assert came == CONTENT[2500:2600] and body.version == of_length(2500)


# --------------------------------------------------------------------------------- versions
@pytest.mark.parametrize("span, length", [((2500, 7300), 4800), ((-2500, None), 2500)])
def test_unchanged_is_one_question(span: Tuple[int, Optional[int]], length: int) -> None:
    scene = Scene(span)
    body = run(scene.open(0, 1, unless=of_length(length)))
    assert body.unchanged and body.version == of_length(length) and body.total == length
    assert (body.start, body.stop) == (0, 0) and len(scene.inner.asked) == 1
    # A resumed download goes on from there, though the whole's length wasn't told.
    _, came = run(scene.get(100, 200, if_version=of_length(length)))
    begin = span[0] if span[0] >= 0 else SIZE + span[0]
    assert came == CONTENT[begin + 100:begin + 200]


@pytest.mark.parametrize("span, length", [((2500, 7300), 4800), ((2500, None), 7500),
                                          ((-2500, None), 2500)])
@pytest.mark.parametrize("change", [
    {"etag": '"two"'}, {"etag": "", "last_modified": "Tue, 06 Jan 2026 10:00:00 GMT"},
    {"content": CONTENT + b"more"}, {"content": CONTENT[:-1]}])
def test_a_change_is_noticed(span: Tuple[int, Optional[int]], length: int, change: Any) -> None:
    scene = Scene(span)
    body = run(scene.open(0, 100))
    assert body.version == of_length(length)
    for how, value in change.items():
        setattr(scene.inner.places[URL], how, value)
    with pytest.raises(SourceChanged):
        run(scene.get(100, 200, if_version=body.version))
    assert [inner for inner in scene.inner.bodies if not inner.closed] == [body._inner]


def test_a_part_that_the_end_moved_into_is_another() -> None:
    scene = Scene((2500, 20_000), etag="")
    with pytest.raises(SourceChanged):
        run(scene.get(0, 100, if_version=Version("", VERSION.last_modified, 7000)))
    assert scene.inner.all_closed


def test_a_source_without_validators_keeps_its_nonce() -> None:
    scene = Scene((2500, 7300), etag="", last_modified="")
    body = run(scene.open())
    assert body.version.nonce and body.version.length == 4800


# ----------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("span", [(SIZE, None), (SIZE, SIZE + 1), (SIZE * 3, SIZE * 4)])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("asked", [(0, None), (0, 100)])
def test_a_part_beyond_the_end(span: Tuple[int, Optional[int]], ranges: bool,
                               asked: Tuple[int, Optional[int]]) -> None:
    scene = Scene(span, ranges=ranges)
    with pytest.raises(SourceRefused, match=f"has {SIZE} bytes.*from byte {span[0]} on") as error:
        run(scene.open(*asked))
    assert error.value.status == 416 and error.value.exit_code == 8
    assert scene.inner.all_closed


def test_a_content_that_became_shorter_than_what_is_missing() -> None:
    scene = Scene((1000, None))
    with pytest.raises(SourceRefused) as error:
        run(scene.open(SIZE, SIZE + 10, unless=Version('"old"', "", 5 * SIZE)))
    assert error.value.status == 416 and len(scene.inner.asked) == 1


def test_a_length_that_cannot_be_asked_for_is_not_named() -> None:
    scene = Scene((SIZE, None))
    scene.inner.next(URL)
    scene.inner.next(URL, error=lambda: NetworkError("gone"))
    with pytest.raises(SourceRefused, match="ends before that"):
        run(scene.open())


@pytest.mark.parametrize("span", [(0, 5), (1, None), (-5, None)])
def test_an_empty_content_has_no_parts(span: Tuple[int, Optional[int]]) -> None:
    scene = Scene(span, content=b"")
    with pytest.raises(SourceRefused, match="has 0 bytes"):
        run(scene.open())
    assert scene.inner.all_closed


@pytest.mark.parametrize("start", [SIZE, SIZE + 1])
def test_beyond_an_end_that_was_not_told(start: int) -> None:
    with pytest.raises(SourceRefused, match=f"has {SIZE} bytes") as error:
        run(Scene((start, None), ranges=False, told=False).get())
    assert error.value.status == 416


def test_the_end_must_be_told_to_count_from_it() -> None:
    scene = Scene((-5, None), ranges=False, told=False)
    with pytest.raises(ProtocolError, match="tells no length"):
        run(scene.open())
    assert scene.inner.all_closed


@pytest.mark.parametrize("span", [(5, 5), (6, 5), (0, 0), (-5, 5), (-5, -2)])
def test_what_is_no_span(span: Tuple[int, int]) -> None:
    with pytest.raises(UsageError):
        SpanSource(ScriptedSource(), span)


def test_broken_ranges_end_in_reading_it_all() -> None:
    scene = Scene((2500, 7300), broken_ranges=True)
    with pytest.raises(RangesBroken):
        run(scene.open(0, 100))
    assert run(scene.get())[1] == CONTENT[2500:7300]


@pytest.mark.parametrize("cut_after", [0, 100, 2500, 2501, 5000])
def test_a_body_that_breaks(cut_after: int) -> None:
    scene, basket = Scene((2500, 7300), ranges=False, cut_after=cut_after), Basket()
    body = run(scene.open())
    with pytest.raises(NetworkError):
        run(body.receive(basket))
    assert bytes(basket.content) == CONTENT[2500:max(2500, cut_after)] and not basket.finished


# ---------------------------------------------------------------------- with ingest, for real
def ingest(url: str, span: Tuple[int, Optional[int]], *, held: int = 0, part: bytes = b"",
           known: Optional[Version] = None) -> bytes:
    """What `Ingest` brings of a real server; `held` = pieces of `part` that came before."""
    async def work() -> bytes:
        movers = Movers(threads=1)
        movers.start(asyncio.get_running_loop())
        client = HttpClient(movers)
        spec = TaskSpec(url, span=span)

        async def pause(_: float) -> None: ...
        trip = Ingest(SpanSource(HttpSource(client), span), spec, limits=IngestLimits(tries=3),
                      rng=random.Random(1), pause=pause)
        pieces: List[int] = []
        try:
            content = await trip.begin(known)
            geometry = Geometry(content.length, piece_size_for(content.length))
            file = MemoryStore().open(spec.task_id, content.version.token, geometry)
            for piece in members(held):
                data = part[geometry.start(piece):geometry.stop(piece)]
                file.put(piece, data, hashlib.sha256(data).digest())
            await trip.fetch(file, on_piece=pieces.append)
            assert file.complete and file.geometry.length is not None
            return file.read(0, file.geometry.length)
        finally:
            await trip.close()
            await client.close()
            movers.stop()
    came = run(work())
    assert isinstance(came, bytes)
    return came


REAL_SPANS = [(0, 100), (1000, 17 * PIECE), (PIECE, None), (len(BIG) - 1, None), (-3 * PIECE, None),
              (5, 10**9), (-10**9, None)]


@pytest.mark.parametrize("span", REAL_SPANS)
@pytest.mark.parametrize("how", [{}, {"ranges": False}, {"framing": "chunked"},
                                 {"etag": "", "last_modified": ""},
                                 {"content_range": "bytes 5-6/7"}])
def test_ingest_brings_the_part(span: Tuple[int, Optional[int]], how: Any) -> None:
    with SourceServer() as server:
        assert ingest(server.add("/f", BIG, **how), span) == BIG[span[0]:span[1]]
        if not how:
            length = len(BIG[span[0]:span[1]])
            assert length <= server.body_bytes <= length + 1


@pytest.mark.parametrize("span", [(0, 100), (1000, 17 * PIECE), (PIECE, None)])
def test_ingest_brings_the_part_of_an_unknown_length(span: Tuple[int, Optional[int]]) -> None:
    with SourceServer() as server:
        url = server.add("/f", BIG, ranges=False, framing="chunked")
        assert ingest(url, span) == BIG[span[0]:span[1]]


def test_a_huge_content_without_ranges_is_not_read_to_its_end() -> None:
    with SourceServer() as server:
        url = server.add("/f", BIG, ranges=False, stall_after=4 * PIECE)
        assert ingest(url, (1000, 3 * PIECE)) == BIG[1000:3 * PIECE]
        server.wait_until(lambda: server.log[0].client_left)


@pytest.mark.parametrize("cut_after", [0, 1, 999, 1000, 1001, PIECE, 3 * PIECE + 17])
@pytest.mark.parametrize("ranges", [True, False])
def test_ingest_goes_on_where_a_body_broke(cut_after: int, ranges: bool) -> None:
    with SourceServer() as server:
        url = server.add("/f", BIG, ranges=ranges)
        server.next("/f", cut_after=cut_after)
        assert ingest(url, (1000, 17 * PIECE)) == BIG[1000:17 * PIECE]


@pytest.mark.parametrize("span", [(1000, 17 * PIECE), (-9 * PIECE - 5, None)])
def test_ingest_resumes_a_part(span: Tuple[int, Optional[int]]) -> None:
    part = BIG[span[0]:span[1]]
    with SourceServer() as server:
        url = server.add("/f", BIG)
        assert ingest(url, span, held=0b1110111, part=part, known=of_length(len(part))) == part
        assert server.log[0].status == 304
        assert len(part) - 6 * PIECE <= server.body_bytes <= len(part) - 6 * PIECE + 4


@pytest.mark.parametrize("ranges", [True, False])
def test_ingest_tells_of_a_part_beyond_the_end(ranges: bool) -> None:
    with SourceServer() as server:
        with pytest.raises(SourceRefused, match=f"has {len(BIG)} bytes"):
            ingest(server.add("/f", BIG, ranges=ranges), (len(BIG), None))
