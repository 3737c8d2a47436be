"""A runtime for TensorRT engines, srkd's and trtexec's: float32 images in and out, on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.base import Descriptor
from compressor.runtimes.base import find_scale
from compressor.runtimes.file_runtime import FileRuntime, build_descriptor, read_spec
from compressor.runtimes.table import DEFAULTS, OpenOptions
from compressor.runtimes.tensorrt.device import device_index, open_device
from compressor.runtimes.tensorrt.engine_file import read_engine
from compressor.runtimes.tensorrt.engines import usable_engine
from compressor.runtimes.tensorrt.installation import import_tensorrt
from compressor.runtimes.tensorrt.profiles import size_of
from compressor.runtimes.tensorrt.session import Session


def read_metadata(path: Path) -> Mapping[str, str]:
    header, _ = read_engine(path)
    return {} if header is None else header.metadata


class TensorRTRuntime(FileRuntime):
    """An open engine of this machine; one that was built for another machine is refused."""

    name = "tensorrt"

    def __init__(self, path: Path, options: OpenOptions = DEFAULTS, context: Context = QUIET) -> None:
        super().__init__(path, options)
        index = device_index(options.device)
        gpu, trt = open_device(index), import_tensorrt()
        header, plan = usable_engine(path, trt, gpu)
        self.device = f"cuda:{index}"
        self.metadata = {} if header is None else header.metadata
        self.precision = "as built" if header is None else header.precision
        self.spec = read_spec(self.metadata, self.label)
        self.session = Session(trt, gpu, plan, self.label)
        profile = self.session.profile
        batch, channels, height, width = profile.smallest
        if batch > 1:
            raise SrkdError(f"{path} takes batches of {batch} and more: build it for 1")
        # Used for tiling; with one size only, tiles have that size anyway.
        largest = None if profile.fixed_size else size_of(profile.largest)
        if self.spec is not None:
            descriptor = build_descriptor(self.spec, profile.fixed_size)
        else:
            scale = find_scale(self.session.run, profile.smallest, self.label)
            descriptor = Descriptor(scale, channels, min_size=max(height, width), fixed_size=profile.fixed_size)
        self.descriptor = replace(descriptor, max_size=largest)

    def _require_size(self, width: int, height: int) -> None:
        profile = self.session.profile
        if not profile.takes(height, width):
            low, high = ("{}x{}".format(*size_of(shape)) for shape in (profile.smallest, profile.largest))
            raise UsageError(
                f"{self.label} takes {low} to {high}, not {width}x{height}: use --tile, or export it with --sizes"
            )

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        batches = torch.split(lr.detach().to(torch.float32), self.session.profile.largest[0])
        parts = [self.session.run(batch) for batch in batches]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


open_file = TensorRTRuntime
