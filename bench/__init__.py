"""Benchmarks: one file a hot stage, each with a goal. `make bench` runs them all, `python -m bench.NAME` one."""
