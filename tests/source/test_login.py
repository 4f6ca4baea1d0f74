"""Logins: answered when asked for, to whom they are for, once; Basic, Digest, and what is a secret.

The server's side of Digest (gatekeeper.py) is judged by curl and wget first, then dfly by it.
"""
from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from dfly.access import Access, Login, TlsSettings
from dfly.errors import AuthError
from dfly.names import origin_of
from dfly.source import SourceRequest
from dfly.source.challenge import CHALLENGES_MAX, PARAMETERS_MAX, Credentials, parse_challenges
from dfly.source.hops import Hop
from dfly.source.http import HttpSource
from dfly.source.visit import CREDENTIALS_MAX, Visit
from tests.source.asking import ask, refused, taken, with_source
from tests.source.gatekeeper import Gatekeeper
from tests.support import Exchange, SourceServer

CONTENT = bytes(range(256)) * 16
USER, PASSWORD = "ann", 'pä"s:s'
KINDS: List[Dict[str, Any]] = [
    {"algorithm": "MD5"}, {"algorithm": ""}, {"algorithm": "MD5-sess"},
    {"algorithm": "SHA-256"}, {"algorithm": "SHA-256-sess"},
    {"algorithm": "MD5", "qop": ""}, {"algorithm": "MD5", "qop": "auth,auth-int"},
    {"algorithm": "SHA-256", "userhash": True}, {"realm": 'the "files"\\here'}]


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer() as source:
        yield source


@pytest.fixture
def other() -> Iterator[SourceServer]:
    """A server of another origin."""
    with SourceServer() as source:
        yield source


def login(server: SourceServer, password: str = PASSWORD, **more: Any) -> Access:
    return Access(logins=(Login(origin_of(server.url()), USER, password),), **more)


def basic(password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()


# --------------------------------------------------------------------------------- the judge
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl judges the server's side")
@pytest.mark.parametrize("how", KINDS, ids=str)
def test_the_gatekeeper_is_right_as_curl_has_it(server: SourceServer, how: Dict[str, Any]) -> None:
    keeper = Gatekeeper(USER, PASSWORD, **how)
    url = server.add("/f", CONTENT, guard=keeper) + "?a=1,2"
    for password, code, words in ((PASSWORD, 0, ["none", "in"]),
                                  ("wrong", 22, ["none", "wrong"])):
        keeper.log.clear()
        done = subprocess.run(["curl", "-qsf", "--digest", "-u", f"{USER}:{password}",
                               "--noproxy", "*", url], check=False,
                              capture_output=True, timeout=20)
        assert (done.returncode, keeper.log) == (code, words)


@pytest.mark.skipif(shutil.which("wget") is None, reason="wget judges the server's side")
@pytest.mark.parametrize("algorithm", ["MD5", "MD5-sess", ""])
def test_the_gatekeeper_is_right_as_wget_has_it(server: SourceServer, algorithm: str) -> None:
    keeper = Gatekeeper(USER, "secret", algorithm=algorithm, opaque="o")    # knows no escapes
    url = server.add("/f", CONTENT, guard=keeper)
    done = subprocess.run(["wget", "-qO-", "--no-proxy", f"--user={USER}", "--password=secret",
                           url], check=True, capture_output=True, timeout=20)
    assert done.stdout == CONTENT and keeper.log == ["none", "in"]


# ------------------------------------------------------------------------------------ Digest
@pytest.mark.parametrize("how", KINDS, ids=str)
def test_digest_is_answered_and_goes_on_without_a_challenge(server: SourceServer,
                                                            how: Dict[str, Any]) -> None:
    keeper = Gatekeeper(USER, PASSWORD, **how)
    url = server.add("/f", CONTENT, guard=keeper) + '?a=1,2&b="x"'

    async def work(source: HttpSource) -> None:
        for _ in range(3):
            body = await source.open(SourceRequest(url, login(server)))
            assert await taken(body) == CONTENT and body.authorised
    with_source(work)
    assert keeper.log == ["none", "in", "in", "in"]
    assert server.connections == 1
    counts = [given.get("nc") for given in keeper.parameters]
    assert counts == ([None] * 3 if how.get("qop") == "" else ["00000001", "00000002", "00000003"])


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256-sess"])
def test_the_next_nonce_is_used_from_then_on(server: SourceServer, algorithm: str) -> None:
    keeper = Gatekeeper(USER, PASSWORD, algorithm=algorithm, uses=1, renews=True)
    url = server.add("/f", CONTENT, guard=keeper)

    async def work(source: HttpSource) -> None:
        for _ in range(3):
            assert await taken(await source.open(SourceRequest(url, login(server)))) == CONTENT
    with_source(work)
    assert keeper.log == ["none", "in", "in", "in"]
    assert len({given["nonce"] for given in keeper.parameters}) == 3
    assert {given["nc"] for given in keeper.parameters} == {"00000001"}


def test_a_stale_nonce_is_replaced_and_the_password_isnt_doubted(server: SourceServer) -> None:
    keeper = Gatekeeper(USER, PASSWORD, uses=2)
    url = server.add("/f", CONTENT, guard=keeper)

    async def work(source: HttpSource) -> None:
        for _ in range(4):
            assert await taken(await source.open(SourceRequest(url, login(server)))) == CONTENT
    with_source(work)
    assert keeper.log == ["none", "in", "in", "stale", "in", "in"]


@pytest.mark.parametrize("uses", [0, 3])
def test_requests_at_the_same_time_never_use_a_count_twice(server: SourceServer,
                                                           uses: int) -> None:
    keeper = Gatekeeper(USER, PASSWORD, uses=uses)
    url = server.add("/f", CONTENT, guard=keeper)

    async def one(source: HttpSource) -> None:
        body = await source.open(SourceRequest(url, login(server)))
        assert await taken(body) == CONTENT

    async def work(source: HttpSource) -> None:
        await one(source)
        await asyncio.gather(*(one(source) for _ in range(2 if uses else 8)))
    with_source(work)
    assert not {"wrong", "replay"} & set(keeper.log)
    assert keeper.log.count("in") == (3 if uses else 9)


def test_a_wrong_password_is_one_answer_and_an_error(server: SourceServer) -> None:
    keeper = Gatekeeper(USER, PASSWORD, algorithm="SHA-256")
    url = server.add("/f", CONTENT, guard=keeper)
    error = refused(AuthError, SourceRequest(url, login(server, "wrong")))
    assert keeper.log == ["none", "wrong"]
    assert error.exit_code == 6 and "401" in error.what and "is refused" in error.hint
    assert "wrong" not in str(error)


def test_a_server_that_always_says_stale_is_given_up(server: SourceServer) -> None:
    def guard(exchange: Exchange) -> Tuple[int, List[Tuple[str, str]]]:
        number = len(server.log)
        return 401, [("WWW-Authenticate", f'Digest realm="x", nonce="{number}", stale=true')]
    url = server.add("/f", CONTENT, guard=guard)
    refused(AuthError, SourceRequest(url, login(server)))
    assert len(server.log) == 3


# ------------------------------------------------------------------------------------- Basic
def test_basic_is_sent_when_asked_for_and_then_at_once(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, authorization=basic())

    async def work(source: HttpSource) -> None:
        for _ in range(2):
            body = await source.open(SourceRequest(url, login(server)))
            assert body.authorised and await taken(body) == CONTENT
    with_source(work)
    assert [seen.status for seen in server.log] == [401, 200, 200]
    server.log.clear()
    assert ask(SourceRequest(url, login(server, preempt=True))).authorised
    assert [seen.status for seen in server.log] == [200]


def test_a_login_that_nobody_asks_for_is_never_told(server: SourceServer) -> None:
    body = ask(SourceRequest(server.add("/f", CONTENT), login(server)))
    assert not body.authorised and server.log[0].header("authorization") == ""


@pytest.mark.parametrize("preempt", [False, True])
def test_a_refused_basic_login_is_one_answer(server: SourceServer, preempt: bool) -> None:
    url = server.add("/f", CONTENT, authorization=basic())
    refused(AuthError, SourceRequest(url, login(server, "wrong", preempt=preempt)))
    assert len(server.log) == (1 if preempt else 2)


def test_the_strongest_offer_is_taken(server: SourceServer) -> None:
    keeper = Gatekeeper(USER, PASSWORD, algorithm="SHA-256", also=(
        'Basic realm="x, y", Digest realm="files", nonce="weak", qop="auth", algorithm=MD5',
        "Negotiate", "NTLM TlRMTVNTUAAC==", 'Digest realm="z", nonce="n", algorithm=SHA-9'))
    url = server.add("/f", CONTENT, guard=keeper)
    for preempt in (False, True):    # a Basic that was sent unasked doesn't forbid it
        assert ask(SourceRequest(url, login(server, preempt=preempt)), taken) == CONTENT
    assert {given["algorithm"] for given in keeper.parameters} == {"SHA-256"}


def test_a_callers_own_authorization_wins(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, authorization=basic())
    access = login(server, headers=(("Authorization", "Bearer t"),), preempt=True)
    error = refused(AuthError, SourceRequest(url, access))
    assert "header that was given is refused" in error.hint
    assert [seen.header("authorization") for seen in server.log] == ["Bearer t"]


def test_what_to_do_is_said_where_no_login_was_given(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, authorization=basic())
    assert "--user and --password, or a netrc" in refused(AuthError, SourceRequest(url)).hint
    server.change("/f", guard=lambda _: (401, [("WWW-Authenticate", "Negotiate")]))
    error = refused(AuthError, SourceRequest(url, login(server)))
    assert "login by negotiate" in error.hint and len(server.log) == 2


# ------------------------------------------------------------------------------ to whom, when
def test_a_login_stays_with_its_origin(server: SourceServer, other: SourceServer) -> None:
    server.add("/f", redirect=other.add("/f", CONTENT, authorization=basic()))
    for access in (login(server), login(server, preempt=True)):
        refused(AuthError, SourceRequest(server.url("/f"), access))
    refused(AuthError, SourceRequest(server.url("/f", login="ann:secret"), Access(preempt=True)))
    assert {seen.header("authorization") for seen in other.log} == {""}
    both = Access(logins=(*login(server).logins, *login(other).logins))
    assert ask(SourceRequest(server.url("/f"), both), taken) == CONTENT


def test_headers_go_to_the_origins_that_the_caller_allows(server: SourceServer,
                                                          other: SourceServer) -> None:
    server.add("/f", redirect=other.add("/f", CONTENT))
    for origins, token in (((), ""), ((origin_of(other.url()),), "t")):
        access = Access((("X-Token", "t"), ("Accept", "a/b")), origins=origins)
        ask(SourceRequest(server.url("/f"), access))
        assert other.log[-1].header("x-token") == token
        assert other.log[-1].header("accept") == "a/b"


@pytest.mark.parametrize("headers,authorised", [
    ((), False), ((("User-Agent", "x"), ("accept", "a/b")), False),
    ((("Referer", "http://x/"),), True), ((("X-Token", "t"),), True)])
def test_only_what_may_be_a_secret_makes_a_content_private(
        server: SourceServer, other: SourceServer, headers: Tuple[Tuple[str, str], ...],
        authorised: bool) -> None:
    url = server.add("/f", CONTENT)
    assert ask(SourceRequest(url, Access(headers))).authorised is authorised
    # told on the way: whoever knows where it led to can do without
    server.add("/r", redirect=other.add("/f", CONTENT))
    assert ask(SourceRequest(server.url("/r"), Access(headers))).authorised is authorised
    assert ask(SourceRequest(other.url("/f"), login(server))).authorised is False


def test_a_shortcut_that_was_told_for_a_secret_is_one(server: SourceServer,
                                                      other: SourceServer) -> None:
    server.add("/r", redirect=other.add("/f", CONTENT))
    server.add("/open", CONTENT)
    for headers in ((), (("X-Token", "t"),)):
        access = login(server, headers=headers)

        async def work(source: HttpSource, access: Access) -> List[bool]:
            told = []
            for path, shortcut in (("/open", ""), ("/r", other.url("/f")), ("/r", ""),
                                   ("/r", other.url("/f"))):
                body = await source.open(SourceRequest(server.url(path), access,
                                                       shortcut=shortcut))
                told.append(body.authorised)
                await body.close()
            return told
        assert with_source(lambda source, access=access: work(source, access)
                           ) == [bool(headers)] * 4


def test_logins_that_redirects_name_are_not_kept_without_end() -> None:
    visit, hop = Visit(Access()), Hop.first("http://h/")
    for number in range(3 * CREDENTIALS_MAX):
        visit.outfit(hop.to(f"http://u{number}:p@h/"))
        assert len(visit._credentials) <= CREDENTIALS_MAX


def test_a_clients_certificate_is_for_whom_the_caller_named() -> None:
    visit = Visit(Access(tls=TlsSettings(cert="cert", key="key"), origins=("https://b:443",)))
    first = Hop.first("https://a/f")
    for url, is_shown in (("https://a/g", True), ("https://b/f", True), ("https://c/f", False),
                          ("https://a:444/f", False)):
        outfit = visit.outfit(first.to(url))
        assert (outfit.route.tls.cert, outfit.route.tls.key) == (
            ("cert", "key") if is_shown else ("", ""))
        assert outfit.secret is is_shown


def test_what_a_source_learned_of_one_caller_is_not_for_another(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, authorization=basic())

    async def work(source: HttpSource) -> None:
        assert await taken(await source.open(SourceRequest(url, login(server)))) == CONTENT
        with pytest.raises(AuthError):
            await source.open(SourceRequest(url))
    with_source(work)


# ----------------------------------------------------------------------------------- parsing
@pytest.mark.parametrize("values,expected", [
    (['Basic realm="a, b=c", Digest nonce=n, realm="x\\"y"'],
     [("basic", {"realm": "a, b=c"}), ("digest", {"nonce": "n", "realm": 'x"y'})]),
    (["Negotiate", "Basic"], [("negotiate", {}), ("basic", {})]),
    (["NTLM abc==, Basic realm = r"], [("ntlm", {}), ("basic", {"realm": "r"})]),
    ([', ,Digest  NONCE="1" , nonce="2",'], [("digest", {"nonce": "1"})]),
    (["", '"', "=", 'realm="x"', "\x00\xff"], []),
    (['Basic realm="open'], [("basic", {})]),
])
def test_challenges_are_read_as_they_are_written(values: List[str], expected: Any) -> None:
    found = [(one.scheme, one.parameters) for one in parse_challenges(values)]
    assert found == expected


def test_challenges_without_end_are_bounded() -> None:
    assert len(parse_challenges(["Basic, " * 1000] * 10)) == CHALLENGES_MAX
    many = "Digest " + ", ".join(f"p{number}=1" for number in range(2000))
    assert len(parse_challenges([many])[0].parameters) == PARAMETERS_MAX
    for hostile in ('"' * 60_000, "a=" * 30_000, 'a="\\' * 20_000, " " * 60_000, "," * 60_000):
        parse_challenges([hostile, f"Digest {hostile}"])
        Credentials("u", "p").heard(hostile)
