"""What `dfly get` does with its options: find or start the peer daemon, ask it for each URL, put
the finished files where the user wants them.

The work is the daemon's; this is its thin client, and what it imports costs every start: no
typing, no dataclasses, and the rest only where it is needed.
"""
from __future__ import annotations

from dfly.cli.autostart import ensure_daemon
from dfly.cli.download import Download, Request
from dfly.cli.parser import Arguments
from dfly.cli.screen import Screen
from dfly.cli.target import Target, target_for
from dfly.config import GetSettings, load
from dfly.errors import DflyError, UsageError, printable
from dfly.names import is_plain_url, split_url

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, List, Optional, Tuple, Union

    from dfly.cli.ahead import Begun


def get_all(args: Arguments) -> int:
    """Download every URL of a command line, told of one after the other; the exit code of all."""
    settings = load(GetSettings, args)
    if args.json and args.output == "-":
        raise UsageError("--json and -O - both want standard output")
    if args.output is not None and args.output != "-" and len(args.urls) > 1:
        raise UsageError("-O names one file, and there are several URLs",
                         "use -P DIR, or one dfly get for each")
    downloads = [_download(args, settings, url) for url in args.urls]
    for download in downloads:
        if download.target is not None:
            download.target.check()
    screen = Screen(quiet=args.quiet, as_json=args.json)
    _say_of_managers(ensure_daemon(settings), settings, screen)
    codes = [_one(download, screen) for download in _in_turn(downloads, settings)]
    return worst(codes)


def worst(codes: List[int]) -> int:
    """wget's rule for several downloads: the lowest code above 1 wins, then 1, then 0."""
    return min((code for code in codes if code > 1), default=max(codes, default=0))


def _in_turn(downloads: List[Download], settings: GetSettings) -> Iterable[Union[Download, Begun]]:
    """The downloads in their order; small ones run ahead of their turn, where nobody set a rate
    for each and nothing is to be written in order."""
    if len(downloads) < 2 or settings.limit_rate_bps or downloads[0].target is None:
        return downloads
    from dfly.cli.ahead import ahead
    return ahead(downloads)


def _one(download: Union[Download, Begun], screen: Screen) -> int:
    """Run one download to its end; its exit code, after saying why it failed."""
    screen.begin(download.request.url, download.began_at)
    try:
        path, done = download.run(screen.event)
    except DflyError as error:
        screen.failed(error)
        return error.exit_code
    except KeyboardInterrupt:
        screen.interrupted()
        raise
    screen.done(path, done)
    return 0


def _download(args: Arguments, settings: GetSettings, url: str) -> Download:
    digest, check = _digests(args.digest, args.md5)
    if not is_plain_url(url):
        split_url(url)
    request = Request(url, tag=args.tag, filters=settings.filter, digest=digest, check=check,
                      headers=tuple(map(_header, args.headers)), no_source=settings.no_source,
                      limit_bps=settings.limit_rate_bps, timeout_s=settings.timeout_s,
                      tries=settings.tries, streaming=args.output == "-")
    target: Optional[Target] = None
    if args.output != "-":
        target = target_for(url, args.output, args.folder)
    return Download(settings.socket, request, target)


def _digests(digest_text: Optional[str], md5: Optional[str]) -> Tuple[str, str]:
    """(digest that names the content, digest to check at the end), '' for none."""
    if not digest_text and not md5:
        return "", ""
    from dfly.digest import Digest
    given = [Digest.parse(text) for text in (digest_text, f"md5:{md5}" if md5 else None) if text]
    strong = [str(digest) for digest in given if digest.algorithm == "sha256"]
    checks = sorted({str(digest) for digest in given if digest.algorithm != "sha256"})
    if len(checks) > 1:
        raise UsageError("--digest and --md5 contradict each other", "give one of them")
    return (strong or [""])[0], (checks or [""])[0]


def _header(text: str) -> Tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or any(c in text for c in "\r\n\0"):
        raise UsageError(f"not a header: {printable(name)!r}", "write it like 'Name: value'")
    return name.strip(), value.strip()


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
