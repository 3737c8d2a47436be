"""`srkd compare`: methods side by side, each over its seeds."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from compressor.base.errors import UsageError
from compressor.images.scores import GOAL_WORDS, without_network
from srkd.cli.verb import verb
from srkd.options.verbs import CompareOptions
from srkd.record.trials import Gain
from srkd.terminal.console import Console, Records, cell

if TYPE_CHECKING:
    from compressor.base.choices import Goal
    from srkd.reports.comparison import Comparison, MethodScores
    from srkd.reports.set_table import Column, OverSeeds, SetGains, SetTable


@verb(
    "compare",
    CompareOptions,
    examples=(
        "srkd compare runs/first runs/second",
        "srkd compare runs/plan --html methods.html",
        "srkd compare runs/* --csv",
        "srkd compare runs/plan --data sets",
        "srkd compare runs/plan --data sets --latex > table.tex",
    ),
    csv=True,
    latex=True,
)
def command(console: Console, options: CompareOptions) -> None:
    """Compare the methods of RUNs, each over its seeds.

    The table has mean and standard deviation of the Y-PSNR on the validation images, as the runs measured it. A plan of
    runs stands for its runs. Runs of another scale, protocol or of other images are refused. With --data all students
    are scored on benchmark sets, as by srkd evaluate, with gains over the baselines; a second call computes nothing.
    """
    if console.wants_latex and options.data is None:
        raise UsageError("--latex is a table of benchmark sets: name them, --data DIR")
    from srkd.api.compare import run_compare
    from srkd.reports.latex import latex_table

    with console.context() as context:
        comparison = run_compare(options, context)
    table = comparison.sets
    if table is None:
        console.report("compare", comparison, show, records)
    elif console.wants_latex:
        console.write_latex(latex_table(table))
    else:
        console.report("compare", comparison, partial(show_sets, table=table), lambda _: set_records(table))


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
    plain = without_network(comparison.scale)
    teacher = "" if comparison.teacher is None else f", teacher {comparison.teacher:.3f} dB"
    title = f"Scale {comparison.scale}, {comparison.protocol}; {plain} {comparison.bicubic:.3f} dB{teacher}"
    figure = "PSNR-Y dB" if comparison.goal == "original" else "dB to the teacher"
    columns = ["method", "seeds", figure, f"over {plain}", "over teacher", "params", "GMAC at 256x256", "steps"]
    console.table(columns, rows, title=title)
    for line in comparison.lines():
        console.result(line)


def show_sets(console: Console, comparison: Comparison, table: SetTable) -> None:
    """Print a table of all sets for each reference, then the gains over the baselines."""
    console.result(table.shared_line())
    for reference in table.references:
        columns = table.columns(reference)
        rows = [
            [
                row.name,
                str(len(row.seeds) or "-"),
                *(_with_sd(*column.show(row.sets[column.set][column.key])) for column in columns),
            ]
            for row in table.rows_to(reference)
        ]
        titles = [column.title for column in columns]
        console.table(["method", "seeds", *titles], rows, title=table.heading(reference), repeat=1)
    columns = table.columns(table.references[0])
    gains = [
        [gains.method, gains.over, str(len(gains.seeds)), *(_gain_cell(column, gains) for column in columns)]
        for gains in table.gains
    ]
    if gains:
        title = f"gains on equal seeds, {GOAL_WORDS[table.references[0]]}: mean ± sd, and how many are above zero"
        titles = [column.title for column in columns]
        console.table(["method", "over", "pairs", *titles], gains, title=title, repeat=2)
    for line in (*table.left_out, *comparison.remarks()):
        console.result(line)


def _with_sd(mean: str, sd: str | None) -> str:
    return mean if sd is None else f"{mean} ± {sd}"


def _gain_cell(column: Column, gains: SetGains) -> str:
    gain = gains.sets[column.set][column.key]
    return f"{_with_sd(*column.show_gain(gain))} ({gain.above_zero}/{len(gain.differences)})"


def set_records(table: SetTable) -> Records:
    """A row for each method, set and metric, then one for each gain; a gain names what it is over."""
    records: list[dict[str, object]] = []
    columns = [column for reference in table.references for column in table.columns(reference)]

    def add(name: str, role: str, over: str, seeds: tuple[int, ...], column: Column, figure: OverSeeds | Gain) -> None:
        values = figure.differences if isinstance(figure, Gain) else figure.values
        unit = "_db" if column.metric.unit == "dB" else ""
        records.append(
            {
                "method": name,
                "role": role,
                "over": over,
                "set": column.set,
                "metric": f"{column.key}{unit}",
                "mean": figure.mean,
                "sd": figure.sd,
                "n": len(values),
                "above_zero": figure.above_zero if isinstance(figure, Gain) else None,
                "values": " ".join(map(repr, values)),
                "seeds": " ".join(map(str, seeds)),
                "scale": table.scale,
                "protocol": table.protocol,
                "self_ensemble": table.self_ensemble,
            }
        )

    for row in table.rows:
        for column in columns:
            add(row.name, row.role, "", row.seeds, column, row.sets[column.set][column.key])
    for gains in table.gains:
        for column in columns:
            add(gains.method, "gain", gains.over, gains.seeds, column, gains.sets[column.set][column.key])
    return records
