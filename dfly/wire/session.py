"""The state of one control link: who may say what, when, and how long silence may last.

Sans-IO: `receive(data, now)` turns bytes into messages for the driver, `send()` queues messages,
`take()` gives the bytes to write. The rules:

    peer      OPENING --Hello sent--> --Welcome--> OPEN;  Busy or Bye in its place: CLOSED
    manager   OPENING --Hello--> (driver answers Welcome, Busy or Bye)
    both      OPEN: only the messages that the other role may send; Bye, Busy: CLOSED
    silence   each side pings after `heartbeat_s` without receiving, and gives the link up after
              three of them; OPENING must end within OPENING_S

Whatever breaks a rule is a ProtocolError: the driver closes the link, with a Bye if it can.
"""
from __future__ import annotations

from enum import Enum
from typing import Dict, FrozenSet, List, Optional, Type

from dfly.errors import NetworkError, ProtocolError
from dfly.wire.frame import FrameDecoder
from dfly.wire.messages import (
    PROTOCOL_VERSION,
    Accepted,
    Busy,
    Bye,
    Changed,
    Digests,
    Have,
    Hello,
    Join,
    Lease,
    LeaseFailed,
    Leave,
    Message,
    Offer,
    Pace,
    Parent,
    Ping,
    Pong,
    Refused,
    Revoke,
    Sized,
    Stored,
    TaskFailed,
    Urgent,
    Welcome,
    decode,
)

OPENING_S = 10.0     # a handshake is one round trip; ten seconds forgive a loaded host
HEARTBEAT_S = 10.0   # until Welcome says otherwise
HEARTBEAT_MIN_S = 0.1
SILENT_BEATS = 3     # heartbeats of silence that end a link


class Role(Enum):
    PEER = "peer"
    MANAGER = "manager"


class State(Enum):
    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"


_EITHER: FrozenSet[Type[Message]] = frozenset({Ping, Pong, Bye})
MAY_SEND: Dict[Role, FrozenSet[Type[Message]]] = {
    Role.PEER: _EITHER | {Join, Offer, Have, Urgent, Leave, Stored, LeaseFailed},
    Role.MANAGER: _EITHER | {Accepted, Refused, Digests, Sized, Changed, TaskFailed, Parent,
                             Lease, Revoke, Pace, Busy},
}
OPENS: Dict[Role, FrozenSet[Type[Message]]] = {
    Role.PEER: frozenset({Hello, Bye}),
    Role.MANAGER: frozenset({Welcome, Busy, Bye}),
}
_ENDS: FrozenSet[Type[Message]] = frozenset({Busy, Bye})
_SESSIONS_OWN: FrozenSet[Type[Message]] = _ENDS | {Ping, Pong, Hello, Welcome}


class Session:
    """One end of one link. `role` is the role of this end."""

    def __init__(self, role: Role, now: float, hello: Optional[Hello] = None) -> None:
        assert (role is Role.PEER) == (hello is not None), "the peer, and only it, says Hello"
        self.role = role
        self.state = State.OPENING
        self.heartbeat_s = HEARTBEAT_S
        self._other = Role.MANAGER if role is Role.PEER else Role.PEER
        self._frames = FrameDecoder()
        self._out: List[bytes] = []
        self._out_bytes = 0
        self._heard_at = now
        self._opening_until = now + OPENING_S
        self._pinged_at: Optional[float] = None
        self._pings = 0
        self._hello_heard = False    # and not answered yet, on a manager's side
        if hello is not None:
            self._queue(hello)

    # ------------------------------------------------------------------------ receiving
    def receive(self, data: bytes, now: float) -> List[Message]:
        """The messages that `data` completes, less those that the session answers itself."""
        self._heard_at = now
        self._pinged_at = None
        messages: List[Message] = []
        for code, body in self._frames.feed(data):
            if self.state is State.CLOSED:
                break  # whatever follows a Bye has no meaning
            message = decode(code, body)
            kind = type(message)
            if kind not in self._table[self._other]:
                raise ProtocolError(f"the {self._other.value} sent {kind.__name__} "
                                    f"while the link was {self.state.value}")
            if kind in _SESSIONS_OWN:
                if isinstance(message, Ping):
                    self._queue(Pong(message.nonce))
                if isinstance(message, (Ping, Pong)):
                    continue
                self._follow(message)
            messages.append(message)
        return messages

    @property
    def is_closed(self) -> bool:
        return self.state is State.CLOSED

    @property
    def _table(self) -> Dict[Role, FrozenSet[Type[Message]]]:
        return OPENS if self.state is State.OPENING else MAY_SEND

    def _follow(self, message: Message) -> None:
        if isinstance(message, (Busy, Bye)):
            self.state = State.CLOSED
        elif isinstance(message, (Hello, Welcome)):
            if message.version != PROTOCOL_VERSION:
                raise ProtocolError(
                    f"the {self._other.value} speaks link version {message.version}, "
                    f"this side {PROTOCOL_VERSION}", "run the same dfly release on both")
            if self._hello_heard:
                raise ProtocolError("the peer said Hello twice")
            self._hello_heard = isinstance(message, Hello)
            if isinstance(message, Welcome):
                self._open(message.heartbeat_s)

    def _open(self, heartbeat_s: float) -> None:
        self.state = State.OPEN
        self.heartbeat_s = max(HEARTBEAT_MIN_S, heartbeat_s)

    # -------------------------------------------------------------------------- sending
    def send(self, message: Message) -> None:
        """Queue a message; what this role may not send now is our own mistake (assert)."""
        kind = type(message)
        assert kind in self._table[self.role], (self.role, self.state, message)
        assert self.state is not State.CLOSED
        if isinstance(message, Welcome):
            self._open(message.heartbeat_s)
        self._queue(message)
        if kind in _ENDS:
            self.state = State.CLOSED

    def _queue(self, message: Message) -> None:
        data = message.encode()
        self._out.append(data)
        self._out_bytes += len(data)

    def take(self) -> bytes:
        """Everything queued, to be written in this order."""
        data = b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        return data

    @property
    def queued(self) -> int:
        """Bytes that wait to be taken."""
        return self._out_bytes

    # ----------------------------------------------------------------------------- time
    def deadline(self) -> Optional[float]:
        """When `tick()` must be called next; None once closed."""
        if self.state is State.CLOSED:
            return None
        if self.state is State.OPENING:
            return self._opening_until
        beats = 1 if self._pinged_at is None else SILENT_BEATS
        return self._heard_at + beats * self.heartbeat_s

    def tick(self, now: float) -> None:
        """Time has passed: pings when it is quiet, NetworkError when it was so for too long."""
        due = self.deadline()
        if due is None or now < due:
            return
        if self.state is State.OPENING:
            raise NetworkError(f"the {self._other.value} did not finish the handshake "
                               f"within {OPENING_S:.0f} s")
        if self._pinged_at is not None:
            raise NetworkError(f"the {self._other.value} was silent for "
                               f"{SILENT_BEATS * self.heartbeat_s:.0f} s")
        self._pings += 1
        self._pinged_at = now
        self._queue(Ping(self._pings))
