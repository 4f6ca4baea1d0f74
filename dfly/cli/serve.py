"""Be a cluster manager: fetch each file from its source once, lead the swarms of its hosts.

Only settings are read here; the role itself is dfly.service.manager, imported when it runs, so
that `dfly help serve` stays quick.
"""
from __future__ import annotations

import os
from typing import Callable

from dfly.cli.autostart import program
from dfly.cli.parser import Arguments, CommandParser
from dfly.cli.ready import add_ready_flag, run_role
from dfly.config import ServeSettings, add_flags, load


def add_arguments(parser: CommandParser) -> None:
    add_flags(parser, ServeSettings)
    add_ready_flag(parser)
    parser.add_argument("--worker-fd", metavar="N",
                        help="be an upload worker of the manager at the other end of this open "
                             "socket; a manager starts its workers so itself")


def run(args: Arguments) -> int:
    if args.worker_fd is not None:
        from dfly.service import runtime, worker
        runtime.set_up_log()
        return worker.run(args.worker_fd)

    def serve(ready: Callable[[str], None]) -> int:
        settings = load(ServeSettings, args)
        from dfly.service import manager, runtime, workers
        runtime.set_up_log()
        command, variables = program()
        return manager.run(settings, ready, workers.spawner([*command, "serve", "--worker-fd"],
                                                            {**os.environ, **variables}))

    return run_role("serve", args.ready_fd, serve)
