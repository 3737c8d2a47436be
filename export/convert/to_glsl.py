"""mpv user shaders (.glsl), also for libplacebo: a compute pass for each convolution, with the weights in its text.

A network of one channel replaces the texture LUMA; one of RGB replaces MAIN, "the main image, after conversion to RGB
but before upscaling". A texel holds four values, so between two passes the picture stands several times in one texture,
each time with four features (`Packing`). Outside of the picture a pass reads 0, as the network's convolutions do; the
textures themselves repeat the pixels at their edges. The last pass adds the anchor, writes all pixels of a pixel of
the input, and clips them to [0,1].

Sources: the section on `glsl-shaders` of mpv's manual; ArtCNN (https://github.com/Artoriuz/ArtCNN), whose shaders
choose half precision by the extension that is also used here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.chain import ConvChain
from compressor.runtimes.file_runtime import Array
from compressor.runtimes.libplacebo_runtime import format_shader
from export.formats.conversion import CannotConvert, Conversion
from export.formats.templates import render

WIDEST = 64
"""Features of a pixel at most: a thread of a pass holds all of them."""

FIRST = {1: ("F", "r", "V4"), 3: ("V3", "rgb", "M34")}
"""What a pixel of the picture itself is in the first pass, by channels: its type, its components, its matrix."""

THREADS = (16, 8)
"""Threads of a work group across and down, one for each pixel of the input."""


def convert(job: Conversion) -> Mapping[str, object]:
    """Write the shader, whose first lines hold the metadata."""
    chain = _supported(job)
    passes = list(_passes(chain, job.path.stem, half=job.precision == "fp16"))
    job.path.write_text(format_shader(job.metadata, "\n".join(passes)), encoding="utf-8")
    return {"passes": len(passes), "hook": _hook(chain), "threads": "{}x{}".format(*THREADS)}


def _supported(job: Conversion) -> ConvChain:
    """Return the network as a chain, or say which student can be written."""
    network, spec = job.network, job.network.spec
    student = f"a student: --student plain:width={min(getattr(spec, 'width', 16), 16)},depth=4"
    if network.quantisation is not None:
        raise CannotConvert(
            "a network that was trained quantised is not written as GLSL: export the float network it was made from"
        )
    chain = network.chain()
    if chain is None:
        raise CannotConvert(f"{spec.arch} is not written as GLSL: plain and compact are; {student}")
    if chain.width > WIDEST:
        raise CannotConvert(
            f"{spec.arch} with width={chain.width} is not written as GLSL: at most {WIDEST} are; {student}"
        )
    return chain


def _hook(chain: ConvChain) -> str:
    return "LUMA" if chain.channels == 1 else "MAIN"


@dataclass(frozen=True)
class Packing:
    """The copies of the picture that stand in one texture, four features in each."""

    groups: int

    @classmethod
    def of(cls, features: int) -> Packing:
        return cls(math.ceil(features / 4))

    @property
    def across(self) -> int:
        return math.ceil(math.sqrt(self.groups))

    @property
    def down(self) -> int:
        return math.ceil(self.groups / self.across)

    def corner(self, group: int) -> str:
        """The first texel of a group's copy, for pictures of `size`."""
        return f"ivec2({group % self.across}, {group // self.across}) * size"


def _passes(chain: ConvChain, name: str, *, half: bool) -> Iterator[str]:
    """Yield a pass for each convolution: it reads the texture of the one before, the first one the picture itself."""
    name, count = re.sub(r"[^\w .+-]", "_", name), len(chain.convolutions)
    for number, (conv, slopes) in enumerate(zip(chain.convolutions, (*chain.slopes, None), strict=True), 1):
        inputs = Packing.of(1 if number == 1 else conv.in_channels)
        outputs = Packing.of(conv.out_channels)
        kind, components, matrix = ("V4", "rgba", "M4") if number > 1 else FIRST[conv.in_channels]
        yield render(
            "export.convert",
            "convolution.glsl",
            hook=_hook(chain),
            read=_hook(chain) if number == 1 else f"srkd_{number - 1}",
            number=number,
            is_last=slopes is None,
            title=f"{name}: convolution {number} of {count}, {conv.in_channels} to {conv.out_channels} channels",
            scale=chain.scale,
            channels=chain.channels,
            anchored=chain.anchored,
            area=(chain.scale, chain.scale) if slopes is None else (outputs.across, outputs.down),
            threads=THREADS,
            half=half,
            kind=kind,
            components=components,
            matrix=matrix,
            inputs=inputs,
            outputs=outputs,
            **_literals_of(conv, slopes, inputs.groups, multiple=1 if number == 1 else 4, half=half),
        )


def _literals_of(
    conv: nn.Conv2d, slopes: torch.Tensor | None, copies: int, *, multiple: int, half: bool
) -> dict[str, Callable[..., str]]:
    """Functions of the template that write the numbers of four features; zeros fill up what is missing.

    Inputs are filled up to a multiple of `multiple` and belong to `copies` copies of the picture.
    """
    rows, columns = -conv.out_channels % 4, -conv.in_channels % multiple
    assert conv.bias is not None
    kernel, biases = F.pad(conv.weight, (0, 0, 0, 0, 0, columns, 0, rows)).numpy(), F.pad(conv.bias, (0, rows)).numpy()
    factors = np.zeros(len(biases), np.float32)
    if slopes is not None:
        factors[: conv.out_channels] = slopes.numpy()
    step = kernel.shape[1] // copies

    def weights(group: int, copy: int, y: int, x: int) -> str:
        return _literals(kernel[4 * group : 4 * group + 4, copy * step : (copy + 1) * step, y, x].T, half=half)

    def bias(group: int) -> str:
        return _literals(biases[4 * group : 4 * group + 4], half=half)

    def slope(group: int) -> str:
        four = factors[4 * group : 4 * group + 4]
        return _literals(four, half=half) if four.any() else ""

    return {"weights": weights, "bias": bias, "slope": slope}


def _literals(values: Array, *, half: bool) -> str:
    """The shortest decimal numbers that read back as exactly these floats, or as these rounded to half."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16 if half else np.float32)
    if not np.isfinite(rounded).all():
        raise CannotConvert(f"a weight of {np.abs(values).max():g} is beyond fp16: export --glsl")
    texts = map(str, rounded.ravel())
    return ",".join(text if "e" in text or "." in text else f"{text}.0" for text in texts)
