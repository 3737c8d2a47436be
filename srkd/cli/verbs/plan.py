"""`srkd plan`: search for the largest student that meets a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.base.machine import count_threads
from srkd.cli.verb import verb
from srkd.options.compress import PlanOptions
from srkd.terminal.console import Console, cell
from srkd.terminal.tables import Table

if TYPE_CHECKING:
    from srkd.runs.planning import PlanReport
    from srkd.runs.planning_elsewhere import PlanFiles


def rows(result: PlanReport | PlanFiles) -> Sequence[object]:
    """The shapes; with --emit each file, and the reason of each shape that has none."""
    from srkd.runs.planning import PlanReport

    if isinstance(result, PlanReport):
        return result.rows
    reasons = {**dict.fromkeys(result.files, ""), **result.failed}
    return [{"name": name, "failed": reason} for name, reason in reasons.items()]


@verb(
    "plan",
    PlanOptions,
    "srkd.api.plan.plan_here_or_elsewhere",
    examples=(
        "srkd plan --teacher edsr.pt --target-fps 30 --lr-size 320x180",
        "srkd plan --teacher edsr.pt --target-ms 20 --target-mb 0.5 --precision int8 --threads 2 -o plan.png",
        "srkd plan --teacher edsr.pt --target-fps 30 --emit phone",
        "srkd plan --teacher edsr.pt --measured phone/measured.json",
    ),
    rows=rows,
)
def command(console: Console, result: PlanReport | PlanFiles) -> None:
    """Find the largest student that meets a target on this machine.

    srkd exports shapes of the teacher's kind, of Compact and of plain untrained and times them in the runtime. It
    measures the best ones again before it chooses. With --emit another device measures.
    """
    from srkd.runs.planning import PlanReport

    if isinstance(result, PlanReport):
        show(console, result)
        return
    console.result(f"wrote {result.shapes} shapes and plan.json to {result.folder}")
    console.say(f"next: copy {result.folder} to the device, and run python run.py there (onnxruntime and numpy)")
    console.say(f"or in a browser, on a phone too: srkd demo {result.folder} --host 0.0.0.0")
    console.say(f"then: srkd plan --measured {result.folder}/measured.json")


def show(console: Console, report: PlanReport) -> None:
    """Print the shapes with their reasons, the chosen one, and the command that trains it."""
    from compressor.images.scores import GOAL_WORDS

    lines = [
        [
            row.name,
            f"{row.params:,}",
            f"{row.macs / 1e9:.3g}",
            cell(row.megabytes, "{:.2f}"),
            "-" if row.ms_interval is None else f"{row.ms:.1f} [{row.ms_interval[0]:.1f}, {row.ms_interval[1]:.1f}]",
            cell(row.fps, "{:.1f}"),
            "unknown" if (fitted := row.scores.by(report.goal)) is None else f"{fitted:.2f}",
            f"{row.verdict}: {row.why}",
        ]
        for row in report.rows
    ]
    threads = "" if report.threads is None else f", {count_threads(report.threads)}"
    title = (
        f"{report.targets} at LR {report.lr_size} in {report.runtime} {report.precision}, {report.device}"
        f"{threads}, {report.measured_on}; {len(report.rows)} of {report.candidates} shapes in {report.seconds:.0f} s"
    )
    headings = ["shape", "params", "GMAC", "MB", "ms", "FPS", f"fitted dB {GOAL_WORDS[report.goal]}", "verdict"]
    console.table(Table(headings, lines, title))
    chosen = report.chosen
    console.result(f"chosen: {chosen.name}, {chosen.params:,} parameters, {chosen.ms:.1f} ms: {chosen.why}")
    for note in report.notes:
        console.warn(note)
    if report.picture is not None:
        console.say(f"wrote {report.picture}")
    teacher = "" if report.teacher_path is None else f"--teacher {report.teacher_path} "
    console.say(f"next: srkd compress {teacher}--student {chosen.student}")
