"""Some frames of a film, spread evenly over it, without black ones and repetitions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from compressor.base.errors import SrkdError
from compressor.images.metrics import to_u8
from compressor.video.reading import Film

FRAMES_OF_A_FILM = 64
"""Frames that are taken of a film at most: neighbours in time show the same scene, so more add little."""

BLACK = 0.1
"""A frame without a value above this is black."""


@dataclass(frozen=True)
class SampledFrame:
    """A frame as it is shown, and when, with the one that follows it; the last frame follows itself."""

    seconds: float
    rgb_u8: Tensor
    following_u8: Tensor


def sample_frames(path: Path, most: int = FRAMES_OF_A_FILM) -> list[SampledFrame]:
    """Return the frames in the middle of `most` equal parts of a film, or all of a shorter one, but no black ones and
    none twice.
    """
    frames, seen = list[SampledFrame](), set[bytes]()
    with Film(path) as film:
        facts, first = film.facts, next(film.frames()).pts
        count = facts.frames or 1 + sum(1 for _ in film.frames())
        parts = min(count, most)
        for part in range(parts):
            number = int((part + 0.5) * count / parts)
            # Half a frame earlier, as times are rounded.
            found = film.frames_from(first + round((number - 0.5) / (facts.rate * facts.time_base)))
            frame = next(found, None)
            if frame is None:
                continue
            rgb_u8 = to_u8(frame.rgb)[0]
            digest = hashlib.blake2b(rgb_u8.numpy().tobytes(), digest_size=16).digest()
            if digest not in seen and float(frame.rgb.max()) > BLACK:
                seen.add(digest)
                following_u8 = to_u8(next(found, frame).rgb)[0]
                frames.append(SampledFrame(float(frame.pts * facts.time_base), rgb_u8, following_u8))
    if not frames:
        raise SrkdError(f"{path} holds black frames only: give a film with pictures")
    return frames
