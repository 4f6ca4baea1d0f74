"""A task's content as a whole: its file for what a manager accepted, its size, its digest."""
from __future__ import annotations

from dfly.digest import Digest
from dfly.errors import DigestMismatch
from dfly.store import PieceStore, TaskFile
from dfly.task import TaskSpec, check_geometry
from dfly.wire.messages import Accepted

HASH_SIZE = 1 << 20   # bytes read at a time: stays in the processor's cache


def file_for(store: PieceStore, accepted: Accepted, spec: TaskSpec) -> TaskFile:
    """The store's file for what a manager accepted (blocking: it may verify or evict)."""
    geometry = check_geometry(accepted.length, accepted.piece_size)
    return store.open(accepted.task_id, accepted.version, geometry, url=spec.url, tag=spec.tag,
                      digest=str(spec.digest or ""))


def check_content(file: TaskFile, digest: Digest) -> None:
    """Read the whole content and compare (blocking); DigestMismatch names both digests."""
    length = file.geometry.length
    assert length is not None
    hasher = digest.hasher()
    for offset in range(0, length, HASH_SIZE):
        hasher.update(file.read(offset, min(HASH_SIZE, length - offset)))
    if hasher.digest() != digest.value:
        found = Digest(digest.algorithm, hasher.digest())
        raise DigestMismatch(f"the content has {found}, expected {digest}",
                             "the source serves other bytes than you expect; nothing was kept")
