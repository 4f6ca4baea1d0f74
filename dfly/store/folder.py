"""The few things that the disk store does to its folder: owning it, making and removing files.

OS errors become dfly's here, with the path and what to do. Nothing here knows of tasks.
"""
from __future__ import annotations

import errno
import fcntl
import os

from dfly.clock import Clock
from dfly.errors import FileError, NoSpace, StoreBusy
from dfly.units import format_size

HOST_ID_SIZE = 16

RESERVE_S = 0.01        # seconds that reserving room may take before the first byte
RESERVE_SIZE = 8 << 20  # bytes reserved first; then always as much again

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_NO_FALLOCATE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def own_folder(root: str) -> int:
    """Make `root` if need be and lock it for this process; the descriptor that keeps the lock."""
    path = os.path.join(root, "lock")
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FileError(f"can't use the store {root}: {error.strerror}",
                        "give another folder with --store") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        owner = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise StoreBusy(f"the store {root} belongs to process {owner or '(starting)'}",
                        "use that daemon, stop it, or give another folder with --store") from None
    except OSError as error:
        os.close(fd)
        raise FileError(f"can't lock the store {root}: {error.strerror}",
                        "give a folder on a local disk with --store") from error
    return fd


def host_id(path: str) -> bytes:
    """The host's 16 random bytes, made at the first call."""
    try:
        with open(path, encoding="ascii") as file:
            value = bytes.fromhex(file.read().strip())
        if len(value) == HOST_ID_SIZE:
            return value
    except (FileNotFoundError, ValueError):
        pass  # none yet, or damaged: then this host is a new one
    except OSError as error:
        raise FileError(f"can't read {path}: {error.strerror}") from error
    value = os.urandom(HOST_ID_SIZE)
    try:
        with open(path + ".new", "w", encoding="ascii") as file:
            file.write(value.hex() + "\n")
        os.replace(path + ".new", path)
    except OSError as error:
        raise FileError(f"can't write {path}: {error.strerror}") from error
    return value


def this_boot() -> str:
    """What tells this boot of the host from every other; "" where the kernel doesn't say."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""  # then every piece not synced is doubted at each start: slower, not wrong


def make_file(path: str, size: int) -> int:
    """A new file of `size` bytes, its room reserved as far as that is quick. Whoever has an older
    one open keeps that."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass  # as it should be
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _space_or_file_error(path, size, error) from error
    try:
        os.ftruncate(fd, size)
        _reserve(fd, size)
    except OSError as error:
        if error.errno in _NO_FALLOCATE:
            return fd  # this file system can't promise room; a full disk shows while writing
        os.close(fd)
        told = _space_or_file_error(path, size, error)
        remove_folder(os.path.dirname(path))
        raise told from error
    return fd


def _reserve(fd: int, size: int) -> None:
    """Most file systems note that room is taken and are done. In memory (or where libc must write
    to every block) each byte costs time: there, what doesn't come quickly is left to be found while
    writing, and the store counts it as promised until then."""
    clock = Clock()
    until = clock.now() + RESERVE_S
    done = 0
    while done < size and clock.now() < until:
        step = min(max(done, RESERVE_SIZE), size - done)
        os.posix_fallocate(fd, done, step)
        done += step


def _space_or_file_error(path: str, size: int, error: OSError) -> Exception:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return FileError(f"can't create {path}: {error.strerror}")
    return NoSpace(f"no room for {format_size(size)} at {path}: {_free(path)} free",
                   "free disk space or give another folder with --store")


def _free(path: str) -> str:
    try:
        disk = os.statvfs(os.path.dirname(path))
    except OSError:
        return "an unknown amount"
    return format_size(disk.f_bavail * disk.f_frsize)


def remove_folder(top: str) -> None:
    """Delete a folder and all in it; links in it aren't followed."""
    try:
        for folder, folders, files in os.walk(top, topdown=False):
            for name in files:
                os.unlink(os.path.join(folder, name))
            for name in folders:
                path = os.path.join(folder, name)
                (os.unlink if os.path.islink(path) else os.rmdir)(path)
        os.rmdir(top)
    except FileNotFoundError:
        pass  # someone else deleted it: as wanted
    except OSError as error:
        raise FileError(f"can't delete {error.filename}: {error.strerror}") from error
