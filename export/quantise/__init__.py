"""Graphs in eight bits: which values are rounded, on which grids, and what the layers behind them make good."""
