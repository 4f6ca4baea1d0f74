"""What one caller's requests to sources carry, and what sources gave him to carry on.

A Visit lives as long as its HttpSource asks on behalf of the same caller. It knows his headers,
logins, cookies, proxies and whom he trusts, equips each request by the rules of who may be told
what, and learns from the answers: challenges, nonces, cookies. It sends nothing itself, and notes
for each request whether it bore a secret: a content given for one is for that caller's eyes.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Dict, Iterable, List, Optional, Tuple

from dfly.access import PLAIN, Access, Login
from dfly.names import join_address, split_url
from dfly.net.http_client import target_of
from dfly.net.route import Proxy, Route, ascii_host
from dfly.source.challenge import Credentials
from dfly.source.hops import Hop, checked_headers
from dfly.source.jar import Jar
from dfly.source.proxies import proxy_for

if TYPE_CHECKING:
    from dfly.net.http_client import ClientResponse

CREDENTIALS_MAX = 200        # kept: of the caller's logins, and of those that redirects name
NO_TIMEOUT_S = 7 * 86400.0   # "none" is a week, and so is more: selectors count in an int of ms


@dataclass(frozen=True)
class Outfit:
    """What one request takes along. `login` is the Authorization that we made, "" = none;
    `own_login` = the caller gave one himself; `secret` = some of it is for the source only."""

    headers: Tuple[Tuple[str, str], ...]
    route: Route
    login: str
    own_login: bool
    cookie: str
    secret: bool


class Visit:
    """See the head of this file. UsageError for an access that can't be used."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.jar = Jar(access.cookies)
        self.was_told = False    # a secret of the caller was sent to some source
        self._headers = checked_headers(access.headers)
        self._credentials: Dict[Tuple[str, str, str], Credentials] = {}   # origin, user, password
        self._at_proxies: Dict[Proxy, Credentials] = {}

    @property
    def read_timeout_s(self) -> float:
        return _bounded(self.access.manners.read_timeout_s)

    def outfit(self, hop: Hop) -> Outfit:
        """For a GET of the hop's URL."""
        is_trusted = hop.origin == hop.home or hop.origin in self.access.origins
        headers = [(name, value) for name, value in self._headers
                   if is_trusted or name.lower() in PLAIN]
        names = {name.lower() for name, _ in headers}
        login, own_login = "", "authorization" in names
        credentials = self._credentials_for(hop)
        if credentials is not None and not own_login:
            login = credentials.header("GET", target_of(split_url(hop.url)))
            headers += [("Authorization", login)] if login else []
        cookie, is_callers = self.jar.header(hop.url)
        headers = _with_cookie(headers, cookie) if cookie else headers
        secret = bool(names - set(PLAIN) or login or is_callers
                      or (cookie and self.was_told)    # perhaps it was given for a secret
                      or (is_trusted and self.access.tls.cert))
        return Outfit(tuple(headers), self._route(hop, is_trusted), login, own_login, cookie,
                      secret)

    def _route(self, hop: Hop, is_trusted: bool) -> Route:
        parts, manners = split_url(hop.url), self.access.manners
        tls = self.access.tls
        if tls.cert and not is_trusted:    # who we are is for those whom the caller named
            tls = replace(tls, cert="", key="")
        proxy = proxy_for(parts, self.access.proxies)
        login = ""
        if proxy is not None and proxy.user:
            assert parts.hostname is not None
            credentials = self._at_proxies.setdefault(
                proxy, Credentials(proxy.user, proxy.password, preempt=True))
            login = (credentials.header("GET", hop.url) if parts.scheme == "http" else
                     credentials.header("CONNECT", join_address(
                         ascii_host(parts.hostname), parts.port or 443)))
        return Route(tls, proxy, login, family=manners.family,
                     connect_timeout_s=_bounded(manners.connect_timeout_s))

    def _credentials_for(self, hop: Hop) -> Optional[Credentials]:
        for login in (hop.login, *self.access.logins):
            if login is not None and login.origin == hop.origin:
                if len(self._credentials) >= CREDENTIALS_MAX:
                    self._credentials.clear()
                return self._credentials.setdefault(
                    (login.origin, login.user, login.password), self._fresh(login))
        return None

    def _fresh(self, login: Login) -> Credentials:
        return Credentials(login.user, login.password, preempt=self.access.preempt)

    # ----------------------------------------------------------------------------- answers
    def heard(self, hop: Hop, sent: Outfit, response: ClientResponse) -> None:
        """Learn from an answer, whatever it is."""
        self.was_told = self.was_told or sent.secret
        self.jar.keep(hop.url, response.headers.all("Set-Cookie"))
        told = response.headers.get("Authentication-Info")
        credentials = self._credentials_for(hop)
        if told is not None and credentials is not None and sent.login:
            credentials.heard(told)

    def met(self, hop: Hop, sent: Outfit, challenges: Iterable[str], answers: int) -> bool:
        """True if the source's challenges can be met: the next outfit does. `answers` = how many
        were to this request before."""
        credentials = self._credentials_for(hop)
        if credentials is None or sent.own_login:
            return False
        return credentials.take(challenges, sent.login, answers)

    def met_proxy(self, sent: Outfit, challenges: Iterable[str], answers: int) -> bool:
        """The same for the challenges of a proxy."""
        proxy = sent.route.proxy
        credentials = None if proxy is None else self._at_proxies.get(proxy)
        return credentials is not None and credentials.take(
            challenges, sent.route.proxy_login, answers)


def _bounded(timeout_s: float) -> float:
    return min(timeout_s or NO_TIMEOUT_S, NO_TIMEOUT_S)


def _with_cookie(headers: List[Tuple[str, str]], cookie: str) -> List[Tuple[str, str]]:
    """One Cookie header, what the caller gave himself first."""
    given = [value for name, value in headers if name.lower() == "cookie"]
    return [*(pair for pair in headers if pair[0].lower() != "cookie"),
            ("Cookie", "; ".join([*given, cookie]))]
