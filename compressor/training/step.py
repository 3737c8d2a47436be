"""One training step as a method sees it: a batch, and networks that run when asked and at most once an input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType

import torch

from compressor.data.batches import Labelled, View
from compressor.errors import SrkdError
from compressor.networks.base import Network
from compressor.resize import imresize
from compressor.taps import read_taps
from compressor.teacher import Teacher
from compressor.training.compiled import Forwarder
from compressor.training.processes import Processes


@dataclass(frozen=True)
class Forward:
    """What a network gave for one input."""

    sr: torch.Tensor
    features: dict[str, torch.Tensor] = field(default_factory=dict)


class Runner:
    """A network in a precision, trained or frozen, that remembers what it gave within a step."""

    def __init__(
        self,
        network: Network,
        *,
        trains: bool,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        forward: Forwarder | None = None,
    ) -> None:
        """`forward` runs in place of the network where no features are asked for."""
        self.network, self.trains, self.autocast = network, trains, autocast
        self.forward: Forwarder = network if forward is None else forward
        self.memory: dict[int, tuple[torch.Tensor, Forward]] = {}
        self.forwards = 0

    def forget(self) -> None:
        self.memory.clear()

    def remember(self, known: Labelled) -> None:
        """Take an output that was made before; features of the same input still ask the network."""
        self.memory[id(known.lr)] = (known.lr, Forward(known.sr))

    def __call__(self, lr: torch.Tensor, taps: Sequence[str]) -> Forward:
        known = self.memory.get(id(lr))
        if known is not None and set(taps) <= known[1].features.keys():
            return known[1]
        with (
            torch.enable_grad() if self.trains else torch.no_grad(),
            self.autocast(),
            self._features(taps) as features,
        ):
            sr = self.network(lr) if taps else self.forward(lr)
        self.forwards += 1
        if not self.trains:
            sr, features = sr.detach(), {tap: feature.detach() for tap, feature in features.items()}
        forward = Forward(sr.float(), dict(features))
        self.memory[id(lr)] = (lr, forward)
        return forward

    def _features(self, taps: Sequence[str]) -> AbstractContextManager[dict[str, torch.Tensor]]:
        """A foreign teacher has no features, and says so when they are asked for."""
        if taps and isinstance(self.network, Teacher):
            return read_taps(self.network.own("features"), taps)
        return read_taps(self.network, taps)


class Step:
    """`step.student()` and `step.teacher()` run on the batch's LR image, or on any input given."""

    def __init__(
        self,
        number: int,
        seed: int,
        lr: torch.Tensor,
        hr: torch.Tensor | None,
        student: Runner,
        teacher: Runner | None,
        labels: Mapping[View, Labelled] = MappingProxyType({}),
        processes: Processes | None = None,
    ) -> None:
        self.number, self.seed = number, seed
        self.lr, self._hr = lr, hr
        self._student, self._teacher, self._processes = student, teacher, processes or Processes()
        self._zoomed_out = labels["zoom-out"].lr if "zoom-out" in labels else None
        student.forget()
        if teacher is not None:
            teacher.forget()
            for known in labels.values():
                teacher.remember(known)

    @property
    def hr(self) -> torch.Tensor:
        """The label of the batch: its HR patches or, where none exist, what the teacher makes of the LR patches."""
        return self.teacher().sr if self._hr is None else self._hr

    def student(self, lr: torch.Tensor | None = None, taps: Sequence[str] = ()) -> Forward:
        return self._student(self.lr if lr is None else lr, taps)

    def teacher(self, lr: torch.Tensor | None = None, taps: Sequence[str] = ()) -> Forward:
        """The frozen teacher's forward, without gradients and unclipped."""
        if self._teacher is None:
            raise SrkdError("this recipe needs a teacher and none was given: add --teacher FILE")
        return self._teacher(self.lr if lr is None else lr, taps)

    def zoomed_out(self) -> torch.Tensor:
        """The LR batch shrunk once more by the scale, neither rounded nor clipped: an input nobody has labelled.

        From a teacher cache it is a crop of the shrunk image, so that it fits the output that is kept of it.
        """
        if self._zoomed_out is None:
            self._zoomed_out = imresize(self.lr, 1 / self._student.network.descriptor.scale)
        return self._zoomed_out

    @property
    def samples(self) -> range:
        """The global indices of this process's samples: what random numbers are keyed by."""
        first = self._processes.place.rank * len(self.lr)
        return range(first, first + len(self.lr))

    def everyone(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor with a row a sample, for the whole global batch in its order: for terms that compare samples.

        Means over samples need it not. It is differentiable, and every process must ask for it at the same place.
        """
        return self._processes.everyone(tensor)
