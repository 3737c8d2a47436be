"""The steps of a degradation. Each is a model of its values in a file, and what it does to an image.

A step draws all its random numbers in a fixed order from a stream of its own, also those that it then does not need. So
a changed value, or a skipped step, changes nothing that other steps draw.

To add one, write a class here: files, `--degrade name=LOW..HIGH` if it has a `short` form, the reference and run.json
have it then.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from torch import Tensor
from typing_extensions import Self

from compressor.base.randomness import generator_of
from compressor.degradation.filters import (
    KernelShape,
    add_gaussian,
    add_poisson,
    bell_kernel,
    correlate,
    sharpen,
    sinc_kernel,
)
from compressor.degradation.jpeg import BLOCK, blockwise, jpeg
from compressor.images.resize import imresize
from compressor.video.library import load_av

Kind: TypeAlias = Literal["iso", "aniso", "generalized-iso", "generalized-aniso", "plateau-iso", "plateau-aniso"]
Mode: TypeAlias = Literal["area", "bilinear", "bicubic"]
MODES: tuple[Mode, ...] = ("area", "bilinear", "bicubic")
SIZES = (7, 21)
"""Sides of kernels (Real-ESRGAN)."""
LARGE_KERNEL = 13
"""Side of a kernel from which on its low-pass may cut off lower, at π/5 instead of π/3 (Real-ESRGAN)."""
LARGEST_CRF = 51
MOST = 64
"""Largest width, side, factor or exponent: a larger blur leaves nothing of a picture."""


def _as_pair(value: object) -> object:
    """One number stands for a range of itself."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (value, value)
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError("expected a number, or two as [LOW, HIGH]")
    return value


def _require_order(pair: tuple[float, float]) -> tuple[float, float]:
    if not pair[0] <= pair[1]:
        raise ValueError(f"the range {pair[0]:g}..{pair[1]:g} begins above its end")
    return pair


def _require_odd(pair: tuple[float, float]) -> tuple[float, float]:
    if any(side % 2 == 0 or side != int(side) for side in pair):
        raise ValueError("expected odd whole numbers, the side of a kernel")
    return pair


Grey: TypeAlias = Annotated[float, Field(ge=0, le=255, allow_inf_nan=False)]
GreyRange: TypeAlias = Annotated[tuple[Grey, Grey], BeforeValidator(_as_pair), AfterValidator(_require_order)]
"""Grey levels of 255: a number or two, from which each image draws uniformly, as from all ranges."""
Amount: TypeAlias = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
Range: TypeAlias = Annotated[tuple[Amount, Amount], BeforeValidator(_as_pair), AfterValidator(_require_order)]
"""Pixels, factors, exponents."""
Quality: TypeAlias = Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)]
QualityRange: TypeAlias = Annotated[tuple[Quality, Quality], BeforeValidator(_as_pair), AfterValidator(_require_order)]
Crf: TypeAlias = Annotated[float, Field(ge=0, le=LARGEST_CRF, allow_inf_nan=False)]
CrfRange: TypeAlias = Annotated[tuple[Crf, Crf], BeforeValidator(_as_pair), AfterValidator(_require_order)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Draws:
    """The random numbers of one image: a pure function of seed, step and sample index, one stream a stage."""

    seed: int
    step: int
    sample: int

    @classmethod
    def of_name(cls, name: str) -> Draws:
        """The numbers of an image that is scored and not drawn: they depend on its name alone."""
        digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=7).digest()
        return cls(0, 0, int.from_bytes(digest, "little"))

    def stage(self, name: str) -> np.random.Generator:
        return generator_of(f"degradation {name}", self.seed, self.step, self.sample)


@dataclass(frozen=True)
class LrTarget:
    """The size of the LR image, `scale` times smaller than the original."""

    height: int
    width: int
    scale: int


class DegradationStep(BaseModel):
    """A step: its values, and `apply`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)
    name: ClassVar[str]
    short: ClassVar[str | None] = None
    """The value that `--degrade NAME=LOW..HIGH` sets; None: the step has no such form."""
    order: ClassVar[int] = 0
    """The place among the steps of such a text."""

    def apply(self, image_01: Tensor, target: LrTarget, numbers: np.random.Generator) -> Tensor:
        """Return the image (3,H,W); `numbers` is the stream of this step."""
        raise NotImplementedError


def _between(pair: tuple[float, float], u: float) -> float:
    return pair[0] + (pair[1] - pair[0]) * u


def _choice(shares: Mapping[Kind, float], u: float) -> Kind:
    """The name at which the running sum of shares passes u times their sum."""
    total, reached = sum(shares.values()), 0.0
    for name, share in shares.items():
        reached += share
        if u * total < reached:
            return name
    return next(iter(shares))


class Sharpen(DegradationStep):
    """Unsharp masking of the original, as Real-ESRGAN does before it makes LR images."""

    name: ClassVar[str] = "sharpen"

    def apply(self, image_01: Tensor, target: LrTarget, numbers: np.random.Generator) -> Tensor:
        return sharpen(image_01)


class Blur(DegradationStep):
    """A blur by a bell-shaped kernel, or by a low-pass that rings."""

    name: ClassVar[str] = "blur"
    short: ClassVar[str | None] = "sigma_lr"
    order: ClassVar[int] = 1

    probability: Share = 1.0
    """Share of the images that are blurred."""
    sigma: Range | None = None
    """Standard deviation in pixels of the image at this step."""
    sigma_lr: Range | None = None
    """The same in pixels of the LR image, instead of `sigma`."""
    kinds: dict[Kind, Share] = Field({"iso": 1.0}, min_length=1)
    """Kinds of kernels and their shares; aniso ones have two widths and an angle."""
    size: Annotated[Range, AfterValidator(_require_odd)] | None = None
    """Odd side of the kernel; left out: six standard deviations, 7 … 21 for a low-pass."""
    beta_generalized: Range = (0.5, 4.0)
    """Exponent of generalized kernels: half of them have one below 1."""
    beta_plateau: Range = (1.0, 2.0)
    """Exponent of plateau kernels: half of them have the least."""
    sinc: Share = 0.0
    """Share of low-passes among the kernels."""

    def apply(self, image_01: Tensor, target: LrTarget, numbers: np.random.Generator) -> Tensor:
        u = numbers.random(10)
        kernel = self.kernel(u[1:], target.scale)
        return correlate(image_01, kernel.float()) if u[0] < self.probability else image_01

    def kernel(self, u: np.ndarray[tuple[int], np.dtype[np.float64]], scale: int) -> Tensor:
        """Return the kernel of nine uniform numbers."""
        low, high = (int(side) for side in self.size or SIZES)
        size = low + 2 * int(u[0] * ((high - low) // 2 + 1))
        if u[1] < self.sinc:
            return sinc_kernel(size, _between((math.pi / (3 if size < LARGE_KERNEL else 5), math.pi), u[2]))
        low_lr, high_lr = self.sigma_lr or (0.0, 0.0)
        widths = self.sigma or (scale * low_lr, scale * high_lr)
        kind = _choice(self.kinds, u[3])
        shape: KernelShape = "gaussian"
        low_beta = high_beta = 1.0
        if kind.startswith("generalized"):
            shape, (low_beta, high_beta) = "generalized", self.beta_generalized
        elif kind.startswith("plateau"):
            shape, (low_beta, high_beta) = "plateau", self.beta_plateau
        beta = _between((low_beta, 1) if u[7] < 0.5 else (1, high_beta), u[8])
        sigma_x, sigma_y = (max(_between(widths, each), 1e-3) for each in u[4:6])
        if self.size is None:
            size = 2 * math.ceil(3 * (max(sigma_x, sigma_y) if kind.endswith("aniso") else sigma_x)) + 1
        if not kind.endswith("aniso"):
            return bell_kernel(size, sigma_x, sigma_x, 0.0, shape, beta)
        return bell_kernel(size, sigma_x, sigma_y, _between((-math.pi, math.pi), u[6]), shape, beta)


class Resize(DegradationStep):
    """A change of size that later steps or the end take back, without antialiasing."""

    name: ClassVar[str] = "resize"

    up: Share = 0.0
    """Share of the images that are enlarged."""
    down: Share = 0.0
    """Share of those that are reduced; the others keep their size."""
    factor: Range = (0.5, 1.5)
    """Smallest factor of reduced images and largest of enlarged ones."""
    to: Literal["image", "lr"] = "image"
    """What the factor is of: the image at this step, or the LR image."""
    modes: tuple[Mode, ...] = Field(MODES, min_length=1)
    """Interpolations, each as often."""

    @model_validator(mode="after")
    def _require_shares(self) -> Self:
        if self.up + self.down > 1:
            raise ValueError(f"up={self.up:g} and down={self.down:g} are more than all images")
        return self

    def apply(self, image_01: Tensor, target: LrTarget, numbers: np.random.Generator) -> Tensor:
        u = numbers.random(3)
        factor = 1.0
        if u[0] < self.up:
            factor = _between((1.0, max(1.0, self.factor[1])), u[1])
        elif u[0] < self.up + self.down:
            factor = _between((min(1.0, self.factor[0]), 1.0), u[1])
        mode = self.modes[int(u[2] * len(self.modes))]
        if self.to == "lr":
            return interpolate(image_01, (int(target.height * factor), int(target.width * factor)), mode)
        return interpolate_by(image_01, factor, mode)


def interpolate(image_01: Tensor, size: tuple[int, int], mode: Mode) -> Tensor:
    """Return an image of another size by torch's interpolation, which does not antialias; bicubic has a = -0.75."""
    height, width = (max(1, side) for side in size)
    return torch.nn.functional.interpolate(image_01[None], size=(height, width), mode=mode)[0]


def interpolate_by(image_01: Tensor, factor: float, mode: Mode) -> Tensor:
    """Return an image of ⌊size·factor⌋ whose pixels lie exactly 1/factor apart."""
    height, width = (int(side * factor) for side in image_01.shape[-2:])
    if not height or not width:
        return interpolate(image_01, (height, width), mode)
    return torch.nn.functional.interpolate(image_01[None], scale_factor=factor, mode=mode)[0]


class Noise(DegradationStep):
    """Gaussian noise, or shot noise that is stronger where it is bright."""

    name: ClassVar[str] = "noise"
    short: ClassVar[str | None] = "sigma"
    order: ClassVar[int] = 3

    gaussian: Share = 1.0
    """Share of Gaussian noise; the others are Poisson noise."""
    sigma: GreyRange = (0.0, 0.0)
    """Standard deviation of Gaussian noise in grey levels of 255."""
    poisson: Range = (0.05, 1.0)
    """Strength of Poisson noise."""
    grey: Share = 0.4
    """Share of noise that is equal in all channels."""

    def apply(self, image_01: Tensor, target: LrTarget, numbers: np.random.Generator) -> Tensor:
        u = numbers.random(4)
        grey = bool(u[1] < self.grey)
        if u[0] < self.gaussian:
            image_01 = add_gaussian(image_01, _between(self.sigma, u[2]), grey=grey, generator=numbers)
        else:
            image_01 = add_poisson(image_01, _between(self.poisson, u[2]), grey=grey, generator=numbers)
        return image_01.clamp(0, 1)


class Shrink(DegradationStep):
    """The change to the size of the LR image."""

    name: ClassVar[str] = "shrink"
    order: ClassVar[int] = 2

    modes: tuple[Mode, ...] | None = None
    """Interpolations without antialiasing, each as often; left out: the bicubic that srkd makes LR images with."""

    def apply(self, image_01: Tensor, target: LrTarget, numbers: np.random.Generator) -> Tensor:
        u, size = float(numbers.random()), (target.height, target.width)
        if tuple(image_01.shape[-2:]) == size:
            return image_01
        if not self.modes and tuple(image_01.shape[-2:]) == tuple(side * target.scale for side in size):
            return imresize(image_01, 1 / target.scale).clamp(0, 1)
        mode: Mode = self.modes[int(u * len(self.modes))] if self.modes else "bicubic"
        return interpolate(image_01, size, mode).clamp(0, 1)


class Jpeg(DegradationStep):
    """Storage as JPEG."""

    name: ClassVar[str] = "jpeg"
    short: ClassVar[str | None] = "quality"
    order: ClassVar[int] = 5

    quality: QualityRange = (30.0, 95.0)
    probability: Share = 1.0
    """Share of the images that are stored."""
    shift: bool = False
    """Whether the 8×8 blocks begin at a random pixel, as in a picture that was cropped before."""

    def apply(self, image_01: Tensor, target: LrTarget, numbers: np.random.Generator) -> Tensor:
        u = numbers.random(4)
        if u[0] >= self.probability:
            return image_01
        top, left = (int(each * BLOCK) if self.shift else 0 for each in u[2:4])
        padded = torch.nn.functional.pad(image_01[None], (left, 0, top, 0), mode="replicate")[0]
        return jpeg(padded, round(_between(self.quality, u[1])))[:, top:, left:]


class Finish(DegradationStep):
    """Real-ESRGAN's end: the LR size and a low-pass, and JPEG before or after them."""

    name: ClassVar[str] = "finish"

    sinc: Share = 0.8
    """Share of the images that get the low-pass."""
    size: Annotated[Range, AfterValidator(_require_odd)] = SIZES
    """Odd side of its kernel."""
    quality: QualityRange = (30.0, 95.0)
    """Quality of the JPEG."""
    jpeg_first: Share = 0.5
    """Share of the images whose JPEG comes before the change of size."""
    modes: tuple[Mode, ...] = Field(MODES, min_length=1)
    """Interpolations, each as often."""

    def apply(self, image_01: Tensor, target: LrTarget, numbers: np.random.Generator) -> Tensor:
        u = numbers.random(6)
        mode, (low, high) = self.modes[int(u[2] * len(self.modes))], (int(side) for side in self.size)
        side = low + 2 * int(u[3] * ((high - low) // 2 + 1))
        quality = round(_between(self.quality, u[1]))
        if u[0] < self.jpeg_first:
            image_01 = jpeg(image_01, quality)
        image_01 = interpolate(image_01, (target.height, target.width), mode)
        if u[4] < self.sinc:
            kernel = sinc_kernel(side, _between((math.pi / 3, math.pi), u[5]))
            image_01 = correlate(image_01, kernel.float())
        if u[0] >= self.jpeg_first:
            image_01 = jpeg(image_01, quality)
        return image_01.clamp(0, 1)


TO_Y = ((0.2126, 0.7152, 0.0722), (-0.114572, -0.385428, 0.5), (0.5, -0.454153, -0.045847))
FROM_Y = ((1.0, 0.0, 1.5748), (1.0, -0.187324, -0.468124), (1.0, 1.8556, 0.0))
"""ITU-R BT.709."""
LUMA_RANGE, CHROMA_RANGE = 219.0, 224.0
PREDICTED = 2.0
"""Width in pixels of the blur that stands for what a codec predicts of a block."""


class Blocks(DegradationStep):
    """Blocks as of a video codec: an approximation, not a codec.

    The picture is rounded to 8-bit BT.709 of limited range with half the chroma. Its luma minus a blurred copy is cut
    into blocks of 8×8 or 16×16 pixels, whose cosine coefficients are rounded to multiples of one step.
    """

    name: ClassVar[str] = "blocks"
    short: ClassVar[str | None] = "step"
    order: ClassVar[int] = 4

    step: GreyRange = (4.0, 40.0)
    """Step in grey levels of 255."""

    def apply(self, image_01: Tensor, target: LrTarget, numbers: np.random.Generator) -> Tensor:
        u = numbers.random(2)
        side = BLOCK if u[0] < 0.5 else 2 * BLOCK
        height, width = image_01.shape[-2:]
        fill = (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK))
        padded = torch.nn.functional.pad(image_01[None], fill, mode="replicate")[0]
        ycc = torch.einsum("oc,chw->ohw", torch.tensor(TO_Y).to(padded), padded)
        luma = (ycc[:1] * LUMA_RANGE).round() / LUMA_RANGE
        chroma = (torch.nn.functional.avg_pool2d(ycc[1:], 2) * CHROMA_RANGE).round() / CHROMA_RANGE
        width_step = max(_between(self.step, u[1]) / 255, 1e-6)
        blurred = correlate(luma, bell_kernel(4 * int(PREDICTED) + 1, PREDICTED, PREDICTED).float())
        coded = blurred + blockwise(luma - blurred, side, lambda waves: (waves / width_step).round() * width_step)
        chroma = torch.nn.functional.interpolate(chroma[None], scale_factor=2, mode="bilinear")[0]
        rgb = torch.einsum("oc,chw->ohw", torch.tensor(FROM_Y).to(padded), torch.cat([coded, chroma]))
        return rgb[:, :height, :width].clamp(0, 1)


class H264(DegradationStep):
    """One intra frame of H.264, by the real encoder of PyAV (srkd[video])."""

    name: ClassVar[str] = "h264"
    short: ClassVar[str | None] = "crf"
    order: ClassVar[int] = 4

    crf: CrfRange = (18.0, 34.0)
    """Constant rate factor: 0 is lossless, 51 the worst."""

    def apply(self, image_01: Tensor, target: LrTarget, numbers: np.random.Generator) -> Tensor:
        """Return an image (3,H,W) in [0,1] as an intra frame of H.264 with 4:2:0 chroma has it."""
        crf = round(_between(self.crf, float(numbers.random())))
        av, (height, width) = load_av(), image_01.shape[-2:]
        padded = torch.nn.functional.pad(image_01[None], (0, width % 2, 0, height % 2), mode="replicate")[0]
        bytes_u8 = (padded.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().contiguous().numpy()
        file = BytesIO()
        with av.open(file, "w", format="h264") as out:
            # One thread: the bytes must not depend on the machine's cores.
            options = {"crf": str(min(crf, LARGEST_CRF)), "preset": "medium", "threads": "1"}
            stream = out.add_stream("libx264", rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = padded.shape[-1], padded.shape[-2], "yuv420p"
            out.mux(stream.encode(av.VideoFrame.from_ndarray(bytes_u8, format="rgb24")))
            out.mux(stream.encode())
        file.seek(0)
        with av.open(file, "r", format="h264") as source:
            decoded = next(source.decode(video=0)).to_ndarray(format="rgb24")
        samples = torch.from_numpy(np.ascontiguousarray(decoded.transpose(2, 0, 1))).float() / 255
        return samples[:, :height, :width].to(image_01.device)


STEPS: dict[str, type[DegradationStep]] = {cls.name: cls for cls in DegradationStep.__subclasses__()}
"""The steps by the names that they have in files."""
