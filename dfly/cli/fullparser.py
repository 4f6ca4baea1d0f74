"""argparse's parser as dfly uses it: it raises UsageError and abbreviates nothing (parser.py says
when it is needed)."""
from __future__ import annotations

import argparse
from typing import NoReturn

from dfly.errors import UsageError


class FullParser(argparse.ArgumentParser):
    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see dfly help {self.prog.split()[-1]}")
