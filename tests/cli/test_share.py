"""`dfly share` as a user sees it; the daemon is a scripted one."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict

import pytest

from dfly.cli import main

DIGEST = "sha256:" + "ab" * 32
DONE: Dict[str, Any] = {"event": "done", "task": "cd" * 32, "digest": DIGEST, "length": 2048,
                        "url": "dfly://sha256/" + "ab" * 32, "manager": "manager.example:65002"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a b.bin"
    path.write_bytes(b"x" * 2048)
    return path


def test_the_url_alone_goes_to_standard_output(daemon: Any, file: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["POST", "/v1/share"] = (200, DONE)
    assert main(["share", os.path.relpath(file)]) == 0
    told = capsys.readouterr()
    assert told.out == f"dfly://sha256/{'ab' * 32}/a%20b.bin\n"
    assert "2.00 KiB shared" in told.err and "manager.example:65002" in told.err
    facts = os.stat(file)
    assert daemon.asked("/v1/share") == {"path": str(file),
                                         "identity": [facts.st_dev, facts.st_ino]}


def test_quiet_and_json(daemon: Any, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["POST", "/v1/share"] = (200, DONE)
    assert main(["share", str(file), "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["share", str(file), "--json"]) == 0
    told = capsys.readouterr()
    assert told.err == "" and json.loads(told.out) == {
        **DONE, "url": f"dfly://sha256/{'ab' * 32}/a%20b.bin", "file": str(file)}


def test_what_the_daemon_says_went_wrong(daemon: Any, file: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["POST", "/v1/share"] = (200, {
        "event": "failed", "exit_code": 10, "what": "no manager\nwas told", "hint": "name one"})
    assert main(["share", str(file), str(file)]) == 10
    told = capsys.readouterr()
    assert told.out == "" and told.err == "dfly: no manager\\x0awas told: name one\n" * 2


def test_an_older_daemon_and_one_that_ends(daemon: Any, file: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["share", str(file)]) == 4   # 404
    assert "is older" in capsys.readouterr().err
    daemon.answers["POST", "/v1/share"] = (200, {"event": "progress", "bytes": 1, "length": 2})
    assert main(["share", str(file)]) == 4
    assert "repeat the command" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["absent", "a\udcffb\0c"])
def test_a_wrong_name_asks_no_daemon(daemon: Any, name: str,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["share", name]) == 3
    assert capsys.readouterr().err.count("\n") == 1 and daemon.requests == []


def test_a_manager_that_a_running_daemon_doesnt_hear_of(
        daemon: Any, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["POST", "/v1/share"] = (200, DONE)
    daemon.answers["GET", "/v1/status"] = (200, {"role": "peer", "managers": ["10.0.0.9:65002"]})
    for manager, warnings in (("other.example", 1), ("10.0.0.9", 0)):
        assert main(["share", str(file), "--manager", manager]) == 0
        assert capsys.readouterr().err.count("it uses 10.0.0.9:65002; --manager") == warnings


def test_a_manager_named_by_the_environment_is_as_one_of_the_command_line(
        daemon: Any, file: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["POST", "/v1/share"] = (200, DONE)
    daemon.answers["GET", "/v1/status"] = (200, {"role": "peer", "managers": ["10.0.0.9:65002"]})
    for manager, warnings in (("other.example", 1), ("10.0.0.9", 0)):
        monkeypatch.setenv("DFLY_MANAGER", manager)
        assert main(["share", str(file)]) == 0
        assert capsys.readouterr().err.count("it uses 10.0.0.9:65002") == warnings


def test_a_wrong_name_stops_no_other(daemon: Any, file: Path,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["POST", "/v1/share"] = (200, DONE)
    assert main(["share", "absent", str(file)]) == 3
    told = capsys.readouterr()
    assert told.out.startswith("dfly://sha256/") and "can't read absent" in told.err
    assert main(["share", "", str(file)]) == 3
    assert "can't read a file without a name: " in capsys.readouterr().err
