"""Messages with open files between two processes of one dfly: JSON over a pair of sockets.

Both ends are ours, so what comes is believed; it is bounded all the same. Nothing is buffered
here: a message that the other side has no room for isn't sent, and the sender is told so.
"""
from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import Any, Callable, Dict, Tuple

from dfly.errors import NetworkError, ProtocolError
from dfly.net.stream import HEAD_READ
from dfly.task import PIECES_MAX
from dfly.wire.http11 import HEAD_MAX, HEADERS_MAX

# Bytes of the longest parts of a message, in hex: the piece set of the largest task; and what a
# connection has sent, which is a head (with a space after each colon) and what came along with it.
PIECES_HEX_MAX = PIECES_MAX // 4
SENT_HEX_MAX = 2 * (HEAD_MAX + HEADERS_MAX + HEAD_READ)
REST_MAX = 4 * 1024        # bytes: names, numbers, a token, a version with each character escaped
MESSAGE_MAX = max(PIECES_HEX_MAX, SENT_HEX_MAX) + REST_MAX
ROOM = 1 << 20             # bytes that may wait in the kernel
TURN_MAX = 64              # messages taken in one turn of the loop
Message = Dict[str, Any]


class Channel:
    """One end. `handle(message, fd)` gets each message, with the descriptor that came along (its
    to close) or -1; `ended()` is called once when the other side is gone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._handle: Callable[[Message, int], None] = _ignore
        self._ended: Callable[[], None] = _nothing
        self._writing = False

    @classmethod
    def pair(cls) -> Tuple[Channel, socket.socket]:
        """A channel, and the socket for the other process to make the other end of; NetworkError
        if the system has none to spare."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise NetworkError(f"can't open a channel to another process: {error}") from None
        return cls(ours), theirs

    def start(self, handle: Callable[[Message, int], None], ended: Callable[[], None]) -> None:
        self._handle, self._ended = handle, ended
        self._loop.add_reader(self._sock.fileno(), self._read)

    @property
    def closed(self) -> bool:
        return self._sock.fileno() < 0

    def send(self, message: Message, fd: int = -1) -> bool:
        """False: there is no room now (see `when_writable`), or nobody is there any more.
        ProtocolError: it's longer than any message may be."""
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > MESSAGE_MAX:
            raise ProtocolError(f"a message of {len(data)} bytes between processes")
        if self.closed:
            return False
        try:
            socket.send_fds(self._sock, [data], [fd] if fd >= 0 else [])
        except BlockingIOError:
            return False
        except OSError:
            self._end()
            return False
        return True

    def when_writable(self, call: Callable[[], object]) -> None:
        """Call once when there is room again."""
        if self._writing or self.closed:
            return
        self._writing = True
        self._loop.add_writer(self._sock.fileno(), self._writable, call)

    def close(self) -> None:
        """The other side is told by the end of its reading; `ended` isn't called here."""
        if self.closed:
            return
        self._loop.remove_reader(self._sock.fileno())
        if self._writing:
            self._loop.remove_writer(self._sock.fileno())
        self._sock.close()

    # ----------------------------------------------------------------------------- inside
    def _writable(self, call: Callable[[], object]) -> None:
        self._writing = False
        self._loop.remove_writer(self._sock.fileno())
        call()

    def _read(self) -> None:
        for _ in range(TURN_MAX):
            if self.closed:
                return
            try:
                data, fds, flags, _ = socket.recv_fds(self._sock, MESSAGE_MAX, 1)
            except BlockingIOError:
                return
            except OSError:
                data, fds, flags = b"", [], 0
            for fd in fds:
                os.set_inheritable(fd, False)   # recv_fds forgets its flags before Python 3.12
            if not data:
                self._end()
                return
            self._take(data, fds[0] if fds else -1, bool(flags & socket.MSG_TRUNC))

    def _take(self, data: bytes, fd: int, cut: bool) -> None:
        try:
            if cut:
                raise ProtocolError(f"more than {MESSAGE_MAX} bytes in one message")
            message = json.loads(data)
        except (ValueError, ProtocolError) as error:
            if fd >= 0:
                os.close(fd)
            raise NetworkError(f"a message between processes: {error}") from None
        self._handle(message, fd)

    def _end(self) -> None:
        if not self.closed:
            self.close()
            self._ended()


def _ignore(message: Message, fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _nothing() -> None:
    return
