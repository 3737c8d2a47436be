"""A double of pycuda, on the double GPU."""

VERSION_TEXT = "2026.1"
