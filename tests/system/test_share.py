"""`dfly share`: a local file spreads from the swarm alone, whoever leaves, dies or lies."""
from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from dfly.digest import Digest
from dfly.names import shared_url
from dfly.source import Version
from dfly.task import TaskSpec, full_set, piece_size_for
from dfly.wire.messages import Hello, Offer, Welcome
from tests.cluster import Cluster, Got, Role, finish, star_missing, star_module
from tests.support import SourceServer
from tests.system.scene import (
    PIECE,
    assert_failed,
    becomes,
    clean_cluster,
    content_of,
    holds,
    sha256,
    start_get,
)
from tests.system.test_hostile import Liar, Wire, holds_nothing, other_ranges, wrong_bytes

pytestmark = [pytest.mark.system, pytest.mark.long]
CONTENT = content_of(16)   # of the same size as that of the liars
SLOW = "2MB"               # a second: what is under way can be seen


def file_of(cluster: Cluster, content: bytes = CONTENT, name: str = "image.iso") -> Path:
    path = cluster.folder / name
    path.write_bytes(content)
    return path


def share(cluster: Cluster, peer: Role, path: Path, *flags: str) -> Got:
    return cluster.run("share", str(path), "--socket", peer.socket, "--settings",
                       str(cluster.folder / "empty.conf"), *flags)


def url_of(cluster: Cluster, peer: Role, path: Path) -> str:
    """Share it; the URL."""
    got = share(cluster, peer, path)
    assert got.code == 0, got.err
    return got.out.decode().rstrip("\n")


@pytest.fixture
def manager(cluster: Cluster) -> Role:
    return cluster.manager()


@pytest.fixture
def peers(cluster: Cluster, manager: Role) -> Iterator[List[Role]]:
    yield [cluster.peer("--manager", manager.where, name=f"p{number}") for number in range(3)]


# ---------------------------------------------------------------------------- the main job
def test_a_shared_file_comes_from_the_swarm_alone_and_outlives_its_sharer(
        cluster: Cluster, manager: Role, peers: List[Role]) -> None:
    path = file_of(cluster)
    first, second, third = peers
    told = share(cluster, first, path)
    url = f"dfly://sha256/{sha256(CONTENT)}/image.iso"
    assert (told.code, told.out.decode()) == (0, f"{url}\n"), told.err
    assert manager.where in told.err and "4.00 MiB" in told.err
    path.unlink()   # what was shared is a copy
    got = cluster.get(second, url, "-P", str(cluster.folder / "got"), "--json")
    assert got.code == 0, got.err
    assert (cluster.folder / "got" / "image.iso").read_bytes() == CONTENT
    assert got.last["from_source"] == 0
    assert got.last["from_peers"] + got.last["from_manager"] == len(CONTENT)
    first.kill()
    second.kill()
    late = cluster.get(third, f"dfly://sha256/{sha256(CONTENT)}", "-O", "-")
    assert late.code == 0 and late.out == CONTENT


def test_it_leaves_its_host_about_once(cluster: Cluster, manager: Role,
                                       peers: List[Role]) -> None:
    """While the only host that has it is what all wait for, nothing is asked of it twice."""
    (sharer,) = slow_sharers(cluster, manager, 1)
    url = url_of(cluster, sharer, file_of(cluster))
    runs = [start_get(cluster, peer, url, cluster.folder / peer.name / "copy") for peer in peers]
    assert [run.end().code for run in runs] == [0] * len(runs)
    status = cluster.run("status", "--socket", sharer.socket, "--json")
    assert len(CONTENT) <= json.loads(status.out)["sent_bytes"] < 1.5 * len(CONTENT)
    status = cluster.run("status", "--manager", manager.where, "--json")
    assert json.loads(status.out)["source_bytes"] == len(CONTENT)


@pytest.mark.parametrize("size", [1, 64 * 1024, PIECE + 1])
def test_small_files_and_odd_names(cluster: Cluster, peers: List[Role], size: int) -> None:
    url = url_of(cluster, peers[0], file_of(cluster, CONTENT[:size], "an odd näme?.bin"))
    assert url.isascii() and " " not in url
    assert cluster.get(peers[1], url, "-O", "-").out == CONTENT[:size]
    own = cluster.get(peers[0], url, "-O", "-")   # whole here: nobody is asked
    assert own.code == 0 and own.out == CONTENT[:size]


def test_a_name_that_hides_a_file_stays_so_and_is_told(cluster: Cluster, peers: List[Role]) -> None:
    url = url_of(cluster, peers[0], file_of(cluster, CONTENT[:5], ".profile"))
    assert url.endswith("/.profile")
    folder = cluster.folder / "got"
    got = cluster.get(peers[1], url, "-P", str(folder))
    assert got.code == 0 and "/.profile: 5 B" in got.err
    assert os.listdir(folder) == [".profile"]


def test_options_of_get_that_are_about_sources(cluster: Cluster, peers: List[Role]) -> None:
    """Each does what it can for a content that has none, or is refused in one line."""
    content = CONTENT[:500]
    url = url_of(cluster, peers[0], file_of(cluster, content, "f"))
    files = {name: cluster.folder / name for name in ("sums", "list", "cookies", "ask", "told")}
    files["sums"].write_text(f"{sha256(content)}  f\n")
    files["list"].write_text(f"{url}\nsha256:{sha256(content)} {url}\n")
    files["ask"].write_text(f"#!/bin/sh\necho asked > {files['told']}\n")
    files["ask"].chmod(0o755)
    for number, (words, names) in enumerate((
            ("-x", [url.partition("://")[2]]), ("-x -nH --cut-dirs=1", ["f"]),
            ("--checksum-file={sums}", ["f"]), ("-i {list}", ["f", "f.1", "f.2"]),
            ("--load-cookies={cookies} --save-cookies={cookies}", ["f"]),
            ("--user=u --password=p -H X:secret", ["f"]), ("--use-askpass={ask}", ["f"]),
            ("-N", ["f"]), ("-S", ["f"]), ("-c", ["f"]), ("--spider -S", []), ("--method=HEAD", []),
            ("--content-disposition --trust-server-names", ["f"]))):
        folder = cluster.folder / str(number)
        got = cluster.get(peers[1], url, "-q", "-P", str(folder), *words.format(**files).split())
        assert got.code == 0 and "Traceback" not in got.err, (words, got.err)
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        assert [str(path.relative_to(folder)) for path in found] == names, words
        assert all(path.read_bytes() == content for path in found)
    assert not files["told"].exists()   # nobody is there whom to tell a password
    for words, what in (("--no-p2p", "only the swarm has"), ("--range=0-4", "a part of a shared"),
                        ("--mirror http://127.0.0.1:1/f", "has no mirrors")):
        assert_failed(cluster.get(peers[1], url, "-O", "-", *words.split()), 2, what)


def test_a_shared_content_by_dfgets_options(cluster: Cluster, peers: List[Role],
                                            program: Path) -> None:
    url = url_of(cluster, peers[0], file_of(cluster, CONTENT[:500], "f"))
    dfget = cluster.folder / "dfget"
    dfget.symlink_to(program)
    out = cluster.folder / "out"
    for words, code in ((["-u", url, "-f", "a&b", "-i", "id"], 0), (["-u", url + "?x"], 2)):
        done = subprocess.run([sys.executable, str(dfget), *words, "-o", str(out)], text=True,
                              env={**os.environ, "DFLY_SOCKET": peers[1].socket, "HOME":
                                   str(cluster.folder)}, capture_output=True, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert out.read_bytes() == CONTENT[:500]


def test_to_share_again_makes_no_second_copy(cluster: Cluster, peers: List[Role]) -> None:
    path = file_of(cluster)
    os.utime(path)
    first, again = (share(cluster, peers[0], path, "--json") for _ in range(2))
    assert (first.code, again.code) == (0, 0), again.err
    assert first.last == again.last
    assert first.last["url"] == shared_url(f"sha256:{sha256(CONTENT)}", "image.iso")
    assert len(list((peers[0].folder / "store").rglob("data"))) == 1


def test_several_files_and_one_that_isnt_there(cluster: Cluster, peers: List[Role]) -> None:
    paths = [file_of(cluster, CONTENT[:size], f"f{size}") for size in (5, 6)]
    folder = cluster.folder / "folder"
    folder.mkdir()
    got = cluster.run("share", str(paths[0]), str(folder), str(paths[1]), "-q", "--socket",
                      peers[0].socket)
    assert got.code == 3 and got.err.count("\n") == 1 and "is a folder" in got.err
    assert [line.rpartition("/")[2] for line in got.out.decode().split()] == ["f5", "f6"]
    assert_failed(share(cluster, peers[0], cluster.folder / "absent"), 3, "No such file")


def test_a_wrong_weak_digest_costs_nobody_the_content(cluster: Cluster,
                                                     peers: List[Role]) -> None:
    url = url_of(cluster, peers[0], file_of(cluster))
    got = cluster.get(peers[0], url, "-m", "0" * 32, "-O", "-")
    assert got.code == 9 and "expected md5:" in got.err
    for peer in peers:
        got = cluster.get(peer, url, "-O", "-")
        assert got.code == 0 and got.out == CONTENT, got


# ------------------------------------------------------------------------------ no manager
def test_without_a_manager_it_is_kept_and_offered_when_one_comes(cluster: Cluster) -> None:
    reserved = socket.create_server(("127.0.0.1", 0))
    port = reserved.getsockname()[1]
    reserved.close()
    peer = cluster.peer("--manager", f"127.0.0.1:{port}")
    path = file_of(cluster)
    assert_failed(share(cluster, peer, path), 10, "no manager was told", "kept")
    cluster.manager(port=port)
    assert becomes(lambda: share(cluster, peer, path).code == 0)
    other = cluster.peer("--manager", f"127.0.0.1:{port}", name="other")
    got = cluster.get(other, shared_url(f"sha256:{sha256(CONTENT)}"), "-O", "-")
    assert got.code == 0 and got.out == CONTENT


def test_no_daemon_and_none_to_be_started(cluster: Cluster) -> None:
    got = cluster.run("share", str(file_of(cluster)), "--no-start", "--socket",
                      str(cluster.folder / "nobody"))
    assert_failed(got, 4, "no peer daemon runs")


def test_a_daemon_that_shares_is_not_idle(cluster: Cluster, manager: Role) -> None:
    peer = cluster.peer("--manager", manager.where, "--idle-exit", "1s")
    url_of(cluster, peer, file_of(cluster))
    assert not becomes(lambda: peer.process.poll() is not None, 4.0)
    removed = cluster.run("cache", "rm", "--all", "--socket", peer.socket)
    assert removed.code == 0 and peer.process.wait(20) == 0


# ------------------------------------------------------------------------- wrong questions
def test_what_nobody_shares(cluster: Cluster, peers: List[Role]) -> None:
    url = "dfly://sha256/" + "ab" * 32
    assert_failed(cluster.get(peers[0], url, "-O", "-"), 10, "no host of this cluster has it")
    alone = cluster.peer(name="alone")
    assert_failed(cluster.get(alone, url, "-O", "-"), 10, "no manager can give the file")


@pytest.mark.parametrize("url, flags, says", [
    ("dfly://sha256/abc", (), "64 hex digits"), ("dfly://md5/" + "ab" * 16, (), "malformed URL"),
    ("dfly://sha256/" + "ab" * 32 + "?x=1", (), "malformed URL"),
    ("dfly://sha256/" + "ab" * 32 + "/a/b", (), "malformed URL"),
    ("dfly://sha256/" + "ab" * 32, ("--digest", "sha256:" + "cd" * 32), "contradict each other")])
def test_urls_that_can_not_be(cluster: Cluster, peers: List[Role], url: str,
                              flags: "tuple[str, ...]", says: str) -> None:
    assert_failed(cluster.get(peers[0], url, "-O", "-", *flags), 2, says)


# ----------------------------------------------------------------------- who dies or leaves
def slow_sharers(cluster: Cluster, manager: Role, count: int) -> List[Role]:
    return [cluster.peer("--manager", manager.where, "--upload-limit", SLOW, name=f"slow{number}")
            for number in range(count)]


def test_a_sharer_is_killed_and_another_goes_on(cluster: Cluster, manager: Role) -> None:
    path = file_of(cluster)
    first, second = slow_sharers(cluster, manager, 2)
    urls = [url_of(cluster, peer, path) for peer in (first, second)]
    assert urls[0] == urls[1]
    getter = cluster.peer("--manager", manager.where, name="getter")
    run = start_get(cluster, getter, urls[0], cluster.folder / "copy")
    run.until(holds(3))
    first.kill()
    got = run.end()
    assert got.code == 0 and (cluster.folder / "copy").read_bytes() == CONTENT, got.err


def test_the_only_sharer_is_killed_and_shared_again_it_goes_on(
        cluster: Cluster, manager: Role) -> None:
    path = file_of(cluster)
    (sharer,) = slow_sharers(cluster, manager, 1)
    url = url_of(cluster, sharer, path)
    getter = cluster.peer("--manager", manager.where, name="getter")
    run = start_get(cluster, getter, url, cluster.folder / "copy")
    run.until(holds(3))
    sharer.kill()
    failed = run.end()
    assert_failed(failed, 10, "are gone")
    assert not (cluster.folder / "copy").exists()
    fast = cluster.peer("--manager", manager.where, name="fast")
    assert url_of(cluster, fast, path) == url
    got = cluster.get(getter, url, "-O", str(cluster.folder / "copy"), "--json")
    assert got.code == 0 and (cluster.folder / "copy").read_bytes() == CONTENT, got.err
    assert got.last["from_cache"] >= 3 * PIECE


def test_the_sharer_starts_anew(cluster: Cluster, manager: Role) -> None:
    sharer, getter = (cluster.peer("--manager", manager.where, name=name) for name in "sg")
    url = url_of(cluster, sharer, file_of(cluster))
    sharer.kill()
    run = start_get(cluster, getter, url, cluster.folder / "copy")
    cluster.peer("--manager", manager.where, name="s")
    got = run.end()   # it waited: a manager that has just started hasn't heard of all hosts yet
    assert got.code == 0 and (cluster.folder / "copy").read_bytes() == CONTENT, got.err


@pytest.mark.parametrize("held", [True, False])
def test_the_manager_starts_anew(cluster: Cluster, manager: Role, held: bool) -> None:
    """Whether it kept what it had, or has a new disk."""
    sharer, getter = (cluster.peer("--manager", manager.where, name=name) for name in "sg")
    url = url_of(cluster, sharer, file_of(cluster))
    if held:
        assert cluster.get(getter, url, "-O", "-").out == CONTENT
        getter.kill()
        getter = cluster.peer("--manager", manager.where, name="other")
    manager.kill()
    cluster.manager(port=manager.port, name="manager" if held else "new")
    got = cluster.get(getter, url, "-O", "-")
    assert got.code == 0 and got.out == CONTENT, got.err


def test_a_source_with_the_same_content_is_the_same_task(
        cluster: Cluster, source: SourceServer, peers: List[Role]) -> None:
    url = source.add("/file", CONTENT)
    digest = f"sha256:{sha256(CONTENT)}"
    assert cluster.get(peers[0], url, "--digest", digest, "-O", "-").out == CONTENT
    before = source.body_bytes
    assert cluster.get(peers[1], shared_url(digest), "-O", "-").out == CONTENT
    share(cluster, peers[2], file_of(cluster))
    assert cluster.get(peers[2], url, "--digest", digest, "-O", "-").out == CONTENT
    assert source.body_bytes == before == len(CONTENT)


def test_to_know_its_digest_opens_no_private_content(
        cluster: Cluster, source: SourceServer, manager: Role, peers: List[Role]) -> None:
    """Not while its task is led, not after, and not for a host that says that it shares it;
    who has the content and shares it may."""
    url = source.add("/private", CONTENT, authorization="Bearer mine")
    digest = f"sha256:{sha256(CONTENT)}"
    mine = ("--digest", digest, "-H", "Authorization: Bearer mine", "-O", "-")
    assert cluster.get(peers[0], url, *mine).out == CONTENT
    liar = FalseSharer(manager, holds_nothing)
    try:
        stranger = cluster.get(peers[1], shared_url(digest), "-O", "-")
    finally:
        liar.close()
    assert_failed(stranger, 10, "private")
    assert cluster.get(peers[2], url, *mine).out == CONTENT   # its swarm goes on
    manager.kill()
    cluster.manager(port=manager.port)
    assert_failed(cluster.get(peers[1], shared_url(digest), "-O", "-"), 10, "no host")
    assert share(cluster, peers[0], file_of(cluster)).code == 0
    assert cluster.get(peers[1], shared_url(digest), "-O", "-").out == CONTENT


# -------------------------------------------------------------------------------- liars
class FalseSharer(Liar):
    """Offers what it hasn't. It says of itself what an honest host would, but for `length`."""

    def __init__(self, manager: Role, answer: Callable[[socket.socket, int, int], None],
                 length: int = len(CONTENT)) -> None:
        self.asked = 0
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: List[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        self.host_id = os.urandom(16)
        self.wire = Wire.to_manager(manager.port)
        self.wire.say(Hello(self.host_id, self._listener.getsockname()[1], "liar"))
        self.wire.until(Welcome)
        digest = Digest.parse(f"sha256:{sha256(CONTENT)}")
        version = Version(f'"sha256-{digest.value.hex()}"', length=length).token
        self._offer = (TaskSpec("", digest=digest).task_id, version, piece_size_for(length),
                       length, full_set(-(-length // piece_size_for(length))))
        threading.Thread(target=self._go_on_offering, daemon=True).start()

    def _go_on_offering(self) -> None:
        request = 1
        self.wire.say(Offer(request, *self._offer))
        while True:
            message = self.wire.hear()
            if message is None:
                return
            if type(message).__name__ in ("TaskFailed", "Changed"):
                request += 1
                self.wire.say(Offer(request, *self._offer))


@pytest.mark.parametrize("answer", [holds_nothing, other_ranges])
def test_who_shares_nothing_costs_time_only(
        cluster: Cluster, manager: Role,
        answer: Callable[[socket.socket, int, int], None]) -> None:
    liar = FalseSharer(manager, answer)
    try:
        sharer, getter = (cluster.peer("--manager", manager.where, name=name) for name in "sg")
        url = url_of(cluster, sharer, file_of(cluster))
        got = cluster.get(getter, url, "-O", "-")
    finally:
        liar.close()
    assert got.code == 0 and got.out == CONTENT and liar.asked, got.err


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) - 1])
def test_other_bytes_get_to_nobody_and_the_truth_comes_after(
        cluster: Cluster, manager: Role, length: int) -> None:
    liar = FalseSharer(manager, wrong_bytes, length)
    try:
        sharer, getter = (cluster.peer("--manager", manager.where, name=name) for name in "sg")
        url = url_of(cluster, sharer, file_of(cluster))
        copy = cluster.folder / "copy"
        failed = cluster.get(getter, url, "-O", str(copy))
        assert failed.code != 0 and not copy.exists() and liar.asked
        assert becomes(lambda: cluster.get(getter, url, "-O", str(copy)).code == 0)
    finally:
        liar.close()
    assert copy.read_bytes() == CONTENT
    blamed = [line for line in manager.text().splitlines() if "is quarantined" in line]
    assert all("host liar " in line for line in blamed)   # nobody else was taken for it
    own = cluster.get(sharer, url, "-O", str(copy), "--json")
    assert own.code == 0 and own.last["from_cache"] == len(CONTENT)   # it lost nothing


# ------------------------------------------------------------------------------ the cache
def test_export_writes_what_is_whole_here(cluster: Cluster, peers: List[Role]) -> None:
    url = url_of(cluster, peers[0], file_of(cluster))
    target = cluster.folder / "exported"
    flags = ("--socket", peers[0].socket)
    assert cluster.run("cache", "export", url, str(target), *flags).code == 0
    assert target.read_bytes() == CONTENT
    out = cluster.run("cache", "export", f"sha256:{sha256(CONTENT)}", "-", *flags)
    assert out.code == 0 and out.out == CONTENT
    assert_failed(cluster.run("cache", "export", "ffffff", "-", *flags), 2, "no tasks here")


# --------------------------------------------------------------------------------- cables
@pytest.fixture
def star(tmp_path: Path, program: Path) -> Iterator[Cluster]:
    """Six hosts with links of their own, and host 0 for the manager."""
    with star_module().Star(hosts=6, host_rate="100mbit", source_rate="200mbit") as star, (
            clean_cluster(tmp_path, program)) as cluster:
        cluster.star = star
        yield cluster


@pytest.mark.skipif(bool(star_missing()), reason=star_missing())
@pytest.mark.parametrize("pulled", [False, True])
def test_hosts_with_cables(star: Cluster, pulled: bool) -> None:
    """A shared file costs its host about one upload; one that is cut off holds nobody up if
    another shares the same file."""
    content = content_of(60.3)
    path = file_of(star, content)
    manager = star.manager(host=0)
    peers = [star.peer("--manager", manager.where, host=host, name=f"h{host}")
             for host in range(1, 7)]
    sharers, getters = (peers[:2], peers[2:]) if pulled else (peers[:1], peers[1:])
    for host, peer in enumerate(sharers, 1):
        got = finish(star.popen(host, ["share", str(path), "--socket", peer.socket]))
        assert got.code == 0, got.err
    net: Any = star.star
    before = net.stats()
    gets = [star.get_popen(peer, shared_url(f"sha256:{sha256(content)}"), "-O",
                           str(star.folder / f"copy{peer.name}"), "--json",
                           host=int(peer.name[1:])) for peer in getters]
    if pulled:
        while b'"progress"' not in gets[0].stdout.readline():
            pass    # until it is on its way
        net.run(1, ["ip", "link", "set", "eth0", "down"])
    ended = [finish(get) for get in gets]
    assert [get.code for get in ended] == [0] * len(gets), ended
    for peer in getters:
        assert (star.folder / f"copy{peer.name}").read_bytes() == content
    if pulled:
        net.run(1, ["ip", "link", "set", "eth0", "up"])
    else:
        assert (net.stats()[1]["tx"] - before[1]["tx"]) / len(content) < 1.5
