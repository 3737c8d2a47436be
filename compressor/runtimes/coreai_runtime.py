"""A runtime for Core AI's assets (.aimodel) on the CPU, each described by the sidecar beside it.

Core AI is Apple's; coreai-core brings a runtime of its own, which runs on Linux, too. Its functions are coroutines.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, one_line, report_unreadable
from compressor.base.files import file_sha256
from compressor.base.machine import native_silence
from compressor.runtimes.file_runtime import Array, FileRuntime, ImageFormat, require_cpu
from compressor.runtimes.sidecar import read_sidecar
from compressor.runtimes.table import DEFAULTS, OpenOptions

PROGRAM, FUNCTION = "main.mlirb", "main"
"""The file of an asset that holds the program, and the function in it."""
INPUT, OUTPUT = "input", "output"


def read_metadata(path: Path) -> Mapping[str, str]:
    return read_sidecar(path).metadata


class CoreAIRuntime(FileRuntime):
    """An asset that is loaded once. Core AI selects the number of threads itself.

    A program that does not match its sidecar is never passed to Core AI, which a damaged one could crash.
    """

    name = "coreai"

    def __init__(self, path: Path, options: OpenOptions = DEFAULTS, context: Context = QUIET) -> None:
        require_cpu(options.device, "Core AI")
        super().__init__(path, options)
        sidecar = read_sidecar(path)
        if sidecar.format != "coreai":
            raise SrkdError(f"{path}: the file beside it is about {sidecar.format}, not coreai; export it again")
        with report_unreadable(path):
            sha256 = file_sha256(path / PROGRAM)
        if sidecar.facts.get("sha256") != sha256:
            raise SrkdError(
                f"{path} is not the file that its .json was written for: damaged or changed; export it again"
            )
        self.precision, self.metadata, self.spec = sidecar.precision, sidecar.metadata, sidecar.spec
        self.descriptor = sidecar.descriptor
        self._image = ImageFormat(self.descriptor.channels, batch=1)
        with one_line(f"{path} cannot be opened by Core AI"), native_silence():
            from coreai.authoring import AIModelAsset

            self._loop = asyncio.new_event_loop()
            opened = AIModelAsset.load(path).executable()
            model = _run(self._loop, opened.__aenter__())
            self._function = model.load_function(FUNCTION)
        weakref.finalize(self, _close, self._loop, opened)

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        with one_line(f"{self.label}: Core AI failed on {tuple(lr.shape)}"):
            return self._image.run_arrays(lr.float(), self._run_array)

    def _run_array(self, images: Array) -> Array:
        from coreai.runtime import NDArray

        outputs = _run(self._loop, self._function({INPUT: NDArray(images)}))
        result: Any = outputs[OUTPUT]
        enlarged: Array = result.numpy().copy()
        return enlarged


def _run(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, in another thread if one of this thread's own is running, as in a notebook."""
    if asyncio._get_running_loop() is None:
        return loop.run_until_complete(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(loop.run_until_complete, coroutine).result()


def _close(loop: asyncio.AbstractEventLoop, opened: Any) -> None:
    """Let Core AI remove the files of a model that it runs."""
    _run(loop, opened.__aexit__(None, None, None))
    loop.close()


open_file = CoreAIRuntime
