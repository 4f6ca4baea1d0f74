"""How a source is asked on behalf of one caller: by which headers and logins, over which proxies,
believing whom, with which manners.

These are values; they travel as JSON from `dfly get` to the daemon and with a Join to the manager,
every count and length bounded here. Three kinds, kept apart because they mean different things:

- Secrets (`headers`, `logins`, `cookies`): for the source only, never stored, logged or passed on.
  A task that the source gave to one of them is private.
- Trust (`proxies`, `tls`): who may have made up the bytes. Callers that trust differently don't
  share a task by its URL, so `trust_name` is part of its name.
- Manners (times, tries, redirects): change nothing about the content.

A client certificate's key never leaves its host: such a source is asked by that host alone.
"""
from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple, Type, TypeVar
from urllib.parse import unquote, urlunsplit

from dfly.digest import Digest
from dfly.errors import ProtocolError, UsageError
from dfly.names import canonical_url, is_shared_url, origin_of, shared_digest, split_url
from dfly.task import TaskSpec

Headers = Tuple[Tuple[str, str], ...]
T = TypeVar("T")

HEADERS_MAX = 100                # request headers of a caller
HEADERS_BYTES_MAX = 64 * 1024    # of all of them
LISTED_MAX = 100                 # entries of each shorter list: logins, origins, pins, ...
LISTED_BYTES_MAX = 64 * 1024
COOKIES_MAX = 1_000              # lines of a cookie file that may go to one source
COOKIES_BYTES_MAX = 64 * 1024
TEXT_MAX = 256 * 1024            # characters: PEM of a distribution's whole CA bundle fits
FAMILIES = (0, 4, 6)
VARYING = ("accept", "accept-language", "user-agent")   # headers that are no secrets; by them a
NEUTRAL = ("cache-control", "pragma")                   # source may choose, by these it doesn't
PLAIN = VARYING + NEUTRAL


@dataclass(frozen=True)
class Login:
    """User and password for one origin ('https://host:port', the port always told)."""

    origin: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class TlsSettings:
    """Whom to trust, and what to show when asked. Texts are PEM, never paths: they may come from
    another host."""

    ca: str = ""                   # certificates trusted beside the system's
    system_ca: bool = True         # False: only those in `ca`
    verify: bool = True
    crl: str = ""                  # revoked certificates
    pins: Tuple[str, ...] = ()     # base64 of SHA-256 of public keys; any other key is refused
    minimum: str = ""              # TLSv1_2 or TLSv1_3; "" = TLSv1_2
    ciphers: str = ""              # as OpenSSL writes them
    cert: str = field(default="", repr=False)  # this client's certificate (chain) ...
    key: str = field(default="", repr=False)   # ... and its key; "" = inside `cert`


@dataclass(frozen=True)
class Proxies:
    """`by_scheme` maps the scheme of what is asked for to the URL of a proxy; `no_proxy` are hosts
    and domains asked directly, as the environment variable of that name has them."""

    by_scheme: Tuple[Tuple[str, str], ...] = field(default=(), repr=False)
    no_proxy: str = ""


@dataclass(frozen=True)
class Manners:
    """`read_timeout_s` and `connect_timeout_s` 0 = none; `tries` 0 = for ever."""

    connect_timeout_s: float = 30.0
    read_timeout_s: float = 30.0
    tries: int = 20
    retry_wait_s: float = 10.0             # the longest pause between two tries
    retry_statuses: Tuple[int, ...] = ()   # worth another try beside the usual ones
    retry_refused: bool = False            # so is a refused connection, or a name not found
    max_redirects: int = 20
    family: int = 0                        # 4, 6: that IP version only


@dataclass(frozen=True)
class Access:
    """`origins`: those beside the URL's own that may be told the caller's headers. `proxies` None:
    whatever the process that asks has in its environment."""

    headers: Headers = ()
    logins: Tuple[Login, ...] = ()
    origins: Tuple[str, ...] = ()
    preempt: bool = False                # send a password before it is asked for
    cookies: Tuple[str, ...] = ()        # lines of a Netscape cookie file
    wants_cookies: bool = False          # those that the source sets are to be told
    proxies: Optional[Proxies] = None
    tls: TlsSettings = TlsSettings()
    manners: Manners = Manners()

    @property
    def secrets(self) -> Tuple[object, ...]:
        """What must be the same for two callers to be as one to a source."""
        return self.headers, self.logins, self.cookies, self.preempt

    @property
    def stays_here(self) -> bool:
        """True if it must not be sent to another host."""
        return bool(self.tls.cert)

    @property
    def trust_name(self) -> str:
        """32 hex digits that name whom this caller believes, and which variant of a content he
        asks for; "" = as usual."""
        if self.tls == TlsSettings() and self.proxies is None and not self.variant:
            return ""
        tls = asdict(replace(self.tls, key=""))
        proxies = None if self.proxies is None else sorted(
            (scheme, _without_password(url)) for scheme, url in self.proxies.by_scheme)
        seal = json.dumps([tls, proxies, self.variant], sort_keys=True).encode()
        return hashlib.sha256(b"dfly trust\0" + seal).hexdigest()[:32]

    @property
    def name(self) -> str:
        """64 hex digits that name all of it, secrets and all, without keeping them."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    @property
    def variant(self) -> Headers:
        """The headers that are no secrets and may change what the source gives."""
        return tuple((name.lower(), value) for name, value in self.headers
                     if name.lower() in VARYING)

    @property
    def volunteers(self) -> bool:
        """True if the source is told, without asking, what may change its answer, and is a
        secret."""
        return bool(self.cookies or (self.preempt and self.logins) or self.tls.cert or any(
            name.lower() not in PLAIN for name, _ in self.headers))

    def without_secrets(self) -> Access:
        """What may be remembered when the caller's request is done."""
        proxies = self.proxies and replace(self.proxies, by_scheme=tuple(
            (scheme, _without_password(url)) for scheme, url in self.proxies.by_scheme))
        return replace(self, headers=(), logins=(), cookies=(), proxies=proxies,
                       tls=replace(self.tls, cert="", key=""))

    # --------------------------------------------------------------------------- as JSON
    def to_json(self) -> Dict[str, Any]:
        """The inverse of `access_of`; what is at its default is left out."""
        return _written(self)


def _without_password(url: str) -> str:
    """A proxy's URL less its user, who has no say in whom to believe."""
    scheme, colon, rest = url.rpartition("://")
    return scheme + colon + rest.rpartition("@")[2]


def access_of(value: object) -> Access:
    """An Access from a remote's JSON; ProtocolError for what can't be one."""
    access = _read(Access, value)
    assert isinstance(access, Access)
    _bound("headers", access.headers, HEADERS_MAX, HEADERS_BYTES_MAX)
    _bound("cookies", access.cookies, COOKIES_MAX, COOKIES_BYTES_MAX)
    for name, values in (("logins", access.logins), ("origins", access.origins),
                         ("pinned keys", access.tls.pins),
                         ("statuses", access.manners.retry_statuses),
                         ("proxies", access.proxies.by_scheme if access.proxies else ())):
        _bound(name, values, LISTED_MAX, LISTED_BYTES_MAX)
    manners = access.manners
    if manners.family not in FAMILIES or min(
            manners.connect_timeout_s, manners.read_timeout_s, manners.tries,
            manners.retry_wait_s, manners.max_redirects) < 0:
        raise ProtocolError("an access with impossible times, tries or family")
    return access


def _bound(name: str, values: Tuple[object, ...], count_max: int,
           bytes_max: Optional[int] = None) -> None:
    size = sum(len(part) for value in values for part in (value if isinstance(value, tuple)
                                                          else (str(value),)))
    if len(values) > count_max or (bytes_max is not None and size > bytes_max):
        raise ProtocolError(f"an access with too many {name}")


def _written(value: Any) -> Dict[str, Any]:
    """A dataclass as JSON, less what is at its default."""
    return {entry.name: _jsonable(getattr(value, entry.name)) for entry in fields(value)
            if getattr(value, entry.name) != entry.default}


def _jsonable(value: Any) -> Any:
    if isinstance(value, (TlsSettings, Proxies, Manners, Login)):
        return _written(value)
    if isinstance(value, tuple):
        return [_jsonable(part) for part in value]
    return value


def _read(kind: Type[T], value: object) -> T:
    """A dataclass of this module from JSON: each field by the reader of its name, unknown names
    (a newer peer's) left alone."""
    if not isinstance(value, Mapping):
        raise ProtocolError(f"no {kind.__name__}: {type(value).__name__}")
    given: Dict[str, Any] = {}
    for entry in fields(kind):   # type: ignore[arg-type]
        if entry.name in value:
            given[entry.name] = _READERS[str(entry.type)](value[entry.name])
    try:
        return kind(**given)
    except TypeError:
        raise ProtocolError(f"a {kind.__name__} that lacks fields") from None


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_MAX:
        raise ProtocolError("an access with a text that is none, or too long")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ProtocolError("an access with a flag that is none")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
        raise ProtocolError("an access with a number that is none")
    return value


def _count(value: object) -> int:
    number = _number(value)
    if not isinstance(number, int):
        raise ProtocolError("an access with a count that is none")
    return number


def _list(value: object) -> Iterable[Any]:
    if not isinstance(value, list) or len(value) > COOKIES_MAX:
        raise ProtocolError("an access with a list that is none, or too long")
    return value


def _pair(value: object) -> Tuple[str, str]:
    first, second = _pair_of(value)
    return _text(first), _text(second)


def _pair_of(value: object) -> Tuple[Any, Any]:
    if not isinstance(value, list) or len(value) != 2:
        raise ProtocolError("an access with a pair that is none")
    return value[0], value[1]


_READERS: Dict[str, Any] = {
    "str": _text, "bool": _flag, "float": _number, "int": _count,
    "Headers": lambda value: tuple(map(_pair, _list(value))),
    "Tuple[Tuple[str, str], ...]": lambda value: tuple(map(_pair, _list(value))),
    "Tuple[str, ...]": lambda value: tuple(map(_text, _list(value))),
    "Tuple[int, ...]": lambda value: tuple(map(_count, _list(value))),
    "Tuple[Login, ...]": lambda value: tuple(_read(Login, part) for part in _list(value)),
    "Optional[Proxies]": lambda value: None if value is None else _read(Proxies, value),
    "TlsSettings": lambda value: _read(TlsSettings, value),
    "Manners": lambda value: _read(Manners, value),
}


def settled(spec: TaskSpec, access: Access) -> Tuple[TaskSpec, Access]:
    """What a caller asked for with users and passwords out of its URLs, where they would be
    remembered, and named by whom he believes. UsageError for a URL that can't be fetched."""
    if is_shared_url(spec.url):
        return _settled_shared(spec), Access(manners=access.manners)
    logins: List[Login] = list(access.logins)
    url, *mirrors = (_without_login(url, logins) for url in (spec.url, *spec.mirrors))
    return (replace(spec, url=url, mirrors=tuple(mirrors), trust=access.trust_name),
            replace(access, logins=tuple(logins)))


def _settled_shared(spec: TaskSpec) -> TaskSpec:
    """A shared content is its digest and nothing else: no source is told or believed anything."""
    digest = Digest.parse(shared_digest(spec.url))
    if spec.digest not in (None, digest):
        raise UsageError(f"{spec.digest} contradicts the digest in the URL", "leave one out")
    if spec.mirrors:
        raise UsageError("a shared content has no mirrors", "name one URL, by http:// or dfly://")
    if spec.span is not None:
        raise UsageError("a part of a shared content can't be named", "fetch all of it")
    return TaskSpec(canonical_url(spec.url), digest=digest)


def _without_login(url: str, logins: List[Login]) -> str:
    """`url` less its user and password, which are put before `logins`."""
    parts = split_url(url)
    if parts.username is None and parts.password is None:
        return url
    logins.insert(0, Login(origin_of(url), unquote(parts.username or ""),
                           unquote(parts.password or "")))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


# ---------------------------------------------------------------------------- what it answered
@dataclass(frozen=True)
class SourceFacts:
    """What a source said about a content, beside the content. Names are plain base names, never
    paths, "" = none told; `headers` are the answer's, less those that may be secrets; `cookies`
    (lines of a Netscape cookie file) are for the caller whose request was answered."""

    status: int = 0
    reason: str = ""
    headers: Headers = ()
    file_name: str = ""       # by Content-Disposition
    final_name: str = ""      # the last part of the path that redirects led to
    cookies: Tuple[str, ...] = ()

    def to_json(self) -> Dict[str, Any]:
        """The inverse of `facts_of`."""
        return _written(self)


def facts_of(value: object) -> SourceFacts:
    """SourceFacts from a remote's JSON; ProtocolError for what can't be."""
    facts = _read(SourceFacts, value)
    _bound("headers", facts.headers, HEADERS_MAX, HEADERS_BYTES_MAX)
    _bound("cookies", facts.cookies, COOKIES_MAX, COOKIES_BYTES_MAX)
    return facts
