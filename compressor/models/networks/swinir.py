"""SwinIR (Liang et al., 2021) as srkd knows it; spec, network, axes and names in files have a file each."""

from __future__ import annotations

from dataclasses import replace

from compressor.models.networks.base import Architecture, PublishedSettings
from compressor.models.networks.swinir_axes import axes, linear
from compressor.models.networks.swinir_names import OFFICIAL
from compressor.models.networks.swinir_network import SwinIR
from compressor.models.networks.swinir_spec import SwinIRSpec as SwinIRSpec

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
