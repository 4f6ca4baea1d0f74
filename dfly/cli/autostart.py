"""Starting this host's peer daemon when `dfly get` finds none.

One daemon comes up whatever the number of downloads that want one at the same time: the starters
queue at a lock beside the socket, and each looks again once it holds it. The daemon is detached
(own session, no terminal, no descriptor of the caller's, logs into its store) and tells by a pipe
when it serves.
"""
from __future__ import annotations

import fcntl
import os
import sys
from contextlib import contextmanager

from dfly.cli.local import BRIEF, NobodyThere, ask_json
from dfly.cli.parser import Arguments
from dfly.cli.ready import wait_ready
from dfly.config import GetSettings, PeerSettings, load, private_dir
from dfly.errors import DflyError, FileError, printable

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

IDLE_EXIT = "5min"         # a daemon that nobody asked for by name leaves after that long
START_TIMEOUT_S = 30.0
LOG_NAME = "peer.log"
LOG_MAX = 4 << 20          # bytes; a longer log is set aside as the daemon starts
# What each command tells the daemon by itself: one `http_proxy=... dfly get` would else choose for
# all later ones, which say nothing. HTTP_PROXY no command reads (asking.py says why).
TOLD = ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def program() -> Tuple[List[str], Dict[str, str]]:
    """How to run this very dfly again: the first words of the command, and variables to set."""
    entry = getattr(sys.modules["__main__"], "__file__", None) or ""
    archive = os.path.dirname(entry)
    if entry.endswith("__main__.py") and os.path.isfile(archive):
        return [sys.executable, os.path.abspath(archive)], {}
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    inherited = os.environ.get("PYTHONPATH", "")
    path = os.path.dirname(package) + (os.pathsep + inherited if inherited else "")
    return [sys.executable, "-m", "dfly"], {"PYTHONPATH": path}


def ensure_daemon(settings: GetSettings) -> Optional[Dict[str, Any]]:
    """The status of a daemon that ran already; None if one has been started now, and serves."""
    status = _running(settings.socket)
    if status is not None:
        return status
    if settings.no_start:
        raise NobodyThere(f"no peer daemon runs at {settings.socket}",
                          "start one by dfly peer, or leave out --no-start")
    private_dir(os.path.dirname(settings.socket))
    with _lock(settings.socket + ".lock"):
        status = _running(settings.socket)
        if status is None:
            _start(settings)
    return status


def unheard_managers(status: Optional[Dict[str, Any]], settings: GetSettings) -> str:
    """What to say where a daemon runs already, as `status` tells, with other managers than the
    settings name: it keeps its own. "" = nothing."""
    if status is None or not settings.manager or "managers" not in status:
        return ""
    used = [entry.get("address", "") if isinstance(entry, dict) else str(entry)
            for entry in status["managers"]] if isinstance(status["managers"], list) else []
    if sorted(used) == sorted(settings.manager):
        return ""
    shown = ", ".join(map(printable, used)) or "no manager"
    return (f"a peer daemon runs already, and it uses {shown}; "
            f"--manager {','.join(settings.manager)} has no effect")


def _running(socket_path: str) -> Optional[Dict[str, Any]]:
    try:
        status = ask_json(socket_path, "GET", BRIEF, timeout_s=START_TIMEOUT_S)
    except NobodyThere:
        return None
    return status if isinstance(status, dict) else {}


@contextmanager
def _lock(path: str) -> Iterator[None]:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _start(settings: GetSettings) -> None:
    wanted = Arguments(socket=settings.socket, store=settings.store or None,
                       manager=list(settings.manager) or None)
    store = load(PeerSettings, wanted).store  # as the daemon will see it: its log goes there
    command, variables = program()
    command += ["peer", "--socket", settings.socket, "--store", store, "--idle-exit", IDLE_EXIT]
    for address in settings.manager:
        command += ["--manager", address]
    log_path = os.path.join(private_dir(store), LOG_NAME)
    log_fd = _open_log(log_path)
    read_fd, write_fd = os.pipe()
    try:
        kept = {name: value for name, value in os.environ.items() if name not in TOLD}
        _detach([*command, "--ready-fd", str(write_fd)], {**kept, **variables}, log_fd, write_fd)
    finally:
        os.close(log_fd)
        os.close(write_fd)
    try:
        wait_ready(read_fd, "the peer daemon", START_TIMEOUT_S)
    except DflyError as error:
        error.hint = f"{error.hint}{'; ' if error.hint else ''}its log is {log_path}"
        raise


def _open_log(path: str) -> int:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        if os.fstat(fd).st_size > LOG_MAX:
            os.close(fd)
            os.replace(path, path + ".1")
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        return fd
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None


def _keep_from_child(fd: int) -> None:
    try:
        os.set_inheritable(fd, False)
    except OSError:
        pass  # the descriptor by which the list was read is closed by now


def _detach(command: Sequence[str], environ: Dict[str, str], log_fd: int, ready_fd: int) -> None:
    """Run `command` as a grandchild in its own session. This process has one thread, so a fork
    is safe; between fork and exec nothing may raise into the caller's code."""
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        # A caller's descriptor left open here would keep its lock or its pipe for the daemon's
        # whole life: `exec 9>lock; flock 9; dfly get ...` is what scripts do.
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2:
                _keep_from_child(fd)
        os.set_inheritable(ready_fd, True)
        os.execve(command[0], list(command), environ)
    except BaseException as error:
        os.write(ready_fd, f"failed 1\ncan't start {command[0]}: {error}\n\n".encode())
    finally:
        os._exit(127)
