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
from dfly.errors import UsageError, printable
from dfly.names import is_shared_url

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

    from dfly.cli.cookies import Jar

    Json = Dict[str, Any]

NO = ("off", "no", "0")   # as a .wgetrc may say it


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


def _tls(args: Arguments, settings: GetSettings) -> Json:
    said = (settings.ca_directory, settings.ca_certificate, settings.crl_file, args.certificate,
            args.private_key, settings.no_check_certificate, args.pinnedpubkey, settings.ciphers,
            settings.secure_protocol != "auto")
    if not any(said):   # as mostly
        return {}
    from dfly.cli.trust import tls_of
    return tls_of(args, settings)


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
    if settings.no_proxy or told.get("use_proxy") in NO:
        return {}
    everywhere = _variable(told, "all_proxy")
    by_scheme = {scheme: _variable(told, f"{scheme}_proxy", everywhere)
                 for scheme in ("http", "https")}
    chosen = [[scheme, _with_login(url, args)] for scheme, url in by_scheme.items() if url]
    straight = _variable(told, "no_proxy")
    if not chosen:   # exceptions alone are from proxies that aren't known here; * is from them all
        return {} if "*" in straight.replace(",", " ").split() else None
    return {"by_scheme": chosen, "no_proxy": straight}


def _variable(told: Json, name: str, otherwise: str = "") -> str:
    """What is said first, be it nothing. Upper case counts, too, except HTTP_PROXY: a web server's
    scripts get that from a header. (A daemon takes it, source/proxies.py: it knows whether it is
    such a script, and whoever set its environment meant it.)"""
    upper = "" if name == "http_proxy" else name.upper()
    said = (told.get(name), os.environ.get(name), os.environ.get(upper))
    return str(next((value for value in said if value is not None), otherwise))


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
