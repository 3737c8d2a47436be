"""Graphs in int8: which values are rounded, on which grids, and how later layers compensate errors."""
