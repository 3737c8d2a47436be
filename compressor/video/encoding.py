"""Encoders of films: which there are, their settings, and a segment of a film encoded on its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from compressor.base.errors import SrkdError, UsageError, nearest
from compressor.video.colours import Chroma, Colours, FramePlanes, Layout
from compressor.video.library import av_errors, load_av

DEFAULT_CRF = 16


@dataclass(frozen=True)
class Codec:
    """An encoder of FFmpeg and its options; `crf` is the name of the option of constant quality, `most_crf` its end."""

    encoder: str
    options: dict[str, str]
    crf: str | None = "crf"
    most_crf: int = 51


CODECS = {
    "h264": Codec("libx264", {"preset": "medium"}),
    "hevc": Codec("libx265", {"preset": "medium"}),
    "vp9": Codec("libvpx-vp9", {"b": "0", "row-mt": "1", "cpu-used": "2"}, most_crf=63),
    "ffv1": Codec("ffv1", {"level": "3"}, crf=None),
}
"""The codecs that are written, by name. All of a segment's frames depend on that segment only."""


@dataclass(frozen=True)
class Encoding:
    """Everything that an encoder is told; equal ones write equal headers, so that their segments can be joined."""

    codec: str
    crf: int
    size: tuple[int, int]
    layout: Layout
    colours: Colours
    time_base: Fraction
    rate: Fraction
    pixel_aspect: Fraction
    mastering: str = ""
    light_level: str = ""

    @property
    def is_lossless(self) -> bool:
        return CODECS[self.codec].crf is None or self.crf == 0

    def options(self) -> dict[str, str]:
        codec = CODECS[self.codec]
        options = dict(codec.options)
        if codec.crf is not None:
            options[codec.crf] = str(self.crf)
        if self.codec == "h264" and (parameters := self._hdr("mastering-display", "cll")):
            options["x264-params"] = parameters
        if self.codec == "hevc":
            parameters = self._hdr("master-display", "max-cll")
            options["x265-params"] = ":".join(filter(None, ("log-level=none", "open-gop=0", parameters)))
        return options

    def _hdr(self, mastering: str, light_level: str) -> str:
        facts = ((mastering, self.mastering), (light_level, self.light_level))
        return ":".join(f"{name}={value}" for name, value in facts if value)

    def set_up(self, context: Any) -> None:
        """Give an encoder of PyAV all but its options."""
        context.width, context.height = self.size
        context.pix_fmt = self.layout.pixel_format
        context.time_base, context.framerate = self.time_base, self.rate
        context.sample_aspect_ratio = self.pixel_aspect
        context.colorspace, context.color_range = self.colours.matrix, self.colours.range
        # PyAV's default is slices, which cost quality in H.264 and do not use all cores.
        context.thread_type = "AUTO"
        context.color_primaries, context.color_trc = self.colours.primaries, self.colours.transfer


def require_codec(name: str, suffix: str) -> None:
    """Refuse a codec that is unknown, or that this PyAV cannot write."""
    av = load_av()
    here = [codec for codec, row in CODECS.items() if row.encoder in av.codecs_available]
    if name not in here:
        raise UsageError(f"--codec {name} is not written by this PyAV: {nearest(name, here)}")
    if suffix == ".webm" and name != "vp9":
        raise UsageError(f"--codec {name}: .webm holds vp9 only; choose it, or write .mkv")
    if suffix in (".mp4", ".m4v", ".mov") and name == "ffv1":
        raise UsageError(f"--codec ffv1: {suffix} does not hold it; write .mkv")


def default_codec(suffix: str, source: str, bits: int) -> str:
    """Return vp9 for .webm, hevc for more than 8 bit and for HEVC, else h264, which plays everywhere."""
    if suffix == ".webm":
        return "vp9"
    return "hevc" if bits > 8 or source == "hevc" else "h264"


def output_layout(codec: str, source: Layout) -> tuple[Layout, str | None]:
    """Return the layout of an encoder next to that of the source, and a line if it holds less than the source."""
    av = load_av()
    formats = {each.name for each in av.codec.Codec(CODECS[codec].encoder, "w").video_formats or ()}
    wanted: tuple[Chroma, ...] = {
        "grey": ("420",),
        "rgb": ("444", "420"),
        "420": ("420",),
        "422": ("422", "444", "420"),
    }.get(source.chroma, ("444", "420"))  # type: ignore[assignment]
    depths = sorted((8, 10, 12, 16), key=lambda bits: (bits < source.bits, abs(bits - source.bits)))
    for bits in depths:
        for chroma in wanted:
            layout = Layout(chroma, bits)
            if layout.pixel_format in formats:
                less = bits < source.bits or (chroma == "420" and source.chroma not in ("420", "grey"))
                line = f"{codec} is written as {layout.pixel_format}, which holds less than {source.pixel_format}"
                return layout, line if less else None
    raise SrkdError(f"--codec {codec} takes none of the formats 4:2:0, 4:2:2 and 4:4:4: choose another codec")


@dataclass
class SegmentEncoder:
    """An encoder that begins anew: its first frame is a key frame, and nothing depends on earlier ones."""

    encoding: Encoding
    _context: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        av = load_av()
        codec = CODECS[self.encoding.codec]
        with av_errors(f"the encoder {codec.encoder} does not start"):
            self._context = av.CodecContext.create(codec.encoder, "w")
            self.encoding.set_up(self._context)
            self._context.flags |= GLOBAL_HEADER
            self._context.options = self.encoding.options()
            self._context.open()

    @property
    def header(self) -> bytes:
        """The codec's header, which a container holds once."""
        return bytes(self._context.extradata or b"")

    def add(self, planes: FramePlanes, pts: int) -> Iterator[Any]:
        """Encode a frame; yield the packets that are ready."""
        frame = load_av().VideoFrame(*self.encoding.size, self.encoding.layout.pixel_format)
        for target, plane in zip(frame.planes, planes, strict=True):
            rows = np.frombuffer(memoryview(target), np.uint8).reshape(-1, target.line_size)
            content = np.ascontiguousarray(plane).view(np.uint8)
            rows[: content.shape[0], : content.shape[1]] = content
        frame.pts, frame.time_base = pts, self.encoding.time_base
        frame.colorspace, frame.color_range = self.encoding.colours.matrix, self.encoding.colours.range
        with av_errors("a frame cannot be encoded"):
            yield from self._context.encode(frame)

    def end(self) -> Iterator[Any]:
        """Yield the packets of the frames that the encoder still holds."""
        with av_errors("a frame cannot be encoded"):
            yield from self._context.encode(None)


GLOBAL_HEADER = 1 << 22
"""FFmpeg's flag: the header stands beside the packets and not in them."""
