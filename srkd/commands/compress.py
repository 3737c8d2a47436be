"""`srkd compress`: train a small student of a good, slow network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from compressor.base.processes import Rank
from srkd.console import Console
from srkd.verb import verb
from srkd.verb_options import CompressOptions

if TYPE_CHECKING:
    from srkd.dry_run import DryRunKind
    from srkd.run import CompressReport


@verb(
    "compress",
    CompressOptions,
    examples=(
        "srkd compress --out runs/first",
        "srkd compress --resume runs/first",
        "srkd compress --teacher edsr.pt --recipe logits --dry-run",
        "srkd compress --teacher edsr.pt --recipe logits --data photos --width 0.25 --out runs/edsr",
        "srkd compress --recipe scratch --student edsr:width=48,depth=16,scale=4 --data photos --out runs/own",
    ),
)
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
        _require_alone()
    if dry_run is not None:
        _report_dry_run(console, options, dry_run)
        return
    with console.context() as context:
        if resume is not None:
            report = compression.resume(resume, progress=context.progress, announce=context.note)
        else:
            report = compression.run_compress(options, context)
    if Rank.from_environment().is_leader:
        console.report("compress", report, show)


def _require_alone() -> None:
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


def _report_dry_run(console: Console, options: CompressOptions, kind: DryRunKind) -> None:
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
    from compressor.images.metrics import below_bicubic

    trials, joint = report.trials, report.teacher_joint
    networks = {"teacher": report.teacher, "teacher, joint": joint, "bicubic": report.bicubic}
    if trials is None:
        networks, rows = {"student": report.student, **networks}, []
    else:
        rows = [(row.name, report.student.cost, str(row.spread), row.mean) for row in trials.rows]
    rows += [(name, q.cost, f"{q.psnr_y:.3f}", q.psnr_y) for name, q in networks.items() if q is not None]
    runs = "" if trials is None else f", {len(trials.runs)} runs"
    console.table(
        ["", "params", "GMAC at 256x256", "PSNR-Y dB", "over bicubic"],
        [
            (
                name,
                "-" if cost is None else f"{cost.params:,}",
                "-" if cost is None else f"{cost.macs / 1e9:.2f}",
                text,
                f"{psnr_y - report.bicubic.psnr_y:+.3f}",
            )
            for name, cost, text, psnr_y in rows
        ],
        title=f"{report.recipe}, {report.steps} steps{runs}, {report.seconds:.0f} s; "
        f"validation images, {report.protocol}",
    )
    for line in () if trials is None else trials.lines():
        console.result(line)
    if report.phi is not None:
        console.say(f"phi: {report.phi}")
    warning = below_bicubic("the student", report.student.psnr_y, report.bicubic.psnr_y)
    for flag in report.flags:
        if flag != warning:
            console.say(f"note: {flag}")
    console.say(f"wrote {report.student_path}")
    if joint is not None:
        console.say(
            f"wrote {report.student_path.parent / 'teacher_joint.safetensors'}: other widths can be cut from it"
        )
    console.say(f"look: {report.run / 'comparison.png'}")
    console.say(f"next: srkd export {report.run} --onnx")
    if warning is not None:
        console.warn(warning)
