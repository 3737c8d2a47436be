"""Checkpoints in torch, and foreign teachers (TorchScript, torch.export, spandrel, ONNX) as runtimes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from compressor.base.compute_device import ComputeDevice
from compressor.base.context import QUIET, Context
from compressor.base.errors import UsageError
from compressor.base.metadata import srkd_keys
from compressor.models.networks.base import ImageModel
from compressor.models.students.blend import ends_of, load_blend
from compressor.runtimes.base import Runtime
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.torch_runtime import TorchCompiledRuntime, TorchRuntime, torch_device
from compressor.teachers.reduced import load_at_scale


def open_file(path: Path, options: OpenOptions, context: Context) -> Runtime:
    teacher = load_at_scale(
        path, options.scale, arch_options=options.arch_options, limits=options.limits, trust_code=options.trust_code
    )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    label, compiled = options.label or path.stem, options.runtime == "torch-compiled"
    for line in teacher.origin.notes if teacher.origin is not None else ():
        context.note(f"{label}: {line}")
    network, header = teacher.network, {} if teacher.origin is None else teacher.origin.header
    if options.strength is not None:
        blended = load_blend(ends_of(path), options.strength, arch_options=options.arch_options)
        network, header = blended.network, blended.header
    if network is None:
        if compiled:
            raise UsageError(f"{path}: the {teacher.backend} model runs as it is, not compiled: use --runtime torch")
        if options.precision not in (None, "fp32"):
            raise UsageError(f"{path}: the {teacher.backend} model runs in fp32 here, not {options.precision}")
        return ForeignRuntime(teacher.model, label=label, device=options.device)
    return (TorchCompiledRuntime if compiled else TorchRuntime)(
        network, label=label, device=options.device, precision=options.precision or "fp32", metadata=srkd_keys(header)
    )


def read_metadata(path: Path) -> Mapping[str, str]:
    return open_file(path, OpenOptions(), QUIET).metadata


class ForeignRuntime(Runtime):
    """A runtime for a teacher that is not a network of srkd: fp32, on the requested device if its format allows."""

    name = "torch"

    def __init__(self, teacher: ImageModel, *, label: str, device: str = "cpu") -> None:
        self.label, self.descriptor = label, teacher.descriptor
        self._teacher = teacher.move_to(torch_device(device))
        self.device = str(self._teacher.device)

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        sr: torch.Tensor = self._teacher(lr)
        ComputeDevice(lr.device).synchronise()
        return sr
