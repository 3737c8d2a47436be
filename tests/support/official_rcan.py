"""RCAN checkpoints as the official code bases would have saved them, recreated from the documented initialisation.

See tests/support/official.py; convolutions of the channel attention are scaled by 3, so that no gate is near one half.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tests.support.official import MEAN, Conv, State, seeded, upsampler

ATTENTION_GAIN = 3.0


@dataclass(frozen=True)
class Layout:
    """Names of one code base; {g} is the group, {b} the block, {n} the blocks per group, {G} the number of groups."""

    head: str
    block: str
    parts: tuple[str, str, str, str]
    group_conv: str
    body_end: str
    upsampler: str
    step: int
    tail: str
    attention_is_registered_first: bool = False


RCAN = Layout(
    "head.0",
    "body.{g}.body.{b}",
    ("body.0", "body.2", "body.3.conv_du.0", "body.3.conv_du.2"),
    "body.{g}.body.{n}",
    "body.{G}",
    "tail.0.{}",
    2,
    "tail.1",
)
BASICSR = Layout(
    "conv_first",
    "body.{g}.residual_group.{b}",
    ("rcab.0", "rcab.2", "rcab.3.attention.1", "rcab.3.attention.3"),
    "body.{g}.conv",
    "conv_after_body",
    "upsample.{}",
    2,
    "conv_last",
)
CSD = Layout(
    "head_conv",
    "body.{g}.body.{b}",
    ("body.0", "body.1", "caLayer.conv_du.0", "caLayer.conv_du.1"),
    "body.{g}.conv",
    "body_conv",
    "upsampler.blocks.{}",
    1,
    "tail_conv",
    attention_is_registered_first=True,
)


def rcan(layout: Layout, scale: int, *, width: int = 16, groups: int = 2, depth: int = 2, hidden: int = 4) -> State:
    """Return the state dict with one code base's names."""
    convs, registered = [Conv(layout.head, 3, width)], [layout.head]
    for g in range(groups):
        for b in range(depth):
            block = _block(layout, g, b, width, hidden)
            convs += block
            in_order = block[2:] + block[:2] if layout.attention_is_registered_first else block
            registered += [conv.name for conv in in_order]
        convs.append(Conv(layout.group_conv.format(g=g, n=depth), width, width))
        registered.append(convs[-1].name)
    ends = [
        Conv(layout.body_end.format(G=groups), width, width),
        *upsampler(layout.upsampler, layout.step, scale, width),
    ]
    ends.append(Conv(layout.tail, width, 3))
    registered += [conv.name for conv in ends]
    if layout is BASICSR:
        return seeded([*convs, *ends], 1.6, noise=registered)
    state = seeded([*convs, *ends], 1.6, ("sub_mean",), 255.0, noise=registered)
    state["add_mean.weight"] = torch.eye(3).reshape(3, 3, 1, 1)  # created last in these code bases
    state["add_mean.bias"] = 255.0 * torch.tensor(MEAN)
    return state


def drifted(state: State) -> State:
    """Return the same weights with a mean shift changed by training, as in a published file of RCAN."""
    generator = torch.Generator().manual_seed(5)
    moved = dict(state)
    for name in ("sub_mean.weight", "sub_mean.bias", "add_mean.weight", "add_mean.bias"):
        moved[name] = state[name] + 0.02 * torch.randn(state[name].shape, generator=generator)
    return moved


def _block(layout: Layout, g: int, b: int, width: int, hidden: int) -> list[Conv]:
    name = layout.block.format(g=g, b=b)
    conv1, conv2, squeeze, expand = (f"{name}.{part}" for part in layout.parts)
    return [
        Conv(conv1, width, width),
        Conv(conv2, width, width),
        Conv(squeeze, width, hidden, 1, gain=ATTENTION_GAIN),
        Conv(expand, hidden, width, 1, gain=ATTENTION_GAIN),
    ]
