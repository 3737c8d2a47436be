"""Graphs in eight bits: which values are rounded, on which grids, and how later layers compensate errors."""
