"""A photograph of any size, for timing networks.

Noise is slower than a photo where a runtime branches on each value: PReLU in ONNX Runtime takes 2.6 ms on smooth maps
and 16 ms on noise, so a student is up to half as fast again on photos.
"""

from __future__ import annotations

from functools import cache

from torch import Tensor

from compressor.images.files import grey_of, read_rgb_u8
from compressor.images.resize import downscale_u8, mirror_to
from compressor.images.sets import embedded_photos

SCALE = 2
"""Factor by which the photo is reduced, so that it is as sharp as LR images are."""


def sample_photo(width: int, height: int, *, channels: int = 3, batch: int = 1) -> Tensor:
    """Return a batch of an embedded photo in [0,1], mirrored at its borders up to the requested size."""
    planes = mirror_to(_photo(), height, width)[:, :height, :width]
    if channels == 1:
        planes = grey_of(planes)
    return planes.expand(batch, -1, -1, -1).contiguous()


@cache
def _photo() -> Tensor:
    path = next(iter(embedded_photos("calibration").values()))
    return downscale_u8(read_rgb_u8(path).unsqueeze(0), SCALE)[0].float() / 255
