"""Networks by name: one line each."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache

import torch

from compressor.base.errors import UsageError, nearest
from compressor.models.networks.base import Architecture, Network, Spec

MODULES: Mapping[str, str] = {
    "edsr": "compressor.models.networks.edsr",
    "carn": "compressor.models.networks.carn",
    "carn_m": "compressor.models.networks.carn_m",
    "rcan": "compressor.models.networks.rcan",
    "swinir": "compressor.models.networks.swinir",
    "compact": "compressor.models.networks.compact",
}


@cache
def architecture(name: str) -> Architecture:
    """The architecture called `name`, imported when first asked for."""
    if name not in MODULES:
        raise UsageError(f"no network is called {name!r}; {nearest(name, MODULES)}")
    found = importlib.import_module(MODULES[name]).ARCHITECTURE
    assert isinstance(found, Architecture) and found.name == name
    return found


def spec_from_dict(fields: object) -> Spec:
    """A spec from its JSON object, which names the architecture under `arch`."""
    if not isinstance(fields, Mapping) or not isinstance(fields.get("arch"), str):
        raise UsageError(f"a spec is an object that names its network under 'arch'; this one is {str(fields)[:80]}")
    return architecture(fields["arch"]).spec.from_dict(fields)


def build(spec: Spec, *, seed: int | None = None) -> Network:
    """A network with random weights (torch's defaults), in eval mode.

    With a seed the weights depend on it alone, and torch's global generator is left as it was.
    """
    if seed is None:
        return architecture(spec.arch).build(spec).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architecture(spec.arch).build(spec).eval()
