"""`srkd networks`: the networks and their named sizes, counted and timed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from compressor.base.context import Context
from compressor.base.errors import UsageError, nearest
from compressor.base.machine import torch_threads
from compressor.models.networks.base import Spec
from compressor.models.networks.cost import cost
from compressor.models.networks.registry import architectures, build
from compressor.models.students.students import student_text
from compressor.runtimes.torch_runtime import TorchRuntime
from export.plan.measure import Environment
from export.timing.turns import take_turns
from srkd.options.function import public
from srkd.options.values import as_tuple, read_size
from srkd.options.verbs import NetworksOptions


@dataclass(frozen=True)
class NamedNetwork:
    """A network, or a named size of one, with its cost; `student` is its whole text for --student."""

    name: str
    network: str
    student: str
    params: int
    macs: int
    ms: float | None = None
    """The median time of an image; None if it was not measured."""
    spread_percent: float | None = None


@dataclass(frozen=True)
class NetworkList:
    """The networks at a scale; `lr_size` is (width, height), and `place` says where they were timed, if they were."""

    scale: int
    lr_size: tuple[int, int]
    networks: tuple[NamedNetwork, ...]
    place: str | None


def run_networks(options: NetworksOptions, context: Context) -> NetworkList:
    """List the networks, and their sizes that have names, with parameters and MACs of one image.

    With `time` they run untrained in torch, in turns. Each name is a `student` of `srkd.compress`.

        >>> srkd.networks("plain").networks[0].params
    """
    lr_size, specs = read_size(options.lr_size), _chosen(as_tuple(options.names), options.scale)
    timed = [name for name, spec in specs.items() if options.time and (options.names or name != spec.arch)]
    environment = Environment("torch", lr_size=lr_size, threads=options.threads)
    with torch_threads(options.threads):
        calls = [environment.call(TorchRuntime(build(specs[name], seed=0), label=name)) for name in timed]
        timings = take_turns(calls, seconds_each=options.seconds, progress=context.progress) if timed else ()
    times = dict(zip(timed, timings, strict=True))
    rows = []
    for name, spec in specs.items():
        counted, time = cost(spec, lr_size), times.get(name)
        measured = () if time is None else (time.percentile(50), time.spread_percent)
        rows.append(NamedNetwork(name, spec.arch, student_text(spec), counted.params, counted.macs, *measured))
    return NetworkList(options.scale, lr_size, tuple(rows), str(environment) if timed else None)


def _chosen(names: tuple[str, ...], scale: int) -> dict[str, Spec]:
    """Each named size, or a network with its published defaults if it has none; of the given names only."""
    specs: dict[str, Spec] = {}
    for family in architectures():
        for name, fields in (family.sizes or {"": {}}).items():
            with suppress(UsageError):  # a size of other scales
                specs["-".join(filter(None, (family.name, name)))] = family.spec(scale).with_options(fields)
    known = {*specs, *(spec.arch for spec in specs.values())}
    for name in names:
        if name not in known:
            raise UsageError(f"{name!r} is no network or size at x{scale}; {nearest(name, sorted(known))}")
    return {name: spec for name, spec in specs.items() if not names or {name, spec.arch} & set(names)}


networks = public(NetworksOptions, NetworksOptions, run_networks, "networks")
