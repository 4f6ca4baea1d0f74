"""Users and passwords: from ~/.netrc, a file, another program, or the terminal.

None of these put a secret where others see it, on the command line. No message repeats what might
be one. What is asked for is told to nobody but the source.
"""
from __future__ import annotations

import os

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
    nothing. UsageError for one that can't be understood. `warn` is told if others may read it."""
    path = path or os.environ.get("NETRC") or os.path.join(os.path.expanduser("~"), ".netrc")
    if not os.path.exists(path):
        return None
    from dfly.names import split_url
    host = split_url(url).hostname   # in lower case
    text = read_input(path, NETRC_BYTES_MAX).decode("utf-8-sig", errors="surrogateescape")
    entries = [entry for entry in _entries(text, path)
               if entry.password is not None and user in (None, entry.user)]
    for entry in (*(entry for entry in entries if entry.host == host),
                  *(entry for entry in entries if entry.host == "")):
        if warn is not None:
            _look_at_owner(path, warn)
        assert entry.password is not None
        return entry.user, entry.password
    return None


class _Entry:
    def __init__(self, host: str) -> None:
        self.host = host   # "" = default
        self.user = ""
        self.password: Optional[str] = None


def _entries(text: str, path: str) -> List[_Entry]:
    entries: List[_Entry] = []
    words = _words(text)
    for number, word in words:
        if word in ("machine", "default"):
            host = _value(words, path, number) if word == "machine" else ""
            entries.append(_Entry(host.lower()))
        elif word in _VALUES and entries:
            value = _value(words, path, number)
            if word in ("login", "user"):
                entries[-1].user = value
            elif word != "account":
                entries[-1].password = value
        else:   # it isn't repeated here: it may be a part of a password
            raise UsageError(f"{path}:{number}: a word that has no place there",
                             "put a password with spaces in double quotes, or use --no-netrc")
    return entries


def _value(words: Iterator[Tuple[int, str]], path: str, number: int) -> str:
    found = next(words, None)
    if found is None:
        raise UsageError(f"{path}:{number}: the last word lacks its value",
                         "mend the file, or use --no-netrc")
    return found[1]


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
    except OSError as error:
        raise FileError(f"can't read {path}: {error.strerror}") from None
    if facts.st_mode & 0o077:
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
