"""Some frames of a film, spread evenly over it, without black ones and repetitions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from compressor.base.errors import SrkdError
from compressor.images.metrics import to_u8
from compressor.video.reading import Film, FilmFrame

FRAMES_OF_A_FILM = 64
"""Frames that are taken of a film at most: neighbours in time show the same scene, so more add little."""

SHORT_FILM = 20 * FRAMES_OF_A_FILM
"""Films up to so many frames are read from beginning to end; longer ones are entered at each place."""

BLACK = 0.1
"""A frame without a value above this is black."""


@dataclass(frozen=True)
class SampledFrame:
    """A frame as it is shown, and when; perhaps with the one that follows it, which the last frame itself is."""

    seconds: float
    rgb_u8: Tensor
    following_u8: Tensor | None = None


@dataclass(frozen=True)
class FrameSample:
    """The frames that were taken, and the times of those that were left out."""

    frames: tuple[SampledFrame, ...]
    black: tuple[float, ...]
    equal: tuple[float, ...]

    def line(self) -> str:
        """Return which frames were taken, for a person."""
        taken = [frame.seconds for frame in self.frames]
        line = f"{len(taken)} frames from {format_time(taken[0])} to {format_time(taken[-1])}"
        for name, times in (("black", self.black), ("equal to another", self.equal)):
            if times:
                line += f"; left out {len(times)} {name} ({_some(times)})"
        return line


def sample_frames(path: Path, most: int = FRAMES_OF_A_FILM, *, with_following: bool = False) -> FrameSample:
    """Return the frames in the middle of `most` equal parts of a film, or all of a shorter one."""
    frames, seen = list[SampledFrame](), set[bytes]()
    black, equal = list[float](), list[float]()
    with Film(path) as film:
        count = film.facts.frames or sum(1 for _ in film.frames())
    with Film(path) as film:
        facts = film.facts
        chosen = _in_order(film, count, most) if count <= SHORT_FILM else _by_time(film, count, most)
        for frame, following in chosen:
            seconds = float(frame.pts * facts.time_base)
            rgb = facts.rgb(frame)
            rgb_u8 = to_u8(rgb)[0]
            digest = hashlib.blake2b(rgb_u8.numpy().tobytes(), digest_size=16).digest()
            if float(rgb.max()) <= BLACK:
                black.append(seconds)
            elif digest in seen:
                equal.append(seconds)
            else:
                seen.add(digest)
                following_u8 = to_u8(facts.rgb(following))[0] if with_following else None
                frames.append(SampledFrame(seconds, rgb_u8, following_u8))
    if not frames:
        raise SrkdError(f"{path} holds black frames only: give a film with pictures")
    return FrameSample(tuple(frames), tuple(black), tuple(equal))


def _in_order(film: Film, count: int, most: int) -> Iterator[tuple[FilmFrame, FilmFrame]]:
    """Yield the frames, each with the next one of the film; the last frame stands for its own next one."""
    parts = min(count, most)
    wanted = {int((part + 0.5) * count / parts) for part in range(parts)}
    chosen: FilmFrame | None = None
    for number, frame in enumerate(film.frames()):
        if chosen is not None:
            yield chosen, frame
        chosen = frame if number in wanted else None
    if chosen is not None:
        yield chosen, chosen


def _by_time(film: Film, count: int, most: int) -> Iterator[tuple[FilmFrame, FilmFrame]]:
    """Yield what `_in_order` does, without reading the frames between."""
    facts = film.facts
    first = next(film.frames()).pts
    ticks = count / (facts.rate * facts.time_base)
    for part in range(most):
        frames = film.frames_from(first + int((part + 0.5) * ticks / most))
        frame = next(frames, None)
        if frame is not None:
            yield frame, next(frames, frame)


def format_time(seconds: float) -> str:
    """Return a time in a film: 1:02:03.4 or 2:03.4."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


MOST_TIMES = 4
"""Times that a line names at most."""


def _some(times: tuple[float, ...]) -> str:
    more = f" and {len(times) - MOST_TIMES} more" if len(times) > MOST_TIMES else ""
    return ", ".join(map(format_time, times[:MOST_TIMES])) + more
