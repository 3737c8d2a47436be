"""Extraction of one state dict from a file's content: wrappers of training scripts, prefixes of parallel training."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from compressor.base.errors import SrkdError, UsageError, nearest
from compressor.models.networks.dialect import Assumption

AVERAGED = ("params_ema", "model_ema", "ema_state_dict", "state_dict_ema", "net_g_ema", "g_ema", "ema", "ema_model")
WRAPPERS = (*AVERAGED, "params", "model_state_dict", "state_dict", "model", "net_g", "generator", "netG", "net")
"""Keys of wrapped state dicts in order of preference; averaged weights first, as BasicSR's authors evaluate them."""
PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that nn.DataParallel and torch.compile add to every name."""
ATTRIBUTES = (
    "ema_model.", "model_ema.", "net_g_ema.", "netG_ema.", "g_ema.", "ema.",
    "net_g.", "netG.", "generator.", "model.", "net.", "network.",
)  # fmt: skip
"""Attribute names of the network in training modules (Lightning saves the whole module); averaged weights first."""
DTYPES = frozenset(
    {
        torch.float64, torch.float32, torch.float16, torch.bfloat16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    }
)  # fmt: skip
MAX_LEVELS = 3
MAX_READINGS = 40
"""The most readings of a file: prefixes nest, and a file made to have thousands of readings must not take longer."""


@dataclass(frozen=True)
class Unwrapped:
    """A state dict by name, and its wrapping in the file."""

    tensors: Mapping[str, torch.Tensor]
    wrapping: str
    assumed: tuple[Assumption, ...] = ()
    notes: tuple[str, ...] = ()


def unwrap(content: object, weights: str | None = None) -> Unwrapped:
    """Return the state dict. `weights` is the name of one of several, or, ending with a dot, a prefix of some names."""
    if weights is not None and weights.endswith("."):
        return _only(unwrap(content), weights)
    path: list[str] = []
    assumed: list[Assumption] = []
    while len(path) < MAX_LEVELS and isinstance(content, dict):
        keys = [name for name, value in content.items() if isinstance(name, str) and _holds_weights(value)]
        if weights is not None and not path and weights not in keys:
            raise UsageError(f"the file holds no weights called {weights!r}; {nearest(weights, keys)}")
        if not keys:
            break
        wrappers = [name for name in WRAPPERS if name in keys]
        if weights not in keys and not wrappers and len(keys) > 1:
            raise SrkdError(f"it holds several state dicts ({', '.join(keys)[:120]}): choose one with weights=NAME")
        key = weights if weights in keys else (wrappers or keys)[0]
        if len(keys) > 1 and key != weights:
            others = ", ".join(name[:40] for name in keys if name != key)
            why = f"the file holds {others} too" + ("; averaged weights (EMA) come first" * (key in AVERAGED))
            assumed.append(Assumption("weights", key, why))
        path.append(key)
        content = content[key]
    tensors = _named_tensors(content)
    bare = _without_prefixes(tensors)
    if len(next(iter(bare))) < len(next(iter(tensors))):
        path.append(next(iter(tensors)).removesuffix(next(iter(bare))) + "*")
    return Unwrapped(bare, " > ".join(path) or "bare", tuple(assumed))


def readings(outer: Unwrapped) -> Iterator[Unwrapped]:
    """Yield the state dict unchanged, then each part that may be the network of a larger module.

    An attribute's prefix may also belong to the network (old ESRGAN files begin with `model.`), so the unchanged names
    come first.
    """
    return itertools.islice(_parts(outer, 0), MAX_READINGS)


def _parts(outer: Unwrapped, level: int) -> Iterator[Unwrapped]:
    yield outer
    if level == MAX_LEVELS:
        return
    for prefix in ATTRIBUTES:
        if any(name.startswith(prefix) for name in outer.tensors):
            yield from _parts(_only(outer, prefix), level + 1)


def _only(outer: Unwrapped, prefix: str) -> Unwrapped:
    """Return the tensors under a prefix; others give a note, or an assumption if they may be the network, too."""
    kept = {name.removeprefix(prefix): tensor for name, tensor in outer.tensors.items() if name.startswith(prefix)}
    if not kept:
        starts = sorted({name.partition(".")[0] + "." for name in outer.tensors})
        raise UsageError(f"no tensor's name begins with weights={prefix!r}; {nearest(prefix, starts[:20])}")
    others = [name for name in outer.tensors if not name.startswith(prefix)]
    rivals = [other for other in ATTRIBUTES if any(name.startswith(other) for name in others)]
    assumed, notes = outer.assumed, outer.notes
    if rivals:
        why = f"the file holds {', '.join(rivals)} too" + ("; averaged weights (EMA) come first" * ("ema" in prefix))
        assumed = (*assumed, Assumption("weights", prefix, why))
    elif others:
        notes = (*notes, f"{len(others)} tensors outside {prefix}* are left out ({others[0][:60]}, …)")
    bare = _without_prefixes(kept)
    return Unwrapped(bare, f"{outer.wrapping} > {prefix}*".removeprefix("bare > "), assumed, notes)


def _holds_weights(value: object) -> bool:
    """Return True if `value` is a state dict, or a wrapper of one."""
    if not isinstance(value, dict):
        return False
    return any(
        isinstance(key, str) and (isinstance(item, torch.Tensor) or (key in WRAPPERS and isinstance(item, dict)))
        for key, item in value.items()
    )


def _named_tensors(content: object) -> dict[str, torch.Tensor]:
    if not isinstance(content, dict):
        kind = "tensor" if isinstance(content, torch.Tensor) else type(content).__name__
        raise SrkdError(f"it holds a {kind}, not a state dict: save torch.save(model.state_dict(), path)")
    tensors = {key: value.detach() for key, value in content.items() if isinstance(value, torch.Tensor)}
    for key, tensor in tensors.items():
        if not isinstance(key, str):
            raise SrkdError(f"a tensor is named {str(key)[:40]!r}, which is not text: this is not a state dict")
        is_dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
        if not is_dense or tensor.dtype not in DTYPES:
            raise SrkdError(
                f"tensor {key[:100]} is sparse, quantised, without values or of the type {tensor.dtype}, which are not "
                "weights: save dense floats"
            )
    if not tensors:
        keys = ", ".join(str(key)[:40] for key in list(content)[:5])
        raise SrkdError(f"it holds no tensors (its keys: {keys or 'none'}): save torch.save(model.state_dict(), path)")
    return tensors


def _without_prefixes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    bare = dict(tensors)
    for _ in range(MAX_LEVELS):
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in bare):
                bare = {name.removeprefix(prefix): tensor for name, tensor in bare.items()}
    return bare
