"""ncnn networks (.param with .bin and .param.json beside it), in fp32 on the CPU, the images of a batch one by one."""

from __future__ import annotations

import importlib
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.base.errors import SrkdError
from compressor.models.networks.base import Descriptor, Spec
from compressor.runtimes.base import require_input, require_output
from compressor.runtimes.metadata import read_sidecar

INPUT, OUTPUT = "data", "output"
"""Names of blobs that the common upscalers built on ncnn look for."""

LOWER_PRECISION = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_packed",
    "use_bf16_storage",
    "use_int8_inference",
)
"""ncnn chooses a precision where it runs, not in the file: what would make it choose less than fp32."""


class NcnnRuntime:
    """A network that is loaded once. `threads` None: as many as torch uses, so that both are compared alike."""

    name = "ncnn"
    layout = "runtime"
    device = "cpu"

    def __init__(self, path: Path, *, label: str | None = None, threads: int | None = None) -> None:
        self.label = label or path.stem
        self.threads = threads or torch.get_num_threads()
        sidecar = read_sidecar(path)
        self.precision = sidecar.precision
        self.metadata: Mapping[str, str] = sidecar.metadata
        self.spec: Spec | None = sidecar.spec
        self.descriptor: Descriptor = sidecar.descriptor
        _require_whole(path, sidecar.facts.get("crc32"))
        self._net = self._open(path)

    def run(self, lr: torch.Tensor) -> torch.Tensor:
        require_input(lr, self.descriptor, self.label)
        fed = np.ascontiguousarray(lr.detach().to("cpu", torch.float32).numpy())
        sr = torch.from_numpy(np.stack([self._one(image) for image in fed])).to(lr.device)
        require_output(lr, sr, self.descriptor, self.label)
        return sr

    def _one(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        ncnn = load_ncnn()
        extractor = self._net.create_extractor()
        # A copy that ncnn owns: layers that work in place would write into numpy's memory, or after its end.
        extractor.input(INPUT, ncnn.Mat(image).clone())
        failed, out = extractor.extract(OUTPUT)
        if failed:
            raise SrkdError(f"{self.label}: ncnn failed on {tuple(image.shape)} with {failed}; is there memory enough?")
        return np.array(out, dtype=np.float32)

    def _open(self, path: Path) -> Any:
        net = load_ncnn().Net()
        net.opt.use_vulkan_compute = False
        net.opt.num_threads = self.threads
        for option in LOWER_PRECISION:
            if hasattr(net.opt, option):  # Older versions have fewer.
                setattr(net.opt, option, False)
        if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
            raise SrkdError(f"{path} is not a network that this ncnn can open; export it again, or update ncnn")
        if INPUT not in net.input_names() or OUTPUT not in net.output_names():
            raise SrkdError(f"{path} takes {net.input_names()} and gives {net.output_names()}, not {INPUT}, {OUTPUT}")
        return net


def checksum(path: Path) -> str:
    """Of a network and its weights, in eight hexadecimal digits."""
    return f"{zlib.crc32(path.with_suffix('.bin').read_bytes(), zlib.crc32(path.read_bytes())):08x}"


def _require_whole(path: Path, expected: object) -> None:
    """ncnn takes whatever bytes it finds for weights, and may crash on a network that is damaged."""
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise SrkdError(f"{path}: its weights, {weights.name}, are not beside it")
    try:
        found = checksum(path)
    except OSError as error:
        raise SrkdError(f"{path} or {weights.name} cannot be read: {error.strerror}") from error
    if found != expected:
        raise SrkdError(f"{path} and {weights.name} are damaged or not of one export (checksum {found}); export again")


def load_ncnn() -> Any:
    """The module. Its threads sleep while they wait for each other: by default they spin, and where another program
    has the core that one of them needs, small layers take ten times as long."""
    before = os.environ.get("OMP_WAIT_POLICY")
    # ncnn brings an OpenMP library of its own, which reads this once, when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return importlib.import_module("ncnn")
    finally:
        if before is None:
            del os.environ["OMP_WAIT_POLICY"]
