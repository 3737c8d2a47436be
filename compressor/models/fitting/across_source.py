"""The source of a fit across kinds: the network that a student follows, moments of its features and units, and which
students can follow which networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.models.fitting.layers import dense_segment, linear_layer
from compressor.models.fitting.merging import MOST_UNITS, SAMPLE, places_of
from compressor.models.fitting.shares import Share, ShareBatch
from compressor.models.fitting.watching import AllSeen, watched
from compressor.models.networks.base import ImageModel, Network, Spec, Tap
from compressor.models.networks.linear_plan import FeatureStream, LinearPlan
from compressor.models.networks.registry import linear_plan


@dataclass(frozen=True)
class SourceMoments:
    """What is known of the source's features: the means of h·hᵀ by group of taps, by space the strength and the size of
    its units, and on sampled pixels 3×3 patches of features, by group, and units, by space; none of a large source.
    """

    second: dict[tuple[Tap, ...], torch.Tensor]
    strength: dict[str, torch.Tensor]
    size: dict[str, torch.Tensor]
    patches: dict[tuple[Tap, ...], torch.Tensor]
    units: dict[str, torch.Tensor]


class FollowedSource:
    """A network whose features a student follows, run on the patches of a fit; `side` is that of an unshuffle."""

    def __init__(
        self, network: Network, teacher: ImageModel, plan: LinearPlan, patches: Share, side: int, device: torch.device
    ) -> None:
        assert plan.stream is not None
        self.network, self.teacher, self.plan, self.patches, self.side = network, teacher, plan, patches, side
        self.stream: FeatureStream = plan.stream
        self.device = device

    def moments(self, groups: Iterable[tuple[Tap, ...]], spaces: Iterable[str], *, merges_units: bool) -> SourceMoments:
        """Return the moments of the source's features at each group of taps, and of its units by space."""
        groups, spaces = tuple(dict.fromkeys(groups)), sorted(spaces)
        taps = {tap for group in groups for tap in group} | {self.tap_of(space) for space in spaces}
        probe, _ = self.run(ShareBatch(0, self.patches.lr[:1].to(self.device)), taps, image=False)
        sizes = {group: sum(probe[tap].shape[1] for tap in group) for group in groups}
        second = {group: zeros(self.device, size, size) for group, size in sizes.items()}
        sums = {space: zeros(self.device, 3, probe[self.tap_of(space)].shape[1]) for space in spaces}
        count = zeros(self.device)
        height, width = (length // self.side for length in self.patches.lr.shape[-2:])
        each = min(max(1, SAMPLE // len(self.patches.lr)), height * width)
        total = each * len(self.patches.lr)
        merges = merges_units and self.side == 1
        is_sampled = merges and 0 < sum(values.shape[1] for values in sums.values()) <= MOST_UNITS
        units: dict[str, torch.Tensor] = {}
        patches: dict[tuple[Tap, ...], torch.Tensor] = {}
        if is_sampled:
            units = {space: torch.zeros(values.shape[1], total, device=self.device) for space, values in sums.items()}
            patches = {group: torch.zeros(9 * size, total, device=self.device) for group, size in sizes.items()}
        for batch in self.patches.batches():
            features, _ = self.run(batch, taps, image=False)
            for index in range(len(batch.lr)) if is_sampled else ():
                number = batch.first + index
                places = places_of(height, width, each, number).to(self.device)
                part = slice(number * each, (number + 1) * each)
                for group in groups:
                    stream = torch.cat([features[tap][index] for tap in group])
                    patches[group][:, part] = F.unfold(stream[None], 3, padding=1)[0][:, places]
                for space in spaces:
                    units[space][:, part] = features[self.tap_of(space)][index].flatten(1)[:, places]
            count += batch.lr[:, 0].numel() / self.side**2
            for group in groups:
                pixels = torch.cat([features[tap] for tap in group], 1).transpose(0, 1).flatten(1)
                second[group] += (pixels @ pixels.T).double()
            for space in spaces:
                before = features[self.tap_of(space)].transpose(0, 1).flatten(1).double()
                after = torch.where(before > 0, before, before * self.slopes(space)[:, None].to(before))
                sums[space] += torch.stack([before.square().sum(1), after.sum(1), after.square().sum(1)])
        self.patches.add(count, *second.values(), *sums.values(), *units.values(), *patches.values())
        sizes_by_space, strength = {}, {}
        for space, (before, first, squares) in ((space, values / count) for space, values in sums.items()):
            sizes_by_space[space] = before.sqrt()
            strength[space] = (squares - first.square()) * self._reading(space)
        means = {group: moments / count for group, moments in second.items()}
        return SourceMoments(means, strength, sizes_by_space, patches, units)

    def use(self, spaces: tuple[str, ...]) -> torch.Tensor:
        """Return Σ VᵀV for the units of these spaces, V the weights that read them and write to one space."""
        sizes = [len(self.slopes(space)) for space in spaces]
        readers: dict[tuple[str, int], list[torch.Tensor]] = {}
        for index, space in enumerate(spaces):
            for layer, segment in self.plan.consumers[space]:
                weight = layer.gain * dense_segment(self.network, self.plan, layer, segment).transpose(0, 1).flatten(1)
                rows = [weight.new_zeros(size, weight.shape[1]) for size in sizes]
                rows[index] = weight
                readers.setdefault((layer.output, weight.shape[1]), []).append(torch.cat(rows))
        whole = [torch.stack(weights).sum(0) for weights in readers.values()]
        return torch.stack([weight @ weight.T for weight in whole]).sum(0)

    def _reading(self, space: str) -> torch.Tensor:
        """Return ‖w‖² for each unit of a space: the squared weights of the layers that read it."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for layer, segment in self.plan.consumers[space]:
            weight = dense_segment(self.network, self.plan, layer, segment)
            total = total + (layer.gain * weight).square().sum((0, 2, 3))
        return total.repeat_interleave(self.side**2)

    def slopes(self, space: str) -> torch.Tensor:
        slope = self.plan.slopes[space]
        if isinstance(slope, str):
            return self.network.get_parameter(slope).detach().repeat_interleave(self.side**2)
        (producer,) = self.plan.producers[space]
        count = linear_layer(self.network, producer).weight.shape[0] * self.side**2
        return torch.full((count,), slope, device=self.device)

    def tap_of(self, space: str) -> Tap:
        (producer,) = self.plan.producers[space]
        return producer.target

    def run(
        self, batch: ShareBatch, taps: set[Tap], *, image: bool = True
    ) -> tuple[Mapping[Tap, torch.Tensor], torch.Tensor]:
        """Return the source's features, and the teacher's image of a batch, if it is asked for."""
        features: dict[Tap, torch.Tensor] = {}
        goes_on = image and self.network is self.teacher.network

        def keep(tap: Tap, feature: torch.Tensor) -> None:
            h, w = batch.lr.shape[-2:]  # a network that pads its input has larger features
            # Behind an unshuffle a student has smaller features; clone, as the network may change it in place.
            features[tap] = F.pixel_unshuffle(feature[..., :h, :w], self.side).clone()
            if not goes_on and len(features) == len(taps):
                raise AllSeen

        sr = batch.lr
        with watched(self.network, taps, keep), suppress(AllSeen):
            sr = self.network(batch.lr)
        if image:
            sr = self.teacher.as_output(sr) if goes_on else self.teacher(batch.lr)
        return features, sr


def has_stream_for(student: Spec, source: Spec) -> bool:
    """Return True if the student can follow the features of the source: one with skips needs a stream with skips."""
    short, long = linear_plan(student), linear_plan(source)
    if short is None or long is None or long.stream is None:
        return False
    has_skips = any(len(short.producers[layer.output]) > 1 for layer in short.body_layers)
    return long.stream.is_residual or not has_skips


def can_follow(spec: Spec) -> bool:
    """Return True if a student of this spec can be solved for from a network of another kind."""
    plan = linear_plan(spec)
    return plan is not None and plan.can_follow


def following_plan(spec: Spec) -> LinearPlan:
    """Return the plan by which a student follows another network; refuse one that the stream cannot pass."""
    plan = linear_plan(spec)
    if plan is None or not plan.can_follow:
        raise UsageError(f"a {spec.arch} cannot be solved for from a network of another kind: take --init random")
    return plan.following


def zeros(device: torch.device, *size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.float64, device=device)
