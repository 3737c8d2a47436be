"""`srkd report`: one self-contained HTML file about run folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.files import atomic_path
from compressor.data.prepare import DataChoice
from compressor.images.sets import embedded_pairs, line_about_inputs
from compressor.inference.open import open_model
from compressor.models.checkpoints.header import TEXTURED
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.students.blend import between, ends_of
from compressor.runtimes.base import Runtime
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.torch_runtime import TorchRuntime
from compressor.training.run_folder import STUDENT
from srkd.options.function import public
from srkd.options.shared import path_of
from srkd.options.values import output_file, require_html, run_folders
from srkd.options.verbs import ReportOptions
from srkd.record.measurements import read_profile
from srkd.record.run_teacher import find_run_teacher
from srkd.reports.comparing import compare_contents
from srkd.reports.contents import Contents, read_contents
from srkd.reports.page import Section, report_page
from srkd.reports.pictures import OF_STRENGTH, Pictures, make_pictures

REPORT = "report.html"
STRENGTHS = 0.0, 0.25, 0.5, 0.75, 1.0
MOST_BYTES = 3_000_000
"""Largest size of a report in bytes, small enough for mail."""


@dataclass(frozen=True)
class ReportFile:
    """The path of the report, its size, its runs, and a line for each missing part."""

    path: Path
    bytes: int
    runs: tuple[Path, ...]
    missing: tuple[str, ...]


def run_report(options: ReportOptions, context: Context) -> ReportFile:
    """Write one HTML file about one run or several: sizes, speed, quality, pictures, and how to repeat them.

    The speed is that of profile.json, which `profile` writes to a run folder. An unfinished run is shown up to its last
    step.

        >>> print(srkd.report("runs/small").path)
    """
    folders = run_folders(options.runs)
    path = output_file(path_of(options.out), folders, REPORT, require_html)
    runs = [read_contents(folder) for folder in folders]
    comparison = None if len(runs) == 1 else compare_contents(runs)
    sections = [_section(contents, options, context, crops=3 if len(runs) == 1 else 1) for contents in runs]
    page = report_page(sections, comparison).encode("utf-8", "replace")
    if len(page) > MOST_BYTES:
        raise SrkdError(f"the report would have {len(page):,} bytes, over {MOST_BYTES:,}: name fewer runs")
    with atomic_path(path) as temporary:
        temporary.write_bytes(page)
    missing = tuple(
        f"{section.contents.name}: {line}"
        for section in sections
        for line in (*section.missing, section.contents.unfinished_line(str(section.contents.path)))
        if line is not None
    )
    return ReportFile(path, len(page), tuple(folders), missing)


report = public(ReportOptions, ReportOptions, run_report, "report")


def _section(contents: Contents, options: ReportOptions, context: Context, *, crops: int) -> Section:
    """The section of a run, with a line for each missing part."""
    missing: list[str] = []
    if not contents.metrics:
        missing.append("it has no curves: metrics.jsonl holds no row")
    if contents.student_sha256 is None:
        return Section(contents, None, Pictures(), (*missing, "no student yet, so no picture is made"))
    speed = read_profile(contents.path, contents.student_sha256)
    if speed is None:
        missing.append("the speed was not measured: srkd profile RUN measures it")
    return Section(contents, speed, _pictures(contents, options, context, crops, missing), tuple(missing))


def _pictures(contents: Contents, options: ReportOptions, context: Context, most: int, missing: list[str]) -> Pictures:
    """Pictures of the photos; without the teacher's file they compare student and original."""
    student = open_model(contents.path / STUDENT, OpenOptions())
    scale = student.descriptor.scale
    run_teacher = find_run_teacher(contents.path, context.note)
    teacher = None
    if run_teacher is None:
        missing.append("the teacher's file is not at hand: the student's pictures are compared with the originals")
    else:
        try:
            teacher_options = OpenOptions(
                scale=run_teacher.scale, arch_options=run_teacher.options or None, trust_code=options.trust_code
            )
            teacher = open_model(run_teacher.path, teacher_options)
        except SrkdError as error:
            missing.append(f"the teacher could not be opened: {error}")
    pairs = DataChoice(Path(options.data)).pairs(scale) if options.data is not None else embedded_pairs("val")
    if line := line_about_inputs(pairs, scale):
        context.note(line)
    others = {**_control(contents), **_strengths(contents)}
    return make_pictures(pairs, student, teacher, context, others=others, most=most)


def _control(contents: Contents) -> dict[str, Runtime]:
    """The student of the first baseline of a plan, with the seed of the chosen student."""
    trials = None if contents.file.result is None else contents.file.result.trials
    if trials is None:
        return {}
    baselines = [row.name for row in trials.rows[trials.points :]]
    for outcome in trials.runs:
        file = contents.path / outcome.run / STUDENT
        if baselines and outcome.variant == baselines[0] and outcome.seed == trials.chosen.seed and file.is_file():
            return {"control": open_model(file)}
    return {}


def _strengths(contents: Contents) -> dict[str, Runtime]:
    """The student of a run with two ends at several strengths."""
    if not (contents.path / TEXTURED).is_file():
        return {}
    first, last = (load_checkpoint(end).network for end in ends_of(contents.path))
    return {f"{OF_STRENGTH}{each:g}": TorchRuntime(between(first, last, each), label="student") for each in STRENGTHS}
