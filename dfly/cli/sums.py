"""Checksum files: SHA256SUMS and their kin, which list the digests of files.

Lines of GNU's tools ('HEX  name', 'HEX *name', a leading backslash if the name is escaped), of
BSD's and OpenSSL's ('SHA256 (name) = HEX'), and a bare 'HEX' for the one file that a file is about.
A PGP signature around it is passed over, not verified. The algorithm is told by the line, or by
the number of digits.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple
from urllib.parse import unquote

from dfly.cli.inputs import read_input, shown
from dfly.digest import BEST_FIRST, SIZES
from dfly.errors import UsageError, printable
from dfly.names import split_any
from dfly.units import MIB

BYTES_MAX = 16 * MIB
NAMED_MAX = 10       # names that a message lists
_BY_DIGITS = {size * 2: algorithm for algorithm, size in SIZES.items()}
_GNU = re.compile(r"([0-9A-Fa-f]{32,128})(?:[ \t]+\*?(.+))?")
_BSD = re.compile(r"([A-Za-z0-9/-]+) ?\((.+)\) ?= ?([0-9A-Fa-f]{32,128})")
_OTHER_SUMS = re.compile(r"b2sum|blake|sha-?3|sha512[-_]?256|shake", re.IGNORECASE)
_ESCAPES = {"\\n": "\n", "\\r": "\r", "\\\\": "\\"}


@dataclass(frozen=True)
class Sum:
    name: str         # as written, maybe with folders; "" = of whatever file
    algorithm: str
    hexadecimal: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hexadecimal}"


class Sums:
    """What one checksum file says; `where` is what messages call it."""

    def __init__(self, text: str, where: str) -> None:
        self._where = where
        if _OTHER_SUMS.search(where.rpartition("/")[2]):
            raise UsageError(f"{where} has checksums of a kind that dfly doesn't know",
                             "it knows sha256, sha512, sha1 and md5")
        self._sums = [found for line in _lines(text) for found in [_parse(line)] if found]
        if not self._sums:
            raise UsageError(f"{where} has no checksums in it",
                             "lines are like '<64 hex digits>  NAME'")

    @classmethod
    def read(cls, path: str) -> Sums:
        """From a file, '-' = standard input. FileError, UsageError."""
        text = read_input(path, BYTES_MAX).decode("utf-8-sig", errors="replace")
        return cls(text, shown(path))

    def digest_for_url(self, url: str) -> str:
        """By the last part of the URL's path."""
        return self.digest_for(unquote(split_any(url).path.rpartition("/")[2]))

    def digest_for(self, name: str) -> str:
        """'sha256:HEX' of the file of this (base) name, as Digest.parse takes it: the best, if
        there are several kinds. UsageError if it isn't there, or ambiguous."""
        found = ([entry for entry in self._sums if entry.name == name]
                 or [entry for entry in self._sums if _base(entry.name) == name])
        if not found and len(self._sums) == 1 and not self._sums[0].name:
            found = self._sums
        if not found:
            raise UsageError(f"{self._where} has no checksum of {printable(name)!r}",
                             f"it has {self._listing()}")
        for algorithm in BEST_FIRST:
            same = {str(entry): entry for entry in found if entry.algorithm == algorithm}
            if len(same) > 1:
                one, other = list(same.values())[:2]
                raise UsageError(
                    f"{self._where} has several checksums of {printable(name)!r}: "
                    f"{one} ({printable(one.name)}) and {other} ({printable(other.name)})",
                    "say which one by --digest")
            if same:
                return next(iter(same))
        raise AssertionError("a sum is of one of these algorithms")

    def _listing(self) -> str:
        names: Dict[str, None] = dict.fromkeys(printable(entry.name) or "a checksum without a name"
                                               for entry in self._sums)
        more = len(names) - NAMED_MAX
        return ", ".join(list(names)[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def algorithm_of(hexadecimal: str) -> str:
    """By the number of its digits; "" if it's none that dfly knows."""
    digits = frozenset(hexadecimal.lower())
    return _BY_DIGITS.get(len(hexadecimal), "") if digits <= frozenset("0123456789abcdef") else ""


def _lines(text: str) -> List[str]:
    """Those that may be checksums: no comments, nothing of a PGP signature."""
    lines: List[str] = []
    signed, signature = False, False
    for line in (line.rstrip("\r") for line in text.split("\n")):
        if line.startswith("-----BEGIN PGP SIGNED MESSAGE"):
            signed = True
        elif line.startswith("-----BEGIN PGP SIGNATURE"):
            signature = True
        elif line.startswith("-----END PGP SIGNATURE"):
            signed = signature = False
        elif not signature and line.strip() and not line.lstrip().startswith("#"):
            lines.append(line[2:] if signed and line.startswith("- ") else line)
    return lines


def _parse(line: str) -> Optional[Sum]:
    """None for a line that isn't a checksum, or is of another kind."""
    escaped = line.startswith("\\")
    algorithm, name, hexadecimal = _fields(line[1:] if escaped else line.strip())
    if not algorithm or algorithm_of(hexadecimal) != algorithm:
        return None
    if escaped:
        name = re.sub(r"\\[nr\\]", lambda match: _ESCAPES[match.group()], name)
    return Sum(name, algorithm, hexadecimal.lower())


def _fields(line: str) -> Tuple[str, str, str]:
    gnu = _GNU.fullmatch(line)
    if gnu is not None:
        return algorithm_of(gnu[1]), gnu[2] or "", gnu[1]
    bsd = _BSD.fullmatch(line)
    if bsd is not None:
        told = bsd[1].lower().replace("sha2-", "sha").replace("-", "")
        return (told if told in SIZES else ""), bsd[2], bsd[3]
    return "", "", ""


def _base(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]
