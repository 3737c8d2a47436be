"""The passes of a shader, one for each convolution, with the weights in its text; templates write them for a player.

A texel holds four values, so between two passes the picture stands several times in one texture, each time with four
features (`Packing`). Outside of the picture a pass reads 0, as the network's convolutions do; the textures themselves
repeat the pixels at their edges. The last pass adds the anchor, writes all pixels of a pixel of the input, and clips
them to [0,1].
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.chain import ConvChain
from compressor.runtimes.file_runtime import Array
from export.formats.conversion import CannotConvert, Conversion

WIDEST = 64
"""Features of a pixel at most: a thread of a pass holds all of them."""

FIRST = {1: ("F", "r", "V4"), 3: ("V3", "rgb", "M34")}
"""What a pixel of the picture itself is in the first pass, by channels: its type, its components, its matrix."""

THREADS = (16, 8)
"""Threads of a work group across and down, one for each pixel of the input."""


def supported_chain(job: Conversion) -> ConvChain:
    """Return the network as a chain, or say which student can be written."""
    network, spec = job.network, job.network.spec
    student = f"a student: --student plain:width={min(getattr(spec, 'width', 16), 16)},depth=4"
    if network.quantisation is not None:
        raise CannotConvert(
            "a network that was trained quantised is not written as a shader: export the float network it was made from"
        )
    chain = network.chain()
    if chain is None:
        raise CannotConvert(f"{spec.arch} is not written as a shader: plain and compact are; {student}")
    if chain.width > WIDEST:
        raise CannotConvert(
            f"{spec.arch} with width={chain.width} is not written as a shader: at most {WIDEST} are; {student}"
        )
    return chain


@dataclass(frozen=True)
class Packing:
    """The copies of the picture that stand in one texture, four features in each: a power of two across and down.

    RetroArch multiplies the sizes of textures by factors, which are exact between powers of two.
    """

    features: int

    @property
    def groups(self) -> int:
        return math.ceil(self.features / 4)

    @property
    def across(self) -> int:
        return 1 << math.ceil(math.log2(self.groups) / 2)

    @property
    def down(self) -> int:
        return 1 << math.ceil(math.log2(self.groups / self.across))

    def corner(self, group: int) -> str:
        """The first texel of a group's copy, for pictures of `size`."""
        return f"ivec2({group % self.across}, {group // self.across}) * size"


def shader_passes(chain: ConvChain, job: Conversion) -> Iterator[dict[str, Any]]:
    """Yield what the templates need of each pass: it reads the texture of the one before, the first one the picture."""
    for number, (conv, slopes) in enumerate(zip(chain.convolutions, (*chain.slopes, None), strict=True), 1):
        inputs, outputs = Packing(1 if number == 1 else conv.in_channels), Packing(conv.out_channels)
        kind, components, matrix = ("V4", "rgba", "M4") if number > 1 else FIRST[conv.in_channels]
        yield {
            "name": shader_name(job),
            "number": number,
            "conv": conv,
            "chain": chain,
            "scale": chain.scale,
            "is_last": slopes is None,
            "area": (chain.scale, chain.scale) if slopes is None else (outputs.across, outputs.down),
            "threads": THREADS,
            "half": job.format == "glsl-fp16",
            "numbers": partial(_literals, half=job.format == "glsl-fp16"),
            "kind": kind,
            "components": components,
            "matrix": matrix,
            "inputs": inputs,
            "outputs": outputs,
            **_arrays_of(conv, slopes, inputs.groups, multiple=1 if number == 1 else 4),
        }


def shader_name(job: Conversion) -> str:
    return re.sub(r"[^\w .+-]", "_", job.path.stem)


def _arrays_of(conv: nn.Conv2d, slopes: torch.Tensor | None, copies: int, *, multiple: int) -> dict[str, Array]:
    """Weights by group, copy, row and column, biases and slopes by group, in fours; zeros fill up what is missing.

    Inputs are filled up to a multiple of `multiple` and belong to `copies` copies of the picture.
    """
    rows, columns = -conv.out_channels % 4, -conv.in_channels % multiple
    factors = torch.zeros(1) if slopes is None else slopes
    kernel = F.pad(conv.weight, (0, 0, 0, 0, 0, columns, 0, rows))
    kernel = kernel.view(-1, 4, copies, kernel.shape[1] // copies, 3, 3)
    assert conv.bias is not None
    fours = [F.pad(one.expand(conv.out_channels), (0, rows)).view(-1, 4).numpy() for one in (conv.bias, factors)]
    return {"weights": kernel.permute(0, 2, 4, 5, 3, 1).numpy(), "biases": fours[0], "slopes": fours[1]}


def _literals(values: Array, *, half: bool) -> str:
    """The shortest decimal numbers that read back as exactly these floats, or as these rounded to half."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16 if half else np.float32)
    if not np.isfinite(rounded).all():
        raise CannotConvert(f"a weight of {np.abs(values).max():g} is beyond fp16: export --glsl")
    texts = map(str, rounded.ravel())
    return ",".join(text if "e" in text or "." in text else f"{text}.0" for text in texts)
