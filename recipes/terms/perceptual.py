"""φ, the frozen network whose features are used to compare images: VGG-19, or the teacher's first blocks.

    VGG-19     outputs of the layers 1, 6, 11, 20, 29, fed 255·image (CSD, loss/contrast_loss.py)
    teacher    a copy of the teacher's first blocks, a level after each: one to five, as many as cost no more than
               VGG-19 ([choice])

VGG-19 has the names and shapes of torchvision's file. No figure of srkd was obtained with its ImageNet weights.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.models.checkpoints.published import read_published
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.layers import MeanShift
from compressor.models.networks.registry import build
from compressor.models.networks.taps import read_taps

VGG19_BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
"""The blocks of configuration E (Simonyan and Zisserman, 2015): so many 3×3 convolutions to so many channels, each with
a ReLU, and a pooling."""
VGG19_TAPS = (1, 6, 11, 20, 29)
LEVEL_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""CSD's level weights v (contrast.py); their number limits the levels of φ."""
COMPARED_AT = (192, 192)
"""Image size at which the cost of φ is counted: an HR patch of the published runs."""
VGG19_MACS = 13_313_507_328
"""The multiply-accumulates of VGG-19 for such an image."""


class Phi(nn.Module, ABC):
    """A network from images in [0,1] to one feature map per level.

    It is always frozen and in eval mode; gradients pass through it to the images.
    """

    levels: int

    def freeze(self) -> None:
        """Freeze all parameters, and drop the gradients that a copied network may have."""
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
        for count, channels in VGG19_BLOCKS:
            for _ in range(count):
                # Not in place: a level is still used after the next layer has run.
                self.features.append(nn.Conv2d(inputs, channels, 3, padding=1)).append(nn.ReLU())
                inputs = channels
            self.features.append(nn.MaxPool2d(2))
        del self.features[VGG19_TAPS[-1] + 1 :]
        self.freeze()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the features of each level; a grey image is expanded to three equal channels."""
        x = 255 * images.expand(-1, 3, -1, -1)
        levels = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in VGG19_TAPS:
                levels.append(x)
        return tuple(levels)


def load_vgg19(path: Path, *, sha256: str = "") -> VGG19:
    """Load torchvision's file of the whole VGG-19, or of its features; later layers and the classifier are ignored.

    No code in the file is run. Its SHA-256 must begin with `sha256`.
    """
    # On the meta device, initialising weights that the file replaces does not use torch's global generator.
    with torch.device("meta"):
        vgg = VGG19()
    shapes = {name: value.shape for name, value in vgg.state_dict().items()}
    state = read_published(path, shapes, what="VGG-19", give="torchvision's vgg19-dcbb9e9d.pth", sha256=sha256)
    vgg.load_state_dict(state, assign=True)
    vgg.freeze()
    return vgg


class _LastLevelReached(Exception):
    """Raised to end a forward pass at φ's last level."""


class TeacherPhi(Phi):
    """A copy of the teacher's stem and first blocks, without the later layers."""

    def __init__(self, teacher: Network) -> None:
        super().__init__()
        plan = plan_teacher_phi(teacher.spec)
        self.levels, self.taps = len(plan.macs), plan.taps
        paths = [name.split(".") for name in plan.modules]
        used = {"", *(".".join(path[:end]) for path in paths for end in range(1, len(path) + 1))}
        # deepcopy uses an object's memo entry instead of copying the object.
        memo: dict[int, Any] = {
            id(module): nn.Identity() for name, module in teacher.named_modules() if name not in used
        }
        self.network = copy.deepcopy(teacher, memo)
        self.freeze()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        last = self.network.get_submodule(self.network.taps[self.taps[-1]].module)
        with read_taps(self.network, self.taps) as features:
            # Registered after the tap's own hook, so the last level is available when this one ends the pass.
            handle = last.register_forward_hook(_stop_here)
            try:
                self.network(images)
            except _LastLevelReached:
                return tuple(features[tap] for tap in self.taps)
            finally:
                handle.remove()
        raise AssertionError("the last level was never reached")


def _stop_here(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _LastLevelReached


@dataclass(frozen=True)
class TeacherPhiPlan:
    """The MACs of φ = teacher up to each of its levels, their taps, and the modules that run up to the last."""

    macs: tuple[int, ...]
    taps: tuple[str, ...]
    modules: frozenset[str]


@lru_cache(maxsize=64)
def plan_teacher_phi(spec: Spec) -> TeacherPhiPlan:
    """Return the levels of φ = teacher, selected by their MACs, without mean shift.

    MACs are counted on the meta device, as in networks/cost.py: convolutions, linear layers and attention products.
    """
    from torch.utils.flop_counter import FlopCounterMode

    macs: list[int] = []
    started: list[str] = []
    started_by_level: list[frozenset[str]] = []
    shift_flops: list[int] = []
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = build(spec)
        for name, module in network.named_modules():
            module.register_forward_pre_hook(lambda *_, name=name: started.append(name))
            if isinstance(module, MeanShift):
                module.register_forward_pre_hook(lambda *_: shift_flops.append(-counter.get_total_flops()))
                module.register_forward_hook(lambda *_: shift_flops.append(counter.get_total_flops()))

        def record_level(*_: object) -> None:
            macs.append((counter.get_total_flops() - sum(shift_flops)) // 2)
            started_by_level.append(frozenset(started))

        blocks = [tap for tap in network.taps if tap.startswith("body[")][: len(LEVEL_WEIGHTS)]
        for block in blocks:
            network.get_submodule(network.taps[block].module).register_forward_hook(record_level)
        network(torch.empty(1, network.descriptor.channels, *COMPARED_AT))
    levels = max(1, sum(count <= VGG19_MACS for count in macs))
    return TeacherPhiPlan(tuple(macs[:levels]), tuple(blocks[:levels]), started_by_level[levels - 1])
