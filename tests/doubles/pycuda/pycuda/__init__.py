"""A double of pycuda, over that of cuda-python."""

VERSION_TEXT = "2026.1"
