"""Example of another package's format with its runtime, in one file: a network's weights as an .npz archive (.toy)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from compressor.base.context import Context
from compressor.base.errors import SrkdError, one_line
from compressor.models.networks.registry import build
from compressor.runtimes.file_runtime import FileRuntime, build_descriptor, read_spec
from compressor.runtimes.table import OpenOptions, RuntimeEntry
from export.formats.conversion import Conversion
from export.formats.table import Format, FormatPackage

PACKAGE = FormatPackage(
    formats=(
        Format(
            name="toy",
            title="Toy, the weights in an archive of arrays",
            suffix=".toy",
            precision="fp32",
            module=__name__,
            runtime="toy",
            distribution="lab",
        ),
    ),
    runtimes=(RuntimeEntry(name="toy", files="a toy archive (.toy)", module=__name__, suffixes=(".toy",)),),
)


def convert(job: Conversion) -> Mapping[str, object]:
    weights = {name: tensor.numpy() for name, tensor in job.network.state_dict().items()}
    with open(job.path, "wb") as file:
        np.savez(file, metadata=np.array(json.dumps(dict(job.metadata))), **weights)
    return {"arrays": len(weights)}


def read_metadata(path: Path) -> Mapping[str, str]:
    with one_line(f"{path} is not a toy archive"), np.load(path) as arrays:
        metadata: dict[str, str] = json.loads(str(arrays["metadata"]))
    return metadata


class ToyRuntime(FileRuntime):
    name = "toy"

    def __init__(self, path: Path, options: OpenOptions, context: Context) -> None:
        super().__init__(path, options)
        self.metadata = read_metadata(path)
        self.spec = read_spec(self.metadata, self.label)
        if self.spec is None:
            raise SrkdError(f"{path} does not name its network")
        self.descriptor = build_descriptor(self.spec, None)
        with np.load(path) as arrays:
            state = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "metadata"}
        self._network = build(self.spec, seed=0).eval()
        self._network.load_state_dict(state)

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            sr: torch.Tensor = self._network(lr.cpu())
        return sr.to(lr.device)


open_file = ToyRuntime
