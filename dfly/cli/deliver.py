"""From the store to the place where the user wants the file: complete, or not at all.

The bytes appear under a temporary name beside the target and are renamed over it, so whoever
looks sees the old file or the new one. Cheapest way first: a hard link costs nothing, a reflink
nothing yet, copy_file_range stays inside the kernel. A target that isn't a file (/dev/null, a
FIFO) is written to, never replaced. Blocks: call it off an event loop.
"""
from __future__ import annotations

import errno
import fcntl
import os
import stat
from _thread import allocate_lock  # threading's own costs each start 1 ms

from dfly.errors import FileError, NoSpace
from dfly.units import MIB, format_size

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import NoReturn, Optional, Set

COPY_SIZE = 8 * MIB  # bytes per copy_file_range: an interrupt is noticed soon
READ_SIZE = MIB      # bytes per read where the kernel can't copy

_FICLONE = 0x40049409  # ioctl of linux/fs.h: share the other file's blocks until one is written
_CANT = (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ENOTTY,
         errno.EBADF, errno.ETXTBSY)


def deliver(source_path: Optional[str], source_fd: int, size: int, target: str) -> str:
    """Make `target` a file of the first `size` bytes of the source; "link", "reflink" or "copy",
    as it was done. `source_path` names the same file as `source_fd`, or is None where it has no
    name. FileError, NoSpace; then the target is as it was."""
    target = os.path.realpath(target)  # a symlink stays, the file it names is replaced
    try:
        kind: Optional[int] = os.stat(target).st_mode
    except FileNotFoundError:
        kind = None
    except OSError as error:
        _raise(error, target, size)
    if kind is not None and stat.S_ISDIR(kind):
        raise FileError(f"can't write {target}: it's a folder", "name a file in it")
    try:
        if kind is not None and not stat.S_ISREG(kind):
            return _pour(source_fd, size, target)
        return _replace(source_path, source_fd, size, target)
    except OSError as error:
        _raise(error, target, size)


_making: Set[str] = set()   # names of files that aren't in their places yet,
_turn = allocate_lock()     # and for a change of that
_stopped = False


def make(name: str) -> int:
    """A new file under a temporary name, open to be written and read."""
    with _turn:
        if _stopped:
            raise FileError("the copy was interrupted", "the download is kept")
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        _making.add(name)
        return fd


def unmake(name: str) -> None:
    """Its name goes, if it is still there: after success it has its final one."""
    with _turn:
        _making.discard(name)
    try:
        os.unlink(name)
    except FileNotFoundError:
        pass  # as it should be


def stop_copies() -> None:
    """This program is about to end: what other threads are still writing is left to nobody."""
    global _stopped
    with _turn:
        _stopped = True
        for name in _making:
            try:
                os.unlink(name)
            except FileNotFoundError:
                pass   # it has its final name


def append(source_fd: int, fd: int, target: str) -> None:
    """All of the source at the end of `fd`, which will be `target`. FileError, NoSpace."""
    size, before = os.fstat(source_fd).st_size, os.lseek(fd, 0, os.SEEK_END)
    try:
        _copy_by_hand(source_fd, fd, 0, size)
    except OSError as error:
        os.ftruncate(fd, before)
        _raise(error, target, size)


def _pour(source_fd: int, size: int, target: str) -> str:
    """Write into what stands there already: a device, a FIFO."""
    fd = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _copy_by_hand(source_fd, fd, 0, size)
    finally:
        os.close(fd)
    return "copy"


def _replace(source_path: Optional[str], source_fd: int, size: int, target: str) -> str:
    name = os.path.join(os.path.dirname(target), f".dfly-{os.urandom(6).hex()}")
    fd = make(name)
    try:
        if source_path is not None and _may_link(source_fd, size, fd) and (
                _link(source_path, source_fd, name)):
            how = "link"
        elif _reflink(source_fd, fd, size):
            how = "reflink"
        else:
            _copy(source_fd, fd, size)
            how = "copy"
        if how != "link":
            times = os.fstat(source_fd)
            os.utime(fd, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a link shows it
        os.replace(name, target)
    finally:
        os.close(fd)
        unmake(name)  # after success it's only there if both names were one file before
    return how


def _may_link(source_fd: int, size: int, fd: int) -> bool:
    """A link is the very file: its owner, mode and length must be what a copy's would be. The
    mode that the new file got tells the umask (and default ACLs) without asking for them."""
    source, made = os.fstat(source_fd), os.fstat(fd)
    return (source.st_dev == made.st_dev and source.st_uid == made.st_uid
            and source.st_gid == made.st_gid and source.st_mode == made.st_mode
            and source.st_size == size)


def _link(source_path: str, source_fd: int, name: str) -> bool:
    """Put a hard link in place of the temporary file."""
    second = name + "l"
    try:
        os.link(source_path, second)
    except OSError as error:
        if error.errno in (*_CANT, errno.EMLINK, errno.ENOENT, errno.EACCES):
            return False
        raise
    try:
        source, linked = os.fstat(source_fd), os.stat(second)
        if (source.st_ino, source.st_dev) != (linked.st_ino, linked.st_dev):
            return False  # the name is another version's by now
        os.replace(second, name)
    finally:
        _unlink(second)
    return True


def _reflink(source_fd: int, fd: int, size: int) -> bool:
    if os.fstat(source_fd).st_size != size:
        return False
    try:
        fcntl.ioctl(fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno in _CANT:
            return False
        raise
    return True


def _copy(source_fd: int, fd: int, size: int) -> None:
    position = 0
    if hasattr(os, "copy_file_range"):
        try:
            while position < size:
                count = os.copy_file_range(source_fd, fd, min(COPY_SIZE, size - position),
                                           position, position)
                if not count:
                    break  # some file systems say 0 instead of an error: go on by hand
                position += count
        except OSError as error:
            if error.errno not in _CANT:
                raise
    os.lseek(fd, position, os.SEEK_SET)
    _copy_by_hand(source_fd, fd, position, size)


def _copy_by_hand(source_fd: int, fd: int, position: int, size: int) -> None:
    while position < size:
        view = memoryview(os.pread(source_fd, min(READ_SIZE, size - position), position))
        if not view:
            raise FileError(f"the stored file has only {position} of its {size} bytes",
                            "it was changed by someone else; download it again")
        position += len(view)
        while view:
            view = view[os.write(fd, view):]


def _unlink(name: str) -> None:
    try:
        os.unlink(name)
    except FileNotFoundError:
        pass  # it has its final name by now


def _raise(error: OSError, target: str, size: int) -> NoReturn:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise NoSpace(f"no space for {format_size(size)} at {target}: {error.strerror}",
                      "free some space or choose another place; the download is kept") from error
    raise FileError(f"can't write {target}: {error.strerror}",
                    "choose another place with -O or -P; the download is kept") from error
