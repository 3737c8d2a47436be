"""Converters to int8 files, and the quantisation of their graphs."""
