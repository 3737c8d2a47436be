"""Core ML's packages (.mlpackage), which run on macOS only. Not run by us: no macOS was at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from compressor.base.errors import SrkdError, UsageError, one_line
from compressor.models.networks.base import Descriptor, Spec
from compressor.runtimes.base import require_input, require_output
from compressor.runtimes.metadata import Image, describe, spec_in

UNITS: Mapping[str, str] = MappingProxyType(
    {"cpu": "CPU_ONLY", "coreml": "ALL", "coreml:gpu": "CPU_AND_GPU", "coreml:ane": "CPU_AND_NE"}
)
"""Device → what Core ML may compute on; the neural engine computes in fp16, and leaves float32 programs alone."""


class CoreMLRuntime:
    """A package that is loaded once. Threads are Core ML's own affair."""

    name = "coreml"
    layout = "runtime"
    precision = "fp32"

    def __init__(self, path: Path, *, label: str | None = None, device: str = "cpu") -> None:
        if device not in UNITS:
            raise UsageError(f"device {device!r}: Core ML runs on {', '.join(UNITS)}")
        import coremltools as ct

        self.label, self.device = label or path.stem, device
        with one_line(f"{path} cannot be opened by Core ML"):
            self._model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit[UNITS[device]])
            spec = self._model.get_spec()
        self._input, self._output = spec.description.input[0].name, spec.description.output[0].name
        self.metadata = {key: value for key, value in self._model.user_defined_metadata.items() if key[:5] == "srkd."}
        self.spec: Spec | None = spec_in(self.metadata, self.label)
        image = image_of(spec, self.label)
        described = describe(self.spec, image, self.label, self._run)
        self.descriptor: Descriptor = replace(described, max_size=largest_of(spec))

    def run(self, lr: torch.Tensor) -> torch.Tensor:
        require_input(lr, self.descriptor, self.label)
        sr = self._run(lr)
        require_output(lr, sr, self.descriptor, self.label)
        return sr

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        fed = np.ascontiguousarray(lr.detach().to("cpu", torch.float32).numpy())
        with one_line(f"{self.label}: Core ML failed on {tuple(lr.shape)}"):
            images = [self._model.predict({self._input: one[None]})[self._output] for one in fed]
        return torch.from_numpy(np.concatenate(images).astype(np.float32, copy=False)).to(lr.device)


def image_of(spec: Any, label: str) -> Image:
    """What a package takes, from its description."""
    if len(spec.description.input) != 1 or len(spec.description.output) != 1:
        raise SrkdError(f"{label}: a super-resolution model has one input and one output")
    given = spec.description.input[0].type
    if given.WhichOneof("Type") != "multiArrayType":
        raise SrkdError(f"{label} takes {given.WhichOneof('Type')}: only tensors in [0,1] are understood")
    shape = [int(length) for length in given.multiArrayType.shape]
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise SrkdError(f"{label} takes tensors of shape {shape}: expected (1, 3, H, W) or (1, 1, H, W)")
    free = largest_of(spec) is not None
    return Image(shape[1], None if free else shape[2], None if free else shape[3], one=True)


def largest_of(spec: Any) -> tuple[int, int] | None:
    """Width and height of the largest image where sizes are free; None where there is one size only."""
    ranges = spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges
    if len(ranges) != 4 or all(size.lowerBound == size.upperBound for size in ranges):
        return None
    return int(ranges[3].upperBound), int(ranges[2].upperBound)


def read_metadata(path: Path) -> dict[str, str]:
    """The `srkd.*` keys of a package, which can be read where it cannot run."""
    import coremltools as ct

    with one_line(f"{path} cannot be read as a Core ML package"):
        told = ct.utils.load_spec(str(path)).description.metadata.userDefined
        return {key: value for key, value in told.items() if key.startswith("srkd.")}
