"""Cookies: those of the caller's file and those that sources set, by whom they may be seen."""
from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Tuple

import pytest

from dfly.access import COOKIES_BYTES_MAX, COOKIES_MAX, Access, facts_of
from dfly.errors import ProtocolError
from dfly.source import SourceRequest
from dfly.source.http import HttpSource
from dfly.source.jar import Jar
from tests.source.asking import ask, refused, taken, with_source
from tests.support import SourceServer

CONTENT = b"content" * 100
HERE = "127.0.0.1\tFALSE\t/\tFALSE\t0\tmine\tm1"


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer() as source:
        yield source


@pytest.fixture
def other() -> Iterator[SourceServer]:
    """A server of another host."""
    with SourceServer(host="127.0.0.2") as source:
        yield source


def setting(*cookies: str) -> Tuple[Tuple[str, str], ...]:
    return tuple(("Set-Cookie", cookie) for cookie in cookies)


def test_a_callers_cookies_go_where_they_are_for(server: SourceServer,
                                                 other: SourceServer) -> None:
    access = Access(cookies=(HERE, "127.0.0.2\tFALSE\t/\tFALSE\t0\ttheirs\tt1",
                             "127.0.0.1\tFALSE\t/deep/\tFALSE\t0\tdeep\td1",
                             "127.0.0.1\tFALSE\t/\tTRUE\t0\tsafe\ts1",
                             f"127.0.0.1\tFALSE\t/\tFALSE\t{int(time.time()) - 9}\told\to1"))
    server.add("/f", redirect="/deep/f")
    server.add("/deep/f", redirect=other.add("/f", CONTENT))
    assert ask(SourceRequest(server.url("/f"), access)).authorised
    assert [seen.header("cookie") for seen in server.log] == ["mine=m1", "deep=d1; mine=m1"]
    assert other.log[0].header("cookie") == "theirs=t1"
    body = ask(SourceRequest(other.url("/f"), Access(cookies=(HERE,))))
    assert not body.authorised and "cookie" not in other.log[-1].headers


@pytest.mark.parametrize("line", [
    "# a comment", "", "127.0.0.1", HERE + "\tmore", HERE.replace("m1", "a\x00b"),
    HERE.replace("m1", "a\rSet: b"), HERE.replace("\t0\t", "\tnever\t"),
    HERE.replace("\t0\t", "\t²\t"), HERE.replace("127.0.0.1", ""), "\t" * 6])
def test_a_line_that_is_no_cookie_is_left_alone(server: SourceServer, line: str) -> None:
    url = server.add("/f", CONTENT)
    assert not ask(SourceRequest(url, Access(cookies=(line,)))).authorised
    ask(SourceRequest(url, Access(cookies=(line, HERE, "#HttpOnly_" + HERE.replace("m", "h")))))
    assert [seen.header("cookie") for seen in server.log] == ["", "mine=m1; hine=h1"]


def test_one_header_carries_all_cookies(server: SourceServer) -> None:
    url = server.add("/f", CONTENT)
    ask(SourceRequest(url, Access((("Cookie", "a=1"), ("X", "y")), cookies=(HERE,))))
    assert server.log[0].header("cookie") == "a=1; mine=m1"


def test_what_a_source_sets_is_kept_between_redirects_and_requests(server: SourceServer) -> None:
    server.add("/f", redirect="/f", headers=setting("seen=1; Path=/", "gone=1; Max-Age=0"))
    server.next("/f")
    server.next("/f", redirect="", content=CONTENT, headers=setting("seen=2; HttpOnly; Path=/"))

    async def work(source: HttpSource) -> Any:
        access = Access(wants_cookies=True)
        body = await source.open(SourceRequest(server.url("/f"), access))
        assert await taken(body) == CONTENT
        assert not body.authorised    # nobody's secret: anyone gets such a cookie
        server.change("/f", redirect="", headers=())
        await (await source.open(SourceRequest(server.url("/f"), access))).close()
        return body.facts
    facts = with_source(work)
    assert [seen.header("cookie") for seen in server.log] == ["", "seen=1", "seen=2"]
    assert facts.cookies == ("#HttpOnly_127.0.0.1\tFALSE\t/\tFALSE\t0\tseen\t2",)
    assert not [name for name, _ in facts.headers if name.lower() == "set-cookie"]


def test_cookies_are_told_only_to_who_wants_them(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, headers=setting("a=1", "b=2; Max-Age=1000"))
    assert ask(SourceRequest(url)).facts.cookies == ()
    first, second = ask(SourceRequest(url, Access(wants_cookies=True, cookies=(HERE,)))
                        ).facts.cookies
    assert first == "127.0.0.1\tFALSE\t/\tFALSE\t0\ta\t1"
    assert abs(int(second.split("\t")[4]) - time.time() - 1000) < 60


def test_a_cookie_given_for_a_secret_is_one_too(server: SourceServer, other: SourceServer) -> None:
    server.add("/f", redirect="/g", headers=setting("session=9; Path=/"))
    server.add("/g", CONTENT)
    seen = []

    async def work(source: HttpSource) -> None:
        access = Access(origins=(), cookies=(HERE.replace("\t/\t", "\t/f\t"),))
        for path in ("/g", "/f", "/g"):
            body = await source.open(SourceRequest(server.url(path), access))
            seen.append(body.authorised)
            await body.close()
    with_source(work)
    assert seen == [False, True, True]


def test_a_redirect_to_itself_without_another_cookie_is_a_loop(server: SourceServer) -> None:
    server.add("/f", redirect="/f", headers=setting("a=1"))
    assert "in a loop" in refused(ProtocolError, SourceRequest(server.url("/f"))).what
    assert len(server.log) == 2


@pytest.mark.parametrize("cookie", [
    "a=1; Domain=example.com", "a=1; Domain=1", "a=1; Domain=.0.0.1", "", ";", "=;=",
    "a=1; Expires=Thu, 99 Foo 1970", "a=" + "1" * 5000, "a=1; Port=\"1\"", "a=1; Path=/else"])
def test_a_cookie_that_isnt_for_this_host_is_dropped(server: SourceServer, cookie: str) -> None:
    url = server.add("/f", CONTENT, headers=setting(cookie))

    async def work(source: HttpSource) -> None:
        for _ in range(2):
            await (await source.open(SourceRequest(url))).close()
    with_source(work)
    sent = server.log[1].header("cookie")
    assert sent in ("", "a=1") and (not sent or "Expires" in cookie or "Port" in cookie)


@pytest.mark.filterwarnings("error")
def test_cookies_without_end_stay_within_bounds() -> None:
    jar = Jar([HERE])
    for number in range(200):
        jar.keep("http://127.0.0.1/", [f"n{number}-{other}={'x' * 30}" for other in range(99)])
    assert len(jar.lines()) < COOKIES_MAX
    big = Jar()
    for number in range(200):
        big.keep("http://127.0.0.1/", [f"n{number}={'x' * 4000}"])
    odd = Jar()
    for number in range(200):
        odd.keep("http://127.0.0.1/", [f"n{number}-{other}=; HttpOnly; Max-Age={'9' * 3000}"
                                       for other in range(49)])
    brief = Jar()
    for number in range(50):
        brief.keep(f"http://h{number}/", ["a=1"])
        brief.keep(f"http://h{number}/", ["a=1; Max-Age=0"])
    assert len(brief._set) <= 1 and len(brief._bare_hosts) <= 1
    for full in (jar, big, odd):
        assert 0 < sum(map(len, full.lines())) <= COOKIES_BYTES_MAX
        assert facts_of({"cookies": list(full.lines())})    # whoever is told takes it all
    assert jar.header("http://127.0.0.1/")[1]    # the caller's own is still there


def test_a_head_full_of_cookies_is_an_error_not_a_crash(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, headers=setting(*(f"a{n}=1" for n in range(1000))))
    assert "header lines" in refused(ProtocolError, SourceRequest(url)).what


def test_names_without_a_dot_are_written_as_they_are() -> None:
    jar = Jar(["localhost\tFALSE\t/\tFALSE\t0\ta\t1", "localhost:81\tFALSE\t/\tFALSE\t0\tb\t2",
               ".example.com\tTRUE\t/\tFALSE\t0\tc\t3", "example.org\tTRUE\t/\tFALSE\t0\td\t4",
               "example.net\tFALSE\t/\tFALSE\t0\te\t5"])
    jar.keep("http://localhost/x/y", ["s=1; Path=/x"])
    jar.keep("http://printer.local/", ["p=1"])
    jar.keep("http://[::1]:81/", ["v=6"])
    assert jar.lines() == ("localhost\tFALSE\t/x\tFALSE\t0\ts\t1",
                           "printer.local\tFALSE\t/\tFALSE\t0\tp\t1",
                           "[::1]\tFALSE\t/\tFALSE\t0\tv\t6")
    again = Jar(["[::1]\tFALSE\t/\tFALSE\t0\tv\t6", "[::2]:81\tFALSE\t/\tFALSE\t0\tw\t7"])
    assert [again.header(f"http://{host}/")[0] for host in ("[::1]:9", "[::2]:81", "[::2]")
            ] == ["v=6", "w=7", ""]
    for url, cookie in (("http://localhost/", "a=1"), ("http://localhost:81/x", "s=1; a=1; b=2"),
                        ("http://sub.example.com/", "c=3"), ("http://example.com/", "c=3"),
                        ("http://sub.example.org/", "d=4"), ("http://badexample.org/", ""),
                        ("http://sub.example.net/", ""), ("http://example.net/", "e=5")):
        assert jar.header(url)[0] == cookie, url


@pytest.mark.parametrize("place", ["h:", "h:00080", "x[::1]", "[fe80::1%25eth0]:81", "h..", "%41"])
def test_an_odd_place_in_a_url_is_none_to_cookies(place: str) -> None:
    jar = Jar([HERE])
    jar.keep(f"http://{place}/", ["a=1", "b=2; Domain=h; Port"])
    assert not jar.header(f"http://{place}/")[1] and len(jar.lines()) <= 2


def test_nothing_of_cookies_is_loaded_without_one() -> None:
    program = ("import sys; from dfly.source.jar import Jar; jar = Jar();"
               "jar.keep('http://a/', []); assert jar.header('http://a/') == ('', False);"
               "assert jar.lines() == ();"
               "assert 'http.cookiejar' not in sys.modules")
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)


@pytest.mark.skipif(shutil.which("wget") is None, reason="wget is what we compare with")
def test_wgets_cookie_file_is_understood_and_says_the_same(server: SourceServer,
                                                           tmp_path: Path) -> None:
    url = server.add("/d/f", CONTENT, headers=setting("a=1; Max-Age=1000; Path=/d", "b=2"))
    saved = tmp_path / "cookies"
    subprocess.run(["wget", "-q", "--no-proxy", "--keep-session-cookies", "--save-cookies",
                    str(saved), "-O", "/dev/null", url], check=True, timeout=20)
    lines = tuple(saved.read_text().splitlines())
    ask(SourceRequest(url, Access(cookies=lines)))
    told = ask(SourceRequest(url, Access(wants_cookies=True))).facts.cookies
    assert sorted(server.log[1].header("cookie").split("; ")) == ["a=1", "b=2"]
    assert sorted(line.split("\t")[5:] for line in told) == [["a", "1"], ["b", "2"]]
    other = tmp_path / "ours"
    other.write_text("# HTTP Cookie File\n" + "".join(line + "\n" for line in told))
    subprocess.run(["wget", "-q", "--no-proxy", "--load-cookies", str(other), "-O", "/dev/null",
                    url], check=True, timeout=20)
    assert sorted(server.log[-1].header("cookie").split("; ")) == ["a=1", "b=2"]
