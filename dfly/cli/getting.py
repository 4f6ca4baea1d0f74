"""What `dfly get` does with its options: find or start the peer daemon, ask it for each file, put
the finished files where the user wants them.

The work is the daemon's; this is its thin client, and what it imports costs every start: no
typing, no dataclasses, and the rest only where it is needed.
"""
from __future__ import annotations

import os
import signal
import sys
from contextlib import nullcontext

from dfly.cli.asking import Asking
from dfly.cli.autostart import ensure_daemon, unheard_managers
from dfly.cli.download import Request
from dfly.cli.job import Choices, DeadlinePassed, Job
from dfly.cli.parser import Arguments
from dfly.cli.plan import check_options, digests_of, items_of, span_of
from dfly.cli.screen import NORMAL, QUIET, TERSE, VERBOSE, Screen, choose_style
from dfly.cli.target import INDEX, Rules, Target, parse_modes, target_for
from dfly.cli.wget import foreign
from dfly.config import GetSettings, load
from dfly.errors import DflyError, FileError, UsageError, printable, worst

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, ContextManager, Dict, Iterable, List, Optional, TextIO, Union

    from dfly.cli.pile import Pile
    from dfly.cli.plan import Item
    from dfly.cli.sums import Sums

LOG_NAME = "dfly-log"   # of --background, where no -o names another


def get_all(args: Arguments) -> int:
    """Download all that a command line names; the exit code of all."""
    warnings = foreign(args)
    if args.no_config:
        args = args.changed(settings_file=os.devnull)
    settings = load(GetSettings, args)
    args = args.changed(progress=settings.progress)   # wherever it was said
    if args.background and not (args.log or args.log_append):
        args = args.changed(log=_free_log())
    if args.timestamping and args.output is not None and args.output != "-":
        warnings.append("-N does nothing together with -O")   # as in wget
        args = args.changed(timestamping=False)
    if settings.wait_s and settings.jobs > 1:
        warnings.append("-j does nothing together with --wait: one file after the other")
    check_options(args)
    items = items_of(args, warnings.append)
    getting = _Getting(args, settings, Asking(args, settings, warnings.append))
    jobs = getting.jobs(items)
    if args.background:
        _go_to_background(args)
    with _log_of(args) as log:
        screen = _screen(args, log, len(items))
        for warning in dict.fromkeys(warnings):
            screen.warn(warning)
        return getting.run(jobs, screen)


class _Getting:
    """One run of the command."""

    def __init__(self, args: Arguments, settings: GetSettings, asking: Asking) -> None:
        self._args = args
        self._settings = settings
        self._asking = asking
        self._rules = _rules(args)
        self._span = span_of(args)
        self._choices = Choices(
            settings.socket, resume=args.resume, timestamping=args.timestamping,
            spider=args.spider or (args.method or "").upper() == "HEAD",
            server_response=args.server_response, cookies=bool(args.save_cookies),
            told_name=self._told_name if (
                settings.content_disposition or settings.trust_server_names) else None)
        self._pile: Optional[Pile] = None
        self._sums: Optional[Sums] = None

    def jobs(self, items: List[Item]) -> List[Job]:
        """What is to be done, in the order of the command line."""
        args = self._args
        if args.output not in (None, "-") and len(items) > 1 and not _is_written_to(args.output):
            target = target_for("", args.output, None, self._rules)
            if not target.skipped:
                from dfly.cli.pile import Pile
                self._pile = Pile(target)
                self._pile.check()
        return [self._job(item) for item in items]

    def run(self, jobs: List[Job], screen: Screen) -> int:
        """Do it; the exit code of all."""
        for job in jobs:
            job.screen = screen
        catch_signals(self._settings.deadline_s)
        if any(job.is_possible for job in jobs):
            unheard = unheard_managers(ensure_daemon(self._settings), self._settings)
            if unheard:
                screen.warn(unheard)
        try:
            codes = list(self._in_turn(jobs))
            if self._pile is not None:
                self._pile.finish()
        except DeadlinePassed as error:
            return error.exit_code
        finally:
            if self._pile is not None:
                self._pile.drop()
        if self._args.save_cookies:
            self._asking.save_cookies([line for job in jobs for line in job.cookies])
        return worst(codes)

    def _in_turn(self, jobs: List[Job]) -> Iterable[int]:
        """The jobs in their order; small ones run ahead of their turn, where nobody set a rate
        for each or a pause between them and nothing is to be written in order."""
        settings = self._settings
        if len(jobs) > 1 and self._args.output != "-" and not settings.wait_s:
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
            return Job(self._request(item, target), target, self._choices)
        except DflyError as error:
            return Job(Request(item.url), Target(".", "", False), self._choices, error)

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
        digest, check = digests_of(item, args, self._checksums())
        asked: Dict[str, Any] = {
            "tag": args.tag, "filters": settings.filter, "digest": digest, "check": check,
            "mirrors": item.mirrors, "span": self._span, **item.told,
            "access": self._asking.access([item.url, *item.mirrors]),
            "no_source": settings.no_source, "alone": settings.no_p2p,
            "limit_bps": settings.limit_rate_bps, "streaming": target is None,
            "explain": args.explain}
        return Request(item.url, **{name: value for name, value in asked.items() if value})

    def _checksums(self) -> Optional[Sums]:
        """What --checksum-file lists, read once for all files."""
        if self._sums is None and self._args.checksum_file:
            from dfly.cli.sums import Sums
            self._sums = Sums.read(self._args.checksum_file)
        return self._sums

    def _told_name(self, facts: Dict[str, Any]) -> str:
        """The name that the source gives the file, where the user wants that."""
        name = ""
        if self._settings.trust_server_names:
            name = str(facts.get("final_name") or "")
        if self._settings.content_disposition:
            name = str(facts.get("file_name") or "") or name
        return name


def _is_written_to(path: str) -> bool:
    """A device or pipe, which takes one file after the other by itself."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _log_of(args: Arguments) -> ContextManager[TextIO]:
    """Where messages go; standard error stays open."""
    path = args.log or args.log_append
    if path is None:
        return nullcontext(sys.stderr)
    try:
        return open(path, "a" if args.log is None else "w", encoding="utf-8",
                    errors="backslashreplace")
    except OSError as error:
        raise FileError(f"can't write {path}: {error.strerror}") from None


def _screen(args: Arguments, log: TextIO, files: int) -> Screen:
    verbosity = QUIET if args.quiet else TERSE if args.no_verbose else (
        VERBOSE if args.verbose or args.debug else NORMAL)
    style = choose_style(args.progress, as_json=args.json, to_log=log is not sys.stderr,
                         show=args.show_progress, verbosity=verbosity, stream=log)
    return Screen(style, verbosity=verbosity, stream=log, files=files, explain=args.explain)


def _rules(args: Arguments) -> Rules:
    return Rules(default_page=args.default_page or INDEX,
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


def _free_log() -> str:
    """As wget numbers its own."""
    number, name = 0, LOG_NAME
    while os.path.lexists(name):
        number += 1
        name = f"{LOG_NAME}.{number}"
    return name


def _go_to_background(args: Arguments) -> None:
    """The rest of the command in a process of its own, without a terminal."""
    log = args.log or args.log_append
    with _log_of(args.changed(log=None, log_append=log)):
        sys.stdout.flush()   # and the log can be written
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
