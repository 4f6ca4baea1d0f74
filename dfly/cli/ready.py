"""How a role that was started tells its starter that it serves, or why it doesn't: a few lines
on an inherited pipe (`--ready-fd N`), so that nobody has to poll or sleep.

    ready WHERE               it serves; WHERE is host:port, or what the role says instead
    failed CODE               it ended; the next two lines are what happened and what to do
"""
from __future__ import annotations

import os
import select

from dfly.cli import complain
from dfly.cli.parser import CommandParser
from dfly.errors import DflyError, UsageError, error_from_wire, printable

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Callable, Optional

REPORT_MAX = 16 * 1024  # bytes


def add_ready_flag(parser: CommandParser) -> None:
    parser.add_argument("--ready-fd", metavar="N",
                        help="tell on this open file descriptor when the role serves: "
                             "'ready HOST:PORT', or 'failed CODE' and two lines of reasons")


def run_role(role: str, ready_fd: Optional[str],
             run: Callable[[Callable[[str], None]], int]) -> int:
    """Call `run(ready)`; what it tells by `ready`, or the error that it ends with, goes to the
    descriptor, and to the terminal for people."""
    fd = _checked(ready_fd)

    def ready(where: str) -> None:
        nonlocal fd
        complain(f"dfly {role}: ready on {printable(where)}")
        fd = _tell(fd, f"ready {where}\n")

    try:
        return run(ready)
    except DflyError as error:
        fd = _tell(fd, f"failed {error.exit_code}\n{printable(error.what)}\n"
                       f"{printable(error.hint)}\n")
        raise


def wait_ready(fd: int, name: str, timeout_s: float) -> str:
    """Where the role at the other end of pipe `fd` serves; raises the error that it told of.
    Closes `fd`."""
    report = b""
    with open(fd, "rb", buffering=0) as pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while len(report) < REPORT_MAX:
            if not poll.poll(timeout_s * 1000):
                raise DflyError(f"{name} didn't come up within {timeout_s:g} s")
            data = pipe.read(REPORT_MAX)
            if not data:
                break
            report += data
    lines = report.decode("utf-8", "replace").split("\n")
    if lines[0].startswith("ready "):
        return printable(lines[0][len("ready "):])
    if lines[0].startswith("failed ") and len(lines) >= 3:
        code = lines[0][len("failed "):]
        raise error_from_wire(int(code) if code.isdecimal() else 1, lines[1], lines[2])
    raise DflyError(f"{name} ended as it started")


def _checked(ready_fd: Optional[str]) -> int:
    """The descriptor's number; -1 for none."""
    if ready_fd is None:
        return -1
    try:
        os.fstat(int(ready_fd))
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"--ready-fd: {ready_fd!r} is no open file descriptor") from None
    os.set_inheritable(int(ready_fd), False)
    return int(ready_fd)


def _tell(fd: int, report: str) -> int:
    """Write once and close; -1, the descriptor to use from now on."""
    if fd < 0:
        return -1
    try:
        os.write(fd, report.encode())
    except BrokenPipeError:
        pass  # the starter has left; the role goes on
    os.close(fd)
    return -1
