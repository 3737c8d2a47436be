"""The suffixes of pictures and films. Importing this module imports no torch."""

from __future__ import annotations

from pathlib import Path

FORMAT_OF_SUFFIX = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
"""The formats of pictures that are written."""
IMAGE_SUFFIXES: frozenset[str] = frozenset((*FORMAT_OF_SUFFIX, ".avif", ".gif", ".heic", ".heif"))
"""The suffixes of pictures that are read."""
OTHER_PICTURE_SUFFIXES = frozenset((".apng", ".jxl", ".jp2", ".psd", ".dng"))
"""Suffixes of pictures that srkd cannot read; a file list that omits such a file reports it."""
CONTAINER_OF_SUFFIX = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""The containers of films that are written, as FFmpeg names them."""
FILM_SUFFIXES = frozenset(
    (*CONTAINER_OF_SUFFIX, ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".flv", ".3gp", ".ogv")
)
"""Suffixes of films; their other streams and codecs are PyAV's matter."""


def is_film(path: Path) -> bool:
    return path.suffix.lower() in FILM_SUFFIXES and not path.is_dir()
