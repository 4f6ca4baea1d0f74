"""The parser of one command's options: argparse that raises UsageError and abbreviates nothing."""
from __future__ import annotations

import argparse
from typing import NoReturn

from dfly.errors import UsageError


class CommandParser(argparse.ArgumentParser):
    """An abbreviation that works today would break the day a longer option is added; so none."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see dfly help {self.prog.split()[-1]}")
