"""bf16 instead of fp32, per picture: if the device multiplies it natively and samples of the picture agree.

Frames of a film are pictures too; some in a row share what the first of them decides.

A checkpoint opened without a precision is fp32. On devices with native bf16 its convolutions run 1.3 to 3 times as fast
in bf16, usually with a smaller difference than the rounding to 8 bit. As that depends on network and picture, it is
tested on samples of every picture; timings play no part, so the same picture, model and machine give the same file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.base.compute_device import ComputeDevice
from compressor.images.metrics import psnr, to_u8
from compressor.inference.super_resolve import super_resolve
from compressor.runtimes.base import Runtime
from compressor.runtimes.torch_runtime import TorchRuntime

MIN_PSNR_DB = 50.0
"""The least PSNR in dB over RGB, after rounding to 8 bit, of the bf16 samples to the fp32 samples."""

MAX_SAMPLE_LEVELS = 2
"""The largest difference of a sample's values, in 8-bit steps.

It is two less than the whole picture may differ, as that has more values than its samples. All the same, of 139 whole
benchmark pictures one, through CARN-M, was 5 off (upscale_speed in docs/results/settled.json).
"""

MAX_FRAME_LEVELS = 8
"""The same of frames that an encoder with loss changes by more than that."""

SAMPLE = 64
"""The side of a sample, in LR pixels."""

SAMPLES = 4
LEAST_LR_PIXELS = 16 * SAMPLES * SAMPLE**2
"""Fewer pixels stay in fp32: the samples are run twice, which must cost little compared with what they decide about."""


@dataclass(frozen=True)
class Selected:
    """The runtime for one picture; for bf16 also the PSNR in dB of its worst sample to the exact one."""

    runtime: Runtime
    psnr_to_exact: float | None = None


class PrecisionChoice:
    """Selection of the runtime for each picture; with `exact` always the model as opened."""

    def __init__(self, runtime: Runtime, *, exact: bool = False) -> None:
        self.runtime = runtime
        self._lower: TorchRuntime | None = None
        if not exact and isinstance(runtime, TorchRuntime) and runtime.precision == "fp32":
            self._lower = runtime.in_bf16() if ComputeDevice.named(runtime.device).computes_bf16 else None

    def select(self, lr: Tensor, *, bits: int = 8, pictures: int = 1, max_levels: int = MAX_SAMPLE_LEVELS) -> Selected:
        """Return the runtime for a picture (N,3,h,w): bf16 if it has 8 bit and its samples pass both bounds.

        `pictures` of this size share the choice.
        """
        is_small = min(lr.shape[-2:]) < SAMPLE or pictures * lr[:, 0].numel() < LEAST_LR_PIXELS
        if self._lower is None or bits > 8 or is_small:
            return Selected(self.runtime)
        samples = sample_patches(lr)
        exact, lower = (to_u8(super_resolve(runtime, samples, tile=0).sr) for runtime in (self.runtime, self._lower))
        if int((exact.int() - lower.int()).abs().max()) > max_levels:
            return Selected(self.runtime)
        psnr_to_exact = float(psnr(lower, exact).min())
        return Selected(self._lower, psnr_to_exact) if psnr_to_exact >= MIN_PSNR_DB else Selected(self.runtime)


def sample_patches(lr: Tensor) -> Tensor:
    """Return patches of (N,C,h,w) as (SAMPLES,C,SAMPLE,SAMPLE), from the flattest to the most textured of a grid."""
    cells = lr.unfold(-2, SAMPLE, SAMPLE).unfold(-2, SAMPLE, SAMPLE)
    patches = cells.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    order = patches.std(dim=(1, 2, 3)).argsort(stable=True)
    ranks = torch.linspace(0, len(order) - 1, SAMPLES).long()
    return patches[order[ranks]].contiguous()
