"""The way home: a network as a checkpoint of the code base it came from, read back and compared before it is kept.

Sources of what each lineage expects: BasicSR wraps in `params` (basicsr/models/base_model.py); CSD saves
`model_state_dict` of a DataParallel (PyTorch version/train.py); EDSR-PyTorch, RCAN and CARN save the bare dictionary.
SwinIR's and BasicSR's strict loading wants the buffers of window attention too.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compressor.base.errors import SrkdError, UsageError, nearest
from compressor.base.files import atomic_path, file_sha256
from compressor.models.checkpoints.load import OWN_DIALECT, Loaded, load_checkpoint, recognise
from compressor.models.checkpoints.save import METADATA_KEYS, save_network
from compressor.models.networks.base import Network
from compressor.models.networks.dialect import Dialect
from compressor.models.networks.layers import MeanShift
from compressor.models.networks.registry import architecture
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.networks.windows import relative_index, shift_mask

State = dict[str, torch.Tensor]
IMAGE_SIDES = (64, 126)
"""Training sizes of the published SwinIR files: 126 goes with windows of 7 (JPEG artefacts)."""


@dataclass(frozen=True)
class Target:
    """A code base: its dialect of each network, and how it wraps a state dict."""

    dialects: Mapping[str, str]
    wrap: Callable[[State], object]
    wrapping: str


def _bare(state: State) -> object:
    return state


def _params(state: State) -> object:
    return {"params": state}


def _csd(state: State) -> object:
    return {"model_state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}


TARGETS: Mapping[str, Target] = {
    "basicsr": Target(
        {"edsr": "basicsr", "rcan": "basicsr", "swinir": "swinir", "compact": "srvgg"}, _params, "params"
    ),
    "edsr-pytorch": Target({"edsr": "edsr-pytorch", "rcan": "rcan"}, _bare, "bare"),
    "rcan": Target({"rcan": "rcan", "edsr": "edsr-pytorch"}, _bare, "bare"),
    "carn": Target({"carn": "carn", "carn_m": "carn_m"}, _bare, "bare"),
    "csd": Target({"edsr": "csd", "rcan": "csd"}, _csd, "model_state_dict > module.*"),
    "fakd": Target({"edsr": "fakd", "rcan": "fakd"}, _bare, "bare"),
    "swinir": Target({"swinir": "swinir"}, _params, "params"),
}
OPTIONS_ELSEWHERE = frozenset({"res_scale", "img_range", "mean", "mean_shift", "padding"})
"""What lineages keep in option files: told aloud. Any other difference would be another network."""
WITHOUT_EFFECT = frozenset({"features"})
"""Fields that mean nothing to some forms of their network, and then are in no file (SwinIR's direct upsampler)."""
IGNORES_RES_SCALE = frozenset({("rcan", "rcan"), ("rcan", "csd"), ("rcan", "fakd")})
"""(network, dialect) whose code has the multiplication commented out."""


@dataclass(frozen=True)
class Converted:
    """A written file. `needs` holds options that the file cannot hold: whoever loads it must set them."""

    path: Path
    to: str
    dialect: str
    wrapping: str
    bytes: int
    sha256: str
    needs: Mapping[str, Any]
    notes: tuple[str, ...]


def convert_file(
    model: str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    scale: int | None = None,
    arch_options: Mapping[str, object] | None = None,
) -> Converted:
    """Write a checkpoint or a run folder's student in the names of another code base, beside it unless `out` says."""
    if to != OWN_DIALECT and to not in TARGETS:
        raise UsageError(f"no code base is called {to!r}; {nearest(to, [*TARGETS, OWN_DIALECT])}")
    loaded = load_checkpoint(model, scale=scale, arch_options=arch_options)
    suffix = ".safetensors" if to == OWN_DIALECT else ".pth"
    path = Path(out) if out is not None else loaded.path.with_name(f"{loaded.path.stem}_{to}{suffix}")
    if path.suffix not in ({".safetensors"} if to == OWN_DIALECT else {".pth", ".pt"}):
        raise UsageError(f"{path}: {to} files end with {suffix}")
    if path.exists() and path.resolve() == loaded.path.resolve():
        raise UsageError(f"{path} is the file that is converted: give another name with -o")
    if to == OWN_DIALECT:
        kept = {key: value for key, value in loaded.header.items() if key in METADATA_KEYS - {"srkd.spec"}}
        save_network(loaded.network, path, metadata={"srkd.source_sha256": loaded.sha256, **kept})
        return _written(path, to, OWN_DIALECT, "safetensors", {}, ())
    return _write_home(loaded, to, path)


def _write_home(loaded: Loaded, to: str, path: Path) -> Converted:
    target, network = TARGETS[to], loaded.network
    dialect = dialect_of(network, to)
    state, notes = home_state(network, dialect)
    needs = _read_back(network, dialect, state)
    stream = io.BytesIO()  # by its file's name torch.save would make other bytes of the same weights
    torch.save(target.wrap(state), stream)
    with atomic_path(path) as temporary:
        temporary.write_bytes(stream.getvalue())
    return _written(path, to, dialect.name, target.wrapping, needs, notes)


def _written(
    path: Path, to: str, dialect: str, wrapping: str, needs: Mapping[str, Any], notes: tuple[str, ...]
) -> Converted:
    return Converted(path, to, dialect, wrapping, path.stat().st_size, file_sha256(path), needs, notes)


def dialect_of(network: Network, to: str) -> Dialect:
    """How `to` names this network, or which code bases have it."""
    arch = network.spec.arch
    name = TARGETS[to].dialects.get(arch)
    if name is None:
        having = [other for other, target in TARGETS.items() if arch in target.dialects]
        raise UsageError(f"{to} has no {arch}; those that have: {', '.join([*having, OWN_DIALECT])}")
    return next(dialect for dialect in architecture(arch).dialects if dialect.name == name)


def home_state(network: Network, dialect: Dialect) -> tuple[State, tuple[str, ...]]:
    """The tensors by the lineage's names, mean shift and buffers included, and what to know of them."""
    spec = network.spec
    _refuse_what_cannot_be_said(network, dialect)
    state: State = {}
    if dialect.surplus("sub_mean.weight"):
        state |= _mean_shift(network, ".shifter" if spec.arch.startswith("carn") else "")
    # A file of one scale; those of several have `up2`, `up3` and `up4`.
    names = dialect.names(spec, {"upsample.up.body.0.weight"})
    own = network.state_dict()
    state |= {theirs: own[ours].detach().cpu().clone().contiguous() for ours, theirs in names.items()}
    notes: tuple[str, ...] = ()
    if isinstance(spec, SwinIRSpec):
        buffers, image = _window_buffers(spec)
        state |= buffers
        notes = (f"its buffers are those of img_size={image}, window_size={spec.window}: build the network with these",)
    elif spec.arch.startswith("carn"):
        notes = (f"a file of one scale: build the network with multi_scale=False, scale={spec.scale}",)
    return state, notes


def _refuse_what_cannot_be_said(network: Network, dialect: Dialect) -> None:
    fields = network.spec.to_dict()
    has_mean = dialect.surplus("sub_mean.weight")
    if fields.get("mean_shift") == "file" and not has_mean:
        raise SrkdError(
            f"{dialect.name} files have no mean shift, and this network's was trained away from the constants: "
            "its outputs would change; convert to edsr-pytorch or srkd"
        )
    if (fields["arch"], dialect.name) in IGNORES_RES_SCALE and fields["res_scale"] != 1.0:
        raise SrkdError(f"{dialect.name}'s RCAN ignores res_scale, this one has {fields['res_scale']:g}: use basicsr")
    if fields["arch"].startswith("carn") and fields["img_range"] != 1.0:
        raise SrkdError(f"carn works on [0,1], this network on img_range={fields['img_range']:g}: convert to srkd")


def _mean_shift(network: Network, suffix: str) -> State:
    """The constants as the official code makes them; a mean shift of the file's own goes by its names."""
    fields = network.spec.to_dict()
    if fields["mean_shift"] == "file":
        return {}
    state: State = {}
    for name, leave in (("sub_mean", False), ("add_mean", True)):
        shift = MeanShift(fields["mean"], fields["img_range"], leave=leave, from_file=True)
        state |= {f"{name}{suffix}.weight": shift.weight, f"{name}{suffix}.bias": shift.bias}
    return state


def _window_buffers(spec: SwinIRSpec) -> tuple[State, int]:
    """relative_position_index of every layer, attn_mask of every shifted one, and the img_size they belong to."""
    fitting = [side for side in IMAGE_SIDES if side % spec.window == 0 and side > spec.window]
    image = (fitting[0] if fitting else 8 * spec.window) if spec.shifted else spec.window
    index = relative_index(spec.window)
    mask = shift_mask(image, image, spec.window, torch.device("cpu")) if spec.shifted else None
    state: State = {}
    for g, depth in enumerate(spec.depths):
        for k in range(depth):
            layer = f"layers.{g}.residual_group.blocks.{k}"
            state[f"{layer}.attn.relative_position_index"] = index
            if mask is not None and k % 2 == 1:
                state[f"{layer}.attn_mask"] = mask
    return state, image


def _read_back(network: Network, dialect: Dialect, state: State) -> Mapping[str, Any]:
    """Recognise what was made, as a stranger would; gives the fields that only an option can hold."""
    found = recognise(state, None, {})
    ours, theirs = network.spec.to_dict(), found.spec.to_dict()
    differing = {name: value for name, value in ours.items() if theirs.get(name) != value}
    needs = {name: value for name, value in differing.items() if name not in WITHOUT_EFFECT}
    if found.dialect != dialect.name or not set(needs) <= OPTIONS_ELSEWHERE:
        told = ", ".join(f"{name}={value}" for name, value in needs.items())
        raise SrkdError(f"{dialect.name} files cannot say {told or found.dialect}: convert to srkd")
    names = recognise(state, None, needs).names
    own = network.state_dict()
    if set(names) != set(own) or any(not torch.equal(state[there], own[here].cpu()) for here, there in names.items()):
        raise SrkdError(f"{dialect.name}: the tensors read back are not those of the network: nothing was written")
    return needs
