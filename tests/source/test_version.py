"""Versions of a source: their token, and when two may be the same bytes."""
from __future__ import annotations

import pytest

from dfly.errors import ProtocolError
from dfly.source import ETAG_MAX, Version, shown_url
from dfly.task import VERSION_MAX

DATE = "Mon, 05 Jan 2026 10:00:00 GMT"
LATER = "Tue, 06 Jan 2026 10:00:00 GMT"


@pytest.mark.parametrize("version", [
    Version('"abc"', DATE, 1234),
    Version('W/"a|b|c"', "", None),
    Version("unquoted|v1|", DATE, 0),
    Version("", DATE, 1 << 62),
    Version.of("", "", 5, "00ff00ff00ff00ff"),
    Version('"' + "x" * (ETAG_MAX - 2) + '"', DATE, (1 << 63) - 1),
])
def test_a_token_comes_back_as_the_version(version: Version) -> None:
    token = version.token
    assert Version.parse(token) == version
    assert len(token.encode()) <= VERSION_MAX and token.isprintable()


@pytest.mark.parametrize("token", [
    "", "v1", "v1|||", "v2||||", "v1|x|||", "v1|-1|||", "v1||<date>||", "v1|||NONCE|",
    "v1||||with space", "v1||||\n", 'v1||||"' + "x" * 600 + '"', "v1|٣|||",
])
def test_a_token_from_elsewhere_is_checked(token: str) -> None:
    with pytest.raises(ProtocolError):
        Version.parse(token)


def test_validators_that_cant_be_sent_back_count_as_not_told() -> None:
    for etag in ("", '"' + "x" * ETAG_MAX + '"', '"a b"', '"\x01"', '"é"'):
        version = Version.of(etag, "", 9, "ab")
        assert (version.etag, version.nonce) == ("", "ab")
    assert Version.of('"a"', "", 9, "ab").nonce == ""
    assert Version.of("", "yesterday at noon; or so", 9, "ab").last_modified == ""


def test_a_source_without_validators_makes_each_registration_a_version_of_its_own() -> None:
    first, second = Version.of("", "", 9, "01"), Version.of("", "", 9, "02")
    assert first.same_as(first)
    assert not first.same_as(second)
    assert not first.contradicts(second)    # ... but one that lasts can only compare lengths
    assert first.contradicts(Version.of("", "", 10, "03"))
    assert not first.has_validator


def test_an_etag_decides_and_the_length_is_part_of_the_version() -> None:
    version = Version('"a"', DATE, 9)
    assert version.same_as(Version('"a"', LATER, 9))
    assert version.same_as(Version('W/"a"', "", None))
    assert version.same_as(Version("", DATE, 9))
    assert not version.same_as(Version('"b"', DATE, 9))
    assert not version.same_as(Version('"a"', DATE, 10))
    assert not version.same_as(Version("", LATER, 9))
    assert not version.same_as(Version("", "", 9))      # nothing told that could be compared
    assert not version.contradicts(Version("", "", 9))
    assert version.contradicts(Version('"b"', DATE, 9))
    assert version.contradicts(Version("", "", 10))


def test_only_a_strong_etag_or_a_date_guards_a_range() -> None:
    assert Version('"a"', DATE).range_condition == '"a"'
    assert Version('W/"a"', DATE).range_condition == DATE
    assert Version('W/"a"', "").range_condition == ""


def test_urls_are_shown_without_their_secrets() -> None:
    shown = shown_url("http://ann:secret@files.example:81/a/b?sig=secret&flag&x=secret#secret")
    assert shown == "http://files.example:81/a/b?sig=...&flag&x=..."
