"""PyAV, the extra `srkd[video]`, and its errors in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.base.errors import MissingExtra, SrkdError, reason_of

SCALING = 0x4 | 0x2000 | 0x4000 | 0x40000
"""How swscale converts colours: chroma bicubic and at its full size, with accurate rounding."""


def load_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingExtra("PyAV, which reads and writes videos,", "video") from error
    return av


def open_container(path: Path, failure: str) -> Any:
    """Open a film to read its streams; `failure` begins the line of an error.

    FFmpeg would take `Alien:Part 2.mp4` for an address of the protocol `Alien`, so it is given a whole path.
    """
    with av_errors(failure):
        return load_av().open(str(path.absolute()), metadata_errors="replace")


@contextmanager
def av_errors(what: str, *, but_writing: bool = False) -> Iterator[None]:
    """Turn an error of FFmpeg within the block into one line; with `but_writing` those of the disk stay OSErrors."""
    av = load_av()
    try:
        yield
    except av.error.FFmpegError as error:
        if but_writing and isinstance(error, OSError):
            raise
        raise SrkdError(f"{what}: {getattr(error, 'strerror', None) or reason_of(error)}") from error
