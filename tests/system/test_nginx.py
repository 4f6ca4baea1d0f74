"""A real web server as the source: nginx over a real file tree, gzip off and on, with and without
a length. SHA-256 equal everywhere."""
from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import pytest

from dfly.names import is_task_id
from tests.cluster import REPO, Cluster, Role
from tests.support import SourceServer
from tests.system.scene import clean_cluster, content_of, sha256, start_get

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = [pytest.mark.system,
              pytest.mark.skipif(NGINX is None, reason="nginx isn't installed")]

CONFIGURATION = """
master_process off; error_log {folder}/error.log; pid {folder}/pid;
events {{ worker_connections 256; }}
http {{
  access_log {folder}/access.log; types {{ text/plain txt py; }}
  default_type application/octet-stream;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  sendfile on; gzip_types text/plain; gzip_min_length 1; gzip_http_version 1.0;
  server {{
    listen 127.0.0.1:{port} default_server; root {folder}/tree;
    location / {{ gzip off; }}
    location /zip/ {{ alias {folder}/tree/; gzip on; }}
    location /forced/ {{ alias {folder}/tree/; gzip on; gunzip on; add_header X-Forced 1; }}
    location /chunked/ {{
      proxy_pass http://127.0.0.1:{behind}/; proxy_http_version 1.1; proxy_buffering off;
    }}
    location /moved/ {{ rewrite ^/moved(/.*)$ $1 redirect; }}
    location /secret/ {{ alias {folder}/tree/; auth_basic s; auth_basic_user_file {folder}/users; }}
  }}
}}
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository's own sources, an image of random bytes, and the odd cases."""
    folder = tmp_path_factory.mktemp("nginx")
    shutil.copytree(REPO / "dfly", folder / "tree" / "dfly",
                    ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tree" / "disk.img").write_bytes(content_of(40.7))
    (folder / "tree" / "empty.txt").write_bytes(b"")
    (folder / "tree" / "long.txt").write_bytes(b"".join(
        b"%d bottles of beer\n" % number for number in range(120_000)))
    (folder / "tree" / "with space.txt").write_bytes(b"spaced\n")
    (folder / "users").write_text("user:{PLAIN}secret\n")
    return folder


@pytest.fixture(scope="module")
def nginx(tree: Path) -> Iterator[str]:
    """Its address. It goes to the background once it listens, so nobody has to wait for it."""
    assert NGINX is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [NGINX, "-c", str(tree / "nginx.conf"), "-p", str(tree)]
    with SourceServer() as behind:
        for path in sorted((tree / "tree").rglob("*")):
            if path.is_file():
                behind.add("/" + str(path.relative_to(tree / "tree")), path, framing="chunked",
                           ranges=False, etag="", last_modified="")
        (tree / "nginx.conf").write_text(CONFIGURATION.format(
            folder=tree, port=port, behind=behind.port))
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            subprocess.run([*command, "-s", "stop"], check=True, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory,
          program: Path) -> Iterator[Tuple[Cluster, List[Role]]]:
    folder = tmp_path_factory.mktemp("c")
    with clean_cluster(folder, program) as cluster:
        manager = cluster.manager()
        yield cluster, [cluster.peer("--manager", manager.where, name=f"p{number}")
                        for number in range(3)]


def get_everywhere(peers: Tuple[Cluster, List[Role]], url: str) -> List[Tuple[str, Dict[str, int]]]:
    """(SHA-256 of the copy, last event) of every peer."""
    cluster, roles = peers
    copies = [cluster.folder / f"copy-{peer.name}" for peer in roles]
    runs = [start_get(cluster, peer, url, copy) for peer, copy in zip(roles, copies)]
    ends = [run.end() for run in runs]
    assert [got.code for got in ends] == [0] * len(roles), ends
    return [(sha256(copy.read_bytes()), got.last) for copy, got in zip(copies, ends)]


def logged_bytes(tree: Path, path: str) -> int:
    """Body bytes that nginx says it sent of one path, to all hosts."""
    total = 0
    for line in (tree / "access.log").read_text().splitlines():
        _, request, rest = line.split('"')[:3]
        if request.split()[1] == path:
            total += int(rest.split()[1])
    return total


@pytest.mark.parametrize("place", ["", "/zip", "/chunked", "/forced"])
@pytest.mark.parametrize("name", ["disk.img", "long.txt", "empty.txt", "dfly/errors.py"])
def test_every_copy_is_the_file(nginx: str, tree: Path, peers: Tuple[Cluster, List[Role]],
                                place: str, name: str) -> None:
    content = (tree / "tree" / name).read_bytes()
    ends = get_everywhere(peers, f"{nginx}{place}/{name}")
    assert {digest for digest, _ in ends} == {sha256(content)}
    assert all(last["from_source"] == 0 and is_task_id(str(last["task"])) for _, last in ends), \
        json.dumps([last for _, last in ends])
    # Once, whoever asks. (nginx logs a request as it ends, and counts the framing of chunks.)
    assert logged_bytes(tree, f"{place}/{name}") <= 1.01 * len(content) + 16


def test_a_whole_tree(nginx: str, tree: Path, peers: Tuple[Cluster, List[Role]]) -> None:
    cluster, (peer, *_) = peers
    files = sorted((tree / "tree" / "dfly" / "core").glob("*.py"))
    urls = [f"{nginx}/zip/dfly/core/{file.name}" for file in files]
    folder = cluster.folder / "tree"
    got = cluster.get(peer, *urls, "-P", str(folder), "-q")
    assert got.code == 0 and got.err == ""
    for file in files:
        assert (folder / file.name).read_bytes() == file.read_bytes()


def test_names_redirects_passwords(nginx: str, tree: Path,
                                   peers: Tuple[Cluster, List[Role]]) -> None:
    cluster, (peer, *_) = peers
    folder = cluster.folder / "odd"
    got = cluster.get(peer, f"{nginx}/with%20space.txt", "-P", str(folder))
    assert got.code == 0 and (folder / "with space.txt").read_bytes() == b"spaced\n"
    moved = cluster.get(peer, f"{nginx}/moved/disk.img", "-O", "-")
    assert moved.out == (tree / "tree" / "disk.img").read_bytes()
    secret = nginx.replace("http://", "http://user:secret@") + "/secret/long.txt"
    assert cluster.get(peer, secret, "-O", "-").out == (tree / "tree" / "long.txt").read_bytes()
    refused = cluster.get(peer, f"{nginx}/secret/long.txt", "-O", "-")
    assert refused.code == 6 and refused.out == b"" and "401" in refused.err
    missing = cluster.get(peer, f"{nginx}/no/such/file", "-O", "-")
    assert missing.code == 8 and "404" in missing.err
