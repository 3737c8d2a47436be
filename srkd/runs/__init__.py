"""Runs: decided, started, continued, and several of them in one plan."""
