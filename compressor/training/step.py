"""A network's forward through torch.compile, where that pays: long runs on a GPU.

On CUDA the mode is `reduce-overhead`: kernels are fused and each forward and backward is recorded once as a CUDA graph
and replayed, so that small convolutions no longer wait for Python. On CPU compilation adds nothing to a training step
of these networks (measured: 1.0 times), so there it happens only when asked for.

One training step as a method sees it: a batch, and networks that run when asked and at most once an input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

import torch
from torch import nn

from compressor.base.context import Note
from compressor.base.errors import SrkdError
from compressor.base.processes import Processes
from compressor.data.batches import Batch, Labelled
from compressor.images.resize import imresize
from compressor.models.networks.base import ImageModel, Network
from compressor.models.taps import read_taps, resolve_tap

Compile = Literal["auto", "on", "off"]
Forwarder: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

WORTH_STEPS = 2000
"""Compilation takes about a minute: shorter runs are over sooner without."""


def wants_compilation(asked: Compile, *, device: torch.device, steps: int) -> bool:
    if asked == "auto":
        return device.type == "cuda" and steps >= WORTH_STEPS
    return asked == "on"


class CompiledAtFirst:
    """`network`'s forward: compiled at the first call, eager for good (and one line says so) where that fails."""

    def __init__(self, network: Network, *, trains: bool, announce: Note) -> None:
        self.network, self.trains, self.announce = network, trains, announce
        self._forward: Forwarder | None = None

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        if self._forward is None:
            self._forward = self._compiled(lr)
        return self._forward(lr)

    def _compiled(self, lr: torch.Tensor) -> Forwarder:
        """Tried forward and backward in the caller's precision, because backward is compiled on its own."""
        mode = "reduce-overhead" if lr.device.type == "cuda" else "default"
        forward = cast(Forwarder, torch.compile(self.network, mode=mode, dynamic=False))
        try:
            sr = forward(lr)
            if self.trains:
                torch.autograd.backward(sr.float().mean())
                self.network.zero_grad(set_to_none=True)
        except Exception as error:  # noqa: BLE001 - a compiler raises what its back ends raise; eager always works
            told = str(error).strip().splitlines() or [type(error).__name__]
            self.announce(f"torch.compile failed, so training goes on without it: {told[0][:160]}")
            torch.compiler.reset()
            return self.network
        return forward


def begin_step() -> None:
    """Tell CUDA graphs that outputs of the last step may be overwritten."""
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


NO_TEACHER = "this recipe needs a teacher and none was given: add --teacher FILE"


@dataclass(frozen=True)
class Forward:
    """What a network gave for one input; `images` are what its own tail makes of the features at some taps."""

    sr: torch.Tensor
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    images: dict[str, torch.Tensor] = field(default_factory=dict)

    def detached(self) -> Forward:
        features, images = (
            {tap: tensor.detach() for tap, tensor in tensors.items()} for tensors in (self.features, self.images)
        )
        return Forward(self.sr.detach(), features, images)


class Runner:
    """A network in a precision, trained or frozen, that remembers what it gave within a step."""

    def __init__(
        self,
        model: ImageModel,
        *,
        trains: bool,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        forward: Forwarder | None = None,
        compiled: Forwarder | None = None,
    ) -> None:
        """`forward` runs the network on weights that are not its own; `compiled` where no features are asked for."""
        self.model, self.trains, self.autocast = model, trains, autocast
        self.forward: Forwarder = model if forward is None else forward
        self.compiled: Forwarder = self.forward if compiled is None else compiled
        self.memory: dict[int, tuple[torch.Tensor, Forward]] = {}
        self.wanted: list[tuple[set[str], set[str]]] = []
        """Taps and images asked of the first input of a step, of the second, and so on."""
        self.forwards = 0

    @property
    def network(self) -> Network:
        """The network, for its spec, taps and parts; a model that gives outputs only refuses."""
        return self.model.require_network("features")

    def forget(self) -> None:
        self.memory.clear()

    def remember(self, known: Labelled) -> None:
        """Take an output that was made before; features of the same input still ask the network."""
        self.memory[id(known.lr)] = (known.lr, Forward(known.sr))

    def __call__(self, lr: torch.Tensor, taps: Sequence[str], images: Sequence[str] = ()) -> Forward:
        known = self.memory.get(id(lr))
        if known is not None and set(taps) <= known[1].features.keys() and set(images) <= known[1].images.keys():
            return known[1]
        taps, images = self._all_wanted(lr, taps, images)
        with (
            torch.enable_grad() if self.trains else torch.no_grad(),
            self.autocast(),
            self._features(taps) as features,
            self._unfinished(images) as unfinished,
        ):
            sr = self.forward(lr) if taps or images else self.compiled(lr)
            finished = {tap: self._finished(tap, unfinished, lr, sr).float() for tap in images}
        self.forwards += 1
        forward = Forward(sr.float(), dict(features), finished)
        if not self.trains:
            forward = forward.detached()
        self.memory[id(lr)] = (lr, forward)
        return forward

    def _all_wanted(
        self, lr: torch.Tensor, taps: Sequence[str], images: Sequence[str]
    ) -> tuple[Sequence[str], Sequence[str]]:
        """What was ever asked of this input, counted by its place in the step: one forward then serves every method."""
        place = list(self.memory).index(id(lr)) if id(lr) in self.memory else len(self.memory)
        while len(self.wanted) <= place:
            self.wanted.append((set(), set()))
        features, finished = self.wanted[place]
        features.update(taps)
        finished.update(images)
        return sorted(features), sorted(finished)

    def _features(self, taps: Sequence[str]) -> AbstractContextManager[dict[str, torch.Tensor]]:
        return read_taps(self.network, taps) if taps else nullcontext({})

    def _unfinished(self, images: Sequence[str]) -> AbstractContextManager[dict[str, torch.Tensor]]:
        if not images:
            return nullcontext({})
        if self.forward is not self.model:
            raise SrkdError("a student inside the teacher has no intermediate images: its tail is a slice of another's")
        return read_taps(self.network, ("head", *images), padded=True)

    def _finished(
        self, tap: str, unfinished: Mapping[str, torch.Tensor], lr: torch.Tensor, sr: torch.Tensor
    ) -> torch.Tensor:
        """What lies behind the last block is the image itself, and is not made twice."""
        if resolve_tap(self.network, tap) == resolve_tap(self.network, "rel(1)"):
            return sr
        return self.network.finish(unfinished[tap], unfinished["head"], lr)


@dataclass(frozen=True)
class StepNetworks:
    """Who plays in a step: the students (the first is the one that leaves the run), the teacher, and the methods' own
    modules and frozen helpers, by the method's name."""

    students: Sequence[Runner]
    teacher: Runner | None = None
    modules: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    helpers: Mapping[str, nn.ModuleDict] = field(default_factory=dict)
    processes: Processes = field(default_factory=Processes)


class Step:
    """`step.student()` and `step.teacher()` run on the batch's LR image, or on any input given."""

    def __init__(self, number: int, seed: int, batch: Batch, cast: StepNetworks, part: int = 0) -> None:
        """`part` counts the updates of a step; each sees the same batch and runs the networks anew."""
        self.number, self.seed, self.part = number, seed, part
        self.lr, self._hr, self._cast = batch.lr, batch.hr, cast
        self.modules, self.helpers = cast.modules, cast.helpers
        self.observed: dict[str, torch.Tensor] = {}
        self._afterwards: list[Callable[[], None]] = []
        self._zoomed_out = batch.labels["zoom-out"].lr if "zoom-out" in batch.labels else None
        for runner in cast.students:
            runner.forget()
        if cast.teacher is not None:
            cast.teacher.forget()
            for known in batch.labels.values():
                cast.teacher.remember(known)

    @property
    def hr(self) -> torch.Tensor:
        """The label of the batch: its HR patches or, where none exist, what the teacher makes of the LR patches."""
        return self.teacher().sr if self._hr is None else self._hr

    def student(
        self, lr: torch.Tensor | None = None, taps: Sequence[str] = (), branch: int = 0, *, images: Sequence[str] = ()
    ) -> Forward:
        """The student's forward; of several that are trained together, the one at `branch`.

        `images` are taps of the body whose features the network's own tail is to finish.
        """
        return self._cast.students[branch](self.lr if lr is None else lr, taps, images)

    @property
    def branches(self) -> int:
        """How many students are trained together."""
        return len(self._cast.students)

    def precision(self) -> AbstractContextManager[object]:
        """The student's precision, for a method's own modules: a feature may be bf16, and their weights are not."""
        return self._cast.students[0].autocast()

    def teacher(
        self, lr: torch.Tensor | None = None, taps: Sequence[str] = (), *, images: Sequence[str] = ()
    ) -> Forward:
        """The teacher's forward, unclipped; without gradients unless it is trained with the student."""
        if self._cast.teacher is None:
            raise SrkdError(NO_TEACHER)
        return self._cast.teacher(self.lr if lr is None else lr, taps, images)

    @property
    def networks(self) -> tuple[Network, Network]:
        """Student and teacher, for their specs and taps; what they give is asked of `student` and `teacher`."""
        if self._cast.teacher is None:
            raise SrkdError(NO_TEACHER)
        return self._cast.students[0].network, self._cast.teacher.network

    def observe(self, name: str, value: torch.Tensor) -> None:
        """A mean over this process's samples that is no loss: logged as `seen/NAME`."""
        self.observed[name] = value.detach()

    def afterwards(self, act: Callable[[], None]) -> None:
        """Do `act` once the step has counted, so that a skipped one leaves no trace in what a method remembers."""
        self._afterwards.append(act)

    def counted(self) -> None:
        """The optimiser has moved."""
        for act in self._afterwards:
            act()

    def zoomed_out(self) -> torch.Tensor:
        """The LR batch shrunk once more by the scale, neither rounded nor clipped: an input nobody has labelled.

        From a teacher cache it is a crop of the shrunk image, so that it fits the output that is kept of it.
        """
        if self._zoomed_out is None:
            self._zoomed_out = imresize(self.lr, 1 / self.scale)
        return self._zoomed_out

    @property
    def scale(self) -> int:
        return self._cast.students[0].model.descriptor.scale

    @property
    def samples(self) -> range:
        """The global indices of this process's samples: what random numbers are keyed by."""
        first = self._cast.processes.place.rank * len(self.lr)
        return range(first, first + len(self.lr))

    def everyone(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor with a row a sample, for the whole global batch in its order: for terms that compare samples.

        Means over samples need it not. It is differentiable, and every process must ask for it at the same place.
        """
        return self._cast.processes.everyone(tensor)
