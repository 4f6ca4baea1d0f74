"""Proxies: which is chosen, how it is asked, what its faults are called."""
from __future__ import annotations

import asyncio
import base64
import hashlib
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List, Type
from urllib.parse import urlsplit

import pytest

from dfly.access import Access, Login, Manners, Proxies, TlsSettings
from dfly.errors import AuthError, DflyError, NetworkError, ProtocolError, ServerError, UsageError
from dfly.names import origin_of
from dfly.source import SourceRequest
from dfly.source.http import HttpSource
from dfly.source.proxies import from_environment, proxy_for
from tests.net.loopback import make_certificate, server_tls
from tests.source.asking import ask, client, refused, taken, with_source
from tests.source.proxyserver import ProxyServer
from tests.support import SourceServer

CONTENT = bytes(range(256)) * 16
LOGIN = "Basic " + base64.b64encode("ann:s@crät".encode()).decode()
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUEST_METHOD")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer() as source:
        yield source


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("certificates for these tests need the openssl program")
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(certificate: Path) -> Iterator[SourceServer]:
    with SourceServer(tls=server_tls(certificate)) as source:
        yield source


@pytest.fixture
def trust(certificate: Path) -> TlsSettings:
    return TlsSettings(ca=certificate.read_text())


def through(proxy: ProxyServer, login: str = "", **more: Any) -> Access:
    return Access(proxies=Proxies((("http", proxy.url(login)), ("https", proxy.url(login)))),
                  **more)


# ------------------------------------------------------------------------------- the choice
@pytest.mark.parametrize("environment,url,proxy", [
    ({"http_proxy": "http://p:1"}, "http://h/", ("p", 1)),
    ({"http_proxy": "http://p:1"}, "https://h/", None),
    ({"https_proxy": "p:1"}, "https://h/", ("p", 1)),
    ({"HTTPS_PROXY": "http://p"}, "https://h/", ("p", 80)),
    ({"all_proxy": "http://p:1"}, "http://h/", ("p", 1)),
    ({"ALL_PROXY": "http://[::1]:9/"}, "https://h/", ("::1", 9)),
    ({"http_proxy": "http://p:1", "HTTP_PROXY": "http://q:2"}, "http://h/", ("p", 1)),
    ({"http_proxy": "", "HTTP_PROXY": "http://q:2", "all_proxy": "http://r:3"}, "http://h/", None),
    ({"HTTP_PROXY": "http://q:2"}, "http://h/", ("q", 2)),
    ({"HTTP_PROXY": "http://q:2", "REQUEST_METHOD": "GET"}, "http://h/", None),
    ({"http_proxy": "http://p:1"}, "http://127.0.0.1/", ("p", 1)),
    ({"http_proxy": "http://p:1", "NO_PROXY": "h"}, "http://h/", None),
    ({"http_proxy": "http://p:1", "no_proxy": "", "NO_PROXY": "h"}, "http://h/", ("p", 1)),
])
def test_the_environment_names_the_proxy(environment: Dict[str, str], url: str,
                                         proxy: Any) -> None:
    found = proxy_for(urlsplit(url), None, environment)
    assert (found and (found.host, found.port)) == proxy


@pytest.mark.parametrize("no_proxy,straight,not_straight", [
    ("*", ["h", "1.2.3.4"], []),
    ("example.com", ["example.com", "a.b.example.com", "EXAMPLE.com", "example.com:81"],
     ["badexample.com", "example.com.evil"]),
    (".example.com, other", ["example.com", "x.example.com", "other"], ["xexample.com"]),
    ("*.example.com", ["x.example.com"], ["xexample.com"]),
    ("h:81 , 127.0.0.1", ["h:81", "127.0.0.1:5"], ["h", "h:82", "127.0.0.11"]),
    ("10.0.0.0/8,fd00::/8", ["10.1.2.3", "[fd00::1]"], ["11.1.2.3", "[fe80::1]", "ten.example"]),
    ("::1,[::2],[::3]:81", ["[::1]", "[::1]:9", "[::2]:9", "[::3]:81"], ["[::3]", "[::4]"]),
    ("1/2/3,:,[,.,/,**", [], ["h", "1.2.3.4"]),
    ("h:80", ["h", "h:80"], ["h:81"]),
])
def test_no_proxy_is_as_wget_and_curl_have_it(no_proxy: str, straight: List[str],
                                              not_straight: List[str]) -> None:
    wanted = Proxies((("http", "http://p:1"),), no_proxy)
    assert [proxy_for(urlsplit(f"http://{host}/"), wanted) for host in straight] == [
        None for _ in straight]
    assert all(proxy_for(urlsplit(f"http://{host}/"), wanted) for host in not_straight)


@pytest.mark.parametrize("url,what", [
    ("socks5://p:1", "over socks5"), ("https://u:hush@p:1", "over https"), ("http://", "not a"),
    ("http://p:99999", "not a"), ("http://u:hush@:1", "not a"), ("http://[::1", "not a"),
    ("p q", "not a")])
def test_a_proxy_that_cant_be_used_is_said(url: str, what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        proxy_for(urlsplit("http://h/"), Proxies((("http", url),)))
    assert "hush" not in str(caught.value)


def test_nobody_is_asked_of_proxies_by_who_says_none() -> None:
    assert from_environment({}) == Proxies()
    assert proxy_for(urlsplit("http://h/"), Proxies(), {"http_proxy": "http://p:1"}) is None


# ------------------------------------------------------------------------------------ plain
def test_a_plain_request_goes_to_the_proxy_whole(server: SourceServer,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    with ProxyServer() as proxy:
        url = server.add("/f", CONTENT)
        assert ask(SourceRequest(url + "?a=b", through(proxy), start=5, stop=9), taken
                   ) == CONTENT[5:9]
        assert proxy.log == [f"GET {url}?a=b"]
        assert proxy.headers[0]["host"] == f"{server.host}:{server.port}"
        assert "proxy-authorization" not in proxy.headers[0]
        monkeypatch.setenv("http_proxy", proxy.url())
        assert ask(SourceRequest(url), taken) == CONTENT and len(proxy.log) == 2
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert ask(SourceRequest(url), taken) == CONTENT and len(proxy.log) == 2


def test_connections_to_a_proxy_are_kept_and_shared_by_sources(server: SourceServer) -> None:
    with ProxyServer() as proxy, SourceServer() as second:
        urls = [server.add("/f", CONTENT), second.add("/f", CONTENT)]

        async def work(source: HttpSource) -> None:
            for url in urls * 2:
                body = await source.open(SourceRequest(url, through(proxy)))
                assert await taken(body) == CONTENT
        with_source(work)
        assert len(proxy.log) == 4 and proxy.connections == 1
        assert [line.partition("//")[2] for line in proxy.log] == [
            url.partition("//")[2] for url in urls * 2]


def test_the_hosts_header_of_a_caller_leads_nobody_astray(server: SourceServer) -> None:
    with ProxyServer() as proxy:
        url = server.add("/f", CONTENT)
        ask(SourceRequest(url, through(proxy, headers=(("Host", "vhost"),))))
        assert proxy.log == [f"GET {url}"] and server.log[0].header("host") == "vhost"


def test_an_error_status_through_a_proxy_names_it(server: SourceServer) -> None:
    with ProxyServer() as proxy:
        error = refused(ServerError, SourceRequest(server.add("/f", status=502), through(proxy)))
        assert error.what.endswith(f"(through proxy {proxy.place})")


# ----------------------------------------------------------------------------------- tunnels
def test_tls_goes_through_a_tunnel_that_is_kept(secure: SourceServer, trust: TlsSettings) -> None:
    url = secure.add("/f", CONTENT)
    with ProxyServer(login=LOGIN) as proxy:
        access = through(proxy, "ann:s%40cr%C3%A4t", tls=trust)

        async def work(source: HttpSource) -> None:
            for _ in range(3):
                assert await taken(await source.open(SourceRequest(url, access))) == CONTENT
        with_source(work)
        assert proxy.log == [f"CONNECT 127.0.0.1:{secure.port}"]
        assert proxy.headers[0]["host"] == f"127.0.0.1:{secure.port}"
        assert "proxy-authorization" not in secure.log[0].headers


def test_a_tunnel_of_one_user_is_not_for_another(secure: SourceServer,
                                                 trust: TlsSettings) -> None:
    url = secure.add("/f", CONTENT)
    with ProxyServer(login=LOGIN) as proxy:
        async def work(source: HttpSource) -> None:
            good = through(proxy, "ann:s%40cr%C3%A4t", tls=trust)
            assert await taken(await source.open(SourceRequest(url, good))) == CONTENT
            with pytest.raises(AuthError):
                await source.open(SourceRequest(url, through(proxy, "ann:wrong", tls=trust)))
        with_source(work)


def test_certificates_are_checked_behind_a_proxy_too(secure: SourceServer) -> None:
    url = secure.add("/f", CONTENT)
    with ProxyServer() as proxy:
        error = refused(DflyError, SourceRequest(url, through(proxy)))
        assert error.exit_code == 5 and f"(through proxy {proxy.place})" in error.what
        wrong = url.replace("127.0.0.1", "127.0.0.2")
        trusting = TlsSettings(ca=ssl.get_server_certificate(("127.0.0.1", secure.port)))
        with SourceServer(host="127.0.0.2", tls=secure._tls) as other:
            error = refused(DflyError, SourceRequest(
                wrong.replace(str(secure.port), str(other.port)), through(proxy, tls=trusting)))
        assert "it is for localhost, 127.0.0.1" in error.what


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxys_password_is_answered_once(scheme: str, server: SourceServer, secure: SourceServer,
                                            trust: TlsSettings) -> None:
    url = (server if scheme == "http" else secure).add("/f", CONTENT)
    with ProxyServer(login=LOGIN) as proxy:
        assert ask(SourceRequest(url, through(proxy, "ann:s%40cr%C3%A4t", tls=trust)), taken
                   ) == CONTENT
        proxy.log.clear()
        for login in ("ann:wrong", ""):
            error = refused(AuthError, SourceRequest(url, through(proxy, login, tls=trust)))
            assert f"proxy {proxy.place}: " in error.what and "407" in error.what
            assert "http://USER:PASSWORD@HOST:PORT" in error.hint and "wrong" not in str(error)
        assert len(proxy.log) == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_may_want_digest(scheme: str, server: SourceServer, secure: SourceServer,
                                 trust: TlsSettings) -> None:
    url = (server if scheme == "http" else secure).add("/f", CONTENT)

    def admits(line: str, given: str) -> bool:
        key = hashlib.md5(b"ann:proxy:secret").hexdigest()
        asked = hashlib.md5(line.replace(" ", ":").encode()).hexdigest()
        right = hashlib.md5(f"{key}:n1:{asked}".encode()).hexdigest()
        return f'response="{right}"' in given

    with ProxyServer(admits=admits, challenge='Digest realm="proxy", nonce="n1"') as proxy:
        access = through(proxy, "ann:secret", tls=trust)
        assert ask(SourceRequest(url, access), taken) == CONTENT
        assert len(proxy.log) == 2
        refused(AuthError, SourceRequest(url, through(proxy, "ann:no", tls=trust)))
        assert len(proxy.log) == 4


@pytest.mark.parametrize("answer,kind,what", [
    (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nnever", NetworkError, "403 Forbidden"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ProtocolError, "of its own"),
    (b"SSH-2.0-OpenSSH\r\n", ProtocolError, "not HTTP"),
    (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, ProtocolError, "head"),
    (b"HTTP/1.1 302 Found\r\nLocation: http://evil/\r\n\r\n", NetworkError, "302"),
    (b"", NetworkError, "no tunnel to"),
    (b"\r\n", ProtocolError, "not HTTP"),
])
def test_what_a_bad_proxy_does_is_named_after_it(answer: bytes, kind: Type[DflyError],
                                                 what: str) -> None:
    with ProxyServer(answer=answer) as proxy:
        access = through(proxy, manners=Manners(connect_timeout_s=0.5))
        error = refused(kind, SourceRequest("https://h.example/f", access))
        assert f"proxy {proxy.place}: " in error.what and what in error.what
        assert error.what.startswith("can't fetch https://h.example/f: ")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_isnt_there_is_named(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    access = Access(proxies=Proxies((("http", f"http://127.0.0.1:{port}"),
                                     ("https", f"http://u:hush@127.0.0.1:{port}"))))
    error = refused(NetworkError, SourceRequest(f"{scheme}://h.example/f", access))
    assert f"proxy 127.0.0.1:{port}: Connection refused" in error.what and "hush" not in str(error)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6_literals_on_both_sides(certificate: Path) -> None:
    try:
        proxy = ProxyServer(host="::1")
    except OSError:
        pytest.skip("no IPv6 loopback here")
    with proxy:
        error = refused(NetworkError, SourceRequest(
            "https://[::1]:1/f", through(proxy, tls=TlsSettings(verify=False))))
        assert proxy.log == ["CONNECT [::1]:1"] and f"proxy [::1]:{proxy.port}: " in error.what


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl judges the test's proxy")
def test_the_proxy_is_one_as_curl_has_it(server: SourceServer, secure: SourceServer) -> None:
    with ProxyServer(login=LOGIN) as proxy:
        for url in (server.add("/f", CONTENT), secure.add("/f", CONTENT)):
            for login, good in (("ann:s%40cr%C3%A4t", True), ("ann:no", False)):
                done = subprocess.run(["curl", "-qskfx", proxy.url(login), url], check=False,
                                      capture_output=True, timeout=20)
                assert (done.stdout == CONTENT) is good


def test_logins_of_source_and_proxy_are_kept_apart(server: SourceServer) -> None:
    basic = "Basic " + base64.b64encode(b"bob:b").decode()
    url = server.add("/f", CONTENT, authorization=basic)
    with ProxyServer(login=LOGIN) as proxy:
        access = through(proxy, "ann:s%40cr%C3%A4t", logins=(Login(origin_of(url), "bob", "b"),))
        assert ask(SourceRequest(url, access), taken) == CONTENT
        assert [seen.get("authorization") for seen in proxy.headers] == [None, basic]


def test_a_proxy_in_the_environment_is_not_for_dflys_own_links(
        server: SourceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.add("/f", CONTENT)

    async def scenario() -> bytes:
        async with client() as http:
            return await (await http.request("GET", url)).read(len(CONTENT))
    with ProxyServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url())
        assert asyncio.run(scenario()) == CONTENT and proxy.log == []
