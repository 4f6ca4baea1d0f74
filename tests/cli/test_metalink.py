"""Metalink files of both versions, and what only looks like one."""
from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import pytest

from dfly.cli import metalink
from dfly.cli.metalink import Fault, Metalink, MetalinkFile, parse_metalink, read_metalink
from dfly.errors import FileError, UsageError
from dfly.task import MIRRORS_MAX, VOUCHED_MAX

A, B, C = "ab" * 32, "cd" * 32, "ef" * 32

FOUR = f"""<?xml version="1.0" encoding="UTF-8"?>
<metalink xmlns="urn:ietf:params:xml:ns:metalink">
  <published>2026-01-05T10:00:00Z</published>
  <file name="dir/example.iso">
    <size>600000</size>
    <description>An image &amp; more</description>
    <hash type="sha-256">{A.upper()}</hash>
    <hash type="md5">{'0' * 32}</hash>
    <hash type="sha3-256">{B}</hash>
    <pieces length="262144" type="sha-1"><hash>{'1' * 40}</hash><hash>{'2' * 40}</hash>
      <hash>{'3' * 40}</hash></pieces>
    <pieces length="262144" type="sha-256"><hash>{A}</hash><hash>{B}</hash><hash>{C}</hash></pieces>
    <url priority="2" location="de">https://two.example/f</url>
    <url>http://last.example/f</url>
    <url priority="1">http://one.example/f</url>
    <url priority="2">http://also-two.example/f</url>
    <url priority="3">http://one.example/f</url>
    <url priority="1">ftp://old.example/f</url>
    <metaurl mediatype="torrent">http://t.example/f.torrent</metaurl>
  </file>
</metalink>"""

THREE = f"""<?xml version="1.0"?>
<metalink version="3.0" xmlns="http://www.metalinker.org/">
 <files><file name="example.iso"><size>600000</size>
  <verification><hash type="sha256">{A}</hash>
   <pieces length="300000" type="sha1"><hash piece="1">{'2' * 40}</hash>
    <hash piece="0">{'1' * 40}</hash></pieces></verification>
  <resources><url type="http" preference="10">http://ten.example/f</url>
   <url type="http" preference="100">http://best.example/f</url>
   <url type="ftp" preference="99">ftp://old.example/f</url>
   <url type="http">http://last.example/f</url></resources>
 </file></files>
</metalink>"""


def four(inside: str) -> Metalink:
    return parse_metalink(f'<metalink xmlns="urn:ietf:params:xml:ns:metalink">{inside}</metalink>'
                          .encode(), "m.meta4")


def file(name: str = "f", inside: str = "", url: Optional[str] = "http://h/f") -> str:
    address = "" if url is None else f"<url>{url}</url>"
    return f'<file name="{name}">{inside}{address}</file>'


def files_of(metalink: Metalink) -> Tuple[MetalinkFile, ...]:
    return tuple(entry for entry in metalink.entries if isinstance(entry, MetalinkFile))


def faults_of(metalink: Metalink) -> Tuple[Fault, ...]:
    return tuple(entry for entry in metalink.entries if isinstance(entry, Fault))


def test_version_4(tmp_path: Path) -> None:
    (tmp_path / "m.meta4").write_text(FOUR)
    found = read_metalink(str(tmp_path / "m.meta4"))
    (one,) = files_of(found)
    assert (one.name, one.size) == ("example.iso", 600000)
    assert one.hashes == {"sha256": A, "md5": "0" * 32}
    assert one.digests == (f"sha256:{A}", f"md5:{'0' * 32}")
    assert one.pieces is not None and one.pieces.fits
    assert (one.pieces.algorithm, one.pieces.length) == ("sha256", 262144)
    assert one.pieces.values == bytes.fromhex(A + B + C)
    assert one.urls == ("http://one.example/f", "https://two.example/f",
                        "http://also-two.example/f", "http://last.example/f")
    assert found.notes == ("example.iso: 2 addresses are left out, they aren't HTTP or HTTPS",)


def test_version_3() -> None:
    (one,) = files_of(parse_metalink(THREE.encode(), "m.metalink"))
    assert one.hashes == {"sha256": A}
    assert one.pieces is not None and one.pieces.values == bytes.fromhex("1" * 40 + "2" * 40)
    assert one.urls == ("http://best.example/f", "http://ten.example/f", "http://last.example/f")


def test_several_files_and_one_that_can_not_be_had() -> None:
    found = four(file("a") + file("b", url="ftp://h/b") + file("c"))
    assert [one.name for one in files_of(found)] == ["a", "c"]
    assert "b: 1 addresses" in found.notes[0]
    (fault,) = faults_of(found)
    assert fault.name == "b" and fault.error.exit_code == 2
    assert fault.error.what == "m.meta4: no HTTP or HTTPS address of b"
    assert [entry.name for entry in found.entries] == ["a", "b", "c"]


def test_a_file_that_contradicts_itself_stops_no_other() -> None:
    found = four(file("a", "<size>-1</size>") + file("../b") + file("c"))
    assert [one.name for one in files_of(found)] == ["c"]
    assert [(fault.name, fault.error.what) for fault in faults_of(found)] == [
        ("a", "m.meta4: a has an impossible size"),
        ("../b", "m.meta4: a file can't be called '../b'")]


def test_where_no_file_can_be_had_each_is_told() -> None:
    found = four(file("a", url="ftp://h/f") + file("b", url=None) + "<file/>")
    assert [fault.error.what.rpartition(": ")[2] for fault in faults_of(found)] == [
        "no HTTP or HTTPS address of a", "no HTTP or HTTPS address of b",
        "a file can't be called ''"]
    assert files_of(found) == ()


@pytest.mark.parametrize("told, name", [
    ("a/b/f.iso", "f.iso"), (".hidden", "hidden"), ("a\\b", "b"), ("f&#x9;g", "f_g"),
    ("x" * 300, "x" * 240), ("\u202ef", "_f")])
def test_names_are_base_names(told: str, name: str) -> None:
    assert files_of(four(file(told)))[0].name == name


@pytest.mark.parametrize("told", ["", "/etc/passwd", "../f", "a/../../f", "..", "a/..", "a/",
                                  "..\\f", "C:\\f", "\\\\host\\f", "..."])
def test_names_that_lead_elsewhere(told: str) -> None:
    (fault,) = four(file(told)).entries
    assert isinstance(fault, Fault) and "can't be called" in fault.error.what


@pytest.mark.parametrize("inside, why", [
    (f"<hash type='sha-256'>{A}</hash><hash type='sha-256'>{B}</hash>", "contradict"),
    ("<hash type='sha-256'>ab</hash>", "is no sha256"),
    ("<size>-1</size>", "size"), ("<size>ten</size>", "size"), (f"<size>{'9' * 30}</size>", "size"),
    (f"<size>10</size><pieces length='4' type='sha-256'><hash>{A}</hash></pieces>",
     "1 piece hashes, and 3 pieces"),
    ("<size>4</size><pieces length='4' type='sha-256'><hash>xx</hash></pieces>", "is no sha256"),
])
def test_what_contradicts_itself(inside: str, why: str) -> None:
    (fault,) = four(file(inside=inside)).entries
    assert isinstance(fault, Fault) and why in fault.error.what


@pytest.mark.parametrize("inside, note", [
    (f"<pieces length='4' type='sha-256'><hash>{A}</hash></pieces>", "without a size"),
    (f"<size>4</size><pieces length='0' type='sha-256'><hash>{A}</hash></pieces>", "left out"),
    (f"<size>{VOUCHED_MAX + 1}</size><pieces length='1' type='md5'>"
     + f"<hash>{'0' * 32}</hash>" * (VOUCHED_MAX + 1) + "</pieces>", "the most are"),
    ("<size>4</size><pieces length='4' type='crc32'><hash>xx</hash></pieces>", ""),
])
def test_hashes_of_pieces_that_can_not_be_used(inside: str, note: str) -> None:
    found = four(file(inside=inside))
    assert files_of(found)[0].pieces is None
    assert note in "".join(found.notes) and bool(note) == bool(found.notes)


def test_an_empty_file_has_no_pieces() -> None:
    found = four(file(inside="<size>0</size><pieces length='4' type='sha-256'></pieces>"))
    assert files_of(found)[0].pieces is not None and files_of(found)[0].pieces.values == b""


def test_mirrors_are_bounded_and_the_best_stay() -> None:
    many = "".join(f"<url priority='{rank}'>http://h{rank}/f</url>" for rank in range(999, 0, -1))
    found = four(file(inside=many, url=None))
    (one,) = files_of(found)
    assert one.urls == tuple(f"http://h{rank}/f" for rank in range(1, MIRRORS_MAX + 2))
    assert "of 999 mirrors" in found.notes[0]


BOMB = (b'<!DOCTYPE m [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]>'
        b'<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="&b;"/></metalink>')


@pytest.mark.parametrize("data, why", [
    (b"", "isn't XML"), (b"http://h/f\n", "isn't XML"), (b"<html></html>", "another kind"),
    (b"<metalink/>", "another kind"), (b"<metalink xmlns='urn:x'/>", "another kind"),
    (FOUR.encode()[:-5], "isn't XML"), (BOMB, "document type"),
    (b"<!DOCTYPE metalink SYSTEM 'file:///etc/passwd'><metalink/>", "document type"),
    (b"<?xml version='1.0' encoding='klingon'?><metalink/>", "isn't XML"),
    (b"<?xml version='1.0' encoding='euc-jp'?><metalink/>", "isn't XML"),
    (b"<a>" * 100 + b"</a>" * 100, "one in another"),
    (b"\x00" * 1000, "isn't XML"),
    (b'<metalink xmlns="urn:ietf:params:xml:ns:metalink"/>', "no file"),
    (b'<metalink xmlns="http://www.metalinker.org/"/>', "no file"),
])
def test_what_is_no_metalink(data: bytes, why: str) -> None:
    with pytest.raises(UsageError, match=why) as error:
        parse_metalink(data, "m.meta4")
    assert str(error.value).startswith("m.meta4 is no Metalink") and "\n" not in str(error.value)


def test_what_has_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="lists 1001 files"):
        four(file() * 1001)
    monkeypatch.setattr(metalink, "ELEMENTS_MAX", 1_000)
    with pytest.raises(UsageError, match="more than 1000 elements"):
        four("<x/>" * 1001)


def test_a_file_that_is_gone_or_huge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError):
        read_metalink(str(tmp_path / "gone"))
    monkeypatch.setattr(metalink, "BYTES_MAX", 1_000)
    with pytest.raises(UsageError, match="longer than"):
        read_metalink("/dev/zero")
