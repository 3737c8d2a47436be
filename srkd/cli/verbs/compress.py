"""`srkd compress`: training of a small student from a slow teacher."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from compressor.base.processes import Rank
from srkd.cli.verb import verb
from srkd.options.command_line import VerbOption
from srkd.options.compress import CompressOptions
from srkd.terminal.console import Console

if TYPE_CHECKING:
    from srkd.record.result import CompressReport


PATH = click.Path(path_type=Path)
run_option = partial(click.option, cls=VerbOption, group="run")

ALONE = {"resume": ("accept_changed_code", "jobs", "on"), "spec": ("out",)}
"""Parameters that decide a whole run, and those that go with them."""


@verb(
    "compress",
    CompressOptions,
    examples=(
        "srkd compress --out runs/first",
        "srkd compress --resume runs/first",
        "srkd compress --teacher edsr.pt --recipe logits --dry-run",
        "srkd compress --teacher edsr.pt --recipe logits --data photos --width 0.25 --out runs/edsr",
        "srkd compress --teacher edsr.pt --data photos --target-fps 30 --precision int8 --out runs/fast",
        "srkd compress --recipe scratch --student edsr:width=48,depth=16,scale=4 --data photos --out runs/own",
    ),
    csv=True,
)
@run_option(
    "--dry-run",
    is_flag=True,
    help="Write nothing; report what the run decides, and what one real step of each stage takes.",
)
@run_option(
    "--resume", type=PATH, metavar="RUN", help="Continue an unfinished run; takes no other options that change it."
)
@run_option(
    "--spec",
    type=PATH,
    metavar="FILE",
    help="Train what the run.json of another run decided; takes no other options but --out.",
)
@run_option(
    "--accept-changed-code",
    is_flag=True,
    help="With --resume: go on though the source of a method or network has changed; run.json records it.",
)
def command(
    console: Console,
    options: CompressOptions,
    *,
    resume: Path | None,
    spec: Path | None,
    accept_changed_code: bool,
    dry_run: bool,
) -> None:
    """Train a student from a teacher with a recipe and write a run folder.

    The folder holds student.safetensors, run.json, metrics.jsonl, TensorBoard events, checkpoints/ and log.txt.
    """
    from srkd.runs import compression

    if resume is not None or spec is not None:
        _require_alone("spec" if resume is None else "resume")
    elif accept_changed_code:
        raise click.UsageError("--accept-changed-code is for a run that goes on: add --resume RUN, or leave it out")
    if dry_run:
        _report_dry_run(console, options)
        return
    with console.context() as context:
        if resume is not None:
            given = compression.ResumeOptions(accept_changed_code, jobs=options.run.jobs, on=options.run.on)
            report = compression.run_resume(resume, context, given)
        elif spec is not None:
            report = compression.run_spec(spec, options.run.folder, context)
        else:
            report = compression.run_compress(options, context)
    if Rank.from_environment().is_leader:
        console.report("compress", report, show, rows=rows)


def _require_alone(name: str) -> None:
    """Refuse all options that would change the run that --resume continues, or --spec repeats."""
    context = click.get_current_context()
    others = [
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name not in (name, *ALONE[name], "as_json", "as_csv", "verbose", "quiet")
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if others:
        raise click.UsageError(f"--{name} decides the whole run: leave out {', '.join(others)}")


def _report_dry_run(console: Console, options: CompressOptions) -> None:
    from srkd.runs.dry_run import dry_run

    with console.context() as context:
        report = dry_run(options, context)
    console.report(
        "compress",
        report,
        lambda console, report: console.facts(report.rows()),
        rows=lambda report: [{"name": name, "value": value} for name, value in report.rows()],
    )


def rows(report: CompressReport) -> list[dict[str, object]]:
    """Each network with its scores, and by what these are."""
    from srkd.record.scores import scores_of

    return [{**vars(score), "goal": report.goal, "protocol": report.protocol} for score in scores_of(report)]


def ways_to_look(report: CompressReport) -> list[str]:
    """Lines on how to view the run: its picture, its curves and its trackers."""
    from compressor.training.run_folder import SHEET
    from compressor.training.trackers import read_wandb_facts

    run = report.run
    folders = [run, *run.glob("[12]-*")] if report.trials is None else [run / trial.run for trial in report.trials.runs]
    lines = [f"look: {run / SHEET}", f"curves: srkd plot {run}"]
    if any(path for folder in folders for path in folder.glob("events.out.tfevents.*")):
        lines.append(f"or: tensorboard --logdir {run}")
    facts = [entry for folder in folders if (entry := read_wandb_facts(folder))]
    addresses = [f"or: {entry['url']}" for entry in facts if entry.get("url")]
    if facts and not addresses:
        addresses = [f"or: wandb sync {folder}/wandb/offline-run-*" for folder in folders]
    return lines + addresses


def set_line(report: CompressReport, name: str) -> str:
    from compressor.images.scores import Scores, without_network

    networks = {"student": report.student, "teacher": report.teacher, without_network(report.scale): report.bicubic}
    parts = []
    for network, quality in networks.items():
        scores = (None if quality is None else quality.sets.get(name)) or Scores()
        ssim = "" if scores.ssim_y is None else f" {scores.ssim_y:.4f}"
        figures = [] if scores.psnr_y is None else [f"{scores.psnr_y:.3f} dB{ssim}"]
        figures += [] if scores.psnr_y_teacher is None else [f"{scores.psnr_y_teacher:.3f} dB to the teacher"]
        parts += [f"{network} {', '.join(figures)}"] if figures else []
    return f"{name}: {'; '.join(parts)}"


def show(console: Console, report: CompressReport) -> None:
    """Print student, baselines, teacher and bicubic or input side by side, and the gains of the recipe."""
    from compressor.training.run_folder import FLOAT_STUDENT, JOINT_TEACHER
    from srkd.record.scores import score_table, scores_of

    trials, joint = report.trials, report.teacher_joint
    runs = "" if trials is None else f", {len(trials.runs)} runs"
    title = f"{report.recipe}, {report.steps} steps{runs}, {report.seconds:.0f} s; validation images, {report.protocol}"
    console.table(score_table(scores_of(report), report.goal, title))
    for name in report.student.sets:
        console.result(set_line(report, name))
    for line in () if trials is None else trials.lines():
        console.result(line)
    if report.target is not None:
        console.result(report.target.line())
    if report.phi is not None:
        console.say(f"phi: {report.phi}")
    warning = report.below_bicubic
    for flag in report.flags:
        if flag != warning:
            console.say(f"note: {flag}")
    console.say(f"wrote {report.student_path}")
    if report.float_student is not None:
        console.say(f"wrote {report.run / FLOAT_STUDENT}: the student before it was quantised")
    if joint is not None:
        console.say(f"wrote {report.student_path.parent / JOINT_TEACHER}: other widths can be cut from it")
    for line in ways_to_look(report):
        console.say(line)
    console.say(f"next: srkd export {report.run} --onnx")
    if warning is not None:
        console.warn(warning)
