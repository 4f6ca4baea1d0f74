"""What a caller may ask of the daemon, and what is refused before anything is begun."""
from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, Awaitable, Callable, Dict, List, Optional
from urllib.parse import parse_qsl

import pytest

from dfly.access import Login, SourceFacts
from dfly.clock import ManualClock
from dfly.digest import Digest
from dfly.errors import DflyError, ServerError, UsageError
from dfly.service.control import Control
from dfly.service.download import Started
from dfly.service.metrics import Metrics
from dfly.service.wish import wish_of
from dfly.task import Geometry, TaskSpec

URL = "http://files.example/a"


def test_a_wish_says_all_that_was_asked() -> None:
    wish = wish_of({"url": URL, "tag": "t", "filters": ["sig"],
                    "access": {"headers": [["X-A", "1"]]},
                    "digest": "sha256:" + "ab" * 32, "check": "md5:" + "00" * 16,
                    "no_source": True, "limit_bps": 5})
    assert (wish.spec.url, wish.spec.tag, wish.spec.filters) == (URL, "t", ("sig",))
    assert [digest.algorithm for digest in wish.checks] == ["sha256", "md5"]
    assert wish.access.headers == (("X-A", "1"),) and wish.no_source
    assert wish.limit_bps == 5


def test_a_wish_for_a_shared_content_is_its_digest_and_asks_no_source() -> None:
    digest = "sha256:" + "ab" * 32
    wish = wish_of({"url": f"dfly://sha256/{'ab' * 32}/name", "tag": "t", "filters": ["x"],
                    "access": {"headers": [["X-A", "1"]], "manners": {"read_timeout_s": 7.0}}})
    assert wish.no_source and wish.spec == TaskSpec(f"dfly://sha256/{'ab' * 32}",
                                                    digest=Digest.parse(digest))
    assert [str(check) for check in wish.checks] == [digest]
    assert not wish.access.headers and wish.access.manners.read_timeout_s == 7.0
    named = wish_of({"url": URL, "digest": digest})
    assert named.spec.task_id == wish.spec.task_id and not named.no_source


@pytest.mark.parametrize("asked, says", [
    ({"digest": "sha256:" + "cd" * 32}, "contradicts"), ({"mirrors": [URL]}, "mirrors"),
    ({"span": [0, 5]}, "a part"), ({"alone": True}, "only the swarm")])
def test_what_makes_no_sense_for_a_shared_content(asked: Dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        wish_of({"url": f"dfly://sha256/{'ab' * 32}", **asked})
    with pytest.raises(UsageError):
        wish_of({"url": URL, "mirrors": [f"dfly://sha256/{'ab' * 32}"]})


def test_a_login_in_a_url_is_taken_out_of_it() -> None:
    wish = wish_of({"url": "http://us%40er:p%3Aw@files.example/a",
                    "mirrors": ["https://m:n@mirror.example:81/b"]})
    assert (wish.spec.url, wish.spec.mirrors) == (URL, ("https://mirror.example:81/b",))
    assert set(wish.access.logins) == {Login("http://files.example:80", "us@er", "p:w"),
                                       Login("https://mirror.example:81", "m", "n")}


@pytest.mark.parametrize("asked", [
    {}, {"url": "ftp://files.example/a"}, {"url": "http:///a"},
    {"url": URL, "access": {"manners": {"tries": -1}}}, {"url": URL, "limit_bps": -1},
    {"url": URL, "access": {"manners": {"tries": "x"}}}, {"url": URL, "limit_bps": "x"},
    {"url": URL, "access": {"headers": [["a"]]}}, {"url": URL, "access": {"headers": 3}},
    {"url": URL, "digest": "sha256:x"},
    {"url": URL, "access": {"headers": [["Range", "bytes=0-3"]]}},
    {"url": URL, "access": {"headers": [["Connection", "close"]]}},
    {"url": URL, "access": {"headers": [["a b", "x"]]}},
    {"url": URL, "access": {"headers": [["X", "1\r\nHost: evil"]]}},
    {"url": URL, "access": {"headers": [["Accept-Encoding", "gzip"]]}}, {"url": URL, "filters": 7},
])
def test_what_can_not_be_is_refused_in_one_line(asked: Dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        wish_of(asked)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------ its answers
class Host:
    """A daemon with one download, which is where the test says it is."""

    def __init__(self, error: Optional[DflyError] = None, done: bool = True) -> None:
        self.clock, self.metrics = ManualClock(), Metrics()
        self.port, self.started_at = 1, 0.0
        self.settings = SimpleNamespace(name="here", store="/store")
        self.managers = SimpleNamespace(links=[SimpleNamespace(name="m:1", is_open=True,
                                                               refused=None)])
        future: "asyncio.Future[None]" = asyncio.get_running_loop().create_future()
        if error is not None:
            future.set_exception(error)
        elif done:
            future.set_result(None)
        file = SimpleNamespace(task_id="ab" * 32, geometry=Geometry(5, 1 << 18), path="/p",
                               version="v1|5|||",
                               hold=lambda: None, release=lambda: None, whole=lambda: True)
        received = SimpleNamespace(pieces=0, sizes=lambda geometry, before: {"peers": 5})
        self.download = SimpleNamespace(done=future, file=file, received=received, waiters=0,
                                        led_by="m:1", warning="", lost_p2p=False)

    @property
    def downloads(self) -> List[Any]:
        raise AssertionError("looked at every download")

    async def start(self, wish: Any) -> Any:
        return Started(self.download, SourceFacts())

    async def check(self, download: Any, digests: Any) -> None:
        """Fine."""

    def touch(self) -> None:
        """Noted."""


def request(method: str, target: str, body: bytes = b"") -> Any:
    async def read_body(limit: int) -> bytes:
        return body

    path, _, query = target.partition("?")
    return SimpleNamespace(method=method, path=path, query=dict(parse_qsl(query)),
                           read_body=read_body)


async def parts_of(host: Any, **asked: Any) -> List[List[str]]:
    """Kinds of the events of a POST /v1/get, as they come together."""
    answer: Any = await Control(host).answer(
        request("POST", "/v1/get", json.dumps({"url": URL, **asked}).encode()))
    return [[json.loads(line)["event"] for line in part.splitlines()]
            async for part in answer.body]


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scene())  # type: ignore[arg-type]


def test_a_small_file_that_came_with_the_answer_is_told_at_once() -> None:
    async def scene() -> None:
        assert await parts_of(Host()) == [["accepted", "done"]]
        assert await parts_of(Host(), check="md5:" + "00" * 16) == [["accepted"], ["done"]]
        assert await parts_of(Host(error=ServerError("404"))) == [["accepted"], ["failed"]]
    play(scene)


def test_one_that_is_to_come_is_accepted_first() -> None:
    async def scene() -> None:
        host = Host(done=False)
        asyncio.get_running_loop().call_later(0.01, host.download.done.set_result, None)
        assert await parts_of(host) == [["accepted"], ["progress"], ["done"]]
    play(scene)


def test_a_brief_status_looks_at_no_download() -> None:
    async def scene() -> None:
        host: Any = Host()
        answer: Any = await Control(host).answer(request("GET", "/v1/status?brief=1"))
        told = json.loads(answer.body)
        assert told["managers"] == [{"address": "m:1", "linked": True, "why": ""}]
        assert "downloads" not in told
    play(scene)
