"""What the tests of net/ stand on: a guarded event loop, connected streams, sinks, task files."""
from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Coroutine, List, Optional, Set, Tuple, TypeVar

from dfly.errors import DflyError
from dfly.net.mover import Movers
from dfly.net.stream import Stream
from dfly.task import Geometry, full_set
from tests.support import open_descriptors

T = TypeVar("T")
GUARD_S = 30.0   # a test that hangs ends here
PIECE = 256 * 1024


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine; no task and no descriptor may be left behind."""
    before = open_descriptors()

    async def guarded() -> T:
        result = await asyncio.wait_for(scenario, GUARD_S)
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, left
        return result

    result = asyncio.run(guarded())
    leaked = open_descriptors() - before
    assert not leaked, leaked
    return result


@contextlib.asynccontextmanager
async def moving(threads: int = 1) -> AsyncIterator[Movers]:
    """Movers for the time of a test."""
    movers = Movers(threads)
    movers.start(asyncio.get_running_loop())
    try:
        yield movers
    finally:
        movers.stop()


@contextlib.contextmanager
def listening(host: str = "127.0.0.1") -> Any:
    with socket.create_server((host, 0)) as listener:
        yield listener


def pair() -> Tuple[Stream, socket.socket]:
    """A stream and the plain blocking socket at its other end, over TCP."""
    with listening() as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    far.settimeout(GUARD_S)
    return Stream(near), far


def off_loop(work: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
    """Blocking work of a test's far end, begun at once."""
    return asyncio.get_running_loop().run_in_executor(None, work, *args)


async def until(holds: Callable[[], bool]) -> None:
    """For what no event tells of."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        block = sock.recv(min(1 << 20, size - len(data)))
        if not block:
            break
        data += block
    return bytes(data)


def read_all(sock: socket.socket) -> bytes:
    return read_exactly(sock, 1 << 40)


class CollectSink:
    """Keeps what it is fed. `fails_at`: the offset from which feeding raises `error`."""

    def __init__(self, fails_at: Optional[int] = None, error: Optional[Exception] = None) -> None:
        self.content = bytearray()
        self.finished = 0
        self.threads: Set[str] = set()
        self.sizes: List[int] = []
        self._fails_at = fails_at
        self._error = error

    def feed(self, view: memoryview) -> None:
        assert not self.finished
        self.content += view
        self.sizes.append(len(view))
        self.threads.add(threading.current_thread().name)
        if self._fails_at is not None and len(self.content) >= self._fails_at:
            assert self._error is not None
            raise self._error

    def finish(self) -> None:
        self.finished += 1


class FakeTaskFile:
    """A task's file by shape, whose pieces are marked by the test."""

    def __init__(self, content: bytes, have: Optional[int] = None,
                 length: Optional[int] = -1) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        self.file.write(content)
        self.file.flush()
        self.content = content
        self.geometry = Geometry(len(content) if length == -1 else length, PIECE)
        self.have = full_set(-(-len(content) // PIECE)) if have is None else have
        self.failed: Optional[DflyError] = None
        self.watchers: List[Callable[[int], None]] = []
        self.subscribed = threading.Event()

    def fileno(self) -> int:
        return self.file.fileno()

    def subscribe(self, watcher: Callable[[int], None]) -> Callable[[], None]:
        self.watchers.append(watcher)
        self.subscribed.set()
        return lambda: self.watchers.remove(watcher)

    def mark(self, piece_index: int) -> None:
        self.have |= 1 << piece_index
        self._tell(piece_index)

    def fail(self, error: DflyError) -> None:
        self.failed = error
        self._tell(-1)

    def remove(self) -> None:
        self._tell(-1)

    def close(self) -> None:
        self.file.close()

    def _tell(self, piece_index: int) -> None:
        for watcher in list(self.watchers):
            watcher(piece_index)


def make_certificate(folder: Path) -> Path:
    """A self-signed certificate for localhost and 127.0.0.1 with its key, in one file."""
    path = folder / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(folder / "key.pem"),
         "-out", str(folder / "cert.pem")], check=True, capture_output=True)
    path.write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return path


def server_tls(certificate: Path, version: Optional[ssl.TLSVersion] = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context
