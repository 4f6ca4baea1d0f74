"""`dfly cache` by way of the daemon, and on the store itself."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from dfly.cli import main
from dfly.digest import Digest, sha256
from dfly.names import shared_url
from dfly.store.disk import DiskStore
from dfly.task import PIECE_SIZE_MIN, Geometry, TaskSpec

A, B = "aa" * 32, "ab" * 32


def record(task_id: str, **changes: Any) -> Dict[str, Any]:
    return {"task_id": task_id, "url": f"http://files.example/{task_id[:2]}", "tag": "",
            "digest": "", "length": 2048, "held_bytes": 1024, "complete": False, **changes}


@pytest.fixture
def kept(daemon: Any) -> Any:
    """A daemon that keeps two tasks, one of them damaged."""
    daemon.answers.update({
        ("GET", "/v1/cache"): (200, {"tasks": [record(A, complete=True), record(B, length=None)]}),
        ("DELETE", f"/v1/cache/{A}"): (200, {}), ("DELETE", f"/v1/cache/{B}"): (200, {}),
        ("POST", f"/v1/cache/{A}/verify"): (200, {"bad": []}),
        ("POST", f"/v1/cache/{B}/verify"): (200, {"bad": [3, 4]})})
    return daemon


def test_ls_shows_what_is_held(kept: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "TASK              SIZE      HELD  TAG  URL",
        "aaaaaaaaaaaa  2.00 KiB       all  -    http://files.example/aa",
        "abababababab         ?  1.00 KiB  -    http://files.example/ab"]
    assert main(["cache", "ls", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["tasks"]) == 2


@pytest.mark.parametrize("name", [A, A[:6].upper(), "http://files.example/aa"])
def test_rm_takes_an_id_its_beginning_or_a_url(
        kept: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "rm", name]) == 0
    assert capsys.readouterr().out == "removed 1 task, 1.00 KiB\n"
    assert [path for method, path, _ in kept.requests if method == "DELETE"] == [f"/v1/cache/{A}"]


@pytest.mark.parametrize("name", ["a", "aaaaa", "ffffff", "http://files.example/"])
def test_a_name_of_no_task_or_several_is_refused(
        kept: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "rm", name]) == 2
    assert "see dfly cache ls" in capsys.readouterr().err
    assert "DELETE" not in [method for method, _, _ in kept.requests]


def test_verify_tells_damage_by_its_exit_code(
        kept: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "verify", A]) == 0
    assert main(["cache", "verify", "--all", "--json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {
        "verified": 2, "bad": {B: [3, 4]}}


def test_what_the_daemon_refuses_is_told(
        kept: Any, capsys: pytest.CaptureFixture[str]) -> None:
    kept.answers["DELETE", f"/v1/cache/{A}"] = (409, {"error": "in use", "hint": "wait"})
    assert main(["cache", "rm", A]) != 0
    assert capsys.readouterr().err == "dfly: in use: wait\n"


@pytest.fixture
def store(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DiskStore]:
    """A real store with one whole task, in a place where no daemon runs."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(short_path))
    monkeypatch.setenv("DFLY_SOCKET", str(short_path / "none"))
    monkeypatch.setenv("DFLY_PEER_STORE", str(short_path / "store"))
    store = DiskStore(str(short_path / "store"))
    file = store.open(A, "v1", Geometry(100, PIECE_SIZE_MIN), url="http://files.example/a")
    file.write(0, b"x" * 100)
    file.mark(0, sha256(b"x" * 100))
    store.flush()
    yield store
    store.close()


def test_without_a_daemon_the_store_is_opened(
        store: DiskStore, capsys: pytest.CaptureFixture[str]) -> None:
    path = store.records()[0].path
    store.close()
    assert main(["cache", "ls"]) == 0
    assert "100 B   all  -    http://files.example/a" in capsys.readouterr().out
    assert main(["cache", "verify", "--all"]) == 0
    assert capsys.readouterr().out == "1 task verified, 0 damaged\n"
    assert Path(path).exists()
    assert main(["cache", "rm", "--all"]) == 0
    assert not Path(path).exists()
    assert main(["cache", "ls"]) == 0


def test_looking_makes_no_store(store: DiskStore, short_path: Path,
                                capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls", "--store", str(short_path / "absent")]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert not (short_path / "absent").exists()


def test_a_store_in_use_is_refused(store: DiskStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls"]) == 12
    assert capsys.readouterr().err.count("\n") == 1


# ------------------------------------------------------------------------------- export
def test_export_to_a_file_and_to_standard_output(
        store: DiskStore, short_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    store.close()
    target = short_path / "out"
    target.write_bytes(b"old")
    assert main(["cache", "export", A[:8], str(target)]) == 0
    assert target.read_bytes() == b"x" * 100
    assert main(["cache", "export", "http://files.example/a", "-"]) == 0
    assert capfdbinary.readouterr().out == b"x" * 100
    assert [path.name for path in short_path.iterdir() if path.name.startswith(".dfly")] == []


def test_a_task_is_named_by_its_digest(
        store: DiskStore, short_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    digest = Digest("sha256", sha256(b"yy"))
    spec = TaskSpec(shared_url(str(digest)), digest=digest)
    file = store.open(spec.task_id, "v1", Geometry(2, PIECE_SIZE_MIN), url=spec.url)
    file.put(0, b"yy", digest.value)
    store.close()
    for name in (spec.url, f"{spec.url}/a-name", str(digest)):
        assert main(["cache", "export", name, "-"]) == 0
        assert capfdbinary.readouterr().out == b"yy"
    assert main(["cache", "export", str(digest)[:-1], "-"]) == 2


def test_a_part_is_not_exported(store: DiskStore, short_path: Path,
                                capsys: pytest.CaptureFixture[str]) -> None:
    store.open(B, "v1", Geometry(200, PIECE_SIZE_MIN))
    store.close()
    assert main(["cache", "export", B, str(short_path / "out")]) == 3
    assert "isn't whole here" in capsys.readouterr().err
    assert not (short_path / "out").exists()


def test_a_stored_file_that_someone_cut(store: DiskStore, short_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(store.records()[0].path)
    store.close()
    path.write_bytes(b"x")
    assert main(["cache", "export", A, "-"]) == 3
    path.unlink()
    assert main(["cache", "export", A, "-"]) == 3
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize("words", [[A], [A, "x", "y"], [A, "x", "--all"], [A, "x", "--json"]])
def test_export_wants_a_task_and_a_file(store: DiskStore, words: "list[str]",
                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "export", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
