"""Whom `dfly get` wants believed and what it shows itself: dfly.access.TlsSettings as JSON, from
options, settings and the files they name.

Loaded only where one of these says anything. Whether what a file holds is of use is pem.py's to
try.
"""
from __future__ import annotations

import os
from typing import Any, Dict, List, Tuple

from dfly.cli.inputs import read_input
from dfly.cli.parser import Arguments
from dfly.cli.pem import (
    certificates_in,
    check_authorities,
    check_ends,
    check_identity,
    check_revoked,
)
from dfly.config import GetSettings
from dfly.errors import FileError, UsageError, printable

PEM_MAX = 256 * 1024     # bytes of certificates: what travels with a wish
FILE_MAX = 4 << 20       # bytes of any file of certificates, comments and all
FILES_MAX = 2_000        # files in a folder of certificates
PROTOCOLS = {"": "", "auto": "", "pfs": "", "tlsv1_2": "TLSv1_2", "tlsv1_3": "TLSv1_3"}


def tls_of(args: Arguments, settings: GetSettings) -> Dict[str, Any]:
    """Only what was said; UsageError, FileError, also for files that are of no use."""
    tls = {**_authorities(settings), **_identity(args), **_manner(args, settings)}
    check_authorities(tls.get("ca", ""), [
        path for path in (settings.ca_directory, *settings.ca_certificate) if path])
    if settings.crl_file:
        check_revoked(tls["crl"], settings.crl_file)
    if args.certificate:
        check_identity(tls, args.certificate, args.private_key)
    return tls


def _authorities(settings: GetSettings) -> Dict[str, Any]:
    tls: Dict[str, Any] = {}
    if settings.ca_directory:
        tls["system_ca"] = False
        tls["ca"] = _those_of_folder(settings.ca_directory)
    for path in settings.ca_certificate:
        tls["ca"] = tls.get("ca", "") + _some("".join(_certificates(path)), path)
    if len(tls.get("ca", "")) > PEM_MAX:
        raise UsageError(f"certificates of authorities of {len(tls['ca'])} bytes",
                         f"{PEM_MAX} is the most: leave out what the sources don't need")
    if settings.crl_file:
        tls["crl"] = _pem(settings.crl_file, "X509 CRL")
    return tls


def _identity(args: Arguments) -> Dict[str, Any]:
    if args.private_key and not args.certificate:
        raise UsageError("--private-key without --certificate", "name both")
    files = (("cert", args.certificate, "CERTIFICATE"), ("key", args.private_key, "PRIVATE KEY"))
    return {name: _pem(path, kind) for name, path, kind in files if path}


def _manner(args: Arguments, settings: GetSettings) -> Dict[str, Any]:
    tls: Dict[str, Any] = {}
    if settings.no_check_certificate:
        tls["verify"] = False
    if args.pinnedpubkey:
        tls["pins"] = _pins(args.pinnedpubkey)
    protocol = settings.secure_protocol.lower()
    if protocol not in PROTOCOLS:
        raise UsageError(f"--secure-protocol {printable(settings.secure_protocol)!r}",
                         "it takes auto, TLSv1_2 or TLSv1_3: older ones are broken")
    if PROTOCOLS[protocol]:
        tls["minimum"] = PROTOCOLS[protocol]
    if settings.ciphers:
        tls["ciphers"] = settings.ciphers
    return tls


def _pins(text: str) -> List[str]:
    """curl's and wget's way: hashes, or a file with the key."""
    from dfly.net.pins import parse_pins, spki_pin_of_pem
    if text.startswith("sha256//"):
        return list(parse_pins(text))
    data = read_input(text, FILE_MAX)
    try:
        return [spki_pin_of_pem(data)]
    except UsageError as error:
        raise UsageError(f"--pinnedpubkey {text}: {error.what}", error.hint) from None


# ------------------------------------------------------------------------------ files
def _pem(path: str, kind: str) -> str:
    """The text of a file that must have a PEM section of this kind in it."""
    text = _text(path, PEM_MAX)
    if f"{kind}-----" not in text:    # behind a word more, as in RSA PRIVATE KEY
        raise FileError(f"{path}: no {kind} in it", f"PEM is wanted: -----BEGIN {kind}-----")
    return text


def _those_of_folder(folder: str) -> str:
    """All certificates in a folder's files, each once."""
    try:
        names = sorted(os.listdir(folder))[:FILES_MAX]
    except OSError as error:
        raise FileError(f"{folder}: {error.strerror}") from None
    paths = sorted({os.path.realpath(os.path.join(folder, name)) for name in names})
    found = [one for path in paths if os.path.isfile(path) for one in _certificates(path)]
    return _some("".join(dict.fromkeys(found)), folder)


def _certificates(path: str) -> Tuple[str, ...]:
    text = _text(path, FILE_MAX)
    check_ends(text, path)
    return tuple(certificates_in(text))


def _some(text: str, path: str) -> str:
    if not text:
        raise FileError(f"{path}: no certificates in it", "they are PEM: -----BEGIN CERTIFICATE")
    return text


def _text(path: str, bytes_max: int) -> str:
    return read_input(path, bytes_max).decode("utf-8", "replace")
