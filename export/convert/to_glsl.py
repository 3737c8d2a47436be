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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.chain import ConvChain
from compressor.runtimes.file_runtime import Array
from compressor.runtimes.libplacebo_runtime import format_shader
from export.formats.conversion import CannotConvert, Conversion

WIDEST = 64
"""Features of a pixel at most: a thread of a pass holds all of them."""

THREADS = (16, 8)
"""Threads of a work group across and down, one for each pixel of the input."""

FLOAT = """\
#define F float
#define V3 vec3
#define V4 vec4
#define M34 mat3x4
#define M4 mat4"""

HALF = f"""\
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : enable
#ifdef GL_EXT_shader_explicit_arithmetic_types_float16
#define F float16_t
#define V3 f16vec3
#define V4 f16vec4
#define M34 f16mat3x4
#define M4 f16mat4
#else
{FLOAT}
#endif"""


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


@dataclass(frozen=True)
class ConvolutionPass:
    """A pass: it reads the texture `source` and writes `target`; None is the picture itself, enlarged by `scale`."""

    chain: ConvChain
    conv: nn.Conv2d
    slopes: torch.Tensor | None
    """None in the last pass."""
    source: str | None
    target: str | None
    title: str
    half: bool

    def text(self) -> str:
        return "\n".join([*self._header(), HALF if self.half else FLOAT, *self._tile(), *self._hook(), ""])

    @property
    def _hooked(self) -> str:
        return _hook(self.chain)

    @property
    def _read(self) -> str:
        return self.source or self._hooked

    @property
    def _inputs(self) -> Packing:
        return Packing.of(1 if self.source is None else self.conv.in_channels)

    @property
    def _outputs(self) -> Packing:
        return Packing.of(self.conv.out_channels)

    @property
    def _area(self) -> tuple[int, int]:
        """Texels of the target for each pixel of the input, across and down."""
        scale = self.chain.scale
        return (scale, scale) if self.target is None else (self._outputs.across, self._outputs.down)

    def _header(self) -> Iterator[str]:
        hooked, scale, (across, down) = self._hooked, self.chain.scale, self._area
        yield f"//!HOOK {hooked}"
        yield f"//!DESC {self.title}"
        yield from (f"//!BIND {name}" for name in dict.fromkeys([self._read, *([hooked] if self._is_last else [])]))
        if self.target is not None:
            yield f"//!SAVE {self.target}"
            yield "//!COMPONENTS 4"
        yield f"//!WIDTH {hooked}.w {across} *"
        yield f"//!HEIGHT {hooked}.h {down} *"
        yield f"//!COMPUTE {THREADS[0] * across} {THREADS[1] * down} {THREADS[0]} {THREADS[1]}"
        if scale > 1:
            yield f"//!WHEN OUTPUT.w {hooked}.w 1.2 * > OUTPUT.h {hooked}.h 1.2 * > *"

    @property
    def _is_last(self) -> bool:
        return self.target is None

    @property
    def _kind(self) -> tuple[str, str]:
        """The type of what a pixel of the source holds, and its components."""
        if self.source is not None:
            return "V4", "rgba"
        return ("F", "r") if self.conv.in_channels == 1 else ("V3", "rgb")

    def _tile(self) -> Iterator[str]:
        """The shared pixels of a work group, with those around it."""
        across, down = THREADS[0] + 2, THREADS[1] + 2
        kind, components = self._kind
        factor = f"{self._read}_mul * " if self.source is None else ""
        yield f"shared {kind} tile[{across * down}];"
        yield "void load(ivec2 corner, ivec2 size) {"
        yield "    ivec2 first = ivec2(gl_WorkGroupID.xy * gl_WorkGroupSize.xy) - 1;"
        yield f"    for (int i = int(gl_LocalInvocationIndex); i < {across * down}; i += {THREADS[0] * THREADS[1]}) {{"
        yield f"        ivec2 at = first + ivec2(i % {across}, i / {across});"
        yield "        bool inside = all(greaterThanEqual(at, ivec2(0))) && all(lessThan(at, size));"
        yield f"        tile[i] = inside ? {kind}(({factor}texelFetch({self._read}_raw, corner + at, 0)).{components})"
        yield f"                         : {kind}(0.0);"
        yield "    }"
        yield "}"

    def _hook(self) -> Iterator[str]:
        across = THREADS[0] + 2
        copies = self._inputs
        yield "void hook() {"
        yield f"    ivec2 size = ivec2({self._read}_size) / ivec2({copies.across}, {copies.down});"
        yield "    ivec2 pixel = ivec2(gl_GlobalInvocationID.xy);"
        yield f"    int p = int(gl_LocalInvocationID.y) * {across} + int(gl_LocalInvocationID.x);"
        yield f"    {self._kind[0]} t;"
        weights, biases = _padded(self.conv, 1 if self.source is None else 4)
        step = weights.shape[1] // copies.groups
        for group in range(self._outputs.groups):
            yield f"    V4 s{group} = V4({self._numbers(biases[4 * group : 4 * group + 4])});"
        for number in range(copies.groups):
            if number:
                yield "    barrier();"
            yield f"    load({copies.corner(number)}, size);"
            yield "    barrier();"
            for y in range(3):
                for x in range(3):
                    yield f"    t = tile[p + {y * across + x}];"
                    for group in range(self._outputs.groups):
                        part = weights[4 * group : 4 * group + 4, number * step : (number + 1) * step, y, x]
                        matrix = {"F": "V4", "V3": "M34", "V4": "M4"}[self._kind[0]]
                        yield f"    s{group} += {matrix}({self._numbers(part.T)}) * t;"
        yield "    if (any(greaterThanEqual(pixel, size))) return;"
        yield from self._last_lines() if self._is_last else self._stores()
        yield "}"

    def _stores(self) -> Iterator[str]:
        slopes = np.zeros(4 * self._outputs.groups, np.float32)
        if self.slopes is not None:
            slopes[: self.conv.out_channels] = self.slopes.numpy()
        for group in range(self._outputs.groups):
            four, value = slopes[4 * group : 4 * group + 4], f"max(s{group}, V4(0.0))"
            if four.any():
                value += f" + V4({self._numbers(four)}) * min(s{group}, V4(0.0))"
            yield f"    imageStore(out_image, {self._outputs.corner(group)} + pixel, vec4({value}));"

    def _last_lines(self) -> Iterator[str]:
        """Add the anchor, and write all pixels of this pixel: pixel shuffle takes feature c·s² + y·s + x."""
        scale, channels = self.chain.scale, self.chain.channels
        yield f"    vec4 anchor = {self._hooked}_mul * texelFetch({self._hooked}_raw, pixel, 0);"
        for y in range(scale):
            for x in range(scale):
                features = [channel * scale**2 + y * scale + x for channel in range(channels)]
                values = ", ".join(f"s{feature // 4}.{'rgba'[feature % 4]}" for feature in features)
                value = f"vec3({values})" if channels == 3 else f"float({values})"
                if self.chain.anchored:
                    value += f" + anchor.{'rgb' if channels == 3 else 'r'}"
                value = f"clamp({value}, 0.0, 1.0)"
                colour = f"vec4({value}, anchor.a)" if channels == 3 else f"vec4({value}, 0.0, 0.0, 1.0)"
                yield f"    imageStore(out_image, pixel * {scale} + ivec2({x}, {y}), {colour});"

    def _numbers(self, values: Array) -> str:
        return ",".join(_literals(values, half=self.half))


def _passes(chain: ConvChain, name: str, *, half: bool) -> Iterator[str]:
    name, count = re.sub(r"[^\w .+-]", "_", name), len(chain.convolutions)
    for number, (conv, slopes) in enumerate(zip(chain.convolutions, (*chain.slopes, None), strict=True), 1):
        source = f"srkd_{number - 1}" if number > 1 else None
        target = f"srkd_{number}" if slopes is not None else None
        title = f"{name}: convolution {number} of {count}, {conv.in_channels} to {conv.out_channels} channels"
        yield ConvolutionPass(chain, conv, slopes, source, target, title, half).text()


def _padded(conv: nn.Conv2d, multiple: int) -> tuple[Array, Array]:
    """Weights and biases, with zeros for features up to a multiple of four, and inputs up to `multiple`."""
    rows, columns = -conv.out_channels % 4, -conv.in_channels % multiple
    assert conv.bias is not None
    weights = F.pad(conv.weight, (0, 0, 0, 0, 0, columns, 0, rows))
    return weights.numpy(), F.pad(conv.bias, (0, rows)).numpy()


def _literals(values: Array, *, half: bool) -> Iterator[str]:
    """Yield the shortest decimal numbers that read back as exactly these floats, or as these rounded to half."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16 if half else np.float32)
    if not np.isfinite(rounded).all():
        raise CannotConvert(f"a weight of {np.abs(values).max():g} is beyond fp16: export --glsl")
    for value in rounded.ravel():
        text = str(value)
        yield text if "e" in text or "." in text else f"{text}.0"
