"""What must come out the same in one process and in several: `torchrun tests/support/one_or_two.py PHOTOS OUT`."""

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
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.training.distributed import open_processes
from compressor.training.loop import Trainer
from compressor.training.losses import Losses, average_gradients
from compressor.training.method import PlainMethod
from compressor.training.state import State, follow_leader, require_equal_weights
from compressor.training.step import Step
from recipes.config.reading import load_preset
from recipes.logits import Logits

BATCH, STEPS = 4, 30


@dataclass(frozen=True)
class Contrast(PlainMethod):
    """Every student sample is to resemble the teacher's of the same image more than those of all other samples."""

    name: str = "contrast"
    weights: Mapping[str, float] = field(default_factory=lambda: {"contrast": 0.05})

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        return nn.ModuleDict()

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        pooled = [
            F.normalize(forward.features["body_end"].mean(dim=(2, 3)), dim=1)
            for forward in (step.student(taps=("body_end",)), step.teacher(taps=("body_end",)))
        ]
        student, teacher = (step.all_gather(rows) for rows in pooled)
        return {"contrast": F.cross_entropy(student @ teacher.T / 0.2, torch.arange(len(student)))}


class Curve:
    """Events that remember the losses."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []

    def on_step(self, done: int, rate: float, losses: Losses) -> None:
        self.losses.append(losses.numbers())

    def on_skip(self, done: int, skipped: object) -> None:
        raise AssertionError(skipped)

    def note(self, line: str) -> None:
        pass

    def how_to_continue(self) -> str:
        return ""

    def after_step(self, done: int, state: State) -> None:
        pass


def trained(photos: Path, processes: Processes) -> dict[str, Any]:
    """Thirty steps of logits and a term that couples the batch, with the batches as all processes saw them."""
    store = prepare_data(DataChoice(data=photos, cache_size=0), scale=2, lr_patch=8).train
    whole = Batches.for_store(store, batch=BATCH, lr_patch=8, seed=3)
    batches = replace(whole, samples=processes.rank.share(BATCH))
    settings = ("schedule.rate=1e-3", "schedule.clip=1.0")
    stage = load_preset("scratch", settings).with_steps(STEPS).stage([Logits(), Contrast()])
    teacher = build(EDSRSpec(scale=2, width=8, depth=1), seed=1).requires_grad_(False)
    state, curve = State.fresh(build(EDSRSpec(scale=2, width=8, depth=1), seed=0), teacher, stage), Curve()
    Trainer([stage], state, batches, teacher, curve, seed=3, context=Context(processes=processes)).run()
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in state.student.parameters()])
    replica = hashlib.sha256(weights.numpy().tobytes()).hexdigest()
    return {
        "losses": curve.losses,
        "weights": weights.tolist(),
        "replicas": len(set(processes.gather_objects(replica))),
        "batches": [
            Batch(*(processes.all_gather(rows) for rows in (batch.lr, batch.hr))).digest()
            for batch in map(batches.at, range(3))
        ],
    }


def gradients(processes: Processes) -> list[list[float] | None]:
    """Of three parameters: all samples use the first, some the second, none the third.

    Each process compares its own samples with everybody's.
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
    found = [None if parameter.grad is None else parameter.grad.tolist() for parameter in (first, second, third)]
    return [*found, mean.tolist()]


def refusals(processes: Processes) -> dict[str, str | None]:
    """What is told when processes differ, or one of them alone fails."""

    def told(work: Any) -> str | None:
        try:
            work()
        except SrkdError as error:
            return str(error)
        return None

    def fails_on_the_last() -> None:
        if processes.rank.index == 1:
            raise SrkdError("no photos here")

    return {
        "same": told(lambda: processes.require_equal("a", "has other data")),
        "other": told(lambda: processes.require_equal(str(processes.rank.index), "has other data")),
        "failed": told(lambda: processes.run_on_all(fails_on_the_last)),
        "weights": told(lambda: diverged(processes)),
    }


def diverged(processes: Processes) -> None:
    """States drawn apart become the leader's; one that then moves alone is found."""
    stage = load_preset("scratch").stage([])
    state = State.fresh(build(EDSRSpec(scale=2, width=4, depth=1), seed=processes.rank.index), None, stage)
    follow_leader(state, processes)
    require_equal_weights(state, processes)
    with torch.no_grad():
        next(state.student.parameters())[0, 0, 0, 0] += processes.rank.index
    require_equal_weights(state, processes)


def measured(photos: Path, processes: Processes) -> dict[str, Any]:
    return {"trained": trained(photos, processes), "gradients": gradients(processes), "refusals": refusals(processes)}


if __name__ == "__main__":
    with open_processes(Rank.from_environment(), sys.exit) as group:
        found = measured(Path(sys.argv[1]), group)
        if group.is_leader:
            Path(sys.argv[2]).write_text(json.dumps(found))
    exit_process(0)
