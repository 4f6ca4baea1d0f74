"""`dfly get` against a scripted daemon: what it asks, says, writes, and its exit codes."""
from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

from dfly.cli import main
from dfly.errors import worst

ROOT = Path(__file__).resolve().parents[2]
TASK = "ab" * 32
URL = "http://files.example/dir/big%20file.iso"
CONTENT = bytes(range(256)) * 300
ACCEPTED = {"event": "accepted", "task": TASK, "length": len(CONTENT), "via": "manager",
            "manager": "10.0.0.1:65002"}


def done(**changes: Any) -> Dict[str, Any]:
    return {"event": "done", "task": TASK, "length": len(CONTENT), "path": "", "seconds": 1.0,
            "from_peers": len(CONTENT) - 100, "from_manager": 100, "from_source": 0,
            "from_cache": 0, **changes}


@pytest.fixture
def ready(daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A daemon that will deliver CONTENT through its socket; the current folder is empty."""
    monkeypatch.chdir(tmp_path)
    daemon.content = CONTENT
    daemon.events = [ACCEPTED, done()]
    return daemon


def test_the_file_gets_the_name_that_the_url_ends_in(ready: Any, tmp_path: Path) -> None:
    assert main(["get", URL]) == 0
    assert (tmp_path / "big file.iso").read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["big file.iso"]


def test_a_readable_file_of_the_store_is_linked(ready: Any, tmp_path: Path) -> None:
    stored = tmp_path / "store-data"
    stored.write_bytes(CONTENT)
    ready.events = [ACCEPTED, done(path=str(stored))]
    assert main(["get", URL, "-O", "x"]) == 0
    assert os.path.samefile(tmp_path / "x", stored)
    assert [path for _, path, _ in ready.requests if "content" in path] == []


def test_a_taken_name_is_numbered_and_o_replaces(ready: Any, tmp_path: Path) -> None:
    (tmp_path / "big file.iso").write_bytes(b"old")
    assert main(["get", URL]) == 0
    assert main(["get", URL]) == 0
    assert (tmp_path / "big file.iso").read_bytes() == b"old"
    assert (tmp_path / "big file.iso.1").read_bytes() == CONTENT
    assert (tmp_path / "big file.iso.2").read_bytes() == CONTENT
    assert main(["get", URL, "-O", "big file.iso"]) == 0
    assert (tmp_path / "big file.iso").read_bytes() == CONTENT


def test_a_pile_that_is_there_is_left_alone_without_a_question(
        ready: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pile").write_bytes(b"old")
    assert main(["get", "-nc", "-O", "pile", URL, URL + "2"]) == 0
    assert capsys.readouterr().err.count("pile is there already; not retrieving") == 2
    assert (tmp_path / "pile").read_bytes() == b"old"
    assert [path for _, path, _ in ready.requests] == ["/v1/status?brief=1"]


def test_a_bad_line_of_a_list_is_told_in_its_place(
        ready: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text(f"{URL}\nftp://h/x\n{URL}2\n")
    assert main(["get", "-nv", "-i", "list"]) == 2
    said = capsys.readouterr().err
    assert said.index("file.iso ") < said.index("list:2: ") < said.index("file.iso2")


def test_pauses_between_files_are_of_one_after_the_other(
        ready: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for options, warnings in (("-w0.01 -j2", 1), ("-w0.01", 0), ("-j2", 0)):
        assert main(["get", "-O", "pile", *options.split(), URL, URL + "2"]) == 0
        assert capsys.readouterr().err.count("-j does nothing together with --wait") == warnings


def test_a_bad_entry_of_a_metalink_is_told_in_its_place(
        ready: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = "".join(f"<file name='{name}'><url>{url}</url></file>" for name, url in (
        ("a", URL), ("b", "ftp://h/b"), ("c", URL)))
    start = "<metalink xmlns='urn:ietf:params:xml:ns:metalink'>"
    (tmp_path / "m").write_text(start + files + "</metalink>")
    assert main(["get", "--progress=none", "--metalink", "m"]) == 2
    said = capsys.readouterr().err
    assert said.index("\na: ") < said.index("dfly: m: no HTTP or HTTPS address of b") < (
        said.index("\nc: "))


def test_a_metalink_of_nothing_that_can_be_had_asks_nobody(
        ready: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m").write_text("<metalink xmlns='urn:ietf:params:xml:ns:metalink'>"
                                "<file name='a'/><file name='b'/></metalink>")
    assert main(["get", "--metalink", "m"]) == 2
    said = capsys.readouterr().err
    assert said.count("no HTTP or HTTPS address of") == said.count("\n") == 2
    assert ready.requests == []


def test_a_line_that_cannot_be_changes_nothing_of_standard_output(
        ready: Any, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (tmp_path / "list").write_text(f"ftp://h/x\n{URL}\n{URL}2\n")
    assert main(["get", "-q", "-O", "-", "-i", "list"]) == 2
    assert capfdbinary.readouterr().out == CONTENT * 2
    assert os.listdir(tmp_path) == ["list"]
    assert len([path for _, path, _ in ready.requests if path == "/v1/get"]) == 2


@pytest.mark.parametrize("digests, why", [
    (f"md5:{'0' * 32}", f"two md5 digests of {URL} contradict each other"),
    (f"sha256:{'1' * 64}", f"two sha256 digests of {URL} contradict each other")])
def test_digests_that_contradict_each_other_name_what_they_are_of(
        ready: Any, tmp_path: Path, digests: str, why: str,
        capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text(f"{digests} {URL}\n")
    (tmp_path / "sums").write_text(f"{'a' * len(digests.partition(':')[2])}  big file.iso\n")
    assert main(["get", "-i", "list", "--checksum-file", "sums"]) == 2
    assert why in capsys.readouterr().err


def test_a_shared_contents_digest_is_its_urls(ready: Any, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    url = f"dfly://sha256/{'1' * 64}/f"
    (tmp_path / "list").write_text(f"sha256:{'2' * 64} {url}\nsha256:{'1' * 64} {url}\n")
    assert main(["get", "-i", "list"]) == 2
    assert f"two sha256 digests of {url} contradict each other" in capsys.readouterr().err
    assert len([path for _, path, _ in ready.requests if path == "/v1/get"]) == 1


@pytest.mark.parametrize("urls", [[URL, "dfly://sha256/" + "1" * 64],
                                  ["dfly://sha256/" + "1" * 64, URL]])
def test_a_shared_content_has_no_mirrors(ready: Any, urls: List[str],
                                         capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "--mirror", *urls]) == 2
    assert "a shared content has no mirrors" in capsys.readouterr().err


def test_a_folder_is_made(ready: Any, tmp_path: Path) -> None:
    assert main(["get", "-P", "a/b", URL]) == 0
    assert (tmp_path / "a/b/big file.iso").read_bytes() == CONTENT


def test_the_request_says_all_that_was_asked(ready: Any) -> None:
    md5 = "0" * 32
    sha = "sha256:" + "1" * 64
    assert main(["get", URL, "-q", "-H", "A: b", "--header", "C:d: e", "--digest", sha, "-m", md5,
                 "--filter", "sig,exp", "--tag", "t", "--notbs", "--limit-rate", "2k", "-T", "5",
                 "-t", "3"]) == 0
    assert ready.asked("/v1/get") == {
        "url": URL, "tag": "t", "filters": ["sig", "exp"], "digest": sha, "check": "md5:" + md5,
        "no_source": True, "limit_bps": 2048.0, "access": {
            "headers": [["A", "b"], ["C", "d: e"]],
            "manners": {"connect_timeout_s": 5.0, "read_timeout_s": 5.0, "tries": 3,
                        "retry_wait_s": 10.0, "retry_statuses": [], "retry_refused": False,
                        "max_redirects": 20, "family": 0}}}


@pytest.mark.parametrize("code", [3, 4, 6, 8, 9, 11])
def test_a_failure_has_the_daemons_code_and_words(
        ready: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int) -> None:
    ready.events = [ACCEPTED, {"event": "failed", "exit_code": code, "what": "it\x1b[2Jbroke",
                               "hint": "mend it"}]
    assert main(["get", URL]) == code
    assert capsys.readouterr().err == "dfly: it\\x1b[2Jbroke: mend it\n"
    assert os.listdir(tmp_path) == []


def test_a_daemon_that_dies_is_a_network_error(ready: Any, tmp_path: Path) -> None:
    ready.events = [ACCEPTED]
    assert main(["get", URL]) == 4
    assert os.listdir(tmp_path) == []


def test_a_cut_content_leaves_nothing_behind(ready: Any, tmp_path: Path) -> None:
    ready.content_short_by = 1
    assert main(["get", URL]) == 4
    assert os.listdir(tmp_path) == []


def test_lost_p2p_is_told_with_its_reason(
        ready: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ready.events = [{**ACCEPTED, "via": "source"},
                    {"event": "warning", "what": "no manager answered: going to the source"},
                    done(from_peers=0, from_manager=0, from_source=len(CONTENT))]
    assert main(["get", URL]) == 0
    said = capsys.readouterr().err
    assert "dfly: warning: no manager answered: going to the source\n" in said
    assert "P2P 0%: source 100%" in said


def test_one_summary_line_and_none_when_quiet(
        ready: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", URL]) == 0
    said = capsys.readouterr().err
    assert said.startswith("big file.iso: 75.0 KiB in ") and said.count("\n") == 1
    assert "P2P 100%: peers 99% manager <1%" in said
    assert main(["get", "-q", URL]) == 0
    assert capsys.readouterr() == ("", "")


def test_json_prints_one_event_a_line(ready: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "--json", URL]) == 0
    printed = capsys.readouterr()
    events = [json.loads(line) for line in printed.out.splitlines()]
    assert [event["event"] for event in events] == ["accepted", "done"]
    assert all(event["url"] == URL for event in events)
    assert events[-1]["target"] == "big file.iso"
    assert printed.err == ""


def test_json_tells_of_failure(ready: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ready.events = [{"event": "failed", "exit_code": 8, "what": "404", "hint": "look"}]
    assert main(["get", "--json", URL]) == 8
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {"url": URL, "event": "failed", "exit_code": 8, "what": "404", "hint": "look"}


@pytest.mark.parametrize("codes, code", [([0, 0], 0), ([0, 8, 4], 4), ([1, 8], 8), ([0, 1], 1),
                                         ([], 0)])
def test_several_downloads_end_with_wgets_code(codes: List[int], code: int) -> None:
    assert worst(codes) == code


@pytest.mark.parametrize("arguments", [
    [],
    ["ftp://files.example/x"],
    ["not a url"],
    [URL, "--unknown"],
    [URL, "--lim", "1"],
    [URL, "--limit-rate", "fast"],
    [URL, "--digest", "sha256:12"],
    [URL, "-m", "xyz"],
    [URL, "--header", "no colon"],
    [URL, "--header", "A: b\r\nC: d"],
    [URL, "--json", "-O", "-"],
    [URL, "--progress=json", "-O", "-"],
    [URL, "--progress=fancy"],
    [URL, "-c", "-O", "-"],
    [URL, "-nc", "-N"],
    [URL, "-q", "-v"],
    [URL, "-4", "-6"],
    [URL, "-r"],
    [URL, "-np"],
    [URL, "-k"],
    [URL, "--post-data=x"],
    [URL, "--method=PUT"],
    [URL, "--range", "5-3"],
    [URL, "--range", "x"],
    [URL, "--range", "-0"],
    [URL, "--range", "0-5", "-c"],
    [URL, URL, "--digest", "sha256:" + "1" * 64],
    [URL, "-B", "http://f/"],
    [URL, "--backups=x"],
    [URL, "--cut-dirs", "-1"],
    [URL, "--retry-on-http-error", "200"],
    [URL, "--secure-protocol", "SSLv3"],
    [URL, "--password", "x"],
    [URL, "--private-key", "x"],
    [URL, "-e", "tries=3"],
    [URL, "--restrict-file-names", "dos"],
    [URL, "--digest", "md5:" + "0" * 32, "-m", "1" * 32],
    ["--metalink=m", "--user=u", "--password=p"],
    ["--metalink=m", "--use-askpass=ask"],
    ["--metalink=m", "--header=X-Token: t"],
    ["--metalink=m", "--header", "authorization:Bearer t"],
    ["--metalink=m", "--certificate=c"],
    ["--metalink=m", "--referer=http://h/?token=t"],
    [URL, "--tries", "-1"],
    [URL, "--tries", "many"],
])
def test_wrong_usage_is_one_line_and_2(
        ready: Any, capsys: pytest.CaptureFixture[str], arguments: List[str]) -> None:
    assert main(["get", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("dfly: ") and said.err.count("\n") == 1
    assert ready.requests == []


@pytest.mark.parametrize("option, kind", [
    ("--ca-certificate", "certificates"), ("--crl-file", "X509 CRL"),
    ("--certificate", "CERTIFICATE"), ("--certificate=good --private-key", "PRIVATE KEY")])
def test_a_file_that_is_no_pem_is_named(ready: Any, tmp_path: Path, option: str, kind: str,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad").write_bytes(b"\x30\x82 DER")
    (tmp_path / "good").write_text("-----BEGIN CERTIFICATE-----")
    assert main(["get", URL, *option.split(), "bad"]) == 3
    said = capsys.readouterr().err
    assert f"bad: no {kind} in it" in said and said.count("\n") == 1 and ready.requests == []


def test_a_target_that_cannot_be_is_told_before_the_download(
        ready: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    assert main(["get", URL, "-O", "folder"]) == 3
    assert main(["get", URL, "-P", "file"]) == 3
    assert ready.requests == []


def test_other_managers_of_a_running_daemon_are_told(
        ready: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ready.answers["GET", "/v1/status"] = (200, {"role": "peer", "managers": ["10.0.0.9:65002"]})
    assert main(["get", URL, "--manager", "10.0.0.1"]) == 0
    assert "it uses 10.0.0.9:65002; --manager 10.0.0.1:65002 has no effect" in (
        capsys.readouterr().err)


def test_what_the_daemon_refuses_is_told(ready: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ready.answers["GET", "/v1/status"] = (500, {"error": "broken", "hint": "mend"})
    assert main(["get", URL]) == 8
    assert capsys.readouterr().err == "dfly: broken: mend\n"


# ------------------------------------------------------------------ as a process of its own
def spawn(arguments: List[str], **more: Any) -> "subprocess.Popen[bytes]":
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "dfly", *arguments], env=environ,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **more)


def test_standard_output_gets_the_content_while_it_comes(ready: Any) -> None:
    process = spawn(["get", "-O", "-", URL])
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, CONTENT), err
    assert ready.asked("/v1/get")["streaming"] is True
    assert err.startswith(b"big file.iso: ")


def test_a_short_stream_to_standard_output_is_an_error(ready: Any) -> None:
    ready.content_short_by = 5
    process = spawn(["get", "-q", "-O", "-", URL])
    _, err = process.communicate(timeout=20)
    assert process.returncode == 4 and b"in the middle" in err


def test_a_reader_that_leaves_ends_it_silently(ready: Any) -> None:
    ready.content = CONTENT * 100
    ready.hold = True
    ready.events = [ACCEPTED]
    process = spawn(["get", "-O", "-", URL])
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(20) == 141
    process.stderr.close()


def test_interrupting_ends_the_download_and_says_how_to_go_on(ready: Any) -> None:
    ready.hold = True
    ready.events = [ACCEPTED, {"event": "warning", "what": "here we are"}]
    process = spawn(["get", URL])
    assert process.stderr is not None and process.stdout is not None
    assert process.stderr.readline() == b"dfly: warning: here we are\n"
    process.send_signal(signal.SIGINT)
    assert b"goes on from what is here" in process.stderr.read()
    assert process.wait(20) == 130
    assert ready.cancelled.wait(20)
    process.stderr.close()
    process.stdout.close()


def test_a_terminal_gets_a_live_line(
        ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen)
    ready.events = [{**ACCEPTED, "bytes": 0}, done()]
    assert main(["get", URL]) == 0
    shown = screen.getvalue()
    assert shown.startswith("\rwaiting for an answer: big file.iso\x1b[")
    assert shown.endswith("\n") and "big file.iso: 75.0 KiB" in shown.rpartition("\x1b[")[2]
