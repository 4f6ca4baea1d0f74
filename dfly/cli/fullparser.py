"""argparse's parser as dfly uses it: it raises UsageError and abbreviates nothing (parser.py says
when it is needed)."""
from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from dfly.errors import UsageError


class FullParser(argparse.ArgumentParser):
    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def print_help(self, file: Any = None) -> None:
        """Where it can't be written that is an error, which argparse keeps to itself."""
        sys.stdout.write(self.format_help())

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see dfly help {self.prog.split()[-1]}")
