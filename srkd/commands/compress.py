"""`srkd compress`: train a small student of a good, slow network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from compressor.base.rank import Rank
from srkd.console import Console
from srkd.parameters import BYTES, DEVICE, SETTING
from srkd.verb import verb

if TYPE_CHECKING:
    from srkd.dry_run import DryRunKind
    from srkd.training_run import CompressReport, Quality

EPILOG = """Examples:

\b
  srkd compress --out runs/first
  srkd compress --resume runs/first
  srkd compress --teacher edsr.pt --recipe logits --dry-run
  srkd compress --teacher edsr.pt --recipe logits --data photos --width 0.25 --out runs/edsr
  srkd compress --recipe scratch --student edsr:width=48,depth=16,scale=4 --data photos --out runs/own
"""


@verb("compress", epilog=EPILOG)
@click.option("--teacher", type=click.Path(path_type=Path), help="Checkpoint of the teacher; none: the embedded EDSR.")
@click.option(
    "--recipe", default="logits", show_default=True, help="A name of `srkd recipes ls`, or a file such as ./my.yaml."
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of HR images, a set with HR/, or several sets.")
@click.option(
    "--lr", type=click.Path(path_type=Path), help="Folder of the LR images of --data; none: made bicubically."
)
@click.option(
    "--val", type=click.Path(path_type=Path), help="Validation images; none: some of --data, or embedded ones."
)
@click.option(
    "--lr-border",
    type=click.Choice(["mirror", "clamp"]),
    default="mirror",
    show_default=True,
    help="Border of the downscale that makes LR images; clamp as an older MATLAB did.",
)
@click.option(
    "--lr-only",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of LR images without HR partners: the teacher's output is their only label.",
)
@click.option(
    "--cache-size",
    type=BYTES,
    default="20GB",
    show_default=True,
    help="Disk that decoded images may take between runs (docs/data.md); 0: nothing is kept.",
)
@click.option("--width", type=float, help="Fraction of the teacher's channels that the student keeps.")
@click.option("--depth", type=float, help="Fraction of the teacher's blocks that the student keeps.")
@click.option("--student", metavar="SPEC", help="The student's whole shape, such as edsr:width=48,depth=16,scale=4.")
@click.option("--init", type=click.Choice(["inherit", "random"]), help="Weights cut from the teacher, or drawn.")
@click.option(
    "--select", type=click.Choice(["leading", "l1"]), help="Which channels are inherited: the first, or the strongest."
)
@click.option(
    "--init-from", type=click.Path(path_type=Path), help="Start from this file's weights where name and shape agree."
)
@click.option("--steps", type=click.IntRange(1), help="Updates; milestones and warm-up are rescaled.")
@click.option("--seed", type=int, default=10, show_default=True, help="The same seed gives the same run.")
@click.option(
    "--with-baseline", is_flag=True, help="Train the same student on the same batches without distillation, too."
)
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, help="Repeat with so many seeds: mean and spread."
)
@click.option("--device", type=DEVICE, default="cpu", show_default=True, help="cpu, cuda, cuda:N or mps.")
@click.option("--scale", type=click.IntRange(1, 8), help="Scale to take from a multi-scale teacher file.")
@click.option(
    "--arch-option", "arch_options", type=SETTING, multiple=True, help="What the teacher's file does not say."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change the recipe: schedule.batch=8, kappa=0.5."
)
@click.option(
    "--teacher-cache", is_flag=True, help="Run the teacher once over whole images, keep its outputs in fp16, crop them."
)
@click.option(
    "--dry-run",
    type=click.Choice(["estimate", "measure"]),
    is_flag=False,
    flag_value="estimate",
    help="Write nothing: tell cost, forwards, memory and what is needed; =measure also times 20 steps.",
)
@click.option(
    "--phi-weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="vgg19-dcbb9e9d.pth of torchvision, for contrastive recipes (csd, csd-lite, clsd).",
)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to write; must not exist yet.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Continue an unfinished run; alone.")
def command(
    console: Console,
    *,
    arch_options: tuple[tuple[str, Any], ...],
    resume: Path | None,
    dry_run: DryRunKind | None,
    **options: Any,
) -> None:
    """Train a student of a teacher by a recipe and write a run folder.

    The folder holds student.safetensors, run.json, metrics.jsonl, TensorBoard events, checkpoints/ and log.txt.
    """
    from srkd import compression

    alone_or_with_out(resume, options["out"], dry_run)
    if dry_run is not None:
        tell_dry_run(console, dry_run, {"arch_options": dict(arch_options), **options})
        return
    with console.progress() as progress:
        if resume is not None:
            report = compression.resume(resume, progress=progress, announce=console.say)
        else:
            report = compression.compress(
                options.pop("teacher"),
                arch_options=dict(arch_options),
                progress=progress,
                announce=console.say,
                **options,
            )
    if not Rank.here().leads:
        return
    if console.wants_json:
        console.emit("compress", report)
    else:
        show(console, report)


def alone_or_with_out(resume: Path | None, out: Path | None, dry_run: str | None) -> None:
    """--resume takes no other option that would change the run; without it --out is needed by all that write."""
    if resume is None:
        if out is None and dry_run is None:
            raise click.UsageError("missing option '--out': the run folder to write")
        return
    context = click.get_current_context()
    quiet = ("resume", "as_json", "verbose", "quiet")
    given = [
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name not in quiet
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"--resume goes alone: {', '.join(given)} would change the run; leave it out")


def tell_dry_run(console: Console, kind: DryRunKind, words: dict[str, Any]) -> None:
    """What the run would be; of several runs, one of them."""
    from srkd.dry_run import dry_run
    from srkd.request import Request

    if words["seeds"] > 1 or words["with_baseline"]:
        console.say("one run is told of those that --seeds and --with-baseline ask for")
    with console.progress() as progress:
        found = dry_run(Request.of(words), kind, progress=progress, announce=console.say)
    if console.wants_json:
        console.emit("compress", found)
        return
    for name, value in found.rows():
        console.result(f"{name:<12}{value}".rstrip())


def show(console: Console, report: CompressReport) -> None:
    """Student, baselines, teacher and bicubic side by side, and what the recipe gains."""
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
    """What a model costs, and its figure as text: with its spread where there is one."""
    cost = quality.cost
    figures = ("-", "-") if cost is None else (f"{cost.params:,}", f"{cost.macs / 1e9:.2f}")
    return (name, *figures, psnr_y, f"{over_bicubic:+.3f}")
