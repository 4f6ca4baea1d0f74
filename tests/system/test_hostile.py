"""Whatever is sent to a port, a role goes on serving in bounded memory; whatever a peer or a
manager says, the others end with the right bytes.

The liars here speak the real wire through dfly.wire, on blocking sockets.
"""
from __future__ import annotations

import os
import random
import re
import socket
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Tuple

import pytest

from dfly.access import Access
from dfly.task import TaskSpec, full_set
from dfly.wire.frame import BODY_MAX, FrameDecoder
from dfly.wire.messages import (
    Accepted,
    Bye,
    Digests,
    Failure,
    Have,
    Hello,
    Join,
    Lease,
    LeaseFailed,
    Message,
    Offer,
    Ping,
    Pong,
    Sized,
    Stored,
    Urgent,
    Welcome,
    decode,
)
from tests.cluster import Cluster, Role
from tests.support import SourceServer
from tests.system.scene import (
    PIECE,
    clean_cluster,
    content_of,
    sent,
    start_get,
    warnings_of,
)

pytestmark = pytest.mark.system
CONTENT = content_of(16)
PIECES = 16
SILENCE_S = 10.0
UPGRADE = (b"GET /v1/link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
           b"Upgrade: dfly/1\r\n\r\n")


# ------------------------------------------------------------------------------ the victims
@dataclass
class Town:
    cluster: Cluster
    source: SourceServer
    config: Role
    manager: Role
    peer: Role

    def address(self, which: str) -> "str | Tuple[str, int]":
        if which == "socket":
            return self.peer.socket
        if which == "peer":
            return "127.0.0.1", peer_port(self.peer)
        role: Role = getattr(self, which)
        return "127.0.0.1", role.port

    def role(self, which: str) -> Role:
        found: Role = self.peer if which == "socket" else getattr(self, which)
        return found

    def connect(self, which: str) -> socket.socket:
        address = self.address(which)
        if isinstance(address, str):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(address)
        else:
            connection = socket.create_connection(address)
        connection.settimeout(SILENCE_S)
        return connection

    def assert_serves(self, which: str) -> None:
        """A proper request is still answered."""
        with self.connect(which) as connection:
            path = "/v1/status" if which == "socket" else "/healthz"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def peer_port(peer: Role) -> int:
    found = re.search(r"dfly \S+ peer: port (\d+)", peer.text())
    assert found
    return int(found.group(1))


def rss_mib(role: Role) -> float:
    status = Path(f"/proc/{role.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found.group(1)) / 1024


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    with SourceServer() as source, clean_cluster(folder, program) as cluster:
        config = cluster.config()
        manager = cluster.manager("--config", config.where)
        yield Town(cluster, source, config, manager, cluster.peer("--config", config.where))


ROLES = pytest.mark.parametrize("which", ["config", "manager", "peer", "socket"])


def until_closed(connection: socket.socket) -> bytes:
    """All that is answered up to the end of the connection."""
    answer = b""
    while True:
        try:
            data = connection.recv(65536)
        except ConnectionResetError:
            return answer
        if not data:
            return answer
        answer += data


NOISE = random.Random(3).randbytes(100_000)
ENDED_AT_ONCE: Dict[str, Tuple[bytes, bytes]] = {   # what is sent, how the answer begins
    "noise": (NOISE, b""),
    "zeros": (bytes(100_000), b"HTTP/1.1 400"),
    "a TLS hello": (bytes.fromhex("16030100c8010000c40303") + NOISE[:190], b""),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 400"),
    "a giant line": (b"GET /" + b"a" * 3_000_000, b"HTTP/1.1 4"),
    "a giant head": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500_000, b"HTTP/1.1 431"),
    "two lengths": (b"POST /v1/get HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
                    b"Content-Length: 2\r\n\r\nab", b"HTTP/1.1 400"),
    "a length and chunks": (b"POST /v1/get HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
                            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"HTTP/1.1 400"),
    "HTTP/9": (b"GET / HTTP/9.9\r\n\r\n", b"HTTP/1.1 505"),
}
ANSWERED: Dict[str, bytes] = {
    "no such path": b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "a task that is a path": b"GET /v1/tasks/..%2f..%2fetc/pieces HTTP/1.1\r\nHost: x\r\n\r\n",
    "an absurd range": b"GET /v1/tasks/" + b"a" * 64 + b" HTTP/1.1\r\nHost: x\r\n"
                       b"Range: bytes=99999999999999999999-\r\n\r\n",
    "a false token": b"GET /v1/tasks/" + b"a" * 64 + b" HTTP/1.1\r\nHost: x\r\n"
                     b"Dfly-Token: \xff\xfe\r\n\r\n",
    "no JSON": b"POST /v1/managers HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{{{",
    "deep JSON": b"POST /v1/managers HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n"
                 + b"[" * 60000,
    "a wish that can't be": b"POST /v1/get HTTP/1.1\r\nHost: x\r\nContent-Length: 22\r\n\r\n"
                            b'{"url":["x"],"tag":{}}',
    "another upgrade": b"GET /v1/link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
                       b"Upgrade: websocket\r\n\r\n",
}


@ROLES
def test_noise_on_every_port(town: Town, which: str) -> None:
    before = rss_mib(town.role(which))
    for name, (data, answer) in ENDED_AT_ONCE.items():
        with town.connect(which) as connection:
            try:
                connection.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                pass   # it was cut before all of it was sent: all the better
            told = until_closed(connection)
            assert told.startswith(answer) or told == b"", (name, told[:200])
    for name, data in ANSWERED.items():
        with town.connect(which) as connection:
            connection.sendall(data)
            told = connection.recv(65536)
            assert told.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200 ")), (name, told[:200])
            assert b"root:" not in told
    town.assert_serves(which)
    assert rss_mib(town.role(which)) < before + 32


@ROLES
def test_half_requests_keep_nobody_waiting(town: Town, which: str) -> None:
    before = rss_mib(town.role(which))
    halves = [b"", b"G", b"GET / HTTP/1.1\r\nHost:", b"POST /v1/get HTTP/1.1\r\nHost: x\r\n"
              b"Content-Length: 1000\r\n\r\nhalf", b"\x16", UPGRADE[:-2]]
    connections = [town.connect(which) for _ in range(60)]
    for number, connection in enumerate(connections):
        connection.sendall(halves[number % len(halves)])
    town.assert_serves(which)
    for connection in connections:
        connection.close()
    town.assert_serves(which)
    assert rss_mib(town.role(which)) < before + 32


# ----------------------------------------------------------------------------- lying peers
class Wire:
    """One end of a control link on a blocking socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._frames = FrameDecoder()
        self._heard: List[Message] = []

    @classmethod
    def to_manager(cls, port: int) -> "Wire":
        wire = cls(socket.create_connection(("127.0.0.1", port)))
        wire.connection.settimeout(SILENCE_S)
        wire.connection.sendall(UPGRADE)
        wire.skip_head()
        return wire

    def skip_head(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.connection.recv(1)
            assert byte, head
            head += byte

    def say(self, *messages: Message) -> None:
        self.connection.sendall(b"".join(message.encode() for message in messages))

    def hear(self) -> Optional[Message]:
        """The next message that isn't a Ping; None at the end of the link."""
        while not self._heard:
            try:
                data = self.connection.recv(65536)
            except (ConnectionResetError, OSError):
                return None
            if not data:
                return None
            for code, body in self._frames.feed(data):
                message = decode(code, body)
                if isinstance(message, Ping):
                    self.say(Pong(message.nonce))
                else:
                    self._heard.append(message)
        return self._heard.pop(0)

    def until(self, kind: type) -> Message:
        while True:
            message = self.hear()
            assert message is not None, f"the link ended before a {kind.__name__}"
            if isinstance(message, kind):
                return message

    def end(self) -> List[Message]:
        """Everything up to the end of the link."""
        heard = []
        while True:
            message = self.hear()
            if message is None:
                return heard
            heard.append(message)

    def close(self) -> None:
        self.connection.close()


HELLO = Hello(bytes(range(16)), 1, "liar")
SPEC = TaskSpec("http://127.0.0.1:1/nothing")
BAD_TALK: Dict[str, bytes] = {
    "noise": b"\0\0" + NOISE,
    "a frame over the bound": struct.pack("!IH", BODY_MAX + 1, 1),
    "the largest length": b"\xff" * 6,
    "an unknown code": struct.pack("!IH", 0, 999),
    "a Join before Hello": Join(1, SPEC).encode(),
    "a Welcome": Welcome("me", 1.0, 0.0).encode(),
    "a Hello too short": struct.pack("!IHH", 2, 1, 1),
    "two Hellos": HELLO.encode() * 2,
    "a manager's message": HELLO.encode() + Sized(1, 5).encode(),
    "a Join without JSON":
        HELLO.encode() + struct.pack("!IHIBIQ", 17 + 8, 10, 1, 0, 0, 0) + b"{{{{{{{{",
    "a Stored that promises more": HELLO.encode() + struct.pack("!IHII", 8, 33, 1, 4096),
    "another version": Hello(bytes(16), 1, version=77).encode(),
}


@pytest.mark.parametrize("talk", BAD_TALK)
def test_bad_talk_on_a_link_ends_it_with_a_word(town: Town, talk: str) -> None:
    wire = Wire.to_manager(town.manager.port)
    wire.connection.sendall(BAD_TALK[talk])
    heard = wire.end()
    wire.close()
    assert heard and isinstance(heard[-1], Bye) and heard[-1].exit_code == 7, heard
    town.assert_serves("manager")


def test_facts_that_cannot_be_are_ignored(town: Town) -> None:
    """Impossible pieces, leases, swarms and slots; then an honest peer gets its file."""
    url = town.source.add("/facts", CONTENT)
    before = rss_mib(town.manager)
    wire = Wire.to_manager(town.manager.port)
    wire.say(Hello(os.urandom(16), 1, "liar\x1b[2J\n", "eu/" * 100, "", {
        "upload_slots": 10 ** 30, "cores": -1, "x": [[[]]]}))
    wire.until(Welcome)
    wire.say(Join(1, TaskSpec(url), "no such version", 1, (1 << 8_000_000 // 8) - 1))
    accepted = wire.until(Accepted)
    assert isinstance(accepted, Accepted) and not accepted.holds
    swarm, most = accepted.swarm, (1 << 32) - 1
    wire.say(Have(swarm, 1 << 1_000_000), Have(swarm + 1, 1), Urgent(swarm, most),
             Stored(swarm, (most, 0, 0, 1 << 20)), Stored(most, (1,)),
             LeaseFailed(most, swarm, most, Failure.BAD_DIGEST, "x" * 1000),
             Offer(2, "ab" * 32, "v", 7, 1 << 63, (1 << 100_000) - 1))
    got = town.cluster.get(town.peer, url, "-O", "-")
    assert got.code == 0 and got.out == CONTENT
    wire.close()
    town.assert_serves("manager")
    assert rss_mib(town.manager) < before + 48


@pytest.mark.parametrize("private", [False, True])
def test_an_offer_opens_no_private_task(town: Town, private: bool) -> None:
    """Who offers a task learns its token and digests; of a private one only who proves himself
    at the source may."""
    path = f"/offered-{private}"
    login = (("Authorization", "Bearer mine"),) if private else ()
    url = town.source.add(path, CONTENT, authorization="Bearer mine" if private else "")
    owner, stranger = (Wire.to_manager(town.manager.port) for _ in range(2))
    for wire in (owner, stranger):
        wire.say(Hello(os.urandom(16), 1))
        wire.until(Welcome)
    owner.say(Join(1, TaskSpec(url), access=Access(login)))
    led = owner.until(Accepted)
    assert isinstance(led, Accepted) and led.length == len(CONTENT)
    stranger.say(Offer(7, led.task_id, led.version, led.piece_size, len(CONTENT), 1),
                 Join(8, TaskSpec(town.source.add("/fence", CONTENT))))
    answers = [stranger.until(Accepted)]
    if not private:
        answers.append(stranger.until(Accepted))
    requests = {answer.request for answer in answers if isinstance(answer, Accepted)}
    assert requests == ({8} if private else {7, 8})
    owner.close()
    stranger.close()


class Liar:
    """A peer that says it holds everything, and whose answers to requests for pieces a test
    writes: `answer(connection, start, stop)`."""

    def __init__(self, manager: Role, url: str,
                 answer: Callable[[socket.socket, int, int], None]) -> None:
        self.asked = 0
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: List[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        self.host_id = os.urandom(16)
        self.wire = Wire.to_manager(manager.port)
        self.wire.say(Hello(self.host_id, self._listener.getsockname()[1], "liar"))
        self.wire.until(Welcome)
        self.wire.say(Join(1, TaskSpec(url)))
        accepted = self.wire.until(Accepted)
        assert isinstance(accepted, Accepted) and accepted.length == len(CONTENT)
        self.wire.say(Have(accepted.swarm, full_set(PIECES)))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return   # closed: the test is over
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            reader = connection.makefile("rb")
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = reader.readline()
                    if not line:
                        return
                    head += line
                found = re.search(rb"bytes=(\d+)-(\d+)", head)
                if found is not None:
                    self.asked += 1
                    self._answer(connection, int(found.group(1)), int(found.group(2)) + 1)
        except OSError:
            return   # the child has had enough

    def close(self) -> None:
        for sock in (self._listener, *self._open):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass   # not connected any more
            sock.close()
        self.wire.close()


def wrong_bytes(connection: socket.socket, start: int, stop: int) -> None:
    connection.sendall(f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{stop - 1}/"
                       f"{len(CONTENT)}\r\nContent-Length: {stop - start}\r\n\r\n".encode())
    connection.sendall(bytes(stop - start))


def holds_nothing(connection: socket.socket, start: int, stop: int) -> None:
    connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


def stalls(connection: socket.socket, start: int, stop: int) -> None:
    """Nothing is answered, and the connection stays open."""


def stalls_in_the_body(connection: socket.socket, start: int, stop: int) -> None:
    connection.sendall(f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{stop - 1}/"
                       f"{len(CONTENT)}\r\nContent-Length: {stop - start}\r\n\r\n".encode())
    connection.sendall(CONTENT[start:start + 1000])


def other_ranges(connection: socket.socket, start: int, stop: int) -> None:
    connection.sendall(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/10\r\n"
                       b"Content-Length: 10\r\n\r\n0123456789")


def talks_noise(connection: socket.socket, start: int, stop: int) -> None:
    connection.sendall(NOISE[:5000])
    connection.close()


@pytest.mark.parametrize("answer", [
    wrong_bytes, holds_nothing, stalls, pytest.param(stalls_in_the_body, marks=pytest.mark.long),
    other_ranges, talks_noise])
def test_a_parent_that_lies(town: Town, answer: Callable[[socket.socket, int, int], None]) -> None:
    """The swarm loses nothing but time; who sends wrong bytes is a parent no more."""
    path = f"/lied-{answer.__name__}"
    url = town.source.add(path, CONTENT)
    copy = town.cluster.folder / "copy"
    liar = Liar(town.manager, url, answer)
    try:
        got = start_get(town.cluster, town.peer, url, copy).end()
    finally:
        liar.close()
    assert got.code == 0 and copy.read_bytes() == CONTENT, got.err
    assert liar.asked > 0, "nobody was lied to"
    assert sent(town.source, path) == len(CONTENT) and got.last["from_source"] == 0
    assert warnings_of(got) == []
    if answer is wrong_bytes:
        assert "is quarantined" in town.manager.text()
        assert liar.asked < PIECES, "it was asked on and on"
    assert got.last["seconds"] < 20


# -------------------------------------------------------------------------- lying managers
Script = Callable[["Wire", Join], None]


@contextmanager
def false_manager(script: Script) -> Iterator[str]:
    """A manager that welcomes peers properly, then answers each Join by `script`."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_now: List[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        try:
            wire = Wire(connection)
            wire.skip_head()
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: dfly/1\r\n"
                               b"Connection: Upgrade\r\n\r\n")
            wire.until(Hello)
            wire.say(Welcome("false", 10.0, 0.0))
            while True:
                message = wire.hear()
                if message is None:
                    return
                if isinstance(message, Join):
                    script(wire, message)
        except (OSError, AssertionError):
            return   # the peer has left

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return   # closed: the test is over
            open_now.append(connection)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for sock in (listener, *open_now):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass   # not connected any more
            sock.close()


def accepting(join: Join, **otherwise: object) -> Accepted:
    told = {"request": join.request, "swarm": 1, "task_id": join.spec.task_id,
            "version": "v", "length": len(CONTENT), "piece_size": PIECE, "token": b"t",
            **otherwise}
    return Accepted(**told)   # type: ignore[arg-type]


SCRIPTS: Dict[str, Script] = {
    "noise": lambda wire, join: wire.connection.sendall(b"\0\0" + NOISE),
    "a frame over the bound": lambda wire, join: wire.connection.sendall(b"\x7f" * 20),
    "an unknown code": lambda wire, join: wire.connection.sendall(struct.pack("!IH", 0, 77)),
    "a peer's message": lambda wire, join: wire.say(HELLO),
    "an impossible piece size": lambda wire, join: wire.say(accepting(join, piece_size=7)),
    "an impossible length": lambda wire, join: wire.say(accepting(join, length=1 << 62)),
    "another task": lambda wire, join: wire.say(accepting(join, task_id="ab" * 32)),
    "an unknown parent": lambda wire, join: wire.say(
        accepting(join), Lease(1, 1, 99, 0, 1, 9.0)),
    "pieces beyond the end": lambda wire, join: wire.say(
        accepting(join), Lease(1, 1, 0, PIECES, 5, 9.0)),
    "digests beyond the end": lambda wire, join: wire.say(
        accepting(join), Digests(1, PIECES, bytes(64))),
    "another length": lambda wire, join: wire.say(accepting(join), Sized(1, 5)),
    "an inline content of another length": lambda wire, join: wire.say(
        accepting(join, inline=b"short")),
}


@pytest.mark.parametrize("talk", SCRIPTS)
def test_a_manager_that_lies(cluster: Cluster, source: SourceServer, talk: str) -> None:
    """The peer says so and gets the file from the source."""
    url = source.add("/file", CONTENT)
    with false_manager(SCRIPTS[talk]) as where:
        peer = cluster.peer("--manager", where)
        got = start_get(cluster, peer, url, cluster.folder / "copy").end()
        assert got.code == 0, got
        assert (cluster.folder / "copy").read_bytes() == CONTENT
        assert any(where in warning or "manager" in warning for warning in warnings_of(got)), got
        assert got.last["from_source"] == len(CONTENT) and got.last["seconds"] < 20


@pytest.mark.long
def test_a_manager_that_never_answers(cluster: Cluster, source: SourceServer) -> None:
    url = source.add("/file", CONTENT)
    with false_manager(lambda wire, join: None) as where:
        peer = cluster.peer("--manager", where)
        got = start_get(cluster, peer, url, cluster.folder / "copy", "-T", "1").end()
        assert got.code == 0 and (cluster.folder / "copy").read_bytes() == CONTENT
        (warning,) = warnings_of(got)
        assert where in warning and "did not answer" in warning
