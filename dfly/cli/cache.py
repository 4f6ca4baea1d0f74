"""Tend what this host keeps: list tasks, verify them by their digests, export, remove them.

Through the daemon if one runs, which alone may touch its store; else directly on the store, under
its lock.
"""
from __future__ import annotations

import os
import shutil
import sys
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Dict, Iterator, List, Protocol

from dfly.cli.local import BRIEF, NobodyThere, ask_json
from dfly.cli.parser import Arguments, CommandParser
from dfly.cli.table import print_json, table
from dfly.cli.target import target_for
from dfly.config import PeerSettings, load
from dfly.digest import Digest
from dfly.errors import DflyError, FileError, UsageError, printable
from dfly.names import is_shared_url, shared_digest
from dfly.task import TaskSpec, members
from dfly.units import format_size

PREFIX_MIN = 6           # hex digits of a task's id that name it
VERIFY_TIMEOUT_S = 3600.0  # a daemon hashes at some 500 MB/s, and a task may have a terabyte
COPY_SIZE = 1 << 20      # bytes at a time to standard output
Record = Dict[str, Any]


class Cache(Protocol):
    """The cache, wherever it is tended."""

    def records(self) -> List[Record]: ...

    def remove(self, task_id: str) -> None: ...

    def verify(self, task_id: str) -> List[int]: ...


class DaemonCache:
    def __init__(self, socket_path: str) -> None:
        self._socket = socket_path

    def records(self) -> List[Record]:
        answer = ask_json(self._socket, "GET", "/v1/cache")
        tasks = answer.get("tasks") if isinstance(answer, dict) else None
        return [task for task in tasks if isinstance(task, dict)] if isinstance(tasks, list) else []

    def remove(self, task_id: str) -> None:
        ask_json(self._socket, "DELETE", f"/v1/cache/{task_id}")

    def verify(self, task_id: str) -> List[int]:
        answer = ask_json(self._socket, "POST", f"/v1/cache/{task_id}/verify",
                          timeout_s=VERIFY_TIMEOUT_S)
        bad = answer.get("bad") if isinstance(answer, dict) else None
        return bad if isinstance(bad, list) else []


class StoreCache:
    """`store` None: there is none, and looking doesn't make one."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def records(self) -> List[Record]:
        if self._store is None:
            return []
        return [asdict(record) for record in self._store.records()]

    def remove(self, task_id: str) -> None:
        self._store.remove(task_id)

    def verify(self, task_id: str) -> List[int]:
        return list(members(self._store.verify(task_id)))


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("action", choices=("ls", "verify", "export", "rm"), help="ls lists, "
                        "verify hashes every piece again, export writes a task's content to a "
                        "file, rm removes")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="a task's id, its first digits, "
                        "its URL, or sha256:HEX where its digest names it; for export, then the "
                        "FILE to write: - is standard output")
    parser.add_argument("--all", action="store_true", help="all tasks: for verify and rm")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--socket", metavar="PATH", help="unix socket of the peer daemon")
    parser.add_argument("--store", metavar="DIR", help="the store to open if no daemon runs")


def run(args: Arguments) -> int:
    if args.action == "export" and (len(args.tasks) != 2 or args.all or args.json):
        raise UsageError("cache export takes a TASK and a FILE", "and no --all, and no --json")
    if args.action != "ls" and not args.tasks and not args.all:
        raise UsageError(f"cache {args.action} needs a TASK, or --all")
    settings = load(PeerSettings, Arguments(socket=args.socket, store=args.store))
    with _opened(settings) as cache:
        records = cache.records()
        if args.action == "export":
            return _export(_find(records, args.tasks[0]), args.tasks[1])
        chosen = records if args.all or not args.tasks else [
            _find(records, text) for text in args.tasks]
        if args.action == "ls":
            return _list(chosen, args.json)
        if args.action == "rm":
            return _remove(cache, chosen, args.json)
        return _verify(cache, chosen, args.json)


@contextmanager
def _opened(settings: PeerSettings) -> Iterator[Cache]:
    try:
        ask_json(settings.socket, "GET", BRIEF)
    except NobodyThere:
        pass  # no daemon, so the store is free; if one starts meanwhile, its lock decides
    else:
        yield DaemonCache(settings.socket)
        return
    if not os.path.isdir(settings.store):
        yield StoreCache(None)
        return
    from dfly.store.disk import DiskStore
    store = DiskStore(settings.store, quota=settings.quota)
    try:
        yield StoreCache(store)
    finally:
        store.close()


def _find(records: List[Record], text: str) -> Record:
    by_digest = _named_by_digest(text)
    found = [record for record in records if text == record.get("url")
             or record.get("task_id") == by_digest or (
        len(text) >= PREFIX_MIN and str(record.get("task_id", "")).startswith(text.lower()))]
    if len(found) != 1:
        raise UsageError(f"{len(found) or 'no'} tasks here are {printable(text)!r}",
                         "see dfly cache ls")
    return found[0]


def _named_by_digest(text: str) -> str:
    """The id of the task that this digest, or URL of a shared content, names; "" for other text."""
    if is_shared_url(text):
        text = shared_digest(text)
    if not text.lower().startswith("sha256:"):
        return ""
    return TaskSpec("", digest=Digest.parse(text)).task_id


def _list(records: List[Record], as_json: bool) -> int:
    if as_json:
        print_json({"tasks": records})
        return 0
    rows = [[str(record.get("task_id", ""))[:12], _size(record.get("length")), _held(record),
             record.get("tag") or "-", record.get("url") or record.get("digest") or "-"]
            for record in records]
    print(table(["TASK", "SIZE", "HELD", "TAG", "URL"], rows, right=(1, 2)))
    return 0


def _size(value: object) -> str:
    return format_size(value) if isinstance(value, (int, float)) else "?"


def _held(record: Record) -> str:
    if record.get("complete"):
        return "all"
    return _size(record.get("held_bytes"))


def _export(record: Record, name: str) -> int:
    """The content of a whole task into a file that is the user's own."""
    path, length = str(record.get("path", "")), record.get("length")
    task = str(record.get("task_id", ""))[:12]
    if not record.get("complete"):
        raise FileError(f"task {task} isn't whole here: {_held(record)} of {_size(length)}",
                        "dfly get its URL brings the rest")
    try:
        source = open(path, "rb")
    except OSError as error:
        raise FileError(f"can't read {path}: {error.strerror}",
                        "dfly cache verify tells what the store still has") from None
    with source:
        if os.fstat(source.fileno()).st_size != length:
            raise FileError(f"{path} was changed by someone", f"remove it: dfly cache rm {task}")
        if name == "-":
            shutil.copyfileobj(source, sys.stdout.buffer, COPY_SIZE)
            sys.stdout.flush()
            return 0
        target = target_for("", name, None)
        try:
            target.check()
        except FileError as error:   # its hints are about options of dfly get
            raise FileError(error.what, "name another FILE") from None
        target.put(path, source.fileno())
    return 0


def _remove(cache: Cache, records: List[Record], as_json: bool) -> int:
    for record in records:
        cache.remove(record["task_id"])
    freed = sum(record.get("held_bytes") or 0 for record in records)
    if as_json:
        print_json({"removed": [record["task_id"] for record in records], "bytes": freed})
    else:
        print(f"removed {_tasks(len(records))}, {format_size(freed)}")
    return 0


def _verify(cache: Cache, records: List[Record], as_json: bool) -> int:
    bad = {record["task_id"]: cache.verify(record["task_id"]) for record in records}
    damaged = {task_id: pieces for task_id, pieces in bad.items() if pieces}
    if as_json:
        print_json({"verified": len(records), "bad": damaged})
    else:
        for task_id, pieces in damaged.items():
            print(f"{task_id[:12]}: {len(pieces)} bad pieces, dropped; they will be fetched again")
        print(f"{_tasks(len(records))} verified, {len(damaged)} damaged")
    return DflyError.exit_code if damaged else 0


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"
