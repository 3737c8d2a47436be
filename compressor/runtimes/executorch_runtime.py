"""A runtime for ExecuTorch programs (.pte) on the CPU, each described by the sidecar beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, one_line, report_unreadable
from compressor.base.machine import native_silence
from compressor.runtimes.file_runtime import FileRuntime, require_cpu
from compressor.runtimes.sidecar import read_sidecar
from compressor.runtimes.table import DEFAULTS, OpenOptions

METHOD = "forward"
FORMATS = ("executorch", "executorch-int8")
"""The formats of `export` that are ExecuTorch programs."""


def read_metadata(path: Path) -> Mapping[str, str]:
    return read_sidecar(path).metadata


class ExecuTorchRuntime(FileRuntime):
    """A program that is loaded once. ExecuTorch has one thread count for the whole process.

    A file that does not match its sidecar is never passed to ExecuTorch, which a damaged file could crash.
    """

    name = "executorch"

    def __init__(self, path: Path, options: OpenOptions = DEFAULTS, context: Context = QUIET) -> None:
        require_cpu(options.device, "ExecuTorch")
        super().__init__(path, options)
        with report_unreadable(path):
            self._content = path.read_bytes()
        sidecar = read_sidecar(path)
        if sidecar.format not in FORMATS:
            raise SrkdError(f"{path}: the file beside it is about {sidecar.format}, not executorch; export it again")
        if sidecar.facts.get("sha256") != hashlib.sha256(self._content).hexdigest():
            raise SrkdError(
                f"{path} is not the file that its .json was written for: damaged or changed; export it again"
            )
        self.precision, self.metadata, self.spec = sidecar.precision, sidecar.metadata, sidecar.spec
        self.descriptor = sidecar.descriptor
        with one_line(f"{path} cannot be opened by ExecuTorch"), native_silence():
            self._program, self._method = self._load()

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        images = lr.detach().to("cpu", torch.float32)
        with one_line(f"{self.label}: ExecuTorch failed on {tuple(lr.shape)}"):
            # Clone: the memory of an output belongs to the program.
            outputs = [self._method([image[None].contiguous()])[0].clone() for image in images]
        return torch.cat(outputs).to(lr.device)

    def _load(self) -> tuple[Any, Any]:
        # The enclosing package also imports the compiler, which takes seconds and is not needed here.
        from executorch.extension.pybindings import _C as native

        if native._threadpool_get_thread_count() != self.threads:
            native._unsafe_reset_threadpool(self.threads)
        program = native._load_program_from_buffer(
            self._content, program_verification=native.Verification.InternalConsistency
        )
        return program, program.load_method(METHOD)


open_file = ExecuTorchRuntime
