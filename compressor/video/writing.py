"""Films that are written: segments encoded on their own, then joined with the copied streams of the source."""

from __future__ import annotations

import heapq
import io
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import Tensor

from compressor.base.errors import UsageError, nearest
from compressor.images.suffixes import CONTAINER_OF_SUFFIX
from compressor.video.library import SCALING, av_errors, load_av, open_container
from compressor.video.reading import WHITE_OF_LIMITED, Colours, Facts, is_cover, resolved, rgb_format, video_stream

DEFAULT_CRF = 16
GLOBAL_HEADER = 1 << 22
"""FFmpeg's flag: the header stands beside the packets and not in them."""
LOST_DEPTH_OR_RESOLUTION = 1 | 2
"""FFmpeg's flags of what a pixel format loses."""

PACKET = struct.Struct("<q?I")
"""What stands before each packet in the file of a segment: its time, whether decoding can begin there, its bytes."""


@dataclass(frozen=True)
class Codec:
    """An encoder of FFmpeg and its options; `most_crf` is the end of its constant quality, None without loss."""

    encoder: str
    options: dict[str, str]
    most_crf: int | None = 51
    suffixes: tuple[str, ...] = (".mp4", ".m4v", ".mov", ".mkv")


CODECS = {
    "h264": Codec("libx264", {"preset": "medium"}),
    "hevc": Codec("libx265", {"preset": "medium", "x265-params": "log-level=none:open-gop=0"}),
    "vp9": Codec("libvpx-vp9", {"b": "0", "row-mt": "1", "cpu-used": "2"}, 63, (".mp4", ".m4v", ".mkv", ".webm")),
    "ffv1": Codec("ffv1", {"level": "3"}, None, (".mkv",)),
}
"""The codecs that are written, by name. All of a segment's frames depend on that segment only."""


@dataclass(frozen=True)
class Encoding:
    """Everything that an encoder is given; equal ones write equal headers, so that their segments can be joined."""

    codec: str
    crf: int
    size: tuple[int, int]
    pixel_format: str
    colours: Colours
    time_base: Fraction
    rate: Fraction
    pixel_aspect: Fraction

    @property
    def is_lossless(self) -> bool:
        return CODECS[self.codec].most_crf is None or self.crf == 0

    @property
    def bits(self) -> int:
        return int(re.sub(r".*p(\d*)(le)?$", r"\1", self.pixel_format) or 8)

    def options(self) -> dict[str, str]:
        codec = CODECS[self.codec]
        return codec.options if codec.most_crf is None else {**codec.options, "crf": str(self.crf)}

    def set_up(self, context: Any) -> None:
        """Give an encoder of PyAV all but its options."""
        context.width, context.height = self.size
        context.pix_fmt = self.pixel_format
        context.time_base, context.framerate = self.time_base, self.rate
        context.sample_aspect_ratio = self.pixel_aspect
        context.colorspace, context.color_range = self.colours.matrix, self.colours.range
        context.color_primaries, context.color_trc = self.colours.primaries, self.colours.transfer
        # PyAV's default is slices, which cost quality in H.264 and do not use all cores.
        context.thread_type = "AUTO"


def encoding_of(
    facts: Facts, scale: int, suffix: str, codec: str | None = None, crf: int = DEFAULT_CRF
) -> tuple[Encoding, list[str]]:
    """Return the encoding of a film's output, and what there is to say about it.

    Without a codec: vp9 for .webm, hevc for more than 8 bit and for HEVC, else h264, which plays everywhere.
    """
    if codec is None:
        codec = "vp9" if suffix == ".webm" else "hevc" if facts.bits > 8 or facts.codec == "hevc" else "h264"
    _require_codec(codec, suffix, crf)
    av = load_av()
    formats = [each.name for each in av.Codec(CODECS[codec].encoder, "w").video_formats]
    planar = [name for name in formats if re.fullmatch(r"yuv4(20|22|44)p(10le|12le|16le)?", name)]
    # Monochrome H.264 plays hardly anywhere.
    source = facts.pixel_format.replace("gray", "yuv420p")
    best, loss = av.codec.codec.find_best_pix_fmt_of_list(planar, source)
    lines = []
    if loss & LOST_DEPTH_OR_RESOLUTION:
        lines.append(f"{codec} is written as {best.name}, which holds less than {facts.pixel_format}")
    size = width, height = facts.size[0] * scale, facts.size[1] * scale
    if "444" not in best.name:
        size = width + width % 2, height + (height % 2 if "420" in best.name else 0)
    if size != (width, height):
        lines.append(f"{size[0]}x{size[1]} in place of {width}x{height}: {best.name} needs even sizes")
    colours = resolved(facts.colours, size)
    return Encoding(codec, crf, size, best.name, colours, facts.time_base, facts.rate, facts.pixel_aspect), lines


def _require_codec(name: str, suffix: str, crf: int) -> None:
    here = [codec for codec, row in CODECS.items() if row.encoder in load_av().codecs_available]
    if name not in here:
        raise UsageError(f"--codec {name} is not written by this PyAV: {nearest(name, here)}")
    suffixes = CODECS[name].suffixes
    if suffix not in suffixes:
        raise UsageError(f"--codec {name}: {suffix} does not hold it; write {' or '.join(suffixes)}")
    most = CODECS[name].most_crf
    if most is not None and crf > most:
        raise UsageError(f"--crf {crf}: {name} takes 0 to {most}; lower is better")


class SegmentWriter:
    """An encoder that begins anew, and the file of its packets: nothing depends on frames of other segments."""

    def __init__(self, encoding: Encoding, file: IO[bytes]) -> None:
        codec, self._file = CODECS[encoding.codec], file
        with av_errors(f"the encoder {codec.encoder} does not start"):
            self._encoder = load_av().CodecContext.create(codec.encoder, "w")
            encoding.set_up(self._encoder)
            self._encoder.flags |= GLOBAL_HEADER
            self._encoder.options = encoding.options()
            self._encoder.open()
        self._conversion = ColourConversion(encoding)

    def add(self, rgb: Tensor | None, pts: int) -> None:
        """Encode a frame (1,3,H,W) in [0,1]; None is the one before once more."""
        if rgb is not None:
            self._frame = self._conversion.frame(rgb)
        self._frame.pts = pts
        self._encode(self._frame)

    def end(self) -> None:
        """Encode what the encoder still holds."""
        self._encode(None)

    def _encode(self, frame: Any) -> None:
        with av_errors("a frame cannot be encoded"):
            packets = self._encoder.encode(frame)
        for packet in packets:
            self._file.write(PACKET.pack(packet.pts, packet.is_keyframe, packet.size))
            self._file.write(packet)


class ColourConversion:
    """A graph of filters that makes RGB the samples that are encoded, with chroma where H.264 and HEVC have it.

    `VideoFrame.reformat` would put chroma between two columns.
    """

    def __init__(self, encoding: Encoding) -> None:
        self._encoding, colours = encoding, encoding.colours
        width, height = encoding.size
        tags = f"out_color_matrix={colours.matrix}:out_range={colours.range}:out_chroma_loc=left"
        self._graph = load_av().filter.Graph()
        self._graph.link_nodes(
            self._graph.add_buffer(
                width=width, height=height, format=rgb_format(encoding.bits), time_base=encoding.time_base
            ),
            self._graph.add("scale", f"{tags}:flags={SCALING}"),
            self._graph.add("format", f"pix_fmts={encoding.pixel_format}"),
            self._graph.add("buffersink"),
        ).configure()

    def frame(self, rgb: Tensor) -> Any:
        """Return RGB (1,3,H,W) in [0,1] as a frame of PyAV; a smaller one repeats its last row and column."""
        (width, height), bits = self._encoding.size, self._encoding.bits
        samples = rgb[0].clamp(0, 1).mul(255 if bits == 8 else WHITE_OF_LIMITED).round_().permute(1, 2, 0).cpu().numpy()
        more = (0, height - samples.shape[0]), (0, width - samples.shape[1]), (0, 0)
        samples = np.pad(samples, more, "edge").astype(np.uint8 if bits == 8 else np.uint16)
        self._graph.push(load_av().VideoFrame.from_ndarray(samples, format=rgb_format(bits)))
        frame = self._graph.pull()
        frame.time_base = self._encoding.time_base
        return frame


def other_streams(source: Path, suffix: str) -> tuple[dict[int, str], list[str]]:
    """Return the titles of the source's other streams that a container takes, by number, and lines about the others.

    Hours may pass before they are copied, so that each is tried first.
    """
    av, container = load_av(), CONTAINER_OF_SUFFIX[suffix]
    copied, left_out = dict[int, str](), list[str]()
    with open_container(source, f"{source} cannot be read") as original:
        film = video_stream(original, source)
        for stream in original.streams:
            if stream.index == film.index:
                continue
            language = stream.metadata.get("language")
            name = getattr(stream.codec_context, "name", "unknown") + (f", {language}" if language else "")
            title = f"{stream.type} stream {stream.index} ({name})"
            if stream.type == "video" and not is_cover(stream):
                left_out.append(f"{title} is left out: only the first film of a file is enlarged")
                continue
            try:
                with av.open(io.BytesIO(), "w", format=container) as trial:
                    _copy_of(trial, stream)
                    trial.start_encoding()
            except (av.error.FFmpegError, ValueError, NotImplementedError):
                left_out.append(f"{title} is left out: {container} does not take it")
            else:
                copied[stream.index] = title
    return copied, left_out


def join(segments: Sequence[Path], encoding: Encoding, source: Path, numbers: Iterable[int], output: Path) -> None:
    """Write the film of some segments to `output`, with the streams of the source of some numbers."""
    container, options = CONTAINER_OF_SUFFIX[output.suffix.lower()], {"fflags": "+bitexact"}
    if container in ("mp4", "mov"):
        # A late start is written in these ticks, by default milliseconds.
        options["movie_timescale"] = str(max(encoding.time_base.denominator, 1000))
    with (
        av_errors(f"the film of {source.name} cannot be written", but_writing=True),
        open_container(source, f"{source} cannot be read") as original,
        load_av().open(str(output), "w", format=container, container_options=options) as target,
    ):
        target.metadata.update(original.metadata)
        film = target.add_stream(CODECS[encoding.codec].encoder, rate=encoding.rate, options=encoding.options())
        encoding.set_up(film.codec_context)
        film.time_base = encoding.time_base
        if encoding.codec == "hevc" and container in ("mp4", "mov"):
            film.codec_context.codec_tag = "hvc1"  # Apple's players know HEVC by this name only
        facts = video_stream(original, source).metadata
        film.metadata.update({name: facts[name] for name in ("language", "title") if name in facts})
        copies = {number: _copy_of(target, original.streams[number]) for number in numbers}
        if chapters := original.chapters():
            target.set_chapters(chapters)
        target.start_encoding()
        # In the order of their times, so that the muxer holds few packets.
        both = _film_packets(segments, encoding.time_base, film), _copied_packets(original, copies)
        for packet in heapq.merge(*both, key=lambda packet: packet.dts * packet.time_base):
            target.mux_one(packet)


def _copy_of(target: Any, stream: Any) -> Any:
    """Add a stream like the source's; the film itself has another codec."""
    copy = target.add_stream_from_template(stream, opaque=True)
    copy.metadata.update(stream.metadata)
    if stream.codec_context is not None:
        copy.time_base, copy.disposition = stream.time_base, stream.disposition.value
    return copy


def _film_packets(segments: Sequence[Path], time_base: Fraction, stream: Any) -> Iterator[Any]:
    decoded = decoding_times([packet.pts for packet in _read_packets(segments)])
    for packet, dts in zip(_read_packets(segments), decoded, strict=True):
        packet.dts, packet.time_base, packet.stream = dts, time_base, stream
        yield packet


def _read_packets(segments: Sequence[Path]) -> Iterator[Any]:
    for path in segments:
        with open(path, "rb") as file:
            while head := file.read(PACKET.size):
                pts, is_key, size = PACKET.unpack(head)
                packet = packet_of(file.read(size))
                packet.pts, packet.is_keyframe = pts, is_key
                yield packet


def decoding_times(presented: Sequence[int]) -> list[int]:
    """Return the decoding time of each packet, from the presentation times in the order of decoding.

    They rise, and none is after its own presentation: the n-th packet is decoded when the (n - d)-th frame is shown,
    with the least d for which that holds. Those of encoders overlap between segments, and x265's are wrong in short
    ones.
    """
    shown = sorted(presented)
    rank = {pts: index for index, pts in enumerate(shown)}
    delay = max(number - rank[pts] for number, pts in enumerate(presented))
    step = shown[1] - shown[0] if len(shown) > 1 else 1
    return [shown[0] - (delay - number) * step for number in range(delay)] + shown[: len(shown) - delay]


def packet_of(content: bytes) -> Any:
    """Return a packet of PyAV with a copy of some bytes.

    `av.Packet(content)` only borrows them, and a muxer that still holds the packet would write freed memory.
    """
    packet = load_av().Packet(len(content))
    packet.update(content)
    return packet


def _copied_packets(original: Any, copies: dict[int, Any]) -> Iterator[Any]:
    streams = [original.streams[number] for number in copies if original.streams[number].type != "attachment"]
    with suppress(load_av().error.FFmpegError):  # the end of a damaged file
        for packet in original.demux(streams) if streams else ():
            if packet.dts is None and packet.size and is_cover(packet.stream):
                packet.pts = packet.dts = 0
            if packet.size and packet.dts is not None:
                packet.stream = copies[packet.stream_index]
                yield packet
