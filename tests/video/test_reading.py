"""Frames become RGB and are encoded again by matrix, range and depth, as published numbers have them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.video.reading import FULL, LIMITED, MATRICES, Colours, Film, rgb_of
from compressor.video.writing import ColourConversion, Encoding
from tests.support.films import coded_frame, frames_of, make_film, picture, require_av

av = require_av()

BARS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "white": (1.0, 1.0, 1.0)}


def coded(rgb: torch.Tensor, pixel_format: str, colours: Colours) -> Any:
    """Return an output as a frame that is encoded."""
    size, tick = (rgb.shape[-1], rgb.shape[-2]), Fraction(1, 25)
    return ColourConversion(Encoding("ffv1", 0, size, pixel_format, colours, tick, 1 / tick, Fraction(1))).frame(rgb)


def planes_of(frame: Any) -> list[np.ndarray[Any, Any]]:
    dtype = np.uint16 if "le" in frame.format.name else np.uint8
    rows = [np.frombuffer(plane, dtype).reshape(plane.height, -1) for plane in frame.planes]
    return [row[:, : plane.width] for row, plane in zip(rows, frame.planes, strict=True)]


@pytest.mark.parametrize(
    ("colours", "pixel_format", "expected"),
    [
        # BT.601: 81 90 240, 145 54 34, 41 240 110 (ITU-R BT.601-7, the 100 % bars in studio range)
        (Colours(6, LIMITED), "yuv420p", {"red": (81, 90, 240), "green": (145, 54, 34), "blue": (41, 240, 110)}),
        (Colours(1, LIMITED), "yuv420p", {"red": (63, 102, 240), "green": (173, 42, 26), "blue": (32, 240, 118)}),
        (Colours(6, FULL), "yuv444p", {"red": (76, 85, 255), "green": (150, 44, 21), "blue": (29, 255, 107)}),
        # 64 + 876 · 0.2627, 512 - 896 · 0.2627 / 1.8814, 512 + 448 (ITU-R BT.2020-2, table 4)
        (Colours(9, LIMITED), "yuv420p10le", {"white": (940, 512, 512), "red": (294, 387, 960)}),
        (Colours(9, FULL), "yuv422p10le", {"white": (1023, 512, 512)}),
    ],
)
def test_bars_have_their_published_values(
    tmp_path: Path, colours: Colours, pixel_format: str, expected: dict[str, tuple[int, ...]]
) -> None:
    for name, values in expected.items():
        bar = torch.tensor(BARS[name]).reshape(1, 3, 1, 1).expand(1, 3, 48, 64)
        film, off = tmp_path / f"{name}.mkv", 3 if "10" in pixel_format else 1
        for plane, value in zip(planes_of(coded(bar, pixel_format, colours)), values, strict=True):
            assert np.abs(plane.astype(int) - value).max() <= off
        make_film(film, [bar], pixel_format=pixel_format, colours=colours)
        assert float((frames_of(film)[0].rgb - bar).abs().max()) < 1.5 / 255


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("value_range", [LIMITED, FULL])
@pytest.mark.parametrize(("pixel_format", "most"), [("yuv444p", 1.2), ("yuv444p12le", 0.1)])
def test_a_round_trip_is_within_rounding(
    tmp_path: Path, matrix: int, value_range: int, pixel_format: str, most: float
) -> None:
    image, colours = picture(3), Colours(matrix, value_range)
    frame = coded(image, pixel_format, colours)
    assert (frame.colorspace, frame.color_range) == (matrix, value_range)
    again = frames_of(stored(tmp_path / "film.mkv", [frame], colours))[0].rgb
    assert float((again - image).abs().mean()) * 255 < most


def test_chroma_lies_on_even_columns_and_between_rows(tmp_path: Path) -> None:
    """As H.264 has it: a ramp of colour keeps its place on both ways. Half a column off is 0.7 levels of C_R."""
    red = torch.linspace(0.1, 0.9, 64).expand(48, 64)
    image = torch.stack([red, torch.full((48, 64), 0.5), torch.full((48, 64), 0.5)])[None]
    colours = Colours(1, LIMITED, 1, 1)
    frame = coded(image, "yuv420p", colours)
    luma = 0.2126 * red + 0.7874 * 0.5
    expected = (128 + 224 * (red - luma) / (2 * (1 - 0.2126)))[::2, ::2].numpy()
    assert np.abs(planes_of(frame)[2] - expected)[2:-2, 2:-2].mean() < 0.35
    film = stored(tmp_path / "film.mkv", [frame], colours, "libx264", crf="0")
    assert float((frames_of(film)[0].rgb - image)[:, 0, 4:-4, 4:-4].abs().mean()) * 255 < 0.7


def stored(path: Path, frames: list[Any], colours: Colours, encoder: str = "ffv1", **options: str) -> Path:
    """Write frames of PyAV without loss."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(encoder, rate=25, options=options)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        context.colorspace, context.color_range = colours.matrix, colours.range
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize("value_range", [LIMITED, FULL])
def test_the_same_samples_in_another_order_are_the_same_picture(tmp_path: Path, value_range: int) -> None:
    colours, image = Colours(1, value_range), picture(1)
    film = make_film(tmp_path / "film.mkv", [image], pixel_format="yuv420p10le", colours=colours)
    with Film(film) as opened:
        facts = opened.facts
    expected = rgb_of(coded_frame(image, "yuv420p10le", colours), facts)
    for pixel_format in ("p010le", "yuv420p10be"):
        frame = coded_frame(image, "yuv420p10le", colours).reformat(format=pixel_format)
        assert float((rgb_of(frame, facts) - expected).abs().max()) < 0.2 / 255
    with pytest.raises(SrkdError):
        rgb_of(av.VideoFrame(64, 48, "gray32le"), facts)


@pytest.mark.parametrize(
    ("pixel_format", "codec"),
    [
        ("bgra", "ffv1"),
        ("gbrp10le", "ffv1"),
        ("gbrpf32le", "exr"),
        ("gray12le", "ffv1"),
        ("yuv411p", "ffv1"),
        ("yuvj422p", "mjpeg"),
        ("rgb48be", "png"),
    ],
)
def test_frames_of_rare_formats_are_read(tmp_path: Path, pixel_format: str, codec: str) -> None:
    grey = torch.full((1, 3, 48, 64), 0.4)
    frame = coded_frame(grey, "rgb24", Colours(1, FULL)).reformat(format=pixel_format, dst_color_range=FULL)
    film = stored(tmp_path / ("film.mkv" if codec == "ffv1" else "film.mov"), [frame], Colours(1, FULL), codec)
    with Film(film) as opened:
        assert opened.facts.pixel_format == pixel_format
        assert float((next(opened.frames()).rgb - grey).abs().max()) < 1.5 / 255


def test_a_frame_is_found_by_its_time(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mp4", [picture(number) for number in range(40)], codec="h264")
    frames = frames_of(film)
    for number in (33, 0, 12, 13, 39):
        with Film(film) as opened:
            found = next(opened.frames_from(frames[number].pts))
            assert found.pts == frames[number].pts and torch.equal(found.rgb, frames[number].rgb)
            assert next(opened.frames_from(frames[-1].pts + 1), None) is None


def test_what_a_film_tells_of_itself(tmp_path: Path) -> None:
    colours = Colours(5, FULL, 5, 6)
    with Film(make_film(tmp_path / "film.mp4", [picture(0)] * 5, codec="h264", colours=colours)) as opened:
        facts = opened.facts
        assert (facts.codec, facts.size, facts.frames, facts.bits) == ("h264", (64, 48), 5, 8)
        assert facts.colours == colours and facts.notes == ()
    frame = coded_frame(picture(0), "yuv444p", Colours(1, LIMITED))
    frame.colorspace = 14  # ICtCp
    strange = stored(tmp_path / "strange.mkv", [frame], Colours(14, LIMITED))
    with pytest.raises(SrkdError):
        Film(strange).__enter__()
