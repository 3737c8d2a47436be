"""`srkd compress`: train a small student of a good, slow network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from compressor.base.processes import Rank
from srkd.compress_options import CompressOptions
from srkd.console import Console
from srkd.verb import verb

if TYPE_CHECKING:
    from srkd.dry_run import DryRunKind
    from srkd.run import CompressReport, Quality

EPILOG = """Examples:

\b
  srkd compress --out runs/first
  srkd compress --resume runs/first
  srkd compress --teacher edsr.pt --recipe logits --dry-run
  srkd compress --teacher edsr.pt --recipe logits --data photos --width 0.25 --out runs/edsr
  srkd compress --recipe scratch --student edsr:width=48,depth=16,scale=4 --data photos --out runs/own
"""


@verb("compress", CompressOptions, epilog=EPILOG)
@click.option(
    "--dry-run",
    type=click.Choice(["estimate", "measure"]),
    is_flag=False,
    flag_value="estimate",
    help="Write nothing: report cost, forwards, memory and needs; =measure also times 20 steps.",
)
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Continue an unfinished run; alone.")
def command(console: Console, options: CompressOptions, *, resume: Path | None, dry_run: DryRunKind | None) -> None:
    """Train a student of a teacher by a recipe and write a run folder.

    The folder holds student.safetensors, run.json, metrics.jsonl, TensorBoard events, checkpoints/ and log.txt.
    """
    from srkd import compression

    if resume is not None:
        require_alone()
    if dry_run is not None:
        show_dry_run(console, options, dry_run)
        return
    with console.context() as context:
        if resume is not None:
            report = compression.resume(resume, progress=context.progress, announce=context.note)
        else:
            report = compression.run_compress(options, context)
    if not Rank.from_environment().is_leader:
        return
    if console.wants_json:
        console.emit("compress", report)
    else:
        show(console, report)


def require_alone() -> None:
    """Refuse every option beside --resume that would change the run."""
    context = click.get_current_context()
    others = [
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name not in ("resume", "as_json", "verbose", "quiet")
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if others:
        raise click.UsageError(f"--resume goes alone: {', '.join(others)} would change the run; leave it out")


def show_dry_run(console: Console, options: CompressOptions, kind: DryRunKind) -> None:
    """Print a line for each fact of the run, or the object."""
    from srkd.dry_run import dry_run

    if options.is_plan:
        console.say("--seeds and --with-baseline plan several runs: this reports on one of them")
    with console.context() as context:
        report = dry_run(options, kind, context)
    if console.wants_json:
        console.emit("compress", report)
        return
    for name, value in report.rows():
        console.result(f"{name:<12}{value}".rstrip())


def show(console: Console, report: CompressReport) -> None:
    """Print student, baselines, teacher and bicubic side by side, and the gains of the recipe."""
    bicubic, trials = report.bicubic.psnr_y, report.trials
    if trials is None:
        rows = [_row("student", report.student, f"{report.student.psnr_y:.3f}", report.student.psnr_y - bicubic)]
    else:
        rows = [_row(row.name, report.student, str(row.spread), row.mean - bicubic) for row in trials.rows]
    if report.teacher is not None:
        rows.append(_row("teacher", report.teacher, f"{report.teacher.psnr_y:.3f}", report.teacher.psnr_y - bicubic))
    joint = report.teacher_joint
    if joint is not None:
        rows.append(_row("teacher, joint", joint, f"{joint.psnr_y:.3f}", joint.psnr_y - bicubic))
    rows.append(_row("bicubic", report.bicubic, f"{bicubic:.3f}", 0.0))
    runs = "" if trials is None else f", {len(trials.runs)} runs"
    console.table(
        ["", "params", "GMAC at 256x256", "PSNR-Y dB", "over bicubic"],
        rows,
        title=f"{report.recipe}, {report.steps} steps{runs}, {report.seconds:.0f} s; "
        f"validation images, {report.protocol}",
    )
    for line in () if trials is None else trials.lines():
        console.result(line)
    if report.phi is not None:
        console.say(f"phi: {report.phi}")
    for flag in report.flags:
        console.say(f"note: {flag}")
    console.say(f"wrote {report.student_path}")
    if joint is not None:
        console.say(
            f"wrote {report.student_path.parent / 'teacher_joint.safetensors'}: other widths can be cut from it"
        )
    console.say(f"look: {report.run / 'comparison.png'}")
    console.say(f"next: srkd export {report.run} --onnx")


def _row(name: str, quality: Quality, psnr_y: str, over_bicubic: float) -> tuple[str, ...]:
    """Return a row: cost, and the PSNR as text (with its spread where there is one)."""
    cost = quality.cost
    figures = ("-", "-") if cost is None else (f"{cost.params:,}", f"{cost.macs / 1e9:.2f}")
    return (name, *figures, psnr_y, f"{over_bicubic:+.3f}")
