"""Digests of content as values: `sha256:<hex>` and the like.

SHA-256 is what dfly trusts and computes for every piece; SHA-512 is as good when a user has only
that; MD5 and SHA-1 are accepted to check a file against a published sum and are never trusted to
name content (`is_strong`).
"""
from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict

from dfly.errors import UsageError

if TYPE_CHECKING:
    from hashlib import _Hash as Hash
else:
    Hash = object

SHA256_SIZE = 32  # bytes
SIZES: Dict[str, int] = {"sha256": 32, "sha512": 64, "sha1": 20, "md5": 16}  # bytes
STRONG = ("sha256", "sha512")
BEST_FIRST = (*STRONG, "sha1", "md5")  # what the swarm uses, then strength


@dataclass(frozen=True)
class Digest:
    """`algorithm` is one of sha256, sha512, sha1, md5; `value` its raw bytes."""

    algorithm: str
    value: bytes

    @classmethod
    def parse(cls, text: str) -> Digest:
        """From 'sha256:<hex>' (also 'sha-256=<hex>', aria2's spelling)."""
        algorithm, colon, hexadecimal = text.replace("=", ":", 1).partition(":")
        algorithm = algorithm.strip().lower().replace("-", "")
        size = SIZES.get(algorithm)
        try:
            value = bytes.fromhex(hexadecimal) if colon and hexadecimal.isalnum() else b""
        except ValueError:
            value = b""
        if size is None or len(value) != size:
            raise UsageError(f"not a digest: {text[:200]!r}",
                             "write it like sha256:<64 hex digits>, sha512:, sha1: or md5:")
        return cls(algorithm, value)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value.hex()}"

    @property
    def is_strong(self) -> bool:
        """True if nobody can make two contents with this digest."""
        return self.algorithm in STRONG

    def hasher(self) -> Hash:
        """A fresh hash object of this algorithm (`update`, `digest`)."""
        return new_hasher(self.algorithm)


def new_hasher(algorithm: str) -> Hash:
    """A fresh hash object; MD5 and SHA-1 are marked as not for security (FIPS hosts)."""
    if algorithm in STRONG:
        return hashlib.new(algorithm)
    return hashlib.new(algorithm, usedforsecurity=False)


def sha256(data: bytes) -> bytes:
    """Raw SHA-256 of `data`, 32 bytes."""
    return hashlib.sha256(data).digest()
