"""What a file holds: its network, how it was recognised, and what had to be assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compressor.checkpoints.container import file_sha256
from compressor.checkpoints.load import load_checkpoint
from compressor.cost import Cost, cost
from compressor.networks.dialect import Assumption
from compressor.runtimes.onnx_runtime import OnnxRuntime
from compressor.runtimes.open import model_file, runtime_of
from srkd.parameters import size


@dataclass(frozen=True)
class Inspection:
    """One file. What a foreign exported file does not say is None."""

    path: Path
    architecture: str
    dialect: str
    scale: int
    spec: Mapping[str, object] | None
    params: int | None
    macs: int | None
    macs_plus: int | None
    lr_size: str
    bytes: int
    sha256: str
    wrapping: str
    assumed: tuple[Assumption, ...] = ()
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def inspect_file(
    path: str | Path, *, scale: int | None, lr_size: tuple[int, int], arch_options: Mapping[str, object]
) -> Inspection:
    """Read a checkpoint, a run folder's student or an exported file."""
    file = model_file(Path(path))
    if runtime_of(file) == "onnxruntime":
        return _exported(file, lr_size)
    loaded = load_checkpoint(file, scale=scale, arch_options=arch_options)
    spec, counted = loaded.network.spec, cost(loaded.network, lr_size)
    return Inspection(
        path=loaded.path,
        architecture=spec.arch,
        dialect=loaded.dialect,
        scale=spec.scale,
        spec=spec.to_dict(),
        params=counted.params,
        macs=counted.macs,
        macs_plus=counted.macs_plus,
        lr_size=size(lr_size),
        bytes=loaded.bytes,
        sha256=loaded.sha256,
        wrapping=loaded.wrapping,
        assumed=loaded.assumed,
        notes=loaded.notes,
        metadata=_ours(loaded.header),
    )


def _exported(file: Path, lr_size: tuple[int, int]) -> Inspection:
    runtime = OnnxRuntime(file)
    spec = runtime.spec
    counted: Cost | None = None if spec is None else cost(spec, lr_size)
    return Inspection(
        path=file,
        architecture="unknown" if spec is None else spec.arch,
        dialect="onnx",
        scale=runtime.descriptor.scale,
        spec=None if spec is None else spec.to_dict(),
        params=None if counted is None else counted.params,
        macs=None if counted is None else counted.macs,
        macs_plus=None if counted is None else counted.macs_plus,
        lr_size=size(lr_size),
        bytes=file.stat().st_size,
        sha256=file_sha256(file),
        wrapping=f"ONNX, {runtime.precision}",
        metadata=_ours(runtime.metadata),
    )


def _ours(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in sorted(metadata.items()) if key.startswith("srkd.")}
