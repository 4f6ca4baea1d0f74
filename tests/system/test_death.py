"""Whoever dies, the file arrives: parents, managers, daemons, clients; nothing is asked for twice
that was here already, and no two versions of a file are ever mixed."""
from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import List

import pytest

from tests.cluster import Cluster
from tests.support import SourceServer
from tests.system.scene import (
    PIECE,
    Event,
    assert_failed,
    content_of,
    half_written,
    holds,
    processes_of,
    sent,
    sha256,
    start_get,
    warnings_of,
)

pytestmark = pytest.mark.system
CONTENT = content_of(24.5)
SIZE = len(CONTENT)


def warned(event: Event) -> bool:
    return bool(event["event"] == "warning")


# ------------------------------------------------------------------------------- parents
def test_a_parent_is_killed(cluster: Cluster, source: SourceServer) -> None:
    """The others take from each other and from the manager what it would have given."""
    url = source.add("/file", CONTENT, ranges=False, stall_after=12 * PIECE)
    manager = cluster.manager()
    peers = [cluster.peer("--manager", manager.where, name=f"p{number}") for number in range(3)]
    copies = [cluster.folder / f"copy{number}" for number in range(3)]
    runs = [start_get(cluster, peer, url, copy) for peer, copy in zip(peers, copies)]
    for run in runs:
        run.until(holds(4))
    peers[0].kill()
    runs[0].end()
    source.go_on()
    for run, copy in zip(runs[1:], copies[1:]):
        got = run.end()
        assert got.code == 0 and copy.read_bytes() == CONTENT and warnings_of(got) == []
    assert sent(source, "/file") == SIZE


# ------------------------------------------------------------------------------- manager
def test_the_manager_is_killed(cluster: Cluster, source: SourceServer) -> None:
    """The peers finish from each other and then from the source, and say that P2P was lost."""
    url = source.add("/file", CONTENT, stall_after=3 * PIECE)
    manager = cluster.manager("--source-connections", "1")
    peers = [cluster.peer("--manager", manager.where, name=f"p{number}") for number in range(2)]
    copies = [cluster.folder / f"copy{number}" for number in range(2)]
    runs = [start_get(cluster, peer, url, copy) for peer, copy in zip(peers, copies)]
    for run in runs:
        run.until(holds(2))
    source.change("/file", stall_after=None)
    manager.kill()
    for run, copy in zip(runs, copies):
        got = run.end()
        assert got.code == 0 and copy.read_bytes() == CONTENT
        (warning,) = warnings_of(got)
        assert "lost" in warning and got.last["p2p_lost"]
    # Each host asked the source for what nobody had, and for nothing else.
    assert sent(source, "/file") <= 3 * PIECE + 2 * (SIZE - 2 * PIECE)


@pytest.mark.long
def test_the_manager_is_killed_once_all_pieces_are_out(
        cluster: Cluster, source: SourceServer) -> None:
    """What the swarm holds needs no source."""
    url = source.add("/file", CONTENT)
    manager = cluster.manager()
    peers = [cluster.peer("--manager", manager.where, name=name) for name in ("a", "b")]
    slow = start_get(cluster, peers[1], url, cluster.folder / "slow", "--limit-rate", "2M")
    quick = start_get(cluster, peers[0], url, cluster.folder / "quick")
    assert quick.end().code == 0
    slow.until(holds(1))
    manager.kill()
    got = slow.end()
    assert got.code == 0 and (cluster.folder / "slow").read_bytes() == CONTENT
    assert got.last["from_source"] == 0 and sent(source, "/file") == SIZE


def test_a_manager_comes_back(cluster: Cluster, source: SourceServer) -> None:
    """It goes on from its half-fetched store, its peers join again, and no byte is asked for
    twice."""
    url = source.add("/file", CONTENT, stall_after=3 * PIECE)
    manager = cluster.manager("--source-connections", "1")
    peers = [cluster.peer("--manager", manager.where, name=f"p{number}") for number in range(2)]
    copies = [cluster.folder / f"copy{number}" for number in range(2)]
    runs = [start_get(cluster, peer, url, copy, "--no-source")
            for peer, copy in zip(peers, copies)]
    for run in runs:
        run.until(holds(3))
    manager.kill()
    source.change("/file", stall_after=None)
    again = cluster.manager("--source-connections", "1", port=manager.port)
    for run, copy in zip(runs, copies):
        got = run.end()
        assert got.code == 0 and copy.read_bytes() == CONTENT
        assert got.last["from_source"] == 0 and not got.last["p2p_lost"]
    assert "linked" in peers[0].text() and again.where == manager.where
    assert sent(source, "/file") <= SIZE + PIECE   # a piece that was cut in the middle
    late = cluster.peer("--manager", again.where, name="late")
    assert cluster.get(late, url, "-O", "-").out == CONTENT


def test_a_manager_restarts_with_peers_that_hold_everything(
        cluster: Cluster, source: SourceServer) -> None:
    """It may lose its store, too: what the peers hold they offer again."""
    url = source.add("/file", CONTENT)
    manager = cluster.manager(name="m1")
    holder = cluster.peer("--manager", manager.where, name="holder")
    assert cluster.get(holder, url, "-O", str(cluster.folder / "a")).code == 0
    manager.process.terminate()
    assert manager.process.wait(10) == 0
    cluster.manager(name="m2", port=manager.port)
    late = cluster.peer("--manager", manager.where, name="late")
    got = cluster.get(late, url, "-O", str(cluster.folder / "b"), "--json")
    assert got.code == 0 and (cluster.folder / "b").read_bytes() == CONTENT


# ------------------------------------------------------------------------ the peer itself
@pytest.mark.parametrize("managed", [True, False])
def test_a_killed_daemon_goes_on_from_what_it_holds(
        cluster: Cluster, source: SourceServer, managed: bool) -> None:
    # Without a manager, four connections ask for eight pieces each.
    stall = 10 if managed else 3
    url = source.add("/file", CONTENT, ranges=not managed, stall_after=stall * PIECE)
    flags = ["--manager", cluster.manager().where] if managed else []
    peer = cluster.peer(*flags)
    target = cluster.folder / "target"
    first = start_get(cluster, peer, url, target)
    held = first.until(holds(8))["bytes"]
    peer.kill()
    got = first.end()
    assert_failed(got, 4, "the peer daemon", "repeat the command")
    assert not target.exists()
    source.go_on()
    again = cluster.peer(*flags)
    got = cluster.get(again, url, "-O", str(target), "--json")
    assert got.code == 0 and target.read_bytes() == CONTENT
    # The last few marks may not have reached the index; the others needn't come again.
    assert got.last["from_cache"] > 0 and got.last["from_cache"] >= held - 6 * PIECE
    assert got.last["from_cache"] + got.last["from_manager"] + got.last["from_source"] == SIZE
    if managed:
        assert sent(source, "/file") == SIZE
    else:
        assert sent(source, "/file") <= 12 * PIECE + SIZE - got.last["from_cache"]


def test_a_crashed_daemons_socket_is_no_obstacle(cluster: Cluster, source: SourceServer) -> None:
    url = source.add("/file", b"content")
    peer = cluster.peer()
    peer.kill()
    assert Path(peer.socket).exists()
    again = cluster.peer()
    assert cluster.get(again, url, "-O", "-").out == b"content"


def test_two_daemons_on_one_store(cluster: Cluster) -> None:
    first = cluster.peer(name="one")
    got = cluster.run("peer", "--listen", "127.0.0.1", "--port", "0", "--store", str(first.store),
                      "--socket", str(cluster.folder / "s2"), "--settings",
                      str(cluster.folder / "empty.conf"))
    assert_failed(got, 12, str(first.process.pid), str(first.store))
    assert not (cluster.folder / "s2").exists()
    manager = cluster.manager()
    got = cluster.run("serve", "--listen", "127.0.0.1", "--port", "0", "--store",
                      str(manager.store), "--settings", str(cluster.folder / "empty.conf"))
    assert_failed(got, 12, str(manager.process.pid))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_every_role_leaves_when_told(cluster: Cluster, source: SourceServer,
                                     number: signal.Signals) -> None:
    """In the middle of work, quickly, with exit code 0, and the client says what happened."""
    url = source.add("/file", CONTENT, ranges=False, stall_after=6 * PIECE)
    config = cluster.config()
    manager = cluster.manager("--config", config.where)
    peer = cluster.peer("--config", config.where)
    run = start_get(cluster, peer, url, cluster.folder / "target")
    run.until(holds(4))
    began_at = time.monotonic()
    for role in (peer, manager, config):
        role.process.send_signal(number)
    assert [role.process.wait(10) for role in (peer, manager, config)] == [0, 0, 0]
    assert time.monotonic() - began_at < 5
    assert_failed(run.end(), 4, "the daemon stops", "again")
    assert not (cluster.folder / "target").exists() and half_written(cluster.folder) == []


# -------------------------------------------------------------------------- the client
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_client_that_goes_ends_its_download(cluster: Cluster, source: SourceServer,
                                              number: signal.Signals, code: int) -> None:
    url = source.add("/file", CONTENT, ranges=False, stall_after=6 * PIECE)
    peer = cluster.peer()
    target = cluster.folder / "target"
    run = start_get(cluster, peer, url, target)
    run.until(holds(4))
    run.process.send_signal(number)
    got = run.end()
    assert got.code == code and "Traceback" not in got.err
    source.wait_until(lambda: source.requests("/file")[0].client_left)
    assert not target.exists() and half_written(cluster.folder) == []
    source.go_on()
    again = cluster.get(peer, url, "-O", str(target), "--json")
    assert again.code == 0 and target.read_bytes() == CONTENT
    assert again.last["from_cache"] >= 4 * PIECE


def test_another_caller_keeps_the_download_alive(cluster: Cluster, source: SourceServer) -> None:
    url = source.add("/file", CONTENT, ranges=False, stall_after=6 * PIECE)
    peer = cluster.peer()
    first = start_get(cluster, peer, url, cluster.folder / "a")
    second = start_get(cluster, peer, url, cluster.folder / "b")
    first.until(holds(4))
    second.until(holds(4))
    first.process.send_signal(signal.SIGINT)
    assert first.end().code == 130
    source.go_on()
    assert second.end().code == 0 and (cluster.folder / "b").read_bytes() == CONTENT
    assert sent(source, "/file") == SIZE


# ---------------------------------------------------------------------------- autostart
def autostarted(cluster: Cluster) -> List[int]:
    return [pid for pid, line in processes_of(cluster.folder).items() if " peer " in line]


def wait_gone(pid: int) -> None:
    """Return when the process (nobody's child of ours) has ended."""
    handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
    if handle < 0:
        pytest.skip("needs pidfd_open")
    import select
    try:
        assert select.select([handle], [], [], 20)[0], "it doesn't end"
    finally:
        os.close(handle)


def test_gets_start_one_daemon_that_leaves_when_idle(
        cluster: Cluster, source: SourceServer) -> None:
    url = source.add("/file", CONTENT)
    socket_path, store = cluster.folder / "auto" / "s", cluster.folder / "auto" / "store"
    common = ["get", url, "--socket", str(socket_path), "--store", str(store), "--settings",
              str(cluster.folder / "empty.conf"), "-O"]
    environ = {"DFLY_PEER_LISTEN": "127.0.0.1", "DFLY_PEER_PORT": "0"}
    starts = [cluster.popen(0, [*common, str(cluster.folder / f"copy{number}")],
                            more_env=environ) for number in range(3)]
    for start in starts:
        _, err = start.communicate(timeout=60)
        assert start.returncode == 0, err
    (pid,) = autostarted(cluster)
    assert sent(source, "/file") == SIZE
    assert os.getsid(pid) != os.getsid(0) and os.readlink(f"/proc/{pid}/cwd") == "/"
    assert cluster.run("status", "--socket", str(socket_path), "--json").code == 0
    os.kill(pid, signal.SIGTERM)
    wait_gone(pid)
    assert not socket_path.exists()


def test_an_idle_daemon_leaves(cluster: Cluster, source: SourceServer) -> None:
    url = source.add("/file", CONTENT)
    peer = cluster.peer("--idle-exit", "2s")
    assert cluster.get(peer, url, "-O", "-").out == CONTENT
    assert peer.process.wait(20) == 0 and "idle" in peer.text()
    assert not Path(peer.socket).exists()


# ----------------------------------------------------------------------- changed content
NEW = content_of(25.5, seed=5)


@pytest.mark.parametrize("managed", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_source_that_changes_in_the_middle(cluster: Cluster, source: SourceServer,
                                             managed: bool, ranges: bool) -> None:
    """The download starts again cleanly; the result is the new content, never a mixture."""
    stall = 2 * PIECE if ranges else 6 * PIECE
    url = source.add("/file", CONTENT, etag='"old"', ranges=ranges, stall_after=stall)
    flags = ["--manager", cluster.manager().where] if managed else []
    peer = cluster.peer(*flags)
    run = start_get(cluster, peer, url, cluster.folder / "target")
    run.until(holds(1))
    source.add("/file", NEW, etag='"new"', ranges=ranges)
    source.cut_all()   # what the old one was sending ends here
    got = run.end()
    assert got.code == 0, got
    assert (cluster.folder / "target").read_bytes() == NEW
    assert any("changed" in warning for warning in warnings_of(got))


@pytest.mark.parametrize("managed", [True, False])
@pytest.mark.parametrize("told", [CONTENT, NEW], ids=["old", "new"])
def test_a_digest_holds_when_the_source_changes(cluster: Cluster, source: SourceServer,
                                                managed: bool, told: bytes) -> None:
    url = source.add("/file", CONTENT, etag='"old"', stall_after=2 * PIECE)
    flags = ["--manager", cluster.manager().where] if managed else []
    peer = cluster.peer(*flags)
    target = cluster.folder / "target"
    run = start_get(cluster, peer, url, target, "--digest", f"sha256:{sha256(told)}")
    run.until(holds(1))
    source.add("/file", NEW, etag='"new"')
    source.cut_all()
    got = run.end()
    if told == NEW:   # what it became is what was wanted
        assert got.code == 0 and target.read_bytes() == NEW
        return
    assert_failed(got, 9, sha256(NEW), sha256(CONTENT))
    assert not target.exists() and half_written(cluster.folder) == []
    again = cluster.get(peer, url, "-O", str(target), "--digest", f"sha256:{sha256(NEW)}")
    assert again.code == 0 and target.read_bytes() == NEW


def test_the_new_version_is_found_by_the_next_download(cluster: Cluster,
                                                       source: SourceServer) -> None:
    url = source.add("/file", CONTENT, etag='"old"')
    manager = cluster.manager("--revalidate", "0")
    peers = [cluster.peer("--manager", manager.where, name=name) for name in ("a", "b")]
    assert cluster.get(peers[0], url, "-O", "-").out == CONTENT
    source.add("/file", NEW, etag='"new"')
    assert cluster.get(peers[1], url, "-O", "-").out == NEW
    assert cluster.get(peers[0], url, "-O", "-").out == NEW
