"""What goes wrong at the source, at the command line and on the disk: the right exit code, one
line that says what and what to do, and nothing under the final name.

Each source's fault is met twice: through a manager and without one.
"""
from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from tests.cluster import Cluster, Got, Role
from tests.support import SourceServer
from tests.system.scene import (
    assert_failed,
    becomes,
    clean_cluster,
    content_of,
    half_written,
    warnings_of,
)

pytestmark = pytest.mark.system
CONTENT = content_of(3.5)


@dataclass
class Place:
    """A source, and a peer with a manager beside one without."""

    cluster: Cluster
    source: SourceServer
    manager: Role
    peers: Dict[str, Role] = field(default_factory=dict)

    @property
    def target(self) -> Path:
        return self.cluster.folder / "target"

    def get(self, how: str, url: str, *flags: str, **options: Any) -> Got:
        return self.cluster.get(self.peers[how], url, "-O", str(self.target), "-t", "2",
                                *flags, **options)

    def assert_fails(self, how: str, url: str, code: int, *says: str,
                     flags: Tuple[str, ...] = ()) -> None:
        assert_failed(self.get(how, url, *flags), code, *says)
        assert not self.target.exists() and half_written(self.cluster.folder) == []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("bad")
    with SourceServer() as source, clean_cluster(folder, program) as cluster:
        manager = cluster.manager()
        yield Place(cluster, source, manager, {
            "managed": cluster.peer("--manager", manager.where, name="m"),
            "alone": cluster.peer(name="a")})


BOTH = pytest.mark.parametrize("how", ["managed", "alone"])


# ----------------------------------------------------------------------------- the source
@BOTH
def test_a_source_that_refuses(place: Place, how: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))   # bound, but nobody listens
        port = taken.getsockname()[1]
        place.assert_fails(how, f"http://127.0.0.1:{port}/file", 4, f"127.0.0.1:{port}",
                           "refused")


@BOTH
def test_a_name_that_does_not_exist(place: Place, how: str) -> None:
    place.assert_fails(how, "http://no-such-host.invalid/file", 4, "no-such-host.invalid")


@pytest.mark.parametrize("how, status, code, hint", [
    *((how, *told) for how in ("managed", "alone") for told in (
        (401, 6, "--header"), (403, 8, "credentials"), (404, 8, "check the URL"),
        (418, 8, "headers given"))),
    ("alone", 500, 8, "try again later")])   # a manager tries that for longer
def test_statuses(place: Place, how: str, status: int, code: int, hint: str) -> None:
    url = place.source.add(f"/status{status}-{how}", status=status)
    place.assert_fails(how, url, code, str(status), f"/status{status}-{how}", hint)


@pytest.mark.parametrize("how, ranges", [("managed", False), ("alone", True), ("alone", False)])
def test_a_body_that_is_always_cut(place: Place, how: str, ranges: bool) -> None:
    url = place.source.add(f"/cut-{how}-{ranges}", CONTENT, ranges=ranges, cut_after=1000)
    place.assert_fails(how, url, 4, "ended after 1000", "(tried 2 times)", "goes on")


def test_a_body_shorter_than_its_length(place: Place) -> None:
    size = len(CONTENT)
    url = place.source.add("/short", CONTENT, ranges=False, false_length=500)
    place.assert_fails("alone", url, 4, f"ended after {size} of {size + 500} bytes", "goes on")


@BOTH
def test_a_body_longer_than_its_length_gives_the_length_told(place: Place, how: str) -> None:
    """As wget: what follows a body is of nobody's concern; it may not reach the file."""
    url = place.source.add(f"/long-{how}", CONTENT, ranges=False, surplus=b"more" * 100)
    got = place.get(how, url)
    assert got.code == 0 and place.target.read_bytes() == CONTENT
    place.target.unlink()


@BOTH
def test_a_range_longer_than_asked_for(place: Place, how: str) -> None:
    """A source whose ranges lie is asked for the whole instead."""
    size = len(CONTENT)
    url = place.source.add(f"/lies-{how}", CONTENT, content_range=f"bytes 5-{size - 1}/{size}")
    got = place.get(how, url)
    assert got.code == 0 and place.target.read_bytes() == CONTENT
    place.target.unlink()


@BOTH
def test_a_chunked_body_that_breaks(place: Place, how: str) -> None:
    url = place.source.add(f"/torn-{how}", raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
                           b"\r\n5\r\nhello\r\nzz\r\n")
    place.assert_fails(how, url, 7, "chunk", f"/torn-{how}", "administrator")


@BOTH
def test_no_http_at_all(place: Place, how: str) -> None:
    url = place.source.add(f"/ssh-{how}", raw=b"SSH-2.0-OpenSSH_9.2\r\n" * 3)
    place.assert_fails(how, url, 7, f"/ssh-{how}", "not HTTP", "HTTP server there?")


@BOTH
def test_an_encoded_body(place: Place, how: str) -> None:
    url = place.source.add(f"/packed-{how}", CONTENT, headers=(("Content-Encoding", "gzip"),))
    place.assert_fails(how, url, 7, "gzip", "switch the encoding")


@BOTH
def test_redirects_that_end_nowhere(place: Place, how: str) -> None:
    for name, target, says in (
            ("loop", f"/loop-{how}", "loop"), ("out", "ftp://files.example/a", "only http"),
            ("nowhere", "http://[::bad/", "only http")):
        url = place.source.add(f"/{name}-{how}", redirect=target)
        place.assert_fails(how, url, 7, f"/{name}-{how}", says)


@BOTH
def test_a_redirect_that_leads_somewhere(place: Place, how: str) -> None:
    place.source.add(f"/there-{how}", CONTENT)
    url = place.source.add(f"/here-{how}", redirect=f"/there-{how}")
    assert place.get(how, url).code == 0 and place.target.read_bytes() == CONTENT
    place.target.unlink()


def test_a_source_that_is_silent_for_too_long(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file"
        got = place.get("alone", url, "-T", "1", "-t", "1")
        assert_failed(got, 4, "127.0.0.1")
        assert not place.target.exists()


# ---------------------------------------------------------------------------- the digest
@BOTH
@pytest.mark.parametrize("digest", ["sha256:" + "00" * 32, "sha512:" + "00" * 64,
                                    "md5:" + "00" * 16])
def test_a_wrong_digest(place: Place, how: str, digest: str) -> None:
    content = content_of(3.5, seed=len(digest))   # no other test's
    url = place.source.add(f"/wrong-{how}-{digest[:6]}", content)
    true = hashlib.new(digest.partition(":")[0], content).hexdigest()
    place.assert_fails(how, url, 9, digest, true, flags=("--digest", digest))
    assert not holds_content(place.peers[how], content)
    if digest.startswith("sha256"):   # it names the task: the manager finds out by itself
        assert becomes(lambda: not holds_content(place.manager, content))


def holds_content(role: Role, content: bytes) -> bool:
    """Whether any file of its store is this one."""
    for file in role.store.rglob("data"):
        try:
            if file.read_bytes() == content:
                return True
        except FileNotFoundError:
            continue   # removed while we looked
    return False


# ------------------------------------------------------------------------ the command line
@pytest.mark.parametrize("arguments, says", [
    (["ftp://files.example/a"], "unknown scheme"),
    (["/files.example/a"], "use http:// or https://"),
    (["http://files.example:99999/a"], "malformed URL"),
    (["http:///a"], "names no host"),
    (["http://files example/a"], "%20"),
    (["http://[::1/a"], "malformed URL"),
    (["http://files.example/" + "a" * 9000], "the longest is"),
    (["http://files.example/a", "--digest", "sha256:12"], "sha256"),
    (["http://files.example/a", "--digest", "crc32:12345678"], "crc32"),
    (["http://files.example/a", "--header", "nonsense"], "Name: value"),
    (["http://files.example/a", "--limit-rate", "fast"], "fast"),
    (["http://files.example/a", "--tries", "-1"], "--tries"),
    (["http://files.example/a", "-r"], "doesn't walk through HTML"),
    (["http://files.example/a", "--json", "-O", "-"], "standard output"),
    (["http://files.example/a", "--no-such-option"], "--no-such-option"),
    ([], "URL"),
])
def test_usage(place: Place, arguments: List[str], says: str) -> None:
    got = place.cluster.run("get", *arguments, "--socket", str(place.cluster.folder / "none"))
    assert_failed(got, 2, says)
    assert not (place.cluster.folder / "none").exists()   # no daemon was started for that


@BOTH
def test_headers_that_only_dfly_may_send(place: Place, how: str) -> None:
    url = place.source.add("/headers", CONTENT)
    place.assert_fails(how, url, 2, "Range", flags=("-H", "Range: bytes=0-1"))


# ------------------------------------------------------------------------------ the target
@BOTH
def test_a_target_that_is_a_folder(place: Place, how: str) -> None:
    url = place.source.add("/fine", CONTENT)
    place.target.mkdir()
    try:
        assert_failed(place.get(how, url), 3, "target is a folder", "-P")
        assert list(place.target.iterdir()) == [] and place.source.requests("/fine") == []
    finally:
        place.target.rmdir()


def test_targets_that_cannot_be_written(place: Place) -> None:
    url = place.source.add("/fine2", CONTENT)
    for target, says in (("/proc/nothing/here", "/proc/nothing"),
                         ("/dev/null/x", "Not a directory")):
        got = place.cluster.get(place.peers["managed"], url, "-O", target)
        assert_failed(got, 3, says)
    if os.geteuid():
        place.target.mkdir(mode=0o500)
        got = place.cluster.get(place.peers["alone"], url, "-O", str(place.target / "x"))
        place.target.rmdir()
        assert_failed(got, 3, "writable")


def test_a_device_takes_the_content(place: Place) -> None:
    url = place.source.add("/to-null", CONTENT)
    assert place.cluster.get(place.peers["alone"], url, "-O", "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()


# -------------------------------------------------------------------------------- the disk
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    if os.geteuid():
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(disk)],
                          check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"can't mount a tmpfs: {made.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("full", ["peer", "manager", "alone", "target"])
def test_a_full_disk(small_disk: Path, program: Path, source: SourceServer, tmp_path: Path,
                     full: str, framing: str) -> None:
    big, small = content_of(40), content_of(4, seed=2)
    url = source.add("/big", big, framing=framing, ranges=framing == "length")
    fits = source.add("/small", small)
    folder = tmp_path / "c"
    folder.mkdir()
    with clean_cluster(folder, program) as cluster:
        def store(role: str) -> Tuple[str, ...]:
            return ("--store", str(small_disk / "store")) if full == role else ()

        flags: Tuple[str, ...] = ()
        if full != "alone":
            flags = ("--manager", cluster.manager(*store("manager")).where)
        peer = cluster.peer(*flags, *store("peer"), *store("alone"))
        target = (small_disk if full == "target" else folder) / "target"
        got = cluster.get(peer, url, "-O", str(target))
        if full == "manager":   # it can't help; the peer goes to the source itself, and says why
            assert got.code == 0 and target.read_bytes() == big
            warning, _ = got.err.splitlines()
            assert "warning" in warning and "manager" in warning and "can't hold" in warning
            target.unlink()
        else:
            assert_failed(got, 11, "space" if full == "target" else "MiB", str(small_disk))
        assert not target.exists() and half_written(small_disk) == []
        # what fits is still served
        again = cluster.get(peer, fits, "-O", str(target))
        assert again.code == 0 and target.read_bytes() == small, again.err


# ---------------------------------------------------------------------------- the manager
def test_a_manager_that_is_not_there(cluster: Cluster, source: SourceServer) -> None:
    """The file comes from the source, with a warning that says why; --no-source forbids it."""
    url = source.add("/file", CONTENT)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        peer = cluster.peer("--manager", where)
        target = cluster.folder / "target"
        got = cluster.get(peer, url, "-O", str(target))
        assert got.code == 0 and target.read_bytes() == CONTENT
        warning, summary = got.err.splitlines()
        assert "no P2P" in warning and where in warning and "refused" in warning, warning
        assert "P2P 0%" in summary, summary
        other = source.add("/other", CONTENT)
        got = cluster.get(peer, other, "-O", str(cluster.folder / "other"), "--no-source")
        assert_failed(got, 10, where, "refused")
        assert source.requests("/other") == []


def test_something_else_in_the_managers_place(cluster: Cluster, source: SourceServer) -> None:
    url = source.add("/file", CONTENT)
    peer = cluster.peer("--manager", f"127.0.0.1:{source.port}")
    got = cluster.get(peer, url, "-O", str(cluster.folder / "target"), "--json")
    assert got.code == 0 and (cluster.folder / "target").read_bytes() == CONTENT
    (warning,) = warnings_of(got)
    assert "404" in warning and f"127.0.0.1:{source.port}" in warning, warning
