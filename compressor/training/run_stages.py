"""Stage after stage, each with the teacher it freezes checked to have stayed frozen."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.errors import SrkdError
from compressor.networks.base import Network
from compressor.students import network_sha256
from compressor.teacher import Teacher
from compressor.training.loop import BatchSource, Events, train
from compressor.training.processes import Processes
from compressor.training.replicas import follow_leader
from compressor.training.stage import Stage
from compressor.training.state import State


def run_stages(
    stages: Sequence[Stage],
    state: State,
    batches: BatchSource,
    teacher: Network | None,
    events: Events,
    *,
    seed: int,
    processes: Processes | None = None,
) -> None:
    """Run the stages in order, from wherever `state` stands: the middle of one, or the end of one."""
    processes = processes or Processes()
    own = teacher.network if isinstance(teacher, Teacher) else teacher
    for index in range(state.stage, len(stages)):
        if index > state.stage:
            state.enter(stages[index], own)
            follow_leader(state, processes)
        run_stage(stages[index], state, batches, teacher, events, seed=seed, processes=processes)


def run_stage(
    stage: Stage,
    state: State,
    batches: BatchSource,
    teacher: Network | None,
    events: Events,
    *,
    seed: int,
    processes: Processes | None = None,
) -> None:
    """Run one stage; the teacher has the same weights before and after it, to the bit."""
    own = teacher.network if isinstance(teacher, Teacher) else None
    tuned = state.networks.get("teacher") if state.role == "student" else None
    before = fingerprint(teacher), fingerprint(tuned)
    train(stage, state, batches, own or teacher, events, seed=seed, processes=processes)
    if (fingerprint(teacher), fingerprint(tuned)) != before:
        raise SrkdError(f"the frozen teacher changed in stage {stage.name!r}: this is a fault of the recipe")


def fingerprint(teacher: Network | None) -> str | None:
    """A hash of all its weights."""
    if teacher is None:
        return None
    return teacher.fingerprint() if isinstance(teacher, Teacher) else network_sha256(teacher)
