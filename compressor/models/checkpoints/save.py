"""Saving of networks as safetensors: equal networks and metadata give equal bytes, and files are written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import atomic_path
from compressor.degradation.names import METADATA as DEGRADATION
from compressor.models.checkpoints.licence import KEY as LICENCE
from compressor.models.networks.base import Network, Spec, tensor_bytes
from compressor.models.quantisation.description import KEY as QUANT
from compressor.models.quantisation.description import Quantisation

FORMAT = "srkd/1"
STRENGTH = "srkd.strength"
"""Key of the strength of a student between its faithful and its textured end."""
METADATA_KEYS = frozenset([
    "srkd.format", "srkd.spec", "srkd.scale", "srkd.range", "srkd.recipe", "srkd.source_sha256", "srkd.protocol",
    "srkd.scores", "srkd.goal", "srkd.teacher", DEGRADATION, LICENCE, QUANT, STRENGTH,
])  # fmt: skip
DTYPE_NAMES: Mapping[torch.dtype, str] = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def metadata_of(spec: Spec, quantisation: Quantisation | None = None) -> dict[str, str]:
    """Return the metadata of every file derived from a network, in safetensors headers and elsewhere."""
    quant = {} if quantisation is None else {QUANT: quantisation.to_json()}
    return quant | {
        "srkd.format": FORMAT,
        "srkd.spec": json.dumps(spec.to_dict(), sort_keys=True),
        "srkd.scale": str(spec.scale),
        "srkd.range": "0..1",
    }


def save_network(
    network: Network, path: str | Path, *, metadata: Mapping[str, str] | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write the network's tensors, by srkd's names, as fp32 (or `dtype`), with its spec in the header."""
    extra = dict(metadata or {})
    unknown = sorted(set(extra) - METADATA_KEYS)
    if unknown:
        raise UsageError(f"no metadata key is called {unknown[0]!r}; there are {', '.join(sorted(METADATA_KEYS))}")
    dtype = dtype or torch.float32
    if dtype not in DTYPE_NAMES:
        raise UsageError(f"cannot save as {dtype}; there are {', '.join(str(name) for name in DTYPE_NAMES)}")
    tensors = {name: _converted(name, tensor, dtype) for name, tensor in sorted(network.state_dict().items())}
    own = metadata_of(network.spec, network.quantisation)
    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as stream:
        stream.write(_header(tensors, {**extra, **own}))
        for tensor in tensors.values():
            stream.write(tensor_bytes(tensor))


def _converted(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    converted = tensor.detach().to("cpu", dtype)
    if bool(tensor.isfinite().all()) and not bool(converted.isfinite().all()):
        raise SrkdError(f"tensor {name} has values beyond the range of {dtype}: save as float32")
    return converted


def _header(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return length and JSON, padded with spaces to a multiple of eight (huggingface/safetensors, README, 'Format').

    The library's own writer is not used because it orders the metadata randomly.
    """
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + tensor.numel() * tensor.element_size()
        dtype, shape = DTYPE_NAMES[tensor.dtype], list(tensor.shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
