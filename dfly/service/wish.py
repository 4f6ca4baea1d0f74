"""What one caller of this host asks for, from the local socket to the download. Values only."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

from dfly.digest import Digest
from dfly.task import TaskSpec
from dfly.wire.messages import NO_SOURCE, STREAMING

Headers = Tuple[Tuple[str, str], ...]


@dataclass(frozen=True)
class Wish:
    """What one caller asks for, and how patiently."""

    spec: TaskSpec
    headers: Headers = ()
    checks: Tuple[Digest, ...] = ()   # digests the whole content must have
    no_source: bool = False
    streaming: bool = False
    limit_bps: float = 0.0
    timeout_s: float = 30.0
    tries: int = 5

    @property
    def flags(self) -> int:
        return (STREAMING if self.streaming else 0) | (NO_SOURCE if self.no_source else 0)
