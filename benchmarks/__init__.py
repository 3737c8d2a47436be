"""Benchmarks: each file is a command that regenerates its results."""
