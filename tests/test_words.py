"""The small values of floor 0: units, digests, errors, clocks."""
from __future__ import annotations

import hashlib

import pytest

from dfly import errors, units
from dfly.clock import ManualClock
from dfly.digest import Digest, new_hasher, sha256


@pytest.mark.parametrize("text, size", [
    ("0", 0), ("4096", 4096), ("1k", 1024), ("64M", 64 << 20), ("1.5GiB", 3 << 29),
    ("100MB", 10**8), ("2T", 2 << 40), (" 1 KB ", 1000), ("7b", 7),
])
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text, rate", [
    ("1gbit", 125e6), ("100mbit", 12.5e6), ("8kbit", 1000), ("25MB", 25e6), ("2.5m", 2.5 * 2**20),
    ("500k", 512000), ("0", 0), ("1MB/s", 1e6), ("10Mbit/s", 1.25e6),
])
def test_rates(text: str, rate: float) -> None:
    assert units.parse_rate(text) == rate


@pytest.mark.parametrize("text, seconds", [
    ("90", 90), ("250ms", 0.25), ("5min", 300), ("1.5h", 5400), ("2d", 172800), ("3 s", 3),
])
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("parse", [units.parse_size, units.parse_rate, units.parse_duration])
@pytest.mark.parametrize("text", ["", "x", "-1", "1e9", "1 2", "nan", "inf", "１", "1Q", "M"])
def test_nonsense_is_a_usage_error_with_an_example(parse: object, text: str) -> None:
    with pytest.raises(errors.UsageError, match="write it like"):
        parse(text)  # type: ignore[operator]


def test_absurd_sizes_are_refused() -> None:
    with pytest.raises(errors.UsageError, match="too large"):
        units.parse_size("99999999999999T")


@pytest.mark.parametrize("value, text", [
    (units.format_size(0), "0 B"), (units.format_size(999), "999 B"),
    (units.format_size(1536), "1.50 KiB"), (units.format_size(64 << 20), "64.0 MiB"),
    (units.format_size(1 << 50), "1024 TiB"), (units.format_rate(11.9e6), "11.9 MB/s"),
    (units.format_duration(0.519), "0.52 s"), (units.format_duration(59.6), "1 min 00 s"),
    (units.format_duration(200), "3 min 20 s"), (units.format_duration(7500), "2 h 05 min"),
])
def test_what_people_read(value: str, text: str) -> None:
    assert value == text


def test_digests_are_read_in_both_spellings() -> None:
    text = "sha256:" + "ab" * 32
    assert str(Digest.parse(text)) == text
    assert Digest.parse("sha-256=" + "AB" * 32) == Digest.parse(text)
    assert Digest.parse("md5:" + "0" * 32).is_strong is False
    assert Digest.parse(text).is_strong


@pytest.mark.parametrize("text", ["", "sha256", "sha256:", "sha256:abc", "crc32:00000000",
                                  "sha256:" + "zz" * 32, "sha256:" + "ab " * 32,
                                  "md5:" + "ab" * 32])
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(errors.UsageError, match="not a digest"):
        Digest.parse(text)


def test_hashers_hash() -> None:
    for algorithm in ("sha256", "sha512", "sha1", "md5"):
        hasher = new_hasher(algorithm)
        hasher.update(b"x")
        assert hasher.digest() == hashlib.new(algorithm, b"x").digest()
    assert sha256(b"x") == hashlib.sha256(b"x").digest()


def test_every_error_has_its_own_code_and_comes_back_from_the_wire() -> None:
    codes = [kind.exit_code for kind in errors.ALL]
    assert codes == sorted(set(codes)) and codes[0] == 1
    for kind in errors.ALL:
        again = errors.error_from_wire(kind.exit_code, "what", "do this")
        assert type(again) is kind and str(again) == "what: do this"
    assert type(errors.error_from_wire(999, "x")) is errors.DflyError


def test_a_remotes_words_are_safe_to_print() -> None:
    error = errors.error_from_wire(4, "a\x1b[31mb\nc" + "d" * 5000)
    assert "\x1b" not in str(error) and "\n" not in str(error) and len(str(error)) < 2100


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(5.0)
    clock.advance(2.5)
    assert clock.now() == 7.5 and clock.wall() == 1_700_000_002.5
