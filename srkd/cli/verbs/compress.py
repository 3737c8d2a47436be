"""`srkd compress`: training of a small student from a slow teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from compressor.base.processes import Rank
from srkd.cli.verb import verb
from srkd.options.command_line import VerbOption
from srkd.options.compress import CompressOptions
from srkd.terminal.console import Console, Records

if TYPE_CHECKING:
    from compressor.base.choices import Goal
    from srkd.record.result import CompressReport
    from srkd.runs.dry_run import DryRunKind


CONTINUING = ("resume", "accept_changed_code", "jobs", "on")
"""Parameters that change no run, and go with --resume."""


@verb(
    "compress",
    CompressOptions,
    examples=(
        "srkd compress --out runs/first",
        "srkd compress --resume runs/first",
        "srkd compress --teacher edsr.pt --recipe logits --dry-run",
        "srkd compress --teacher edsr.pt --recipe logits --data photos --width 0.25 --out runs/edsr",
        "srkd compress --teacher edsr.pt --data photos --then pams --set then.bits=4 --out runs/four-bits",
        "srkd compress --teacher edsr.pt --data photos --target-fps 30 --precision int8 --out runs/fast",
        "srkd compress --recipe scratch --student edsr:width=48,depth=16,scale=4 --data photos --out runs/own",
    ),
    csv=True,
)
@click.option(
    "--dry-run",
    cls=VerbOption,
    group="run",
    type=click.Choice(["estimate", "measure"]),
    is_flag=False,
    flag_value="estimate",
    help="Write nothing; report cost, forward passes, memory and needs. =measure also times 20 steps.",
)
@click.option(
    "--resume",
    cls=VerbOption,
    group="run",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Continue an unfinished run; takes no other options that change it.",
)
@click.option(
    "--accept-changed-code",
    cls=VerbOption,
    group="run",
    is_flag=True,
    help="With --resume: go on though the source of a method or network has changed; run.json records it.",
)
def command(
    console: Console,
    options: CompressOptions,
    *,
    resume: Path | None,
    accept_changed_code: bool,
    dry_run: DryRunKind | None,
) -> None:
    """Train a student from a teacher with a recipe and write a run folder.

    The folder holds student.safetensors, run.json, metrics.jsonl, TensorBoard events, checkpoints/ and log.txt.
    """
    from srkd.runs import compression

    if resume is not None and dry_run is not None:
        raise click.UsageError(
            "--dry-run tries what a new run would do, and --resume continues one: leave one of them out"
        )
    if resume is not None:
        _require_alone()
    elif accept_changed_code:
        raise click.UsageError("--accept-changed-code is for a run that goes on: add --resume RUN, or leave it out")
    if dry_run is not None:
        _report_dry_run(console, options, dry_run)
        return
    with console.context() as context:
        if resume is not None:
            given = compression.ResumeOptions(accept_changed_code, jobs=options.run.jobs, on=options.run.on)
            report = compression.run_resume(resume, context, given)
        else:
            report = compression.run_compress(options, context)
    if Rank.from_environment().is_leader:
        console.report("compress", report, show, records)


def _require_alone() -> None:
    """Refuse all options that would change the run that --resume continues; --jobs and --on change no result."""
    context = click.get_current_context()
    others = [
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name not in (*CONTINUING, "as_json", "as_csv", "verbose", "quiet")
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if others:
        raise click.UsageError(f"--resume goes alone: {', '.join(others)} would change the run; leave it out")


def _report_dry_run(console: Console, options: CompressOptions, kind: DryRunKind) -> None:
    from compressor.base.machine import torch_threads
    from srkd.options.sweep import points
    from srkd.runs.dry_run import dry_run
    from srkd.runs.targeted import plan_student, refuse_contradictions

    if options.run.has_baselines or options.run.seeds > 1:
        console.say("--seeds and --with-baseline plan several runs: this reports on one of them")
    with console.context() as context, torch_threads(options.run.threads):
        for point in points(options):
            refuse_contradictions(point.options)
        if options.target.is_given:
            options = plan_student(options, context)
        report = dry_run(options, kind, context)
    if console.wants_json:
        console.emit("compress", report)
        return
    if console.wants_csv:
        console.write_csv([{"name": name, "value": value} for name, value in report.rows()])
        return
    console.facts(report.rows())


def records(report: CompressReport) -> Records:
    """The table of the report as values."""
    from srkd.record.scores import of_role, scores_of

    scores, goal = scores_of(report), report.goal
    bicubic = of_role(scores, "bicubic")
    rows: list[dict[str, object]] = []
    for score in scores:
        judged, over = score.by(goal), score.over(bicubic, goal)
        rows.append(
            {
                "network": score.name,
                "params": score.params,
                "macs_at_256x256": score.macs,
                "psnr_y_db": None if score.to_original is None else score.to_original.mean,
                "psnr_y_teacher_db": None if score.to_teacher is None else score.to_teacher.mean,
                "goal": goal,
                "sd_db": None if judged is None else judged.sd,
                "over_bicubic_db": 0.0 if score is bicubic else over,
                "protocol": report.protocol,
            }
        )
    return rows


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
    """The scores on one of several validation sets."""
    from compressor.images.scores import without_network

    networks = {"student": report.student, "teacher": report.teacher, without_network(report.scale): report.bicubic}
    parts = []
    for network, quality in networks.items():
        scores = None if quality is None else quality.sets.get(name)
        if scores is None:
            continue
        figures = []
        if scores.psnr_y is not None:
            figures.append(f"{scores.psnr_y:.3f} dB" + ("" if scores.ssim_y is None else f" {scores.ssim_y:.4f}"))
        if scores.psnr_y_teacher is not None:
            figures.append(f"{scores.psnr_y_teacher:.3f} dB to the teacher")
        if figures:
            parts.append(f"{network} {', '.join(figures)}")
    return f"{name}: {'; '.join(parts)}"


def show(console: Console, report: CompressReport) -> None:
    """Print student, baselines, teacher and bicubic or input side by side, and the gains of the recipe."""
    from compressor.images.metrics import below_bicubic
    from compressor.images.scores import GOAL_WORDS, both_goals, without_network
    from compressor.training.run_folder import FLOAT_STUDENT, JOINT_TEACHER
    from srkd.record.scores import of_role, scores_of

    trials, joint = report.trials, report.teacher_joint
    runs = "" if trials is None else f", {len(trials.runs)} runs"
    scores, goal = scores_of(report), report.goal
    bicubic = of_role(scores, "bicubic")
    shown: list[Goal] = [each for each in both_goals(goal) if any(score.by(each) is not None for score in scores)]
    only_originals = shown == ["original"]
    rows = []
    for score in scores:
        over = score.over(bicubic, goal)
        figures = [str(spread) if (spread := score.by(each)) is not None else "-" for each in shown]
        figures.insert(1, "-" if over is None else f"{over:+.3f}")
        counts = (
            "-" if score.params is None else f"{score.params:,}",
            "-" if score.macs is None else f"{score.macs / 1e9:.2f}",
        )
        rows.append((score.name, *counts, *figures))
    columns = ["PSNR-Y dB" if only_originals else f"dB {GOAL_WORDS[each]}" for each in shown]
    columns.insert(1, f"over {without_network(report.scale)}")
    console.table(
        ["", "params", "GMAC at 256x256", *columns],
        rows,
        title=f"{report.recipe}, {report.steps} steps{runs}, {report.seconds:.0f} s; "
        f"validation images, {report.protocol}",
    )
    for name in report.student.sets:
        console.result(set_line(report, name))
    for line in () if trials is None else trials.lines():
        console.result(line)
    if report.target is not None:
        console.result(report.target.line())
    if report.phi is not None:
        console.say(f"phi: {report.phi}")
    warning = below_bicubic("the student", report.student.psnr_y, report.bicubic.psnr_y, report.goal, report.scale)
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
