"""Small films for the tests, made with PyAV, and what one reads back of them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressor.video.colours import Colours, Layout, resolved, to_planes
from compressor.video.encoding import Encoding, SegmentEncoder
from compressor.video.joining import decoding_times, packet_of
from compressor.video.reading import Film, FilmFrame

PLAIN, OF_HD = Layout("420", 8), Colours(1, 1, 1, 1)
NTSC_FILM = Fraction(24000, 1001)


def require_av() -> Any:
    """Return PyAV, or skip the test by name."""
    return pytest.importorskip("av", reason="srkd[video] is not installed")


def picture(number: int, size: tuple[int, int] = (64, 48)) -> torch.Tensor:
    """Return an RGB picture of smooth colours, another one for each number."""
    noise = torch.rand((1, 3, 3, 4), generator=torch.Generator().manual_seed(number))
    large = torch.nn.functional.interpolate(noise, size=size[::-1], mode="bicubic", align_corners=False)
    return large.clamp(0, 1) * 0.8 + 0.1


def make_film(
    path: Path,
    pictures: Sequence[torch.Tensor],
    times: Sequence[int] | None = None,
    *,
    codec: str = "ffv1",
    crf: int = 10,
    layout: Layout = PLAIN,
    colours: Colours = OF_HD,
    time_base: Fraction = Fraction(1, 24000),
    rate: Fraction = NTSC_FILM,
    pixel_aspect: Fraction = Fraction(1),
    mastering: str = "",
    light_level: str = "",
    sound_seconds: float = 0,
    subtitles: Sequence[str] = (),
) -> Path:
    """Write a film of RGB pictures; `times` are ticks of the time base, by default those of the rate."""
    av = require_av()
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (pictures[0].shape[-1], pictures[0].shape[-2])
    times = times or [round(number / rate / time_base) for number in range(len(pictures))]
    encoding = Encoding(codec, crf, size, layout, colours, time_base, rate, pixel_aspect, mastering, light_level)
    encoder = SegmentEncoder(encoding)
    packets = []
    for image, pts in zip(pictures, times, strict=True):
        packets += encoder.add(to_planes(image, layout, resolved(colours, size, layout, path)), pts)
    packets += encoder.end()
    with av.open(str(path), "w") as out:
        stream = out.add_stream(encoder._context.name, rate=rate, options=encoding.options())
        encoding.set_up(stream.codec_context)
        stream.time_base = time_base
        sound = _sound_stream(out) if sound_seconds else None
        texts = _text_stream(out, path) if subtitles else None
        out.start_encoding()
        if sound is not None:
            _add_sound(out, sound, sound_seconds)
        for number, text in enumerate(subtitles):
            content = text.encode()
            packet = packet_of(len(content).to_bytes(2, "big") + content if path.suffix == ".mp4" else content)
            packet.pts = packet.dts = number * 1000
            packet.duration, packet.time_base, packet.stream = 500, Fraction(1, 1000), texts
            out.mux(packet)
        for packet, dts in zip(packets, decoding_times([packet.pts for packet in packets]), strict=True):
            packet.dts, packet.time_base, packet.stream = dts, time_base, stream
            out.mux(packet)
    return path


def remux(source: Path, path: Path, **options: str) -> Path:
    """Copy all streams to another container."""
    av = require_av()
    with av.open(str(source)) as film, av.open(str(path), "w", options=options) as out:
        copies = {stream.index: out.add_stream_from_template(stream, opaque=True) for stream in film.streams}
        for packet in film.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                out.mux(packet)
    return path


def _sound_stream(out: Any) -> Any:
    stream = out.add_stream("aac", rate=44100)
    stream.layout = "mono"
    stream.metadata["language"] = "fin"
    return stream


def _add_sound(out: Any, stream: Any, seconds: float) -> None:
    av = require_av()
    for start in range(0, int(seconds * 44100), 1024):
        wave = np.sin(2 * np.pi * 440 * np.arange(start, start + 1024) / 44100).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def _text_stream(out: Any, path: Path) -> Any:
    if not hasattr(out, "add_mux_stream"):
        pytest.skip("this PyAV makes no subtitles")
    stream = out.add_mux_stream("mov_text" if path.suffix == ".mp4" else "subrip")
    stream.metadata["language"] = "swe"
    return stream


def frames_of(path: Path) -> list[FilmFrame]:
    with Film(path) as film:
        return list(film.frames())


def packets_of(path: Path, kind: str) -> list[tuple[bytes, Fraction]]:
    """Return the packets of the first stream of a kind, each with its time in seconds."""
    av = require_av()
    with av.open(str(path)) as film:
        stream = next(stream for stream in film.streams if stream.type == kind)
        return [(bytes(packet), packet.pts * packet.time_base) for packet in film.demux(stream) if packet.size]


def streams_of(path: Path) -> list[tuple[str, str, str | None]]:
    """Return kind, codec and language of each stream."""
    av = require_av()
    with av.open(str(path)) as film:
        return [(each.type, each.codec_context.name, each.metadata.get("language")) for each in film.streams]
