"""SwinIR checkpoints as the official code would have saved them, recreated from the documented initialisation.

JingyunLiang/SwinIR, models/network_swinir.py: names, order of creation and of initialisation are written here from it.
tests/golden holds what the official code gave on these very weights: torch.manual_seed(0); weights of linear layers
times 12, bias tables times 40, convolutions times 1.5, and 0.1·randn of seed 1 added to everything with one axis, so
that attention is far from uniform and no bias is trivial.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from tests.support.official import Conv, State, upsampler


@dataclass(frozen=True)
class Shape:
    """A shape with two groups of two layers, two heads and mlp ratio 2, as in every golden case."""

    scale: int
    width: int = 12
    window: int = 8
    channels: int = 3
    upsampler: str = "pixelshuffledirect"
    connection: str = "1conv"
    image: int = 16
    features: int = 64

    @property
    def shifted(self) -> bool:
        """Return whether layers are shifted: only if the training image is larger than a window."""
        return self.image > self.window


CASES = {
    "swinir_3conv_direct_x2": Shape(2, width=16, connection="3conv"),
    "swinir_denoise_range255_win7_gray": Shape(1, window=7, channels=1, upsampler="none", image=14),
    "swinir_imgsize8_noshift_x2": Shape(2, image=8),
    "swinir_pixelshuffle_x2": Shape(2, upsampler="pixelshuffle"),
    "swinir_pixelshuffledirect_x4": Shape(4),
}
"""The golden cases by name."""


def swinir(shape: Shape) -> State:
    """Return the state dict, with the buffers that depend on the training size."""
    state: State = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _convolution(state, Conv("conv_first", shape.channels, shape.width))
        _norm(state, "patch_embed.norm", shape.width)
        for g in (0, 1):
            for b in (0, 1):
                _block(state, f"layers.{g}.residual_group.blocks.{b}", shape, shifted=shape.shifted and b == 1)
            for conv in _connection(f"layers.{g}.conv", shape):
                _convolution(state, conv)
        _norm(state, "norm", shape.width)
        for conv in (*_connection("conv_after_body", shape), *_tail(shape)):
            _convolution(state, conv)
        for name in [name for name in state if _is_linear(name)]:  # the official apply(_init_weights) comes last
            nn.init.trunc_normal_(state[name], std=0.02)
            state[name.replace("weight", "bias")].zero_()
    return _perturbed(state)


def _block(state: State, name: str, shape: Shape, *, shifted: bool) -> None:
    width, area = shape.width, shape.window**2
    if shifted:
        state[f"{name}.attn_mask"] = torch.zeros((shape.image // shape.window) ** 2, area, area)
    _norm(state, f"{name}.norm1", width)
    table = torch.zeros((2 * shape.window - 1) ** 2, 2)
    state[f"{name}.attn.relative_position_bias_table"] = table
    state[f"{name}.attn.relative_position_index"] = torch.zeros(area, area, dtype=torch.int64)
    _linear(state, f"{name}.attn.qkv", width, 3 * width)
    _linear(state, f"{name}.attn.proj", width, width)
    nn.init.trunc_normal_(table, std=0.02)
    _norm(state, f"{name}.norm2", width)
    _linear(state, f"{name}.mlp.fc1", width, 2 * width)
    _linear(state, f"{name}.mlp.fc2", 2 * width, width)


def _connection(name: str, shape: Shape) -> list[Conv]:
    width, quarter = shape.width, shape.width // 4
    if shape.connection == "1conv":
        return [Conv(name, width, width)]
    return [
        Conv(f"{name}.0", width, quarter),
        Conv(f"{name}.2", quarter, quarter, 1),
        Conv(f"{name}.4", quarter, width),
    ]


def _tail(shape: Shape) -> Iterator[Conv]:
    width, features, channels = shape.width, shape.features, shape.channels
    if shape.upsampler == "pixelshuffledirect":
        yield Conv("upsample.0", width, channels * shape.scale**2)
        return
    if shape.upsampler == "none":
        yield Conv("conv_last", width, channels)
        return
    yield Conv("conv_before_upsample.0", width, features)
    if shape.upsampler == "nearest+conv":
        yield from (Conv(name, features, features) for name in ("conv_up1", "conv_up2", "conv_hr"))
    else:
        yield from upsampler("upsample.{}", 2, shape.scale, features)
    yield Conv("conv_last", features, channels)


def _convolution(state: State, conv: Conv) -> None:
    module = nn.Conv2d(conv.inputs, conv.outputs, conv.kernel)
    state[f"{conv.name}.weight"], state[f"{conv.name}.bias"] = module.weight.detach(), module.bias.detach()


def _linear(state: State, name: str, inputs: int, outputs: int) -> None:
    linear = nn.Linear(inputs, outputs)
    state[f"{name}.weight"], state[f"{name}.bias"] = linear.weight.detach(), linear.bias.detach()


def _norm(state: State, name: str, width: int) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = torch.ones(width), torch.zeros(width)


def _is_linear(name: str) -> bool:
    return name.endswith(".weight") and (".attn." in name or ".mlp." in name)


def _perturbed(state: State) -> State:
    generator = torch.Generator().manual_seed(1)
    changed: State = {}
    for name, tensor in state.items():
        if name.endswith(("relative_position_index", "attn_mask")):
            changed[name] = tensor
        elif tensor.dim() == 1:
            changed[name] = tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        elif name.endswith("bias_table"):
            changed[name] = tensor * 40
        else:
            changed[name] = tensor * (12 if _is_linear(name) else 1.5)
    return changed
