"""How `dfly get` asks, and how long: headers, cookies, proxies, certificates, rates, tries, logs
and the background, each beside wget by what the source and the user see of it.
"""
from __future__ import annotations

import json
import os
import re
import signal
import ssl
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from tests.net.authority import Authority, pin_by_openssl
from tests.source.proxyserver import ProxyServer
from tests.support import Exchange, SourceServer
from tests.system.scene import PIECE, becomes, content_of
from tests.system.yard import OURS, WAYS, Yard, both, each, needs_wget, open_yard, tree_of

pytestmark = [pytest.mark.system, pytest.mark.long, needs_wget]
A = content_of(0.3)
BIG = content_of(8.4, seed=3)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Yard]:
    with open_yard(tmp_path_factory.mktemp("asking"), program) as it:
        yield it


def ours(exchange: Exchange, names: Tuple[str, ...]) -> Dict[str, str]:
    return {name: exchange.header(name) for name in names}


# --------------------------------------------------------------------------- gone on with
@both
@pytest.mark.parametrize("by", ["wget", "curl"])
def test_what_another_program_left_is_gone_on_with(yard: Yard, way: str, by: str) -> None:
    """All but its last piece or two is taken, once somebody tells what it should be: the manager's
    digests, or the source's own last piece of it."""
    content = content_of(40, seed=5)
    folder = yard.folder(way)
    with SourceServer(rate_bps=16e6) as server:
        url = server.add(f"/left-by-{by}", content)
        if way == "managed":
            assert yard.run("other", folder, "-qO", "/dev/null", url).code == 0
        server.next(f"/left-by-{by}", stall_after=30 * PIECE)
        other = yard.start(by, folder, *([url] if by == "wget" else ["-sSO", url]))
        file = folder / f"left-by-{by}"
        assert becomes(lambda: file.exists() and file.stat().st_size == 30 * PIECE)
        other.kill()
        other.communicate()
        before = server.body_bytes
        got = yard.run(way, folder, "-c", "--json", url)
        assert got.code == 0 and file.read_bytes() == content and len(tree_of(folder)) == 1
        last = json.loads(got.out.splitlines()[-1])
        # A manager's pieces come while the file is still read; who is quicker wins.
        assert last["from_cache"] >= (28 if way == "alone" else 10) * PIECE, last
        assert server.body_bytes - before <= (13 * PIECE if way == "alone" else 0)


@both
def test_what_isnt_the_beginning_is_fetched_anew(yard: Yard, way: str) -> None:
    url = yard.source.add(f"/another-{way}", BIG)
    folder = yard.folder(way)
    (folder / "out").write_bytes(content_of(5.3, seed=99))
    assert yard.run(way, folder, "-c", "-O", "out", url).code == 0
    assert (folder / "out").read_bytes() == BIG


# --------------------------------------------------------------------------------- headers
def test_headers_are_wgets(yard: Yard) -> None:
    names = ("accept-language", "x-one", "user-agent", "referer", "cache-control", "pragma",
             "authorization")

    def headers(way: str) -> Dict[str, str]:
        path = f"/headers-{way}"
        url = yard.source.add(path, A)
        end = yard.run(way, yard.folder(way), "-q", "--header=Accept-Language: de",
                       "--header", "X-One: 1", "-U", "probe/1", "--referer=http://r.example/",
                       "--no-cache", "--auth-no-challenge", "--user=ann", "--password=se cret", url)
        assert end.code == 0
        exchanges = yard.source.requests(path)
        assert len({str(ours(one, names)) for one in exchanges}) == 1   # each time the same
        return ours(exchanges[0], names)

    ends = each(headers)
    assert ends["managed"] == ends["alone"] == ends["wget"]
    assert ends["wget"]["x-one"] == "1"


def test_a_header_takes_the_place_of_dflys_own(yard: Yard) -> None:
    def end(way: str) -> Tuple[int, str]:
        url = yard.source.add(f"/agent-{way}", A)
        code = yard.run(way, yard.folder(way), "-q", "--header=User-Agent: mine", url).code
        return code, yard.source.requests(f"/agent-{way}")[0].header("user-agent")

    assert set(each(end).values()) == {(0, "mine")}


# --------------------------------------------------------------------------------- cookies
def wants(cookie: str) -> Any:
    def guard(exchange: Exchange) -> Tuple[int, List[Tuple[str, str]]]:
        held = [part.strip() for part in exchange.header("cookie").split(";")]
        return (0 if cookie in held else 403), []
    return guard


@pytest.mark.parametrize("saver, loader", [
    (saver, loader) for saver in WAYS for loader in WAYS if saver != loader or saver != "wget"])
def test_cookies_go_round(yard: Yard, saver: str, loader: str) -> None:
    tag = f"{saver}-{loader}"
    setter = yard.source.add(f"/set-{tag}", A, headers=(
        ("Set-Cookie", "kept=1; Max-Age=3600; Path=/"), ("Set-Cookie", "session=2; Path=/"),
        ("Set-Cookie", "elsewhere=3; Max-Age=3600; Path=/nowhere"),
        ("Set-Cookie", "foreign=4; Max-Age=3600; Domain=other.example")))
    kept = yard.source.add(f"/kept-{tag}", A, guard=wants("kept=1"))
    session = yard.source.add(f"/session-{tag}", A, guard=wants("session=2"))
    folder = yard.folder(saver)
    assert yard.run(saver, folder, "-q", "--save-cookies=jar", setter).code == 0
    assert yard.run(saver, folder, "-q", "--save-cookies=all", "--keep-session-cookies",
                    setter).code == 0
    for jar, url, code in (("jar", kept, 0), ("jar", session, 8), ("all", session, 0)):
        assert yard.run(loader, folder, "-q", f"--load-cookies={jar}", url).code == code
    told = yard.source.requests(f"/session-{tag}")[-1].header("cookie")
    assert "elsewhere" not in told and "foreign" not in told
    assert yard.run(loader, folder, "-q", kept, "-O", "x").code == 8   # without: not let in


# --------------------------------------------------------------------------------- proxies
@pytest.mark.parametrize("env, words, through", [
    ({"http_proxy": "{p}"}, [], True),
    ({}, ["-e", "http_proxy={p}"], True),
    ({"http_proxy": "{p}", "no_proxy": "127.0.0.1"}, [], False),
    ({"http_proxy": "{p}", "no_proxy": "other.example,.example"}, [], True),
    ({"http_proxy": "{p}"}, ["--no-proxy"], False),
    ({"http_proxy": "{p}"}, ["-e", "use_proxy=off"], False),
    ({"HTTP_PROXY": "{p}"}, [], False),
    ({"https_proxy": "{p}"}, [], False),
], ids=str)
def test_proxies(yard: Yard, env: Dict[str, str], words: List[str], through: bool) -> None:
    def end(way: str) -> Tuple[int, bool, bytes]:
        with ProxyServer() as proxy:
            url = yard.source.add(f"/by-proxy-{next(yard.numbers)}", A)
            told = {name: value.replace("{p}", proxy.url()) for name, value in env.items()}
            got = yard.run(way, yard.folder(way), "-qO-", url,
                           *[word.replace("{p}", proxy.url()) for word in words], env=told)
            assert all(line == f"GET {url}" for line in proxy.log), proxy.log
            return got.code, bool(proxy.log), got.out

    assert set(each(end).values()) == {(0, through, A)}


def test_a_proxy_that_wants_a_password(yard: Yard) -> None:
    def codes(way: str) -> List[int]:
        with ProxyServer(login="Basic dTpw") as proxy:
            url = yard.source.add(f"/proxy-login-{way}", A)
            folder, env = yard.folder(way), {"http_proxy": proxy.url()}
            return [yard.run(way, folder, "-q", "-t", "1", url, env=env).code,
                    yard.run(way, folder, "-q", "--proxy-user=u", "--proxy-password=p", url,
                             env=env).code]

    ends = each(codes)
    assert [codes[1] for codes in ends.values()] == [0, 0, 0]
    assert ends["wget"][0] == 8   # of the proxy's 407; to dfly it is a password that is wanted
    assert ends["managed"][0] == ends["alone"][0] == 6


def test_a_proxy_that_is_not_there(yard: Yard) -> None:
    def code(way: str) -> int:
        url = yard.source.add(f"/no-proxy-{way}", A)
        return yard.run(way, yard.folder(way), "-q", "-t", "1", url,
                        env={"http_proxy": "http://127.0.0.1:1"}).code

    assert set(each(code).values()) == {4}


# ------------------------------------------------------------------------------------- TLS
@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def servers(authority: Authority) -> Iterator[Dict[str, Tuple[SourceServer, Path]]]:
    """Sources by what is wrong with their certificates, and these."""
    found: Dict[str, Tuple[SourceServer, Path]] = {}
    for name, told in (("good", ()), ("expired", ("-startdate", "20200101000000Z", "-enddate",
                                                  "20210101000000Z"))):
        found[name] = _tls_source(authority.issue(name, "DNS:localhost,IP:127.0.0.1", *told))
    found["another"] = _tls_source(authority.issue("another", "DNS:other.example"))
    try:
        yield found
    finally:
        for server, _ in found.values():
            server.close()


def _tls_source(certificate: Path) -> Tuple[SourceServer, Path]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = SourceServer(tls=context)
    server.__enter__()
    server.add("/a.bin", A)
    return server, certificate


@pytest.mark.parametrize("name, words, code", [
    ("good", ["--ca-certificate={ca}"], 0),
    ("good", [], 5),
    ("good", ["--no-check-certificate"], 0),
    ("expired", ["--ca-certificate={ca}"], 5),
    ("expired", ["--no-check-certificate"], 0),
    ("another", ["--ca-certificate={ca}"], 5),
    ("another", ["--no-check-certificate"], 0),
    ("good", ["--ca-certificate={ca}", "--pinnedpubkey={pin}"], 0),
    ("good", ["--ca-certificate={ca}", "--pinnedpubkey={bad}"], 5),
    ("good", ["--no-check-certificate", "--pinnedpubkey={bad};{pin}"], 0),
    ("good", ["--no-check-certificate", "--pinnedpubkey={bad}"], 5),
    ("good", ["--ca-certificate=/nowhere.pem"], 5),
], ids=str)
def test_certificates(yard: Yard, authority: Authority, name: str, words: List[str], code: int,
                      servers: Dict[str, Tuple[SourceServer, Path]]) -> None:
    server, certificate = servers[name]
    told = [word.replace("{ca}", str(authority.folder / "ca.pem"))
            .replace("{pin}", "sha256//" + pin_by_openssl(certificate))
            .replace("{bad}", "sha256//" + "A" * 43 + "=") for word in words]
    bodies = server.body_bytes

    def end(way: str) -> Tuple[int, bytes]:
        got = yard.run(way, yard.folder(way), "-t", "1", "-qO-", server.url("/a.bin"), *told)
        assert way == "wget" or bool(got.code) == bool(got.err)   # one line that says why
        return got.code, got.out

    ends = each(end)
    if words == ["--ca-certificate=/nowhere.pem"]:   # a file that can't be read, to dfly
        assert ends["managed"] == ends["alone"] == (3, b"")
        return
    assert set(ends.values()) == {(code, b"" if code else A)}
    assert code == 0 or server.body_bytes == bodies   # and not a byte was asked for


@both
def test_what_one_took_unchecked_another_does_not_get_for_checked(
        yard: Yard, way: str, servers: Dict[str, Tuple[SourceServer, Path]]) -> None:
    server, _ = servers["another"]
    url = server.add(f"/unchecked-{way}", A)
    folder = yard.folder(way)
    assert yard.run(way, folder, "-q", "--no-check-certificate", url).code == 0
    assert yard.run(way, folder, "-t", "1", "-O", "again", url).code == 5
    assert not (folder / "again").exists()


# ----------------------------------------------------------------------------- IP versions
def test_ipv6(yard: Yard) -> None:
    with SourceServer(host="::1") as server:
        server.add("/a.bin", A)

        def codes(way: str) -> List[int]:
            folder = yard.folder(way)
            found = [yard.run(way, folder, "-q", "-t", "1", *words, server.url("/a.bin")).code
                     for words in ([], ["-6"], ["-4"])]
            assert [(folder / name).read_bytes() for name in ("a.bin", "a.bin.1")] == [A, A]
            return [*found, yard.run(way, folder, "-q", "-x", server.url("/a.bin")).code,
                    len(list(folder.rglob("a.bin")))]

        ends = each(codes)
        assert ends["managed"] == ends["alone"] == ends["wget"] == [0, 0, 4, 0, 2]


# ------------------------------------------------------------------------- rates and tries
@pytest.mark.parametrize("pieces, rate", [(40, 4_000_000), (8, 250_000)])
def test_limit_rate(yard: Yard, pieces: int, rate: int) -> None:
    """Within 10 % of what was asked for, and the start of the program; and a parent isn't taken
    for slow because its child takes no more."""
    content = content_of(pieces, seed=4)
    size = len(content)

    def seconds(way: str) -> float:
        url = yard.source.add(f"/limited-{way}-{rate}", content)
        began = time.monotonic()
        end = yard.run(way, yard.folder(way), f"--limit-rate={rate}",
                       *(["-nv", "--explain"] if way in OURS else ["-q"]), url)
        assert end.code == 0 and "failed (timeout)" not in end.err
        return time.monotonic() - began

    ends = each(seconds)
    for way in OURS:
        assert 0.9 * size / rate <= ends[way] <= 1.1 * size / rate + 0.5, ends


@pytest.mark.parametrize("words, count", [
    (["-t", "3"], 1),                                # wget: a status isn't tried again unless told
    (["-t", "3", "--retry-on-http-error=404"], 3),
    (["-t", "2", "--retry-on-http-error=404,410"], 2),
], ids=str)
def test_tries_of_a_status(yard: Yard, words: List[str], count: int) -> None:
    def end(way: str) -> Tuple[int, int]:
        path = f"/tried-{next(yard.numbers)}"
        url = yard.source.add(path, status=404)
        got = yard.run(way, yard.folder(way), "-q", "--waitretry=1", *words, url)
        return got.code, len(yard.source.requests(path))

    ends = each(end)
    assert ends["managed"] == ends["alone"] == (8, count)
    assert ends["wget"] == (8 if count == 1 else 4, count)   # it calls giving up a network's fault


def test_what_comes_at_the_third_try(yard: Yard) -> None:
    def end(way: str) -> Tuple[int, bytes]:
        path = f"/third-{next(yard.numbers)}"
        url = yard.source.add(path, A)
        for _ in range(2):
            yard.source.next(path, status=429)
        got = yard.run(way, yard.folder(way), "-qO-", "--waitretry=1", "-t", "3",
                       "--retry-on-http-error=429", url)
        return got.code, got.out

    assert set(each(end).values()) == {(0, A)}


@both
def test_a_deadline(yard: Yard, way: str) -> None:
    folder = yard.folder(way)
    with SourceServer(rate_bps=len(BIG) / 2) as slow:
        url = slow.add("/late", BIG)
        began = time.monotonic()
        end = yard.run(way, folder, "--deadline=1s", url)
        assert end.code == 4 and "1 s" in end.err and 0.9 < time.monotonic() - began < 2.0
        assert tree_of(folder) == {}
        assert yard.run(way, folder, "--deadline=30s", "-q", url).code == 0
        assert (folder / "late").read_bytes() == BIG
        assert slow.body_bytes < 1.3 * len(BIG)   # it goes on from what came


# ------------------------------------------------------------------- background and logs
def test_in_the_background(yard: Yard) -> None:
    def end(way: str) -> str:
        path = f"/behind-{way}"
        url = yard.source.add(path, A)
        folder = yard.folder(way)
        assert yard.run(way, folder, "-b", "-o", "log", "-O", "out", url).code == 0
        assert becomes(lambda: (folder / "out").exists()
                       and (folder / "out").read_bytes() == A)
        assert becomes(lambda: url in (folder / "log").read_text())
        started = yard.run(way, folder, "-b", url)
        assert re.search(r"Continuing in background, pid \d+\.\n", started.out.decode())
        assert becomes(lambda: (folder / path[1:]).exists()
                       and (folder / path[1:]).read_bytes() == A)
        (log,) = [name for name in tree_of(folder) if name.endswith("-log")]
        return f"{log}: {started.out.decode().count('.')}"

    ends = each(end)
    assert ends["wget"].startswith("wget-log") and ends["alone"].startswith("dfly-log")
    assert ends["managed"] == ends["alone"]


def test_logs(yard: Yard) -> None:
    def end(way: str) -> List[int]:
        url = yard.source.add(f"/logged-{way}", A)
        folder = yard.folder(way)
        counts = []
        for words in (["-o", "log"], ["-a", "log"], ["-a", "log"], ["-o", "log"]):
            got = yard.run(way, folder, *words, url)
            assert (got.code, got.out, got.err) == (0, b"", ""), got
            counts.append((folder / "log").read_text().count(f"--  {url}"))
        lost = yard.run(way, folder, "-o", "log", "{u}/lost")
        assert lost.code == 8 and lost.err == "" and "404" in (folder / "log").read_text()
        return counts

    assert set(map(tuple, each(end).values())) == {(1, 2, 3, 1)}


def test_a_log_that_cannot_be(yard: Yard) -> None:
    url = yard.source.add("/unlogged", A)
    for way in OURS:
        end = yard.run(way, yard.folder(way), "-o", "/nowhere/log", url)
        assert end.code == 3 and end.err.count("\n") == 1


@both
def test_a_killed_one_in_the_background_leaves_nothing(yard: Yard, way: str) -> None:
    path = f"/ended-{way}"
    url = yard.source.add(path, BIG)
    yard.source.next(path, stall_after=PIECE)
    folder = yard.folder(way)
    started = yard.run(way, folder, "-b", url)
    found = re.search(r"pid (\d+)", started.out.decode())
    assert found is not None
    yard.source.wait_until(lambda: bool(yard.source.requests(path)))
    pid = int(found.group(1))
    assert becomes(lambda: Path(f"/proc/{pid}").exists())
    os.kill(pid, signal.SIGTERM)
    assert becomes(lambda: not Path(f"/proc/{pid}/cmdline").exists()
                   or not Path(f"/proc/{pid}/cmdline").read_bytes())
    assert list(tree_of(folder)) == ["dfly-log"]
    assert "goes on from what is here" in (folder / "dfly-log").read_text()
