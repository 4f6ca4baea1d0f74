"""What every store must do: one suite, which the memory store and the disk store both pass.

A test file subclasses StoreConformance and says in `make` how its store is made. Tests that need
a second life of the same store (resume, crash) are the disk's own, in tests/store/.
"""
from __future__ import annotations

import hashlib
import os
import random
import re
import threading
from typing import Any, Callable, Iterator, List

import pytest

from dfly.clock import ManualClock
from dfly.errors import DigestMismatch, FileError, NoSpace, ProtocolError
from dfly.store import GONE, PieceStore, TaskFile
from dfly.task import Geometry, full_set, set_of
from dfly.units import KIB, MIB

PIECE = 256 * KIB
LENGTH = 5 * PIECE + 1000  # six pieces, the last one short
GEOMETRY = Geometry(LENGTH, PIECE)
CONTENT = hashlib.shake_128(b"content").digest(LENGTH)
ALL = full_set(6)


def task(name: str) -> str:
    """A task id for a test."""
    return hashlib.sha256(name.encode()).hexdigest()


def piece(index: int, content: bytes = CONTENT) -> bytes:
    return content[index * PIECE:(index + 1) * PIECE]


def digest(index: int, content: bytes = CONTENT) -> bytes:
    return hashlib.sha256(piece(index, content)).digest()


def store_piece(file: TaskFile, index: int, content: bytes = CONTENT) -> None:
    file.write(index * PIECE, piece(index, content))
    file.mark(index, digest(index, content))


def fill(file: TaskFile, content: bytes = CONTENT) -> TaskFile:
    for index in range(-(-len(content) // PIECE)):
        store_piece(file, index, content)
    return file


class StoreConformance:
    """Subclasses define `make(tmp_path, **limits)`."""

    def make(self, tmp_path: Any, **limits: Any) -> PieceStore:
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def make_store(self, tmp_path: Any, clock: ManualClock) -> Iterator[Callable[..., PieceStore]]:
        made: List[PieceStore] = []

        def make(**limits: Any) -> PieceStore:
            made.append(self.make(tmp_path / f"store{len(made)}", clock=clock, **limits))
            return made[-1]
        yield make
        for store in made:
            store.close()

    @pytest.fixture
    def store(self, make_store: Callable[..., PieceStore]) -> PieceStore:
        return make_store()

    @pytest.fixture
    def file(self, store: PieceStore) -> TaskFile:
        return store.open(task("a"), "v1", GEOMETRY)

    # ------------------------------------------------------------------ pieces
    def test_a_fresh_file_holds_nothing(self, file: TaskFile) -> None:
        assert (file.have, file.known, file.complete, file.failed) == (0, 0, False, None)
        assert file.geometry == GEOMETRY and file.version == "v1"

    def test_pieces_come_in_any_order_and_make_it_complete(self, file: TaskFile) -> None:
        for index in (5, 0, 3, 1, 4):
            store_piece(file, index)
        assert file.have == set_of([0, 1, 3, 4, 5]) and not file.complete
        store_piece(file, 2)
        assert file.complete and file.have == ALL
        assert file.read(0, LENGTH + 10) == CONTENT
        assert os.pread(file.fileno(), 100, PIECE) == CONTENT[PIECE:PIECE + 100]

    def test_written_is_not_held_until_marked(self, file: TaskFile) -> None:
        file.write(0, piece(0))
        assert file.have == 0

    def test_a_held_piece_is_never_overwritten(self, file: TaskFile) -> None:
        store_piece(file, 1)
        assert not file.write(PIECE - 10, b"x" * (PIECE + 20))
        assert file.read(PIECE, PIECE) == piece(1)
        assert file.read(PIECE - 10, 10) == b"x" * 10
        assert file.read(2 * PIECE, 10) == b"x" * 10
        assert file.write(2 * PIECE, piece(2))

    def test_put_never_replaces_a_held_piece(self, file: TaskFile) -> None:
        file.put(2, piece(2), digest(2))
        file.put(2, b"x" * PIECE, digest(2))
        assert file.read(2 * PIECE, PIECE) == piece(2) and file.have == set_of([2])

    def test_mark_refuses_another_digest_than_the_one_known(self, file: TaskFile) -> None:
        file.learn(0, digest(0))
        file.write(0, b"x" * PIECE)
        with pytest.raises(DigestMismatch):
            file.mark(0, hashlib.sha256(b"x" * PIECE).digest())
        assert file.have == 0 and file.digest_of(0) == digest(0)

    def test_unmark_keeps_the_digest(self, file: TaskFile) -> None:
        fill(file)
        file.unmark(set_of([1, 4]))
        assert file.have == set_of([0, 2, 3, 5]) and not file.complete
        assert file.known == ALL and file.digest_of(4) == digest(4)
        store_piece(file, 1)
        store_piece(file, 4)
        assert file.complete and file.whole()

    def test_one_writer_at_a_time(self, file: TaskFile) -> None:
        class Writer:
            pass
        first, second = Writer(), Writer()
        assert file.claim(0, first) and file.claim(0, first)
        assert not file.claim(0, second) and file.claim(1, second)
        del first  # its transfer ended
        assert file.claim(0, second)
        store_piece(file, 0)
        assert not file.claim(0, second)

    def test_an_empty_content_is_complete_at_once(self, store: PieceStore) -> None:
        file = store.open(task("empty"), "v", Geometry(0, PIECE))
        assert file.complete and file.whole() and file.read(0, 10) == b""
        assert store.records()[0].complete

    # ------------------------------------------------------------------ digests
    def test_digests_are_learnt_ahead_of_the_pieces(self, file: TaskFile) -> None:
        file.learn(2, digest(2) + digest(3))
        assert file.known == set_of([2, 3]) and file.have == 0
        assert file.digests(2, 2) == digest(2) + digest(3)
        assert file.digest_of(1) is None
        with pytest.raises(LookupError):
            file.digests(1, 2)

    def test_digests_learnt_can_be_replaced_until_the_piece_is_held(self, file: TaskFile) -> None:
        file.learn(0, bytes(32))
        file.learn(0, digest(0))
        store_piece(file, 0)
        file.learn(0, digest(0) + digest(1))  # says nothing new of piece 0
        with pytest.raises(ProtocolError, match="contradicts"):
            file.learn(0, bytes(32) + bytes(32))
        assert file.digest_of(1) == digest(1)

    @pytest.mark.parametrize("first, size", [(5, 64), (6, 32), (0, 7 * 32), (0, 33), (-1, 32)])
    def test_digests_of_impossible_pieces_are_refused(self, file: TaskFile, first: int,
                                                      size: int) -> None:
        with pytest.raises(ProtocolError):
            file.learn(first, bytes(size))
        assert file.known == 0

    # ------------------------------------------------------------------ length
    def test_unknown_length(self, store: PieceStore) -> None:
        file = store.open(task("chunked"), "v", Geometry(None, PIECE))
        fill(file)
        assert not file.complete and file.have == ALL
        file.set_length(LENGTH)
        assert file.complete and file.whole() and file.geometry == GEOMETRY
        assert os.fstat(file.fileno()).st_size == LENGTH
        record, = store.records()
        assert record.length == LENGTH and record.complete and record.held_bytes == LENGTH

    def test_pieces_that_prove_bad_are_told_to_who_counts_on_them(
            self, store: PieceStore, file: TaskFile) -> None:
        fill(file)
        heard: List[int] = []
        file.subscribe(heard.append)
        file.unmark(0)
        assert heard == []
        file.unmark(set_of([2]))
        assert heard == [GONE] and file.failed is None and not file.complete

    def test_bytes_beyond_a_length_learnt_meanwhile_are_refused(self, store: PieceStore) -> None:
        chunked = store.open(task("overtaken"), "v1", Geometry(None, PIECE))
        store_piece(chunked, 0)
        chunked.set_length(PIECE + 10)
        with pytest.raises(ProtocolError):
            chunked.write(PIECE, piece(1))
        with pytest.raises(ProtocolError):
            chunked.put(1, piece(1), digest(1))
        with pytest.raises(ProtocolError):
            chunked.mark(2, digest(2))

    def test_a_length_that_contradicts_is_refused(self, store: PieceStore, file: TaskFile) -> None:
        with pytest.raises(ProtocolError):
            file.set_length(LENGTH + 1)
        file.set_length(LENGTH)
        chunked = store.open(task("chunked"), "v", Geometry(None, PIECE))
        store_piece(chunked, 3)
        with pytest.raises(ProtocolError):
            chunked.set_length(3 * PIECE)
        with pytest.raises(ProtocolError):
            chunked.set_length(1 << 60)

    # ------------------------------------------------------------------ watchers
    def test_watchers_hear_of_pieces_once_and_of_failure(self, file: TaskFile) -> None:
        heard: List[int] = []
        stop = file.subscribe(heard.append)
        store_piece(file, 3)
        store_piece(file, 3)
        file.put(4, piece(4), digest(4))
        assert heard == [3, 4]
        file.fail(FileError("first"))
        file.fail(FileError("second"))
        assert heard == [3, 4, GONE]
        assert file.failed is not None and file.failed.what == "first"
        late: List[int] = []
        file.subscribe(late.append)
        assert late == [GONE]
        stop()
        with pytest.raises(FileError, match="first"):
            file.write(0, piece(0))
        with pytest.raises(FileError, match="first"):
            file.mark(0, digest(0))

    def test_a_watcher_that_stopped_hears_nothing(self, file: TaskFile) -> None:
        heard: List[int] = []
        file.subscribe(heard.append)()
        store_piece(file, 0)
        assert heard == []

    def test_the_next_attempt_goes_on_after_a_failure(self, store: PieceStore,
                                                      file: TaskFile) -> None:
        store_piece(file, 0)
        file.fail(FileError("source gone"))
        assert store.verify(task("a")) == 0
        again = store.open(task("a"), "v1", GEOMETRY)
        assert again.failed is None and again.have == set_of([0])
        assert again.read(0, PIECE) == piece(0)
        assert fill(again).complete
        assert store.find(task("a")) is again and file.failed is not None

    def test_concurrent_marks(self, store: PieceStore) -> None:
        count, workers = 200, 4
        content = hashlib.shake_128(b"many").digest(count * 1000)
        file = store.open(task("many"), "v", Geometry(len(content), 1000))
        heard: List[int] = []
        file.subscribe(heard.append)
        gate = threading.Barrier(workers)

        def work(first: int) -> None:
            gate.wait()
            for index in range(first, count, 2):  # every piece is brought by two of the workers
                data = content[index * 1000:(index + 1) * 1000]
                file.write(index * 1000, data)
                file.mark(index, hashlib.sha256(data).digest())
        threads = [threading.Thread(target=work, args=(n % 2,)) for n in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert file.complete and sorted(heard) == list(range(count))
        assert file.read(0, len(content)) == content and store.verify(task("many")) == 0

    # ------------------------------------------------------------------ tasks
    def test_open_again_is_the_same_file(self, store: PieceStore, file: TaskFile) -> None:
        assert store.open(task("a"), "v1", GEOMETRY) is file
        assert store.open(task("a"), "v1", Geometry(None, PIECE)) is file
        assert store.find(task("a")) is file and store.find(task("b")) is None

    def test_two_threads_open_one_task(self, store: PieceStore) -> None:
        opened: List[TaskFile] = []
        gate = threading.Barrier(4)

        def work() -> None:
            gate.wait()
            opened.append(store.open(task("x"), "v", GEOMETRY))
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(file) for file in opened}) == 1

    def test_a_length_learnt_meanwhile_is_taken_over(self, store: PieceStore) -> None:
        file = store.open(task("c"), "v", Geometry(None, PIECE))
        store_piece(file, 0)
        assert store.open(task("c"), "v", GEOMETRY) is file
        assert file.geometry == GEOMETRY and file.have == 1

    @pytest.mark.parametrize("version, geometry", [
        ("v2", GEOMETRY), ("v1", Geometry(LENGTH, 2 * PIECE)), ("v1", Geometry(LENGTH - 1, PIECE))])
    def test_another_version_or_cut_begins_afresh(self, store: PieceStore, version: str,
                                                  geometry: Geometry) -> None:
        old = fill(store.open(task("a"), "v1", GEOMETRY))
        heard: List[int] = []
        old.subscribe(heard.append)
        new = store.open(task("a"), version, geometry)
        assert new is not old and new.have == 0 and new.known == 0 and heard == [GONE]
        new.write(0, bytes(geometry.size_of(0)))
        assert old.read(0, LENGTH) == CONTENT and old.whole()  # who reads it goes on
        assert store.find(task("a")) is new and len(store.records()) == 1

    def test_who_waits_for_a_replaced_version_is_told(self, store: PieceStore,
                                                      file: TaskFile) -> None:
        store_piece(file, 0)
        store.open(task("a"), "v2", GEOMETRY)
        assert file.failed is not None
        with pytest.raises(FileError, match="another version"):
            file.write(PIECE, piece(1))

    def test_late_marks_of_a_replaced_version_change_nothing(self, store: PieceStore) -> None:
        old = fill(store.open(task("a"), "v1", GEOMETRY))
        new = store.open(task("a"), "v2", GEOMETRY)
        old.unmark(1)
        store_piece(old, 0)
        assert new.have == 0 and store.records()[0].held_bytes == 0

    def test_remove(self, store: PieceStore, file: TaskFile) -> None:
        fill(file)
        assert store.remove(task("a")) and not store.remove(task("a"))
        assert store.find(task("a")) is None and store.records() == []
        assert file.read(0, LENGTH) == CONTENT

    @pytest.mark.parametrize("name", ["", "../../etc/passwd", "a" * 63, "A" * 64, "/" * 64])
    def test_names_from_outside_never_become_paths(self, store: PieceStore, name: str) -> None:
        with pytest.raises(ProtocolError):
            store.open(name, "v", GEOMETRY)
        assert store.find(name) is None and not store.remove(name)
        with pytest.raises(LookupError):
            store.verify(name)

    def test_records(self, store: PieceStore, clock: ManualClock) -> None:
        began = clock.wall()
        file = store.open(task("a"), "v1", GEOMETRY, url="http://files.example/a", tag="t",
                          digest="sha256:00")
        store_piece(file, 0)
        store_piece(file, 5)
        clock.advance(10)
        store.open(task("b"), "v", Geometry(None, MIB))
        clock.advance(10)
        store.find(task("a"))
        store.pin(task("a"), True)
        b, a = store.records()  # least recently used first
        assert (a.task_id, a.version, a.url, a.tag, a.digest) == (
            task("a"), "v1", "http://files.example/a", "t", "sha256:00")
        assert (a.length, a.piece_size, a.held_bytes) == (LENGTH, PIECE, PIECE + 1000)
        assert a.pinned and not a.complete
        assert (a.created_at, a.accessed_at) == (began, began + 20)
        assert (b.task_id, b.length, b.held_bytes, b.pinned) == (task("b"), None, 0, False)

    def test_verify_finds_bad_pieces(self, store: PieceStore, file: TaskFile) -> None:
        fill(file)
        times = os.fstat(file.fileno())
        os.pwrite(file.fileno(), b"?", 2 * PIECE + 7)
        os.pwrite(file.fileno(), b"?", LENGTH - 1)
        os.utime(file.fileno(), ns=(times.st_atime_ns, times.st_mtime_ns))  # as a bad disk would
        assert store.verify(task("a")) == set_of([2, 5])
        assert file.have == set_of([0, 1, 3, 4]) and not file.complete
        assert store.verify(task("a")) == 0
        store_piece(file, 2)
        store_piece(file, 5)
        assert file.complete and store.verify(task("a")) == 0

    def test_a_complete_file_changed_by_someone_else_leaves_the_store(
            self, store: PieceStore, file: TaskFile) -> None:
        fill(file)
        heard: List[int] = []
        file.subscribe(heard.append)
        os.pwrite(file.fileno(), b"edited", 0)
        assert not file.whole() and heard == [GONE] and file.failed is not None
        assert store.find(task("a")) is None and store.records() == []
        with pytest.raises(LookupError):
            store.verify(task("a"))

    def test_find_notices_a_change_and_verify_tells(self, store: PieceStore,
                                                    file: TaskFile) -> None:
        fill(file)
        os.ftruncate(file.fileno(), 10)
        with pytest.raises(FileError, match="changed"):
            store.verify(task("a"))
        assert store.find(task("a")) is None

    def test_stamp_is_no_change(self, store: PieceStore, file: TaskFile) -> None:
        fill(file).stamp(1_600_000_000.0)
        assert os.fstat(file.fileno()).st_mtime == 1_600_000_000
        assert file.whole() and store.find(task("a")) is file

    def test_stamp_hides_no_change(self, file: TaskFile) -> None:
        fill(file)
        os.pwrite(file.fileno(), b"edited", 0)
        file.stamp(1_600_000_000.0)
        assert not file.whole()

    # ------------------------------------------------------------------ room
    def test_eviction_goes_by_last_use_down_to_the_low_watermark(
            self, make_store: Callable[..., PieceStore], clock: ManualClock) -> None:
        store = make_store(quota=10 * MIB, high=0.9, low=0.5)
        for name in "abcd":
            store.open(task(name), "v", Geometry(2 * MIB, PIECE))
            clock.advance(1)
        store.find(task("a"))
        store.make_room(MIB)  # 9 of 10: the mark, not above it
        assert len(store.records()) == 4
        store.make_room(2 * MIB)  # 10 of 10: down to 5 with the new one
        assert [record.task_id for record in store.records()] == [task("a")]

    def test_pinned_and_used_tasks_are_never_evicted(
            self, make_store: Callable[..., PieceStore]) -> None:
        store = make_store(quota=4 * MIB, high=0.9, low=0.5)
        store.open(task("pinned"), "v", Geometry(MIB, PIECE))
        used = store.open(task("used"), "v", Geometry(MIB, PIECE))
        idle = store.open(task("idle"), "v", Geometry(MIB, PIECE))
        store.pin(task("pinned"), True)
        used.hold()
        with pytest.raises(NoSpace, match="3.00 MiB"):
            store.make_room(3 * MIB)
        assert len(store.records()) == 3  # nothing was lost for nothing
        store.open(task("new"), "v", Geometry(2 * MIB, PIECE))
        assert {record.task_id for record in store.records()} == {
            task("pinned"), task("used"), task("new")}
        assert idle.failed is not None and used.failed is None
        used.release()
        store.make_room(MIB)
        assert task("used") not in {record.task_id for record in store.records()}

    def test_unknown_lengths_ask_for_room_as_they_grow(
            self, make_store: Callable[..., PieceStore]) -> None:
        store = make_store(quota=100 * MIB)
        old = store.open(task("old"), "v", Geometry(50 * MIB, PIECE))
        file = store.open(task("chunked"), "v", Geometry(None, PIECE))
        file.write(0, b"x")
        assert old.failed is not None and len(store.records()) == 1
        with pytest.raises(NoSpace):
            file.write(100 * MIB, b"x")
        file.write(70 * MIB, b"x")  # a whole step more wouldn't fit, this does
        file.set_length(10)
        store.open(task("next"), "v", Geometry(80 * MIB, PIECE))
        assert len(store.records()) == 2

    def test_many_threads_few_tasks_little_room(
            self, make_store: Callable[..., PieceStore]) -> None:
        store = make_store(quota=3 * LENGTH, high=0.9, low=0.5)
        served: List[bytes] = []
        unfair: List[Exception] = []

        def work(seed: int) -> None:
            try:
                use_store(seed)
            except Exception as error:
                unfair.append(error)

        def use_store(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(30):
                name, version = rng.choice("abcde"), rng.choice(["v1", "v1", "v2"])
                try:
                    file = store.open(task(name), version, GEOMETRY)
                    file.hold()
                    for index in range(6):
                        file.put(index, piece(index), digest(index))
                        if rng.random() < 0.02:
                            file.fail(FileError("was removed by a whim"))
                    served.append(file.read(0, LENGTH))
                    file.release()
                    if rng.random() < 0.2:
                        store.remove(task(name))
                    store.records()
                except NoSpace:
                    pass  # all three places in use: fair
                except FileError as error:  # removed or replaced by another thread: fair
                    if not re.search("was removed|gave way|was evicted", error.what):
                        raise
        threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads), "deadlock"
        assert unfair == []
        assert served and all(data == CONTENT for data in served)
        for record in store.records():
            assert store.verify(record.task_id) == 0

    def test_host_id(self, make_store: Callable[..., PieceStore]) -> None:
        first, second = make_store(), make_store()
        assert len(first.host_id) == 16 and first.host_id != second.host_id

    def test_a_closed_store_is_quiet(self, store: PieceStore, file: TaskFile) -> None:
        store.close()
        store_piece(file, 0)  # a transfer that ends late
        assert file.have == 1
        store.close()
