"""What a content is called, as text: its URL in one spelling, its task id.

A URL is http's, or dfly://sha256/HEX: a content that hosts of the cluster share and no server has,
called by its digest. dfly://sha256/HEX/NAME is the same one with a name for the file.

The client of the daemon needs no more of tasks than this, and urllib only for a URL that isn't
plain: so it is imported where it is used.
"""
from __future__ import annotations

from functools import lru_cache

from dfly.errors import UsageError

TYPE_CHECKING = False  # typing's own costs each start of a client 2 ms
if TYPE_CHECKING:
    from typing import Match, Tuple
    from urllib.parse import SplitResult

URL_MAX = 8_000          # characters; what common servers accept in a request line
TASK_ID_SIZE = 64        # hex digits
DEFAULT_PORTS = {"http": 80, "https": 443}
REMEMBERED = 128         # URLs: one download asks for the same several times
SHARED = "dfly://"       # begins the URL of a shared content

_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PLAIN = _UNRESERVED | {"/", ":"}
_NAME = _UNRESERVED | {"%"}
_HEX = frozenset("0123456789abcdef")


def is_task_id(text: str) -> bool:
    return len(text) == TASK_ID_SIZE and _HEX.issuperset(text)


def is_plain_url(url: str) -> bool:
    """True for most URLs that dfly can fetch: a name, maybe a port, and a path without escapes,
    query or fragment; or a shared content's. Everything about such a one can be told without
    urllib."""
    if is_shared_url(url):
        return _shared_value(url) != ""
    scheme, _, rest = url.partition("://")
    place, _, path = rest.partition("/")
    host, colon, port = place.partition(":")
    return (scheme in ("http", "https") and host != "" and _PLAIN.issuperset(rest)
            and ":" not in path and len(url) <= URL_MAX
            and (not colon or (port.isdecimal() and len(port) <= 5 and 0 < int(port) <= 65535)))


def is_shared_url(url: str) -> bool:
    """True if no source has it: it can only come from the swarm. It may be malformed."""
    return url[:len(SHARED)].lower() == SHARED


def shared_digest(url: str) -> str:
    """'sha256:HEX' that a shared content's URL names, "" for any other URL. UsageError."""
    if not is_shared_url(url):
        return ""
    value = _shared_value(url)
    if not value:
        raise UsageError(f"malformed URL {url[:URL_MAX]!r}", "a shared content's is "
                         "dfly://sha256/<64 hex digits>, as dfly share prints it")
    return f"sha256:{value}"


def shared_url(digest: str, name: str = "") -> str:
    """The URL of the shared content with this digest ('sha256:HEX'). `name`: of a file, or ""."""
    url = f"{SHARED}{digest.replace(':', '/')}"
    if not name:
        return url
    from urllib.parse import quote
    return f"{url}/{quote(name.encode('utf-8', 'surrogateescape'), safe='')}"


def _shared_value(url: str) -> str:
    """The hex digits in the URL of a shared content, "" if it is malformed."""
    algorithm, _, rest = url[len(SHARED):].partition("/")
    value, _, name = rest.partition("/")
    well_formed = (algorithm.lower() == "sha256" and is_task_id(value.lower())
                   and _NAME.issuperset(name) and len(url) <= URL_MAX)
    return value.lower() if well_formed else ""


@lru_cache(REMEMBERED)
def canonical_url(url: str, filters: Tuple[str, ...] = ()) -> str:
    """`url` in one spelling: lower-case scheme and host, no default port, no fragment, path
    escapes normalised, user name and password removed, and without the query parameters named
    in `filters`. The order of the other parameters is kept: servers may care."""
    from urllib.parse import unquote, urlunsplit
    digest = shared_digest(url)
    if digest:
        return shared_url(digest)
    parts = split_url(url)
    assert parts.hostname is not None
    host = parts.hostname.lower()
    if ":" in host:
        host = f"[{host}]"
    default = DEFAULT_PORTS.get(parts.scheme)
    port = f":{parts.port}" if parts.port not in (None, default) else ""
    path = _normal_escapes(parts.path) or "/"
    query = "&".join(pair for pair in parts.query.split("&")
                     if pair and unquote(pair.partition("=")[0]) not in filters)
    return urlunsplit((parts.scheme, host + port, path, _normal_escapes(query), ""))


def _normal_escapes(text: str) -> str:
    """Percent-escapes in one spelling (RFC 3986 6.2.2): needless ones undone, hex upper-case,
    anything not ASCII escaped. %2F stays: it isn't the same as a slash."""
    import re
    from urllib.parse import quote

    def one(match: Match[str]) -> str:
        char = chr(int(match.group(1), 16))
        return char if char in _UNRESERVED else f"%{match.group(1).upper()}"
    return quote(re.sub("%([0-9A-Fa-f]{2})", one, text), safe="/:@!$&'()*+,;=~-._?%")


@lru_cache(REMEMBERED)
def split_url(url: str) -> SplitResult:
    """`urlsplit` that refuses what can't be asked of a server, in one line."""
    from urllib.parse import urlsplit
    shared_digest(url)   # a malformed one is told so
    if len(url) > URL_MAX:
        raise UsageError(f"URL of {len(url)} characters", f"the longest is {URL_MAX}")
    if any(c <= " " or c == "\x7f" for c in url):
        raise UsageError(f"malformed URL {url!r}", "escape spaces and control characters (%20)")
    if any("\ud800" <= c <= "\udfff" for c in url):   # from an argument that isn't UTF-8, or JSON
        raise UsageError(f"malformed URL {url!r}", "escape what isn't UTF-8 (%FF)")
    try:
        parts = urlsplit(url)
        port_fits = parts.port is None or parts.port > 0
    except ValueError as error:
        raise UsageError(f"malformed URL {url!r}", str(error)) from None
    if parts.scheme not in ("http", "https"):
        scheme = parts.scheme or "none"
        raise UsageError(f"unknown scheme in URL {url!r} ({scheme})", "use http:// or https://")
    if not parts.hostname or not port_fits:
        raise UsageError(f"malformed URL {url!r}", "it names no host or no valid port")
    return parts


def split_any(url: str) -> SplitResult:
    """As split_url, and of a shared content's URL, too."""
    if not shared_digest(url):
        return split_url(url)
    from urllib.parse import urlsplit
    return urlsplit(url)


def origin_of(url: str) -> str:
    """'scheme://host:port' of a URL that dfly can fetch, the port always told: who may be told
    the same secrets. Of a shared content it is no place: nobody is told any."""
    if shared_digest(url):
        return f"{SHARED}sha256"
    parts = split_url(url)
    assert parts.hostname is not None
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    return f"{parts.scheme}://{parts.hostname.lower()}:{port}"


def join_address(host: str, port: int) -> str:
    """'host:port', an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
