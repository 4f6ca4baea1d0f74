"""TLS settings as a value, and the contexts made from them.

`ssl` is imported only when a context is first made: most of dfly runs without it and it costs
20 ms. A context is expensive (it reads the system's CA bundle) and immutable here, so equal
settings share one.
"""
from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dfly.errors import FileError, TlsError

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True)
class TlsSettings:
    """Whom to trust (`ca_file`, `ca_dir`; "" = the system's), whether to check at all, and the
    certificate to show when asked (`key_file` "" = inside `cert_file`)."""

    ca_file: str = ""
    ca_dir: str = ""
    verify: bool = True
    cert_file: str = ""
    key_file: str = ""


@functools.lru_cache(maxsize=32)
def client_context(settings: TlsSettings) -> ssl.SSLContext:
    """The client's context for `settings`: TLS 1.2 or later, HTTP/1.1 only."""
    import ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # Python 3.9 hides a connection that was cut from one that ended (and has no name for it)
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0x80)
    if settings.verify:
        _load_authorities(context, settings)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.cert_file:
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file or None)
        except ssl.SSLError as error:
            raise TlsError(f"{settings.cert_file}: not a certificate with its key",
                           str(error.reason or error)) from None
        except OSError as error:
            raise FileError(f"{settings.cert_file}: {error.strerror}") from None
    return context


def _load_authorities(context: ssl.SSLContext, settings: TlsSettings) -> None:
    import ssl
    if not settings.ca_file and not settings.ca_dir:
        context.load_default_certs()
        return
    where = settings.ca_file or settings.ca_dir
    try:
        context.load_verify_locations(settings.ca_file or None, settings.ca_dir or None)
    except ssl.SSLError as error:
        raise TlsError(f"{where}: no CA certificates in it", str(error.reason or error)) from None
    except OSError as error:
        raise FileError(f"{where}: {error.strerror}") from None
