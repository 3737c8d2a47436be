"""Fitting of a student to its teacher: layer by layer, by least squares on a few patches, without a gradient.

The layers are solved in the order in which they run, on the outputs of the student's own previous layers, so that
errors are corrected and do not add up. A layer starts from the teacher's weights in the student's bases, Bₒᵀ·W·Bᵢ, and
is corrected towards the teacher's values, in these bases (`least_squares.py`, `bases.py`). Every network declares its
layers and their targets (`networks/linear_plan.py`).

Patches are run stage by stage. Only the inputs of the next stage and the targets of one stage's layers are kept for all
patches, in a store that goes to a file if memory is short (`feature_store.py`). Several processes share the patches and
add up their sums (`shares.py`). Prior work for classifiers: He et al., 2017, "Channel pruning"; Luo et al., 2017,
ThiNet; SliceGPT, 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.context import QUIET, Context
from compressor.base.errors import UsageError
from compressor.base.processes import SharedFailure
from compressor.models.fitting.bases import choose_bases
from compressor.models.fitting.feature_store import FeatureStore
from compressor.models.fitting.layers import (
    area_of,
    channels_first,
    dense_weight,
    groups_of,
    in_bases,
    inputs_of,
    linear_layer,
    outputs_of,
    write_dense,
)
from compressor.models.fitting.least_squares import Sums, best_correction
from compressor.models.fitting.progress import FitProgress
from compressor.models.fitting.replay import Replay
from compressor.models.fitting.shares import Share, ShareBatch
from compressor.models.fitting.stages import FitStage, StageWalk, stages
from compressor.models.fitting.watching import sizes_at
from compressor.models.networks.base import Network, Spec, Tap
from compressor.models.networks.linear_plan import Correspondence, LinearLayer, LinearPlan
from compressor.models.networks.registry import architecture, build

APART = 4
"""One patch in APART is held out to choose the ridge."""

ROUNDING = 1e-5
"""Relative error below which a layer is not corrected: it is rounding, and a correction would fit noise."""

BASES = 0.25
"""Work of choosing the bases, as a share of the work on all layers."""

SHUT = 0.01
"""Gates whose squares are below this share of their mean are almost ignored."""

SATURATED = 8.0
"""Logit at which a gate counts as fully open or shut; larger logits are clamped."""

BORDER, IMAGE_SIDE = 8, 256
"""Pixels nearer than BORDER to the edge of a patch are weighted as in an image of IMAGE_SIDE pixels."""


def fit(teacher: Network, spec: Spec, lr: torch.Tensor, *, context: Context = QUIET) -> Network:
    """Return a student of `spec` that reproduces the teacher as well as its size allows, on the teacher's device.

    `lr` are low-resolution patches (N, C, H, W) in [0,1]. All processes of the context must call this with the same
    patches, and get the same student.
    """
    return Fitting(teacher, spec, lr, context).run()


def require_linear_plan(teacher: Spec, student: Spec) -> Callable[[Spec], LinearPlan]:
    """Return the function that declares the linear layers of both specs; refuse a student that cannot be solved for."""
    linear = architecture(teacher.arch).linear
    if student.arch != teacher.arch:
        raise UsageError(f"a {student.arch} cannot be solved for from a {teacher.arch}: take --init random")
    if linear is None:
        raise UsageError(f"a {student.arch} cannot be solved for: take --init inherit or random")
    return linear


class Fitting:
    """The state of solving for one student."""

    def __init__(self, teacher: Network, spec: Spec, lr: torch.Tensor, context: Context = QUIET) -> None:
        family = architecture(teacher.spec.arch)
        linear = require_linear_plan(teacher.spec, spec)
        self.teacher = teacher.eval()
        self.student = build(spec).to(teacher.device).eval()
        self.student.load_state_dict(dict(teacher.named_buffers()), strict=False)
        self.long, self.short = linear(teacher.spec), linear(spec)
        self.places = Correspondence.between(family.axes(teacher.spec), family.axes(spec))
        self.patches = Share(lr, teacher.device, context.processes)
        probe = lr[:1].to(teacher.device)
        inputs = [Tap(layer.name, "input") for layer in self.short.layers]
        self.sizes = sizes_at(self.student, [*(layer.target for layer in self.short.layers), *inputs], probe)
        layers = self.short.sweeps * sum(map(self._work, self.short.layers))
        self.progress = FitProgress(context, layers * (1 + BASES))
        with torch.no_grad():
            self.bases = choose_bases(teacher, self.long, self.student, self.short, self.places, self.patches)
        self.progress.add(layers * BASES, "bases")
        self.ridges: dict[str, float | None] = {}

    def run(self) -> Network:
        with torch.no_grad(), FeatureStore() as self.store, Replay(self.student, self.store) as self.replay:
            for layer in self.short.layers:
                self._write(layer, *self._prior(layer))
            for name, space in self.short.values.items():
                self._copy_values(name, space)
            self.patches.follow(*self.student.parameters())
            self.walks = StageWalk(self.teacher, "teacher", self.store), StageWalk(self.student, "student", self.store)
            for _ in range(self.short.sweeps):
                for stage in stages(self.short, self.places):
                    self.replay.begin(layer.name for layer in stage.layers)
                    self._aim(stage)
                    for layer in stage.layers:
                        is_norm = isinstance(linear_layer(self.student, layer), nn.LayerNorm)
                        (self._solve_norm if is_norm else self._solve)(layer, stage)
                        self.replay.unsolved.remove(layer.name)
                        self.progress.add(self._work(layer), f"layer {layer.name}")
                    self._leave(stage)
        return self.student

    def _aim(self, stage: FitStage) -> None:
        """Run a stage of the teacher, and store the targets of the student's layers in it, in the student's units."""
        taps = {tap for layer in stage.layers for tap in (*self._targets(layer), *self._gate(layer))}
        for batch in self.patches.batches():
            features_by_tap = self.walks[0].advance(stage, batch, taps)
            for layer in stage.layers:
                features = zip(*(features_by_tap[tap] for tap in self._targets(layer)), strict=True)
                for call, parts in enumerate(features):
                    self.store[layer.name, call, batch.first] = self._in_units(layer, parts)
                for tap in self._gate(layer):
                    (value,) = features_by_tap[tap]
                    gates = self.bases[layer.output].gates(value.double().sigmoid())
                    self.store[layer.name, "gates", batch.first] = gates

    def _leave(self, stage: FitStage) -> None:
        """Run a stage of the solved student; discard the targets of its layers."""
        for batch in self.patches.batches():
            for layer in stage.layers:
                for key in (*range(self._calls(layer)), "gates"):
                    self.store.discard((layer.name, key, batch.first))
            if stage.kind != "end":
                with self.replay.of(batch.first):
                    self.walks[1].advance(stage, batch)

    def _targets(self, layer: LinearLayer) -> list[Tap]:
        """Return the teacher's taps of a layer's targets: in several blocks if its units come from several."""
        several = len(self.bases[layer.output].sources) > 1
        name, side = layer.target.module, layer.target.side
        names = self.places.all_of(name) if several else [self.places.last_of(name)]
        return [Tap(module, side) for module in names]

    def _gate(self, layer: LinearLayer) -> list[Tap]:
        """Return the teacher's tap of the gates that multiply a layer's output, or an empty list."""
        return [] if layer.gate is None else [Tap(self.places.last_of(layer.gate))]

    def _in_units(self, layer: LinearLayer, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the teacher's features, one for each source of the student's units, in the student's units."""
        basis, module = self.bases[layer.output], linear_layer(self.student, layer)
        chunks = [channels_first(feature, module).chunk(layer.parts, 1) for feature in features]
        value = torch.cat([chunk for row in zip(*chunks, strict=True) for chunk in row], 1)
        if layer.name in self.short.gates:
            return _logits(basis.gates(value.double().sigmoid())).clamp(-SATURATED, SATURATED)
        return basis.project(value, layer.parts)

    def _calls(self, layer: LinearLayer) -> int:
        return len(self.sizes[layer.target])

    def _work(self, layer: LinearLayer) -> float:
        """Return the approximate number of products in a layer's sums, for one patch."""
        module = linear_layer(self.student, layer)
        columns, rows = inputs_of(module) // groups_of(module) * area_of(module), outputs_of(module)
        values = sum(size.numel() for size in self.sizes[layer.target])
        return float(values * columns * (1 + columns / rows))

    def _solve(self, layer: LinearLayer, stage: FitStage) -> None:
        """Correct a layer's weights towards the teacher's values; the error is measured with its initial weights."""
        module = linear_layer(self.student, layer)
        inputs, target = Tap(layer.name, "input"), layer.target
        groups = groups_of(module)
        columns, rows = inputs_of(module) // groups * area_of(module), outputs_of(module) // groups
        energy, difference = torch.zeros(2, dtype=torch.float64, device=self.teacher.device)
        sums = [[Sums(columns, rows, self.teacher.device) for _ in range(groups)] for _ in range(2)]
        for batch in self.patches.batches():
            gates = None if layer.gate is None else self.store[layer.name, "gates", batch.first]
            with self._forced(layer.gate, gates):
                features_by_tap = self._seen(stage, batch, inputs, target)
            for call, (x, now) in enumerate(zip(features_by_tap[inputs], features_by_tap[target], strict=True)):
                value = self.store[layer.name, call, batch.first]
                x, now = channels_first(x, module), channels_first(now, module)
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
        self.patches.add(
            energy, difference, *(tensor for group in sums for layer_sums in group for tensor in layer_sums.parts)
        )
        if difference < ROUNDING**2 * energy:
            return
        corrections = [best_correction(fitted, apart) for fitted, apart in zip(*sums, strict=True)]
        self.ridges[layer.name] = corrections[0][2]
        slope = torch.cat([correction[0] for correction in corrections]).reshape(module.weight.shape)
        intercept = torch.cat([correction[1] for correction in corrections])
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
        """Return the student's features at taps within a stage."""
        with self.replay.of(batch.first):
            return self.walks[1].features(stage, batch, {tap: len(self.sizes[tap]) for tap in taps})

    @contextmanager
    def _forced(self, gate: str | None, gates: torch.Tensor | None) -> Iterator[None]:
        """Replace the student's gates by `gates` within the block."""
        if gate is None or gates is None:
            yield
            return
        logits = _logits(gates)
        handle = self.student.get_submodule(gate).register_forward_hook(lambda _module, _inputs, _output: logits)
        try:
            yield
        finally:
            handle.remove()

    def _add(
        self,
        sums: Sequence[Sums],
        x: torch.Tensor,
        missing: torch.Tensor,
        weight: torch.Tensor,
        module: nn.Module,
    ) -> None:
        """Add the pixels of one patch, weighted by `weight`, to the sums of each group."""
        if not isinstance(module, nn.Conv2d):  # in windows, or tokens
            pixels = missing[0].flatten(1)
            sums[0].add(x[0].flatten(1), pixels, weight.expand(pixels.shape[1]))
            return
        scale = max(1, missing.shape[-1] // self.patches.lr.shape[-1])
        weights = weight * pixel_weights(*missing.shape[-2:], scale=scale, like=missing)
        step = step_between(scale)
        weights = weights.reshape(missing.shape[-2:])[::step, ::step].flatten()
        missing = missing[..., ::step, ::step]
        groups = zip(x.chunk(module.groups, 1), missing.chunk(module.groups, 1), sums, strict=True)
        for group_x, group_missing, group_sums in groups:
            assert isinstance(module.padding, tuple)
            inputs = F.unfold(group_x, module.kernel_size, padding=module.padding, stride=step)[0]
            group_sums.add(inputs, group_missing[0].flatten(1), weights)

    def _prior(self, layer: LinearLayer) -> tuple[torch.Tensor, torch.Tensor]:
        """Return Bₒᵀ·W·Bᵢ and Bₒᵀ·b: the teacher's layer, or layers, in the student's bases.

        Zero if the student's block replaces blocks that are not side by side: the product of these is not a layer.
        """
        module = linear_layer(self.student, layer)
        sides = module.kernel_size if isinstance(module, nn.Conv2d) else (1, 1)
        weight = torch.zeros(outputs_of(module), inputs_of(module), *sides, dtype=torch.float64)
        bias = torch.zeros(outputs_of(module), dtype=torch.float64)
        weight, bias = weight.to(self.teacher.device), bias.to(self.teacher.device)
        is_gate = layer.name in self.short.gates
        for name in [self.places.last_of(layer.name)] if is_gate else self.places.all_of(layer.name):
            source = self.long.by_name[name]
            place = self._place(layer, source)
            if place is None:
                continue
            rows, columns = place
            rows = rows.square() if is_gate else rows
            theirs = linear_layer(self.teacher, source)
            weight += torch.cat([in_bases(chunk, rows, columns) for chunk in dense_weight(theirs).chunk(layer.parts)])
            if theirs.bias is not None:
                chunks = theirs.bias.double().chunk(layer.parts)
                bias += torch.cat([(rows.T @ chunk.reshape(len(rows), -1)).flatten() for chunk in chunks])
        return weight, bias

    def _place(self, layer: LinearLayer, source: LinearLayer) -> tuple[torch.Tensor, list[torch.Tensor]] | None:
        """Return the bases of a layer's rows and of its input segments, for the units of a layer of the teacher."""
        mine, its = (layer.output, *layer.inputs), (source.output, *source.inputs)
        if any(theirs not in self.bases[space].sources for space, theirs in zip(mine, its, strict=True)):
            return None
        inputs = zip(layer.inputs, source.inputs, strict=True)
        columns = [self.bases[space].columns_of(theirs) for space, theirs in inputs]
        return self.bases[layer.output].rows_of(source.output), columns

    def _write(self, layer: LinearLayer, weight: torch.Tensor, bias: torch.Tensor) -> None:
        module = linear_layer(self.student, layer)
        write_dense(module, weight)
        if module.bias is not None:
            module.bias.copy_(bias)

    def _copy_values(self, name: str, space: str) -> None:
        """Copy the teacher's per-unit parameters, such as slopes, to the student's units, or blocks of units."""
        matrix, size = self.bases[space].matrix, self.short.blocks.get(space, 1)
        several = len(self.bases[space].sources) > 1
        names = self.places.all_of(name) if several else [self.places.last_of(name)]
        old = torch.cat([self.teacher.get_parameter(parameter).double() for parameter in names], -1)
        self.student.get_parameter(name).copy_(old @ matrix[::size, ::size])


def _logits(gates: torch.Tensor) -> torch.Tensor:
    return gates.logit(1e-12).float()


def step_between(scale: int) -> int:
    """Return the step between sampled pixels of an enlarged feature, along each side.

    Neighbours are alike, and at four times the size there are sixteen times as many pixels. The step is coprime with
    the scale, so that every position within an LR pixel is sampled.
    """
    return max(step for step in range(1, scale + 1) if step == 1 or (step < scale and math.gcd(step, scale) == 1))


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
