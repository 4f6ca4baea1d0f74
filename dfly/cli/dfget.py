"""dfly called as `dfget`: Dragonfly 1.x's options, put into those of `dfly get`.

`translate` is pure: it reads a command line as dfget 1.0.6 did (Go's pflag: `-o x`, `-ox`, `-o=x`,
`--output x`, `--output=x`, `-bo x`, `--notbs=false`; of an option given twice the last counts; an
empty value is none) and gives one for `dfly get`, with the warnings to print. FLAGS is all there
is to know of an option: its spellings, what became of it, and the function that translates it;
--help and dfget(1) tell the same. Nothing here downloads or knows how; `dfly get` does, by way of
the same table of commands as ever, and what it says names its own options.
"""
from __future__ import annotations

import re

from dfly import __version__
from dfly.cli.target import name_from_url
from dfly.config import MANAGER_PORT
from dfly.errors import UsageError, printable
from dfly.names import canonical_url

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterator, List, Tuple

    Given = Dict[str, List[str]]                    # long name: its values, in order
    Translator = Callable[[str, List[str]], List[str]]  # value, warnings to add to: words

OLD_PORT = 8002  # a supernode's, which nothing of dfly listens on unless it is told to
HINT = "see dfget --help"
TRUE, FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_RATE = re.compile(r"(\d+)(?:([KMG])B?|([kmg])|B)?", re.ASCII)  # units of 1024, all of them
_SPAN = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)", re.ASCII)
_SPAN_S = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0,
           "m": 60.0, "h": 3600.0}


# ------------------------------------------------------------------------------ how values change
def _as(option: str) -> Translator:
    """The same value under another name."""
    return lambda value, warnings: [f"{option}={value}"]


def _switch(option: str) -> Translator:
    return lambda value, warnings: [option]


def _rate(value: str, warnings: List[str]) -> List[str]:
    """dfly's own 20MB is 1000s, and dfget's was 1024s."""
    match = _RATE.fullmatch(value)
    if match is None:
        raise UsageError(f"--locallimit: not a rate: {value!r}", "write it like 20M, 512K or 1G")
    return [f"--limit-rate={match[1]}{match[2] or match[3] or ''}"]


def _span(value: str, warnings: List[str]) -> List[str]:
    """Go's 1m30s (1.x) or a plain number of seconds (0.x); 0 was none."""
    if value.isascii() and value.isdecimal():
        total_s = float(value[:12])
    elif re.fullmatch(f"(?:{_SPAN.pattern})+", value, re.ASCII):
        total_s = sum(float(number) * _SPAN_S[unit] for number, unit in _SPAN.findall(value))
    else:
        raise UsageError(f"--timeout: not a duration: {value!r}", "write it like 90, 90s or 1m30s")
    if total_s == 0:
        return []
    return ["--deadline=" + f"{max(total_s, 0.001):.3f}".rstrip("0").rstrip(".")]


def _nodes(value: str, warnings: List[str]) -> List[str]:
    """'host:port=weight,...': a heavier one was asked more often; a better manager comes first."""
    weighed = []
    for place, text in enumerate(filter(None, map(str.strip, value.split(",")))):
        address, equals, weight = text.partition("=")
        if not address or (equals and not (weight.isascii() and weight.isdecimal()
                                           and 0 < len(weight) < 10 and int(weight))):
            raise UsageError(f"--node: not a node: {text!r}", "write it like host:port=weight, "
                             "where the weight is a number from 1")
        if address.endswith(f":{OLD_PORT}"):
            warnings.append(f"--node {address}: {OLD_PORT} was a supernode's port; a manager of "
                            f"dfly listens on {MANAGER_PORT}, unless it was told otherwise")
        weighed.append((-int(weight or 1), place, address))
    addresses = ",".join(address for _, _, address in sorted(weighed))
    return [f"--manager={addresses}"] if addresses else []


def _filter(value: str, warnings: List[str]) -> List[str]:
    names = ",".join(filter(None, value.split("&")))
    return [f"--filter={names}"] if names else []


def _pattern(value: str, warnings: List[str]) -> List[str]:
    if value not in ("p2p", "cdn", "source"):
        raise UsageError(f"--pattern: no such pattern: {value!r}", "it is p2p, cdn or source")
    if value == "cdn":
        warnings.append("--pattern cdn is as p2p: a manager sends what no peer has")
    return ["--no-p2p"] if value == "source" else []


def _certificates(value: str, warnings: List[str]) -> List[str]:
    return [f"--ca-certificate={path}" for path in value.split(",") if path]


# ------------------------------------------------------------------------------ the options
class Flag:
    """An option of dfget: how it was written, and what it means now. `translate` None: nothing."""

    def __init__(self, spelling: str, metavar: str, meaning: str,
                 translate: "Translator | None" = None) -> None:
        self.spelling = spelling
        self.names = spelling.split(", ")
        self.name = self.names[-1]
        self.metavar = metavar  # "" = a switch
        self.meaning = meaning
        self.translate = translate


KEPT = (
    Flag("-u, --url", "URL", "what to download", lambda value, warnings: [value]),
    Flag("-o, --output", "FILE", "write to FILE, replacing it; without this, to a file in the "
         "current folder that bears the last part of the URL's name", _as("--output-document")),
    Flag("-n, --node", "HOST:PORT=WEIGHT", "managers, for a daemon that is started now: a comma "
         f"list, the heaviest asked first; a host without a port is taken to listen on "
         f"{MANAGER_PORT}, the manager's port, not on {OLD_PORT}, the supernode's; may be repeated",
         _nodes),
    Flag("-s, --locallimit", "RATE", "most bytes a second for this download: 20M, 512K or 1G "
         "(1024s, also when written as 20MB); without this there is no limit (20M in dfget)",
         _rate),
    Flag("-e, --timeout", "TIME", "give the whole download up after this long: 90 (seconds), "
         "1m30s; without this it may take as long as it makes progress", _span),
    Flag("-m, --md5", "HEX", "what the content's MD5 must be", _as("--md5")),
    Flag("-i, --identifier", "TEXT", "keep this download apart from others of the same URL that "
         "bear another identifier; has no effect beside --md5", _as("--tag")),
    Flag("-f, --filter", "'NAME&NAME'", "query parameters that don't matter: URLs that differ only "
         "in these are one file", _filter),
    Flag("-p, --pattern", "PATTERN", "p2p (what it is without this), source (no swarm: straight "
         "from the source) or cdn (as p2p, with a warning)", _pattern),
    Flag("--header", "'NAME: VALUE'", "send this header to the source; may be repeated",
         _as("--header")),
    Flag("--notbs", "", "fail rather than go to the source without a swarm",
         _switch("--no-source")),
    Flag("--cacerts", "FILE", "certificates to trust of a source, in PEM; a comma list, may be "
         "repeated", _certificates),
    Flag("--insecure", "", "don't check a source's certificate", _switch("--no-check-certificate")),
    Flag("-b, --showbar", "", "show a progress bar, also where standard error is no terminal",
         _switch("--progress=bar:force")),
    Flag("--console", "", "say more on standard error", _switch("-v")),
    Flag("--verbose", "", "say more on standard error", _switch("-v")),
)
IGNORED = (
    Flag("--totallimit", "RATE", "a host's limits are its daemon's: dfly peer --download-limit and "
         "--upload-limit"),
    Flag("--minrate", "RATE", "a download that makes progress isn't given up; bound it by "
         "--timeout"),
    Flag("--callsystem", "NAME", "nobody asks who called; dfly get --json says what a program "
         "wants to know"),
    Flag("--dfdaemon", "", "all downloads are the daemon's"),
    Flag("--clientqueue", "N", "pieces are written as they arrive; there is no queue"),
    Flag("--expiretime", "TIME", "the daemon keeps pieces while there is room: dfly peer --quota "
         "bounds it, dfly cache rm empties it"),
    Flag("--alivetime", "TIME", "how long a daemon stays without work is its own: dfly peer "
         "--idle-exit"),
    Flag("--ip", "ADDRESS", "where a daemon listens is its own: dfly peer --listen and --address"),
    Flag("--port", "PORT", "where a daemon listens is its own: dfly peer --port"),
    Flag("--home", "DIR", "where a daemon keeps pieces is its own: dfly peer --store"),
)
FLAGS = (*KEPT, *IGNORED)
REPEATED = ("--node", "--header", "--cacerts")
_BY_NAME = {name: flag for flag in FLAGS for name in flag.names}


def run(words: List[str]) -> int:
    """What `dfget WORDS` does; its exit code."""
    first = words[0] if words else ""
    if first in ("version", "--version"):
        print(f"dfget (dfly) {__version__}")
        return 0
    if first == "help" or "--help" in words or "-h" in words:
        print(overview(), end="")
        return 0
    if first == "server":
        raise UsageError("dfget server is no more", "the host's daemon sends pieces: dfly peer is "
                         "it, and a download starts it where none runs")
    from dfly.cli import complain, dispatch
    translated, warnings = translate(words)
    for warning in warnings:
        complain(f"dfget: warning: {printable(warning)}")
    return dispatch(["get", *translated])


def translate(words: List[str]) -> Tuple[List[str], List[str]]:
    """(the words after `dfly get` that mean what these words meant to dfget, warnings)."""
    given = _read(words)
    warnings: List[str] = []
    if "--url" not in given:
        raise UsageError("no URL", "name one by -u URL")
    url = given["--url"][-1]
    canonical_url(url)   # or an error
    given.setdefault("--output", [name_from_url(url)])  # by -O: as with dfget, it is replaced
    if "--md5" in given and given.pop("--identifier", []):
        warnings.append("--identifier has no effect beside --md5")
    translated: List[str] = []
    for flag in FLAGS:
        for value in given.get(flag.name, ()):
            if flag.translate is None:
                warnings.append(f"{flag.name} has no meaning any more: {flag.meaning}")
                continue
            became = flag.translate(value, warnings)
            translated += became if flag.metavar or became[0] not in translated else []
    return translated, warnings


# ------------------------------------------------------------------------------ reading
def _read(words: List[str]) -> Given:
    """What is left of the words when empty values, switches turned off and all but the last value
    of an option that isn't repeated are gone."""
    given: Given = {}
    for flag, value in _pairs(words):
        if not flag.metavar:
            value = _switched(flag, value)
        values = given.setdefault(flag.name, [])
        given[flag.name] = [*values, value] if flag.name in REPEATED else [value]
    return {name: kept for name, values in given.items()
            for kept in [list(filter(None, values))] if kept}


def _pairs(words: List[str]) -> Iterator[Tuple[Flag, str]]:
    coming = iter(words)
    for word in coming:
        if word == "--":  # what follows is no option
            for rest in coming:
                raise _stray(rest)
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            flag = _flag(name)
            yield flag, value if equals else _value(flag, coming)
        elif word.startswith("-") and word != "-":
            yield from _letters(word[1:], coming)
        else:
            raise _stray(word)


def _stray(word: str) -> UsageError:
    return UsageError(f"what is {word!r}?", "the URL goes after -u; " + HINT)


def _letters(letters: str, coming: Iterator[str]) -> Iterator[Tuple[Flag, str]]:
    """'bo' and its value, 'bofile' or 'bo=file': switches, and at most one option at the end."""
    while letters:
        flag, letters = _flag("-" + letters[0]), letters[1:]
        if letters.startswith("=") or (letters and flag.metavar):
            yield flag, letters[1:] if letters.startswith("=") else letters
            return
        yield flag, _value(flag, coming)


def _flag(name: str) -> Flag:
    if name not in _BY_NAME:
        raise UsageError(f"no option {name}", HINT)
    return _BY_NAME[name]


def _value(flag: Flag, coming: Iterator[str]) -> str:
    if not flag.metavar:
        return TRUE[0]
    value = next(coming, None)
    if value is None:
        raise UsageError(f"{flag.spelling} needs a value: {flag.metavar}", HINT)
    return value


def _switched(flag: Flag, value: str) -> str:
    if value not in TRUE and value not in FALSE:
        raise UsageError(f"{flag.name}: neither true nor false: {value!r}", HINT)
    return TRUE[0] if value in TRUE else ""


# ------------------------------------------------------------------------------ help
def overview() -> str:
    """What `dfget --help` prints."""
    import textwrap
    lines = ["usage: dfget -u URL [-o FILE] [OPTION]...", "",
             "Downloads through the swarm, by the options of Dragonfly 1.x; the program is dfly,",
             "and dfly help get tells of its own options, which can do more.", ""]
    for title, flags in (("options:", KEPT), ("accepted with a warning:", IGNORED)):
        lines.append(title)
        for flag in flags:
            lines.append(f"  {flag.spelling} {flag.metavar}".rstrip())
            lines += textwrap.wrap(flag.meaning, 90, initial_indent=" " * 8,
                                   subsequent_indent=" " * 8)
        lines.append("")
    return "\n".join(lines)
