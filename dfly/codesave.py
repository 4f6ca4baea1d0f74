"""Keeping compiled code (codecache.py): the folder for it, and writing a module's code into it.

Apart, because this is needed once for each build and user, and codecache.py at every start.
"""
from __future__ import annotations

import marshal
import os
import zlib
from types import CodeType

FOLDERS_MAX = 12  # newest kept: a few Pythons times a few builds, some hundred KB each


def make(path: str, name: str) -> None:
    """Make path/name, unless what it would lie in is another user's: as root by sudo, HOME is
    still the user's, and a folder of root's there would only be in that user's way. OSError."""
    above = path
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    if os.stat(above).st_uid != os.geteuid():
        raise PermissionError(above)
    os.makedirs(path, mode=0o700, exist_ok=True)
    os.makedirs(os.path.join(path, name), mode=0o700, exist_ok=True)
    _prune(path)


def save(folder: int, name: str, code: CodeType) -> None:
    """Write the code of module `name` into the folder of that descriptor, if that can be."""
    data = marshal.dumps(code)
    temporary = f".{name}.{os.getpid()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    except OSError:
        return  # no more space, folder gone: the next start compiles again
    try:
        with open(fd, "wb") as file:
            file.write(zlib.crc32(data).to_bytes(4, "big") + data)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        _unlink(folder, temporary)


def _unlink(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        return  # the folder was pruned meanwhile


def _prune(path: str) -> None:
    """Remove the folders that were written to longest ago, beyond FOLDERS_MAX."""
    folders = [os.path.join(path, name) for name in os.listdir(path)]
    for folder in sorted(folders, key=lambda folder: -os.lstat(folder).st_mtime)[FOLDERS_MAX:]:
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)
