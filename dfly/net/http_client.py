"""An HTTP/1.1 client: one request at a time on pooled connections, bodies through the movers.

It does what is asked and no more: no redirects, no retries (but one, silently, when a connection
out of the pool turns out to have died while it rested), no cookies. What an answer means is its
caller's, and so is the way to the server (route.py). A response owns its connection until its body
is done or it is released.
"""
from __future__ import annotations

import asyncio
import string
from dataclasses import dataclass, replace
from typing import Dict, Iterable, List, Optional, Sequence, Tuple
from urllib.parse import SplitResult, quote

from dfly import __version__
from dfly.access import TlsSettings
from dfly.errors import NetworkError, ProtocolError
from dfly.names import split_url
from dfly.net.limiter import Limiter
from dfly.net.mover import Movers
from dfly.net.route import DIRECT, Proxy, Route, ascii_host, connected
from dfly.net.stream import READ_MAX, Stream, TimedOut
from dfly.net.transfer import IDLE_S, Sink, feed_body
from dfly.wire.bodies import Body, CloseBody, body_of
from dfly.wire.http11 import Headers, HeadParser, HttpError, RequestHead, ResponseHead, keep_alive

USER_AGENT = f"dfly/{__version__}"
INTERIM_MAX = 8  # 1xx answers before the real one; more is mischief
_REPEATABLE = ("GET", "HEAD", "OPTIONS")  # a server may see them twice without harm
_WITH_BODY = ("POST", "PUT", "PATCH")     # these say their length even if it is 0


@dataclass(frozen=True)
class _Key:
    """Requests with equal keys may share a connection."""

    scheme: str
    host: str
    port: int
    tls: Optional[TlsSettings]
    unix_path: Optional[str]
    proxy: Optional[Proxy]
    family: int


class _Died(Exception):
    """A pooled connection ended before any byte of an answer."""


class HttpClient:
    """`per_host` idle connections are kept for each origin, each for `idle_s` at most."""

    def __init__(self, movers: Movers, *, per_host: int = 8, idle_s: float = 30.0) -> None:
        self.movers = movers
        self._per_host = per_host
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._idle: Dict[_Key, List[Tuple[float, Stream]]] = {}  # since when, oldest first
        self._sweeper: Optional[asyncio.TimerHandle] = None
        self._is_closed = False

    async def request(self, method: str, url: str, headers: Iterable[Tuple[str, str]] = (),
                      body: bytes = b"", *, timeout_s: float = 30.0,
                      route: Route = DIRECT) -> ClientResponse:
        """Send a request; the response when its head has come. `timeout_s` bounds the time until
        the head is whole, and connecting, if the route doesn't say otherwise. Whatever the
        status, it is no error here (but a refused tunnel is)."""
        parts = split_url(url)
        if route.connect_timeout_s is None:
            route = replace(route, connect_timeout_s=timeout_s)
        key = _key_of(parts, route)
        head = _head_of(method, parts, headers, body)
        if key.scheme == "proxy":
            head.target = f"http://{_authority_of(parts)}{head.target}"
            if route.proxy_login:
                head.headers.set("Proxy-Authorization", route.proxy_login)
        call = _Call(head, head.encode() + body, url, timeout_s)
        if method in _REPEATABLE and not body:
            stream = self._from_pool(key)
            if stream is not None:
                try:
                    return await self._exchange(call, key, stream, True)
                except _Died:
                    pass  # its rest was too long for the server: once more, on a fresh one
        assert parts.hostname is not None
        stream = await connected(route, parts.scheme, parts.hostname, _port_of(parts))
        return await self._exchange(call, key, stream, False)

    async def close(self) -> None:
        """Close what is idle; responses under way close theirs when they end."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for streams in self._idle.values():
            for _, stream in streams:
                stream.close()
        self._idle.clear()

    async def _exchange(self, call: _Call, key: _Key, stream: Stream,
                        is_pooled: bool) -> ClientResponse:
        parser = HeadParser("response")
        try:
            try:
                await stream.write(call.data, call.timeout_s)
                head = await stream.read_head(parser, call.timeout_s)
            except TimedOut as error:
                raise TimedOut(f"{stream.name}: no answer in {call.timeout_s:g} s",
                               error.hint) from None
            except NetworkError:
                if is_pooled and not parser.started:
                    raise _Died from None
                raise
            if head is None:
                if is_pooled:
                    raise _Died
                raise NetworkError(f"{stream.name}: closed the connection without an answer")
            head = await self._past_interim(head, stream, call.timeout_s)
            return ClientResponse(self, key, stream, call, head)
        except HttpError as error:
            stream.close()
            raise HttpError(f"{stream.name}: {error.what}", error.status, error.hint) from None
        except BaseException:
            stream.close()
            raise

    async def _past_interim(self, head: object, stream: Stream, timeout_s: float) -> ResponseHead:
        """The final head, past `100 Continue` and its like."""
        for _ in range(INTERIM_MAX):
            assert isinstance(head, ResponseHead)
            if head.status >= 200 or head.status == 101:
                return head
            head = await stream.read_head(HeadParser("response"), timeout_s)
            if head is None:
                raise NetworkError(f"{stream.name}: closed the connection without an answer")
        raise ProtocolError(f"{stream.name}: more than {INTERIM_MAX} interim answers")

    # -------------------------------------------------------------------------- the pool
    def _from_pool(self, key: _Key) -> Optional[Stream]:
        """The idle connection used last, if one is still alive."""
        streams = self._idle.get(key)
        while streams:
            _, stream = streams.pop()
            if not streams:
                del self._idle[key]
            heard = stream.hung_up_now()
            if heard is None or (heard is False and stream.secure):  # TLS sends tickets unasked
                return stream
            stream.close()
        return None

    def give_back(self, key: _Key, stream: Stream) -> None:
        """A connection between two requests."""
        if self._is_closed or stream.closed:
            stream.close()
            return
        streams = self._idle.setdefault(key, [])
        streams.append((self._loop.time(), stream))
        if len(streams) > self._per_host:
            streams.pop(0)[1].close()
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._idle_s, self._sweep)

    def _sweep(self) -> None:
        """Close what rested too long; come back when the next one will have."""
        self._sweeper = None
        bound = self._loop.time() - self._idle_s
        for key, streams in list(self._idle.items()):
            while streams and streams[0][0] <= bound:
                streams.pop(0)[1].close()
            if not streams:
                del self._idle[key]
        if self._idle:
            oldest = min(streams[0][0] for streams in self._idle.values())
            self._sweeper = self._loop.call_at(oldest + self._idle_s, self._sweep)


@dataclass(frozen=True)
class _Call:
    head: RequestHead
    data: bytes       # the whole request
    url: str
    timeout_s: float


class ClientResponse:
    """The answer to one request. Read it with `read` or `receive`, or `release` it unread; each
    failure closes the connection, and so does a release before the body's end."""

    def __init__(self, client: HttpClient, key: _Key, stream: Stream, call: _Call,
                 head: ResponseHead) -> None:
        self.head = head
        self.status = head.status
        self.headers = head.headers
        self.url = call.url
        self.remote = stream.remote
        self.body: Body = body_of(head, call.head.method)
        self._client = client
        self._key = key
        self._stream: Optional[Stream] = stream
        self._timeout_s = call.timeout_s
        self._may_stay = (keep_alive(call.head, head) and head.status != 101
                          and not isinstance(self.body, CloseBody))

    async def read(self, limit: int) -> bytes:
        """The whole content; ProtocolError if it is more than `limit` bytes."""
        stream = self._own()
        content = bytearray()
        try:
            while not self.body.done:
                if (self.body.remaining or 0) + len(content) > limit or len(content) > limit:
                    raise ProtocolError(f"{stream.name}: an answer of more than {limit} bytes "
                                        "where a short one was due")
                data = await stream.read_some(READ_MAX, self._timeout_s)
                if not data:
                    self._at_end(stream, len(content))
                    break
                parts, used = feed_body(self.body, memoryview(data), stream.name)
                for part in parts:
                    content += part
                stream.buffer[:0] = data[used:]
            if len(content) > limit:
                raise ProtocolError(f"{stream.name}: an answer of more than {limit} bytes "
                                    "where a short one was due")
        except BaseException:
            self._drop()
            raise
        self.release()
        return bytes(content)

    def _at_end(self, stream: Stream, size: int) -> None:
        ended = f"{stream.name}: the connection ended after {size} bytes of the answer"
        try:
            self.body.eof()
        except ProtocolError as error:
            raise NetworkError(ended, error.what) from None
        if stream.cut:
            raise NetworkError(ended, "TLS was cut off: perhaps not all of it came")

    async def receive(self, sink: Sink, limits: Sequence[Limiter] = (),
                      idle_timeout_s: float = IDLE_S) -> int:
        """The content into `sink`, by a mover; how many bytes it was. When this ends, however it
        does, no thread uses the sink any more."""
        stream = self._own()
        try:
            job = self._client.movers.receive(stream, self.body, sink, limits, idle_timeout_s)
            size = await job.wait()
        except BaseException:
            self._drop()
            raise
        self.release()
        return size

    def release(self) -> None:
        """Done with it: the connection goes back to the pool if it can. May be called again."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        if self.body.done and self._may_stay and not stream.buffer and not stream.detached:
            self._client.give_back(self._key, stream)
        else:
            stream.close()

    def take_stream(self) -> Stream:
        """The connection itself, after a 101; from now on the caller's."""
        stream = self._own()
        self._stream = None
        return stream

    def _own(self) -> Stream:
        if self._stream is None:
            raise NetworkError(f"{self.url}: the response was released before")
        return self._stream

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


def _key_of(parts: SplitResult, route: Route) -> _Key:
    assert parts.hostname is not None
    if parts.scheme == "https":
        return _Key("https", parts.hostname, _port_of(parts), route.tls, route.unix_path,
                    route.proxy, route.family)
    if route.proxy is not None:    # one connection to it serves for all servers
        return _Key("proxy", route.proxy.host, route.proxy.port, None, None, route.proxy,
                    route.family)
    return _Key("http", parts.hostname, _port_of(parts), None, route.unix_path, None, route.family)


def _port_of(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _authority_of(parts: SplitResult) -> str:
    """Host and port as they stand in a Host header."""
    assert parts.hostname is not None
    host = ascii_host(parts.hostname)
    host = f"[{host}]" if ":" in host else host
    default = 443 if parts.scheme == "https" else 80
    return host + (f":{parts.port}" if parts.port not in (None, default) else "")


def target_of(parts: SplitResult) -> str:
    """What of a URL stands in the request line."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return quote(target, safe=string.punctuation)


def _head_of(method: str, parts: SplitResult, given: Iterable[Tuple[str, str]],
             body: bytes) -> RequestHead:
    headers = Headers(given)
    for name, value in (("Host", _authority_of(parts)), ("User-Agent", USER_AGENT),
                        ("Accept", "*/*"), ("Accept-Encoding", "identity")):
        if name not in headers:
            headers.add(name, value)
    headers.remove("Transfer-Encoding")  # how the body is framed is said here and nowhere else
    headers.remove("Content-Length")
    if body or method in _WITH_BODY:
        headers.add("Content-Length", str(len(body)))
    return RequestHead(method, target_of(parts), headers)
