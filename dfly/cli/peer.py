"""Be this host's daemon: keep pieces, serve them to other hosts, download for dfly get.

Only settings are read here; the role itself is dfly.service.peer, imported when it runs, so
that `dfly help peer` stays quick.
"""
from __future__ import annotations

from typing import Callable

from dfly.cli.parser import Arguments, CommandParser
from dfly.cli.ready import add_ready_flag, run_role
from dfly.config import PeerSettings, add_flags, load


def add_arguments(parser: CommandParser) -> None:
    add_flags(parser, PeerSettings)
    add_ready_flag(parser)


def run(args: Arguments) -> int:
    def serve(ready: Callable[[str], None]) -> int:
        settings = load(PeerSettings, args)
        from dfly.service import peer, runtime
        runtime.set_up_log()
        return peer.run(settings, ready)

    return run_role("peer", args.ready_fd, serve)
