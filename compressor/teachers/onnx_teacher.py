"""ONNX files of any origin as teachers, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import torch

from compressor.base.child import ResourceLimits
from compressor.base.errors import one_line
from compressor.runtimes.onnx_file import external_files, load_onnx, parse_onnx, read_whole
from compressor.runtimes.onnx_providers import has_cuda
from compressor.runtimes.onnx_runtime import OnnxRuntime, try_content
from compressor.runtimes.table import OpenOptions
from compressor.teachers.foreign import ForeignFacts, require_finite, weights_digest


class OnnxProgram:
    """A session; its floating-point weights are read separately, so that a NaN can be reported by name."""

    def __init__(self, path: Path, limits: ResourceLimits) -> None:
        import numpy as np
        from onnx import numpy_helper

        self.path, self._content = path, read_whole(path)
        self._probed = try_content(self._content, path, limits)
        self.runtime = OnnxRuntime(path, probed=self._probed, content=self._content)
        with one_line(f"{path}: its graph cannot be read"):
            graph = parse_onnx(self._content, path).graph
            arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._weights = [
            (name, torch.from_numpy(array.astype(np.float32)))
            for name, array in arrays.items()
            if array.dtype.kind == "f"
        ]
        require_finite(self._weights, "ONNX")
        descriptor, spec = self.runtime.descriptor, self.runtime.spec
        params = sum(tensor.numel() for _, tensor in self._weights)
        companions = tuple(external_files(load_onnx(path, external_weights=False), path))
        arch = "unknown" if spec is None else spec.arch
        # The runtime itself fills the batches of a file with a fixed one.
        self.facts = ForeignFacts("ONNX", arch, descriptor, params, companions=companions)

    def run(self, images: torch.Tensor) -> torch.Tensor:
        return self.runtime.run(images)

    def move_to(self, device: torch.device) -> torch.device:
        """Move to CUDA if this ONNX Runtime supports it; else stay on the CPU, and copy images."""
        if device.type == "cuda" and has_cuda():
            options = OpenOptions(device=str(device))
            self.runtime = OnnxRuntime(self.path, options, probed=self._probed, content=self._content)
            return device
        return torch.device("cpu")

    def digest(self, settings: str) -> str:
        return weights_digest(settings, self._weights)
