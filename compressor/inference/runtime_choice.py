"""The runtime of each picture: the model as opened, or a faster one whose samples of the picture agree with it.

Frames of a film are pictures too; some in a row share what the first of them decides.

A checkpoint opened without a precision is fp32. On devices with native bf16 its convolutions run 1.3 to 3 times as fast
in bf16, usually with a smaller difference than the rounding to 8 bit; samples of every picture are tested for it. Where
OpenVINO is installed, and the pictures take longer than it takes to open, the network is given to it, too: whichever is
faster on the samples goes on. Only that depends on a clock.
"""

from __future__ import annotations

import timeit
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from compressor.base.compute_device import ComputeDevice
from compressor.base.errors import SrkdError
from compressor.images.metrics import psnr, to_u8
from compressor.inference.super_resolve import super_resolve
from compressor.runtimes.base import Runtime
from compressor.runtimes.table import missing_modules
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

SAMPLE, SAMPLES = 64, 4
"""The side of a sample, in LR pixels, and how many there are."""

TRACED = (40, 48)
"""Height and width of the image with which OpenVINO traces a network."""
LEAST_LR_PIXELS = 16 * SAMPLES * SAMPLE**2
"""Fewer pixels stay in fp32: the samples are run twice, which must cost little compared with what they decide about."""

WORTH_SECONDS = 5.0
"""Seconds of pictures in torch, those ahead too, for which OpenVINO, which takes one to three to open, is tried."""


@dataclass(frozen=True)
class Selected:
    """The runtime for one picture; for a faster one also the PSNR in dB of its worst sample to the exact one."""

    runtime: Runtime
    psnr_to_exact: float | None = None


class RuntimeChoice:
    """Selection of the runtime for each picture; with `exact` always the model as opened."""

    def __init__(self, runtime: Runtime, *, exact: bool = False) -> None:
        self.runtime = runtime
        self._faster: list[Runtime] = []
        """The fastest comes first."""
        self._seconds, self._untried = 0.0, None
        if not exact and isinstance(runtime, TorchRuntime) and runtime.precision == "fp32":
            self._faster += [runtime.in_bf16()] if ComputeDevice.named(runtime.device).computes_bf16 else []
            self._untried = runtime if fits_openvino(runtime) else None

    def select(
        self, lr: Tensor, *, bits: int = 8, pictures: int = 1, ahead: int = 0, max_levels: int = MAX_SAMPLE_LEVELS
    ) -> Selected:
        """Return the runtime for a picture (N,3,h,w): a faster one if it has 8 bit and its samples pass both bounds.

        `pictures` of this size share the choice; about so many more are `ahead`.
        """
        pixels = pictures * lr[:, 0].numel()
        if not (self._faster or self._untried) or bits > 8 or min(lr.shape[-2:]) < SAMPLE or pixels < LEAST_LR_PIXELS:
            return Selected(self.runtime)
        samples = sample_patches(lr)
        selected = self._select(samples, max_levels)
        if self._untried is not None:
            each = _seconds(selected.runtime, samples, runs=1) * lr[:, 0].numel() / samples[:, 0].numel()
            self._seconds += pictures * each
            if self._seconds + max(0, ahead) * each > WORTH_SECONDS:
                self._try_openvino(self._untried, selected.runtime, samples)
                selected = self._select(samples, max_levels)
        return selected

    def _select(self, samples: Tensor, max_levels: int) -> Selected:
        exact = _enlarged(self.runtime, samples)
        for runtime in self._faster:
            faster = _enlarged(runtime, samples)
            psnr_to_exact = float(psnr(faster, exact).min())
            if psnr_to_exact >= MIN_PSNR_DB and int((exact.int() - faster.int()).abs().max()) <= max_levels:
                return Selected(runtime, psnr_to_exact)
        return Selected(self.runtime)

    def _try_openvino(self, opened: TorchRuntime, selected: Runtime, samples: Tensor) -> None:
        """Put OpenVINO before torch in each precision, if it is faster than what was selected."""
        from compressor.runtimes.openvino_runtime import OpenVinoNetwork, traced  # reads ONNX, too: not at every start

        self._untried = None
        try:
            model = traced(opened, TRACED)
            *lower, exact = (OpenVinoNetwork(opened, way.precision, model) for way in (*self._faster, opened))
        except SrkdError:  # such as an operator that OpenVINO has not
            return
        same = next(way for way in (*lower, exact) if way.precision == selected.precision)
        if _seconds(same, samples) < _seconds(selected, samples):
            self._faster = [*lower, *self._faster, exact]


def fits_openvino(runtime: TorchRuntime) -> bool:
    """Whether OpenVINO is installed and the network's form depends on no size, so that a trace holds for all."""
    is_any_size = runtime.network.for_size(*TRACED) is runtime.network
    return runtime.name == "torch" and runtime.device == "cpu" and is_any_size and not missing_modules(["openvino"])


def _enlarged(runtime: Runtime, samples: Tensor) -> Tensor:
    return to_u8(super_resolve(runtime, samples, tile=0).sr)


def _seconds(runtime: Runtime, samples: Tensor, runs: int = 3) -> float:
    """Return the time of the fastest of some runs, after one that prepares for the size."""
    return min(timeit.repeat(partial(super_resolve, runtime, samples, tile=0), number=1, repeat=1 + runs)[1:])


def sample_patches(lr: Tensor) -> Tensor:
    """Return patches of (N,C,h,w) as (SAMPLES,C,SAMPLE,SAMPLE), from the flattest to the most textured of a grid."""
    cells = lr.unfold(-2, SAMPLE, SAMPLE).unfold(-2, SAMPLE, SAMPLE)
    patches = cells.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    order = patches.std(dim=(1, 2, 3)).argsort(stable=True)
    ranks = torch.linspace(0, len(order) - 1, SAMPLES).long()
    return patches[order[ranks]].contiguous()
