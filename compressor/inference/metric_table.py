"""The table of metrics of `srkd evaluate`. Importing this module imports no torch.

A metric compares an image with a reference: the original photo, or the teacher's image of the same LR image. A new one
is one row of METRICS.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, cast

from compressor.base.choices import Goal
from compressor.base.errors import SrkdError
from compressor.runtimes.table import Requirements

if TYPE_CHECKING:
    from torch import Tensor

    from compressor.inference.learned_metrics import Backbone

Reference: TypeAlias = Goal


class Measure(Protocol):
    """The function of a metric."""

    def __call__(self, images_255: Tensor, reference_255: Tensor, *, border: int) -> Tensor:
        """The figure of each image of (N,C,H,W) on 0..255, without `border` pixels on each side: (N,)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Metric(Requirements):
    """A metric, a row of METRICS."""

    name: str
    key: str
    """Its key in JSON, to the original; `key_to` has the others."""
    title: str
    """Its heading in tables."""
    source: str
    """Its `Measure`, as module:function."""
    best: Literal["highest", "lowest", "0", "1"]
    unit: str = ""
    digits: int = 3
    """Decimal places in tables."""
    takes: Literal["channel", "rgb"] = "channel"
    """The images that it compares: the channel of the protocol, which is Y, or RGB."""

    def require(self) -> None:
        """Raise an error of one line if it cannot be measured here."""
        missing = self.missing_requirement()
        if missing is not None:
            raise SrkdError(f"--metrics {self.name}: {missing}")

    def load(self) -> Measure:
        module, _, function = self.source.partition(":")
        return cast("Measure", getattr(importlib.import_module(module), function))

    def key_to(self, reference: Reference) -> str:
        """The key of its figure in JSON: psnr_y to the original, psnr_y_teacher to the teacher."""
        return self.key if reference == "original" else f"{self.key}_{reference}"

    def show(self, figure: float) -> str:
        return f"{figure:.{self.digits}f}"


LEARNED = "compressor.inference.learned_metrics"


def _missing_weights(backbone: str) -> str | None:
    """The obstacle of a metric that needs the file of this `Backbone`."""
    row: Backbone = getattr(importlib.import_module(LEARNED), backbone)
    return row.missing()


METRICS: dict[str, Metric] = {
    row.name: row
    for row in (
        Metric(
            name="psnr",
            key="psnr_y",
            title="PSNR-Y",
            source="compressor.images.metrics:psnr",
            best="highest",
            unit="dB",
        ),
        Metric(
            name="ssim",
            key="ssim_y",
            title="SSIM-Y",
            source="compressor.images.metrics:ssim",
            best="highest",
            digits=4,
        ),
        Metric(
            name="sharpness",
            key="sharpness",
            title="sharpness",
            source="compressor.images.looks:sharpness",
            best="1",
        ),
        Metric(
            name="spectrum",
            key="spectrum",
            title="spectrum",
            source="compressor.images.looks:spectrum",
            best="0",
            unit="dB",
        ),
        Metric(
            name="high",
            key="high_frequencies",
            title="high frequencies",
            source="compressor.images.looks:high_frequencies",
            best="0",
            unit="dB",
        ),
        Metric(
            name="gradient",
            key="gradient_psnr",
            title="gradient PSNR",
            source="compressor.images.looks:gradient_psnr",
            best="highest",
            unit="dB",
        ),
        Metric(
            name="lpips",
            key="lpips_squeeze",
            title="LPIPS-squeeze",
            source=f"{LEARNED}:lpips",
            best="lowest",
            digits=4,
            takes="rgb",
            needs=("torchmetrics",),
            extra="looks",
            obstacle=partial(_missing_weights, "SQUEEZENET"),
        ),
        Metric(
            name="dists",
            key="dists",
            title="DISTS",
            source=f"{LEARNED}:dists",
            best="lowest",
            digits=4,
            takes="rgb",
            needs=("torchmetrics",),
            extra="looks",
            obstacle=partial(_missing_weights, "VGG16"),
        ),
    )
}
DEFAULT_METRICS = ("psnr", "ssim")
