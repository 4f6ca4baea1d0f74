"""What `dfly get` has beside wget's ways: mirrors, Metalinks, checksum files, ranges, many at once,
its story and its events; and how it ends when it is told to.
"""
from __future__ import annotations

import hashlib
import json
import os
import pty
import signal
import time
from pathlib import Path
from typing import Iterator, List, Optional

import pytest

from tests.support import SourceServer
from tests.system.scene import PIECE, content_of, half_written, sha256
from tests.system.yard import OURS, Yard, both, each, open_yard, tree_of

pytestmark = [pytest.mark.system, pytest.mark.long]
BIG = content_of(12.4)
LIE = content_of(12.4, seed=9)
GONE_S = 0.2   # so soon Ctrl-C ends the command


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Yard]:
    with open_yard(tmp_path_factory.mktemp("ways"), program) as it:
        yield it


@pytest.fixture
def second() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server


# --------------------------------------------------------------------------------- mirrors
@both
@pytest.mark.parametrize("dies", ["first", "second"])
def test_a_mirror_that_dies_midway(yard: Yard, second: SourceServer, way: str, dies: str) -> None:
    path = f"/mirrored-{way}-{dies}"
    urls = [yard.source.add(path, BIG), second.add(path, BIG)]
    ill = yard.source if dies == "first" else second
    ill.change(path, cut_after=PIECE)
    folder = yard.folder(way)
    end = yard.run(way, folder, "--mirror", "-q", *urls)
    assert end.code == 0 and tree_of(folder)[path[1:]].content == BIG


@both
def test_a_mirror_that_is_not_there(yard: Yard, way: str) -> None:
    url = yard.source.add(f"/half-mirrored-{way}", BIG)
    folder = yard.folder(way)
    end = yard.run(way, folder, "--mirror", "-q", "-O", "out", "http://127.0.0.1:1/x", url)
    assert end.code == 0 and (folder / "out").read_bytes() == BIG


@both
def test_mirrors_of_different_contents_are_never_mixed(yard: Yard, second: SourceServer,
                                                       way: str) -> None:
    path = f"/unequal-{way}"
    urls = [yard.source.add(path, BIG, cut_after=3 * PIECE), second.add(path, LIE, etag='"two"')]
    folder = yard.folder(way)
    end = yard.run(way, folder, "--mirror", "-q", "-t", "3", "-O", "out", *urls)
    if end.code == 0:
        assert (folder / "out").read_bytes() in (BIG, LIE)
    else:
        assert tree_of(folder) == {}


@both
def test_no_mirror_has_what_the_digest_says(yard: Yard, second: SourceServer, way: str) -> None:
    path = f"/all-lie-{way}"
    urls = [yard.source.add(path, LIE), second.add(path, LIE)]
    folder = yard.folder(way)
    end = yard.run(way, folder, "--mirror", "-q", "-t", "2", f"--digest=sha256:{sha256(BIG)}",
                   *urls)
    assert end.code == 9 and tree_of(folder) == {}


def metalink(folder: Path, urls: List[str], name: str = "told.bin",
             content: bytes = BIG) -> Path:
    hashes = "".join(f"<hash>{hashlib.sha256(content[at:at + PIECE]).hexdigest()}</hash>"
                     for at in range(0, len(content), PIECE))
    places = "".join(f'<url priority="{number}">{url}</url>' for number, url in enumerate(urls, 1))
    path = folder / "list.meta4"
    path.write_text(f'<?xml version="1.0"?><metalink xmlns="urn:ietf:params:xml:ns:metalink">'
                    f'<file name="{name}"><size>{len(content)}</size>'
                    f'<hash type="sha-256">{sha256(content)}</hash>'
                    f'<pieces length="{PIECE}" type="sha-256">{hashes}</pieces>{places}</file>'
                    f'</metalink>')
    return path


@both
def test_a_metalink_with_a_lying_mirror(yard: Yard, second: SourceServer, way: str) -> None:
    """A lie costs its pieces, and those come from the other."""
    content = content_of(12.4, seed=20 + len(way))   # no other test's: its digest names it
    wrong = bytearray(content)
    wrong[5 * PIECE + 7] ^= 1
    path = f"/metalinked-{way}"
    folder = yard.folder(way)
    urls = [yard.source.add(path, bytes(wrong)), second.add(path, content)]
    told = metalink(folder.parent, urls, content=content)
    end = yard.run(way, folder, "-q", "--metalink", str(told))
    assert end.code == 0 and tree_of(folder)["told.bin"].content == content


@both
def test_a_metalink_names_no_path(yard: Yard, way: str) -> None:
    url = yard.source.add(f"/named-{way}", BIG)
    folder = yard.folder(way)
    list_ = metalink(folder.parent, [url], name="../../outside.bin")
    end = yard.run(way, folder, "-q", "--metalink", str(list_))
    assert (end.code, list(tree_of(folder))) in ((0, ["outside.bin"]), (2, []))
    assert not (folder.parent.parent / "outside.bin").exists()
    assert not (folder.parent / "outside.bin").exists()


# ---------------------------------------------------------------------------- checksums
@both
@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("kind", ["sha256", "sha512", "md5"])
def test_a_checksum_file(yard: Yard, way: str, kind: str, good: bool) -> None:
    path = f"/sum-{way}-{kind}-{good}"
    content = content_of(1.2, seed=len(path) * (1 + OURS.index(way)))
    url = yard.source.add(path, content)
    folder = yard.folder(way)
    sums = folder.parent / f"{kind.upper()}SUMS"
    right = hashlib.new(kind, content).hexdigest()
    sums.write_text(f"{'0' * len(right)}  another\n{right if good else right[::-1]} *{path[1:]}\n")
    end = yard.run(way, folder, "-t", "2", "--checksum-file", str(sums), url)
    assert end.code == (0 if good else 9)
    assert [file.content for file in tree_of(folder).values()] == ([content] if good else [])


@both
def test_a_checksum_file_without_the_file(yard: Yard, way: str) -> None:
    url = yard.source.add(f"/unlisted-{way}", BIG)
    folder = yard.folder(way)
    (folder.parent / "SUMS").write_text(f"{sha256(BIG)}  another\n")
    end = yard.run(way, folder, "--checksum-file", str(folder.parent / "SUMS"), url)
    assert end.code == 2 and end.err.count("\n") == 1 and tree_of(folder) == {}


# ------------------------------------------------------------------------------- ranges
@pytest.mark.parametrize("span", ["0-0", "5-300000", "262144-524287", "3000000-", "-1000", "-1",
                                  "0-99999999", "-99999999"])
def test_ranges_are_curls(yard: Yard, span: str) -> None:
    url = yard.source.add("/ranged", BIG)
    curl = yard.run("curl", yard.folder("curl"), "-sS", "-r", span, url)
    ends = each(lambda way: yard.run(way, yard.folder(way), "-qO-", "--range", span, url), OURS)
    for way in OURS:
        assert (ends[way].code, ends[way].out) == (0, curl.out), len(ends[way].out)


@both
def test_a_range_of_nothing(yard: Yard, way: str) -> None:
    url = yard.source.add(f"/too-short-{way}", b"short")
    folder = yard.folder(way)
    end = yard.run(way, folder, "--range", "100-200", url)
    assert end.code == 8 and "has 5 bytes" in end.err
    assert tree_of(folder) == {}


# ------------------------------------------------------------------------------ at once
@both
def test_many_at_once(yard: Yard, way: str) -> None:
    with SourceServer() as server:
        urls = [server.add(f"/many-{number}", content_of(4, seed=number), stall_after=PIECE)
                for number in range(4)]
        folder = yard.folder(way)
        process = yard.start(way, folder, "-q", "-j", "4", *urls)
        server.wait_until(lambda: len({exchange.path for exchange in server.log}) == 4)
        server.go_on()
        assert process.wait(30) == 0
        assert {file.content for file in tree_of(folder).values()} == {
            content_of(4, seed=number) for number in range(4)}


@both
def test_one_lost_of_many_at_once(yard: Yard, way: str) -> None:
    urls = [yard.source.add(f"/each-{way}-{number}", content_of(2, seed=number))
            for number in range(4)]
    folder = yard.folder(way)
    end = yard.run(way, folder, "-q", "-j4", urls[0], "{u}/nothing", *urls[1:],
                   "http://127.0.0.1:1/x", "-t1")
    assert end.code == 4 and len(tree_of(folder)) == 4 and end.err.count("\n") == 2


# ---------------------------------------------------------------------------- its end
@both
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_end_and_the_way_on(yard: Yard, way: str, number: int, code: int) -> None:
    """Gone at once, with nothing left behind, and what came isn't asked for again."""
    content = content_of(40, seed=code)
    folder = yard.folder(way)
    with SourceServer(rate_bps=8e6) as slow:
        url = slow.add("/file", content)
        process = yard.start(way, folder, url, env={"COLUMNS": "80"})
        slow.wait_until(lambda: slow.body_bytes > 12 * PIECE)
        time.sleep(0.2)   # not at a turning point, but while it runs
        began = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
        took_s = time.monotonic() - began
        assert process.returncode == code, err
        assert b"interrupted" in err and b"goes on from" in err and err.count(b"\n") == 1, err
        assert took_s < GONE_S * (2 if os.getloadavg()[0] > 2 else 1), took_s
        assert tree_of(folder) == {} and half_written(folder) == []
        assert yard.run(way, folder, "-q", url).code == 0
        assert (folder / "file").read_bytes() == content
        # (What was on its way as the connection was cut can't be taken back.)
        assert slow.body_bytes <= len(content) + 12 * PIECE
        asked = [_first(exchange.header("range")) for exchange in slow.log]
        assert asked.count(0) == 1 or way == "alone" and asked.count(0) <= 2, asked


def _first(asked: str) -> int:
    return int(asked.partition("=")[2].partition("-")[0] or 0)


@both
def test_a_pipe_that_closes(yard: Yard, way: str) -> None:
    """`dfly get -O - | head -c 10`: as wget and curl, it ends, silently or with an error, soon."""
    url = yard.source.add(f"/headed-{way}", BIG)
    process = yard.start(way, yard.folder(way), "-qO-", url)
    assert process.stdout is not None and process.stdout.read(10) == BIG[:10]
    process.stdout.close()
    assert process.wait(10) in (3, 141, -signal.SIGPIPE)
    assert process.stderr is not None and b"Traceback" not in process.stderr.read()


# ----------------------------------------------------------------------- what is told
@both
def test_its_story(yard: Yard, way: str) -> None:
    with SourceServer(rate_bps=4e6) as slow:
        url = slow.add("/told", content_of(10, seed=77))
        end = yard.run(way, yard.folder(way), "--explain", url)
        assert end.code == 0
        assert "Where the time went" in end.err and "bytes came" in end.err
        assert ("source" in end.err) if way == "alone" else ("manager" in end.err)
        again = yard.run(way, yard.folder(way), "--explain", "--json", url)
        story = json.loads(again.out.splitlines()[-1])["story"]
        assert story["total_s"] >= 0 and story["retries"] == [], story


@both
def test_a_story_of_retries(yard: Yard, way: str) -> None:
    path = f"/retried-{way}"
    url = yard.source.add(path, BIG)
    yard.source.next(path, cut_after=3 * PIECE)
    yard.source.next(path, cut_after=2 * PIECE)
    end = yard.run(way, yard.folder(way), "--explain", "--waitretry=1", url)
    assert end.code == 0
    if way == "alone":
        assert "retr" in end.err.lower() or "again" in end.err.lower(), end.err


@both
def test_events(yard: Yard, way: str) -> None:
    urls = [yard.source.add(f"/event-{way}-{number}", content_of(3, seed=50 + number))
            for number in range(3)]
    end = yard.run(way, yard.folder(way), "--json", *urls, "{u}/nothing")
    events = [json.loads(line) for line in end.out.splitlines()]
    assert end.code == 8
    for url in urls:
        mine = [event for event in events if event["url"] == url]
        assert mine[0]["event"] == "accepted" and mine[-1]["event"] == "done"
        assert mine[0]["via"] == ("manager" if way == "managed" else "source")
        done = mine[-1]
        assert done["length"] == done["bytes"] == 3 * PIECE == sum(
            done[f"from_{origin}"] for origin in ("peers", "manager", "source", "cache"))
    (failed,) = [event for event in events if event["event"] == "failed"]
    assert failed["exit_code"] == 8 and "404" in failed["what"] and failed["hint"]


@pytest.mark.parametrize("no_color", [None, "1"])
def test_colours_on_a_terminal(yard: Yard, no_color: Optional[str]) -> None:
    with SourceServer(rate_bps=4e6) as slow:
        url = slow.add("/drawn", content_of(8, seed=88))
        master, terminal = pty.openpty()
        env = {"TERM": "xterm-256color", "COLUMNS": "100"}
        if no_color is not None:
            env["NO_COLOR"] = no_color
        process = yard.start("alone", yard.folder("alone"), url, env=env, stderr=terminal,
                             stdout=terminal, stdin=terminal)
        os.close(terminal)
        drawn = b""
        try:
            while True:
                part = os.read(master, 65536)
                if not part:
                    break
                drawn += part
        except OSError:
            pass   # EIO: nobody holds the other end any more
        os.close(master)
        assert process.wait(20) == 0
        assert b"%" in drawn
        coloured = any(b"\x1b[%d" % number in drawn for number in (*range(30, 38), *range(90, 98)))
        assert coloured is (no_color is None), drawn


def test_nothing_is_coloured_in_a_pipe(yard: Yard) -> None:
    url = yard.source.add("/plain-text", BIG)
    end = yard.run("alone", yard.folder("alone"), "--explain", url)
    assert "\x1b" not in end.err and end.err.isprintable() is False   # lines, nothing else
    assert all(line.isprintable() for line in end.err.splitlines())
