"""A scripted peer daemon on a unix socket, for the commands that talk to one."""
from __future__ import annotations

import json
import os
import shutil
import socketserver
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

TASK = "ab" * 32


class FakeDaemon:
    """Answers as the scenario says, and remembers what it was asked."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self.events: List[Dict[str, Any]] = []
        self.content = b""
        self.content_short_by = 0     # bytes that the content's connection is cut before its end
        self.answers: Dict[Tuple[str, str], Tuple[int, Any]] = {
            ("GET", "/v1/status"): (200, {"role": "peer", "name": "here", "managers": []})}
        self.requests: List[Tuple[str, str, Any]] = []
        self.cancelled = threading.Event()   # set when a client leaves during its events
        self.hold = False                    # keep the events' connection open after the last
        self._server = _Server(socket_path, self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def asked(self, target: str) -> Any:
        """The body of the only request to `target`."""
        (body,) = [body for _, path, body in self.requests if path == target]
        return body

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, daemon: FakeDaemon) -> None:
        super().__init__(path, _Handler)
        self.daemon = daemon

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves in the middle is part of the play."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def handle_request(self) -> None:
        daemon = self.server.daemon
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        daemon.requests.append((self.command, self.path, body))
        if self.path == "/v1/get":
            self._send_events(daemon)
        elif self.path == f"/v1/tasks/{TASK}/content":
            self._send_content(daemon)
        else:
            status, value = daemon.answers.get((self.command, self.path.partition("?")[0]),
                                               (404, {"error": "no such thing", "hint": ""}))
            self._send(status, json.dumps(value).encode())

    do_GET = do_POST = do_DELETE = handle_request

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_content(self, daemon: FakeDaemon) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(daemon.content)))
        self.end_headers()
        self.wfile.write(daemon.content[:len(daemon.content) - daemon.content_short_by])
        self.close_connection = True

    def _send_events(self, daemon: FakeDaemon) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in daemon.events:
            line = json.dumps(event).encode() + b"\n"
            half = len(line) // 2     # lines and chunks have nothing to do with each other
            self.wfile.write(b"%x\r\n%b\r\n%x\r\n%b\r\n" % (half, line[:half], len(line) - half,
                                                         line[half:]))
        if daemon.hold:
            self.wfile.flush()
            assert self.rfile.read(1) == b""
            daemon.cancelled.set()
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets."""
    folder = tempfile.mkdtemp(prefix="dfly-")
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.fixture
def daemon(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    """A running fake daemon, at the place where commands look for theirs."""
    for name in list(os.environ):
        if name.startswith("DFLY_"):
            monkeypatch.delenv(name)
    fake = FakeDaemon(str(short_path / "s"))
    monkeypatch.setenv("DFLY_SOCKET", fake.socket_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(short_path))
    yield fake
    fake.stop()
