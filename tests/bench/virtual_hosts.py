"""Thousands of hosts of one swarm in one process: real control links, fetches in virtual time.

Each host has a link of its own to the manager (plain non-blocking sockets on one epoll) and obeys
its orders as `dfly peer` does: it joins, follows leases, gathers reports for as long as Pace says
and stays away when the manager is Busy. What it does not do is move bytes: a piece has come when
both ends of its lease could have moved it by then, the leases of a host sharing its downlink and
the children of a parent its uplink, piece after piece as with cut-through, and no piece before its
digest is known. The manager's own uplink has a rate, too.
"""
from __future__ import annotations

import errno
import heapq
import random
import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple, Type

from dfly.digest import SHA256_SIZE
from dfly.task import TaskSpec, full_set, members, run_set
from dfly.wire.frame import FrameDecoder
from dfly.wire.messages import (
    LINK_PROTOCOL,
    STORED_MAX,
    Accepted,
    Busy,
    Bye,
    Digests,
    Hello,
    Join,
    Lease,
    Message,
    Pace,
    Parent,
    Ping,
    Pong,
    Refused,
    Revoke,
    Stored,
    Welcome,
    decode,
)

GREETING = (f"GET /v1/link HTTP/1.1\r\nHost: manager\r\nConnection: Upgrade\r\n"
            f"Upgrade: {LINK_PROTOCOL}\r\n\r\n").encode()
READ_SIZE = 256 * 1024
PING_EVERY_S = 1.0
PINGERS = 20          # one host of so many asks for a Pong now and then
LOOKS = 2             # a parent that keeps others waiting is looked at so often an interval
HOPS_MAX = 8          # and its own parents, up to here
SAVED = 2             # unused rate is lost after so many intervals: time goes in steps here
TICK_MIN_S = 0.004    # one 512 KiB piece at 1 Gbit/s
TICKS_PER_S = 20_000  # of all hosts together: what this process can do


@dataclass(frozen=True)
class Plan:
    """What the hosts do. Rates in bytes a second, `connecting`: handshakes at a time."""

    port: int
    url: str
    hosts: int
    host_bps: float
    seed_bps: float
    upload_slots: int
    connecting: int
    digests: bytes         # of all pieces, in order
    timeout_s: float


@dataclass
class Outcome:
    """What came of it: counts, and times in seconds."""

    seconds: float = 0.0         # from the first connection to the last complete host
    linked_s: float = 0.0        # to the last Welcome
    joined_s: float = 0.0        # to the last Accepted
    done: int = 0
    lost: int = 0                # links that ended without being told to
    busy: int = 0                # Busy answers
    leases: int = 0
    leased_pieces: int = 0
    revoked: int = 0
    reports: int = 0
    reported_pieces: int = 0
    batch_s: float = 0.0         # what Pace said last
    lease_waits: List[float] = field(default_factory=list)   # report to next lease
    pongs: List[float] = field(default_factory=list)         # Ping to Pong
    lags: List[float] = field(default_factory=list)          # how late the hosts themselves ran
    trouble: List[str] = field(default_factory=list)


class Run:
    """The pieces [next, stop) that a lease still brings from a parent (None: the manager)."""

    __slots__ = ("next", "parent", "stop")

    def __init__(self, first: int, count: int, parent: Optional[VirtualHost]) -> None:
        self.next = first
        self.stop = first + count
        self.parent = parent


class Uplink:
    """A rate shared by whoever takes from it; what isn't used is kept for a bounded time only."""

    __slots__ = ("at", "credit", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.at = now
        self.credit = 0.0

    def up_to(self, now: float, span_s: float) -> float:
        """Bytes that may go now; at most what `span_s` carries."""
        self.credit = min(self.credit + (now - self.at) * self.rate, span_s * self.rate)
        self.at = now
        return self.credit


class VirtualHost:
    """One host: its link, what it holds, what it is getting."""

    __slots__ = ("asked_at", "at", "credit", "done", "fd", "frames", "greeted", "have", "joined",
                 "ended", "known", "leased", "number", "out", "pinged_at", "runs", "said_at",
                 "sock", "ticking",
                 "unsaid", "uplink", "writing")

    def __init__(self, number: int, sock: socket.socket, plan: Plan, now: float) -> None:
        self.number = number
        self.sock = sock
        self.fd = sock.fileno()
        self.frames = FrameDecoder()
        self.out = bytearray()
        self.writing = True  # epoll tells when it may
        self.greeted = False
        self.joined = False
        self.done = False
        self.have = 0        # piece sets
        self.known = 0       # digests
        self.leased = 0
        self.unsaid = 0      # stored, not yet reported
        self.said_at = 0.0   # when something was
        self.ended = False   # a lease ended since
        self.runs: Dict[int, Run] = {}
        self.at = now        # up to when its fetches were computed
        self.credit = 0.0    # bytes of its downlink not yet used for a whole piece
        self.uplink = Uplink(plan.host_bps, now)
        self.ticking = False
        self.asked_at = 0.0  # of the report that wants a lease
        self.pinged_at = 0.0


class VirtualHosts:
    """All of them, driven by one loop. `run()` returns when all are complete or time is up."""

    def __init__(self, plan: Plan) -> None:
        self.outcome = Outcome()
        self._plan = plan
        self._rng = random.Random(1)
        self._epoll = select.epoll()
        self._by_fd: Dict[int, VirtualHost] = {}
        self._by_parent: Dict[int, VirtualHost] = {}   # the manager's number -> host
        self._hosts: Dict[int, VirtualHost] = {}
        self._to_connect: Deque[int] = deque(range(plan.hosts))
        self._connecting = 0
        self._joined = 0
        self._due: List[Tuple[float, int, int]] = []   # (at, what, host)
        self._started_at = time.monotonic()
        self._swarm = -1
        self._piece_size = 1
        self._full = 0
        self._batch_s = 0.0
        self._tick_s = max(TICK_MIN_S, plan.hosts / TICKS_PER_S)
        self._seed = Uplink(plan.seed_bps, self._started_at)
        self._handlers: Dict[Type[Message], Callable[[VirtualHost, Any, float], None]] = {
            Lease: self._on_lease, Digests: self._on_digests, Parent: self._on_parent,
            Revoke: self._on_revoke, Ping: self._on_ping, Pong: self._on_pong,
            Pace: self._on_pace, Welcome: self._on_welcome, Accepted: self._on_accepted,
            Refused: self._on_refused, Busy: self._on_busy, Bye: self._on_bye}

    def run(self) -> Outcome:
        outcome, plan = self.outcome, self._plan
        now = time.monotonic()
        while outcome.done < plan.hosts and now - self._started_at < plan.timeout_s \
                and not outcome.trouble:
            while self._to_connect and self._connecting < plan.connecting:
                self._connect(self._to_connect.popleft())
            wait_s = max(0.0, self._due[0][0] - now) if self._due else 1.0
            for fd, mask in self._epoll.poll(min(wait_s, 1.0), 1024):
                host = self._by_fd.get(fd)
                if host is not None:
                    self._ready(host, mask)
            now = time.monotonic()
            self._ring(now)
        outcome.seconds = now - self._started_at
        outcome.batch_s = self._batch_s
        return outcome

    def close(self) -> None:
        for host in self._by_fd.values():
            host.sock.close()
        self._epoll.close()

    # -------------------------------------------------------------------------------- links
    def _connect(self, number: int) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(("127.0.0.1", self._plan.port))
        if code not in (0, errno.EINPROGRESS):
            self.outcome.trouble.append(f"connect: {errno.errorcode.get(code, code)}")
            return
        host = VirtualHost(number, sock, self._plan, time.monotonic())
        host.out += GREETING
        self._by_fd[host.fd] = self._hosts[number] = host
        self._connecting += 1
        self._epoll.register(host.fd, select.EPOLLIN | select.EPOLLOUT)

    def _ready(self, host: VirtualHost, mask: int) -> None:
        if mask & select.EPOLLOUT:
            self._flush(host)
        if mask & ~select.EPOLLOUT and host.fd in self._by_fd:   # else the flush has lost it
            try:
                data = host.sock.recv(READ_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(host, str(error))
                return
            if data:
                self._receive(host, data)
            else:
                self._lose(host, "closed by the manager")

    def _receive(self, host: VirtualHost, data: bytes) -> None:
        if not host.greeted:
            host.out += data   # nothing else is in it: the request has left
            head, end, data = bytes(host.out).partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head:
                self._lose(host, head.decode("latin-1").partition("\r\n")[0])
                return
            host.out.clear()
            host.greeted = True
            self._send(host, Hello(host.number.to_bytes(16, "big"), host.number + 1,
                                   name=f"v{host.number}",
                                   facts={"upload_slots": self._plan.upload_slots}))
        now = time.monotonic()
        for code, body in host.frames.feed(data):
            if host.fd not in self._by_fd:
                return   # dropped for the message before, or lost by an answer to it
            message = decode(code, body)
            handler = self._handlers.get(type(message))
            if handler is None:
                self.outcome.trouble.append(f"host {host.number} was told {message}")
            else:
                handler(host, message, now)

    def _send(self, host: VirtualHost, message: Message) -> None:
        waiting = bool(host.out)
        host.out += message.encode()
        if not waiting:
            self._flush(host)

    def _flush(self, host: VirtualHost) -> None:
        try:
            sent = host.sock.send(host.out) if host.out else 0
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lose(host, str(error))
            return
        del host.out[:sent]
        if bool(host.out) != host.writing:
            host.writing = not host.writing
            self._epoll.modify(host.fd,
                               select.EPOLLIN | (select.EPOLLOUT if host.writing else 0))

    def _lose(self, host: VirtualHost, why: str) -> None:
        """The link has ended, and nobody here wanted that."""
        self.outcome.lost += 1
        self.outcome.trouble.append(f"host {host.number} lost its link: {why}")
        self._drop(host)

    def _drop(self, host: VirtualHost) -> None:
        self._epoll.unregister(host.fd)
        del self._by_fd[host.fd]
        host.sock.close()

    # ----------------------------------------------------------------------------- messages
    def _on_welcome(self, host: VirtualHost, message: Welcome, now: float) -> None:
        self._connecting -= 1
        self._on_pace(host, Pace(message.batch_s), now)
        self.outcome.linked_s = now - self._started_at
        self._send(host, Join(1, TaskSpec(self._plan.url)))

    def _on_busy(self, host: VirtualHost, message: Busy, now: float) -> None:
        self.outcome.busy += 1
        self._connecting -= 1
        self._drop(host)
        del self._hosts[host.number]
        again = now + message.retry_after_s * self._rng.uniform(0.7, 1.3)
        heapq.heappush(self._due, (again, 0, host.number))

    def _on_accepted(self, host: VirtualHost, message: Accepted, now: float) -> None:
        assert message.length is not None
        self._swarm, self._piece_size = message.swarm, message.piece_size
        self._full = full_set(-(-message.length // message.piece_size))
        self._joined += 1
        host.joined = True
        self.outcome.joined_s = now - self._started_at
        if host.number % PINGERS == 0:
            heapq.heappush(self._due, (now + self._rng.random() * PING_EVERY_S, 2, host.number))

    def _on_refused(self, host: VirtualHost, message: Refused, now: float) -> None:
        self.outcome.trouble.append(f"host {host.number} was refused: {message.what}")

    def _on_bye(self, host: VirtualHost, message: Bye, now: float) -> None:
        self.outcome.trouble.append(f"host {host.number} was told to go: {message.what}")

    def _on_pace(self, host: VirtualHost, message: Pace, now: float) -> None:
        self._batch_s = message.batch_s

    def _on_ping(self, host: VirtualHost, message: Ping, now: float) -> None:
        self._send(host, Pong(message.nonce))

    def _on_pong(self, host: VirtualHost, message: Pong, now: float) -> None:
        self.outcome.pongs.append(now - host.pinged_at)
        heapq.heappush(self._due, (now + PING_EVERY_S, 2, host.number))

    def _on_parent(self, host: VirtualHost, message: Parent, now: float) -> None:
        self._by_parent[message.parent] = self._hosts[message.port - 1]

    def _on_digests(self, host: VirtualHost, message: Digests, now: float) -> None:
        start = message.first * SHA256_SIZE
        if self._plan.digests[start:start + len(message.digests)] != message.digests:
            self.outcome.trouble.append(f"wrong digests from piece {message.first} on")
        host.known |= run_set(message.first, len(message.digests) // SHA256_SIZE)

    def _on_lease(self, host: VirtualHost, message: Lease, now: float) -> None:
        outcome = self.outcome
        outcome.leases += 1
        outcome.leased_pieces += message.count
        if host.asked_at:
            outcome.lease_waits.append(now - host.asked_at)
            host.asked_at = 0.0
        if message.parent and message.parent not in self._by_parent:
            outcome.trouble.append(f"a lease from unknown parent {message.parent}")
            return
        if not host.runs:
            host.at, host.credit = now, 0.0
        host.runs[message.lease] = Run(message.first, message.count,
                                       self._by_parent.get(message.parent))
        host.leased |= run_set(message.first, message.count)
        self._tick_later(host, now)

    def _on_revoke(self, host: VirtualHost, message: Revoke, now: float) -> None:
        if host.runs.pop(message.lease, None) is not None:
            self.outcome.revoked += 1
            self._count_leased(host)

    # --------------------------------------------------------------------------------- time
    def _tick_later(self, host: VirtualHost, now: float) -> None:
        if not host.ticking:
            host.ticking = True
            heapq.heappush(self._due, (now + self._tick_s, 1, host.number))

    def _ring(self, now: float) -> None:
        due = self._due
        for _ in range(1024):   # then the links again
            if not due or due[0][0] > now:
                return
            at, what, number = heapq.heappop(due)
            host = self._hosts.get(number)
            if what == 0:
                self._to_connect.append(number)
            elif host is not None and what == 1:
                self.outcome.lags.append(now - at)
                self._tick(host, time.monotonic())
            elif host is not None:
                host.pinged_at = time.monotonic()
                self._send(host, Ping(number))

    def _tick(self, host: VirtualHost, now: float) -> None:
        """Bring the host up to date, and report what came if the last report is old enough."""
        host.ticking = False
        self._advance(host, now)
        ended = [lease for lease, run in host.runs.items() if run.next == run.stop]
        for lease in ended:
            del host.runs[lease]
        if ended:
            self._count_leased(host)
            host.ended = True
        if host.unsaid and now >= host.said_at + self._batch_s:
            self._report(host, now)
        if host.runs or host.unsaid:
            self._tick_later(host, now)

    def _report(self, host: VirtualHost, now: float) -> None:
        pieces = tuple(members(host.unsaid))
        host.unsaid, host.said_at = 0, now
        ended, host.ended = host.ended, False
        for start in range(0, len(pieces), STORED_MAX):
            self.outcome.reports += 1
            self._send(host, Stored(self._swarm, pieces[start:start + STORED_MAX]))
        self.outcome.reported_pieces += len(pieces)
        if host.have == self._full:
            if not host.done:
                host.done = True
                self.outcome.done += 1
            host.asked_at = 0.0
        elif ended and not host.asked_at:
            if self._full & ~(host.have | host.leased):
                host.asked_at = now
            else:
                self.outcome.lease_waits.append(0.0)   # for all that it misses it has leases

    def _count_leased(self, host: VirtualHost) -> None:
        leased = 0
        for run in host.runs.values():
            leased |= run_set(run.next, run.stop - run.next)
        host.leased = leased

    # ------------------------------------------------------------------------- virtual bytes
    def _advance(self, host: VirtualHost, now: float, hops: int = HOPS_MAX) -> None:
        """Receive what could have come since the last time; parents that keep it waiting first."""
        span_s = now - host.at
        host.at = now
        size = self._piece_size
        host.credit += span_s * self._plan.host_bps
        budget = int(host.credit // size)
        stale_at = now - self._tick_s / LOOKS
        able: List[Tuple[Run, int]] = []
        for run in host.runs.values():
            count = self._there(host, run)
            parent = run.parent
            if not count and hops and parent is not None and parent.runs and parent.at < stale_at:
                self._advance(parent, now, hops - 1)
                count = self._there(host, run)
            if count:
                able.append((run, count))
        while budget > 0 and able:
            share = max(1, budget // len(able))
            left = []
            for run, count in able:
                took = self._take(host, run, min(share, count, budget), now)
                budget -= took
                host.credit -= took * size
                if took == share and count > took and budget > 0:
                    left.append((run, count - took))
            able = left
        if budget > 0:   # it waits for others: what it could have received meanwhile is gone
            host.credit = min(host.credit, SAVED * self._tick_s * self._plan.host_bps)

    @staticmethod
    def _there(host: VirtualHost, run: Run) -> int:
        """Pieces of the run that its parent could send on, and the host verify."""
        has = host.known if run.parent is None else run.parent.have & host.known
        ahead = ~(has >> run.next)
        return min((ahead & -ahead).bit_length() - 1, run.stop - run.next)

    def _take(self, host: VirtualHost, run: Run, count: int, now: float) -> int:
        """Up to `count` pieces of the run, as many as its parent's uplink still carries."""
        uplink = self._seed if run.parent is None else run.parent.uplink
        count = min(count, int(uplink.up_to(now, SAVED * self._tick_s) // self._piece_size))
        if count > 0:
            uplink.credit -= count * self._piece_size
            got = run_set(run.next, count) & ~host.have
            host.have |= got
            host.unsaid |= got
            run.next += count
        return max(0, count)
