"""The names, sizes and buffers of SwinIR in the files of the official code."""

from __future__ import annotations

import math
from typing import Any

import torch

from compressor.base.errors import SrkdError
from compressor.models.networks.dialect import (
    Assumption,
    Dialect,
    NotedState,
    Reading,
    State,
    columns,
    count,
    has_tensors,
    named,
    rows,
    shuffle_scale,
    weight_and_bias,
)
from compressor.models.networks.layers import scale_from_upsampler, upsampler_factors
from compressor.models.networks.swinir_spec import SwinIRSpec
from compressor.models.networks.windows import relative_index, shift_mask

IMAGE_SIZES = (64, 126)
"""Training sizes of the published files; 126 is for windows of 7 (JPEG artefacts)."""


def _table(state: State, group: int) -> tuple[int, int]:
    """Return window and heads of a group from its first bias table of (2·window - 1)² rows."""
    name = f"layers.{group}.residual_group.blocks.0.attn.relative_position_bias_table"
    table = state.get(name)
    if table is None or table.dim() != 2:
        raise SrkdError(f"tensor {name} is missing or not a table")
    side = math.isqrt(table.shape[0])
    if side**2 != table.shape[0] or side % 2 == 0:
        raise SrkdError(f"tensor {name} has {table.shape[0]} rows, which are not (2·window - 1)²")
    return (side + 1) // 2, table.shape[1]


def _upsampler(state: State, width: int, channels: int) -> dict[str, Any]:
    if "conv_up1.weight" in state:
        return {"upsampler": "nearest+conv", "scale": 4, "features": rows(state, "conv_before_upsample.0.weight")}
    if "conv_before_upsample.0.weight" in state:
        features = rows(state, "conv_before_upsample.0.weight")
        convs = [f"upsample.{k}.weight" for k in (0, 2, 4) if f"upsample.{k}.weight" in state]
        scale = scale_from_upsampler([rows(state, name) for name in convs], features)
        return {"upsampler": "pixelshuffle", "scale": scale, "features": features}
    if "upsample.0.weight" in state:
        return {"upsampler": "pixelshuffledirect", "scale": shuffle_scale(state, "upsample.0.weight", channels)}
    return {"upsampler": "none", "scale": 1}


def _read(state: State, scale: int | None) -> Reading:
    width, channels = rows(state, "conv_first.weight"), columns(state, "conv_first.weight")
    groups = count(state, r"layers\.(\d+)\.residual_group\.blocks\.0\.norm1\.weight")
    depths = [count(state, rf"layers\.{g}\.residual_group\.blocks\.(\d+)\.norm1\.weight") for g in range(groups)]
    tables = [_table(state, g) for g in range(groups)]
    hidden = state.get("layers.0.residual_group.blocks.0.mlp.fc1.weight")
    if hidden is None or hidden.dim() != 2 or not tables:
        raise SrkdError("its first layer (layers.0.residual_group.blocks.0) is not complete")
    has_index = any(name.endswith("relative_position_index") for name in state)
    shifted = not has_index or any(name.endswith("attn_mask") for name in state)
    fields = {
        "width": width,
        "depths": depths,
        "heads": [heads for _, heads in tables],
        "window": tables[0][0],
        "mlp_ratio": hidden.shape[0] / width,
        "connection": "3conv" if "conv_after_body.0.weight" in state else "1conv",
        "channels": channels,
        "shifted": shifted or max(depths) == 1,
        **_upsampler(state, width, channels),
    }
    notes = () if fields["shifted"] else ("trained on images no larger than a window: no layer is shifted",)
    assumed = Assumption("img_range", 1.0, "not in the file; the published SwinIR uses 1 (255 for JPEG artefacts)")
    return Reading(fields, (assumed,), notes)


LAYER = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.qkv": "attn.qkv",
    "attention.proj": "attn.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
TAILS = {
    "pixelshuffle": {"tail": "conv_last", "upsampler.convs.{k}": "upsample.{2*k}"},
    "pixelshuffledirect": {"tail": "upsample.0"},
    "nearest+conv": {"tail": "conv_last"} | {f"upsampler.{name}": f"conv_{name}" for name in ("up1", "up2", "hr")},
    "none": {"tail": "conv_last"},
}


def _names(spec: SwinIRSpec, in_file: set[str]) -> dict[str, str]:
    layers = {"head": "conv_first", "embed_norm": "patch_embed.norm", "norm": "norm", **TAILS[spec.upsampler]}
    if spec.has_features:
        layers["before_upsampler"] = "conv_before_upsample.0"
    for suffix in [""] if spec.connection == "1conv" else [".0", ".2", ".4"]:
        layers[f"body_end{suffix}"] = f"conv_after_body{suffix}"
        layers[f"groups.{{g}}.conv{suffix}"] = f"layers.{{g}}.conv{suffix}"
    steps = len(upsampler_factors(spec.scale)) if spec.upsampler == "pixelshuffle" else 0
    layers, tables = named(layers, g=len(spec.depths), k=steps), {}
    for g, k in ((g, k) for g, depth in enumerate(spec.depths) for k in range(depth)):
        layer, there = f"groups.{g}.layers.{k}", f"layers.{g}.residual_group.blocks.{k}"
        layers |= {f"{layer}.{name}": f"{there}.{theirs}" for name, theirs in LAYER.items()}
        tables[f"{layer}.attention.bias_table"] = f"{there}.attn.relative_position_bias_table"
    return weight_and_bias(layers) | tables


def _window_buffers(spec: SwinIRSpec) -> NotedState:
    """Return the buffers of strict loading: relative_position_index of every layer, attn_mask of shifted ones."""
    sizes = [size for size in IMAGE_SIZES if size % spec.window == 0 and size > spec.window]
    image = (sizes[0] if sizes else 8 * spec.window) if spec.shifted else spec.window
    index = relative_index(spec.window)
    mask = shift_mask(image, image, spec.window, torch.device("cpu"))
    buffers: dict[str, torch.Tensor] = {}
    for g, depth in enumerate(spec.depths):
        for k in range(depth):
            layer = f"layers.{g}.residual_group.blocks.{k}"
            buffers[f"{layer}.attn.relative_position_index"] = index
            if spec.shifted and k % 2 == 1:
                buffers[f"{layer}.attn_mask"] = mask
    note = f"its buffers are those of img_size={image}, window_size={spec.window}: build the network with these"
    return buffers, (note,)


OFFICIAL = Dialect(
    name="swinir",
    recognises=has_tensors("conv_first.weight", "layers.0.residual_group.blocks.0.attn.relative_position_bias_table"),
    read=_read,
    names=_names,
    # Buffers that depend on the training size; srkd computes them for every input.
    surplus=lambda name: name.endswith((".relative_position_index", ".attn_mask")) or name == "attn_mask",
    code_bases=("swinir", "basicsr"),
    community_name="swinir",
    wrapping="params",
    companions=_window_buffers,
)
