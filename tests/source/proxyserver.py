"""A forward proxy for tests: absolute-form requests and CONNECT, with a login and with faults."""
from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Callable, Dict, List, Optional
from urllib.parse import urlsplit


class ProxyServer:
    """Serves inside its `with`. `login`: the Proxy-Authorization wanted, else 407 (or `admits`
    tells by the request line, less the version, and what was given). `answer`: raw bytes given to
    every CONNECT in place of a tunnel; b"" = none, ever. `log` has the request lines."""

    def __init__(self, *, login: str = "", answer: Optional[bytes] = None,
                 admits: Optional[Callable[[str, str], bool]] = None,
                 challenge: str = 'Basic realm="proxy"', host: str = "127.0.0.1") -> None:
        self.answer, self.challenge = answer, challenge
        self.admits = admits or (lambda _, given: login in ("", given))
        self.log: List[str] = []
        self.headers: List[Dict[str, str]] = []
        self.connections = 0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port = self._listener.getsockname()[1]
        self.place = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self._sockets: List[socket.socket] = []
        self._threads: List[threading.Thread] = []

    def url(self, login: str = "") -> str:
        return f"http://{login + '@' if login else ''}{self.place}"

    def __enter__(self) -> ProxyServer:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._sockets.append(sock)
                self.connections += 1
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), sock, sock.makefile("rb") as reader:
            while self._one(sock, reader):
                pass

    def _one(self, sock: socket.socket, reader: object) -> bool:
        lines = []
        for line in iter(reader.readline, b""):  # type: ignore[attr-defined]
            if line in (b"\r\n", b"\n"):
                break
            lines.append(line.decode("latin-1").rstrip("\r\n"))
        if not lines:
            return False
        method, target, _ = lines[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in
                   (line.partition(":") for line in lines[1:])}
        self.log.append(f"{method} {target}")
        self.headers.append(headers)
        if not self.admits(self.log[-1], headers.get("proxy-authorization", "")):
            sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: "
                         + self.challenge.encode() + b"\r\nContent-Length: 2\r\n\r\nno")
            return True
        if method == "CONNECT" and self.answer is not None:
            sock.sendall(self.answer)
            return self.answer == b"" and bool(sock.recv(1)) and False
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            far = socket.create_connection((host.strip("[]"), int(port)))
            self._sockets.append(far)
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _pass_on(sock, far)
            return False
        return self._forward(sock, target, lines)

    def _forward(self, sock: socket.socket, target: str, lines: List[str]) -> bool:
        parts = urlsplit(target)
        assert parts.hostname and parts.scheme == "http", target
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        kept = [line for line in lines[1:]
                if not line.lower().startswith(("proxy-", "connection:"))]
        head = "\r\n".join([f"GET {path} HTTP/1.1", *kept, "Connection: close", "", ""])
        with socket.create_connection((parts.hostname, parts.port or 80)) as far:
            far.sendall(head.encode("latin-1"))
            answer = b"".join(iter(lambda: far.recv(65536), b""))
        sock.sendall(answer)
        return b"Content-Length" in answer


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with other:
        while True:
            ready, _, _ = select.select([one, other], [], [], 20)
            if not ready:
                return
            for sock in ready:
                data = sock.recv(65536)
                if not data:
                    return
                (other if sock is one else one).sendall(data)
