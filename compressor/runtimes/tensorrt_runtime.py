"""TensorRT engines, ours and trtexec's: float32 images in and out, on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from compressor.base.context import Context, Note, Progress, no_note, no_progress
from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.base import Descriptor, Spec
from compressor.models.networks.registry import build
from compressor.runtimes.base import Runtime, require_input, require_output
from compressor.runtimes.file_runtime import read_spec
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.tensorrt.cuda import Cuda, device_index, open_cuda
from compressor.runtimes.tensorrt.driver import require_trt
from compressor.runtimes.tensorrt.engine_file import read_engine
from compressor.runtimes.tensorrt.engines import usable_engine
from compressor.runtimes.tensorrt.library import tensorrt
from compressor.runtimes.tensorrt.session import Session, shape_of
from compressor.runtimes.tensorrt.shapes import size_of


def open_file(path: Path, options: OpenOptions, context: Context) -> Runtime:
    return TensorRTRuntime(
        path,
        label=options.label or None,
        device=options.device,
        progress=context.progress,
        announce=context.note,
    )


def read_metadata(path: Path) -> Mapping[str, str]:
    facts = read_engine(path).facts
    return {} if facts is None else facts.metadata


class TensorRTRuntime:
    """An engine that is open. One built for another machine is built anew from the ONNX file beside it."""

    name = "tensorrt"
    layout = "runtime"

    def __init__(
        self,
        path: Path,
        *,
        label: str | None = None,
        device: str = "cuda",
        progress: Progress = no_progress,
        announce: Note = no_note,
    ) -> None:
        index = device_index(device)
        require_trt()
        if not path.is_file():
            raise SrkdError(f"{path}: no such file")
        trt, cuda = tensorrt(), open_cuda(index)
        file = usable_engine(path, trt, cuda, progress, announce)
        self.label = label or path.stem
        self.device = f"cuda:{index}"
        self.metadata: Mapping[str, str] = {} if file.facts is None else file.facts.metadata
        self.precision = "as built" if file.facts is None else file.facts.precision
        self.spec: Spec | None = read_spec(self.metadata, self.label)
        self._cuda: Cuda = cuda
        self.session = Session(trt, cuda, file.plan, self.label)
        if self.session.shapes.smallest[0] > 1:
            raise SrkdError(f"{path} takes batches of {self.session.shapes.smallest[0]} and more: build it for 1")
        self.descriptor = self._describe()

    def run(self, lr: torch.Tensor) -> torch.Tensor:
        require_input(lr, self.descriptor, self.label)
        shapes, (height, width) = self.session.shapes, lr.shape[2:]
        if not shapes.takes(height, width):
            raise UsageError(
                f"{self.label} takes {shapes.range()}, not {width}x{height}: use --tile, or export it with --sizes"
            )
        images = lr.detach().to(torch.float32)
        run = self._on_device if str(lr.device) == self.device else self._from_host
        parts = [run(group) for group in torch.split(images, shapes.largest[0])]
        sr = parts[0] if len(parts) == 1 else torch.cat(parts)
        require_output(lr, sr, self.descriptor, self.label)
        return sr

    def _from_host(self, lr: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.session.run(np.ascontiguousarray(lr.cpu().numpy()))).to(lr.device)

    def _on_device(self, lr: torch.Tensor) -> torch.Tensor:
        """Without a way through the host: TensorRT reads and writes torch's own memory."""
        fed = lr.contiguous()
        sr = torch.empty(self.session.result_shape(shape_of(fed.shape)), device=lr.device)
        torch.cuda.current_stream(lr.device).synchronize()  # what is to be read may still be on its way
        self.session.run_at(fed.data_ptr(), sr.data_ptr())
        return sr

    def close(self) -> None:
        self.session.close()

    def _describe(self) -> Descriptor:
        """From the spec of our own files; for others the scale is that of the smallest image."""
        shapes = self.session.shapes
        if self.spec is not None:
            with torch.device("meta"):
                return replace(build(self.spec).descriptor, fixed_size=shapes.fixed, max_size=self._largest())
        given = self.session.run(np.full(shapes.smallest, 0.5, np.float32)).shape
        scale = given[3] // shapes.smallest[3]
        if scale < 1 or given[2] != shapes.smallest[2] * scale or given[1] != shapes.smallest[1]:
            raise SrkdError(f"{self.label} gives shape {given} for {shapes.smallest}: not an enlarged image")
        least = max(shapes.smallest[2:])
        return Descriptor(scale, shapes.smallest[1], min_size=least, fixed_size=shapes.fixed, max_size=self._largest())

    def _largest(self) -> tuple[int, int] | None:
        """For tiling; what takes one size is cut to that anyway."""
        return None if self.session.shapes.fixed else size_of(self.session.shapes.largest)
