"""SwinIR (Liang et al., 2021): its axes and linear plan; spec, network and names in files have a file each."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from compressor.models.networks.axes import Axis, AxisPlan, Repeat, layer_axes
from compressor.models.networks.base import Architecture, PublishedSettings, Tap
from compressor.models.networks.layers import upsampler_factors
from compressor.models.networks.linear_plan import LinearLayer, LinearPlan, SpaceKind
from compressor.models.networks.swinir_names import OFFICIAL
from compressor.models.networks.swinir_network import SwinIR
from compressor.models.networks.swinir_spec import SwinIRSpec as SwinIRSpec


def axes(spec: SwinIRSpec) -> AxisPlan:
    layer = "groups.*.layers.*"
    weights: dict[str, tuple[str, ...]] = {
        "head": ("width", "colour"),
        **dict.fromkeys(("embed_norm", "norm", f"{layer}.norm1", f"{layer}.norm2"), ("width",)),
        f"{layer}.attention.qkv": ("width | width | width", "width"),
        f"{layer}.attention.proj": ("width", "width"),
        f"{layer}.fc1": ("hidden", "width"),
        f"{layer}.fc2": ("width", "hidden"),
        "before_upsampler": ("features", "width"),
        "upsampler.convs.*": ("expanded", "features"),
        **{f"upsampler.{name}": ("features", "features") for name in ("up1", "up2", "hr")},
        "tail": ("rgb", "features" if spec.has_features else "width"),
    }
    for conv in ("groups.*.conv", "body_end"):
        if spec.connection == "1conv":
            weights[conv] = ("width", "width")
        else:
            weights |= {
                f"{conv}.0": ("quarter", "width"),
                f"{conv}.2": ("quarter", "quarter"),
                f"{conv}.4": ("width", "quarter"),
            }
    parameters = layer_axes(weights)
    for group, (depth, heads) in enumerate(zip(spec.depths, spec.heads, strict=True)):
        for index in range(depth):
            # If groups differ in heads, only depth can be cut, and each number of heads is a separate axis.
            table = f"groups.{group}.layers.{index}.attention.bias_table"
            parameters[table] = ("positions", f"heads_{heads}" if len(set(spec.heads)) > 1 else "heads")
    return AxisPlan(_axis_sizes(spec), parameters, (Repeat("groups", len(spec.depths)),))


def linear(spec: SwinIRSpec) -> LinearPlan:
    """Return the linear plan. Norms act on the stream, so its units can only be selected; heads are kept whole.

    Norms and attention change the stream of another network: it passes by the body, on the long skip.
    """
    layers = [LinearLayer("head", ("lr",), "stream"), LinearLayer("embed_norm", ("stream",), "stream")]
    kinds: dict[str, SpaceKind] = {"lr": "fixed", "sr": "fixed", "stream": "units"}
    values: dict[str, str] = {}
    blocks: dict[str, int] = {}
    for group, (depth, heads) in enumerate(zip(spec.depths, spec.heads, strict=True)):
        for layer in (f"groups.{group}.layers.{index}" for index in range(depth)):
            attended, hidden = f"{layer}.attention.heads", f"{layer}.hidden"
            kinds |= {attended: "units", hidden: "units"}
            values[f"{layer}.attention.bias_table"] = attended
            blocks[attended] = spec.width // heads
            layers += [
                LinearLayer(f"{layer}.norm1", ("stream",), "stream"),
                LinearLayer(f"{layer}.attention.qkv", ("stream",), attended, parts=3),
                # The output is in windows, while the sum is not: the MLP also corrects the error of this layer.
                LinearLayer(f"{layer}.attention.proj", (attended,), "stream"),
                LinearLayer(f"{layer}.norm2", ("stream",), "stream"),
                LinearLayer(f"{layer}.fc1", ("stream",), hidden),
                LinearLayer(f"{layer}.fc2", (hidden,), "stream", at=Tap(layer)),
            ]
        layers += _connection_layers(spec, f"groups.{group}.conv", Tap(f"groups.{group}"), kinds)
    layers.append(LinearLayer("norm", ("stream",), "stream"))
    layers += _connection_layers(spec, "body_end", Tap("joined"), kinds)
    slopes: dict[str, float | str] = {}
    ends = ["stream"]
    if spec.has_features:
        ups = range(len(upsampler_factors(spec.scale))) if spec.upsampler == "pixelshuffle" else ()
        names = [f"upsampler.convs.{k}" for k in ups] or [f"upsampler.{name}" for name in ("up1", "up2", "hr")]
        ends += ["before_upsampler", *names]
        layers += [LinearLayer(name, (space,), name) for space, name in pairwise(ends)]
        kinds |= dict.fromkeys(ends[1:], "fixed")
        slopes |= {ends[1]: 0.01} | dict.fromkeys(() if ups else names, 0.2)
    layers.append(LinearLayer("tail", (ends[-1],), "sr"))
    stages = ("embed_norm", *(f"groups.{group}" for group in range(len(spec.depths))))
    return LinearPlan(
        tuple(layers),
        kinds,
        stages,
        values=values,
        blocks=blocks,
        slopes=slopes,
        image_layers=max(1, len(ends) - 1),
        bypassed=("embed_norm", "groups", "norm", "body_end"),
    )


def _connection_layers(spec: SwinIRSpec, name: str, at: Tap, kinds: dict[str, SpaceKind]) -> list[LinearLayer]:
    """Return the convolution at the end of a group or the body, or its three, whose spaces join `kinds`."""
    if spec.connection == "1conv":
        return [LinearLayer(name, ("stream",), "stream", at=at)]
    spaces = ["stream", f"{name}.0.quarter", f"{name}.2.quarter", "stream"]
    kinds |= dict.fromkeys(spaces[1:3], "units")
    layers = [LinearLayer(f"{name}.{k}", (a,), b) for k, (a, b) in zip((0, 2, 4), pairwise(spaces), strict=True)]
    return [*layers[:2], replace(layers[2], at=at)]


def _axis_sizes(spec: SwinIRSpec) -> dict[str, Axis]:
    direct = spec.upsampler == "pixelshuffledirect"
    factor = upsampler_factors(spec.scale)[0] if spec.upsampler == "pixelshuffle" and spec.scale > 1 else 1
    return {
        "width": Axis(spec.width, unit=spec.width // spec.heads[0]),
        "hidden": Axis(spec.hidden, local=True),
        "quarter": Axis(spec.width // 4, local=True),
        "heads": Axis(spec.heads[0], follows="width"),
        **{f"heads_{heads}": Axis(heads) for heads in spec.heads},
        "positions": Axis((2 * spec.window - 1) ** 2),
        "features": Axis(spec.features),
        "expanded": Axis(spec.features * factor**2),
        "colour": Axis(spec.channels),
        "rgb": Axis(spec.channels * spec.scale**2 if direct else spec.channels),
    }


_FORM = SwinIRSpec(4, width=8, depths=(2, 1), heads=(2, 2), window=4, features=6)

ARCHITECTURE = Architecture(
    SwinIRSpec,
    SwinIR,
    axes,
    linear=linear,
    # The four linear layers of a transformer layer and their inputs; the sums between them stay in float.
    quantised=tuple(f"groups.*.layers.*.{name}" for name in ("attention.qkv", "attention.proj", "fc1", "fc2")),
    small=SwinIRSpec(width=21, depths=(2, 2, 2), heads=(7, 7, 7), window=4, features=8),
    variants=(
        replace(_FORM, scale=8, depths=(2, 2)),
        replace(_FORM, upsampler="pixelshuffledirect"),
        replace(_FORM, upsampler="pixelshuffledirect", scale=1),
        replace(_FORM, upsampler="pixelshuffledirect", scale=8, channels=1),
        replace(_FORM, upsampler="nearest+conv"),
        replace(_FORM, upsampler="none", scale=1, channels=1, img_range=255.0),
        replace(_FORM, connection="3conv", shifted=False),
        replace(_FORM, padding="testscript"),
        replace(_FORM, window=7, heads=(4, 2)),
    ),
    dialects=(OFFICIAL,),
    # The option files of DUKD's code (yun224/DUKD, options/).
    published=tuple(
        PublishedSettings(
            {"dukd.pixel_weight": 5.0, "dukd.probability": 0.3, "dukd.zoom_out": "off", "dukd.cells": 1},
            where={"scale": scale},
        )
        for scale in (2, 3, 4)
    ),
)
