"""`--recipe NAME --then QUANTISING`: two runs that distil a student, then train it quantised.

The folder holds the folders of both runs (`1-logits`, `2-pams`) and, at the end, the quantised and the float student.
The second run's teacher is the student of the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from compressor.base.context import Context, no_note
from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.base import Spec
from compressor.models.networks.registry import build
from compressor.training.method import quantisation_of
from compressor.training.run_folder import FLOAT_STUDENT, SHEET, STUDENT
from compressor.training.validation import Validation
from recipes.config.reading import load_preset, recipe_label
from srkd.options.compress import CompressOptions, StudentOptions, TargetOptions, TeacherOptions
from srkd.record.result import CompressReport
from srkd.record.run_file import RunFile
from srkd.runs.config import RunConfig, RunNetworks
from srkd.runs.recipe import load_recipe
from srkd.runs.run_plan import PlannedRun, RunPlan, in_folder
from srkd.runs.teacher import load_given_teacher


class Then(RunPlan):
    """The distillation of `options`, and the quantisation by its `then`."""

    @cached_property
    def first(self) -> CompressOptions:
        """The options of the distillation."""
        training = self.options.training
        first = replace(self.options, training=replace(training, then=None, settings=training.own_settings))
        return in_folder(first, self.folder / f"1-{recipe_label(training.recipe)}")

    @cached_property
    def second(self) -> CompressOptions:
        """The options of the quantisation: of the first student, at the second recipe's own rate."""
        training = self.options.training
        assert training.then is not None
        second = replace(
            self.options,
            teacher=TeacherOptions(self.first.run.folder / STUDENT, goal=self.options.teacher.goal),
            student=StudentOptions(),
            target=TargetOptions(),
            plan=None,
            training=replace(
                training,
                recipe=training.then,
                then=None,
                settings=training.then_settings,
                rate=None,
                teacher_cache=False,
                label_margin=None,
            ),
        )
        return in_folder(second, self.folder / f"2-{recipe_label(training.then)}")

    def list_runs(self) -> tuple[PlannedRun, ...]:
        return tuple(
            PlannedRun(recipe_label(options.training.recipe), options) for options in (self.first, self.second)
        )

    def require_possible(self) -> None:
        require_quantising(self.second, RunNetworks.choose(self.first, Context(), download=False))

    def decide(self, run: PlannedRun, results: Sequence[RunFile], context: Context, began: RunFile | None) -> RunConfig:
        """The config of a run. The quantised student is judged as the distilled one was, also by its teacher."""
        if not results:
            return super().decide(run, results, context, began)
        goal, given = results[0].goal or "original", self.options.teacher
        options = replace(run.options, teacher=replace(run.options.teacher, goal=goal))
        config = RunConfig.decide(options, context, began=began)
        teacher = None if results[0].teacher is None else load_given_teacher(given, no_note).move_to(config.device)
        sets, scale = config.data.validation, config.student.spec.scale
        validation = Validation(sets, scale, goal, teacher, context)
        return replace(config, goal=goal, validation=validation, distilled=results[0])

    def copies(self, report: CompressReport) -> Mapping[str, Path]:
        distilled, quantised = self.first.run.folder, self.second.run.folder
        return {STUDENT: quantised / STUDENT, FLOAT_STUDENT: distilled / STUDENT, SHEET: quantised / SHEET}

    def summarise(self, results: Sequence[RunFile]) -> tuple[CompressReport, RunFile]:
        distilled, quantised = results
        first, second = distilled.result, quantised.result
        assert first is not None and second is not None
        report = replace(
            second,
            run=self.folder,
            student_path=self.folder / STUDENT,
            recipe=f"{first.recipe}, then {second.recipe}",
            steps=first.steps + second.steps,
            seconds=first.seconds + second.seconds,
            teacher=first.teacher,
            teacher_joint=None,
            float_student=first.student,
            flags=tuple(dict.fromkeys((*first.flags, *second.flags))),
        )
        return report, quantised.changed(teacher=distilled.teacher)


def require_quantising(options: CompressOptions, distillation: RunNetworks) -> None:
    """Refuse a second recipe that does not quantise the first's student, and a first recipe that already does."""
    if quantisation_of(distillation.methods) is not None:
        raise UsageError(
            f"--then {options.training.recipe}: recipe {distillation.recipe} quantises the student already"
        )
    try:
        if quantisation_of(load_preset(options.training.recipe).build_methods()) is None:
            raise UsageError("it does not quantise its student; pams and pact do")
        quantisation = quantisation_of(load_recipe(options).build_methods())
    except SrkdError as error:
        raise UsageError(f"--then {options.training.recipe}: {error}") from error
    spec: Spec = distillation.student.spec
    with torch.device("meta"):
        build(spec, quantisation=quantisation)
