"""Super-resolution of one picture: tiles, the self-ensemble, and networks for luminance only."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from torch import Tensor

from compressor.base.errors import SrkdError, UsageError
from compressor.images.resize import KERNELS, KernelName, imresize, upscale_bicubic
from compressor.images.scores import LANCZOS, without_network
from compressor.inference.tiling import UNBOUNDED_OVERLAP, Run, Tiled, WindowProgress, run_tiled
from compressor.models.networks.base import Descriptor
from compressor.models.networks.cost import pixel_bytes
from compressor.runtimes.base import Runtime

_TO_YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
_MATRIX = torch.tensor(_TO_YCBCR, dtype=torch.float64) / 255
_OFFSET = torch.tensor((16.0, 128.0, 128.0), dtype=torch.float64) / 255


class Enlargement(Runtime):
    """A row of every table without a network: MATLAB's bicubic, at scale 1 the input, in float, rounded when written.

    Beside a teacher there is another: Lanczos with three lobes, which is sharper and which players use.
    """

    name = "torch"
    layout = "contiguous"

    def __init__(self, scale: int, kernel: KernelName = "cubic") -> None:
        self._kernel: KernelName = kernel
        self.label = LANCZOS if kernel == "lanczos" else without_network(scale)
        self.descriptor = Descriptor(scale=scale, receptive_radius=math.ceil(KERNELS[kernel][1] / 2) + 1)

    def _run(self, lr: Tensor) -> Tensor:
        return imresize(lr, float(self.descriptor.scale), self._kernel)


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

    A one-channel network receives Y of BT.601 in studio range divided by 255, as in its training; Cb and Cr are
    enlarged bicubically.
    """
    model = runtime.descriptor
    if self_ensemble and model.fixed_size is not None and model.fixed_size[0] != model.fixed_size[1]:
        raise UsageError(
            f"{runtime.label} takes images of {model.fixed_size[0]}x{model.fixed_size[1]} only: "
            "the self-ensemble transposes them, and needs a square"
        )
    if self_ensemble and model.max_size is not None:  # it also runs transposed images
        model = replace(model, max_size=(min(model.max_size),) * 2)
    run = with_self_ensemble(runtime.run) if self_ensemble else runtime.run
    memory = None if runtime.spec is None else pixel_bytes(runtime.spec)
    run_windows = partial(run_tiled, run, tile=tile, overlap=overlap, progress=progress, pixel_bytes=memory)
    if model.channels == 1:
        ycbcr = rgb_to_ycbcr(lr)
        tiled = run_windows(ycbcr[:, :1], model)
        colour = upscale_bicubic(ycbcr[:, 1:], model.scale)
        tiled = replace(tiled, sr=ycbcr_to_rgb(torch.cat([tiled.sr, colour], 1)))
    else:
        tiled = run_windows(lr, model)
    if not torch.isfinite(tiled.sr).all():
        raise SrkdError(f"{runtime.label} gave values that are not numbers ({runtime.name}, {runtime.precision})")
    return tiled


def with_self_ensemble(run: Run) -> Run:
    """Return `run` averaged over the eight symmetries of the square ('+' in tables), before any rounding.

    It takes eight times the work and the memory of one more output. Never compare figures with it to figures without.
    Timofte et al., 'Seven ways to improve example-based single image super resolution', 2016.
    """

    def run_averaged(lr: Tensor) -> Tensor:
        total: Tensor | None = None
        for flipped, transposed in product(((), (-1,), (-2,), (-2, -1)), (False, True)):
            images = lr.flip(flipped)
            sr = run((images.mT if transposed else images).contiguous())
            sr = (sr.mT if transposed else sr).flip(flipped)
            total = sr if total is None else total.add_(sr)
        assert total is not None
        return total.div_(8)

    return run_averaged


def rgb_to_ycbcr(rgb_01: Tensor) -> Tensor:
    """Return BT.601 studio range divided by 255: Y in 16/255..235/255, Cb and Cr around 128/255."""
    return _mix_channels(rgb_01, _MATRIX, _OFFSET)


def ycbcr_to_rgb(ycbcr_01: Tensor) -> Tensor:
    """Return RGB: the exact inverse of `rgb_to_ycbcr`."""
    inverse = torch.linalg.inv(_MATRIX)
    return _mix_channels(ycbcr_01, inverse, -inverse @ _OFFSET)


def _mix_channels(images: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    channels = images.unbind(dim=1)
    mixed = [
        sum((float(weight) * channel for weight, channel in zip(row, channels, strict=True)), start=float(constant))
        for row, constant in zip(matrix, offset, strict=True)
    ]
    return torch.stack([torch.as_tensor(channel) for channel in mixed], dim=1)
