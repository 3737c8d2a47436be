"""ONNX files of any origin, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from compressor.base.errors import one_line
from compressor.runtimes.onnx_providers import providers_here
from compressor.runtimes.onnx_runtime import OnnxRuntime
from compressor.teachers.foreign import ForeignFacts, smallest_multiple


@dataclass(frozen=True)
class _Graph:
    """The batch where the graph fixes it, and its floating-point weights by name."""

    batch: int | None
    weights: tuple[tuple[str, torch.Tensor], ...]


class OnnxProgram:
    """A session; its weights are read beside it, so that a NaN among them can be named."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runtime = OnnxRuntime(path)
        graph = _read(path)
        self._weights = graph.weights
        found = self.runtime.descriptor
        if self.runtime.spec is None and found.fixed_size is None and graph.batch in (None, 1):
            multiple = smallest_multiple(self.runtime.run, found.channels, found.scale)
            found = replace(found, size_multiple=multiple, min_size=multiple)
        name = "unknown" if self.runtime.spec is None else self.runtime.spec.arch
        params = sum(tensor.numel() for _, tensor in self._weights)
        self.facts = ForeignFacts("ONNX", name, found, params, graph.batch)

    def run(self, images: torch.Tensor) -> torch.Tensor:
        return self.runtime.run(images)

    def move_to(self, device: torch.device) -> torch.device:
        """To CUDA where this ONNX Runtime has it; else it stays on the CPU, and images travel."""
        if device.type == "cuda" and "cuda" in providers_here():
            self.runtime = OnnxRuntime(self.path, device=str(device))
            return device
        return torch.device("cpu")

    def tensors(self) -> Iterable[tuple[str, torch.Tensor]]:
        return self._weights


def _read(path: Path) -> _Graph:
    import numpy as np
    import onnx
    from onnx import numpy_helper

    with one_line(f"{path}: its graph cannot be read"):
        model = onnx.load_model(str(path))
        names = {one.name for one in model.graph.initializer}
        given = next(value for value in model.graph.input if value.name not in names)
        batch = given.type.tensor_type.shape.dim[0].dim_value or None
        arrays = [(one.name, numpy_helper.to_array(one)) for one in model.graph.initializer]
        weights = [
            (name, torch.from_numpy(array.astype(np.float32))) for name, array in arrays if array.dtype.kind == "f"
        ]
    return _Graph(batch, tuple(weights))
