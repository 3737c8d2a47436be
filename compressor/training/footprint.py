"""The cost of one training step, computed without data: the methods run once on the meta device.

It counts the networks' forward passes, the teacher's features that are read, multiply-accumulates, and every tensor
from its creation to its end, including the backward pass; the memory of optimiser and average follows from the
parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.base.context import no_note
from compressor.base.errors import SrkdError
from compressor.base.processes import Processes
from compressor.data.batches import Batch, WiderPatches
from compressor.models.networks.base import ImageModel, Network, Spec
from compressor.models.networks.meta_device import LiveBytes, macs_of
from compressor.models.networks.registry import build
from compressor.models.quantisation.description import Quantisation
from compressor.teachers.foreign import ForeignFacts, ForeignModel
from compressor.training.losses import compute_losses
from compressor.training.networks import build_networks
from compressor.training.speed import PLAIN_MODE
from compressor.training.stage import Role, Stage
from compressor.training.state import State, learnt_parameters
from compressor.training.step import Step


@dataclass(frozen=True)
class Memory:
    """The memory of a step: bytes in fp32, without torch and its libraries, the images, and a foreign teacher.

    `trained` are the weights being trained, `frozen` those of the teacher and of helpers; `activations` exist between
    forward and backward pass; `peak` is the maximum of everything that exists at once.
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
            "weights, gradients, optimiser and EMA": learning,
            "frozen networks": self.frozen,
            "activations": self.activations,
        }
        sizes = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in parts.items() if size)
        return f"about {self.peak / 1e6:.0f} MB at the peak of a step ({sizes}), images and torch itself apart"


@dataclass(frozen=True)
class Macs:
    """The multiply-accumulates of a step, over all its updates.

    `frozen` are those of the frozen teacher's forward passes, `helper_forwards` those of the forward passes through
    helpers (φ); `total` includes these and everything else, also backward passes (also through helpers).
    """

    total: int
    frozen: int
    helper_forwards: int


@dataclass(frozen=True)
class Footprint:
    """The footprint of one step; `taps` are the teacher's features in use, `helper_forwards` passes through φ."""

    student_forwards: int
    teacher_forwards: int
    helper_forwards: int
    taps: tuple[str, ...]
    macs: Macs
    memory: Memory


@dataclass(frozen=True)
class BatchShape:
    """The shape of a step's batch; without `labels` the teacher's outputs are the labels.

    `teacher_side` is the side of the windows around the patches that the teacher runs on; None: the patches.
    """

    batch: int
    lr_patch: int
    labels: bool = True
    teacher_side: int | None = None


def footprint(
    stage: Stage,
    student: Spec,
    teacher: ImageModel | None,
    shape: BatchShape,
    *,
    quantisation: Quantisation | None = None,
) -> Footprint:
    """Return the cost of a step of `stage`, from shapes in fp32, not compiled; `quantisation` is the student's."""
    stage = replace(stage, mode=PLAIN_MODE)
    with torch.device("meta"), _Meter() as live:
        frozen = None if teacher is None else _on_meta(teacher)
        state = _begin_state(stage, build(student, quantisation=quantisation), frozen)
        networks = build_networks(stage, state, frozen, no_note, Processes())
        side, scale = shape.lr_patch, student.scale
        lr = torch.empty(shape.batch, 3, side, side)
        hr = torch.empty(shape.batch, 3, side * scale, side * scale) if shape.labels else None
        inputs = [lr] if hr is None else [lr, hr]
        wider = None
        if shape.teacher_side is not None:
            windows = torch.empty(shape.batch, 3, shape.teacher_side, shape.teacher_side)
            wider = WiderPatches(windows, side, ((0, 0),) * shape.batch)
            inputs.append(windows)
        if networks.teacher is not None and not networks.teacher.trains:
            live.follow("frozen", networks.teacher.model)
        for helper in networks.helpers.values():
            for module in helper.children():
                live.follow("helper", module)
        before, activations = live.bytes, 0
        for update in range(stage.updates):
            begin = live.bytes
            losses = compute_losses(stage, state, Step(0, 0, Batch(lr, hr, wider=wider), networks, update))
            activations = max(activations, live.bytes - begin)
            torch.autograd.backward(losses.total)
    weights, learnt = list(state.trained_network.parameters()), learnt_parameters(state.modules)
    trained, modules = _bytes(weights), _bytes(learnt)
    gradients = trained + modules
    kept = stage.optimiser.state_bytes([*weights, *learnt])
    memory = Memory(
        trained=trained,
        modules=modules,
        gradients=gradients,
        optimiser=kept,
        average=trained,
        frozen=before - gradients - sum(images.nbytes for images in inputs),
        activations=activations,
        peak=live.peak + kept + trained,
    )
    frozen, helper, teacher_runner = live.parts["frozen"], live.parts["helper"], networks.teacher
    requests = [] if teacher_runner is None else teacher_runner.requests
    return Footprint(
        student_forwards=sum(runner.forwards for runner in networks.students),
        teacher_forwards=0 if teacher_runner is None else teacher_runner.forwards,
        helper_forwards=helper.forwards,
        taps=tuple(sorted({tap for request in requests for tap in set.union(*request)})),
        macs=Macs(live.macs, frozen.macs, helper.macs),
        memory=memory,
    )


def peak_bytes(loss: Callable[..., torch.Tensor], *shapes: Sequence[int]) -> int:
    """Return the peak bytes of a loss of tensors of these shapes, with its backward pass, without the tensors."""
    with torch.device("meta"), _Meter() as live:
        inputs = [torch.empty(tuple(shape), requires_grad=True) for shape in shapes]
        before = live.bytes
        torch.autograd.backward(loss(*inputs))
    peak: int = live.peak - before
    return peak


def _begin_state(stage: Stage, student: Network, teacher: ImageModel | None) -> State:
    """Return the state at the start of a stage, without optimiser and average, which neither pass uses."""
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


@dataclass
class _Part:
    """The number of forward passes through some modules, and their multiply-accumulates."""

    forwards: int = 0
    macs: int = 0


class _Meter(LiveBytes):  # type: ignore[no-untyped-call]
    """A meter of live tensors' bytes with their peak, and of multiply-accumulates, total and in some modules."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.parts = {"frozen": _Part(), "helper": _Part()}
        self._within: list[_Part] = []

    def follow(self, name: str, module: nn.Module) -> None:
        """Count the passes through a module (which must not outlive the meter) as those of a part."""
        part = self.parts[name]

        def enter(*_: object) -> None:
            part.forwards += 1
            self._within.append(part)

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(lambda *_: self._leave(), always_call=True)

    def _leave(self) -> None:
        self._within.pop()

    def after(self, function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> None:
        macs = macs_of(function, arguments, options, result)
        self.macs += macs
        for innermost in self._within[-1:]:
            innermost.macs += macs
        super().after(function, arguments, options, result)


def _on_meta(teacher: ImageModel) -> ImageModel:
    """Return the teacher on the meta device; a foreign one returns images of the right size without computing."""
    if teacher.network is not None:
        network = teacher.network
        return build(network.spec, quantisation=network.quantisation).requires_grad_(False)
    facts = ForeignFacts(teacher.backend, teacher.architecture, teacher.descriptor, teacher.params)
    return ForeignModel(_ShapeOnly(facts)).move_to(torch.device("meta"))


@dataclass(frozen=True)
class _ShapeOnly:
    """A program that returns images of the right size without computing."""

    facts: ForeignFacts

    def run(self, images: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = images.shape
        scale = self.facts.descriptor.scale
        return images.new_empty(batch, channels, height * scale, width * scale)

    def move_to(self, device: torch.device) -> torch.device:
        return device

    def digest(self, settings: str) -> str:
        return ""

    def companions(self) -> Iterable[Path]:
        return ()


def _bytes(parameters: Sequence[nn.Parameter]) -> int:
    return sum(parameter.nbytes for parameter in parameters)
