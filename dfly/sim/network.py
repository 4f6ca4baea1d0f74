"""Bytes on virtual links.

Every host has an uplink and a downlink. A flow is one lease being sent: it wants its pieces in
order, each once its sender has it. An uplink serves the flows that can go on in turn, a quantum
(a piece or a part of one) at a time. A flow has a window of quanta on the way that covers the
path's delay and little more, so a sender doesn't run ahead of a full downlink, and what one flow
can't use the others get: equal share at the grain of a quantum, near max-min, for two heap
events a quantum whatever the number of flows. No losses, no TCP: what a long-lived connection
gets on a LAN.
"""
from __future__ import annotations

from collections import deque
from typing import Callable, Deque, Dict, List, Optional

from dfly.sim.world import World

IN_FLIGHT = 2  # quanta of one flow on the way, besides what the path's delay holds
WINDOW_MAX = 256  # quanta of delay that a flow may fill: as far as TCP windows grow


class Endpoint:
    """A host as the network sees it. Rates in bytes per second."""

    __slots__ = ("alive", "busy", "down_bps", "down_free_at", "have", "number", "ready", "sent",
                 "stalled", "up_bps", "waiting")

    def __init__(self, number: int, up_bps: float, down_bps: float) -> None:
        self.number = number
        self.up_bps = up_bps
        self.down_bps = down_bps
        self.down_free_at = 0.0
        self.have = 0                               # pieces stored
        self.alive = True
        self.stalled = False                        # sends nothing any more, says nothing
        self.busy = False                           # its uplink is
        self.sent = 0                               # bytes
        self.ready: Deque[Flow] = deque()           # flows that can send their next quantum
        self.waiting: Dict[int, List[Flow]] = {}    # by the piece that they wait for


class Flow:
    """Pieces next_piece .. stop-1 from a sender to a receiver."""

    __slots__ = ("closed", "in_flight", "lease", "next_piece", "part", "queued", "receiver",
                 "sender", "stop", "window")

    def __init__(self, lease: int, sender: Endpoint, receiver: Endpoint, first: int,
                 stop: int) -> None:
        self.lease = lease
        self.sender = sender
        self.receiver = receiver
        self.next_piece = first     # to be sent
        self.stop = stop
        self.part = 0               # of next_piece, to be sent
        self.in_flight = 0          # quanta
        self.window = IN_FLIGHT     # quanta in flight at most
        self.queued = False         # in the sender's ready queue, or waiting for a piece
        self.closed = False


class Arrival:
    """A quantum on the way; `piece` is set on the last one of a piece."""

    __slots__ = ("flow", "piece")

    def __init__(self, flow: Flow, piece: Optional[int]) -> None:
        self.flow = flow
        self.piece = piece


class Network:
    """Moves flows; tells `on_piece(flow, piece)` when a piece has arrived whole."""

    def __init__(self, world: World, latency_s: float, sizes: Callable[[int], int], parts: int,
                 on_piece: Callable[[Flow, int], None]) -> None:
        self._world = world
        self._latency_s = latency_s
        self._size_of = sizes
        self._parts = parts           # quanta in a piece
        self._on_piece = on_piece

    def start(self, flow: Flow) -> None:
        rate_bps = min(flow.sender.up_bps, flow.receiver.down_bps)
        held = 2 * self._latency_s * rate_bps * self._parts / self._size_of(0)
        flow.window = IN_FLIGHT + min(WINDOW_MAX, int(held))
        self._go_on(flow)

    def close(self, flow: Flow) -> None:
        """No more of it; what is on the way is thrown away when it arrives."""
        flow.closed = True

    def stored(self, host: Endpoint, piece: int) -> None:
        """The host has this piece now: flows that waited for it go on."""
        host.have |= 1 << piece
        for flow in host.waiting.pop(piece, ()):
            flow.queued = False
            self._go_on(flow)

    def _go_on(self, flow: Flow) -> None:
        """Queue the flow's next quantum, if it may and can be sent."""
        if flow.queued or flow.closed or flow.in_flight >= flow.window \
                or flow.next_piece >= flow.stop:
            return
        sender = flow.sender
        flow.queued = True
        if not sender.have >> flow.next_piece & 1:
            sender.waiting.setdefault(flow.next_piece, []).append(flow)
            return
        sender.ready.append(flow)
        if not sender.busy:
            self._send(sender)

    def _send(self, sender: Endpoint) -> None:
        """Put the next quantum on an idle uplink."""
        ready = sender.ready
        while ready:
            flow = ready.popleft()
            flow.queued = False
            if flow.closed or not flow.receiver.alive:
                continue
            if sender.stalled or not sender.alive:
                return
            break
        else:
            return
        world, receiver, piece = self._world, flow.receiver, flow.next_piece
        size = self._size_of(piece) / self._parts
        flow.part += 1
        arrival = Arrival(flow, None)
        if flow.part == self._parts:
            arrival.piece = piece
            flow.part = 0
            flow.next_piece += 1
        flow.in_flight += 1
        sender.busy = True
        sender.sent += int(size)
        sent_at = world.now + size / sender.up_bps
        first_at = world.now + self._latency_s
        free_at = receiver.down_free_at
        free_at = (free_at if free_at > first_at else first_at) + size / receiver.down_bps
        receiver.down_free_at = free_at
        world.at(sent_at, self._sent, flow)
        arrive_at = sent_at + self._latency_s
        world.at(arrive_at if arrive_at > free_at else free_at, self._arrived, arrival)

    def _sent(self, flow: Flow) -> None:
        sender = flow.sender
        sender.busy = False
        self._go_on(flow)
        if not sender.busy:
            self._send(sender)

    def _arrived(self, arrival: Arrival) -> None:
        flow = arrival.flow
        flow.in_flight -= 1
        if flow.closed:
            return
        if arrival.piece is not None:
            self._on_piece(flow, arrival.piece)
        self._go_on(flow)
