"""Core AI, Apple's frameworks from macOS and iOS 27 on: a .aimodel (a folder) in float32, N,C,H,W in [0,1], one image.

Written by coreai-torch (github.com/apple/coreai-torch, README) from a network that torch.export traced. Its
decompositions keep pixel shuffle whole. Core AI's own runtime for Linux runs the file here and compares it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from compressor.base.files import file_sha256
from compressor.base.machine import installed_version, native_silence
from compressor.models.networks.base import Network
from compressor.runtimes.coreai_runtime import PROGRAM
from export.formats.conversion import INPUT, OUTPUT, Conversion, example_size, refusals_of, require_size


def convert(job: Conversion) -> Mapping[str, object]:
    """Write the asset; return its facts. The runtime reads the program's hash from the sidecar."""
    require_size(job, "Core AI")
    with refusals_of("coreai-torch", job.network), native_silence():
        from coreai_torch import TorchConverter, get_decomp_table

        traced = _trace(job.network, job.options.lr_size).run_decompositions(get_decomp_table())
        converter = TorchConverter().add_exported_program(traced, input_names=[INPUT], output_names=[OUTPUT])
        converter.to_coreai().save_asset(job.path)
    return {
        "coreai-torch": installed_version("coreai-torch"),
        "target": "iOS 27, macOS 27",
        "sha256": file_sha256(job.path / PROGRAM),
    }


def _trace(network: Network, size: tuple[int, int] | None) -> Any:
    width, height = size or example_size(network)
    example = torch.zeros(1, network.descriptor.channels, height, width)
    free = {2: torch.export.Dim("height", min=1), 3: torch.export.Dim("width", min=1)}
    module = network if size is None else network.for_size(height, width)
    with torch.no_grad():
        return torch.export.export(
            module, (example,), dynamic_shapes=None if size is not None else (free,), strict=False
        )
