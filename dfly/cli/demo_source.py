"""The demo's source: a small HTTP server of files in one folder, with ranges, in a process of its
own. It counts the bytes of file content that it sends; GET /count tells them.

Only the standard library's server: so what the demo shows doesn't rest on dfly's own HTTP code.
"""
from __future__ import annotations

import json
import os
import re
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable, Optional, Tuple
from urllib.parse import unquote

_RANGE = re.compile(r"bytes=(\d+)-(\d*)", re.ASCII)
SEND_SIZE = 256 * 1024


class SourceServer(ThreadingHTTPServer):
    """Serves the files of `folder`; `sent` counts content bytes, `requests` GETs of files."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: str) -> None:
        super().__init__(("127.0.0.1", 0), SourceHandler)
        self.folder = folder
        self.sent = 0
        self.requests = 0
        self.lock = threading.Lock()

    def count(self, sent: int, requests: int = 0) -> None:
        with self.lock:
            self.sent += sent
            self.requests += requests


class SourceHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SourceServer

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the demo prints what matters."""

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        if self.path == "/count":
            self._send_json({"bytes": self.server.sent, "requests": self.server.requests})
        else:
            self._answer(with_content=True)

    def _send_json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, with_content: bool) -> None:
        name = unquote(self.path.partition("?")[0].lstrip("/"))
        if name not in os.listdir(self.server.folder):
            self.send_error(404)
            return
        path = os.path.join(self.server.folder, name)
        with open(path, "rb") as file:
            state = os.fstat(file.fileno())
            start, stop, status = self._range(state.st_size)
            self.send_response(status)
            self.send_header("Content-Length", str(stop - start))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{state.st_mtime_ns:x}-{state.st_size:x}"')
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{state.st_size}")
            self.end_headers()
            if with_content:
                self.server.count(0, requests=1)
                self._send_range(file.fileno(), start, stop)

    def _range(self, size: int) -> Tuple[int, int, int]:
        """(start, stop, status) for the request's Range."""
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match is None or int(match[1]) >= size:
            return 0, size, 200
        stop = min(int(match[2]) + 1, size) if match[2] else size
        return int(match[1]), stop, 206

    def _send_range(self, fd: int, start: int, stop: int) -> None:
        while start < stop:
            data = os.pread(fd, min(SEND_SIZE, stop - start), start)
            if not data:
                break
            try:
                self.wfile.write(data)
            except OSError:
                self.close_connection = True  # the client left; what was not sent isn't counted
                break
            start += len(data)
            self.server.count(len(data))


def serve_folder(folder: str, ready: Optional[Callable[[str], None]] = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    server = SourceServer(folder)

    def stop(number: int, frame: object) -> None:
        threading.Thread(target=server.shutdown).start()  # it waits for the loop, which we are in

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if ready is not None:
        ready(f"127.0.0.1:{server.server_address[1]}")
    server.serve_forever()
    server.server_close()
    return 0
