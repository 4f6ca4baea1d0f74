"""Pinned public keys as people write them: curl's 'sha256//BASE64', or a file with the key.

Pure functions for the command line; what a server shows is compared in tls.py.
"""
from __future__ import annotations

import binascii
import re
from typing import List, Tuple

from dfly.errors import UsageError, printable
from dfly.net.certificate import BITS, SEQUENCE, field_at, fields_of, pin_of

PREFIX = "sha256//"
PINS_MAX = 100
PIN_CHARACTERS = 44   # base64 of 32 bytes
PEM_MAX = 64 * 1024   # bytes of a public key's file
_KEY_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]*)-----END PUBLIC KEY-----")


def parse_pins(text: str) -> Tuple[str, ...]:
    """Pins from 'sha256//BASE64;sha256//BASE64'; UsageError if it isn't that."""
    pins: List[str] = []
    for part in text.split(";"):
        pin = part.strip()
        if not pin.startswith(PREFIX) or not _is_pin(pin[len(PREFIX):]):
            raise UsageError(f"not a pinned public key: {printable(pin[:100])!r}",
                             "write it like 'sha256//BASE64', the hash of the key in DER, "
                             "several with ';' between, or name a file with the public key")
        pins.append(pin[len(PREFIX):])
    if len(pins) > PINS_MAX:
        raise UsageError(f"{len(pins)} pinned public keys", f"{PINS_MAX} at most")
    return tuple(pins)


def _is_pin(text: str) -> bool:
    try:
        return len(text) == PIN_CHARACTERS and len(binascii.a2b_base64(text.encode())) == 32
    except (ValueError, UnicodeError):
        return False


def spki_pin_of_pem(content: bytes) -> str:
    """The pin of a public key out of a file (PEM or DER); UsageError if there is none."""
    der = content
    found = _KEY_PEM.search(content[:PEM_MAX].decode("latin-1"))
    try:
        if found is not None:
            der = binascii.a2b_base64(found.group(1).encode())
        whole = field_at(der, 0, len(der), SEQUENCE)
        algorithm, bits = fields_of(der, whole)
        if whole.stop != len(der) or algorithm.tag != SEQUENCE or bits.tag != BITS:
            raise ValueError
    except ValueError:
        raise UsageError("no public key in the file of the pinned one",
                         "PEM ('-----BEGIN PUBLIC KEY-----') or DER, as `openssl pkey -pubout` "
                         "writes it") from None
    return pin_of(der)
