"""What a source says beside its content: bounded, printable, without secrets; names are base names.
"""
from __future__ import annotations

from typing import Iterator

import pytest

from dfly.access import HEADERS_MAX, facts_of
from dfly.source import SourceRequest
from dfly.source.facts import FILE_NAME_MAX, HEADERS_BYTES_MAX, file_name, safe_name
from tests.source.asking import ask
from tests.support import MONDAY, SourceServer


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer() as source:
        yield source


@pytest.mark.parametrize("disposition,name", [
    ('attachment; filename="disk.img"', "disk.img"),
    ("attachment; filename=disk.img", "disk.img"),
    ("attachment;FILENAME = disk.img ;size=1", "disk.img"),
    ('filename="no type"', ""),
    ('attachment; filename="a\\"b;c.img"', 'a"b;c.img'),
    ('attachment; filename="a;b"; filename="second"', "a;b"),
    ("attachment; filename*=UTF-8''gr%C3%BC%C3%9Fe.img", "grüße.img"),
    ("attachment; filename=plain; filename*=utf-8'de'gr%C3%BC%C3%9Fe", "grüße"),
    ("attachment; filename*=ISO-8859-1''gr%FC%DFe; filename=plain", "grüße"),
    ("attachment; filename=plain; filename*=nope''%ff", "plain"),
    ("attachment; filename=plain; filename*=UTF-8''%ff", "plain"),
    ("attachment; filename*=UTF-8", ""),
    ('attachment; filename="../../etc/passwd"', "passwd"),
    ("attachment; filename*=UTF-8''..%2F..%2Fetc%2Fpasswd", "passwd"),
    ("attachment; filename*=UTF-8''a%00b%0ac", "abc"),
    ('attachment; filename="C:\\\\dir\\\\x.exe"', "x.exe"),
    ('attachment; filename=".bashrc"', "bashrc"),
    ('attachment; filename=".."', ""), ('attachment; filename="/"', ""),
    ('attachment; filename=""', ""), ("attachment; filename=", ""),
    ('attachment; filename="' + "x" * (FILE_NAME_MAX + 1) + '"', ""),
    ('attachment; filename="' + "x" * FILE_NAME_MAX + '"', "x" * FILE_NAME_MAX),
    ('attachment; filename="gr\xc3\xbc\xc3\x9fe"', "grüße"),    # UTF-8, where Latin-1 is due
    ('attachment; filename="gr\xfc\xdfe"', "grüße"),
    ("attachment; filename*=UTF-8''exe.%E2%80%AEgpj", "exe.gpj"),    # turns the writing round
    ("inline", ""), ("", ""), (";" * 5000, ""), ('; filename="' * 2000, "; filename="),
])
def test_a_file_name_is_a_plain_base_name(disposition: str, name: str) -> None:
    assert file_name(disposition) == name


def test_names_are_safe_whatever_they_were() -> None:
    for text in ("", ".", "..", "...", "a/..", "\x00", "\n", "\u202e", " "):
        assert safe_name(text) == ""
    assert safe_name("a/b\\ c\t") == "c"


def test_the_answers_facts_are_told(server: SourceServer) -> None:
    server.add("/r", redirect="/deep/gr%C3%BC%C3%9Fe.img?x=1")
    server.add("/deep/gr%C3%BC%C3%9Fe.img", b"content", headers=(
        ("Content-Disposition", 'attachment; filename="told.img"'), ("X-Odd", "a\x85b\xff"),
        ("Set-Cookie", "s=hush"), ("WWW-Authenticate", "hush"), ("Proxy-Authenticate", "hush"),
        ("Authentication-Info", "hush"), ("Content-Location", "http://u:hush@h/x?key=hush")))
    facts = ask(SourceRequest(server.url("/r"))).facts
    assert (facts.status, facts.reason) == (200, "OK")
    assert (facts.file_name, facts.final_name, facts.cookies) == ("told.img", "grüße.img", ())
    assert facts.headers == (
        ("ETag", '"one"'), ("Last-Modified", MONDAY),
        ("Content-Disposition", 'attachment; filename="told.img"'), ("X-Odd", "a\\x85bÿ"),
        ("Content-Location", "http://h/x?key=..."), ("Content-Length", "7"))
    assert facts_of(facts.to_json()) == facts


def test_headers_without_end_are_cut(server: SourceServer) -> None:
    many = tuple((f"X-{number}", "y") for number in range(200))
    assert len(ask(SourceRequest(server.add("/f", b"x", headers=many))).facts.headers
               ) == HEADERS_MAX
    big = tuple((f"X-{number}", "\x85" * 1500) for number in range(30))
    facts = ask(SourceRequest(server.add("/g", b"x", headers=big))).facts
    assert facts_of(facts.to_json()) == facts
    assert 0 < sum(len(name) + len(value) for name, value in facts.headers) <= HEADERS_BYTES_MAX
