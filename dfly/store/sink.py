"""From a stream of bytes to verified pieces: what a mover feeds with the body of a transfer.

Bytes are hashed while they are hot in the cache and written straight to their place; slices of
the mover's buffer, never copies. (The one exception: two transfers bring the same piece. The
second collects it in memory, so that whoever lies can't spoil what the other wrote.) A piece
counts only once its digest was compared; a wrong one ends the transfer, and costs only itself.
"""
from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Callable, Optional

from dfly.errors import DigestMismatch, FileError, ProtocolError
from dfly.store import TaskFile
from dfly.task import PIECES_MAX

if TYPE_CHECKING:
    from hashlib import _Hash as Hash


class PieceMismatch(DigestMismatch):
    """The bytes of one piece contradict its digest."""

    def __init__(self, what: str, hint: str = "", piece_index: int = -1) -> None:
        super().__init__(what, hint)
        self.piece_index = piece_index


class PieceSink:
    """Takes the bytes from piece `first` on. With `expected`, a piece is held only once its
    digest was told, be it after the piece came; without, a digest not known yet is recorded as
    it's found (the source is trusted). `on_piece` is called in the mover's thread for each piece
    that came whole."""

    def __init__(self, task_file: TaskFile, first: int, *, on_piece: Callable[[int], None],
                 expected: bool) -> None:
        self.piece_index = first  # of the piece under way
        self._file = task_file
        self._on_piece = on_piece
        self._expected = expected
        self._offset = task_file.geometry.start(first)
        self._stop = self._offset
        self._hash: Optional[Hash] = None  # None between two pieces
        self._in_place = False  # every byte of the piece went to its place so far
        self._collected: Optional[bytearray] = None  # or is here; or else the piece was held

    def feed(self, view: memoryview) -> None:
        """The next bytes of the body, cut anyhow."""
        while view:
            if self._hash is None:
                self._begin()
            part = view[:self._stop - self._offset]
            self._take(part)
            view = view[len(part):]
            if self._offset == self._stop:
                self._end()

    def finish(self) -> None:
        """The body is complete: a last piece that ends early is the last one of the content."""
        if self._hash is None:
            return
        if self._file.geometry.length is not None:
            raise ProtocolError(f"the body ends inside piece {self.piece_index}, at byte "
                                f"{self._offset} instead of {self._stop}")
        self._end()

    def _begin(self) -> None:
        geometry = self._file.geometry
        count = geometry.piece_count
        if count is not None and self.piece_index >= count:
            raise ProtocolError(f"the body goes on beyond the content's {geometry.length} bytes")
        if self.piece_index >= PIECES_MAX:
            raise ProtocolError(f"the content is longer than {PIECES_MAX} pieces")
        self._stop = geometry.stop(self.piece_index)
        self._in_place = self._file.claim(self.piece_index, self)
        self._collected = None if self._in_place or self._is_held() else bytearray()
        self._hash = hashlib.sha256()

    def _is_held(self) -> bool:
        return bool(self._file.have >> self.piece_index & 1)

    def _take(self, part: memoryview) -> None:
        assert self._hash is not None
        self._hash.update(part)
        if self._in_place:
            self._in_place = self._file.write(self._offset, part)
        elif self._collected is not None:
            self._collected += part
        self._offset += len(part)

    def _end(self) -> None:
        assert self._hash is not None
        digest, piece_index = self._hash.digest(), self.piece_index
        self._hash = None
        told = self._file.digest_of(piece_index)
        if told is None and self._expected:
            self._wait_for_word(piece_index, digest)
            return
        if told is not None and told != digest:
            raise self._mismatch(piece_index)
        if self._in_place:
            self._file.mark(piece_index, digest)
        elif self._collected is not None:
            self._file.put(piece_index, self._collected, digest)
            self._collected = None
        elif not self._is_held():  # it was, and proved damaged on the disk meanwhile
            raise FileError(f"piece {piece_index} of task {self._file.task_id} was lost while it "
                            "came a second time", "fetch it again")
        self._done_with(piece_index)

    def _wait_for_word(self, piece_index: int, digest: bytes) -> None:
        """The piece was quicker than the manager's word of its digest: links and pieces travel
        apart. It rests in its place until the word comes."""
        if not self._in_place:
            raise ProtocolError(f"piece {piece_index} came twice before anyone told its digest")
        try:
            self._file.await_digest(piece_index, digest)
        except DigestMismatch:
            raise self._mismatch(piece_index) from None   # the word came at this very moment
        self._done_with(piece_index)

    def _mismatch(self, piece_index: int) -> PieceMismatch:
        return PieceMismatch(f"piece {piece_index} of task {self._file.task_id} has wrong bytes",
                             "they were thrown away", piece_index)

    def _done_with(self, piece_index: int) -> None:
        self.piece_index += 1
        self._on_piece(piece_index)
