"""Latencies measured in turns."""
