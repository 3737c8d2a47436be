"""The loop: it knows steps, sums and schedules, and no method."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import torch

from compressor.data.batches import Batch
from compressor.errors import SrkdError
from compressor.networks.base import Network
from compressor.teacher import Teacher
from compressor.training.averaging import averaged
from compressor.training.compiled import CompiledAtFirst, begin_step
from compressor.training.gradient_path import require_paths
from compressor.training.guard import Skipped
from compressor.training.pace import Precision, autocast
from compressor.training.processes import Processes, Unanimous
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Runner, Step


class BatchSource(Protocol):
    def at(self, step: int) -> Batch: ...


class Events(Protocol):
    """What is told of a run while it goes on."""

    def stepped(self, done: int, rate: float, losses: Losses) -> None: ...

    def skipped(self, done: int, skipped: Skipped) -> None:
        """Called instead of `stepped` for a step that changed nothing."""
        ...

    def note(self, line: str) -> None:
        """One line for whoever watches, and for the log."""
        ...

    def way_on(self) -> str:
        """What is safe and how to go on, for the line that ends a run."""
        ...

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

    def shared(self, parameters: Sequence[torch.nn.Parameter], processes: Processes) -> Losses:
        """The terms' means over all processes and, in the same message, those of the gradients and the wish to stop.

        From here on every process has the same numbers, so that each decides alone, and all alike, what to skip.
        """
        if processes.alone:
            return self
        wish = torch.tensor(float(processes.wish.asked), device=self.total.device)
        numbers = torch.stack([*(term.detach().float() for term in self.terms.values()), wish])
        *means, wished = averaged(parameters, numbers, processes)
        processes.wish.known_to_all = bool(wished > 0)
        return Losses(dict(zip(self.terms, means, strict=True)), self.weights)


def train(
    stage: Stage,
    state: State,
    batches: BatchSource,
    teacher: Network | None,
    events: Events,
    *,
    seed: int,
    processes: Processes | None = None,
) -> None:
    """Run `stage` from where `state` stands to its end."""
    processes = processes or Processes()
    student, frozen = runners(stage, state.student, teacher, events)
    trained = [parameter for group in state.optimiser.param_groups for parameter in group["params"]]
    for number in range(state.done, state.began + stage.schedule.steps):
        batch = batches.at(number)
        if stage.pace.compiled:
            begin_step()
        losses = collect(stage, Step(number, seed, batch.lr, batch.hr, student, frozen, batch.labels, processes))
        if number == state.began:
            processes.together(functools.partial(require_paths, losses.terms, state.student))
        state.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.total)
        losses = losses.shared(trained, processes)
        norm = clipped_norm(trained, stage.optimiser.clip)
        skipped = state.guard.judge(*fetched(losses.total, norm), losses.numbers)
        state.done = number + 1
        if skipped is None:
            rate = stage.schedule.at(number - state.began)
            set_rate(state.optimiser, rate)
            state.optimiser.step()
            state.ema.update(state.student)
            events.stepped(state.done, rate, losses)
        else:
            events.skipped(state.done, skipped)
            if state.guard.gives_up:
                raise Unanimous(
                    f"step {state.done}: {skipped.in_a_row} steps in a row were skipped, the last because of "
                    f"{skipped.why}; {events.way_on()}"
                )
        events.due(state.done, state)


def runners(stage: Stage, student: Network, teacher: Network | None, events: Events) -> tuple[Runner, Runner | None]:
    """Student and teacher, each in its precision, compiled where the stage's pace says so."""
    device, pace = next(student.parameters()).device, stage.pace

    def runner(network: Network, precision: Precision, trains: bool) -> Runner:
        compiles = pace.compiled and not isinstance(network, Teacher)
        forward = CompiledAtFirst(network, trains=trains, announce=events.note) if compiles else None
        return Runner(network, trains=trains, autocast=lambda: autocast(precision, device), forward=forward)

    trained = runner(student, pace.precision, True)
    return trained, None if teacher is None else runner(teacher, pace.teacher_precision, False)


def clipped_norm(parameters: Sequence[torch.nn.Parameter], clip: float | None) -> torch.Tensor:
    """The norm of all gradients together, before they were clipped to `clip`."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if clip is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    return norm


def fetched(total: torch.Tensor, norm: torch.Tensor) -> tuple[float, float]:
    """Loss and gradient norm as numbers, in one copy: on a GPU the guard costs this one synchronisation a step."""
    loss, length = torch.stack([total.detach(), norm.to(total.dtype)]).tolist()
    return loss, length


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
