"""The metrics page is Prometheus' text format, whatever was counted."""
from __future__ import annotations

import re
import threading

from dfly.service.metrics import FAMILIES, Metrics

LABEL = r'[a-z_]+="(?:[^"\\\n]|\\.)*"'
SAMPLE = re.compile(rf"[a-z0-9_]+(\{{{LABEL}(?:,{LABEL})*\}})? [0-9.e+]+")


def test_every_family_is_told_once_with_help_and_type_before_its_samples() -> None:
    metrics = Metrics()
    metrics.add("dfly_leases_failed_total", reason='odd "name"\\\n')
    metrics.set("dfly_links", 3)
    lines = metrics.render().decode().split("\n")
    assert lines.pop() == ""
    for name, (kind, about) in FAMILIES.items():
        start = lines.index(f"# HELP {name} {about}")
        assert lines[start + 1] == f"# TYPE {name} {kind}"
        assert lines[start + 2].startswith(name)
        assert kind != "counter" or name.endswith("_total")
    for line in lines:
        assert line.startswith("# ") or SAMPLE.fullmatch(line), line


def test_large_counts_stay_exact() -> None:
    metrics = Metrics()
    metrics.add("dfly_sent_bytes_total", 123_456_789_012_345)
    assert b"dfly_sent_bytes_total 123456789012345\n" in metrics.render()


def test_counting_from_several_threads_loses_nothing() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(5_000):
            metrics.add("dfly_sent_bytes_total", 2)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.value("dfly_sent_bytes_total") == 40_000
