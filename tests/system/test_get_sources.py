"""Sources of all kinds, through a manager and without one: the same bytes and exit codes.

nginx with and without ranges and gzip is test_nginx.py's, certificates and proxies are
test_get_asking.py's, chunked ones test_get_wget.py's.
"""
from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from functools import partial
from pathlib import Path
from typing import Iterator
from urllib.parse import quote

import pytest

from tests.support import SourceServer
from tests.system.scene import PIECE, content_of
from tests.system.yard import Yard, both, open_yard, tree_of

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = [pytest.mark.system, pytest.mark.long]
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx isn't installed")
MIB = 1 << 20
BIG = content_of(22.3)          # cut every MiB, it takes six tries
PARTLY = content_of(160.3, seed=3)
HERE = 120                      # pieces of it that are there
HUGE = (1 << 32) + 1            # beyond what 32 bits count
ROOM = 4 * HUGE                 # two stores, the copies are links, and some to spare
NAMES = ["with space.bin", "per%cent.bin", "quo'te\".bin", "hash#mark.bin", "q?mark.bin",
         "plus+amp&.bin", "été.bin", "日本語.bin", "semi;comma,.bin", "[b]{c}.bin",
         "back`tick$.bin", "-dash.bin", "..dots.bin"]
NGINX_CONF = """
master_process off; error_log {folder}/error.log; pid {folder}/pid;
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on; limit_conn_zone $binary_remote_addr zone=one:1m;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{
    listen 127.0.0.1:{port}; root {folder}/tree;
    location /slow/ {{ alias {folder}/tree/; limit_rate 4m; }}
    location /one/ {{ alias {folder}/tree/; limit_rate 8m; limit_conn one 1; }}
  }}
}}
"""


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Yard]:
    with open_yard(tmp_path_factory.mktemp("sources"), program) as it:
        yield it


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What nginx and http.server serve: a big file, and one beyond 4 GiB that takes no room."""
    folder = tmp_path_factory.mktemp("served") / "tree"
    folder.mkdir()
    (folder / "big.bin").write_bytes(BIG)
    (folder / "empty.bin").write_bytes(b"")
    for name in NAMES:
        (folder / name).write_bytes(name.encode())
    with open(folder / "huge.bin", "wb") as file:
        file.truncate(HUGE)
        for at in (0, (1 << 31) - 1, (1 << 32) - 1, HUGE - 1):
            os.pwrite(file.fileno(), b"!", at)
    return folder


@pytest.fixture(scope="module")
def nginx(tree: Path) -> Iterator[str]:
    assert NGINX is not None
    folder = tree.parent
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "nginx.conf").write_text(NGINX_CONF.format(folder=folder, port=port))
    command = [NGINX, "-c", str(folder / "nginx.conf"), "-p", str(folder)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([*command, "-s", "stop"], check=True, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def simple(tree: Path) -> Iterator[str]:
    """Python's own http.server: HTTP/1.0, no ranges, no ETag."""
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(Quiet, directory=str(tree))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


# ---------------------------------------------------------------------------- real servers
@both
def test_pythons_http_server(yard: Yard, simple: str, way: str) -> None:
    folder = yard.folder(way)
    end = yard.run(way, folder, "-q", f"{simple}/big.bin", f"{simple}/empty.bin",
                   f"{simple}/nothing")
    assert end.code == 8
    assert {name: file.content for name, file in tree_of(folder).items()} == {
        "big.bin": BIG, "empty.bin": b""}


@both
def test_names_that_need_escaping(yard: Yard, simple: str, way: str) -> None:
    folder = yard.folder(way)
    end = yard.run(way, folder, "-q", *(f"{simple}/{quote(name)}" for name in NAMES))
    assert end.code == 0
    assert {name: file.content for name, file in tree_of(folder).items()} == {
        name: name.encode() for name in NAMES}


@needs_nginx
@both
def test_a_slow_nginx(yard: Yard, nginx: str, way: str) -> None:
    """limit_rate is per connection, and one is enough."""
    folder = yard.folder(way)
    assert yard.run(way, folder, "-q", f"{nginx}/slow/big.bin").code == 0
    assert (folder / "big.bin").read_bytes() == BIG


@needs_nginx
@both
def test_an_nginx_that_takes_one_connection_a_host(yard: Yard, nginx: str, way: str) -> None:
    """It answers 503 to any second one; that may cost time, not the download."""
    folder = yard.folder(way)
    assert yard.run(way, folder, "-q", "--waitretry=1", f"{nginx}/one/big.bin").code == 0
    assert (folder / "big.bin").read_bytes() == BIG


@needs_nginx
@both
def test_more_than_4_gib(yard: Yard, nginx: str, tree: Path, way: str) -> None:
    facts = os.statvfs(yard.cluster.folder)
    if facts.f_bavail * facts.f_frsize < ROOM:
        pytest.skip("no room for stores of more than 4 GiB")
    folder = yard.folder(way)
    process = yard.start(way, folder, "-q", f"{nginx}/huge.bin")
    try:
        assert process.wait(120) == 0
        assert (folder / "huge.bin").stat().st_size == HUGE
        subprocess.run(["cmp", str(tree / "huge.bin"), str(folder / "huge.bin")], check=True,
                       timeout=60)
    finally:
        (folder / "huge.bin").unlink(missing_ok=True)
        for role in (yard.manager, yard.peers[way]):   # else pytest keeps them for days
            for data in role.store.rglob("data"):
                if data.stat().st_size == HUGE:
                    os.truncate(data, 0)


# ---------------------------------------------------------------------- what is there in part
@pytest.mark.parametrize("holder", ["nobody", "another peer"])
def test_a_file_in_part_comes_only_as_far_as_it_is_missing(yard: Yard, holder: str) -> None:
    """Whether the manager has the content or gets it just now: what is there is compared before
    it is fetched. The rest of its last piece comes with that piece."""
    path = f"/part-of-{len(holder)}"
    url = yard.source.add(path, PARTLY)
    if holder != "nobody":
        assert yard.run("other", yard.folder("other"), "-q", url).code == 0
    folder = yard.folder("managed")
    (folder / path[1:]).write_bytes(PARTLY[:HERE * PIECE + 1000])
    end = yard.run("managed", folder, "-c", "--progress=json", url)
    assert end.code == 0 and (folder / path[1:]).read_bytes() == PARTLY
    done = json.loads(end.out.splitlines()[-1])
    assert done["event"] == "done" and done["from_cache"] == HERE * PIECE, done
    assert sum(exchange.sent for exchange in yard.source.requests(path)) == len(PARTLY)


# ------------------------------------------------------------------------------- faults
@both
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_source_that_cuts_every_mib(yard: Yard, way: str, framing: str) -> None:
    path = f"/cutting-{way}-{framing}"
    url = yard.source.add(path, BIG, cut_after=MIB, framing=framing)
    folder = yard.folder(way)
    began = time.monotonic()
    end = yard.run(way, folder, "-q", "-t", "3", "--waitretry=1", url)
    assert end.code == 0 and (folder / path[1:]).read_bytes() == BIG
    assert time.monotonic() - began < 10   # what brings something on is no failed try


@both
def test_a_redirect_to_another_origin(yard: Yard, way: str) -> None:
    """It's followed, and told nothing that was for the first."""
    with SourceServer() as other:
        there = other.add("/there.bin", BIG)
        url = yard.source.add(f"/away-{way}", redirect=there)
        folder = yard.folder(way)
        end = yard.run(way, folder, "-q", "--header=X-Secret: 1",
                       "--header=Authorization: Bearer t", "--auth-no-challenge", "--user=ann",
                       "--password=secret", "-O", "out", url)
        assert end.code == 0 and (folder / "out").read_bytes() == BIG
        assert all(not exchange.header("x-secret") and not exchange.header("authorization")
                   for exchange in other.log)
        first = yard.source.requests(f"/away-{way}")
        assert first and all(exchange.header("x-secret") for exchange in first)
