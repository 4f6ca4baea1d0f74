"""A file of this host becomes a task that others can fetch: `dfly share`.

The file is read twice. The first time tells its digest, which is its name, and the digests of its
pieces; the second time its pieces go into the store, each compared with what it was at first, so
that a file which is written to meanwhile is never shared half old, half new. It is a copy: what
the user does to his file later changes nothing that was promised to others. Then it is offered to
a manager, and that is asked whether it knows.

Reading is done in threads, some hundreds of MB a second. No socket, no rule of who may ask here.
"""
from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, AsyncGenerator, Dict, Iterator, List, Optional, Protocol, Set, Tuple

from dfly.access import Access
from dfly.clock import Clock
from dfly.digest import Digest
from dfly.errors import (
    DflyError,
    FileError,
    NetworkError,
    NoManager,
    ProtocolError,
    UsageError,
    printable,
)
from dfly.names import shared_url
from dfly.service.content import is_shared, shared_version
from dfly.service.download import TaskDownload
from dfly.service.managers import LINK_WAIT_S, Managers
from dfly.service.origins import CACHE, carried
from dfly.service.sources import looking
from dfly.store import PieceStore, TaskFile
from dfly.task import PIECE_SIZE_MAX, PIECES_MAX, Geometry, TaskSpec, piece_size_for
from dfly.units import MIB

READ_SIZE = MIB          # bytes read at once: stays in the processor's cache
PROGRESS_S = 0.4         # between two events of progress
TOLD_S = 15.0            # for a manager's word that it knows
LOOKS = 2                # the offer is sent at the latest while it answers the first
KNOWN_MAX = 1_000        # files whose digests are remembered
SETTLED_S = 2.0          # a file changed later than this may change again and show no other time

Event = Dict[str, Any]
Identity = Tuple[int, int, int, int, int]   # device, inode, size, times of change (ns)


class Host(Protocol):
    """What sharing needs of the daemon."""

    store: PieceStore
    managers: Managers
    clock: Clock

    def download_of(self, task_id: str) -> Optional[TaskDownload]: ...

    async def seed(self, spec: TaskSpec) -> Optional[TaskDownload]: ...

    def touch(self) -> None: ...


class Sharing:
    """The files that this daemon shares. `tasks`: while it has any, it isn't idle; the daemon
    takes out what left its store."""

    def __init__(self, host: Host) -> None:
        self.tasks: Set[str] = set()
        self._host = host
        self._turn = asyncio.Lock()   # one file is read at a time: disks and processors are few
        self._known: Dict[Identity, Digest] = {}   # the oldest first

    async def share(self, path: str, identity: object = None) -> AsyncGenerator[Event, None]:
        """Events of progress, then what was done. `identity`: [device, inode] that the caller
        sees under `path`. FileError, UsageError, NoSpace; NoManager if it is in the store but
        nobody was told. Who stops listening ends the reading."""
        if not os.path.isabs(path) or "\0" in path:
            raise UsageError(f"not an absolute path: {printable(path)!r}")
        reading = await asyncio.to_thread(Reading.begin, path, identity)
        work = asyncio.ensure_future(self._into_store(reading))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=PROGRESS_S)
                self._host.touch()
                yield {"event": "progress", "step": reading.step, "bytes": reading.done,
                       "length": reading.size}
            spec = work.result()
        finally:
            reading.cancelled = True
            await asyncio.wait({work})
            if not work.cancelled():
                work.exception()   # told above, or nobody listens any more
            reading.end()
        manager = await self._register(spec)
        yield {"event": "done", "task": spec.task_id, "digest": str(spec.digest),
               "url": spec.url, "length": reading.size, "manager": manager}

    # ------------------------------------------------------------------------ the store
    async def _into_store(self, reading: Reading) -> TaskSpec:
        """What the file is, once it is in the store and offered to whoever is a manager."""
        async with self._turn:
            digest = await self._digest_of(reading)
            spec = TaskSpec(shared_url(str(digest)), digest=digest)
            download = await self._host.seed(spec)
            if download is None:
                await self._keep(reading, spec)
                download = await self._host.seed(spec)
        if download is None:
            raise FileError(f"{reading.place}: its copy left the store at once",
                            "did someone remove it?")
        if self._host.managers.any_known:
            self.tasks.add(spec.task_id)
        return spec

    async def _digest_of(self, reading: Reading) -> Digest:
        known = self._known.get(reading.identity)
        if known is not None:
            spec = TaskSpec(shared_url(str(known)), digest=known)
            held = await asyncio.to_thread(self._host.store.find, spec.task_id)
            if held is not None and held.complete and is_shared(held, known):
                return known
        settled = self._host.clock.wall() - reading.changed_at > SETTLED_S
        digest = await asyncio.to_thread(reading.find_digest)
        if settled:
            self._known[reading.identity] = digest
            if len(self._known) > KNOWN_MAX:
                del self._known[next(iter(self._known))]
        return digest

    async def _keep(self, reading: Reading, spec: TaskSpec) -> None:
        """The content into the store; a download of it that goes on here is filled."""
        store = self._host.store
        download = self._host.download_of(spec.task_id)
        if download is not None and not (download.is_over or download.is_done):
            file = download.file
            if not is_shared(file, spec.digest) or reading.contradicts(file):
                raise FileError(f"{reading.place}: a download of the same content, or of what is "
                                "said to be, goes on here", "wait for that dfly get, or stop it")
        else:
            file = await self._opened(reading, spec)
            if reading.contradicts(file):   # a part, from someone who told something else
                await asyncio.to_thread(store.remove, spec.task_id)
                file = await self._opened(reading, spec)
        before = file.have
        file.hold()
        try:
            await asyncio.to_thread(reading.copy_into, file)
            await asyncio.to_thread(store.flush)   # a promise: it outlives this daemon
        except DflyError:
            if not before and self._host.download_of(spec.task_id) is None:
                await asyncio.to_thread(store.remove, spec.task_id)
            raise
        finally:
            file.release()

    async def _opened(self, reading: Reading, spec: TaskSpec) -> TaskFile:
        assert spec.digest is not None
        version = shared_version(spec.digest, reading.size).token
        return await asyncio.to_thread(partial(
            self._host.store.open, spec.task_id, version, reading.geometry, url=spec.url,
            digest=str(spec.digest)))

    # ----------------------------------------------------------------------- the manager
    async def _register(self, spec: TaskSpec) -> str:
        """The name of the manager that knows of it now. (The download offers it by itself, now
        and whenever a manager comes back: here we ask whether the offer came.)"""
        await asyncio.sleep(0)   # the offer goes first
        why = ""
        for link in self._host.managers.for_task(spec.task_id):
            if not await link.opened(LINK_WAIT_S):
                why = f" (manager {link.name}: {link.refused.what if link.refused else 'silent'})"
                continue
            for _ in range(LOOKS):
                try:
                    await link.look(partial(looking, spec, Access()), TOLD_S)
                    return link.name
                except (NetworkError, NoManager, ProtocolError, UsageError) as error:
                    why = f" (manager {link.name}: {error.what})"
        raise NoManager(f"no manager was told of it{why}",
                        "it is kept in this host's store, and offered when a manager answers: "
                        "name one by --manager")


# ---------------------------------------------------------------------------------- reading
class Reading:
    """A user's file that is being read, in threads. `done` counts the bytes of a step."""

    def __init__(self, place: str, fd: int) -> None:
        facts = os.fstat(fd)
        self.step = "wait"   # for its turn
        self.done = 0
        self.cancelled = False
        self.place = place
        self.size = facts.st_size
        self.identity = _identity(facts)
        self.changed_at = max(facts.st_mtime, facts.st_ctime)
        self._fd = fd
        self._digests: List[bytes] = []   # of the pieces

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.size, piece_size_for(self.size))

    @classmethod
    def begin(cls, path: str, identity: object = None) -> Reading:
        """Open the file; FileError, in one line, for what isn't one."""
        place = printable(path)
        try:   # non-blocking: else a FIFO would wait for its writer
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(place, error) from None
        try:
            _check(place, os.fstat(fd), identity)
            return cls(place, fd)
        except BaseException:
            os.close(fd)
            raise

    def end(self) -> None:
        os.close(self._fd)

    # -------------------------------------------------------------------------- the steps
    def find_digest(self) -> Digest:
        """First step: what the content is, as a whole and in pieces."""
        self.step, self.done = "hash", 0
        whole = hashlib.sha256()
        room = memoryview(bytearray(READ_SIZE))
        with ThreadPoolExecutor(1) as second:   # while one hashes the piece, the other the whole
            for piece in range(self.geometry.piece_count or 0):
                part = hashlib.sha256()
                for view in self._parts(piece, room):
                    other = second.submit(part.update, view)
                    whole.update(view)
                    other.result()
                self._digests.append(part.digest())
        if _identity(os.fstat(self._fd)) != self.identity:
            raise self._changed()
        return Digest("sha256", whole.digest())

    def contradicts(self, file: TaskFile) -> bool:
        """True if the store knows of a piece that isn't this file's."""
        return any(file.digest_of(piece) not in (None, digest)
                   for piece, digest in enumerate(self._digests))

    def copy_into(self, file: TaskFile) -> None:
        """Second step: the pieces that the store lacks, each as it was in the first."""
        self.step, self.done = "copy", 0
        room = memoryview(bytearray(self.geometry.piece_size))
        for piece, expected in enumerate(self._digests):
            size = self.geometry.size_of(piece)
            if file.have >> piece & 1:
                self.done += size
                continue
            seal = hashlib.sha256()
            for view in self._parts(piece, room):
                seal.update(view)   # now, while it is in the processor's cache
            if seal.digest() != expected:
                raise self._changed()
            with carried(CACHE):
                file.put(piece, room[:size], expected)

    def _parts(self, piece: int, room: memoryview) -> Iterator[memoryview]:
        """The piece's bytes, read into `room`, which is used once more where it is too small."""
        position, stop = self.geometry.start(piece), self.geometry.stop(piece)
        filled = 0
        while position < stop:
            if self.cancelled:
                raise FileError(f"{self.place}: nobody waits for it any more")
            filled %= len(room)
            view = room[filled:filled + min(READ_SIZE, stop - position)]
            try:
                count = os.preadv(self._fd, [view], position)
            except OSError as error:
                raise FileError(f"can't read {self.place}: {error.strerror}") from None
            if not count:
                raise self._changed()
            yield view[:count]
            filled += count
            position += count
            self.done += count

    def _changed(self) -> FileError:
        return FileError(f"{self.place} changed while it was read",
                         "share it when nobody writes to it any more")


def _identity(facts: os.stat_result) -> Identity:
    return (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


def _check(place: str, facts: os.stat_result, identity: object) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise FileError(f"{place} is a folder", "share its files, or pack it into one")
    if not stat.S_ISREG(facts.st_mode):
        raise FileError(f"{place} is no regular file", "save its content in a file first")
    if identity not in (None, [facts.st_dev, facts.st_ino]):
        raise FileError(f"the peer daemon sees another file at {place}",
                        "it sees other file systems than you: start one of your own by --socket")
    if not facts.st_size:
        raise FileError(f"{place} is empty: there is nothing to share")
    if facts.st_size > PIECES_MAX * PIECE_SIZE_MAX:
        raise FileError(f"{place} is larger than any task can be", "split it")


def _unreadable(place: str, error: OSError) -> FileError:
    hint = ""
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = f"it must be readable by the user of the peer daemon (uid {os.geteuid()})"
    return FileError(f"can't read {place}: {error.strerror}", hint)
