"""A foreign model (TorchScript, torch.export, spandrel) behind the `Runtime` protocol."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from compressor.models.networks.base import Descriptor, ImageModel, Spec
from compressor.runtimes.base import require_input, require_output
from compressor.runtimes.torch_runtime import torch_device


class ForeignRuntime:
    """A teacher that is none of our networks, in fp32, on the device asked for where its kind can go there."""

    name = "torch"
    layout = "runtime"
    precision = "fp32"
    spec: Spec | None = None

    def __init__(self, teacher: ImageModel, *, label: str, device: str = "cpu") -> None:
        self.label = label
        self.metadata: Mapping[str, str] = {}
        self.descriptor: Descriptor = teacher.descriptor
        self._teacher = teacher.move_to(torch_device(device))
        self.device = str(self._teacher.device)

    def run(self, lr: torch.Tensor) -> torch.Tensor:
        require_input(lr, self.descriptor, self.label)
        sr: torch.Tensor = self._teacher(lr)
        if lr.device.type == "cuda":
            torch.cuda.synchronize(lr.device)
        require_output(lr, sr, self.descriptor, self.label)
        return sr
