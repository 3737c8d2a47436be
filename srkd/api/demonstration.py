"""The models of `srkd demo` as ONNX files: those that the user names, and their teacher."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from compressor.assets.shipped import shipped_names, shipped_student
from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import model_file, read_metadata
from compressor.models.checkpoints.header import TEXTURED
from compressor.models.checkpoints.save import STRENGTH
from compressor.models.students.blend import ends_of
from compressor.models.students.shipped import unpack_student
from compressor.runtimes.table import runtime_of
from demo.catalogue import Model, Role, read_model
from export.plan.emit import PLAN, read_emitted
from srkd.api.export import export
from srkd.options.values import as_tuple
from srkd.options.verbs import DemoOptions
from srkd.record.run_teacher import find_run_teacher

FORMATS: Mapping[Role, Sequence[str]] = {"student": ("onnx", "fp16"), "teacher": ("onnx",)}


def plan_to_time(options: DemoOptions, context: Context) -> tuple[Mapping[str, object], tuple[Model, ...]] | None:
    """A plan and the files of its shapes, if the folder of one is named; its networks are untrained, so no teacher."""
    paths = [Path(model) for model in as_tuple(options.models)]
    folder = next((path for path in paths if (path / PLAN).is_file()), None)
    if folder is None:
        return None
    if len(paths) > 1 or options.teacher is not None:
        raise UsageError(f"{folder} holds a plan, whose files are timed alone: name no other model and no --teacher")
    emitted = read_emitted(folder)
    models = []
    for name, shape in context.each("read shapes", emitted.shapes.items()):
        models.append(read_model(folder / shape.file, name, "student", limits=options.limits))
    (width, height), most_ms = emitted.environment.lr_size, emitted.targets.most_ms
    target_ms = None if math.isinf(most_ms) else most_ms
    return {"id": emitted.id, "width": width, "height": height, "target_ms": target_ms}, tuple(models)


def demo_models(options: DemoOptions, context: Context) -> tuple[Model, ...]:
    """All models with the bytes of their ONNX files, students first, the teacher last. Exports are verified."""
    paths = [Path(model) for model in as_tuple(options.models)]
    if not paths:
        names = [name for name in shipped_names() if shipped_student(name).scale == 2]
        context.note(f"no MODEL: showing {', '.join(names)} of `srkd students`")
        paths = list(map(unpack_student, names))
    models: list[Model] = []
    for path in paths:
        models += _read_models(path, "student", options, context, {model.name for model in models})
    _require_one_kind(models)
    return (*models, *_teacher_models(options, paths, models, context))


def _teacher_models(
    options: DemoOptions, paths: Sequence[Path], students: Sequence[Model], context: Context
) -> list[Model]:
    names = {model.name for model in students}
    if options.teacher is not None:
        models = _read_models(Path(options.teacher), "teacher", options, context, names)
        _require_one_kind([students[0], *models])
        return models
    run_teacher = find_run_teacher(paths[0], context.note) if len(paths) == 1 else None
    if run_teacher is not None:
        arch_options = {**run_teacher.options, **(options.arch_options or {})}
        own = replace(options, scale=options.scale or run_teacher.scale, arch_options=arch_options)
        try:
            return _read_models(run_teacher.path, "teacher", own, context, names)
        except SrkdError as error:  # such as one of a larger scale without a form for the student's
            context.note(f"the teacher is not shown beside it: {error}")
            return []
    context.note("no teacher beside it (--teacher)")
    return []


def _read_models(path: Path, role: Role, options: DemoOptions, context: Context, used_names: set[str]) -> list[Model]:
    """An ONNX file, or exports of a checkpoint or run folder in every format of its role, under unused names."""
    file = model_file(path)
    stem = file.stem if file == path else path.resolve().name
    is_between = path.is_dir() and (path / TEXTURED).is_file()
    if is_between:
        # The page makes the strength that is asked for from both ends.
        models = [
            _exported_models(end, name, role, options, context, ("onnx",))[0]
            for name, end in zip((stem, f"{stem}-textured"), ends_of(path), strict=True)
        ]
    elif runtime_of(file) == "torch":
        models = _exported_models(path, stem, role, options, context, FORMATS[role])
    else:
        models = [read_model(file, stem, role, limits=options.limits)]
    for index, model in enumerate(models):
        name = model.name if model.precision == "fp32" or len(models) == 1 else f"{stem}-{model.precision}"
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        name = next(candidate for candidate in names if candidate not in used_names)
        models[index] = replace(model, name=name)
        used_names.add(name)
    if is_between:
        models[0] = replace(models[0], textured=models[1].name, strength=float(read_metadata(file).get(STRENGTH, 1)))
    return models


def _exported_models(
    path: Path, stem: str, role: Role, options: DemoOptions, context: Context, formats: Sequence[str]
) -> list[Model]:
    with tempfile.TemporaryDirectory(prefix="srkd-demo-") as folder:
        report = export(
            path,
            formats=formats,
            out=Path(folder),
            scale=options.scale,
            arch_options=options.arch_options,
            progress=context.progress,
        )
        for file in report.files:
            if file.path is None and file.format == "onnx":
                raise SrkdError(f"{path} cannot be shown: {file.reason}")
            if file.path is None:
                context.note(f"{path} is not shown in {file.precision}: {file.reason}")
        return [read_model(file.path, stem, role) for file in report.files if file.path is not None]


def _require_one_kind(models: Sequence[Model]) -> None:
    """Refuse models of different scales or channels: the demo overlays their pictures."""
    kinds = {model.name: f"x{model.descriptor.scale} with {model.descriptor.channels} channels" for model in models}
    if len(set(kinds.values())) > 1:
        text = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise UsageError(f"the models differ ({text}): the demo compares models of one scale and kind")
