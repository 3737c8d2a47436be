"""Loading of checkpoints of any known code base, and of srkd's own files, as networks.

The steps: open the container, unwrap the state dict, recognise the dialect of its names, infer the spec from shapes,
check every name and shape against it, and only then allocate the network and fill it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.files import Container, most_bytes, open_container
from compressor.models.checkpoints.header import weights_file
from compressor.models.checkpoints.unwrap import Unwrapped, readings, unwrap
from compressor.models.networks.base import Architecture, Network, Spec
from compressor.models.networks.dialect import Assumption, Dialect, SeveralScales, State
from compressor.models.networks.registry import NETWORKS, architectures, build, spec_from_dict
from compressor.models.quantisation.description import Quantisation, read_quantisation
from compressor.models.quantisation.quantisers import quantisers_of

OWN_DIALECT = "srkd"


class UnknownNetwork(SrkdError):
    """The tensors are in no known dialect; another library may know the network."""


class DoesNotFit(SrkdError):
    """The names belong to a known network, but tensors are missing or have wrong shapes."""


@dataclass(frozen=True)
class Loaded:
    """A loaded network and the facts of its file."""

    network: Network
    dialect: str
    assumed: tuple[Assumption, ...]
    """Values that the file does not hold; they are reported to the user."""
    header: Mapping[str, str]
    """The metadata of a safetensors file; empty for others."""
    sha256: str
    bytes: int
    path: Path
    wrapping: str
    notes: tuple[str, ...] = ()
    is_smaller: bool = False
    """Whether a smaller scale than the file's was asked for."""


@dataclass(frozen=True)
class Recognised:
    """A spec, the file's tensors, their names by srkd's names, and a test for names that may be left over."""

    spec: Spec
    dialect: str
    state: State
    names: Mapping[str, str]
    surplus: Callable[[str], bool] = lambda name: False
    assumed: tuple[Assumption, ...] = ()
    notes: tuple[str, ...] = ()
    quantisation: Quantisation | None = None


def load_checkpoint(
    path: str | Path, *, scale: int | None = None, arch_options: Mapping[str, object] | None = None
) -> Loaded:
    """Load a checkpoint (.pt, .pth, .safetensors) or a run folder's student, in eval mode, fp32, on the CPU.

    `scale` selects one scale of a multi-scale file, or a smaller one than the file's where the network has a form for
    it (`Network.at_scale`). `arch_options` replace fields of the inferred spec (`res_scale`, `img_range`, `mean`, …);
    the option `weights` names the state dict in a file with several, `scale` its scale.
    """
    path = weights_file(Path(path))
    options = dict(arch_options or {})
    weights, scale = options.pop("weights", None), cast("int | None", options.pop("scale", scale))
    with _open_weights(path, None if weights is None else str(weights)) as (container, unwrapped):
        return _load(container, unwrapped, path, scale, options)


def read_states(path: Path, weights: str | None = None) -> list[tuple[str, dict[str, torch.Tensor]]]:
    """Return every possible state dict of the file with its wrapping, the one with unchanged names first."""
    with _open_weights(path, weights) as (_, unwrapped):
        return [(reading.wrapping, dict(reading.tensors)) for reading in readings(unwrapped)]


@contextmanager
def _open_weights(path: Path, weights: str | None) -> Iterator[tuple[Container, Unwrapped]]:
    """Open a file and yield its container and state dict; errors within the block begin with the path."""
    try:
        container = open_container(path)
        unwrapped = unwrap(container.content, weights)
        tensor_bytes = sum(tensor.numel() * tensor.element_size() for tensor in unwrapped.tensors.values())
        if tensor_bytes > most_bytes(container.size_bytes):  # before memory is taken for each
            raise SrkdError(
                f"its tensors have {tensor_bytes:,} bytes out of the file's {container.size_bytes:,}: they share their "
                "values, save them apart"
            )
        yield container, unwrapped
    except SrkdError as error:
        kinds = (SeveralScales, UsageError, UnknownNetwork, DoesNotFit)
        kind = next((kind for kind in kinds if isinstance(error, kind)), SrkdError)
        raise kind(f"{path}: {error}") from error


def _load(
    container: Container, unwrapped: Unwrapped, path: Path, scale: int | None, options: Mapping[str, object]
) -> Loaded:
    options = {**container.fields, **options}
    image_scale = cast("int | None", options.pop("image_scale", None))
    spec_json = container.header.get("srkd.spec")
    if spec_json is None:
        unwrapped, match, network = _fit_any(unwrapped, scale, options)
    else:
        match = _read_own(spec_json, container.header, unwrapped.tensors, options)
        network = _fill(match)
    own, wanted, notes, header = match.spec.scale, scale or image_scale, list[str](), container.header
    if wanted not in (None, own):
        smaller, mean = network.at_scale(wanted), own // wanted
        instead = ", where the file samples it bicubically" if image_scale else ""
        if smaller is not None:
            network = smaller
            header = {key: value for key, value in header.items() if key not in ("srkd.scores", "srkd.protocol")}
            notes.append(f"x{wanted}: the mean of {mean}x{mean} pixels of the x{own} image, by its last layer{instead}")
        elif scale is None:
            notes.append(
                f"its last layer, which reduces the x{own} image to x{wanted}, is left out: the network is x{own}"
            )
        else:
            raise UsageError(f"the file is for scale {own}, not {scale}")
    return Loaded(
        network=network,
        dialect=match.dialect,
        assumed=(*unwrapped.assumed, *(a for a in match.assumed if a.field not in options)),
        header=header,
        sha256=container.sha256,
        bytes=container.size_bytes,
        path=path,
        wrapping=unwrapped.wrapping,
        notes=(*unwrapped.notes, *match.notes, *notes),
        is_smaller=scale is not None and network.spec.scale < own,
    )


def _fit_any(
    unwrapped: Unwrapped, scale: int | None, options: Mapping[str, object]
) -> tuple[Unwrapped, Recognised, Network]:
    """Return the first reading and the first dialect that all tensors fit; else raise the error of unchanged names."""
    misfit: DoesNotFit | None = None
    for candidate in readings(unwrapped):
        state = candidate.tensors
        for family in architectures():
            for name in (name for name, recognises in family.relatives.items() if recognises(state)):
                raise UnknownNetwork(
                    f"these are the weights of {name}, a relative of {family.name} that srkd does not know: export its "
                    "network to ONNX or TorchScript as a teacher"
                )
        for family, dialect in _dialects():
            if not dialect.recognises(state):
                continue
            try:
                match = _read(family, dialect, state, scale, options)
                return candidate, match, _fill(match)
            except DoesNotFit as error:
                misfit = misfit or error
    raise misfit or UnknownNetwork(_describe_unknown(unwrapped.tensors))


def recognise(state: State, options: Mapping[str, object]) -> Recognised:
    """Return the dialect of the tensors, and the spec from their shapes and the options."""
    for family, dialect in _dialects():
        if dialect.recognises(state):
            return _read(family, dialect, state, None, options)
    raise UnknownNetwork(_describe_unknown(state))


def _read(
    family: Architecture, dialect: Dialect, state: State, scale: int | None, options: Mapping[str, object]
) -> Recognised:
    """Return the spec of tensors with the names of a dialect."""
    notes: tuple[str, ...] = ()
    try:
        if dialect.fold is not None:
            state, notes = dialect.fold(state)
        reading = dialect.read(state, scale)
    except UsageError:
        raise
    except SrkdError as error:
        raise DoesNotFit(str(error)) from error
    try:
        plain = family.spec.from_dict(reading.fields)
    except UsageError as error:
        raise DoesNotFit(f"its shapes fit no network: {error}") from error
    try:
        spec = plain.with_options(options)
    except UsageError:
        # Check the fit first: the file, and so the options, may belong to another reader.
        match = Recognised(plain, dialect.name, state, dialect.names(plain, set(state)), dialect.surplus)
        _require_fit(match, _skeleton(plain).state_dict())
        raise
    names = dialect.names(spec, set(state))
    return Recognised(spec, dialect.name, state, names, dialect.surplus, reading.assumed, (*notes, *reading.notes))


def _dialects() -> Iterator[tuple[Architecture, Dialect]]:
    return ((family, dialect) for family in architectures() for dialect in family.dialects)


def _read_own(spec_json: str, header: Mapping[str, str], state: State, options: Mapping[str, object]) -> Recognised:
    """Return the spec of a file written by save.py from its header; its names are srkd's own."""
    try:
        spec = spec_from_dict(json.loads(spec_json))
    except (ValueError, RecursionError, UsageError) as error:
        raise SrkdError(f"its srkd.spec cannot be used: {error}") from error
    spec = spec.with_options(options)
    try:
        quantisation = read_quantisation(header)
        names = {name: name for name in _skeleton(spec, quantisation).state_dict()}
    except UsageError as error:
        raise SrkdError(f"it cannot be used as a quantised network: {error}") from error
    return Recognised(spec, OWN_DIALECT, state, names, quantisation=quantisation)


def _skeleton(spec: Spec, quantisation: Quantisation | None = None) -> Network:
    """Return the network on the meta device: names and shapes without memory."""
    with torch.device("meta"):
        return build(spec, quantisation=quantisation)


def _fill(match: Recognised) -> Network:
    """Return the network with the file's tensors, after checking every name and shape."""
    expected = _skeleton(match.spec, match.quantisation).state_dict()
    _require_fit(match, expected)
    for name in match.names.values():
        if not bool(match.state[name].isfinite().all()):
            raise SrkdError(
                f"tensor {name[:100]} holds NaN or infinity: its training diverged or the file is damaged, "
                "take an earlier checkpoint"
            )
    network = build(match.spec, seed=0, quantisation=match.quantisation)
    network.load_state_dict({here: match.state[there] for here, there in match.names.items()}, strict=True)
    for name, quantiser in quantisers_of(network).items():
        if not float(quantiser.alpha.detach()) > 0:
            raise SrkdError(f"tensor {name}.alpha is {float(quantiser.alpha.detach()):g}: a range is above 0")
    return network


def _require_fit(match: Recognised, expected: State) -> None:
    """Refuse tensors that do not fit the network, with a line about them and the likely cause.

    `missing` and `misshaped` map srkd's names to descriptions of the file's tensors.
    """
    state = match.state
    present = {here: there for here, there in match.names.items() if there in state}
    missing = {here: there for here, there in match.names.items() if there not in state}
    used = set(match.names.values())
    unexpected = [name for name in state if name not in used and not match.surplus(name)]
    misshaped = {
        here: f"{there} is {tuple(state[there].shape)} and should be {tuple(expected[here].shape)}"
        for here, there in present.items()
        if state[there].shape != expected[here].shape
    }
    integers = [
        f"{there} is {state[there].dtype}" for there in present.values() if not state[there].is_floating_point()
    ]
    kinds = {
        "missing": list(missing.values()),
        "unexpected": unexpected,
        "misshaped": list(misshaped.values()),
        "not floating-point": integers,
    }
    lines = [f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds.items() if names]
    if not lines:
        return
    wrong = (*missing, *misshaped)
    if wrong and all(name.startswith(("upsampler", "tail")) for name in wrong):
        cause = "is it for another scale?"
    elif missing and not misshaped and not unexpected:
        cause = "was only a part of it saved, or copied?"
    elif unexpected and not wrong:
        cause = "it is a variant of this network that srkd does not know: export it to ONNX or TorchScript as a teacher"
    else:
        cause = "is this file complete, and for this scale?"
    raise DoesNotFit(f"recognised as {match.spec.arch} ({match.dialect} names), but {'; '.join(lines)}: {cause}")


def _first(items: Sequence[str], count: int = 3) -> str:
    listing = ", ".join(item[:100] for item in items[:count])
    return f"{listing}, …" if len(items) > count else listing


def _describe_unknown(state: State) -> str:
    return (
        f"unknown network: its {len(state)} tensors ({_first(list(state))}) are in no known dialect; known are "
        f"{', '.join(NETWORKS)}"
    )
