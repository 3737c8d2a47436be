"""The planes of a frame as RGB and back, in float, by the frame's own matrix, range and bit depth.

With K_R, K_B of the matrix and K_G = 1 - K_R - K_B (ITU-T H.273, table 4):

    Y = K_R R + K_G G + K_B B,  C_B = (B - Y) / (2 (1 - K_B)),  C_R = (R - Y) / (2 (1 - K_R)).

In b bits, limited range stores (219 Y + 16) 2^(b-8) and (224 C + 128) 2^(b-8); full range stores (2^b - 1) Y and
(2^b - 1) C + 2^(b-1). Chroma samples of 4:2:0 and 4:2:2 lie on the even columns of luma and, in 4:2:0, between its
rows, as H.264 and HEVC have it unless they say otherwise. Chroma is enlarged bilinearly; on the way back it is the mean
of two rows and (1, 2, 1) / 4 of columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from compressor.base.errors import SrkdError

Plane: TypeAlias = npt.NDArray[Any]
FramePlanes: TypeAlias = tuple[Plane, ...]
"""Y, Cb, Cr; or Y; or G, B, R. Integers of 8 or 16 bit."""
Chroma: TypeAlias = Literal["444", "422", "420", "grey", "rgb"]

RGB, BT709, UNSPECIFIED, BT601 = 0, 1, 2, 6
"""Numbers of matrices in H.273, as FFmpeg has them."""
LIMITED, FULL = 1, 2

WEIGHTS = {
    BT709: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    BT601: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""K_R and K_B by the number of the matrix: BT.709, FCC, BT.601 (625 and 525 lines), SMPTE 240M, BT.2020."""
OTHER_MATRICES = {8: "YCgCo", 10: "BT.2020 constant luminance", 11: "YDzDx", 14: "ICtCp", 15: "IPT"}

MANY_COLUMNS, MANY_ROWS = 1280, 720
"""From this size on, a film that does not name its matrix is taken as BT.709, as players do; smaller ones as BT.601."""


@dataclass(frozen=True)
class Colours:
    """The numbers of H.273 by which a film's samples are colours; range 1 is limited, 2 full."""

    matrix: int
    range: int
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


@dataclass(frozen=True)
class Layout:
    """How the samples of a frame are stored."""

    chroma: Chroma
    bits: int

    @property
    def pixel_format(self) -> str:
        """FFmpeg's name of the planar format."""
        names = {"grey": "gray", "rgb": "gbrp"}
        name = names.get(self.chroma, f"yuv{self.chroma}p")
        return name if self.bits == 8 else f"{name}{self.bits}le"

    @property
    def dtype(self) -> type[np.uint8 | np.uint16]:
        return np.uint8 if self.bits == 8 else np.uint16


def resolved(colours: Colours, size: tuple[int, int], layout: Layout, film: object) -> Colours:
    """Return the colours with matrix and range decided, from the size where the film does not say."""
    if layout.chroma == "rgb":
        return Colours(RGB, FULL, colours.primaries, colours.transfer)
    matrix = colours.matrix
    if matrix in (UNSPECIFIED, RGB, 3):
        matrix = BT709 if size[0] >= MANY_COLUMNS or size[1] >= MANY_ROWS else BT601
    if matrix not in WEIGHTS:
        name = OTHER_MATRICES.get(matrix, f"number {matrix} of H.273")
        raise SrkdError(f"{film} has the colour matrix {name}, which is not supported: convert it to BT.709 first")
    return Colours(matrix, colours.range or LIMITED, colours.primaries, colours.transfer)


def to_rgb(planes: FramePlanes, layout: Layout, colours: Colours) -> Tensor:
    """Return the planes as RGB (1,3,H,W) in [0,1]; values beyond the range are clipped, as screens do."""
    samples = [torch.from_numpy(plane.astype(np.float32)) for plane in planes]
    if layout.chroma == "rgb":
        green, blue, red = (plane / (2**layout.bits - 1) for plane in samples)
        return torch.stack([red, green, blue])[None]
    black, luma_range, grey, chroma_range = _levels(layout.bits, colours.range)
    luma = (samples[0] - black) / luma_range
    if layout.chroma == "grey":
        return luma.clamp(0, 1).expand(3, -1, -1)[None].contiguous()
    blue_difference, red_difference = (
        (_enlarge_chroma(plane, layout.chroma, luma.shape[0], luma.shape[1]) - grey) / chroma_range
        for plane in samples[1:]
    )
    of_red, of_blue = WEIGHTS[colours.matrix]
    red = luma + 2 * (1 - of_red) * red_difference
    blue = luma + 2 * (1 - of_blue) * blue_difference
    green = (luma - of_red * red - of_blue * blue) / (1 - of_red - of_blue)
    return torch.stack([red, green, blue])[None].clamp_(0, 1)


def to_planes(rgb_01: Tensor, layout: Layout, colours: Colours) -> FramePlanes:
    """Return RGB (1,3,H,W) as planes; of 4:2:0 and 4:2:2, H and W are even."""
    red, green, blue = rgb_01[0].detach().float().clamp(0, 1).cpu()
    of_red, of_blue = WEIGHTS[colours.matrix]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    black, luma_range, grey, chroma_range = _levels(layout.bits, colours.range)
    planes = [luma * luma_range + black]
    for difference, weight in ((blue - luma, of_blue), (red - luma, of_red)):
        chroma = difference / (2 * (1 - weight))
        planes.append(_reduce_chroma(chroma, layout.chroma) * chroma_range + grey)
    most = 2**layout.bits - 1
    return tuple(plane.round_().clamp_(0, most).numpy().astype(layout.dtype) for plane in planes)


def _levels(bits: int, value_range: int) -> tuple[float, float, float, float]:
    """Return black, the range of luma, the middle of chroma and its range, in units of a sample."""
    if value_range == FULL:
        return 0.0, 2.0**bits - 1, 2.0 ** (bits - 1), 2.0**bits - 1
    unit = 2.0 ** (bits - 8)
    return 16 * unit, 219 * unit, 128 * unit, 224 * unit


def _enlarge_chroma(plane: Tensor, chroma: Chroma, height: int, width: int) -> Tensor:
    if chroma == "444":
        return plane
    right = torch.cat([plane[:, 1:], plane[:, -1:]], 1)
    plane = torch.stack([plane, (plane + right) / 2], 2).flatten(1)[:, :width]
    if chroma == "420":
        above, below = torch.cat([plane[:1], plane[:-1]]), torch.cat([plane[1:], plane[-1:]])
        plane = torch.stack([0.75 * plane + 0.25 * above, 0.75 * plane + 0.25 * below], 1).flatten(0, 1)[:height]
    return plane


def _reduce_chroma(plane: Tensor, chroma: Chroma) -> Tensor:
    if chroma == "444":
        return plane
    if chroma == "420":
        plane = (plane[::2] + plane[1::2]) / 2
    padded = pad(plane[None], (1, 0), mode="replicate")[0]
    return (padded[:, :-1:2] + 2 * padded[:, 1::2] + padded[:, 2::2]) / 4
