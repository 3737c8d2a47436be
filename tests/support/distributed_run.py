"""Results that must be the same in one process and in several: `torchrun distributed_run.py PHOTOS OUT`."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.processes import Processes, Rank, exit_process
from compressor.data.batches import Batch, Batches
from compressor.data.prepare import DataChoice, prepare_data
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.training.distributed import open_processes
from compressor.training.loop import Trainer
from compressor.training.losses import average_gradients
from compressor.training.method import Kind, PlainMethod
from compressor.training.state import State, follow_leader, require_equal_weights
from compressor.training.step import Step
from recipes.config.reading import load_preset
from recipes.methods.logits import Logits
from tests.support.method_runs import run_rows
from tests.support.training import Recorder

BATCH, STEPS = 4, 30


@dataclass(frozen=True)
class Contrast(PlainMethod):
    """A method by which a student sample should resemble the teacher's of the same image more than all others."""

    name: str = "contrast"
    kind: Kind = "contrast"
    weights: Mapping[str, float] = field(default_factory=lambda: {"contrast": 0.05})

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        pooled = [
            F.normalize(forward.features["body_end"].mean(dim=(2, 3)), dim=1)
            for forward in (step.student(taps=("body_end",)), step.teacher(taps=("body_end",)))
        ]
        student, teacher = (step.all_gather(rows) for rows in pooled)
        return {"contrast": F.cross_entropy(student @ teacher.T / 0.2, torch.arange(len(student)))}


def train(photos: Path, processes: Processes) -> dict[str, Any]:
    """Train thirty steps of logits with a term that couples the batch; return results and batches of all processes."""
    store = prepare_data(DataChoice(data=photos, cache_size=0), scale=2, lr_patch=8).train
    whole = Batches.for_store(store, batch=BATCH, lr_patch=8, seed=3)
    batches = replace(whole, samples=processes.rank.share(BATCH))
    settings = ("schedule.rate=1e-3", "schedule.clip=1.0")
    stage = load_preset("scratch", settings).with_steps(STEPS).stage([Logits(), Contrast()])
    teacher = build(EDSRSpec(scale=2, width=8, depth=1), seed=1).requires_grad_(False)
    state, recorder = State.fresh(build(EDSRSpec(scale=2, width=8, depth=1), seed=0), teacher, stage), Recorder()
    Trainer([stage], state, batches, teacher, recorder, seed=3, context=Context(processes=processes)).run()
    assert not recorder.bad
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in state.student.parameters()])
    replica = hashlib.sha256(weights.numpy().tobytes()).hexdigest()
    return {
        "losses": recorder.losses,
        "weights": weights.tolist(),
        "replicas": len(set(processes.gather_objects(replica))),
        "batches": [
            Batch(*(processes.all_gather(rows) for rows in (batch.lr, batch.hr))).digest()
            for batch in map(batches.at, range(3))
        ],
    }


def gradients(processes: Processes) -> list[list[float] | None]:
    """Return the gradients of three parameters: all samples use the first, some the second, none the third.

    Each process compares its samples with those of all.
    """
    first, second, third = (nn.Parameter(torch.linspace(-1, 1, 5) + shift) for shift in (0.1, 0.2, 0.3))
    rows = torch.linspace(0, 1, BATCH * 5).sin().reshape(BATCH, 5)
    mine = list(processes.rank.share(BATCH))
    projected = rows[mine] * first
    loss = torch.logsumexp(projected @ processes.all_gather(projected).T, dim=1).sum()
    for index, row in zip(mine, rows[mine], strict=True):
        loss = loss + ((row * second).pow(2).sum() if index < BATCH // 2 else 0.0)
    (loss / len(mine)).backward()
    mean = average_gradients([first, second, third], (loss / len(mine)).detach()[None], processes)
    results = [None if parameter.grad is None else parameter.grad.tolist() for parameter in (first, second, third)]
    return [*results, mean.tolist()]


def refusals(processes: Processes) -> dict[str, str | None]:
    """Return the messages for processes that differ, or of which only one fails."""

    def message(work: Any) -> str | None:
        try:
            work()
        except SrkdError as error:
            return str(error)
        return None

    def fails_on_the_last() -> None:
        if processes.rank.index == 1:
            raise SrkdError("no photos here")

    return {
        "same": message(lambda: processes.require_equal("a", "has other data")),
        "other": message(lambda: processes.require_equal(str(processes.rank.index), "has other data")),
        "failed": message(lambda: processes.run_on_all(fails_on_the_last)),
        "weights": message(lambda: diverged(processes)),
    }


def diverged(processes: Processes) -> None:
    """Set different states to the leader's, then change one of them, which is refused."""
    stage = load_preset("scratch").stage([])
    state = State.fresh(build(EDSRSpec(scale=2, width=4, depth=1), seed=processes.rank.index), None, stage)
    follow_leader(state, processes)
    require_equal_weights(state, processes)
    with torch.no_grad():
        next(state.student.parameters())[0, 0, 0, 0] += processes.rank.index
    require_equal_weights(state, processes)


def measure(photos: Path, processes: Processes) -> dict[str, Any]:
    return {"trained": train(photos, processes), "gradients": gradients(processes), "refusals": refusals(processes)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open_processes(Rank.from_environment()) as group:
        results = {**measure(Path(sys.argv[1]), group), "rows": run_rows(group)}
        if group.is_leader:
            Path(sys.argv[2]).write_text(json.dumps(results))
    exit_process(0)
