#!/usr/bin/env python3
"""Build dist/dfly: one executable file, the same to the byte wherever and whenever it is built.

A zipapp: a shebang line and a zip of the package. Entries are sorted and bear one fixed time
(SOURCE_DATE_EPOCH if it is set) and one fixed mode. `dfly/build_id` in it is a hash of all the
other content; the cache of compiled code goes by it (dfly/codecache.py).

What only readers of the source need, comments and docstrings, stays at home: it is a third of the
file that is copied to each host. Lines keep their numbers, so that a traceback says the same.
"""
from __future__ import annotations

import ast
import hashlib
import io
import os
import sys
import time
import tokenize
import zipfile
from typing import Dict, Iterator, Tuple

HERE = os.path.dirname(os.path.abspath(__file__))
SHEBANG = b"#!/usr/bin/env python3\n"
SIZE_MAX = 400_000                       # bytes: what is copied to each host of a fleet
DATA_FOLDERS = ("web",)                  # folders in the package whose files of any kind go along
EPOCH_DEFAULT = 946_684_800              # 2000-01-01: a zip knows nothing before 1980


def package_files(root: str) -> Dict[str, bytes]:
    """{name in the zip: content} of the package under `root`."""
    files: Dict[str, bytes] = {}
    for folder, names, file_names in os.walk(os.path.join(root, "dfly")):
        names[:] = sorted(name for name in names if name != "__pycache__")
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        is_data = any(part in DATA_FOLDERS for part in inside.split("/"))
        for name in sorted(file_names):
            if name.endswith(".py") or (is_data and not name.startswith(".")):
                with open(os.path.join(folder, name), "rb") as file:
                    content = file.read()
                files[f"{inside}/{name}"] = spared(content) if name.endswith(".py") else content
    files["__main__.py"] = files["dfly/__main__.py"]
    files["dfly/build_id"] = build_id(files).encode()
    return files


def spared(source: bytes) -> bytes:
    """A module without its comments and docstrings, every statement on its line. The module's own
    docstring stays: commands print it."""
    lines = source.decode("utf-8").split("\n")
    for first, column, last, end in sorted(_docstrings(source), reverse=True):
        kept, after = lines[first][:column], lines[last].encode()[end:].decode()
        lines[first:last + 1] = [f'{kept}""{after}', *[""] * (last - first)]
    text = "\n".join(lines)
    lines = text.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and token.start[0] > 1:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
    return "\n".join(lines).encode("utf-8")


def _docstrings(source: bytes) -> Iterator[Tuple[int, int, int, int]]:
    """(first line, column, last line, end column) of each in a class or function, counted from 0,
    the end in bytes."""
    for entry in ast.walk(ast.parse(source)):
        if isinstance(entry, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and (
                ast.get_docstring(entry, clean=False) is not None):
            text = entry.body[0]
            assert text.end_lineno is not None and text.end_col_offset is not None
            yield text.lineno - 1, text.col_offset, text.end_lineno - 1, text.end_col_offset


def build_id(files: Dict[str, bytes]) -> str:
    """16 hex digits over names and contents."""
    seal = hashlib.sha256()
    for name, data in sorted(files.items()):
        seal.update(f"{name}\0{len(data)}\0".encode() + data)
    return seal.hexdigest()[:16]


def pack(files: Dict[str, bytes], epoch: int) -> bytes:
    """The executable's bytes."""
    buffer = io.BytesIO()
    buffer.write(SHEBANG)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, zip_time(epoch))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, whatever builds it
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def zip_time(epoch: int) -> Tuple[int, int, int, int, int, int]:
    """What a zip can say of `epoch`: UTC, 1980 to 2107."""
    moment = time.gmtime(min(max(epoch, 315_532_800), 4_354_819_198))
    return (moment.tm_year, moment.tm_mon, moment.tm_mday,
            moment.tm_hour, moment.tm_min, moment.tm_sec)


def main() -> int:
    target = os.path.join(HERE, "dist", "dfly")
    epoch_text = os.environ.get("SOURCE_DATE_EPOCH") or str(EPOCH_DEFAULT)
    if not epoch_text.isdecimal():
        sys.stderr.write(f"build.py: SOURCE_DATE_EPOCH isn't a number: {epoch_text!r}\n")
        return 2
    data = pack(package_files(HERE), int(epoch_text))
    if len(data) > SIZE_MAX:
        sys.stderr.write(f"build.py: {len(data)} bytes, over the bound of {SIZE_MAX}\n")
        return 1
    os.makedirs(os.path.dirname(target), exist_ok=True)
    temporary = f"{target}.{os.getpid()}"  # renamed: a running dfly keeps the file it started from
    with open(temporary, "wb") as file:
        file.write(data)
    os.chmod(temporary, 0o755)
    os.replace(temporary, target)
    print(f"dist/dfly: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
