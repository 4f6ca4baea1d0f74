"""The command line: a table of commands, each in a module that is imported only when it is run.

`main()` alone turns errors into text and exit codes. The table, --help and --version need no
module beyond this one, because every start pays for what is imported here. Called by the name of
dfget it is that program (dfget.py).
"""
from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself costs 1 ms more
import errno
import importlib
import os
import sys

from dfly import __version__
from dfly.errors import DflyError, FileError, UsageError, printable

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Dict, List, Optional, Protocol, Tuple

    from dfly.cli.parser import Arguments, CommandParser

    class CommandModule(Protocol):
        """What each module of a command offers; its docstring's first line opens its --help."""

        __doc__: Optional[str]

        def add_arguments(self, parser: CommandParser) -> None: ...

        def run(self, args: Arguments) -> int: ...

DFGET = "dfget"     # the other name that this program answers to
SIGNALLED = 128     # plus the signal's number, as shells count
INTERRUPTED = 130   # that of SIGINT
OUTPUT_ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EBADF)
PIPE_CLOSED = 141   # 128 + SIGPIPE: who read our output has left


class Command:
    """A command: the module that does it, and what it is in a few words."""

    def __init__(self, module: str, summary: str) -> None:
        self.module = module
        self.summary = summary


COMMANDS: Dict[str, Command] = {
    "get": Command("dfly.cli.get", "download URLs like wget, through the swarm"),
    "serve": Command("dfly.cli.serve", "be a cluster manager"),
    "peer": Command("dfly.cli.peer", "be this host's daemon"),
    "config": Command("dfly.cli.config", "be a config server: tells hosts their managers"),
    "status": Command("dfly.cli.status", "show what this host's daemon or a manager does"),
    "share": Command("dfly.cli.share", "give local files to the cluster, without a server"),
    "cache": Command("dfly.cli.cache", "list, verify, export or remove what this host keeps"),
    "demo": Command("dfly.cli.demo", "show a whole cluster on this machine in some seconds"),
    "simulate": Command("dfly.cli.simulate", "run the scheduler over thousands of virtual hosts"),
    "completion": Command("dfly.cli.completion", "print what completes dfly's words in a shell"),
}


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command line; the exit code."""
    _prepare_streams()
    program = called_as() if argv is None else "dfly"
    if argv is None and _signal.getsignal(_signal.SIGINT) is not _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, _end_at_once)   # as __main__ had it, up to a Loading's end
    code = 0
    try:
        code = _run(program, sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _drop_output()
        return PIPE_CLOSED
    except OSError as error:  # only our own output can fail here: all else was translated below
        if error.filename is not None or error.errno not in OUTPUT_ERRORS:
            raise
        _drop_output()
        complain(f"{program}: standard output: {error.strerror}")
        return code or FileError.exit_code


def _run(program: str, words: List[str]) -> int:
    try:
        if program == DFGET:
            from dfly.cli import dfget
            return dfget.run(words)
        return dispatch(words)
    except DflyError as error:
        complain(f"{program}: {printable(str(error))}")
        return error.exit_code
    except KeyboardInterrupt as stop:   # by which signal, where one says so
        return interrupted_code(stop)
    except RuntimeError as error:   # threading's "release unlocked lock": a second signal met the
        first = error.__context__   # way out of the first
        if isinstance(first, KeyboardInterrupt):
            return interrupted_code(first)
        raise


class Loading:
    """Ctrl-C while modules are loaded ends the process at once, as there is nothing to be put away
    yet. Raised, it could meet a callback of the import system, and what is raised in one of these
    Python keeps to itself: the command would go on. A caller that handles it otherwise, or lets it
    be ignored, is left alone."""

    def __enter__(self) -> None:
        self._replace(_signal.default_int_handler, _end_at_once)

    def __exit__(self, *error: object) -> None:
        self._replace(_end_at_once, _signal.default_int_handler)

    def _replace(self, old: Any, new: Any) -> None:
        if _signal.getsignal(_signal.SIGINT) is old:
            try:
                _signal.signal(_signal.SIGINT, new)
            except ValueError:
                pass   # in another thread than the first, where no signal comes


def _end_at_once(number: int, frame: Optional[FrameType]) -> None:
    os._exit(INTERRUPTED)


def complain(line: str) -> None:
    """A line on stderr. That it is full or closed ends nothing: a daemon goes on, and what went
    wrong is in the exit code, too."""
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except OSError:
        pass   # there is nobody else to tell it to


def interrupted_code(stop: KeyboardInterrupt) -> int:
    """The exit code; the exception says by which signal, if it wasn't Ctrl-C."""
    return SIGNALLED + int(stop.args[0]) if stop.args else INTERRUPTED


def called_as() -> str:
    """'dfget' for a link or copy of that name, which a shell gives in argv[0] and a zipapp keeps;
    else 'dfly'. A command of dfly is one by any name: a daemon that dfget starts is the same file,
    called the same."""
    if os.path.basename(sys.argv[0]) == DFGET and not set(sys.argv[1:2]) & set(COMMANDS):
        return DFGET
    return "dfly"


def _prepare_streams() -> None:
    """Whoever starts us by `>&-` gave no stream at all, and Python says None: what we open next
    would get its number. Writing to our stand-in for stdout fails (it can only be read), as it
    must: what was asked for gets lost. Nobody can be told that stderr is missing."""
    if sys.stdin is None:
        sys.stdin = open(os.open(os.devnull, os.O_RDONLY), encoding="utf-8")
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    if hasattr(sys.stdout, "reconfigure"):  # a name that the locale can't say is escaped, as Python
        sys.stdout.reconfigure(errors="backslashreplace")  # does on stderr, and ends no command


def _drop_output() -> None:
    """Python flushes stdout once more at its end, and would complain about the same again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def dispatch(argv: List[str]) -> int:
    """Run the command that `argv` begins with."""
    if not argv:
        complain(overview().rstrip("\n"))
        return UsageError.exit_code
    name, rest = argv[0], argv[1:]
    if name in ("--version", "-V"):
        print(f"dfly {__version__}")
        return 0
    if name in ("--help", "-h") or (name == "help" and not rest):
        print(overview(), end="")
        return 0
    if name == "help":
        name, rest = rest[0], ["--help"]
    if name.startswith("-"):
        raise UsageError(f"no option {name}", "see dfly --help")
    if name in COMMANDS and rest[:1] in (["--version"], ["-V"]):   # asked of a `wget`
        return dispatch(rest)
    with Loading():
        module, parser = parser_for(name)
        try:
            args = parser.parse(rest)
        except SystemExit as done:  # argparse ends so after --help, and only then
            return int(done.code or 0)
    try:
        return module.run(args)
    except UsageError as error:
        raise UsageError(error.what, error.hint or f"see dfly help {name}") from None


def overview() -> str:
    """What `dfly --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: dfly COMMAND [OPTION]...", "",
                      "Spreads big files over many hosts: each byte leaves the source once.", "",
                      *lines, "", "dfly help COMMAND tells the options of each.", ""])


def parser_for(name: str) -> Tuple[CommandModule, CommandParser]:
    """The module of command `name` and its parser, filled."""
    if name not in COMMANDS:
        import difflib
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        raise UsageError(f"no command {name!r}",
                         f"did you mean {near[0]!r}?" if near else "see dfly --help")
    from dfly.cli.parser import CommandParser
    module: Any = importlib.import_module(COMMANDS[name].module)
    summary = (module.__doc__ or "").strip().split("\n\n")[0]
    parser = CommandParser(prog=f"dfly {name}", description=summary)
    module.add_arguments(parser)
    return module, parser

