"""Foreign models: networks unknown to srkd, run by the library of their file format.

If a file does not state the scale and the sizes of its model, they are measured on small images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from compressor.base.errors import SrkdError, UsageError, one_line
from compressor.images.resize import pad_to
from compressor.models.networks.base import Descriptor, ImageModel, tensor_bytes
from compressor.runtimes.base import require_enlarged

RANGES: Mapping[str, tuple[float, float]] = {"1": (0.0, 1.0), "255": (0.0, 255.0), "-1..1": (-1.0, 1.0)}
"""Values of black and white for foreign models, by the option's name for the range."""


@dataclass(frozen=True)
class ForeignSettings:
    """Properties of a foreign model's images that its file does not state."""

    input_range: str = "1"
    """A key of `RANGES`."""
    output_range: str = "1"
    bgr: bool = False
    """True if input and output are BGR, as OpenCV reads images."""

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> ForeignSettings:
        """Return settings from a user's options: `img_range` (both), `input_range`, `output_range`, `bgr`."""
        names = ("img_range", "input_range", "output_range", "bgr")
        unknown = next((name for name in options if name not in names), None)
        if unknown is not None:
            raise UsageError(f"there is no option {unknown!r}, but {', '.join(names)}")
        both = _range_name("img_range", options.get("img_range", 1))
        bgr = str(options.get("bgr", False)).lower()
        if bgr not in ("0", "1", "false", "true"):
            raise UsageError(f"bgr={bgr} is neither 1 nor 0")
        return cls(
            _range_name("input_range", options.get("input_range", both)),
            _range_name("output_range", options.get("output_range", both)),
            bgr in ("1", "true"),
        )

    def to_options(self) -> dict[str, Any]:
        """Return the shortest options for which `from_options` returns these settings."""
        options: dict[str, Any] = {}
        if self.input_range != self.output_range:
            options = {"input_range": self.input_range, "output_range": self.output_range}
        elif self.input_range != "1" or not self.bgr:
            options = {"img_range": self.input_range}
        return {**options, "bgr": 1} if self.bgr else options

    def alternatives(self, *, colours: bool) -> list[list[ForeignSettings]]:
        """Return other settings, the likeliest first: another range; two ranges for input and output; other colours."""
        both = [replace(self, input_range=name, output_range=name) for name in RANGES]
        each = [replace(self, input_range=one, output_range=other) for one, other in permutations(RANGES, 2)]
        flipped = [replace(settings, bgr=not self.bgr) for settings in (self, *both, *each)] if colours else []
        first = [*both, *flipped[:1]]
        return [[settings for settings in likely if settings != self] for likely in (first, each, flipped[1:])]


def _range_name(option: str, value: object) -> str:
    name = f"{value:g}" if isinstance(value, (int, float)) else str(value)
    if name not in RANGES:
        raise UsageError(f"{option}={value} is not one of {', '.join(RANGES)}")
    return name


@dataclass(frozen=True)
class ForeignFacts:
    """The facts of a foreign model; its descriptor states the sizes that the model itself accepts."""

    backend: str
    """The library that runs it: "TorchScript", "ONNX", "torch.export" or "spandrel"."""
    architecture: str
    descriptor: Descriptor
    params: int | None
    largest_batch: int | None = None
    companions: tuple[Path, ...] = ()
    """The files beside the model's own that hold its weights."""


class Program(Protocol):
    """An open foreign file; its images are NCHW in the file's value range, on the device it was moved to."""

    @property
    def facts(self) -> ForeignFacts: ...

    def run(self, images: torch.Tensor) -> torch.Tensor:
        """Return the output without gradients; a failure of the library becomes one line."""
        ...

    def move_to(self, device: torch.device) -> torch.device:
        """Move to a device if the library can; return the device on which the program now runs."""
        ...

    def digest(self, settings: str) -> str:
        """Return the sha256 of a text and of the weights as they are now."""
        ...


class ForeignModel(ImageModel):
    """A program as a model of images in [0,1] of any size; it only gives outputs."""

    def __init__(self, program: Program, settings: ForeignSettings = ForeignSettings()) -> None:
        super().__init__()
        self._device = torch.device("cpu")
        self.program, self.facts, self.image_settings = program, program.facts, settings

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def backend(self) -> str:
        return self.facts.backend

    @property
    def architecture(self) -> str:
        return self.facts.architecture

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor for any size: sizes that the program does not accept are padded."""
        return replace(self.facts.descriptor, size_multiple=1, min_size=1)

    @property
    def own_sizes(self) -> Descriptor:
        return self.facts.descriptor

    @property
    def params(self) -> int | None:
        return self.facts.params

    def move_to(self, device: torch.device) -> ForeignModel:
        self._device = self.program.move_to(device)
        return self

    def settings(self) -> Mapping[str, Any]:
        return self.image_settings.to_options()

    def alternatives(self) -> list[list[Mapping[str, Any]]]:
        rounds = self.image_settings.alternatives(colours=self.facts.descriptor.channels == 3)
        return [[settings.to_options() for settings in settings_list] for settings_list in rounds]

    def with_settings(self, settings: Mapping[str, Any]) -> ForeignModel:
        return ForeignModel(self.program, ForeignSettings.from_options(settings))

    def fingerprint(self) -> str:
        return self.program.digest(repr(self.image_settings))

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Return the output: images are padded to an accepted size, run in the program's own range, and cropped."""
        program = self.facts.descriptor
        height, width = lr.shape[-2:]
        if lr.dim() != 4 or lr.shape[1] != program.channels:
            raise UsageError(f"the {self.backend} model takes (N, {program.channels}, H, W), got {tuple(lr.shape)}")
        if program.fixed_size is not None and program.fixed_size != (width, height):
            fixed = "{}x{}".format(*program.fixed_size)
            raise SrkdError(
                f"this {self.backend} model takes images of {fixed} only, not {width}x{height}: "
                "export it with dynamic height and width"
            )
        # Reflect without repeating the edge, as spandrel and the networks' own test scripts do.
        lr_on_device = lr.to(self.device, torch.float32)
        padded = pad_to(lr_on_device, program.size_multiple, program.min_size, repeat_edge=False)
        black_in, white_in = RANGES[self.image_settings.input_range]
        black_out, white_out = RANGES[self.image_settings.output_range]
        inputs = self._ordered(padded * (white_in - black_in) + black_in)
        batch = self.facts.largest_batch or len(inputs)
        outputs = [self._run_batch(images, batch) for images in torch.split(inputs, batch)]
        sr = (self._ordered(torch.cat(outputs).float()) - black_out) / (white_out - black_out)
        return sr[..., : height * program.scale, : width * program.scale].to(lr.device)

    def _ordered(self, images: torch.Tensor) -> torch.Tensor:
        return images.flip(1) if self.image_settings.bgr else images

    def _run_batch(self, images: torch.Tensor, batch: int) -> torch.Tensor:
        """Return the outputs of up to `batch` images; a fixed batch is filled by repeating the last image."""
        missing = batch - len(images)
        inputs = images if missing == 0 else torch.cat([images, images[-1:].expand(missing, -1, -1, -1)])
        outputs, scale = self.program.run(inputs), self.facts.descriptor.scale
        return require_enlarged(outputs, inputs, scale, f"the {self.backend} model")[: len(images)]


class ModuleProgram:
    """A program that consists of a torch module; `call` runs the module on images, if not its own call does."""

    def __init__(
        self,
        module: nn.Module,
        facts: ForeignFacts,
        label: str,
        call: Callable[[Any, torch.Tensor], object] | None = None,
    ) -> None:
        self.module, self.facts, self.label = module, facts, label
        self._call = call or (lambda module, images: module(images))
        require_finite(named_tensors(module), facts.backend)

    def run(self, images: torch.Tensor) -> torch.Tensor:
        return run_module(lambda images: self._call(self.module, images), images, self.label)

    def move_to(self, device: torch.device) -> torch.device:
        self.module.to(device)
        return device

    def digest(self, settings: str) -> str:
        return weights_digest(settings, named_tensors(self.module))


def run_module(module: Callable[[torch.Tensor], object], images: torch.Tensor, label: str) -> torch.Tensor:
    """Return the only image of a module's output, without gradients; a failure becomes one line."""
    with torch.no_grad(), one_line(f"{label} failed on an image of shape {tuple(images.shape)}"):
        output = module(images)
        # Only the model's own code knows which of several outputs is the image.
        if isinstance(output, (tuple, list)) and len(output) == 1:
            output = output[0]
        if not isinstance(output, torch.Tensor):
            raise SrkdError(f"{label} gives a {type(output).__name__}, not one image: export the part that gives it")
        return output


def named_tensors(module: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def require_finite(tensors: Iterable[tuple[str, torch.Tensor]], backend: str) -> None:
    """Refuse weights with NaN or infinity, by name."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise SrkdError(f"tensor {name[:100]} of this {backend} model holds NaN or infinity")


def weights_digest(settings: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return the sha256 of a text and of tensors by name."""
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(name.encode() + tensor_bytes(tensor))
    return digest.hexdigest()


def count_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
