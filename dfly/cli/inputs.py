"""Small files that a command line names: read whole, within a bound. What is in them is their
readers' business (lists of URLs, checksums, cookies, passwords, Metalinks)."""
from __future__ import annotations

import os
import sys

from dfly.errors import FileError, UsageError
from dfly.units import format_size


def read_input(path: str, bytes_max: int, *, waits: bool = True) -> bytes:
    """Everything in the file, '-' = standard input. FileError; UsageError where it's too long to
    be what it is taken for. `waits` = False is for files that the user didn't name: a FIFO that
    nobody writes to is empty then (that of a shell's <(...) has its writer)."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(bytes_max + 1)
        else:
            with open(path, "rb", opener=None if waits else _at_once) as file:
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


def _at_once(path: str, flags: int) -> int:
    fd = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(fd, True)
    return fd
