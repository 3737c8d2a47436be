"""The contents of a model file: its network, its recognised dialect, and the assumptions about it.

srkd's own safetensors files are described by their headers, without torch; others are opened (network_inspection.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.base.metadata import srkd_keys
from compressor.inference.open import model_file
from compressor.models.checkpoints.header import read_own_file
from compressor.models.checkpoints.licence import read_licence
from compressor.models.quantisation.file_facts import QuantisedFile
from srkd.options.values import format_size, read_size
from srkd.options.verbs import InspectOptions

if TYPE_CHECKING:
    from compressor.inference.teacher_check import TeacherCheck
    from compressor.models.networks.cost import LayerCost
    from compressor.models.networks.dialect import Assumption


@dataclass(frozen=True, kw_only=True)
class QuantisedSize:
    """The quantisation of a network, and its size in bytes with weights packed at their bits."""

    method: str
    bits: int
    placement: str
    compat: str
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


def inspect_header(options: InspectOptions) -> Inspection | None:
    """Describe srkd's own file by its header; None if the file is foreign or the options require opening it."""
    if options.layers or options.check or options.arch_options or not isinstance(options.path, (str, os.PathLike)):
        return None
    file = model_file(Path(options.path))
    own = read_own_file(file) if file.suffix == ".safetensors" else None
    if own is None or own.cost.lr_size != read_size(options.lr_size):
        return None
    scale = own.spec["scale"]
    if not isinstance(scale, int) or options.scale not in (None, scale):
        return None
    return Inspection(
        path=file,
        architecture=str(own.spec["arch"]),
        dialect="srkd",
        scale=scale,
        spec={key: tuple(value) if isinstance(value, list) else value for key, value in own.spec.items()},
        params=own.cost.params,
        macs=own.cost.macs,
        macs_plus=own.cost.macs_plus,
        lr_size=format_size(own.cost.lr_size),
        bytes=own.bytes,
        sha256=own.sha256,
        wrapping="bare",
        metadata=srkd_keys(own.metadata),
        licence=read_licence(own.metadata),
    )
