"""A task's content as a whole: its file for what a manager accepted, its size, its digest."""
from __future__ import annotations

import asyncio
from typing import Optional

from dfly.digest import Digest
from dfly.errors import DflyError, DigestMismatch
from dfly.service.ingest import Content
from dfly.source import Version, shown_url
from dfly.store import PieceStore, TaskFile
from dfly.task import Geometry, TaskSpec, check_geometry, piece_size_for
from dfly.wire.messages import Accepted

HASH_SIZE = 1 << 20   # bytes read at a time: stays in the processor's cache


def file_for(store: PieceStore, accepted: Accepted, spec: TaskSpec) -> TaskFile:
    """The store's file for what a manager accepted (blocking: it may verify or evict)."""
    return _open(store, spec, accepted.version,
                 check_geometry(accepted.length, accepted.piece_size))


def file_from_source(store: PieceStore, spec: TaskSpec, content: Content) -> TaskFile:
    """The store's file for what a source was found to have (blocking, too)."""
    return _open(store, spec, content.version.token,
                 Geometry(content.length, piece_size_for(content.length, spec.vouched)))


def shared_version(digest: Digest, length: int) -> Version:
    """The version of a content that hosts share, the same on all of them. No other version of a
    task may be given to those who only know its digest: a source could refuse it to them."""
    return Version(f'"{digest.algorithm}-{digest.value.hex()}"', length=length)


def is_shared(file: TaskFile, digest: Optional[Digest]) -> bool:
    """True if the file is of that version."""
    length = file.geometry.length
    return (digest is not None and length is not None
            and file.version == shared_version(digest, length).token)


def _open(store: PieceStore, spec: TaskSpec, version: str, geometry: Geometry) -> TaskFile:
    return store.open(spec.task_id, version, geometry, url=spec.url, tag=spec.tag,
                      digest=str(spec.digest or ""))


def check_content(file: TaskFile, digest: Digest, url: str) -> None:
    """Read the whole content of `url` and compare (blocking); DigestMismatch names both
    digests."""
    length = file.geometry.length
    assert length is not None
    hasher = digest.hasher()
    for offset in range(0, length, HASH_SIZE):
        hasher.update(file.read(offset, min(HASH_SIZE, length - offset)))
    if hasher.digest() != digest.value:
        found = Digest(digest.algorithm, hasher.digest())
        raise DigestMismatch(f"{shown_url(url)}: the content has {found}, expected {digest}",
                             "check the digest; if it's right, the source has another file")


async def discard(store: PieceStore, file: TaskFile, error: DflyError) -> None:
    """The content as a whole is wrong: whoever uses it hears `error`, and it leaves the store."""
    file.fail(error)
    await asyncio.to_thread(store.remove, file.task_id)
