"""Solving of a student's layers in the order in which they run, each on the outputs of the solved layers before it.

What a layer is to give comes from the kind of fit: `same_kind.py` or `across.py`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.context import Context
from compressor.base.processes import SharedFailure
from compressor.models.fitting.feature_store import FeatureStore
from compressor.models.fitting.layers import area_of, asked_rows, channels_first, groups_of, inputs_of, linear_layer
from compressor.models.fitting.least_squares import Sums, best_correction
from compressor.models.fitting.replay import Replay
from compressor.models.fitting.shares import Share, ShareBatch
from compressor.models.fitting.stages import FitStage, StageWalk
from compressor.models.fitting.watching import sizes_at
from compressor.models.networks.base import Network, Tap
from compressor.models.networks.linear_plan import LinearLayer, LinearPlan

APART = 4
"""One patch in APART is held out to choose the ridge."""

ROUNDING = 1e-5
"""Relative error below which a layer is not corrected: it is rounding, and a correction would fit noise."""

SHUT = 0.01
"""Gates whose squares are below this share of their mean are almost ignored."""

SATURATED = 8.0
"""Logit at which a gate counts as fully open or shut; larger logits are clamped."""

BORDER, IMAGE_SIDE = 8, 256
"""Pixels nearer than BORDER to the edge of a patch are weighted as in an image of IMAGE_SIDE pixels."""


class FitProgress:
    """The progress of a fit, reported to a context; `total` is the amount of all work, in any unit."""

    def __init__(self, context: Context, total: float) -> None:
        self.context, self.total, self.done = context, max(total, 1.0), 0.0
        self.add(0.0)

    def add(self, work: float) -> None:
        self.done += work
        self.context.progress("fit, percent", round(100 * min(1.0, self.done / self.total)), 100)


class LayerSolver(ABC):
    """The state of solving for a student whose layers are in `plan`.

    A kind of fit writes the first weights in `_begin`, stores in `_aim` what the layers of a stage are to give, under
    (layer, call, first index of the batch), and finishes a solved layer in `_finish`.
    """

    def __init__(self, student: Network, plan: LinearPlan, lr: torch.Tensor, context: Context) -> None:
        self.student, self.short, self.context = student.eval(), plan, context
        self.device = student.device
        self.patches = Share(lr, self.device, context.processes)
        inputs = [Tap(layer.name, "input") for layer in plan.layers]
        self.sizes = sizes_at(student, [*(layer.target for layer in plan.layers), *inputs], lr[:1].to(self.device))
        self.work = plan.sweeps * sum(map(self._work, plan.layers))
        self.errors_apart: dict[str, float] = {}
        """The mean squared error that each corrected layer leaves on the patches kept apart."""

    @abstractmethod
    def _begin(self, progress: FitProgress) -> None:
        """Write the first weights."""

    @abstractmethod
    def _stages(self) -> Iterator[FitStage]:
        """Yield the stages of the student."""

    def _aim(self, stage: FitStage) -> None:  # noqa: B027
        """Store what the layers of a stage are to give."""

    def _finish(self, layer: LinearLayer, stage: FitStage) -> None:  # noqa: B027
        """Finish a solved layer, before its outputs are used."""

    def solve(self, progress: FitProgress | None = None) -> Network:
        """Solve for all layers and return the student; without `progress` this is the whole of the work."""
        progress = progress or FitProgress(self.context, self.work)
        with torch.no_grad(), FeatureStore() as self.store, Replay(self.student, self.store) as self.replay:
            self._begin(progress)
            self.patches.follow(*self.student.parameters())
            self.walk = StageWalk(self.student, "student", self.store)
            for _ in range(self.short.sweeps):
                for stage in self._stages():
                    self.replay.begin(layer.name for layer in stage.layers)
                    self._aim(stage)
                    for layer in stage.layers:
                        is_norm = isinstance(linear_layer(self.student, layer), nn.LayerNorm)
                        (self._solve_norm if is_norm else self._solve)(layer, stage)
                        self._finish(layer, stage)
                        self.replay.unsolved.remove(layer.name)
                        progress.add(self._work(layer))
                    self._leave(stage)
        return self.student

    def _leave(self, stage: FitStage) -> None:
        """Run a stage of the solved student; discard the targets of its layers."""
        for batch in self.patches.batches():
            for layer in stage.layers:
                for key in (*range(len(self.sizes[layer.target])), "gates"):
                    self.store.discard((layer.name, key, batch.first))
            if stage.kind != "end":
                with self.replay.of(batch.first):
                    self.walk.advance(stage, batch)

    def _work(self, layer: LinearLayer) -> float:
        """Return the approximate number of products in a layer's sums, for one patch."""
        module = linear_layer(self.student, layer)
        columns, rows = inputs_of(module) // groups_of(module) * area_of(module), len(module.weight)
        values = sum(size.numel() for size in self.sizes[layer.target])
        return float(values * columns * (1 + columns / rows))

    def _solve(self, layer: LinearLayer, stage: FitStage) -> None:
        """Correct a layer's weights towards the teacher's values; the error is measured with its initial weights."""
        module = linear_layer(self.student, layer)
        inputs, target = Tap(layer.name, "input"), layer.target
        groups = groups_of(module)
        columns, rows = inputs_of(module) // groups * area_of(module), len(module.weight) // groups
        energy, difference = torch.zeros(2, dtype=torch.float64, device=self.device)
        sums = [[Sums(columns, rows, self.device) for _ in range(groups)] for _ in range(2)]
        for batch in self.patches.batches():
            gates = None if layer.gate is None else self.store[layer.name, "gates", batch.first]
            with self._forced(layer.gate, gates):
                features_by_tap = self._seen(stage, batch, inputs, target)
            for call, (x, now) in enumerate(zip(features_by_tap[inputs], features_by_tap[target], strict=True)):
                value = self.store[layer.name, call, batch.first]
                x, now = channels_first(x, module), channels_first(now, module)
                if value.shape[-2:] != now.shape[-2:]:  # the student pads its image
                    x, now = (feature[..., : value.shape[-2], : value.shape[-1]] for feature in (x, now))
                asked = asked_rows(module, value.shape[1]).to(self.device)
                value = now.index_copy(1, asked, value)  # nothing is asked of the other channels
                energy += value.double().square().sum()
                if layer.name in self.short.gates:
                    now = now.clamp(-SATURATED, SATURATED)
                difference += (value - now).double().square().sum()
                missing, weights = (value - now) / layer.gain, torch.ones_like(value[:, 0, 0, 0])
                if gates is not None:
                    # Divide by the gate; a nearly shut gate demands almost nothing.
                    power = gates.square()
                    mean = power.mean((1, 2, 3), keepdim=True)
                    missing = (missing * gates / (power + SHUT * mean)).float()
                    weights = mean[:, 0, 0, 0].float()
                for index in range(len(x)):
                    is_apart = (batch.first + index) % APART == APART - 1
                    patch = slice(index, index + 1)
                    self._add(sums[is_apart], x[patch], missing[patch], weights[patch], module)
        parts = (tensor for group in sums for layer_sums in group for tensor in layer_sums.parts)
        self.patches.add(energy, difference, *parts)
        if difference < ROUNDING**2 * energy:
            return
        corrections = [best_correction(fitted, apart) for fitted, apart in zip(*sums, strict=True)]
        self.errors_apart[layer.name] = sum(correction.error_apart for correction in corrections)
        slope = torch.cat([correction.slope for correction in corrections]).reshape(module.weight.shape)
        intercept = torch.cat([correction.intercept for correction in corrections])
        module.weight.add_(slope.to(module.weight.dtype))
        if module.bias is not None:
            module.bias.add_(intercept.to(module.bias.dtype))
        self.patches.follow(*module.parameters())
        if not torch.isfinite(module.weight).all():
            message = f"{layer.name} cannot be solved for: the teacher's features are not finite on these images"
            raise SharedFailure(message)

    def _solve_norm(self, layer: LinearLayer, stage: FitStage) -> None:
        """Solve for the scale and shift of each unit of a LayerNorm: one regression per unit."""
        module, tap = linear_layer(self.student, layer), Tap(layer.name)
        assert module.bias is not None
        factor = module.weight.clone()
        module.weight.fill_(1)
        module.bias.zero_()
        sums = torch.zeros(5, len(factor), dtype=torch.float64, device=factor.device)
        for batch in self.patches.batches():
            value = self.store[layer.name, 0, batch.first]
            (now,) = self._seen(stage, batch, tap)[tap]
            x, y = (feature.transpose(0, 1).flatten(1).double() for feature in (channels_first(now, module), value))
            count = torch.full_like(x[:, 0], x.shape[1])
            sums += torch.stack([count, x.sum(1), y.sum(1), (x * x).sum(1), (x * y).sum(1)])
        self.patches.add(sums)
        count, x, y, xx, xy = sums
        variance = (xx - x * x / count).clamp_min(0)
        factor = torch.where(variance > 1e-9 * xx, (xy - x * y / count) / variance.clamp_min(1e-30), factor.double())
        module.weight.copy_(factor)
        module.bias.copy_((y - factor * x) / count)
        self.patches.follow(*module.parameters())

    def _seen(self, stage: FitStage, batch: ShareBatch, *taps: Tap) -> dict[Tap, list[torch.Tensor]]:
        with self.replay.of(batch.first):
            return self.walk.features(stage, batch, {tap: len(self.sizes[tap]) for tap in taps})

    @contextmanager
    def _forced(self, gate: str | None, gates: torch.Tensor | None) -> Iterator[None]:
        """Replace the student's gates by `gates` within the block."""
        if gate is None or gates is None:
            yield
            return
        logits = logits_of(gates)
        with self.student.get_submodule(gate).register_forward_hook(lambda _module, _inputs, _output: logits):
            yield

    def _add(
        self, sums: Sequence[Sums], x: torch.Tensor, missing: torch.Tensor, weight: torch.Tensor, module: nn.Module
    ) -> None:
        """Add the pixels of one patch, weighted by `weight`, to the sums of each group."""
        if not isinstance(module, nn.Conv2d):  # in windows, or tokens
            pixels = missing[0].flatten(1)
            sums[0].add(x[0].flatten(1), pixels, weight.expand(pixels.shape[1]))
            return
        scale = max(1, missing.shape[-1] // self.patches.lr.shape[-1])
        weights = weight * pixel_weights(*missing.shape[-2:], scale=scale, like=missing)
        # Neighbours are alike, and an enlarged feature has scale² times as many pixels: every `step`th is sampled along
        # each side. The step is coprime with the scale, so that no position within an LR pixel is left out.
        step = max(step for step in range(1, scale + 1) if step == 1 or (step < scale and math.gcd(step, scale) == 1))
        weights = weights.reshape(missing.shape[-2:])[::step, ::step].flatten()
        missing = missing[..., ::step, ::step]
        groups = zip(x.chunk(module.groups, 1), missing.chunk(module.groups, 1), sums, strict=True)
        for group_x, group_missing, group_sums in groups:
            assert isinstance(module.padding, tuple)
            inputs = F.unfold(group_x, module.kernel_size, padding=module.padding, stride=step)[0]
            group_sums.add(inputs, group_missing[0].flatten(1), weights)


def logits_of(gates: torch.Tensor) -> torch.Tensor:
    return gates.logit(1e-12).float()


def pixel_weights(height: int, width: int, *, scale: int, like: torch.Tensor) -> torch.Tensor:
    """Return a patch's pixel weights, (height·width,): borders count as little as in an image of IMAGE_SIDE."""

    def along(length: int) -> torch.Tensor:
        position = torch.arange(length, device=like.device)
        distance = torch.minimum(position, length - 1 - position)
        border = BORDER * scale
        if length <= 2 * border:
            return torch.ones(length, device=like.device)
        inner = (IMAGE_SIDE * scale - 2 * border) / (length - 2 * border)
        return torch.where(distance < border, 1.0, inner)

    weights = along(height)[:, None] * along(width)
    return (weights / weights.mean()).flatten().to(like.dtype)
