"""Speed of an int8 file against the same network in float, in the same runtime on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compressor.base.context import QUIET, Context
from compressor.base.machine import count_threads, integer_products
from compressor.images.sample import sample_photo
from compressor.runtimes.base import Runtime
from export.proof.integer_nodes import IntegerNodes
from export.timing.turns import SpeedUp, compare, take_turns

SIZE = (128, 128)
SECONDS = 1.5

WITHOUT_PRODUCTS = "this processor has neither VNNI nor dot products, which multiply bytes natively"


@dataclass(frozen=True)
class Int8Speed:
    """Median times of one image in ms, in int8 and in float, and their ratio with its interval."""

    ms: float
    float_ms: float
    comparison: SpeedUp
    runtime: str
    lr_size: tuple[int, int]
    threads: int
    integer_nodes: IntegerNodes | None = None
    """The nodes that the runtime computes with integers; None if it does not show them."""
    native_products: bool = True
    """True if the processor multiplies bytes natively."""

    float_precision: str = "fp32"

    @property
    def why(self) -> str | None:
        """The reasons against a speed-up: what does not compute in integers here; None if unknown."""
        reasons = [] if self.native_products else [WITHOUT_PRODUCTS]
        if self.integer_nodes is not None:
            reasons.append(f"{self.integer_nodes}, with {self.integer_nodes.conversions} conversions between both")
        return "; ".join(reasons) or None

    def __str__(self) -> str:
        size = "LR {}x{}, {}".format(*self.lr_size, count_threads(self.threads))
        plain = "float" if self.float_precision == "fp32" else self.float_precision
        times = f"{self.ms:.1f} ms, {self.float_ms:.1f} ms in {plain}"
        where = f"in {self.runtime} on this machine ({times}, {size})"
        if self.comparison.verdict == "faster":
            return f"{self.comparison.speedup:.2f} times as fast as {plain} {where}"
        because = "" if self.why is None else f": {self.why}"
        if self.comparison.verdict == "slower":
            return f"NOT faster: {1 / self.comparison.speedup:.2f} times the time of {plain} {where}{because}"
        return f"NOT faster: no measurable difference to {plain} {where}{because}"


def compare_speed(
    file: Runtime,
    reference: Runtime,
    lr_size: tuple[int, int] | None,
    context: Context = QUIET,
    *,
    integer_nodes: IntegerNodes | None = None,
) -> Int8Speed:
    """Time both in turns on one image, of `SIZE` or the largest size that both take."""
    limits = [SIZE, *(runtime.descriptor.max_size or SIZE for runtime in (file, reference))]
    width, height = size = lr_size or (min(limit[0] for limit in limits), min(limit[1] for limit in limits))
    image = sample_photo(width, height, channels=file.descriptor.channels)
    turns = take_turns(
        (lambda: reference.run(image), lambda: file.run(image)), seconds_each=SECONDS, progress=context.progress
    )
    return Int8Speed(
        turns[1].percentile(50),
        turns[0].percentile(50),
        compare(*turns),
        file.name,
        size,
        torch.get_num_threads(),
        integer_nodes,
        bool(integer_products()),
        reference.precision,
    )
