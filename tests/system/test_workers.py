"""`dfly serve --workers N`: pieces sent by other processes, on the manager's one port."""
from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Dict, List

import pytest

from tests.cluster import Cluster, Role
from tests.support import SourceServer
from tests.system.scene import PIECE, content_of, holds, sent, start_get

pytestmark = pytest.mark.system


def workers_of(manager: Role) -> List[int]:
    """Process ids of the manager's children."""
    children = Path(f"/proc/{manager.process.pid}/task").glob("*/children")
    return sorted(int(pid) for file in children for pid in file.read_text().split())


def read_by(pids: List[int]) -> Dict[int, int]:
    """Bytes that each process has sent or read through system calls (rchar: sendfile counts)."""
    found = {}
    for pid in pids:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        found[pid] = int(dict(line.split(": ") for line in lines)["rchar"])
    return found


def test_pieces_come_from_the_workers(cluster: Cluster, source: SourceServer,
                                      tmp_path: Path) -> None:
    content = content_of(40.5)
    url = source.add("/file", content)
    manager = cluster.manager("--workers", "2")
    workers = workers_of(manager)
    assert len(workers) == 2
    before = read_by(workers)
    peers = [cluster.peer("--manager", manager.where, name=f"p{n}") for n in range(3)]
    gets = [start_get(cluster, peer, url, tmp_path / f"out{n}") for n, peer in enumerate(peers)]
    assert [get.end().code for get in gets] == [0, 0, 0]
    assert all((tmp_path / f"out{n}").read_bytes() == content for n in range(3))
    assert sent(source, "/file") == len(content)
    after = read_by(workers)
    assert sum(after.values()) - sum(before.values()) >= len(content)
    assert workers_of(manager) == workers


@pytest.mark.long
def test_a_worker_that_dies_is_replaced_and_the_download_ends_right(
        cluster: Cluster, tmp_path: Path) -> None:
    content = content_of(60, seed=2)
    with SourceServer(rate_bps=10 * PIECE) as slow:
        url = slow.add("/file", content)
        manager = cluster.manager("--workers", "1")
        (worker,) = workers_of(manager)
        peer = cluster.peer("--manager", manager.where)
        running = start_get(cluster, peer, url, tmp_path / "out")
        running.until(holds(5))
        os.kill(worker, signal.SIGKILL)
        got = running.end()
    assert got.code == 0 and (tmp_path / "out").read_bytes() == content
    assert sent(slow, "/file") == len(content)
    (other,) = workers_of(manager)
    assert other != worker
    assert f"upload worker {worker} ended (-9)" in manager.text()


def test_workers_end_with_the_manager_even_if_it_is_killed(cluster: Cluster) -> None:
    manager = cluster.manager("--workers", "2")
    workers = workers_of(manager)
    opened = [os.pidfd_open(pid) for pid in workers] if hasattr(os, "pidfd_open") else []
    manager.kill()
    for fd in opened:
        import select
        assert select.select([fd], [], [], 10)[0], "a worker outlived its manager"
        os.close(fd)


@pytest.mark.parametrize("flags, says", [
    (("--workers", "-1"), "not a whole number"), (("--workers", "65"), "64 at most"),
    (("--worker-fd", "99"), "no open file descriptor"), (("--worker-fd", "x"), "no open file"),
])
def test_wrong_numbers_are_refused(cluster: Cluster, flags: List[str], says: str) -> None:
    got = cluster.run("serve", *flags)
    assert got.code == 2 and says in got.err and len(got.err.splitlines()) == 1
