"""One picture through one model: tiles, the self-ensemble, and networks of the luminance channel only."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor

from compressor.base.errors import SrkdError, UsageError
from compressor.images.resize import upscale_bicubic
from compressor.inference.self_ensemble import with_self_ensemble
from compressor.inference.tiling import UNBOUNDED_OVERLAP, Tiled, WindowProgress, run_tiled
from compressor.models.networks.base import Descriptor
from compressor.runtimes.base import Runtime

_TO_YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
_YCBCR_OFFSET = (16.0, 128.0, 128.0)


class Bicubic:
    """The reference row of every table as a model: MATLAB's bicubic in float, rounded once when it is written."""

    name = "torch"
    label = "bicubic"
    device = "cpu"
    precision = "fp32"
    layout = "contiguous"
    spec = None

    def __init__(self, scale: int) -> None:
        self.descriptor = Descriptor(scale=scale, receptive_radius=3)
        self.metadata = MappingProxyType[str, str]({})

    def run(self, lr: Tensor) -> Tensor:
        return upscale_bicubic(lr, self.descriptor.scale)


def super_resolve(
    runtime: Runtime,
    lr: Tensor,
    *,
    tile: int | None = None,
    overlap: int = UNBOUNDED_OVERLAP,
    self_ensemble: bool = False,
    progress: WindowProgress | None = None,
) -> Tiled:
    """Enlarge RGB (N,3,h,w) in [0,1] to RGB (N,3,s*h,s*w), unclamped; `tile` and `overlap` as in `run_tiled`.

    A one-channel network gets Y of BT.601 in studio range divided by 255, as such networks are trained; Cb and Cr are
    enlarged bicubically.
    """
    model = runtime.descriptor
    if self_ensemble and model.fixed_size is not None and model.fixed_size[0] != model.fixed_size[1]:
        raise UsageError(
            f"{runtime.label} takes images of {model.fixed_size[0]}x{model.fixed_size[1]} only: "
            "the self-ensemble transposes them, and needs a square"
        )
    run = with_self_ensemble(runtime.run) if self_ensemble else runtime.run
    ycbcr = rgb_to_ycbcr(lr) if model.channels == 1 else None
    tiled = run_tiled(
        run,
        lr if ycbcr is None else ycbcr[:, :1],
        model,
        tile=tile,
        overlap=overlap,
        progress=progress,
    )
    sr = tiled.sr
    if ycbcr is not None:
        sr = ycbcr_to_rgb(torch.cat([sr, upscale_bicubic(ycbcr[:, 1:], model.scale)], 1))
    if not torch.isfinite(sr).all():
        raise SrkdError(f"{runtime.label} gave values that are not numbers ({runtime.name}, {runtime.precision})")
    return Tiled(sr, tiled.tile, tiled.seam)


def rgb_to_ycbcr(rgb_01: Tensor) -> Tensor:
    """Convert to BT.601 studio range over 255: Y in 16/255..235/255, Cb and Cr around 128/255."""
    matrix = torch.tensor(_TO_YCBCR, dtype=torch.float64) / 255
    offset = torch.tensor(_YCBCR_OFFSET, dtype=torch.float64) / 255
    return _mix_channels(rgb_01, matrix, offset)


def ycbcr_to_rgb(ycbcr_01: Tensor) -> Tensor:
    """Convert back: the exact inverse of `rgb_to_ycbcr`."""
    inverse = torch.linalg.inv(torch.tensor(_TO_YCBCR, dtype=torch.float64) / 255)
    offset = torch.tensor(_YCBCR_OFFSET, dtype=torch.float64) / 255
    return _mix_channels(ycbcr_01, inverse, -inverse @ offset)


def _mix_channels(images: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    channels = images.unbind(dim=1)
    mixed = [
        sum((float(weight) * channel for weight, channel in zip(row, channels, strict=True)), start=float(constant))
        for row, constant in zip(matrix, offset, strict=True)
    ]
    return torch.stack([torch.as_tensor(channel) for channel in mixed], dim=1)
