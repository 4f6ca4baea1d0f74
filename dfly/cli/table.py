"""What commands print: columns of text for people, JSON for programs."""
from __future__ import annotations

from dfly.errors import printable

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, List, Optional, Sequence

CELL_MAX = 60  # characters; a longer cell is cut in its middle, where URLs say the least


def table(header: Sequence[str], rows: Sequence[Sequence[object]],
          right: Sequence[int] = ()) -> str:
    """Lines with aligned columns; the columns `right` are flush right. Cells may come from a
    remote: they are made printable and bounded here."""
    lines: List[List[str]] = [list(header)]
    lines += [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    out = []
    for line in lines:
        cells = [text.rjust(width) if column in right else text.ljust(width)
                 for column, (text, width) in enumerate(zip(line, widths))]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def print_json(value: Any, indent: Optional[int] = None) -> None:
    """One JSON value on a line of standard output (with `indent`, on several)."""
    import json  # here, because asking for help must not pay for it
    print(json.dumps(value, indent=indent), flush=True)


def _cell(value: object) -> str:
    text = printable(str(value))
    if len(text) <= CELL_MAX:
        return text
    half = (CELL_MAX - 3) // 2
    return text[:half] + "..." + text[-half:]
