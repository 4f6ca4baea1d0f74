"""A certificate authority for tests, by the openssl program: good, expired, revoked certificates.

    authority = Authority(folder)
    server = authority.issue("server", "DNS:localhost,IP:127.0.0.1")   # a PEM file with its key
    authority.revoke(server)
    TlsSettings(ca=authority.text, crl=authority.revoked())
"""
from __future__ import annotations

import subprocess
from pathlib import Path

CONFIG = """
[ca]
default_ca = own
[own]
dir = {folder}
database = $dir/index.txt
new_certs_dir = $dir
certificate = $dir/ca.pem
private_key = $dir/ca.key
serial = $dir/serial
default_md = sha256
default_days = 2
default_crl_days = 2
policy = any
copy_extensions = copy
[any]
commonName = supplied
"""


class Authority:
    def __init__(self, folder: Path, name: str = "Test CA") -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "index.txt").write_text("")
        (folder / "serial").write_text("1000\n")
        (folder / "ca.cnf").write_text(CONFIG.format(folder=folder))
        _openssl("req", "-x509", *_NEW_KEY, "-days", "2", "-subj", f"/CN={name}",
                 "-keyout", str(folder / "ca.key"), "-out", str(folder / "ca.pem"))
        self.text = (folder / "ca.pem").read_text()

    def issue(self, name: str, names: str = "DNS:localhost,IP:127.0.0.1",
              *dates: str) -> Path:
        """A file with a certificate and its key; `dates` like -startdate 20200101000000Z."""
        files = {kind: str(self.folder / f"{name}.{kind}") for kind in ("key", "csr", "crt", "pem")}
        _openssl("req", *_NEW_KEY, "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}",
                 "-keyout", files["key"], "-out", files["csr"])
        self._ca("-notext", "-in", files["csr"], "-out", files["crt"], *dates)
        path = Path(files["pem"])
        path.write_text(Path(files["crt"]).read_text() + Path(files["key"]).read_text())
        return path

    def revoke(self, certificate: Path) -> None:
        self._ca("-revoke", str(certificate))

    def revoked(self) -> str:
        """Its revocation list, PEM."""
        self._ca("-gencrl", "-out", str(self.folder / "crl.pem"))
        return (self.folder / "crl.pem").read_text()

    def _ca(self, *arguments: str) -> None:
        _openssl("ca", "-batch", "-config", str(self.folder / "ca.cnf"), *arguments)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(*arguments: str) -> bytes:
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True,
                          timeout=30).stdout


def pin_by_openssl(certificate: Path) -> str:
    """Base64 of SHA-256 of the public key, as the manuals of curl and wget tell to make it."""
    script = ('openssl x509 -in "$1" -pubkey -noout | openssl pkey -pubin -outform der '
              "| openssl dgst -sha256 -binary | openssl enc -base64")
    return subprocess.run(["sh", "-c", script, "-", str(certificate)], check=True, text=True,
                          capture_output=True, timeout=30).stdout.strip()
