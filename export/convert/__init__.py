"""Converters to float formats, one file each."""
