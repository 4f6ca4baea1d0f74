"""One file of a command line of `dfly get`, from its options to its end: left alone, looked at,
downloaded, delivered, told.

`fetch` may run on another thread than `finish`; a Job is used by one at a time. What is told goes
to its row of the screen; how many jobs run at once is getting.py's and ahead.py's.
"""
from __future__ import annotations

import os

from dfly.cli import interrupted_code
from dfly.cli.download import Download, Request
from dfly.cli.local import ask_json
from dfly.cli.target import Target, freshness
from dfly.errors import DflyError, NetworkError

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple, Union

    from dfly.cli.pile import Pile
    from dfly.cli.screen import Row, Screen

    Event = Dict[str, Any]

LOOK_S = 600.0   # for the answer to a look: the daemon and the manager have their own patience


class DeadlinePassed(NetworkError):
    """--deadline: not all is here, and nothing more is begun."""

    hint = "the same command goes on from what came, which is kept"


class Left(Exception):
    """There is nothing to do for this file, and why; no error."""


class Choices:
    """What the options say about every file."""

    def __init__(self, socket: str, *, resume: bool = False, timestamping: bool = False,
                 spider: bool = False, server_response: bool = False, cookies: bool = False,
                 told_name: Optional[Callable[[Event], str]] = None) -> None:
        """`told_name`: the name for a file out of a source's facts; "" = the URL's. `cookies`:
        those that the source sets are wanted. Where what it says is of such use it is looked at
        before: of a content that is here already nobody would ask it."""
        self.socket = socket
        self.resume = resume
        self.timestamping = timestamping
        self.spider = spider
        self.server_response = server_response
        self.told_name = told_name or _no_name
        self.looks = (spider or timestamping or server_response or cookies
                      or told_name is not None)


def _no_name(facts: Event) -> str:
    return ""


class Job:
    """`target` None = standard output. `error`: it can't be done, and is only told."""

    screen: Screen   # where it is told of; set before it begins

    def __init__(self, request: Request, target: Optional[Union[Target, Pile]], choices: Choices,
                 error: Optional[DflyError] = None) -> None:
        self.request = request
        self.target = target
        self.length: Optional[int] = None   # bytes, once it's done
        self.cookies: List[str] = []        # that the source set
        self._choices = choices
        self._row: Optional[Row] = None
        self._is_heard = False
        self._error: Optional[BaseException] = error
        self._download: Optional[Download] = None
        self._done: Optional[Tuple[Event, int]] = None

    @property
    def is_possible(self) -> bool:
        """Nothing is known yet that speaks against it."""
        return self._error is None

    @property
    def row(self) -> Row:
        """Its row of the screen, from its beginning on."""
        if self._row is None:
            name = self.target.name if self.target is not None else ""
            if not self.is_possible:
                name = name or self.request.url   # which may be no URL at all
            self._row = self.screen.begin(self.request.url, name=name)
        return self._row

    def fetch(self) -> None:
        """The first half, for a file: have its content in the daemon's store."""
        try:
            if self._error is None:
                self._prepare()
                self._download = Download(self._choices.socket, self.request, self.target)
                self._done = self._download.fetch(self._on_event)
        except BaseException as error:
            self._error = error   # raised where it is told of

    def finish(self) -> int:
        """The second half: put the file where it belongs, tell how it went; the exit code."""
        try:
            if self._error is not None:
                raise self._error
            if self.target is None:
                self._prepare()
                path, done = Download(self._choices.socket, self.request, None).run(
                    self._on_event)
            else:
                assert self._done is not None and self._download is not None
                done, fd = self._done
                self._download.target = self.target   # the source may have named it
                path = self._download.deliver(done, fd)
        except Left as why:
            self.row.left(str(why))
            return 0
        except DflyError as error:
            self.row.failed(error)
            if isinstance(error, DeadlinePassed):
                raise
            return error.exit_code
        except KeyboardInterrupt as stop:
            self.row.interrupted(interrupted_code(stop))
            raise
        length = done.get("length")
        self.length = length if isinstance(length, int) else None
        self.row.done(path, done)
        return 0

    # ----------------------------------------------------------------------------- before
    def _prepare(self) -> None:
        """Left, if it needn't be downloaded. What the source has is asked before only where the
        answer may spare the download."""
        choices = self._choices
        self._leave_if_there()
        if choices.looks:
            seen = ask_json(choices.socket, "POST", "/v1/look", self.request.to_json(), LOOK_S)
            self._hear(seen.get("facts"))
            if choices.spider:
                raise Left("the remote file exists")
            if choices.timestamping:
                assert isinstance(self.target, Target)
                self._leave_if_fresh(self.target, seen)
        if self.target is not None:
            self.target.check()
        if choices.resume and isinstance(self.target, Target):
            self._go_on_with(self.target.path)

    def _leave_if_there(self) -> None:
        if isinstance(self.target, Target) and self.target.skipped:
            raise Left(f"{self.target.path} is there already; not retrieving")

    def _leave_if_fresh(self, target: Target, seen: Event) -> None:
        try:
            local: Optional[os.stat_result] = os.stat(target.path)
        except OSError:
            local = None   # `check` will say what is wrong with the place
        length = seen.get("length")
        verdict = freshness(target.path, local, length if isinstance(length, int) else None,
                            str(seen.get("last_modified") or ""))
        if not verdict.fetch:
            raise Left(verdict.why)
        if verdict.why:
            self.screen.say(verdict.why)

    def _go_on_with(self, path: str) -> None:
        try:
            if os.path.getsize(path):
                self.request.asked["partial"] = os.path.abspath(path)
        except OSError:
            return   # nothing is there yet

    # ------------------------------------------------------------------------------ events
    def _on_event(self, event: Event) -> None:
        if event.get("event") == "accepted":
            self._hear(event.get("facts"))
            self._leave_if_longer(event.get("length"))
        self.row.event(event)

    def _hear(self, told: Any) -> None:
        """What the source said beside the content."""
        facts: Event = told if isinstance(told, dict) else {}
        if self._choices.server_response and not self._is_heard:
            self._is_heard = True
            self.screen.server_answer(facts, self.request.url)
        cookies = facts.get("cookies")
        if isinstance(cookies, list):
            self.cookies += [line for line in cookies if isinstance(line, str)]
        name = self._choices.told_name(facts)
        if name and isinstance(self.target, Target):
            self.target = self.target.named(name)
            self._leave_if_there()
            self.target.check()

    def _leave_if_longer(self, length: Any) -> None:
        """-c on what is longer than the source's content: as wget, leave it alone."""
        path = self.request.asked.get("partial")
        try:
            is_longer = path is not None and isinstance(length, int) and (
                os.path.getsize(path) > length)
        except OSError:
            return   # somebody took it away: there is nothing to go on with
        if is_longer:
            raise Left(f"{path} is longer than what the source has; nothing to do")
