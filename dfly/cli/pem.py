"""Files of certificates that options name, tried before anybody is asked: the daemon and the
manager are told their texts, and could only say that something in them is wrong.

A client's certificate and a revocation list are tried by OpenSSL. Authorities are looked at only
for whether each is whole: settings name them for good, and to load `ssl` costs a start 20 ms.
"""
from __future__ import annotations

import binascii

from dfly.errors import DflyError, FileError

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, Optional, Sequence

    from dfly.access import TlsSettings

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_SEQUENCE = 0x30
_TRY = "is it whole? `openssl x509 -in FILE -noout -text` says more"


def check_ends(text: str, path: str) -> None:
    """FileError if a certificate in `text` has no end: a bundle that came in part has fewer, and
    which are missing would be told by a source that isn't believed."""
    if text.count(_BEGIN) != sum(1 for _ in certificates_in(text)):
        raise FileError(f"{path}: a certificate in it is cut", _TRY)


def check_authorities(text: str, paths: Sequence[str]) -> None:
    """FileError if one of the certificates in `text` isn't whole; `paths` are where they are
    from."""
    if not all(map(_is_good, certificates_in(text))):
        raise FileError(f"{', '.join(paths)}: a certificate in it can't be read", _TRY)


def check_revoked(text: str, path: str) -> None:
    """FileError for revocation lists that OpenSSL doesn't take."""
    from dfly.access import TlsSettings
    _try(TlsSettings(system_ca=False, crl=text), path)


def check_identity(tls: Dict[str, Any], path: str, key_path: Optional[str]) -> None:
    """FileError for a certificate and key that OpenSSL doesn't take, or not together."""
    from dfly.access import TlsSettings
    _try(TlsSettings(verify=False, cert=tls["cert"], key=tls.get("key", "")),
         f"{path}, {key_path}" if key_path else path)


def _try(settings: TlsSettings, name: str) -> None:
    from dfly.net.tls import client_context
    try:
        client_context(settings)
    except DflyError as error:
        raise FileError(f"{name}: {error.what}", error.hint) from None


def certificates_in(text: str) -> Iterator[str]:
    """Those of a PEM text, each with its marks, without what people wrote around them."""
    for part in text.split(_BEGIN)[1:]:
        inside, mark, _ = part.partition(_END)
        if mark:
            yield f"{_BEGIN}{inside}{_END}\n".replace("\r", "")


def _is_good(certificate: str) -> bool:
    try:
        return _is_whole(binascii.a2b_base64(
            certificate.rstrip()[len(_BEGIN):-len(_END)]))
    except ValueError:   # no base64
        return False


def _is_whole(der: bytes) -> bool:
    """True for one value in DER, a sequence, that ends where it says."""
    if len(der) < 2 or der[0] != _SEQUENCE:
        return False
    if der[1] < 0x80:
        return len(der) == 2 + der[1] > 2
    start = 2 + (der[1] & 0x7F)
    return len(der) == start + int.from_bytes(der[2:start], "big")
