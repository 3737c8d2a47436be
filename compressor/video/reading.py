"""A film's frames as RGB, one after the other, their times, and what the film says of itself."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressor.base.errors import SrkdError
from compressor.base.files import require_regular
from compressor.video.library import SCALING, av_errors, load_av, open_container

RGB, BT709, UNSPECIFIED, BT601 = 0, 1, 2, 6
MATRICES = (BT709, 4, 5, BT601, 7, 9)
"""The colour matrices that are read, by their numbers in H.273: BT.709, FCC, BT.601 (twice), SMPTE 240M, BT.2020."""
LIMITED, FULL = 1, 2
HD = (1280, 720)
"""From this width or height on, a film that names no matrix is taken as BT.709, as players do; below it as BT.601."""
WHITE_OF_LIMITED = 255 << 8
"""The value of white that swscale has in 16-bit RGB, made of or for limited range."""
ALMOST_ALL = 0.95
"""Share of the declared frames from which on a film is whole: its edit list may leave some out."""


@dataclass(frozen=True)
class Colours:
    """The numbers of H.273 by which a film's samples are colours; range 1 is limited, 2 full."""

    matrix: int
    range: int
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


@dataclass(frozen=True)
class FilmFrame:
    """A frame as it is shown, RGB (1,3,H,W) in [0,1], and when, in ticks of the film's time base."""

    rgb: Tensor
    pts: int


@dataclass(frozen=True)
class Facts:
    """What a film states in its headers and first frame. Size (width, height) and aspect are those that are shown."""

    codec: str
    size: tuple[int, int]
    pixel_format: str
    bits: int
    white: int
    colours: Colours
    time_base: Fraction
    rate: Fraction
    frames: int
    """The number of frames that the headers tell, or that follows from the duration; 0 if it is unknown."""
    pixel_aspect: Fraction
    notes: tuple[str, ...]


class Film:
    """An open film. `frames` reads it from its beginning, once."""

    def __init__(self, path: Path) -> None:
        require_regular(path)
        self.path = path
        self.lost = 0
        """Packets that could not be decoded."""
        self._packets = 0
        self._last: int | None = None
        self._container = open_container(path, f"{path} cannot be read as a film")
        self._stream = video_stream(self._container, path)
        self._stream.thread_type = "AUTO"
        decoded = self._decode()
        first = next(decoded, None)
        if first is None:
            lost = f", and {self.lost} packets that cannot be decoded" if self.lost else ""
            raise SrkdError(f"{path} holds no frames{lost}: give a film with pictures")
        self._decoded = chain([first], decoded)
        self._size = first.width, first.height
        self.facts = self._read_facts(first)

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def frames(self, start: int = 0) -> Iterator[FilmFrame]:
        """Yield the frames in the order of their times; those before `start` are only decoded."""
        for number, frame in enumerate(self._decoded):
            pts = self._time(frame)
            if number >= start:
                yield self._converted(frame, pts)

    def frames_from(self, pts: int) -> Iterator[FilmFrame]:
        """Yield the frames from a time on, without reading all before it; a later call ends those of this one."""
        with suppress(load_av().error.FFmpegError):  # a container without an index is read from where it is
            self._container.seek(pts, stream=self._stream, backward=True)
        self._last = None
        for frame in self._decode():
            moment = self._time(frame)
            if moment >= pts:
                yield self._converted(frame, moment)

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines about what was noticed while the frames were read."""
        lines = [f"{self.lost} damaged packets gave no frame"] if self.lost else []
        if self._packets < ALMOST_ALL * self._stream.frames:
            lines.append(f"it ends early: its headers tell {self._stream.frames} frames")
        return tuple(lines)

    def _decode(self) -> Iterator[Any]:
        """Yield the frames of PyAV; a packet that cannot be decoded is counted, and the rest is read."""
        av = load_av()
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                self._packets += 1
                frames = packet.decode()
            except av.error.EOFError:
                return
            except (av.error.FFmpegError, ValueError):
                self.lost += 1
                continue
            yield from frames

    def _time(self, frame: Any) -> int:
        """Return when a frame is shown; one without a time, or not after the one before, follows it."""
        pts = frame.pts if frame.pts is not None else frame.dts
        if self._last is not None and (pts is None or pts <= self._last):
            pts = self._last + (self._step if pts is None else 1)
        self._last = shown = pts or 0
        return shown

    def _converted(self, frame: Any, pts: int) -> FilmFrame:
        facts = self.facts
        if (frame.width, frame.height) != self._size:
            raise SrkdError(
                f"{self.path} changes at {float(pts * facts.time_base):.2f} s from {self._size[0]}x{self._size[1]} to "
                f"{frame.width}x{frame.height}: cut it there"
            )
        return FilmFrame(turned(rgb_of(frame, facts), self._turn).contiguous(), pts)

    def _read_facts(self, frame: Any) -> Facts:
        stream, context, notes = self._stream, self._stream.codec_context, list[str]()
        components = [component for component in frame.format.components if not component.is_alpha]
        bits = min(16, max(8, *(component.bits for component in components)))
        is_rgb, is_grey = frame.format.is_rgb or frame.format.has_palette, len(components) == 1
        declared = stated_colours(frame, context)
        colours = replace(declared, matrix=RGB, range=LIMITED) if is_rgb else resolved(declared, self._size)
        if colours.matrix not in (RGB, *MATRICES):
            raise SrkdError(
                f"{self.path} has the colour matrix number {colours.matrix} of H.273, which is not read: convert it "
                "to BT.709 first"
            )
        if colours.matrix != declared.matrix and not (is_rgb or is_grey):
            name = "BT.709" if colours.matrix == BT709 else "BT.601"
            notes.append(f"its colour matrix is not declared: taken as {name}, by its size, as players do")
        white = white_of(bits, is_rgb=is_rgb, is_limited=colours.range == LIMITED and not is_grey)
        if frame.interlaced_frame:
            notes.append("it is interlaced: its fields are enlarged as if they were one picture; deinterlace it first")
        if len(components) < len(frame.format.components) or stream.metadata.get("alpha_mode") == "1":
            notes.append("its transparency is left out")
        if frame.side_data.get("MASTERING_DISPLAY_METADATA"):
            notes.append("the facts of its mastering display are left out")
        matrix = bytes(frame.side_data.get("DISPLAYMATRIX") or b"")
        a, b, _, c, d = struct.unpack("=5i", matrix[:20]) if len(matrix) >= 20 else (1, 0, 0, 0, 1)
        if (a and b) or not (a or b):
            notes.append("it is to be turned by what is no quarter turn: it is not turned")
            a, b, c, d = 1, 0, 0, 1
        self._turn = a, b, c, d
        is_upright = a != 0
        aspect = Fraction(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1)
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        self._step = round(1 / (rate * stream.time_base)) or 1
        seconds = Fraction(self._container.duration or 0, 1_000_000)
        if stream.duration is not None:
            seconds = stream.duration * stream.time_base
        return Facts(
            context.name,
            self._size if is_upright else self._size[::-1],
            frame.format.name,
            bits,
            white,
            colours,
            Fraction(stream.time_base),
            rate,
            stream.frames or round(seconds * rate),
            aspect if is_upright else 1 / aspect,
            tuple(notes),
        )


def video_stream(container: Any, path: Path) -> Any:
    """Return the film of a file: its first video stream that is no cover."""
    streams = [stream for stream in container.streams.video if not is_cover(stream)]
    if not streams:
        kinds = " and ".join(sorted({stream.type for stream in container.streams}))
        held = f"only {kinds}" if kinds else "nor sound: its index is missing, or it was cut off"
        raise SrkdError(f"{path} holds no film, {held}: give a file with a video stream")
    if streams[0].codec_context is None:
        raise SrkdError(f"{path}: this PyAV has no decoder for its video stream: convert it to H.264 or FFV1")
    return streams[0]


def is_cover(stream: Any) -> bool:
    """Return True for a picture that belongs to the file, such as the cover of an album."""
    return "attached_pic" in str(stream.disposition)


def stated_colours(frame: Any, context: Any) -> Colours:
    """Return what the frame states, else what the stream does."""

    def declared(name: str, unspecified: int = UNSPECIFIED) -> int:
        values = (int(getattr(source, name) or unspecified) for source in (frame, context))
        return next((value for value in values if value != unspecified), unspecified)

    value_range = FULL if frame.format.name.startswith("yuvj") else declared("color_range", 0) or LIMITED
    return Colours(declared("colorspace"), value_range, declared("color_primaries"), declared("color_trc"))


def resolved(colours: Colours, size: tuple[int, int]) -> Colours:
    """Return the colours with the matrix decided, from the size where the film does not state it."""
    if colours.matrix not in (RGB, UNSPECIFIED):
        return colours
    return replace(colours, matrix=BT709 if size[0] >= HD[0] or size[1] >= HD[1] else BT601)


def rgb_of(frame: Any, facts: Facts) -> Tensor:
    """Return a frame of PyAV as it is stored, RGB (1,3,H,W) in [0,1], as swscale converts it."""
    frame.colorspace, frame.color_range = facts.colours.matrix, facts.colours.range
    with av_errors(f"frames of {frame.format.name} cannot be read"):
        samples = frame.reformat(format=rgb_format(facts.bits), interpolation=SCALING).to_ndarray()
    return torch.from_numpy(samples.astype(np.float32)).permute(2, 0, 1)[None].div(facts.white).clamp_(0, 1)


def rgb_format(bits: int) -> str:
    """Return FFmpeg's format of RGB for samples of so many bits."""
    return "rgb24" if bits == 8 else "rgb48le"


def white_of(bits: int, *, is_rgb: bool, is_limited: bool) -> int:
    """Return the value of white in `rgb_format`: swscale shifts samples to 16 bit, but scales those of RGB."""
    if bits == 8 or is_rgb:
        return 255 if bits == 8 else 65535
    return WHITE_OF_LIMITED if is_limited else ((1 << bits) - 1) << (16 - bits)


def turned(rgb: Tensor, turn: tuple[int, int, int, int]) -> Tensor:
    """Return a frame (1,3,H,W) as it is shown: (x, y) is shown at (ax + cy, bx + dy) of the turn a, b, c, d.

    They are the numbers of FFmpeg's AV_FRAME_DATA_DISPLAYMATRIX; either b and c are zero, or a and d.
    """
    a, b, c, d = turn
    if not a:
        rgb, a, d = rgb.transpose(-2, -1), c, b
    return rgb.flip([axis for axis, factor in ((-1, a), (-2, d)) if factor < 0])
