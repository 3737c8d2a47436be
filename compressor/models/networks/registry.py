"""Networks by name: srkd's own, one line each, and those of installed packages.

To add a network: one file, one line in NETWORKS. Another package adds one by an entry point of the group
`srkd.networks`, named like the network, that points at its `Architecture`. Its file is the same as one here.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata

import torch

from compressor.base.errors import SrkdError, UsageError, nearest
from compressor.models.networks.base import Architecture, Network, Spec

NETWORKS: Mapping[str, str] = {
    "edsr": "compressor.models.networks.edsr",
    "carn": "compressor.models.networks.carn",
    "carn_m": "compressor.models.networks.carn_m",
    "rcan": "compressor.models.networks.rcan",
    "swinir": "compressor.models.networks.swinir",
    "compact": "compressor.models.networks.compact",
}
GROUP = "srkd.networks"
"""The entry point group by which a package adds networks."""
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class InstalledNetworks:
    """The networks of other packages by name; `notes` are lines about entry points that cannot be used."""

    points: Mapping[str, metadata.EntryPoint] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@cache
def installed_networks() -> InstalledNetworks:
    """Find the networks of other packages, without importing any. A name of several packages belongs to none."""
    providers: dict[str, list[metadata.EntryPoint]] = {}
    for point in sorted(metadata.entry_points(group=GROUP), key=_package_of):
        providers.setdefault(point.name, []).append(point)
    points, notes = {}, []
    for name, same in providers.items():
        packages = " and ".join(map(_package_of, same))
        if not NAME.fullmatch(name):
            notes.append(f"network {name!r} of {packages} is refused: names have small letters, digits, - and _")
        elif name in NETWORKS:
            notes.append(f"network {name} of {packages} is refused: srkd has a network of that name")
        elif len(same) > 1:
            notes.append(f"network {name} is provided by {packages}, so none of them is used")
        else:
            points[name] = same[0]
    return InstalledNetworks(points, tuple(notes))


def _package_of(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def network_names() -> tuple[str, ...]:
    """Return the names of all networks, srkd's own first."""
    return (*NETWORKS, *installed_networks().points)


@cache
def architecture(name: str) -> Architecture:
    """Return the architecture called `name`, imported on first use."""
    if name in NETWORKS:
        built_in = importlib.import_module(NETWORKS[name]).ARCHITECTURE
        assert isinstance(built_in, Architecture) and built_in.name == name
        return built_in
    installed = installed_networks()
    point = installed.points.get(name)
    if point is None:
        unknown = f"no network is called {name!r}; {nearest(name, network_names())}"
        raise UsageError("; ".join([unknown, *installed.notes]))
    try:
        loaded = point.load()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise SrkdError(f"the network {name} of {_package_of(point)} cannot be imported ({reason})") from error
    if not isinstance(loaded, Architecture) or loaded.name != name:
        raise SrkdError(f"{point.value} of {_package_of(point)} is not an Architecture called {name!r}")
    return loaded


def architectures() -> Iterator[Architecture]:
    """Yield all architectures, srkd's own first; a broken one of another package is left out."""
    for name in NETWORKS:
        yield architecture(name)
    for name in installed_networks().points:
        try:
            yield architecture(name)
        except SrkdError:
            continue


def spec_from_dict(fields: object) -> Spec:
    """Return the spec of a JSON object, which names the architecture under `arch`."""
    if not isinstance(fields, Mapping) or not isinstance(fields.get("arch"), str):
        raise UsageError(f"a spec is an object that names its network under 'arch'; this one is {str(fields)[:80]}")
    return architecture(fields["arch"]).spec.from_dict(fields)


def build(spec: Spec, *, seed: int | None = None) -> Network:
    """Build a network with random weights (torch's defaults), in eval mode.

    With a seed the weights depend on it alone, and torch's global generator is left as it was.
    """
    if seed is None:
        return architecture(spec.arch).build(spec).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architecture(spec.arch).build(spec).eval()
