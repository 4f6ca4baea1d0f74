"""Where a download is put: file names from URLs, folders, names that are taken.

A URL's last part becomes a file name, never a path: no separators, no dots alone, no control
characters, bounded length. Content goes into a temporary name first, so that the final name is
either absent or whole.
"""
from __future__ import annotations

import errno
import os
from contextlib import contextmanager

from dfly.cli.deliver import deliver
from dfly.errors import DflyError, FileError, NoSpace
from dfly.names import is_plain_url

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Iterator, Optional

NAME_BYTES_MAX = 240  # of the 255 that file systems take: leaves room for '.1234' and the like
INDEX = "index.html"  # wget's name for a URL that ends in a slash
NUMBERS_MAX = 10_000


def name_from_url(url: str) -> str:
    """The file name that wget would give, made safe."""
    if is_plain_url(url):
        name = url.partition("://")[2].partition("/")[2].rpartition("/")[2]
        return _shortened(name if name.strip(".") else INDEX)
    from urllib.parse import unquote, urlsplit
    parts = urlsplit(url)
    last = parts.path.rpartition("/")[2] or INDEX
    if parts.query:
        last += "?" + parts.query
    name = "".join(c if c.isprintable() and c not in "/\\" and _can_be_named(c) else "_"
                   for c in unquote(last, errors="replace"))
    if name.strip(". ") == "":
        name = INDEX
    return _shortened(name)


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


class Target:
    """The place of one file: `explicit` (-O) is replaced, another name gives way to `.1`."""

    def __init__(self, folder: str, name: str, explicit: bool) -> None:
        self.folder = folder or "."
        self.name = name
        self.explicit = explicit

    @property
    def path(self) -> str:
        return os.path.normpath(os.path.join(self.folder, self.name))

    def check(self) -> None:
        """FileError now, if the file could not be put there at the end."""
        try:
            if not os.path.isabs(self.folder):
                os.getcwd()  # fails where the current folder has been removed
            os.makedirs(self.folder, exist_ok=True)
        except FileExistsError:
            raise FileError(f"{self.folder} is no folder", "choose another place") from None
        except OSError as error:
            raise FileError(f"can't make folder {self.folder}: {error.strerror}",
                            "choose another place") from None
        final = os.path.realpath(self.path) if self.explicit else self.path
        if self.explicit and os.path.isdir(final):
            raise FileError(f"{self.path} is a folder", "name a file by -O, or a folder by -P")
        if self.explicit and os.path.exists(final) and not os.path.isfile(final):
            return  # /dev/null, a pipe: written to, not replaced
        if not os.access(os.path.dirname(final) or ".", os.W_OK | os.X_OK):
            raise FileError(f"folder {self.folder} isn't writable", "choose another one by -P")

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

    def put(self, source_path: Optional[str], source_fd: int) -> str:
        """Make the file of what `source_fd` holds (linked or copied); its final name."""
        size = os.fstat(source_fd).st_size
        if self.explicit:
            deliver(source_path, source_fd, size, self.path)
            return self.path
        with self.temporary() as temporary:
            deliver(source_path, source_fd, size, temporary)
            try:
                return self._settle_unique(temporary)
            except OSError as error:
                raise write_error(self.path, error) from None

    def _settle_unique(self, temporary: str) -> str:
        """link() fails where a name is taken, so two downloads never overwrite each other."""
        for number in range(NUMBERS_MAX):
            path = f"{self.path}.{number}" if number else self.path
            try:
                os.link(temporary, path)
                return path
            except FileExistsError:
                continue
            except OSError:
                if os.path.lexists(path):
                    continue
                os.replace(temporary, path)  # a file system without hard links
                return path
        raise FileError(f"{self.path}.1 to .{NUMBERS_MAX - 1} exist all", "clean up, or use -O")


def write_error(path: str, error: OSError) -> DflyError:
    """The error to raise when writing to `path` failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{path}: {error.strerror}", "make room, then repeat: what came is kept")
    return FileError(f"{path}: {error.strerror}")


def target_for(url: str, output: Optional[str], folder: Optional[str]) -> Target:
    """The place for `url` under -O `output` and -P `folder`. Like wget: -P doesn't move -O."""
    if output is not None:
        return Target(os.path.dirname(output), os.path.basename(output), explicit=True)
    return Target(folder or ".", name_from_url(url), explicit=False)
