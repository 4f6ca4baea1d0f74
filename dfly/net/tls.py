"""The contexts made from TLS settings, and what a failed handshake means for people.

`ssl` is imported only when a context is first made: most of dfly runs without it and it costs
20 ms. A context is expensive (it reads the system's CA bundle) and immutable here, so equal
settings share one; one that holds a client's key lives only as long as a connection made with it.

Settings carry PEM texts, and OpenSSL takes keys and revocation lists only from files: they go
through a file in memory, or where there is none through one of ours that is removed at once.
"""
from __future__ import annotations

import contextlib
import functools
import os
import re
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Dict, Iterator, MutableMapping, Tuple

from dfly.access import TlsSettings
from dfly.errors import TlsError, UsageError, printable
from dfly.net.certificate import Certificate, certificate_of

if TYPE_CHECKING:
    import ssl

CONTEXTS_MAX = 32
NAMES_SHOWN = 5     # of a certificate that is for others
VERSIONS = {"": "TLSv1_2", "TLSv1_2": "TLSv1_2", "TLSv1_3": "TLSv1_3"}
_CERTIFICATES = ("CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CERTIFICATE")
_REVOKED = ("X509 CRL",)
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----[^-]*-----END \1-----")
_keyed: MutableMapping[TlsSettings, ssl.SSLContext] = weakref.WeakValueDictionary()

# OpenSSL's X509_V_ERR_... that have an explanation of their own
NOT_YET_VALID, EXPIRED, OTHER_NAME, OTHER_ADDRESS = 9, 10, 62, 64
SHOWN_BETTER = (NOT_YET_VALID, EXPIRED, OTHER_NAME, OTHER_ADDRESS)  # with the certificate at hand
_TRUST_IT = "name the CA that signed it with --ca-certificate FILE, or --no-check-certificate"
_MEANINGS: Dict[int, Tuple[str, str]] = {
    2: ("its issuer is unknown here", _TRUST_IT),
    3: ("no revocation list of its issuer is in the CRL file", "add that issuer's list"),
    NOT_YET_VALID: ("it isn't valid yet", "is the clock of this host right?"),
    EXPIRED: ("it has expired", "tell the server's administrator"),
    12: ("the revocation list has expired", "fetch a new CRL file"),
    18: ("it is self-signed", _TRUST_IT),
    19: ("its issuer is a self-signed CA that isn't trusted here", _TRUST_IT),
    20: ("its issuer is unknown here", _TRUST_IT),
    21: ("its issuer is unknown here", _TRUST_IT),
    23: ("it was revoked", "don't trust this server; tell its administrator"),
    OTHER_NAME: ("it is for another host", "is the host in the URL the right one?"),
    OTHER_ADDRESS: ("it is for another address", "is the address in the URL the right one?"),
}
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG",
           "RECORD_LAYER_FAILURE")   # what an answer in plain text looks like


class Distrusted(TlsError):
    """A certificate that wasn't believed, and OpenSSL's number for why."""

    def __init__(self, what: str, hint: str, code: int) -> None:
        super().__init__(what, hint)
        self.code = code


# --------------------------------------------------------------------------------- contexts
def client_context(settings: TlsSettings) -> ssl.SSLContext:
    """The client's context for `settings`: TLS 1.2 or later, HTTP/1.1 only. TlsError or
    UsageError for settings that can't work."""
    settings = replace(settings, pins=())    # looked at after the handshake
    if not settings.cert:
        return _shared(settings)
    context = _keyed.get(settings)
    if context is None:
        context = _keyed[settings] = _made(settings)
    return context


@functools.lru_cache(maxsize=CONTEXTS_MAX)
def _shared(settings: TlsSettings) -> ssl.SSLContext:
    return _made(settings)


def _made(settings: TlsSettings) -> ssl.SSLContext:
    import ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.minimum not in VERSIONS:
        raise UsageError(f"unknown TLS version {printable(settings.minimum)!r}",
                         "TLSv1_2 or TLSv1_3")
    context.minimum_version = getattr(ssl.TLSVersion, VERSIONS[settings.minimum])
    context.set_alpn_protocols(["http/1.1"])
    # Python 3.9 hides a connection that was cut from one that ended (and has no name for it)
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0x80)
    if settings.ciphers:
        try:
            context.set_ciphers(settings.ciphers)
        except (ssl.SSLError, ValueError):
            raise UsageError(f"no usable cipher in {printable(settings.ciphers)!r}",
                             "see `openssl ciphers -v`") from None
    if settings.verify:
        _trust(context, settings)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.cert:
        _identify(context, settings)
    return context


def _trust(context: ssl.SSLContext, settings: TlsSettings) -> None:
    import ssl
    if settings.system_ca:
        context.load_default_certs()
    for name, text, kinds in (("CA certificates", settings.ca, _CERTIFICATES),
                              ("revocation lists", settings.crl, _REVOKED)):
        if text:
            found = "\n".join(_sections(text, kinds))
            if not found:
                raise TlsError(f"no {name} in the file of {name} given", "PEM is wanted "
                               f"('-----BEGIN {kinds[0]}-----')")
            try:
                with _file_of(found) as path:
                    context.load_verify_locations(path)
            except ssl.SSLError as error:
                raise TlsError(f"can't read the {name} given",
                               _reason(error, "a part of it is cut or changed")) from None
    if settings.crl:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _sections(text: str, kinds: Tuple[str, ...]) -> Iterator[str]:
    """The PEM parts of these kinds: a list of the revoked mustn't bring someone to trust."""
    return (match.group() for match in _BLOCK.finditer(text) if match.group(1) in kinds)


def _identify(context: ssl.SSLContext, settings: TlsSettings) -> None:
    import ssl
    try:
        with _file_of(settings.cert) as cert, _file_of(settings.key or settings.cert) as key:
            context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        raise TlsError("can't use the client certificate with its key",
                       _reason(error, "one is cut or changed, or there is no key")) from None


def _no_password() -> str:
    raise UsageError("the client's key is locked by a password",
                     "give it unlocked: `openssl pkey -in KEY -out UNLOCKED`")


@contextlib.contextmanager
def _file_of(text: str) -> Iterator[str]:
    """A path under which `text` can be read meanwhile, by this process (and user) alone."""
    import tempfile
    data = text.encode("utf-8", "replace")
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("dfly-pem")
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile(prefix="dfly-pem-") as named:   # mode 0600
        named.write(data)
        named.flush()
        yield named.name


# ------------------------------------------------------------------------------ what happened
def check_pin(sock: ssl.SSLSocket, settings: TlsSettings, where: str) -> None:
    """TlsError unless the other side's public key is one of the pinned ones. Called when the
    handshake is done, before anything is sent."""
    if not settings.pins:
        return
    shown = sock.getpeercert(binary_form=True)
    pin = certificate_of(shown).pin if shown else "none"
    if pin not in settings.pins:
        raise TlsError(f"{where}: its public key isn't the pinned one, but sha256//{pin}",
                       "if the server has a new key, pin that; else somebody is in between")


def tls_error(where: str, error: OSError) -> TlsError:
    """An error of `ssl` on a connection, for people."""
    import ssl
    if isinstance(error, ssl.SSLCertVerificationError):
        meaning, hint = _MEANINGS.get(error.verify_code, (error.verify_message, _TRUST_IT))
        return Distrusted(f"{where}: its certificate isn't trusted: {meaning}", hint,
                          error.verify_code)
    if getattr(error, "reason", None) in _NO_TLS:
        return TlsError(f"{where}: TLS failed: the server doesn't speak TLS there",
                        "a plain http:// URL, or another port?")
    return TlsError(f"{where}: TLS failed: {_reason(error)}")


def _reason(error: OSError, unknown: str = "") -> str:
    """OpenSSL's; `unknown` where it names only the place in its source."""
    reason = getattr(error, "reason", "") or unknown or error
    return printable(str(reason).replace("_", " ").lower())


def explained(error: Distrusted, shown: Certificate) -> Distrusted:
    """`error` said anew with what the certificate itself tells."""
    if error.code == EXPIRED:
        return Distrusted(f"{error.what} on {_day(shown.not_after)}", error.hint, error.code)
    if error.code == NOT_YET_VALID:
        return Distrusted(f"{error.what}, but from {_day(shown.not_before)}", error.hint,
                          error.code)
    if error.code in (OTHER_NAME, OTHER_ADDRESS):
        names = ", ".join(shown.names[:NAMES_SHOWN]) or "nobody"
        more = len(shown.names) - NAMES_SHOWN
        whom = names + (f" and {more} more" if more > 0 else "")
        return Distrusted(f"{error.what}: it is for {whom}", error.hint, error.code)
    return error


def _day(moment: str) -> str:
    return (f"{moment[:4]}-{moment[4:6]}-{moment[6:8]} {moment[8:10]}:{moment[10:12]} UTC")
