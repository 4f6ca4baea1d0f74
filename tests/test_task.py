"""Task identity, geometry and piece sets."""
from __future__ import annotations

import random
from dataclasses import replace

import pytest

from dfly import names
from dfly import task as t
from dfly.digest import Digest
from dfly.errors import ProtocolError
from dfly.units import KIB, MIB


# ------------------------------------------------------------------------------ identity
@pytest.mark.parametrize("one, other", [
    ("http://Files.Example/a", "http://files.example:80/a"),
    ("https://files.example:443/a#top", "https://files.example/a"),
    ("http://files.example", "http://files.example/"),
    ("http://user:secret@files.example/a", "http://files.example/a"),
    ("http://files.example/%7euser/%41", "http://files.example/~user/A"),
    ("http://files.example/a%2fb", "http://files.example/a%2Fb"),
    ("http://files.example/ü", "http://files.example/%C3%BC"),
    ("http://[2001:DB8::1]/a", "http://[2001:db8::1]/a"),
])
def test_spellings_of_one_url_are_one_task(one: str, other: str) -> None:
    assert names.canonical_url(one) == names.canonical_url(other)
    assert t.TaskSpec(one).task_id == t.TaskSpec(other).task_id


@pytest.mark.parametrize("one, other", [
    ("http://files.example/a", "http://files.example/b"),
    ("http://files.example/a", "https://files.example/a"),
    ("http://files.example/a%2Fb", "http://files.example/a/b"),
    ("http://files.example/a?x=1&y=2", "http://files.example/a?y=2&x=1"),
    ("http://files.example:8000/a", "http://files.example/a"),
])
def test_other_urls_are_other_tasks(one: str, other: str) -> None:
    assert t.TaskSpec(one).task_id != t.TaskSpec(other).task_id


def test_filters_make_signed_urls_one_task() -> None:
    ids = {t.TaskSpec(f"http://files.example/a?v=1&Signature={n}&Expires={n}",
                      filters=("Signature", "Expires")).task_id for n in range(3)}
    assert len(ids) == 1
    assert names.canonical_url("http://files.example/a?s%69g=1&v=2", ("sig",)).endswith("/a?v=2")


def test_a_strong_digest_names_the_task_whatever_its_url() -> None:
    digest = Digest("sha256", b"\1" * 32)
    assert (t.TaskSpec("http://one.example/a", digest=digest).task_id
            == t.TaskSpec("http://two.example/b", "tag", digest=digest).task_id)
    weak = Digest("md5", b"\1" * 16)
    assert (t.TaskSpec("http://one.example/a", digest=weak).task_id
            == t.TaskSpec("http://one.example/a").task_id)


def test_tags_separate_tasks() -> None:
    assert t.TaskSpec("http://files.example/a", "x").task_id != t.TaskSpec(
        "http://files.example/a").task_id
    assert t.TaskSpec("http://files.example/a", "x").task_id != t.TaskSpec(
        "http://files.example/ax").task_id


# ------------------------------------------------------------------------------ geometry
@pytest.mark.parametrize("length, size", [
    (0, 256 * KIB), (1, 256 * KIB), (256 * MIB, 256 * KIB), (256 * MIB + 1, 512 * KIB),
    (1024 * MIB, MIB), (16 * 1024 * MIB, 16 * MIB), (1 << 40, 16 * MIB), (None, MIB),
])
def test_piece_size(length: "int | None", size: int) -> None:
    assert t.piece_size_for(length) == size


def test_pieces_cover_the_content_exactly() -> None:
    rng = random.Random(3)
    for _ in range(200):
        geometry = t.Geometry(rng.randrange(1, 40 * MIB), 256 * KIB)
        count = geometry.piece_count
        assert count is not None
        assert sum(geometry.size_of(piece) for piece in range(count)) == geometry.length
        assert geometry.stop(count - 1) == geometry.length
        start = rng.randrange(geometry.length or 1)
        stop = rng.randrange(start, (geometry.length or 1) + 1)
        touched = geometry.pieces_of(start, stop)
        assert all(geometry.start(p) < stop and geometry.stop(p) > start for p in touched)
        assert bool(touched) == (stop > start)


def test_an_empty_content_has_no_piece_and_an_unknown_one_no_count() -> None:
    assert t.Geometry(0, MIB).piece_count == 0
    assert t.Geometry(None, MIB).piece_count is None
    assert t.Geometry(None, MIB).stop(3) == 4 * MIB


@pytest.mark.parametrize("length, size", [
    (1, 0), (1, MIB + 1), (1, 32 * MIB), (1, 128 * KIB), (-1, MIB), (1 << 62, 256 * KIB),
])
def test_impossible_geometry_is_refused(length: int, size: int) -> None:
    with pytest.raises(ProtocolError, match="impossible"):
        t.check_geometry(length, size)


# ---------------------------------------------------------------------------- piece sets
def test_sets_agree_with_pythons_own() -> None:
    rng = random.Random(7)
    for _ in range(300):
        pieces = set(rng.sample(range(600), rng.randrange(0, 80)))
        bitmap = t.set_of(pieces)
        assert list(t.members(bitmap)) == sorted(pieces)
        assert t.count_of(bitmap) == len(pieces)
        assert t.set_from_bytes(t.set_to_bytes(bitmap), 600) == bitmap
        runs = list(t.runs_of(bitmap))
        assert [piece for first, count in runs for piece in range(first, first + count)] == sorted(
            pieces)
        assert all(a[0] + a[1] < b[0] for a, b in zip(runs, runs[1:])), "runs are as long as can be"
        if pieces:
            assert t.lowest(bitmap) == min(pieces)
    assert t.full_set(0) == 0 and t.run_set(3, 2) == 0b11000


def test_a_claim_of_pieces_that_cannot_exist_is_refused() -> None:
    with pytest.raises(ProtocolError, match="claims piece 8"):
        t.set_from_bytes(b"\x00\x01", 8)


# ------------------------------------------------------------------------------- secrets


def test_what_makes_another_content_makes_another_task() -> None:
    plain = t.TaskSpec("http://files.example/a")
    vouched = t.Vouched("sha1", 1 << 18, bytes(20))
    others = [replace(plain, **{name: value}) for name, value in (
        ("mirrors", ("http://b.example/a",)), ("mirrors", ("http://c.example/a",)),
        ("span", (0, 5)), ("span", (0, None)), ("span", (-5, None)), ("trust", "ab"),
        ("vouched", vouched), ("vouched", replace(vouched, values=b"1" * 20)),
        ("vouched", replace(vouched, length=1 << 19)), ("size", 5), ("size", 0))]
    assert len({spec.task_id for spec in (plain, *others)}) == 1 + len(others)
    digest = Digest("sha256", bytes(32))
    assert len({replace(spec, digest=digest).task_id for spec in (plain, *others)}) == 1


def test_parts_must_fit_into_pieces() -> None:
    def fits(length: int) -> bool:
        return t.Vouched("sha256", length, b"").fits
    assert all(fits(1 << power) for power in range(25))
    assert not any(map(fits, (0, -1, 3, 300_000, 1 << 25)))
    assert t.piece_size_for(10, t.Vouched("md5", 1 << 22, b"")) == 1 << 22
    assert t.piece_size_for(10, t.Vouched("md5", 5, b"")) == t.PIECE_SIZE_MIN
    assert t.TaskSpec("http://f/", span=(0, 5), vouched=t.Vouched("md5", 1, b"")).checks is None
