"""`srkd compare`: methods side by side, each over its seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srkd.cli.verb import verb
from srkd.options.verbs import CompareOptions
from srkd.terminal.console import Console, Records, cell

if TYPE_CHECKING:
    from compressor.base.choices import Goal
    from srkd.reports.comparison import Comparison, MethodScores


@verb(
    "compare",
    CompareOptions,
    examples=(
        "srkd compare runs/first runs/second",
        "srkd compare runs/plan --html methods.html",
        "srkd compare runs/* --csv",
    ),
    csv=True,
)
def command(console: Console, options: CompareOptions) -> None:
    """Compare the methods of RUNs, each over its seeds.

    The table has mean and standard deviation of the Y-PSNR on the validation images, as the runs measured it. A plan of
    runs stands for its runs. Runs of another scale, protocol or of other images are refused.
    """
    from srkd.api.compare import run_compare

    with console.context() as context:
        comparison = run_compare(options, context)
    console.report("compare", comparison, show, records)


def mean_of(method: MethodScores, goal: Goal) -> float | None:
    spread = method.score.by(goal)
    return None if spread is None else spread.mean


def records(comparison: Comparison) -> Records:
    return [
        {
            "method": method.name,
            "seeds": len(method.seeds),
            "psnr_y_db": mean_of(method, "original"),
            "psnr_y_teacher_db": mean_of(method, "teacher"),
            "goal": comparison.goal,
            "sd_db": method.sd,
            "over_bicubic_db": method.over_bicubic,
            "below_teacher_db": method.below_teacher,
            "params": method.params,
            "macs_at_256x256": method.macs,
            "steps": method.steps,
            "protocol": comparison.protocol,
            "runs": " ".join(method.runs),
        }
        for method in comparison.methods
    ]


def show(console: Console, comparison: Comparison) -> None:
    """Print the table, then the gains of the best method."""
    rows = [
        (
            method.name,
            str(len(method.seeds)),
            f"{method.mean:.3f}" + ("" if method.sd is None else f" ± {method.sd:.3f}"),
            f"{method.over_bicubic:+.3f}",
            cell(None if method.below_teacher is None else -method.below_teacher, "{:+.3f}"),
            cell(method.params, "{:,}"),
            "-" if method.macs is None else f"{method.macs / 1e9:.2f}",
            cell(method.steps, "{:,}"),
        )
        for method in comparison.methods
    ]
    teacher = "" if comparison.teacher is None else f", teacher {comparison.teacher:.3f} dB"
    title = f"Scale {comparison.scale}, {comparison.protocol}; bicubic {comparison.bicubic:.3f} dB{teacher}"
    figure = "PSNR-Y dB" if comparison.goal == "original" else "dB to the teacher"
    columns = ["method", "seeds", figure, "over bicubic", "over teacher", "params", "GMAC at 256x256", "steps"]
    console.table(columns, rows, title=title)
    for line in comparison.lines():
        console.result(line)
