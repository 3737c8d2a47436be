"""A file is trusted when it does what the network does: on photos, flat colours, noise and odd sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import finite_or_none
from compressor.images.resize import downscale_u8, reflected_indices
from compressor.images.sets import embedded_photos
from compressor.models.networks.base import Descriptor
from compressor.runtimes.base import Runtime
from export.bounds import Bounds
from export.conversion import IO

PHOTO_LR = (96, 64)
"""Width and height of a photo's part, in low-resolution pixels."""

ODD_SIZES = ((1, 1, 1), (1, 7, 13), (1, 17, 5), (2, 11, 9))
"""Batch, width and height that a graph with a constant where a size belongs would stumble over."""

HALF_A_LEVEL = 0.5 / 255

FLAT = 1e-7
"""An output whose values span less than this is constant."""


@dataclass(frozen=True)
class ProofInput:
    """A named input; only photos count for the PSNR."""

    __test__ = False  # no test class, whatever pytest thinks of the name

    name: str
    lr: torch.Tensor
    photo: bool = False


@dataclass(frozen=True)
class Parity:
    """Distance to the network. `psnr` is over the photos with peak 1, None when they are equal; `at` is N, C, y, x of
    the largest difference, which was seen on the input called `on`."""

    max_abs: float
    psnr: float | None
    on: str
    at: tuple[int, ...]


@dataclass(frozen=True)
class Proof:
    """What was seen, and in one line why that is not good enough; None: it is. `on` is the input that shows it, where
    file and network both ran on it."""

    parity: Parity | None
    reason: str | None
    on: ProofInput | None = None


def proof_inputs(descriptor: Descriptor, photos: Mapping[str, Path] | None = None) -> tuple[ProofInput, ...]:
    """Photos (the embedded validation photos, unless others are given), black, white, noise, odd sizes, a batch.

    All have the fixed size where the descriptor names one, in a batch of one.
    """
    channels, step, fixed = descriptor.channels, descriptor.size_multiple, descriptor.fixed_size
    side = -(-max(24, descriptor.min_size) // step) * step
    width, height = fixed or _within((side, side), descriptor)
    generator = torch.Generator().manual_seed(0)
    inputs = [
        ProofInput(f"photo {name}", _photo_lr(path, descriptor), photo=True)
        for name, path in (embedded_photos("val") if photos is None else photos).items()
    ]
    inputs.append(ProofInput("black", torch.zeros(1, channels, height, width)))
    inputs.append(ProofInput("white", torch.ones(1, channels, height, width)))
    inputs.append(ProofInput("noise", torch.rand(1, channels, height, width, generator=generator)))
    for batch, *size in ODD_SIZES if fixed is None else ():
        odd = tuple(max(descriptor.min_size, -(-length // step) * step) for length in size)
        width, height = _within((odd[0], odd[1]), descriptor)
        given = f"noise {width}x{height}" + (f" in a batch of {batch}" if batch > 1 else "")
        inputs.append(ProofInput(given, torch.rand(batch, channels, height, width, generator=generator)))
    return tuple(inputs)


def _within(size: tuple[int, int], descriptor: Descriptor) -> tuple[int, int]:
    """Width and height, no larger than the file takes."""
    if descriptor.max_size is None:
        return size
    return min(size[0], descriptor.max_size[0]), min(size[1], descriptor.max_size[1])


def verify(
    candidate: Runtime,
    network: Runtime,
    inputs: Sequence[ProofInput],
    bounds: Bounds,
    progress: Progress = no_progress,
    *,
    io: IO = "float",
) -> Proof:
    """Run both on every input. The first input out of bounds gives the reason; the parity is over all.

    Of a file of bytes (`io`) the network is given bytes too, and what rounding its output costs does not count.
    """
    seen: list[_Seen] = []
    for done, given in enumerate(inputs):
        progress("compare", done, len(inputs))
        lr = _levels(given.lr) if io == "uint8" else given.lr
        wanted = network.run(lr)
        if not wanted.isfinite().all():
            return Proof(None, f"the network itself gives values that are not finite on {given.name}")
        try:
            got = candidate.run(lr)
        except SrkdError as error:
            return Proof(None, f"fails on {given.name}: {error}")
        seen.append(_look(given, got, wanted, bounds, io))
    progress("compare", len(inputs), len(inputs))
    if not seen:
        raise SrkdError("nothing to compare the file on")
    worst = max(seen, key=lambda one: one.parity.max_abs)
    photos = [one for one in seen if one.given.photo]
    psnr = _psnr(sum(one.squares for one in photos) / sum(one.count for one in photos)) if photos else None
    parity = Parity(worst.parity.max_abs, psnr, worst.parity.on, worst.parity.at)
    out = next((one for one in seen if one.objection is not None), None)
    if out is not None:
        return Proof(parity, out.objection, out.given)
    if psnr is not None and bounds.min_psnr is not None and not psnr >= bounds.min_psnr:
        furthest = max(photos, key=lambda one: one.squares / one.count).given
        return Proof(
            parity, f"{psnr:.1f} dB from the network on photos, {bounds.min_psnr:g} dB are the least", furthest
        )
    return Proof(parity, _drift(candidate, inputs[0], bounds, io, network))


@dataclass(frozen=True)
class _Seen:
    """One input: how far the file is from the network there, and what is wrong with that."""

    given: ProofInput
    parity: Parity
    squares: float
    count: int
    objection: str | None


def _look(given: ProofInput, got: torch.Tensor, wanted: torch.Tensor, bounds: Bounds, io: IO) -> _Seen:
    if io == "uint8":
        wanted = wanted.clamp(0, 1)
    same = _levels(wanted) if io == "uint8" else wanted
    parity = _worst(given.name, got, wanted, allowed=HALF_A_LEVEL if io == "uint8" else 0.0)
    # Rounding the network's own output costs something already: what is more than that is the file's.
    squares = _squares(got, wanted) - _squares(same, wanted)
    objection = _objection(parity, got, same, bounds.largest(photo=given.photo), given.name)
    return _Seen(given, parity, squares, got.numel(), objection)


def _squares(images: torch.Tensor, others: torch.Tensor) -> float:
    return float((images.double() - others.double()).square().sum())


def _drift(candidate: Runtime, given: ProofInput, bounds: Bounds, io: IO, network: Runtime) -> str | None:
    """What was right once and is not after other images, because something was kept from them."""
    lr = _levels(given.lr) if io == "uint8" else given.lr
    objection = _look(given, candidate.run(lr), network.run(lr), bounds, io).objection
    return None if objection is None else f"the second time {objection}"


def _levels(images: torch.Tensor) -> torch.Tensor:
    """To the 256 levels of bytes."""
    return images.clamp(0, 1).mul(255).round().div(255)


def _objection(parity: Parity, got: torch.Tensor, wanted: torch.Tensor, largest: float, name: str) -> str | None:
    place = "n={} c={} y={} x={}".format(*parity.at)
    if math.isinf(parity.max_abs):
        return f"gives {float(got[parity.at])} on {name} at {place}"
    if _span(got) <= FLAT < 100 * FLAT < _span(wanted):
        return f"is constant on {name}, the network is not"
    if parity.max_abs > largest:
        return (
            f"differs from the network by {parity.max_abs:.2g} on {name} at {place} "
            f"({float(got[parity.at]):.5f}, not {float(wanted[parity.at]):.5f}); {largest:g} is allowed"
        )
    return None


def _worst(name: str, got: torch.Tensor, wanted: torch.Tensor, *, allowed: float) -> Parity:
    """The largest difference beyond what is allowed anyway, and its place; what is not finite is infinitely far."""
    difference = (got.double() - wanted.double()).abs().nan_to_num(nan=math.inf).sub(allowed).clamp(min=0)
    flat = int(difference.argmax())
    at = tuple(int(index) for index in torch.unravel_index(torch.tensor(flat), difference.shape))
    return Parity(float(difference[at]), None, name, at)


def _span(images: torch.Tensor) -> float:
    return float(images.max() - images.min())


def _psnr(mean_square: float) -> float | None:
    if not math.isfinite(mean_square):
        return None
    return finite_or_none(-10 * math.log10(mean_square) if mean_square > 0 else math.inf)


def _photo_lr(path: Path, descriptor: Descriptor) -> torch.Tensor:
    """The middle of a photo, shrunk by the network's scale as its low-resolution images are; where a fixed size is
    larger than that, the photo is continued by its reflection."""
    hr = read_rgb_u8(path)
    scale, step = descriptor.scale, descriptor.size_multiple
    wanted = descriptor.fixed_size or _within(PHOTO_LR, descriptor)
    height, width = (
        min(length * scale, available // (scale * step) * scale * step)
        for length, available in zip((wanted[1], wanted[0]), hr.shape[1:], strict=True)
    )
    top, left = (hr.shape[1] - height) // 2, (hr.shape[2] - width) // 2
    lr_u8 = downscale_u8(hr[:, top : top + height, left : left + width], scale)
    lr = lr_u8[: descriptor.channels].float().div(255)[None]
    if descriptor.fixed_size is None:
        return lr
    rows, columns = (
        reflected_indices(torch.arange(length), have)
        for length, have in zip((wanted[1], wanted[0]), lr.shape[2:], strict=True)
    )
    return lr[:, :, rows][..., columns]
