"""Lists of URLs (-i): one a line, maybe after its digest; relative ones lead on from a base (-B).

A line that can't be used is told of by its number and doesn't stop the others. Empty lines and
those that begin with '#' are passed over; wget would take the latter for URLs that can't be.
"""
from __future__ import annotations

import re
from typing import List, NamedTuple, Optional, Tuple

from dfly.cli.inputs import read_input, shown
from dfly.cli.sums import algorithm_of
from dfly.digest import Digest
from dfly.errors import UsageError, printable
from dfly.names import canonical_url, is_shared_url, split_url
from dfly.units import MIB

BYTES_MAX = 16 * MIB
URLS_MAX = 100_000
_ALGORITHM = re.compile(r"(sha|md)-?[0-9]+[:=]", re.IGNORECASE)


class Listed(NamedTuple):
    """`digest` as Digest writes it, "" = none told. `error`: the line can't be used, `url` is
    all of it."""

    url: str
    digest: str
    line: int
    error: Optional[UsageError] = None


def read_list(path: str, base: Optional[str] = None) -> List[Listed]:
    """From a file, '-' = standard input. FileError; UsageError where no line can be looked at."""
    text = read_input(path, BYTES_MAX).decode("utf-8-sig", errors="surrogateescape")
    return parse_list(text, shown(path), base)


def parse_list(text: str, where: str, base: Optional[str] = None) -> List[Listed]:
    """`where` is what messages call it."""
    if base:
        split_url(base)
    listed: List[Listed] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if len(listed) == URLS_MAX:
            raise UsageError(f"{where} has more than {URLS_MAX} URLs", "cut it into several")
        try:
            digest, url = _parted(line)
            listed.append(Listed(url_of(url, base), digest, number))
        except UsageError as error:
            error = UsageError(f"{where}:{number}: {error.what}", error.hint)
            listed.append(Listed(line, "", number, error))
    return listed


def url_of(text: str, base: Optional[str] = None) -> str:
    """What was written as a URL dfly can fetch: relative to `base`, or, without one, with http://
    put before a bare host; spaces in its path escaped, dot segments resolved. All that is wget's.
    UsageError."""
    if "://" not in text.partition("?")[0]:
        if base:
            from urllib.parse import urljoin
            try:
                text = urljoin(base, text)
            except ValueError:
                raise UsageError(f"malformed URL {printable(text)!r}") from None
        elif text[:1] not in ("", "/", "?", "."):
            text = "http://" + text
    if is_shared_url(text):
        canonical_url(text)
        return text
    path = text.partition("://")[2].partition("/")[2]
    if " " in path:
        text = text[:-len(path)] + path.replace(" ", "%20")
    if "/." in text:
        text = _without_dots(text)
    split_url(text)
    return text


def _without_dots(url: str) -> str:
    """RFC 3986 5.2.4: /a/../b is /b, /a/./b is /a/b, and above the root is the root."""
    scheme, mark, rest = url.partition("://")
    end = min((at for at in (rest.find("?"), rest.find("#")) if at >= 0), default=len(rest))
    host, *parts = rest[:end].split("/")
    kept: List[str] = []
    for part in parts:
        if part == ".." and kept:
            kept.pop()
        elif part not in (".", ".."):
            kept.append(part)
    if parts and parts[-1] in (".", ".."):
        kept.append("")   # it is a folder's name
    return f"{scheme}{mark}{'/'.join((host, *kept))}{rest[end:]}"


def _parted(line: str) -> Tuple[str, str]:
    """(digest or "", URL)."""
    first, _, rest = line.replace("\t", " ").partition(" ")
    algorithm = algorithm_of(first)
    if not rest or not (algorithm or _ALGORITHM.match(first)):
        return "", line
    digest = Digest.parse(f"{algorithm}:{first}" if algorithm else first)
    return str(digest), rest.strip().lstrip("*")
