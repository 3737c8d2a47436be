"""Fit a student to its teacher: layer by layer, by least squares on a few patches, without a gradient.

Each layer is solved in the order in which it runs, on what the student's own layers before it give, so that their
errors are corrected, not added up. It starts from the teacher's weights written in the student's bases, Bₒᵀ·W·Bᵢ, and
is corrected towards what the teacher computes, in these bases (`least_squares.py`, `bases.py`). Which layers there are,
and what each has to reproduce, every network declares itself (`networks/linear_plan.py`).

Patches are run stage by stage; between stages only features are kept. Prior work for classifiers: He et al., 2017,
"Channel pruning"; Luo et al., 2017, ThiNet; SliceGPT, 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError, UsageError
from compressor.models.fitting.bases import (
    Basis,
    channels_first,
    choose_bases,
    dense_weight,
    groups_of,
    in_bases,
    inputs_of,
    linear_layer,
    outputs_of,
    units_of,
)
from compressor.models.fitting.least_squares import Sums, best_correction
from compressor.models.fitting.watching import AllSeen, count_calls, watched
from compressor.models.networks.base import Network, Spec, Tap
from compressor.models.networks.linear_plan import Correspondence, LinearLayer, LinearPlan
from compressor.models.networks.registry import architecture, build

BATCH = 8
"""Patches that are run at the same time."""

APART = 4
"""One patch of so many is kept apart to choose the ridge."""

ROUNDING = 1e-5
"""What is missing by less, as a share of the values, is rounding: to correct it would fit noise."""

SHUT = 0.01
"""Gates whose squares are below this share of their mean hardly count."""

SATURATED = 8.0
"""Beyond this logit a gate is open or shut: how far does not matter."""

BORDER, IMAGE_SIDE = 8, 256
"""Pixels nearer than BORDER to the edge of a patch weigh as they do in an image of IMAGE_SIDE pixels."""


def fit(teacher: Network, spec: Spec, lr: torch.Tensor, *, progress: Progress = no_progress) -> Network:
    """Return a student of `spec` that reproduces the teacher as well as its size allows, on the teacher's device.

    `lr` are low-resolution patches (N, C, H, W) in [0,1].
    """
    return Fitting(teacher, spec, lr, progress).run()


def require_linear_plan(teacher: Spec, student: Spec) -> Callable[[Spec], LinearPlan]:
    """Return what describes the linear layers of both, or refuse a student that cannot be solved for."""
    linear = architecture(teacher.arch).linear
    if student.arch != teacher.arch:
        raise UsageError(f"a {student.arch} cannot be solved for from a {teacher.arch}: take --init random")
    if linear is None:
        raise UsageError(f"a {student.arch} cannot be solved for: take --init inherit or random")
    return linear


@dataclass
class _State:
    """What is known of a batch before a stage: the images, and the features of teacher and student."""

    lr: torch.Tensor
    shallow: tuple[torch.Tensor, torch.Tensor] | None = None
    features: tuple[torch.Tensor, torch.Tensor] | None = None


@dataclass(frozen=True)
class _Stage:
    """A part of both networks, and the layers of the student that it runs. Without modules: the stem, or the end."""

    kind: str
    teacher: tuple[str, ...] = ()
    student: tuple[str, ...] = ()
    layers: tuple[LinearLayer, ...] = ()


class Fitting:
    """A student that is being solved for."""

    def __init__(self, teacher: Network, spec: Spec, lr: torch.Tensor, progress: Progress = no_progress) -> None:
        family = architecture(teacher.spec.arch)
        linear = require_linear_plan(teacher.spec, spec)
        self.teacher, self.progress = teacher.eval(), progress
        self.student = build(spec).to(teacher.device).eval()
        self.student.load_state_dict(dict(teacher.named_buffers()), strict=False)
        self.long, self.short = linear(teacher.spec), linear(spec)
        self.places = Correspondence.between(family.axes(teacher.spec), family.axes(spec))
        with torch.no_grad():
            self.bases = choose_bases(teacher, self.long, self.student, self.short, self.places, lr)
        self.lr = lr
        probe = lr[:1].to(teacher.device)
        inputs = [Tap(layer.name, "input") for layer in self.short.layers]
        self.calls = count_calls(teacher, [layer.target for layer in self.long.layers], probe)
        self.student_calls = count_calls(self.student, [*(one.target for one in self.short.layers), *inputs], probe)
        self.ridges: dict[str, float | None] = {}

    def run(self) -> Network:
        with torch.no_grad():
            for layer in self.short.layers:
                self._write(layer, *self._prior(layer))
            for name, space in self.short.values.items():
                self._copy_values(name, space)
            total, done = len(self.short.layers) * self.short.sweeps, 0
            for _ in range(self.short.sweeps):
                states = [_State(batch.to(self.teacher.device)) for batch in torch.split(self.lr, BATCH)]
                for stage in self._stages():
                    for layer in stage.layers:
                        self.progress("fit", done, total)
                        is_norm = isinstance(linear_layer(self.student, layer), nn.LayerNorm)
                        (self._solve_norm if is_norm else self._solve)(layer, stage, states)
                        done += 1
                    if stage.kind != "end":
                        for state in states:
                            self._advance(stage, state)
            self.progress("fit", total, total)
        return self.student

    def _stages(self) -> Iterator[_Stage]:
        names = self.short.stages
        inside = {
            layer.name: stage
            for stage in names
            for layer in self.short.layers
            if f"{layer.name}.".startswith(f"{stage}.")
        }
        outside = [layer for layer in self.short.layers if layer.name not in inside]
        first = next((index for index, one in enumerate(self.short.layers) if one.name in inside), 0)
        before = [layer for layer in self.short.layers[:first] if layer in outside]
        yield _Stage("stem", layers=tuple(before))
        for stage in names:
            own = tuple(layer for layer in self.short.layers if inside.get(layer.name) == stage)
            yield _Stage("body", tuple(self.places.all_of(stage)), (stage,), own)
        yield _Stage("end", layers=tuple(layer for layer in outside if layer not in before))

    def _run(self, network: Network, which: int, stage: _Stage, state: _State) -> torch.Tensor:
        """Run a stage of the teacher (0) or of the student (1)."""
        if stage.kind == "stem":
            return network.stem(state.lr)
        assert state.features is not None and state.shallow is not None
        if stage.kind == "end":
            return network.finish(state.features[which], state.shallow[which], state.lr)
        feature = state.features[which]
        for name in (stage.teacher, stage.student)[which]:
            feature = network.get_submodule(name)(feature)
        return feature

    def _advance(self, stage: _Stage, state: _State) -> None:
        features = self._run(self.teacher, 0, stage, state), self._run(self.student, 1, stage, state)
        if stage.kind == "stem":
            state.shallow = features
        state.features = features

    def _seen(
        self, network: Network, which: int, stage: _Stage, state: _State, taps: Sequence[Tap]
    ) -> dict[Tap, list[torch.Tensor]]:
        calls = (self.calls, self.student_calls)[which]
        with watched(network, taps, {tap: calls[tap] for tap in taps}) as seen, suppress(AllSeen):
            self._run(network, which, stage, state)
        return seen

    def _solve(self, layer: LinearLayer, stage: _Stage, states: Sequence[_State]) -> None:
        """Correct a layer's weights towards the teacher's values; it computes with those that it starts from."""
        module = linear_layer(self.student, layer)
        inputs, target = Tap(layer.name, "input"), layer.target
        groups = groups_of(module)
        area = module.kernel_size[0] * module.kernel_size[1] if isinstance(module, nn.Conv2d) else 1
        columns, rows = inputs_of(module) // groups * area, outputs_of(module) // groups
        energy, difference = torch.zeros(2, dtype=torch.float64, device=self.teacher.device)
        sums = [[Sums(columns, rows, self.teacher.device) for _ in range(groups)] for _ in range(2)]
        number = 0
        for state in states:
            values, gates = self._teacher_values(layer, stage, state), self._gates(layer, stage, state)
            with self._forced(layer.gate, gates):
                seen = self._seen(self.student, 1, stage, state, [inputs, target])
            for value, x, now in zip(values, seen[inputs], seen[target], strict=True):
                x, now = channels_first(x, module), channels_first(now, module)
                energy += value.double().square().sum()
                if layer.name in self.short.gates:
                    now = now.clamp(-SATURATED, SATURATED)
                difference += (value - now).double().square().sum()
                missing, weights = (value - now) / layer.gain, torch.ones_like(value[:, 0, 0, 0])
                if gates is not None:
                    # Divided by the gate; what a gate that is nearly shut asks for is not asked for.
                    power = gates.square()
                    mean = power.mean((1, 2, 3), keepdim=True)
                    missing = (missing * gates / (power + SHUT * mean)).float()
                    weights = mean[:, 0, 0, 0].float()
                for index in range(len(x)):
                    is_apart = (number + index) % APART == APART - 1
                    patch = slice(index, index + 1)
                    self._add(sums[is_apart], x[patch], missing[patch], weights[patch], module)
            number += len(state.lr)
        if difference < ROUNDING**2 * energy:
            return
        corrections = [best_correction(fitted, apart) for fitted, apart in zip(*sums, strict=True)]
        self.ridges[layer.name] = corrections[0][2]
        slope = torch.cat([one[0] for one in corrections]).reshape(module.weight.shape)
        intercept = torch.cat([one[1] for one in corrections])
        module.weight += slope.to(module.weight.dtype)
        if module.bias is not None:
            module.bias += intercept.to(module.bias.dtype)
        if not torch.isfinite(module.weight).all():
            raise SrkdError(f"{layer.name} cannot be solved for: the teacher's features are not finite on these images")

    def _solve_norm(self, layer: LinearLayer, stage: _Stage, states: Sequence[_State]) -> None:
        """Solve for the factor and the shift of each unit of a LayerNorm: a regression for each unit."""
        module, tap = linear_layer(self.student, layer), Tap(layer.name)
        assert module.bias is not None
        factor = module.weight.clone()
        module.weight.fill_(1)
        module.bias.zero_()
        sums = torch.zeros(5, len(factor), dtype=torch.float64, device=factor.device)
        for state in states:
            (value,) = self._teacher_values(layer, stage, state)
            (now,) = self._seen(self.student, 1, stage, state, [tap])[tap]
            x, y = (one.transpose(0, 1).flatten(1).double() for one in (channels_first(now, module), value))
            count = torch.full_like(x[:, 0], x.shape[1])
            sums += torch.stack([count, x.sum(1), y.sum(1), (x * x).sum(1), (x * y).sum(1)])
        count, x, y, xx, xy = sums
        variance = (xx - x * x / count).clamp_min(0)
        factor = torch.where(variance > 1e-9 * xx, (xy - x * y / count) / variance.clamp_min(1e-30), factor.double())
        module.weight.copy_(factor)
        module.bias.copy_((y - factor * x) / count)

    def _teacher_values(self, layer: LinearLayer, stage: _Stage, state: _State) -> list[torch.Tensor]:
        """Return what the student should have where the layer is compared, for each time it runs."""
        basis = self.bases[layer.output]
        several = len(basis.sources) > 1
        names = self.places.all_of(layer.target.module) if several else [self.places.last_of(layer.target.module)]
        taps = [Tap(name, layer.target.side) for name in names]
        seen = self._seen(self.teacher, 0, stage, state, taps)
        module = linear_layer(self.student, layer)
        values = []
        for features in zip(*(seen[tap] for tap in taps), strict=True):
            chunks = [channels_first(feature, module).chunk(layer.parts, 1) for feature in features]
            values.append(torch.cat([part for parts in zip(*chunks, strict=True) for part in parts], 1))
        if layer.name in self.short.gates:
            return [_logits(basis.gates(value.double().sigmoid())).clamp(-SATURATED, SATURATED) for value in values]
        return [basis.project(value, layer.parts) for value in values]

    def _gates(self, layer: LinearLayer, stage: _Stage, state: _State) -> torch.Tensor | None:
        """Return the gates that multiply the output of a layer: those of the teacher, in the student's basis."""
        if layer.gate is None:
            return None
        tap = Tap(self.places.last_of(layer.gate))
        (value,) = self._seen(self.teacher, 0, stage, state, [tap])[tap]
        return self.bases[layer.output].gates(value.double().sigmoid())

    @contextmanager
    def _forced(self, gate: str | None, gates: torch.Tensor | None) -> Iterator[None]:
        """Within the block the student's gates are these."""
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
        """Add the pixels of one patch, which weighs `weight`, to the sums of each group."""
        if not isinstance(module, nn.Conv2d):  # in windows, or tokens
            pixels = missing[0].flatten(1)
            sums[0].add(x[0].flatten(1), pixels, weight.expand(pixels.shape[1]))
            return
        scale = max(1, missing.shape[-1] // self.lr.shape[-1])
        weights = weight * pixel_weights(*missing.shape[-2:], scale=scale, like=missing)
        parts = zip(x.chunk(module.groups, 1), missing.chunk(module.groups, 1), sums, strict=True)
        for part, its_missing, its_sums in parts:
            assert isinstance(module.padding, tuple)
            inputs = F.unfold(part, module.kernel_size, padding=module.padding)[0]
            its_sums.add(inputs, its_missing[0].flatten(1), weights)

    def _prior(self, layer: LinearLayer) -> tuple[torch.Tensor, torch.Tensor]:
        """Return Bₒᵀ·W·Bᵢ and Bₒᵀ·b: the teacher's layer, or layers, in the student's bases.

        Zero where the blocks that one of the student's stands for are not side by side: their product is no layer.
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
            dense, old = dense_weight(self.teacher, source), linear_layer(self.teacher, source).bias
            weight += torch.cat([in_bases(part, rows, columns) for part in dense.chunk(layer.parts)])
            if old is not None:
                parts = old.double().chunk(layer.parts)
                bias += torch.cat([(rows.T @ part.reshape(len(rows), -1)).flatten() for part in parts])
        return weight, bias

    def _place(self, layer: LinearLayer, source: LinearLayer) -> tuple[torch.Tensor, list[torch.Tensor]] | None:
        """Return the bases of a layer's rows and of its input's segments in the units of a layer of the teacher."""
        rows = self._rows_of(self.bases[layer.output], source.output)
        columns = [self._rows_of(self.bases[mine], its) for mine, its in zip(layer.inputs, source.inputs, strict=True)]
        if rows is None or any(column is None for column in columns):
            return None
        return rows, [column for column in columns if column is not None]

    def _rows_of(self, basis: Basis, space: str) -> torch.Tensor | None:
        """Return the rows of a basis that belong to one of the teacher's spaces; None where it is not among them."""
        if space not in basis.sources:
            return None
        sizes = [self._units(source) for source in basis.sources]
        index = basis.sources.index(space)
        return basis.matrix[sum(sizes[:index]) : sum(sizes[: index + 1])]

    def _units(self, space: str) -> int:
        return units_of(self.teacher, self.long, space)

    def _write(self, layer: LinearLayer, weight: torch.Tensor, bias: torch.Tensor) -> None:
        module, groups = linear_layer(self.student, layer), groups_of(linear_layer(self.student, layer))
        if isinstance(module, nn.LayerNorm):
            weight = weight[:, :, 0, 0].diagonal()
        elif isinstance(module, nn.Linear):
            weight = weight[:, :, 0, 0]
        elif groups > 1:
            rows, columns = weight.shape[0] // groups, weight.shape[1] // groups
            weight = torch.cat(
                [
                    weight[index * rows : (index + 1) * rows, index * columns : (index + 1) * columns]
                    for index in range(groups)
                ]
            )
        module.weight.copy_(weight)
        if module.bias is not None:
            module.bias.copy_(bias)

    def _copy_values(self, name: str, space: str) -> None:
        """Give each of the student's units, or blocks of units, the teacher's value: a slope, say."""
        matrix, size = self.bases[space].matrix, self.short.blocks.get(space, 1)
        several = len(self.bases[space].sources) > 1
        names = self.places.all_of(name) if several else [self.places.last_of(name)]
        old = torch.cat([self.teacher.get_parameter(one).double() for one in names], -1)
        self.student.get_parameter(name).copy_(old @ matrix[::size, ::size])


def _logits(gates: torch.Tensor) -> torch.Tensor:
    return gates.logit(1e-12).float()


def pixel_weights(height: int, width: int, *, scale: int, like: torch.Tensor) -> torch.Tensor:
    """Return the weight of each pixel of a patch, (height·width,): borders as rare as in an image of IMAGE_SIDE."""

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
