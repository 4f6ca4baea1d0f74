"""One download by way of the peer daemon: the request, its events, the finished file.

The daemon answers with events until the end. A finished file is taken from the daemon's store by
hard link or copy where this user can read it, else its content comes through the socket. For
`-O -` the content comes through a second connection while pieces still arrive.
"""
from __future__ import annotations

import os

from dfly.cli.local import Answer, ask, failure_of
from dfly.cli.target import Target, write_error
from dfly.errors import DflyError, NetworkError, ProtocolError
from dfly.names import is_task_id

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Tuple, Union

    from dfly.cli.copier import Copier
    from dfly.cli.pile import Pile

    Place = Union[Target, Pile]
    Event = Dict[str, Any]


class Request:
    """What POST /v1/get and /v1/look take, by the same names (dfly(7), local interface)."""

    def __init__(self, url: str, **asked: Any) -> None:
        self.url = url
        self.asked = asked

    def to_json(self) -> Dict[str, Any]:
        return {"url": self.url, **self.asked}


class Download:
    """One URL to one target; target None = standard output."""

    def __init__(self, socket_path: str, request: Request, target: Optional[Place]) -> None:
        self.request = request
        self.target = target
        self.last_modified = ""   # as the source spelt it
        self._socket_path = socket_path
        self._failure: Optional[DflyError] = None   # that the daemon told

    def run(self, on_event: Callable[[Event], None]) -> Tuple[str, Event]:
        """Download and deliver; (path or '-', the done event). Every event goes to `on_event`
        on the way. Leaving early, by whatever exception, ends the download in the daemon; the
        pieces that came stay there."""
        if self.target is None:
            with self._begin() as answer:
                return "-", self._stream(answer, on_event)
        done, fd = self.fetch(on_event)
        return self.deliver(done, fd), done

    def fetch(self, on_event: Callable[[Event], None]) -> Tuple[Event, int]:
        """The first half of `run`, for a target that is a file: have the content in the daemon's
        store. (The done event, its file or -1 where only the daemon can read it), for
        `deliver`."""
        def hear(event: Event) -> None:
            if event.get("event") == "accepted":
                self.last_modified = str(event.get("last_modified") or "")
            on_event(event)

        with self._begin() as answer:
            done = self._follow(answer, hear)
            path = done.get("path")
            if not isinstance(path, str) or not path:
                return done, -1
            try:
                return done, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return done, -1  # another user's daemon, or it's gone: the socket still has it

    def deliver(self, done: Event, fd: int) -> str:
        """Put the content where it belongs; its final name. Closes `fd`."""
        assert self.target is not None
        if fd < 0:
            return self._copy_through_socket(done, self.target)
        with open(fd, "rb"):
            return self.target.put(str(done["path"]), fd)

    def _begin(self) -> Answer:
        return ask(self._socket_path, "POST", "/v1/get", self.request.to_json(), timeout_s=None,
                   events=True).check()

    def _follow(self, answer: Answer, on_event: Callable[[Event], None],
                on_accepted: Optional[Callable[[str], None]] = None) -> Event:
        """Read events to the last; the done event, or the error that ended the download."""
        for event in answer.events():
            kind = event.get("event")
            if kind == "failed":
                self._failure = failure_of(event, "the download failed")
                raise self._failure
            if kind == "done":
                return event
            on_event(event)
            if kind == "accepted" and on_accepted is not None:
                on_accepted(_task_id(event))
        raise NetworkError("the peer daemon ended in the middle of the download",
                           "repeat the command: the pieces that came are kept")

    # ------------------------------------------------------------------------ to a file
    def _copy_through_socket(self, done: Event, target: Place) -> str:
        with target.temporary() as temporary, self._content(_task_id(done)) as answer:
            try:
                with open(temporary, "x+b") as file:
                    size = sum(file.write(part) for part in answer.parts())
                    file.flush()
                    _check_size(size, done)
                    return target.take(temporary, file.fileno(), self.last_modified)
            except OSError as error:
                raise write_error(temporary, error) from None

    # ------------------------------------------------------------------------ to standard output
    def _stream(self, answer: Answer, on_event: Callable[[Event], None]) -> Event:
        """Content on its own thread, so that a slow reader of our output never keeps the daemon
        waiting with its events, and Ctrl-C reaches the main thread at once. Why there is no
        content is in the events, whichever of the two is read first."""
        from dfly.cli.copier import Copier
        copier: Optional[Copier] = None

        def start(task_id: str) -> None:
            nonlocal copier
            try:
                content = self._content(task_id)
            except DflyError:
                return   # the download has failed, as the next event tells; or it's done by then
            copier = Copier(content, answer)
            copier.start()

        try:
            done = self._follow(answer, on_event, start)
        except DflyError as error:
            if error is not self._failure and copier is not None and copier.error is not None:
                raise copier.error from None   # it was our output that failed, and cut the events
            raise
        if copier is None:
            copier = Copier(self._content(_task_id(done)), answer)
            copier.start()
        copier.join()
        if copier.error is not None:
            raise copier.error
        _check_size(copier.size, done)
        return done

    def _content(self, task_id: str) -> Answer:
        return ask(self._socket_path, "GET", f"/v1/tasks/{task_id}/content",
                   timeout_s=None).check()


def _task_id(event: Event) -> str:
    task_id = event.get("task")
    if not isinstance(task_id, str) or not is_task_id(task_id):
        raise ProtocolError(f"the peer daemon named no task: {task_id!r}")
    return task_id


def _check_size(size: int, done: Event) -> None:
    length = done.get("length")
    if isinstance(length, int) and size != length:
        raise ProtocolError(f"the peer daemon sent {size} of {length} bytes")
