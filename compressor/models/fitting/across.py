"""Fitting of a student to a network of another kind, layer by layer, without a gradient.

A layer with j of the student's d activations before it stands at the source's state t(j) = round(j·T/d), T the last
state of its `FeatureStream`. Of its w channels, s hold the stream, and the others hold hidden units:

- a stream channel is to be pᵀh, h the source's features at state t(j), with those that skips add later, and p a leading
  eigenvector of Σ h·hᵀ;
- a hidden channel is to be a unit of the source between states t(j) and t(j+1), before its activation: of more units
  than channels those combinations that explain most of what is read of them (`merging.py`), which begin with the
  strongest units, by var(act(u))·‖w‖², w the weights of the layers that read one;
- the last layer, which has no units, holds leading directions of the last state and of the features behind the body.

Layers that write to one stream share p, so that skips carry it; hidden layers that it passes by, on a skip or as it
is read again beside them, hold units alone.

Each convolution is a ridge regression of these values on 3×3 patches of the student's own features, so that errors are
corrected and do not add up. The layers behind the body are ones onto the pixels of the teacher's image, in channels.

The stream passes an activation unchanged: with PReLU by slope 1; with a fixed slope by an offset, minus the 0.05 %
quantile of its values, which the intercept of the next layer takes back; by such an offset an output opens its own
gate, too. A gate that another layer makes is held constant. Before a rounded activation the values are FAR times its
bend. Hidden units get the source's slopes. Channels for which the source has nothing keep random weights: the next
layers may use what they give. A body that the stream cannot pass is bypassed on its skip: its last layer is zero.

A student whose image is unshuffled follows the source's features unshuffled in the same way.

The source is the teacher, or another network with the same LR images if the teacher's own features cannot be followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.context import QUIET, Context
from compressor.base.errors import UsageError
from compressor.models.fitting.bases import leading_directions
from compressor.models.fitting.layer_solver import LayerSolver
from compressor.models.fitting.layers import area_of, asked_rows, dense_segment, groups_of, linear_layer, segments_of
from compressor.models.fitting.merging import MOST_UNITS, SAMPLE, merge, places_of, predicted
from compressor.models.fitting.progress import FitProgress
from compressor.models.fitting.shares import ShareBatch
from compressor.models.fitting.stages import FitStage, stages
from compressor.models.fitting.watching import AllSeen, watched
from compressor.models.networks.base import ImageModel, Network, Spec, Tap
from compressor.models.networks.linear_plan import LinearLayer, LinearPlan
from compressor.models.networks.registry import build, linear_plan

QUANTILE = 5e-4
"""Share of the stream's values that an activation with a fixed slope may cut off."""

FAR = 2.0
"""Size of what passes a rounded activation, as a multiple of the width of its bend."""

BALANCE_SWEEPS = 4
"""Passes over the layers in which units are scaled; neighbours share a layer, so one does not suffice."""


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


class AcrossFit(LayerSolver):
    """The state of solving for a student; `stream_share` of the channels that could hold units hold the stream.

    Without `merges_units` the hidden channels are the strongest units, which is quicker.
    """

    def __init__(
        self,
        source: Network,
        teacher: ImageModel,
        spec: Spec,
        lr: torch.Tensor,
        *,
        stream_share: float = 0.5,
        merges_units: bool = True,
        context: Context = QUIET,
    ) -> None:
        self.source, self.teacher, self.stream_share = source.eval(), teacher.eval(), stream_share
        self.merges_units = merges_units
        plan, whole = linear_plan(source.spec), linear_plan(spec)
        assert plan is not None and plan.stream is not None and whole is not None
        self.long, self.stream, self.whole = plan, plan.stream, whole
        super().__init__(build(spec, seed=0).to(teacher.device), following_plan(spec), lr, context)
        self.sizes = {tap: sizes[:1] for tap, sizes in self.sizes.items()}  # a layer follows where it is first used
        self.side = max(1, lr.shape[-1] // self.sizes[self.short.layers[0].target][0][-1])

    def solve(self, progress: FitProgress | None = None) -> Network:
        student = super().solve(progress)
        with torch.no_grad():
            self._balance()
        return student

    def _balance(self) -> None:
        """Give each unit's weights the same size in the layers that write it as in those that read it.

        This changes no output, as w·act(u) = (w/c)·act(c·u), but how the student trains: features are in the source's
        range, and beside weights far from 1 a step of Adam is far too large, or too small.
        """
        plan = self.short
        spaces = [space for space, kind in plan.spaces.items() if kind == "linear" or space in plan.slopes]
        for space in [space for space in spaces if not plan.bends.get(space)] * BALANCE_SWEEPS:
            writers = [linear_layer(self.student, layer) for layer in plan.producers[space]]
            readers = [self._columns(layer)[segment] for layer, segment in plan.consumers[space]]
            if len(writers[0].weight) != readers[0].shape[0] * readers[0].shape[2]:  # a shuffle is between them
                continue
            written = torch.stack([writer.weight.square().mean((1, 2, 3)) for writer in writers]).sum(0)
            ratio = torch.stack([read.square().mean((1, 3, 4)).flatten() for read in readers]).sum(0) / written
            factor = torch.where(ratio.isfinite() & (ratio > 0), ratio, torch.ones_like(ratio)).pow(0.25)
            for layer, writer in zip(plan.producers[space], writers, strict=True):
                writer.weight.mul_(factor[:, None, None, None])
                self._bias(layer).mul_(factor)
            for read in readers:
                read.div_(factor.reshape(len(read), 1, -1, 1, 1))

    def _columns(self, layer: LinearLayer) -> tuple[torch.Tensor, ...]:
        """Return views of a layer's weights as (groups, rows, columns, h, w), one for each space that it reads."""
        module, sizes = linear_layer(self.student, layer), segments_of(self.student, self.short, layer)
        groups = groups_of(module)
        by_group = module.weight.view(groups, -1, *module.weight.shape[1:])
        return torch.split(by_group, [size // groups for size in sizes], 2)

    def _begin(self, progress: FitProgress) -> None:
        with torch.no_grad():
            self.aims = self._choose_aims()
        taps = {tap for aim in self.aims.values() for tap in aim.taps}
        taps |= {self._tap_of(space) for aim in self.aims.values() for space in aim.spaces}
        for gate in (layer.held for layer in self.short.layers if layer.held):
            maker = self.student.get_submodule(gate.by)
            assert isinstance(maker, nn.Conv2d) and maker.bias is not None
            maker.weight.zero_()
            maker.bias.fill_(gate.bias)
        for layer in self.whole.bypassed_layers[-1:]:
            linear_layer(self.student, layer).weight.zero_()
            self._bias(layer).zero_()
        for name, aim in self.aims.items():
            self._clear(name, len(aim.factor))
        lr = self.patches.lr[:1].to(self.device)
        image_values = self._image_values(F.interpolate(lr, scale_factor=float(self.student.spec.scale)), lr)
        self.pixels = {name: values.shape[1] for name, values in image_values}
        for name, count in self.pixels.items():
            self._clear(name, count)
        for batch in self.patches.batches():
            features, image = self._run(batch, taps)
            for name, aim in self.aims.items():
                stream = torch.cat([features[tap] for tap in aim.taps], 1)
                carried = torch.einsum("nchw,cs->nshw", stream, aim.directions.to(stream.dtype))
                units = [features[self._tap_of(space)] for space in aim.spaces]
                mixed = [torch.einsum("nchw,cu->nuhw", torch.cat(units, 1), aim.mix)] if units else []
                values = torch.cat([carried, *mixed], 1)
                self.store[name, 0, batch.first] = values * aim.factor.to(values.dtype)[:, None, None]
            for name, values in self._image_values(image, batch.lr):
                self.store[name, 0, batch.first] = values
        self._open_gates()

    def _image_values(self, image: torch.Tensor, lr: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield what the layers behind the body are to give: the image, its pixels in as many channels as needed."""
        values, behind = self.student.tail_output(image, lr), self.sizes[self.short.layers[-1].target][0]
        for layer in reversed(self.short.layers[len(self.short.body_layers) :]):
            size = self.sizes[layer.target][0]
            groups = groups_of(linear_layer(self.student, layer))
            grey = values.mean(1, keepdim=True)  # channels do not leave their group: each has the same number
            values = torch.cat([values, *[grey] * (-values.shape[1] % groups)], 1)
            values, behind = F.pixel_unshuffle(values, behind[-1] // size[-1]), size
            yield layer.name, values if values.shape[1] <= size[1] else values[:, :0]

    def _clear(self, name: str, count: int) -> None:
        """Set the weights of the channels of which something is asked to zero; the others keep random ones."""
        layer = self.short.by_name[name]
        rows = asked_rows(linear_layer(self.student, layer), count)
        linear_layer(self.student, layer).weight[rows] = 0
        self._bias(layer)[rows] = 0

    def _open_gates(self) -> None:
        """Raise the outputs that gate themselves until the gates are open; the next layers take the offset back."""
        for space in dict.fromkeys(layer.output for layer in self.short.layers if layer.opens):
            offset, before = torch.zeros((), device=self.device), list[torch.Tensor]()
            for layer in self.short.producers[space]:
                values = [self.store[layer.name, 0, batch.first] for batch in self.patches.batches()]
                if layer.opens is not None:
                    changes = [value / layer.gain - old for value, old in zip(values, before, strict=True)]
                    raised = torch.zeros(len(self.aims[layer.name].factor), device=self.device)
                    raised += (layer.opens.bend - self._lowest(changes)).clamp_min(0)
                    self.patches.follow(raised)
                    self._bias(layer)[: len(raised)] += raised
                    offset = layer.gain * (offset + raised)
                    for batch, value in zip(self.patches.batches(), values, strict=True):
                        self.store[layer.name, 0, batch.first] = value + offset[:, None, None]
                before = values

    def _bend(self, space: str) -> float:
        gates = [layer.opens.bend for layer in self.short.producers[space] if layer.opens]
        return max(gates, default=self.short.bends.get(space, 0.0))

    def _lowest(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the QUANTILE of each channel; infinite if this process has no values."""
        if not values:
            return torch.full((1,), torch.inf, device=self.device)
        joined = torch.cat([value.transpose(0, 1).flatten(1) for value in values], 1)
        return joined.kthvalue(max(1, round(QUANTILE * joined.shape[1])), 1).values

    def _stages(self) -> Iterator[FitStage]:
        layers = self.short.by_name
        for stage in stages(self.whole, lambda _: ()):
            yield replace(stage, layers=tuple(layers[layer.name] for layer in stage.layers if layer.name in layers))

    def _aim(self, stage: FitStage) -> None:
        """The source has been run once for all layers, in `_begin`."""

    def _finish(self, layer: LinearLayer, stage: FitStage) -> None:
        """Let the stream pass the activation behind a solved layer, and give the units their slopes."""
        if layer.output not in self.short.slopes:
            return
        aim, slope = self.aims.get(layer.name), self.short.slopes[layer.output]
        carried = self.pixels[layer.name] if aim is None else aim.directions.shape[1]
        if isinstance(slope, str) and aim is not None:
            slopes = torch.cat([torch.ones(carried, device=self.device), aim.slopes])
            self.student.get_parameter(slope)[: len(slopes)] = slopes
        elif carried:
            bias, bend, target = self._bias(layer), self._bend(layer.output), layer.target
            asked = carried if aim is None else len(aim.factor)
            rows = asked_rows(linear_layer(self.student, layer), asked)[:carried].to(self.device)
            values = [self._seen(stage, batch, target)[target][0][:, rows] for batch in self.patches.batches()]
            bias[rows] += (bend - self._lowest(values)).clamp_min(0)
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
        """Return what each layer of the body is to give, from moments of the source's features on all patches."""
        layers, taps, spaces = self.short.body_layers, *self._steps()
        source = self._moments(taps, {space for names in spaces for space in names})
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
            factor = torch.ones(carried + len(slopes), dtype=moments.dtype, device=self.device)
            if self.whole.lifts_stream or self.whole.bypassed:
                # As large as the image: channels that nothing is asked of are not larger, and norms give such units.
                factor /= (joint[layers[0].output, len(taps[0])].diagonal().sum() / width).sqrt()
            if bend := FAR * self._bend(layer.output):
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
            return torch.zeros(0, 0, device=self.device), torch.zeros(0, device=self.device), self._zeros(0)
        strength, size = (torch.cat([values[space] for space in spaces]) for values in (source.strength, source.size))
        slopes = torch.cat([self._slopes(space).to(self.device) for space in spaces]).float()
        chosen = strength.argsort(descending=True, stable=True)[:count]
        mix = torch.eye(len(strength), device=self.device)[:, chosen]
        if len(chosen) == len(strength) or not source.units:
            return mix, slopes[chosen], size[chosen]
        units, patches = torch.cat([source.units[space] for space in spaces]), source.patches[group]
        middle = patches[4::9]  # of nine pixels the one in the middle
        stream = directions.T.to(middle) @ middle
        known = predicted(units, patches)
        applied = self.short.slopes[layer.output]
        below = slopes if isinstance(applied, str) else torch.full_like(slopes, applied)
        mix = merge(units, known, stream, self._use(spaces), below, chosen.tolist()).float()
        self.patches.follow(mix)
        return mix, slopes[chosen], (mix.T.double() @ known).square().mean(1).sqrt()

    def _use(self, spaces: tuple[str, ...]) -> torch.Tensor:
        """Return Σ VᵀV for the units of these spaces, V the weights that read them and write to one space."""
        sizes = [len(self._slopes(space)) for space in spaces]
        readers: dict[tuple[str, int], list[torch.Tensor]] = {}
        for index, space in enumerate(spaces):
            for layer, segment in self.long.consumers[space]:
                weight = layer.gain * dense_segment(self.source, self.long, layer, segment).transpose(0, 1).flatten(1)
                rows = [weight.new_zeros(size, weight.shape[1]) for size in sizes]
                rows[index] = weight
                readers.setdefault((layer.output, weight.shape[1]), []).append(torch.cat(rows))
        whole = [torch.stack(weights).sum(0) for weights in readers.values()]
        return torch.stack([weight @ weight.T for weight in whole]).sum(0)

    def _steps(self) -> tuple[list[tuple[Tap, ...]], list[tuple[str, ...]]]:
        """Return the source's features at the state of each layer of the body, and the spaces of its units there."""
        states, between = [*self.stream.states], [*self.stream.units]
        holds_units = [self._share_of(layer) < 1 for layer in self.short.body_layers]
        if len(between) == len(states) and not holds_units[-1]:
            states.append(self.stream.end)
        passed = [sum(holds_units[:index]) for index in range(len(holds_units))]  # the activations before each layer
        steps, last = passed[-1], len(states) - 1
        at = [round(step * last / steps) if steps else last for step in range(steps + 1)] + [len(between)]
        taps = [states[at[step]] for step in passed]
        spaces = [
            tuple(space for units in between[at[step] : at[step + 1]] for space in units) if holds else ()
            for step, holds in zip(passed, holds_units, strict=True)
        ]
        if not spaces[-1] and taps[-1] != self.stream.end:
            taps[-1] += self.stream.end
        return taps, spaces

    def _share_of(self, layer: LinearLayer) -> float:
        """Return the share of a layer's channels that the stream takes: all where no activation is behind them, or they
        are added to it, or the layer sees one pixel, so that it makes no units; none where a skip carries it past them,
        or their readers also read what they are made of.
        """
        writers = self.short.producers[layer.output]
        is_sum = any(writer.at is not None for writer in writers)
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

    def _moments(self, groups: Iterable[tuple[Tap, ...]], spaces: Iterable[str]) -> SourceMoments:
        """Return the moments of the source's features at each group of taps, and of its units by space."""
        groups, spaces = tuple(dict.fromkeys(groups)), sorted(spaces)
        taps = {tap for group in groups for tap in group} | {self._tap_of(space) for space in spaces}
        probe, _ = self._run(ShareBatch(0, self.patches.lr[:1].to(self.device)), taps, image=False)
        sizes = {group: sum(probe[tap].shape[1] for tap in group) for group in groups}
        second = {group: self._zeros(size, size) for group, size in sizes.items()}
        sums = {space: self._zeros(3, probe[self._tap_of(space)].shape[1]) for space in spaces}
        count = self._zeros()
        height, width = (length // self.side for length in self.patches.lr.shape[-2:])
        each = min(max(1, SAMPLE // len(self.patches.lr)), height * width)
        total = each * len(self.patches.lr)
        merges = self.merges_units and self.side == 1
        is_sampled = merges and 0 < sum(values.shape[1] for values in sums.values()) <= MOST_UNITS
        units: dict[str, torch.Tensor] = {}
        patches: dict[tuple[Tap, ...], torch.Tensor] = {}
        if is_sampled:
            units = {space: torch.zeros(values.shape[1], total, device=self.device) for space, values in sums.items()}
            patches = {group: torch.zeros(9 * size, total, device=self.device) for group, size in sizes.items()}
        for batch in self.patches.batches():
            features, _ = self._run(batch, taps, image=False)
            for index in range(len(batch.lr)) if is_sampled else ():
                number = batch.first + index
                places = places_of(height, width, each, number).to(self.device)
                part = slice(number * each, (number + 1) * each)
                for group in groups:
                    stream = torch.cat([features[tap][index] for tap in group])
                    patches[group][:, part] = F.unfold(stream[None], 3, padding=1)[0][:, places]
                for space in spaces:
                    units[space][:, part] = features[self._tap_of(space)][index].flatten(1)[:, places]
            count += batch.lr[:, 0].numel() / self.side**2
            for group in groups:
                pixels = torch.cat([features[tap] for tap in group], 1).transpose(0, 1).flatten(1)
                second[group] += (pixels @ pixels.T).double()
            for space in spaces:
                before = features[self._tap_of(space)].transpose(0, 1).flatten(1).double()
                after = torch.where(before > 0, before, before * self._slopes(space)[:, None].to(before))
                sums[space] += torch.stack([before.square().sum(1), after.sum(1), after.square().sum(1)])
        self.patches.add(count, *second.values(), *sums.values(), *units.values(), *patches.values())
        sizes_by_space, strength = {}, {}
        for space, (before, first, squares) in ((space, values / count) for space, values in sums.items()):
            sizes_by_space[space] = before.sqrt()
            strength[space] = (squares - first.square()) * self._reading(space)
        means = {group: moments / count for group, moments in second.items()}
        return SourceMoments(means, strength, sizes_by_space, patches, units)

    def _zeros(self, *size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.float64, device=self.device)

    def _reading(self, space: str) -> torch.Tensor:
        """Return ‖w‖² for each unit of a space: the squared weights of the layers that read it."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for layer, segment in self.long.consumers[space]:
            weight = dense_segment(self.source, self.long, layer, segment)
            total = total + (layer.gain * weight).square().sum((0, 2, 3))
        return total.repeat_interleave(self.side**2)

    def _slopes(self, space: str) -> torch.Tensor:
        slope = self.long.slopes[space]
        if isinstance(slope, str):
            return self.source.get_parameter(slope).detach().repeat_interleave(self.side**2)
        (producer,) = self.long.producers[space]
        count = linear_layer(self.source, producer).weight.shape[0] * self.side**2
        return torch.full((count,), slope, device=self.device)

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
            # Behind an unshuffle a student has smaller features; clone, as the network may change it in place.
            features[tap] = F.pixel_unshuffle(feature[..., :h, :w], self.side).clone()
            if not goes_on and len(features) == len(taps):
                raise AllSeen

        sr = batch.lr
        with watched(self.source, taps, keep), suppress(AllSeen):
            sr = self.source(batch.lr)
        return features, self.teacher(batch.lr) if image and not goes_on else sr


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
