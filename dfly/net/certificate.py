"""What a certificate says, read from its DER: its public key, its names, its time.

`ssl` tells these only of a certificate that it trusts, and never the public key that pins are of.
Nothing is verified here. The walk is over bytes of a stranger: each length is checked against what
holds it, nothing is read twice, and what makes no sense is a TlsError.
"""
from __future__ import annotations

import binascii
import hashlib
import re
import socket
from typing import Iterator, List, NamedTuple, Tuple

from dfly.errors import TlsError, UsageError, printable

PIN_PREFIX = "sha256//"   # curl's way to write a pin
PINS_MAX = 100
PIN_CHARACTERS = 44       # base64 of 32 bytes
NAMES_MAX = 100           # names read of a certificate
PEM_MAX = 64 * 1024       # characters of a public key's file

_SEQUENCE, _OCTETS, _UTC_TIME, _LONG_TIME = 0x30, 0x04, 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3     # the tagged fields of a certificate
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87    # of a list of names
_ALTERNATIVE_NAMES = bytes((0x06, 0x03, 0x55, 0x1D, 0x11))   # 2.5.29.17, as it is encoded
_KEY_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]*)-----END PUBLIC KEY-----")


class Certificate(NamedTuple):
    """Moments are as DER has them: 'YYYYMMDDhhmmssZ'."""

    public_key: bytes        # SubjectPublicKeyInfo, DER
    not_before: str
    not_after: str
    names: Tuple[str, ...]   # DNS names and IP addresses that it is for

    @property
    def pin(self) -> str:
        """Base64 of SHA-256 of its public key."""
        return _pin(self.public_key)


class _Field(NamedTuple):
    tag: int
    start: int    # of the tag
    inside: int   # of the content
    stop: int


def certificate_of(der: bytes) -> Certificate:
    """A certificate (RFC 5280 4.1) as far as it is of use here; TlsError if it isn't one."""
    try:
        return _certificate(der)
    except (ValueError, IndexError):
        raise TlsError("a certificate that can't be read") from None


def _certificate(der: bytes) -> Certificate:
    whole = _field(der, 0, len(der), _SEQUENCE)
    body = _field(der, whole.inside, whole.stop, _SEQUENCE)
    fields = list(_fields(der, body))
    if fields[0].tag == _VERSION:
        del fields[0]
    _, _, _, validity, _, key, *rest = fields   # serial, signature, issuer, -, subject, -
    before, after = _fields(der, validity)
    if key.tag != _SEQUENCE or {before.tag, after.tag} - {_UTC_TIME, _LONG_TIME}:
        raise ValueError
    names = [name for field in rest if field.tag == _EXTENSIONS
             for name in _names(der, _field(der, field.inside, field.stop, _SEQUENCE))]
    return Certificate(der[key.start:key.stop], _moment(der, before), _moment(der, after),
                       tuple(names[:NAMES_MAX]))


def _field(data: bytes, at: int, end: int, tag: int = -1) -> _Field:
    """The field that begins at `at` and must end by `end`."""
    if at + 2 > end or (tag >= 0 and data[at] != tag):
        raise ValueError
    inside, length = at + 2, data[at + 1]
    if length >= 0x80:
        size = length - 0x80
        if not 1 <= size <= 4 or inside + size > end:
            raise ValueError
        length = int.from_bytes(data[inside:inside + size], "big")
        inside += size
    if inside + length > end:
        raise ValueError
    return _Field(data[at], at, inside, inside + length)


def _fields(data: bytes, outer: _Field) -> Iterator[_Field]:
    at = outer.inside
    while at < outer.stop:
        field = _field(data, at, outer.stop)
        yield field
        at = field.stop


def _moment(data: bytes, field: _Field) -> str:
    text = data[field.inside:field.stop].decode("ascii")
    if field.tag == _UTC_TIME:    # two digits of a year from 1950 to 2049
        text = ("20" if text < "50" else "19") + text
    if not re.fullmatch(r"\d{14}Z", text):
        raise ValueError
    return text


def _names(data: bytes, extensions: _Field) -> Iterator[str]:
    for extension in _fields(data, extensions):
        if data[extension.inside:extension.stop].startswith(_ALTERNATIVE_NAMES):
            *_, value = _fields(data, extension)
            listed = _field(data, value.inside, value.stop, _SEQUENCE)
            for name in _fields(data, listed):
                text = _name(name.tag, data[name.inside:name.stop])
                if value.tag == _OCTETS and text:
                    yield text


def _name(tag: int, value: bytes) -> str:
    if tag == _DNS_NAME:
        return printable(value.decode("latin-1"))
    if tag == _IP_ADDRESS and len(value) in (4, 16):
        return socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)
    return ""


# ------------------------------------------------------------------------------------- pins
def parse_pins(text: str) -> Tuple[str, ...]:
    """Pins from 'sha256//BASE64;sha256//BASE64'; UsageError if it isn't that."""
    pins: List[str] = []
    for part in text.split(";"):
        pin = part.strip()
        if not pin.startswith(PIN_PREFIX) or not _is_pin(pin[len(PIN_PREFIX):]):
            raise UsageError(f"not a pinned public key: {printable(pin[:100])!r}",
                             "write it like 'sha256//BASE64', the hash of the key in DER, "
                             "several with ';' between, or name a file with the public key")
        pins.append(pin[len(PIN_PREFIX):])
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
        whole = _field(der, 0, len(der), _SEQUENCE)
        algorithm, bits = _fields(der, whole)
        if whole.stop != len(der) or algorithm.tag != _SEQUENCE or bits.tag != 0x03:
            raise ValueError
    except ValueError:
        raise UsageError("no public key in the file of the pinned one",
                         "PEM ('-----BEGIN PUBLIC KEY-----') or DER, as `openssl pkey -pubout` "
                         "writes it") from None
    return _pin(der)


def _pin(public_key: bytes) -> str:
    return binascii.b2a_base64(hashlib.sha256(public_key).digest(), newline=False).decode()
