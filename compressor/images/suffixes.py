"""The suffixes of picture files. Importing this module imports no torch."""

from __future__ import annotations

FORMAT_OF_SUFFIX = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
IMAGE_SUFFIXES: frozenset[str] = frozenset(FORMAT_OF_SUFFIX)
OTHER_PICTURE_SUFFIXES = frozenset((".gif", ".apng", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".psd", ".dng"))
"""Suffixes of pictures that srkd cannot read; a file list that omits such a file reports it."""
