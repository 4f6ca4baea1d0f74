"""Sizes, rates and durations: how people write them, how dfly prints them.

Inside the program a size is an int of bytes, a rate (`_bps`) a float of bytes per second and a
duration (`_s`) a float of seconds. Letters follow what each field is used to: bare K M G T are
1024s (wget, dd), KB MB GB are 1000s (SI), KiB MiB GiB are 1024s; rates in bit follow tc(8).
"""
from __future__ import annotations

import re

from dfly.errors import UsageError

TYPE_CHECKING = False  # typing's own costs each start of a client 2 ms
if TYPE_CHECKING:
    from typing import Optional

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_BINARY = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": 1024 * GIB}
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b|)\s*"
_BITS = r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)bit(?:/s)?\s*"
_SPAN = r"\s*(\d+(?:\.\d+)?)\s*(ms|s|sec|m|min|h|d|)\s*"
_FLAGS = re.IGNORECASE | re.ASCII  # compiled when first used: `dfly get` rarely needs any
_SPAN_S = {"": 1.0, "ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0,
           "h": 3600.0, "d": 86400.0}
DATE_MAX_S = 1 << 33  # the year 2242: as nanoseconds it fits in signed 64 bits
SIZE_MAX = 1 << 62  # keeps every sum of sizes within SQLite's and struct's signed 64 bits


def parse_size(text: str) -> int:
    """Bytes from '64M' (1024s), '100MB' (1000s), '1.5GiB' or '4096'."""
    match = re.fullmatch(_SIZE, text, _FLAGS)
    if match is None:
        raise UsageError(f"not a size: {text!r}", "write it like 64M, 100MB or 1.5GiB")
    number, prefix, suffix = match.groups()
    table = _DECIMAL if suffix.lower() == "b" else _BINARY
    size = int(float(number) * table[prefix.lower()]) if "." in number else (
        int(number) * table[prefix.lower()])
    if size > SIZE_MAX:
        raise UsageError(f"size too large: {text!r}", "the largest is 4 EiB")
    return size


def parse_rate(text: str) -> float:
    """Bytes per second from '1gbit' (tc's bits) or '25MB', '2.5m' (bytes); '0' = unlimited."""
    match = re.fullmatch(_BITS, text, _FLAGS)
    if match is not None:
        return float(match.group(1)) * _DECIMAL[match.group(2).lower()] / 8
    bare = re.sub(r"/s\s*$", "", text)
    if re.fullmatch(_SIZE, bare, _FLAGS) is None:
        raise UsageError(f"not a rate: {text!r}", "write it like 100mbit, 25MB or 500k")
    return float(parse_size(bare))


def parse_duration(text: str) -> float:
    """Seconds from '90', '250ms', '5min', '1.5h', '2d'."""
    match = re.fullmatch(_SPAN, text, _FLAGS)
    if match is None:
        raise UsageError(f"not a duration: {text!r}", "write it like 90, 250ms, 5min or 2h")
    return float(match.group(1)) * _SPAN_S[match.group(2).lower()]


def parse_http_date(text: str) -> Optional[float]:
    """Seconds since 1970 of an HTTP date (RFC 9110 5.6.7); None if it isn't one, or one that no
    file can have."""
    from email.utils import mktime_tz, parsedate_tz  # a megabyte, only where there are dates
    try:
        parts = parsedate_tz(text)
        moment = -1.0 if parts is None else float(mktime_tz((*parts[:9], parts[9] or 0)))
        return moment if 0 <= moment < DATE_MAX_S else None
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def format_size(size: float) -> str:
    """'0 B', '1.5 KiB', '64 MiB': three significant digits, 1024s."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return _short(size, unit)
        size /= 1024
    return _short(size, "TiB")


def format_rate(rate_bps: float) -> str:
    """'11.9 MB/s': 1000s, as network people count."""
    for unit in ("B/s", "kB/s", "MB/s"):
        if rate_bps < 1000:
            return _short(rate_bps, unit)
        rate_bps /= 1000
    return _short(rate_bps, "GB/s")


def format_duration(duration_s: float) -> str:
    """'0.52 s', '12 s', '3 min 20 s', '2 h 05 min'."""
    if duration_s < 10:
        return f"{duration_s:.2f} s"
    whole = int(round(duration_s))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _short(value: float, unit: str) -> str:
    if unit in ("B", "B/s"):
        return f"{int(value)} {unit}"
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {unit}"
