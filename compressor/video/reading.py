"""A film's frames, one after the other: planes as they were stored, times, and what the film says of itself."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressor.base.errors import SrkdError
from compressor.base.files import require_regular
from compressor.video.colours import UNSPECIFIED, Chroma, Colours, FramePlanes, Layout, resolved, to_rgb
from compressor.video.library import address_of, av_errors, load_av

FLOATS = re.compile(r"f(16|32)(le|be)?$")
"""The end of the names of pixel formats whose samples are floats."""
CHROMA_OF_FACTORS: dict[tuple[int, int], Chroma] = {(1, 1): "444", (2, 1): "422", (2, 2): "420"}


@dataclass(frozen=True)
class FilmFrame:
    """A frame as it was stored, and when it is shown, in ticks of the film's time base."""

    planes: FramePlanes
    pts: int
    duration: int

    def equals(self, other: FilmFrame | None) -> bool:
        """Return True if both hold the same samples."""
        return other is not None and all(map(np.array_equal, self.planes, other.planes))


@dataclass(frozen=True)
class Facts:
    """The facts that a film states in headers and first frame. `size` is (width, height) of a frame as stored."""

    path: Path
    codec: str
    size: tuple[int, int]
    layout: Layout
    colours: Colours
    time_base: Fraction
    rate: Fraction
    frames: int
    """The number of frames that the headers tell, or that follows from the duration; 0 if it is unknown."""
    pixel_aspect: Fraction
    turns: int
    """Quarter turns, counterclockwise, by which players turn the frames."""
    is_mirrored: bool = False
    """Whether players then swap left and right."""
    mastering: str = ""
    """The mastering display of HDR, as encoders take it; empty if none is stated."""
    light_level: str = ""
    """The most light of a sample and of a frame on average, in cd/m²; empty if none is stated."""
    notes: tuple[str, ...] = ()

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height of a frame as it is shown."""
        width, height = self.size
        return (width, height) if self.turns % 2 == 0 else (height, width)

    @property
    def shown_aspect(self) -> Fraction:
        """Width of a pixel by its height in a frame as it is shown."""
        return self.pixel_aspect if self.turns % 2 == 0 else 1 / self.pixel_aspect

    def rgb(self, frame: FilmFrame) -> Tensor:
        """Return a frame as it is shown, RGB (1,3,H,W) in [0,1]."""
        shown = torch.rot90(to_rgb(frame.planes, self.layout, self.colours), self.turns, (-2, -1))
        return (shown.flip(-1) if self.is_mirrored else shown).contiguous()


@dataclass
class Film:
    """An open film. `facts` are known once the first frame was read; `frames` reads it from its beginning, once."""

    path: Path
    lost: int = 0
    """Packets and frames that could not be decoded."""
    first_lost: int | None = None
    """Frames before the first lost one."""
    without_time: int = 0
    """Frames whose time is not stated, or not after the one before; they follow it."""
    read: int = 0
    """Frames that were read in order."""
    hidden: int = 0
    """Frames that the film holds and, by its edit list, does not show."""
    facts: Facts = field(init=False)
    _decoded: Iterator[Any] = field(init=False, repr=False)
    _last_pts: int | None = None
    _container: Any = field(default=None, repr=False)
    _stream: Any = field(default=None, repr=False)
    _ahead: list[Any] = field(default_factory=list, repr=False)

    def __enter__(self) -> Film:
        av = load_av()
        require_regular(self.path)
        if not self.path.is_file():
            raise SrkdError(f"{self.path}: no such file")
        with av_errors(f"{self.path} cannot be read as a film"):
            self._container = av.open(address_of(self.path), metadata_errors="replace")
        try:
            self._stream = self._video_stream()
            self._stream.thread_type = "AUTO"
            self._decoded = self._decode()
            first = next(self._decoded, None)
            if first is None:
                lost = f", and {self.lost} packets that cannot be decoded" if self.lost else ""
                raise SrkdError(f"{self.path} holds no frames{lost}: give a film with pictures")
            self._ahead = [first]
            self.facts = self._read_facts(first)
        except BaseException:
            self._container.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def frames(self) -> Iterator[FilmFrame]:
        """Yield the frames in the order of their times."""
        while self._ahead:
            self.read += 1
            yield self._stored(self._ahead.pop())
            following = next(self._decoded, None)
            if following is not None:
                self._ahead.append(following)

    def frames_from(self, pts: int) -> Iterator[FilmFrame]:
        """Yield the frames from a time on, without reading all before it; a later call ends those of this one."""
        av = load_av()
        with suppress(av.error.FFmpegError):  # a container without an index is read from where it is
            self._container.seek(pts, stream=self._stream, backward=True)
        self._last_pts = None
        self._ahead = []
        for frame in self._decode():
            moment = frame.pts if frame.pts is not None else frame.dts
            if moment is not None and moment >= pts:
                yield self._stored(frame)

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines about what was noticed while the frames were read."""
        found = []
        if self.lost:
            found.append(f"{self.lost} damaged packets gave no frame, the first after frame {self.first_lost}")
        stated = self._stream.frames
        if self.read < ALMOST_ALL * (stated - self.lost - self.hidden):
            found.append(f"it ends early: {self.read} of the {stated} frames that its headers tell")
        if self.without_time:
            found.append(f"{self.without_time} frames have no time of their own, and follow the one before")
        return tuple(found)

    def _video_stream(self) -> Any:
        streams = [stream for stream in self._container.streams.video if not is_cover(stream)]
        if not streams:
            raise SrkdError(f"{self.path} holds no film, {_kinds(self._container)}: give a file with a video stream")
        if streams[0].codec_context is None:
            raise SrkdError(f"{self.path}: this PyAV has no decoder for its video stream: convert it to H.264 or FFV1")
        return streams[0]

    def _decode(self) -> Iterator[Any]:
        """Yield the frames of PyAV; a packet that cannot be decoded is counted, and the rest is read."""
        av = load_av()
        number = 0
        packets = self._container.demux(self._stream)
        while True:
            frames: list[Any] = []
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                self.hidden += packet.is_discard
                frames = packet.decode()
            except av.error.EOFError:
                return
            except (av.error.FFmpegError, ValueError):
                self.lost += 1
                self.first_lost = number if self.first_lost is None else self.first_lost
                if self.lost > MOST_LOST and number == 0:
                    return
            for frame in frames:
                if frame.is_corrupt:
                    self.lost += 1
                    self.first_lost = number if self.first_lost is None else self.first_lost
                number += 1
                yield frame

    def _read_facts(self, frame: Any) -> Facts:
        stream, context = self._stream, self._stream.codec_context
        size, notes = (frame.width, frame.height), list[str]()
        if FLOATS.search(frame.format.name):
            raise SrkdError(
                f"{self.path}: its frames are floats ({frame.format.name}), and 8 to 16 bits are read: convert it"
            )
        layout = layout_of(frame.format)
        stated = Colours(
            _stated(frame, context, "colorspace"),
            _stated(frame, context, "color_range", unspecified=0),
            _stated(frame, context, "color_primaries"),
            _stated(frame, context, "color_trc"),
        )
        if frame.format.name.startswith("yuvj"):
            stated = Colours(stated.matrix, 2, stated.primaries, stated.transfer)
        colours = resolved(stated, size, layout, self.path)
        if layout.chroma not in ("rgb", "grey") and stated.matrix != colours.matrix:
            name = "BT.709" if colours.matrix == 1 else "BT.601"
            notes.append(f"its colour matrix is not stated: taken as {name}, by its size, as players do")
        if frame.interlaced_frame:
            notes.append("it is interlaced: its fields are enlarged as if they were one picture; deinterlace it first")
        has_alpha = any(component.is_alpha for component in frame.format.components)
        if has_alpha or stream.metadata.get("alpha_mode") == "1":  # WebM keeps it beside the frames
            notes.append("its transparency is left out")
        side_data = [frame.side_data[index] for index in range(len(frame.side_data))]
        found = {data.type.name: bytes(data) for data in side_data}
        degrees, is_mirrored = turn_of(found.get("DISPLAYMATRIX", b""))
        if degrees % 90:
            notes.append(f"it is to be turned by {degrees} degrees, which is not a quarter turn: it is not turned")
            degrees, is_mirrored = 0, False
        mastering, light_level = hdr_facts(found)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        seconds = _seconds(stream, self._container)
        return Facts(
            self.path,
            context.name,
            size,
            layout,
            colours,
            Fraction(stream.time_base),
            Fraction(rate),
            stream.frames or round(seconds * rate),
            Fraction(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1),
            degrees // 90 % 4,
            is_mirrored,
            mastering,
            light_level,
            tuple(notes),
        )

    def _stored(self, frame: Any) -> FilmFrame:
        facts = self.facts
        if (frame.width, frame.height) != facts.size or layout_of(frame.format) != facts.layout:
            raise SrkdError(
                f"{self.path} changes at {float((frame.pts or 0) * facts.time_base):.2f} s from {facts.size[0]}x"
                f"{facts.size[1]} {facts.layout.pixel_format} to {frame.width}x{frame.height} {frame.format.name}: "
                "cut it there"
            )
        step = round(1 / (facts.rate * facts.time_base)) or 1
        pts = frame.pts if frame.pts is not None else frame.dts
        if pts is None or (self._last_pts is not None and pts <= self._last_pts):
            self.without_time += 1
            pts = 0 if self._last_pts is None else self._last_pts + (step if pts is None else 1)
        self._last_pts = pts
        return FilmFrame(stored_planes(frame, facts.layout), pts, frame.duration or step)


ALMOST_ALL = 0.95
"""Share of the stated frames from which on a film is whole: cuts in its edit list may leave some out."""
MOST_LOST = 500
"""A film without a frame after so many packets has none."""


def is_cover(stream: Any) -> bool:
    """Return True for a picture that belongs to the file, such as the cover of an album."""
    return "attached_pic" in str(stream.disposition)


def layout_of(pixel_format: Any) -> Layout:
    """Return the planar layout that holds a pixel format of PyAV without loss, apart from transparency."""
    components = [component for component in pixel_format.components if not component.is_alpha]
    bits = max(component.bits for component in components)
    # Formats exist for these depths; packed RGB of 5 or 6 bit and palettes become 8 bit.
    bits = next(depth for depth in (8, 10, 12, 16) if bits <= depth)
    if pixel_format.is_rgb or pixel_format.has_palette:
        return Layout("rgb", bits)
    if len(components) == 1:
        return Layout("grey", bits)
    factors = 16 // pixel_format.chroma_width(16), 16 // pixel_format.chroma_height(16)
    return Layout(CHROMA_OF_FACTORS.get(factors, "444"), bits)


def stored_planes(frame: Any, layout: Layout) -> FramePlanes:
    """Return copies of the planes of a frame of PyAV."""
    if frame.format.name.replace("yuvj", "yuv") != layout.pixel_format:
        # Another order of the same samples (nv12, p010, packed RGB, a palette, big endian), or chroma of rare sizes.
        frame = frame.reformat(
            format=layout.pixel_format, src_color_range=frame.color_range, dst_color_range=frame.color_range
        )
    count = 1 if layout.chroma == "grey" else 3
    return tuple(map(partial(_plane, layout=layout), frame.planes[:count]))


def _plane(plane: Any, layout: Layout) -> Any:
    bytes_of_sample = np.dtype(layout.dtype).itemsize
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height]
    return np.ascontiguousarray(rows[:, : plane.width * bytes_of_sample]).view(layout.dtype)


def _stated(frame: Any, context: Any, name: str, unspecified: int = UNSPECIFIED) -> int:
    """Return what the frame states, else what the stream does."""
    for source in (frame, context):
        value = getattr(source, name, None)
        if value is not None and int(value) != unspecified:
            return int(value)
    return unspecified


def _seconds(stream: Any, container: Any) -> Fraction:
    if stream.duration is not None:
        return Fraction(stream.duration) * Fraction(stream.time_base)
    return Fraction(container.duration or 0, 1_000_000)


def _kinds(container: Any) -> str:
    kinds = sorted({stream.type for stream in container.streams})
    return f"only {' and '.join(kinds)}" if kinds else "nor sound: its index is missing, or it was cut off"


def turn_of(matrix: bytes) -> tuple[int, bool]:
    """Return the degrees, counterclockwise, by which a frame is turned, and whether left and right are swapped then.

    The matrix is FFmpeg's AV_FRAME_DATA_DISPLAYMATRIX: (x, y) of a frame is shown at (ax + cy, bx + dy), with its nine
    numbers a, b, u, c, d, v, x, y, w. A mirrored one has a negative determinant.
    """
    if len(matrix) < 36:
        return 0, False
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    is_mirrored = a * d - b * c < 0
    return round(-math.degrees(math.atan2(b, -a if is_mirrored else a))), is_mirrored


def hdr_facts(found: Mapping[str, bytes]) -> tuple[str, str]:
    """Return mastering display and light level of a frame as x264 and x265 take them; empty if they are not stated.

    `found` is its side data by name. The layouts are those of AVMasteringDisplayMetadata and AVContentLightMetadata:
    primaries of R, G, B, the white point and luminance as fractions, then whether each is there. Units are 1/50000 and
    1/10000 cd/m² (SMPTE ST 2086).
    """
    mastering, light = found.get("MASTERING_DISPLAY_METADATA", b""), found.get("CONTENT_LIGHT_LEVEL", b"")
    text = ""
    if len(mastering) >= 88:
        numbers = struct.unpack("=22i", mastering[:88])
        values = [
            Fraction(*pair) if pair[1] else Fraction(0) for pair in zip(numbers[:20:2], numbers[1:20:2], strict=True)
        ]
        points = [round(value * 50000) for value in values[:8]]
        least, most = (round(value * 10000) for value in values[8:])
        if all(numbers[20:]):
            red, green, blue, white = (f"({points[at]},{points[at + 1]})" for at in (0, 2, 4, 6))
            text = f"G{green}B{blue}R{red}WP{white}L({most},{least})"
    level = "{},{}".format(*struct.unpack("=2I", light[:8])) if len(light) >= 8 else ""
    return text, "" if level == "0,0" else level
