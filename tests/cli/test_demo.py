"""The demo: its source alone, and the whole of it as a newcomer starts it."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import pytest

from dfly.cli.demo_source import SourceServer

ROOT = Path(__file__).resolve().parents[2]
CONTENT = bytes(range(256)) * 10


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SourceServer]:
    (tmp_path / "f").write_bytes(CONTENT)
    server = SourceServer(str(tmp_path))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(server: SourceServer, path: str, method: str = "GET",
          **headers: str) -> Tuple[int, Dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    answer = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return answer


def test_the_source_counts_content_bytes_and_nothing_else(source: SourceServer) -> None:
    assert fetch(source, "/f")[2] == CONTENT
    status, headers, part = fetch(source, "/f", Range="bytes=10-19")
    assert (status, headers["Content-Range"], part) == (206, "bytes 10-19/2560", CONTENT[10:20])
    assert fetch(source, "/f", Range="bytes=2500-9999")[2] == CONTENT[2500:]
    assert fetch(source, "/f", "HEAD")[2] == b""
    assert fetch(source, "/%66?x=1", "HEAD")[0] == 200
    assert fetch(source, "/absent")[0] == 404
    assert fetch(source, "/..%2Ff")[0] == 404
    assert fetch(source, "/../f")[0] == 404
    assert json.loads(fetch(source, "/count")[2]) == {"bytes": 2560 + 10 + 60, "requests": 3}


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    return subprocess.Popen([sys.executable, "-m", "dfly", "demo", *arguments], env=environ,
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def children_in(folder: Path) -> Any:
    """Processes that were started with a path in `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in entry.read_bytes():
                found.append(entry.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


@pytest.mark.system
def test_every_host_gets_the_file_and_the_source_gives_it_once(short_path: Path) -> None:
    process = start(short_path, "--hosts", "3", "--size", "3M", "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    told = json.loads(out)
    assert (told["hosts"], told["ok"], told["source_copies"]) == (3, True, 1.0)
    assert [row["intact"] for row in told["rows"]] == [True, True, True]
    assert os.listdir(short_path) == [] and children_in(short_path) == []


@pytest.mark.system
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["starting", "download"])
def test_an_interrupted_demo_leaves_nothing(short_path: Path, moment: str, number: int,
                                            code: int) -> None:
    process = start(short_path, "--hosts", "2", "--size", "64M")
    assert process.stderr is not None
    for line in process.stderr:
        if moment in line:
            break
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert os.listdir(short_path) == [] and children_in(short_path) == []
