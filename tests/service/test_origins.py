"""Where pieces came from: each counted once, under whoever's thread marked it."""
from __future__ import annotations

import hashlib
import threading
from typing import List, Tuple

from dfly.service.origins import MANAGER, PEERS, SOURCE, OriginSink, Received, carried, carrier
from dfly.store.memory import MemoryStore
from dfly.store.sink import PieceSink
from dfly.task import Geometry

PIECE = 256 * 1024
TASK = "ab" * 32


def test_sizes_know_a_short_last_piece_and_what_was_held() -> None:
    received = Received(cache=0b0001)
    received.add(1, PEERS)
    received.add(3, SOURCE)
    received.add(2, MANAGER)
    assert received.sizes(Geometry(3 * PIECE + 5, PIECE)) == {
        "cache": PIECE, "peers": PIECE, "manager": PIECE, "source": 5}
    assert received.pieces == 0b1111
    assert received.sizes(Geometry(3 * PIECE + 5, PIECE), before=0b1010) == {
        "cache": 2 * PIECE + 5, "peers": 0, "manager": PIECE, "source": 0}
    assert Received().sizes(Geometry(0, PIECE)) == {
        "cache": 0, "peers": 0, "manager": 0, "source": 0}


def test_two_transfers_of_one_piece_count_once_and_for_the_first_to_end() -> None:
    store = MemoryStore()
    file = store.open(TASK, "v", Geometry(2 * PIECE, PIECE))
    content = bytes(PIECE)
    file.learn(0, 2 * hashlib.sha256(content).digest())
    told: List[Tuple[int, str]] = []
    file.subscribe(lambda piece: told.append((piece, carrier())))

    def sink(first: int, origin: str) -> OriginSink:
        inner = PieceSink(file, first, on_piece=lambda _: None, expected=True)
        return OriginSink(inner, origin)

    slow, quick = sink(0, MANAGER), sink(0, PEERS)
    slow.feed(memoryview(content[:100]))
    quick.feed(memoryview(content))
    other = threading.Thread(target=slow.feed, args=(memoryview(content[100:]),))
    other.start()
    other.join()
    assert told == [(0, PEERS)]
    with carried(MANAGER):
        file.put(1, content, hashlib.sha256(content).digest())
    assert told == [(0, PEERS), (1, MANAGER)] and carrier() == SOURCE
    store.close()


def test_a_piece_that_waited_for_its_digest_counts_for_whoever_brought_it() -> None:
    store = MemoryStore()
    file = store.open(TASK, "v", Geometry(2 * PIECE, PIECE))
    told: List[Tuple[int, str]] = []
    file.subscribe(lambda piece: told.append((piece, carrier())))
    content = bytes(PIECE)
    sink = OriginSink(PieceSink(file, 0, on_piece=lambda _: None, expected=True), PEERS)
    mover = threading.Thread(target=sink.feed, args=(memoryview(content),))
    mover.start()
    mover.join()
    assert told == []
    file.learn(0, hashlib.sha256(content).digest())
    assert told == [(0, PEERS)] and carrier() == SOURCE
    store.close()
