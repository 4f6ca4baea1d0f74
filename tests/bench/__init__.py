"""Benchmarks, each run as `python3 -m tests.bench.NAME`: one JSON line, never a test."""
