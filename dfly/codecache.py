"""Compiled code for the zipapp: Python never keeps bytecode of modules that lie in a zip, so each
start would compile every module again (half a second for all of dfly).

A finder in front of Python's own takes `dfly.*` from the zip, compiles a module once and keeps
the marshalled code in $XDG_CACHE_HOME/dfly/code/<build>-<python>/. Loading marshalled code is
running it, so the folder must be ours alone (0700, not a link), and files are reached through the
descriptor that was checked. Anything that doesn't fit means "compile it again", never an error.

The zip is read through a descriptor opened at the start: a daemon goes on when the executable is
replaced under it. This file itself is compiled at each start: it must stay small, import only
what the interpreter has loaded already, and leave to codesave.py what is rarely needed.
"""
from __future__ import annotations

import marshal
import os
import stat
import sys
import zipimport
import zlib
from importlib.machinery import ModuleSpec

TYPE_CHECKING = False  # typing's own costs each start 5 ms
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any, Dict, Optional, Sequence, Tuple

BUILD_ID_FILE = "dfly/build_id"  # build.py writes it: a hash of all that is in the zip
_DIRECTORIES = "_zip_directory_cache"  # zipimport's, the same since Python 2.3
_SAVER = "dfly.codesave"


class Archive:
    """The files of one zip, read through a descriptor that outlives a replacement of the file.

    The directory is the one that zipimport has already read: (name, compression, packed size,
    size, offset of the local header, time, date, CRC-32) for each file.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        directories: Dict[str, Dict[str, Tuple[Any, ...]]] = getattr(zipimport, _DIRECTORIES)
        self._entries = directories[path]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def read(self, name: str) -> bytes:
        _, compression, packed, _, offset, _, _, crc = self._entries[name]
        head = os.pread(self._fd, 30, offset)
        skip = 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        data = os.pread(self._fd, packed, offset + skip)
        if compression:
            data = zlib.decompress(data, -15)
        if zlib.crc32(data) != crc:
            raise OSError(f"{self.path} is damaged: {name}")
        return data


class Finder:
    """Finds and loads `dfly.*`: one object is finder and loader of all of them. It has the methods
    of both without their base classes: importing importlib.abc costs more than dfly's own start.
    `folder` = descriptor of the folder of compiled code; -1: without one."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.folder = -1

    def find_spec(self, name: str, path: Optional[Sequence[str]] = None,
                  target: Optional[ModuleType] = None) -> Optional[ModuleSpec]:
        inside = self._inside(name) if name.startswith("dfly.") else None
        if inside is None:
            return None
        origin = f"{self._archive.path}/{inside}"
        loader: Any = self
        spec = ModuleSpec(name, loader, origin=origin, is_package=self.is_package(name))
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations = [os.path.dirname(origin)]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None  # Python's own kind of module will do

    def exec_module(self, module: ModuleType) -> None:
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: str) -> CodeType:
        code = self._kept(name) if self.folder >= 0 else None
        if code is None:
            # The name stands in tracebacks. It doesn't say where the zip is, so that the code is
            # good wherever the file goes; linecache finds the lines by get_source().
            code = compile(self.get_source(name), f"<dfly>/{self._inside(name)}", "exec",
                           dont_inherit=True)
            if self.folder >= 0 and not sys.dont_write_bytecode and name != _SAVER:
                from dfly.codesave import save
                save(self.folder, name, code)
        return code

    def _kept(self, name: str) -> Optional[CodeType]:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.folder)
            with open(fd, "rb", buffering=0) as file:
                data = file.read()
            if zlib.crc32(memoryview(data)[4:]) == int.from_bytes(data[:4], "big"):
                code = marshal.loads(memoryview(data)[4:])
                return code if hasattr(code, "co_code") else None
        except (OSError, ValueError, EOFError, TypeError):
            return None  # absent or damaged: the caller compiles again
        return None

    def get_source(self, name: str) -> str:
        inside = self._inside(name)
        if inside is None:
            raise ImportError(f"no module {name} in {self._archive.path}", name=name)
        return self._archive.read(inside).decode()

    def is_package(self, name: str) -> bool:
        return (self._inside(name) or "").endswith("/__init__.py")

    def get_data(self, path: str) -> bytes:
        """A file beside the modules (pkgutil.get_data)."""
        return self._archive.read(os.path.relpath(path, self._archive.path).replace(os.sep, "/"))

    def _inside(self, name: str) -> Optional[str]:
        stem = name.replace(".", "/")
        for inside in (stem + ".py", stem + "/__init__.py"):
            if inside in self._archive:
                return inside
        return None


def code_folder(base: str, build: str) -> int:
    """Descriptor of the folder for this build on this interpreter; -1 if there can't be a safe
    one: no home, read-only, someone else's."""
    tag = sys.implementation.cache_tag
    if tag is None or not os.path.isabs(base):
        return -1
    name = f"{build}-{tag}-{sys.hexversion:x}-{sys.flags.optimize}"
    path = os.path.join(base, "dfly", "code")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            fd = os.open(os.path.join(path, name), flags)
        except FileNotFoundError:
            from dfly.codesave import make
            make(path, name)
            fd = os.open(os.path.join(path, name), flags)
    except OSError:
        return -1
    state = os.fstat(fd)
    if state.st_uid != os.geteuid() or stat.S_IMODE(state.st_mode) & 0o077:
        os.close(fd)
        return -1
    return fd


def install(archive_path: str) -> None:
    """Put the finder in front, if `archive_path` is a zip that build.py made."""
    try:
        archive = Archive(archive_path)
    except (AttributeError, KeyError, OSError):
        return  # not started from a zip, or an interpreter that keeps its directory elsewhere
    if BUILD_ID_FILE not in archive:
        return
    finder: Any = Finder(archive)
    sys.meta_path.insert(0, finder)
    dfly = sys.modules["dfly"]  # zipimport loaded it, maybe by a path that a chdir makes wrong
    dfly.__path__[:] = [os.path.join(archive.path, "dfly")]
    dfly.__file__ = os.path.join(archive.path, "dfly", "__init__.py")
    if dfly.__spec__ is not None:
        dfly.__spec__.loader = finder
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    # Without HOME, and for a user id without an entry in passwd, "~" stays as it is.
    finder.folder = code_folder(base, archive.read(BUILD_ID_FILE).decode("ascii").strip())
