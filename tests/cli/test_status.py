"""`dfly status`: tables from what roles tell, whatever they tell."""
from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from dfly.cli import main
from dfly.cli.status import describe

MANAGER = {
    "role": "manager", "name": "m1", "version": "0.1.0", "uptime_s": 3725.0,
    "source_bytes": 1 << 30, "served_bytes": 5 << 30,
    "hosts": [{"name": "h1", "address": "10.0.0.1:65003", "location": "eu/dc1", "tasks": 2},
              {"name": "evil\x1b[2J", "address": "10.0.0.2:65003", "location": "", "tasks": 0}],
    "tasks": [{"task": "ab" * 32, "url": "http://files.example/" + "x" * 100, "length": None,
               "pieces": 5, "pieces_seeded": 4, "peers": 2, "complete_peers": 1,
               "source_bytes": 1024, "state": "seeding"}]}


def test_a_managers_status_is_two_tables() -> None:
    heading, hosts, tasks = describe(MANAGER).split("\n\n")
    assert heading.splitlines() == ["manager m1 (dfly 0.1.0) up 1 h 02 min",
                                    "1.00 GiB from sources, 5.00 GiB sent to the swarm"]
    assert hosts.splitlines() == [
        "HOST         ADDRESS         LOCATION  TASKS",
        "h1           10.0.0.1:65003  eu/dc1        2",
        "evil\\x1b[2J  10.0.0.2:65003                0"]
    head, row = tasks.splitlines()
    assert head.split() == ["TASK", "STATE", "SIZE", "PIECES", "SEEDED", "PEERS", "DONE", "FROM",
                            "SOURCE", "URL"]
    assert row.startswith("abababababab  seeding     -") and row.endswith("...xxxxxxxxxxxxxxxxxxx"
                                                                         "xxxxxxxxx")


def test_a_peers_status_names_its_managers_and_downloads() -> None:
    told = describe({"role": "peer", "name": "h", "managers": [{"address": "a:1"}, "b:2"],
                     "downloads": [{"task": "cd" * 32, "state": "running", "length": 2048,
                                    "bytes": 1024, "url": "http://files.example/x"}]})
    assert told.splitlines()[1] == "managers: a:1, b:2"
    assert told.splitlines()[-1].split() == ["cdcdcdcdcdcd", "running", "2.00", "KiB", "1.00",
                                             "KiB", "http://files.example/x"]
    assert "none: straight to sources" in describe({"role": "peer", "managers": []})


@pytest.mark.parametrize("status", [
    {}, {"hosts": None, "tasks": 5}, {"hosts": [1, "x"]}, {"hosts": [{}]}, {"uptime_s": "long"},
    {"tasks": [{"task": None, "length": "big"}]}, {"managers": {"a": 1}}])
def test_odd_answers_are_shown_as_far_as_they_go(status: Any) -> None:
    assert isinstance(describe(status), str)


def test_it_asks_the_daemon(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert capsys.readouterr().out == "peer here\nmanagers: none: straight to sources\n"
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"role": "peer", "name": "here", "managers": []}


def test_no_daemon_is_told_with_what_to_do(
        short_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--socket", str(short_path / "none")]) == 4
    assert "start one by dfly peer" in capsys.readouterr().err


def test_nobody_at_the_managers_address(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as bound:      # bound, and not listening: refused for sure
        bound.bind(("127.0.0.1", 0))
        assert main(["status", "--manager", f"127.0.0.1:{bound.getsockname()[1]}"]) == 4
    assert "nobody listens there" in capsys.readouterr().err


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n"
                                    b"Content-Length: 5\r\n\r\n[1,2]", b"",
                                    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{\"\x00",
                                    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"])
def test_what_is_no_dfly_is_told_in_one_line(
        answer: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    import threading
    with socket.create_server(("127.0.0.1", 0)) as server:
        def reply() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        code = main(["status", "--manager", f"127.0.0.1:{server.getsockname()[1]}"])
        thread.join()
    assert code in (4, 7)
    assert capsys.readouterr().err.count("\n") == 1
