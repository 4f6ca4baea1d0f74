"""The control link's rules, both ends played against each other."""
from __future__ import annotations

import random
from typing import List

import pytest

from dfly.errors import NetworkError, ProtocolError
from dfly.task import TaskSpec
from dfly.wire.frame import pack_frame
from dfly.wire.messages import (
    Busy,
    Bye,
    Hello,
    Join,
    Lease,
    Message,
    Ping,
    Pong,
    Stored,
    Welcome,
    decode,
)
from dfly.wire.session import OPENING_S, Role, Session, State

HELLO = Hello(b"h" * 16, 65003, "host-1", "eu/dc1/r2")
JOIN = Join(1, TaskSpec("http://files.example/a"))


def opened(now: float = 0.0, heartbeat_s: float = 10.0) -> "tuple[Session, Session]":
    peer, manager = Session(Role.PEER, now, HELLO), Session(Role.MANAGER, now)
    assert manager.receive(peer.take(), now) == [HELLO]
    manager.send(Welcome("m1", heartbeat_s, 0.005))
    (welcome,) = peer.receive(manager.take(), now)
    assert isinstance(welcome, Welcome)
    assert peer.state is manager.state is State.OPEN
    return peer, manager


def test_messages_flow_in_order_once_open() -> None:
    peer, manager = opened()
    sent: List[Message] = [JOIN, Stored(1, (3, 1, 2)), Stored(1, (4,))]
    for message in sent:
        peer.send(message)
    assert manager.receive(peer.take(), 1.0) == sent


def test_bytes_may_arrive_in_any_cuts() -> None:
    rng = random.Random(5)
    peer, manager = opened()
    sent = [Stored(7, tuple(rng.sample(range(500), 9))) for _ in range(40)]
    for message in sent:
        peer.send(message)
    data, heard = peer.take(), []
    while data:
        cut = rng.randint(1, 30)
        heard += manager.receive(data[:cut], 1.0)
        data = data[cut:]
    assert heard == sent


@pytest.mark.parametrize("early", [JOIN, Stored(1, (1,)), Ping(1)])
def test_nothing_before_hello(early: Message) -> None:
    with pytest.raises(ProtocolError, match="while the link was opening"):
        Session(Role.MANAGER, 0.0).receive(early.encode(), 0.0)


def test_hello_is_said_once_even_before_its_answer() -> None:
    with pytest.raises(ProtocolError, match="Hello twice"):
        Session(Role.MANAGER, 0.0).receive(2 * HELLO.encode(), 0.0)


def test_a_peer_may_not_lead() -> None:
    _, manager = opened()
    with pytest.raises(ProtocolError, match="the peer sent Lease"):
        manager.receive(Lease(1, 1, 0, 0, 1, 1.0).encode(), 1.0)


def test_unknown_code_and_oversized_frame_are_refused() -> None:
    _, manager = opened()
    with pytest.raises(ProtocolError, match="unknown message code 999"):
        manager.receive(pack_frame(999, b""), 1.0)
    _, manager = opened()
    with pytest.raises(ProtocolError, match="over the bound"):
        manager.receive(b"\xff\xff\xff\xff\x00\x01", 1.0)


def test_other_version_is_told_what_to_do() -> None:
    hello = Hello(b"h" * 16, 1, version=2)
    with pytest.raises(ProtocolError, match="same dfly release"):
        Session(Role.MANAGER, 0.0).receive(hello.encode(), 0.0)


@pytest.mark.parametrize("answer", [Busy(2.5, "full"), Bye(6, "token refused", "see keys")])
def test_busy_and_bye_close(answer: Message) -> None:
    peer, manager = Session(Role.PEER, 0.0, HELLO), Session(Role.MANAGER, 0.0)
    manager.receive(peer.take(), 0.0)
    manager.send(answer)
    assert peer.receive(manager.take(), 0.0) == [answer]
    assert peer.state is manager.state is State.CLOSED
    assert peer.deadline() is None


def test_silence_is_pinged_then_ends_the_link() -> None:
    peer, manager = opened(heartbeat_s=10.0)
    assert peer.deadline() == 10.0
    peer.tick(10.0)
    assert manager.receive(peer.take(), 10.1) == []
    assert decode(6, manager.take()[6:]) == Pong(1)
    peer.tick(29.9)
    with pytest.raises(NetworkError, match="silent for 30 s"):
        peer.tick(30.0)


def test_an_answered_ping_keeps_the_link() -> None:
    peer, manager = opened(heartbeat_s=10.0)
    for beat in range(1, 20):
        now = 10.0 * beat
        peer.tick(now)
        manager.receive(peer.take(), now)
        peer.receive(manager.take(), now)
    assert peer.state is State.OPEN


def test_a_handshake_that_stalls_is_given_up() -> None:
    session = Session(Role.MANAGER, 5.0)
    assert session.deadline() == 5.0 + OPENING_S
    with pytest.raises(NetworkError, match="handshake"):
        session.tick(5.0 + OPENING_S)
