"""Whom TLS believes, by the settings of a caller; what is said when it doesn't; pins."""
from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
import ssl
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator, List, Tuple, Type

import pytest

from dfly.access import TlsSettings
from dfly.errors import DflyError, TlsError, UsageError
from dfly.net import tls
from dfly.net.certificate import certificate_of
from dfly.net.http_client import HttpClient
from dfly.net.pins import PINS_MAX, parse_pins, spki_pin_of_pem
from dfly.net.route import Route
from dfly.net.tls import client_context
from tests.net.authority import Authority, pin_by_openssl
from tests.net.loopback import listening, moving, off_loop, run
from tests.support import SourceServer, open_descriptors

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None,
                                reason="certificates for these tests need the openssl program")
PAST = ("-startdate", "20200101000000Z", "-enddate", "20210203040500Z")
FUTURE = ("-startdate", "20900101000000Z", "-enddate", "20910101000000Z")
MANY = ",".join(f"DNS:h{number}.example" for number in range(9))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def good(authority: Authority) -> Path:
    return authority.issue("good")


def served(certificate: Path, **how: Any) -> SourceServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    for name, value in how.items():
        setattr(context, name, value)
    server = SourceServer(tls=context)
    server.add("/", b"hello")
    return server


def fetched(url: str, settings: TlsSettings) -> bytes:
    async def scenario() -> bytes:
        async with moving() as movers:
            client = HttpClient(movers)
            try:
                response = await client.request("GET", url, route=Route(settings), timeout_s=10)
                return await response.read(100)
            finally:
                await client.close()
    return run(scenario())


def refused(kind: Type[DflyError], url: str, settings: TlsSettings) -> str:
    with pytest.raises(kind) as caught:
        fetched(url, settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------- trust
def test_a_ca_is_trusted_beside_the_systems_or_alone(authority: Authority, good: Path) -> None:
    with served(good) as server:
        for system in (True, False):
            settings = TlsSettings(ca=f"é comment\n{authority.text}", system_ca=system)
            assert fetched(server.url(), settings) == b"hello"
        said = refused(TlsError, server.url(), TlsSettings())
        assert "its issuer is unknown here" in said and "--ca-certificate FILE" in said
        said = refused(TlsError, server.url(), TlsSettings(system_ca=False))
        assert "--no-check-certificate" in said
        assert fetched(server.url(), TlsSettings(verify=False)) == b"hello"
    assert server.requests("/")[-1].status == 200


@pytest.mark.parametrize("names,dates,said", [
    ("IP:127.0.0.1", PAST, "it has expired on 2021-02-03 04:05 UTC"),
    ("IP:127.0.0.1", FUTURE, "it isn't valid yet, but from 2090-01-01 00:00 UTC"),
    ("DNS:else.example,IP:10.0.0.1,IP:fd00::1", (),
     "it is for another address: it is for else.example, 10.0.0.1, fd00::1"),
    (MANY, (), "h0.example, h1.example, h2.example, h3.example, h4.example and 4 more"),
])
def test_why_a_certificate_is_refused_is_said(authority: Authority, names: str,
                                              dates: Tuple[str, ...], said: str) -> None:
    certificate = authority.issue(f"bad{abs(hash((names, dates)))}", names, *dates)
    with served(certificate) as server:
        assert said in refused(TlsError, server.url(), TlsSettings(ca=authority.text))
        assert server.log == []    # no request was sent to look at it


def test_another_host_name_is_said(authority: Authority, good: Path) -> None:
    with served(authority.issue("named", "DNS:a.example")) as server:
        said = refused(TlsError, server.url().replace("127.0.0.1", "localhost"),
                       TlsSettings(ca=authority.text))
        assert "it is for another host: it is for a.example" in said


def test_a_revoked_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    alive, dead = authority.issue("alive"), authority.issue("dead")
    authority.revoke(dead)
    settings = TlsSettings(ca=authority.text, crl=authority.revoked())
    with served(alive) as server:
        assert fetched(server.url(), settings) == b"hello"
        other = Authority(tmp_path / "other", "Other CA")
        said = refused(TlsError, server.url(), replace(settings, crl=other.revoked()))
        assert "no revocation list of its issuer" in said
    with served(dead) as server:
        assert "it was revoked" in refused(TlsError, server.url(), settings)
        assert fetched(server.url(), replace(settings, crl="")) == b"hello"


def test_a_crl_file_brings_nobody_to_trust(authority: Authority, good: Path) -> None:
    settings = TlsSettings(system_ca=False, crl=authority.text + authority.revoked())
    with served(good) as server:
        assert "unknown" in refused(TlsError, server.url(), settings)


def test_versions_and_ciphers_are_as_told(authority: Authority, good: Path) -> None:
    with served(good, maximum_version=ssl.TLSVersion.TLSv1_2) as server:
        trusting = TlsSettings(ca=authority.text)
        assert fetched(server.url(), replace(trusting, minimum="TLSv1_2")) == b"hello"
        assert "TLS failed" in refused(TlsError, server.url(),
                                       replace(trusting, minimum="TLSv1_3"))
        name = "ECDHE-ECDSA-AES256-GCM-SHA384"
        assert fetched(server.url(), replace(trusting, ciphers=name)) == b"hello"
        assert "TLS failed" in refused(TlsError, server.url(),
                                       replace(trusting, ciphers="ECDHE-RSA-AES128-SHA"))


def test_plain_http_on_the_port_is_told_from_tls() -> None:
    with listening() as listener:
        def answer() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(ConnectionError):
                sock.recv(1000)
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\nThis is plain HTTP")
                sock.recv(1000)
        thread = threading.Thread(target=answer)
        thread.start()
        said = refused(TlsError, f"https://127.0.0.1:{listener.getsockname()[1]}/", TlsSettings())
        thread.join(10)
    assert "doesn't speak TLS there" in said and "http://" in said


# -------------------------------------------------------------------------- the client's own
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_client_shows_its_certificate(authority: Authority, good: Path, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch, in_memory: bool) -> None:
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = authority.issue(f"me{in_memory}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(good)
    context.load_verify_locations(cadata=authority.text)
    context.verify_mode = ssl.CERT_REQUIRED
    text = mine.read_text()
    key = text[text.index("-----BEGIN PRIVATE"):]
    with SourceServer(tls=context) as server:
        server.add("/", b"hello")
        for settings in (TlsSettings(ca=authority.text, cert=text),
                         TlsSettings(ca=authority.text, cert=text.replace(key, ""), key=key)):
            before = open_descriptors()
            assert fetched(server.url(), settings) == b"hello"
            assert open_descriptors() == before
        with pytest.raises(DflyError):
            fetched(server.url(), TlsSettings(ca=authority.text))
    assert list(tmp_path.iterdir()) == []


def test_a_key_of_another_certificate_or_under_a_password_is_said(authority: Authority,
                                                                  good: Path) -> None:
    other = authority.issue("another").read_text()
    with pytest.raises(TlsError, match="can't use the client certificate"):
        client_context(TlsSettings(cert=good.read_text(), key=other[other.index("-----BEGIN P"):]))
    locked = subprocess.run(["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in",
                             str(good)], check=True, capture_output=True, text=True).stdout
    with pytest.raises(UsageError, match="locked by a password"):
        client_context(TlsSettings(cert=good.read_text(), key=locked))


def test_contexts_are_shared_and_keys_are_not_kept(authority: Authority, good: Path) -> None:
    plain = TlsSettings(ca=authority.text)
    assert client_context(plain) is client_context(replace(plain, pins=("x",)))
    mine = TlsSettings(ca=authority.text, cert=good.read_text())
    context = client_context(mine)
    assert client_context(mine) is context and len(tls._keyed) == 1
    del context
    gc.collect()
    assert len(tls._keyed) == 0


# -------------------------------------------------------------------------------------- pins
def test_only_the_pinned_key_is_talked_to(authority: Authority, good: Path) -> None:
    pin = pin_by_openssl(good)
    other = pin_by_openssl(authority.folder / "ca.pem")
    with served(good) as server:
        for verify in (True, False):
            settings = TlsSettings(ca=authority.text, verify=verify, pins=(other, pin))
            assert fetched(server.url(), settings) == b"hello"
            server.log.clear()
            said = refused(TlsError, server.url(), replace(settings, pins=(other,)))
            assert "public key isn't the pinned one" in said and pin in said
            assert server.log == []    # nothing was asked
        assert "unknown" in refused(TlsError, server.url(), TlsSettings(pins=(pin,)))


def test_pins_are_written_as_for_curl(authority: Authority, good: Path) -> None:
    pin = pin_by_openssl(good)
    assert parse_pins(f"sha256//{pin}; sha256//{'A' * 43}=") == (pin, "A" * 43 + "=")
    for text in ("", pin, f"sha256//{pin[:-2]}=", f"sha1//{pin}", f"sha256//{'é' * 44}", ";",
                 ";".join([f"sha256//{pin}"] * (PINS_MAX + 1)), f"sha256//{pin};"):
        with pytest.raises(UsageError):
            parse_pins(text)


def test_a_public_keys_file_has_a_pin(good: Path) -> None:
    for form in ("PEM", "DER"):
        key = subprocess.run(["openssl", "pkey", "-in", str(good), "-pubout", "-outform", form],
                             check=True, capture_output=True).stdout
        assert spki_pin_of_pem(key) == pin_by_openssl(good)
    for wrong in (b"", b"x", key + b"x", key[:-1], good.read_bytes(), os.urandom(200),
                  b"-----BEGIN PUBLIC KEY-----\nAAA\n-----END PUBLIC KEY-----"):
        with pytest.raises(UsageError):
            spki_pin_of_pem(wrong)


# ----------------------------------------------------------------------------------- the DER
def ders(authority: Authority, good: Path) -> Iterator[bytes]:
    for path in (good, authority.folder / "ca.pem"):
        text = path.read_text()
        end = "-----END CERTIFICATE-----"
        yield ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERT"):text.index(end)] + end)


def test_a_certificate_is_read(authority: Authority, good: Path) -> None:
    leaf, own = map(certificate_of, ders(authority, good))
    assert leaf.names == ("localhost", "127.0.0.1") and own.names == ()
    assert leaf.pin == pin_by_openssl(good)
    now = time.strftime("%Y%m%d%H%M%SZ", time.gmtime())
    assert leaf.not_before <= now < leaf.not_after


def test_bytes_of_a_stranger_are_a_certificate_or_an_error(authority: Authority,
                                                           good: Path) -> None:
    rng = random.Random(5)
    tries: List[bytes] = [b"", b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80" * 5000,
                          b"\x30\x85\x00\x00\x00\x00\x01"]
    for der in ders(authority, good):
        tries += [der[:size] for size in range(0, len(der), 3)]
        for _ in range(3000):
            broken = bytearray(der)
            for _ in range(rng.randint(1, 4)):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            tries.append(bytes(broken))
    for data in tries:
        try:
            certificate_of(data)
        except TlsError as error:
            assert error.what == "a certificate that can't be read"


def test_a_server_that_shows_nothing_twice_is_still_said(authority: Authority,
                                                         good: Path) -> None:
    """The second look at a refused certificate fails: what was known before is said."""
    bad = authority.issue("once", "DNS:a.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bad)

    async def scenario() -> None:
        with listening() as listener:
            def serve() -> None:
                sock, _ = listener.accept()
                with contextlib.suppress(OSError), sock:
                    context.wrap_socket(sock, server_side=True).recv(1)
                listener.accept()[0].close()
            serving = off_loop(serve)
            async with moving() as movers:
                client = HttpClient(movers)
                with pytest.raises(TlsError, match="for another address: is the address"):
                    await client.request("GET", f"https://127.0.0.1:{listener.getsockname()[1]}/",
                                         route=Route(TlsSettings(ca=authority.text)))
                await client.close()
            await serving
    run(scenario())
