"""`decide`: all that a run decides before its first step, from its options, as one `RunSpec`.

Only this module asks what the options leave open. Every mistake in them is reported here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch

from compressor.base.choices import Goal
from compressor.base.context import Context, Note, no_note
from compressor.base.errors import UsageError
from compressor.data.prepare import DataChoice
from compressor.inference.teacher_check import TeacherCheck, check_teacher, format_options
from compressor.models.networks.registry import quantise
from compressor.models.students.students import stated_scale
from compressor.teachers.teacher import Teacher
from compressor.training.distributed import process_device
from compressor.training.loop import Events
from compressor.training.method import Method
from compressor.training.speed import choose_execution_mode
from recipes.catalogue import BUILTIN, FOR_FILMS, FOR_LOOKS, PIXEL_ONLY
from recipes.config.reading import recipe_label
from recipes.terms.features import describe_taps
from recipes.terms.phi import PhiSource, bind_phi
from srkd.options.compress import AUTO, CompressOptions
from srkd.record.run_spec import PhiFile, RunSpec, StudentSpec
from srkd.runs.images import data_choice, read_images, require_tracked_images
from srkd.runs.opened import (
    build_methods,
    cache_entry,
    degradation_entry,
    images_entry,
    open_device,
    open_run,
    speed_options,
    take_steps,
    teacher_entry,
)
from srkd.runs.recipe import (
    EMBEDDED,
    USUAL,
    choose_phi,
    load_recipe,
    needs_teacher,
    repeats_published,
    with_pace_of_start,
)
from srkd.runs.student import choose_quantisation, choose_student, first_student, require_inside
from srkd.runs.target import with_student_for_target
from srkd.runs.teacher import open_teacher, require_fit
from srkd.runs.teacher_use import TeacherUse, choose_margin, plan_cache
from srkd.terminal.console import json_value


def decide(options: CompressOptions, context: Context) -> RunSpec:
    """Everything that a run decides before its first step. Only the leading process calls this."""
    note, rank = context.note, context.processes.rank
    device = open_device(process_device(options.run.device, rank))
    choice, lines = data_choice(options), list[str]()
    choice.require_folders()
    if options.student.student is not None and options.teacher.scale is None:
        scale = stated_scale(options.student.student)
        options = replace(options, teacher=replace(options.teacher, scale=scale))
    options = _with_recipe(options, choice, context)
    options, plan = with_student_for_target(options, context)
    preset = load_recipe(options, lines.append)
    phi = choose_phi(preset, options, context)
    methods = bind_phi(preset.build_methods(), phi)
    teacher = _choose_teacher(options, choice, methods, context)
    phi = _phi_of_teacher(phi, teacher, note)
    shape, start = choose_student(teacher, preset, options, note)
    goal, check = _choose_goal(options, choice, teacher, context)
    labels = _choose_labels(options, choice, methods, goal, note)
    preset = with_pace_of_start(preset.at_scale(shape.scale), shape, start, teacher, options, note)
    student = first_student(shape, start, teacher, None, options.training.seed, context, options.student.init_from)
    start = student.start
    for line in () if start.init_from is None else start.init_from.lines():
        note(line)
    quantisation = choose_quantisation(student, methods, teacher)
    if quantisation is not None:
        student = replace(student, network=quantise(student.network, quantisation))
    use = TeacherUse(options.training.recipe, methods, teacher, labels)
    methods = build_methods(preset, phi, use, student.network, note)
    use = replace(use, methods=methods)
    for method in methods:
        if method.kind == "joint":
            require_inside(start, method.name, has_labels=labels == "original")
    rule, batch = preset.schedule, len(rank.share(preset.schedule.batch))
    network = None if teacher is None else teacher.network
    for line in describe_taps(methods, network, student.network, batch=batch, lr_patch=rule.lr_patch):
        note(line)
    for line in lines:
        note(line)
    use.require_sound(options.training)
    if teacher is not None and use.runs_teacher:
        _require_sound_teacher(options, use, check or _check(teacher, options, choice, context), note)
    data = read_images(choice, shape.scale, rule.lr_patch, context)
    require_tracked_images(options, len(data.validation_names))
    cache = margin = None
    if not options.training.teacher_cache:
        margin = choose_margin(options, use, data, rule.lr_patch, device, context)
    elif teacher is not None:
        cache = plan_cache(preset, teacher, data.train, choice.cache())
    speed, side = speed_options(preset, teacher), rule.lr_patch if margin is None else margin.side
    mode = choose_execution_mode(
        student.network,
        steps=rule.steps,
        batch=rule.batch,
        lr_patch=rule.lr_patch,
        device=device,
        options=speed,
        teacher_macs=use.macs(side) if cache is None and speed.teacher_precision == "auto" else 0,
    )
    note(mode.line())
    spec = RunSpec(
        options=options,
        recipe=recipe_label(options.training.recipe),
        preset=preset,
        seed=options.training.seed,
        device=str(device),
        threads=torch.get_num_threads(),
        processes=rank.world_size,
        execution_mode=mode,
        goal=goal,
        student=StudentSpec.model_validate(json_value(shape.to_dict())),
        quantisation=quantisation,
        start=start,
        teacher=None if teacher is None else teacher_entry(teacher),
        phi=None if phi is None else PhiFile(**asdict(phi)),
        teacher_cache=cache_entry(cache),
        label_margin=margin,
        data=images_entry(data, labels),
        degradation=degradation_entry(data),
        plan=plan,
    )
    if not all(method.name in BUILTIN for method in methods) and rank.world_size == 1:
        # The faults of a method of one's own are told before a fit, a teacher cache and the run's folder.
        quiet, uncompiled = replace(context, note=no_note), replace(mode, compiled=False)
        take_steps(open_run(spec.changed(execution_mode=uncompiled), quiet), 1, Events(), quiet)
    return spec


def _with_recipe(options: CompressOptions, choice: DataChoice, context: Context) -> CompressOptions:
    """The options with their recipe; the teacher that is given, and what the student learns to give, decide `auto`."""
    if options.training.recipe != AUTO:
        return options
    given, recipe = options.teacher, USUAL
    learns_originals = "original" in (given.goal, options.data.labels)
    asks_teacher = given.teacher is not None and not learns_originals and options.training.then is None
    if asks_teacher and _check(open_teacher(given, context), options, choice, context).is_for_looks:
        recipe = FOR_LOOKS
        context.note(f"recipe {recipe}: the teacher is trained for looks (--recipe {USUAL}: by its pixels alone)")
    return replace(options, training=replace(options.training, recipe=recipe))


def _choose_teacher(
    options: CompressOptions, choice: DataChoice, methods: Sequence[Method], context: Context
) -> Teacher | None:
    """The teacher, the embedded one if none is given; None for a run that has no use for one."""
    is_used = (
        options.teacher.teacher is not None
        or options.student.student is None
        or needs_teacher(methods)
        or "teacher" in (options.teacher.goal, options.data.labels)
        or not choice.has_labels
    )
    if not is_used:
        return None
    teacher = open_teacher(options.teacher, context)
    require_fit(teacher, options.training.recipe, methods)
    return teacher


def _phi_of_teacher(phi: PhiSource | None, teacher: Teacher | None, note: Note) -> PhiSource | None:
    """Φ by its owner: the embedded teacher's blocks if the run's own teacher gives outputs only."""
    if phi is None or phi.kind != "teacher" or teacher is None or teacher.network is not None:
        return phi
    note(f"phi: {EMBEDDED}'s first blocks, as the {teacher.backend} teacher gives outputs only")
    return phi.with_owner(EMBEDDED)


# What the student is judged by, and learns to give.


def _choose_goal(
    options: CompressOptions, choice: DataChoice, teacher: Teacher | None, context: Context
) -> tuple[Goal, TeacherCheck | None]:
    """What the student is judged by, and the check of the teacher if that decides it."""
    goal = options.teacher.goal
    if not choice.has_originals:
        if goal == "original":
            raise UsageError("--goal original: the images of --val-lr have no originals; give some with --val first")
        goal = "teacher"
    if teacher is None:
        if goal == "teacher":
            raise UsageError("--goal teacher: there is no teacher; add --teacher FILE")
        return "original", None
    check = None
    if goal == "auto":
        check = _check(teacher, options, choice, context)
        goal = check.goal
    reason = "" if check is None or goal == "original" else f", as {check.why_teacher}"
    what = "the original images" if goal == "original" else "the teacher's images"
    context.note(f"goal {goal}: the student is judged by {what}{reason}")
    return goal, check


def _check(teacher: Teacher, options: CompressOptions, choice: DataChoice, context: Context) -> TeacherCheck:
    """The teacher tried on a photo, or on stored pairs at scale 1."""
    scale = teacher.descriptor.scale
    return context.once(
        "check",
        *(id(teacher), repr(options.data)),
        read=lambda: check_teacher(teacher, choice.trial_pairs(scale) if scale == 1 else (), context),
    )


def _choose_labels(
    options: CompressOptions, choice: DataChoice, methods: Sequence[Method], goal: Goal, note: Note
) -> Goal:
    """What the student learns to give. Recipes that do not use the teacher stay what they are, for comparison."""
    given = options.data.labels
    if not choice.has_labels:
        if given == "original":
            raise UsageError("--labels original: the images of --lr-only, or of a film, have no originals")
        return "teacher"
    if given is not None or goal == "original":
        return given or "original"
    joint = [method.name for method in methods if method.kind == "joint"]
    if joint:
        note(
            f"labels: the originals, as {joint[0]} trains its teacher on them, which moves both away from the teacher "
            "as it came; csd-lite and logits keep to its images"
        )
        return "original"
    is_comparison = not needs_teacher(methods) or {method.name for method in methods} - {FOR_FILMS} <= PIXEL_ONLY
    if is_comparison or repeats_published(options.training.recipe):
        return "original"
    note("labels: the teacher's images alone (--labels original: the originals)")
    return "teacher"


def _require_sound_teacher(options: CompressOptions, use: TeacherUse, check: TeacherCheck, note: Note) -> None:
    """Refuse a teacher that other settings improve, if the user has not chosen them; note what the check found."""
    for line in check.lines():
        note(line)
    assert use.teacher is not None
    is_by_pixels = not any(method.kind == "looks" for method in use.methods)
    if check.is_for_looks and use.labels == "teacher" and is_by_pixels:
        recipe = options.training.recipe
        if not repeats_published(recipe):
            note(
                f"recipe {recipe_label(recipe)} compares pixels, so its student will be softer than this teacher: "
                f"--recipe {FOR_LOOKS} makes one that looks like it"
            )
    names = {name for choices in use.teacher.alternatives() for changes in choices for name in changes}
    if check.advice is None or names & set(options.teacher.arch_options or {}):
        return
    settings = format_options(use.teacher.settings())
    raise UsageError(f"{check.advice}: add that, or {settings} to train towards it as it stands")
