"""How SwinIR's files name their tensors, and what their shapes say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from compressor.errors import SrkdError
from compressor.networks.dialect import Assumption, Dialect, Reading, State, both, columns, count, rows
from compressor.networks.layers import scale_from_upsampler

if TYPE_CHECKING:
    from compressor.networks.swinir import SwinIRSpec

FIRST_TABLE = "layers.0.residual_group.blocks.0.attn.relative_position_bias_table"


def _table(state: State, group: int) -> tuple[int, int]:
    """Window and heads of a group, from its first bias table of (2·window - 1)² rows."""
    name = f"layers.{group}.residual_group.blocks.0.attn.relative_position_bias_table"
    table = state.get(name)
    if table is None or table.dim() != 2:
        raise SrkdError(f"tensor {name} is missing or no table")
    side = math.isqrt(table.shape[0])
    if side**2 != table.shape[0] or side % 2 == 0:
        raise SrkdError(f"tensor {name} has {table.shape[0]} rows: no (2·window - 1)²")
    return (side + 1) // 2, table.shape[1]


def _upsampler(state: State, width: int, channels: int) -> dict[str, Any]:
    """Which upsampler by the names of its layers, and the scale it gives."""
    if "conv_up1.weight" in state:
        return {"upsampler": "nearest+conv", "scale": 4, "features": rows(state, "conv_before_upsample.0.weight")}
    if "conv_before_upsample.0.weight" in state:
        features = rows(state, "conv_before_upsample.0.weight")
        convs = [f"upsample.{k}.weight" for k in (0, 2, 4) if f"upsample.{k}.weight" in state]
        scale = scale_from_upsampler([rows(state, name) for name in convs], features)
        return {"upsampler": "pixelshuffle", "scale": scale, "features": features}
    if "upsample.0.weight" in state:
        outputs = rows(state, "upsample.0.weight")
        scale = math.isqrt(outputs // channels)
        if scale**2 * channels != outputs:
            raise SrkdError(f"upsample.0.weight has {outputs} rows: {channels} channels fit no scale")
        return {"upsampler": "pixelshuffledirect", "scale": scale}
    return {"upsampler": "none", "scale": 1}


def _read(state: State, scale: int | None) -> Reading:
    width, channels = rows(state, "conv_first.weight"), columns(state, "conv_first.weight")
    groups = count(state, r"layers\.(\d+)\.residual_group\.blocks\.0\.norm1\.weight")
    depths = [count(state, rf"layers\.{g}\.residual_group\.blocks\.(\d+)\.norm1\.weight") for g in range(groups)]
    tables = [_table(state, g) for g in range(groups)]
    hidden = state.get("layers.0.residual_group.blocks.0.mlp.fc1.weight")
    if hidden is None or hidden.dim() != 2 or not tables:
        raise SrkdError("its first layer (layers.0.residual_group.blocks.0) is not whole")
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


def _names(spec: SwinIRSpec, in_file: set[str]) -> dict[str, str]:
    layers = [("head", "conv_first"), ("embed_norm", "patch_embed.norm"), ("norm", "norm")]
    layers += _connection(spec, "body_end", "conv_after_body")
    layers += list(_tail(spec))
    names = {}
    for g, depth in enumerate(spec.depths):
        layers += _connection(spec, f"groups.{g}.conv", f"layers.{g}.conv")
        for k in range(depth):
            ours, theirs = f"groups.{g}.layers.{k}", f"layers.{g}.residual_group.blocks.{k}"
            layers += [(f"{ours}.{norm}", f"{theirs}.{norm}") for norm in ("norm1", "norm2")]
            layers += [(f"{ours}.attention.{part}", f"{theirs}.attn.{part}") for part in ("qkv", "proj")]
            layers += [(f"{ours}.{part}", f"{theirs}.mlp.{part}") for part in ("fc1", "fc2")]
            names[f"{ours}.attention.bias_table"] = f"{theirs}.attn.relative_position_bias_table"
    return both(*layers) | names


def _connection(spec: SwinIRSpec, ours: str, theirs: str) -> list[tuple[str, str]]:
    parts = [""] if spec.connection == "1conv" else [".0", ".2", ".4"]
    return [(ours + part, theirs + part) for part in parts]


def _tail(spec: SwinIRSpec) -> Iterator[tuple[str, str]]:
    if spec.upsampler == "pixelshuffledirect":
        yield "tail", "upsample.0"
        return
    yield "tail", "conv_last"
    if spec.upsampler == "none":
        return
    yield "before_upsampler", "conv_before_upsample.0"
    if spec.upsampler == "nearest+conv":
        yield from ((f"upsampler.{name}", f"conv_{name}") for name in ("up1", "up2", "hr"))
    else:
        steps = {2: 1, 3: 1, 4: 2, 8: 3}[spec.scale]
        yield from ((f"upsampler.convs.{k}", f"upsample.{2 * k}") for k in range(steps))


def _rebuilt(name: str) -> bool:
    """Buffers that depend on the training size: made anew for every input."""
    return name.endswith((".relative_position_index", ".attn_mask")) or name == "attn_mask"


def _recognises(state: State) -> bool:
    first = state.get("conv_first.weight")
    return FIRST_TABLE in state and isinstance(first, torch.Tensor)


DIALECTS = (Dialect(name="swinir", recognises=_recognises, read=_read, names=_names, surplus=_rebuilt),)
