"""From what a file holds to one state dict: wrappers of training scripts, and prefixes of parallel training.

Checkpoints of any known lineage, and our own files, as networks.

The steps: open the container, unwrap the state dict, find whose names these are, infer the spec from shapes, check
every name and shape against it, and only then allocate the network and fill it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from compressor.base.errors import SrkdError, UsageError, nearest
from compressor.models.checkpoints.files import Container, open_container
from compressor.models.checkpoints.pickles import TensorRef
from compressor.models.networks.base import Architecture, Network, Spec
from compressor.models.networks.dialect import Assumption, Dialect
from compressor.models.networks.registry import architectures, build, network_names, spec_from_dict

AVERAGED = ("params_ema", "model_ema", "ema_state_dict", "state_dict_ema", "net_g_ema", "g_ema", "ema", "ema_model")
WRAPPERS = (*AVERAGED, "params", "model_state_dict", "state_dict", "model", "net_g", "generator", "netG", "net")
"""In order of preference: averaged weights are what BasicSR's authors evaluate."""
PREFIXES = ("module.", "_orig_mod.")
"""What nn.DataParallel and torch.compile put before every name."""
ATTRIBUTES = (
    "ema_model.", "model_ema.", "net_g_ema.", "netG_ema.", "g_ema.", "ema.",
    "net_g.", "netG.", "generator.", "model.", "net.", "network.",
)  # fmt: skip
"""What a training module calls its network (Lightning saves the whole module); averaged weights first."""
MOST_LEVELS = 3
MOST_READINGS = 40
"""Prefixes nest; a file made to have thousands of readings gets no more time than an honest one."""


@dataclass(frozen=True)
class Unwrapped:
    """A state dict by name, and how the file wrapped it."""

    refs: Mapping[str, TensorRef]
    wrapping: str
    assumed: tuple[Assumption, ...] = ()
    notes: tuple[str, ...] = ()


def unwrap(content: object, weights: str | None = None) -> Unwrapped:
    """Find the state dict. `weights` names one of several, or with a dot at its end the prefix of some names."""
    if weights is not None and weights.endswith("."):
        return _only(unwrap(content), weights)
    path: list[str] = []
    assumed: list[Assumption] = []
    while len(path) < MOST_LEVELS and isinstance(content, dict):
        wrapped = [key for key, value in content.items() if isinstance(key, str) and _holds_weights(value)]
        if weights is not None and not path and weights not in wrapped:
            raise UsageError(f"the file holds no weights called {weights!r}; {nearest(weights, wrapped)}")
        if not wrapped:
            break
        chosen = weights if weights in wrapped else _preferred(wrapped)
        if len(wrapped) > 1 and chosen != weights:
            others = ", ".join(key[:40] for key in wrapped if key != chosen)
            why = f"the file holds {others} too" + ("; averaged weights (EMA) come first" * (chosen in AVERAGED))
            assumed.append(Assumption("weights", chosen, why))
        path.append(chosen)
        content = content[chosen]
    refs = _named_tensors(content)
    bare = _without_prefixes(refs)
    if len(next(iter(bare))) < len(next(iter(refs))):
        path.append(next(iter(refs)).removesuffix(next(iter(bare))) + "*")
    return Unwrapped(bare, " > ".join(path) or "bare", tuple(assumed))


def readings(outer: Unwrapped) -> Iterator[Unwrapped]:
    """The state dict as it stands, then each part of it that may be the network of a larger module.

    An attribute's prefix may also be a network's own (old ESRGAN files begin with `model.`), so nothing is taken off
    before the names as they stand were looked at.
    """
    return itertools.islice(_parts(outer, 0), MOST_READINGS)


def _parts(outer: Unwrapped, level: int) -> Iterator[Unwrapped]:
    yield outer
    if level == MOST_LEVELS:
        return
    for prefix in ATTRIBUTES:
        if any(name.startswith(prefix) for name in outer.refs):
            yield from _parts(_only(outer, prefix), level + 1)


def _only(outer: Unwrapped, prefix: str) -> Unwrapped:
    """The tensors under a prefix; that others are left out is noted, and said aloud if they too may be the network."""
    part = {name.removeprefix(prefix): ref for name, ref in outer.refs.items() if name.startswith(prefix)}
    if not part:
        starts = sorted({name.partition(".")[0] + "." for name in outer.refs})
        raise UsageError(f"no tensor's name begins with weights={prefix!r}; {nearest(prefix, starts[:20])}")
    others = [name for name in outer.refs if not name.startswith(prefix)]
    rivals = [other for other in ATTRIBUTES if any(name.startswith(other) for name in others)]
    assumed, notes = outer.assumed, outer.notes
    if rivals:
        why = f"the file holds {', '.join(rivals)} too" + ("; averaged weights (EMA) come first" * ("ema" in prefix))
        assumed = (*assumed, Assumption("weights", prefix, why))
    elif others:
        notes = (*notes, f"{len(others)} tensors outside {prefix}* are left out ({others[0][:60]}, …)")
    bare = _without_prefixes(part)
    return Unwrapped(bare, f"{outer.wrapping} > {prefix}*".removeprefix("bare > "), assumed, notes)


def _holds_weights(value: object) -> bool:
    """Whether `value` is a state dict, or a wrapper of one."""
    if not isinstance(value, dict):
        return False
    return any(
        isinstance(key, str) and (isinstance(item, TensorRef) or (key in WRAPPERS and isinstance(item, dict)))
        for key, item in value.items()
    )


def _preferred(wrapped: list[str]) -> str:
    known = [key for key in WRAPPERS if key in wrapped]
    if not known and len(wrapped) > 1:
        raise SrkdError(f"it holds several state dicts ({', '.join(wrapped)[:120]}): choose one with weights=NAME")
    return known[0] if known else wrapped[0]


def _named_tensors(content: object) -> dict[str, TensorRef]:
    if not isinstance(content, dict):
        raise SrkdError(f"it holds a {_kind(content)}, not a state dict: save torch.save(model.state_dict(), path)")
    refs = {key: value for key, value in content.items() if isinstance(value, TensorRef)}
    odd = [key for key in refs if not isinstance(key, str)]
    if odd:
        raise SrkdError(f"a tensor is named {str(odd[0])[:40]!r}, which is no text: this is no state dict")
    if not refs:
        keys = ", ".join(str(key)[:40] for key in list(content)[:5])
        raise SrkdError(f"it holds no tensors (its keys: {keys or 'none'}): save torch.save(model.state_dict(), path)")
    return refs


def _kind(content: object) -> str:
    return "tensor" if isinstance(content, TensorRef) else type(content).__name__


def _without_prefixes(refs: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    bare = dict(refs)
    for _ in range(MOST_LEVELS):
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in bare):
                bare = {name.removeprefix(prefix): ref for name, ref in bare.items()}
    return bare


OWN_DIALECT = "srkd"
RUN_FOLDER_WEIGHTS = "student.safetensors"
LARGEST_GROWTH = 8
"""A network in fp32 takes twice its fp16 file; more than this means that tensors share a storage."""
SMALL_BYTES = 64 * 2**20


class UnknownNetwork(SrkdError):
    """The tensors are in no known dialect: they may be those of a network that others know."""


class DoesNotFit(SrkdError):
    """The names are those of a known network, the tensors are not all there or not as they should be."""


@dataclass(frozen=True)
class Loaded:
    """A network and what its file said of it."""

    network: Network
    dialect: str
    assumed: tuple[Assumption, ...]
    """What the file does not hold, and how it was decided: to be said aloud."""
    header: Mapping[str, str]
    """The metadata of a safetensors file; empty for others."""
    sha256: str
    bytes: int
    path: Path
    wrapping: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recognised:
    """A spec, our tensor names mapped to the file's, and which of the file's names may be left over."""

    spec: Spec
    dialect: str
    names: Mapping[str, str]
    surplus: Callable[[str], bool] = lambda name: False
    assumed: tuple[Assumption, ...] = ()
    notes: tuple[str, ...] = ()


def load_checkpoint(
    path: str | Path, *, scale: int | None = None, arch_options: Mapping[str, object] | None = None
) -> Loaded:
    """Load a checkpoint (.pt, .pth, .safetensors) or a run folder's student, in eval mode, fp32, on the CPU.

    `scale` chooses from a multi-scale file. `arch_options` replace fields of the inferred spec (`res_scale`,
    `img_range`, `mean`, …); `weights` among them names the state dict of a file that holds several.
    """
    path = weights_file(Path(path))
    options = dict(arch_options or {})
    weights = options.pop("weights", None)
    try:
        with open_container(path) as container:
            unwrapped = unwrap(container.content, None if weights is None else str(weights))
            return _load(container, unwrapped, path, scale, options)
    except SrkdError as error:
        raise _of_file(path, error) from error


def read_states(path: Path, weights: str | None = None) -> list[tuple[str, dict[str, torch.Tensor]]]:
    """Every state dict that the file may mean, with its wrapping: as it stands first, then without its prefixes."""
    try:
        with open_container(path) as container:
            found = list(readings(unwrap(container.content, weights)))
            return [(one.wrapping, {name: container.tensor(ref) for name, ref in one.refs.items()}) for one in found]
    except SrkdError as error:
        raise _of_file(path, error) from error


def _of_file(path: Path, error: SrkdError) -> SrkdError:
    """The same error, beginning with the file."""
    kinds = (UsageError, UnknownNetwork, DoesNotFit)
    kind = next((kind for kind in kinds if isinstance(error, kind)), SrkdError)
    return kind(f"{path}: {error}")


def weights_file(path: Path) -> Path:
    """The file that holds the weights: `path` itself, or the student of a run folder."""
    student = path / RUN_FOLDER_WEIGHTS
    return student if path.is_dir() and student.is_file() else path


def _load(
    container: Container, unwrapped: Unwrapped, path: Path, scale: int | None, options: Mapping[str, object]
) -> Loaded:
    own = container.header.get("srkd.spec")
    if own is None:
        unwrapped, state, found = _recognised(container, unwrapped, scale, options)
    else:
        state = {name: container.tensor(ref) for name, ref in unwrapped.refs.items()}
        found = _own(own, options)
    if scale is not None and found.spec.scale != scale:
        raise UsageError(f"the file is for scale {found.spec.scale}, not {scale}")
    return Loaded(
        network=_filled(found, state, container.size_bytes),
        dialect=found.dialect,
        assumed=(*unwrapped.assumed, *(a for a in found.assumed if a.field not in options)),
        header=container.header,
        sha256=container.sha256,
        bytes=container.size_bytes,
        path=path,
        wrapping=unwrapped.wrapping,
        notes=(*unwrapped.notes, *found.notes),
    )


def _recognised(
    container: Container, unwrapped: Unwrapped, scale: int | None, options: Mapping[str, object]
) -> tuple[Unwrapped, dict[str, torch.Tensor], Recognised]:
    """The first reading of the file's names that is some network's; else the error of the names as they stand."""
    unknown: UnknownNetwork | None = None
    for candidate in readings(unwrapped):
        state = {name: container.tensor(ref) for name, ref in candidate.refs.items()}
        try:
            return candidate, state, recognise(state, scale, options)
        except UnknownNetwork as error:
            unknown = unknown or error
    assert unknown is not None
    raise unknown


def recognise(state: Mapping[str, torch.Tensor], scale: int | None, options: Mapping[str, object]) -> Recognised:
    """Whose tensors these are, and the spec that their shapes and the options give."""
    for family, dialect in _dialects():
        if dialect.recognises(state):
            reading = dialect.read(state, scale)
            try:
                spec = family.spec.from_dict(reading.fields)
            except UsageError as error:
                raise SrkdError(f"its shapes fit no network: {error}") from error
            spec = spec.with_options(options)
            names = dialect.names(spec, set(state))
            return Recognised(spec, dialect.name, names, dialect.surplus, reading.assumed, reading.notes)
    raise UnknownNetwork(_unknown(state))


def _dialects() -> Iterator[tuple[Architecture, Dialect]]:
    return ((family, dialect) for family in architectures() for dialect in family.dialects)


def _own(spec_json: str, options: Mapping[str, object]) -> Recognised:
    """A file written by save.py: the spec is in the header, the names are ours."""
    try:
        spec = spec_from_dict(json.loads(spec_json))
    except (ValueError, RecursionError, UsageError) as error:
        raise SrkdError(f"its srkd.spec cannot be used: {error}") from error
    spec = spec.with_options(options)
    return Recognised(spec, OWN_DIALECT, {name: name for name in _skeleton(spec).state_dict()})


def _skeleton(spec: Spec) -> Network:
    """The network without memory: names and shapes only."""
    with torch.device("meta"):
        return build(spec)


def _filled(found: Recognised, state: Mapping[str, torch.Tensor], file_bytes: int) -> Network:
    """The network with the file's tensors, once every name and shape was found right."""
    expected = _skeleton(found.spec).state_dict()
    problems = _problems(found, expected, state)
    if problems:
        raise DoesNotFit(
            f"recognised as {found.spec.arch} ({found.dialect} names), but {'; '.join(problems)}: "
            f"{_likely_cause(found, expected, state)}"
        )
    for theirs in found.names.values():
        if not bool(state[theirs].isfinite().all()):
            raise SrkdError(
                f"tensor {theirs[:100]} holds NaN or infinity: its training diverged or the file is damaged, "
                "take an earlier checkpoint"
            )
    network_bytes = sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
    if network_bytes > LARGEST_GROWTH * file_bytes + SMALL_BYTES:
        raise SrkdError(
            f"its tensors would make a network of {network_bytes:,} bytes out of {file_bytes:,}: they share their "
            "values, save them apart"
        )
    network = build(found.spec, seed=0)
    network.load_state_dict({ours: state[theirs] for ours, theirs in found.names.items()}, strict=True)
    return network


def _problems(found: Recognised, expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    """What is missing, left over, of another shape or no number; the first few of each by name."""
    problems = []
    missing = [theirs for theirs in found.names.values() if theirs not in state]
    used = set(found.names.values())
    unexpected = [name for name in state if name not in used and not found.surplus(name)]
    problems += [f"{len(missing)} missing ({_first(missing)})"] if missing else []
    problems += [f"{len(unexpected)} unexpected ({_first(unexpected)})"] if unexpected else []
    pairs = [(expected[ours], theirs) for ours, theirs in found.names.items() if theirs in state]
    misshaped = [
        f"{theirs} is {tuple(state[theirs].shape)} and should be {tuple(wanted.shape)}"
        for wanted, theirs in pairs
        if state[theirs].shape != wanted.shape
    ]
    integers = [f"{theirs} is {state[theirs].dtype}" for _, theirs in pairs if not state[theirs].is_floating_point()]
    problems += [f"{len(misshaped)} misshaped ({_first(misshaped)})"] if misshaped else []
    problems += [f"{len(integers)} not floating-point ({_first(integers)})"] if integers else []
    return problems


def _likely_cause(found: Recognised, expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> str:
    """What most files with such a difference are."""
    absent = [ours for ours, theirs in found.names.items() if theirs not in state]
    wrong = [o for o, t in found.names.items() if t in state and state[t].shape != expected[o].shape]
    used = set(found.names.values())
    left = [name for name in state if name not in used and not found.surplus(name)]
    if (absent or wrong) and all(ours.startswith(("upsampler", "tail")) for ours in (*absent, *wrong)):
        return "is it for another scale?"
    if absent and not wrong and not left:
        return "was only a part of it saved, or copied?"
    if left and not wrong and not absent:
        return "it is a variant of this network that srkd does not know: export it to ONNX or TorchScript as a teacher"
    return "is this file complete, and for this scale?"


def _first(items: Sequence[str], count: int = 3) -> str:
    shown = ", ".join(item[:100] for item in items[:count])
    return f"{shown}, …" if len(items) > count else shown


def _unknown(state: Mapping[str, torch.Tensor]) -> str:
    """One line about a file of no known network: its first names, and what comes nearest."""
    found = _patterns(state)
    family, dialect, wanted = max(
        ((family, dialect, _patterns(dialect.names(family.spec(), set()).values())) for family, dialect in _dialects()),
        key=lambda candidate: len(candidate[2] & found) / len(candidate[2] | found),
    )
    apart = (
        f"which has {_first(sorted(wanted - found), 2)}"
        if wanted - found
        else f"without {_first(sorted(found - wanted), 2)}"
    )
    return (
        f"unknown network: its {len(state)} tensors ({_first(list(state))}) are in no known dialect; nearest is "
        f"{family.name} ({dialect.name} names), {apart}; known are {', '.join(network_names())}"
    )


def _patterns(names: Iterable[str]) -> set[str]:
    return {re.sub(r"\d+", "*", name) for name in names}
