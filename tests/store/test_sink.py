from __future__ import annotations

import hashlib
import random
from typing import List

import pytest

from dfly.errors import FileError, ProtocolError
from dfly.store import TaskFile
from dfly.store.memory import MemoryStore
from dfly.store.sink import PieceMismatch, PieceSink
from dfly.task import Geometry, set_of
from tests.conformance import (
    CONTENT,
    GEOMETRY,
    LENGTH,
    PIECE,
    digest,
    fill,
    piece,
    store_piece,
    task,
)

DIGESTS = b"".join(digest(index) for index in range(6))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def file(store: MemoryStore) -> TaskFile:
    return store.open(task("a"), "v", GEOMETRY)


class Transfer:
    """A body that goes into a sink."""

    def __init__(self, file: TaskFile, first: int = 0, expected: bool = False) -> None:
        self.heard: List[int] = []
        self.sink = PieceSink(file, first, on_piece=self.heard.append, expected=expected)

    def feed(self, data: bytes, cuts: int = 0, seed: int = 0) -> Transfer:
        rng = random.Random(seed)
        points = sorted(rng.randrange(len(data) + 1) for _ in range(cuts))
        buffer = bytearray(data)  # as a mover's: overwritten after the call
        for start, stop in zip([0, *points], [*points, len(data)]):
            self.sink.feed(memoryview(buffer)[start:stop])
            buffer[start:stop] = bytes(stop - start)
        return self


@pytest.mark.parametrize("seed", range(20))
def test_cuts_of_the_stream_change_nothing(store: MemoryStore, seed: int) -> None:
    file = store.open(task(str(seed)), "v", GEOMETRY)
    transfer = Transfer(file).feed(CONTENT, 2 * seed, seed)
    transfer.sink.finish()
    assert file.complete and file.read(0, LENGTH) == CONTENT
    assert file.digests(0, 6) == DIGESTS and transfer.heard == list(range(6))


def test_a_run_from_the_middle(file: TaskFile) -> None:
    file.learn(0, DIGESTS)
    transfer = Transfer(file, 2, expected=True).feed(piece(2) + piece(3))
    transfer.sink.finish()
    assert file.have == set_of([2, 3]) and transfer.heard == [2, 3]


def test_a_piece_counts_once_it_is_whole(file: TaskFile) -> None:
    transfer = Transfer(file).feed(piece(0) + piece(1)[:-1])
    assert file.have == 1 and transfer.heard == [0]
    with pytest.raises(ProtocolError, match=f"inside piece 1, at byte {2 * PIECE - 1}"):
        transfer.sink.finish()


def test_wrong_bytes_end_the_transfer_and_cost_only_themselves(file: TaskFile) -> None:
    file.learn(0, DIGESTS)
    transfer = Transfer(file, expected=True)
    with pytest.raises(PieceMismatch) as caught:
        transfer.feed(piece(0) + b"x" * PIECE + piece(2))
    assert caught.value.piece_index == 1 and caught.value.exit_code == 9
    assert file.have == 1 and transfer.heard == [0]
    assert file.failed is None and file.digest_of(1) == digest(1)
    Transfer(file, 1, expected=True).feed(CONTENT[PIECE:])
    assert file.complete


def test_a_piece_quicker_than_its_digest_waits_for_the_word(file: TaskFile) -> None:
    file.learn(0, digest(0))
    news: List[int] = []
    file.subscribe(news.append)
    transfer = Transfer(file, expected=True).feed(CONTENT)
    transfer.sink.finish()
    assert file.have == 1 and transfer.heard == list(range(6))
    file.learn(2, digest(2) + digest(3))
    assert file.have == set_of([0, 2, 3]) and news == [0, 2, 3]
    file.learn(0, DIGESTS)
    assert file.complete and file.read(0, LENGTH) == CONTENT


def test_a_waiting_piece_that_the_word_contradicts_is_not_held(file: TaskFile) -> None:
    Transfer(file, expected=True).feed(b"x" * PIECE + piece(1))
    file.learn(0, DIGESTS)
    assert file.have == set_of([1])
    Transfer(file, 0, expected=True).feed(piece(0))
    assert file.have == set_of([0, 1]) and file.read(0, PIECE) == piece(0)


def test_nobody_overwrites_a_piece_that_waits_for_its_word(file: TaskFile) -> None:
    Transfer(file, expected=True).feed(piece(0))
    with pytest.raises(ProtocolError, match="came twice before anyone told"):
        Transfer(file, expected=True).feed(b"x" * PIECE)
    file.learn(0, DIGESTS)
    assert file.have == 1 and file.read(0, PIECE) == piece(0)


def test_a_digest_told_while_the_piece_comes_is_in_time(file: TaskFile) -> None:
    transfer = Transfer(file, expected=True).feed(piece(0)[:-1])
    file.learn(0, digest(0))
    transfer.feed(piece(0)[-1:])
    assert file.have == 1


def test_too_long(file: TaskFile) -> None:
    with pytest.raises(ProtocolError, match=f"beyond the content's {LENGTH} bytes"):
        Transfer(file).feed(CONTENT + b"x")
    assert file.complete and file.whole()


def test_unknown_length(store: MemoryStore) -> None:
    file = store.open(task("chunked"), "v", Geometry(None, PIECE))
    transfer = Transfer(file).feed(CONTENT, cuts=9)
    assert transfer.heard == [0, 1, 2, 3, 4]
    transfer.sink.finish()
    assert transfer.heard == [0, 1, 2, 3, 4, 5] and not file.complete
    file.set_length(LENGTH)
    assert file.complete and file.digests(0, 6) == DIGESTS and file.read(0, LENGTH) == CONTENT


def test_unknown_length_that_ends_with_a_piece(store: MemoryStore) -> None:
    file = store.open(task("chunked"), "v", Geometry(None, PIECE))
    transfer = Transfer(file).feed(CONTENT[:2 * PIECE])
    transfer.sink.finish()
    file.set_length(2 * PIECE)
    assert file.complete and transfer.heard == [0, 1]


def test_nothing_at_all(store: MemoryStore) -> None:
    file = store.open(task("empty"), "v", Geometry(0, PIECE))
    transfer = Transfer(file)
    transfer.sink.feed(memoryview(b""))
    transfer.sink.finish()
    with pytest.raises(ProtocolError):
        transfer.feed(b"x")


# ---------------------------------------------------------------------- two bring one piece
def test_the_second_can_win(file: TaskFile) -> None:
    file.learn(0, DIGESTS)
    slow = Transfer(file, expected=True).feed(piece(0)[:1000])
    Transfer(file, expected=True).feed(piece(0) + piece(1))
    assert file.have == set_of([0, 1])
    slow.feed(piece(0)[1000:] + piece(1) + piece(2))
    assert file.have == set_of([0, 1, 2]) and slow.heard == [0, 1, 2]
    assert file.read(0, 3 * PIECE) == CONTENT[:3 * PIECE]


def test_a_liar_cant_spoil_what_another_brought(file: TaskFile) -> None:
    file.learn(0, DIGESTS)
    liar = Transfer(file, expected=True).feed(b"lie" * 1000)
    Transfer(file, expected=True).feed(piece(0))
    with pytest.raises(PieceMismatch):
        liar.feed(b"lie" * PIECE)
    assert file.have == 1 and file.read(0, PIECE) == piece(0)


def test_a_second_liar_leaves_the_first_alone(file: TaskFile) -> None:
    file.learn(0, DIGESTS)
    honest = Transfer(file, expected=True).feed(piece(0)[:-1])
    with pytest.raises(PieceMismatch):
        Transfer(file, expected=True).feed(b"x" * PIECE)
    honest.feed(piece(0)[-1:])
    assert file.have == 1 and file.read(0, PIECE) == piece(0)


def test_who_gave_up_is_in_nobodys_way(file: TaskFile) -> None:
    gone = Transfer(file).feed(piece(0)[:1000])
    del gone
    second = Transfer(file).feed(piece(0)[:2000])
    assert file.read(0, 2000) == piece(0)[:2000]  # in place again, not collected
    second.feed(piece(0)[2000:])
    assert file.have == 1


def test_two_sources_that_disagree(file: TaskFile) -> None:
    slow = Transfer(file).feed(b"x" * 1000)
    Transfer(file).feed(piece(0))
    with pytest.raises(PieceMismatch):
        slow.feed(b"x" * (PIECE - 1000))
    assert file.read(0, PIECE) == piece(0)


def test_a_held_piece_that_comes_again_is_still_compared(file: TaskFile) -> None:
    fill(file)
    transfer = Transfer(file).feed(piece(0))
    assert transfer.heard == [0]
    with pytest.raises(PieceMismatch):
        transfer.feed(b"x" * PIECE)
    assert file.whole()


def test_a_held_piece_lost_while_it_comes_again_isnt_claimed(file: TaskFile) -> None:
    store_piece(file, 0)
    transfer = Transfer(file).feed(piece(0)[:1000])
    file.unmark(1)
    with pytest.raises(FileError, match="lost"):
        transfer.feed(piece(0)[1000:])
    assert file.have == 0
    Transfer(file).feed(piece(0))
    assert file.have == 1 and file.read(0, PIECE) == piece(0)


def test_a_failed_file_stops_its_transfers(file: TaskFile) -> None:
    transfer = Transfer(file).feed(piece(0)[:1000])
    file.fail(FileError("the source changed"))
    with pytest.raises(FileError, match="the source changed"):
        transfer.feed(piece(0)[1000:])


def test_hashing_sees_every_byte_once(file: TaskFile) -> None:
    Transfer(file).feed(CONTENT, cuts=3)
    assert file.digest_of(5) == hashlib.sha256(CONTENT[5 * PIECE:]).digest()
