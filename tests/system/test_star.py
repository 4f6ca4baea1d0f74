"""Hosts with links of their own: network namespaces, shaped, counted by the kernel."""
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from tests.bench import nginx
from tests.bench.swarm import reshape
from tests.cluster import Cluster, Role, finish, star_missing, star_module
from tests.system.scene import clean_cluster, content_of

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(star_missing()), reason=star_missing()),
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx isn't installed"),
]
HOSTS, BOSS = 6, 7
CONTENT = content_of(60.3)    # 15 MiB


class Fleet:
    """Six hosts in two racks, the manager on a seventh, nginx on host 0."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.star: Any = cluster.star
        self.url = f"http://{cluster.address(0)}:{nginx.PORT}/file"
        self.manager = cluster.manager(host=BOSS)
        self.peers: List[Role] = [
            cluster.peer("--manager", self.manager.where, "--location",
                         f"dc1/rack{self.star.rack_of(host)}", host=host, name=f"p{host}")
            for host in range(1, HOSTS + 1)]

    def copy(self, host: int) -> Path:
        return self.cluster.folder / f"copy{host}"

    def begin(self, host: int) -> "Any":
        return self.cluster.get_popen(self.peers[host - 1], self.url, "-O", str(self.copy(host)),
                                      "--json", host=host)


@pytest.fixture
def fleet(tmp_path: Path, program: Path) -> Iterator[Fleet]:
    with star_module().Star(hosts=HOSTS + 1, host_rate="100mbit", source_rate="200mbit", racks=2,
                        rack_rate="200mbit") as star, clean_cluster(tmp_path, program) as cluster:
        cluster.star = star
        reshape(star, BOSS, "200mbit")
        (tmp_path / "www").mkdir()
        (tmp_path / "www" / "file").write_bytes(CONTENT)
        nginx.start(cluster, tmp_path, tmp_path / "www", 0)
        yield Fleet(cluster)


def test_each_byte_leaves_the_source_once_and_every_host_has_it_all(fleet: Fleet) -> None:
    before = fleet.star.stats()
    gets = [fleet.begin(host) for host in range(1, HOSTS + 1)]
    ended = [finish(get) for get in gets]
    after = fleet.star.stats()
    assert [get.code for get in ended] == [0] * HOSTS, ended
    assert all(fleet.copy(host).read_bytes() == CONTENT for host in range(1, HOSTS + 1))
    left = (after[0]["tx"] - before[0]["tx"]) / len(CONTENT)
    assert 1.0 < left < 1.05, "counted by the kernel, heads and all"
    given = [get.last["from_peers"] for get in ended]
    assert sum(given) > 2 * len(CONTENT), "the hosts gave most of it to each other"
    assert not any(event["event"] == "warning" for get in ended for event in get.events)


def test_a_host_whose_cable_is_pulled_holds_nobody_up(fleet: Fleet) -> None:
    gets = [fleet.begin(host) for host in range(1, HOSTS + 1)]
    lines = gets[0].stdout
    while b'"progress"' not in lines.readline():
        pass    # until the first host is on its way
    fleet.star.run(1, ["ip", "link", "set", "eth0", "down"])
    others = [finish(get) for get in gets[1:]]
    assert [get.code for get in others] == [0] * (HOSTS - 1), others
    assert all(fleet.copy(host).read_bytes() == CONTENT for host in range(2, HOSTS + 1))
    fleet.star.run(1, ["ip", "link", "set", "eth0", "up"])
    first = finish(gets[0])
    assert first.code == 0, first
    assert fleet.copy(1).read_bytes() == CONTENT
