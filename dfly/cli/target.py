"""Where a download is put: file names from URLs, folders, names that are taken.

What a URL or a server tells becomes names of files and folders, each for itself: no separators, no
dots alone, no control characters, bounded length. Never a path. Content goes into a temporary name
first, so that the final name is either absent or whole; what stood there before is numbered away
from, left alone, replaced, or kept as a backup, as wget's options say.
"""
from __future__ import annotations

import errno
import os
from contextlib import contextmanager

from dfly.cli.deliver import deliver
from dfly.errors import DflyError, FileError, NoSpace, UsageError, printable
from dfly.names import DEFAULT_PORTS, is_plain_url
from dfly.units import parse_http_date

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Iterator, List, Optional, Sequence

NAME_BYTES_MAX = 240  # of the 255 that file systems take: leaves room for '.1234' and the like
INDEX = "index.html"  # wget's name for a URL that ends in a slash
NUMBERS_MAX = 10_000
FOLDERS_MAX = 100     # that one URL may ask for
BACKUPS_MAX = 1_000

NUMBER, SKIP, REPLACE, ROTATE = "number", "skip", "replace", "rotate"  # a name that is taken

# Modes of --restrict-file-names. Control characters never get into a name, so `nocontrol`, which
# lets them through in wget, is taken for its other meaning: leave UTF-8 as it is.
MODES = ("unix", "windows", "nocontrol", "ascii", "lowercase", "uppercase")
_NOT_ON_WINDOWS = frozenset('|:?"*<>')


def parse_modes(text: str) -> Sequence[str]:
    """The comma list of --restrict-file-names."""
    modes = [mode.strip().lower() for mode in text.split(",") if mode.strip()]
    for mode in modes:
        if mode not in MODES:
            raise UsageError(f"no way to restrict file names: {printable(mode)!r}",
                             "they are " + ", ".join(MODES))
    for one, other in (("unix", "windows"), ("lowercase", "uppercase")):
        if one in modes and other in modes:
            raise UsageError(f"file names can't be restricted to {one} and {other} at once")
    return modes


class Rules:
    """What the options say about places, the same for all URLs of a command."""

    def __init__(self, *, default_page: str = INDEX, modes: Sequence[str] = (),
                 folders: bool = False, host_folder: bool = True, protocol_folder: bool = False,
                 cut: int = 0, no_clobber: bool = False, replace: bool = False, backups: int = 0,
                 server_time: bool = True) -> None:
        """`folders`: -x. `cut`: of the path's folders, the first so many are left out. `replace`:
        -N or -c, which write over the file that is there. `server_time` False: a file gets the
        time at which it was made."""
        if not 0 <= backups <= BACKUPS_MAX:
            raise UsageError(f"{backups} backups", f"the most are {BACKUPS_MAX}")
        self.modes = modes
        self.default_page = self.safe(default_page) or INDEX
        self.folders = folders
        self.host_folder = host_folder
        self.protocol_folder = protocol_folder
        self.cut = cut
        self.backups = backups
        self.server_time = server_time
        self.taken = (SKIP if no_clobber else ROTATE if backups
                      else REPLACE if replace or folders else NUMBER)

    def safe(self, name: str) -> str:
        """`name` as one that a file or folder may have; "" where nothing of it can be kept."""
        name = "".join(c if c.isprintable() and c not in "/\\" and _can_be_named(c) else "_"
                       for c in name)
        if name.strip(". ") == "":
            return ""
        return _shortened(self._restricted(name))

    def _restricted(self, name: str) -> str:
        if "windows" in self.modes:
            name = "".join(f"%{ord(c):02X}" if c in _NOT_ON_WINDOWS else c for c in name)
        if "ascii" in self.modes:
            name = "".join(c if c.isascii() else "".join(f"%{byte:02X}" for byte in c.encode())
                           for c in name)
        if "lowercase" in self.modes or "uppercase" in self.modes:
            raw = name.encode()   # of bytes only ASCII letters change, as in wget
            name = (raw.lower() if "lowercase" in self.modes else raw.upper()).decode()
        return name

    def name(self, url: str) -> str:
        """The file name that wget would give."""
        if is_plain_url(url) and "%" not in url and not self.modes:
            name = url.partition("://")[2].partition("/")[2].rpartition("/")[2]
            return _shortened(name) if name.strip(".") else self.default_page
        from urllib.parse import unquote, urlsplit
        parts = urlsplit(url)
        last = unquote(parts.path.rpartition("/")[2], errors="replace") or self.default_page
        if parts.query:
            last += "@" if "windows" in self.modes else "?"
            last += unquote(parts.query, errors="replace").replace("/", "%2F")
        return self.safe(last) or self.default_page

    def folders_of(self, url: str) -> List[str]:
        """The folders that -x makes for it, outermost first."""
        if not self.folders:
            return []
        from urllib.parse import unquote

        from dfly.names import split_any
        parts = split_any(url)
        path: List[str] = []
        for part in map(unquote, parts.path.split("/")[:-1]):
            if part == "..":
                path = path[:-1]   # it means the folder above, and above the root is the root
            elif part not in ("", "."):
                path.append(self.safe(part) or "_")
        if len(path) > FOLDERS_MAX:
            raise UsageError(f"a URL with {len(path)} folders", f"-x makes at most {FOLDERS_MAX}")
        host = self.safe(parts.hostname or "") or "_"
        if parts.port not in (None, DEFAULT_PORTS.get(parts.scheme)):
            host += f"{'+' if 'windows' in self.modes else ':'}{parts.port}"
        return [*([parts.scheme] if self.protocol_folder else ()),
                *([host] if self.host_folder else ()), *path[self.cut:]]


def name_from_url(url: str) -> str:
    """The file name that wget would give without options, made safe."""
    return _USUAL.name(url)


def _can_be_named(character: str) -> bool:
    """No file can be given a name that the locale's encoding lacks (ASCII's, at worst)."""
    try:
        os.fsencode(character)
    except UnicodeEncodeError:
        return False
    return True


def _shortened(name: str) -> str:
    """At most NAME_BYTES_MAX bytes of UTF-8; a short suffix survives."""
    if len(name.encode()) <= NAME_BYTES_MAX:
        return name
    stem, suffix = os.path.splitext(name)
    if len(suffix.encode()) > 20:
        stem, suffix = name, ""
    kept = stem.encode()[:NAME_BYTES_MAX - len(suffix.encode())].decode(errors="ignore")
    return kept + suffix


_USUAL = Rules()


class Target:
    """The place of one file. `explicit` (-O) is replaced, and its folder isn't made; what happens
    to another that is taken is up to the rules."""

    def __init__(self, folder: str, name: str, explicit: bool, rules: Rules = _USUAL) -> None:
        self.folder = folder or "."
        self.name = name
        self.explicit = explicit
        self.rules = rules

    @property
    def path(self) -> str:
        return os.path.normpath(os.path.join(self.folder, self.name))

    @property
    def taken(self) -> str:
        """What to do if the name is taken: SKIP, REPLACE, ROTATE or NUMBER."""
        if self.explicit and self.rules.taken != SKIP:
            return REPLACE
        return self.rules.taken

    @property
    def skipped(self) -> bool:
        """True if there is such a file, and it is to be left alone (-nc)."""
        return self.taken == SKIP and os.path.exists(self.path) and not os.path.isdir(self.path)

    def named(self, name: str) -> Target:
        """This place under a name that a server told; itself where the user gave the name, or
        nothing of the told one can be kept. Names that hide a file don't."""
        safe = "" if self.explicit else self.rules.safe(name.lstrip(". "))
        return Target(self.folder, safe, False, self.rules) if safe else self

    def check(self) -> None:
        """FileError now, if the file could not be put there at the end."""
        self._check_folder()
        in_place = self.taken != NUMBER
        final = os.path.realpath(self.path) if in_place else self.path
        if self.taken == SKIP and os.path.islink(self.path) and not os.path.exists(final):
            raise FileError(f"{self.path} is a link to nowhere",
                            "--no-clobber leaves it alone: remove it, or choose another place")
        if in_place and os.path.isdir(final):
            raise FileError(f"{self.path} is a folder", "name a file by -O, or a folder by -P")
        if in_place and os.path.exists(final) and not os.path.isfile(final):
            return  # /dev/null, a pipe: written to, not replaced
        if not os.access(os.path.dirname(final) or ".", os.W_OK | os.X_OK):
            raise FileError(f"folder {self.folder} isn't writable", "choose another one by -P")

    def _check_folder(self) -> None:
        """Like wget, the folder of -O must be there; others are made."""
        try:
            if not os.path.isabs(self.folder):
                os.getcwd()  # fails where the current folder has been removed
            if self.explicit:
                os.stat(os.path.join(self.folder, ""))
            else:
                os.makedirs(self.folder, exist_ok=True)
        except FileExistsError:
            raise FileError(f"{self.folder} is no folder", "choose another place") from None
        except OSError as error:
            if self.explicit:
                raise FileError(f"can't write {self.path}: {error.strerror}",
                                "make the folder first, or save into a new one by -P") from None
            raise FileError(f"can't make folder {self.folder}: {error.strerror}",
                            "choose another place") from None

    @contextmanager
    def temporary(self) -> Iterator[str]:
        """A free name beside the target; what is left there at the end is removed."""
        path = os.path.join(self.folder, f".dfly-{os.getpid()}-{os.urandom(4).hex()}")
        try:
            yield path
        finally:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass  # it got its final name

    def take(self, path: str, fd: int, last_modified: str = "") -> str:
        """As `put`, for a file that nobody else knows: it is given the source's time here."""
        stamp = parse_http_date(last_modified) if self.rules.server_time else None
        if stamp is not None:
            os.utime(fd, (stamp, stamp))
        return self._put(path, fd)

    def put(self, source_path: Optional[str], source_fd: int) -> str:
        """Make the file of what `source_fd` holds (linked or copied); its final name. The time
        comes with it. Where another is wanted no link will do: the file would change its time in
        the store, too, and what was changed is thrown out there."""
        if self.rules.server_time:
            return self._put(source_path, source_fd)
        path = self._put(None, source_fd)
        if os.path.isfile(path):
            os.utime(path)
        return path

    def _put(self, source_path: Optional[str], source_fd: int) -> str:
        size = os.fstat(source_fd).st_size
        rotates = self.taken == ROTATE and (os.path.isfile(self.path) or os.path.islink(self.path))
        if self.taken in (REPLACE, ROTATE) and not rotates:
            deliver(source_path, source_fd, size, self.path)
            return self.path
        with self.temporary() as temporary:
            deliver(source_path, source_fd, size, temporary)
            try:
                return self._settle(temporary)
            except OSError as error:
                raise write_error(self.path, error) from None

    def _settle(self, temporary: str) -> str:
        if self.taken == ROTATE:
            self._rotate()
            os.replace(temporary, self.path)
            return self.path
        if self.taken == SKIP:
            if not _move_to_free(temporary, self.path):
                raise FileError(f"{self.path} appeared while it was downloaded",
                                "it was left alone, because of --no-clobber")
            return self.path
        for number in range(NUMBERS_MAX):
            path = f"{self.path}.{number}" if number else self.path
            if _move_to_free(temporary, path):
                return path
        raise FileError(f"{self.path}.1 to .{NUMBERS_MAX - 1} exist all", "clean up, or use -O")

    def _rotate(self) -> None:
        """FILE becomes FILE.1, that FILE.2, and so on; the last falls off. At no moment there is
        no FILE."""
        for number in range(self.rules.backups, 1, -1):
            try:
                os.rename(f"{self.path}.{number - 1}", f"{self.path}.{number}")
            except FileNotFoundError:
                continue  # a gap closes by itself, at the next time
        with self.temporary() as second:
            try:
                os.link(self.path, second, follow_symlinks=False)
                os.replace(second, f"{self.path}.1")
            except OSError:   # a file system without hard links
                os.rename(self.path, f"{self.path}.1")


def _move_to_free(temporary: str, path: str) -> bool:
    """False if the name is taken: link() fails then, so two downloads never overwrite each
    other."""
    try:
        os.link(temporary, path)
        return True
    except OSError:
        if os.path.lexists(path):
            return False
        os.replace(temporary, path)  # a file system without hard links
        return True


def write_error(path: str, error: OSError) -> DflyError:
    """The error to raise when writing to `path` failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{path}: {error.strerror}", "make room, then repeat: what came is kept")
    return FileError(f"{path}: {error.strerror}")


def target_for(url: str, output: Optional[str], folder: Optional[str],
               rules: Rules = _USUAL) -> Target:
    """The place for `url` under -O `output` and -P `folder`. Like wget: -P doesn't move -O."""
    if output is not None:
        return Target(os.path.dirname(output), os.path.basename(output), True, rules)
    return Target(os.path.join(folder or ".", *rules.folders_of(url)), rules.name(url), False,
                  rules)


# ----------------------------------------------------------------------------- -N
class Freshness:
    """Whether to fetch (-N), and why, in wget's words ("" = nothing to say)."""

    def __init__(self, fetch: bool, why: str) -> None:
        self.fetch = fetch
        self.why = why


def freshness(path: str, local: Optional[os.stat_result], length: Optional[int],
              last_modified: str) -> Freshness:
    """Compare the file that is there (None = none is) with what the source tells of its own; a
    length None = it doesn't tell. Without a date that can be read there is nothing to go by."""
    if local is None:
        return Freshness(True, "")
    if not last_modified:
        return Freshness(True, "Last-modified header missing -- time-stamps turned off.")
    told_at = parse_http_date(last_modified)
    if told_at is None:
        return Freshness(True, "Last-modified header invalid -- time-stamp ignored.")
    if told_at > local.st_mtime:
        return Freshness(True, "Remote file is newer, retrieving.")
    if length is not None and length != local.st_size:
        return Freshness(True, f"The sizes do not match (local {local.st_size}) -- retrieving.")
    return Freshness(False, f"Server file no newer than local file {printable(path)!r}"
                            " -- not retrieving.")
