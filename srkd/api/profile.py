"""`srkd profile`: speed, memory, cost and quality of models, measured in turns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from compressor.base.context import Context
from compressor.base.errors import UsageError
from compressor.models.networks.base import ImageModel
from export.profile.report import ProfileReport, profile_models
from export.profile.settings import DEFAULT_SIZE, ProfileSettings
from srkd.options.function import public
from srkd.options.models import ModelFile, file_of
from srkd.options.shared import ModelOrPath
from srkd.options.values import as_tuple, read_sizes
from srkd.options.verbs import ProfileOptions
from srkd.record.measurements import write_profile
from srkd.record.run_teacher import find_run_teacher
from srkd.reports.pareto import check_pareto, write_pareto


def run_profile(options: ProfileOptions, context: Context) -> ProfileReport:
    """Measure speed, memory, cost and Y-PSNR of models against a teacher, in turns, each in a separate process.

    A single run folder is compared with the teacher it was distilled from. LR sizes are (width, height) or "WxH", one
    or several.

        >>> srkd.profile("edsr.pt", runtime="torch", lr_size="64x64", seconds=0.5)
    """
    models = as_tuple(options.models)
    pareto = check_pareto(options)
    settings = ProfileSettings(
        runtimes=tuple(options.runtime),
        device=options.device,
        precisions=as_tuple(options.precision),
        lr_sizes=(DEFAULT_SIZE,) if options.lr_size is None else read_sizes(options.lr_size),
        batches=as_tuple(options.batch),
        threads=options.threads,
        seconds=options.seconds,
        memory=options.memory,
        quality=options.quality,
        goal=options.goal,
        scale=options.scale,
        arch_options=options.arch_options,
        limits=options.limits,
        trust_code=options.trust_code,
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
        if run_teacher is not None and paths[0].is_dir():
            write_profile(paths[0], report, context.note)
    if pareto is not None:
        write_pareto(report, pareto, context.note)
    return report


def _profiled_file(model: ModelOrPath, folder: Path) -> Path:
    """The file of a model to profile; an open network's is written to the folder, under its architecture."""
    name = model.architecture if isinstance(model, ImageModel) else ""
    file = file_of(model, folder / f"{name}.safetensors")
    if file.options:
        raise UsageError(f"{file.path} was read with options of its own: profile its path, with arch_options")
    return file.path


profile = public(ProfileOptions, ProfileOptions, run_profile, "profile")
