"""The table of metrics of `srkd evaluate`. Importing this module imports no torch.

A metric compares an image with a reference: the original photo, or the teacher's image of the same LR image. One that
takes frames compares an image with that of the frame before, and its figure with the teacher's. A new metric is one row
of METRICS.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from compressor.base.choices import Goal
from compressor.base.errors import SrkdError
from compressor.runtimes.table import Requirements

if TYPE_CHECKING:
    from torch import Tensor
Reference: TypeAlias = Goal
Best: TypeAlias = Literal["highest", "lowest", "0", "1"]

Measure: TypeAlias = "Callable[..., Tensor]"
"""The figure of each image of (N,C,H,W) on 0..255 and its reference, without `border` pixels on each side: (N,)."""


@dataclass(frozen=True, kw_only=True)
class Metric(Requirements):
    name: str
    title: str
    source: str
    """Its `Measure`, as module:function."""
    best: Best
    unit: str = ""
    digits: int = 3
    takes: Literal["channel", "rgb", "frames"] = "channel"
    """The images that it compares: the channel of the protocol, which is Y, or RGB; or the channel of two frames of one
    film, of which the first is NaN where the input doesn't stand still.
    """

    @property
    def key(self) -> str:
        """Its key in JSON, to the original: the title in small letters; `key_to` has the others."""
        return re.sub("[- ]", "_", self.title.lower())

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

    def over_teacher(self, figure: float, teachers: float) -> float:
        """Return a figure of frames in terms of the teacher's: 1 if they are equal."""
        if figure == teachers:
            return 1.0
        return figure / teachers if teachers else math.inf

    @property
    def equal_within(self) -> float:
        """A difference that nobody needs: twenty units of the last digit that tables show, 0.02 dB of a PSNR."""
        return float(20 * 10.0**-self.digits)

    def error(self, figure: float) -> float:
        """Return how far a figure is from the best one: less is better."""
        if self.best == "highest":
            return -figure
        return figure if self.best == "lowest" else abs(figure - float(self.best))

    def show(self, figure: float) -> str:
        return "-" if math.isnan(figure) else f"{figure:.{self.digits}f}"

    def tell(self, figure: float) -> str:
        """Return a figure with its unit; metrics that are not the usual ones have their name before it."""
        text = f"{self.show(figure)} {self.unit}".strip()
        return text if self.name in DEFAULT_METRICS else f"{self.title} {text}"


def _missing_pyiqa(package: str) -> str | None:
    """One line with the command that installs pyiqa and keeps the installed torch; None if another one is needed."""
    if package != "pyiqa" or find_spec(package) is not None:
        return None
    return f"pyiqa is not installed: pip install pyiqa torch=={metadata.version('torch')}"


METRICS: dict[str, Metric] = {
    row.name: row
    for row in (
        Metric(name="psnr", title="PSNR-Y", source="compressor.images.metrics:psnr", best="highest", unit="dB"),
        Metric(name="ssim", title="SSIM-Y", source="compressor.images.metrics:ssim", best="highest", digits=4),
        Metric(
            name="psnr_rgb",
            title="PSNR-RGB",
            source="compressor.images.metrics:psnr",
            best="highest",
            unit="dB",
            takes="rgb",
        ),
        Metric(name="sharpness", title="sharpness", source="compressor.images.looks:sharpness", best="1"),
        Metric(name="overshoot", title="overshoot", source="compressor.images.looks:overshoot", best="lowest"),
        Metric(name="spectrum", title="spectrum", source="compressor.images.looks:spectrum", best="0", unit="dB"),
        Metric(
            name="high",
            title="high frequencies",
            source="compressor.images.looks:high_frequencies",
            best="0",
            unit="dB",
        ),
        Metric(
            name="gradient",
            title="gradient PSNR",
            source="compressor.images.looks:gradient_psnr",
            best="highest",
            unit="dB",
        ),
        Metric(
            name="flicker", title="flicker", source="compressor.images.flicker:flicker", best="lowest", takes="frames"
        ),
        *(
            Metric(
                name=name,
                title=name.upper(),
                source=f"compressor.inference.packaged_metrics:{name}",
                best=cast("Best", best),
                digits=digits,
                takes="rgb",
                needs=(package,),
                extra=None if package == "pyiqa" else "metrics",
                obstacle=partial(_missing_pyiqa, package),
            )
            for name, best, digits, package in (
                ("ssimulacra2", "highest", 2, "ssimulacra2"),
                ("flip", "lowest", 4, "flip_evaluator"),
                ("lpips", "lowest", 4, "pyiqa"),
                ("dists", "lowest", 4, "pyiqa"),
            )
        ),
    )
}
DEFAULT_METRICS = ("psnr", "ssim")

LOOKS = ("sharpness", "overshoot", "spectrum", "gradient")
"""The measures of looks, two of which decide together with the PSNR whether images are worse than others."""


def worse_measures(own: Mapping[str, float], others: Mapping[str, float]) -> tuple[str, ...]:
    """Return the metrics by which our images are worse than others, if they are worse altogether; else nothing.

    Figures are given by the names of metrics. Images are worse altogether if their PSNR is lower and, where looks were
    measured, two of these (or the only one) are worse. A figure that one of them lacks tells nothing, and sharpness
    nothing without the overshoot: dots and halos are sharp.
    """
    known = [name for name in ("psnr", *LOOKS) if name in own and name in others]
    if "overshoot" not in known and "sharpness" in known:
        known.remove("sharpness")
    worse = [name for name in known if METRICS[name].error(own[name]) > METRICS[name].error(others[name])]
    least = min(2, len({*known} & {*LOOKS}))
    return tuple(worse) if "psnr" in worse and len(worse) - 1 >= least else ()
