#!/usr/bin/env python3
"""Build dist/dfly: one executable file, the same to the byte wherever and whenever it is built.

A zipapp: a shebang line and a zip of the package. Entries are sorted and bear one fixed time
(SOURCE_DATE_EPOCH if it is set) and one fixed mode. `dfly/build_id` in it is a hash of all the
other content; the cache of compiled code goes by it (dfly/codecache.py).
"""
from __future__ import annotations

import hashlib
import io
import os
import sys
import time
import zipfile
from typing import Dict, Tuple

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
                    files[f"{inside}/{name}"] = file.read()
    files["__main__.py"] = files["dfly/__main__.py"]
    files["dfly/build_id"] = build_id(files).encode()
    return files


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
