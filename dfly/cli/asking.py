"""How `dfly get` wants its sources asked: dfly.access.Access as JSON, gathered from options,
settings, the environment and files.

Files are read here, by whoever calls: the daemon may be another user, and the manager another
host. Nothing is asked of any source here.
"""
from __future__ import annotations

import os

from dfly.cli.parser import Arguments
from dfly.clock import Clock
from dfly.config import GetSettings
from dfly.errors import FileError, UsageError, printable
from dfly.names import is_shared_url

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

    from dfly.cli.cookies import Jar

    Json = Dict[str, Any]

PEM_MAX = 256 * 1024     # bytes of certificates: what travels with a wish
FILE_MAX = 4 << 20       # bytes of any file of certificates, comments and all
FILES_MAX = 2_000        # files in a folder of certificates
PROTOCOLS = {"": "", "auto": "", "pfs": "", "tlsv1_2": "TLSv1_2", "tlsv1_3": "TLSv1_3"}


class Asking:
    """What holds for all URLs of a command line; `access` adds what holds for one."""

    def __init__(self, args: Arguments, settings: GetSettings,
                 warn: Callable[[str], None]) -> None:
        self._args = args
        self._settings = settings
        self._warn = warn
        self._clock = Clock()
        self._cookies: Optional[Jar] = None
        self._headers = _headers(args, settings)
        self._common: Json = {"headers": self._headers, "manners": _manners(args, settings),
                              "tls": _tls(args, settings)}
        proxies = _proxies(args, settings)
        if proxies is not None:
            self._common["proxies"] = proxies
        if args.auth_no_challenge:
            self._common["preempt"] = True
        if args.save_cookies:
            self._common["wants_cookies"] = True
        self._user: Optional[str] = args.user
        self._password: Optional[str] = None

    def access(self, urls: Sequence[str]) -> Json:
        """How to ask for a file that lies at each of `urls`."""
        found = dict(self._common)
        if any(map(is_shared_url, urls)):
            return found   # nobody is asked but hosts of the cluster
        logins = [login for url in urls for login in self._login(url)]
        if logins:
            found["logins"] = logins
        if len(urls) > 1:
            from dfly.names import origin_of
            found["origins"] = sorted(set(map(origin_of, urls)))
        if self._args.load_cookies:
            found["cookies"] = self._jar().lines_for(urls, self._clock.wall())
        return {name: value for name, value in found.items() if value or name == "proxies"}

    # ---------------------------------------------------------------------------- passwords
    def _login(self, url: str) -> List[Json]:
        login = self._given_login(url) or self._from_netrc(url)
        if login is None:
            return []
        from dfly.names import origin_of
        return [{"origin": origin_of(url), "user": login[0], "password": login[1]}]

    def _given_login(self, url: str) -> Optional[Tuple[str, str]]:
        """What options say; asked for once, whatever the number of files."""
        args = self._args
        if args.use_askpass is not None and self._password is None:
            from dfly.cli.logins import ask_login
            self._user, self._password = ask_login(url, args.use_askpass, args.user or "")
        if self._user is None:
            if args.password is not None or args.password_file or args.ask_password:
                raise UsageError("a password without a user", "name one by --user")
            return None
        if self._password is None:
            if args.ask_password:
                from dfly.cli.logins import ask_password
                self._password = ask_password(self._user)
            elif args.password_file:
                from dfly.cli.logins import password_from_file
                self._password = password_from_file(args.password_file)
            elif args.password is not None:
                self._password = args.password
            else:   # wget, too, looks there for the password of a user that is named
                return self._from_netrc(url, self._user) or (self._user, "")
        return self._user, self._password

    def _from_netrc(self, url: str, user: Optional[str] = None) -> Optional[Tuple[str, str]]:
        path = os.environ.get("NETRC") or os.path.join(os.path.expanduser("~"), ".netrc")
        if self._settings.no_netrc or not os.path.exists(path):
            return None
        from dfly.cli.logins import netrc_login
        return netrc_login(url, path, user, self._warn)

    # ------------------------------------------------------------------------------ cookies
    def _jar(self) -> Jar:
        if self._cookies is None:
            from dfly.cli.cookies import Jar
            path = self._args.load_cookies
            if path and not os.path.exists(path):   # often that of --save-cookies, to be made
                self._warn(f"there are no cookies yet: {path} isn't there")
                path = None
            self._cookies = Jar.read(path) if path else Jar()
        return self._cookies

    def save_cookies(self, lines: Sequence[str]) -> None:
        """What sources set goes to the file that --save-cookies names, with what was loaded."""
        jar = self._jar()
        jar.merge(lines)
        jar.save(self._args.save_cookies, self._clock.wall(),
                 keep_session=self._args.keep_session_cookies)


def _headers(args: Arguments, settings: GetSettings) -> List[Tuple[str, str]]:
    headers = [_header(text) for text in args.headers]
    given = {name.lower() for name, _ in headers}
    extra = [("User-Agent", settings.user_agent), ("Referer", args.referer)]
    if args.no_cache:
        extra += [("Cache-Control", "no-cache"), ("Pragma", "no-cache")]
    headers += [_header(f"{name}: {value}") for name, value in extra
                if value and name.lower() not in given]
    return headers


def _header(text: str) -> Tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or any(c in text for c in "\r\n\0"):
        raise UsageError(f"not a header: {printable(name)!r}", "write it like 'Name: value'")
    return name.strip(), value.strip()


def _manners(args: Arguments, settings: GetSettings) -> Json:
    def timeout(own: Optional[float]) -> float:
        return settings.timeout_s if own is None else own

    if args.inet4_only and args.inet6_only:
        raise UsageError("-4 and -6 contradict each other", "give one of them")
    return {"connect_timeout_s": timeout(settings.connect_timeout_s),
            "read_timeout_s": timeout(settings.read_timeout_s),
            "tries": settings.tries, "retry_wait_s": settings.waitretry_s,
            "retry_statuses": list(settings.retry_on_http_error),
            "retry_refused": settings.retry_connrefused, "max_redirects": settings.max_redirect,
            "family": 4 if args.inet4_only else 6 if args.inet6_only else 0}


# ---------------------------------------------------------------------------------- proxies
def _proxies(args: Arguments, settings: GetSettings) -> Optional[Json]:
    """None: nothing was said here, the daemon's own environment holds."""
    told = _executed(args.execute)
    if settings.no_proxy or told.get("use_proxy") in ("off", "no", "0"):
        return {}
    by_scheme = {scheme: _variable(told, f"{scheme}_proxy") or _variable(told, "all_proxy")
                 for scheme in ("http", "https")}
    chosen = [[scheme, _with_login(url, args)] for scheme, url in by_scheme.items() if url]
    if not chosen:
        return None
    return {"by_scheme": chosen, "no_proxy": _variable(told, "no_proxy")}


def _variable(told: Json, name: str) -> str:
    """Upper case, too, except HTTP_PROXY: a web server's scripts get that from a header."""
    upper = "" if name == "http_proxy" else os.environ.get(name.upper(), "")
    return str(told.get(name) or os.environ.get(name) or upper)


def _executed(commands: Sequence[str]) -> Json:
    """What -e lines say that means something here."""
    told: Json = {}
    for command in commands:
        name, equals, value = command.partition("=")
        name = name.strip().lower().replace("-", "_")
        if not equals or name not in ("http_proxy", "https_proxy", "no_proxy", "use_proxy",
                                      "robots"):
            raise UsageError(f"-e {printable(command)!r} can't be done",
                             "it takes http_proxy, https_proxy, no_proxy, use_proxy, robots; for "
                             "all else there are options")
        told[name] = value.strip()
    return told


def _with_login(url: str, args: Arguments) -> str:
    """The proxy's URL, with --proxy-user in it."""
    if args.proxy_user is None:
        return url
    from urllib.parse import quote
    scheme, slashes, rest = url.rpartition("://")
    login = quote(args.proxy_user, safe="")
    if args.proxy_password is not None:
        login += ":" + quote(args.proxy_password, safe="")
    return f"{scheme}{slashes}{login}@{rest.rpartition('@')[2]}"


# -------------------------------------------------------------------------------------- TLS
def _tls(args: Arguments, settings: GetSettings) -> Json:
    tls: Json = {}
    if settings.ca_directory:
        tls["system_ca"] = False
        tls["ca"] = _certificates_in(settings.ca_directory)
    for path in settings.ca_certificate:
        tls["ca"] = tls.get("ca", "") + _checked(_sections(read_text(path, FILE_MAX)), path)
    if len(tls.get("ca", "")) > PEM_MAX:
        raise UsageError(f"certificates of authorities of {len(tls['ca'])} bytes",
                         f"{PEM_MAX} is the most: leave out what the sources don't need")
    if settings.crl_file:
        tls["crl"] = _pem(settings.crl_file, "X509 CRL")
    if args.certificate:
        tls["cert"] = _pem(args.certificate, "CERTIFICATE")
    if args.private_key:
        if not args.certificate:
            raise UsageError("--private-key without --certificate", "name both")
        tls["key"] = _pem(args.private_key, "PRIVATE KEY")
    if settings.no_check_certificate:
        tls["verify"] = False
    if args.pinnedpubkey:
        tls["pins"] = _pins(args.pinnedpubkey)
    protocol = settings.secure_protocol.lower()
    if protocol not in PROTOCOLS:
        raise UsageError(f"--secure-protocol {printable(settings.secure_protocol)!r}",
                         "it takes auto, TLSv1_2 or TLSv1_3: older ones are broken")
    if PROTOCOLS[protocol]:
        tls["minimum"] = PROTOCOLS[protocol]
    if settings.ciphers:
        tls["ciphers"] = settings.ciphers
    return tls


def _pins(text: str) -> List[str]:
    """curl's and wget's way: hashes, or a file with the key."""
    from dfly.net.pins import parse_pins, spki_pin_of_pem
    if text.startswith("sha256//"):
        return list(parse_pins(text))
    try:
        with open(text, "rb") as file:
            return [spki_pin_of_pem(file.read(FILE_MAX))]
    except OSError as error:
        raise FileError(f"{text}: {error.strerror}") from None


def read_text(path: str, bound: int) -> str:
    """A text file of at most `bound` bytes; FileError."""
    try:
        with open(path, "rb") as file:
            data = file.read(bound + 1)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None
    if len(data) > bound:
        raise FileError(f"{path} is over {bound} bytes", "is it the right file?")
    return data.decode("utf-8", "replace")


def _pem(path: str, kind: str) -> str:
    """The text of a file that must have a PEM section of this kind in it."""
    text = read_text(path, PEM_MAX)
    if f"{kind}-----" not in text:    # behind a word more, as in RSA PRIVATE KEY
        raise FileError(f"{path}: no {kind} in it", f"PEM is wanted: -----BEGIN {kind}-----")
    return text


def _certificates_in(folder: str) -> str:
    """All certificates in a folder's files, each once."""
    try:
        names = sorted(os.listdir(folder))[:FILES_MAX]
    except OSError as error:
        raise FileError(f"{folder}: {error.strerror}") from None
    paths = sorted({os.path.realpath(os.path.join(folder, name)) for name in names})
    texts = dict.fromkeys(_sections(read_text(path, FILE_MAX)) for path in paths
                          if os.path.isfile(path))
    return _checked("".join(dict.fromkeys(texts)), folder)


def _checked(text: str, path: str) -> str:
    if not text:
        raise FileError(f"{path}: no certificates in it", "they are PEM: -----BEGIN CERTIFICATE")
    return text


def _sections(text: str) -> str:
    """The certificates of a PEM text, without what people wrote around them."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    found = []
    for part in text.split(begin)[1:]:
        inside, mark, _ = part.partition(end)
        if mark:
            found.append(begin + inside.replace("\r", "") + end + "\n")
    return "".join(found)
