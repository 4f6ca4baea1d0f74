"""Why a download took as long as it did: what --explain prints, from the daemon's last event.

Pure. The daemon may be of another version than this client: whatever lacks or is of another kind
than expected is left out, and nothing of it can grow what is printed without bound.
"""
from __future__ import annotations

from typing import Any, List, Mapping, Optional, Sequence, Tuple

from dfly.cli.progress import ORIGINS, origins_of, percent
from dfly.cli.table import table
from dfly.errors import printable
from dfly.units import format_duration, format_rate, format_size

PARENTS_SHOWN = 10
RETRIES_SHOWN = 50
LOSSES_SHOWN = 10
MOST = 0.5          # of the whole time: so much alone explains it
MUCH = 0.25         # so much is worth naming
SHORT_S = 0.1       # downloads this short have no reasons worth a sentence
COUNT_MAX = 1 << 62  # no file is larger
SECONDS_MAX = 1e9    # and no download longer than 31 years

# (field, what the table calls it, 'most of the time went to ...')
SPANS: Tuple[Tuple[str, str, str], ...] = (
    ("asked_s", "until the first answer", "waiting until a manager or the source answered"),
    ("moving_s", "bytes came", "moving the bytes"),
    ("source_s", "waited for the source", "waiting for the source"),
    ("parents_s", "waited for parents", "waiting for parents to be found and to answer"),
    ("disk_s", "wrote to the disk", "writing to this host's own disk"),
    ("check_s", "checked the whole", "checking the whole file's digest"),
)
MOVING = "moving_s"
NAMES = {"peers": "peers", "manager": "the manager", "source": "the source",
         "cache": "this host itself"}


def explanation(event: Mapping[str, Any]) -> List[str]:
    """Lines for people, from the done or failed event: its `story` and its from_* numbers."""
    story = event.get("story")
    if not isinstance(story, Mapping):
        return ["The peer daemon kept no story of this download: it is of an older version."]
    shares = [_count(event.get(f"from_{origin}")) for origin in ORIGINS]
    parents = _parents(story)
    return ["", *_times(story), *_origins(shares), *_parent_lines(parents), *_retries(story),
            *_losses(story), conclusion(story, shares)]


# ------------------------------------------------------------------------------ the parts
def _times(story: Mapping[str, Any]) -> List[str]:
    total_s = _seconds(story.get("total_s"))
    spans = [(label, _seconds(story.get(field))) for field, label, _ in SPANS]
    if total_s is None or all(span_s is None for _, span_s in spans):
        return ["Where the time went isn't known."]
    told_s = sum(span_s or 0.0 for _, span_s in spans)
    spans.append(("nothing of these", total_s - told_s if told_s < 0.99 * total_s else None))
    rows = [(f"  {label}", format_duration(span_s), _part(span_s, total_s))
            for label, span_s in spans if span_s]
    lines = table(("Where the time went", format_duration(total_s), ""), rows, right=(1, 2))
    return lines.splitlines() + (
        ["  (Some of it at once: the parts are more than the whole.)"]
        if told_s > 1.01 * total_s else [])


def _part(span_s: Optional[float], total_s: Optional[float]) -> str:
    if not span_s or not total_s:
        return ""
    return f"{min(100, round(100 * span_s / total_s))}%" if 100 * span_s >= total_s else "<1%"


def _origins(shares: Sequence[int]) -> List[str]:
    if not sum(shares):
        return []
    sizes = ", ".join(f"{format_size(count)} from {NAMES[origin]}"
                      for origin, count in zip(ORIGINS, shares) if count)
    return [f"Where the bytes came from: {sizes} ({origins_of(shares)})"]


class _Parent:
    """One that served us; whatever of it lacks is 0."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.address = printable(str(entry.get("address") or "?"))
        self.origin = printable(str(entry.get("origin") or ""))
        self.size = _count(entry.get("bytes"))
        self.runs = _count(entry.get("runs"))
        self.failed = _count(entry.get("failed"))
        self.seconds = _seconds(entry.get("seconds")) or 0.0

    def cells(self, all_bytes: int) -> List[str]:
        rate = format_rate(self.size / self.seconds) if self.seconds > 0 else ""
        return [f"  {self.address}", self.origin, format_size(self.size),
                percent(self.size, all_bytes) if all_bytes else "", rate, str(self.runs),
                str(self.failed or "")]


def _parents(story: Mapping[str, Any]) -> List[_Parent]:
    parents = [_Parent(entry) for entry in _entries(story.get("parents"))]
    return sorted(parents, key=lambda parent: (-parent.size, parent.address))


def _parent_lines(parents: Sequence[_Parent]) -> List[str]:
    if not parents:
        return []
    all_bytes = sum(parent.size for parent in parents)
    shown = table(("Parents", "", "bytes", "", "rate", "runs", "failed"),
                  [parent.cells(all_bytes) for parent in parents[:PARENTS_SHOWN]],
                  right=(2, 3, 4, 5, 6)).splitlines()
    rest = parents[PARENTS_SHOWN:]
    if rest:
        shown.append(f"  ... and {len(rest)} more, "
                     f"{format_size(sum(parent.size for parent in rest))} together")
    return shown


def _retries(story: Mapping[str, Any]) -> List[str]:
    return _told("Tried again:", story.get("retries"), RETRIES_SHOWN,
                 _count(story.get("retries_more")))


def _losses(story: Mapping[str, Any]) -> List[str]:
    return _told("P2P was lost:", story.get("p2p_lost"), LOSSES_SHOWN)


def _told(head: str, value: Any, shown_max: int, more: int = 0) -> List[str]:
    """What happened when, under a headline; nothing where nothing happened."""
    entries = _entries(value)
    more += max(0, len(entries) - shown_max)
    lines = [f"  at {_moment(entry)}: {printable(str(entry.get('what') or '?'))}"
             for entry in entries[:shown_max]]
    if more:
        lines.append(f"  ... and {more} more")
    return [head, *lines] if lines else []


def _moment(entry: Mapping[str, Any]) -> str:
    at_s = _seconds(entry.get("at_s"))
    return format_duration(at_s) if at_s is not None else "some time"


# ------------------------------------------------------------------------------ the verdict
def conclusion(story: Mapping[str, Any], shares: Sequence[int]) -> str:
    """One sentence: what bounded it. `shares` are bytes in ORIGINS' order."""
    total_s = _seconds(story.get("total_s"))
    if total_s is None:
        return "In short: the peer daemon didn't tell how long it took."
    peers, manager, source, cache = shares
    if cache and not peers + manager + source:
        return _sentence("everything was on this host already", story)
    if all(_seconds(story.get(field)) is None for field, _, _ in SPANS):
        return _sentence(f"it took {format_duration(total_s)}, the daemon didn't tell why", story)
    if total_s < SHORT_S:
        return _sentence("nothing held it up", story)
    spans = sorted(((_seconds(story.get(field)) or 0.0, field, why) for field, _, why in SPANS),
                   reverse=True)
    (longest_s, field, why), (second_s, _, second_why) = spans[0], spans[1]
    if longest_s < MUCH * total_s:
        return _sentence("no single thing took most of the time", story)
    said = f"{'most' if longest_s > MOST * total_s else 'much'} of the time went to {why}"
    if field == MOVING:
        moved = peers + manager + source
        pace = f", at {format_rate(moved / longest_s)}" if moved else ""
        return _sentence(f"{said}{pace}: {_bound_of_moving(shares)}", story)
    if second_s >= MUCH * total_s:
        said += f", and much to {second_why}"
    return _sentence(said, story)


def _bound_of_moving(shares: Sequence[int]) -> str:
    peers, manager, source, _ = shares
    moved = peers + manager + source
    most, origin = max(zip((peers, manager, source), ORIGINS))
    who = NAMES[origin] if moved and most > MOST * moved else "the others"
    return f"the network and what {who} could send bounded it"


def _sentence(said: str, story: Mapping[str, Any]) -> str:
    lost = _entries(story.get("p2p_lost"))
    ending = "; it had to go on without P2P" if lost else ""
    return f"In short: {said}{ending}."


# ------------------------------------------------------------------------------ what may be wrong
def _entries(value: Any) -> List[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(
        value, (list, tuple)) else []


def _count(value: Any) -> int:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX
    return value if good else 0


def _seconds(value: Any) -> Optional[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # Neither a NaN nor an infinity is between these two.
    return float(value) if 0 <= value <= SECONDS_MAX else None
