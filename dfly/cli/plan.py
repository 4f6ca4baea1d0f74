"""What a command line of `dfly get` asks for: the files, one Item each, and what contradicts.

A line or URL that can't be is an Item, too, with its error: it costs itself, not the others.
Nothing is asked of anybody here.
"""
from __future__ import annotations

from dfly.cli.parser import Arguments
from dfly.errors import DflyError, UsageError, printable
from dfly.names import is_plain_url, is_shared_url, shared_digest

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

    from dfly.cli.metalink import MetalinkFile
    from dfly.cli.sums import Sums

# Options that can't go together, and what to say of it.
CONTRADICTIONS = (
    ("quiet", "verbose", "-q and -v contradict each other"),
    ("no_verbose", "verbose", "-nv and -v contradict each other"),
    ("no_clobber", "timestamping", "-nc and -N contradict each other"),
    ("resume", "range", "-c goes on with a whole file, --range fetches a part"),
    ("resume", "start_pos", "-c goes on with a whole file, --start-pos fetches a part"),
    ("timestamping", "range", "-N is for whole files, --range fetches a part"),
    ("timestamping", "start_pos", "-N is for whole files, --start-pos fetches a part"),
    ("range", "start_pos", "--range and --start-pos both say which bytes"),
    ("log", "log_append", "-o and -a both say where messages go"),
    ("mirror", "metalink", "a Metalink lists its mirrors itself"),
    ("range", "metalink", "a Metalink's hashes are of whole files"),
    ("force_directories", "no_directories", "-x and -nd contradict each other"),
)
# Options whose values are secrets or tell of some; headers may be so, too.
SECRETS = ("user", "use_askpass", "certificate", "referer")
TO_STDOUT = ("resume", "timestamping", "no_clobber", "backups", "background")


class Item:
    """One file to get. `digests` as Digest.parse takes them; `error`: it can't be got."""

    def __init__(self, url: str, *, mirrors: Sequence[str] = (), digests: Sequence[str] = (),
                 name: str = "", told: Optional[Dict[str, Any]] = None,
                 error: Optional[DflyError] = None) -> None:
        self.url = url
        self.mirrors = tuple(mirrors)
        self.digests = tuple(digests)
        self.name = name          # told beforehand; "" = the URL's
        self.told = told or {}    # of the content: size and vouched, as POST /v1/get takes them
        self.error = error


def check_options(args: Arguments) -> None:
    """UsageError for options that can't go together."""
    for one, other, what in CONTRADICTIONS:
        if getattr(args, one) and getattr(args, other):
            raise UsageError(what, "give one of them")
    if args.output == "-":
        if args.json or args.progress == "json":
            raise UsageError("--json and -O - both want standard output")
        for name in TO_STDOUT:
            if getattr(args, name):
                option = "-c" if name == "resume" else "--" + name.replace("_", "-")
                raise UsageError(f"{option} and -O - can't go together",
                                 "what goes to standard output is no file")
    if args.method is not None and args.method.upper() not in ("GET", "HEAD"):
        raise UsageError(f"--method {printable(args.method)} can't be done",
                         "only what GET gives can be shared by many hosts: use curl for this")
    if args.base and not args.input_file:
        raise UsageError("-B without -i", "it says what lines of -i are relative to")
    if args.metalink:
        _check_author_hears_nothing(args)


def _check_author_hears_nothing(args: Arguments) -> None:
    """Which hosts a Metalink names is its author's choice: they get no secrets of the user's."""
    from dfly.access import PLAIN
    given = ["--" + name.replace("_", "-") for name in SECRETS if getattr(args, name) is not None]
    given += ["--header" for header in args.headers
              if header.partition(":")[0].strip().lower() not in PLAIN]
    if given:
        raise UsageError(f"{given[0]} and --metalink can't go together: whoever wrote the Metalink "
                         "chose the hosts that would be told", "name users and passwords by host "
                         "in ~/.netrc, cookies by --load-cookies")


def items_of(args: Arguments, warn: Callable[[str], None]) -> List[Item]:
    """All that the command line names, in its order: URLs, then -i, then --metalink. What was left
    out of a Metalink is told to `warn`."""
    urls: List[str] = args.urls
    if args.mirror:
        urls = list(map(_spelt_out, urls))
        if len(urls) > 1 and any(map(is_shared_url, urls)):
            raise UsageError("a shared content has no mirrors",
                             "name one URL, by http:// or dfly://")
        items = [Item(urls[0], mirrors=urls[1:])] if urls else []
    else:
        items = [_item(url) for url in urls]
    if args.input_file:
        from dfly.cli.lists import read_list
        items += [Item(line.url, digests=[line.digest] if line.digest else [], error=line.error)
                  for line in read_list(args.input_file, args.base)]
    if args.metalink:
        items += _from_metalink(args.metalink, warn)
    if not items and args.input_file:
        warn(f"no URLs found in {printable(args.input_file)}")   # and that's no error, as in wget
    elif not items:
        raise UsageError("no URL", "name what to download, or a list by -i")
    if len(items) > 1 and (args.digest or args.md5):
        raise UsageError("--digest is of one file, and there are several",
                         "use --checksum-file, or 'sha256:HEX URL' lines with -i")
    return items


def _item(url: str) -> Item:
    try:
        return Item(_spelt_out(url))
    except UsageError as error:
        return Item(url, error=error)


def _spelt_out(url: str) -> str:
    """As wget takes what is written in a URL's place: a host alone is one, too."""
    if is_plain_url(url) and "/." not in url:
        return url
    from dfly.cli.lists import url_of
    return url_of(url)


def _from_metalink(path: str, warn: Callable[[str], None]) -> List[Item]:
    from dfly.cli.metalink import Fault, read_metalink
    metalink = read_metalink(path)
    for note in metalink.notes:
        warn(note)
    return [Item(entry.name, error=entry.error) if isinstance(entry, Fault)
            else _listed_file(entry) for entry in metalink.entries]


def _listed_file(file: MetalinkFile) -> Item:
    told: Dict[str, Any] = {} if file.size is None else {"size": file.size}
    if file.pieces is not None:
        from base64 import b64encode
        told["vouched"] = {"algorithm": file.pieces.algorithm, "length": file.pieces.length,
                           "values": b64encode(file.pieces.values).decode("ascii")}
    return Item(file.urls[0], mirrors=file.urls[1:], digests=file.digests, name=file.name,
                told=told)


# --------------------------------------------------------------------------------- digests
def digests_of(item: Item, args: Arguments, sums: Optional[Sums]) -> Tuple[str, str]:
    """(digest that names the content, digests to check at the end), "" for none. UsageError where
    they contradict each other, or the URL of a shared content, or where only a part is wanted."""
    texts = [*item.digests, args.digest, f"md5:{args.md5}" if args.md5 else None]
    if sums is not None:
        texts.append(sums.digest_for(item.name) if item.name else sums.digest_for_url(item.url))
    given = [text for text in texts if text]
    if not given:
        return "", ""
    if args.range is not None or args.start_pos is not None:
        raise UsageError("a digest is of the whole content, and --range or --start-pos fetches a "
                         "part", "leave one of them out")
    from dfly.digest import Digest
    by_algorithm: Dict[str, str] = {}
    named = shared_digest(item.url)
    for digest in map(Digest.parse, [named, *given] if named else given):
        if by_algorithm.setdefault(digest.algorithm, str(digest)) != str(digest):
            from dfly.source import shown_url
            raise UsageError(f"two {digest.algorithm} digests of {shown_url(item.url)} contradict "
                             "each other", "give the right one")
    strong = by_algorithm.pop("sha256", "")
    return strong, " ".join(sorted(by_algorithm.values()))


def span_of(args: Arguments) -> Optional[List[Optional[int]]]:
    """The bytes that --range or --start-pos names, as [start, stop): stop None = the end, a
    negative start counts from the end."""
    if args.start_pos is not None:
        return [_position(args.start_pos, "--start-pos"), None]
    if args.range is None:
        return None
    first, dash, last = args.range.partition("-")
    if not dash or not (first or last):
        raise UsageError(f"not a range: {printable(args.range)!r}",
                         "write it like 0-499, 500- or -500")
    if not first:
        count = _position(last, "--range")
        if not count:
            raise UsageError("--range -0 is nothing", "write it like -500: the last 500 bytes")
        return [-count, None]
    start = _position(first, "--range")
    if not last:
        return [start, None]
    stop = _position(last, "--range") + 1
    if stop <= start:
        raise UsageError(f"--range {printable(args.range)} ends before it begins",
                         "write it like 0-499")
    return [start, stop]


def _position(text: str, option: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise UsageError(f"{option}: not a number of bytes: {printable(text)!r}")
    return int(text)
