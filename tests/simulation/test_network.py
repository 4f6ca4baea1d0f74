"""The virtual network gives what links can give, no more and no less."""
from __future__ import annotations

from typing import Dict, Tuple

import pytest

from dfly.sim.network import Endpoint, Flow, Grain, Network, Rack
from dfly.sim.world import World
from dfly.task import full_set

PIECE = 1_000_000
RATE = 10_000_000.0   # bytes a second: a piece in 0.1 s


class Wire:
    """Endpoints, flows, and when each piece arrived where."""

    def __init__(self, latency_s: float = 0.0, parts: int = 4, pieces: int = 1) -> None:
        self.world = World()
        self.arrived: Dict[Tuple[int, int], float] = {}
        self.network = Network(self.world, latency_s, [PIECE] * 100,
                               Grain(parts, pieces), self._on_pieces)

    def _on_pieces(self, flow: Flow, first: int, stop: int) -> None:
        for piece in range(first, stop):
            self.arrived[flow.receiver.number, piece] = self.world.now
        self.network.stored(flow.receiver, first, stop)

    def host(self, number: int, up: float = RATE, down: float = RATE, have: int = 0) -> Endpoint:
        endpoint = Endpoint(number, up, down)
        endpoint.have = have
        return endpoint

    def flow(self, sender: Endpoint, receiver: Endpoint, first: int, count: int) -> Flow:
        flow = Flow(0, sender, receiver, first, first + count)
        self.network.start(flow)
        return flow

    def run(self, limit_s: float = 1000.0) -> Dict[Tuple[int, int], float]:
        self.world.run(limit_s)
        return self.arrived


def test_one_flow_gets_the_slower_of_both_links() -> None:
    for up, down, seconds in ((RATE, RATE, 1.0), (RATE / 4, RATE, 4.0), (RATE, RATE / 2, 2.0)):
        wire = Wire()
        wire.flow(wire.host(1, up=up, have=full_set(10)), wire.host(2, down=down), 0, 10)
        assert max(wire.run().values()) == pytest.approx(seconds, rel=0.05)


def test_latency_is_added_once_and_does_not_throttle() -> None:
    wire = Wire(latency_s=0.2)
    wire.flow(wire.host(1, have=full_set(20)), wire.host(2), 0, 20)
    assert max(wire.run().values()) == pytest.approx(2.0 + 0.2, rel=0.05)


def test_an_uplink_is_shared_evenly() -> None:
    wire = Wire()
    sender = wire.host(1, have=full_set(10))
    for number in (2, 3, 4):
        wire.flow(sender, wire.host(number), 0, 10)
    arrived = wire.run()
    ends = [arrived[number, 9] for number in (2, 3, 4)]
    assert max(ends) == pytest.approx(3.0, rel=0.05) and min(ends) > 0.95 * max(ends)


def test_a_downlink_is_shared_and_what_one_flow_leaves_the_others_get() -> None:
    """1 sends to 2 and 3; 3 also gets from 4. 3's downlink is full, 2 gets the rest of 1's
    uplink: three flows, three links of 10 MB/s, max-min."""
    wire = Wire(parts=8)
    one, four = wire.host(1, have=full_set(40)), wire.host(4, up=RATE * 3, have=full_set(80))
    two, three = wire.host(2), wire.host(3)
    wire.flow(one, two, 0, 30)
    wire.flow(one, three, 0, 30)
    wire.flow(four, three, 40, 30)
    arrived = wire.run()
    together = [arrived[3, 29], arrived[3, 69]]
    assert max(together) == pytest.approx(6.0, rel=0.1)
    assert arrived[2, 29] == pytest.approx(6.0, rel=0.15)


def test_nothing_exceeds_a_link() -> None:
    wire = Wire()
    receivers = [wire.host(number) for number in range(10, 15)]
    senders = [wire.host(number, have=full_set(50)) for number in range(5)]
    for position, sender in enumerate(senders):
        for receiver in receivers:
            wire.flow(sender, receiver, 10 * position, 10)
    arrived = wire.run()
    for receiver in receivers:
        times = sorted(at for (number, _), at in arrived.items() if number == receiver.number)
        for count, at in enumerate(times, 1):
            assert count * PIECE <= RATE * at * 1.0001
    assert max(arrived.values()) == pytest.approx(5.0, rel=0.1)


def test_cut_through_costs_a_piece_not_a_run() -> None:
    wire = Wire()
    chain = [wire.host(1, have=full_set(20)), wire.host(2), wire.host(3), wire.host(4)]
    for sender, receiver in zip(chain, chain[1:]):
        wire.flow(sender, receiver, 0, 20)
    assert wire.run()[4, 19] == pytest.approx(2.0 + 2 * 0.1, rel=0.05)


def test_a_flow_waits_for_a_piece_without_keeping_the_uplink() -> None:
    wire = Wire()
    sender, patient, busy = wire.host(1, have=full_set(10)), wire.host(2), wire.host(3)
    wire.flow(sender, patient, 50, 1)
    wire.flow(sender, busy, 0, 10)
    wire.world.at(5.0, lambda _: wire.network.stored(sender, 50, 51))
    arrived = wire.run()
    assert arrived[3, 9] == pytest.approx(1.0, rel=0.05)
    assert arrived[2, 50] == pytest.approx(5.1, rel=0.05)


def test_a_closed_flow_brings_nothing_more() -> None:
    wire = Wire()
    flow = wire.flow(wire.host(1, have=full_set(10)), wire.host(2), 0, 10)
    wire.world.at(0.55, lambda _: wire.network.close(flow))
    assert max(piece for _, piece in wire.run()) == 4


def test_things_due_at_once_happen_in_the_order_asked_for() -> None:
    world, seen = World(), []  # type: Tuple[World, List[int]]
    for number in range(50):
        world.at(1.0, seen.append, number)
    world.run(10.0)
    assert seen == list(range(50))


def test_quanta_of_several_pieces_arrive_late_never_early() -> None:
    fine, coarse = Wire(parts=1), Wire(parts=1, pieces=4)
    for wire in (fine, coarse):
        chain = [wire.host(1, have=full_set(22)), wire.host(2), wire.host(3)]
        for sender, receiver in zip(chain, chain[1:]):
            wire.flow(sender, receiver, 0, 22)
    exact, rough = fine.run(), coarse.run()
    assert exact.keys() == rough.keys()
    assert all(rough[key] >= at - 1e-9 for key, at in exact.items())
    assert rough[3, 21] <= exact[3, 21] + 2 * 4 * 0.1


def test_hosts_of_a_rack_share_its_link_and_nothing_else() -> None:
    wire = Wire()
    far, near = Rack(RATE), Rack(RATE)
    receivers = []
    for number in range(4):
        sender = wire.host(number, have=full_set(10))
        receiver = wire.host(10 + number)
        sender.rack, receiver.rack = (far, near) if number else (near, near)
        receivers.append(receiver)
        wire.flow(sender, receiver, 0, 10)
    arrived = wire.run()
    assert arrived[10, 9] == pytest.approx(1.0, rel=0.05)       # stays in its rack
    ends = [arrived[number, 9] for number in (11, 12, 13)]
    assert max(ends) == pytest.approx(3.0, rel=0.05) and min(ends) > 0.9 * max(ends)
    assert far.sent == near.received == pytest.approx(30 * PIECE)
    assert not near.sent and not far.received
