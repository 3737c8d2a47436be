"""What `srkd demo` shows: the models that were named, as ONNX files, beside their teacher."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.assets import embedded_student, embedded_teacher
from compressor.base.context import Note, Progress, no_note, no_progress
from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import model_file, runtime_of
from compressor.inference.origin import checkpoint_beside
from demo.catalogue import Model, NotForBrowsers, Role, build_site, load_samples, read_model
from demo.files import Asset
from srkd.api import export
from srkd.profiling import teacher_of_run

STUDENT_FORMATS, TEACHER_FORMATS = ("onnx", "fp16"), ("onnx",)


@dataclass(frozen=True)
class Demonstration:
    """Models by path; none: the embedded student. `scale` and `arch_options` say what their files do not."""

    models: Sequence[str | Path] = ()
    teacher: str | Path | None = None
    scale: int | None = None
    arch_options: Mapping[str, object] | None = None

    def prepare(self, progress: Progress = no_progress, announce: Note = no_note) -> tuple[Model, ...]:
        """Every model as the bytes of an ONNX file, students first, the teacher last; what was exported is proved."""
        paths = [Path(model) for model in self.models]
        if not paths:
            announce("no MODEL: showing the embedded student")
            paths = [embedded_student()]
        with tempfile.TemporaryDirectory(prefix="srkd-demo-") as folder:
            work = _Export(Path(folder), self.scale, self.arch_options, progress, announce)
            shown: list[Model] = []
            for path in paths:
                shown += work.models(path, "student", STUDENT_FORMATS, {model.name for model in shown})
            _require_one_kind(shown)
            return (*shown, *self._teacher(paths, shown, work))

    def _teacher(self, paths: Sequence[Path], shown: Sequence[Model], work: _Export) -> list[Model]:
        names = {model.name for model in shown}
        if self.teacher is not None:
            found = work.models(Path(self.teacher), "teacher", TEACHER_FORMATS, names)
            _require_one_kind([shown[0], *found])
            return found
        run = teacher_of_run(paths[0], work.announce) if len(paths) == 1 else None
        if run is not None:
            options = {**run.options, **(self.arch_options or {})}
            own = _Export(work.folder, self.scale or run.scale, options, work.progress, work.announce)
            return own.models(run.path, "teacher", TEACHER_FORMATS, names)
        if (shown[0].scale, shown[0].channels) != (4, 3):
            work.announce(f"no teacher beside it: the embedded one is x4 in colour, {shown[0].name} is not (--teacher)")
            return []
        work.announce("no --teacher: showing the embedded teacher beside it")
        embedded = _Export(work.folder, None, None, work.progress, work.announce)
        return embedded.models(embedded_teacher(), "teacher", TEACHER_FORMATS, names)


def demo_files(app: Mapping[str, Asset], models: Sequence[Model]) -> dict[str, Asset]:
    """The whole demo, by address: the built app, the models, and samples of their scale."""
    return build_site(app, models, load_samples(models[0].scale))


@dataclass(frozen=True)
class _Export:
    """How a path becomes ONNX files in a folder that is thrown away."""

    folder: Path
    scale: int | None
    arch_options: Mapping[str, object] | None
    progress: Progress
    announce: Note

    def models(self, path: Path, role: Role, formats: Sequence[str], taken: set[str]) -> list[Model]:
        file = model_file(path)
        stem = file.stem if file == path else path.resolve().name
        if runtime_of(file) == "torch":
            read = self._exported(path, stem, role, formats)
        else:
            read = self._as_it_is(file, stem, role, formats)
        found = []
        for model in read:
            name = stem if model.precision == "fp32" or len(read) == 1 else f"{stem}-{model.precision}"
            found.append(replace(model, name=_free(name, taken)))
            taken.add(found[-1].name)
        return found

    def _as_it_is(self, file: Path, stem: str, role: Role, formats: Sequence[str]) -> list[Model]:
        """An exported file, or what its checkpoint gives where browsers do not run the file."""
        try:
            return [read_model(file, stem, role)]
        except NotForBrowsers as refused:
            try:
                checkpoint = checkpoint_beside(file)
            except SrkdError as error:
                raise SrkdError(f"{refused}; {error}: name its checkpoint, or a plain ONNX file") from error
            self.announce(f"{refused}: showing {checkpoint.name}, which it was made from")
            return self._exported(checkpoint, stem, role, formats)

    def _exported(self, path: Path, stem: str, role: Role, formats: Sequence[str]) -> list[Model]:
        out = Path(tempfile.mkdtemp(dir=self.folder))
        report = export(
            path,
            formats=formats,
            out=out,
            scale=self.scale,
            arch_options=self.arch_options,
            progress=self.progress,
        )
        for file in report.files:
            if file.path is None and file.format == "onnx":
                raise SrkdError(f"{path} cannot be shown: {file.reason}")
            if file.path is None:
                self.announce(f"{path} is not shown in {file.precision}: {file.reason}")
        return [read_model(file.path, stem, role) for file in report.files if file.path is not None]


def _free(name: str, taken: set[str]) -> str:
    """`name`, or with a number where two files are called alike."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(each for each in names if each not in taken)


def _require_one_kind(models: Sequence[Model]) -> None:
    """Pictures are laid over each other: all must be of one size."""
    kinds = {(model.scale, model.channels) for model in models}
    if len(kinds) > 1:
        told = ", ".join(f"{m.name} x{m.scale} with {m.channels} channels" for m in models)
        raise UsageError(f"the models differ ({told}): the demo compares models of one scale and kind")
