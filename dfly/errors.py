"""The tree of errors that dfly tells people about.

An error says what happened, to what, and (in its hint) what to do. Each class owns one exit
code and the sentence that the manual prints for it, so the list in dfly(1) is generated from
here and can't drift. Codes 0 to 8 are wget's. Only `cli.main()` turns an error into text and an
exit code; everything below it raises. An error that crosses the wire travels as
(exit code, what, hint) and comes back by `error_from_wire()`.
"""
from __future__ import annotations

TYPE_CHECKING = False  # typing's own costs each start of a client 2 ms
if TYPE_CHECKING:
    from typing import Dict, List, Type

WHAT_MAX = 2_000  # characters of a message or hint kept from a remote: one screen of text


class DflyError(Exception):
    """Base of all errors meant for people; as itself, a failure of no particular kind."""

    exit_code = 1
    meaning = "a failure of no kind listed below"
    hint = ""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        if hint:
            self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}: {self.hint}" if self.hint else self.what


class UsageError(DflyError):
    exit_code = 2
    meaning = "wrong usage: an option, argument, address or configuration value can't be understood"


class FileError(DflyError):
    exit_code = 3
    meaning = "a local file or folder can't be read or written"


class NetworkError(DflyError):
    exit_code = 4
    meaning = "the network failed: name not found, connection refused or cut, timeout"


class TlsError(DflyError):
    exit_code = 5
    meaning = "TLS verification failed"


class AuthError(DflyError):
    exit_code = 6
    meaning = "a user name, password or token was refused"


class ProtocolError(DflyError):
    exit_code = 7
    meaning = "the other side broke the protocol"


class ServerError(DflyError):
    """The source answered with an error status; `status` is the HTTP status code."""

    exit_code = 8
    meaning = "the server answered with an error"

    def __init__(self, what: str, hint: str = "", status: int = 0) -> None:
        super().__init__(what, hint)
        self.status = status


class DigestMismatch(DflyError):
    exit_code = 9
    meaning = "the content contradicts its digest"


class NoManager(DflyError):
    exit_code = 10
    meaning = "no manager or peer could give the file and going to the source was forbidden"


class NoSpace(DflyError):
    exit_code = 11
    meaning = "the disk (or the store's quota) can't hold the file"


class StoreBusy(DflyError):
    exit_code = 12
    meaning = "the store belongs to another running daemon"


ALL = (DflyError, UsageError, FileError, NetworkError, TlsError, AuthError, ProtocolError,
       ServerError, DigestMismatch, NoManager, NoSpace, StoreBusy)
_BY_CODE: Dict[int, Type[DflyError]] = {kind.exit_code: kind for kind in ALL}


def error_from_wire(exit_code: int, what: str, hint: str = "") -> DflyError:
    """Rebuild an error that a remote sent; an unknown code becomes a plain DflyError."""
    return _BY_CODE.get(exit_code, DflyError)(printable(what), printable(hint))


def worst(codes: List[int]) -> int:
    """wget's rule for several downloads: the lowest code above 1 wins, then 1, then 0."""
    return min((code for code in codes if code > 1), default=max(codes, default=0))


def printable(text: str) -> str:
    """`text` safe for a terminal or a log line: no control characters, bounded length."""
    clean = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:WHAT_MAX])
    return clean + ("..." if len(text) > WHAT_MAX else "")
