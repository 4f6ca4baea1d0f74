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
from typing import Iterator, NamedTuple, Tuple

from dfly.errors import TlsError, printable

NAMES_MAX = 100   # names read of a certificate
SEQUENCE, BITS, OCTETS = 0x30, 0x03, 0x04
_UTC_TIME, _LONG_TIME = 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3     # the tagged fields of a certificate
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87    # of a list of names
_ALTERNATIVE_NAMES = bytes((0x06, 0x03, 0x55, 0x1D, 0x11))   # 2.5.29.17, as it is encoded


class Certificate(NamedTuple):
    """Moments are as DER has them: 'YYYYMMDDhhmmssZ'."""

    public_key: bytes        # SubjectPublicKeyInfo, DER
    not_before: str
    not_after: str
    names: Tuple[str, ...]   # DNS names and IP addresses that it is for

    @property
    def pin(self) -> str:
        """Base64 of SHA-256 of its public key."""
        return pin_of(self.public_key)


class Field(NamedTuple):
    """One value in DER, by where it stands in the data."""

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
    whole = field_at(der, 0, len(der), SEQUENCE)
    body = field_at(der, whole.inside, whole.stop, SEQUENCE)
    fields = list(fields_of(der, body))
    if fields[0].tag == _VERSION:
        del fields[0]
    _, _, _, validity, _, key, *rest = fields   # serial, signature, issuer, -, subject, -
    before, after = fields_of(der, validity)
    if key.tag != SEQUENCE or {before.tag, after.tag} - {_UTC_TIME, _LONG_TIME}:
        raise ValueError
    names = [name for field in rest if field.tag == _EXTENSIONS
             for name in _names(der, field_at(der, field.inside, field.stop, SEQUENCE))]
    return Certificate(der[key.start:key.stop], _moment(der, before), _moment(der, after),
                       tuple(names[:NAMES_MAX]))


def field_at(data: bytes, at: int, end: int, tag: int = -1) -> Field:
    """The field that begins at `at` and must end by `end`; ValueError if none does."""
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
    return Field(data[at], at, inside, inside + length)


def fields_of(data: bytes, outer: Field) -> Iterator[Field]:
    """Those inside another one."""
    at = outer.inside
    while at < outer.stop:
        field = field_at(data, at, outer.stop)
        yield field
        at = field.stop


def _moment(data: bytes, field: Field) -> str:
    text = data[field.inside:field.stop].decode("ascii")
    if field.tag == _UTC_TIME:    # two digits of a year from 1950 to 2049
        text = ("20" if text < "50" else "19") + text
    if not re.fullmatch(r"\d{14}Z", text):
        raise ValueError
    return text


def _names(data: bytes, extensions: Field) -> Iterator[str]:
    for extension in fields_of(data, extensions):
        if data[extension.inside:extension.stop].startswith(_ALTERNATIVE_NAMES):
            *_, value = fields_of(data, extension)
            listed = field_at(data, value.inside, value.stop, SEQUENCE)
            for name in fields_of(data, listed):
                text = _name(name.tag, data[name.inside:name.stop])
                if value.tag == OCTETS and text:
                    yield text


def _name(tag: int, value: bytes) -> str:
    if tag == _DNS_NAME:
        return printable(value.decode("latin-1"))
    if tag == _IP_ADDRESS and len(value) in (4, 16):
        return socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)
    return ""


def pin_of(public_key: bytes) -> str:
    """Base64 of SHA-256 of a SubjectPublicKeyInfo."""
    return binascii.b2a_base64(hashlib.sha256(public_key).digest(), newline=False).decode()
