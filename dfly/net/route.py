"""How a connection to a server is made: straight, over a Unix socket, or through a proxy.

A plain request through a proxy is simply sent to the proxy, which is the HTTP client's matter; for
TLS the proxy is asked for a tunnel (CONNECT, RFC 9110 9.3.6), and from then on the server behind
it is at the other end. A proxy is as little believed as a server: its answer is bounded in time
and size, and errors that it makes bear its name. Which proxy to use is decided elsewhere.
"""
from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Optional, Tuple

from dfly.access import TlsSettings
from dfly.errors import AuthError, NetworkError, ProtocolError, TlsError, printable
from dfly.names import join_address
from dfly.net.certificate import certificate_of
from dfly.net.stream import Stream, TimedOut
from dfly.net.tls import SHOWN_BETTER, Distrusted, explained
from dfly.wire.http11 import REASONS, Headers, HeadParser, HttpError, RequestHead, ResponseHead

CONNECT_S = 30.0   # for a connection, unless told otherwise
LOOK_S = 3.0       # to fetch a refused certificate once more, for the message about it


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy and who uses it: connections of two users are never shared."""

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """For messages."""
        return f"proxy {join_address(self.host, self.port)}"


@dataclass(frozen=True)
class Route:
    """The way to a server. `connect_timeout_s` None = as long as for the answer."""

    tls: TlsSettings = TlsSettings()
    proxy: Optional[Proxy] = None
    proxy_login: str = field(default="", repr=False)   # Proxy-Authorization, "" = none
    unix_path: Optional[str] = None
    family: int = 0                                    # 4, 6: that IP version only
    connect_timeout_s: Optional[float] = None


DIRECT = Route()


class ProxyDenied(AuthError):
    """A proxy wants a login, or another one, before it makes a tunnel."""

    hint = "give its user and password in the proxy's URL: http://USER:PASSWORD@HOST:PORT"

    def __init__(self, what: str, challenges: Tuple[str, ...]) -> None:
        super().__init__(what)
        self.challenges = challenges


async def connected(route: Route, scheme: str, host: str, port: int) -> Stream:
    """A connection over which requests to the server go. NetworkError, TlsError, AuthError."""
    timeout_s = CONNECT_S if route.connect_timeout_s is None else route.connect_timeout_s
    if route.unix_path is not None:
        return await Stream.connect_unix(route.unix_path, timeout_s)
    deadline = asyncio.get_running_loop().time() + timeout_s
    tls = route.tls if scheme == "https" else None
    try:
        return await _open(route, tls, host, port, deadline)
    except Distrusted as error:
        if error.code not in SHOWN_BETTER:
            raise
        raise await _said_better(error, route, host, port) from None


async def _open(route: Route, tls: Optional[TlsSettings], host: str, port: int,
                deadline: float) -> Stream:
    now = asyncio.get_running_loop().time
    if route.proxy is None:
        return await Stream.connect(host, port, tls=tls, timeout_s=deadline - now(),
                                    family=route.family)
    proxy = route.proxy
    try:
        stream = await Stream.connect(proxy.host, proxy.port, timeout_s=deadline - now(),
                                      family=route.family)
    except NetworkError as error:
        raise type(error)(f"proxy {error.what}", error.hint) from None
    stream.label = proxy.name
    if tls is None:
        return stream
    try:
        await _tunnel(stream, route, host, port, deadline - now())
    except BaseException:
        stream.close()
        raise
    stream.label = f"{join_address(host, port)} (through {proxy.name})"
    await stream.start_tls(tls, host, max(0.0, deadline - now()))
    return stream


async def _tunnel(stream: Stream, route: Route, host: str, port: int, timeout_s: float) -> None:
    """Ask the proxy for a tunnel; when this returns, the server is at the other end."""
    place = join_address(ascii_host(host), port)
    headers = Headers([("Host", place)])
    if route.proxy_login:
        headers.add("Proxy-Authorization", route.proxy_login)
    try:
        await stream.write(RequestHead("CONNECT", place, headers).encode(), timeout_s)
        head = await stream.read_head(HeadParser("response"), timeout_s)
    except TimedOut as error:
        raise TimedOut(f"{stream.name}: no tunnel to {place} in {timeout_s:.0f} s",
                       error.hint) from None
    except HttpError as error:
        raise ProtocolError(f"{stream.name}: {error.what}", "is an HTTP proxy there?") from None
    if head is None:
        raise NetworkError(f"{stream.name}: closed the connection without an answer")
    assert isinstance(head, ResponseHead)
    reason = printable(head.reason[:80]) or REASONS.get(head.status, "")
    what = f"{stream.name}: no tunnel to {place}: {head.status} {reason}".rstrip()
    if head.status == 407:
        raise ProxyDenied(what, tuple(head.headers.all("Proxy-Authenticate")))
    if not 200 <= head.status < 300:
        raise NetworkError(what, "does it forbid the host or the port? --no-proxy goes straight")
    if stream.buffer:    # a TLS server never speaks first
        raise ProtocolError(f"{stream.name}: sent something of its own into the tunnel",
                            "it meddles with the traffic, or is no proxy")


def ascii_host(host: str) -> str:
    """A host name as it goes over the wire; NetworkError if it can't be one."""
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        raise NetworkError(f"{host}: not a host name") from None


async def _said_better(error: Distrusted, route: Route, host: str, port: int) -> Distrusted:
    """`error` with what the refused certificate tells. `ssl` doesn't show one that it doesn't
    believe, so that is fetched once more, believing anything; no request is sent."""
    blind = TlsSettings(verify=False, minimum=route.tls.minimum, ciphers=route.tls.ciphers)
    deadline = asyncio.get_running_loop().time() + LOOK_S
    try:
        stream = await _open(route, blind, host, port, deadline)
        shown = stream.shown_certificate()
        stream.close()
        return explained(error, certificate_of(shown))
    except (NetworkError, TlsError, ProtocolError, AuthError):
        return error    # it has been said already what is wrong
