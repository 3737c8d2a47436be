"""What a file holds: its network, how it was recognised, and what had to be assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from compressor.checkpoints.container import file_sha256
from compressor.cost import Cost, LayerCost, cost, layer_costs
from compressor.errors import SrkdError
from compressor.networks.dialect import Assumption
from compressor.networks.registry import spec_from_dict
from compressor.runtimes.onnx_runtime import OnnxRuntime
from compressor.runtimes.open import model_file, runtime_of
from compressor.teacher import load_teacher
from compressor.teacher_check import TeacherCheck, check_teacher
from srkd.parameters import size

OUTPUTS_ONLY = "no network of srkd: as a teacher it gives outputs only"


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
    layers: tuple[LayerCost, ...] | None = None
    """What each layer costs, where that was asked for and the network is known."""
    check: TeacherCheck | None = None
    """How it does as a teacher on an embedded photo, where that was asked for."""


def inspect_file(
    path: str | Path,
    *,
    scale: int | None,
    lr_size: tuple[int, int],
    arch_options: Mapping[str, object],
    check: bool = False,
    layers: bool = False,
) -> Inspection:
    """Read a checkpoint, a run folder's student, an exported or a foreign file."""
    found = _inspected(Path(path), scale, lr_size, arch_options, check)
    if not layers:
        return found
    if found.spec is None:
        raise SrkdError(f"{found.path}: the layers of a {found.architecture} are not known: leave out --layers")
    return replace(found, layers=layer_costs(spec_from_dict(found.spec), lr_size))


def _inspected(
    path: Path, scale: int | None, lr_size: tuple[int, int], arch_options: Mapping[str, object], check: bool
) -> Inspection:
    file = model_file(path)
    if runtime_of(file) == "onnxruntime":
        return _exported(file, lr_size, arch_options, check)
    teacher = load_teacher(file, scale=scale, arch_options=arch_options)
    origin, network = teacher.origin, teacher.network
    assert origin is not None  # it came from a file
    counted = None if network is None else cost(network, lr_size)
    return Inspection(
        path=origin.path,
        architecture=teacher.architecture,
        dialect=origin.dialect,
        scale=teacher.descriptor.scale,
        spec=None if network is None else network.spec.to_dict(),
        params=teacher.params if counted is None else counted.params,
        macs=None if counted is None else counted.macs,
        macs_plus=None if counted is None else counted.macs_plus,
        lr_size=size(lr_size),
        bytes=origin.bytes,
        sha256=origin.sha256,
        wrapping=origin.wrapping,
        assumed=origin.assumed,
        notes=origin.notes if network is not None else (*origin.notes, OUTPUTS_ONLY),
        metadata=_ours(origin.header or {}),
        check=check_teacher(teacher) if check else None,
    )


def _exported(file: Path, lr_size: tuple[int, int], arch_options: Mapping[str, object], check: bool) -> Inspection:
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
        check=check_teacher(load_teacher(file, arch_options=arch_options)) if check else None,
    )


def _ours(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in sorted(metadata.items()) if key.startswith("srkd.")}
