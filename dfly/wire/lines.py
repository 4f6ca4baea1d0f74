"""Lines of HTTP as bytes (RFC 9110 5, RFC 9112): taken apart strictly, or not at all.

By bytes.translate and partition, which are nearly as quick as compiled patterns, and nothing has
to be compiled each time `dfly get` starts. What to answer to a malformed line is for http11.py.
"""
from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost each start of a client 2 ms
if TYPE_CHECKING:
    from typing import Optional, Tuple

HEAD_END = b"\r\n\r\n"   # as all but small old servers end it
_ALNUM = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TOKEN = _ALNUM + b"!#$%&'*+-.^_`|~"
_VISIBLE = bytes([*range(0x21, 0x7f), *range(0x80, 0x100)])
_TEXT = b"\t " + _VISIBLE
_HEX = b"0123456789ABCDEFabcdef"
_CONTROLS = bytes([*range(0x01, 0x09), 0x0b, 0x0c, *range(0x0e, 0x20), 0x7f])  # not NUL, LF, CR
_OF_THE_BODY = (b"content-length", b"transfer-encoding", b"content-encoding")


def is_token(data: bytes) -> bool:
    return data != b"" and not data.translate(None, _TOKEN)


def is_text(data: bytes) -> bool:
    """What may stand in a header's value, or nothing."""
    return not data.translate(None, _TEXT)


def text_bytes(text: str) -> bytes:
    """Latin-1 as it came in; text from elsewhere that doesn't fit goes out as UTF-8."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def head_end(buffer: bytearray, start: int) -> int:
    """Where the head's last line ends, looking from `start`; 0 if it doesn't yet."""
    bare, whole = buffer.find(b"\n\n", start), buffer.find(b"\n\r\n", start)
    if bare >= 0 and (whole < 0 or bare < whole):
        return bare + 2
    return whole + 3 if whole >= 0 else 0


def split_header(line: bytes) -> Optional[Tuple[bytes, bytes]]:
    """(name, value) of a header line without its end; None if it's malformed."""
    name, colon, value = line.partition(b":")
    if not colon or not name or name.translate(None, _TOKEN) or value.translate(None, _TEXT):
        return None
    return name, value.strip(b" \t")


def is_negligible(line: bytes) -> bool:
    """True of a malformed header line without which its message means what it means: nothing is
    wrong with it but control bytes in its value, as wget and curl let pass, and it doesn't say
    where the body ends or how it's encoded."""
    pair = split_header(line.translate(None, _CONTROLS))
    name = line.partition(b":")[0]
    return pair is not None and pair[0] == name and name.lower() not in _OF_THE_BODY


def split_request_line(line: bytes) -> Optional[Tuple[bytes, bytes, bytes]]:
    """(method, target, 'HTTP/1.1'); None if it's malformed."""
    parts = line.split(b" ")
    if len(parts) != 3 or not is_token(parts[0]) or not _is_version(parts[2]):
        return None
    if not parts[1] or parts[1].translate(None, _VISIBLE):
        return None
    return parts[0], parts[1], parts[2]


def split_status_line(line: bytes) -> Optional[Tuple[bytes, int, bytes]]:
    """('HTTP/1.1', status, reason); None if it's malformed."""
    version, code, rest = line[:8], line[9:12], line[12:]
    if not _is_version(version) or line[8:9] != b" " or rest[:1] not in (b"", b" "):
        return None
    if len(code) != 3 or not code.isdigit() or code[:1] == b"0" or not is_text(rest):
        return None
    return version, int(code), rest


def _is_version(data: bytes) -> bool:
    return (len(data) == 8 and data.startswith(b"HTTP/") and data[6:7] == b"."
            and data[5:6].isdigit() and data[7:8].isdigit())


def chunk_size(line: bytes) -> Optional[int]:
    """The number in 'SIZE' or 'SIZE;extension'; None if it's malformed."""
    size, _, extension = line.partition(b";")
    size = size.rstrip(b" \t")
    if not 1 <= len(size) <= 16 or size.translate(None, _HEX) or not is_text(extension):
        return None
    return int(size, 16)
