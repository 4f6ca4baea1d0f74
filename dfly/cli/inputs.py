"""Small files that a command line names: read whole, within a bound. What is in them is their
readers' business (lists of URLs, checksums, cookies, passwords, Metalinks)."""
from __future__ import annotations

import sys

from dfly.errors import FileError, UsageError
from dfly.units import format_size


def read_input(path: str, bytes_max: int) -> bytes:
    """Everything in the file, '-' = standard input. FileError; UsageError where it's too long to
    be what it is taken for."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(bytes_max + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(bytes_max + 1)
    except (OSError, ValueError) as error:   # ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise FileError(f"can't read {shown(path)}: {why}") from None
    if len(data) > bytes_max:
        raise UsageError(f"{shown(path)} is longer than {format_size(bytes_max)}",
                         "is it the right file?")
    return data


def shown(path: str) -> str:
    """What messages call it."""
    return "standard input" if path == "-" else path
