"""What one training step takes, found without data and in no time: the methods run once on the meta device.

Counted are the networks' forwards, what is asked of the teacher, and every tensor from its making to its end, through
the backward pass; the optimiser's and the average's share follow from the parameters.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from compressor.foreign.base import ForeignFacts
from compressor.meta import OnMeta
from compressor.networks.base import Network, Spec
from compressor.networks.registry import build
from compressor.teacher import Teacher
from compressor.training.loop import collect
from compressor.training.method import Method
from compressor.training.stage import Stage
from compressor.training.step import Forward, Runner, Step

ADAM = 2
"""Tensors that Adam keeps for each parameter; while it updates one more lives."""


@dataclass(frozen=True)
class Memory:
    """Bytes in fp32. `activations` lives between the forward and the backward pass beside what is listed; `peak` is the
    most that lives at once. Without what torch and its libraries take themselves, the images, and a foreign teacher."""

    student: int
    modules: int
    gradients: int
    optimiser: int
    average: int
    teacher: int
    activations: int
    peak: int

    def line(self) -> str:
        parts = {
            "weights, gradients, Adam and EMA": self.student
            + self.modules
            + self.gradients
            + self.optimiser
            + self.average,
            "teacher": self.teacher,
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


def footprint(stage: Stage, student: Spec, teacher: Teacher | None, batched: Batched) -> Footprint:
    """Run one step of `stage` on shapes alone."""
    with torch.device("meta"), _Living() as living:
        frozen = None if teacher is None else _Recorded(_stand_in(teacher), trains=False)
        network = build(student).train().requires_grad_(True)
        own = None if frozen is None or isinstance(frozen.network, Teacher) else frozen.network
        modules = _modules(stage.methods, own, network)
        trains = _Recorded(network, trains=True)
        side, scale = batched.lr_patch, student.scale
        lr = torch.empty(batched.batch, 3, side, side)
        hr = torch.empty(batched.batch, 3, side * scale, side * scale) if batched.labels else None
        before = living.bytes
        losses = collect(stage, Step(0, 0, lr, hr, trains, frozen))
        activations = living.bytes - before
        torch.autograd.backward(losses.total)
    weights, aux = _bytes(network), _bytes(modules)
    kept = ADAM * (weights + aux) + weights
    update = before + kept + 2 * (weights + aux)
    memory = Memory(
        student=weights,
        modules=aux,
        gradients=weights + aux,
        optimiser=ADAM * (weights + aux),
        average=weights,
        teacher=0 if own is None else _bytes(own),
        activations=activations,
        peak=max(living.most + kept, update),
    )
    taps = () if frozen is None else tuple(sorted(frozen.taps))
    return Footprint(trains.forwards, 0 if frozen is None else frozen.forwards, taps, memory)


class _Living(OnMeta):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self._known: set[int] = set()

    def ran(self, function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> None:
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
    """Notes which features are asked for."""

    def __init__(self, network: Network, *, trains: bool) -> None:
        super().__init__(network, trains=trains)
        self.taps: set[str] = set()

    def __call__(self, lr: torch.Tensor, taps: Sequence[str]) -> Forward:
        self.taps.update(taps)
        return super().__call__(lr, taps)


@dataclass(frozen=True)
class _ShapeOnly:
    """A foreign teacher that gives images of the right size and computes nothing."""

    facts: ForeignFacts

    def run(self, images: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = images.shape
        scale = self.facts.descriptor.scale
        return images.new_empty(batch, channels, height * scale, width * scale)

    def move(self, device: torch.device) -> torch.device:
        return device

    def tensors(self) -> Iterable[tuple[str, torch.Tensor]]:
        return ()


def _stand_in(teacher: Teacher) -> Network:
    """The teacher on the meta device."""
    if teacher.foreign is not None:
        return Teacher(_ShapeOnly(teacher.foreign.facts)).placed(torch.device("meta"))
    return build(teacher.spec).requires_grad_(False)


def _modules(methods: Sequence[Method], teacher: Network | None, student: Network) -> nn.ModuleDict:
    return nn.ModuleDict({method.name: method.modules(teacher, student) for method in methods})


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
