"""One build for all system tests, and what each test gets of it."""
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Iterator

import pytest

from tests.cluster import Cluster, build
from tests.support import SourceServer
from tests.system.scene import clean_cluster


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executable, built once and set aside, so that nobody replaces it under the tests."""
    kept = tmp_path_factory.mktemp("built") / "dfly"
    shutil.copy2(build(), kept)
    (kept.parent / "code").mkdir(mode=0o700)
    return kept


@pytest.fixture
def cluster(tmp_path: Path, program: Path) -> Iterator[Cluster]:
    with clean_cluster(tmp_path, program) as it:
        yield it


@pytest.fixture
def source() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server
