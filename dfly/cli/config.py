"""Be a config server: managers register here, hosts ask for the nearest and for settings.

Only settings are read here; the role itself is dfly.service.config_server, imported when it
runs, so that `dfly help config` stays quick.
"""
from __future__ import annotations

from typing import Callable

from dfly.cli.parser import Arguments, CommandParser
from dfly.cli.ready import add_ready_flag, run_role
from dfly.config import ConfigSettings, add_flags, load


def add_arguments(parser: CommandParser) -> None:
    add_flags(parser, ConfigSettings)
    add_ready_flag(parser)


def run(args: Arguments) -> int:
    def serve(ready: Callable[[str], None]) -> int:
        settings = load(ConfigSettings, args)
        from dfly.service import config_server, runtime
        runtime.set_up_log()
        return config_server.run(settings, ready)

    return run_role("config", args.ready_fd, serve)
