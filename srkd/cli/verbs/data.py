"""`srkd data`: what a run would see of a folder of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srkd.cli.verb import verb
from srkd.options.verbs import SeenOptions
from srkd.terminal.console import Console

if TYPE_CHECKING:
    from srkd.api.data import DataReport

MOST_SIZES = 4


@verb(
    "data",
    SeenOptions,
    "srkd.api.data.run_data",
    examples=(
        "srkd data photos --show look",
        "srkd data photos --degrade realesrgan --show look",
        "srkd data photos --degrade like:frames --show look",
    ),
)
def command(console: Console, report: DataReport) -> None:
    """Show what a run would see of a folder of images.

    The options are those of compress. With --degrade LR images are made as in training; like:DIR measures the pictures
    of a folder and proposes a setting. --show writes a picture of patches.
    """
    sizes = [f"{count} of {size}" for size, count in list(report.lr_sizes.items())[:MOST_SIZES]]
    more = len(report.lr_sizes) - len(sizes)
    facts = [
        ("images", f"{report.images} from {report.origin}"),
        ("LR sizes", ", ".join(sizes) + (f" and {more} more sizes" if more > 0 else "")),
    ]
    if report.skipped:
        facts.append(("left out", f"{len(report.skipped)}, such as {next(iter(report.skipped))}"))
    if report.degradation is not None:
        facts.append(("degradation", str(report.degradation["title"])))
    console.facts(facts)
    if report.sheet is not None:
        console.result(f"look: {report.sheet}")
