"""What `dfly get` does with its options: find or start the peer daemon, ask it for each file, put
the finished files where the user wants them.

The work is the daemon's; this is its thin client, and what it imports costs every start: no
typing, no dataclasses, and the rest only where it is needed.
"""
from __future__ import annotations

import os
import signal
import sys

from dfly.cli.asking import Asking
from dfly.cli.autostart import ensure_daemon
from dfly.cli.download import Request
from dfly.cli.job import Choices, DeadlinePassed, Job
from dfly.cli.parser import Arguments
from dfly.cli.plan import check_options, digests_of, items_of, span_of
from dfly.cli.screen import Screen, screen_for
from dfly.cli.target import Rules, Target, parse_modes, target_for
from dfly.cli.wget import foreign
from dfly.config import GetSettings, load
from dfly.errors import DflyError, FileError, UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Dict, Iterable, List, Optional, Union

    from dfly.cli.pile import Pile
    from dfly.cli.plan import Item

LOG_NAME = "dfly-log"   # of --background, where no -o names another


def get_all(args: Arguments) -> int:
    """Download all that a command line names; the exit code of all."""
    warnings = foreign(args)
    if args.no_config:
        args.settings_file = os.devnull
    settings = load(GetSettings, args)
    args.progress = settings.progress   # wherever it was said
    check_options(args)
    items = items_of(args)
    asking = Asking(args, settings)
    if args.background:
        _go_to_background(args)
    screen = screen_for(args, len(items))
    for warning in warnings:
        screen.warn(warning)
    with screen:
        return _Getting(args, settings, asking, screen).run(items)


def worst(codes: List[int]) -> int:
    """wget's rule for several downloads: the lowest code above 1 wins, then 1, then 0."""
    return min((code for code in codes if code > 1), default=max(codes, default=0))


class _Getting:
    """One run of the command."""

    def __init__(self, args: Arguments, settings: GetSettings, asking: Asking,
                 screen: Screen) -> None:
        self._args = args
        self._settings = settings
        self._asking = asking
        self._screen = screen
        self._rules = _rules(args)
        self._span = span_of(args)
        self._choices = Choices(
            settings.socket, resume=args.resume, timestamping=args.timestamping,
            spider=args.spider or (args.method or "").upper() == "HEAD",
            server_response=args.server_response, told_name=self._told_name)
        self._pile: Optional[Pile] = None

    def run(self, items: List[Item]) -> int:
        args = self._args
        if args.output not in (None, "-") and len(items) > 1:
            from dfly.cli.pile import Pile
            self._pile = Pile(target_for("", args.output, None, self._rules))
        jobs = [self._job(item) for item in items]
        if self._pile is not None:
            self._pile.check()
        if any(job.is_possible for job in jobs):
            self._find_daemon()
        catch_signals(self._settings.deadline_s)
        try:
            codes = list(self._in_turn(jobs))
            if self._pile is not None:
                self._pile.finish()
        except DeadlinePassed as error:
            return error.exit_code
        finally:
            if self._pile is not None:
                self._pile.drop()
        if args.save_cookies:
            from dfly.cli.cookies import save
            save(args.save_cookies, args.load_cookies or "",
                 [line for job in jobs for line in job.cookies], args.keep_session_cookies)
        return worst(codes)

    def _find_daemon(self) -> None:
        _say_of_managers(ensure_daemon(self._settings), self._settings, self._screen)

    def _in_turn(self, jobs: List[Job]) -> Iterable[int]:
        """The jobs in their order; small ones run ahead of their turn, where nobody set a rate
        for each or a pause between them and nothing is to be written in order."""
        settings = self._settings
        if len(jobs) > 1 and jobs[0].target is not None and not settings.wait_s:
            from dfly.cli.ahead import ahead, at_once
            if settings.jobs > 1 and self._pile is None:
                return at_once(jobs, settings.jobs)
            if not settings.limit_rate_bps and settings.jobs != 1 and not self._choices.spider:
                return ahead(jobs)
        return self._one_by_one(jobs)

    def _one_by_one(self, jobs: List[Job]) -> Iterable[int]:
        for number, job in enumerate(jobs):
            if number and self._settings.wait_s:
                self._pause()
            if job.target is not None:
                job.fetch()
            yield job.finish()

    def _pause(self) -> None:
        import random
        import time
        spread = random.uniform(0.5, 1.5) if self._args.random_wait else 1.0
        time.sleep(self._settings.wait_s * spread)

    # -------------------------------------------------------------------------- one file
    def _job(self, item: Item) -> Job:
        """What is wrong with one of several is told in its turn; of a single one, at once."""
        try:
            if item.error is not None:
                raise item.error
            target = self._target(item)
            if target is not None and self._pile is None and not self._is_left(target):
                target.check()
            return Job(self._request(item, target), target, self._choices, self._screen)
        except DflyError as error:
            return Job(Request(item.url), Target(".", "", False), self._choices, self._screen,
                       error)

    def _is_left(self, target: Union[Target, Pile]) -> bool:
        return self._choices.spider or (isinstance(target, Target) and target.skipped)

    def _target(self, item: Item) -> Optional[Union[Target, Pile]]:
        args = self._args
        if args.output == "-":
            return None
        if self._pile is not None:
            return self._pile
        target = target_for(item.url, args.output, args.folder, self._rules)
        return target.named(item.name) if item.name else target

    def _request(self, item: Item, target: Optional[Union[Target, Pile]]) -> Request:
        args, settings = self._args, self._settings
        digest, check = digests_of(item, args, target.name if target is not None else "")
        asked: Dict[str, Any] = {
            "tag": args.tag, "filters": settings.filter, "digest": digest, "check": check,
            "mirrors": item.mirrors, "span": self._span, "vouched": item.vouched,
            "access": self._asking.access([item.url, *item.mirrors]),
            "no_source": settings.no_source, "alone": settings.no_p2p,
            "limit_bps": settings.limit_rate_bps, "streaming": target is None,
            "explain": args.explain}
        return Request(item.url, **{name: value for name, value in asked.items() if value})

    def _told_name(self, facts: Dict[str, Any]) -> str:
        """The name that the source gives the file, where the user wants that."""
        name = ""
        if self._settings.trust_server_names:
            name = str(facts.get("final_name") or "")
        if self._settings.content_disposition:
            name = str(facts.get("file_name") or "") or name
        return name


def _rules(args: Arguments) -> Rules:
    return Rules(default_page=args.default_page or "index.html",
                 modes=parse_modes(args.restrict_file_names or ""),
                 folders=args.force_directories,
                 host_folder=not args.no_host_directories,
                 protocol_folder=args.protocol_directories,
                 cut=_count(args.cut_dirs, "--cut-dirs"), no_clobber=args.no_clobber,
                 replace=args.timestamping or args.resume,
                 backups=_count(args.backups, "--backups"),
                 server_time=not args.no_use_server_timestamps)


def _count(text: Optional[str], option: str) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError(f"{option}: not a whole number: {printable(text)!r}")
    return int(text)


def _say_of_managers(status: Optional[Dict[str, Any]], settings: GetSettings,
                     screen: Screen) -> None:
    """A daemon that runs already keeps its own managers, whatever this command line says."""
    if status is None or not settings.manager or "managers" not in status:
        return
    used = [entry.get("address", "") if isinstance(entry, dict) else str(entry)
            for entry in status["managers"]] if isinstance(status["managers"], list) else []
    if sorted(used) != sorted(settings.manager):
        screen.warn("a peer daemon runs already, and it uses "
                    + (", ".join(map(printable, used)) or "no manager")
                    + f"; --manager {','.join(settings.manager)} has no effect")


# --------------------------------------------------------------------------- signals, background
def catch_signals(deadline_s: float = 0.0) -> None:
    """SIGTERM ends the command as Ctrl-C does, with its own code; so does the deadline, with an
    error."""
    def end(number: int, frame: Optional[FrameType]) -> None:
        raise KeyboardInterrupt(number)

    def too_late(number: int, frame: Optional[FrameType]) -> None:
        raise DeadlinePassed(f"not done within {deadline_s:g} s")

    signal.signal(signal.SIGTERM, end)
    if deadline_s:
        signal.signal(signal.SIGALRM, too_late)
        signal.setitimer(signal.ITIMER_REAL, deadline_s)


def _go_to_background(args: Arguments) -> None:
    """The rest of the command in a process of its own, without a terminal."""
    if args.log is None and args.log_append is None:
        number, args.log = 0, LOG_NAME
        while os.path.lexists(args.log):
            number += 1
            args.log = f"{LOG_NAME}.{number}"
    log = args.log or args.log_append
    try:
        os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise FileError(f"{log}: {error.strerror}") from None
    sys.stdout.flush()
    child = os.fork()
    if child:
        sys.stdout.write(f"Continuing in background, pid {child}.\n"
                         f"Output will be written to {printable(log)!r}.\n")
        sys.stdout.flush()
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
