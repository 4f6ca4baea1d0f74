"""The content of a download on its way to standard output, on a thread of its own."""
from __future__ import annotations

import os
import sys
import threading
from typing import Optional

from dfly.cli.local import Answer
from dfly.cli.target import write_error
from dfly.errors import DflyError


class Copier(threading.Thread):
    """Copies one answer to standard output; cuts the events off if that can't go on."""

    def __init__(self, content: Answer, events: Answer) -> None:
        super().__init__(daemon=True)
        self.size = 0
        self.error: Optional[BaseException] = None
        self._content = content
        self._events = events

    def run(self) -> None:
        output = sys.stdout.fileno()
        try:
            with self._content:
                for part in self._content.parts():
                    _write_all(output, part)
                    self.size += len(part)
        except BrokenPipeError as error:
            self.error = error
        except OSError as error:
            self.error = write_error("standard output", error)
        except DflyError as error:
            self.error = error
            return  # the events will tell better why the content ended
        if self.error is not None:
            self._events.cut()


def _write_all(fd: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(fd, data):]
