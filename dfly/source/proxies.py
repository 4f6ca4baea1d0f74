"""Which proxy a URL is asked through: by the caller's word, or the environment's.

Only the choice is here; how a proxy is used is net/route.py's and net/http_client.py's. The rules
are those of wget and curl, as far as the two agree.
"""
from __future__ import annotations

import os
from typing import Mapping, Optional, Tuple
from urllib.parse import SplitResult, unquote, urlsplit

from dfly.access import Proxies
from dfly.errors import UsageError, printable
from dfly.names import DEFAULT_PORTS
from dfly.net.route import Proxy

PROXY_PORT = 80       # of a proxy's URL without one, as wget has it
NO_PROXY_MAX = 1_000  # entries that are looked at


def proxy_for(parts: SplitResult, wanted: Optional[Proxies],
              environment: Optional[Mapping[str, str]] = None) -> Optional[Proxy]:
    """The proxy for a URL; None = none. `wanted` None: what the environment says. UsageError for
    a proxy that can't be used."""
    if wanted is None:
        wanted = from_environment(os.environ if environment is None else environment)
    by_scheme = dict(wanted.by_scheme)
    url = by_scheme.get(parts.scheme, by_scheme.get("all", ""))
    if not url or _goes_straight(parts, wanted.no_proxy):
        return None
    return _proxy_of(url)


def from_environment(environment: Mapping[str, str]) -> Proxies:
    """http_proxy, https_proxy, all_proxy and no_proxy, the lower-case spelling first."""
    by_scheme = []
    for scheme in ("http", "https", "all"):
        name = f"{scheme}_proxy"
        value = environment.get(name)
        # A CGI program gets a request's header `Proxy:` as HTTP_PROXY: anyone could name one.
        if value is None and (scheme != "http" or "REQUEST_METHOD" not in environment):
            value = environment.get(name.upper())
        if value is not None:
            by_scheme.append((scheme, value.strip()))
    no_proxy = environment.get("no_proxy")
    return Proxies(tuple(by_scheme),
                   environment.get("NO_PROXY", "") if no_proxy is None else no_proxy)


def _proxy_of(url: str) -> Proxy:
    shown = url.rpartition("@")[2]    # without the password
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or any(c <= " " for c in url):
        raise UsageError(f"not a proxy: {printable(shown[:200])!r}",
                         "write it like http://HOST:PORT")
    if parts.scheme != "http":
        raise UsageError(f"can't use a proxy over {printable(parts.scheme[:20])}: "
                         f"{printable(shown[:200])!r}", "only http:// proxies, for http and https")
    return Proxy(host, port or PROXY_PORT, unquote(parts.username or ""),
                 unquote(parts.password or ""))


def _goes_straight(parts: SplitResult, no_proxy: str) -> bool:
    entries = no_proxy.replace(",", " ").split()[:NO_PROXY_MAX]
    return any(_matches(parts, entry.lower()) for entry in entries)


def _matches(parts: SplitResult, entry: str) -> bool:
    assert parts.hostname is not None
    host = parts.hostname.lower().rstrip(".")
    if entry == "*":
        return True
    if "/" in entry:
        return _is_within(host, entry)
    name, port = _split_port(entry)
    if port and port != str(parts.port or DEFAULT_PORTS[parts.scheme]):
        return False
    name = name.lstrip("*").lstrip(".").rstrip(".")
    return bool(name) and (host == name or (host.endswith(f".{name}") and ":" not in name))


def _split_port(entry: str) -> Tuple[str, str]:
    """('host', 'port' or "") of host, host:port, [address], [address]:port or a bare address."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest.lstrip(":")
    if entry.count(":") == 1:
        name, _, port = entry.partition(":")
        return name, port
    return entry, ""


def _is_within(host: str, network: str) -> bool:
    """True if `host` is an address of a network like 10.0.0.0/8."""
    from ipaddress import ip_address, ip_network
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:    # a name, or no network
        return False
