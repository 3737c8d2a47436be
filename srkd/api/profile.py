"""`srkd profile`: speed, memory, cost and quality of models, measured in turns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from compressor.base.context import Context, Note
from compressor.base.errors import UsageError
from compressor.base.files import atomic_path
from compressor.base.machine import count_threads
from compressor.images.scores import GOAL_WORDS
from compressor.models.checkpoints.header import RUN_FOLDER_FACTS
from compressor.models.networks.base import ImageModel
from export.profile.report import ProfileReport, profile_models
from export.profile.settings import DEFAULT_SIZE, ProfileSettings
from srkd.charts import Scatter, ScatterPoint, draw_scatter
from srkd.options.function import public
from srkd.options.models import ModelFile, file_of
from srkd.options.option import settings_of
from srkd.options.shared import ModelOrPath, path_of
from srkd.options.values import as_tuple, read_sizes, require_png
from srkd.options.verbs import ProfileOptions
from srkd.record.measurements import write_profile
from srkd.record.run_teacher import find_run_teacher


def run_profile(options: ProfileOptions, context: Context) -> ProfileReport:
    """Measure speed, memory, cost and Y-PSNR of models against a teacher, in turns, each in a separate process.

    A single run folder is compared with the teacher it was distilled from. LR sizes are (width, height) or "WxH", one
    or several.

        >>> srkd.profile("edsr.pt", runtime="torch", lr_size="64x64", seconds=0.5)
    """
    models, pareto = as_tuple(options.models), path_of(options.pareto)
    if pareto is not None:
        if not options.quality:
            raise UsageError("--pareto shows quality: leave out --no-quality")
        require_png(pareto, "--pareto")
    settings = settings_of(
        ProfileSettings,
        options,
        runtimes=tuple(options.runtime),
        precisions=as_tuple(options.precision),
        lr_sizes=(DEFAULT_SIZE,) if options.lr_size is None else read_sizes(options.lr_size),
        batches=as_tuple(options.batch),
    )
    with TemporaryDirectory(prefix="srkd-networks-") as folder:
        paths = [_profiled_file(model, Path(folder, str(index))) for index, model in enumerate(models)]
        teacher = None if options.teacher is None else file_of(options.teacher, Path(folder, "teacher.safetensors"))
        if teacher is not None and teacher.options:
            settings = replace(settings, teacher_options=teacher.options)
        is_run = teacher is None and len(models) == 1 and not isinstance(models[0], ImageModel)
        run_teacher = find_run_teacher(paths[0], context.note) if is_run else None
        if run_teacher is not None:
            teacher = ModelFile(run_teacher.path)
            # The student's file states all its facts, so the options can only be for the teacher.
            settings = replace(
                settings,
                scale=run_teacher.scale if options.scale is None else options.scale,
                arch_options=None,
                teacher_options={**run_teacher.options, **(options.arch_options or {})},
            )
        path = None if teacher is None else teacher.path
        report = profile_models(paths, teacher=path, settings=settings, context=context)
        if is_run and (paths[0] / RUN_FOLDER_FACTS).is_file():
            write_profile(paths[0], report, context.note)
    if pareto is not None:
        _write_pareto(report, pareto, context.note)
    return report


def _profiled_file(model: ModelOrPath, folder: Path) -> Path:
    """The file of a model to profile; an open network's is written to the folder, under its architecture."""
    name = model.architecture if isinstance(model, ImageModel) else ""
    file = file_of(model, folder / f"{name}.safetensors")
    if file.options:
        raise UsageError(f"{file.path} was read with options of its own: profile its path, with arch_options")
    return file.path


def _write_pareto(report: ProfileReport, path: Path, note: Note) -> None:
    """Draw the rows of the first size and batch; without any a note says so, for the table is worth having alone."""
    first, points = report.rows[0], []
    for row in report.rows:
        quality = report.quality_of(row)
        judged = None if quality is None else quality.scores.by(report.goal)
        if (row.lr_size, row.batch) == (first.lr_size, first.batch) and judged is not None:
            label = f"{row.model}, {row.runtime} {row.precision}"
            points.append(ScatterPoint(label, row.latency_ms.p50, judged, row.model))
    if not points:
        note(f"{path} is not drawn: no model has both a time and a quality")
        return
    where = f"LR {first.lr_size}, batch {first.batch}, {first.device}, {count_threads(first.threads)}"
    y_label = f"Y-PSNR in dB {GOAL_WORDS[report.goal]}, on the embedded validation photos"
    chart = Scatter(f"Quality against speed: {where}", "ms a batch, median", y_label, tuple(points))
    with atomic_path(path) as temporary:
        temporary.write_bytes(draw_scatter(chart))


profile = public(ProfileOptions, ProfileOptions, run_profile, "profile")
