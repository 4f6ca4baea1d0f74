"""File names from URLs, and names that are taken."""
from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest

from dfly.cli.target import Rules, Target, freshness, name_from_url, parse_modes, target_for
from dfly.errors import FileError, UsageError
from tests.support import MONDAY, SourceServer

MONDAY_S = 1_767_607_200


@pytest.mark.parametrize("url, name", [
    ("http://h/a/file.iso", "file.iso"),
    ("http://h/a%20b", "a b"),
    ("http://h/", "index.html"),
    ("http://h", "index.html"),
    ("http://h/dir/", "index.html"),
    ("http://h/f?x=1", "f?x=1"),
    ("http://h/f#part", "f"),
    ("http://h/a%2Fb", "a_b"),
    ("http://h/%2e%2e", "index.html"),
    ("http://h/..", "index.html"),
    ("http://h/..%2f..%2fetc%2fpasswd", ".._.._etc_passwd"),
    ("http://h/a%00b%1b%0ac%7f", "a_b__c_"),
    ("http://h/a%5cb", "a_b"),
    ("http://h/%C3%A9", "\u00e9"),
    ("http://h/%ff", "\ufffd"),
    ("http://h/%E2%80%AE", "_"),                # a right-to-left override
    ("http://h/f?a=/../b", "f?a=%2F..%2Fb"),
])
def test_a_name_is_never_a_path(url: str, name: str) -> None:
    assert name_from_url(url) == name


def test_a_long_name_is_cut_and_keeps_its_suffix() -> None:
    name = name_from_url("http://h/" + "\u00e9" * 300 + ".tar.gz")
    assert len(name.encode()) <= 240 and name.endswith(".gz")
    assert len(name_from_url("http://h/x." + "y" * 500).encode()) <= 240


def put(target: Target, content: bytes, folder: Path) -> str:
    source = folder / "source"
    source.write_bytes(content)
    with open(source, "rb") as file:
        return target.put(None, file.fileno())


def test_numbers_fill_the_first_gap(tmp_path: Path) -> None:
    for taken in ("f", "f.2"):
        (tmp_path / taken).write_bytes(b"old")
    target = target_for("http://h/f", None, str(tmp_path))
    assert put(target, b"new", tmp_path) == str(tmp_path / "f.1")
    assert put(target, b"newer", tmp_path) == str(tmp_path / "f.3")
    assert (tmp_path / "f").read_bytes() == b"old" == (tmp_path / "f.2").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["f", "f.1", "f.2", "f.3", "source"]


def test_a_dangling_link_is_taken_too(tmp_path: Path) -> None:
    (tmp_path / "f").symlink_to("/nonexistent/elsewhere")
    assert put(target_for("http://h/f", None, str(tmp_path)), b"x", tmp_path).endswith("f.1")


def test_devices_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    target = target_for("http://h/f", str(pipe), None)
    target.check()
    assert put(target, b"through", tmp_path) == str(pipe)
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()


def test_p_does_not_move_o(tmp_path: Path) -> None:
    assert target_for("http://h/f", "here/x", str(tmp_path)).path == "here/x"


def test_the_folder_of_o_must_be_there_and_that_of_p_is_made(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        target_for("http://h/f", str(tmp_path / "gone" / "x"), None).check()
    assert not (tmp_path / "gone").exists()
    target_for("http://h/f", None, str(tmp_path / "new" / "er")).check()
    assert (tmp_path / "new" / "er").is_dir()


def test_checks_come_before_the_download(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a folder"):
        target_for("http://h/f", str(tmp_path), None).check()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError):
        target_for("http://h/f", str(tmp_path / "file" / "x"), None).check()


def test_a_name_that_the_locale_cannot_say_gets_underscores() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from dfly.cli.target import name_from_url\n"
         "print(name_from_url('http://files.example/n%C3%A4.bin'))"], capture_output=True,
        cwd=Path(__file__).resolve().parents[2], text=True, check=True,
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert done.stdout == "n_.bin\n"


def test_a_current_folder_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileError):
        target_for("http://files.example/a", None, None).check()


# ----------------------------------------------------------------------------- rules of names
@pytest.mark.parametrize("modes, url, name", [
    ("windows", "http://h/a%3Ab?Q=x%7Cy", "a%3Ab@Q=x%7Cy"),
    ("windows", "http://h/f%3F", "f%3F"),
    ("ascii", "http://h/n%C3%A4", "n%C3%A4"),
    ("lowercase", "http://h/A%20B%C3%84?Q=X", "a b\u00c4?q=x"),
    ("uppercase", "http://h/a.iso", "A.ISO"),
    ("nocontrol", "http://h/a%1bb", "a_b"),
    ("unix, ascii,LOWERCASE", "http://h/%C3%84", "%c3%84"),
])
def test_restricted_names(modes: str, url: str, name: str) -> None:
    assert Rules(modes=parse_modes(modes)).name(url) == name


@pytest.mark.parametrize("modes", ["vms", "unix,windows", "lowercase,uppercase", "\x1b[2J"])
def test_modes_that_are_none(modes: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_modes(modes)
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize("page, name", [
    ("main.htm", "main.htm"), ("a/b", "a_b"), ("..", "index.html"), ("", "index.html")])
def test_the_default_page(page: str, name: str) -> None:
    assert Rules(default_page=page).name("http://h/dir/") == name


@pytest.mark.parametrize("rules, url, path", [
    ({}, "http://h:80/a/b/f", "h/a/b/f"),
    ({}, "http://H:8080/a/b/f", "h:8080/a/b/f"),
    ({}, "https://u:p@h:80/f", "h:80/f"),
    ({}, "http://h", "h/index.html"),
    ({}, "http://h/d/", "h/d/index.html"),
    ({"host_folder": False}, "http://h/a/f", "a/f"),
    ({"cut": 2}, "http://h/a/b/c/f", "h/c/f"),
    ({"cut": 9}, "http://h/a/b/c/f", "h/f"),
    ({"protocol_folder": True}, "http://h/a/f", "http/h/a/f"),
    ({"protocol_folder": True, "host_folder": False}, "https://h/a/f", "https/a/f"),
    ({"modes": ["windows"]}, "http://h:8080/a%3A/f", "h+8080/a%3A/f"),
    ({"modes": ["uppercase"]}, "http://h:8080/a/f", "H:8080/A/F"),
    ({}, "http://h/a//./b/../f", "h/a/f"),
    ({}, "http://h/../../../etc/f", "h/etc/f"),
    ({}, "http://h/%2e%2e/%2e%2e/etc/f", "h/etc/f"),
    ({}, "http://h/..%2f..%2fetc/...%20/f", "h/.._.._etc/_/f"),
    ({"host_folder": False}, "http://h/%2Fetc/f", "_etc/f"),
    ({}, "http://../a/f", "_/a/f"),
    ({}, "http://h/a%00b%1b/f", "h/a_b_/f"),
])
def test_folders_as_in_the_url(rules: Dict[str, Any], url: str, path: str) -> None:
    assert target_for(url, None, None, Rules(folders=True, **rules)).path == path
    assert target_for(url, None, "p", Rules(folders=True, **rules)).path == "p/" + path
    assert target_for(url, "o", None, Rules(folders=True, **rules)).path == "o"


def test_folders_of_a_shared_content() -> None:
    shared = f"sha256/{'ab' * 32}/f"
    assert target_for(f"dfly://{shared}", None, None, Rules(folders=True)).path == shared


def test_folders_without_end() -> None:
    with pytest.raises(UsageError, match="150 folders"):
        target_for("http://h/" + "a/" * 150, None, None, Rules(folders=True))


@pytest.mark.parametrize("told, name", [
    ("nice.txt", "nice.txt"), ("../../etc/passwd", "_.._etc_passwd"),
    ("/etc/passwd", "_etc_passwd"),
    (".bashrc", "bashrc"), ("..", "f"), ("", "f"), ("a\x00\nb", "a__b"), ("x" * 500, "x" * 240)])
def test_a_name_told_by_a_server_is_no_path_and_hides_nothing(told: str, name: str) -> None:
    target = target_for("http://h/a/f", None, "p", Rules(folders=True))
    assert target.named(told).path == f"p/h/a/{name}"
    assert target_for("http://h/f", "mine", None).named(told).path == "mine"


@pytest.mark.parametrize("seed", range(5))
def test_no_url_and_no_server_leads_out_of_the_folder(seed: int) -> None:
    rng = random.Random(seed)
    pieces = ["..", "/", "%2e", "%2f", "%00", "%5c", ".", "a", "\u202e", "\U0001f600", "?", "~",
              "%c3%a9", "%1b", "x" * 300, ":", "*", " "]
    for _ in range(300):
        said = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        rules = Rules(folders=rng.random() < 0.7, default_page=said, cut=rng.randint(0, 2),
                      modes=rng.sample(["windows", "ascii", "uppercase"], rng.randint(0, 3)))
        target = target_for("http://h/" + said.replace(" ", "%20"), None, "base", rules)
        for path in (target.path, target.named(said).path):
            parts = path.split("/")
            assert parts[0] == "base" and len(parts) > 1 and ".." not in parts, said
            assert path.isprintable() and max(len(part.encode()) for part in parts) <= 255


WGET_SAYS: List[List[str]] = [
    [], ["-x"], ["-x", "-nH"], ["-x", "--cut-dirs=1"], ["-x", "--protocol-directories"],
    ["-nH", "--cut-dirs=1", "--protocol-directories"], ["--default-page=main.htm"],
    ["--restrict-file-names=windows", "-x"], ["--restrict-file-names=ascii,uppercase"]]


@pytest.mark.skipif(shutil.which("wget") is None, reason="needs wget")
@pytest.mark.parametrize("options", WGET_SAYS, ids=" ".join)
def test_names_are_wgets(options: List[str], tmp_path: Path) -> None:
    rules = Rules(folders="-x" in options, host_folder="-nH" not in options,
                  protocol_folder="--protocol-directories" in options,
                  cut=int("--cut-dirs=1" in options),
                  default_page="main.htm" if "--default-page=main.htm" in options else "index.html",
                  modes=[mode for option in options if option.startswith("--restrict")
                         for mode in parse_modes(option.partition("=")[2])])
    paths = ["/a/b/c/file.bin", "/d/", "/", "/a%20b", "/n%C3%A9", "/a:b", "/q?a=1&b=x%20y"]
    with SourceServer() as source:
        for path in paths:
            source.add(path.partition("?")[0], b"x")
        urls = [source.url(path) for path in paths]
        subprocess.run(["wget", "-q", *options, *urls], cwd=tmp_path, check=True, timeout=60,
                       env={**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(tmp_path)})
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    ours = {target_for(url, None, None, rules).path for url in urls}
    assert {path for path in found if not path.endswith(".1")} == ours


# ----------------------------------------------------------------------------- names that are taken
def files(folder: Path) -> Dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != "source"}


def target_in(folder: Path, output: Optional[str] = None, **rules: Any) -> Target:
    place = None if output is None else str(folder / output)
    return target_for("http://h/f", place, str(folder), Rules(**rules))


@pytest.mark.parametrize("output, rules, left", [
    (None, {}, {"f": "old", "f.1": "new"}),
    ("f", {}, {"f": "new"}),
    (None, {"replace": True}, {"f": "new"}),
    (None, {"folders": True, "host_folder": False}, {"f": "new"}),
    (None, {"backups": 1}, {"f": "new", "f.1": "old"}),
    (None, {"backups": 3, "replace": True}, {"f": "new", "f.1": "old"}),
    ("f", {"backups": 1}, {"f": "new"}),
])
def test_what_becomes_of_a_name_that_is_taken(output: Optional[str], rules: Dict[str, Any],
                                              left: Dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    target = target_in(tmp_path, output, **rules)
    target.check()
    assert not target.skipped
    put(target, b"new", tmp_path)
    assert files(tmp_path) == left


@pytest.mark.parametrize("output", [None, "f"])
def test_no_clobber(output: Optional[str], tmp_path: Path) -> None:
    target = target_in(tmp_path, output, no_clobber=True, backups=1)
    assert not target.skipped
    (tmp_path / "f").write_text("old")
    assert target.skipped
    with pytest.raises(FileError, match="appeared"):
        put(target, b"new", tmp_path)
    assert files(tmp_path) == {"f": "old"}
    (tmp_path / "f").unlink()
    (tmp_path / "f").symlink_to("nowhere")
    with pytest.raises(FileError, match="link to nowhere"):
        target.check()
    (tmp_path / "f").unlink()
    (tmp_path / "f").mkdir()
    with pytest.raises(FileError, match="is a folder"):
        target.check()


def test_backups_move_up_and_the_last_falls_off(tmp_path: Path) -> None:
    for content in "abcde":
        put(target_in(tmp_path, backups=3), content.encode(), tmp_path)
    assert files(tmp_path) == {"f": "e", "f.1": "d", "f.2": "c", "f.3": "b"}


def test_a_backup_of_a_link_is_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "f").symlink_to("real")
    put(target_in(tmp_path, backups=1), b"new", tmp_path)
    assert (tmp_path / "f.1").is_symlink() and (tmp_path / "real").read_text() == "old"
    assert (tmp_path / "f").read_text() == "new" and not (tmp_path / "f").is_symlink()


def test_backups_where_there_are_no_hard_links(tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")
    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "f").write_text("old")
    put(target_in(tmp_path, backups=1), b"new", tmp_path)
    assert files(tmp_path) == {"f": "new", "f.1": "old"}


def test_a_backup_that_can_not_be_made_leaves_all_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    (tmp_path / "f.1").mkdir()
    with pytest.raises(FileError):
        put(target_in(tmp_path, backups=1), b"new", tmp_path)
    assert (tmp_path / "f").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["f", "f.1", "source"]


def test_too_many_backups() -> None:
    for count in (-1, 1_000_000):
        with pytest.raises(UsageError):
            Rules(backups=count)


# ----------------------------------------------------------------------------- times
@pytest.mark.parametrize("output", [None, "o"])
def test_the_time_comes_from_the_store_unless_it_is_not_wanted(output: Optional[str],
                                                               tmp_path: Path) -> None:
    stored = tmp_path / "stored"
    stored.write_bytes(b"x")
    os.utime(stored, (1_600_000_000, 1_600_000_000))
    with open(stored, "rb") as file:
        kept = target_in(tmp_path, output).put(str(stored), file.fileno())
        assert os.stat(kept).st_mtime == 1_600_000_000
        assert os.stat(kept).st_ino == os.stat(stored).st_ino
        fresh = target_in(tmp_path, output, server_time=False).put(str(stored), file.fileno())
    assert os.stat(fresh).st_mtime > 1_700_000_000
    assert os.stat(stored).st_mtime == 1_600_000_000


@pytest.mark.parametrize("told, wanted, stamped", [
    (MONDAY, True, True), (MONDAY, False, False), ("", True, False), ("rubbish", True, False),
    ("Mon, 05 Jan 1601 10:00:00 GMT", True, False)])
def test_a_file_of_our_own_is_given_the_time(told: str, wanted: bool, stamped: bool,
                                             tmp_path: Path) -> None:
    target = target_in(tmp_path, server_time=wanted)
    with target.temporary() as own, open(own, "x+b") as file:
        path = target.take(own, file.fileno(), told)
    assert (os.stat(path).st_mtime == MONDAY_S) == stamped


def test_devices_are_given_no_time(tmp_path: Path) -> None:
    before = os.stat("/dev/null").st_mtime
    put(target_for("http://h/f", "/dev/null", None, Rules(server_time=False)), b"x", tmp_path)
    assert os.stat("/dev/null").st_mtime == before


@pytest.mark.parametrize("size, age_s, length, told, fetch, why", [
    (11, 0, 11, MONDAY, False, "no newer than local"),
    (11, 0, None, MONDAY, False, "no newer than local"),
    (11, 1, 11, MONDAY, True, "Remote file is newer"),
    (11, -1, 11, MONDAY, False, "no newer than local"),
    (4, 0, 11, MONDAY, True, "The sizes do not match (local 4)"),
    (11, 0, 11, "", True, "missing"),
    (11, 0, 11, "rubbish", True, "invalid"),
])
def test_what_is_fresh(size: int, age_s: int, length: Optional[int], told: str, fetch: bool,
                       why: str, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(bytes(size))
    os.utime(file, (MONDAY_S - age_s, MONDAY_S - age_s))
    found = freshness("f", file.stat(), length, told)
    assert found.fetch == fetch and why in found.why


def test_what_is_not_there_is_fetched() -> None:
    assert freshness("f", None, 11, MONDAY).fetch
