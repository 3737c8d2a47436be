"""The loop: it knows steps, sums and schedules, and no method.

Stage after stage, each with the teacher it freezes checked to have stayed frozen.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from compressor.base.context import Note
from compressor.base.errors import SrkdError
from compressor.base.processes import Processes, Unanimous
from compressor.data.batches import Batch
from compressor.models.networks.base import ImageModel
from compressor.training.guard import Skipped, require_paths
from compressor.training.losses import Losses, calibrate, collect, require_shared
from compressor.training.networks import build_networks
from compressor.training.stage import Stage
from compressor.training.state import State, follow_leader
from compressor.training.step import Step, StepNetworks, begin_step


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


def train(
    stage: Stage,
    state: State,
    batches: BatchSource,
    teacher: ImageModel | None,
    events: Events,
    *,
    seed: int,
    processes: Processes | None = None,
) -> None:
    """Run `stage` from where `state` stands to its end."""
    processes = processes or Processes()
    hands = Hands(
        stage, state, build_networks(stage, state, teacher, events.note, processes), processes, events.note, seed
    )
    began_here = state.done
    for number in range(state.done, state.began + stage.schedule.steps):
        batch = batches.at(number)
        if number == began_here and len(stage.methods) > 1:
            hands.rehearse(number, batch)
        rate = stage.schedule.at(number - state.began)
        set_rate(state.optimiser, rate)
        losses, skipped = hands.step(number, batch)
        state.done = number + 1
        if skipped is None:
            state.ema.update(state.trained)
            events.stepped(state.done, rate, losses)
        else:
            give_up_on(skipped, state, events)
        events.due(state.done, state)


@dataclass(frozen=True)
class Hands:
    """What takes one step after the other."""

    stage: Stage
    state: State
    cast: StepNetworks
    processes: Processes
    note: Note
    seed: int

    def step(self, number: int, batch: Batch) -> tuple[Losses, Skipped | None]:
        """All updates of a step; the first that is skipped ends it. What is told are the losses of all of them."""
        losses, skipped = self.update(Step(number, self.seed, batch, self.cast))
        for part in range(1, self.stage.updates):
            if skipped is not None:
                break
            later, skipped = self.update(Step(number, self.seed, batch, self.cast, part))
            seen = {**losses.observed, **later.observed}
            losses = Losses({**losses.terms, **later.terms}, later.weights, seen)
        return losses, skipped

    def rehearse(self, number: int, batch: Batch) -> None:
        """Ask every method once, for nothing: from then on a network gives all that is wanted of an input in one run.

        Terms that methods share must be the same here. A resumed run rehearses too, so that its first step is made
        like every other.
        """
        for part in range(self.stage.updates):
            step = Step(number, self.seed, batch, self.cast, part)
            terms = {method.name: method.terms(step) for method in self.stage.methods}
            self.processes.run_on_all(functools.partial(require_shared, terms))

    def update(self, step: Step) -> tuple[Losses, Skipped | None]:
        """Forward, backward, and the optimiser's move, unless the guard objects."""
        stage, state, processes = self.stage, self.state, self.processes
        if stage.pace.compiled:
            begin_step()
        losses = collect(stage, state, step)
        if step.number == state.began:
            processes.run_on_all(functools.partial(require_paths, losses.terms, state.trained))
        if step.part == 0:
            state.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.total)
        trained = [parameter for group in state.optimiser.param_groups for parameter in group["params"]]
        losses = losses.shared(trained, processes)
        norm = clipped_norm(trained, stage.optimiser.clip)
        skipped = state.guard.judge(*fetched(losses.total, norm), losses.numbers)
        if skipped is None:
            state.optimiser.step()
            step.counted()
            calibrate(stage, state, losses, self.note)
        return losses, skipped


def give_up_on(skipped: Skipped, state: State, events: Events) -> None:
    """Tell of a skipped step; too many in a row end the run."""
    events.skipped(state.done, skipped)
    if state.guard.gives_up:
        raise Unanimous(
            f"step {state.done}: {skipped.in_a_row} steps in a row were skipped, the last because of "
            f"{skipped.why}; {events.way_on()}"
        )


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


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def run_stages(
    stages: Sequence[Stage],
    state: State,
    batches: BatchSource,
    teacher: ImageModel | None,
    events: Events,
    *,
    seed: int,
    processes: Processes | None = None,
) -> None:
    """Run the stages in order, from wherever `state` stands: the middle of one, or the end of one."""
    processes = processes or Processes()
    own = None if teacher is None else teacher.network
    for index in range(state.stage, len(stages)):
        if index > state.stage:
            state.enter(stages[index], own)
            follow_leader(state, processes)
        run_stage(stages[index], state, batches, teacher, events, seed=seed, processes=processes)


def run_stage(
    stage: Stage,
    state: State,
    batches: BatchSource,
    teacher: ImageModel | None,
    events: Events,
    *,
    seed: int,
    processes: Processes | None = None,
) -> None:
    """Run one stage; the teacher has the same weights before and after it, to the bit."""
    tuned = state.networks.get("teacher") if state.role == "student" else None
    before = fingerprint(teacher), fingerprint(tuned)
    train(stage, state, batches, teacher, events, seed=seed, processes=processes)
    if (fingerprint(teacher), fingerprint(tuned)) != before:
        raise SrkdError(f"the frozen teacher changed in stage {stage.name!r}: this is a fault of the recipe")


def fingerprint(teacher: ImageModel | None) -> str | None:
    """A hash of all its weights."""
    return None if teacher is None else teacher.fingerprint()
