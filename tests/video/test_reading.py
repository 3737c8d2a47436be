"""Frames of every pixel format become planes without loss; some frames of a film are found without reading all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compressor.video.colours import FULL, LIMITED, Colours, Layout
from compressor.video.reading import Film, layout_of, stored_planes
from tests.support.films import frames_of, make_film, picture, require_av

av = require_av()


def filled(name: str) -> av.VideoFrame:
    """Return a frame of a format with random bytes, all of which are allowed in 8 bit."""
    frame, rng = av.VideoFrame(64, 48, name), np.random.default_rng(0)
    for plane in frame.planes:
        plane.update(rng.integers(0, 256, plane.buffer_size, dtype=np.uint8).tobytes())
    return frame


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("yuv420p", Layout("420", 8)),
        ("yuvj422p", Layout("422", 8)),
        ("nv12", Layout("420", 8)),
        ("p010le", Layout("420", 10)),
        ("yuv444p12le", Layout("444", 12)),
        ("yuv420p10be", Layout("420", 10)),
        ("yuv411p", Layout("444", 8)),
        ("gray", Layout("grey", 8)),
        ("gray12le", Layout("grey", 12)),
        ("yuva420p", Layout("420", 8)),
        ("rgb24", Layout("rgb", 8)),
        ("bgra", Layout("rgb", 8)),
        ("gbrp10le", Layout("rgb", 10)),
        ("pal8", Layout("rgb", 8)),
    ],
)
def test_the_layout_of_a_pixel_format(name: str, layout: Layout) -> None:
    assert layout_of(av.VideoFormat(name, 64, 48)) == layout


@pytest.mark.parametrize("value_range", [LIMITED, FULL])
def test_samples_in_another_order_keep_their_values(value_range: int) -> None:
    frame = filled("nv12")
    frame.color_range = value_range
    luma, both = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:, :64] for plane in frame.planes
    )
    planes = stored_planes(frame, Layout("420", 8))
    for plane, expected in zip(planes, (luma, both[:, ::2], both[:, 1::2]), strict=True):
        assert np.array_equal(plane, expected)
    rgb = filled("rgb24")
    rgb.color_range = value_range
    green, blue, red = stored_planes(rgb, Layout("rgb", 8))
    assert np.array_equal(np.stack([red, green, blue], -1), rgb.to_ndarray())


def test_a_frame_is_found_by_its_time(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mp4", [picture(number) for number in range(40)], codec="h264")
    frames = frames_of(film)
    for number in (33, 0, 12, 13, 39):
        with Film(film) as opened:
            found = next(opened.frames_from(frames[number].pts))
            assert found is not None and found.pts == frames[number].pts and found.equals(frames[number])
            assert next(opened.frames_from(frames[-1].pts + 1), None) is None


def test_what_a_film_tells_of_itself(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mp4", [picture(0)] * 5, codec="h264", colours=Colours(5, FULL, 5, 6))
    with Film(film) as opened:
        facts = opened.facts
        assert (facts.codec, facts.size, facts.frames, facts.turns) == ("h264", (64, 48), 5, 0)
        assert facts.colours == Colours(5, FULL, 5, 6) and facts.notes == ()
        assert (facts.mastering, facts.light_level) == ("", "")
