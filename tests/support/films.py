"""Small films for the tests, made with PyAV, and what one reads back of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressor.video.library import SCALING
from compressor.video.reading import Colours, Film, FilmFrame
from compressor.video.writing import packet_of

OF_HD = Colours(1, 1, 1, 1)
NTSC_FILM = Fraction(24000, 1001)
ENCODERS = {"ffv1": "ffv1", "h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9"}


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
    pixel_format: str = "yuv420p",
    colours: Colours = OF_HD,
    pixel_aspect: Fraction = Fraction(1),
    sound_seconds: float = 0,
    subtitles: Sequence[str] = (),
    **options: str,
) -> Path:
    """Write a film of RGB pictures; `times` are in 1/24000 s, by default those of 24000/1001 frames a second."""
    av, time_base = require_av(), Fraction(1, 24000)
    path.parent.mkdir(parents=True, exist_ok=True)
    # By default mp4 writes a late start in milliseconds.
    ticks = {"movie_timescale": "24000"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", container_options=ticks) as out:
        options = options if codec == "ffv1" else {"crf": "10", **options}
        stream = out.add_stream(ENCODERS[codec], rate=NTSC_FILM, options=options)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = pictures[0].shape[-1], pictures[0].shape[-2], pixel_format
        context.time_base = stream.time_base = time_base
        context.sample_aspect_ratio = pixel_aspect
        context.colorspace, context.color_range = colours.matrix, colours.range
        context.color_primaries, context.color_trc = colours.primaries, colours.transfer
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
        for number, image in enumerate(pictures):
            frame = coded_frame(image, pixel_format, colours)
            frame.pts, frame.time_base = times[number] if times else 1001 * number, time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def coded_frame(image: torch.Tensor, pixel_format: str, colours: Colours) -> Any:
    """Return RGB (1,3,H,W) as a frame of PyAV in a pixel format, as swscale converts it."""
    av, is_deep = require_av(), "le" in pixel_format
    samples = (image[0].permute(1, 2, 0) * (65280 if is_deep else 255)).round().numpy()
    samples = np.ascontiguousarray(samples.astype(np.uint16 if is_deep else np.uint8))
    frame = av.VideoFrame.from_ndarray(samples, format="rgb48le" if is_deep else "rgb24")
    frame.colorspace, frame.color_range = colours.matrix, colours.range
    return frame.reformat(format=pixel_format, interpolation=SCALING)


def decoded(path: Path) -> list[Any]:
    """Return the frames as PyAV has them."""
    av = require_av()
    with av.open(str(path)) as film:
        return list(film.decode(video=0))


def remux(
    source: Path,
    path: Path,
    *,
    kind: str | None = None,
    change: Callable[[int, bytes], bytes] | None = None,
    **options: str,
) -> Path:
    """Copy all streams to another container, or the packets of one kind only; `change` gives each other bytes."""
    av = require_av()
    with av.open(str(source)) as film, av.open(str(path), "w", options=options) as out:
        copies = {stream.index: out.add_stream_from_template(stream, opaque=True) for stream in film.streams}
        for number, packet in enumerate(film.demux()):
            if packet.size and kind in (None, packet.stream.type):
                written = packet
                if change is not None:
                    written = packet_of(change(number, bytes(packet)))
                    written.pts, written.dts, written.time_base = packet.pts, packet.dts, packet.time_base
                written.stream = copies[packet.stream_index]
                out.mux(written)
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
