"""The cost of one training step, without data and at once: the methods run once on the meta device.

It counts the networks' forwards, the features that are read of the teacher, and every tensor from its creation to its
end, through the backward pass; the optimiser's and the average's share follow from the parameters.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
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
from compressor.training.speed import PLAIN_MODE
from compressor.training.stage import Role, Stage
from compressor.training.state import State
from compressor.training.step import Step

ADAM_TENSORS = 2
"""Tensors that Adam keeps for each parameter; its fused update needs no more."""


@dataclass(frozen=True)
class Memory:
    """Bytes in fp32, without those of torch and its libraries, the images, and a foreign teacher.

    `trained` are the weights that learn, `frozen` those of the teacher and of helpers; `activations` lives between the
    forward and the backward pass beside these; `peak` is the most that lives at once.
    """

    trained: int
    modules: int
    gradients: int
    optimiser: int
    average: int
    frozen: int
    activations: int
    peak: int

    def line(self) -> str:
        learning = self.trained + self.modules + self.gradients + self.optimiser + self.average
        parts = {
            "weights, gradients, Adam and EMA": learning,
            "teacher": self.frozen,
            "activations": self.activations,
        }
        sizes = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in parts.items() if size)
        return f"about {self.peak / 1e6:.0f} MB at the peak of a step ({sizes}), images and torch itself apart"


@dataclass(frozen=True)
class Footprint:
    """One step; `taps` are the features that are read of the teacher."""

    student_forwards: int
    teacher_forwards: int
    taps: tuple[str, ...]
    memory: Memory


@dataclass(frozen=True)
class BatchShape:
    """The shape of a step's batch; without `labels` the teacher gives them."""

    batch: int
    lr_patch: int
    labels: bool = True


def footprint(stage: Stage, student: Spec, teacher: ImageModel | None, shape: BatchShape) -> Footprint:
    """Run one step of `stage` on shapes alone, in fp32 and not compiled."""
    stage = replace(stage, mode=PLAIN_MODE)
    with torch.device("meta"), _LiveBytes() as live:
        frozen = None if teacher is None else _on_meta(teacher)
        state = _begin_state(stage, build(student), frozen)
        networks = build_networks(stage, state, frozen, no_note, Processes())
        side, scale = shape.lr_patch, student.scale
        lr = torch.empty(shape.batch, 3, side, side)
        hr = torch.empty(shape.batch, 3, side * scale, side * scale) if shape.labels else None
        before, activations = live.bytes, 0
        for part in range(stage.updates):
            begin = live.bytes
            losses = compute_losses(stage, state, Step(0, 0, Batch(lr, hr), networks, part))
            activations = max(activations, live.bytes - begin)
            torch.autograd.backward(losses.total)
    trained, modules = _bytes(state.trained_network), _bytes(state.modules)
    gradients = trained + modules
    memory = Memory(
        trained=trained,
        modules=modules,
        gradients=gradients,
        optimiser=ADAM_TENSORS * gradients,
        average=trained,
        frozen=before - gradients - lr.nbytes - (0 if hr is None else hr.nbytes),
        activations=activations,
        peak=live.peak + ADAM_TENSORS * gradients + trained,
    )
    forwards = sum(runner.forwards for runner in networks.students)
    if networks.teacher is None:
        return Footprint(forwards, 0, (), memory)
    taps = {tap for requests in networks.teacher.requests for tap in set.union(*requests)}
    return Footprint(forwards, networks.teacher.forwards, tuple(sorted(taps)), memory)


def peak_bytes(loss: Callable[..., torch.Tensor], *shapes: Sequence[int]) -> int:
    """Return the peak bytes of a loss of tensors of these shapes beside them, its backward pass included."""
    with torch.device("meta"), _LiveBytes() as live:
        inputs = [torch.empty(tuple(shape), requires_grad=True) for shape in shapes]
        before = live.bytes
        torch.autograd.backward(loss(*inputs))
    peak: int = live.peak - before
    return peak


def _begin_state(stage: Stage, student: Network, teacher: ImageModel | None) -> State:
    """Return the state at the start of a stage, without optimiser and average: they have no part in either pass."""
    networks: dict[Role, Network] = {"student": student}
    network = None if teacher is None else teacher.network
    if stage.role != "student":
        if network is None:
            raise SrkdError(f"stage {stage.name!r} trains a copy of the teacher: it must be a network that srkd knows")
        networks[stage.role] = build(network.spec)
    networks[stage.role].train().requires_grad_(True)
    modules = nn.ModuleDict({method.name: method.modules(network, student) for method in stage.methods})
    nothing: Any = None
    return State(networks, modules, nothing, nothing, role=stage.role)


class _LiveBytes(MetaDevice):  # type: ignore[no-untyped-call]
    """The bytes of the tensors that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._storages: set[int] = set()

    def after(self, function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> None:
        for tensor in tree_leaves(result):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._storages:
                self._storages.add(key)
                self.bytes += size
                weakref.finalize(storage, self._remove, key, size)
        self.peak = max(self.peak, self.bytes)

    def _remove(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.bytes -= size


def _on_meta(teacher: ImageModel) -> ImageModel:
    """Return the teacher on the meta device; a foreign one gives images of the right size and computes nothing."""
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

    def companions(self) -> Iterable[Path]:
        return ()


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
