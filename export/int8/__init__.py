"""Converters to files in eight bits, and the quantisation of their graphs."""
