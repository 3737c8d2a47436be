"""Checkpoints as the official code would have saved them, recreated from the documented seeded initialisation.

Names and order of creation are written here a second time, from the official repositories and not from this one, so
that the dialects are tested against something they did not make. tests/golden holds what the official code gave on
these very weights (torch.manual_seed(0); torch's default initialisation; weights times a gain; biases plus
0.05·randn of seed 1), and the sum of the weights, which tells a changed random generator from a changed network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tests.support.shared import GOLDEN

State = dict[str, torch.Tensor]
MEAN = (0.4488, 0.4371, 0.4040)


@dataclass(frozen=True)
class Conv:
    """One convolution of the official code; lists of them are in order of creation."""

    name: str
    inputs: int
    outputs: int
    kernel: int = 3
    groups: int = 1
    gain: float | None = None


def edsr_pytorch(scale: int, width: int, depth: int, img_range: float = 255.0) -> State:
    """Return weights of sanghyun-son/EDSR-PyTorch, src/model/edsr.py: mean shifts first, then head, body, tail."""
    convs = [Conv("head.0", 3, width)]
    convs += [Conv(f"body.{i}.body.{j}", width, width) for i in range(depth) for j in (0, 2)]
    convs += [Conv(f"body.{depth}", width, width), *upsampler("tail.0.{}", 2, scale, width), Conv("tail.1", width, 3)]
    return seeded(convs, 1.6, shifts=("sub_mean", "add_mean"), img_range=img_range)


def basicsr_edsr(scale: int, width: int, depth: int) -> State:
    """Return weights of XPixelGroup/BasicSR, basicsr/archs/edsr_arch.py, without a mean shift."""
    convs = [Conv("conv_first", 3, width)]
    convs += [Conv(f"body.{i}.conv{j}", width, width) for i in range(depth) for j in (1, 2)]
    convs += [Conv("conv_after_body", width, width), *upsampler("upsample.{}", 2, scale, width)]
    return seeded([*convs, Conv("conv_last", width, 3)], 1.6)


def csd_edsr(scale: int, width: int, depth: int) -> State:
    """Return weights of Booooooooooo/CSD, PyTorch version/model/edsr.py."""
    convs = [Conv("head", 3, width)]
    convs += [Conv(f"body.{i}.conv{j}", width, width) for i in range(depth) for j in (1, 2)]
    convs += [Conv("body_conv", width, width), *upsampler("upsampler.blocks.{}", 1, scale, width)]
    return seeded([*convs, Conv("tail_conv", width, 3)], 1.6, shifts=("sub_mean", "add_mean"), img_range=255.0)


def fakd_edsr(scale: int, width: int, depth: int) -> State:
    """Return weights with the body in three parts.

    Source: Vincent-Hoo/Knowledge-Distillation-for-Super-resolution, code/models/edsr.py.
    """
    ends = (depth // 3, 2 * depth // 3, depth)
    convs = [Conv("head.0", 3, width)]
    for part, (start, end) in enumerate(zip((0, *ends), ends, strict=False)):
        convs += [Conv(f"body{part + 1}.{i}.body.{j}", width, width) for i in range(end - start) for j in (0, 2)]
    convs.append(Conv(f"body3.{depth - ends[1]}", width, width))
    convs += [*upsampler("tail.0.{}", 2, scale, width), Conv("tail.1", width, 3)]
    return seeded(convs, 1.3, shifts=("sub_mean", "add_mean"), img_range=255.0)


def carn(scales: tuple[int, ...], width: int = 64) -> State:
    """Return weights of nmhkahn/CARN-pytorch, carn/model/carn.py; several scales give a multi-scale file."""
    block = [Conv(f"b{k}.body.{j}", width, width) for k in (1, 2, 3) for j in (0, 2)]
    return seeded(cascading(scales, width, block, groups=1), 2.0, ("sub_mean.shifter", "add_mean.shifter"), 1.0)


def carn_m(scales: tuple[int, ...], width: int = 64, groups: int = 4) -> State:
    """Return weights of nmhkahn/CARN-pytorch, carn/model/carn_m.py: one block in each cascade, grouped."""
    block = [Conv(f"b1.body.{j}", width, width, 3, groups) for j in (0, 2)] + [Conv("b1.body.4", width, width, 1)]
    return seeded(cascading(scales, width, block, groups), 2.0, ("sub_mean.shifter", "add_mean.shifter"), 1.0)


def cascading(scales: tuple[int, ...], width: int, block: list[Conv], groups: int) -> Iterator[Conv]:
    yield Conv("entry", 3, width)
    for i in (1, 2, 3):
        for conv in block:
            yield Conv(f"b{i}.{conv.name}", conv.inputs, conv.outputs, conv.kernel, conv.groups)
        for k in (1, 2, 3):
            yield Conv(f"b{i}.c{k}.body.0", (k + 1) * width, width, 1)
    for k in (1, 2, 3):
        yield Conv(f"c{k}.body.0", (k + 1) * width, width, 1)
    for scale in scales:
        up = "up" if len(scales) == 1 else f"up{scale}"
        yield from upsampler(f"upsample.{up}.body.{{}}", 3, scale, width, groups)
    yield Conv("exit", width, 3)


def upsampler(name: str, step: int, scale: int, width: int, groups: int = 1) -> list[Conv]:
    factors = {2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}[scale]
    return [Conv(name.format(step * k), width, width * f * f, 3, groups) for k, f in enumerate(factors)]


def seeded(
    convs: Iterator[Conv] | list[Conv],
    gain: float,
    shifts: tuple[str, ...] = (),
    img_range: float = 1.0,
    *,
    noise: Sequence[str] = (),
) -> State:
    """Return weights by the documented initialisation; mean shifts are created first and hold the constants.

    Noise is added in the order of the state dict: `noise` names the layers if that is not the order of creation.
    """
    state: State = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, sign in zip(shifts, (-1.0, 1.0), strict=False):
            nn.Conv2d(3, 3, 1)  # only to draw as many random numbers as the official code
            state[f"{name}.weight"] = torch.eye(3).reshape(3, 3, 1, 1)
            state[f"{name}.bias"] = sign * img_range * torch.tensor(MEAN)
        for conv in convs:
            module = nn.Conv2d(conv.inputs, conv.outputs, conv.kernel, groups=conv.groups)
            state[f"{conv.name}.weight"] = module.weight.detach() * (conv.gain or gain)
            state[f"{conv.name}.bias"] = module.bias.detach()
    generator = torch.Generator().manual_seed(1)
    for name in [f"{layer}.bias" for layer in noise] or list(state):
        if name.endswith(".bias") and not name.startswith(shifts or ("-",)):
            state[name] = state[name] + 0.05 * torch.randn(state[name].shape, generator=generator)
    return state


@dataclass(frozen=True)
class GoldenCase:
    """Recreated official weights, one input, and every second pixel of the official code's output; in [0,1]."""

    state: State
    lr: torch.Tensor
    outputs: dict[str, torch.Tensor]


def thinned(output: torch.Tensor) -> torch.Tensor:
    """Return the part of an output that tests/golden stores: each pixel with even row and column."""
    return output[..., ::2, ::2]


def golden_case(name: str, state: State) -> GoldenCase:
    with np.load(GOLDEN / f"{name}.npz") as kept:
        arrays = {key: torch.from_numpy(kept[key]) for key in kept.files}
    total = sum(float(tensor.double().abs().sum()) for tensor in state.values())
    assert abs(total / float(arrays.pop("sum_of_weights")) - 1) < 1e-6, "torch's random generator has changed"
    return GoldenCase(state, arrays.pop("x"), arrays)
