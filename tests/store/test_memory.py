from __future__ import annotations

from typing import Any

from dfly.store import PieceStore, TaskFile
from dfly.store.memory import MemoryStore
from tests.conformance import GEOMETRY, StoreConformance, fill, task


class TestMemoryStore(StoreConformance):
    def make(self, tmp_path: Any, **limits: Any) -> PieceStore:
        return MemoryStore(**limits)


def test_content_has_no_name_on_any_disk() -> None:
    store = MemoryStore()
    file: TaskFile = fill(store.open(task("a"), "v", GEOMETRY))
    assert file.path is None and store.records()[0].path == ""
