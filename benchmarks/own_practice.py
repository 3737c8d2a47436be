"""The training loop of `srkd compress` for timing, and its parts that any loop must have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from compressor.base.context import QUIET, no_note
from compressor.base.processes import Processes
from compressor.data.batches import Batch, Batches
from compressor.data.prepare import DataChoice, prepare_data
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.registry import build
from compressor.teachers.teacher import Teacher
from compressor.training.events import RunEvents
from compressor.training.loop import Trainer
from compressor.training.losses import compute_losses
from compressor.training.method import fit_methods
from compressor.training.networks import build_networks
from compressor.training.run_folder import RunFolder
from compressor.training.speed import choose_execution_mode
from compressor.training.state import State
from compressor.training.step import Step
from compressor.training.validation import Validation
from recipes.config.reading import load_preset
from recipes.terms.phi import PhiSource, bind_phi

LONG = 1_000_000
"""Steps of the run, more than are ever timed, so that no validation is timed."""


class OwnLoop:
    """A run as `srkd compress` sets it up, and its bare step for comparison."""

    def __init__(
        self,
        spec: Spec,
        teacher: Teacher | None,
        recipe: str,
        folder: Path,
        *,
        batch: int,
        lr_patch: int,
        device: torch.device,
        settings: Sequence[str] = (),
        student: Network | None = None,
        phi: PhiSource | None = None,
    ) -> None:
        preset = load_preset(recipe, (f"schedule.batch={batch}", f"schedule.lr_patch={lr_patch}", *settings))
        student = (build(spec, seed=10) if student is None else student).to(device)
        self.mode = choose_execution_mode(
            student, steps=LONG, batch=batch, lr_patch=lr_patch, device=device, options=preset.speed_options()
        )
        own = None if teacher is None else teacher.network
        methods = fit_methods(bind_phi(preset.build_methods(), phi), own, student)
        self.stage = preset.with_steps(LONG).stage(methods, self.mode)
        self.teacher = None if teacher is None else teacher.move_to(device).network
        if self.teacher is not None:
            self.mode.lay_out(self.teacher, frozen=True)
        self.state = State.fresh(student, self.teacher, self.stage)
        data = prepare_data(DataChoice(), scale=spec.scale, lr_patch=lr_patch)
        self.batches = Batches.for_store(data.train.to(device), batch=batch, lr_patch=lr_patch, seed=10)
        self.fixed: Batch = self.batches.at(0)
        self.events = RunEvents(
            RunFolder(folder),
            stages=(self.stage,),
            validation=Validation(data.validation, spec.scale, "original"),
            context=QUIET,
        )

    def run(self, steps: int) -> None:
        """Train for a number of further steps."""
        until = replace(self.stage, schedule=replace(self.stage.schedule, steps=self.state.done + steps))
        Trainer([until], self.state, self.batches, self.teacher, self.events, seed=10).train(until)

    def data(self, steps: int) -> None:
        for step in range(steps):
            self.batches.at(step)

    def step_alone(self, steps: int) -> None:
        """Run forward, backward, Adam and the weight average on one fixed batch."""
        networks = build_networks(self.stage, self.state, self.teacher, no_note, Processes())
        for number in range(steps):
            losses = compute_losses(self.stage, self.state, Step(number, 10, self.fixed, networks))
            self.state.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(losses.total)
            self.state.optimiser.step()
            self.state.ema.update(self.state.trained_network)
