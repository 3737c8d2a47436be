"""A runtime for ncnn networks (.param with .bin and .param.json beside it), in fp32 on the CPU, image by image."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, report_unreadable
from compressor.runtimes.file_runtime import Array, FileRuntime
from compressor.runtimes.sidecar import read_sidecar
from compressor.runtimes.table import DEFAULTS, OpenOptions

INPUT, OUTPUT = "data", "output"
"""Blob names that the common upscalers based on ncnn expect."""

LOWER_PRECISION = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_packed",
    "use_bf16_storage",
    "use_int8_inference",
)
"""Options that make ncnn compute below fp32: it selects the precision at run time, not in the file."""


def read_metadata(path: Path) -> Mapping[str, str]:
    return read_sidecar(path).metadata


class NcnnRuntime(FileRuntime):
    """A network that is loaded once."""

    name = "ncnn"

    def __init__(self, path: Path, options: OpenOptions = DEFAULTS, context: Context = QUIET) -> None:
        super().__init__(path, options)
        sidecar = read_sidecar(path)
        self.precision, self.metadata, self.spec = sidecar.precision, sidecar.metadata, sidecar.spec
        self.descriptor = sidecar.descriptor
        # ncnn accepts any bytes as weights, and may crash on a damaged network.
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise SrkdError(f"{path}: its weights, {weights.name}, are not beside it")
        with report_unreadable(f"{path} or {weights.name}"):
            actual = checksum(path)
        if actual != sidecar.facts.get("crc32"):
            raise SrkdError(
                f"{path} and {weights.name} are damaged or not of one export (checksum {actual}); export again"
            )
        import ncnn

        net = self._net = ncnn.Net()
        net.opt.use_vulkan_compute = False
        net.opt.num_threads = self.threads
        for option in LOWER_PRECISION:
            if hasattr(net.opt, option):  # Older versions have fewer.
                setattr(net.opt, option, False)
        if net.load_param(str(path)) or net.load_model(str(weights)):
            raise SrkdError(f"{path} is not a network that this ncnn can open; export it again, or update ncnn")
        if INPUT not in net.input_names() or OUTPUT not in net.output_names():
            raise SrkdError(f"{path} takes {net.input_names()} and returns {net.output_names()}, not {INPUT}, {OUTPUT}")

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        images = np.ascontiguousarray(lr.detach().to("cpu", torch.float32).numpy())
        return torch.from_numpy(np.stack([self._run_image(image) for image in images])).to(lr.device)

    def _run_image(self, image: Array) -> Array:
        import ncnn

        extractor = self._net.create_extractor()
        # A copy that ncnn owns: layers that work in place would write into numpy's memory, perhaps after it is freed.
        extractor.input(INPUT, ncnn.Mat(image).clone())
        code, out = extractor.extract(OUTPUT)
        if code:
            raise SrkdError(f"{self.label}: ncnn failed on {tuple(image.shape)} with {code}; is there enough memory?")
        return np.array(out, dtype=np.float32)


open_file = NcnnRuntime


def checksum(path: Path) -> str:
    """The CRC-32 of a network and its weights, as eight hexadecimal digits."""
    return f"{zlib.crc32(path.with_suffix('.bin').read_bytes(), zlib.crc32(path.read_bytes())):08x}"
