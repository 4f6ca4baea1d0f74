"""More hosts than a manager can take, all at once: nobody falls to the source, nothing is lost."""
from __future__ import annotations

import json
import signal
import urllib.request
from typing import Any, Dict

import pytest

from dfly.digest import sha256 as digest_of
from tests.bench.virtual_hosts import Plan, VirtualHosts
from tests.cluster import Cluster, Role
from tests.support import SourceServer
from tests.system.scene import PIECE, becomes, content_of, sent, start_get

pytestmark = pytest.mark.system
HOSTS = 400
CONTENT = content_of(24.5)
DIGESTS = b"".join(digest_of(CONTENT[start:start + PIECE])
                   for start in range(0, len(CONTENT), PIECE))


def status(manager: Role) -> Dict[str, Any]:
    with urllib.request.urlopen(f"http://{manager.where}/v1/status", timeout=30) as answer:
        found: Dict[str, Any] = json.load(answer)
        return found


def storm(manager: Role, url: str, hosts: int) -> VirtualHosts:
    """So many hosts link and join at once, all over real connections."""
    return VirtualHosts(Plan(port=manager.port, url=url, hosts=hosts, host_bps=50e6,
                             seed_bps=500e6, upload_slots=16, connecting=hosts,
                             digests=DIGESTS, timeout_s=60.0))


def test_a_storm_of_joins_is_served_and_leaves_at_once_without_a_trace(
        cluster: Cluster, source: SourceServer) -> None:
    manager = cluster.manager()
    url = source.add("/file", CONTENT)
    hosts = storm(manager, url, HOSTS)
    try:
        outcome = hosts.run()
        assert (outcome.trouble, outcome.lost, outcome.done) == ([], 0, HOSTS)
        assert len(status(manager)["hosts"]) == HOSTS
    finally:
        hosts.close()   # all of them at once
    peer = cluster.peer("--manager", manager.where)
    copy = cluster.folder / "copy"
    got = cluster.get(peer, url, "-O", str(copy), "--json")
    assert got.code == 0 and copy.read_bytes() == CONTENT
    assert got.last["from_source"] == 0 and sent(source, "/file") == len(CONTENT)
    assert [host["name"] for host in status(manager)["hosts"]] == [peer.name]


@pytest.mark.long
def test_a_peer_waits_for_a_manager_that_is_full_rather_than_ask_the_source(
        cluster: Cluster, source: SourceServer) -> None:
    manager = cluster.manager("--links-max", "1")
    url = source.add("/file", CONTENT)
    first = cluster.peer("--manager", manager.where, name="first")
    copy = cluster.folder / "copy"
    assert cluster.get(first, url, "-O", str(copy)).code == 0
    second = cluster.peer("--manager", manager.where, name="second")
    run = start_get(cluster, second, url, cluster.folder / "copy2")
    assert becomes(lambda: "busy: this manager has its 1 peers" in second.text()
                   or run.process.poll() is not None)
    assert run.process.poll() is None, run.end()
    first.process.send_signal(signal.SIGTERM)   # its place is free
    got = run.end()
    assert got.code == 0 and (cluster.folder / "copy2").read_bytes() == CONTENT
    assert got.last["from_source"] == 0 and got.last["from_manager"] == len(CONTENT)
    assert sent(source, "/file") == len(CONTENT)
