"""Several sources of one file: whose bytes may lie beside whose, and who is asked next."""
from __future__ import annotations

import asyncio
import hashlib
import random
from typing import Any, Callable, Coroutine, Dict, List, Optional, Tuple

import pytest

from dfly.access import Access
from dfly.clock import ManualClock
from dfly.digest import Digest
from dfly.errors import (
    AuthError,
    DflyError,
    DigestMismatch,
    FileError,
    NetworkError,
    ProtocolError,
    ServerError,
    TlsError,
)
from dfly.net.http_client import HttpClient
from dfly.net.mover import Movers
from dfly.service.ingest import Ingest, IngestLimits, held_state
from dfly.service.intake import vouched_lengths
from dfly.source import (
    RangesBroken,
    Source,
    SourceChanged,
    SourceRefused,
    SourceRequest,
    Version,
)
from dfly.source.http import HttpSource
from dfly.source.mirrors import (
    CRAWL,
    CRAWL_AFTER_S,
    FADE_S,
    PATIENCE,
    PATIENCE_S,
    REST_MAX_S,
    REST_S,
    MirrorBody,
    MirrorSource,
)
from dfly.source.span import SpanSource
from dfly.store import TaskFile
from dfly.store.memory import MemoryStore
from dfly.store.sink import PieceMismatch
from dfly.task import PIECE_SIZE_MIN, Geometry, TaskSpec, Vouched, members, piece_size_for
from dfly.units import KIB
from tests.source.scripted import Basket, Place, ScriptedSource
from tests.support import MONDAY, TUESDAY, SourceServer

A, B, C = URLS = ("http://a/f", "http://b/f", "http://c/f")
CONTENT = random.Random(3).randbytes(200_000)
OTHER = random.Random(4).randbytes(200_000)
SIZE = len(CONTENT)
PIECE = PIECE_SIZE_MIN
BIG = random.Random(5).randbytes(9 * PIECE + 1234)
BIG_OTHER = random.Random(6).randbytes(len(BIG))
VERSION = Version('"one"', MONDAY, SIZE)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


class Scene:
    """A mirror source over scripted places; `how` by URL = fields of its place."""

    def __init__(self, *, checked: bool, urls: Tuple[str, ...] = URLS,
                 how: Optional[Dict[str, Dict[str, Any]]] = None, **settings: Any) -> None:
        self.clock = ManualClock(now=1000.0)
        self.inner = ScriptedSource({url: Place(**{"content": CONTENT, **(how or {}).get(url, {})})
                                     for url in urls})
        self.source = MirrorSource(self.inner, urls, checked=checked, clock=self.clock, **settings)
        self.version: Optional[Version] = None

    async def open(self, start: int = 0, stop: Optional[int] = None, **how: Any) -> MirrorBody:
        return await self.source.open(SourceRequest(A, start=start, stop=stop, **how))

    async def begin(self, stop: Optional[int] = 100, **how: Any) -> MirrorBody:
        body = await self.open(0, stop, **how)
        self.version = body.version
        return body

    async def go_on(self, start: int = 100, stop: Optional[int] = 200) -> MirrorBody:
        return await self.open(start, stop, if_version=self.version)

    async def read(self, body: MirrorBody) -> bytes:
        basket = Basket()
        try:
            await body.receive(basket)
        finally:
            await body.close()
        return bytes(basket.content)

    async def asked_next(self, count: int = 1, start: int = 100) -> str:
        """Who is asked by the next requests, by the letters of their hosts."""
        before = len(self.inner.asked)
        for _ in range(count):
            await self.read(await self.go_on(start, start + 100))
        return hosts(self.inner.urls()[before:])

    def fails(self, url: str, make: Callable[[], Exception] = lambda: NetworkError("no")) -> None:
        self.inner.places[url].error = make

    def works(self, url: str) -> None:
        self.inner.places[url].error = None


def hosts(urls: List[str]) -> str:
    return "".join(url[len("http://")] for url in urls)


def errors_of(make: Callable[[], Coroutine[Any, Any, Any]]) -> DflyError:
    with pytest.raises(DflyError) as error:
        run(make())
    return error.value


# ---------------------------------------------------------------------------------- begin
@pytest.mark.parametrize("checked", [True, False])
def test_the_first_that_answers_is_believed(checked: bool) -> None:
    async def work() -> None:
        scene = Scene(checked=checked, how={B: {"etag": '"b"'}})
        scene.fails(A)
        body = await scene.begin()
        assert hosts(scene.inner.urls()) == "ab"
        assert body.version == Version('"b"', MONDAY, SIZE) and body.ranged
        assert await scene.read(body) == CONTENT[:100]
    run(work())


@pytest.mark.parametrize("error", [
    NetworkError("no"), TlsError("no"), AuthError("no"), SourceRefused("404", status=404),
    SourceRefused("503", status=503), ProtocolError("no"), RangesBroken("no")])
@pytest.mark.parametrize("checked", [True, False])
def test_whatever_fails_the_next_is_asked(error: DflyError, checked: bool) -> None:
    scene = Scene(checked=checked)
    scene.fails(A, lambda: error)
    run(scene.begin())
    assert hosts(scene.inner.urls()) == "ab"


def test_a_fault_of_ours_is_not_the_mirrors() -> None:
    scene = Scene(checked=True)
    scene.fails(A, lambda: FileError("the disk is full"))
    assert isinstance(errors_of(scene.begin), FileError)
    assert hosts(scene.inner.urls()) == "a"


@pytest.mark.parametrize("errors, telling", [
    (["n", "404", "t"], "n"), (["404", "n", "503"], "n"), (["t", "404", "401"], "404"),
    (["p", "401", "t"], "401"), (["p", "t", "p"], "t"), (["n", "r", "503"], "r")])
def test_the_most_telling_error_is_told(errors: List[str], telling: str) -> None:
    """What may pass is worth another try, by whoever asked; so it's told first."""
    made = {"n": NetworkError("n"), "t": TlsError("t"), "401": AuthError("401"),
            "404": SourceRefused("404", status=404), "503": SourceRefused("503", status=503),
            "p": ProtocolError("p"), "r": RangesBroken("r")}
    scene = Scene(checked=True)
    for url, name in zip(URLS, errors):
        scene.fails(url, lambda name=name: made[name])  # type: ignore[misc]
    error = errors_of(scene.begin)
    assert error is made[telling]
    assert error.what == f"{telling} (and 2 other mirrors failed)" == str(error.args[0])


def test_a_range_beyond_the_end_is_an_answer() -> None:
    scene = Scene(checked=True)
    error = errors_of(lambda: scene.open(SIZE, SIZE + 5))
    assert isinstance(error, SourceRefused) and error.status == 416
    assert hosts(scene.inner.urls()) == "a"


def test_a_length_that_cannot_be_the_contents() -> None:
    scene = Scene(checked=True, how={A: {"content": CONTENT[:-1]}}, lengths=range(SIZE, SIZE + 9))
    run(scene.begin())
    assert hosts(scene.inner.urls()) == "ab" and scene.inner.bodies[0].closed
    scene.inner.places[B].content = scene.inner.places[C].content = b"short"
    assert "aren't of" in errors_of(scene.begin).what


def test_the_same_url_twice_is_one_mirror() -> None:
    scene = Scene(checked=True, urls=(A, A, A))
    scene.fails(A)
    assert errors_of(scene.begin).what == "no"
    assert len(scene.inner.asked) == 1


def test_the_access_goes_to_each() -> None:
    access = Access(headers=(("Authorization", "x"),))
    scene = Scene(checked=True)
    scene.fails(A)
    body = run(scene.begin(access=access))
    assert body.authorised and [request.access for request in scene.inner.asked] == [access] * 2


# -------------------------------------------------------------------- what was held before
@pytest.mark.parametrize("sealed", [True, False])
def test_an_unchanged_mirror_says_so(sealed: bool) -> None:
    scene = Scene(checked=True, sealed=sealed)
    body = run(scene.begin(unless=VERSION))
    assert body.unchanged and body.version == VERSION


@pytest.mark.parametrize("known, how, sealed, held", [
    (VERSION, {"etag": '"b"'}, False, True),                                # by date and length
    (Version('"one"', TUESDAY, SIZE), {}, False, True),                     # by the strong ETag
    (VERSION, {"etag": '"b"', "last_modified": TUESDAY}, False, False),
    (VERSION, {"etag": '"b"', "last_modified": TUESDAY}, True, True),       # by the task's name
    (Version('"one"', MONDAY, SIZE + 1), {"etag": '"b"'}, True, False),
    (Version('"one"', MONDAY, SIZE + 1), {"etag": '"b"'}, False, False),
    (Version('W/"w"', TUESDAY, SIZE), {"etag": 'W/"w"'}, False, False)])
def test_which_version_may_be_completed(known: Version, how: Dict[str, Any], sealed: bool,
                                        held: bool) -> None:
    async def work() -> None:
        scene = Scene(checked=sealed, sealed=sealed, how={B: {**how, "ranges": True}})
        scene.fails(A)
        body = await scene.begin(unless=known)
        assert (body.version == known or body.unchanged or body.version.same_as(known)) == held
        if held:    # and it can be: its own version is what it's asked by
            assert await scene.read(await scene.go_on()) == CONTENT[100:200]
    run(work())


def test_a_weak_etag_says_nothing_of_another_mirror() -> None:
    """Version.same_as, by which ingest compares, mustn't see it."""
    known = Version('W/"w"', TUESDAY, SIZE)
    scene = Scene(checked=False, how={A: {"etag": 'W/"w"', "last_modified": ""}})
    body = run(scene.begin(unless=known))
    assert not body.unchanged and not body.version.same_as(known) and body.version.nonce
    assert scene.inner.asked[0].unless is None


# ----------------------------------------------------------------------------- unchecked
def test_unchecked_all_comes_from_the_first() -> None:
    async def work() -> None:
        scene = Scene(checked=False)
        scene.fails(A)
        await scene.begin()
        scene.works(A)
        scene.clock.advance(REST_MAX_S)
        assert await scene.asked_next(5) == "bbbbb"
    run(work())


@pytest.mark.parametrize("how, joins", [
    ({}, True), ({"etag": '"b"'}, True), ({"last_modified": TUESDAY}, True),
    ({"etag": '"b"', "last_modified": TUESDAY}, False), ({"etag": ""}, True),
    ({"etag": "", "last_modified": TUESDAY}, False), ({"etag": "", "last_modified": ""}, False),
    ({"content": CONTENT + b"more"}, False), ({"content": CONTENT[:150]}, False),
    ({"content": CONTENT[:50]}, False), ({"etag": 'W/"one"', "last_modified": TUESDAY}, False)])
def test_unchecked_who_may_take_over(how: Dict[str, Any], joins: bool) -> None:
    async def work() -> None:
        scene = Scene(checked=False, urls=(A, B), how={B: how})
        first = await scene.begin()
        scene.fails(A, lambda: SourceRefused("404", status=404))
        if joins:
            body = await scene.go_on()
            assert await scene.read(body) == CONTENT[100:200] and body.version == first.version
            assert await scene.asked_next(2) == "bb"
            return
        with pytest.raises(SourceChanged):
            await scene.go_on()
        assert all(body.closed for body in scene.inner.bodies[1:])
    run(work())


@pytest.mark.parametrize("how", [{"etag": 'W/"w"', "last_modified": ""},
                                 {"etag": "", "last_modified": ""}])
def test_unchecked_no_strong_validator_no_take_over(how: Dict[str, Any]) -> None:
    async def work() -> None:
        scene = Scene(checked=False, urls=(A, B), how={A: how, B: how})
        await scene.begin()
        assert await scene.asked_next() == "a"
        scene.fails(A, lambda: SourceRefused("404", status=404))
        with pytest.raises(SourceChanged):
            await scene.go_on()
    run(work())


def test_unchecked_a_date_alone_is_not_enough() -> None:
    async def work() -> None:
        how = {"etag": "", "ranges": False, "told": False}
        scene = Scene(checked=False, urls=(A, B), how={A: how, B: how})
        await scene.begin(None)
        scene.fails(A, lambda: SourceRefused("404", status=404))
        with pytest.raises(SourceChanged):
            await scene.open(if_version=scene.version)
    run(work())


def test_unchecked_a_short_failure_does_not_throw_all_away() -> None:
    """Another mirror has another content: to begin anew with it is a last resort."""
    async def work() -> None:
        scene = Scene(checked=False, urls=(A, B), how={
            B: {"etag": '"b"', "last_modified": TUESDAY, "content": OTHER}})
        await scene.begin()
        scene.fails(A)
        for _ in range(4):
            with pytest.raises(NetworkError, match="1 other mirror failed"):
                await scene.go_on()
            scene.clock.advance(PATIENCE_S / 4)
        scene.works(A)
        assert await scene.asked_next() == "a"
        scene.fails(A)
        with pytest.raises(NetworkError):
            await scene.go_on()
        scene.clock.advance(PATIENCE_S)
        with pytest.raises(SourceChanged):
            await scene.go_on()
        assert hosts(scene.inner.urls()).count("b") == 1
        scene.works(A)
        scene.clock.advance(REST_MAX_S)
        assert (await scene.begin()).version == VERSION
        scene.fails(A)
        with pytest.raises(NetworkError):    # patience is new, too
            await scene.go_on()
    run(work())


def test_unchecked_a_home_that_breaks_bodies_gives_way() -> None:
    async def work() -> None:
        scene = Scene(checked=False, urls=(A, B), how={A: {"cut_after": 10}})
        body = await scene.begin()
        for _ in range(PATIENCE):
            with pytest.raises(NetworkError):
                await scene.read(body)
            scene.clock.advance(0.1)
            body = await scene.go_on()
        assert hosts(scene.inner.urls()) == "aaab"
        assert await scene.read(body) == CONTENT[100:200]
    run(work())


def test_unchecked_a_home_that_changes_is_noticed() -> None:
    async def work() -> None:
        scene = Scene(checked=False, urls=(A, B), how={
            B: {"etag": '"b"', "last_modified": TUESDAY}})
        await scene.begin()
        scene.inner.places[A].etag = '"two"'
        scene.inner.places[A].content = OTHER
        with pytest.raises(SourceChanged):
            await scene.go_on()
        body = await scene.begin()    # anew
        assert body.version.etag == '"two"' and await scene.asked_next() == "a"
    run(work())


# -------------------------------------------------------------------------------- checked
def test_checked_each_is_asked_under_its_own_version() -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B), how={
            B: {"etag": '"b"', "last_modified": TUESDAY}})
        first = await scene.begin()
        second = await scene.go_on(100, 200)    # the first still rests with A
        third = await scene.go_on(200, 300)
        fourth = await scene.go_on(300, 400)
        assert hosts(scene.inner.urls()) == "abab"
        assert {body.version for body in (first, second, third, fourth)} == {first.version}
        told = [request.if_version for request in scene.inner.asked]
        assert told == [None, None, VERSION, Version('"b"', TUESDAY, SIZE)]
        for body in (first, second, third, fourth):
            await scene.read(body)
        # One that changes on the way is asked no more.
        scene.inner.places[B].etag = '"two"'
        held = await scene.go_on()
        assert await scene.asked_next(3) == "baaa"
        scene.clock.advance(REST_MAX_S)
        assert await scene.asked_next(3) == "aaa"
        await held.close()
    run(work())


@pytest.mark.parametrize("content", [CONTENT + b"more", CONTENT[:-1], CONTENT[:50]])
def test_checked_lengths_must_agree(content: bytes) -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B), how={B: {"content": content}})
        held = await scene.begin()
        body = await scene.go_on()
        assert hosts(scene.inner.urls()) == "aba"
        assert await scene.read(body) == CONTENT[100:200]
        assert all(other.closed for other in scene.inner.bodies[1:])
        await held.close()
    run(work())


def test_checked_a_mirror_that_is_gone_is_told_as_that() -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B), how={B: {"content": b"short"}})
        await scene.begin()
        scene.fails(A, lambda: SourceRefused("404", status=404))
        with pytest.raises(SourceRefused, match="404"):
            await scene.go_on()
        scene.works(A)
        scene.inner.places[A].etag = scene.inner.places[A].last_modified = "two"
        for _ in range(2):
            with pytest.raises(SourceChanged):
                await scene.go_on()
    run(work())


def test_checked_requests_are_spread() -> None:
    async def work() -> None:
        scene = Scene(checked=True)
        bodies = [await scene.begin()] + [await scene.go_on() for _ in range(8)]
        assert sorted(hosts(scene.inner.urls())) == list("aaabbbccc")
        await bodies[4].close()
        await bodies[4].close()
        assert await scene.asked_next(3) == hosts([scene.inner.urls()[4]]) * 3
        for body in bodies:
            await body.close()
        assert await scene.asked_next() == "a"
    run(work())


def test_checked_a_slow_mirror_gets_less() -> None:
    """Of 40 runs by 4 workers; C is ten times as slow as the others."""
    async def work() -> None:
        scene = Scene(checked=True)
        pace = {A: 0.1, B: 0.1, C: 1.0}
        done: List[str] = []
        ends: List[Tuple[float, int, str, MirrorBody]] = []
        body, url = await scene.begin(100_000), A
        for number in range(44):
            ends.append((scene.clock.now() + pace[url], number, url, body))
            if len(ends) == 4:
                ends.sort(key=lambda entry: entry[:2])
                at, _, url, ended = ends.pop(0)
                await receive_in(scene, ended, at, pace[url])
                done.append(url)
            body = await scene.go_on(0, 100_000)
            url = scene.inner.urls()[-1]
        assert 1 <= hosts(done).count("c") <= 4
        assert hosts(done).count("a") > 12 < hosts(done).count("b")
    run(work())


def test_checked_an_old_measurement_is_forgotten() -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B))
        bodies = [await scene.begin(100_000), await scene.go_on(0, 100_000)]
        for url, pace in ((A, 0.1), (B, 0.001)):
            scene.inner.places[url].on_feed = lambda _, pace=pace: (  # type: ignore[misc]
                scene.clock.advance(pace))
            await scene.read(bodies.pop(0))
        assert await scene.asked_next(2) == "bb"
        scene.clock.advance(FADE_S - 1)    # B is measured anew meanwhile
        bodies = [await scene.go_on()]
        assert hosts(scene.inner.urls())[-1] == "b"
        scene.clock.advance(2)
        assert await scene.asked_next() == "a"
    run(work())


def test_checked_a_small_body_measures_nothing() -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B))
        bodies = [await scene.begin(), await scene.go_on(0, SIZE)]
        scene.inner.places[A].on_feed = lambda _: scene.clock.advance(5.0)
        scene.inner.places[B].on_feed = lambda _: scene.clock.advance(0.001)
        for body in bodies:
            await scene.read(body)
        assert await scene.asked_next(2) == "aa"
    run(work())


async def receive_in(scene: Scene, body: MirrorBody, at: float, pace: float) -> None:
    """`body` is whole at this time, after it took so long."""
    scene.clock.advance(max(0.0, at - scene.clock.now()))
    mirror = body._mirror
    await scene.read(body)
    mirror.measured(100_000, pace, scene.clock.now())


def test_checked_a_failing_mirror_rests_longer_each_time() -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B))
        await scene.read(await scene.begin())
        scene.fails(A)
        rest_s, rests = REST_S, 0
        while rest_s < REST_MAX_S:
            assert await scene.asked_next() == "ab"
            scene.clock.advance(rest_s - 0.01)
            assert await scene.asked_next() == "b"
            scene.clock.advance(0.02)
            rest_s, rests = min(REST_MAX_S, 2 * rest_s), rests + 1
        assert rests == 6
        scene.works(A)
        assert await scene.asked_next() == "a"
        scene.fails(A)    # it did well: its failures are forgotten
        assert await scene.asked_next() == "ab"
        scene.clock.advance(REST_S + 0.01)
        assert await scene.asked_next() == "ab"
    run(work())


def test_a_mirror_rests_as_long_as_it_asks_for() -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B))
        await scene.read(await scene.begin())
        scene.fails(A, lambda: SourceRefused("503", status=503, retry_after_s=20.0))
        assert await scene.asked_next() == "ab"
        scene.clock.advance(19.9)
        assert await scene.asked_next() == "b"
        scene.clock.advance(0.2)
        assert await scene.asked_next() == "ab"
    run(work())


def test_failures_at_the_same_time_count_once() -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B), how={A: {"cut_after": 1}})
        scene.fails(B)
        bodies = [await scene.begin()] + [await scene.go_on() for _ in range(5)]
        for body in bodies:
            scene.clock.advance(0.01)
            with pytest.raises(NetworkError):
                await scene.read(body)
        scene.works(B)
        scene.clock.advance(REST_S + 0.01)
        scene.inner.places[A].cut_after = None
        assert await scene.asked_next() == "a"
    run(work())


def test_resting_mirrors_are_asked_when_all_others_fail() -> None:
    async def work() -> None:
        scene = Scene(checked=True)
        scene.fails(A)
        await scene.read(await scene.begin())
        scene.fails(B)
        scene.fails(C)
        scene.works(A)
        assert await scene.asked_next() == "bca"
    run(work())


@pytest.mark.parametrize("how", [{"cut_after": 10}, {"cut_after": 10, "cut_mildly": True}])
def test_a_cut_body_is_noted(how: Dict[str, Any]) -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B), how={A: how})
        body, basket = await scene.begin(), Basket()
        if "cut_mildly" in how:
            assert await body.receive(basket) == 10    # ingest sees for itself that it's short
        else:
            with pytest.raises(NetworkError):
                await body.receive(basket)
        await body.close()
        assert await scene.asked_next(2) == "bb"
    run(work())


@pytest.mark.parametrize("error, blamed", [
    (PieceMismatch("lies"), True), (ProtocolError("too long"), True), (DigestMismatch("x"), True),
    (FileError("disk full"), False), (DflyError("enough"), False)])
def test_what_a_sink_says_is_the_mirrors_fault_or_not(error: DflyError, blamed: bool) -> None:
    class Choosy(Basket):
        def feed(self, view: memoryview) -> None:
            raise error

    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B))
        body = await scene.begin()
        with pytest.raises(type(error)):
            await body.receive(Choosy())
        await body.close()
        assert await scene.asked_next() == ("b" if blamed else "a")
    run(work())


def test_a_body_that_is_closed_unread_frees_its_place() -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B))
        await (await scene.begin()).close()
        assert await scene.asked_next(3) == "aaa"
    run(work())


def test_a_cancelled_question_frees_its_place() -> None:
    async def work() -> None:
        asked = asyncio.Event()

        async def hang() -> None:
            asked.set()
            await asyncio.Event().wait()
        scene = Scene(checked=True, urls=(A, B))
        await (await scene.begin()).close()
        scene.inner.next(A, on_open=hang)
        question = asyncio.ensure_future(scene.go_on())
        await asked.wait()
        question.cancel()
        await asyncio.gather(question, return_exceptions=True)
        assert await scene.asked_next(2) == "aa"
    run(work())


def crawling(pace_bps: float, *, rival_fails: bool = False) -> Tuple[str, int]:
    """A body of A at this speed while B gave 100,000 bytes per second: who is asked next, and
    how much of the body came."""
    async def work() -> Tuple[str, int]:
        scene = Scene(checked=True, urls=(A, B))
        crawl = await scene.begin(SIZE)
        fast = await scene.go_on(0, SIZE)
        scene.inner.places[B].on_feed = lambda _: scene.clock.advance(0.01)
        await scene.read(fast)
        if rival_fails:
            scene.inner.next(B, error=lambda: SourceRefused("503", status=503, retry_after_s=60.0))
            await (await scene.go_on()).close()
        scene.inner.places[A].on_feed = lambda _: scene.clock.advance(1000 / pace_bps)
        basket = Basket()
        try:
            await crawl.receive(basket)
        except NetworkError as error:
            assert "crawls" in error.what
        await crawl.close()
        return await scene.asked_next(), len(basket.content)
    found = run(work())
    assert isinstance(found, tuple)
    return found


def test_a_body_that_crawls_is_given_up() -> None:
    pace = 100_000 / CRAWL / 2
    assert crawling(pace) == ("b", int(pace * CRAWL_AFTER_S) // 1000 * 1000 + 1000)


def test_a_body_that_is_merely_slow_is_not() -> None:
    assert crawling(100_000 / CRAWL * 1.1) == ("b", SIZE)


def test_a_body_that_crawls_is_better_than_nothing() -> None:
    assert crawling(100_000 / CRAWL / 2, rival_fails=True)[1] > 100_000


def test_a_length_that_the_caller_does_not_know_is_learned() -> None:
    """That of a part's whole, when a download is resumed."""
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B), how={B: {"content": CONTENT + b"more"}})
        known = Version('"one"', MONDAY, None)
        body = await scene.begin(unless=known)
        assert body.unchanged
        await body.close()
        held = [await scene.open(0, 100, if_version=known)]
        scene.inner.places[A].content = CONTENT + b"more"    # under the same validators
        with pytest.raises((SourceChanged, RangesBroken)):
            held += [await scene.open(0, 100, if_version=known) for _ in range(2)]
    run(work())


# ---------------------------------------------------------------------------- without ranges
def test_a_mirror_that_ignores_ranges_is_no_use_for_one() -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B), how={B: {"ranges": False}})
        held = await scene.begin()
        body = await scene.go_on()
        assert body.ranged and hosts(scene.inner.urls()) == "aba"
        assert scene.inner.bodies[1].closed
        other = await scene.go_on()
        assert other.ranged and hosts(scene.inner.urls()) == "abaa"
        for left in (held, body, other):
            await left.close()
        whole = await scene.open(if_version=scene.version)    # no range: it may be any
        assert await scene.read(whole) == CONTENT
    run(work())


def test_checked_whoever_gives_ranges_is_begun_with() -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B), how={A: {"ranges": False}})
        body = await scene.begin()
        assert body.ranged and hosts(scene.inner.urls()) == "ab" and scene.inner.bodies[0].closed
        scene.inner.places[B].ranges = False
        with pytest.raises(RangesBroken):    # to ingest: ask without
            await scene.begin()
        assert not (await scene.begin(None)).ranged
    run(work())


def test_an_empty_content_is_not_without_ranges() -> None:
    scene = Scene(checked=True, how={A: {"content": b""}})
    assert run(scene.begin()).total == 0 and hosts(scene.inner.urls()) == "a"


def test_who_gave_all_of_it_in_vain_is_not_asked_for_it_again() -> None:
    """A content whose length nobody knew is found wrong only after its body's end."""
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B), how={
            A: {"ranges": False, "told": False}, B: {"ranges": False}})
        await scene.read(await scene.begin(None))
        for _ in range(3):
            assert await scene.read(await scene.open(if_version=scene.version)) == CONTENT
        assert hosts(scene.inner.urls()) == "abab"
    run(work())


def test_lengths_told_beforehand_hold_for_all() -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B), lengths=range(SIZE, SIZE + 1), how={
            A: {"ranges": False, "told": False}, B: {"ranges": False, "content": CONTENT + b"x"}})
        await scene.read(await scene.begin(None))
        assert await scene.read(await scene.open(if_version=scene.version)) == CONTENT
        assert hosts(scene.inner.urls()) == "aba"
        scene.clock.advance(REST_MAX_S)
        assert await scene.read(await scene.open(if_version=scene.version)) == CONTENT
        assert hosts(scene.inner.urls()) == "abaa"    # nor is such a one asked again
    run(work())


def test_ranges_are_given_up_only_when_nobody_gives_them_for_long() -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B), how={B: {"ranges": False}})
        await (await scene.begin()).close()
        scene.fails(A)
        with pytest.raises(NetworkError):
            await scene.go_on()
        scene.clock.advance(PATIENCE_S)
        with pytest.raises(RangesBroken):
            await scene.go_on()
        assert hosts(scene.inner.urls()) == "aaba"    # B was asked once
    run(work())


def test_the_only_mirror_left_may_ignore_ranges() -> None:
    async def work() -> None:
        scene = Scene(checked=False, urls=(A, B), how={A: {"ranges": False}, B: {"content": b"x"}})
        body = await scene.begin()
        assert not body.ranged and body.stop == SIZE
        with pytest.raises(RangesBroken):
            await scene.go_on()
        body = await scene.go_on()
        assert not body.ranged and await scene.read(body) == CONTENT
    run(work())


# --------------------------------------------------------------------------------- redirects
def test_each_mirrors_way_is_remembered() -> None:
    async def work() -> None:
        scene = Scene(checked=True, urls=(A, B), how={
            A: {"redirects_to": "http://x/1"}, B: {"redirects_to": "http://y/2"}})
        held = [await scene.begin(), await scene.go_on(), await scene.go_on(),
                await scene.go_on()]
        assert [(hosts([request.url]), request.shortcut) for request in scene.inner.asked] == [
            ("a", ""), ("b", ""), ("a", "http://x/1"), ("b", "http://y/2")]
        assert not any(body.redirected for body in held)    # the caller has nothing to remember
    run(work())


# ----------------------------------------------------------------------------- with ingest
class Trip:
    """Ingests of one task, one after the other, into one store, until one succeeds."""

    def __init__(self, spec: TaskSpec, make: Callable[[], Source], clock: ManualClock,
                 **limits: Any) -> None:
        self.spec = spec
        self.clock = clock
        self.store = MemoryStore()
        self.begun = 0
        self.file: Optional[TaskFile] = None
        self._make = make
        self._limits = IngestLimits(**{"tries": 6, "connections": 3, "window_pieces": 2, **limits})

    async def _pause(self, delay_s: float) -> None:
        self.clock.advance(delay_s)
        await asyncio.sleep(0)

    async def once(self) -> bytes:
        self.begun += 1
        ingest = Ingest(self._make(), self.spec, limits=self._limits, rng=random.Random(1),
                        pause=self._pause)
        try:
            known, start, stop = held_state(self.store.find(self.spec.task_id))
            content = await ingest.begin(known, start=start, stop=stop)
            geometry = Geometry(content.length, piece_size_for(content.length, self.spec.vouched))
            self.file = self.store.open(self.spec.task_id, content.version.token, geometry)
            await ingest.fetch(self.file, on_piece=lambda _: None)
            assert self.file.complete and self.file.geometry.length is not None
            return self.file.read(0, self.file.geometry.length)
        finally:
            await ingest.close()

    async def until_done(self, times: int = 8) -> bytes:
        """SourceChanged, and failures when all else has been tried: begin anew."""
        while True:
            try:
                return await self.once()
            except (SourceChanged, NetworkError, ServerError):
                if self.begun == times:
                    raise

    def held(self) -> Dict[int, bytes]:
        assert self.file is not None
        geometry = self.file.geometry
        return {piece: self.file.read(geometry.start(piece), geometry.size_of(piece))
                for piece in members(self.file.have)}


def vouched_of(content: bytes, length: int = PIECE) -> Vouched:
    values = b"".join(hashlib.sha256(content[start:start + length]).digest()
                      for start in range(0, len(content), length))
    return Vouched("sha256", length, values)


def random_places(rng: random.Random, contents: List[bytes]) -> Dict[str, Place]:
    """Mirrors whose strong validators are honest: the same only with the same content. Weak ones
    aren't."""
    places = {}
    for url in URLS:
        content = rng.choice(contents)
        which = contents.index(content)
        etag = rng.choice([f'"s{which}"', f'"{url[7]}{which}"', 'W/"w"', ""])
        date = rng.choice([MONDAY, TUESDAY][which:which + 1] + [f"Wed, 07 Jan 2026 1{which}:0"
                          f"{URLS.index(url)}:00 GMT", ""])
        places[url] = Place(content, etag, date, ranges=rng.random() < 0.8,
                            told=rng.random() < 0.9)
    return places


def add_troubles(rng: random.Random, inner: ScriptedSource, size: int, count: int) -> None:
    for url in URLS:
        for _ in range(rng.randrange(count)):
            inner.next(url, **rng.choice([
                {}, {"cut_after": rng.randrange(size)}, {"cut_after": rng.randrange(size // 4)},
                {"cut_after": rng.randrange(PIECE), "cut_mildly": True, "told": True},
                {"error": lambda: NetworkError("refused")}, {"ranges": False},
                {"error": lambda: SourceRefused("503", status=503)}, {"broken_ranges": True},
                {"error": lambda: SourceRefused("404", status=404)},
                {"error": lambda: AuthError("401")}]))


@pytest.mark.parametrize("seed", range(120))
def test_unchecked_contents_are_never_mixed(seed: int) -> None:
    rng = random.Random(seed)
    contents = [BIG, BIG_OTHER]
    inner = ScriptedSource(random_places(rng, contents))
    add_troubles(rng, inner, len(BIG), 6)
    clock = ManualClock(now=1000.0)
    spec = TaskSpec(A, mirrors=(B, C))
    trip = Trip(spec, lambda: MirrorSource(inner, URLS, checked=False, clock=clock), clock)

    def whose() -> List[int]:
        return [which for which, content in enumerate(contents) if all(
            content[piece * geometry.piece_size:][:len(held)] == held
            for piece, held in trip.held().items())]

    async def work() -> None:
        try:
            assert await trip.until_done() in contents, f"seed {seed}: mixed"
        except DflyError as error:
            print(f"seed {seed}: {error!r}")
    run(work())
    if trip.file is not None:
        geometry = trip.file.geometry
        assert whose(), f"seed {seed}: pieces of two contents"
    # In the end nothing is left open, whatever happened.
    assert inner.all_closed, f"seed {seed}"


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("by", ["pieces", "whole"])
def test_checked_the_right_content_comes_from_whoever_has_it(seed: int, by: str) -> None:
    """By the hashes of pieces, even if two of three lie; by that of the whole, whoever fails."""
    rng = random.Random(seed)
    inner = ScriptedSource(random_places(rng, [BIG, BIG]))
    honest = rng.choice(URLS)
    # Hashes of pieces leave the length open within one of them; it may be told, too.
    size_told = rng.random() < 0.5
    wrong = [BIG_OTHER, BIG[:-5 * PIECE], BIG[:PIECE] + BIG_OTHER[PIECE:]]
    for url in URLS:
        place = inner.places[url]
        if by == "pieces" and url != honest and rng.random() < 0.6:
            place.content = rng.choice([*wrong, BIG + b"x"] if size_told else wrong)
    inner.places[honest].ranges = inner.places[honest].told = True
    add_troubles(rng, inner, len(BIG), 4)
    clock = ManualClock(now=1000.0)
    vouched, digest = vouched_of(BIG), Digest("sha256", hashlib.sha256(BIG).digest())
    if by == "pieces":
        spec = TaskSpec(A, mirrors=(B, C), vouched=vouched)
        lengths = range(len(BIG), len(BIG) + 1) if size_told else vouched_lengths(vouched)
    else:
        spec, lengths = TaskSpec(A, mirrors=(B, C), digest=digest), None
    trip = Trip(spec, lambda: MirrorSource(
        inner, URLS, checked=True, sealed=by == "whole", lengths=lengths, clock=clock), clock,
        tries=12)

    async def work() -> None:
        for _ in range(6):
            try:
                assert await trip.until_done() == BIG, f"seed {seed}"
                return
            except (DigestMismatch, AuthError, ProtocolError) as error:
                print(f"seed {seed}: {error!r}")
                assert by == "pieces" or not isinstance(error, DigestMismatch)
        raise AssertionError(f"seed {seed}: it never came")
    run(work())
    assert inner.all_closed, f"seed {seed}"


# ----------------------------------------------------------------------- with real servers
def bring(urls: List[str], *, checked: bool, span: Optional[Tuple[int, Optional[int]]] = None,
          vouched: Optional[Vouched] = None, digest: Optional[Digest] = None,
          times: int = 1) -> bytes:
    async def work() -> bytes:
        movers = Movers(threads=2)
        movers.start(asyncio.get_running_loop())
        client = HttpClient(movers)
        spec = TaskSpec(urls[0], mirrors=tuple(urls[1:]), vouched=vouched, digest=digest,
                        span=span)

        def make() -> Source:
            source: Source = MirrorSource(HttpSource(client), urls, checked=checked, clock=clock)
            return source if span is None else SpanSource(source, span)
        clock = ManualClock(now=1000.0)
        try:
            return await Trip(spec, make, clock, tries=8).until_done(times)
        finally:
            await client.close()
            movers.stop()
    came = run(work())
    assert isinstance(came, bytes)
    return came


@pytest.fixture
def servers() -> Any:
    with SourceServer() as one, SourceServer() as two, SourceServer() as three:
        yield one, two, three


def test_really_parallel_from_all(servers: Tuple[SourceServer, ...]) -> None:
    urls = [server.add("/f", BIG, etag=f'"{number}"') for number, server in enumerate(servers)]
    digest = Digest("sha256", hashlib.sha256(BIG).digest())
    assert bring(urls, checked=True, digest=digest) == BIG
    assert all(server.body_bytes for server in servers)
    assert sum(server.body_bytes for server in servers) == len(BIG)


@pytest.mark.parametrize("cut_after", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 99])
@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_mirror_that_dies_in_the_middle(servers: Tuple[SourceServer, ...], cut_after: int,
                                          checked: bool, ranges: bool) -> None:
    """The first gives one body, cut there, and then nothing more."""
    first, second, _ = servers
    urls = [first.add("/f", BIG, status=503), second.add("/f", BIG, ranges=ranges)]
    first.next("/f", status=0, cut_after=cut_after, ranges=ranges)
    assert bring(urls, checked=checked) == BIG
    if ranges:
        assert first.body_bytes + second.body_bytes == len(BIG)    # each byte once


@pytest.mark.parametrize("cut_after", [0, 1, PIECE + 1, 3 * PIECE + 99])
@pytest.mark.parametrize("ranges", [True, False])
def test_another_content_takes_over_whole(servers: Tuple[SourceServer, ...], cut_after: int,
                                          ranges: bool) -> None:
    first, second, _ = servers
    urls = [first.add("/f", BIG, status=404),
            second.add("/f", BIG_OTHER, etag='"two"', last_modified=TUESDAY, ranges=ranges)]
    first.next("/f", status=0, cut_after=cut_after, ranges=ranges)
    assert bring(urls, checked=False, times=2) == BIG_OTHER


def test_a_liar_costs_pieces_only(servers: Tuple[SourceServer, ...]) -> None:
    first, second, third = servers
    urls = [first.add("/f", BIG), second.add("/f", BIG_OTHER, etag='"two"'),
            third.add("/f", BIG, etag='"three"')]
    assert bring(urls, checked=True, vouched=vouched_of(BIG, 64 * KIB)) == BIG
    assert second.body_bytes    # it was asked


@pytest.mark.parametrize("span", [(1000, 5 * PIECE), (-3 * PIECE, None), (PIECE, None)])
@pytest.mark.parametrize("checked", [True, False])
def test_a_part_from_mirrors(servers: Tuple[SourceServer, ...],
                             span: Tuple[int, Optional[int]], checked: bool) -> None:
    first, second, _ = servers
    urls = [first.add("/f", BIG, status=503), second.add("/f", BIG, etag='"two"')]
    first.next("/f", status=0)
    first.next("/f", status=0, cut_after=777)
    assert bring(urls, checked=checked, span=span) == BIG[span[0]:span[1]]
