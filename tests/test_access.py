"""Access and SourceFacts as JSON: round trips, what a remote may send, bounds, who trusts whom."""
from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any, List

import pytest

from dfly.access import (
    COOKIES_BYTES_MAX,
    COOKIES_MAX,
    HEADERS_BYTES_MAX,
    HEADERS_MAX,
    LISTED_MAX,
    TEXT_MAX,
    Access,
    Login,
    Manners,
    Proxies,
    SourceFacts,
    TlsSettings,
    access_of,
    facts_of,
    settled,
)
from dfly.errors import ProtocolError, UsageError
from dfly.task import TaskSpec

FULL = Access(
    headers=(("X-Token", "t"), ("X-Token", "ü")),
    logins=(Login("https://h:443", "ann", "hush"),), origins=("https://cdn:443",), preempt=True,
    cookies=("h\tFALSE\t/\tFALSE\t0\ta\tb",), wants_cookies=True,
    proxies=Proxies((("http", "http://u:p@proxy:3128"),), "*.local"),
    tls=TlsSettings(ca="pem", system_ca=False, verify=False, crl="crl", pins=("p",),
                    minimum="TLSv1_3", ciphers="c", cert="cert", key="key"),
    manners=Manners(1.5, 0, 0, 2.0, (404, 429), True, 0, 6))


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_what_is_written_is_read_again() -> None:
    for access in (Access(), FULL, Access(proxies=Proxies()), Access(manners=Manners(tries=3))):
        assert access_of(through_json(access.to_json())) == access
    assert Access().to_json() == {}
    facts = SourceFacts(206, "OK", (("ETag", '"x"'),), "a", "b", ("line",))
    assert facts_of(through_json(facts.to_json())) == facts
    assert facts_of({}) == SourceFacts()


def test_what_a_newer_one_adds_is_left_alone() -> None:
    assert access_of({"later": [1], "manners": {"later": 1, "tries": 2}}
                     ) == Access(manners=Manners(tries=2))


@pytest.mark.parametrize("value", [
    None, [], "x", 1, {"headers": "x"}, {"headers": [["a"]]}, {"headers": [["a", "b", "c"]]},
    {"headers": [["a", 1]]}, {"headers": {"a": "b"}}, {"headers": None},
    {"logins": [{}]}, {"logins": [{"origin": "o", "user": "u"}]}, {"logins": ["u:p"]},
    {"preempt": 1}, {"wants_cookies": "yes"}, {"cookies": [None]}, {"cookies": "a=b"},
    {"proxies": []}, {"proxies": {"by_scheme": [["http"]]}}, {"proxies": {"no_proxy": 1}},
    {"tls": None}, {"tls": {"ca": 1}}, {"tls": {"verify": 0}}, {"tls": {"pins": "p"}},
    {"manners": {"tries": 1.5}}, {"manners": {"tries": True}}, {"manners": {"tries": -1}},
    {"manners": {"family": 5}}, {"manners": {"read_timeout_s": -0.1}},
    {"manners": {"read_timeout_s": float("nan")}}, {"manners": {"retry_wait_s": float("inf")}},
    {"manners": {"connect_timeout_s": 10**400}}, {"manners": {"max_redirects": 1e12}},
    {"manners": {"retry_statuses": [1.0]}},
    {"headers": [["a", "b"]] * (HEADERS_MAX + 1)}, {"headers": [["a", "b" * HEADERS_BYTES_MAX]]},
    {"cookies": ["c"] * (COOKIES_MAX + 1)}, {"cookies": ["c" * (COOKIES_BYTES_MAX + 1)]},
    {"logins": [{"origin": "o", "user": "u", "password": "p"}] * (LISTED_MAX + 1)},
    {"tls": {"ca": "c" * (TEXT_MAX + 1)}}, {"origins": ["o"] * 5000},
])
def test_what_cant_be_an_access_is_refused(value: Any) -> None:
    with pytest.raises(ProtocolError):
        access_of(value)


def test_lists_and_texts_of_trust_are_bounded_together() -> None:
    """What a manager keeps for one caller stays within a few texts, however they are spread."""
    for value in ({"origins": ["o" * 1000] * 1000}, {"tls": {"pins": ["p" * 1000] * 1000}},
                  {"proxies": {"by_scheme": [["http", "p" * 2000]] * 1000}},
                  {"logins": [{"origin": "o", "user": "u" * TEXT_MAX, "password": "p"}] * 90},
                  {"manners": {"retry_statuses": [1] * 1000}}):
        with pytest.raises(ProtocolError):
            access_of(value)


def test_mutations_are_an_access_or_a_protocol_error() -> None:
    rng = random.Random(3)
    odd: List[Any] = [None, True, -1, 1e300, float("nan"), "", "x" * 10, [], [[]], {}, {"": 1},
                      [["a", "b"]], "\ud800"]

    def mutated(value: Any) -> Any:
        if rng.random() < 0.1:
            return rng.choice(odd)
        if isinstance(value, dict):
            return {key if rng.random() > 0.03 else rng.choice(list(FULL.to_json())): mutated(part)
                    for key, part in value.items()}
        if isinstance(value, list):
            return [mutated(part) for part in value]
        return value

    fits = 0
    for _ in range(5000):
        try:
            access = access_of(mutated(through_json(FULL.to_json())))
        except ProtocolError:
            continue
        fits += 1
        assert access_of(access.to_json()) == access
        hash(access)
        access.trust_name  # noqa: B018
    assert fits > 50


def test_a_caller_is_named_by_whom_he_believes() -> None:
    assert Access().trust_name == replace(Access(), headers=(("a", "b"),)).trust_name == ""
    names = {access.trust_name for access in (
        FULL, replace(FULL, proxies=None), replace(FULL, tls=TlsSettings()),
        replace(FULL, proxies=Proxies()), Access(tls=TlsSettings(verify=False)),
        Access(tls=TlsSettings(pins=("p",))), Access(tls=TlsSettings(cert="c")))}
    assert len(names) == 7 and all(len(name) == 32 for name in names)
    same = replace(FULL, tls=replace(FULL.tls, key="another"), manners=Manners(), headers=(),
                   proxies=Proxies((("http", "http://proxy:3128"),)))
    assert same.trust_name == FULL.trust_name


def test_secrets_are_dropped_and_told_apart() -> None:
    bare = FULL.without_secrets()
    assert not any(bare.secrets[:3]) and all(FULL.secrets[:3]) and "hush" not in repr(FULL)
    assert (bare.tls.cert, bare.tls.key) == ("", "")   # who shows one stays alone
    assert bare.trust_name == replace(FULL, headers=(), tls=replace(FULL.tls, cert="")).trust_name


def test_headers_by_which_a_source_may_choose_name_the_task() -> None:
    plain, chosen = Access(), Access((("Accept-Language", "de"),))
    assert len({plain.trust_name, chosen.trust_name,
                Access((("accept-language", "fr"),)).trust_name}) == 3
    assert Access((("ACCEPT-language", "de"),)).trust_name == chosen.trust_name
    assert Access((("Cache-Control", "no-cache"), ("X-Key", "1"))).trust_name == ""


@pytest.mark.parametrize("access, tells", [
    (Access(), False), (Access((("User-Agent", "x"), ("Pragma", "no-cache"))), False),
    (Access((("X-Key", "1"),)), True), (Access((("Host", "other.example"),)), True),
    (Access(cookies=("line",)), True), (Access(logins=(Login("http://a:80", "u", "p"),)), False),
    (Access(logins=(Login("http://a:80", "u", "p"),), preempt=True), True),
    (Access(tls=TlsSettings(cert="PEM")), True)])
def test_who_tells_a_secret_unasked_is_known(access: Access, tells: bool) -> None:
    assert access.volunteers is tells
    assert FULL.secrets != replace(FULL, logins=()).secrets
    assert FULL.stays_here and not Access().stays_here


def test_users_and_passwords_leave_the_urls() -> None:
    spec = TaskSpec("https://ann:p%40ss@H.example/f", mirrors=("http://bob@m:81/f", "http://n/f"))
    spec, access = settled(spec, FULL)
    assert (spec.url, spec.mirrors) == ("https://H.example/f", ("http://m:81/f", "http://n/f"))
    assert access.logins[:2] == (Login("http://m:81", "bob", ""),
                                 Login("https://h.example:443", "ann", "p@ss"))
    assert access.logins[2:] == FULL.logins and spec.trust == FULL.trust_name
    with pytest.raises(UsageError):
        settled(TaskSpec("ftp://h/"), FULL)
