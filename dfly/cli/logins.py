"""Users and passwords: from ~/.netrc, a file, another program, or the terminal.

None of these put a secret where others see it, on the command line. No message repeats what might
be one. What is asked for is told to nobody but the source.

A netrc is there for all of a user's programs, and nobody named it: what is wrong with it is told
and costs no download, as with wget and curl. Its `default` entry is for any host, as netrc(5) and
curl have it, a mirror or one that a Metalink names among them: who writes a name and password that
are for everybody has none to lose. It is told to whoever asks for one, and to nobody else.
"""
from __future__ import annotations

import os
import stat

from dfly.cli.inputs import read_input, shown
from dfly.errors import FileError, UsageError, printable
from dfly.units import MIB

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Callable, Iterator, List, Optional, Tuple

    Login = Tuple[str, str]

NETRC_BYTES_MAX = MIB
PASSWORD_BYTES_MAX = 64 * 1024
_VALUES = ("login", "user", "password", "passwd", "account")


# ----------------------------------------------------------------------------- ~/.netrc
def netrc_login(url: str, path: Optional[str] = None, user: Optional[str] = None,
                warn: Optional[Callable[[str], None]] = None) -> Optional[Login]:
    """(user, password) for the URL's host, of `user` if one is given: of the first entry that
    fits, else of `default`. The file is `path`, $NETRC or ~/.netrc; one that isn't there says
    nothing. `warn` is told what is wrong with it, and if others may read it."""
    path = path or os.environ.get("NETRC") or os.path.join(os.path.expanduser("~"), ".netrc")
    warn = warn or _say_nothing
    if not os.path.exists(path):
        return None
    from dfly.names import split_url
    host = split_url(url).hostname   # in lower case
    try:
        text = read_input(path, NETRC_BYTES_MAX, waits=False).decode(
            "utf-8-sig", errors="surrogateescape")
    except (FileError, UsageError) as error:
        warn(f"{error.what}: going on without it")
        return None
    entries = [entry for entry in _entries(text, path, warn)
               if entry.password is not None and user in (None, entry.user)]
    for entry in (*(entry for entry in entries if entry.host == host),
                  *(entry for entry in entries if entry.host == "")):
        _look_at_owner(path, warn)
        assert entry.password is not None
        return entry.user, entry.password
    return None


def _say_nothing(what: str) -> None:
    return None


class _Entry:
    def __init__(self, host: str) -> None:
        self.host = host   # "" = default
        self.user = ""
        self.password: Optional[str] = None

    def take(self, word: str, value: str) -> None:
        if word in ("login", "user"):
            self.user = value
        elif word != "account":
            self.password = value


def _entries(text: str, path: str, warn: Callable[[str], None]) -> List[_Entry]:
    """What is understood; `warn` is told where the first that isn't stands. That isn't repeated:
    it may be a part of a password."""
    entries: List[_Entry] = []
    wrong = ""
    words = _words(text)
    for number, word in words:
        if word in ("machine", "default"):
            host = next(words, (0, None))[1] if word == "machine" else ""
            if host is not None:
                entries.append(_Entry(host.lower()))
                continue
        elif word in _VALUES and entries:
            value = next(words, (0, None))[1]
            if value is not None:
                entries[-1].take(word, value)
                continue
        else:
            wrong = wrong or (f"{path}:{number}: a word that has no place there is passed over; "
                              "a password with spaces goes in double quotes")
            continue
        wrong = wrong or f"{path}:{number}: the last word lacks its value"
    if wrong:
        warn(wrong)
    return entries


def _words(text: str) -> Iterator[Tuple[int, str]]:
    """(line number, word); no comments, no macros (`macdef`, up to an empty line). A '#' begins a
    comment only in place of a keyword: passwords may begin with it."""
    in_macro, is_value = False, False
    for number, line in enumerate(text.split("\n"), 1):
        if in_macro:
            in_macro = line.strip() != ""
            continue
        position = 0
        while True:
            word, position = _word(line, position)
            if word is None or (word.startswith("#") and not is_value):
                break
            if word == "macdef" and not is_value:
                in_macro = True
                break
            is_value = not is_value and word in ("machine", *_VALUES)
            yield number, word


def _word(line: str, position: int) -> Tuple[Optional[str], int]:
    """The next word and where it ends; in double quotes spaces count, and a backslash takes what
    follows as it is."""
    while position < len(line) and line[position].isspace():
        position += 1
    if position >= len(line):
        return None, position
    quoted = line[position] == '"'
    position += quoted
    word = ""
    while position < len(line):
        char = line[position]
        if char == '"' if quoted else char.isspace():
            break
        if char == "\\" and position + 1 < len(line):
            position += 1
            char = line[position]
        word += char
        position += 1
    return word, position + quoted


def _look_at_owner(path: str, warn: Callable[[str], None]) -> None:
    try:
        facts = os.stat(path)
    except OSError:
        return   # it was taken away behind our back: nobody else reads it, either
    if stat.S_ISREG(facts.st_mode) and facts.st_mode & 0o077:
        warn(f"{path} can be read by others: chmod 600 {path}")
    if facts.st_uid not in (os.getuid(), 0):
        warn(f"{path} belongs to another user")


# ----------------------------------------------------------------------------- other ways
def password_from_file(path: str) -> str:
    """The first line of a file, '-' = standard input."""
    line = read_input(path, PASSWORD_BYTES_MAX).partition(b"\n")[0].rstrip(b"\r")
    if not line:
        raise UsageError(f"{shown(path)} has no password in its first line")
    return _decoded(line, shown(path))


def ask_password(user: str) -> str:
    """Ask on the terminal, whatever standard input is."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        raise UsageError("there's no terminal to ask for the password on",
                         "use --password-file or --use-askpass") from None
    from getpass import getpass
    try:
        password = getpass(f"Password for user {printable(user)!r}: ")
    except EOFError:
        password = ""
    if not password:
        raise UsageError("no password was given")
    return password


def ask_login(url: str, command: str = "", user: str = "") -> Login:
    """Ask by a program like ssh-askpass ("" = the one in $WGET_ASKPASS or $SSH_ASKPASS): for the
    user if none is known yet, and for the password."""
    from dfly.names import split_url
    command = command or os.environ.get("WGET_ASKPASS") or os.environ.get("SSH_ASKPASS") or ""
    if not command:
        raise UsageError("--use-askpass needs a command", "name it there, or in WGET_ASKPASS")
    parts = split_url(url)
    user = user or _asked(command, f"Username for '{parts.scheme}://{parts.hostname}': ")
    return user, _asked(command, f"Password for '{parts.scheme}://{user}@{parts.hostname}': ")


def _asked(command: str, prompt: str) -> str:
    from subprocess import PIPE, Popen
    try:
        with Popen([command, prompt], stdout=PIPE) as process:
            assert process.stdout is not None
            answer = process.stdout.read(PASSWORD_BYTES_MAX + 1)
            process.stdout.close()   # who says more than that is stopped
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"can't ask by {printable(command)}: {why}") from None
    line = answer.partition(b"\n")[0].rstrip(b"\r")
    if process.returncode or not line or len(line) > PASSWORD_BYTES_MAX:
        raise UsageError(f"{printable(command)} gave no answer (exit code {process.returncode})")
    return _decoded(line, command)


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise UsageError(f"the password from {printable(where)} isn't UTF-8") from None
