"""Files of certificates: whole ones pass, of others the file is named and nobody is asked."""
from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any, List

import pytest

from dfly.cli import main

URL = "https://files.example/f"
CUT = "-----BEGIN CERTIFICATE-----\nMIIDAA==\n-----END CERTIFICATE-----\n"


@pytest.fixture
def files(daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A daemon that ends each download, and files: a certificate and its key, another's key, one
    that is locked, and what is cut."""
    monkeypatch.chdir(tmp_path)
    daemon.events = [{"event": "failed", "exit_code": 8, "what": "asked", "hint": ""}]
    for name in ("a", "b"):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=x",
                        "-keyout", f"{name}.key", "-out", f"{name}.pem"], check=True,
                       capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", "a.key", "-out", "locked.key", "-aes128", "-passout",
                    "pass:secret"], check=True, capture_output=True)
    (tmp_path / "cut.pem").write_text(CUT)
    whole = (tmp_path / "a.pem").read_text()
    (tmp_path / "half.pem").write_text(whole + whole[:len(whole) // 2])
    (tmp_path / "halves.pem").write_text(whole[:len(whole) // 2] + whole)
    (tmp_path / "halves").mkdir()
    (tmp_path / "halves/x.0").write_text(whole[:len(whole) // 2])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/x.0").write_text(CUT)
    (tmp_path / "other.pem").write_text(CUT.replace("MIIDAA==", "!"))
    (tmp_path / "cut.crl").write_text(CUT.replace("CERTIFICATE", "X509 CRL"))
    (tmp_path / "end.crl").write_text("-----BEGIN X509 CRL-----\nMIIDAA==\n")
    return daemon


@pytest.mark.parametrize("words, named, why", [
    (["--ca-certificate=cut.pem"], "cut.pem", "a certificate in it can't be read: is it whole?"),
    (["--ca-certificate=a.pem,other.pem"], "other.pem", "can't be read"),
    (["--ca-directory=folder"], "folder", "can't be read"),
    (["--ca-certificate=half.pem"], "half.pem", "a certificate in it is cut"),
    (["--ca-certificate=halves.pem"], "halves.pem", "a certificate in it is cut"),
    (["--ca-directory=halves"], "halves/x.0", "a certificate in it is cut"),
    (["--crl-file=cut.crl"], "cut.crl", "can't read the revocation lists"),
    (["--crl-file=end.crl"], "end.crl", "no revocation lists"),
    (["--certificate=cut.pem"], "cut.pem", "can't use the client certificate"),
    (["--certificate=a.pem"], "a.pem", "can't use the client certificate with its key"),
    (["--certificate=a.pem", "--private-key=b.key"], "a.pem, b.key", "key values mismatch"),
    (["--certificate=a.pem", "--private-key=locked.key"], "a.pem, locked.key",
     "locked by a password"),
])
def test_a_file_that_cannot_be_used_is_named(files: Any, words: List[str], named: str, why: str,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", URL, *words]) == 3
    said = capsys.readouterr().err
    assert f"{named}: " in said and why in said and said.count("\n") == 1
    assert ".c:" not in said   # a place in OpenSSL's source
    assert files.requests == []


@pytest.mark.parametrize("words", [
    ["--ca-certificate=a.pem,b.pem"], ["--certificate=a.pem", "--private-key=a.key"]])
def test_what_is_whole_is_sent(files: Any, words: List[str]) -> None:
    assert main(["get", URL, *words]) == 8
    assert files.asked("/v1/get")["access"]["tls"]


def test_the_systems_own_authorities_are_whole() -> None:
    from dfly.cli.pem import check_authorities
    path = ssl.get_default_verify_paths().cafile
    if path is None or not Path(path).exists():
        pytest.skip("this system has no file of authorities (Debian: ca-certificates)")
    check_authorities(Path(path).read_text(), [path])


def test_a_file_without_a_key_to_pin_is_named(files: Any,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", URL, "--pinnedpubkey=a.pem"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dfly: --pinnedpubkey a.pem: no public key") and files.requests == []
