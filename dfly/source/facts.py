"""What an answer says beside its content, made fit to be shown and passed on.

Whatever a source writes into its headers ends on terminals and in file names, maybe on another
host: text is bounded and printable here, names are plain base names, and headers that hold
secrets or are about one connection stay out.
"""
from __future__ import annotations

import re
from typing import Dict, List, Optional, Tuple
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from dfly.access import HEADERS_MAX, SourceFacts
from dfly.errors import printable
from dfly.source import shown_url
from dfly.wire.http11 import REASONS, Headers, ResponseHead

FILE_NAME_MAX = 255            # bytes of a name that file systems take
HEADERS_BYTES_MAX = 16 * 1024  # of all headers that are told
DISPOSITION_MAX = 4 * 1024     # characters that are looked at
SECRET = ("set-cookie", "set-cookie2", "www-authenticate", "authentication-info")
_PARAMETER = re.compile(
    r';\s*([A-Za-z0-9!#$&+.^_`|~-]+\*?)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')
_CHARSETS = {"utf-8": "utf-8", "iso-8859-1": "latin-1"}   # all that RFC 8187 knows


def facts_of_answer(head: ResponseHead, final_url: str,
                    cookies: Tuple[str, ...] = ()) -> SourceFacts:
    """Of the last answer; `cookies` are passed on as they are."""
    reason = printable(head.reason[:80]) or REASONS.get(head.status, "")
    return SourceFacts(head.status, reason, _shown_headers(head.headers),
                       file_name(head.headers.get("Content-Disposition") or ""),
                       safe_name(unquote(urlsplit(final_url).path).rpartition("/")[2]), cookies)


def _shown_headers(headers: Headers) -> Tuple[Tuple[str, str], ...]:
    shown: List[Tuple[str, str]] = []
    room = HEADERS_BYTES_MAX
    for name, value in headers:
        kind = name.lower()
        if kind in SECRET or kind.startswith("proxy-"):
            continue
        text = printable(shown_url(value) if kind in ("location", "content-location") else value)
        room -= len(name.encode()) + len(text.encode("utf-8", "replace"))
        if room < 0 or len(shown) == HEADERS_MAX:
            break
        shown.append((name, text))
    return tuple(shown)


# ------------------------------------------------------------------------------------- names
def safe_name(text: str) -> str:
    """`text` as a plain base name; "" if nothing that can be one is left."""
    name = re.split(r"[/\\]", text)[-1]
    name = "".join(c for c in name if c.isprintable()).lstrip(".").strip()
    return name if len(name.encode("utf-8", "replace")) <= FILE_NAME_MAX else ""


def file_name(disposition: str) -> str:
    """The file name of a Content-Disposition (RFC 6266) as a plain base name, or ""."""
    given: Dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(disposition[:DISPOSITION_MAX]):
        given.setdefault(name.lower(), plain or re.sub(r"\\(.)", r"\1", quoted))
    extended = _decoded(given.get("filename*", ""))
    if extended is not None:
        return safe_name(extended)
    # A header is Latin-1 by the letter; servers that put more into one mean UTF-8.
    name = given.get("filename", "")
    try:
        name = name.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return safe_name(name)
    return safe_name(name)


def _decoded(value: str) -> Optional[str]:
    """The text of UTF-8'language'%E2%82%AC (RFC 8187); None if it isn't that."""
    charset, quote, rest = value.partition("'")
    encoding = _CHARSETS.get(charset.lower())
    if not quote or encoding is None or "'" not in rest:
        return None
    try:
        return unquote_to_bytes(rest.partition("'")[2]).decode(encoding)
    except UnicodeError:
        return None
