"""Share local files with the cluster, without any server: prints a URL that dfly get takes.

The daemon copies each file into its store and offers it to a manager (service/sharing.py); here
is what the user sees of it. A URL alone goes to standard output, so that scripts can take it.
"""
from __future__ import annotations

import os
import sys

from dfly.cli.autostart import ensure_daemon, unheard_managers
from dfly.cli.local import ask, failure_of
from dfly.cli.parser import Arguments, CommandParser
from dfly.config import GetSettings, load
from dfly.errors import DflyError, FileError, NetworkError, printable, worst
from dfly.names import shared_url
from dfly.units import format_size

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, Dict, List

    Event = Dict[str, Any]

STEPS = {"wait": "waiting", "hash": "reading", "copy": "copying"}


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="what to share")
    parser.add_argument("-q", "--quiet", action="store_true", help="print URLs and errors only")
    parser.add_argument("--json", action="store_true", help="print one JSON object a file on "
                        "standard output")
    parser.add_argument("--no-start", action="store_const", const="yes", help="fail if no peer "
                        "daemon runs, rather than start one")
    parser.add_argument("--manager", action="append", metavar="HOST:PORT", help="for a daemon that "
                        "is started now: a cluster manager to use; may be repeated, or a comma "
                        "list")
    parser.add_argument("--socket", metavar="PATH", help="unix socket of the peer daemon")
    parser.add_argument("--store", metavar="DIR", help="for a daemon that is started now: the "
                        "folder that it keeps files in")
    parser.add_argument("--settings", dest="settings_file", metavar="FILE", help="read settings "
                        "from FILE only, not from /etc/dfly/dfly.conf and ~/.config/dfly/dfly.conf")


def run(args: Arguments) -> int:
    settings = load(GetSettings, args)
    if any(map(os.path.exists, args.files)):   # wrong names start no daemon
        unheard = unheard_managers(ensure_daemon(settings), settings)
        if unheard and not args.quiet:
            sys.stderr.write(f"dfly: warning: {unheard}\n")
    return worst([_one(args, settings.socket, name) for name in args.files])


def _identity(name: str) -> List[int]:
    """[device, inode] of the file, by which the daemon sees that it means the same one."""
    try:
        facts = os.stat(name)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no name of a file"
        raise FileError(f"can't read {printable(name) or 'a file without a name'}: {why}") from None
    return [facts.st_dev, facts.st_ino]


def _one(args: Arguments, socket_path: str, name: str) -> int:
    """Share one file; the exit code, after saying why it failed."""
    screen = _Screen(name, live=not (args.quiet or args.json) and sys.stderr.isatty())
    try:
        done = _ask(socket_path, name, _identity(name), screen)
    except DflyError as error:
        screen.clear()
        sys.stderr.write(f"dfly: {printable(str(error))}\n")
        return error.exit_code
    screen.clear()
    url = shared_url(str(done.get("digest", "")), os.path.basename(os.path.abspath(name)))
    if args.json:
        from dfly.cli.table import print_json
        print_json({**done, "url": url, "file": name})
    else:
        print(url, flush=True)
    if not args.quiet and not args.json:
        sys.stderr.write(f"{printable(name)}: {_size(done)} shared; manager "
                         f"{printable(str(done.get('manager', '')))} knows of it\n")
    return 0


def _ask(socket_path: str, name: str, identity: List[int], screen: _Screen) -> Event:
    """The daemon's last event; or the error that ended the sharing."""
    wanted = {"path": os.path.abspath(name), "identity": identity}
    with ask(socket_path, "POST", "/v1/share", wanted, timeout_s=None, events=True) as answer:
        if answer.status == 404:
            raise NetworkError("the peer daemon that runs here is older and can't share",
                               "end it: the next command starts a new one")
        for event in answer.check().events():
            if event.get("event") == "failed":
                raise failure_of(event)
            if event.get("event") == "done":
                return event
            screen.show(event)
    raise NetworkError("the peer daemon ended while it read the file", "repeat the command")


def _size(event: Event) -> str:
    length = event.get("length")
    return format_size(length) if isinstance(length, int) else "?"


class _Screen:
    """The live line of one file, on a terminal."""

    def __init__(self, name: str, live: bool) -> None:
        self._name = printable(name)
        self._live = live
        self._shown = False

    def show(self, event: Event) -> None:
        done, length = event.get("bytes"), event.get("length")
        if not self._live or not isinstance(done, int) or not isinstance(length, int):
            return
        import shutil
        width = max(20, shutil.get_terminal_size().columns - 1)   # a full line would wrap
        step = STEPS.get(str(event.get("step")), "working")
        text = f"{step} {100 * done // max(1, length):3d}% of {format_size(length)}  {self._name}"
        sys.stderr.write(f"\r{text[:width]}\x1b[K")
        sys.stderr.flush()
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            self._shown = False
