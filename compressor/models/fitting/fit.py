"""Fitting of a student to its teacher in seconds, without a gradient: of the teacher's kind, or of another."""

from __future__ import annotations

from dataclasses import replace

import torch

from compressor.assets import embedded_teacher
from compressor.base.context import QUIET, Context, no_progress
from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.fitting.across import AcrossFit
from compressor.models.fitting.across_source import following_plan, has_stream_for
from compressor.models.fitting.layer_solver import FitProgress
from compressor.models.fitting.same_kind import SameKindFit
from compressor.models.networks.base import ImageModel, Network, Spec
from compressor.models.networks.cost import cost
from compressor.models.networks.linear_plan import LinearPlan
from compressor.models.networks.registry import build, linear_plan
from compressor.models.networks.slices import student_cuts

STREAM_SHARES = (0.1, 0.25, 0.4, 0.55)
"""Shares of a student's channels for the stream of a network of another kind; the best on a few patches is taken."""

MIDDLE_SHARE = STREAM_SHARES[1]

NARROWER = 0.75
"""Parameters of a layer, as a share of the teacher's, below which a student is narrower."""

TRIAL, FEWEST = 8, 8
"""One patch in TRIAL, but no fewer than FEWEST, is used to choose the share."""
CHOICE = 4
"""One patch in CHOICE is used to choose the source: of fewer patches the errors differ too much by chance."""


def fit(teacher: ImageModel, spec: Spec, lr: torch.Tensor, *, context: Context = QUIET) -> Network:
    """Return a student of `spec` that reproduces the teacher as well as its size allows, on the teacher's device.

    `lr` are low-resolution patches (N, C, H, W) in [0,1]. All processes of the context must call this with the same
    patches, and get the same student.
    """
    require_solvable(teacher, spec)
    if spec.deployed != spec:
        student = build(spec, seed=0).to(teacher.device)
        student.fill(fit(teacher, spec.deployed, lr, context=context))
        return student
    network = None if teacher.donor is None else teacher.donor.deployed()
    with torch.no_grad():
        if network is None or not is_same_kind(network.spec, spec):
            return _follow(teacher, spec, lr, context)
        if is_far_smaller(network, spec) and _is_nearer_from_another(network, spec, lr, context):
            return _follow(teacher, spec, lr, context)
        return SameKindFit(network, spec, lr, context).solve()


def _follow(teacher: ImageModel, spec: Spec, lr: torch.Tensor, context: Context) -> Network:
    """Return a student that follows a source's features, with the share of its stream that is best on a few patches."""
    source = source_for(teacher, spec).to(teacher.device)
    few = lr[:: max(1, min(TRIAL, len(lr) // FEWEST))]
    last = AcrossFit(source, teacher, spec, lr, context=context)
    trials = [
        AcrossFit(source, teacher, spec, few, stream_share=share, merges_units=False, context=context)
        for share in (STREAM_SHARES if last.choice.has_shares else ())
    ]
    progress = FitProgress(context, last.work + sum(trial.work for trial in trials))
    for trial in trials:
        trial.solve(progress)
    if trials:
        last.choice.stream_share = min(trials, key=lambda trial: trial.error).choice.stream_share
    return last.solve(progress)


def is_far_smaller(teacher: Network, spec: Spec) -> bool:
    """Return True if a student of the teacher's kind has both smaller and fewer layers, and may follow another network.

    A teacher that can be followed itself is always the better source.
    """
    long, short = linear_plan(teacher.spec), linear_plan(spec)
    if long is None or short is None or not short.can_follow or short.bypassed or has_stream_for(spec, teacher.spec):
        return False
    small, large = (cost(each).params / len(plan.layers) for each, plan in ((spec, short), (teacher.spec, long)))
    is_smaller = len(short.layers) < len(long.layers) and small < NARROWER * large
    return is_smaller and teacher.descriptor.channels == 3


def _is_nearer_from_another(teacher: Network, spec: Spec, lr: torch.Tensor, context: Context) -> bool:
    """Return True if a student solved from the embedded network is nearer to the teacher's images than one solved from
    the teacher, both on a few patches and compared on others.
    """
    quiet = replace(context, progress=no_progress)
    apart = max(1, min(CHOICE, len(lr) // FEWEST))
    few, others = lr[::apart], lr[apart // 2 :: apart].to(teacher.device)
    source, wanted = source_for(teacher, spec).to(teacher.device), teacher(others)
    own = SameKindFit(teacher, spec, few, quiet).solve()
    other = AcrossFit(source, teacher, spec, few, stream_share=MIDDLE_SHARE, context=quiet).solve()
    errors = [float((student(others) - wanted).square().mean()) for student in (own, other)]
    return context.processes.broadcast(errors[1] < errors[0])


def require_solvable(teacher: ImageModel, spec: Spec) -> None:
    if teacher.descriptor.scale != spec.scale:
        raise UsageError(f"the student is for x{spec.scale}, the teacher for x{teacher.descriptor.scale}")
    if teacher.donor is None or not is_same_kind(teacher.donor.spec, spec):
        following_plan(spec)
        if source_for(teacher, spec).descriptor.channels != teacher.descriptor.channels:
            raise UsageError(
                f"a student of a {teacher.architecture} of one channel cannot be solved for: take --init random"
            )


def is_same_kind(teacher: Spec, student: Spec) -> bool:
    """Return True if the student is the teacher's network with fewer units or blocks."""
    teacher, student = teacher.deployed, student.deployed
    try:
        student_cuts(teacher, student)
    except SrkdError:
        return False
    long, short = linear_plan(teacher), linear_plan(student)
    return long is not None and short is not None and _activations(long) == _activations(short)


def _activations(plan: LinearPlan) -> set[float | None]:
    return {None if isinstance(slope, str) else slope for slope in plan.slopes.values()}


def source_for(teacher: ImageModel, spec: Spec) -> Network:
    """Return the network whose features a student of another kind follows: the teacher, or the embedded one."""
    if teacher.network is not None and has_stream_for(spec, teacher.network.spec):
        return teacher.network.deployed()
    return load_checkpoint(embedded_teacher()).network
