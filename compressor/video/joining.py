"""The film that is written: encoded segments one after the other, with the other streams of the source copied."""

from __future__ import annotations

import heapq
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from compressor.base.errors import SrkdError
from compressor.images.suffixes import CONTAINER_OF_SUFFIX
from compressor.video.encoding import CODECS, GLOBAL_HEADER, Encoding
from compressor.video.library import address_of, av_errors, load_av
from compressor.video.reading import is_cover


@dataclass(frozen=True)
class PacketRecord:
    """An encoded frame in a file of packets: its time, its bytes, and whether decoding can begin with it."""

    pts: int
    start: int
    length: int
    is_key: bool


@dataclass(frozen=True)
class Segment:
    """Encoded frames in a file, in the order of the encoder; `durations` are in the order of their times."""

    path: Path
    header: bytes
    packets: tuple[PacketRecord, ...]
    durations: tuple[int, ...]


@dataclass(frozen=True)
class Streams:
    """The source's other streams that are copied, and a line about each that is not."""

    copied: tuple[str, ...]
    left_out: tuple[str, ...]
    numbers: tuple[int, ...]
    """The numbers of those that are copied."""


def other_streams(source: Path, suffix: str) -> Streams:
    """Return what becomes of the source's other streams in the container of a suffix; hours may pass before they are
    copied, so that each is tried first.
    """
    copied, left_out, container = [], [], CONTAINER_OF_SUFFIX[suffix]
    with (
        av_errors(f"{source} cannot be read"),
        load_av().open(address_of(source), metadata_errors="replace") as original,
    ):
        film, packets = _film_of(original), _first_packets(original)
        for stream in original.streams:
            if stream.index == film.index:
                continue
            reason = _obstacle(stream, packets.get(stream.index, []), container)
            if reason is None:
                copied.append(stream)
            else:
                left_out.append(f"{_title(stream)} is left out: {reason}")
        return Streams(tuple(map(_title, copied)), tuple(left_out), tuple(stream.index for stream in copied))


def join(
    segments: Sequence[Segment], encoding: Encoding, source: Path, streams: Streams, output: Path, suffix: str
) -> None:
    """Write the film to `output` in the container of `suffix`, other streams of the source packet by packet."""
    av = load_av()
    container = CONTAINER_OF_SUFFIX[suffix]
    with av_errors(f"{source} cannot be read"):
        original = av.open(address_of(source), metadata_errors="replace")
    with original, av_errors(f"{output.name} cannot be written", but_writing=True):
        copied = [original.streams[number] for number in streams.numbers]
        options = {"fflags": "+bitexact"}
        if container in ("mp4", "mov"):
            # A late start is written in these ticks, by default milliseconds.
            options["movie_timescale"] = str(max(encoding.time_base.denominator, 1000))
        target = av.open(str(output), "w", format=container, container_options=options)
        try:
            target.metadata.update(_kept_metadata(original.metadata))
            stream = _add_video(target, container, encoding, segments[0].header, _film_of(original))
            others = {each.index: _copy_of(target, each) for each in copied}
            if hasattr(original, "chapters") and (chapters := original.chapters()):
                target.set_chapters(chapters)
            target.start_encoding()
            frames = _video_packets(segments, encoding, stream)
            # In the order of their times, so that the muxer holds few packets.
            for packet in heapq.merge(frames, _other_packets(original, copied, others), key=_moment):
                target.mux_one(packet)
        finally:
            target.close()


def _film_of(original: Any) -> Any:
    return next(stream for stream in original.streams.video if not is_cover(stream))


TRIED_PACKETS, READ_PACKETS = 3, 1000
"""Packets of each stream that are tried, and packets of the film in which they are looked for."""


def _first_packets(original: Any) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    with suppress(load_av().error.FFmpegError):  # a damaged beginning is told when the frames are read
        for packet in islice(original.demux(), READ_PACKETS):
            packets = found.setdefault(packet.stream_index, [])
            if packet.size and len(packets) < TRIED_PACKETS:
                packets.append(packet)
    return found


def _title(stream: Any) -> str:
    context = stream.codec_context
    name = getattr(context, "name", None) or "unknown"
    language = stream.metadata.get("language")
    return f"{stream.type} stream {stream.index} ({name}{f', {language}' if language else ''})"


def _obstacle(stream: Any, packets: Sequence[Any], container: str) -> str | None:
    """Return why a container does not take a stream, by writing its header and first packets in memory."""
    av = load_av()
    if stream.type == "video" and not is_cover(stream):
        return "only the first film of a file is enlarged"
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            copy = _copy_of(trial, stream)
            trial.start_encoding()
            for packet in packets:
                if _has_time(packet):
                    packet.stream = copy
                    trial.mux_one(packet)
    except (av.error.FFmpegError, ValueError, TypeError, AttributeError, NotImplementedError):
        return f"{container} does not take it"
    return None


def _copy_of(target: Any, stream: Any) -> Any:
    """Add a stream like the source's."""
    if stream.type == "attachment":
        metadata = stream.metadata
        name, kind = metadata.get("filename", "attachment"), metadata.get("mimetype", "application/octet-stream")
        return target.add_attachment(name, kind, stream.data)
    copy = target.add_stream_from_template(stream, opaque=True)
    copy.metadata.update(_kept_metadata(stream.metadata))
    copy.time_base = stream.time_base
    with suppress(AttributeError, TypeError):  # older PyAV cannot set it
        copy.disposition = getattr(stream.disposition, "value", stream.disposition)
    return copy


def _add_video(target: Any, container: str, encoding: Encoding, header: bytes, source: Any) -> Any:
    """Add the video stream. Its encoder is opened for its header only, which must be that of the segments."""
    stream = target.add_stream(CODECS[encoding.codec].encoder, rate=encoding.rate, options=encoding.options())
    context = stream.codec_context
    encoding.set_up(context)
    context.flags |= GLOBAL_HEADER
    if encoding.codec == "hevc" and container in ("mp4", "mov"):
        context.codec_tag = "hvc1"  # Apple's players know HEVC by this name only
    stream.time_base = encoding.time_base
    stream.metadata.update(_kept_metadata(source.metadata))
    context.open()
    if bytes(context.extradata or b"") != header:
        raise SrkdError("the encoder of the first segments was another one: delete the folder of segments, begin anew")
    return stream


WRITTEN = (
    "encoder", "major_brand", "minor_version", "compatible_brands", "vendor_id", "handler_name", "duration", "rotate",
    "alpha_mode",
)  # fmt: skip


def _kept_metadata(metadata: Any) -> dict[str, str]:
    """Return the facts that hold for the copy, too: not which program wrote it, nor its sizes."""
    return {
        name: value
        for name, value in metadata.items()
        if name.lower() not in WRITTEN and not name.startswith(("_STATISTICS", "BPS", "NUMBER_OF_", "DURATION"))
    }


def decoding_times(presented: Sequence[int]) -> list[int]:
    """Return the decoding time of each packet, from the presentation times in the order of decoding.

    They rise, and none is after its own presentation: the n-th packet is decoded when the (n - d)-th frame is shown,
    with the least d for which that holds.
    """
    shown = sorted(presented)
    rank = {pts: index for index, pts in enumerate(shown)}
    delay = max(0, *(number - rank[pts] for number, pts in enumerate(presented)))
    step = shown[1] - shown[0] if len(shown) > 1 else 1
    return [shown[0] - (delay - number) * step for number in range(min(delay, len(shown)))] + shown[
        : len(shown) - delay
    ]


def packet_of(content: bytes) -> Any:
    """Return a packet of PyAV with a copy of some bytes.

    `av.Packet(content)` only borrows them, and a muxer that still holds the packet would write freed memory.
    """
    packet = load_av().Packet(len(content))
    packet.update(content)
    return packet


def _video_packets(segments: Sequence[Segment], encoding: Encoding, stream: Any) -> Iterator[Any]:
    presented = [packet.pts for segment in segments for packet in segment.packets]
    decoded = iter(decoding_times(presented))
    shown = sorted(presented)
    durations = {pts: following - pts for pts, following in pairwise(shown)}
    durations[shown[-1]] = segments[-1].durations[-1]
    for segment in segments:
        with open(segment.path, "rb") as file:
            for record in segment.packets:
                file.seek(record.start)
                packet = packet_of(file.read(record.length))
                packet.pts, packet.dts = record.pts, next(decoded)
                packet.duration, packet.time_base = durations[record.pts], encoding.time_base
                packet.is_keyframe, packet.stream = record.is_key, stream
                yield packet


def _other_packets(original: Any, copied: Sequence[Any], others: dict[int, Any]) -> Iterator[Any]:
    av = load_av()
    streams = [stream for stream in copied if stream.type != "attachment"]
    if not streams:
        return
    with suppress(av.error.FFmpegError):  # the end of a damaged file
        for packet in original.demux(*streams):
            if packet.size and _has_time(packet):
                packet.stream = others[packet.stream_index]
                yield packet


def _has_time(packet: Any) -> bool:
    """Return True if a packet says when it is decoded; a cover, which has no time, gets one."""
    if packet.dts is None and is_cover(packet.stream):
        packet.pts = packet.dts = 0
    return packet.dts is not None


def _moment(packet: Any) -> Fraction:
    return Fraction(packet.dts * packet.time_base)
