"""Show a whole cluster on this machine: a source, a config server, a manager and N hosts.

All are processes of their own, on loopback, in a temporary folder. Every host downloads the same
file at the same time, every copy is verified, and the source's own count says how many times the
file left it. All processes are ended and the folder is removed, whatever happens.
"""
from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Sequence

from dfly.cli.autostart import program
from dfly.cli.local import ask_json
from dfly.cli.parser import Arguments, CommandParser
from dfly.cli.progress import ORIGINS
from dfly.cli.ready import add_ready_flag, run_role, wait_ready
from dfly.cli.table import print_json, table
from dfly.clock import Clock
from dfly.config import parse_at_least_one, split_address
from dfly.errors import DflyError, FileError, NoSpace, UsageError
from dfly.units import MIB, format_duration, format_rate, format_size, parse_size

HOSTS_MAX = 200
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 10.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
FILE_NAME = "demo.bin"


@dataclass(frozen=True)
class Row:
    """What one host's `dfly get` came to."""

    host: str
    seconds: float
    shares: Dict[str, int]
    intact: bool
    error: str = ""


@dataclass
class Cluster:
    """The demo's processes and folder."""

    folder: str
    processes: List["subprocess.Popen[bytes]"] = field(default_factory=list)
    busy: bool = False
    signal_number: int = 0    # of a signal that came; 0 = none

    def path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def start(self, name: str, arguments: Sequence[str]) -> int:
        """Start one role; the descriptor on which it will tell that it serves."""
        read_fd, write_fd = os.pipe()
        try:
            self.spawn(name, [*arguments, "--ready-fd", str(write_fd)], (write_fd,))
        finally:
            os.close(write_fd)
        return read_fd

    def spawn(self, name: str, arguments: Sequence[str],
              pass_fds: Sequence[int] = ()) -> "subprocess.Popen[bytes]":
        """Run dfly with `arguments`; its output goes to NAME.out and NAME.log in the folder."""
        command, variables = program()
        environ = {key: value for key, value in os.environ.items() if not key.startswith("DFLY_")}
        with open(self.path(name + ".out"), "wb") as out, \
                open(self.path(name + ".log"), "wb") as log, self._undisturbed():
            process = subprocess.Popen([*command, *arguments], stdin=subprocess.DEVNULL,
                                       stdout=out, stderr=log, env={**environ, **variables},
                                       pass_fds=tuple(pass_fds), start_new_session=True)
            self.processes.append(process)
        return process

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """A signal waits until the end of this block: between the birth of a process and its
        note in the list, an exception would leave it alive for ever."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False
        if self.signal_number:
            self.on_signal(self.signal_number, None)

    def on_signal(self, number: int, frame: object) -> None:
        """Handler of SIGINT and SIGTERM: out through the `finally` that ends everything."""
        self.signal_number = number
        if self.busy:
            return
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def end(self) -> None:
        """End every process that still runs, the last started first."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--hosts", default="8", metavar="N", help="hosts to play (default 8)")
    parser.add_argument("--size", default="64M", metavar="SIZE", help="size of the file that all "
                        "of them download (default 64M)")
    parser.add_argument("--keep", action="store_true", help="leave the folder with all stores, "
                        "copies and logs")
    parser.add_argument("--json", action="store_true", help="print one JSON object in the "
                        "table's stead")
    parser.add_argument("--source-only", metavar="DIR", help="be the demo's source and nothing "
                        "else: serve the files in DIR on a free port")
    add_ready_flag(parser)


def run(args: Arguments) -> int:
    if args.source_only is not None:
        if not os.path.isdir(args.source_only):
            raise FileError(f"{args.source_only} is no folder", "name one by --source-only")
        from dfly.cli.demo_source import serve_folder
        return run_role("source", args.ready_fd,
                        lambda ready: serve_folder(args.source_only, ready))
    try:
        hosts = parse_at_least_one(args.hosts)
    except UsageError as error:
        raise UsageError(f"--hosts: {error.what}") from None
    size = parse_size(args.size)
    if hosts > HOSTS_MAX:
        raise UsageError(f"--hosts {hosts}: the demo plays at most {HOSTS_MAX}",
                         "dfly simulate does thousands")
    if size < 1:
        raise UsageError("--size 0: an empty file shows nothing")
    with _cluster(args.keep, (hosts + 2) * size) as cluster:
        return _play(cluster, args, hosts, size)


@contextmanager
def _cluster(keep: bool, needed: int) -> Iterator[Cluster]:
    base = tempfile.gettempdir()
    free = shutil.disk_usage(base).free
    if free < needed:
        raise NoSpace(f"the demo needs {format_size(needed)} in {base}, which has "
                      f"{format_size(free)}", "use a smaller --size, or set TMPDIR")
    cluster = Cluster(tempfile.mkdtemp(prefix="dfly-demo-"))
    before = {number: signal.signal(number, cluster.on_signal) for number in SIGNALS}
    try:
        yield cluster
    finally:
        cluster.busy = True  # the way out is short, and goes to its end
        cluster.end()
        if keep:
            sys.stderr.write(f"dfly: everything is in {cluster.folder}\n")
        else:
            shutil.rmtree(cluster.folder, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)


def _play(cluster: Cluster, args: Arguments, hosts: int, size: int) -> int:
    _say(args, f"starting a source, a config server, a manager and {hosts} hosts")
    digest = _make_source(cluster, size)
    source = _up(cluster.start("source", ["demo", "--source-only", cluster.path("source")]),
                 "the source")
    _start_roles(cluster, hosts)
    _say(args, f"{hosts} hosts download {format_size(size)} at once")
    clock = Clock()
    started_at = clock.now()
    names = [_host(number) for number in range(1, hosts + 1)]
    gets = [cluster.spawn(f"{name}-get", [
        "get", f"http://{source}/{FILE_NAME}", "-O", cluster.path(name, "copy"), "--json",
        "--socket", cluster.path(name, "s"), "--no-start",
        "--settings", cluster.path("empty.conf")])
        for name in names]
    for process in gets:
        process.wait()
    duration_s = clock.now() - started_at
    rows = [_row(cluster, name, digest) for name in names]
    count = ask_json(split_address(source, 0), "GET", "/count")
    return _report(args, rows, duration_s, size, count["bytes"])


def _make_source(cluster: Cluster, size: int) -> str:
    """Write the file that nobody can have cached: random bytes. Its sha256."""
    os.mkdir(cluster.path("source"))
    seal = hashlib.sha256()
    with open(cluster.path("source", FILE_NAME), "wb") as file:
        for start in range(0, size, MIB):
            data = os.urandom(min(MIB, size - start))
            seal.update(data)
            file.write(data)
    with open(cluster.path("empty.conf"), "wb"):
        pass  # the user's own settings files have no say in the demo
    return seal.hexdigest()


def _start_roles(cluster: Cluster, hosts: int) -> None:
    shared = ["--listen", "127.0.0.1", "--port", "0", "--settings", cluster.path("empty.conf")]
    config = _up(cluster.start("config", ["config", *shared]), "the config server")
    _up(cluster.start("manager", ["serve", *shared, "--config", config, "--name", "manager",
                                  "--store", cluster.path("manager")]), "the manager")
    waiting = {}
    for number in range(1, hosts + 1):
        name = _host(number)
        os.mkdir(cluster.path(name))
        waiting[name] = cluster.start(name, [
            "peer", *shared, "--config", config, "--name", name, "--address", "127.0.0.1",
            "--store", cluster.path(name, "store"), "--socket", cluster.path(name, "s")])
    for name, fd in waiting.items():
        _up(fd, name)


def _host(number: int) -> str:
    return f"host{number}"


def _up(fd: int, name: str) -> str:
    """host:port of a role, once it serves."""
    return wait_ready(fd, name, START_TIMEOUT_S).split()[-1]


def _row(cluster: Cluster, name: str, digest: str) -> Row:
    last: Dict[str, Any] = {}
    import json
    with open(cluster.path(f"{name}-get.out"), encoding="utf-8") as file:
        for line in file:
            last = json.loads(line)
    if last.get("event") != "done":
        with open(cluster.path(f"{name}-get.log"), encoding="utf-8", errors="replace") as file:
            said = file.read(2000).strip()
        return Row(name, 0.0, {}, False, str(last.get("what") or said or "dfly get died"))
    shares = {origin: int(last.get(f"from_{origin}", 0)) for origin in ORIGINS}
    intact = _sha256(cluster.path(name, "copy")) == digest
    return Row(name, float(last.get("seconds", 0.0)), shares, intact)


def _sha256(path: str) -> str:
    seal = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for data in iter(lambda: file.read(MIB), b""):
                seal.update(data)
    except FileNotFoundError:
        return ""
    return seal.hexdigest()


def _report(args: Arguments, rows: List[Row], duration_s: float, size: int,
            source_bytes: int) -> int:
    copies = source_bytes / size
    intact = sum(row.intact for row in rows)
    ok = intact == len(rows) and abs(copies - 1) < 0.005
    if args.json:
        print_json({"hosts": len(rows), "seconds": round(duration_s, 3),
                    "source_copies": round(copies, 4), "ok": ok, "size": size,
                    "rows": [_row_json(row) for row in rows]})
        return 0 if ok else DflyError.exit_code
    columns = [[row.host, f"{row.seconds:.2f}",
                *(format_size(row.shares.get(origin, 0)) for origin in ORIGINS[:3]),
                "identical" if row.intact else row.error or "WRONG"] for row in rows]
    print(table(["HOST", "SECONDS", "FROM PEERS", "FROM MANAGER", "FROM SOURCE", "COPY"], columns,
                right=(1, 2, 3, 4)))
    rate = format_rate(len(rows) * size / duration_s)
    print(f"\n{intact} of {len(rows)} copies identical after {format_duration(duration_s)} "
          f"({rate} delivered)\n"
          f"the source sent {format_size(source_bytes)}: {copies:.2f} x the file")
    return 0 if ok else DflyError.exit_code


def _row_json(row: Row) -> Dict[str, Any]:
    return {"host": row.host, "seconds": round(row.seconds, 3), "intact": row.intact,
            "error": row.error, **{f"from_{origin}": size for origin, size in row.shares.items()}}


def _say(args: Arguments, text: str) -> None:
    if not args.json:
        sys.stderr.write(f"dfly: {text}\n")
