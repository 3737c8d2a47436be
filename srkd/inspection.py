"""What a file holds: its network, how it was recognised, and what had to be assumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.inference.open import RUNTIMES, model_file, open_model, runtime_of
from compressor.inference.origin import said_by
from compressor.inference.teacher_check import TeacherCheck, check_teacher
from compressor.models.cost import Cost, LayerCost, cost, layer_costs
from compressor.models.networks.base import Spec
from compressor.models.networks.dialect import Assumption
from compressor.models.networks.registry import spec_from_dict
from compressor.runtimes.metadata import spec_in
from compressor.runtimes.onnx_runtime import OnnxRuntime
from compressor.teachers.teacher import load_teacher
from srkd.parameters import format_size

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
    kind = runtime_of(file)
    if kind == "onnxruntime":
        return _onnx(file, lr_size, arch_options, check)
    if kind != "torch":
        return _exported(file, kind, lr_size, check)
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
        lr_size=format_size(lr_size),
        bytes=origin.bytes,
        sha256=origin.sha256,
        wrapping=origin.wrapping,
        assumed=origin.assumed,
        notes=origin.notes if network is not None else (*origin.notes, OUTPUTS_ONLY),
        metadata=_ours(origin.header or {}),
        check=check_teacher(teacher) if check else None,
    )


def _onnx(file: Path, lr_size: tuple[int, int], arch_options: Mapping[str, object], check: bool) -> Inspection:
    runtime = OnnxRuntime(file)
    found = _told(file, "onnx", f"ONNX, {runtime.precision}", runtime.spec, runtime.descriptor.scale, lr_size)
    checked = check_teacher(load_teacher(file, arch_options=arch_options)) if check else None
    return replace(found, metadata=_ours(runtime.metadata), check=checked)


def _exported(file: Path, kind: str, lr_size: tuple[int, int], check: bool) -> Inspection:
    """Of our own files what they say, whether or not they can run here; foreign ones are opened."""
    if check:
        raise SrkdError(f"{file}: --check runs teachers, which are checkpoints and ONNX files")
    metadata = said_by(file)
    spec = spec_in(metadata, file.name)
    scale = open_model(file).descriptor.scale if spec is None else spec.scale
    return replace(_told(file, kind, RUNTIMES[kind].takes, spec, scale, lr_size), metadata=_ours(metadata))


def _told(
    file: Path, dialect: str, wrapping: str, spec: Spec | None, scale: int, lr_size: tuple[int, int]
) -> Inspection:
    counted: Cost | None = None if spec is None else cost(spec, lr_size)
    parts = _parts(file)
    return Inspection(
        path=file,
        architecture="unknown" if spec is None else spec.arch,
        dialect=dialect,
        scale=scale,
        spec=None if spec is None else spec.to_dict(),
        params=None if counted is None else counted.params,
        macs=None if counted is None else counted.macs,
        macs_plus=None if counted is None else counted.macs_plus,
        lr_size=format_size(lr_size),
        bytes=sum(part.stat().st_size for part in parts),
        sha256=_sha256(parts),
        wrapping=wrapping,
    )


def _parts(file: Path) -> list[Path]:
    """The file, or those of a folder that counts as one."""
    return [file] if file.is_file() else sorted(part for part in file.rglob("*") if part.is_file())


def _sha256(parts: Sequence[Path]) -> str:
    """Of a file its own, of several that of theirs."""
    hashes = [file_sha256(part) for part in parts]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _ours(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in sorted(metadata.items()) if key.startswith("srkd.")}
