"""Every message of the control link, with its codec.

A message is a frozen dataclass: `encode()` gives its whole frame, `decode(code, body)` finds the
class and rebuilds it. Fixed fields go through one precompiled struct per class; texts, bytes and
lists follow, each behind its length and under a bound named here. JSON appears only in messages
that a link carries once or once per task. Bytes after the last known field are ignored (a newer
peer may send more), an unknown code is refused. Who may send what and when is session.py.

    handshake     Hello ->            <- Welcome | Busy | Bye
    liveness      Ping, Pong          either way
    a task        Join, Offer ->      <- Accepted | Refused
                  Have, Urgent, Leave ->   <- Digests, Sized, Changed, TaskFailed
    leases        <- Parent, Lease, Revoke     Stored, LeaseFailed ->     <- Pace
"""
from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar, Dict, Mapping, Optional, Tuple, Type, TypeVar

from dfly.access import Access, SourceFacts
from dfly.digest import SHA256_SIZE
from dfly.errors import DflyError
from dfly.task import INLINE_MAX, PIECES_MAX, VERSION_MAX, TaskSpec
from dfly.wire.codec import (
    MessageError,
    Reader,
    put_bytes,
    put_facts,
    put_mapping,
    put_set,
    put_text,
    put_wish,
)
from dfly.wire.frame import pack_frame

PROTOCOL_VERSION = 1
LINK_PROTOCOL = f"dfly/{PROTOCOL_VERSION}"   # what an HTTP connection is upgraded to
TOKEN_MAX = 256          # bytes of a swarm token
DIGESTS_MAX = 16_384     # piece digests in one message: 512 KiB
STORED_MAX = 4_096       # pieces in one report
INLINE_BODY_MAX = INLINE_MAX

M = TypeVar("M", bound="Message")


class Failure(IntEnum):
    """Why a lease ended without its pieces."""

    REFUSED = 1      # no connection to the parent
    TIMEOUT = 2      # the parent sent nothing for too long, or the deadline passed
    BAD_DIGEST = 3   # the parent sent bytes that contradict the digest
    NOT_HELD = 4     # the parent says that it doesn't have the pieces
    BUSY = 5         # the parent is at its limits
    BROKEN = 6       # the connection broke or the answer was malformed
    LOCAL = 7        # the child's own disk or limits
    REVOKED = 8      # the manager took the lease back


class Message:
    """Base: subclasses name their code and fixed fields and turn themselves into a tail."""

    code: ClassVar[int]
    fixed: ClassVar[struct.Struct]

    def encode(self) -> bytes:
        """The whole frame."""
        raise NotImplementedError

    @classmethod
    def decode_body(cls: Type[M], body: bytes) -> M:
        raise NotImplementedError


class _Fixed(Message):
    """A message that is all fixed fields, in the order of its struct."""

    def encode(self) -> bytes:
        return pack_frame(self.code, self.fixed.pack(*vars(self).values()))

    @classmethod
    def decode_body(cls: Type[M], body: bytes) -> M:
        return cls(*cls.fixed.unpack_from(body))


# ----------------------------------------------------------------------------- handshake
@dataclass(frozen=True)
class Hello(Message):
    """Peer to manager, first on every link. `host_id`: 16 random bytes, the store's own.

    `address` is where other hosts reach this one; "" = the address this link comes from.
    `facts` describe the host (cores, memory, NIC); a reader ignores names it doesn't know.
    """

    host_id: bytes
    port: int
    name: str = ""
    location: str = ""
    address: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    version: int = PROTOCOL_VERSION
    features: int = 0
    code: ClassVar[int] = 1
    fixed: ClassVar[struct.Struct] = struct.Struct("!HIH16s")

    def encode(self) -> bytes:
        head = self.fixed.pack(self.version, self.features, self.port, self.host_id)
        return pack_frame(self.code, head + put_text(self.name) + put_text(self.location)
                          + put_text(self.address) + put_mapping(self.facts))

    @classmethod
    def decode_body(cls, body: bytes) -> Hello:
        version, features, port, host_id = cls.fixed.unpack_from(body)
        tail = Reader(body, cls.fixed.size)
        return cls(host_id, port, tail.text(), tail.text(), tail.text(), tail.mapping(),
                   version, features)


@dataclass(frozen=True)
class Welcome(Message):
    """Manager to peer: the link is open. `heartbeat_s`: silence allowed is three times this."""

    manager: str
    heartbeat_s: float
    batch_s: float
    version: int = PROTOCOL_VERSION
    features: int = 0
    code: ClassVar[int] = 2
    fixed: ClassVar[struct.Struct] = struct.Struct("!HIIH")

    def encode(self) -> bytes:
        head = self.fixed.pack(self.version, self.features, int(self.heartbeat_s * 1000),
                               int(self.batch_s * 1000))
        return pack_frame(self.code, head + put_text(self.manager))

    @classmethod
    def decode_body(cls, body: bytes) -> Welcome:
        version, features, heartbeat_ms, batch_ms = cls.fixed.unpack_from(body)
        return cls(Reader(body, cls.fixed.size).text(), heartbeat_ms / 1000, batch_ms / 1000,
                   version, features)


@dataclass(frozen=True)
class Busy(Message):
    """Manager to peer, in Welcome's place or later: not now; come back after `retry_after_s`
    (with jitter). The link ends."""

    retry_after_s: float
    reason: str = ""
    code: ClassVar[int] = 3
    fixed: ClassVar[struct.Struct] = struct.Struct("!I")

    def encode(self) -> bytes:
        return pack_frame(self.code, self.fixed.pack(int(self.retry_after_s * 1000))
                          + put_text(self.reason))

    @classmethod
    def decode_body(cls, body: bytes) -> Busy:
        (retry_ms,) = cls.fixed.unpack_from(body)
        return cls(retry_ms / 1000, Reader(body, cls.fixed.size).text())


@dataclass(frozen=True)
class Bye(Message):
    """Either way: the link ends, and why (exit code, what, hint)."""

    exit_code: int
    what: str
    hint: str = ""
    code: ClassVar[int] = 4
    fixed: ClassVar[struct.Struct] = struct.Struct("!H")

    def encode(self) -> bytes:
        return pack_frame(self.code, self.fixed.pack(self.exit_code) + put_text(self.what)
                          + put_text(self.hint))

    @classmethod
    def decode_body(cls, body: bytes) -> Bye:
        (exit_code,) = cls.fixed.unpack_from(body)
        tail = Reader(body, cls.fixed.size)
        return cls(exit_code, tail.text(), tail.text())


@dataclass(frozen=True)
class Ping(_Fixed):
    nonce: int
    code: ClassVar[int] = 5
    fixed: ClassVar[struct.Struct] = struct.Struct("!Q")


@dataclass(frozen=True)
class Pong(_Fixed):
    nonce: int
    code: ClassVar[int] = 6
    fixed: ClassVar[struct.Struct] = struct.Struct("!Q")


@dataclass(frozen=True)
class Pace(Message):
    """Manager to peer: gather reports for `batch_s` before sending them (0 = at once)."""

    batch_s: float
    code: ClassVar[int] = 7
    fixed: ClassVar[struct.Struct] = struct.Struct("!H")

    def encode(self) -> bytes:
        return pack_frame(self.code, self.fixed.pack(int(self.batch_s * 1000)))

    @classmethod
    def decode_body(cls, body: bytes) -> Pace:
        (batch_ms,) = cls.fixed.unpack_from(body)
        return cls(batch_ms / 1000)


# -------------------------------------------------------------------------------- a task
STREAMING = 1   # Join.flags: a reader takes the bytes in order
NO_SOURCE = 2   # Join.flags: the peer won't go to the source itself
LOOK = 4        # Join.flags: only tell what the source has; Accepted will name no swarm


@dataclass(frozen=True)
class Join(Message):
    """Peer to manager: I want this task, and hold `have` (a piece set) of `version`. I take no
    more than `limit_bps` bytes a second, 0 = what comes.

    What is secret in `access` is for the source only: never stored, logged or passed on.
    """

    request: int
    spec: TaskSpec
    version: str = ""
    piece_size: int = 0
    have: int = 0
    access: Access = Access()
    flags: int = 0
    limit_bps: int = 0
    code: ClassVar[int] = 10
    fixed: ClassVar[struct.Struct] = struct.Struct("!IBIQ")

    def encode(self) -> bytes:
        return pack_frame(self.code, self.fixed.pack(self.request, self.flags, self.piece_size,
                                                     self.limit_bps)
                          + put_wish(self.spec, self.access) + put_text(self.version, VERSION_MAX)
                          + put_set(self.have))

    @classmethod
    def decode_body(cls, body: bytes) -> Join:
        request, flags, piece_size, limit_bps = cls.fixed.unpack_from(body)
        tail = Reader(body, cls.fixed.size)
        spec, access = tail.wish()
        return cls(request, spec, tail.text(VERSION_MAX), piece_size,
                   tail.piece_set(), access, flags, limit_bps)


@dataclass(frozen=True)
class Accepted(Message):
    """Manager to peer: you are in swarm `swarm` of `task_id` in state `version`.

    `length` None = not known yet. `token` opens the pieces at every parent. `inline` is the whole
    content of a small task. `holds`: the peer's `have` was of this version and counts. `facts`:
    what the source said beside. To a Join that only looks: `swarm` 0 and no token.
    """

    request: int
    swarm: int
    task_id: str
    version: str
    length: Optional[int]
    piece_size: int
    token: bytes = b""
    holds: bool = False
    inline: Optional[bytes] = None
    facts: SourceFacts = SourceFacts()
    code: ClassVar[int] = 11
    fixed: ClassVar[struct.Struct] = struct.Struct("!IIqIBB32s")

    def encode(self) -> bytes:
        head = self.fixed.pack(self.request, self.swarm,
                               -1 if self.length is None else self.length, self.piece_size,
                               self.holds, self.inline is not None, bytes.fromhex(self.task_id))
        return pack_frame(self.code, head + put_text(self.version, VERSION_MAX)
                          + put_bytes(self.token, TOKEN_MAX)
                          + put_bytes(self.inline or b"", INLINE_BODY_MAX)
                          + put_facts(self.facts))

    @classmethod
    def decode_body(cls, body: bytes) -> Accepted:
        request, swarm, length, piece_size, holds, inlined, task_id = cls.fixed.unpack_from(body)
        tail = Reader(body, cls.fixed.size)
        version, token = tail.text(VERSION_MAX), tail.take(TOKEN_MAX)
        inline = tail.take(INLINE_BODY_MAX)
        facts = tail.facts()
        return cls(request, swarm, task_id.hex(), version, None if length < 0 else length,
                   piece_size, token, bool(holds), inline if inlined else None, facts)


@dataclass(frozen=True)
class Refused(Message):
    """Manager to peer: no; `status` is the source's HTTP status where there was one."""

    request: int
    exit_code: int
    what: str
    hint: str = ""
    status: int = 0
    code: ClassVar[int] = 12
    fixed: ClassVar[struct.Struct] = struct.Struct("!IHH")

    def encode(self) -> bytes:
        return pack_frame(self.code, self.fixed.pack(self.request, self.exit_code, self.status)
                          + put_text(self.what) + put_text(self.hint))

    @classmethod
    def decode_body(cls, body: bytes) -> Refused:
        request, exit_code, status = cls.fixed.unpack_from(body)
        tail = Reader(body, cls.fixed.size)
        return cls(request, exit_code, tail.text(), tail.text(), status)


@dataclass(frozen=True)
class Have(Message):
    """Peer to manager: I hold exactly `pieces` now (after an eviction or a repair)."""

    swarm: int
    pieces: int
    code: ClassVar[int] = 13
    fixed: ClassVar[struct.Struct] = struct.Struct("!I")

    def encode(self) -> bytes:
        return pack_frame(self.code, self.fixed.pack(self.swarm)
                          + put_set(self.pieces))

    @classmethod
    def decode_body(cls, body: bytes) -> Have:
        (swarm,) = cls.fixed.unpack_from(body)
        return cls(swarm, Reader(body, cls.fixed.size).piece_set())


@dataclass(frozen=True)
class Digests(Message):
    """Manager to peer: SHA-256 of pieces first, first+1, ...: raw, 32 bytes each."""

    swarm: int
    first: int
    digests: bytes
    code: ClassVar[int] = 14
    fixed: ClassVar[struct.Struct] = struct.Struct("!II")

    def encode(self) -> bytes:
        """The frame, made once: the same digests are told to thousands of hosts."""
        frame: Optional[bytes] = self.__dict__.get("_frame")
        if frame is None:
            frame = pack_frame(self.code, self.fixed.pack(self.swarm, self.first)
                               + put_bytes(self.digests, DIGESTS_MAX * SHA256_SIZE))
            self.__dict__["_frame"] = frame
        return frame

    @classmethod
    def decode_body(cls, body: bytes) -> Digests:
        swarm, first = cls.fixed.unpack_from(body)
        digests = Reader(body, cls.fixed.size).take(DIGESTS_MAX * SHA256_SIZE)
        if len(digests) % SHA256_SIZE or first + len(digests) // SHA256_SIZE > PIECES_MAX:
            raise MessageError("Digests that can't be piece digests")
        return cls(swarm, first, digests)


@dataclass(frozen=True)
class Sized(_Fixed):
    """Manager to peer: the length, unknown so far, is `length` bytes."""

    swarm: int
    length: int
    code: ClassVar[int] = 15
    fixed: ClassVar[struct.Struct] = struct.Struct("!IQ")


@dataclass(frozen=True)
class Changed(_Fixed):
    """Manager to peer: the source has a new version; this swarm ends, join again."""

    swarm: int
    code: ClassVar[int] = 16
    fixed: ClassVar[struct.Struct] = struct.Struct("!I")


@dataclass(frozen=True)
class TaskFailed(Message):
    """Manager to peer: the swarm can't go on, and why."""

    swarm: int
    exit_code: int
    what: str
    hint: str = ""
    status: int = 0
    code: ClassVar[int] = 17
    fixed: ClassVar[struct.Struct] = struct.Struct("!IHH")

    def encode(self) -> bytes:
        return pack_frame(self.code, self.fixed.pack(self.swarm, self.exit_code, self.status)
                          + put_text(self.what) + put_text(self.hint))

    @classmethod
    def decode_body(cls, body: bytes) -> TaskFailed:
        swarm, exit_code, status = cls.fixed.unpack_from(body)
        tail = Reader(body, cls.fixed.size)
        return cls(swarm, exit_code, tail.text(), tail.text(), status)


@dataclass(frozen=True)
class Urgent(_Fixed):
    """Peer to manager: a reader of mine waits for piece `piece` and goes on from there."""

    swarm: int
    piece: int
    code: ClassVar[int] = 18
    fixed: ClassVar[struct.Struct] = struct.Struct("!II")


@dataclass(frozen=True)
class Leave(_Fixed):
    """Peer to manager: I neither want nor serve this task any more."""

    swarm: int
    code: ClassVar[int] = 19
    fixed: ClassVar[struct.Struct] = struct.Struct("!I")


@dataclass(frozen=True)
class Offer(Message):
    """Peer to manager: I hold `have` of `version` of this task and can give it to others.

    Answered by Accepted if a swarm of that version is (or comes to be) led, else not at all.
    """

    request: int
    task_id: str
    version: str
    piece_size: int
    length: int
    have: int
    code: ClassVar[int] = 20
    fixed: ClassVar[struct.Struct] = struct.Struct("!IIQ32s")

    def encode(self) -> bytes:
        head = self.fixed.pack(self.request, self.piece_size, self.length,
                               bytes.fromhex(self.task_id))
        return pack_frame(self.code, head + put_text(self.version, VERSION_MAX)
                          + put_set(self.have))

    @classmethod
    def decode_body(cls, body: bytes) -> Offer:
        request, piece_size, length, task_id = cls.fixed.unpack_from(body)
        tail = Reader(body, cls.fixed.size)
        version = tail.text(VERSION_MAX)
        return cls(request, task_id.hex(), version, piece_size, length,
                   tail.piece_set())


# -------------------------------------------------------------------------------- leases
@dataclass(frozen=True)
class Parent(Message):
    """Manager to peer: number `parent` in later leases is at this address and port."""

    parent: int
    port: int
    address: str
    code: ClassVar[int] = 30
    fixed: ClassVar[struct.Struct] = struct.Struct("!IH")

    def encode(self) -> bytes:
        return pack_frame(self.code, self.fixed.pack(self.parent, self.port)
                          + put_text(self.address))

    @classmethod
    def decode_body(cls, body: bytes) -> Parent:
        parent, port = cls.fixed.unpack_from(body)
        return cls(parent, port, Reader(body, cls.fixed.size).text())


@dataclass(frozen=True)
class Lease(Message):
    """Manager to peer: fetch pieces first .. first+count-1 from `parent` within `deadline_s`.

    Ended by `Stored` of its last piece, by `LeaseFailed`, or by `Revoke`.
    """

    lease: int
    swarm: int
    parent: int
    first: int
    count: int
    deadline_s: float
    code: ClassVar[int] = 31
    fixed: ClassVar[struct.Struct] = struct.Struct("!IIIIII")

    def encode(self) -> bytes:
        return pack_frame(self.code, self.fixed.pack(
            self.lease, self.swarm, self.parent, self.first, self.count,
            int(self.deadline_s * 1000)))

    @classmethod
    def decode_body(cls, body: bytes) -> Lease:
        lease, swarm, parent, first, count, deadline_ms = cls.fixed.unpack_from(body)
        if not 0 < count <= PIECES_MAX or first + count > PIECES_MAX:
            raise MessageError("a Lease of pieces that can't exist")
        return cls(lease, swarm, parent, first, count, deadline_ms / 1000)


@dataclass(frozen=True)
class Revoke(_Fixed):
    """Manager to peer: stop the lease; pieces already stored stay."""

    lease: int
    swarm: int
    code: ClassVar[int] = 32
    fixed: ClassVar[struct.Struct] = struct.Struct("!II")


@dataclass(frozen=True)
class Stored(Message):
    """Peer to manager: these pieces are verified and on my disk. Order of arrival."""

    swarm: int
    pieces: Tuple[int, ...]
    code: ClassVar[int] = 33
    fixed: ClassVar[struct.Struct] = struct.Struct("!II")

    def encode(self) -> bytes:
        count = len(self.pieces)
        assert count <= STORED_MAX, count
        return pack_frame(self.code, struct.pack(f"!II{count}I", self.swarm, count, *self.pieces))

    @classmethod
    def decode_body(cls, body: bytes) -> Stored:
        swarm, count = cls.fixed.unpack_from(body)
        if count > STORED_MAX or len(body) < cls.fixed.size + 4 * count:
            raise MessageError(f"a Stored that claims {count} pieces")
        return cls(swarm, struct.unpack_from(f"!{count}I", body, cls.fixed.size))


@dataclass(frozen=True)
class LeaseFailed(Message):
    """Peer to manager: the lease ended early; `piece` is where, pieces before it are stored."""

    lease: int
    swarm: int
    piece: int
    reason: Failure
    detail: str = ""
    code: ClassVar[int] = 34
    fixed: ClassVar[struct.Struct] = struct.Struct("!IIIB")

    def encode(self) -> bytes:
        return pack_frame(self.code, self.fixed.pack(self.lease, self.swarm, self.piece,
                                                     self.reason) + put_text(self.detail))

    @classmethod
    def decode_body(cls, body: bytes) -> LeaseFailed:
        lease, swarm, piece, reason = cls.fixed.unpack_from(body)
        try:
            known = Failure(reason)
        except ValueError:
            known = Failure.BROKEN  # a newer peer's reason: some failure all the same
        return cls(lease, swarm, piece, known, Reader(body, cls.fixed.size).text())


MESSAGES: Tuple[Type[Message], ...] = (
    Hello, Welcome, Busy, Bye, Ping, Pong, Pace, Join, Accepted, Refused, Have, Digests, Sized,
    Changed, TaskFailed, Urgent, Leave, Offer, Parent, Lease, Revoke, Stored, LeaseFailed)
_BY_CODE: Dict[int, Type[Message]] = {kind.code: kind for kind in MESSAGES}


def decode(code: int, body: bytes) -> Message:
    """The message in a frame; MessageError for anything that isn't exactly one."""
    kind = _BY_CODE.get(code)
    if kind is None:
        raise MessageError(f"unknown message code {code}")
    try:
        return kind.decode_body(body)
    except struct.error:
        raise MessageError(f"{kind.__name__} of {len(body)} bytes is too short") from None


def refusal(request: int, error: DflyError) -> Refused:
    """The Refused that carries `error` to a peer."""
    return Refused(request, error.exit_code, error.what, error.hint,
                   getattr(error, "status", 0))
