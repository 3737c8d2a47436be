"""A network of srkd in OpenVINO without a file: traced by it, and compiled for the CPU."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from compressor.runtimes.base import Runtime
from compressor.runtimes.openvino_runtime import cpu_settings, openvino_core
from compressor.runtimes.table import missing_modules
from compressor.runtimes.torch_runtime import TorchRuntime

TRACED = (40, 48)
"""Height and width of the image with which a network is traced; the graph takes any."""


def converts(runtime: TorchRuntime) -> bool:
    """Whether OpenVINO is installed and the network's form depends on no size, so that a trace holds for all."""
    is_any_size = runtime.network.for_size(*TRACED) is runtime.network
    return runtime.device == "cpu" and is_any_size and not missing_modules(["openvino"])


class OpenVinoNetwork(Runtime):
    """The network of `opened`, in a precision."""

    name = "openvino"

    def __init__(self, opened: TorchRuntime, precision: str) -> None:
        import openvino

        self.label, self.descriptor, self.precision = opened.label, opened.descriptor, precision
        self.metadata, self.spec = opened.metadata, opened.spec
        example = torch.rand(1, self.descriptor.channels, *TRACED)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # each Python number that tracing keeps
            model = openvino.convert_model(opened.network, example_input=example)
        self._compiled = openvino_core().compile_model(model, "CPU", cpu_settings(precision, torch.get_num_threads()))

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        # A copy: OpenVINO returns its own memory, which the next run overwrites.
        return torch.from_numpy(np.array(self._compiled(lr.contiguous().numpy())[0]))
