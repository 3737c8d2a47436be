"""Search for the parts that stay in float: first none, then as many as the bound requires, the cheapest first.

Solving for the weights again costs no time at run time, so it comes before the choices that do: the sums, the last
layer, the first, those of the upsampler. If these are not enough, the layers follow whose rounding changes the image
most. Each try quantises the whole graph again, is measured on photos, and timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch

from compressor.base.context import QUIET, Context
from compressor.images.sample import sample_photo
from compressor.runtimes.onnx_runtime import cpu_session
from export.formats.conversion import CannotConvert
from export.int8.quantise.ends import Ends
from export.int8.quantise.plan import CPU, TENSORRT, Flavour, FloatGraph, QuantisationPlan, Scheme, make_plan
from export.int8.quantise.qdq import write_qdq
from export.int8.quantise.walk import GraphWalk
from export.proof.quality import QualityLoss, QualityPhotos
from export.timing.turns import time_calls

ROUNDS = 7
"""Number of runs of each graph, in turns, whose median is reported."""

TIE = 0.05
"""Times that differ by less than this share count as equal, and quality decides."""

SENSITIVE = (1, 2, 4, 8, 16)
"""Numbers of layers to keep in float one after the other, the most sensitive first."""


@dataclass(frozen=True)
class TriedScheme:
    """One scheme that was tried."""

    scheme: Scheme
    words: str
    """Names of the parts that stay in float."""
    model: onnx.ModelProto
    quality: QualityLoss
    ms: float
    float_ms: float

    @property
    def ms_of_float(self) -> float:
        """Return the time as a share of that of the float graph, with which it took turns."""
        return self.ms / self.float_ms


def search(
    ends: Ends,
    patches: torch.Tensor,
    photos: QualityPhotos,
    flavour: Flavour,
    max_drop: float | None,
    context: Context = QUIET,
    *,
    size: tuple[int, int] = (128, 128),
) -> TriedScheme:
    """Return the first try within the bound; of tries with equally many choices, the one that takes the least time."""
    return _SchemeSearch(ends, patches, photos, flavour, max_drop, context, size).run()


@dataclass(frozen=True)
class _SchemeSearch:
    ends: Ends
    patches: torch.Tensor
    photos: QualityPhotos
    flavour: Flavour
    max_drop: float | None
    context: Context
    size: tuple[int, int]

    def run(self) -> TriedScheme:
        best = self.attempt(Scheme(self.flavour), ())
        if best.quality.reason(self.max_drop) is not None:
            solved = self.attempt(replace(best.scheme, solved_weights=True), ())
            best = min(best, solved, key=lambda one: _distance(one.quality))
        choices = dict(self.choices())
        names: tuple[str, ...] = ()
        while choices and best.quality.reason(self.max_drop) is not None:
            attempts = {name: self.attempt(change(best.scheme), (*names, name)) for name, change in choices.items()}
            name, best_next = self.cheapest(attempts, best)
            if best_next is None:
                break
            best, names = best_next, (*names, name)
            choices.pop(name)
        if best.quality.reason(self.max_drop) is not None:
            best = self.most_sensitive(best, names)
        reason = best.quality.reason(self.max_drop)
        if reason is not None:
            raise CannotConvert(f"in eight bits it {reason}; tried with {best.words} in float, too")
        return best

    def cheapest(self, attempts: Mapping[str, TriedScheme], before: TriedScheme) -> tuple[str, TriedScheme | None]:
        """Return the fastest attempt within the bound, of equally fast ones the one with the best quality; if none is
        within the bound, the one that gains most, or None if none gains."""
        within = {name: one for name, one in attempts.items() if one.quality.reason(self.max_drop) is None}
        if within:
            least = min(one.ms_of_float for one in within.values())
            quick = [name for name, one in within.items() if one.ms_of_float <= least * (1 + TIE)]
            name = min(quick, key=lambda one: _distance(within[one].quality))
            return name, within[name]
        name = min(attempts, key=lambda one: _distance(attempts[one].quality))
        better = _distance(attempts[name].quality) < _distance(before.quality)
        return name, attempts[name] if better else None

    def choices(self) -> Sequence[tuple[str, Callable[[Scheme], Scheme]]]:
        layers = [layer.name for _, layer in sorted(self.ends.graph.layers.items())]
        plan = make_plan(self.ends.graph, Scheme(self.flavour), self.ends.images)
        choices: list[tuple[str, Callable[[Scheme], Scheme]]] = []
        if len(plan.integer) > len(plan.layers):
            choices.append(("sums", lambda scheme: scheme.keeping(sums=True)))
        choices.append(("last layer", lambda scheme: scheme.keeping(layers[-1])))
        choices.append(("first layer", lambda scheme: scheme.keeping(layers[0])))
        upsampler = [name for name in layers[:-1] if name in _before_shuffles(self.ends.graph)]
        if upsampler:
            choices.append(("upsampler", lambda scheme: scheme.keeping(*upsampler)))
        return choices

    def most_sensitive(self, best: TriedScheme, names: tuple[str, ...]) -> TriedScheme:
        """Keep more and more layers in float, those first whose rounding changes the image most."""
        ranking = self.ranking(best.scheme)
        for count in SENSITIVE:
            if count > len(ranking):
                break
            best = self.attempt(best.scheme.keeping(*ranking[:count]), (*names, f"{count} most sensitive layers"))
            if best.quality.reason(self.max_drop) is None:
                break
        return best

    def ranking(self, scheme: Scheme) -> list[str]:
        """Return the layers by sensitivity: first the one that, kept in float, leaves the least error in the image."""
        plan = make_plan(self.ends.graph, scheme, self.ends.images)
        errors = {}
        few = self.patches[:: max(1, len(self.patches) // 8)]
        for layer in plan.layers.values():
            alone = make_plan(self.ends.graph, scheme.keeping(layer.name), self.ends.images)
            walk = GraphWalk(alone, few.numpy(), correct=False)
            errors[layer.name] = walk.error()
        return sorted(errors, key=lambda name: errors[name])

    def attempt(self, scheme: Scheme, names: tuple[str, ...]) -> TriedScheme:
        plan = make_plan(self.ends.graph, scheme, self.ends.images)
        model = quantise(plan, self.patches, self.context)
        quality = measure_graph(model, self.photos, self.flavour)
        session, reference = _session(model, self.flavour), _session(self.ends.graph.model)
        width, height = self.size
        image = sample_photo(width, height, channels=self.patches.shape[1])
        ms, float_ms = _take_turns(lambda: _run(session, image), lambda: _run(reference, image))
        words = ", ".join(names) or "nothing"
        solved = ", weights solved again" if scheme.solved_weights else ""
        result = TriedScheme(scheme, words, model, quality, ms, float_ms)
        timing = f"{ms:.1f} ms for {width}x{height} (float {float_ms:.1f} ms)"
        self.context.note(f"{self.flavour.name}, in float {words}{solved}: {quality}, {timing}")
        return result


def quantise(plan: QuantisationPlan, patches: torch.Tensor, context: Context = QUIET) -> onnx.ModelProto:
    """Return the graph of a plan in QDQ form."""
    return write_qdq(plan, GraphWalk(plan, patches.numpy(), context).run())


def measure_graph(model: onnx.ModelProto, photos: QualityPhotos, flavour: Flavour) -> QualityLoss:
    """Return the quality of a graph's images of the photos, in ONNX Runtime."""
    session = _session(model, flavour)
    return photos.measure(lambda lr: _run(session, lr))


def _distance(quality: QualityLoss) -> float:
    """Return a file's distance from its source: the drop in dB plus a term for the difference of their images."""
    to_source = 100.0 if quality.psnr_to_source is None else quality.psnr_to_source
    return max(quality.drop, 0.0) + 10 ** (-to_source / 10) * 1e3


def _before_shuffles(graph: FloatGraph) -> set[str]:
    return {
        layer.name
        for index, layer in graph.layers.items()
        if (user := graph.sole_user(graph.nodes[index].output[0])) is not None
        and graph.nodes[user].op_type == "DepthToSpace"
    }


def _session(model: onnx.ModelProto, flavour: Flavour = CPU) -> Any:
    return cpu_session(model, threads=torch.get_num_threads(), float_on_grids=flavour == TENSORRT)


def _run(session: Any, lr: torch.Tensor) -> torch.Tensor:
    (output,) = session.run(None, {session.get_inputs()[0].name: lr.numpy()})
    return torch.from_numpy(np.asarray(output))


def _take_turns(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Return the median time of two calls in ms."""
    times: tuple[list[float], list[float]] = ([], [])
    first()
    second()
    for _ in range(ROUNDS):
        for call, record in zip((first, second), times, strict=True):
            record += time_calls(call, 1)
    return float(np.median(times[0])), float(np.median(times[1]))
