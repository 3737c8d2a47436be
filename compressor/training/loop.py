"""The loop: batch → terms → weighted sum → backward → clip → optimiser → average → events. It knows no method."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.processes import SharedFailure
from compressor.data.batches import Batch
from compressor.models.networks.base import ImageModel
from compressor.training.calibration import calibration_steps
from compressor.training.guard import MAX_IN_A_ROW, SkippedStep, require_paths
from compressor.training.losses import Losses, average_over_processes, compute_losses, require_same_terms, terms_of
from compressor.training.networks import build_networks
from compressor.training.stage import Stage
from compressor.training.state import RATE_RATIO, State, follow_leader
from compressor.training.step import Step, StepNetworks


class BatchSource(Protocol):
    """The batches of a run by step number, so that a resumed run uses the same ones."""

    def at(self, step: int) -> Batch: ...


class Events:
    """The listener of a run, which logs, validates and saves. This one does nothing."""

    def on_step(self, done: int, rate: float, losses: Losses) -> None:
        """Log a good step."""

    def on_skip(self, done: int, skipped: SkippedStep) -> None:
        """Log a skipped step, in place of `on_step`."""

    def after_step(self, done: int, state: State) -> None:
        """Validate and save if it is due, after each step."""

    def note(self, line: str) -> None:
        """Report one line to the user and to the log."""

    def how_to_continue(self) -> str:
        """Return what is saved and how to continue, for the line that ends a run."""
        return "nothing is saved"


@dataclass(frozen=True)
class Trainer:
    """A run of stages, from the position of `state`: within a stage or at its end.

    `teacher` is the loaded model; a stage may train a copy of it, never the model itself.
    """

    stages: Sequence[Stage]
    state: State
    batches: BatchSource
    teacher: ImageModel | None
    events: Events
    seed: int = 0
    context: Context = field(default_factory=Context)

    def run(self) -> None:
        """Run the stages in order. Frozen teachers must be bitwise equal before and after each stage."""
        for index in range(self.state.stage, len(self.stages)):
            stage = self.stages[index]
            if index > self.state.stage:
                self.state.enter(stage, None if self.teacher is None else self.teacher.network)
                follow_leader(self.state, self.context.processes)
            before = self._teacher_fingerprints()
            self.train(stage)
            if self._teacher_fingerprints() != before:
                raise SrkdError(f"the frozen teacher changed in stage {stage.name!r}: this is a fault of the recipe")

    def train(self, stage: Stage) -> None:
        state, events = self.state, self.events
        networks = build_networks(stage, state, self.teacher, events.note, self.context.processes)
        first, updates = state.done, stage.updates
        for number in range(first, state.began + stage.schedule.steps):
            batch = self.batches.at(number)
            if number == first and len(stage.methods) > 1:
                self._rehearse(stage, number, batch, networks)
            rate = stage.schedule.at(number - state.began)
            for group in state.optimiser.param_groups:  # a group with its own rate keeps its ratio to it
                group["lr"] = rate * group.get(RATE_RATIO, 1.0)
            losses, skipped = self._update(stage, Step(number, self.seed, batch, networks))
            for update in range(1, updates):
                if skipped is None:
                    later, skipped = self._update(stage, Step(number, self.seed, batch, networks, update))
                    losses = losses.merged(later)
            state.done = number + 1
            if skipped is None:
                state.update_average(stage.methods)
                events.on_step(state.done, rate, losses)
            else:
                events.on_skip(state.done, skipped)
                if skipped.in_a_row >= MAX_IN_A_ROW:
                    raise SharedFailure(
                        f"step {state.done}: {skipped.in_a_row} steps in a row were skipped, the last because of "
                        f"{skipped.why}; {events.how_to_continue()}"
                    )
            events.after_step(state.done, state)

    def _update(self, stage: Stage, step: Step) -> tuple[Losses, SkippedStep | None]:
        """Run the forward and backward pass, and update the weights unless the guard objects."""
        state, processes = self.state, self.context.processes
        if stage.mode.compiled:
            # CUDA graphs may overwrite the outputs of the last step.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        losses = compute_losses(stage, state, step)
        if step.number == state.began:
            terms, opponent_terms = losses.terms, stage.opponent_terms
            processes.run_on_all(lambda: require_paths(terms, state.trained_network, opponent_terms))
        if step.part == 0:
            state.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.total)
        parameters = [parameter for group in state.optimiser.param_groups for parameter in group["params"]]
        losses = average_over_processes(losses, parameters, processes)
        # All gradients together are clipped to one norm.
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if stage.optimiser.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, stage.optimiser.clip, norm)
        # Copy loss and norm together: on a GPU the guard costs only this synchronisation per step.
        loss_value, norm_value = torch.stack([losses.total.detach(), norm.to(losses.total.dtype)]).tolist()
        skipped = state.guard.judge(loss_value, norm_value, losses.numbers)
        if skipped is None:
            state.optimiser.step()
            step.finish_update()
            self._calibrate(stage, losses)
        return losses, skipped

    def _rehearse(self, stage: Stage, number: int, batch: Batch, networks: StepNetworks) -> None:
        """Run every method once and drop the terms, so that the runners know all requests: then one forward pass serves
        them all.

        Terms shared by methods must be equal here. A resumed run rehearses, too, so that its first step is computed
        like any other; so what a pass moves, such as a spectral norm, is put back.
        """
        kept = [(buffer, buffer.clone()) for buffer in self.state.modules.buffers()]
        for update in range(stage.updates):
            step = Step(number, self.seed, batch, networks, update)
            terms = {method.name: terms_of(method, step) for method in stage.methods}
            self.context.processes.run_on_all(functools.partial(require_same_terms, terms))
        for buffer, before in kept:
            buffer.copy_(before)

    def _calibrate(self, stage: Stage, losses: Losses) -> None:
        """Add a good step to the pending calibration of weights."""
        calibration, weights = self.state.calibration, stage.term_weights
        if not calibration.pending(weights):
            return
        raw = {key.partition("/")[2]: x for key, x in losses.numbers().items() if key.startswith(("raw/", "seen/"))}
        for name, weight in calibration.update(raw, weights, steps=calibration_steps(stage.schedule.steps)).items():
            self.events.note(f"weight of {name}: {weight:.6g}, calibrated over {calibration.count} steps")

    def _teacher_fingerprints(self) -> list[str]:
        """Return hashes of the loaded teacher and, in a stage that freezes it, of its tuned copy."""
        tuned = self.state.networks.get("teacher") if self.state.role == "student" else None
        return [model.fingerprint() for model in (self.teacher, tuned) if model is not None]
