"""Be a cluster manager: fetch each file from its source once, lead the swarms of its hosts.

Only settings are read here; the role itself is dfly.service.manager, imported when it runs, so
that `dfly help serve` stays quick.
"""
from __future__ import annotations

import argparse
from typing import Callable

from dfly.cli.ready import add_ready_flag, run_role
from dfly.config import ServeSettings, add_flags, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, ServeSettings)
    add_ready_flag(parser)


def run(args: argparse.Namespace) -> int:
    def serve(ready: Callable[[str], None]) -> int:
        settings = load(ServeSettings, args)
        from dfly.service import manager, runtime
        runtime.set_up_log()
        return manager.run(settings, ready)

    return run_role("serve", args.ready_fd, serve)
