"""Fitting of a student to a network of another kind, layer by layer, without a gradient (docs/fit.md).

Each layer is a ridge regression of its aim (`across_aims`) on 3×3 patches of the student's own features, so that errors
do not add up. The layers behind the body are ones onto the pixels of the teacher's image, in channels.

The stream passes an activation unchanged: with PReLU by slope 1; with a fixed slope by an offset, minus the 0.05 %
quantile of its values, which the intercept of the next layer takes back; by such an offset an output opens its own
gate, too. A gate that another layer makes is held constant. Channels for which the source has nothing keep random
weights. A body that the stream cannot pass is bypassed on its skip: its last layer is zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.context import QUIET, Context
from compressor.base.errors import UsageError
from compressor.images.resize import pad_to
from compressor.models.fitting.across_aims import AimChoice, bend_of
from compressor.models.fitting.across_source import FollowedSource, following_plan
from compressor.models.fitting.balance import balance
from compressor.models.fitting.layer_solver import FitProgress, LayerSolver
from compressor.models.fitting.layers import asked_rows, groups_of, linear_layer
from compressor.models.fitting.stages import FitStage, stages
from compressor.models.networks.base import ImageModel, Network, Spec
from compressor.models.networks.linear_plan import LinearLayer
from compressor.models.networks.registry import build, linear_plan

QUANTILE = 5e-4
"""Share of the stream's values that an activation with a fixed slope may cut off."""


class AcrossFit(LayerSolver):
    """The state of solving for a student that follows `source`; the other arguments are those of `AimChoice`."""

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
        long, whole = linear_plan(source.spec), linear_plan(spec)
        assert long is not None and whole is not None
        self.whole = whole
        lr = pad_to(lr, getattr(spec, "unshuffle", 1), repeat_edge=False)  # as a student that unshuffles does itself
        super().__init__(build(spec, seed=0).to(teacher.device), following_plan(spec), lr, context)
        self.sizes = {tap: sizes[:1] for tap, sizes in self.sizes.items()}  # a layer follows where it is first used
        side = max(1, lr.shape[-1] // self.sizes[self.short.layers[0].target][0][-1])
        self.source = FollowedSource(source.eval(), teacher.eval(), long, self.patches, side, self.device)
        self.choice = AimChoice(self.student, self.short, whole, self.source, stream_share, merges_units)

    def solve(self, progress: FitProgress | None = None) -> Network:
        student = super().solve(progress)
        with torch.no_grad():
            balance(student, self.short)
        return student

    def _begin(self, progress: FitProgress) -> None:
        with torch.no_grad():
            self.aims = self.choice.choose()
        taps = {tap for aim in self.aims.values() for tap in aim.taps}
        taps |= {self.source.tap_of(space) for aim in self.aims.values() for space in aim.spaces}
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
            features, image = self.source.run(batch, taps)
            for name, aim in self.aims.items():
                stream = torch.cat([features[tap] for tap in aim.taps], 1)
                carried = torch.einsum("nchw,cs->nshw", stream, aim.directions.to(stream.dtype))
                units = [features[self.source.tap_of(space)] for space in aim.spaces]
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
            bias, bend, target = self._bias(layer), bend_of(self.short, layer.output), layer.target
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
