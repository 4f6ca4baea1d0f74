"""Starting the daemon: once, detached, with its reasons when it can't."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List

import pytest

from dfly.cli import autostart
from dfly.cli.autostart import ensure_daemon
from dfly.cli.local import NobodyThere, ask_json
from dfly.config import GetSettings, load
from dfly.errors import DflyError, StoreBusy

# A stand-in for `dfly peer`: it takes the same arguments, notes how it was started, and serves
# one kind of answer until it is told to stop.
PEER = textwrap.dedent("""
    import argparse, json, os, socketserver, sys
    parser = argparse.ArgumentParser()
    parser.add_argument("role")
    for name in ("--socket", "--store", "--idle-exit", "--ready-fd"):
        parser.add_argument(name)
    parser.add_argument("--manager", action="append")
    args = parser.parse_args()
    print("this goes to the log", flush=True)
    with open(args.store + "/started", "a") as notes:
        json.dump({"args": vars(args), "cwd": os.getcwd(), "session": os.getsid(0),
                   "pid": os.getpid(), "fds": sorted(map(int, os.listdir("/proc/self/fd"))),
                   "environ": dict(os.environ)}, notes)
        notes.write("\\n")
    FAIL
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            line = self.rfile.readline()
            body = b'{"role": "peer", "managers": []}'
            self.wfile.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b"
                             % (len(body), body))
            if b"/v1/stop" in line:
                self.server.done = True
    server = socketserver.UnixStreamServer(args.socket, Handler)
    server.done = False
    os.write(int(args.ready_fd), b"ready 127.0.0.1:1\\n")
    os.close(int(args.ready_fd))
    while not server.done:
        server.handle_request()
    os.unlink(args.socket)
""")


class Host:
    """A host's folder, where `dfly peer` is the stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = str(folder / "run" / "s")
        self.settings = load(GetSettings, SimpleNamespace(
            socket=self.socket, store=str(folder / "store"), manager=["10.0.0.1"]), {})

    def install(self, monkeypatch: pytest.MonkeyPatch, instead: str = "") -> None:
        script = self.folder / "peer.py"
        script.write_text(PEER.replace("FAIL", instead))
        monkeypatch.setattr(autostart, "program",
                            lambda: ([sys.executable, str(script)], {"MARK": "set"}))

    def starts(self) -> List[Dict[str, Any]]:
        text = (self.folder / "store" / "started").read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def host(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(short_path))
    host = Host(short_path)
    host.install(monkeypatch)
    yield host
    if os.path.exists(host.socket):
        ask_json(host.socket, "POST", "/v1/stop")


def test_proxies_of_who_starts_it_are_not_everybodys(host: Host,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command tells its own."""
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://once:1")
    monkeypatch.setenv("HTTP_PROXY", "http://always:1")   # which no command tells
    monkeypatch.setenv("no_proxy", "here")
    assert ensure_daemon(host.settings) is None
    (start,) = host.starts()
    assert {name: value for name, value in start["environ"].items() if "proxy" in name.lower()} == {
        "HTTP_PROXY": "http://always:1", "no_proxy": "here"}


def test_none_runs_so_one_is_started(host: Host) -> None:
    assert ensure_daemon(host.settings) is None
    assert ensure_daemon(host.settings) == {"role": "peer", "managers": []}
    (start,) = host.starts()
    assert start["args"]["manager"] == ["10.0.0.1:65002"]
    assert start["args"]["store"] == str(host.folder / "store")
    assert start["args"]["idle_exit"] == "5min"


def test_none_is_started_if_that_was_forbidden(host: Host) -> None:
    with pytest.raises(NobodyThere, match="no peer daemon runs"):
        ensure_daemon(host.settings.changed(no_start=True))
    assert not (host.folder / "store").exists()


def test_the_daemon_is_detached(host: Host) -> None:
    with open(host.folder / "lock", "wb") as file:   # what a script's `exec 9>lock` does
        os.set_inheritable(file.fileno(), True)
        ensure_daemon(host.settings)
        (start,) = host.starts()
        assert start["cwd"] == "/"
        assert start["session"] not in (os.getsid(0), start["pid"])
        assert os.readlink(f"/proc/{start['pid']}/fd/0") == "/dev/null"
        held = {os.path.realpath(f"/proc/{start['pid']}/fd/{fd}") for fd in start["fds"]}
        assert file.name not in held
    log = host.folder / "store" / "peer.log"
    assert log.read_text() == "this goes to the log\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_many_starters_make_one_daemon(host: Host) -> None:
    """Processes, as in life: the lock is between processes."""
    program = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
        from types import SimpleNamespace
        from dfly.cli import autostart
        from dfly.config import GetSettings, load
        autostart.program = lambda: ([sys.executable, {str(host.folder / "peer.py")!r}], {{}})
        settings = load(GetSettings, SimpleNamespace(socket={host.socket!r},
                                                     store={str(host.folder / "store")!r}), {{}})
        autostart.ensure_daemon(settings)
    """)
    starters = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
    assert [starter.wait(30) for starter in starters] == [0, 0, 0, 0]
    assert len(host.starts()) == 1


def test_its_reason_for_failing_arrives(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.install(monkeypatch, "os.write(int(args.ready_fd), b'failed 12\\nstore in use\\nby pid 7"
                              "\\n'); sys.exit(12)")
    with pytest.raises(StoreBusy) as caught:
        ensure_daemon(host.settings)
    assert caught.value.what == "store in use"
    assert caught.value.hint == f"by pid 7; its log is {host.folder}/store/peer.log"


def test_dying_without_a_word_is_noticed_at_once(
        host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.install(monkeypatch, "sys.exit('no reason')")
    with pytest.raises(DflyError, match="ended as it started"):
        ensure_daemon(host.settings)
    assert "no reason" in (host.folder / "store" / "peer.log").read_text()


def test_a_program_that_cannot_be_run_is_told(
        host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autostart, "program", lambda: (["/nonexistent/python3"], {}))
    with pytest.raises(DflyError, match="can't start /nonexistent/python3"):
        ensure_daemon(host.settings)


def test_a_stale_socket_is_no_daemon(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket
    os.mkdir(os.path.dirname(host.socket), 0o700)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(host.socket)
    stale.close()
    host.install(monkeypatch, "os.unlink(args.socket)")
    assert ensure_daemon(host.settings) is None


def test_the_socket_folder_must_be_ours(host: Host) -> None:
    os.mkdir(os.path.dirname(host.socket))
    os.chmod(os.path.dirname(host.socket), 0o777)
    with pytest.raises(DflyError, match="only this user may write"):
        ensure_daemon(host.settings)


def test_this_program_can_be_run_again() -> None:
    command, variables = autostart.program()
    done = subprocess.run([*command, "--version"], env={**os.environ, **variables}, cwd="/",
                          stdout=subprocess.PIPE, check=True)
    assert done.stdout.startswith(b"dfly ")
