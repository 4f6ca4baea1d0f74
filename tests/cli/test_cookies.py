"""Cookie files: read, chosen from, added to, written; by us and by wget and curl."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import List, Optional

import pytest

from dfly.access import COOKIES_MAX, Access, access_of
from dfly.cli.cookies import Jar, parse_cookie
from dfly.errors import FileError, UsageError
from dfly.source.jar import Jar as SourceJar
from tests.support import SourceServer

NOW = 1_800_000_000.0
LATER = 1_900_000_000


def line(domain: str = "h", below: str = "FALSE", path: str = "/", expires: object = LATER,
         name: str = "n", value: str = "v") -> str:
    return f"{domain}\t{below}\t{path}\tFALSE\t{expires}\t{name}\t{value}"


def jar(*lines: str) -> Jar:
    found = Jar()
    found.merge(lines)
    return found


@pytest.mark.parametrize("written, read", [
    (line(), line()),
    (line(".Example.COM", "TRUE"), line(".example.com", "TRUE")),
    (line("example.com", "TRUE"), line(".example.com", "TRUE")),
    (line("h:8080"), line("h:8080")),
    ("#HttpOnly_" + line(), line()),
    (line(expires=0) + "\r\n", line(expires=0)),
    (line(expires=-1), line(expires=0)),
    (line(expires="1900000000.75"), line()),
    (line(expires=""), line(expires=0)),
    (line(value="")[:-1], line(value="")),
    (line(value="a b=c;"), line(value="a b=c;")),
    (line(name=""), line(name="")),      # a browser's way of writing a value without a name
    ("# comment", None), ("", None), ("a\tb", None), (line("h:x"), None),
    (line(""), None), (line(path="nope"), None), (line(expires="soon"), None),
    (line(expires="inf"), None), (line(name="", value=""), None), (line(value="a\tb"), None),
    (line(value="a\x1bb"), None)])
def test_a_line(written: str, read: Optional[str]) -> None:
    cookie = parse_cookie(written)
    assert (cookie.line() if cookie else None) == read


@pytest.mark.parametrize("domain, below, url, goes", [
    ("h", "FALSE", "http://h/f", True), ("h", "FALSE", "http://H:81/f", True),
    ("h", "FALSE", "http://sub.h/f", False), (".h", "TRUE", "http://sub.h/f", True),
    (".h", "TRUE", "http://h/f", True), (".h", "TRUE", "http://bad-h/f", False),
    ("sub.h", "FALSE", "http://h/f", False), ("h:81", "FALSE", "http://h:81/f", True),
    ("h:80", "FALSE", "http://h/f", True), ("h:81", "FALSE", "https://h/f", False),
])
def test_where_a_cookie_may_go(domain: str, below: str, url: str, goes: bool) -> None:
    lines = jar(line(domain, below)).lines_for([url], NOW)
    assert lines == ((line(domain.partition(":")[0], below),) if goes else ())


def test_of_several_urls_and_not_after_its_end() -> None:
    cookies = jar(line("a"), line("b"), line("c"), line("a", name="old", expires=1),
                  line("b", name="session", expires=0))
    assert cookies.lines_for(["http://a/", "https://b/x"], NOW) == (
        line("a"), line("b"), line("b", name="session", expires=0))


def test_bounds_are_those_of_a_request() -> None:
    many = [line(name=f"n{number}") for number in range(COOKIES_MAX)]
    assert access_of(Access(cookies=jar(*many).lines_for(["http://h/"], NOW)).to_json())
    for lines in ([*many, line()], [line(name=f"n{number}", value="v" * 1000)
                                    for number in range(70)]):
        with pytest.raises(UsageError, match="too many"):
            jar(*lines).lines_for(["http://h/"], NOW)
        assert jar(*lines).lines_for(["http://other/"], NOW) == ()


def test_what_a_source_sets_replaces_what_was_there() -> None:
    cookies = jar(line("h:81"), line("h", path="/a"))
    cookies.merge([line(value="new"), "rubbish", line(path="/a", expires=1)])
    assert cookies.lines_for(["http://h:81/"], NOW) == (line(value="new"),)


def saved(cookies: Jar, tmp_path: Path, keep_session: bool = False) -> List[str]:
    cookies.save(str(tmp_path / "out"), NOW, keep_session=keep_session)
    return [entry for entry in (tmp_path / "out").read_text().splitlines() if "\t" in entry]


def test_session_cookies_are_saved_only_if_wanted(tmp_path: Path) -> None:
    cookies = jar(line(), line(name="s", expires=0), line(name="old", expires=1))
    assert saved(cookies, tmp_path) == [line()]
    assert saved(cookies, tmp_path, True) == [line(), line(name="s", expires=0)]


def test_a_file_is_replaced_at_once_and_is_for_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o644)
    (tmp_path / "out").symlink_to("real")
    saved(jar(line()), tmp_path)
    assert (tmp_path / "out").is_symlink() and sorted(os.listdir(tmp_path)) == ["out", "real"]
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o600
    assert Jar.read(str(tmp_path / "out")).lines_for(["http://h/"], NOW) == (line(),)
    jar(line()).save("/dev/null", NOW)
    for place in (tmp_path / "gone" / "out", tmp_path):
        with pytest.raises(FileError):
            jar(line()).save(str(place), NOW)
    assert sorted(os.listdir(tmp_path)) == ["out", "real"]


def test_what_is_no_cookie_file(tmp_path: Path) -> None:
    file = tmp_path / "c"
    file.write_text('[{"name": "n"}]\n')
    with pytest.raises(UsageError, match="is no cookie file"):
        Jar.read(str(file))
    file.write_text("# HTTP Cookie File\n\n")
    assert len(Jar.read(str(file))) == 0
    with pytest.raises(FileError, match="No such file"):
        Jar.read(str(tmp_path / "gone"))


@pytest.mark.parametrize("host", ["host", "www.example.com", "127.0.0.1"])
def test_the_daemon_speaks_the_same_lines(host: str, tmp_path: Path) -> None:
    """What a source sets is sent to it, and to it alone, by the command after the next."""
    visit = SourceJar()
    visit.keep(f"http://{host}:81/a/f", ["a=1; path=/", "b=2; max-age=999999999; HttpOnly", "c"])
    cookies = Jar()
    cookies.merge(visit.lines())
    saved(cookies, tmp_path, keep_session=True)
    lines = Jar.read(str(tmp_path / "out")).lines_for([f"http://{host}/"], NOW - 1e9)
    assert len(lines) == 3
    value, is_ours = SourceJar(lines).header(f"http://{host}/a/g")
    assert sorted(value.split("; ")) == ["a=1", "b=2", "c"] and is_ours
    assert SourceJar(lines).header(f"http://x{host}/a/g")[0] == ""


def sent_by(tool: List[str], source: SourceServer, folder: Path) -> str:
    """The Cookie header by which `tool` asks."""
    source.add("/f", b"x", etag="", last_modified="")
    subprocess.run([*tool, source.url("/f")], cwd=folder, check=True, timeout=60,
                   env={**os.environ, "HOME": str(folder)})
    return source.requests("/f")[-1].header("cookie")


@pytest.mark.parametrize("tool", [["wget", "-q", "-O", "x", "--load-cookies", "out"],
                                  ["curl", "-sS", "-o", "x", "-b", "out"]], ids=["wget", "curl"])
def test_others_read_what_we_wrote(tool: List[str], tmp_path: Path) -> None:
    if shutil.which(tool[0]) is None:
        pytest.skip(f"needs {tool[0]}")
    with SourceServer() as source:
        saved(jar("#HttpOnly_" + line(source.host, name="a", expires=4_000_000_000),
                  line(source.host, name="b", expires=0), line("elsewhere", name="c")),
              tmp_path, keep_session=True)
        assert sorted(sent_by(tool, source, tmp_path).split("; ")) == ["a=v", "b=v"]


@pytest.mark.skipif(shutil.which("wget") is None, reason="needs wget")
def test_we_read_what_wget_wrote(tmp_path: Path) -> None:
    with SourceServer() as source:
        url = source.add("/set", b"x", headers=(
            ("Set-Cookie", "s=1; path=/"),
            ("Set-Cookie", "p=2; path=/; max-age=10000; Secure; HttpOnly")))
        subprocess.run(["wget", "-q", "-O", "x", "--keep-session-cookies", "--save-cookies", "jar",
                        url], cwd=tmp_path, check=True, timeout=60)
        found = [entry.split("\t") for entry in
                 Jar.read(str(tmp_path / "jar")).lines_for([url], NOW - 1e9)]
    assert sorted([*entry[:4], *entry[5:]] for entry in found) == [
        [source.host, "FALSE", "/", "FALSE", "s", "1"],
        [source.host, "FALSE", "/", "TRUE", "p", "2"]]
    assert {entry[5]: entry[4] != "0" for entry in found} == {"s": False, "p": True}
