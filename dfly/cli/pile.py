"""One file of several downloads, one after the other: -O FILE with many URLs, as wget has it."""
from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Iterator, Optional

from dfly.cli.deliver import append
from dfly.cli.target import Target, write_error
from dfly.errors import FileError


class Pile:
    """Takes the place of a Target for all of them; `finish` puts what came in its place."""

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self._target = target
        self._path = os.path.join(target.folder, f".dfly-{os.getpid()}-{os.urandom(4).hex()}")
        self._fd = -1

    def check(self) -> None:
        """FileError now, if the file could not be put there at the end."""
        self._target.check()

    @contextmanager
    def temporary(self) -> Iterator[str]:
        """As a Target's."""
        with self._target.temporary() as path:
            yield path

    def take(self, path: str, fd: int, last_modified: str = "") -> str:
        """As a Target's; the pile gets the time at which it is made."""
        return self.put(path, fd)

    def put(self, source_path: Optional[str], source_fd: int) -> str:
        """One more download at the end of the pile."""
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                                   0o666)
            except OSError as error:
                raise write_error(self._target.path, error) from None
        append(source_fd, self._fd, self._target.path)
        return self._target.path

    def finish(self) -> None:
        """Put what came in its place; nothing came: nothing is changed."""
        if self._fd < 0:
            return
        try:
            self._target.take(self._path, self._fd)
        except OSError as error:
            raise FileError(f"{self._target.path}: {error.strerror}") from None
        finally:
            self.drop()

    def drop(self) -> None:
        """Whatever happened, nothing is left behind."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass   # it was linked or moved into its place
