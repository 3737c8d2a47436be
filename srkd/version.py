"""The version of srkd, which the build reads from this file."""

__version__ = "0.3.0"
