"""The comparison of an exported file with its network, and the reason why a file is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, TookTooLong
from compressor.models.networks.base import Network
from compressor.runtimes.torch_runtime import TorchRuntime
from export.formats.conversion import IO
from export.formats.proof_inputs import ProofInput
from export.formats.table import Bounds
from export.proof.quality import QualityDrop, Run
from export.proof.speed import Int8Speed

HALF_LEVEL = 0.5 / 255

NOT_FINITE = "the network itself gives values that are not finite on {}"

AMPLIFIED = 16
"""Allowed multiple of what the network itself makes of rounding its input. Networks whose gates multiply features
(SPAN) leave the range of images on one-pixel stripes by hundreds of times; the same rounding then moves the output in
torch itself by more than any bound. Photos keep their bound."""


@dataclass(frozen=True)
class Parity:
    """The difference between a file and its network. `psnr` is over the photos with peak 1, None if they are equal;
    `at` is (N, C, y, x) of the largest difference, which is on the input called `on`."""

    max_abs: float
    psnr: float | None
    on: str
    at: tuple[int, ...]


@dataclass(frozen=True)
class Proof:
    """How far a file is from its network; `quality` and `speed` are measured for int8 files."""

    parity: Parity | None
    reason: str | None
    """Why the file is refused, in one line; None if it is not."""
    quality: QualityDrop | None = None
    speed: Int8Speed | None = None


def verify(
    file: Run, network: Run, inputs: Sequence[ProofInput], bounds: Bounds, context: Context = QUIET, *, io: IO = "float"
) -> Proof:
    """Run both on every input. The first input out of bounds gives the reason; the parity covers all inputs.

    With uint8 images (`io`) the network gets the same bytes, and the error of rounding its output does not count.
    """
    results: list[FileComparison] = []
    if io == "uint8":
        inputs = [replace(sample, lr=_round_to_bytes(sample.lr)) for sample in inputs]
    for sample in context.each("compare", inputs):
        expected = network(sample.lr)
        if not expected.isfinite().all():
            return Proof(None, NOT_FINITE.format(sample.name))
        try:
            actual = file(sample.lr)
        except TookTooLong:
            raise
        except SrkdError as error:
            return Proof(None, f"fails on {sample.name}: {error}")
        results.append(compare(sample, actual, expected, bounds, network, io))
    if not results:
        raise SrkdError("nothing to compare the file on")
    worst = max(results, key=lambda result: result.parity.max_abs)
    photos = [result for result in results if result.sample.photo]
    psnr = None
    if photos:
        mean_square = sum(photo.squared_error for photo in photos) / sum(photo.values for photo in photos)
        if math.isfinite(mean_square) and mean_square > 0:
            psnr = -10 * math.log10(mean_square)
    parity = Parity(worst.parity.max_abs, psnr, worst.parity.on, worst.parity.at)
    failure = next((result for result in results if result.reason is not None), None)
    if failure is not None:
        return Proof(parity, failure.reason)
    if psnr is not None and bounds.min_psnr is not None and not psnr >= bounds.min_psnr:
        return Proof(parity, f"{psnr:.1f} dB from the network on photos; at least {bounds.min_psnr:g} dB needed")
    # A file may keep state between images: the first input must still give the same result.
    first = inputs[0]
    again = compare(first, file(first.lr), network(first.lr), bounds, network, io).reason
    return Proof(parity, None if again is None else f"the second time {again}")


def require_finite_outputs(network: Network, inputs: Sequence[ProofInput]) -> None:
    """Refuse a network with non-finite outputs; used for a file that cannot run on this machine."""
    runtime = TorchRuntime(network, label="the network")
    for sample in inputs:
        if not runtime.run(sample.lr).isfinite().all():
            raise SrkdError(NOT_FINITE.format(sample.name))


@dataclass(frozen=True)
class FileComparison:
    """The difference between file and network on one input, and the reason why it is too large, or None."""

    sample: ProofInput
    parity: Parity
    squared_error: float
    values: int
    reason: str | None


def compare(
    sample: ProofInput,
    actual: torch.Tensor,
    expected: torch.Tensor,
    bounds: Bounds,
    network: Run,
    io: IO = "float",
) -> FileComparison:
    """Compare an output of the file with that of the network, which is asked again what rounding does to it."""
    exact = expected
    clipped = bounds.as_images or bounds.clipped
    if clipped:
        actual = actual.clamp(0, 1)
    if io == "uint8" or clipped:
        expected = expected.clamp(0, 1)
    rounded = _round_to_bytes(expected) if io == "uint8" else expected
    parity = _largest_difference(sample.name, actual, expected, allowed=HALF_LEVEL if io == "uint8" else 0.0)
    # Rounding the network's output to bytes has an error of its own, which does not count as the file's.
    squared_error = _squared_error(actual, expected) - _squared_error(rounded, expected)
    allowed = allowed_difference(bounds, sample)
    if allowed < parity.max_abs < math.inf and bounds.rounding and not sample.photo:
        signs = torch.randn(sample.lr.shape, generator=torch.Generator().manual_seed(0)).sign()
        moved = (network(sample.lr + bounds.rounding * signs) - exact).abs().max()
        allowed = max(allowed, AMPLIFIED * float(moved))
    reason = _reason(parity, actual, rounded, allowed)
    return FileComparison(sample, parity, squared_error, actual.numel(), reason)


def allowed_difference(bounds: Bounds, sample: ProofInput) -> float:
    """The largest difference that a format's bounds allow on an image of this kind."""
    if sample.flat and bounds.max_abs_flat is not None:
        return bounds.max_abs_flat
    return bounds.max_abs if sample.photo or bounds.max_abs_elsewhere is None else bounds.max_abs_elsewhere


def _squared_error(images: torch.Tensor, others: torch.Tensor) -> float:
    return float((images.double() - others.double()).square().sum())


def _round_to_bytes(images: torch.Tensor) -> torch.Tensor:
    return images.clamp(0, 1).mul(255).round().div(255)


def _reason(parity: Parity, actual: torch.Tensor, expected: torch.Tensor, allowed: float) -> str | None:
    """Return in one line why the output is refused, or None."""
    pixel = "n={} c={} y={} x={}".format(*parity.at)
    if math.isinf(parity.max_abs):
        return f"gives {float(actual[parity.at])} on {parity.on} at {pixel}"
    if parity.max_abs > allowed:
        return (
            f"differs from the network by {parity.max_abs:.2g} on {parity.on} at {pixel} "
            f"({float(actual[parity.at]):.5f}, not {float(expected[parity.at]):.5f}); {allowed:g} is allowed"
        )
    return None


def _largest_difference(name: str, actual: torch.Tensor, expected: torch.Tensor, *, allowed: float) -> Parity:
    """The largest difference beyond `allowed` with its position; a non-finite value counts as infinite."""
    difference = (actual.double() - expected.double()).abs().nan_to_num(nan=math.inf).sub(allowed).clamp(min=0)
    flat = int(difference.argmax())
    at = tuple(int(index) for index in torch.unravel_index(torch.tensor(flat), difference.shape))
    return Parity(float(difference[at]), None, name, at)
