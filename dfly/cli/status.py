"""Show what this host's daemon (or a manager) does: hosts, tasks, bytes."""
from __future__ import annotations

from dfly.cli.local import BRIEF, NobodyThere, ask_json
from dfly.cli.parser import Arguments, CommandParser
from dfly.cli.table import print_json, table
from dfly.config import MANAGER_PORT, PeerSettings, load, split_address
from dfly.errors import ProtocolError, printable
from dfly.units import format_duration, format_size

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Optional

    from dfly.cli.local import Address

# (key of the JSON, heading, kind): kinds are s text, n count, b bytes, t seconds
HOST_COLUMNS = (("name", "HOST", "s"), ("address", "ADDRESS", "s"), ("location", "LOCATION", "s"),
                ("tasks", "TASKS", "n"))
TASK_COLUMNS = (("task", "TASK", "id"), ("state", "STATE", "s"), ("length", "SIZE", "b"),
                ("pieces", "PIECES", "n"), ("pieces_seeded", "SEEDED", "n"),
                ("pieces_held", "HELD", "n"), ("peers", "PEERS", "n"),
                ("complete_peers", "DONE", "n"), ("source_bytes", "FROM SOURCE", "b"),
                ("url", "URL", "s"))
DOWNLOAD_COLUMNS = (("task", "TASK", "id"), ("state", "STATE", "s"), ("length", "SIZE", "b"),
                    ("bytes", "HERE", "b"), ("from_peers", "FROM PEERS", "b"),
                    ("from_manager", "MANAGER", "b"), ("from_source", "SOURCE", "b"),
                    ("url", "URL", "s"))
BYTE_COUNTERS = (("source_bytes", "from sources"), ("received_bytes", "received from the swarm"),
                 ("served_bytes", "sent to the swarm"), ("sent_bytes", "sent to the swarm"))


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--manager", metavar="HOST:PORT", help="ask this manager (or any role at "
                        "this address) in the daemon's stead")
    parser.add_argument("--socket", metavar="PATH", help="unix socket of the peer daemon")
    parser.add_argument("--json", action="store_true", help="print the answer as it is")


def run(args: Arguments) -> int:
    address = _address(args)
    try:
        status = ask_json(address, "GET", "/v1/status")
    except NobodyThere as error:
        error.hint = "is that the address of a manager, and does it run?"
        raise
    if not isinstance(status, dict):
        raise ProtocolError("the answer is no status", "is that a dfly role?")
    if args.json:
        print_json(status, indent=2)
    else:
        print(describe(status))
    return 0


def _address(args: Arguments) -> Address:
    if args.manager is not None:
        return split_address(args.manager, MANAGER_PORT)
    path = load(PeerSettings, Arguments(socket=args.socket)).socket
    try:
        ask_json(path, "GET", BRIEF)
    except NobodyThere as error:
        error.hint = "no daemon runs here: start one by dfly peer, or ask a --manager HOST:PORT"
        raise
    return path


def describe(status: Mapping[str, Any]) -> str:
    """The status of any role as text; what is missing or of another shape is left out."""
    paragraphs = [_heading(status)]
    for key, columns in (("hosts", HOST_COLUMNS), ("tasks", TASK_COLUMNS),
                         ("downloads", DOWNLOAD_COLUMNS)):
        rows = _rows(status.get(key))
        if rows:
            paragraphs.append(_table(columns, rows))
    return "\n\n".join(paragraphs)


def _heading(status: Mapping[str, Any]) -> str:
    words = [str(status.get("role", "dfly")), str(status.get("name", ""))]
    if status.get("version"):
        words.append(f"(dfly {status['version']})")
    uptime = status.get("uptime_s")
    if isinstance(uptime, (int, float)):
        words.append(f"up {format_duration(uptime)}")
    lines = [printable(" ".join(filter(None, words)))]
    managers = status.get("managers")
    if isinstance(managers, list):
        told = [str(entry.get("address", entry) if isinstance(entry, dict) else entry)
                for entry in managers]
        lines.append("managers: " + (printable(", ".join(told)) or "none: straight to sources"))
    counters = [f"{format_size(status[key])} {words}" for key, words in BYTE_COUNTERS
                if isinstance(status.get(key), (int, float))]
    if counters:
        lines.append(", ".join(counters))
    return "\n".join(lines)


def _rows(value: object) -> List[Dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _table(columns: Any, rows: List[Dict[str, Any]]) -> str:
    shown = [column for column in columns if any(column[0] in row for row in rows)]
    cells = [[_shown(row.get(key), kind) for key, _, kind in shown] for row in rows]
    right = [index for index, column in enumerate(shown) if column[2] in "nbt"]
    return table([heading for _, heading, _ in shown], cells, right)


def _shown(value: Optional[object], kind: str) -> str:
    if value is None:
        return "-"
    if kind == "n" and isinstance(value, (list, dict)):
        return str(len(value))
    if kind == "b" and isinstance(value, (int, float)):
        return format_size(value)
    return str(value)[:12] if kind == "id" else str(value)
