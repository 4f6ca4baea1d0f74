"""Benchmarks: run each as `python3 -m tests.bench.NAME --help`. One JSON line each; never a test."""
