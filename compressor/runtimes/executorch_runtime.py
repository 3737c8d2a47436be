"""ExecuTorch's files (.pte) on the CPU; what they are stands in the sidecar beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compressor.base.errors import SrkdError, UsageError, one_line
from compressor.base.machine import native_silence
from compressor.models.networks.base import Descriptor, Spec
from compressor.runtimes.base import require_input, require_output
from compressor.runtimes.metadata import Sidecar, read_sidecar

METHOD = "forward"


class ExecuTorchRuntime:
    """A program that is loaded once. `threads` None: as many as torch uses; ExecuTorch has one number for the process.

    A file that is not what its sidecar says never reaches ExecuTorch, which a damaged one could take down.
    """

    name = "executorch"
    layout = "runtime"
    device = "cpu"

    def __init__(
        self, path: Path, *, label: str | None = None, device: str = "cpu", threads: int | None = None
    ) -> None:
        if device != "cpu":
            raise UsageError(f"device {device!r}: ExecuTorch's files run on cpu here")
        self.label = label or path.stem
        self.threads = threads or torch.get_num_threads()
        self._content = _read(path)
        sidecar = _sidecar(path, self._content)
        self.precision = sidecar.precision
        self.metadata: Mapping[str, str] = sidecar.metadata
        self.spec: Spec | None = sidecar.spec
        self.descriptor: Descriptor = replace(sidecar.descriptor, max_size=_max_size(sidecar, path))
        with one_line(f"{path} cannot be opened by ExecuTorch"), native_silence():
            self._program, self._method = self._load()

    def run(self, lr: torch.Tensor) -> torch.Tensor:
        require_input(lr, self.descriptor, self.label)
        self._require_size(lr)
        fed = lr.detach().to("cpu", torch.float32)
        with one_line(f"{self.label}: ExecuTorch failed on {tuple(lr.shape)}"):
            # Copies: the memory of an output is the program's own.
            images = [self._method([image[None].contiguous()])[0].clone() for image in fed]
        sr = torch.cat(images).to(lr.device)
        require_output(lr, sr, self.descriptor, self.label)
        return sr

    def _load(self) -> tuple[Any, Any]:
        # The package around this module imports the compiler too, seconds of it, and nothing here needs that.
        from executorch.extension.pybindings import _C as native

        if native._threadpool_get_thread_count() != self.threads:
            native._unsafe_reset_threadpool(self.threads)
        program = native._load_program_from_buffer(
            self._content, program_verification=native.Verification.InternalConsistency
        )
        return program, program.load_method(METHOD)

    def _require_size(self, lr: torch.Tensor) -> None:
        (height, width), largest = lr.shape[-2:], self.descriptor.max_size
        if largest is not None and (width > largest[0] or height > largest[1]):
            raise UsageError(
                f"{self.label} takes images of at most {largest[0]}x{largest[1]}, got {width}x{height}: "
                "cut them into tiles"
            )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SrkdError(f"{path} cannot be read: {error.strerror or error}") from error


def _sidecar(path: Path, content: bytes) -> Sidecar:
    sidecar = read_sidecar(path)
    if sidecar.format != "executorch":
        raise SrkdError(f"{path}: the file beside it is about {sidecar.format}, not executorch; export it again")
    if sidecar.facts.get("sha256") != hashlib.sha256(content).hexdigest():
        raise SrkdError(f"{path} is not the file that its .json was written for: damaged or changed; export it again")
    return sidecar


def _max_size(sidecar: Sidecar, path: Path) -> tuple[int, int] | None:
    told = sidecar.facts.get("max_size")
    if told is None:
        return None
    width, _, height = str(told).partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise SrkdError(f"{path}: its .json says max_size {told!r}, which is no size; export it again")
    return int(width), int(height)
