"""What one training step takes, found without data and in no time: the methods run once on the meta device.

Counted are the networks' forwards, what is asked of the teacher, and every tensor from its making to its end, through
the backward pass; the optimiser's and the average's share follow from the parameters.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from compressor.base.context import no_note
from compressor.base.errors import SrkdError
from compressor.base.processes import Processes
from compressor.data.batches import Batch
from compressor.models.meta_device import MetaDevice
from compressor.models.networks.base import ImageModel, Network, Spec
from compressor.models.networks.registry import build
from compressor.teachers.foreign import ForeignFacts, ForeignModel
from compressor.training.losses import compute_losses
from compressor.training.networks import build_networks
from compressor.training.stage import Role, Stage
from compressor.training.state import State
from compressor.training.step import Forward, Runner, Step

ADAM = 2
"""Tensors that Adam keeps for each parameter; its fused update needs no more."""


@dataclass(frozen=True)
class Memory:
    """Bytes in fp32. `trained` are the weights that learn, `frozen` the teacher's and whatever else is only looked
    through; `activations` lives between the forward and the backward pass beside these; `peak` is the most that lives
    at once. Without what torch and its libraries take themselves, the images, and a foreign teacher."""

    trained: int
    modules: int
    gradients: int
    optimiser: int
    average: int
    frozen: int
    activations: int
    peak: int

    def line(self) -> str:
        parts = {
            "weights, gradients, Adam and EMA": self.trained
            + self.modules
            + self.gradients
            + self.optimiser
            + self.average,
            "teacher": self.frozen,
            "activations": self.activations,
        }
        told = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in parts.items() if size)
        return f"about {self.peak / 1e6:.0f} MB at the peak of a step ({told}), images and torch itself apart"


@dataclass(frozen=True)
class Footprint:
    """One step. `taps` are the features that were read of the teacher."""

    student_forwards: int
    teacher_forwards: int
    taps: tuple[str, ...]
    memory: Memory


@dataclass(frozen=True)
class Batched:
    """The shape of a step's batch; without `labels` the teacher makes them."""

    batch: int
    lr_patch: int
    labels: bool = True


def footprint(stage: Stage, student: Spec, teacher: ImageModel | None, batched: Batched) -> Footprint:
    """Run one step of `stage` on shapes alone."""
    with torch.device("meta"), _Living() as living:
        frozen = None if teacher is None else _stand_in(teacher)
        state = _state(stage, build(student), frozen)
        cast = build_networks(stage, state, frozen, no_note, Processes())
        students = [_Recorded(runner) for runner in cast.students]
        teaches = None if cast.teacher is None else _Recorded(cast.teacher)
        cast = replace(cast, students=students, teacher=teaches)
        side, scale = batched.lr_patch, student.scale
        lr = torch.empty(batched.batch, 3, side, side)
        hr = torch.empty(batched.batch, 3, side * scale, side * scale) if batched.labels else None
        before, activations = living.bytes, 0
        for part in range(stage.updates):
            held = living.bytes
            losses = compute_losses(stage, state, Step(0, 0, Batch(lr, hr), cast, part))
            activations = max(activations, living.bytes - held)
            torch.autograd.backward(losses.total)
    learns = _bytes(state.trained_network) + _bytes(state.modules)
    memory = Memory(
        trained=_bytes(state.trained_network),
        modules=_bytes(state.modules),
        gradients=learns,
        optimiser=ADAM * learns,
        average=_bytes(state.trained_network),
        frozen=before - learns - lr.nbytes - (0 if hr is None else hr.nbytes),
        activations=activations,
        peak=living.most + ADAM * learns + _bytes(state.trained_network),
    )
    taps = () if teaches is None else tuple(sorted(teaches.taps))
    forwards = 0 if teaches is None else teaches.forwards
    return Footprint(sum(runner.forwards for runner in students), forwards, taps, memory)


def peak_of(loss: Callable[..., torch.Tensor], *shapes: Sequence[int]) -> int:
    """The most bytes that a loss of tensors of these shapes has alive beside them, its backward pass included."""
    with torch.device("meta"), _Living() as living:
        inputs = [torch.empty(tuple(shape), requires_grad=True) for shape in shapes]
        before = living.bytes
        torch.autograd.backward(loss(*inputs))
    peak: int = living.most - before
    return peak


def _state(stage: Stage, student: Network, teacher: ImageModel | None) -> State:
    """As a stage begins, without an optimiser and an average: they take part in no forward or backward pass."""
    networks: dict[Role, Network] = {"student": student}
    own = None if teacher is None else teacher.network
    if stage.role != "student":
        if own is None:
            raise SrkdError(f"stage {stage.name!r} trains a copy of the teacher: it must be one of our networks")
        networks[stage.role] = build(own.spec)
    networks[stage.role].train().requires_grad_(True)
    modules = nn.ModuleDict({method.name: method.modules(own, student) for method in stage.methods})
    nothing: Any = None
    return State(networks, modules, nothing, nothing, role=stage.role)


class _Living(MetaDevice):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self._known: set[int] = set()

    def after(self, function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> None:
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        self.most = max(self.most, self.bytes)

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.bytes += size
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


class _Recorded(Runner):
    """A runner in fp32, not compiled, that notes which features are asked for."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.model, trains=runner.trains, forward=runner.forward)
        self.taps: set[str] = set()

    def __call__(self, lr: torch.Tensor, taps: Sequence[str], images: Sequence[str] = ()) -> Forward:
        self.taps.update((*taps, *images))
        return super().__call__(lr, taps, images)


def _stand_in(teacher: ImageModel) -> ImageModel:
    """The teacher on the meta device; a foreign one gives images of the right size and computes nothing."""
    if teacher.network is not None:
        return build(teacher.network.spec).requires_grad_(False)
    facts = ForeignFacts(teacher.backend, teacher.architecture, teacher.descriptor, teacher.params)
    return ForeignModel(_ShapeOnly(facts)).move_to(torch.device("meta"))


@dataclass(frozen=True)
class _ShapeOnly:
    """A program that gives images of the right size and computes nothing."""

    facts: ForeignFacts

    def run(self, images: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = images.shape
        scale = self.facts.descriptor.scale
        return images.new_empty(batch, channels, height * scale, width * scale)

    def move_to(self, device: torch.device) -> torch.device:
        return device

    def tensors(self) -> Iterable[tuple[str, torch.Tensor]]:
        return ()


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
