"""Counters and gauges of a role, and their page in Prometheus' text format (0.0.4).

Every name is declared once, with its help; labels are few and never hold anything that a remote
chooses freely (no URL, no address, no digest), so a page's size is bounded.
"""
from __future__ import annotations

import threading
from typing import Dict, Tuple

Labels = Tuple[Tuple[str, str], ...]

COUNTER, GAUGE = "counter", "gauge"
FAMILIES: Dict[str, Tuple[str, str]] = {
    "dfly_build_info": (GAUGE, "Always 1; the label says which version runs."),
    "dfly_source_bytes_total": (COUNTER, "Content bytes received from sources."),
    "dfly_received_bytes_total": (COUNTER, "Content bytes received from the swarm, by origin."),
    "dfly_sent_bytes_total": (COUNTER, "Content bytes sent to peers."),
    "dfly_pieces_stored_total": (COUNTER, "Pieces verified and stored."),
    "dfly_bad_pieces_total": (COUNTER, "Pieces that contradicted their digest."),
    "dfly_links": (GAUGE, "Control links that are open."),
    "dfly_links_refused_total": (COUNTER, "Control links refused, by reason."),
    "dfly_link_errors_total": (COUNTER, "Control links that ended by an error, by kind."),
    "dfly_tasks": (GAUGE, "Tasks known now."),
    "dfly_leases_total": (COUNTER, "Leases granted."),
    "dfly_leases_failed_total": (COUNTER, "Leases that ended without their pieces, by reason."),
    "dfly_reports_total": (COUNTER, "Piece reports received from peers."),
    "dfly_quarantined_total": (COUNTER, "Hosts that may not serve any more."),
    "dfly_downloads_total": (COUNTER, "Downloads ended, by outcome."),
    "dfly_p2p_lost_total": (COUNTER, "Downloads that had to go on without a manager."),
}


class Metrics:
    """The numbers of one process; movers count from their own threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: Dict[str, Dict[Labels, float]] = {}

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count up."""
        assert FAMILIES[name][0] == COUNTER and amount >= 0, (name, amount)
        key = tuple(sorted(labels.items())) if labels else ()
        with self._lock:
            series = self._values.setdefault(name, {})
            series[key] = series.get(key, 0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        assert FAMILIES[name][0] == GAUGE, name
        with self._lock:
            self._values.setdefault(name, {})[tuple(sorted(labels.items()))] = value

    def value(self, name: str, **labels: str) -> float:
        return self._values.get(name, {}).get(tuple(sorted(labels.items())), 0)

    def render(self) -> bytes:
        """The page; every declared family appears, with 0 where nothing was counted yet."""
        lines = []
        for name, (kind, about) in FAMILIES.items():
            lines.append(f"# HELP {name} {about}")
            lines.append(f"# TYPE {name} {kind}")
            with self._lock:
                series: Dict[Labels, float] = dict(self._values.get(name, {})) or {(): 0}
            for labels, value in sorted(series.items()):
                inner = ",".join(f'{key}="{_escape(text)}"' for key, text in labels)
                lines.append(f"{name}{{{inner}}} {value:.15g}" if inner
                             else f"{name} {value:.15g}")
        return ("\n".join(lines) + "\n").encode()


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
