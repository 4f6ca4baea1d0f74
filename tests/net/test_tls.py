"""TLS: certificates are checked, and streams and movers work over it in both directions."""
from __future__ import annotations

import random
import shutil
import socket
import ssl
import tempfile
from pathlib import Path
from typing import Any, Tuple

import pytest

from dfly.access import TlsSettings
from dfly.errors import NetworkError, TlsError, UsageError
from dfly.net.http_client import HttpClient
from dfly.net.limiter import Limiter
from dfly.net.route import Route
from dfly.net.stream import Stream
from dfly.net.tls import client_context
from dfly.wire.bodies import CloseBody, LengthBody
from tests.net.loopback import (
    PIECE,
    CollectSink,
    FakeTaskFile,
    listening,
    make_certificate,
    moving,
    off_loop,
    read_exactly,
    run,
    server_tls,
)

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None,
                                reason="certificates for these tests need the openssl program")
CONTENT = random.Random(6).randbytes(5 * PIECE + 99)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def trusting(certificate: Path) -> TlsSettings:
    return TlsSettings(ca=certificate.read_text(), system_ca=False)


async def tls_pair(certificate: Path, version: Any = None) -> Tuple[Stream, ssl.SSLSocket]:
    """A client's stream and the blocking server's end."""
    context = server_tls(certificate, version)
    with listening() as listener:
        def accept() -> ssl.SSLSocket:
            sock, _ = listener.accept()
            sock.settimeout(20)
            return context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False)
        accepted = off_loop(accept)
        stream = await Stream.connect("127.0.0.1", listener.getsockname()[1],
                                      tls=trusting(certificate))
        return stream, await accepted


def test_an_unknown_issuer_is_refused_and_said(certificate: Path) -> None:
    async def scenario() -> None:
        context = server_tls(certificate)
        with listening() as listener:
            def accept() -> None:
                sock, _ = listener.accept()
                with pytest.raises((ssl.SSLError, ConnectionError)), sock:
                    context.wrap_socket(sock, server_side=True).recv(1)
            accepted = off_loop(accept)
            with pytest.raises(TlsError, match="isn't trusted.*self-signed.*--ca-certificate"):
                await Stream.connect("127.0.0.1", listener.getsockname()[1], tls=TlsSettings())
            await accepted
    run(scenario())


def test_another_name_is_refused_unless_nothing_is_checked(certificate: Path) -> None:
    async def scenario() -> None:
        context = server_tls(certificate)
        for settings in (trusting(certificate), TlsSettings(verify=False)):
            with listening("0.0.0.0") as listener:  # any of this host's names reaches it
                def accept() -> bytes:
                    sock, _ = listener.accept()
                    try:
                        with sock, context.wrap_socket(sock, server_side=True) as secure:
                            return secure.recv(1)
                    except (ssl.SSLError, ConnectionError):
                        return b"refused"
                accepted = off_loop(accept)
                port = listener.getsockname()[1]
                if settings.verify:
                    with pytest.raises(TlsError, match="for another address"):
                        await Stream.connect("127.0.0.2", port, tls=settings)
                    assert await accepted == b"refused"
                else:
                    stream = await Stream.connect("127.0.0.2", port, tls=settings)
                    await stream.write(b"x")
                    assert await accepted == b"x"
                    stream.close()
    run(scenario())


def test_a_server_that_speaks_no_tls_is_an_error_that_says_so() -> None:
    async def scenario() -> None:
        with listening() as listener:
            def answer() -> None:
                sock, _ = listener.accept()
                with sock:
                    sock.recv(100)
                    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    sock.recv(100)
            answered = off_loop(answer)
            with pytest.raises((TlsError, NetworkError), match="TLS failed"):
                await Stream.connect("127.0.0.1", listener.getsockname()[1], tls=TlsSettings())
            await answered
    run(scenario())


def test_settings_that_can_t_work_are_said(certificate: Path) -> None:
    for settings, what in ((TlsSettings(ca="nothing"), "no CA certificates"),
                           (TlsSettings(crl=certificate.read_text()), "no revocation lists"),
                           (TlsSettings(cert="nothing"), "can't use the client certificate")):
        with pytest.raises(TlsError, match=what):
            client_context(settings)
    for settings, what in ((TlsSettings(minimum="SSLv3"), "unknown TLS version"),
                           (TlsSettings(ciphers="HUSH"), "no usable cipher")):
        with pytest.raises(UsageError, match=what):
            client_context(settings)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_body_is_received_over_tls_and_the_stream_stays(certificate: Path,
                                                          version: ssl.TLSVersion) -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = await tls_pair(certificate, version)
            for limits in ([], [Limiter(50e6)]):
                sink = CollectSink()
                sender = off_loop(far.sendall, CONTENT)
                job = movers.receive(stream, LengthBody(len(CONTENT)), sink, limits)
                assert await job.wait() == len(CONTENT) and sink.content == CONTENT
                await sender
            far.sendall(b"next")
            assert await stream.read_some() == b"next"
            stream.close()
            far.close()
    run(scenario())


def test_bytes_that_tls_decrypted_already_aren_t_waited_for(certificate: Path) -> None:
    """Small records in one segment: after the first read no selector tells of the others."""
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = await tls_pair(certificate)
            far.sendall(b"h" * 10 + b"x" * 3000)
            head = await stream.read_some(10)
            stream.buffer[:0] = head  # as after a head: some of the body is in the buffer
            sink = CollectSink()
            job = movers.receive(stream, LengthBody(3010), sink, [Limiter(400_000)],
                                 idle_timeout_s=5)
            assert await job.wait() == 3010
            stream.close()
            far.close()
    run(scenario())


@pytest.mark.parametrize("kind", ["file", "pieces", "limited"])
def test_files_and_pieces_are_sent_over_tls(certificate: Path, kind: str) -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = await tls_pair(certificate)
            task_file = FakeTaskFile(CONTENT, have=0b101 if kind == "pieces" else None)
            limits = [Limiter(30e6)] if kind == "limited" else []
            with tempfile.TemporaryFile() as file:
                file.write(CONTENT)
                file.flush()
                job = (movers.send_pieces(stream, b"head", task_file, 0, len(CONTENT))
                       if kind == "pieces" else
                       movers.send_file(stream, b"head", file.fileno(), 0, len(CONTENT), limits))
                reader = off_loop(read_exactly, far, 4 + len(CONTENT))
                for piece_index in (4, 3, 1, 5):
                    if kind == "pieces":
                        await off_loop(task_file.mark, piece_index)
                assert await reader == b"head" + CONTENT
                assert await job.wait() == len(CONTENT)
            await stream.write(b"more")
            assert await off_loop(far.recv, 10) == b"more"
            stream.close()
            far.close()
            task_file.close()
    run(scenario())


def test_a_body_until_close_must_end_with_a_farewell(certificate: Path) -> None:
    async def scenario() -> None:
        async with moving() as movers:
            for farewell in (True, False):
                stream, far = await tls_pair(certificate)
                sink = CollectSink()
                job = movers.receive(stream, CloseBody(), sink)
                far.sendall(b"abc")
                if farewell:
                    closing = off_loop(_unwrap, far)
                    assert await job.wait() == 3
                    stream.close()
                    await closing
                else:
                    socket.socket(fileno=far.detach()).close()
                    with pytest.raises(NetworkError, match="after 3 bytes.*cut off"):
                        await job.wait()
    run(scenario())


def _unwrap(far: ssl.SSLSocket) -> None:
    try:
        far.unwrap().close()
    except (ssl.SSLError, OSError):
        far.close()


def test_the_client_keeps_a_tls_connection(certificate: Path) -> None:
    async def scenario() -> None:
        context = server_tls(certificate)
        with listening() as listener:
            port = listener.getsockname()[1]

            def serve() -> int:
                sock, _ = listener.accept()
                with context.wrap_socket(sock, server_side=True) as secure:
                    for _ in range(3):
                        data = b""
                        while b"\r\n\r\n" not in data:
                            data += secure.recv(1000)
                        secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nround")
                    return 3
            served = off_loop(serve)
            async with moving() as movers:
                client = HttpClient(movers)
                for _ in range(3):
                    response = await client.request("GET", f"https://localhost:{port}/x",
                                                    route=Route(trusting(certificate)))
                    assert await response.read(100) == b"round"
                assert await served == 3
                await client.close()
    run(scenario())
