"""`--recipe NAME --then QUANTISING`: two runs, of which the second trains the first one's student quantised.

The folder holds the folders of both runs (`1-logits`, `2-pams`) and, at the end, the quantised and the float student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from compressor.base.choices import Goal
from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.registry import build
from compressor.training.method import quantisation_of
from compressor.training.run_folder import FLOAT_STUDENT, SHEET, STUDENT
from recipes.config.reading import load_preset, recipe_label
from srkd.options.compress import CompressOptions, StudentOptions, TargetOptions
from srkd.record.result import CompressReport
from srkd.record.run_file import PlannedRun, PlannedRuns, RunFile
from srkd.record.run_spec import Distillation, RunSpec
from srkd.runs.decide import decide
from srkd.runs.opened import student_shape
from srkd.runs.recipe import load_recipe
from srkd.runs.run import new_run_file


def plan_two_recipes(options: CompressOptions, context: Context) -> RunFile:
    """run.json of the plan: the distillation decided, and a place for the quantisation of its student.

    Refuse a second recipe that does not quantise the first's student, and a first recipe that already does.
    """
    training = options.training
    assert training.then is not None
    first = decide(replace(options, training=replace(training, then=None, settings=training.own_settings)), context)
    second = second_options(Path(), options, first.goal)
    if first.quantisation is not None:
        raise UsageError(f"--then {training.then}: recipe {first.recipe} quantises the student already")
    try:
        if quantisation_of(load_preset(training.then).build_methods()) is None:
            raise UsageError("it does not quantise its student; pams and pact do")
        quantisation = quantisation_of(load_recipe(second).build_methods())
    except SrkdError as error:
        raise UsageError(f"--then {training.then}: {error}") from error
    with torch.device("meta"):
        build(student_shape(first), quantisation=quantisation)
    recipes = (first.recipe, recipe_label(training.then))
    runs = tuple(
        PlannedRun(name=f"{number}-{recipe}", title=recipe, variant=recipe, spec=first if number == 1 else None)
        for number, recipe in enumerate(recipes, start=1)
    )
    return new_run_file(first.changed(options=options), trials=PlannedRuns(runs=runs))


def decide_second(folder: Path, contents: RunFile, distilled: RunFile, context: Context) -> RunSpec:
    """The spec of the quantisation of the distilled student, which teaches it; it is judged as that was."""
    assert contents.trials is not None
    student = folder / contents.trials.runs[0].name / STUDENT
    spec = decide(second_options(student, contents.options, distilled.goal), context)
    return spec.changed(goal=distilled.goal, distilled=Distillation(recipe=distilled.recipe, teacher=distilled.teacher))


def second_options(student: Path, options: CompressOptions, goal: Goal) -> CompressOptions:
    """The options of the quantisation: of the first student, at the second recipe's own rate."""
    training = options.training
    assert training.then is not None
    return replace(
        options,
        teacher=replace(options.teacher, teacher=student, goal=goal, scale=None, teacher_scale=None, arch_options=None),
        student=StudentOptions(),
        target=TargetOptions(),
        training=replace(
            training,
            recipe=training.then,
            then=None,
            settings=training.then_settings,
            rate=None,
            teacher_cache=False,
            label_margin=None,
            phi_weights=None,
        ),
    )


def summarise_second(
    folder: Path, planned: PlannedRuns, results: Sequence[RunFile]
) -> tuple[CompressReport, RunFile, Mapping[str, Path]]:
    distilled, quantised = results
    first, second = distilled.result, quantised.result
    assert first is not None and second is not None
    report = replace(
        second,
        run=folder,
        student_path=folder / STUDENT,
        recipe=f"{first.recipe}, then {second.recipe}",
        steps=first.steps + second.steps,
        seconds=first.seconds + second.seconds,
        teacher=first.teacher,
        teacher_joint=None,
        float_student=first.student,
        flags=tuple(dict.fromkeys((*first.flags, *second.flags))),
    )
    of_first, of_second = (folder / run.name for run in planned.runs)
    files = {STUDENT: of_second / STUDENT, FLOAT_STUDENT: of_first / STUDENT, SHEET: of_second / SHEET}
    return report, quantised.updated(teacher=distilled.teacher), files
