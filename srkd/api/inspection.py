"""The contents of a model: its network, its recognised dialect, its cost, and the assumptions about it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.base.metadata import srkd_keys
from compressor.inference.open import model_file, open_model, read_metadata
from compressor.inference.teacher_check import TeacherCheck, check_teacher
from compressor.models.checkpoints.licence import read_licence
from compressor.models.networks.base import ImageModel, Network
from compressor.models.networks.cost import LayerCost, cost, layer_costs
from compressor.models.networks.dialect import Assumption
from compressor.models.networks.registry import spec_from_dict
from compressor.models.quantisation.description import Quantisation
from compressor.models.quantisation.file_facts import QuantisedFile, read_quantised_file
from compressor.models.quantisation.quantisers import FLOAT_BYTES, quantised_bytes, quantised_layers
from compressor.runtimes.file_runtime import read_spec
from compressor.runtimes.table import RUNTIMES, OpenOptions, runtime_of
from compressor.teachers.licence import licence_of
from compressor.teachers.teacher import Teacher, load_teacher
from srkd.options.function import public
from srkd.options.models import load_by, refuse_file_options
from srkd.options.values import format_size, read_size
from srkd.options.verbs import InspectOptions

OUTPUTS_ONLY = "not a network that srkd knows: as a teacher it gives outputs only"


@dataclass(frozen=True, kw_only=True)
class QuantisedSize(Quantisation):
    """The quantisation of a network, and its size in bytes with weights packed at their bits."""

    quantised_weights: int
    bytes_at_bits: int
    bytes_as_float: int
    """Bytes of the float network in fp32."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The contents of one file or open network; None: a foreign file does not state it."""

    path: Path | None
    """Path of the file; None for an open network."""
    architecture: str
    dialect: str
    scale: int
    spec: Mapping[str, object] | None
    params: int | None = None
    macs: int | None = None
    macs_plus: int | None = None
    lr_size: str
    bytes: int
    sha256: str
    wrapping: str
    assumed: tuple[Assumption, ...] = ()
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str]
    quantisation: QuantisedSize | None = None
    """Quantisation of a quantised network whose weights are known."""
    int8: QuantisedFile | None = None
    """Flavour, calibration and loss of an exported file in int8."""
    layers: tuple[LayerCost, ...] | None = None
    """The cost of each layer, under --layers."""
    licence: str | None = None
    """Licence of the weights, if the file states one."""
    check: TeacherCheck | None = None
    """The result on an embedded photo, under --check."""


def run_inspect(options: InspectOptions, context: Context) -> Inspection:
    """Return the contents of a checkpoint, a run folder, an exported or a foreign file, and the assumptions about it.

    `check` runs it on an embedded photo, as `compress` does with a teacher; `layers` adds the cost of each layer. For
    an open network the path is None, and the hash is that of its weights.

        >>> print(srkd.inspect("edsr.pt").assumed)
    """
    if isinstance(options.path, ImageModel):
        refuse_file_options(options.scale, options.arch_options)
        model = options.path
        if model.network is not None or not isinstance(model, Teacher):
            model = Teacher(copy.deepcopy(model.require_network("a spec")))
        inspection = _inspect_teacher(model, options, context)
    else:
        file = model_file(Path(options.path))
        if runtime_of(file) == "torch":
            inspection = _inspect_teacher(load_by(load_teacher, file, options), options, context)
        else:
            inspection = _inspect_exported(file, options, context)
    if inspection.spec is None:
        if options.layers:
            raise SrkdError(
                f"{inspection.path}: the layers of {inspection.architecture} are not known: leave out --layers"
            )
        return inspection
    spec, lr_size = spec_from_dict(inspection.spec), read_size(options.lr_size)
    counts = cost(spec, lr_size)
    layers = layer_costs(spec, lr_size) if options.layers else None
    return replace(inspection, params=counts.params, macs=counts.macs, macs_plus=counts.macs_plus, layers=layers)


inspect = public(InspectOptions, InspectOptions, run_inspect, "inspect")


def quantised_size(network: Network) -> QuantisedSize | None:
    if network.quantisation is None:
        return None
    return QuantisedSize(
        **asdict(network.quantisation),
        quantised_weights=sum(layer.weight.numel() for layer in quantised_layers(network).values()),
        bytes_at_bits=quantised_bytes(network),
        bytes_as_float=FLOAT_BYTES * cost(network.spec).params,
    )


def _inspect_teacher(teacher: Teacher, options: InspectOptions, context: Context) -> Inspection:
    """Describe what a file holds, or an open network."""
    origin, network = teacher.origin, teacher.network
    facts: dict[str, Any] = {
        "architecture": teacher.architecture,
        "scale": teacher.descriptor.scale,
        "spec": None if network is None else network.spec.to_dict(),
        "params": teacher.params,
        "lr_size": format_size(read_size(options.lr_size)),
        "quantisation": None if network is None else quantised_size(network),
        "check": check_teacher(teacher, context=context) if options.check else None,
    }
    if origin is None:
        network = teacher.require_network("a spec")
        return Inspection(
            **facts,
            path=None,
            dialect="srkd",
            bytes=sum(tensor.nbytes for tensor in network.state_dict().values()),
            sha256=network.fingerprint(),
            wrapping="an open network",
            metadata={},
        )
    return Inspection(
        **facts,
        path=origin.path,
        dialect=origin.dialect,
        bytes=origin.bytes,
        sha256=origin.sha256,
        wrapping=origin.wrapping,
        assumed=origin.assumed,
        notes=origin.notes if network is not None else (*origin.notes, OUTPUTS_ONLY),
        metadata=srkd_keys(origin.header),
        licence=licence_of(origin.path),
    )


def _inspect_exported(file: Path, options: InspectOptions, context: Context) -> Inspection:
    """Describe an exported file by its metadata, as it may not run here; a foreign one is opened."""
    runtime = RUNTIMES[runtime_of(file)]
    if options.check and not runtime.opens_as_teacher:
        raise SrkdError(f"{file}: --check takes a teacher: a checkpoint or an ONNX file")
    teacher: Teacher | None = None
    if runtime.name == "onnxruntime":
        model = open_model(file, OpenOptions(limits=options.limits))
        spec, scale, metadata = model.spec, model.descriptor.scale, model.metadata
        dialect, wrapping = "onnx", f"ONNX, {model.precision}"
        if spec is None or options.check:  # a foreign file is opened as a teacher that gives outputs
            teacher = load_teacher(file, scale=options.scale, arch_options=options.arch_options, limits=options.limits)
    else:
        metadata = read_metadata(file)
        spec = read_spec(metadata, file.name)
        scale = open_model(file).descriptor.scale if spec is None else spec.scale
        dialect, wrapping = runtime.name, runtime.files
    files = [file] if file.is_file() else sorted(path for path in file.rglob("*") if path.is_file())
    origin = None if teacher is None else teacher.origin
    hashes = [file_sha256(path) for path in files]
    return Inspection(
        path=file,
        architecture="unknown" if spec is None else spec.arch,
        dialect=dialect,
        scale=scale,
        spec=None if spec is None else spec.to_dict(),
        lr_size=format_size(read_size(options.lr_size)),
        params=None if teacher is None else teacher.params,
        bytes=sum(path.stat().st_size for path in files) if origin is None else origin.bytes,
        # The hash of a folder is that of its files' hashes.
        sha256=hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest(),
        wrapping=wrapping,
        assumed=() if origin is None or spec is not None else origin.assumed,
        notes=(OUTPUTS_ONLY,) if spec is None and teacher is not None else (),
        metadata=srkd_keys(metadata),
        licence=read_licence(metadata) or licence_of(file),
        int8=read_quantised_file(metadata),
        check=check_teacher(teacher, context=context) if options.check and teacher is not None else None,
    )
