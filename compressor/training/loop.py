"""The loop: it knows steps, sums and schedules, and no method."""

from __future__ import annotations

from typing import Protocol

import torch

from compressor.data.batches import Batch
from compressor.errors import SrkdError
from compressor.networks.base import Network
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Runner, Step


class BatchSource(Protocol):
    def at(self, step: int) -> Batch: ...


class Events(Protocol):
    """What is told of a run while it goes on."""

    def stepped(self, done: int, rate: float, losses: Losses) -> None: ...

    def due(self, done: int, state: State) -> None:
        """Called after each step; validates and saves when its time has come."""
        ...


class Losses:
    """Raw terms by name, their weights, and the weighted sum; numbers are fetched only when somebody logs them."""

    def __init__(self, terms: dict[str, torch.Tensor], weights: dict[str, float]) -> None:
        self.terms, self.weights = terms, weights
        self.total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()

    def numbers(self) -> dict[str, float]:
        raw = {f"raw/{name}": float(term.detach()) for name, term in self.terms.items()}
        weighted = {f"weighted/{name}": self.weights[name] * raw[f"raw/{name}"] for name in self.terms}
        return {**raw, **weighted, "loss": float(self.total.detach())}


def train(
    stage: Stage, state: State, batches: BatchSource, teacher: Network | None, events: Events, *, seed: int
) -> None:
    """Run `stage` from where `state` stands to its end."""
    device = next(state.student.parameters()).device
    student = Runner(state.student, trains=True, autocast=lambda: stage.autocast(device))
    frozen = Runner(teacher, trains=False) if teacher is not None else None
    trained = [parameter for group in state.optimiser.param_groups for parameter in group["params"]]
    for number in range(state.done, stage.schedule.steps):
        batch = batches.at(number)
        losses = collect(stage, Step(number, seed, batch.lr, batch.hr, student, frozen))
        state.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.total)
        if stage.optimiser.clip is not None:
            torch.nn.utils.clip_grad_norm_(trained, stage.optimiser.clip)
        rate = stage.schedule.at(number)
        set_rate(state.optimiser, rate)
        state.optimiser.step()
        state.ema.update(state.student)
        state.done = number + 1
        events.stepped(state.done, rate, losses)
        events.due(state.done, state)


def collect(stage: Stage, step: Step) -> Losses:
    """The terms of every method, under their own names; two methods that name the same term share it."""
    terms: dict[str, torch.Tensor] = {}
    weights: dict[str, float] = {}
    for method in stage.methods:
        terms.update(method.terms(step))
        weights.update(method.weights)
    unweighted = terms.keys() - weights.keys()
    if unweighted:
        raise SrkdError(f"no weight is given for the terms {', '.join(sorted(unweighted))}")
    return Losses(terms, weights)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def check_finite(done: int, numbers: dict[str, float]) -> None:
    """Refuse to go on from a loss that is not a number; the terms are named."""
    wrong = [name for name, value in numbers.items() if value != value or value in (float("inf"), float("-inf"))]
    if wrong:
        raise SrkdError(
            f"step {done}: {', '.join(wrong)} is not finite; lower the learning rate (--set schedule.rate=...)"
        )
