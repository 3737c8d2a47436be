"""Conversion of a network to a checkpoint of another code base, read back and compared before it is written.

Names, wrapping and other required contents of such a file are in the dialects in each network's module.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from compressor.base.cache_folder import folder_for_files
from compressor.base.errors import SrkdError, UsageError, nearest
from compressor.base.files import atomic_path, file_sha256, require_writable_folder
from compressor.models.checkpoints.load import OWN_DIALECT, load_checkpoint, recognise
from compressor.models.checkpoints.save import METADATA_KEYS, save_network
from compressor.models.networks.base import Network
from compressor.models.networks.dialect import Dialect, Wrapping
from compressor.models.networks.registry import architecture, architectures

State = dict[str, torch.Tensor]
WRAPPERS: Mapping[Wrapping, Callable[[State], object]] = {
    "bare": lambda state: state,
    "params": lambda state: {"params": state},
    "model_state_dict > module.*": lambda state: {
        "model_state_dict": {f"module.{name}": tensor for name, tensor in state.items()}
    },
}


@dataclass(frozen=True)
class Converted:
    """A converted file. `needs` holds options that the file cannot store and that must be set when it is loaded."""

    path: Path
    to: str
    dialect: str
    wrapping: str
    bytes: int
    sha256: str
    needs: Mapping[str, Any]
    notes: tuple[str, ...]


def code_bases() -> tuple[str, ...]:
    """Return the names of all code bases that at least one network can be converted to."""
    return tuple(sorted({to for family in architectures() for dialect in family.dialects for to in dialect.targets}))


def find_dialect(arch: str, to: str) -> Dialect | None:
    """Return the dialect of a network in a code base, or None if the code base lacks that network."""
    return next((dialect for dialect in architecture(arch).dialects if to in dialect.targets), None)


def convert_file(
    model: str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    scale: int | None = None,
    arch_options: Mapping[str, object] | None = None,
) -> Converted:
    """Write a checkpoint or a run folder's student in the names of another code base, by default beside the model."""
    suffix = _suffix_of(to)
    if out is not None:
        require_writable_folder(Path(out).parent, "--out")
    loaded = load_checkpoint(model, scale=scale, arch_options=arch_options)
    path = Path(out) if out is not None else folder_for_files(loaded.path) / f"{loaded.path.stem}_{to}{suffix}"
    if path.exists() and path.resolve() == loaded.path.resolve():
        raise UsageError(f"{path} is the file that is converted: give another name with -o")
    entries = {key: value for key, value in loaded.header.items() if key in METADATA_KEYS - {"srkd.spec"}}
    written = convert_network(loaded.network, to, path, metadata={"srkd.source_sha256": loaded.sha256, **entries})
    return replace(written, notes=(*loaded.notes, *written.notes))


def convert_network(network: Network, to: str, path: Path, *, metadata: Mapping[str, str] | None = None) -> Converted:
    """Write a network in the names of another code base; `metadata` goes only into srkd's own format."""
    suffix = _suffix_of(to)
    if path.suffix not in ({".safetensors"} if to == OWN_DIALECT else {".pth", ".pt"}):
        raise UsageError(f"{path}: {to} files end with {suffix}")
    if to == OWN_DIALECT:
        save_network(network, path, metadata=metadata)
        return Converted(path, to, OWN_DIALECT, "safetensors", path.stat().st_size, file_sha256(path), {}, ())
    arch = network.spec.arch
    dialect = find_dialect(arch, to)
    if dialect is None:
        homes = sorted(to for known in architecture(arch).dialects for to in known.targets)
        raise UsageError(f"{to} has no {arch}; those that have: {', '.join([*homes, OWN_DIALECT])}")
    if network.quantisation is not None:
        raise SrkdError(
            f"{to} files have no place for the ranges of a quantised network ({network.quantisation.line()}): "
            f"convert to {OWN_DIALECT}, or the float network that it was made from"
        )
    state, notes = state_in_dialect(network, dialect)
    needs = _read_back(network, dialect, state)
    stream = io.BytesIO()  # torch.save puts a file's name into its bytes: equal weights would give different files
    torch.save(WRAPPERS[dialect.wrapping](state), stream)
    with atomic_path(path) as temporary:
        temporary.write_bytes(stream.getvalue())
    size_bytes, sha256 = path.stat().st_size, file_sha256(path)
    return Converted(path, to, dialect.name, dialect.wrapping, size_bytes, sha256, needs, notes)


def _suffix_of(to: str) -> str:
    if to != OWN_DIALECT and to not in code_bases():
        raise UsageError(f"no code base is called {to!r}; {nearest(to, [*code_bases(), OWN_DIALECT])}")
    return ".safetensors" if to == OWN_DIALECT else ".pth"


def state_in_dialect(network: Network, dialect: Dialect) -> tuple[State, tuple[str, ...]]:
    """Return the tensors by the code base's names, with the extra tensors that it expects, and notes for the user.

    A network with settings that the code base does not support is refused.
    """
    fields = network.spec.to_dict()
    for name, value in dialect.fixed.items():
        if fields[name] != value:
            able = (candidate for candidate in architecture(network.spec.arch).dialects if name not in candidate.fixed)
            others = sorted(to for candidate in able for to in candidate.targets)
            raise SrkdError(
                f"{dialect.name} files know only {name}={value}, this network has {name}={fields[name]}, and its "
                f"outputs would change: convert to {' or '.join([*others, OWN_DIALECT])}"
            )
    companions, notes = dialect.companions(network.spec)
    tensors = network.state_dict()
    names = dialect.names(network.spec, set())
    state = {there: tensors[here].detach().cpu().clone().contiguous() for here, there in names.items()}
    return {**companions, **dialect.unfold(state)}, notes


def _read_back(network: Network, dialect: Dialect, state: State) -> Mapping[str, Any]:
    """Read the tensors back like a foreign file, and return the spec fields that must be given as options."""
    spec = network.spec
    reading = recognise(state, {})
    fields_back = reading.spec.to_dict()
    needs = {name: value for name, value in spec.to_dict().items() if fields_back.get(name) != value}
    needs = {name: value for name, value in needs.items() if name not in spec.unused}
    if reading.dialect != dialect.name or not set(needs) <= set(spec.undetectable):
        lost = ", ".join(f"{name}={value}" for name, value in needs.items())
        raise SrkdError(f"{dialect.name} files cannot hold {lost or reading.dialect}: convert to srkd")
    read = recognise(state, needs)
    tensors = network.state_dict()
    if set(read.names) != set(tensors) or any(
        not torch.equal(read.state[there], tensors[here].cpu()) for here, there in read.names.items()
    ):
        raise SrkdError(f"{dialect.name}: the tensors read back are not those of the network: nothing was written")
    return needs
