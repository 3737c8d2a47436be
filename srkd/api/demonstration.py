"""The models of `srkd demo` as ONNX files: those that the user names, and their teacher."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.assets import embedded_student, embedded_teacher
from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import file_sha256
from compressor.inference.open import SOURCE, find_source_checkpoint, model_file, read_metadata
from compressor.runtimes.table import runtime_of
from demo.catalogue import Model, NotForBrowsers, PlanToTime, Role, read_model
from export.plan.emit import PLAN, read_emitted
from srkd.api.export import export
from srkd.options.values import as_tuple
from srkd.options.verbs import DemoOptions
from srkd.record.run_teacher import find_run_teacher

FORMATS: Mapping[Role, Sequence[str]] = {"student": ("onnx", "fp16"), "teacher": ("onnx",)}


def plan_to_time(options: DemoOptions, context: Context) -> tuple[PlanToTime, tuple[Model, ...]] | None:
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
    most_ms = emitted.targets.most_ms
    plan = PlanToTime(emitted.id, emitted.environment.lr_size, None if math.isinf(most_ms) else most_ms)
    return plan, tuple(models)


def demo_models(options: DemoOptions, context: Context) -> tuple[Model, ...]:
    """All models with the bytes of their ONNX files, students first, the teacher last. Exports are verified."""
    paths = [Path(model) for model in as_tuple(options.models)]
    if not paths:
        context.note("no MODEL: showing the embedded student")
        paths = [embedded_student()]
    with tempfile.TemporaryDirectory(prefix="srkd-demo-") as folder:
        reader = _ModelReader(Path(folder), options.scale, options.arch_options, options.limits, context, paths)
        models: list[Model] = []
        for path in paths:
            models += reader.read(path, "student", {model.name for model in models})
        _require_one_kind(models)
        return (*models, *_teacher_models(options, paths, models, reader))


def _teacher_models(
    options: DemoOptions, paths: Sequence[Path], students: Sequence[Model], reader: _ModelReader
) -> list[Model]:
    names, note = {model.name for model in students}, reader.context.note
    if options.teacher is not None:
        models = reader.read(Path(options.teacher), "teacher", names)
        _require_one_kind([students[0], *models])
        return models
    run_teacher = find_run_teacher(paths[0], note) if len(paths) == 1 else None
    if run_teacher is not None:
        arch_options = {**run_teacher.options, **(options.arch_options or {})}
        reader = replace(reader, scale=options.scale or run_teacher.scale, arch_options=arch_options)
        return reader.read(run_teacher.path, "teacher", names)
    if (students[0].descriptor.scale, students[0].descriptor.channels) != (4, 3):
        note(f"no teacher beside it: the embedded one is x4 in colour, {students[0].name} is not (--teacher)")
        return []
    note("no --teacher: showing the embedded teacher beside it")
    return replace(reader, scale=None, arch_options=None).read(embedded_teacher(), "teacher", names)


@dataclass(frozen=True)
class _ModelReader:
    """Reader of paths as ONNX models; exports go to `folder`, which is deleted later."""

    folder: Path
    scale: int | None
    arch_options: Mapping[str, object] | None
    limits: float
    context: Context
    named: Sequence[Path] = ()
    """Every path that the user named."""

    def read(self, path: Path, role: Role, used_names: set[str]) -> list[Model]:
        """The model of a path in every format of its role, under unique names."""
        file = model_file(path)
        stem = file.stem if file == path else path.resolve().name
        is_checkpoint = runtime_of(file) == "torch"
        models = self._export(path, stem, role) if is_checkpoint else self._read_exported(file, stem, role)
        if is_checkpoint and role == "student":
            models += [read_model(exported, stem, role, limits=self.limits) for exported in self._int8_beside(path)]
        for index, model in enumerate(models):
            name = stem if model.precision == "fp32" or len(models) == 1 else f"{stem}-{model.precision}"
            names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
            name = next(candidate for candidate in names if candidate not in used_names)
            models[index] = replace(model, name=name)
            used_names.add(name)
        return models

    def _int8_beside(self, path: Path) -> Iterator[Path]:
        """The int8 file for browsers that was exported from a checkpoint into its folder, if it was not named itself.

        None is written here: its calibration and search take about ten times as long as the float files.
        """
        checkpoint, is_there = model_file(path), False
        named = {named.resolve() for named in self.named}
        source = ""
        for file in sorted(checkpoint.parent.glob("*.int8.onnx")):
            source = source or file_sha256(checkpoint)
            if read_metadata(file).get(SOURCE) != source:
                continue
            is_there = True
            if file.resolve() not in named:
                yield file
                return
        if not is_there and checkpoint != embedded_student():
            self.context.note(f"no int8 file beside {checkpoint}: srkd export {path} --int8 writes one to show")

    def _read_exported(self, file: Path, stem: str, role: Role) -> list[Model]:
        """An exported file, or an export of its checkpoint if browsers cannot run the file."""
        try:
            return [read_model(file, stem, role, limits=self.limits)]
        except NotForBrowsers as refusal:
            try:
                checkpoint = find_source_checkpoint(file)
            except SrkdError as error:
                raise SrkdError(f"{refusal}; {error}: name its checkpoint, or a plain ONNX file") from error
            self.context.note(f"{refusal}: showing {checkpoint.name}, which it was made from")
            return self._export(checkpoint, stem, role)

    def _export(self, path: Path, stem: str, role: Role) -> list[Model]:
        report = export(
            path,
            formats=FORMATS[role],
            out=Path(tempfile.mkdtemp(dir=self.folder)),
            scale=self.scale,
            arch_options=self.arch_options,
            progress=self.context.progress,
        )
        for file in report.files:
            if file.path is None and file.format == "onnx":
                raise SrkdError(f"{path} cannot be shown: {file.reason}")
            if file.path is None:
                self.context.note(f"{path} is not shown in {file.precision}: {file.reason}")
        return [read_model(file.path, stem, role) for file in report.files if file.path is not None]


def _require_one_kind(models: Sequence[Model]) -> None:
    """Refuse models of different scales or channels: the demo overlays their pictures."""
    kinds = {model.name: f"x{model.descriptor.scale} with {model.descriptor.channels} channels" for model in models}
    if len(set(kinds.values())) > 1:
        text = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise UsageError(f"the models differ ({text}): the demo compares models of one scale and kind")
