"""One connection: a non-blocking socket, plain or TLS, and the bytes received but not used.

asyncio's own transports can't give a socket away while a body passes, and its `loop.sock_*` calls
refuse TLS sockets; so a Stream does its own waiting with `add_reader`/`add_writer`, one waiter a
direction, registered only while somebody waits. Between `detach` and `attach` the socket belongs
to a mover thread; asyncio then has no registration for it. Only the loop's thread closes a
socket: a descriptor's number is used again at once, and whoever still had it would hit a stranger.

The `*_now` methods never wait, know nothing of asyncio and are what movers use too. OS and TLS
errors become NetworkError and TlsError in this file and nowhere else.
"""
from __future__ import annotations

import asyncio
import errno
import os
import socket
from functools import lru_cache
from typing import Any, Awaitable, Callable, List, Optional, Tuple, Union

from dfly.access import TlsSettings
from dfly.errors import DflyError, NetworkError, TlsError
from dfly.net.tls import check_pin, client_context, tls_error
from dfly.wire.http11 import Head, HeadParser

WANT_READ = -1       # from the *_now calls: nothing moved, try again when readable
WANT_WRITE = -2      # the same when writable
READ_MAX = 64 * 1024   # bytes of one read on the loop; bodies are read by movers, in larger pieces
HEAD_READ = 16 * 1024  # bytes of one read of a head: what comes with it is copied once more
LINGER_S = 1.0         # how long a refused sender may go on until the connection is cut
LINGER_MAX = 256 * 1024  # bytes of his that are thrown away meanwhile
_FAMILIES = {0: 0, 4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
TURNS_MAX = 16         # reads that needn't wait, until others on the loop get a turn

_HINTS = {
    errno.ECONNREFUSED: "nothing listens there: check address and port",
    errno.ENETUNREACH: "this host has no route there",
    errno.EHOSTUNREACH: "this host has no route there",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this host",
    errno.ENOENT: "is the daemon running?",
}


class TimedOut(NetworkError):
    """Nothing came, or nothing could be sent, within the time given."""


def network_error(where: str, error: OSError) -> NetworkError:
    """An OS error on a connection, for people."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return NetworkError(f"{where}: {reason}", _HINTS.get(error.errno or 0, ""))


def _secure_error(where: str, error: OSError) -> DflyError:
    """An error of a connection under TLS: of the encryption, or of what is below it."""
    import ssl
    if isinstance(error, ssl.SSLError):
        return tls_error(where, error)
    return network_error(where, error)


class Stream:
    """A connection. Made on the loop that will own it; see the file's head for who may do what."""

    def __init__(self, sock: socket.socket, remote: Optional[Tuple[str, int]] = None) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.buffer = bytearray()
        self.remote = remote or _remote_of(sock)
        self.label = ""            # how the other side is called, if not by its address
        self.cut = False           # TLS ended without saying so: perhaps not all bytes came
        self.secure = hasattr(sock, "pending")  # an SSLSocket, without importing ssl
        self._loop = asyncio.get_running_loop()
        self._reading: Optional[asyncio.Future[None]] = None
        self._writing: Optional[asyncio.Future[None]] = None
        self._recall: Optional[Callable[[], None]] = None
        self._turns = 0
        self._low_water = 1
        self._is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        if self._is_tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # ------------------------------------------------------------------------- connecting
    @classmethod
    async def connect(cls, host: str, port: int, *, tls: Optional[TlsSettings] = None,
                      timeout_s: float = 10.0, family: int = 0) -> Stream:
        """A connection to `host`:`port`, over TLS if settings are given. All addresses of the
        name (with `family` 4 or 6: those of that IP version) are tried in turn, within
        `timeout_s` together."""
        where = f"{_bracketed(host)}:{port}"
        deadline = asyncio.get_running_loop().time() + timeout_s
        failure = NetworkError(f"{where}: the name has no address")
        addresses = await _resolve(host, port, family, where, deadline)
        for position, (kind, address) in enumerate(addresses):
            now = asyncio.get_running_loop().time()
            share_s = max(0.001, (deadline - now) / (len(addresses) - position))
            try:
                stream = await cls._open(kind, address, where, now + share_s)
            except NetworkError as error:
                failure = error
                continue
            if tls is not None:
                await stream.start_tls(tls, host, deadline - asyncio.get_running_loop().time())
            return stream
        raise failure

    @classmethod
    def connecting(cls, host: str, port: int) -> Stream:
        """A connection to a numeric address that is being made: sending wants to wait until it
        stands, or says why it can't. NetworkError if that is known at once."""
        found = numeric_address(host, port)
        assert found is not None, host
        where = f"{_bracketed(host)}:{port}"
        try:
            sock = socket.socket(found[0], socket.SOCK_STREAM)
        except OSError as error:
            raise network_error(where, error) from None
        stream = cls(sock, (host, port))
        try:
            sock.connect(found[1])
        except BlockingIOError:
            pass  # as expected
        except OSError as error:
            stream.close()
            raise network_error(where, error) from None
        return stream

    @classmethod
    async def connect_unix(cls, path: str, timeout_s: float = 10.0) -> Stream:
        """A connection to the Unix socket at `path`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        return await cls._open(socket.AF_UNIX, path, path, deadline)

    @classmethod
    async def _open(cls, family: int, address: Any, where: str, deadline: float) -> Stream:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise network_error(where, error) from None
        remote = ("unix", 0) if family == socket.AF_UNIX else (address[0], address[1])
        stream = cls(sock, remote)
        try:
            code = sock.connect_ex(address)
            if code == errno.EINPROGRESS:
                await stream._wait(True, deadline)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise network_error(where, OSError(code, os.strerror(code)))
        except TimedOut:
            stream.close()
            raise TimedOut(f"{where}: no connection in time") from None
        except OSError as error:  # an address that can't be one: a path over 107 bytes
            stream.close()
            raise network_error(where, error) from None
        except BaseException:
            stream.close()
            raise
        return stream

    async def start_tls(self, settings: TlsSettings, host: str, timeout_s: float) -> None:
        """From here on TLS, as a client of `host`, who is believed by `settings`. Closes the
        connection if that fails."""
        deadline = self._loop.time() + timeout_s
        try:
            context = client_context(settings)
            self.sock = context.wrap_socket(
                self.sock, server_hostname=host, do_handshake_on_connect=False,
                suppress_ragged_eofs=False)
            self.secure = True
            await self.handshake(deadline)
            check_pin(self.sock, settings, self.name)
        except ValueError as error:  # a host name that can't be one
            self.close()
            raise TlsError(f"{self.name}: TLS failed: {error}") from None
        except OSError as error:     # it was cut before TLS began
            self.close()
            raise network_error(self.name, error) from None
        except BaseException:
            self.close()
            raise

    def shown_certificate(self) -> bytes:
        """The certificate that the other side showed, DER, believed or not; b"" = none."""
        assert self.secure
        return self.sock.getpeercert(binary_form=True) or b""  # type: ignore[attr-defined]

    async def handshake(self, deadline: Optional[float] = None) -> None:
        """Finish the TLS handshake of a wrapped socket, either side's. `deadline`: loop time."""
        import ssl
        while True:
            try:
                self.sock.do_handshake()  # type: ignore[attr-defined]
                return
            except ssl.SSLWantReadError:
                await self._wait(False, deadline)
            except ssl.SSLWantWriteError:
                await self._wait(True, deadline)
            except OSError as error:
                raise _secure_error(self.name, error) from None

    # ------------------------------------------------------------------- never waiting
    @property
    def name(self) -> str:
        """The other side, for messages: 'host:port', or as `label` says."""
        if self.label:
            return self.label
        return f"{_bracketed(self.remote[0])}:{self.remote[1]}" if self.remote[1] else "unix socket"

    @property
    def closed(self) -> bool:
        return self.sock.fileno() < 0

    def recv_now(self, view: memoryview) -> int:
        """Bytes received into `view` (0 = the other side ended), or WANT_READ or WANT_WRITE."""
        try:
            return self.sock.recv_into(view)
        except OSError as error:
            return self._verdict(error, WANT_READ)

    def read_now(self, size: int) -> Union[bytes, int]:
        """Up to `size` bytes received (b"" = the other side ended), or WANT_READ or WANT_WRITE."""
        try:
            return self.sock.recv(size)   # fresh bytes: nothing is held while thousands are idle
        except OSError as error:
            verdict = self._verdict(error, WANT_READ)
            return verdict or b""

    def send_now(self, data: memoryview, more: bool = False) -> int:
        """Bytes sent, or WANT_READ or WANT_WRITE; `more`: the kernel may wait for what follows.
        TLS wants to be called again with the same data."""
        try:
            return self.sock.send(data, socket.MSG_MORE if more and not self.secure else 0)
        except OSError as error:
            return self._verdict(error, WANT_WRITE)

    def sendfile_now(self, fd: int, offset: int, count: int) -> int:
        """Bytes sent out of the file (0 = it ends at `offset`), or WANT_WRITE; plain sockets."""
        assert not self.secure
        try:
            return os.sendfile(self.sock.fileno(), fd, offset, count)
        except OSError as error:
            return self._verdict(error, WANT_WRITE)

    def low_water(self, size: int) -> None:
        """Have selectors tell of this socket only when `size` bytes are there (or its end).
        Plain TCP; elsewhere nothing changes. Who sets it sets it back to 1."""
        if size != self._low_water and self._is_tcp and not self.secure:
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            except OSError as error:
                raise network_error(self.name, error) from None
            self._low_water = size

    def pending(self) -> int:
        """Bytes that TLS has decrypted already: no selector tells of them."""
        return self.sock.pending() if self.secure else 0  # type: ignore[attr-defined]

    def hung_up_now(self) -> Optional[bool]:
        """True: the other side has ended, False: it sent something, None: neither. Looks only."""
        try:
            return not socket.socket.recv(self.sock, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return True  # reset, or closed under us: either way nobody is there

    def _verdict(self, error: OSError, otherwise: int) -> int:
        if isinstance(error, BlockingIOError):
            return otherwise
        if not self.secure:
            raise network_error(self.name, error) from None
        import ssl
        if isinstance(error, ssl.SSLWantReadError):
            return WANT_READ
        if isinstance(error, ssl.SSLWantWriteError):
            return WANT_WRITE
        if otherwise == WANT_READ and (
                isinstance(error, ssl.SSLEOFError)
                or getattr(error, "reason", "") == "UNEXPECTED_EOF_WHILE_READING"):  # Python 3.9
            self.cut = True
            return 0
        raise _secure_error(self.name, error) from None

    # ---------------------------------------------------------------------------- waiting
    async def read_head(self, parser: HeadParser, timeout_s: float) -> Optional[Head]:
        """The next head; None if the other side ended before any byte of it. What came behind it
        is in `buffer`. `timeout_s` is for all of the head, however slowly it drips."""
        deadline = self._loop.time() + timeout_s
        data = bytes(self.buffer)
        self.buffer.clear()
        head = parser.feed(data) if data else None
        while head is None:
            data = await self._receive(HEAD_READ, deadline)
            if not data:
                if parser.started:
                    raise NetworkError(f"{self.name}: the connection ended inside a head")
                return None
            head = parser.feed(data)
        self.buffer += parser.rest
        return head

    async def read_some(self, size: int = READ_MAX, timeout_s: Optional[float] = None) -> bytes:
        """Up to `size` bytes, at least one; b"" at the end."""
        if self.buffer:
            data = bytes(self.buffer[:size])
            del self.buffer[:size]
            return data
        deadline = None if timeout_s is None else self._loop.time() + timeout_s
        return await self._receive(min(size, READ_MAX), deadline)

    async def fill(self, timeout_s: Optional[float] = None) -> bool:
        """Wait until `buffer` holds something; False = the other side ended."""
        if not self.buffer:
            self.buffer += await self.read_some(HEAD_READ, timeout_s)
        return bool(self.buffer)

    async def _receive(self, size: int, deadline: Optional[float]) -> bytes:
        self._turns += 1
        if self._turns >= TURNS_MAX:  # a fast sender must not have the loop for itself
            self._turns = 0
            await asyncio.sleep(0)    # before anything is read: a cancellation loses no byte
        while True:  # `recv` into fresh bytes: nothing is held while thousands of links wait
            try:
                return self.sock.recv(size)
            except OSError as error:
                verdict = self._verdict(error, WANT_READ)
            if verdict == 0:
                return b""
            self._turns = 0
            await self._wait(verdict == WANT_WRITE, deadline)

    async def write(self, data: bytes, timeout_s: Optional[float] = None) -> None:
        """Send all of `data`; `timeout_s` is how long the other side may take none of it."""
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                count = self.send_now(view[sent:])
                if count >= 0:
                    sent += count
                else:
                    deadline = None if timeout_s is None else self._loop.time() + timeout_s
                    await self._wait(count == WANT_WRITE, deadline)

    async def wait_hung_up(self, keep_max: int = READ_MAX) -> None:
        """Return when the other side has ended. What it sends meanwhile is kept in `buffer`; one
        that sends more than `keep_max` is watched no longer, and this never returns."""
        try:
            while len(self.buffer) < keep_max:
                data = await self._receive(HEAD_READ, None)
                if not data:
                    return
                self.buffer += data
        except NetworkError:
            return  # reset: it has ended, too
        await self._loop.create_future()

    async def finish(self) -> None:
        """Close so that what was sent still arrives: a socket closed with unread bytes in it is
        reset, and the other side loses our last answer. Bounded in time and bytes."""
        try:
            if not self.secure:
                self.sock.shutdown(socket.SHUT_WR)
                deadline = self._loop.time() + LINGER_S
                dropped = len(self.buffer)
                while dropped < LINGER_MAX:
                    data = await self._receive(READ_MAX, deadline)
                    if not data:
                        break
                    dropped += len(data)
        except (OSError, NetworkError):
            pass  # it was being closed anyway
        finally:
            self.close()

    async def _wait(self, writing: bool, deadline: Optional[float]) -> None:
        """Until the socket is ready; TimedOut at `deadline`, NetworkError if closed meanwhile."""
        descriptor = self.sock.fileno()
        if descriptor < 0:
            raise NetworkError(f"{self.name}: the connection was closed here")
        assert self._recall is None, "a mover has this socket"
        busy = self._writing if writing else self._reading
        if busy is not None and self.secure:  # TLS may want to read in order to write
            await asyncio.wait({busy})
            return
        assert busy is None, "two readers or two writers on one stream"
        ready: asyncio.Future[None] = self._loop.create_future()
        if writing:
            self._writing = ready
            self._loop.add_writer(descriptor, _set, ready)
        else:
            self._reading = ready
            self._loop.add_reader(descriptor, _set, ready)
        timer = None
        if deadline is not None:
            timer = self._loop.call_at(deadline, self._expire, ready)
        try:
            await ready
        finally:
            if timer is not None:
                timer.cancel()
            if self._writing is ready:  # not if closed: the number may be another's by now
                self._loop.remove_writer(descriptor)
                self._writing = None
            elif self._reading is ready:
                self._loop.remove_reader(descriptor)
                self._reading = None
            if ready.done() and not ready.cancelled():
                ready.exception()  # looked at: cancelled in the same turn, nobody else would

    def _expire(self, ready: asyncio.Future[None]) -> None:
        _fail(ready, TimedOut(f"{self.name}: timed out"))

    # -------------------------------------------------------------------------- hand-over
    def detach(self, recall: Callable[[], None]) -> None:
        """The socket goes to a mover; `recall` asks it back, if someone closes the stream."""
        assert self._recall is None, "the socket is away already"
        assert self._reading is None and self._writing is None, "someone waits on this stream"
        self._recall = recall

    def attach(self) -> None:
        """The socket is back on the loop."""
        assert self._recall is not None
        self._recall = None

    @property
    def detached(self) -> bool:
        return self._recall is not None

    def close(self) -> None:
        """End the connection; whoever waits on it gets a NetworkError. A socket that is with a
        mover is closed as soon as that has let go of it. May be called again."""
        if self._recall is not None:
            self._recall()
            return
        if self.closed:
            return
        descriptor = self.sock.fileno()
        ended = NetworkError(f"{self.name}: the connection was closed here")
        if self._reading is not None:
            self._loop.remove_reader(descriptor)
            _fail(self._reading, ended)
        if self._writing is not None:
            self._loop.remove_writer(descriptor)
            _fail(self._writing, ended)
        self._reading = self._writing = None
        close_socket(self.sock)


def close_socket(sock: socket.socket) -> None:
    """Close; over TLS say so first, as far as that goes without waiting."""
    try:
        if hasattr(sock, "unwrap"):
            sock.unwrap()
    except (OSError, ValueError):
        pass  # no handshake, already broken, or the other side's answer isn't waited for
    sock.close()


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _fail(ready: asyncio.Future[None], error: DflyError) -> None:
    if not ready.done():
        ready.set_exception(error)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _remote_of(sock: socket.socket) -> Tuple[str, int]:
    if sock.family == socket.AF_UNIX:
        return "unix", 0
    try:
        address = sock.getpeername()
    except OSError:
        return "?", 0  # it has gone already; the first read will say so
    return str(address[0]), int(address[1])


async def _resolve(host: str, port: int, family: int, where: str,
                   deadline: float) -> List[Tuple[int, Any]]:
    """(family, address) pairs of a name; a numeric address costs no thread."""
    wanted = _FAMILIES[family]
    numeric = numeric_address(host, port)
    if numeric is not None and wanted in (0, numeric[0]):
        return [numeric]
    loop = asyncio.get_running_loop()
    asked: Awaitable[List[Any]] = loop.getaddrinfo(host, port, family=wanted,
                                                   type=socket.SOCK_STREAM)
    try:
        found = await asyncio.wait_for(asked, max(0.001, deadline - loop.time()))
    except asyncio.TimeoutError:
        raise TimedOut(f"{where}: the name wasn't found in time") from None
    except socket.gaierror as error:
        if wanted:
            raise NetworkError(f"{where}: no IPv{family} address",
                               f"try without the wish for IPv{family}") from None
        raise NetworkError(f"{where}: {error.strerror or error}".rstrip("."),
                           "check the spelling and the name server") from None
    except UnicodeError:
        raise NetworkError(f"{where}: not a host name") from None
    return [(entry[0], entry[4]) for entry in found]


@lru_cache(maxsize=1024)   # asked for with every new connection
def numeric_address(host: str, port: int) -> Optional[Tuple[int, Any]]:
    """(family, address) of a host that needs no looking up; None for a name."""
    for kind, shape in ((socket.AF_INET, (host, port)), (socket.AF_INET6, (host, port, 0, 0))):
        if _is_numeric(kind, host):
            return kind, shape
    return None


def _is_numeric(family: int, host: str) -> bool:
    try:
        socket.inet_pton(family, host)
    except (OSError, ValueError):
        return False
    return True
