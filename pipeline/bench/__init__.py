"""Benchmarks, one a file, each against a baseline that takes turns with it in the same run. See harness.py."""
