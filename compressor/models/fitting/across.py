"""Fitting of a chain of convolutions (Compact, plain) to a network of another kind, layer by layer, without a gradient.

Layer j of the student's layers 0 … d stands at the source's state t(j) = round(j·T/d), T the last state of its
`FeatureStream`. Of its w channels, s hold the stream, and the others hold hidden units:

- a stream channel is to be pᵀh, h the source's features at state t(j), with those that skips add later, and p a leading
  eigenvector of Σ h·hᵀ;
- a hidden channel is to be a unit of the source between states t(j) and t(j+1), before its activation: the strongest of
  these, by var(act(u))·‖w‖², w the weights of the layers that read it;
- the last layer, which has no units, holds leading directions of the last state and of the features behind the body.

Each convolution is a ridge regression of these values on 3×3 patches of the student's own features, so that errors are
corrected and do not add up. The tail is one onto what the tail has to give for the teacher's image.

The stream passes an activation unchanged: with PReLU by slope 1; with a fixed slope by an offset, minus the 0.05 %
quantile of its values, which the intercept of the next layer takes back. Hidden units get the source's slopes.
Channels for which the source has nothing keep random weights: the next layers may use what they give.

The source is the teacher, or another network with the same LR images if the teacher's own features cannot be followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import UsageError
from compressor.models.fitting.bases import leading_directions
from compressor.models.fitting.layer_solver import LayerSolver
from compressor.models.fitting.layers import dense_weight, linear_layer, segments_of
from compressor.models.fitting.progress import FitProgress
from compressor.models.fitting.shares import ShareBatch
from compressor.models.fitting.stages import FitStage, stages
from compressor.models.fitting.watching import AllSeen, watched
from compressor.models.networks.base import ImageModel, Network, Spec, Tap
from compressor.models.networks.linear_plan import LinearLayer, LinearPlan
from compressor.models.networks.registry import build, linear_plan

QUANTILE = 5e-4
"""Share of the stream's values that an activation with a fixed slope may cut off."""

BALANCE_SWEEPS = 4
"""Passes over the layers in which units are scaled; neighbours share a layer, so one does not suffice."""


@dataclass(frozen=True)
class Unit:
    """A unit of the source: its space, its index there, and its slope below zero."""

    space: str
    index: int
    slope: float


@dataclass(frozen=True)
class Aim:
    """What a layer's leading channels are to give: directions of features, then units before their activation."""

    taps: tuple[Tap, ...]
    directions: torch.Tensor
    units: tuple[Unit, ...] = ()


class AcrossFit(LayerSolver):
    """The state of solving for a student that is a chain; `stream_share` of its channels hold the source's stream."""

    def __init__(
        self,
        source: Network,
        teacher: ImageModel,
        spec: Spec,
        lr: torch.Tensor,
        *,
        stream_share: float = 0.5,
        context: Context = QUIET,
    ) -> None:
        self.source, self.teacher, self.stream_share = source.eval(), teacher.eval(), stream_share
        plan = linear_plan(source.spec)
        assert plan is not None and plan.stream is not None
        self.long, self.stream = plan, plan.stream
        super().__init__(build(spec, seed=0).to(teacher.device), chain_plan(spec), lr, context)

    def solve(self, progress: FitProgress | None = None) -> Network:
        student = super().solve(progress)
        with torch.no_grad():
            self._balance()
        return student

    def _balance(self) -> None:
        """Give each unit's weights the same size in the layer that writes it as in the one that reads it.

        This changes no output, as w·act(u) = (w/c)·act(c·u), but how the student trains: features are in the source's
        range, and beside weights far from 1 a step of Adam is far too large, or too small.
        """
        for writer, reader in list(pairwise(self.short.layers)) * BALANCE_SWEEPS:
            weight, read = (linear_layer(self.student, layer).weight for layer in (writer, reader))
            ratio = read.square().mean((0, 2, 3)) / weight.square().mean((1, 2, 3))
            factor = torch.where(ratio.isfinite() & (ratio > 0), ratio, torch.ones_like(ratio)).pow(0.25)
            weight.mul_(factor[:, None, None, None])
            self._bias(writer).mul_(factor)
            read.div_(factor[:, None, None])

    def _begin(self, progress: FitProgress) -> None:
        with torch.no_grad():
            self.aims = self._choose_aims()
        for name, aim in self.aims.items():
            aimed = aim.directions.shape[1] + len(aim.units)
            linear_layer(self.student, self.short.by_name[name]).weight[:aimed] = 0
            self._bias(self.short.by_name[name])[:aimed] = 0
        tail = self.short.layers[-1]
        linear_layer(self.student, tail).weight.zero_()
        self._bias(tail).zero_()
        taps = {tap for aim in self.aims.values() for tap in aim.taps}
        taps |= {self._tap_of(unit.space) for aim in self.aims.values() for unit in aim.units}
        for batch in self.patches.batches():
            features, image = self._run(batch, taps)
            for name, aim in self.aims.items():
                stream = torch.cat([features[tap] for tap in aim.taps], 1)
                carried = torch.einsum("nchw,cs->nshw", stream, aim.directions.to(stream.dtype))
                units = [features[self._tap_of(unit.space)][:, unit.index, None] for unit in aim.units]
                self.store[name, 0, batch.first] = torch.cat([carried, *units], 1)
            self.store[tail.name, 0, batch.first] = self.student.tail_output(image, batch.lr)

    def _stages(self) -> Iterator[FitStage]:
        return stages(self.short, lambda _: ())

    def _aim(self, stage: FitStage) -> None:
        """The source has been run once for all layers, in `_begin`."""

    def _finish(self, layer: LinearLayer, stage: FitStage) -> None:
        """Let the stream pass the activation behind a solved layer, and give the units their slopes."""
        aim = self.aims.get(layer.name)
        if aim is None:
            return
        carried, slope = aim.directions.shape[1], self.short.slopes[layer.output]
        if isinstance(slope, str):
            slopes = torch.tensor([1.0] * carried + [unit.slope for unit in aim.units])
            self.student.get_parameter(slope)[: len(slopes)] = slopes.to(self.device)
        elif carried:
            bias, values = self._bias(layer), []
            for batch in self.patches.batches():
                (output,) = self._seen(stage, batch, Tap(layer.name))[Tap(layer.name)]
                values.append(output[:, :carried].transpose(0, 1).flatten(1))
            if values:
                joined = torch.cat(values, 1)
                count = max(1, round(QUANTILE * joined.shape[1]))
                bias[:carried] -= joined.kthvalue(count, 1).values.clamp_max(0)
            self.patches.follow(bias)

    def _bias(self, layer: LinearLayer) -> torch.Tensor:
        bias = linear_layer(self.student, layer).bias
        if bias is None:
            raise UsageError(f"{layer.name} has no bias: such a student cannot be solved for from another kind")
        return bias

    @property
    def error(self) -> float:
        """The mean squared error of the tail's output on the patches kept apart."""
        return self.errors_apart.get(self.short.layers[-1].name, 0.0)  # 0: no layer needed a correction

    def _choose_aims(self) -> dict[str, Aim]:
        """Return what each layer but the tail is to give, from moments of the source's features on all patches."""
        layers, last = self.short.layers[:-1], len(self.stream.states) - 1
        depth = len(layers) - 1
        at = [round(index * last / depth) if depth else last for index in range(depth + 1)] + [len(self.stream.units)]
        spaces = [tuple(space for units in self.stream.units[a:b] for space in units) for a, b in pairwise(at)]
        taps = [self.stream.states[state] for state in at[:-1]]
        if not spaces[-1]:
            taps[-1] += self.stream.end
        second, strength = self._moments(taps, {space for names in spaces for space in names})
        aims: dict[str, Aim] = {}
        for layer, names, group in zip(layers, spaces, taps, strict=True):
            width = linear_layer(self.student, layer).weight.shape[0]
            units = sorted(
                ((float(value), space, index) for space in names for index, value in enumerate(strength[space])),
                key=lambda entry: -entry[0],
            )
            moments = second[group]
            carried = min(len(moments), max(width - len(units), round(self.stream_share * width)))
            kept = [
                Unit(space, index, float(self._slopes(space)[index])) for _, space, index in units[: width - carried]
            ]
            aims[layer.name] = Aim(group, leading_directions(moments)[:, :carried], tuple(kept))
        return aims

    def _moments(
        self, groups: Iterable[tuple[Tap, ...]], spaces: Iterable[str]
    ) -> tuple[dict[tuple[Tap, ...], torch.Tensor], dict[str, torch.Tensor]]:
        """Return Σ h·hᵀ of the features at each group of taps, and the strength of the units of each space."""
        groups, spaces = tuple(dict.fromkeys(groups)), sorted(spaces)
        taps = {tap for group in groups for tap in group} | {self._tap_of(space) for space in spaces}
        probe, _ = self._run(ShareBatch(0, self.patches.lr[:1].to(self.device)), taps, image=False)
        sizes = {group: sum(probe[tap].shape[1] for tap in group) for group in groups}
        second = {group: self._zeros(size, size) for group, size in sizes.items()}
        sums = {space: self._zeros(3, probe[self._tap_of(space)].shape[1]) for space in spaces}
        for batch in self.patches.batches():
            features, _ = self._run(batch, taps, image=False)
            for group in groups:
                pixels = torch.cat([features[tap] for tap in group], 1).transpose(0, 1).flatten(1)
                second[group] += (pixels @ pixels.T).double()
            for space in spaces:
                before = features[self._tap_of(space)].transpose(0, 1).flatten(1)
                after = torch.where(before > 0, before, before * self._slopes(space)[:, None].to(before)).double()
                count = torch.full_like(after[:, 0], after.shape[1])
                sums[space] += torch.stack([count, after.sum(1), after.square().sum(1)])
        self.patches.add(*second.values(), *sums.values())
        strength = {}
        for space, (count, first, squares) in sums.items():
            variance = squares / count - (first / count).square()
            strength[space] = variance * self._reading(space)
        return second, strength

    def _zeros(self, *size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.float64, device=self.device)

    def _reading(self, space: str) -> torch.Tensor:
        """Return ‖w‖² for each unit of a space: the squared weights of the layers that read it."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for layer, segment in self.long.consumers[space]:
            sizes = segments_of(self.source, self.long, layer)
            weight = torch.split(dense_weight(linear_layer(self.source, layer)), sizes, 1)[segment]
            total = total + (layer.gain * weight).square().sum((0, 2, 3))
        return total

    def _slopes(self, space: str) -> torch.Tensor:
        slope = self.long.slopes[space]
        if isinstance(slope, str):
            return self.source.get_parameter(slope).detach()
        (producer,) = self.long.producers[space]
        return torch.full((linear_layer(self.source, producer).weight.shape[0],), slope, device=self.device)

    def _tap_of(self, space: str) -> Tap:
        (producer,) = self.long.producers[space]
        return producer.target

    def _run(
        self, batch: ShareBatch, taps: set[Tap], *, image: bool = True
    ) -> tuple[Mapping[Tap, torch.Tensor], torch.Tensor]:
        """Return the source's features, and the teacher's image of a batch, if it is asked for."""
        features: dict[Tap, torch.Tensor] = {}
        goes_on = image and self.source is self.teacher.network

        def keep(tap: Tap, feature: torch.Tensor) -> None:
            h, w = batch.lr.shape[-2:]  # a network that pads its input has larger features
            features[tap] = feature[..., :h, :w].clone()  # the network may change it in place
            if not goes_on and len(features) == len(taps):
                raise AllSeen

        sr = batch.lr
        with watched(self.source, taps, keep), suppress(AllSeen):
            sr = self.source(batch.lr)
        return features, self.teacher(batch.lr) if image and not goes_on else sr


def has_stream(spec: Spec) -> bool:
    """Return True if students of other kinds can follow the features of this network."""
    plan = linear_plan(spec)
    return plan is not None and plan.stream is not None


def is_chain(spec: Spec) -> bool:
    """Return True if a student of this spec can be solved for from a network of another kind."""
    plan = linear_plan(spec)
    return plan is not None and plan.is_chain


def chain_plan(spec: Spec) -> LinearPlan:
    """Return the linear plan of a chain of convolutions; refuse a student of another form."""
    plan = linear_plan(spec)
    if plan is None or not plan.is_chain:
        raise UsageError(f"a {spec.arch} cannot be solved for from a network of another kind: take --init random")
    return plan
