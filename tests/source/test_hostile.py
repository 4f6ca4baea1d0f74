"""A source that answers anything at all: an error for people, or a body; no crash, no growth."""
from __future__ import annotations

import contextlib
import random
from typing import Iterator, List

import pytest

from dfly.access import Access, Login, Manners, Proxies, TlsSettings, facts_of
from dfly.errors import DflyError
from dfly.names import origin_of
from dfly.net.tls import client_context
from dfly.source import SourceRequest
from dfly.source.http import HttpSource
from tests.source.asking import taken, with_source
from tests.support import SourceServer

SEEDS = range(4)
ANSWERS = 150          # of each seed
STATUSES = (200, 200, 206, 301, 302, 304, 401, 401, 407, 416, 503, 100, 204, 600, 0)
NAMES = ("WWW-Authenticate", "Proxy-Authenticate", "Authentication-Info", "Set-Cookie", "Location",
         "Content-Disposition", "Content-Range", "ETag", "Last-Modified", "Retry-After", "Date",
         "Content-Length", "Content-Encoding", "Transfer-Encoding", "Connection")
PARTS = ('Digest realm="a\\"b"', "nonce=n", 'nonce=""', "stale=true", "qop=auth", "qop=auth-int,x",
         "algorithm=SHA-256-sess", "algorithm=SHA-1", "userhash=true", "Basic", 'Basic realm="x"',
         "nextnonce=z", "a=b", "Max-Age=1e9", "Max-Age=" + "9" * 400, "Max-Age=-1", "Domain=.1",
         "Path=/", "Secure",
         "Expires=Thu, 01 Jan 1970 00:00:00 GMT", "Expires=99999999999999", "Version=2", "Port",
         "/f", "//", "//h:x/", "https://127.0.0.1:1/", "?", "#", "attachment; filename=\"", "'",
         "filename*=UTF-8''%", "filename*=UTF-16''%ff", "bytes 0-9/10", "bytes */0", "bytes",
         "10", "0", "-1", "99999999999999999999", "chunked", "gzip", "close", '"x"', "W/", "\xff",
         "\t", ";", ",", "=", '"', "\\", "%", "x" * 3000)


def answer(rng: random.Random) -> bytes:
    lines: List[str] = [f"HTTP/1.1 {rng.choice(STATUSES):03} {rng.choice(('OK', '', chr(255)))}"]
    for _ in range(rng.randrange(8)):
        value = rng.choice((", ", "; ", "", " ")).join(
            rng.choice(PARTS) for _ in range(rng.randint(1, 6)))
        lines.append(f"{rng.choice(NAMES)}: {value}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    if rng.random() < 0.1:
        place = rng.randrange(len(head))
        head = head[:place] + bytes([rng.randrange(256)]) + head[place + 1:]
    return head + b"0123456789"


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer() as source:
        yield source


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_answered_is_an_answer_or_an_error(server: SourceServer, seed: int) -> None:
    rng = random.Random(seed)
    url = server.add("/f", b"0123456789")
    access = Access(logins=(Login(origin_of(url), "ann", "secret"),), wants_cookies=True)
    ends = set()

    async def work(source: HttpSource) -> None:
        for _ in range(ANSWERS):
            server.change("/f", raw=answer(rng))
            try:
                body = await source.open(SourceRequest(url, access, stop=rng.choice((None, 10))))
                facts = body.facts
                assert facts_of(facts.to_json()) == facts
                await taken(body)
                ends.add("body")
            except DflyError as error:
                assert "\n" not in str(error) and "secret" not in str(error)
                ends.add(type(error).__name__)
    with_source(work)
    assert {"body", "AuthError", "ProtocolError", "SourceRefused"} <= ends, ends


@pytest.mark.parametrize("odd", ["\ud800", "\udcff", "a\r\nX: y", "\x00", "é", "/" * 5000])
def test_odd_text_of_a_caller_is_an_error_or_harmless(server: SourceServer, odd: str) -> None:
    """It may come from another host: nothing of it was checked but for its length."""
    challenges = [("WWW-Authenticate", 'Digest realm="r", nonce="n"')]
    url = server.add("/f", b"0123456789", guard=lambda exchange: (
        0 if exchange.header("authorization") or exchange.target == "/f" else 401, challenges))
    origin = origin_of(url)
    line = "127.0.0.1\tFALSE\t/\tFALSE\t0\tname\t"
    for access in (
            Access(headers=(("X", odd),)), Access(headers=((odd, "x"),)), Access(origins=(odd,)),
            Access(logins=(Login(origin, odd, odd),)), Access(cookies=(line + odd,)),
            Access(logins=(Login(origin, odd, odd),), preempt=True),
            Access(cookies=(odd + line,)), Access(proxies=Proxies((("http", odd),))),
            Access(proxies=Proxies((("http", f"http://{odd}:1"),))),
            Access(proxies=Proxies((("http", f"http://{odd}:x@127.0.0.1:1"),), odd)),
            Access(proxies=Proxies((), odd)), Access(manners=Manners(1e9, 1e9))):
        for asked in (url, url + "?login"):
            async def work(source: HttpSource, request: SourceRequest) -> None:
                body = await source.open(request)
                assert await taken(body) == b"0123456789"
            request = SourceRequest(asked, access)
            with contextlib.suppress(DflyError):
                with_source(lambda source, request=request: work(source, request))
    for seen in server.log:
        assert "x" not in seen.headers or seen.headers["x"] == odd.encode(
            "utf-8", "replace").decode("latin-1") or odd == "é"


@pytest.mark.parametrize("settings", [
    TlsSettings(ca="\ud800"), TlsSettings(crl="\x00"), TlsSettings(cert="\udcff", key="\x00"),
    TlsSettings(minimum="\ud800"), TlsSettings(ciphers="\ud800"), TlsSettings(ciphers="\x00"),
    TlsSettings(ca="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"),
    TlsSettings(crl="-----BEGIN X509 CRL-----\n\ud800\n-----END X509 CRL-----")])
def test_odd_settings_of_tls_are_errors(settings: TlsSettings) -> None:
    with pytest.raises(DflyError):
        client_context(settings)
