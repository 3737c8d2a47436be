"""Tiny networks and stages, a fixed batch, and events that record a run, for tests of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from compressor.base.context import Context
from compressor.data.batches import Batch
from compressor.data.prepare import ValidationImage, ValidationSet
from compressor.images.metrics import to_u8
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.training.events import RunEvents
from compressor.training.guard import SkippedStep
from compressor.training.loop import Events, Trainer
from compressor.training.losses import Losses
from compressor.training.method import Kind, PlainMethod
from compressor.training.run_folder import RunFolder
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Step
from compressor.training.validation import Validation
from recipes.config.reading import load_preset


class OnePatch:
    """A source of one batch, the same at every step."""

    def __init__(self, lr: torch.Tensor, hr: torch.Tensor) -> None:
        self.batch = Batch(lr, hr)

    def at(self, step: int) -> Batch:
        return self.batch


def smooth_patch(side: int = 12) -> OnePatch:
    along = torch.linspace(0, 1, side * 2)
    hr = torch.stack([along[:, None] * along, along[:, None].expand(-1, side * 2), (along[:, None] - along).abs()])[
        None
    ]
    return OnePatch(nn.functional.avg_pool2d(hr, 2), hr)


def validation_on(image: Batch) -> Validation:
    assert image.hr is not None
    return Validation(
        [ValidationSet("patch", (ValidationImage("patch", to_u8(image.lr), to_u8(image.hr)),))], 2, "original"
    )


def network(seed: int, width: int = 8, depth: int = 2, scale: int = 2) -> Network:
    torch.manual_seed(seed)
    return build(EDSRSpec(scale=scale, width=width, depth=depth))


def stage(methods: list[object], **schedule: object) -> Stage:
    settings = [f"schedule.{name}={value}" for name, value in {"decay": "constant", "warmup": 0, **schedule}.items()]
    return load_preset("scratch", settings).stage(methods)  # type: ignore[arg-type]


class Recorder(Events):
    """Events that record the numbers of each step."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.rates: list[float] = []
        self.bad: dict[int, SkippedStep] = {}
        self.notes: list[str] = []

    def on_step(self, done: int, rate: float, losses: Losses) -> None:
        self.losses.append(losses.numbers())
        self.rates.append(rate)

    def on_skip(self, done: int, skipped: SkippedStep) -> None:
        self.bad[done] = skipped

    def note(self, line: str) -> None:
        self.notes.append(line)


class SavingRecorder(Recorder):
    """A recorder that saves the state after `at` steps, if there is a path."""

    def __init__(self, path: Path | None = None, at: int = 0) -> None:
        super().__init__()
        self.path, self.at = path, at

    def after_step(self, done: int, state: State) -> None:
        if self.path is not None and done == self.at:
            state.save(self.path)


@dataclass(frozen=True)
class Faulty(PlainMethod):
    """A method with the pixel loss multiplied by a factor at some steps."""

    factors: Mapping[int, float]
    name: str = "faulty"
    kind: Kind = "feature"
    weights: Mapping[str, float] = field(default_factory=lambda: {"pixel": 1.0, "still": 1.0})

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        sr = step.student().sr
        return {
            "pixel": (sr - step.hr).abs().mean() * self.factors.get(step.number, 1.0),
            "still": (sr - step.hr).square().mean(),
        }


def train_on_patch(stage: Stage, state: State | None = None, teacher: Network | None = None) -> tuple[State, Recorder]:
    recorder, state = Recorder(), state or State.fresh(network(0), teacher, stage)
    Trainer([stage], state, smooth_patch(), teacher, recorder, seed=0).run()
    return state, recorder


def all_numbers(state: State) -> list[torch.Tensor]:
    """Return weights, their average, and Adam's moments and step counts."""
    moments = [value for of in state.optimiser.state_dict()["state"].values() for value in of.values()]
    return [*state.student.state_dict().values(), *state.ema.network.state_dict().values(), *moments]


def is_same(a: State, b: State) -> bool:
    """Return whether two states have the same numbers bit for bit."""
    first, second = all_numbers(a), all_numbers(b)
    return len(first) == len(second) and all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def events_of(folder: RunFolder, lines: list[str], stage: Stage) -> RunEvents:
    """Events of a stage that write to a run folder, and append their lines to a list."""
    context = Context(note=lines.append)
    return RunEvents(folder, stages=(stage,), validation=validation_on(smooth_patch().batch), context=context)
