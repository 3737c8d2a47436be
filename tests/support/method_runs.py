"""Tiny runs of any method."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from compressor.base.context import Context
from compressor.base.processes import Processes
from compressor.base.randomness import torch_seed, uniforms
from compressor.data.batches import Batch
from compressor.images.resize import imresize
from compressor.models.networks.base import Descriptor, Network, Spec
from compressor.models.networks.registry import build, quantise
from compressor.models.students.students import cut_student
from compressor.training.calibration import Calibrated
from compressor.training.guard import SkippedStep
from compressor.training.loop import Trainer
from compressor.training.method import Kind, Method, fit_methods, quantisation_of
from compressor.training.networks import build_networks
from compressor.training.stage import Stage
from compressor.training.state import State, follow_leader
from compressor.training.step import Runner, Step, StepNetworks
from recipes.config.options import make_method
from recipes.config.reading import load_preset
from tests.support.fakes import nearest
from tests.support.methods_table import ROWS, STUDENT, TEACHER, Row
from tests.support.training import SavingRecorder

BATCH, LR_SIDE = 4, 12
GAME = "perceptual, both stages"
"""A run beside those of the rows, in which student and discriminator play."""


@dataclass(frozen=True)
class Waves:
    """Smooth images that depend only on step and sample; with `still` only on the sample."""

    scale: int
    samples: Sequence[int] = range(BATCH)
    still: bool = False
    side: int = LR_SIDE

    def at(self, step: int) -> Batch:
        numbers_01 = torch.from_numpy(uniforms("waves", 0, 0 if self.still else step, self.samples, 12)).float()
        along = torch.linspace(0, 1, self.side * self.scale)
        across, down, phase, level = numbers_01.reshape(-1, 3, 4, 1, 1).mul(6).unbind(2)
        hr = 0.5 + 0.4 * torch.sin(across * along + down * along[:, None] + phase) * torch.cos(level)
        return Batch(imresize(hr, 1 / self.scale), hr)


class Upscaler(nn.Module):
    """A network that repeats each pixel, times its one parameter, and adds what a function makes of these pixels."""

    network = None

    def __init__(
        self, gain: float = 1.0, scale: int = 2, added: Callable[[torch.Tensor], torch.Tensor] = torch.zeros_like
    ) -> None:
        super().__init__()
        self.gain, self.added = nn.Parameter(torch.tensor(gain)), added
        self.descriptor = Descriptor(scale, receptive_radius=0)
        self.inputs: list[torch.Tensor] = []

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        self.inputs.append(lr)
        large = nearest(self.descriptor.scale)(lr)
        return self.gain * large + self.added(large)


class Curve(SavingRecorder):
    """A recorder of a run without skipped steps."""

    def on_skip(self, done: int, skipped: SkippedStep) -> None:
        raise AssertionError(f"step {done} was skipped: {skipped}")


@dataclass(frozen=True)
class Pair:
    """A method with its stages, and its teacher and student before the first step."""

    method: Method
    stages: tuple[Stage, ...]
    teacher: Network | None
    student: Network

    @classmethod
    def from_row(cls, row: Row, *, settings: Sequence[str] = (), steps: int = 5, **more: Any) -> Pair:
        method = make_method(row.of, {**row.options, **more})
        return cls.build(method, row.student, row.teacher, settings=settings, steps=steps)

    @classmethod
    def build(
        cls,
        method: Method,
        student: Spec,
        teacher: Spec | None,
        *others: Method,
        settings: Sequence[str] = (),
        steps: int = 5,
    ) -> Pair:
        preset = load_preset("scratch", ("schedule.rate=1e-3", "schedule.decay=constant", *settings)).with_steps(steps)
        frozen = None if teacher is None else build(teacher, seed=1).eval().requires_grad_(False)
        inside = frozen is not None and method.kind == "joint"
        start = cut_student(frozen, student) if inside and frozen is not None else build(student, seed=0)
        quantisation = quantisation_of([method])
        if quantisation is not None:
            start = quantise(start, quantisation)
        methods = fit_methods([method, *others], frozen, start)
        return cls(methods[0], preset.stages(methods), frozen, start)

    def fresh(self) -> State:
        return State.fresh(self.student, self.teacher, self.stages[0])

    def networks(self, state: State) -> StepNetworks:
        """Return the networks of the first step of the last stage, which the state enters."""
        for stage in self.stages[1:]:
            state.enter(stage, self.teacher)
        return build_networks(self.stages[-1], state, self.teacher, lambda line: None, Processes())

    @property
    def steps(self) -> int:
        """Return the number of steps of all stages."""
        return sum(stage.schedule.steps for stage in self.stages)

    def train(
        self, state: State, *, still: bool = False, curve: Curve | None = None, processes: Processes | None = None
    ) -> list[dict[str, float]]:
        """Train from the step of `state` to the end, and return the losses of each step."""
        processes, curve = processes or Processes(), curve or Curve()
        waves = Waves(self.student.descriptor.scale, processes.rank.share(BATCH), still)
        Trainer(self.stages, state, waves, self.teacher, curve, seed=3, context=Context(processes=processes)).run()
        return curve.losses


def step_of(
    method: Method,
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    *,
    number: int = 0,
    seed: int = 0,
    phi_of: Network | None = None,
) -> Step:
    """Return a step of a method with new modules, and with the helpers that `phi_of` gives it as the teacher."""
    networks = [network if isinstance(network, Network) else None for network in (teacher, student)]
    with torch_seed(3):
        modules = nn.ModuleDict({method.name: method.modules(*networks)})  # type: ignore[arg-type]
    helpers = {method.name: method.helpers(phi_of, student)} if phi_of is not None else {}  # type: ignore[arg-type]
    frozen = None if teacher is None else Runner(teacher, trains=False)  # type: ignore[arg-type]
    runners = StepNetworks([Runner(student, trains=True)], frozen, modules, helpers)  # type: ignore[arg-type]
    return Step(number, seed, batch, runners)


@dataclass(frozen=True)
class StubMethod(Method):
    """A method of a given kind without terms, for tests of combinations."""

    name: str
    kind: Kind = "pixel"
    weights: Mapping[str, float | Calibrated] = field(default_factory=lambda: {"pixel": 1.0})

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        raise NotImplementedError


def numbers(state: State) -> dict[str, torch.Tensor]:
    """Return all tensors that a run changes: networks, modules, the average, Adam's moments."""
    adam = state.optimiser.state_dict()["state"]
    return {
        **{f"{role}.{name}": value for role, one in state.networks.items() for name, value in one.state_dict().items()},
        **{f"modules.{name}": value for name, value in state.modules.state_dict().items() if torch.is_tensor(value)},
        **{f"ema.{name}": value for name, value in state.ema.network.state_dict().items()},
        **{f"adam.{index}.{name}": value for index, one in adam.items() for name, value in one.items()},
    }


def run_rows(processes: Processes, steps: int = 3) -> dict[str, Any]:
    """Return the losses and weights of each row after a few steps, and the number of different replicas."""
    results = {row.name: _run_row(Pair.from_row(row, steps=steps), processes) for row in ROWS}
    game = make_method("perceptual", {"width": 4, "last_share": 0.4})
    with patch("recipes.methods.perceptual.LEAST_PLAYED", 1):
        return results | {GAME: _run_row(Pair.build(game, STUDENT, TEACHER, steps=15), processes)}


def _run_row(pair: Pair, processes: Processes) -> dict[str, Any]:
    state = pair.fresh()
    follow_leader(state, processes)
    losses = pair.train(state, processes=processes)
    weights = torch.cat([value.reshape(-1) for value in state.trained_network.state_dict().values()])
    replica = hashlib.sha256(weights.numpy().tobytes()).hexdigest()
    return {"losses": losses, "weights": weights.tolist(), "replicas": len(set(processes.gather_objects(replica)))}


def total(terms: Mapping[str, torch.Tensor], weights: Mapping[str, Any]) -> torch.Tensor:
    return torch.stack([float(weights[name]) * term for name, term in terms.items()]).sum()
