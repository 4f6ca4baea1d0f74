"""What one caller of this host asks for, from the local socket to the download. Values only."""
from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence, Tuple

from dfly.access import Access, SourceFacts, settled
from dfly.digest import Digest
from dfly.errors import ProtocolError, UsageError
from dfly.names import canonical_url, is_shared_url
from dfly.source.hops import checked_headers
from dfly.task import TaskSpec
from dfly.wire.codec import wish_from
from dfly.wire.messages import NO_SOURCE, STREAMING, Join

if TYPE_CHECKING:
    from dfly.net.limiter import Limiter
    from dfly.store import TaskFile

PATIENCE_MIN_S = 6.0     # a busy manager's answer may take so long, however hasty the caller
PATIENCE_MAX_S = 600.0   # for a manager's answer: it asks the source first


@dataclass(frozen=True)
class Wish:
    """What one caller asks for, and how patiently."""

    spec: TaskSpec
    access: Access = Access()
    checks: Tuple[Digest, ...] = ()   # digests the whole content must have
    no_source: bool = False
    streaming: bool = False
    limit_bps: float = 0.0
    alone: bool = False               # without a swarm, straight from the source
    partial: str = ""                 # a file that may begin as the content does
    explain: bool = False             # tell at the end where the time went

    @property
    def flags(self) -> int:
        return (STREAMING if self.streaming else 0) | (NO_SOURCE if self.no_source else 0)

    @property
    def why_alone(self) -> str:
        """Why no manager may hear of this; "" = any may."""
        if self.access.stays_here:
            return "a client certificate's key doesn't leave this host"
        return "none is wanted" if self.alone else ""

    @property
    def patience_s(self) -> float:
        """How long to wait for a manager's answer."""
        read_s = self.access.manners.read_timeout_s
        return max(PATIENCE_MIN_S, min(read_s or PATIENCE_MAX_S, PATIENCE_MAX_S))


def join_of(wish: Wish, held: Optional[TaskFile], limits: Sequence[Limiter],
            request: int) -> Join:
    """What a manager is asked for it, by a host that has these limits for all its downloads."""
    rates = (wish.limit_bps, *(limit.rate_bps for limit in limits))
    limit_bps = min((rate for rate in rates if rate), default=0.0)
    # Another caller may have brought a manager in, who told none of these secrets.
    access = wish.access.without_secrets() if wish.access.stays_here else wish.access
    join = Join(request, wish.spec, access=access, flags=wish.flags, limit_bps=ceil(limit_bps))
    if held is None or held.failed is not None:
        return join
    return replace(join, version=held.version, piece_size=held.geometry.piece_size,
                   have=held.have)


@dataclass(frozen=True)
class Seen:
    """What a source has, for one who only looked: `length` in bytes, None = not told; `manager`
    = who asked it for us."""

    version: str
    length: Optional[int]
    facts: SourceFacts
    manager: str = ""


def wish_of(asked: Mapping[str, Any]) -> Wish:
    """A Wish from the JSON of POST /v1/get; UsageError for what can't be one."""
    try:
        spec, access = settled(*wish_from(asked))
        checks = [Digest.parse(text) for text in str(asked.get("check", "")).split()]
        if spec.digest is not None:
            checks.insert(0, spec.digest)
        shared = is_shared_url(spec.url)   # then there is no source to go to
        wish = Wish(spec, access, tuple(dict.fromkeys(checks)),
                    shared or bool(asked.get("no_source")),
                    bool(asked.get("streaming")), float(asked.get("limit_bps", 0)),
                    bool(asked.get("alone")), str(asked.get("partial", "")),
                    bool(asked.get("explain")))
    except (TypeError, ValueError, ProtocolError) as error:
        raise UsageError(f"malformed request: {error}") from None
    canonical_url(spec.url)  # refuses, in one line, what can't be fetched
    checked_headers(wish.access.headers)
    if shared and wish.alone:
        raise UsageError("only the swarm has a shared content", "leave out --no-p2p")
    if not 0 <= wish.limit_bps < float("inf"):
        raise UsageError("a limit that can't be")
    return wish
