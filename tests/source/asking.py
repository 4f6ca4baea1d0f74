"""What tests of sources share: an HTTP client on a loop of its own, sinks, ways to ask."""
from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator, Awaitable, Callable, Optional, Type

import pytest

from dfly.errors import DflyError
from dfly.net.http_client import HttpClient
from dfly.net.mover import Movers
from dfly.source import SourceBody, SourceRequest
from dfly.source.http import HttpSource

GUARD_S = 20.0   # a test that hangs ends here


@asynccontextmanager
async def client() -> AsyncIterator[HttpClient]:
    movers = Movers(threads=1)
    movers.start(asyncio.get_running_loop())
    http = HttpClient(movers)
    try:
        yield http
    finally:
        await http.close()
        movers.stop()


class Taken:
    """A sink that keeps what it's fed."""

    def __init__(self) -> None:
        self.content = b""
        self.finished = False

    def feed(self, view: memoryview) -> None:
        self.content += bytes(view)

    def finish(self) -> None:
        self.finished = True


def with_source(work: Callable[[HttpSource], Awaitable[Any]]) -> Any:
    """What `work` makes of one source."""
    async def scenario() -> Any:
        async with client() as http:
            return await work(HttpSource(http))
    return asyncio.run(asyncio.wait_for(scenario(), GUARD_S))


def ask(request: SourceRequest, then: Optional[Callable[[SourceBody], Awaitable[Any]]] = None,
        **how: Any) -> Any:
    """Open `request` and return what `then` makes of the body (default: the body, closed)."""
    async def work() -> Any:
        async with client() as http:
            body = await HttpSource(http, **how).open(request)
            try:
                return await then(body) if then is not None else body
            finally:
                await body.close()
    return asyncio.run(asyncio.wait_for(work(), GUARD_S))


async def taken(body: SourceBody) -> bytes:
    sink = Taken()
    count = await body.receive(sink)
    assert sink.finished and count == len(sink.content)
    return sink.content


def refused(kind: Type[DflyError], request: SourceRequest, **how: Any) -> DflyError:
    with pytest.raises(kind) as caught:
        ask(request, **how)
    return caught.value
