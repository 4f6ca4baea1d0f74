"""Every message goes there and back; everything else is refused by name."""
from __future__ import annotations

import random
from dataclasses import replace
from typing import List

import pytest

from dfly.access import Access, Login, Manners, Proxies, SourceFacts, TlsSettings
from dfly.digest import Digest
from dfly.errors import DigestMismatch, ProtocolError
from dfly.task import TaskSpec, Vouched
from dfly.wire.codec import TEXT_MAX, MessageError
from dfly.wire.frame import BODY_MAX, HEADER, FrameDecoder, FrameError, pack_frame
from dfly.wire.messages import (
    MESSAGES,
    STORED_MAX,
    Accepted,
    Busy,
    Bye,
    Changed,
    Digests,
    Failure,
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
    refusal,
)

SPEC = TaskSpec("http://files.example/a?x=1", "v2", ("sig",), Digest("sha256", b"\1" * 32))
PARTS = replace(SPEC, mirrors=("http://mirror.example/a",), span=(5, None),
                vouched=Vouched("sha1", 1 << 18, b"\2" * 40))
ACCESS = Access((("Authorization", "Basic eA=="),), (Login("http://a:80", "u", "p"),),
                proxies=Proxies((("http", "http://proxy.example:3128"),), "localhost"),
                tls=TlsSettings(ca="PEM", pins=("x",)), manners=Manners(tries=3, family=6))
FACTS = SourceFacts(200, "OK", (("Server", "x"),), "a.bin", "b.bin", ("cookie line",))
ONE_OF_EACH: List[Message] = [
    Hello(b"i" * 16, 65003, "host-1", "eu/dc1/r2", "192.0.2.1", {"cores": 8}),
    Welcome("manager-1", 10.0, 0.005), Busy(1.5, "too many links"),
    Bye(6, "token refused", "see dfly keys"), Ping(1 << 63), Pong(0), Pace(0.025),
    Join(7, SPEC, "etag:1", 262144, 0b1011, ACCESS, 3), Join(8, PARTS, flags=4, limit_bps=1 << 40),
    Accepted(7, 3, "ab" * 32, "etag:1", 100, 262144, b"token", True, b"x" * 100, FACTS),
    Accepted(8, 4, "cd" * 32, "", None, 1 << 20), Refused(7, 8, "404", "check the URL", 404),
    Have(3, (1 << 70) | 1), Digests(3, 5, bytes(64)), Sized(3, 1 << 40), Changed(3),
    TaskFailed(3, 4, "source gone", "wait", 503), Urgent(3, 17), Leave(3),
    Offer(9, "ef" * 32, "etag:1", 262144, 1 << 30, 0b110),
    Parent(9, 65003, "2001:db8::1"), Lease(1, 3, 9, 4, 8, 2.5), Revoke(1, 3),
    Stored(3, (5, 4, 1000)), LeaseFailed(1, 3, 6, Failure.BAD_DIGEST, "piece 6"),
]


def test_the_list_above_is_complete() -> None:
    assert {type(message) for message in ONE_OF_EACH} == set(MESSAGES)
    assert len({kind.code for kind in MESSAGES}) == len(MESSAGES)


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda m: type(m).__name__)
def test_there_and_back(message: Message) -> None:
    ((code, body),) = FrameDecoder().feed(message.encode())
    assert decode(code, body) == message


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda m: type(m).__name__)
def test_a_newer_peer_may_say_more(message: Message) -> None:
    ((code, body),) = FrameDecoder().feed(message.encode())
    assert decode(code, body + b"more") == message


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda m: type(m).__name__)
def test_every_truncation_is_refused(message: Message) -> None:
    ((code, body),) = FrameDecoder().feed(message.encode())
    for size in range(len(body)):
        with pytest.raises(MessageError):
            decode(code, body[:size])


def test_mutations_are_decoded_or_refused_never_worse() -> None:
    rng = random.Random(11)
    bodies = [FrameDecoder().feed(message.encode())[0] for message in ONE_OF_EACH]
    refused = 0
    for _ in range(20_000):
        code, body = rng.choice(bodies)
        mutated = bytearray(body)
        for _ in range(rng.randint(1, 4)):
            if mutated:
                mutated[rng.randrange(len(mutated))] = rng.choice((0, 1, 127, 255,
                                                                   rng.randrange(256)))
        try:
            decode(code, bytes(mutated))
        except ProtocolError:
            refused += 1
    assert refused > 1000


def test_bounds_are_kept_at_both_ends() -> None:
    with pytest.raises(MessageError, match="over its bound"):
        decode(Have.code, b"\0\0\0\1" + b"\xff\xff\xff\xff")
    with pytest.raises(MessageError, match="claims"):
        decode(Stored.code, b"\0\0\0\1" + (STORED_MAX + 1).to_bytes(4, "big"))
    with pytest.raises(MessageError, match="can't exist"):
        decode(Lease.code, Lease.fixed.pack(1, 1, 1, 0, 0, 0))
    long_name = Bye(1, "é" * TEXT_MAX)
    assert len(decode(*FrameDecoder().feed(long_name.encode())[0]).what.encode()) <= TEXT_MAX


@pytest.mark.parametrize("wanted", [
    b'[]', b'{"url":1}', b'{"url":"x","filters":"a"}', b'{"url":"x","access":{"headers":[["a"]]}}',
    b'{"url":"x","access":{"headers":[["a",1]]}}', b'{"url":"x","access":7}',
    b'{"url":"x","mirrors":"x"}', b'{"url":"x","span":[5,5]}', b'{"url":"x","span":[true,null]}',
    b'{"url":"x","vouched":{"algorithm":"md5","length":1,"values":"AA=="}}',
    b'{"url":"x","access":{"manners":{"family":5}}}', b'{"url":"x","access":{"logins":[{}]}}',
    b'{"url":"x","digest":"sha256:zz"}', b'{', b'\xff',
    b'{"url":"' + b"u" * 9000 + b'"}', b'[' * 60_000,
])
def test_a_join_with_a_bad_wish_is_refused(wanted: bytes) -> None:
    body = Join.fixed.pack(1, 0, 0, 0) + len(wanted).to_bytes(4, "big") + wanted + bytes(8)
    with pytest.raises(MessageError):
        decode(Join.code, body)


def test_frames_come_whole_whatever_the_cuts() -> None:
    data = b"".join(message.encode() for message in ONE_OF_EACH)
    for step in (1, 7, len(data)):
        decoder, frames = FrameDecoder(), []
        for start in range(0, len(data), step):
            frames += decoder.feed(data[start:start + step])
        assert [decode(code, body) for code, body in frames] == ONE_OF_EACH
        assert decoder.pending == 0


def test_an_oversized_frame_is_refused_from_its_header_alone() -> None:
    decoder = FrameDecoder()
    with pytest.raises(FrameError, match="over the bound"):
        decoder.feed(HEADER.pack(BODY_MAX + 1, 5))
    assert FrameDecoder().feed(pack_frame(5, b"x" * 8)) == [(5, b"x" * 8)]


def test_a_refusal_carries_its_error() -> None:
    error = DigestMismatch("wrong bytes", "tell the publisher")
    assert refusal(4, error) == Refused(4, 9, "wrong bytes", "tell the publisher", 0)
