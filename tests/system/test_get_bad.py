"""Bad input from sources and from the disk, through a manager and without one: never a crash, never
a path, never raw on a terminal; the exit code that wget would give, or a better one.

test_bad_input.py has the faults of HTTP, the statuses and the full disk.
"""
from __future__ import annotations

import itertools
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import pytest

from tests.support import Exchange, SourceServer
from tests.system.scene import PIECE, content_of, half_written, sha256
from tests.system.yard import WAYS, WGET, File, Yard, both, open_yard, tree_of

pytestmark = [pytest.mark.system, pytest.mark.long]
A = content_of(0.3)
OLD, NEW = content_of(16.4), content_of(17.2, seed=2)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Yard]:
    with open_yard(tmp_path_factory.mktemp("ill"), program) as it:
        yield it


# ------------------------------------------------------------------------------- targets
@both
def test_a_name_that_is_too_long(yard: Yard, way: str) -> None:
    """The URL's is shortened, the user's own is refused; as wget does."""
    url = yard.source.add(f"/{way}{'n' * 300}.tar.gz", A)
    folder = yard.folder(way)
    assert yard.run(way, folder, "-q", url).code == 0
    ((name, file),) = tree_of(folder).items()
    assert file.content == A and name.startswith(way) and name.endswith(".gz") and len(name) < 255
    end = yard.run(way, folder, "-O", "o" * 300, url)
    assert end.code == 3 and "too long" in end.err and len(tree_of(folder)) == 1


@both
def test_a_read_only_file_system(yard: Yard, way: str) -> None:
    folder = yard.folder(way)
    (folder / "disk").mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(folder / "disk")],
                          check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"can't mount a tmpfs: {made.stderr.strip()}")
    try:
        url = yard.source.add(f"/refused-{way}", A)
        for words in (["-O", "disk/out"], ["-P", "disk"], ["-P", "disk/new"]):
            end = yard.run(way, folder, *words, url)
            assert end.code == 3 and end.err.count("\n") == 1 and "disk" in end.err
        assert yard.source.requests(f"/refused-{way}") == []   # it's told before the download
    finally:
        subprocess.run(["umount", "-l", str(folder / "disk")], check=True)


# ----------------------------------------------------------------------- names of servers
NAMES = ["../../escaped", "/etc/escaped", "..", ".", "", "...", ".bashrc", "~", "-rf", "a/../../b",
         "..\\..\\escaped", "C:\\escaped", "nul\0name", "bell\x07", "\x1b[31mred\x1b[0m",
         "new\\nline", "CON", "aux.txt", "x" * 400, "\u202egnp.exe", "%2e%2e%2fescaped",
         "tab\tname", " . ", "caf\xe9"]


@both
@pytest.mark.parametrize("number", range(len(NAMES)))
def test_names_of_servers_are_names(yard: Yard, way: str, number: int) -> None:
    raw = NAMES[number].encode("utf-8").decode("latin-1")
    path = f"/named-{way}-{number}"
    head = ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"n\"\r\n"
            f"Content-Disposition: attachment; filename=\"{raw}\"\r\n\r\nhello")
    url = yard.source.add(path, raw=head.encode("latin-1"))
    folder = yard.folder(way)
    end = yard.run(way, folder, "-t", "1", "-S", "--content-disposition", url)
    found = tree_of(folder)
    assert {file.name for file in folder.parent.iterdir()} == {"here", "home"}
    assert not any((folder.parent / "home").iterdir())
    assert "\x1b" not in end.err and "\x07" not in end.err and "\u202e" not in end.err
    if end.code:    # a head that is none, by a NUL
        assert end.code == 7 and found == {}
        return
    ((name, file),) = found.items()
    assert file.content == b"hello" and len(name.encode()) < 255 and name.isprintable()
    assert not name.startswith(".") and "/" not in name


@both
def test_escapes_of_urls_are_never_printed_raw(yard: Yard, way: str) -> None:
    url = yard.source.add("/%1B%5B31mred%07%00%0A..%2F..%2Fx", A)
    folder = yard.folder(way)
    end = yard.run(way, folder, "-v", url)
    assert end.code == 0 and len(tree_of(folder)) == 1
    assert "\x1b" not in end.err and "\x07" not in end.err
    gone = yard.run(way, folder, "{u}/%1B%5B31mlost%07")
    assert gone.code == 8 and "\x1b" not in gone.err and gone.err.count("\n") == 1


@both
def test_reasons_and_headers_are_never_printed_raw(yard: Yard, way: str) -> None:
    for number, head in enumerate((
            b"HTTP/1.1 404 \x1b[31mNo\x07\r\nX: \x1b]0;title\x07\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: http://h\x1b[31m/\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"\x1b[31m\"\r\n"
            b"Content-Length: 0\r\n\r\n")):
        url = yard.source.add(f"/raw-{way}-{number}", raw=head)
        end = yard.run(way, yard.folder(way), "-S", "-v", "-t", "1", url)
        assert end.code in (6, 7, 8, 4) and "\x1b" not in end.err and "\x07" not in end.err


@pytest.mark.parametrize("way", WAYS)
def test_headers_with_control_bytes_cost_no_download(yard: Yard, way: str) -> None:
    """All but NUL and what tells where the body ends; they count as not there."""
    if way == "wget" and WGET is None:
        pytest.skip("wget isn't installed")
    odd = b"".join(b"X-%d: a%cb\r\n" % (code, code) for code in [*range(1, 9), 11, 12,
                                                              *range(14, 32), 127])
    head = (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"\x01\"\r\nSet-Cookie: a=\x1b\r\n"
            b"Content-Disposition: attachment; filename=\"\x1bname\"\r\n" + odd + b"\r\nhello")
    url = yard.source.add(f"/controls-{way}", raw=head)
    folder = yard.folder(way)
    end = yard.run(way, folder, "-t", "1", "-S", url)
    assert end.code == 0 and "\x1b" not in end.err
    assert tree_of(folder) == {f"controls-{way}": File(b"hello")}


@both
@pytest.mark.parametrize("line", [b"X: a\0b", b"X: a\rb", b"Transfer-Encoding: chunked\x01"])
def test_headers_that_may_matter_fail_it(yard: Yard, way: str, line: bytes) -> None:
    url = yard.source.add(f"/ill-{way}-{len(line)}",
                          raw=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + line + b"\r\n\r\nhello")
    folder = yard.folder(way)
    end = yard.run(way, folder, "-t", "1", url)
    assert end.code == 7 and "malformed header" in end.err and tree_of(folder) == {}


# --------------------------------------------------------------------------------- floods
@both
@pytest.mark.parametrize("head", [
    b"X-Big: " + b"x" * 70_000, b"\r\n".join(b"X-%d: %s" % (n, b"y" * 500) for n in range(200)),
    b"\r\n".join(b"X-%d: 1" % n for n in range(5_000)), b"X-Endless: " + b"z" * 5_000_000,
], ids=["one", "big", "many", "endless"])
def test_heads_over_64_kib(yard: Yard, way: str, head: bytes) -> None:
    path = f"/flood-{way}-{len(head)}"
    url = yard.source.add(path, raw=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + head
                          + b"\r\n\r\nhello")
    folder = yard.folder(way)
    end = yard.run(way, folder, "-t", "1", url)
    assert end.code == 7 and end.err.count("\n") == 1 and len(end.err) < 2_000
    assert tree_of(folder) == {}


@both
def test_a_thousand_redirects(yard: Yard, way: str) -> None:
    for number in range(1_000):
        yard.source.add(f"/hop-{way}-{number}", redirect=f"/hop-{way}-{number + 1}")
    yard.source.add(f"/hop-{way}-1000", A)
    folder = yard.folder(way)
    end = yard.run(way, folder, "-t", "1", f"{{u}}/hop-{way}-0")
    assert end.code == 8 and "more than 20 redirects" in end.err and end.err.count("\n") == 1
    asked = sum(len(yard.source.requests(f"/hop-{way}-{number}")) for number in range(1_000))
    assert asked <= 2 * 21
    end = yard.run(way, folder, "-q", "--max-redirect=1000", "-O", "out", f"{{u}}/hop-{way}-0")
    assert end.code == 0 and (folder / "out").read_bytes() == A


@both
def test_cookie_bombs(yard: Yard, way: str) -> None:
    """A source that sets more cookies at each of many redirects than it would take back itself:
    what is sent stays bounded."""
    counts = itertools.count()

    def bomb(exchange: Exchange) -> Tuple[int, List[Tuple[str, str]]]:
        return 0, [("Set-Cookie", f"c{next(counts)}={'v' * 1_000}; Path=/") for _ in range(50)]

    for number in range(15):
        yard.source.add(f"/bomb-{way}-{number}", redirect=f"/bomb-{way}-{number + 1}", guard=bomb)
    yard.source.add(f"/bomb-{way}-15", A)
    folder = yard.folder(way)
    end = yard.run(way, folder, "-q", "--save-cookies=jar", "--keep-session-cookies",
                   "-O", "out", f"{{u}}/bomb-{way}-0")
    assert end.code == 0 and (folder / "out").read_bytes() == A
    told = max(len(exchange.header("cookie")) for exchange in yard.source.log)
    assert told < 64 * 1024 and (folder / "jar").stat().st_size < 1 << 20


# ------------------------------------------------------------------------------- tricklers
@pytest.fixture
def trickler() -> Iterator[str]:
    """A source that gives a byte a second."""
    stop = threading.Event()
    threads: List[threading.Thread] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(sock: socket.socket) -> None:
        with sock:
            try:
                sock.recv(65536)
                sock.sendall(b'HTTP/1.1 200 OK\r\nETag: "t"\r\nContent-Length: 100000\r\n\r\n')
                while not stop.wait(1.0):
                    sock.sendall(b"x")
            except OSError:   # the client left
                pass

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(sock,)))
            threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    stop.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join(5)


@both
def test_a_trickle_is_too_slow_for_a_shorter_read_timeout(yard: Yard, trickler: str,
                                                          way: str) -> None:
    began = time.monotonic()
    end = yard.run(way, yard.folder(way), "--read-timeout=0.5", "-t", "1", f"{trickler}/{way}-1")
    assert end.code == 4 and end.err.count("\n") <= 2 and time.monotonic() - began < 5


@both
def test_a_trickle_ends_at_the_deadline(yard: Yard, trickler: str, way: str) -> None:
    began = time.monotonic()
    folder = yard.folder(way)
    end = yard.run(way, folder, "--read-timeout=5", "--deadline=2", f"{trickler}/{way}-2")
    assert end.code == 4 and 1.9 < time.monotonic() - began < 3.5
    assert tree_of(folder) == {} and half_written(folder) == []


# ---------------------------------------------------------------------- a changed source
@both
@pytest.mark.parametrize("validator", ["etag", "date", "length"])
def test_a_source_that_changes_midway(yard: Yard, way: str, validator: str) -> None:
    """The new content, whole; no byte of the old."""
    told = {"etag": ({"etag": '"old"'}, {"etag": '"new"'}),
            "date": ({"etag": ""}, {"etag": "", "last_modified": "Wed, 07 Jan 2026 10:00:00 GMT"}),
            "length": ({"etag": "", "last_modified": ""}, {"etag": "", "last_modified": ""})}
    before, after = told[validator]
    with SourceServer() as source:
        url = source.add("/file", NEW, **after)
        new = source._pages["/file"]
        source.add("/file", OLD, becomes=new, becomes_after=len(OLD) // 8 // 2,
                   cut_after=len(OLD) // 8, **before)
        folder = yard.folder(way)
        end = yard.run(way, folder, "-q", "--waitretry=1", url)
        assert end.code == 0, end.err
        assert (folder / "file").read_bytes() == NEW


@both
def test_a_source_that_changes_midway_and_tells_nothing_of_it(yard: Yard, way: str) -> None:
    """Not even another length; one content or the other, never both."""
    bare = {"etag": "", "last_modified": "", "cut_after": len(OLD) // 4}
    with SourceServer() as source:
        url = source.add("/file", NEW[:len(OLD)], **bare)
        new = source._pages["/file"]
        source.add("/file", OLD, becomes=new, becomes_after=len(OLD) // 16, **bare)
        folder = yard.folder(way)
        end = yard.run(way, folder, "-q", "--waitretry=1", url)
        assert end.code == 0, end.err
        assert (folder / "file").read_bytes() == NEW[:len(OLD)]


@both
@pytest.mark.parametrize("told", [{}, {"etag": "", "last_modified": ""}], ids=["tagged", "bare"])
def test_a_source_that_always_breaks_off_is_a_network_error(yard: Yard, way: str,
                                                            told: Dict[str, str]) -> None:
    with SourceServer() as source:
        url = source.add("/file", OLD, ranges=False, cut_after=3_000_000, **told)
        folder = yard.folder(way)
        end = yard.run(way, folder, "-nv", "-t", "2", "--waitretry=1", url)
        assert end.code == 4 and "connection ended after" in end.err.splitlines()[-1], end.err
        assert tree_of(folder) == {} and half_written(folder) == []


@both
def test_a_changed_source_is_not_what_the_digest_says(yard: Yard, way: str) -> None:
    old = content_of(16.4, seed=30 + len(way))   # no other test's
    with SourceServer() as source:
        source.add("/file", NEW, etag='"new"')
        new = source._pages["/file"]
        url = source.add("/file", old, etag='"old"', becomes=new, becomes_after=3 * PIECE,
                         cut_after=4 * PIECE)
        folder = yard.folder(way)
        end = yard.run(way, folder, "-t", "2", "--waitretry=1", f"--digest=sha256:{sha256(old)}",
                       url)
        assert end.code == 9 and tree_of(folder) == {} and half_written(folder) == []


# ------------------------------------------------------------------------------- the host
@both
@pytest.mark.parametrize("what", ["a folder", "too long", "a strange word", "a fifo"])
def test_a_netrc_of_no_use_costs_no_download(yard: Yard, way: str, what: str) -> None:
    url = yard.source.add(f"/free-{way}", A)
    folder = yard.folder(way)
    netrc = folder.parent / "home" / ".netrc"
    if what == "a folder":
        netrc.mkdir()
    elif what == "a fifo":
        os.mkfifo(netrc)
    else:
        netrc.write_text("# " + "x" * (1 << 20) if what == "too long" else "hunter2 is secret\n")
    end = yard.run(way, folder, "--progress=none", url)
    assert end.code == 0 and [file.content for file in tree_of(folder).values()] == [A]
    assert end.err.count("warning: ") == end.err.count(".netrc") == (what != "a fifo")
    assert "hunter2" not in end.err and "secret" not in end.err


@both
def test_a_stream_whose_digest_is_wrong_ends_so_each_time(yard: Yard, way: str) -> None:
    """Whether its content or its events end first."""
    for number in range(8):
        url = yard.source.add(f"/streamed-{way}-{number}", content_of(0.1, seed=number))
        end = yard.run(way, yard.folder(way), "-q", "-m", "0" * 32, "-O", "-", url)
        assert end.code == 9 and f"streamed-{way}-{number}: the content has md5:" in end.err


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes another user's place")
@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_a_user_without_a_home_downloads(yard: Yard, program: Path, tmp_path: Path,
                                         home: Optional[str]) -> None:
    """A daemon of its own comes up, with a store under /var/tmp that nobody else can look into."""
    nobody = 65534
    store = Path(f"/var/tmp/dfly-{nobody}")
    if store.exists() or Path(f"/tmp/dfly-{nobody}").exists():
        pytest.skip("there is such a user's store here already")
    url = yard.source.add("/homeless", A)
    place = Path(tempfile.mkdtemp(prefix="dfly-homeless-"))   # with a way to it for all
    place.chmod(0o777)
    shutil.copy2(program, place / "dfly")
    words = [str(place / "dfly"), "get", "-q", url]
    env = {"PATH": os.environ["PATH"], **({"HOME": home} if home else {})}
    try:
        done = subprocess.run(words, cwd=place, env=env, user=nobody, group=nobody,
                              extra_groups=[], capture_output=True, text=True, check=False,
                              timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert (place / "homeless").read_bytes() == A
        made = store.stat()
        assert (stat.S_IMODE(made.st_mode), made.st_uid) == (0o700, nobody)
    finally:
        stop_daemon(f"/tmp/dfly-{nobody}/peer.sock")
        for folder in (place, store, Path(f"/tmp/dfly-{nobody}")):
            shutil.rmtree(folder, ignore_errors=True)


def stop_daemon(path: str) -> None:
    """And wait until it is gone."""
    if not os.path.exists(path):
        return
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(b"POST /v1/stop HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        while sock.recv(4096):
            pass
    until = time.monotonic() + 10
    while os.path.exists(path) and time.monotonic() < until:
        time.sleep(0.02)
