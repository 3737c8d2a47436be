"""What each layer of a student is to give in a fit across kinds: directions of the source's features, and units."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compressor.models.fitting.across_source import FollowedSource, SourceMoments
from compressor.models.fitting.bases import leading_directions
from compressor.models.fitting.layers import area_of, groups_of, linear_layer
from compressor.models.fitting.merging import merge, predicted
from compressor.models.networks.base import Network, Tap
from compressor.models.networks.linear_plan import LinearLayer, LinearPlan

FAR = 2.0
"""Size of what passes a rounded activation, as a multiple of the width of its bend."""


@dataclass(frozen=True)
class Aim:
    """What a layer's leading channels are to give: directions of features, then units before their activation.

    A hidden channel is a column of `mix`, a combination of the units of `spaces`, with a slope below zero. Each value
    is multiplied by the `factor` of its channel.
    """

    taps: tuple[Tap, ...]
    directions: torch.Tensor
    spaces: tuple[str, ...]
    mix: torch.Tensor
    slopes: torch.Tensor
    factor: torch.Tensor


@dataclass
class AimChoice:
    """The choice of aims for a student with the plan `short`, made of its whole plan, as it follows a source.

    `stream_share` of the channels that could hold units hold the stream. Without `merges_units` the hidden channels
    are the strongest units, which is quicker.
    """

    student: Network
    short: LinearPlan
    whole: LinearPlan
    source: FollowedSource
    stream_share: float
    merges_units: bool

    def choose(self) -> dict[str, Aim]:
        """Return what each layer of the body is to give, from moments of the source's features on all patches."""
        layers, taps, spaces = self.short.body_layers, *self._steps()
        of_units = {space for names in spaces for space in names}
        source = self.source.moments(taps, of_units, merges_units=self.merges_units)
        groups: dict[tuple[str, int], dict[tuple[Tap, ...], torch.Tensor]] = {}
        for layer, group in zip(layers, taps, strict=True):
            groups.setdefault((layer.output, len(group)), {})[group] = source.second[group]
        # Layers that write to one space need one basis.
        joint = {key: torch.stack([*moments.values()]).mean(0) for key, moments in groups.items()}
        bases = {key: leading_directions(moments) for key, moments in joint.items()}
        aims: dict[str, Aim] = {}
        for layer, names, group in zip(layers, spaces, taps, strict=True):
            width = linear_layer(self.student, layer).weight.shape[0]
            moments, directions = joint[layer.output, len(group)], bases[layer.output, len(group)]
            count = sum(len(source.strength[space]) for space in names)
            carried = min(len(moments), max(width - count, round(self._share_of(layer) * width)))
            directions, names = self._dealt(layer, directions[:, :carried]), names if carried < width else ()
            mix, slopes, size = self._mix(layer, names, group, directions, width - carried, source)
            factor = torch.ones(carried + len(slopes), dtype=moments.dtype, device=self.source.device)
            if self.whole.lifts_stream or self.whole.bypassed:
                # As large as the image: channels that nothing is asked of are not larger, and norms give such units.
                factor /= (joint[layers[0].output, len(taps[0])].diagonal().sum() / width).sqrt()
            if bend := FAR * bend_of(self.short, layer.output):
                factor[:carried] = bend / moments.diagonal().sum().sqrt()
                factor[carried:] = bend / size
            aims[layer.name] = Aim(group, directions, names, mix, slopes, factor)
        return aims

    def _dealt(self, layer: LinearLayer, directions: torch.Tensor) -> torch.Tensor:
        """Return the directions that the stream's channels hold: the leading ones, but each group of a layer behind has
        half of its channels in common with the others, as it sees no more.
        """
        readers = [linear_layer(self.student, reader) for reader, _ in self.short.consumers[layer.output]]
        groups = max(map(groups_of, readers))
        each, rest = divmod(directions.shape[1], groups)
        if rest or groups == 1:
            return directions
        common, own = each // 2, each - each // 2
        return directions[:, [k if k < common else k + group * own for group in range(groups) for k in range(each)]]

    def _mix(
        self,
        layer: LinearLayer,
        spaces: tuple[str, ...],
        group: tuple[Tap, ...],
        directions: torch.Tensor,
        count: int,
        source: SourceMoments,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what a layer's hidden channels take of the units of these spaces, with their slopes and sizes."""
        if not spaces:
            none = torch.zeros(0, device=self.source.device)
            return none.reshape(0, 0), none, none.double()
        strength, size = (torch.cat([values[space] for space in spaces]) for values in (source.strength, source.size))
        slopes = torch.cat([self.source.slopes(space).to(self.source.device) for space in spaces]).float()
        chosen = strength.argsort(descending=True, stable=True)[:count]
        mix = torch.eye(len(strength), device=self.source.device)[:, chosen]
        if len(chosen) == len(strength) or not source.units:
            return mix, slopes[chosen], size[chosen]
        units, patches = torch.cat([source.units[space] for space in spaces]), source.patches[group]
        middle = patches[4::9]  # of nine pixels the one in the middle
        stream = directions.T.to(middle) @ middle
        known = predicted(units, patches)
        applied = self.short.slopes[layer.output]
        below = slopes if isinstance(applied, str) else torch.full_like(slopes, applied)
        mix = merge(units, known, stream, self.source.use(spaces), below, chosen.tolist()).float()
        self.source.patches.follow(mix)
        return mix, slopes[chosen], (mix.T.double() @ known).square().mean(1).sqrt()

    def _steps(self) -> tuple[list[tuple[Tap, ...]], list[tuple[str, ...]]]:
        """Return the source's features at the state of each layer of the body, and the spaces of its units there."""
        states, between = [*self.source.stream.states], [*self.source.stream.units]
        holds_units = [self._share_of(layer) < 1 for layer in self.short.body_layers]
        if len(between) == len(states) and not holds_units[-1]:
            states.append(self.source.stream.end)
        passed = [sum(holds_units[:index]) for index in range(len(holds_units))]  # the activations before each layer
        steps, last = passed[-1], len(states) - 1
        at = [round(step * last / steps) if steps else last for step in range(steps + 1)] + [len(between)]
        taps = [states[at[step]] for step in passed]
        spaces = [
            tuple(space for units in between[at[step] : at[step + 1]] for space in units) if holds else ()
            for step, holds in zip(passed, holds_units, strict=True)
        ]
        if not spaces[-1] and taps[-1] != self.source.stream.end:
            taps[-1] += self.source.stream.end
        return taps, spaces

    def _share_of(self, layer: LinearLayer) -> float:
        """Return the share of a layer's channels that the stream takes: all where no activation is behind them, or they
        are added to it, or the layer sees one pixel, so that it makes no units; none where a skip carries it past them,
        or their readers also read what they are made of.
        """
        is_sum = any(writer.at is not None for writer in self.short.producers[layer.output])
        if layer.output not in self.short.slopes or is_sum or area_of(linear_layer(self.student, layer)) == 1:
            return 1.0
        readers = [reader for reader, _ in self.short.consumers[layer.output]]
        is_bypassed = all(
            (reader.at is not None and reader.opens is None) or set(layer.inputs) < set(reader.inputs)
            for reader in readers
        )
        return 0.0 if is_bypassed else self.stream_share

    @property
    def has_shares(self) -> bool:
        """True if layers hold both the stream and units, so that the share of the stream matters."""
        pairs = zip(self.short.body_layers, self._steps()[1], strict=True)
        return any(0 < self._share_of(layer) < 1 for layer, units in pairs if units)


def bend_of(plan: LinearPlan, space: str) -> float:
    """Return the width of the bend of the activation, or of the gate, behind the layers that write to a space."""
    gates = [layer.opens.bend for layer in plan.producers[space] if layer.opens]
    return max(gates, default=plan.bends.get(space, 0.0))
