"""Planes become RGB and back by matrix, range and depth, as published numbers and FFmpeg have them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.video.colours import FULL, LIMITED, WEIGHTS, Chroma, Colours, Layout, resolved, to_planes, to_rgb
from tests.support.films import picture, require_av

BARS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "white": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize(
    ("colours", "bits", "expected"),
    [
        # BT.601: 81 90 240, 145 54 34, 41 240 110 (ITU-R BT.601-7, the 100 % bars in studio range)
        (Colours(6, LIMITED), 8, {"red": (81, 90, 240), "green": (145, 54, 34), "blue": (41, 240, 110)}),
        (Colours(1, LIMITED), 8, {"red": (63, 102, 240), "green": (173, 42, 26), "blue": (32, 240, 118)}),
        (Colours(6, FULL), 8, {"red": (76, 85, 255), "green": (150, 44, 21), "blue": (29, 255, 107)}),
        # 64 + 876 · 0.2627, 512 - 896 · 0.2627 / 1.8814, 512 + 448 (ITU-R BT.2020-2, table 4)
        (Colours(9, LIMITED), 10, {"white": (940, 512, 512), "red": (294, 387, 960)}),
        (Colours(9, FULL), 10, {"white": (1023, 512, 512)}),
    ],
)
def test_bars_have_their_published_values(colours: Colours, bits: int, expected: dict[str, tuple[int, ...]]) -> None:
    for name, values in expected.items():
        image = torch.tensor(BARS[name]).reshape(1, 3, 1, 1).expand(1, 3, 4, 6)
        planes = to_planes(image, Layout("420", bits), colours)
        assert [set(plane.ravel().tolist()) for plane in planes] == [{value} for value in values]
        assert [plane.shape for plane in planes] == [(4, 6), (2, 3), (2, 3)]


@pytest.mark.parametrize(("matrix", "value_range"), list(itertools.product(WEIGHTS, (LIMITED, FULL))))
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_a_round_trip_of_444_is_within_rounding(matrix: int, value_range: int, bits: int) -> None:
    """The coarsest step of limited range is 1/219 in luma; a chroma step counts less than twice in a colour."""
    image, colours, layout = picture(3), Colours(matrix, value_range), Layout("444", bits)
    again = to_rgb(to_planes(image, layout, colours), layout, colours)
    assert float((again - image).abs().max()) < 1.6 / (219 * 2 ** (bits - 8))


@pytest.mark.parametrize("chroma", ["420", "422"])
@pytest.mark.parametrize("bits", [8, 10])
def test_a_round_trip_of_planes_moves_smooth_chroma_by_less_than_a_level(chroma: Chroma, bits: int) -> None:
    layout, colours = Layout(chroma, bits), Colours(1, LIMITED)
    planes = to_planes(picture(5), layout, colours)
    for before, after in zip(planes, to_planes(to_rgb(planes, layout, colours), layout, colours), strict=True):
        assert np.abs(before.astype(int) - after.astype(int)).mean() < 2 ** (bits - 8)


@pytest.mark.parametrize("matrix", [1, 5])
@pytest.mark.parametrize("value_range", [LIMITED, FULL])
def test_rgb_is_what_ffmpeg_makes_of_it(matrix: int, value_range: int) -> None:
    """Its rounding in integers is worth up to two levels where nothing is interpolated."""
    av = require_av()
    if int(av.__version__.split(".")[0]) < 17:
        pytest.skip("this PyAV does not tell swscale the ranges")
    layout, colours = Layout("444", 8), Colours(matrix, value_range)
    planes = to_planes(picture(7), layout, colours)
    frame = av.VideoFrame(64, 48, "yuv444p")
    for target, plane in zip(frame.planes, planes, strict=True):
        np.frombuffer(memoryview(target), np.uint8).reshape(-1, target.line_size)[:48, :64] = plane
    theirs = frame.reformat(
        format="rgb24", src_colorspace=matrix, dst_colorspace=matrix, src_color_range=value_range, dst_color_range=FULL
    ).to_ndarray()
    ours = to_rgb(planes, layout, colours)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(theirs - ours).max() < 2.5


def test_chroma_lies_on_even_columns_and_between_rows() -> None:
    """A step of chroma in 4:2:0 is centred there, so luma's column 2 has all of it and column 1 half."""
    chroma = np.array([[100, 200, 200], [100, 200, 200]], np.uint8)
    planes = (np.full((4, 6), 128, np.uint8), np.full((2, 3), 128, np.uint8), chroma)
    red = to_rgb(planes, Layout("420", 8), Colours(1, FULL))[0, 0]
    values = (red - 128 / 255) / (2 * (1 - WEIGHTS[1][0])) * 255 + 128
    assert torch.allclose(values, torch.tensor([100.0, 150, 200, 200, 200, 200]).expand(4, 6), atol=1e-3)
    rows = (planes[0], planes[1], np.array([[100] * 3, [180] * 3], np.uint8))
    red = to_rgb(rows, Layout("420", 8), Colours(1, FULL))[0, 0, :, 0]
    values = (red - 128 / 255) / (2 * (1 - WEIGHTS[1][0])) * 255 + 128
    assert torch.allclose(values, torch.tensor([100.0, 120, 160, 180]), atol=1e-3)


def test_grey_and_rgb_planes() -> None:
    grey = to_rgb((np.array([[16, 235]], np.uint8),), Layout("grey", 8), Colours(1, LIMITED))
    assert torch.equal(grey, torch.tensor([[[[0.0, 1.0]]]]).expand(1, 3, 1, 2))
    green, blue, red = (np.array([[value]], np.uint16) for value in (0, 1023, 512))
    rgb = to_rgb((green, blue, red), Layout("rgb", 10), Colours(0, FULL))
    assert torch.allclose(rgb.flatten(), torch.tensor([512 / 1023, 0.0, 1.0]))


def test_a_matrix_that_is_not_stated_follows_from_the_size() -> None:
    layout, unknown = Layout("420", 8), Colours(2, 0)
    assert resolved(unknown, (720, 576), layout, "a.mp4") == Colours(6, LIMITED)
    assert resolved(unknown, (1280, 544), layout, "a.mp4") == Colours(1, LIMITED)
    assert resolved(Colours(9, FULL, 9, 16), (64, 48), layout, "a.mp4") == Colours(9, FULL, 9, 16)
    with pytest.raises(SrkdError, match=r"a\.mp4 has the colour matrix ICtCp, which is not supported"):
        resolved(Colours(14, LIMITED), (64, 48), layout, Path("a.mp4"))
