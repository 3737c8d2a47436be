"""Fitting of a student of its teacher's kind: layer by layer, by least squares on a few patches, without a gradient.

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

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import nn

from compressor.base.context import QUIET, Context
from compressor.base.errors import UsageError
from compressor.models.fitting.bases import Basis, choose_bases
from compressor.models.fitting.layer_solver import SATURATED, FitProgress, LayerSolver, logits_of
from compressor.models.fitting.layers import (
    channels_first,
    dense_weight,
    in_bases,
    inputs_of,
    linear_layer,
    write_dense,
)
from compressor.models.fitting.stages import FitStage, StageWalk, stages
from compressor.models.networks.base import Network, Spec, Tap
from compressor.models.networks.linear_plan import Correspondence, LinearLayer
from compressor.models.networks.registry import build, linear_plan
from compressor.models.networks.slices import axis_plans

BASES = 0.25
"""Work of choosing the bases, as a share of the work on all layers."""


class SameKindFit(LayerSolver):
    """The state of solving for a student of the teacher's kind."""

    def __init__(self, teacher: Network, spec: Spec, lr: torch.Tensor, context: Context = QUIET) -> None:
        long, short = linear_plan(teacher.spec), linear_plan(spec)
        if spec.arch != teacher.spec.arch or long is None or short is None:
            raise UsageError(f"a {spec.arch} cannot be solved for layer by layer from a {teacher.spec.arch}")
        student = build(spec).to(teacher.device)
        student.load_state_dict(dict(teacher.named_buffers()), strict=False)
        self.teacher = teacher.eval()
        self.long = long
        self.places = Correspondence(*axis_plans(teacher.spec, spec))
        super().__init__(student, short, lr, context)
        self.work *= 1 + BASES

    @cached_property
    def bases(self) -> dict[str, Basis]:
        with torch.no_grad():
            return choose_bases(self.teacher, self.long, self.student, self.short, self.places, self.patches)

    def _begin(self, progress: FitProgress) -> None:
        for layer in self.short.layers:
            (weight, bias), module = self._prior(layer), linear_layer(self.student, layer)
            write_dense(module, weight)
            if module.bias is not None:
                module.bias.copy_(bias)
        for name, space in self.short.values.items():  # per-unit parameters, such as slopes, of units or their blocks
            matrix, size = self.bases[space].matrix, self.short.blocks.get(space, 1)
            old = torch.cat([self.teacher.get_parameter(theirs).double() for theirs in self._theirs(space, name)], -1)
            self.student.get_parameter(name).copy_(old @ matrix[::size, ::size])
        self.teacher_walk = StageWalk(self.teacher, "teacher", self.store)
        progress.add(self.work * BASES / (1 + BASES))

    def _stages(self) -> Iterator[FitStage]:
        return stages(self.short, self.places.all_of)

    def _aim(self, stage: FitStage) -> None:
        """Run a stage of the teacher, and store the targets of the student's layers in it, in the student's units."""
        taps = {tap for layer in stage.layers for tap in (*self._targets(layer), *self._gate(layer))}
        for batch in self.patches.batches():
            features_by_tap = self.teacher_walk.advance(stage, batch, taps)
            for layer in stage.layers:
                features = zip(*(features_by_tap[tap] for tap in self._targets(layer)), strict=True)
                for call, parts in enumerate(features):
                    self.store[layer.name, call, batch.first] = self._in_units(layer, parts)
                for tap in self._gate(layer):
                    (value,) = features_by_tap[tap]
                    gates = self.bases[layer.output].gates(value.double().sigmoid())
                    self.store[layer.name, "gates", batch.first] = gates

    def _targets(self, layer: LinearLayer) -> list[Tap]:
        """Return the teacher's taps of a layer's targets: in several blocks if its units come from several."""
        return [Tap(module, layer.target.side) for module in self._theirs(layer.output, layer.target.module)]

    def _theirs(self, space: str, name: str) -> list[str]:
        """Return the teacher's names for a part of the student: several if the units of the space come from several."""
        several = len(self.bases[space].sources) > 1
        return self.places.all_of(name) if several else [self.places.last_of(name)]

    def _gate(self, layer: LinearLayer) -> list[Tap]:
        """Return the teacher's tap of the gates that multiply a layer's output, or an empty list."""
        return [] if layer.gate is None else [Tap(self.places.last_of(layer.gate))]

    def _in_units(self, layer: LinearLayer, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the teacher's features, one for each source of the student's units, in the student's units."""
        basis, module = self.bases[layer.output], linear_layer(self.student, layer)
        chunks = [channels_first(feature, module).chunk(layer.parts, 1) for feature in features]
        value = torch.cat([chunk for row in zip(*chunks, strict=True) for chunk in row], 1)
        if layer.name in self.short.gates:
            return logits_of(basis.gates(value.double().sigmoid())).clamp(-SATURATED, SATURATED)
        return basis.project(value, layer.parts)

    def _prior(self, layer: LinearLayer) -> tuple[torch.Tensor, torch.Tensor]:
        """Return Bₒᵀ·W·Bᵢ and Bₒᵀ·b: the teacher's layer, or layers, in the student's bases.

        Zero if the student's block replaces blocks that are not side by side: the product of these is not a layer.
        """
        module = linear_layer(self.student, layer)
        sides = module.kernel_size if isinstance(module, nn.Conv2d) else (1, 1)
        weight = module.weight.new_zeros(len(module.weight), inputs_of(module), *sides, dtype=torch.float64)
        bias = weight.new_zeros(len(weight))
        is_gate = layer.name in self.short.gates
        for name in [self.places.last_of(layer.name)] if is_gate else self.places.all_of(layer.name):
            source = self.long.by_name[name]
            mine, its = (layer.output, *layer.inputs), (source.output, *source.inputs)
            if any(theirs not in self.bases[space].sources for space, theirs in zip(mine, its, strict=True)):
                continue
            inputs = zip(layer.inputs, source.inputs, strict=True)
            columns = [self.bases[space].decoder_rows(theirs) for space, theirs in inputs]
            rows = self.bases[layer.output].rows_of(source.output)
            rows = rows.square() if is_gate else rows
            teachers = linear_layer(self.teacher, source)
            weight += torch.cat([in_bases(chunk, rows, columns) for chunk in dense_weight(teachers).chunk(layer.parts)])
            if teachers.bias is not None:
                chunks = teachers.bias.double().chunk(layer.parts)
                bias += torch.cat([(rows.T @ chunk.reshape(len(rows), -1)).flatten() for chunk in chunks])
        return weight, bias
