"""What a foreign model is, and how the scale and the sizes of one that does not say them are found: by running it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from compressor.base.errors import SrkdError, one_line
from compressor.models.networks.base import Descriptor

PROBE_SIDES = (64, 61, 96)
"""A multiple of every window in use, an odd one, and a larger one for models that refuse small images."""
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class ForeignFacts:
    """What is known of a foreign model, whose sizes its descriptor states.

    `fixed_size` is the (width, height) in LR pixels of one that takes no other.
    """

    kind: str
    """As a person reads it: "TorchScript", "ONNX", "torch.export", "spandrel"."""
    architecture: str
    descriptor: Descriptor
    params: int | None
    fixed_size: tuple[int, int] | None = None
    largest_batch: int | None = None

    @property
    def called(self) -> str:
        """The kind with its article: "an ONNX", "a TorchScript"."""
        return f"an {self.kind}" if self.kind == "ONNX" else f"a {self.kind}"


class Foreign(Protocol):
    """A model in the value range of its own file, NCHW, on the device that it was moved to."""

    @property
    def facts(self) -> ForeignFacts: ...

    def run(self, images: torch.Tensor) -> torch.Tensor:
        """Without gradients; what the model's library has to say of a failure becomes one line."""
        ...

    def move(self, device: torch.device) -> torch.device:
        """Go to a device where the kind can; the device on which it now runs."""
        ...

    def tensors(self) -> Iterable[tuple[str, torch.Tensor]]:
        """Weights by name, where the kind shows them."""
        ...


Run = Callable[[torch.Tensor], torch.Tensor]


def as_image(output: object, what: str) -> torch.Tensor:
    """The only image of an output; models that give several say which only in their own code."""
    if isinstance(output, (tuple, list)) and len(output) == 1:
        output = output[0]
    if not isinstance(output, torch.Tensor):
        raise SrkdError(f"{what} gives a {type(output).__name__}, not one image: export the part that gives the image")
    return output


def probe(run: Run, channels: int | None, what: str) -> Descriptor:
    """Scale, channels and size multiple, each from the smallest experiment that shows it."""
    tried: list[str] = []
    for count in (3, 1) if channels is None else (channels,):
        for side in PROBE_SIDES:
            scale = _scale_at(run, count, side, side, tried)
            if scale is not None:
                return Descriptor(scale=scale, channels=count, size_multiple=smallest_multiple(run, count, scale))
    raise SrkdError(
        f"{what} enlarges no image of {', '.join(map(str, PROBE_SIDES))} pixels a side ({tried[-1][:200]}): "
        "a super-resolution model takes (N, 3, H, W), or (N, 1, H, W), of any size"
    )


def _scale_at(run: Run, channels: int, height: int, width: int, tried: list[str]) -> int | None:
    """The scale that a smooth image shows; None, and why, where there is none."""
    image = torch.linspace(0, 1, width).expand(1, channels, height, width).contiguous()
    try:
        output = run(image)
    except SrkdError as error:
        tried.append(str(error))
        return None
    if output.dim() != 4 or output.shape[:2] != image.shape[:2]:
        tried.append(f"it gave shape {tuple(output.shape)} for {tuple(image.shape)}")
        return None
    scale = output.shape[-1] // width
    if scale < 1 or output.shape[-2:] != (height * scale, width * scale):
        tried.append(f"it gave shape {tuple(output.shape)} for {tuple(image.shape)}")
        return None
    return scale


def smallest_multiple(run: Run, channels: int, scale: int) -> int:
    """The smallest multiple of which sides must be: odd multiples of it, near the size that worked, do."""
    for multiple in MULTIPLES:
        height, width = (_odd_multiple(multiple, side) for side in (57, 64))
        if _scale_at(run, channels, height, width, []) == scale:
            return multiple
    return PROBE_SIDES[0]


def _odd_multiple(multiple: int, about: int) -> int:
    count = max(1, about // multiple)
    return multiple * (count if count % 2 else count + 1)


class ModuleModel:
    """The part that kinds which are torch modules share."""

    def __init__(self, module: nn.Module, facts: ForeignFacts, what: str) -> None:
        self.module, self.facts, self.what = module, facts, what

    def run(self, images: torch.Tensor) -> torch.Tensor:
        return run_module(self.module, images, self.what)

    def move(self, device: torch.device) -> torch.device:
        self.module.to(device)
        return device

    def tensors(self) -> Iterable[tuple[str, torch.Tensor]]:
        yield from self.module.named_parameters()
        yield from self.module.named_buffers()


def run_module(module: Callable[[torch.Tensor], object], images: torch.Tensor, what: str) -> torch.Tensor:
    """One pass without gradients, in one line if it fails."""
    with torch.no_grad(), one_line(f"{what} failed on an image of shape {tuple(images.shape)}"):
        return as_image(module(images), what)


def params_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
