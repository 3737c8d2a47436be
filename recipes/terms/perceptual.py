"""φ: the frozen networks in whose features images are compared, VGG-19 or the teacher's own first blocks.

    VGG-19     ReLU 1_1, 2_1, 3_1, 4_1, 5_1: outputs of the layers 1, 6, 11, 20, 29, fed 255·image without ImageNet's
               mean and deviation (CSD, loss/contrast_loss.py; Simonyan and Zisserman, 2015, configuration E)
    teacher    a copy of the teacher's stem and first blocks, a level after each block: at least one, at most five, as
               many as cost no more than VGG-19 on the same image ([choice]: for where no VGG-19 is at hand)

VGG-19 is written here without torchvision; names and shapes are those of its file (`features.N.weight`), so that
vgg19-dcbb9e9d.pth loads as it is. Its ImageNet weights were never at hand where this was written: names, shapes, taps
and cost are tested against the published layer list, the loader with files of random weights. No figure here was
obtained with the real ones.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.base.errors import SrkdError
from compressor.models.checkpoints.files import open_container
from compressor.models.checkpoints.load import unwrap
from compressor.models.checkpoints.pickles import TensorRef
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.layers import MeanShift
from compressor.models.networks.registry import build
from compressor.models.taps import read_taps
from recipes.terms.ratio import LEVEL_WEIGHTS

VGG19_LAYERS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool", 512, 512, 512, 512, "pool", 512)
"""Configuration E up to conv5_1: a number is a 3×3 convolution to so many channels and a ReLU."""
VGG19_TAPS = (1, 6, 11, 20, 29)
COMPARED_AT = (192, 192)
"""The image for which the cost of φ is counted: an HR patch of the published runs."""


class Phi(nn.Module, ABC):
    """Images in [0,1] → one feature map a level. Frozen and in eval mode for good; gradients pass to the images."""

    levels: int

    def freeze(self) -> None:
        """No parameter takes part in training, nor keeps what the network it was copied from had gathered."""
        self.zero_grad(set_to_none=True)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Phi:
        return super().train(False)

    @abstractmethod
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]: ...


class VGG19(Phi):
    levels = len(VGG19_TAPS)

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        inputs = 3
        for layer in VGG19_LAYERS:
            if isinstance(layer, str):
                self.features.append(nn.MaxPool2d(2))
                continue
            # Not in place: a level is still read when the next layer runs.
            self.features.append(nn.Conv2d(inputs, layer, 3, padding=1)).append(nn.ReLU())
            inputs = layer
        self.freeze()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """A grey image is looked at as three equal channels."""
        x = 255 * images.expand(-1, 3, -1, -1)
        seen = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in VGG19_TAPS:
                seen.append(x)
        return tuple(seen)


def load_vgg19(path: Path, *, sha256: str = "") -> VGG19:
    """From torchvision's file of the whole VGG-19 (later layers and the classifier are left out), or of its features.

    The file is opened without running code of it. `sha256`: what the file's must begin with.
    """
    # On meta nothing is drawn from torch's global generator for weights that the file replaces.
    with torch.device("meta"):
        vgg = VGG19()
    try:
        with open_container(path) as container:
            if not container.sha256.startswith(sha256):
                raise SrkdError(f"its SHA-256 begins with {container.sha256[:8]}, not with {sha256}: download it again")
            refs = unwrap(container.content).refs
            state = {
                name: container.tensor(_fitting(refs, name, ours.shape)).float().contiguous()
                for name, ours in vgg.state_dict().items()
            }
    except SrkdError as error:
        raise SrkdError(f"{path}: {error}") from error
    vgg.load_state_dict(state, assign=True)
    vgg.freeze()
    return vgg


def _fitting(refs: Mapping[str, TensorRef], name: str, shape: torch.Size) -> TensorRef:
    found = refs.get(name)
    if found is None or tuple(found.shape) != tuple(shape):
        what = "missing" if found is None else f"of shape {str(tuple(found.shape))[:60]}"
        raise SrkdError(f"no VGG-19: {name} is {what}, not of {tuple(shape)}: give torchvision's vgg19-dcbb9e9d.pth")
    return found


class _Reached(Exception):
    """Ends a forward pass early."""


class TeacherPhi(Phi):
    """The teacher's stem and first blocks; what lies behind them is not even copied."""

    def __init__(self, teacher: Network) -> None:
        super().__init__()
        plan = plan_teacher_phi(teacher.spec)
        self.levels = len(plan.macs)
        self.taps = tuple(f"body[{k}]" for k in range(self.levels))
        self.network = _first_part(teacher, plan.modules)
        self.freeze()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        last = self.network.get_submodule(self.network.taps[self.taps[-1]].module)
        with read_taps(self.network, self.taps) as features:
            # Registered after the tap's own hook, so the last level is there when this one ends the pass.
            handle = last.register_forward_hook(_stop)
            try:
                self.network(images)
            except _Reached:
                return tuple(features[tap] for tap in self.taps)
            finally:
                handle.remove()
        raise AssertionError("the last level was never reached")


def _stop(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _Reached


@dataclass(frozen=True)
class TeacherPhiPlan:
    """What φ = teacher takes: MACs up to each of its levels, and the modules that run until the last."""

    macs: tuple[int, ...]
    modules: frozenset[str]


@lru_cache(maxsize=64)
def plan_teacher_phi(spec: Spec) -> TeacherPhiPlan:
    """Count on the meta device, as compressor.models.cost does: convolutions, linear layers and attention products."""
    bound = vgg19_macs()
    macs, modules = _levels(spec)
    count = max(1, sum(cost <= bound for cost in macs))
    return TeacherPhiPlan(tuple(macs[:count]), frozenset(modules[count - 1]))


@lru_cache(maxsize=1)
def vgg19_macs() -> int:
    """13.31 G for 192×192."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        VGG19()(torch.empty(1, 3, *COMPARED_AT))
    return int(counter.get_total_flops()) // 2


def _levels(spec: Spec) -> tuple[list[int], list[list[str]]]:
    """At each of the first blocks' ends: MACs so far without mean shift, and the names of the modules that have run."""
    from torch.utils.flop_counter import FlopCounterMode

    macs: list[int] = []
    modules: list[list[str]] = []
    ran: list[str] = []
    shifts: list[int] = []
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = build(spec)
        blocks = [tap for tap in network.taps if tap.startswith("body[")][: len(LEVEL_WEIGHTS)]
        for name, module in network.named_modules():
            module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
            if isinstance(module, MeanShift):
                module.register_forward_pre_hook(lambda *_: shifts.append(-counter.get_total_flops()))
                module.register_forward_hook(lambda *_: shifts.append(counter.get_total_flops()))
        for block in blocks:

            def reached(*_: object) -> None:
                macs.append((counter.get_total_flops() - sum(shifts)) // 2)
                modules.append(list(ran))

            network.get_submodule(network.taps[block].module).register_forward_hook(reached)
        network(torch.empty(1, network.descriptor.channels, *COMPARED_AT))
    return macs, modules


def _first_part(teacher: Network, ran: frozenset[str]) -> Network:
    """A copy of the teacher without the modules that do not run."""
    used = {name for run in ran for name in _with_outer(run)}
    left_out = {id(module): nn.Identity() for name, module in teacher.named_modules() if name not in used}
    # deepcopy takes what its memo already holds for an object instead of copying it.
    part = copy.deepcopy(teacher, dict(left_out))
    assert isinstance(part, Network)
    return part


def _with_outer(name: str) -> list[str]:
    pieces = name.split(".")
    return ["", *(".".join(pieces[:end]) for end in range(1, len(pieces) + 1))]
