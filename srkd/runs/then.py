"""`--recipe NAME --then QUANTISING`: two runs in one folder that distil a student, then train it quantised.

The folder holds run.json, the folders of both runs (`1-logits`, `2-pams`) and, at the end, the quantised and the float
student. Both are ordinary runs: `--resume` continues the folder after any interruption. The second run's teacher is the
student of the first.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch

from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import atomic_path
from compressor.base.interrupts import Interrupted, StopRequest, catch_signals
from compressor.base.machine import machine_facts
from compressor.models.networks.base import Spec
from compressor.models.networks.registry import build
from compressor.training.method import quantisation_of
from compressor.training.run_folder import FLOAT_STUDENT, SHEET, STUDENT
from recipes.config.reading import load_preset, recipe_label
from srkd.options.declare import to_json
from srkd.options.verbs import CompressOptions
from srkd.record.result import CompressReport
from srkd.record.run_file import MachineFacts, PlannedRuns, RunFile, find_run_file, read_run_file, write_run_file
from srkd.runs.config import RunConfig, RunNetworks, load_recipe
from srkd.runs.run import STOPPING, plan_entry, read_or_discard_started, train_part
from srkd.version import __version__


@dataclass(frozen=True)
class Then:
    """Two runs: the distillation of `options`, and the quantisation by its `then`."""

    options: CompressOptions
    context: Context

    @property
    def folder(self) -> Path:
        return self.options.run_folder

    @cached_property
    def first(self) -> CompressOptions:
        """Return the options of the distillation."""
        options = self.options
        out = self.folder / f"1-{recipe_label(options.recipe)}"
        return dataclasses.replace(options, then=None, settings=options.own_settings, out=out)

    @cached_property
    def second(self) -> CompressOptions:
        """Return the options of the quantisation."""
        options = self.options
        assert options.then is not None
        return dataclasses.replace(
            options,
            recipe=options.then,
            then=None,
            teacher=self.first.run_folder / STUDENT,
            teacher_cache=False,
            settings=options.then_settings,
            out=self.folder / f"2-{recipe_label(options.then)}",
            # These options shape the first student; the second starts as that student, at its own recipe's rate.
            scale=None,
            arch_options=None,
            width=None,
            depth=None,
            student=None,
            init=None,
            select=None,
            init_from=None,
            rate=None,
            target_fps=None,
            target_ms=None,
            target_mb=None,
            target_macs=None,
            runtime=None,
            precision=None,
            lr_size=None,
            plan=None,
        )

    def run(self) -> CompressReport:
        """Run the unfinished parts; mistakes in the options are refused before the first step."""
        first = self._result(self.first)
        if first is None:
            networks = RunNetworks.choose(self.first, Context(), download=False)
            require_quantising(self.second, networks)
        write_run_file(self.folder, self._facts())
        with catch_signals(StopRequest(acknowledge=lambda: self.context.note(STOPPING))) as stop:
            if first is None:
                first = self._complete(self.first, "1 of 2", runs_left=2)
            second = self._result(self.second)
            if second is None and stop.received:
                again = f"srkd compress --resume {self.folder}"
                raise Interrupted(f"interrupted after the distillation; continue with: {again}")
            second = second or self._complete(self.second, "2 of 2", runs_left=1)
        return self._finish(first, second)

    def _result(self, options: CompressOptions) -> RunFile | None:
        """Return run.json of a finished run; None for an unfinished one."""
        contents = find_run_file(options.run_folder)
        return contents if contents is not None and contents.is_finished else None

    def _complete(self, options: CompressOptions, title: str, *, runs_left: int) -> RunFile:
        """Start or continue a run, and return its run.json."""
        folder = options.run_folder
        began = read_or_discard_started(folder)
        self.context.note(f"{title}: {recipe_label(options.recipe)}")
        decide = partial(RunConfig.decide, options, began=began)
        train_part(title, folder, decide, self.context, began=began, plan=self.folder, runs_left=runs_left)
        return read_run_file(folder)

    def _facts(self) -> RunFile:
        """Return the common run.json for `--resume`. `trials` names the runs, as in a plan of runs."""
        return RunFile(
            srkd_version=__version__,
            machine=MachineFacts.model_validate(machine_facts()),
            request=to_json(self.options),
            plan=plan_entry(self.options),
            trials=PlannedRuns(runs=tuple(options.run_folder.name for options in (self.first, self.second))),
        )

    def _finish(self, first: RunFile, second: RunFile) -> CompressReport:
        """Copy both students and the picture into the folder, write the facts of both runs, and return the report."""
        distilled, quantised = self.first.run_folder, self.second.run_folder
        copies = {STUDENT: quantised / STUDENT, FLOAT_STUDENT: distilled / STUDENT, SHEET: quantised / SHEET}
        for name, source in copies.items():
            with atomic_path(self.folder / name) as temporary:
                shutil.copyfile(source, temporary)
        distillation, quantisation = first.result, second.result
        assert distillation is not None and quantisation is not None
        report = dataclasses.replace(
            quantisation,
            run=self.folder,
            student_path=self.folder / STUDENT,
            recipe=f"{distillation.recipe}, then {quantisation.recipe}",
            steps=distillation.steps + quantisation.steps,
            seconds=distillation.seconds + quantisation.seconds,
            teacher=distillation.teacher,
            teacher_joint=None,
            float_student=distillation.student,
            flags=(*distillation.flags, *quantisation.flags),
        )
        whole = second.updated(self._facts())
        write_run_file(self.folder, whole.changed(teacher=first.teacher, recipe=report.recipe, result=report))
        return report


def require_quantising(options: CompressOptions, distillation: RunNetworks) -> None:
    """Refuse a second recipe that does not quantise the first's student, and a first recipe that already does."""
    if quantisation_of(distillation.methods) is not None:
        raise UsageError(f"--then {options.recipe}: recipe {distillation.options.recipe} quantises the student already")
    try:
        if quantisation_of(load_preset(options.recipe).build_methods()) is None:
            raise UsageError("it does not quantise its student; pams and pact do")
        quantisation = quantisation_of(load_recipe(options).build_methods())
    except SrkdError as error:
        raise UsageError(f"--then {options.recipe}: {error}") from error
    spec: Spec = distillation.student.spec
    with torch.device("meta"):
        build(spec, quantisation=quantisation)
