"""One request to an HTTP source: what is asked, what is believed, what is refused."""
from __future__ import annotations

import base64
import contextlib
import socket
import threading
import time
from typing import Any, Iterator, List, Tuple, Type

import pytest

from dfly.access import Access, Manners
from dfly.clock import ManualClock
from dfly.errors import AuthError, DflyError, NetworkError, ProtocolError, ServerError, UsageError
from dfly.source import (
    RangesBroken,
    SourceChanged,
    SourceRefused,
    SourceRequest,
    Version,
)
from tests.source.asking import ask, refused, taken
from tests.support import MONDAY, TUESDAY, SourceServer

CONTENT = bytes(range(256)) * 16
SIZE = len(CONTENT)


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer() as source:
        yield source


@pytest.fixture
def other() -> Iterator[SourceServer]:
    """A server of another origin."""
    with SourceServer() as source:
        yield source


def bearing(*headers: Tuple[str, str]) -> Access:
    """What a caller has who gives these headers."""
    return Access(headers)


def with_manners(**manners: Any) -> Access:
    return Access(manners=Manners(**manners))


# ------------------------------------------------------------------------------ what is asked
def test_a_range_is_given_and_asked_for_plainly(server: SourceServer) -> None:
    url = server.add("/f", CONTENT)
    body = ask(SourceRequest(url, start=100, stop=200))
    assert (body.ranged, body.start, body.stop, body.total) == (True, 100, 200, SIZE)
    assert body.version == Version('"one"', MONDAY, SIZE)
    assert not body.redirected and body.final_url == url
    asked = server.log[0]
    assert asked.header("range") == "bytes=100-199"
    assert asked.header("accept-encoding") == "identity"
    assert asked.header("if-range") == asked.header("if-none-match") == ""
    assert ask(SourceRequest(url, start=100, stop=200), taken) == CONTENT[100:200]


def test_a_range_is_clipped_at_the_end_of_the_content(server: SourceServer) -> None:
    url = server.add("/f", CONTENT)
    body = ask(SourceRequest(url, stop=SIZE + 1))
    assert (body.ranged, body.start, body.stop, body.total) == (True, 0, SIZE, SIZE)
    assert ask(SourceRequest(url, start=SIZE - 5), taken) == CONTENT[-5:]
    assert server.log[-1].header("range") == f"bytes={SIZE - 5}-"


def test_without_a_range_all_comes(server: SourceServer) -> None:
    url = server.add("/f", CONTENT)
    assert ask(SourceRequest(url), taken) == CONTENT
    assert server.log[0].header("range") == ""


@pytest.mark.parametrize("etag,condition", [('"one"', '"one"'), ('W/"one"', MONDAY), ("", MONDAY)])
def test_a_version_is_asked_for_by_what_can_guard_a_range(server: SourceServer, etag: str,
                                                          condition: str) -> None:
    url = server.add("/f", CONTENT, etag=etag)
    version = Version(etag, MONDAY, SIZE)
    assert ask(SourceRequest(url, start=5, stop=9, if_version=version), taken) == CONTENT[5:9]
    assert server.log[0].header("if-range") == condition


@pytest.mark.parametrize("etag", ['"one"', ""])
def test_an_unchanged_source_sends_nothing(server: SourceServer, etag: str) -> None:
    url = server.add("/f", CONTENT, etag=etag)
    known = Version(etag, MONDAY, SIZE)
    body = ask(SourceRequest(url, stop=100, unless=known))
    assert body.unchanged and body.version == known
    assert server.body_bytes == 0
    server.change("/f", etag=etag and '"two"', last_modified=TUESDAY)
    assert not ask(SourceRequest(url, stop=100, unless=known)).unchanged


def test_length_unknown(server: SourceServer) -> None:
    for framing in ("chunked", "close"):
        url = server.add("/f", CONTENT, framing=framing, ranges=False)
        body = ask(SourceRequest(url, stop=100))
        assert (body.ranged, body.start, body.stop, body.total) == (False, 0, None, None)
        assert ask(SourceRequest(url, stop=100), taken) == CONTENT


def test_an_empty_file_is_one_whether_ranges_work_or_not(server: SourceServer) -> None:
    for ranges in (True, False):
        url = server.add("/empty", b"", ranges=ranges)
        body = ask(SourceRequest(url, stop=100))
        assert (body.total, body.start, body.stop, body.ranged) == (0, 0, 0, False)
        assert ask(SourceRequest(url, stop=100), taken) == b""


def test_user_and_password_go_as_basic_and_nowhere_else(server: SourceServer) -> None:
    basic = "Basic " + base64.b64encode("ann:pä:ss/".encode()).decode()
    server.add("/f", CONTENT, authorization=basic)
    url = server.url("/f", login="ann:p%C3%A4:ss%2F")
    assert ask(SourceRequest(url), taken) == CONTENT
    assert [seen.status for seen in server.log] == [401, 200]    # told only when asked for
    assert server.log[0].header("host") == f"{server.host}:{server.port}"
    error = refused(AuthError, SourceRequest(server.url("/f?key=hush", login="ann:wrong")))
    assert str(error).startswith(f"http://{server.host}:{server.port}/f?key=...: 401 ")
    assert "wrong" not in str(error) and error.exit_code == 6


def test_the_callers_headers_go_along_except_those_that_are_ours(server: SourceServer) -> None:
    url = server.add("/f", CONTENT)
    ask(SourceRequest(url, bearing(("X-Token", "t"), ("Accept", "a/b"),
                               ("accept-encoding", "identity"))))
    assert server.log[0].header("x-token") == "t" and server.log[0].header("accept") == "a/b"
    for name, value in (("Range", "bytes=0-1"), ("if-none-match", "*"), ("Content-Length", "1"),
                        ("Transfer-Encoding", "chunked"), ("Accept-Encoding", "gzip")):
        refused(UsageError, SourceRequest(url, bearing((name, value))))
    assert len(server.log) == 1


def test_characters_that_a_request_line_cant_carry_are_escaped(server: SourceServer) -> None:
    server.add("/gr%C3%BC%C3%9Fe", CONTENT)
    assert ask(SourceRequest(server.url("/grüße?q=%2f&r=ü")), taken) == CONTENT
    assert server.log[0].target == "/gr%C3%BC%C3%9Fe?q=%2f&r=%C3%BC"


# ------------------------------------------------------------------------------- redirects
def test_a_redirect_within_the_origin_keeps_the_callers_headers(server: SourceServer) -> None:
    server.add("/a", redirect="b?x=1#part")
    server.add("/b", CONTENT)
    request = SourceRequest(server.url("/a", login="u:p"),
                            bearing(("Cookie", "c"), ("X-Token", "t")), start=3, stop=7)
    body = ask(request)
    assert body.redirected and body.final_url == server.url("/b?x=1")
    last = server.log[-1]
    assert (last.header("cookie"), last.header("x-token")) == ("c", "t")
    assert last.header("range") == "bytes=3-6"


def test_a_redirect_to_another_origin_takes_no_secret_along(server: SourceServer,
                                                            other: SourceServer) -> None:
    server.add("/a", redirect=other.add("/cdn", CONTENT))
    request = SourceRequest(server.url("/a", login="u:p"), bearing(
        ("Cookie", "c"), ("X-Token", "t"), ("Authorization", "Bearer x"), ("User-Agent", "mine")))
    assert ask(request, taken) == CONTENT
    seen = other.log[0]
    assert not {"cookie", "x-token", "authorization"} & set(seen.headers)
    assert seen.header("user-agent") == "mine"
    assert server.log[0].header("authorization") == "Bearer x"


def test_a_shortcut_is_asked_first_by_the_rules_of_a_redirect(server: SourceServer,
                                                              other: SourceServer) -> None:
    server.add("/a", redirect=other.add("/cdn", CONTENT))
    request = SourceRequest(server.url("/a"), bearing(("X-Token", "t")),
                            shortcut=other.url("/cdn"))
    assert ask(request, taken) == CONTENT
    assert server.log == [] and other.log[0].header("x-token") == ""


@pytest.mark.parametrize("fault", [{"status": 403}, {"status": 404}, {"raw": b""}])
def test_a_shortcut_that_leads_nowhere_any_more_is_asked_for_again(
        server: SourceServer, other: SourceServer, fault: Any) -> None:
    other.add("/old", **fault)
    server.add("/a", redirect=other.add("/new", CONTENT))
    request = SourceRequest(server.url("/a"), shortcut=other.url("/old"))
    assert ask(request, taken) == CONTENT
    assert [exchange.path for exchange in other.log][-1] == "/new"
    server.change("/a", redirect="", status=500)
    assert refused(SourceRefused, request).status == 500    # what the way itself says, is said


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_kind_of_redirect_is_followed_on_one_connection(server: SourceServer,
                                                              status: int) -> None:
    server.add("/a", redirect="/b", status=status)
    server.add("/b", CONTENT)
    assert ask(SourceRequest(server.url("/a")), taken) == CONTENT
    assert server.connections == 1


def test_redirects_without_end_are_ended(server: SourceServer) -> None:
    server.add("/a", redirect="/b")
    server.add("/b", redirect="/a")
    error = refused(ProtocolError, SourceRequest(server.url("/a?k=hush")))
    assert "redirects in a loop" in error.what and "hush" not in str(error)
    assert len(server.log) <= 3
    for number in range(10):
        server.add(f"/{number}", redirect=f"/{number + 1}")
    for bound in (5, 0):
        error = refused(ServerError, SourceRequest(server.url("/0"),
                                                   with_manners(max_redirects=bound)))
        assert ("more than 5 redirects" if bound else "isn't to be followed") in error.what
        assert error.exit_code == 8    # as wget has it


@pytest.mark.parametrize("target", ["ftp://files.example/f", "file:///etc/passwd", "http://:80/",
                                    "//[", "javascript:1"])
def test_a_redirect_to_what_isnt_http_is_refused(server: SourceServer, target: str) -> None:
    server.add("/a", redirect=target)
    assert "redirects to" in refused(ProtocolError, SourceRequest(server.url("/a"))).what


# --------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("status,kind", [
    (403, SourceRefused), (404, SourceRefused), (410, SourceRefused), (500, SourceRefused),
    (503, SourceRefused), (418, SourceRefused), (401, AuthError), (407, AuthError),
    (204, ProtocolError), (300, ProtocolError), (304, ProtocolError),
])
def test_an_error_status_is_said_in_one_line(server: SourceServer, status: int,
                                             kind: Type[DflyError]) -> None:
    error = refused(kind, SourceRequest(server.add("/f", status=status) + "?key=hush"))
    assert error.what.startswith(f"{server.url('/f')}?key=...: {status}")
    assert "\n" not in str(error)
    if isinstance(error, ServerError):
        assert error.status == status


@pytest.mark.parametrize("headers,wait_s", [
    ((("Retry-After", "7"),), 7.0),
    ((("Retry-After", TUESDAY), ("Date", MONDAY)), 86400.0),
    ((("Retry-After", MONDAY), ("Date", TUESDAY)), 0.0),
    ((("Retry-After", "Thu, 01 Jan 1970 00:01:40 GMT"),), 90.0),
    ((("Retry-After", "soon"),), None),
    ((), None),
])
def test_when_to_come_back_is_kept_on_the_error(server: SourceServer, headers: Any,
                                                wait_s: float | None) -> None:
    url = server.add("/f", status=503, headers=headers)
    error = refused(SourceRefused, SourceRequest(url), clock=ManualClock(wall=10.0))
    assert isinstance(error, SourceRefused) and error.retry_after_s == wait_s


@pytest.mark.parametrize("told", [
    "none", "bytes 1-99/4096", "bytes 0-98/4096", "bytes 0-100/4096", "bytes 0-99/*",
    "bytes 0-99/50", "0-99", "bytes */4096", "lines 0-99/4096",
])
def test_a_range_must_be_exactly_the_one_asked_for(server: SourceServer, told: str) -> None:
    url = server.add("/f", CONTENT, content_range=told)
    refused(RangesBroken, SourceRequest(url, stop=100))


def test_a_ranges_body_must_be_as_long_as_the_range(server: SourceServer) -> None:
    for fault in (5, -5):
        url = server.add("/f", CONTENT, false_length=fault)
        error = refused(RangesBroken, SourceRequest(url, stop=100))
        assert "a range of 100 bytes" in error.what and f"body of {100 + fault}" in error.what


def test_another_version_is_never_taken_for_the_one_asked_for(server: SourceServer) -> None:
    version = Version('"one"', MONDAY, SIZE)
    request = SourceRequest(server.url("/f"), start=5, stop=9, if_version=version)
    for change in ({"etag": '"two"'}, {"etag": '"two"', "if_range": False},
                   {"etag": "", "last_modified": TUESDAY, "if_range": False},
                   {"content": CONTENT + b"x", "etag": "", "last_modified": ""},
                   {"content": b"xyz", "etag": "", "last_modified": "", "if_range": False}):
        server.add("/f", CONTENT)
        server.change("/f", **change)
        refused(SourceChanged, request)


def test_the_same_version_with_another_total_is_a_lie(server: SourceServer) -> None:
    server.add("/f", CONTENT, content_range=f"bytes 5-8/{SIZE + 1}")
    version = Version('"one"', MONDAY, SIZE)
    refused(RangesBroken, SourceRequest(server.url("/f"), start=5, stop=9, if_version=version))


def test_the_whole_instead_of_the_range_is_told_apart(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, ranges=False)
    version = Version('"one"', MONDAY, SIZE)
    body = ask(SourceRequest(url, start=5, stop=9, if_version=version))
    assert (body.ranged, body.start, body.stop) == (False, 0, SIZE)


def test_an_encoded_body_is_refused(server: SourceServer) -> None:
    for framing in ("length", "chunked"):
        url = server.add("/f", CONTENT, framing=framing, headers=(("Content-Encoding", "gzip"),))
        for request in (SourceRequest(url), SourceRequest(url, stop=9)):
            error = refused(ProtocolError, request)
            assert "gzip-encoded" in error.what and error.hint
    url = server.add("/f", CONTENT, headers=(("Content-Encoding", "identity"),))
    assert ask(SourceRequest(url), taken) == CONTENT


def test_a_body_cut_short_names_url_and_both_lengths(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, cut_after=1000) + "?key=hush"
    with pytest.raises(NetworkError) as caught:
        ask(SourceRequest(url), taken)
    assert f"1000 of {SIZE} bytes" in caught.value.what
    assert caught.value.what.startswith(server.url("/f") + "?key=...: ")


def test_garbage_and_silence_are_told_apart_from_http(server: SourceServer) -> None:
    url = server.add("/f", raw=b"SSH-2.0-Something\r\n")
    assert "can't fetch" in refused(ProtocolError, SourceRequest(url)).what
    url = server.add("/f", raw=b"")
    assert "can't fetch" in refused(NetworkError, SourceRequest(url)).what


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    error = refused(NetworkError, SourceRequest(f"http://u:hush@127.0.0.1:{port}/f"))
    assert f"can't fetch http://127.0.0.1:{port}/f: " in error.what and "hush" not in str(error)
    assert error.exit_code == 4


def test_a_source_that_stays_silent_is_given_up(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, stall_after=10)
    with pytest.raises(NetworkError) as caught:
        ask(SourceRequest(url, with_manners(read_timeout_s=0.05)), taken)
    assert "timed out" in caught.value.what


def test_what_isnt_received_is_not_waited_for(server: SourceServer) -> None:
    url = server.add("/f", CONTENT, stall_after=10)
    body = ask(SourceRequest(url))
    assert body.total == SIZE
    server.wait_until(lambda: server.log[0].client_left)


# -------------------------------------------------------------------------------- manners
def dripping(parts: List[bytes], pause_s: float) -> Tuple[str, threading.Thread]:
    """A server of one request whose answer comes in these parts; its URL and its thread."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(ConnectionError), listener, listener.accept()[0] as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.recv(10_000)
            for part in parts:
                sock.sendall(part)
                time.sleep(pause_s)
    thread = threading.Thread(target=serve)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/", thread


def test_a_body_may_drip_but_not_be_silent() -> None:
    url, thread = dripping([b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n",
                            *(b"%d" % number for number in range(8))], 0.1)
    assert ask(SourceRequest(url, with_manners(read_timeout_s=0.5)), taken) == b"01234567"
    thread.join()


def test_a_head_must_be_whole_in_time_however_it_drips() -> None:
    url, thread = dripping([b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 10], 0.1)
    error = refused(NetworkError, SourceRequest(url, with_manners(read_timeout_s=0.3)))
    assert "no answer in 0.3 s" in error.what
    thread.join()


@pytest.mark.parametrize("time_s", [0, 9e8])    # none, and more than selectors can count
def test_a_time_of_none_is_no_time_out(server: SourceServer, time_s: float) -> None:
    url, thread = dripping([b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", b"x"], 0.05)
    manners = with_manners(read_timeout_s=time_s, connect_timeout_s=time_s)
    assert ask(SourceRequest(url, manners), taken) == b"x"
    thread.join()
    assert "Connection refused" in refused(NetworkError, SourceRequest(url, manners)).what


def test_times_to_connect_and_to_read_are_apart(server: SourceServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:    # it accepts, and says nothing
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        began = time.monotonic()
        refused(NetworkError, SourceRequest(url, with_manners(connect_timeout_s=0.2)))
        refused(NetworkError, SourceRequest(url.replace("https", "http"),
                                            with_manners(read_timeout_s=0.2)))
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("family,host", [(6, "127.0.0.1"), (4, "[::1]")])
def test_a_host_without_an_address_of_the_family_is_said(family: int, host: str) -> None:
    error = refused(NetworkError, SourceRequest(f"http://{host}:9/", with_manners(family=family)))
    assert f"no IPv{family} address" in error.what and error.exit_code == 4


def test_the_family_wanted_is_used(server: SourceServer) -> None:
    url = server.add("/f", CONTENT).replace("127.0.0.1", "localhost")
    assert ask(SourceRequest(url, with_manners(family=4)), taken) == CONTENT


# ----------------------------------------------------------------------- sources gone wrong
@pytest.mark.parametrize("location", [
    "//[", "http://", "http://h:99999/", "\xff\xfe://x", "//\x80/", "http://u:p@/", "x" * 9000])
def test_garbage_in_a_location_is_an_error(server: SourceServer, location: str) -> None:
    server.add("/a", redirect=location)
    error = refused(DflyError, SourceRequest(server.url("/a")))
    assert error.exit_code in (4, 7, 8) and "\n" not in str(error)


def test_a_location_may_leave_out_the_scheme(server: SourceServer) -> None:
    server.add("/a", redirect=server.add("/b", CONTENT).partition(":")[2])
    assert ask(SourceRequest(server.url("/a")), taken) == CONTENT
    server.change("/a", redirect="?b=c")
    server.next("/a")
    server.next("/a", redirect="", content=b"query")
    assert ask(SourceRequest(server.url("/a")), taken) == b"query"


def test_a_thousand_redirects_are_ended_where_the_caller_says(server: SourceServer) -> None:
    for number in range(1000):
        server.add(f"/{number}", redirect=f"/{number + 1}")
    assert refused(ServerError, SourceRequest(server.url("/0"))).exit_code == 8
    assert len(server.log) == 21 and server.connections == 1


@pytest.mark.parametrize("raw", [
    b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
    b"HTTP/1.1 " + b"2" * 70_000, b"HTTP/1.1 999999 OK\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n X\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 50])
def test_heads_that_no_server_should_send_are_errors(server: SourceServer, raw: bytes) -> None:
    error = refused(ProtocolError, SourceRequest(server.add("/f", raw=raw)))
    assert error.exit_code == 7 and error.what.startswith("can't fetch ")


def test_a_redirects_body_is_not_waited_for(server: SourceServer) -> None:
    url, thread = dripping([b"HTTP/1.1 302 Found\r\nLocation: " + server.add("/f", CONTENT).encode()
                            + b"\r\nContent-Length: 9000000000\r\n\r\n"], 0.0)
    assert ask(SourceRequest(url), taken) == CONTENT
    thread.join()


def test_tls_on_a_plain_url_is_hinted_at() -> None:
    url, thread = dripping([b"\x15\x03\x01\x00\x02\x02\x46"], 0.0)
    assert "https://" in refused(ProtocolError, SourceRequest(url)).hint
    thread.join()
