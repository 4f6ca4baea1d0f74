"""Content into pieces, where the digests of its parts were told beforehand."""
from __future__ import annotations

import hashlib
import logging
import random
from typing import Callable, List, Optional

import pytest

from dfly.errors import DigestMismatch
from dfly.service.intake import ContentSink, Intake, vouched_lengths
from dfly.source import SourceChanged
from dfly.store import TaskFile
from dfly.store.memory import MemoryStore
from dfly.store.sink import PieceMismatch
from dfly.task import Geometry, Vouched, full_set, set_of
from dfly.units import KIB

PART = 64 * KIB
PIECE = 256 * KIB
CONTENT = random.Random(5).randbytes(2 * PIECE + PART + 100)   # 10 parts, the last of 100 bytes
SIZE = len(CONTENT)


def vouched_of(content: bytes = CONTENT, length: int = PART, algorithm: str = "sha256") -> Vouched:
    values = b"".join(hashlib.new(algorithm, content[start:start + length]).digest()
                      for start in range(0, len(content), length))
    return Vouched(algorithm, length, values)


class Desk:
    """A task file in memory and what came into it."""

    def __init__(self, vouched: Optional[Vouched], length: Optional[int] = SIZE,
                 piece_size: int = PIECE) -> None:
        self.pieces: List[int] = []
        self.file: TaskFile = MemoryStore().open("a" * 64, "v", Geometry(length, piece_size))
        self.intake = Intake(self.file, self.pieces.append, lambda: False, "http://a/f",
                             vouched=vouched)

    def sink(self, start: int = 0, stop: Optional[int] = SIZE) -> ContentSink:
        return ContentSink(self.intake, start, stop)


def feed(sink: ContentSink, content: bytes, step: int = SIZE) -> None:
    for start in range(0, len(content), step):
        sink.feed(memoryview(content)[start:start + step])


def spoilt(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1:]


# -------------------------------------------------------------------------- what must pass
@pytest.mark.parametrize("step", [SIZE, PART, PART + 1, 1000, PIECE - 1])
@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "md5", "sha512"])
def test_what_is_as_told_comes_in(step: int, algorithm: str) -> None:
    desk = Desk(vouched_of(algorithm=algorithm))
    feed(desk.sink(), CONTENT, step)
    assert desk.file.complete and desk.file.read(0, SIZE) == CONTENT


@pytest.mark.parametrize("length", [1, PART - 1, PART, PART + 1, PIECE, PIECE + 1, SIZE])
@pytest.mark.parametrize("told", [True, False])
def test_lengths_around_the_boundaries(length: int, told: bool) -> None:
    content = CONTENT[:length]
    desk = Desk(vouched_of(content), length if told else None)
    sink = desk.sink(stop=length if told else None)
    feed(sink, content, 1000)
    if not told:
        sink.end()
        desk.file.set_length(length)
    assert desk.file.complete and desk.file.read(0, length) == content


def test_a_run_in_the_middle_is_compared_with_its_own_parts() -> None:
    desk = Desk(vouched_of())
    feed(desk.sink(PIECE, 2 * PIECE), CONTENT[PIECE:2 * PIECE], 777)
    feed(desk.sink(2 * PIECE), CONTENT[2 * PIECE:], 777)
    assert desk.file.have == set_of([1, 2])


def test_parts_as_large_as_a_piece() -> None:
    desk = Desk(vouched_of(length=PIECE))
    feed(desk.sink(), CONTENT, 5000)
    assert desk.file.complete


# ------------------------------------------------------------------------ what mustn't pass
@pytest.mark.parametrize("step", [SIZE, PART, 1000])
@pytest.mark.parametrize("at", [0, 1, PART - 1, PART, PIECE - 1, PIECE, PIECE + PART, 2 * PIECE - 1,
                                2 * PIECE, SIZE - 101, SIZE - 1])
def test_a_wrong_byte_never_makes_a_piece(at: int, step: int) -> None:
    desk = Desk(vouched_of())
    sink = desk.sink()
    with pytest.raises(PieceMismatch) as error:
        feed(sink, spoilt(CONTENT, at), step)
    assert error.value.piece_index == at // PIECE
    assert "piece" in error.value.what and "http://a/f" in error.value.what
    assert desk.file.have == full_set(at // PIECE)
    # The sink goes on with the wrong piece from its start, as ingest does.
    sink.rewind()
    assert sink.position == at // PIECE * PIECE
    feed(sink, CONTENT[sink.position:], step)
    assert desk.file.complete and desk.file.read(0, SIZE) == CONTENT


@pytest.mark.parametrize("came", [1, PART + 1, PIECE - 1, PIECE + 1])
def test_rewinding_forgets_half_a_part(came: int) -> None:
    desk = Desk(vouched_of())
    sink = desk.sink()
    feed(sink, CONTENT[:came])
    sink.rewind()
    assert sink.position == came // PIECE * PIECE
    feed(sink, CONTENT[sink.position:])
    assert desk.file.complete


def test_a_wrong_last_byte_of_an_unknown_length() -> None:
    desk = Desk(vouched_of(), None)
    sink = desk.sink(stop=None)
    feed(sink, spoilt(CONTENT, SIZE - 1))
    with pytest.raises(PieceMismatch):
        sink.end()
    assert desk.file.have == full_set(2)


@pytest.mark.parametrize("length", [0, SIZE - 101, SIZE - 100, 9 * PART + PART + 1, 20 * PART])
def test_a_length_that_the_parts_cannot_have(length: int) -> None:
    with pytest.raises(DigestMismatch, match=f"has {length} bytes.*{9 * PART + 1} to {10 * PART}"):
        Desk(vouched_of(), length)


@pytest.mark.parametrize("length", [0, PART, 9 * PART])
def test_an_unknown_length_that_ends_too_early(length: int) -> None:
    desk = Desk(vouched_of(), None)
    sink = desk.sink(stop=None)
    feed(sink, CONTENT[:length])
    with pytest.raises(DigestMismatch, match=f"has {length} bytes"):
        sink.end()


def test_an_unknown_length_that_goes_on_too_long() -> None:
    content = CONTENT[:2 * PIECE]
    desk = Desk(vouched_of(content), None)
    sink = desk.sink(stop=None)
    with pytest.raises(DigestMismatch, match="has 589824 bytes") as error:
        feed(sink, content + bytes(PART))
    assert not isinstance(error.value, PieceMismatch)    # to fetch the piece again is no use
    assert desk.file.have == full_set(2)


def test_a_piece_that_is_held_but_not_as_told() -> None:
    desk = Desk(vouched_of())
    wrong = spoilt(CONTENT, 5)[:PIECE]
    desk.file.put(0, wrong, hashlib.sha256(wrong).digest())
    with pytest.raises(PieceMismatch):
        feed(desk.sink(), spoilt(CONTENT, 5))
    with pytest.raises(SourceChanged):
        feed(desk.sink(), CONTENT)


# --------------------------------------------------------------------- what can't be compared
@pytest.mark.parametrize("vouched", [vouched_of(length=PIECE * 2), vouched_of(length=1000),
                                     Vouched("sha256", 0, b"")])
def test_parts_that_do_not_fit_the_pieces_are_left_with_a_warning(
        vouched: Vouched, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        desk = Desk(vouched)
    assert "can't be compared" in caplog.text and desk.intake.vouched is None
    feed(desk.sink(), CONTENT)
    assert desk.file.complete


def test_nothing_is_hashed_where_nothing_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made: List[str] = []
    monkeypatch.setattr("dfly.service.intake.new_hasher", made.append)
    desk = Desk(None)
    feed(desk.sink(), CONTENT)
    assert desk.file.complete and not made


@pytest.mark.parametrize("make, expected", [
    (lambda: vouched_of(b""), range(0, 1)),
    (lambda: vouched_of(b"x"), range(1, PART + 1)),
    (vouched_of, range(9 * PART + 1, 10 * PART + 1))])
def test_the_lengths_that_parts_allow(make: Callable[[], Vouched], expected: range) -> None:
    assert vouched_lengths(make()) == expected
