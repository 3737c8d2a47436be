"""The student of a run whose method keeps two ends: their blend, chosen on patches that no step saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from compressor.base.context import Context
from compressor.data.batches import Batches
from compressor.images.metrics import as_in_a_file
from compressor.models.checkpoints.header import FAITHFUL, TEXTURED
from compressor.models.checkpoints.save import save_network
from compressor.models.students.blend import Blended
from compressor.teachers.teacher import Teacher
from compressor.training.networks import build_networks
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Step
from srkd.runs.opened import OpenRun

PATCHES = 64


def blend_of(
    run: OpenRun, state: State, stages: Sequence[Stage], batches: Batches, teacher: Teacher | None, context: Context
) -> Blended | None:
    """The blend that a method of the run chooses; None without two ends."""
    if not state.kept or teacher is None:
        return None
    patches, is_clean = _unseen_patches(state, stages[-1], batches, teacher, context), run.data.train.degraded is None
    for method in run.methods:
        blended = method.finish(state.kept, state.averaged_network(), patches, is_clean=is_clean)
        if blended is not None:
            context.note(
                f"strength {blended.strength:g} of {blended.rows[-1].strength:g}: the most up to which the overshoot "
                "and the flat areas of patches that no step saw keep to their bounds"
            )
            return blended
    return None


def write_ends(blended: Blended, folder: Path, metadata: dict[str, str]) -> None:
    for network, name in ((blended.faithful, FAITHFUL), (blended.textured, TEXTURED)):
        save_network(network.to("cpu"), folder / name, metadata=metadata)


def _unseen_patches(
    state: State, stage: Stage, batches: Batches, teacher: Teacher, context: Context
) -> list[tuple[Tensor, Tensor]]:
    """LR patches of the steps after the last one, with the teacher's images of them; those of the leader for all."""
    networks, patches = (
        build_networks(stage, state, teacher, context.note, context.processes),
        list[tuple[Tensor, Tensor]](),
    )
    while sum(len(lr) for lr, _ in patches) < PATCHES:
        number = state.done + len(patches)
        step = Step(number, state.seed, batches.at(number), networks)
        patches.append((step.lr, as_in_a_file(step.teacher().sr)))
    return context.processes.broadcast(patches)
