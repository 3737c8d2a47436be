"""Networks by name: srkd's own, each in the file of its name, and those of installed packages.

To add a network, add one file and its name in NETWORKS. Another package adds one by an entry point of the group
`srkd.networks`, with the network's name, that points at its `Architecture`. Its file looks like one here.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

from compressor.base.entry_points import EntryPointTable, describe_failure, package_of, top_module
from compressor.base.errors import SrkdError, UsageError
from compressor.base.randomness import torch_seed
from compressor.models.networks.base import Architecture, LinearPlan, Network, Spec
from compressor.models.quantisation.description import Quantisation
from compressor.models.quantisation.quantisers import add_quantisers

GROUP = "srkd.networks"
"""The entry point group for networks of other packages."""


@dataclass(frozen=True)
class NetworkEntry:
    """A network by name: its `Architecture` as module:object, imported on first use, and its package."""

    name: str
    where: str
    package: str = "srkd"


NETWORKS: EntryPointTable[NetworkEntry] = EntryPointTable(
    "network",
    (
        NetworkEntry(name, f"compressor.models.networks.{name}:ARCHITECTURE")
        for name in ("edsr", "carn", "carn_m", "rcan", "swinir", "compact", "plain", "span", "spanf3", "rrdbnet")
    ),
    GROUP,
    lambda point: (NetworkEntry(point.name, point.value, package_of(point)),),
)


@cache
def architecture(name: str) -> Architecture:
    """Return the architecture called `name`, imported on first use."""
    entry = NETWORKS.find(name)
    try:
        loaded = pkgutil.resolve_name(entry.where)
    except (Exception, SystemExit) as error:
        reason = describe_failure(error, top_module(entry.where))
        raise SrkdError(f"the network {name} of {entry.package} cannot be imported ({reason})") from error
    if not isinstance(loaded, Architecture) or loaded.name != name:
        raise SrkdError(f"{entry.where} of {entry.package} is not an Architecture called {name!r}")
    return loaded


def architectures() -> Iterator[Architecture]:
    """Yield all architectures, srkd's own first; those of other packages that cannot be imported are skipped."""
    for name, entry in NETWORKS.items():
        try:
            yield architecture(name)
        except SrkdError:
            if entry.package == "srkd":
                raise


def spec_from_dict(fields: object) -> Spec:
    """Return the spec of a JSON object that names the architecture under `arch`."""
    if not isinstance(fields, Mapping) or not isinstance(fields.get("arch"), str):
        raise UsageError(f"a spec is an object that names its network under 'arch'; this one is {str(fields)[:80]}")
    return architecture(fields["arch"]).spec.from_dict(fields)


def linear_plan(spec: Spec) -> LinearPlan | None:
    """Return the linear plan of a spec; None if its network declares none."""
    linear = architecture(spec.arch).linear
    return None if linear is None else linear(spec)


def build(spec: Spec, *, seed: int | None = None, quantisation: Quantisation | None = None) -> Network:
    """Return a network with random weights (torch's defaults) in eval mode; a quantised one has its quantisers.

    With a seed the weights depend on it alone, and torch's global generator is not changed.
    """
    family = architecture(spec.arch)
    if quantisation is not None and spec.deployed != spec:
        raise UsageError(f"a {spec.arch} with layers that exist only in training is not quantised: train without them")
    with nullcontext() if seed is None else torch_seed(seed):
        network = family.build(spec)
        if quantisation is not None:
            add_quantisers(network, quantisation, family.quantised, arch=spec.arch)
            network.quantisation = quantisation
    return network.eval()


def quantise(network: Network, quantisation: Quantisation) -> Network:
    """Return a quantised network with the weights of a float one, on its device; its ranges are not calibrated yet."""
    if network.quantisation is not None:
        raise UsageError(f"the network is quantised already ({network.quantisation.line()}): give the float one")
    network = network.deployed()
    like = next(network.parameters())
    quantised = build(network.spec, seed=0, quantisation=quantisation).to(like.device, like.dtype)
    missing, _ = quantised.load_state_dict(network.state_dict(), strict=False)
    if any(not name.endswith(".alpha") for name in missing):
        raise SrkdError(f"{network.spec.arch}: {missing[0]} is not among the weights of the float network")
    return quantised.train(network.training)


def without_quantisers(network: Network) -> Network:
    """Return the float network with the same weights; a float network is returned unchanged."""
    if network.quantisation is None:
        return network
    plain, state = build(network.spec), network.state_dict()
    return network.filled(plain, {name: state[name] for name in plain.state_dict()})
