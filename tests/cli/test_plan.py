"""What a command line of `dfly get` asks for, where two things that it asks for contradict."""
from __future__ import annotations

from pathlib import Path
from typing import Any, List

import pytest

from dfly.cli import main

URL = "http://files.example/f"
SHA256 = "a" * 64


@pytest.mark.parametrize("part", [["--range", "0-9"], ["--range", "-9"], ["--start-pos", "5"]])
@pytest.mark.parametrize("digest", [
    ["--digest", f"sha256:{SHA256}"], ["--checksum", f"sha1:{'b' * 40}"], ["-m", "c" * 32],
    ["--checksum-file", "sums"], ["-i", "list"]])
def test_a_part_has_no_digest(daemon: Any, part: List[str], digest: List[str], tmp_path: Path,
                              monkeypatch: pytest.MonkeyPatch,
                              capsys: pytest.CaptureFixture[str]) -> None:
    """Whether the whole is here already would make the difference."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums").write_text(f"{SHA256}  f\n")
    (tmp_path / "list").write_text(f"sha256:{SHA256} {URL}\n")
    urls = [] if digest[0] == "-i" else [URL]
    assert main(["get", *part, *digest, *urls]) == 2
    said = capsys.readouterr().err
    assert "a digest is of the whole content" in said and said.count("\n") == 1
    assert daemon.requests == []


def test_a_list_without_digests_may_be_of_parts(daemon: Any, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text(f"{URL}\nsha256:{SHA256} {URL}\n")
    daemon.events = [{"event": "failed", "exit_code": 8, "what": "no", "hint": ""}]
    assert main(["get", "-q", "--range", "0-9", "-i", "list"]) == 2
    assert daemon.asked("/v1/get")["span"] == [0, 10]
