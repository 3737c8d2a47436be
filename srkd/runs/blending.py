"""The student of a run whose method keeps two ends: their blend, chosen on patches that no step saw."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from torch import Tensor

from compressor.base.context import Context, no_note
from compressor.data.batches import Batches
from compressor.images.metrics import as_in_a_file
from compressor.models.students.blend import Blended, Patches
from compressor.teachers.teacher import Teacher
from compressor.training.loop import Events
from compressor.training.networks import build_networks
from compressor.training.state import State
from compressor.training.step import Step
from srkd.runs.opened import OpenRun, take_steps

PATCHES = 64
Pair = tuple[Tensor, Tensor]


def blend_of(
    run: OpenRun, state: State, batches: Batches, teacher: Teacher | None, context: Context, patches: int = PATCHES
) -> Blended | None:
    """The blend that a method of the run chooses; None without two ends."""
    if not state.kept or teacher is None:
        return None
    unseen, clean = _unseen_patches(state, run, batches, teacher, context, patches)
    for method in run.methods:
        blended = method.finish(state.kept, state.averaged_network(), unseen, clean)
        if blended is not None:
            context.note(
                f"strength {blended.strength:g} of {blended.rows[-1].strength:g}: the most up to which the overshoot "
                "and the flat areas of patches that no step saw keep to their bounds"
            )
            return blended
    return None


def blend_seconds(run: OpenRun, batches: Batches, teacher: Teacher | None, context: Context) -> float:
    """The seconds that the choice of a blend takes, estimated from one batch of the patches."""
    if not any(stage.kept for stage in run.stages()):
        return 0.0
    quiet, batch = replace(context, note=no_note), run.spec.preset.schedule.batch
    state = take_steps(run, 1, Events(), quiet, batches)
    began = time.perf_counter()
    blend_of(run, state, batches, teacher, quiet, batch)
    return (time.perf_counter() - began) * math.ceil(PATCHES / batch)


def _unseen_patches(
    state: State, run: OpenRun, batches: Batches, teacher: Teacher, context: Context, count: int
) -> tuple[Patches, Patches]:
    """LR patches of the steps after the last one with the teacher's images, and the same ones clean."""
    networks = build_networks(run.stages()[-1], state, teacher, context.note, context.processes)
    steps = range(state.done, state.done + math.ceil(count / len(batches.samples)))

    def pairs(of: Batches) -> list[Pair]:
        each = (Step(number, state.seed, of.at(number), networks) for number in steps)
        return [(step.lr.cpu(), as_in_a_file(step.teacher().sr).cpu()) for step in each]

    ours = pairs(batches), [] if run.data.train.degraded is None else pairs(batches.undegraded())
    patches, clean = (
        [(lr.to(run.device), sr.to(run.device)) for lr, sr in shared] for shared in context.processes.broadcast(ours)
    )
    return patches, clean or patches
