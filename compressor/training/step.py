"""One training step as a method uses it: a batch, and networks that run on request and at most once per input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TypeAlias, cast

import torch
from torch import nn

from compressor.base.errors import SrkdError
from compressor.base.processes import Processes
from compressor.data.batches import Batch, WiderPatches
from compressor.images.resize import imresize
from compressor.models.networks.base import ImageModel, Network
from compressor.models.networks.taps import read_taps, resolve_tap

ForwardFunction: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

NO_TEACHER = "this recipe needs a teacher and there is none: add --teacher FILE"


@dataclass(frozen=True)
class Forward:
    """A network's output for one input, its features, and the `images` that its own tail makes of some features."""

    sr: torch.Tensor
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    images: dict[str, torch.Tensor] = field(default_factory=dict)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Forward:
        """Return the changed output, features and images."""
        features, images = (
            {tap: change(tensor) for tap, tensor in tensors.items()} for tensors in (self.features, self.images)
        )
        return Forward(change(self.sr), features, images)


class Runner:
    """A model in a precision, trained or frozen, that caches its outputs within a step."""

    def __init__(
        self,
        model: ImageModel,
        *,
        trains: bool,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        forward: ForwardFunction | None = None,
        compiled: ForwardFunction | None = None,
    ) -> None:
        """Create a runner. `forward` uses another network's weights; `compiled` runs if no features are requested."""
        self.model, self.trains, self.autocast = model, trains, autocast
        self.forward: ForwardFunction = model if forward is None else forward
        self.compiled: ForwardFunction = self.forward if compiled is None else compiled
        self.outputs: dict[int, tuple[torch.Tensor, Forward]] = {}
        """The outputs of this step by the identity of their input, which is stored with them to keep it alive."""
        self.wider: tuple[torch.Tensor, WiderPatches] | None = None
        """An input of this step, and windows around it: the model runs on these, and its results are cropped."""
        self.requests: list[tuple[set[str], set[str]]] = []
        """Taps and images requested so far of the first input of a step, of the second, and so on."""
        self.forwards = 0

    @property
    def network(self) -> Network:
        """The network, for its spec, taps and parts; an error for a model that only gives outputs."""
        return self.model.require_network("features")

    def __call__(self, lr: torch.Tensor, taps: Sequence[str], images: Sequence[str] = ()) -> Forward:
        entry = self.outputs.get(id(lr))
        if entry is not None and set(taps) <= entry[1].features.keys() and set(images) <= entry[1].images.keys():
            return entry[1]
        # Every tap and image requested so far of the step's n-th input, so that one forward pass serves all.
        order = len(self.outputs) if entry is None else list(self.outputs).index(id(lr))
        while len(self.requests) <= order:
            self.requests.append((set(), set()))
        all_taps, all_images = self.requests[order]
        all_taps.update(taps)
        all_images.update(images)
        forward = self._run(lr, sorted(all_taps), sorted(all_images))
        if entry is not None and not self.trains:
            forward = replace(forward, sr=entry[1].sr)  # a label of the teacher cache
        self.outputs[id(lr)] = (lr, forward)
        return forward

    def run_together(self, inputs: Sequence[torch.Tensor]) -> None:
        """Run several inputs in one pass, which is cheaper than one each; later calls use the cached outputs.

        Inputs of different sizes, inputs with requested features or images, and models that are no srkd network are
        left to those calls.
        """
        for lr in inputs:
            if self._wider_of(lr) is not None:
                self(lr, ())
        fresh = [lr for lr in inputs if id(lr) not in self.outputs]
        first = len(self.outputs)
        requests = self.requests[first : first + len(fresh)]
        sizes = {lr.shape[1:] for lr in fresh}
        if len(fresh) < 2 or len(sizes) > 1 or any(map(any, requests)) or self.model.network is None:
            return
        forward = self._run(torch.cat(fresh), (), ())
        self.forwards += len(fresh) - 1
        for lr, sr in zip(fresh, torch.split(forward.sr, [len(lr) for lr in fresh]), strict=True):
            self.outputs[id(lr)] = (lr, Forward(sr))

    def _wider_of(self, lr: torch.Tensor) -> WiderPatches | None:
        return None if self.wider is None or self.wider[0] is not lr else self.wider[1]

    def _run(self, lr: torch.Tensor, taps: Sequence[str], images: Sequence[str]) -> Forward:
        wider = self._wider_of(lr)
        lr = lr if wider is None else wider.lr
        with (
            torch.enable_grad() if self.trains else torch.no_grad(),
            self.autocast(),
            read_taps(self.network, taps) if taps else nullcontext(dict[str, torch.Tensor]()) as features,
            self._read_tail_inputs(images) as tail_inputs,
        ):
            sr = self.forward(lr) if taps or images else self.compiled(lr)
            finished = {tap: self._finish(tap, tail_inputs, lr, sr).float() for tap in images}
        self.forwards += 1
        forward = Forward(sr.float(), dict(features), finished)
        if wider is not None:
            forward = forward.map(wider.crop)
        return forward if self.trains else forward.map(torch.Tensor.detach)

    def _read_tail_inputs(self, images: Sequence[str]) -> AbstractContextManager[dict[str, torch.Tensor]]:
        if not images:
            return nullcontext({})
        if self.forward is not self.model:
            raise SrkdError("a student inside the teacher has no intermediate images: its tail is a slice of another's")
        return read_taps(self.network, ("head", *images), padded=True)

    def _finish(
        self, tap: str, tail_inputs: Mapping[str, torch.Tensor], lr: torch.Tensor, sr: torch.Tensor
    ) -> torch.Tensor:
        """Return the image that the tail computes from a feature; for the last block it is the output itself."""
        if resolve_tap(self.network, tap) == resolve_tap(self.network, "rel(1)"):
            return sr
        return self.model.as_output(self.network.finish(tail_inputs[tap], tail_inputs["head"], lr))


@dataclass(frozen=True)
class StepNetworks:
    """The networks of a step: the students (the first one is exported), the teacher, and the methods' own modules and
    frozen helpers, by method name.
    """

    students: Sequence[Runner]
    teacher: Runner | None = None
    modules: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    helpers: Mapping[str, nn.ModuleDict] = field(default_factory=dict)
    processes: Processes = field(default_factory=Processes)


class Step:
    """A training step: `step.student()` and `step.teacher()` run on the batch's LR image, or on another input."""

    def __init__(self, number: int, seed: int, batch: Batch, networks: StepNetworks, part: int = 0) -> None:
        """Create a step. `part` is the index of the update; each has the same batch and runs the networks anew."""
        self.number, self.seed, self.part = number, seed, part
        self.lr, self._hr, self._step_networks = batch.lr, batch.hr, networks
        self.modules = cast(Mapping[str, nn.ModuleDict], networks.modules)
        self.helpers = networks.helpers
        self.observed: dict[str, torch.Tensor] = {}
        self.uses_features = False
        """Whether features, or images of them, have been asked for."""
        self._after_update: list[Callable[[], object]] = []
        self._zoom_out: torch.Tensor | None = None
        for runner in networks.students:
            runner.outputs.clear()
        if networks.teacher is not None:
            # Outputs from a teacher cache; features of the same input still run the network.
            labels = batch.labels
            networks.teacher.outputs = {} if labels is None else {id(self.lr): (self.lr, Forward(labels))}
            networks.teacher.wider = None if batch.wider is None else (batch.lr, batch.wider)

    @property
    def hr(self) -> torch.Tensor:
        """The label of the batch: its HR patches or, without them, the teacher's output for the LR patches."""
        return self.teacher().sr if self._hr is None else self._hr

    def student(
        self, lr: torch.Tensor | None = None, taps: Sequence[str] = (), branch: int = 0, *, images: Sequence[str] = ()
    ) -> Forward:
        """Return the student's output; with several jointly trained students, that of `branch`.

        `images` are taps of the body whose features the network's own tail finishes.
        """
        self.uses_features |= bool(taps or images)
        return self._step_networks.students[branch](self.lr if lr is None else lr, taps, images)

    @property
    def branches(self) -> int:
        """The number of jointly trained students."""
        return len(self._step_networks.students)

    def precision(self) -> AbstractContextManager[object]:
        """Return the context of the student's precision, for a method's modules: features may be bf16, weights not."""
        return self._step_networks.students[0].autocast()

    def teacher(
        self, lr: torch.Tensor | None = None, taps: Sequence[str] = (), *, images: Sequence[str] = ()
    ) -> Forward:
        """Return the teacher's output, unclipped, and without gradients unless it is trained with the student."""
        self.uses_features |= bool(taps or images)
        return self._teacher(self.lr if lr is None else lr, taps, images)

    def run_together(self, student: Sequence[torch.Tensor] = (), teacher: Sequence[torch.Tensor] = ()) -> None:
        """Run a network's inputs in one pass if possible; `student(lr)` and `teacher(lr)` then use the outputs."""
        self._step_networks.students[0].run_together(student)
        if teacher:
            self._teacher.run_together(teacher)

    @property
    def student_network(self) -> Network:
        """The student network, for its modules; to run it use `student`."""
        return self._step_networks.students[0].network

    @property
    def networks(self) -> tuple[Network, Network]:
        """Student and teacher, for their specs and taps; to run them use `student` and `teacher`."""
        return self._step_networks.students[0].network, self._teacher.network

    @property
    def _teacher(self) -> Runner:
        if self._step_networks.teacher is None:
            raise SrkdError(NO_TEACHER)
        return self._step_networks.teacher

    def observe(self, name: str, value: torch.Tensor) -> None:
        """Log a mean over this process's samples that is not a loss, under `seen/NAME`."""
        self.observed[name] = value.detach()

    def after_update(self, act: Callable[[], object]) -> None:
        """Call `act` after the optimiser's update, so that a skipped step does not change a method's modules."""
        self._after_update.append(act)

    def finish_update(self) -> None:
        for act in self._after_update:
            act()

    def zoom_out(self) -> torch.Tensor:
        """Return the LR batch downscaled once more by the scale, neither rounded nor clipped: an input of no label."""
        if self._zoom_out is None:
            self._zoom_out = imresize(self.lr, 1 / self.scale)
        return self._zoom_out

    @property
    def scale(self) -> int:
        return self._step_networks.students[0].model.descriptor.scale

    @property
    def samples(self) -> range:
        """The global indices of this process's samples, which key the random numbers."""
        first = self._step_networks.processes.rank.index * len(self.lr)
        return range(first, first + len(self.lr))

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the rows of the whole global batch, in its order, for a tensor with one row per sample: for terms that
        compare samples.

        Means over samples do not need it. It is differentiable, and every process must call it in the same order.
        """
        return self._step_networks.processes.all_gather(tensor)
