"""Movers: bodies arrive whole at the limiters' pace, and no way to fail leaves anything behind."""
from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import tempfile
import time
from typing import Any, List

import pytest

from dfly.errors import DigestMismatch, FileError, NetworkError, ProtocolError
from dfly.net.limiter import Limiter
from dfly.net.mover import Movers
from dfly.net.stream import Stream, TimedOut
from dfly.task import set_of
from dfly.wire.bodies import ChunkedBody, CloseBody, LengthBody, NoBody
from tests.net.loopback import (
    PIECE,
    CollectSink,
    FakeTaskFile,
    moving,
    off_loop,
    pair,
    read_all,
    read_exactly,
    run,
)

CONTENT = random.Random(1).randbytes(5 * PIECE + 1234)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"


def file_of(content: bytes) -> Any:
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(content)
    file.flush()
    return file


# ------------------------------------------------------------------------------ receiving
@pytest.mark.parametrize("early", [0, 1, 1000, len(CONTENT)])
def test_a_body_is_received_whole_and_the_stream_stays(early: int) -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            stream.buffer += CONTENT[:early]
            sink = CollectSink()
            job = movers.receive(stream, LengthBody(len(CONTENT)), sink)
            await off_loop(far.sendall, CONTENT[early:] + b"next")
            assert await job.wait() == len(CONTENT)
            assert sink.content == CONTENT and sink.finished == 1
            assert sink.threads == {"mover-0"}
            assert await stream.read_some() == b"next"  # not a byte beyond the body was taken
            stream.close()
            far.close()
    run(scenario())


def test_what_was_pipelined_behind_a_body_stays_in_the_buffer() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            stream.buffer += b"bodyNEXT"
            sink = CollectSink()
            assert await movers.receive(stream, LengthBody(4), sink).wait() == 4
            assert bytes(stream.buffer) == b"NEXT" and sink.content == b"body"
            assert await movers.receive(stream, NoBody(), CollectSink()).wait() == 0
            assert bytes(stream.buffer) == b"NEXT"
            stream.close()
            far.close()
    run(scenario())


def test_chunks_are_received_and_what_follows_them_kept() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            sink = CollectSink()
            job = movers.receive(stream, ChunkedBody(), sink)
            wire = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in
                            (CONTENT[i:i + 7_777] for i in range(0, len(CONTENT), 7_777)))
            await off_loop(far.sendall, wire + b"0\r\n\r\nHTTP")
            assert await job.wait() == len(CONTENT) and sink.content == CONTENT
            while len(stream.buffer) < 4:
                stream.buffer += await stream.read_some()
            assert bytes(stream.buffer) == b"HTTP"
            stream.close()
            far.close()
    run(scenario())


def test_a_body_until_close_ends_with_the_connection() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            sink = CollectSink()
            job = movers.receive(stream, CloseBody(), sink)
            await off_loop(far.sendall, CONTENT)
            far.close()
            assert await job.wait() == len(CONTENT)
            assert sink.content == CONTENT and sink.finished == 1
            stream.close()
    run(scenario())


def test_an_early_end_says_how_much_came() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            sink = CollectSink()
            job = movers.receive(stream, LengthBody(1000), sink)
            far.sendall(b"x" * 300)
            far.close()
            with pytest.raises(NetworkError, match="300 of 1000 bytes"):
                await job.wait()
            assert stream.closed and not sink.finished and len(sink.content) == 300
    run(scenario())


def test_a_reset_is_a_network_error() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            job = movers.receive(stream, LengthBody(1000), CollectSink())
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            far.close()
            with pytest.raises(NetworkError, match="reset"):
                await job.wait()
            assert stream.closed
    run(scenario())


def test_malformed_chunks_end_the_transfer() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            job = movers.receive(stream, ChunkedBody(), CollectSink())
            far.sendall(b"3\r\nabc\r\nnonsense\r\n")
            with pytest.raises(ProtocolError, match="chunk size"):
                await job.wait()
            assert stream.closed
            far.close()
    run(scenario())


@pytest.mark.parametrize("error", [DigestMismatch("piece 0"), RuntimeError("a bug"),
                                   AssertionError()])
def test_what_a_sink_raises_reaches_who_awaits_and_the_mover_goes_on(error: Exception) -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            job = movers.receive(stream, LengthBody(1000), CollectSink(10, error))
            far.sendall(b"x" * 1000)
            with pytest.raises(type(error)):
                await job.wait()
            assert stream.closed
            far.close()
            other, far = pair()
            sink = CollectSink()
            job = movers.receive(other, LengthBody(3), sink)
            far.sendall(b"abc")
            assert await job.wait() == 3
            other.close()
            far.close()
    run(scenario())


def test_silence_times_out_and_says_what_came() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            job = movers.receive(stream, LengthBody(10), CollectSink(), idle_timeout_s=0.05)
            far.sendall(b"abc")
            with pytest.raises(TimedOut, match="3 of 10 bytes"):
                await job.wait()
            assert stream.closed
            far.close()
    run(scenario())


def test_a_piece_is_handed_over_when_its_last_byte_comes_not_later() -> None:
    """The socket wakes the mover at piece boundaries only, so none may be slept over."""
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            sink = CollectSink()
            job = movers.receive(stream, LengthBody(len(CONTENT)), sink)
            rng = random.Random(3)
            sent = 0
            for boundary in range(PIECE, len(CONTENT), PIECE):
                while sent < boundary:
                    size = min(rng.randrange(1, 70_000), boundary - sent)
                    await off_loop(far.sendall, CONTENT[sent:sent + size])
                    sent += size
                while len(sink.content) < boundary:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            far.sendall(CONTENT[sent:])
            assert await job.wait() == len(CONTENT) and sink.content == CONTENT
            stream.close()
            far.close()
    run(scenario())


def test_a_slow_sender_isn_t_taken_for_a_silent_one() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            sink = CollectSink()
            job = movers.receive(stream, LengthBody(12), sink, idle_timeout_s=0.1)
            loop = asyncio.get_running_loop()
            for number in range(12):
                loop.call_later(0.03 * number, far.send, b"x")
            assert await job.wait() == 12
            stream.close()
            far.close()
    run(scenario())


# ------------------------------------------------------------------------------- sending
def test_a_file_is_sent_behind_its_head_and_the_stream_stays() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            with file_of(CONTENT) as file:
                job = movers.send_file(stream, HEAD, file.fileno(), 100, len(CONTENT) - 200)
            # the file is closed here already: the mover has its own descriptor
            got = await off_loop(read_exactly, far, len(HEAD) + len(CONTENT) - 200)
            assert await job.wait() == len(CONTENT) - 200
            assert got == HEAD + CONTENT[100:-100]
            await stream.write(b"more")
            assert await off_loop(read_exactly, far, 4) == b"more"
            stream.close()
            far.close()
    run(scenario())


def test_an_empty_range_is_a_head_alone() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            with file_of(b"") as file:
                assert await movers.send_file(stream, HEAD, file.fileno(), 0, 0).wait() == 0
            assert await off_loop(read_exactly, far, len(HEAD)) == HEAD
            stream.close()
            far.close()
    run(scenario())


def test_a_file_that_shrank_is_an_error() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            with file_of(b"x" * 100) as file:
                job = movers.send_file(stream, HEAD, file.fileno(), 0, 200)
                with pytest.raises(FileError, match="ends at byte 100, not at 200"):
                    await job.wait()
            assert await off_loop(read_all, far) == HEAD + b"x" * 100
            far.close()
    run(scenario())


def test_a_reader_that_leaves_is_a_network_error() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            with file_of(CONTENT * 8) as file:
                job = movers.send_file(stream, HEAD, file.fileno(), 0, len(CONTENT) * 8)
                await off_loop(read_exactly, far, 1000)
                far.close()
                with pytest.raises(NetworkError):
                    await job.wait()
            assert stream.closed
    run(scenario())


def test_many_transfers_share_one_thread_fairly() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            pairs = [pair() for _ in range(12)]
            digest = hashlib.sha256(CONTENT).digest()
            with file_of(CONTENT) as file:
                jobs = [movers.send_file(stream, b"", file.fileno(), 0, len(CONTENT))
                        for stream, _ in pairs]
                got = await asyncio.gather(*(off_loop(read_exactly, far, len(CONTENT))
                                             for _, far in pairs))
            assert [hashlib.sha256(data).digest() for data in got] == [digest] * 12
            assert await asyncio.gather(*(job.wait() for job in jobs)) == [len(CONTENT)] * 12
            for stream, far in pairs:
                stream.close()
                far.close()
    run(scenario())


def test_one_that_never_blocks_doesn_t_keep_others_waiting() -> None:
    """A transfer gets 1 MiB a turn: a small one among large ones is served in the first rounds."""
    async def scenario() -> None:
        async with moving() as movers:
            large, small = pair(), pair()
            with file_of(b"x" * (64 << 20)) as file:
                reader = off_loop(read_exactly, large[1], 64 << 20)
                long_job = movers.send_file(large[0], b"", file.fileno(), 0, 64 << 20)
                short_job = movers.send_file(small[0], b"", file.fileno(), 0, 1000)
                assert await short_job.wait() == 1000
                assert not long_job.future.done()
                await reader
                await long_job.wait()
            for stream, far in (large, small):
                stream.close()
                far.close()
    run(scenario())


# ------------------------------------------------------------------------------- pieces
def test_held_pieces_are_sent_and_counted() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            task_file = FakeTaskFile(CONTENT)
            counted: List[int] = []
            job = movers.send_pieces(stream, HEAD, task_file, 10, len(CONTENT),
                                     on_sent=counted.append)
            got = await off_loop(read_exactly, far, len(HEAD) + len(CONTENT) - 10)
            assert got == HEAD + CONTENT[10:]
            assert await job.wait() == len(CONTENT) - 10 == sum(counted)
            assert not task_file.watchers
            stream.close()
            far.close()
            task_file.close()
    run(scenario())


def test_pieces_are_sent_as_they_come_in_any_order() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            task_file = FakeTaskFile(CONTENT, have=set_of([0, 2]))
            job = movers.send_pieces(stream, HEAD, task_file, 0, len(CONTENT))
            got = await off_loop(read_exactly, far, len(HEAD) + PIECE)
            assert got == HEAD + CONTENT[:PIECE]
            task_file.mark(4)
            task_file.mark(1)
            assert await off_loop(read_exactly, far, 2 * PIECE) == CONTENT[PIECE:3 * PIECE]
            task_file.mark(3)
            task_file.mark(5)
            assert await off_loop(read_exactly, far, 2 * PIECE + 1234) == CONTENT[3 * PIECE:]
            assert await job.wait() == len(CONTENT)
            assert not task_file.watchers
            stream.close()
            far.close()
            task_file.close()
    run(scenario())


def test_the_head_goes_out_while_the_first_piece_is_awaited() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            task_file = FakeTaskFile(CONTENT, have=0)
            job = movers.send_pieces(stream, HEAD, task_file, 0, PIECE)
            assert await off_loop(read_exactly, far, len(HEAD)) == HEAD
            task_file.mark(0)
            assert await off_loop(read_exactly, far, PIECE) == CONTENT[:PIECE]
            assert await job.wait() == PIECE
            stream.close()
            far.close()
            task_file.close()
    run(scenario())


def test_a_piece_marked_at_any_moment_is_never_missed() -> None:
    """Marks race with the mover's look at `have` and its parking."""
    async def scenario() -> None:
        async with moving() as movers:
            for _ in range(30):
                stream, far = pair()
                task_file = FakeTaskFile(CONTENT, have=0)
                job = movers.send_pieces(stream, b"", task_file, 0, len(CONTENT))
                reader = off_loop(read_exactly, far, len(CONTENT))
                for piece_index in range(6):
                    await off_loop(task_file.mark, piece_index)
                assert await reader == CONTENT
                assert await job.wait() == len(CONTENT)
                stream.close()
                far.close()
                task_file.close()
    run(scenario())


def test_a_task_that_fails_ends_its_parked_senders_at_once() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            for end in (lambda file: file.fail(DigestMismatch("bad source")),
                        lambda file: file.remove()):
                stream, far = pair()
                task_file = FakeTaskFile(CONTENT, have=1)
                job = movers.send_pieces(stream, HEAD, task_file, 0, len(CONTENT))
                await off_loop(task_file.subscribed.wait, 5)
                end(task_file)
                with pytest.raises(NetworkError):
                    await job.wait()
                assert stream.closed and not task_file.watchers
                assert len(await off_loop(read_all, far)) <= len(HEAD) + PIECE
                far.close()
                task_file.close()
    run(scenario())


def test_a_piece_that_never_comes_times_out() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            task_file = FakeTaskFile(CONTENT, have=0)
            job = movers.send_pieces(stream, HEAD, task_file, 0, PIECE, idle_timeout_s=0.05)
            with pytest.raises(TimedOut, match="piece 0"):
                await job.wait()
            assert stream.closed and not task_file.watchers
            far.close()
            task_file.close()
    run(scenario())


def test_a_client_that_leaves_while_a_piece_is_awaited_frees_its_place() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            task_file = FakeTaskFile(CONTENT, have=0)
            job = movers.send_pieces(stream, HEAD, task_file, 0, PIECE)
            await off_loop(read_exactly, far, len(HEAD))
            far.close()
            with pytest.raises(NetworkError, match="waited for piece 0"):
                await job.wait()
            assert stream.closed and not task_file.watchers
            task_file.close()
    run(scenario())


def test_pipelined_bytes_don_t_disturb_a_parked_sender() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            task_file = FakeTaskFile(CONTENT, have=0)
            job = movers.send_pieces(stream, HEAD, task_file, 0, PIECE)
            await off_loop(read_exactly, far, len(HEAD))
            far.sendall(b"GET /next")
            await off_loop(task_file.subscribed.wait, 5)
            task_file.mark(0)
            assert await off_loop(read_exactly, far, PIECE) == CONTENT[:PIECE]
            assert await job.wait() == PIECE
            assert await stream.read_some() == b"GET /next"
            stream.close()
            far.close()
            task_file.close()
    run(scenario())


def test_a_range_beyond_a_task_that_turned_out_shorter_is_an_error() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            task_file = FakeTaskFile(CONTENT)
            job = movers.send_pieces(stream, HEAD, task_file, 0, len(CONTENT) + 5)
            reader = off_loop(read_all, far)
            with pytest.raises(NetworkError, match=f"ends at byte {len(CONTENT)}"):
                await job.wait()
            assert await reader == HEAD + CONTENT
            far.close()
            task_file.close()
    run(scenario())


# -------------------------------------------------------------------------------- limits
def test_sending_keeps_to_its_limit_over_a_second() -> None:
    async def scenario() -> None:
        async with moving(2) as movers:
            rate_bps = 40e6
            limit = Limiter(rate_bps)
            pairs = [pair() for _ in range(4)]
            with file_of(b"x" * 10_000_000) as file:
                began_at = time.monotonic()
                jobs = [movers.send_file(stream, b"", file.fileno(), 0, 10_000_000, [limit])
                        for stream, _ in pairs]
                await asyncio.gather(*(off_loop(read_exactly, far, 10_000_000)
                                       for _, far in pairs))
                took_s = time.monotonic() - began_at
            assert sum([await job.wait() for job in jobs]) == 40_000_000
            assert 0.93 <= took_s <= 2.0, took_s  # 5 % of a second is burst; above: a busy host
            for stream, far in pairs:
                stream.close()
                far.close()
    run(scenario())


def test_the_tightest_of_several_limits_holds_and_all_are_charged() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            host, task = Limiter(100e6), Limiter(20e6)
            (fast, fast_far), (slow, slow_far) = pair(), pair()
            sinks = CollectSink(), CollectSink()
            began_at = time.monotonic()
            slow_job = movers.receive(slow, LengthBody(8_000_000), sinks[0], [host, task])
            fast_job = movers.receive(fast, LengthBody(8_000_000), sinks[1], [host])
            writers = [off_loop(far.sendall, b"x" * 8_000_000) for far in (slow_far, fast_far)]
            await fast_job.wait()
            fast_s = time.monotonic() - began_at
            await slow_job.wait()
            slow_s = time.monotonic() - began_at
            await asyncio.gather(*writers)
            assert 0.34 <= slow_s <= 1.5 and fast_s < slow_s * 0.7, (fast_s, slow_s)
            for sock in (fast, fast_far, slow, slow_far):
                sock.close()
    run(scenario())


def test_a_raised_limit_wakes_those_who_wait_under_the_old_one() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            limit = Limiter(1.0)
            stream, far = pair()
            with file_of(CONTENT) as file:
                job = movers.send_file(stream, b"", file.fileno(), 0, len(CONTENT), [limit])
                reader = off_loop(read_exactly, far, len(CONTENT))
                began_at = time.monotonic()
                await off_loop(read_exactly, far, 0)
                limit.set_rate(0)
                assert await reader == CONTENT and time.monotonic() - began_at < 5
                await job.wait()
            stream.close()
            far.close()
    run(scenario())


def test_waiting_for_a_limit_is_no_idleness() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            limit = Limiter(40_000)  # a turn is 4 KiB: 0.1 s each
            stream, far = pair()
            with file_of(CONTENT) as file:
                job = movers.send_file(stream, b"", file.fileno(), 0, 24_000, [limit],
                                       idle_timeout_s=0.03)
                assert await job.wait() == 24_000
            stream.close()
            far.close()
    run(scenario())


# ------------------------------------------------------------------------ cancel and stop
def test_cancelling_who_awaits_ends_the_transfer_before_the_cancellation_goes_on() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            sink = CollectSink()
            job = movers.receive(stream, LengthBody(1 << 30), sink)
            waiter = asyncio.ensure_future(job.wait())
            far.sendall(b"x" * 1000)
            await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            assert stream.closed and not sink.finished
            far.close()
    run(scenario())


def test_cancelling_the_future_closes_the_stream() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            job = movers.receive(stream, LengthBody(10), CollectSink())
            job.future.cancel()
            assert await off_loop(far.recv, 1) == b""
            assert stream.closed
            far.close()
    run(scenario())


@pytest.mark.parametrize("kind", ["parked", "limited", "blocked", "fresh"])
def test_a_transfer_can_be_cancelled_wherever_it_waits(kind: str) -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            task_file = FakeTaskFile(CONTENT, have=0 if kind == "parked" else None)
            limits = [Limiter(1.0)] if kind == "limited" else []
            with file_of(b"x" * (16 << 20)) as file:
                job = (movers.send_pieces(stream, HEAD, task_file, 0, len(CONTENT), limits)
                       if kind in ("parked", "limited") else
                       movers.send_file(stream, HEAD, file.fileno(), 0, 16 << 20))
                if kind != "fresh":
                    await off_loop(far.recv, 1)
                job.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await job.wait()
            assert stream.closed and not task_file.watchers
            far.close()
            task_file.close()
    run(scenario())


def test_closing_the_stream_meanwhile_is_a_network_error_for_who_awaits() -> None:
    async def scenario() -> None:
        async with moving() as movers:
            stream, far = pair()
            job = movers.receive(stream, LengthBody(10), CollectSink())
            stream.close()
            assert stream.detached  # the mover has it still: no descriptor is closed under it
            with pytest.raises(NetworkError, match="closed here"):
                await job.wait()
            assert stream.closed
            far.close()
    run(scenario())


def test_stopping_ends_every_transfer_and_every_thread() -> None:
    async def scenario() -> None:
        movers = Movers(2)
        movers.start(asyncio.get_running_loop())
        streams: List[Stream] = []
        fars: List[socket.socket] = []
        jobs = []
        task_file = FakeTaskFile(CONTENT, have=0)
        for _ in range(3):
            for _ in range(3):
                stream, far = pair()
                streams.append(stream)
                fars.append(far)
            jobs.append(movers.receive(streams[-1], LengthBody(10), CollectSink()))
            jobs.append(movers.send_pieces(streams[-2], b"", task_file, 0, PIECE))
            jobs.append(movers.send_pieces(streams[-3], b"", task_file, 0, PIECE,
                                           [Limiter(1.0)]))
        movers.stop()
        for job in jobs:
            with pytest.raises(NetworkError, match="shutting down"):
                await job.wait()
        assert all(stream.closed for stream in streams) and not task_file.watchers
        stream, far = pair()
        with pytest.raises(NetworkError):
            movers.receive(stream, LengthBody(10), CollectSink())
        stream.close()
        far.close()
        for other in fars:
            other.close()
        task_file.close()
    run(scenario())


def test_numbers_of_transfers_come_and_go_without_leaving_anything() -> None:
    async def scenario() -> None:
        rng = random.Random(4)
        async with moving(2) as movers:
            with file_of(CONTENT) as file:
                for _ in range(40):
                    stream, far = pair()
                    count = rng.randrange(1, 100_000)
                    job = movers.send_file(stream, HEAD, file.fileno(), 0, count,
                                           [Limiter(1e9)] if rng.random() < .5 else [])
                    if rng.random() < .3:
                        job.cancel()
                    waiter = asyncio.ensure_future(job.wait())
                    got = await off_loop(read_exactly, far, len(HEAD) + count)
                    await asyncio.wait({waiter})
                    if not waiter.cancelled():
                        assert got == HEAD + CONTENT[:count]
                    stream.close()
                    far.close()
    run(scenario())


def test_moving_is_not_slow() -> None:
    """A sanity bound, far under what is usual: 30 MB/s through one thread."""
    async def scenario() -> None:
        async with moving() as movers:
            sender, receiver = socket.socketpair()
            near, far = Stream(sender), Stream(receiver)
            sink = CollectSink()
            size = 32 << 20
            with file_of(os.urandom(1 << 20) * 32) as file:
                began_at = time.monotonic()
                jobs = [movers.send_file(near, b"", file.fileno(), 0, size),
                        movers.receive(far, LengthBody(size), sink)]
                assert await asyncio.gather(*(job.wait() for job in jobs)) == [size, size]
                assert time.monotonic() - began_at < size / 30e6
            near.close()
            far.close()
    run(scenario())
