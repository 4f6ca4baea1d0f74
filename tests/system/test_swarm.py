"""What dfly is for: one file from one source to many hosts, each byte leaving the source once."""
from __future__ import annotations

import hashlib
import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List

import pytest

from tests.cluster import Cluster, Got, Role
from tests.support import SourceServer, open_descriptors
from tests.system.scene import (
    PIECE,
    assert_failed,
    becomes,
    clean_cluster,
    content_of,
    sent,
    sha256,
    start_get,
    warnings_of,
)

pytestmark = pytest.mark.system
PEERS = 4


@dataclass
class Swarm:
    """A source, a manager and some peers that all tests of this file share."""

    cluster: Cluster
    source: SourceServer
    manager: Role
    peers: List[Role]
    alone: Role      # a peer without a manager

    @property
    def folder(self) -> Path:
        return self.cluster.folder

    def get(self, peer: Role, url: str, *flags: str) -> Got:
        return self.cluster.get(peer, url, *flags)

    def get_everywhere(self, url: str, *flags: str) -> List[bytes]:
        """Download on every peer at once; the copies. They leave with the caller."""
        name = url.rpartition("/")[2]
        copies = [self.folder / f"{name}.{peer.name}" for peer in self.peers]
        runs = [start_get(self.cluster, peer, url, copy, *flags)
                for peer, copy in zip(self.peers, copies)]
        self.last = [run.end() for run in runs]
        assert [got.code for got in self.last] == [0] * len(runs), self.last
        return [copy.read_bytes() for copy in copies]


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Swarm]:
    folder = tmp_path_factory.mktemp("swarm")
    with SourceServer() as source, clean_cluster(folder, program) as cluster:
        manager = cluster.manager()
        peers = [cluster.peer("--manager", manager.where, name=f"p{number}")
                 for number in range(PEERS)]
        yield Swarm(cluster, source, manager, peers, cluster.peer(name="alone"))


# --------------------------------------------------------------------------- the main job
def test_peers_at_once_take_each_byte_from_the_source_once(swarm: Swarm) -> None:
    content = content_of(20.3)
    url = swarm.source.add("/at-once", content)
    assert swarm.get_everywhere(url) == [content] * PEERS
    assert sent(swarm.source, "/at-once") == len(content)
    done = [got.last for got in swarm.last]
    assert sum(event["from_peers"] for event in done) > 0
    for event in done:
        assert event["event"] == "done" and event["from_source"] == 0
        assert event["from_peers"] + event["from_manager"] == len(content) == event["bytes"]


def test_a_late_joiner_costs_the_source_no_body(swarm: Swarm) -> None:
    content = content_of(6)
    url = swarm.source.add("/late", content)
    first, *_, late = swarm.peers
    assert swarm.get(first, url, "-O", str(swarm.folder / "a")).code == 0
    assert swarm.get(late, url, "-O", str(swarm.folder / "b")).code == 0
    assert (swarm.folder / "b").read_bytes() == content
    assert sent(swarm.source, "/late") == len(content)
    assert {exchange.status for exchange in swarm.source.requests("/late")[1:]} <= {304}


def test_the_same_host_again_takes_nothing_from_anyone(swarm: Swarm) -> None:
    content = content_of(3)
    url = swarm.source.add("/again", content)
    target = swarm.folder / "again"
    swarm.get(swarm.peers[0], url, "-O", str(target))
    target.unlink()
    got = swarm.get(swarm.peers[0], url, "-O", str(target), "--json")
    assert got.last["from_cache"] == len(content) == got.last["bytes"]
    assert target.read_bytes() == content and sent(swarm.source, "/again") == len(content)


def test_what_was_removed_from_the_cache_comes_from_the_swarm_again(swarm: Swarm) -> None:
    content = content_of(4)
    url = swarm.source.add("/removed", content)
    holder, other, *_ = swarm.peers
    for peer in (holder, other):
        got = swarm.get(peer, url, "-O", str(swarm.folder / f"removed-{peer.name}"), "--json")
    data = Path(got.last["path"])
    assert data.exists()
    removed = swarm.cluster.run("cache", "rm", got.last["task"], "--socket", other.socket)
    assert removed.code == 0 and not data.exists(), removed.err
    assert becomes(lambda: not any(str(data) in entry     # its room is free, too
                                   for entry in open_descriptors(str(other.process.pid))), 20.0)
    target = swarm.folder / "again-removed"
    got = swarm.get(other, url, "-O", str(target), "--json")
    assert got.code == 0 and target.read_bytes() == content and got.last["from_cache"] == 0
    assert data.exists() and sent(swarm.source, "/removed") == len(content)


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, PIECE, PIECE + 1])
def test_small_files(swarm: Swarm, size: int) -> None:
    content = content_of(2)[:size]
    url = swarm.source.add(f"/small{size}", content)
    assert swarm.get_everywhere(url) == [content] * PEERS
    assert sent(swarm.source, f"/small{size}") == size
    assert swarm.get(swarm.alone, url, "-O", "-").out == content


def test_a_small_file_that_is_not_here_yet_is_given_to_nobody(swarm: Swarm) -> None:
    """Not as a piece, and not in the answer to Join, which peers believe."""
    content = content_of(0.2)
    with SourceServer() as source:
        url = source.add("/slow-small", content, stall_after=1000)
        first = start_get(swarm.cluster, swarm.peers[0], url, swarm.folder / "small0")
        source.wait_until(lambda: bool(source.log) and source.log[0].sent == 1000)
        others = [start_get(swarm.cluster, peer, url, swarm.folder / f"small{number}")
                  for number, peer in enumerate(swarm.peers[1:], 1)]
        for other in others:
            other.until(lambda event: event["event"] in ("accepted", "done"))
        source.go_on()
        for number, run in enumerate([first, *others]):
            assert run.end().code == 0
            assert (swarm.folder / f"small{number}").read_bytes() == content
        assert source.body_bytes == len(content)


def test_a_chunked_source_of_unknown_length(swarm: Swarm) -> None:
    content = content_of(18.5)
    url = swarm.source.add("/chunked", content, framing="chunked", ranges=False)
    assert swarm.get_everywhere(url) == [content] * PEERS
    assert sent(swarm.source, "/chunked") == len(content)
    assert all(got.last["length"] == len(content) for got in swarm.last)
    swarm.source.add("/chunked2", content, framing="chunked", ranges=False, etag="",
                     last_modified="")
    for peer in (swarm.peers[0], swarm.alone):
        assert swarm.get(peer, swarm.source.url("/chunked2"), "-O", "-").out == content


@pytest.mark.parametrize("size", [0, 10, PIECE * 4])
def test_a_chunked_source_may_be_small_or_end_with_a_piece(swarm: Swarm, size: int) -> None:
    content = content_of(4)[:size]
    url = swarm.source.add(f"/chunked-{size}", content, framing="chunked", ranges=False)
    assert swarm.get_everywhere(url) == [content] * PEERS


def test_without_any_manager_a_file_comes_straight_from_the_source(swarm: Swarm) -> None:
    content = content_of(9.1)
    url = swarm.source.add("/alone", content)
    target = swarm.folder / "alone-copy"
    got = swarm.get(swarm.alone, url, "-O", str(target), "--json")
    assert got.code == 0 and target.read_bytes() == content
    assert got.events[0]["via"] == "source"
    assert got.last["from_source"] == len(content) == sent(swarm.source, "/alone")
    assert warnings_of(got) == []   # none was configured: nothing was lost


# --------------------------------------------------------------------------- -O -
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("managed", [True, False])
def test_standard_output_gets_the_first_pieces_while_the_source_stalls(
        swarm: Swarm, framing: str, managed: bool) -> None:
    content = content_of(20)
    # Of a file of unknown length (1 MiB pieces) a manager holds the latest piece back: it may be
    # the last, and short.
    ready = 4 * PIECE if framing == "chunked" and managed else 8 * PIECE
    with SourceServer() as source:
        url = source.add("/stalls", content, ranges=False, framing=framing, stall_after=8 * PIECE)
        process = swarm.cluster.get_popen(swarm.peers[0] if managed else swarm.alone, url,
                                          "-O", "-", "-q")
        assert process.stdout is not None
        assert process.stdout.read(ready) == content[:ready]
        source.go_on()
        assert process.stdout.read() == content[ready:]
        assert process.wait(30) == 0


def test_a_reader_that_leaves_ends_the_download(swarm: Swarm) -> None:
    """dfly get -O - URL | head: no error text, no endless download."""
    with SourceServer() as source:
        url = source.add("/piped", content_of(40), ranges=False, stall_after=30 * PIECE)
        process = swarm.cluster.get_popen(swarm.alone, url, "-O", "-")
        assert process.stdout is not None and process.stderr is not None
        assert len(process.stdout.read(100)) == 100
        process.stdout.close()
        assert process.wait(30) == 141
        source.wait_until(lambda: source.requests("/piped")[0].client_left)
        assert process.stderr.read() == b""
        process.stdout = None


# ------------------------------------------------------------------------------ options
def test_several_urls_into_a_folder(swarm: Swarm) -> None:
    contents = [content_of(2, seed) for seed in (1, 2, 3)]
    urls = [swarm.source.add(f"/dir/file{number}", content)
            for number, content in enumerate(contents)]
    folder = swarm.folder / "made" / "here"
    got = swarm.get(swarm.peers[1], urls[0], urls[1], swarm.source.url("/dir/no"), urls[2],
                    "-P", str(folder))
    assert got.code == 8   # as wget: the others are there nevertheless
    assert [(folder / f"file{number}").read_bytes() for number in range(3)] == contents
    lines = got.err.splitlines()
    assert len(lines) == 4 and "404" in lines[2] and "P2P 100%" in lines[0], got.err


def test_a_name_that_is_taken_gives_way(swarm: Swarm) -> None:
    url = swarm.source.add("/taken", b"new")
    folder = swarm.folder / "taken-folder"
    folder.mkdir()
    (folder / "taken").write_bytes(b"old")
    assert swarm.get(swarm.peers[0], url, "-P", str(folder)).code == 0
    assert (folder / "taken").read_bytes() == b"old"
    assert (folder / "taken.1").read_bytes() == b"new"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "md5"])
def test_a_digest_that_fits(swarm: Swarm, algorithm: str) -> None:
    content = content_of(5, seed=len(algorithm))
    url = swarm.source.add(f"/digest-{algorithm}", content)
    value = hashlib.new(algorithm, content).hexdigest()
    flags = ["--md5", value] if algorithm == "md5" else ["--digest", f"{algorithm}:{value}"]
    assert swarm.get_everywhere(url, *flags) == [content] * PEERS
    assert sent(swarm.source, f"/digest-{algorithm}") == len(content)


def test_one_digest_is_one_task_whatever_the_url(swarm: Swarm) -> None:
    content = content_of(4, seed=77)
    one, two = swarm.source.add("/mirror1", content), swarm.source.add("/mirror2", content)
    flags = ["--digest", f"sha256:{sha256(content)}", "-O", "-"]
    assert swarm.get(swarm.peers[0], one, *flags).out == content
    assert swarm.get(swarm.peers[1], two, *flags).out == content
    assert sent(swarm.source, "/mirror1") + sent(swarm.source, "/mirror2") == len(content)


def test_a_tag_keeps_downloads_apart(swarm: Swarm) -> None:
    content = content_of(2)
    url = swarm.source.add("/tagged", content)
    for tag in ("", "one", "two"):
        assert swarm.get(swarm.peers[0], url, "-O", "-", "--tag", tag).out == content
    assert sent(swarm.source, "/tagged") == 3 * len(content)


def test_filtered_parameters_make_signed_urls_one_task(swarm: Swarm) -> None:
    content = content_of(4)
    url = swarm.source.add("/signed", content)
    for peer, query in zip(swarm.peers, ("sig=a&part=1", "part=1&sig=b&when=9")):
        got = swarm.get(peer, f"{url}?{query}", "--filter", "sig,when", "-O", "-")
        assert got.out == content, got.err
    assert sent(swarm.source, "/signed") == len(content)


def test_a_limit_holds(swarm: Swarm) -> None:
    content = content_of(6)
    url = swarm.source.add("/slow", content)
    target = swarm.folder / "slow"
    for peer in (swarm.peers[2], swarm.alone):
        got = swarm.get(peer, url, "-O", str(target), "--json", "--limit-rate", "1M")
        assert got.code == 0 and target.read_bytes() == content
        assert 0.7 * 1.5 < got.last["seconds"] < 1.5 * 2 + 3, got.last


def test_no_source(swarm: Swarm) -> None:
    content = content_of(2)
    url = swarm.source.add("/forbidden", content)
    got = swarm.get(swarm.alone, url, "-O", str(swarm.folder / "forbidden"), "--no-source")
    assert_failed(got, 10, "no manager")
    assert not (swarm.folder / "forbidden").exists()
    assert swarm.source.requests("/forbidden") == []
    assert swarm.get(swarm.peers[0], url, "-O", "-", "--no-source").out == content


def test_events_are_one_json_object_a_line(swarm: Swarm) -> None:
    content = content_of(8)
    url = swarm.source.add("/events", content)
    got = swarm.get(swarm.peers[0], url, "-O", str(swarm.folder / "events"), "--json")
    assert got.err == ""
    first, *middle, last = got.events
    assert first["event"] == "accepted" and first["length"] == len(content)
    assert first["via"] == "manager" and first["manager"] == swarm.manager.where
    assert {event["event"] for event in middle} <= {"progress"}
    counts = [event["bytes"] for event in middle]
    assert counts == sorted(counts)
    assert last["event"] == "done" and last["target"] == str(swarm.folder / "events")
    assert all(event["url"] == url for event in got.events)


def test_one_summary_line_tells_the_share_of_p2p(swarm: Swarm) -> None:
    url = swarm.source.add("/summary", content_of(8))
    got = swarm.get(swarm.peers[0], url, "-O", str(swarm.folder / "summary"))
    (line,) = got.err.splitlines()
    assert "2.00 MiB" in line and "P2P 100%: manager 100%" in line and got.out == b""
    assert swarm.get(swarm.peers[1], url, "-O", str(swarm.folder / "quiet"), "-q").err == ""


# ------------------------------------------------------------------------------ private
def asked_without_token(role: Role, port: int, task: str) -> List[int]:
    statuses = []
    for path in (f"/v1/tasks/{task}", f"/v1/tasks/{task}/pieces"):
        for headers in ({}, {"Dfly-Token": ""}, {"Dfly-Token": "00" * 16}):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path, headers={"Range": "bytes=0-99", **headers})
            answer = connection.getresponse()
            assert task not in answer.read().decode()
            statuses.append(answer.status)
            connection.close()
    return statuses


def port_of(swarm: Swarm, peer: Role) -> int:
    got = swarm.cluster.run("status", "--socket", peer.socket, "--json")
    return int(json.loads(got.out)["port"])


@pytest.mark.parametrize("how", ["header", "url"])
def test_private_content_is_for_those_whom_the_source_lets_in(swarm: Swarm, how: str) -> None:
    content = content_of(5, seed=9)
    path = f"/private-{how}"
    swarm.source.add(path, content, authorization="Basic dXNlcjpzZWNyZXQ=")   # user:secret
    plain = swarm.source.url(path)
    url, flags = plain, ["-H", "Authorization: Basic dXNlcjpzZWNyZXQ="]
    if how == "url":
        url, flags = swarm.source.url(path, login="user:secret"), []
    holder, other, friend, _ = swarm.peers
    target = swarm.folder / f"private-{how}"
    got = swarm.get(holder, url, *flags, "-O", str(target), "--json")
    assert got.code == 0 and target.read_bytes() == content
    task = got.last["task"]
    # another host, and the same host, with no or wrong credentials
    for peer in (other, holder):
        for wrong in ([], ["-H", "Authorization: Basic d3Jvbmc="]):
            refused = swarm.get(peer, plain, *wrong, "-O", str(swarm.folder / "stolen"))
            assert_failed(refused, 6, "401", "Authorization")
            assert not (swarm.folder / "stolen").exists()
    for role, port in ((swarm.manager, swarm.manager.port), (holder, port_of(swarm, holder)),
                       (other, port_of(swarm, other))):
        assert set(asked_without_token(role, port, task)) == {404}
    # whom the source lets in gets it from the swarm
    assert swarm.get(friend, url, *flags, "-O", "-").out == content
    assert sent(swarm.source, path) < len(content) * 1.5
    for role in swarm.cluster.roles:
        assert "secret" not in role.text() and "dXNlcjpzZWNyZXQ" not in role.text()
        for file in role.folder.rglob("*"):
            if file.is_file():
                data = file.read_bytes()
                assert b"secret" not in data and b"dXNlcjpzZWNyZXQ" not in data, file


def test_private_content_without_a_manager(swarm: Swarm) -> None:
    content = content_of(3, seed=9)
    url = swarm.source.add("/mine", content, authorization="Bearer key")
    assert swarm.get(swarm.alone, url, "-H", "Authorization: Bearer key", "-O", "-").out == content
    assert_failed(swarm.get(swarm.alone, url, "-O", str(swarm.folder / "mine")), 6, "401")
    assert not (swarm.folder / "mine").exists()


def test_headers_reach_the_source(swarm: Swarm) -> None:
    url = swarm.source.add("/headers", content_of(2))
    assert swarm.get(swarm.peers[0], url, "-H", "X-Where: here", "-H", "User-Agent: me",
                     "-O", "-").code == 0
    first = swarm.source.requests("/headers")[0]
    assert first.header("x-where") == "here" and first.header("user-agent") == "me"


# ------------------------------------------------------------------------- many managers
def test_a_config_server_names_the_managers_even_when_it_is_gone(
        cluster: Cluster, source: SourceServer) -> None:
    content = content_of(6)
    url = source.add("/file", content)
    config = cluster.config()
    manager = cluster.manager("--config", config.where)
    peer = cluster.peer("--config", config.where)
    got = cluster.get(peer, url, "-O", str(cluster.folder / "a"), "--json")
    assert got.events[0]["manager"] == manager.where and got.last["from_manager"] == len(content)
    peer.process.terminate()
    assert peer.process.wait(10) == 0
    config.kill()
    again = cluster.peer("--config", config.where)   # the same store, whose list it still has
    other = source.add("/other", content)
    got = cluster.get(again, other, "-O", str(cluster.folder / "b"), "--json")
    assert got.events[0]["manager"] == manager.where and got.last["from_manager"] == len(content)
    assert "config server" in again.text()


def test_two_managers_share_the_tasks_and_stand_in_for_each_other(
        cluster: Cluster, source: SourceServer) -> None:
    managers = [cluster.manager(name=name) for name in ("m1", "m2")]
    flags = ["--manager", ",".join(manager.where for manager in managers)]
    peers = [cluster.peer(*flags, name=name) for name in ("a", "b")]
    content = content_of(5)
    homes = set()
    for number in range(8):
        path = f"/file{number}"
        url = source.add(path, content)
        runs = [start_get(cluster, peer, url, cluster.folder / f"{peer.name}{number}")
                for peer in peers]
        ends = [run.end() for run in runs]
        (home,) = {got.events[0]["manager"] for got in ends}   # the same on every host
        assert sent(source, path) == len(content)
        homes.add(home)
        if len(homes) == 2:
            break
    assert homes == {manager.where for manager in managers}
    gone = next(manager for manager in managers if manager.where == home)
    gone.kill()
    url = source.add("/after", content)
    again = cluster.get(peers[0], source.url(path), "-O", str(cluster.folder / "c"), "--json")
    assert again.code == 0 and again.events[0]["manager"] in homes - {home}
    got = cluster.get(peers[1], url, "-O", str(cluster.folder / "d"), "--json")
    assert got.code == 0 and got.events[0]["manager"] in homes - {home}
    assert warnings_of(got) == []
