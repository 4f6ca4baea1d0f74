"""Bytes on virtual links.

Every host has an uplink and a downlink; racks may hang on a core by links of their own, which
all hosts of a rack share. A flow is one lease being sent: it wants its pieces in order, each once
its sender has it. An uplink serves the flows that can go on in turn, a quantum (a part of a
piece, a piece or a few) at a time; the links behind it are queues, first come, first served. A
flow has a window of quanta on the way that covers the path's delay and little more, so a sender
doesn't run ahead of a full downlink, and what one flow can't use the others get: equal share at
the grain of a quantum, near max-min, for two heap events a quantum (three through racks) whatever
the number of flows. No losses, no TCP: what a long-lived connection gets on a LAN.

A quantum of several pieces arrives as one: that is later than in reality, never earlier.
"""
from __future__ import annotations

from collections import deque
from typing import Callable, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

from dfly.sim.world import World

IN_FLIGHT = 2  # quanta of one flow on the way, besides what the path's delay holds
WINDOW_MAX = 256  # quanta of delay that a flow may fill: as far as TCP windows grow


class Rack:
    """A switch on the core, by a link that its hosts share. Rate in bytes per second."""

    __slots__ = ("bps", "down_free_at", "received", "sent", "up_free_at")

    def __init__(self, bps: float) -> None:
        self.bps = bps
        self.up_free_at = 0.0
        self.down_free_at = 0.0
        self.sent = 0.0       # bytes to the core
        self.received = 0.0   # and from it


def cross(origin: Optional[Rack], target: Optional[Rack], size: float, begin_at: float,
          end_at: float) -> float:
    """When bytes that enter the links between two racks from `begin_at` to `end_at` are through.
    None = a host on the core itself."""
    if origin is target:
        return end_at
    if origin is not None:
        took_s = size / origin.bps
        origin.up_free_at = max(origin.up_free_at, begin_at) + took_s
        end_at = max(end_at, origin.up_free_at)
        begin_at = origin.up_free_at - took_s
        origin.sent += size
    if target is not None:
        target.down_free_at = max(target.down_free_at, begin_at) + size / target.bps
        end_at = max(end_at, target.down_free_at)
        target.received += size
    return end_at


class Endpoint:
    """A host as the network sees it. Rates in bytes per second."""

    __slots__ = ("alive", "busy", "down_bps", "down_free_at", "have", "number", "rack", "ready",
                 "sent", "stalled", "up_bps", "waiting")

    def __init__(self, number: int, up_bps: float, down_bps: float) -> None:
        self.number = number
        self.up_bps = up_bps
        self.down_bps = down_bps
        self.down_free_at = 0.0
        self.rack: Optional[Rack] = None
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


class Grain(NamedTuple):
    """How finely transfers are played: quanta in a piece, or pieces in a quantum."""

    parts: int = 1
    pieces: int = 1


Arrival = Tuple[Flow, int, int]   # pieces first .. stop-1 are whole now; none of a part


class Network:
    """Moves flows; tells `on_pieces(flow, first, stop)` when pieces have arrived whole."""

    def __init__(self, world: World, latency_s: float, sizes: Sequence[int], grain: Grain,
                 on_pieces: Callable[[Flow, int, int], None]) -> None:
        assert grain.parts == 1 or grain.pieces == 1, grain
        self._world = world
        self._latency_s = latency_s
        self._sizes = sizes           # of the pieces, in bytes
        self._parts, self._stride = grain
        self._on_pieces = on_pieces

    def start(self, flow: Flow) -> None:
        rate_bps = min(flow.sender.up_bps, flow.receiver.down_bps)
        held = 2 * self._latency_s * rate_bps * self._parts / (self._sizes[0] * self._stride)
        flow.window = IN_FLIGHT + min(WINDOW_MAX, int(held))
        self._go_on(flow)

    def close(self, flow: Flow) -> None:
        """No more of it; what is on the way is thrown away when it arrives."""
        flow.closed = True

    def stored(self, host: Endpoint, first: int, stop: int) -> None:
        """The host has these pieces now: flows that waited for one go on."""
        host.have |= ((1 << stop - first) - 1) << first
        waiting = host.waiting
        if waiting:
            for piece in range(first, stop):
                if piece in waiting:
                    for flow in waiting.pop(piece):
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
        first, size = self._cut(flow)
        flow.in_flight += 1
        sender.busy = True
        sender.sent += int(size)
        world, receiver = self._world, flow.receiver
        now = world.now
        sent_at = now + size / sender.up_bps
        world.at(sent_at, self._sent, flow)
        arrival = (flow, first, flow.next_piece)
        if sender.rack is not receiver.rack:
            through_at = cross(sender.rack, receiver.rack, size, now, sent_at)
            world.at(through_at, self._crossed, (arrival, size))
            return
        self._arrive(arrival, size, now, sent_at)

    def _cut(self, flow: Flow) -> Tuple[int, float]:
        """(first piece that the flow's next quantum completes, or its end; bytes)."""
        first = flow.next_piece
        if self._stride > 1:
            have, stop, sizes = flow.sender.have >> first, first + 1, self._sizes
            most = first + self._stride
            if most > flow.stop:
                most = flow.stop
            while stop < most and have >> stop - first & 1:
                stop += 1
            flow.next_piece = stop
            return first, sizes[first] * (stop - 1 - first) + sizes[stop - 1]
        flow.part += 1
        if flow.part == self._parts:
            flow.part = 0
            flow.next_piece = first + 1
        return first, self._sizes[first] / self._parts

    def _arrive(self, arrival: Arrival, size: float, begin_at: float, end_at: float) -> None:
        """Through the receiver's downlink, which the bytes reach from `begin_at` to `end_at`."""
        receiver = arrival[0].receiver
        free_at, first_at = receiver.down_free_at, begin_at + self._latency_s
        free_at = (free_at if free_at > first_at else first_at) + size / receiver.down_bps
        receiver.down_free_at = free_at
        last_at = end_at + self._latency_s
        self._world.at(last_at if last_at > free_at else free_at, self._arrived, arrival)

    def _crossed(self, what: Tuple[Arrival, float]) -> None:
        """A quantum has left the racks' links behind: as it came, so the downlink takes it."""
        arrival, size = what
        now = self._world.now
        took_s = size / min(arrival[0].sender.up_bps, arrival[0].receiver.down_bps)
        self._arrive(arrival, size, max(0.0, now - took_s), now)

    def _sent(self, flow: Flow) -> None:
        sender = flow.sender
        sender.busy = False
        self._go_on(flow)
        if not sender.busy:
            self._send(sender)

    def _arrived(self, arrival: Arrival) -> None:
        flow, first, stop = arrival
        flow.in_flight -= 1
        if flow.closed:
            return
        if first < stop:
            self._on_pieces(flow, first, stop)
        self._go_on(flow)
