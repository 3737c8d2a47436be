"""Our own quantiser of ONNX graphs, as the search needs it: each file is measured and timed in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch

from compressor.base.context import QUIET, Context
from compressor.images.sample import sample_photo
from compressor.runtimes.onnx_runtime import cpu_session
from export.int8.float_parts import FloatParts, LayerNames
from export.int8.quantise.plan import CPU, Flavour, FloatGraph, QuantisationPlan, make_plan
from export.int8.quantise.qdq import QdqWriter
from export.int8.quantise.walk import GraphWalk
from export.int8.search import Times, Tool, Unwritten
from export.int8.task import Int8Task
from export.proof.quality import QualityDrop, QualityPhotos
from export.timing.turns import take_turns

TIMED = (128, 128)
"""LR size of the image on which tries are timed, if the file takes any size."""

SECONDS = 0.1
"""Time for the runs of each graph, in turns, whose median is reported; large ones have the fewest rounds."""


class OwnQuantiser(Tool[onnx.ModelProto]):
    """Quantises a graph whose ends and channels are prepared, with ranges from the task's patches."""

    is_quick = True
    variant = "solved weights"
    """On photos unlike the patches solving weights again may lose more than it gains."""

    def __init__(self, graph: FloatGraph, flavour: Flavour, task: Int8Task) -> None:
        self.name = self.flavour = flavour.name
        self.weight_bits, self.bits = flavour.weights.bits, flavour.values.bits
        self.mixes = not flavour.everything
        self.layers = _layers(graph, flavour)
        self._graph, self._rules, self._task = graph, flavour, task
        self._patches = task.calibration.patches

    def write(self, parts: FloatParts) -> onnx.ModelProto:
        return quantise(self._plan(parts), self._patches, self._task.job.context)

    def open(self, file: onnx.ModelProto) -> Unwritten:
        session = _session(file, self._rules)
        return Unwritten("onnxruntime", self._task.descriptor, lambda lr: _run(session, lr))

    def time(self, file: onnx.ModelProto) -> Times:
        session, reference = _session(file, self._rules), _session(self._graph.model)
        width, height = size = self._task.job.options.lr_size or TIMED
        image = sample_photo(width, height, channels=self._patches.shape[1])
        own, in_float = take_turns((lambda: _run(session, image), lambda: _run(reference, image)), seconds_each=SECONDS)
        return Times(own.percentile(50), in_float.percentile(50), size)

    def ranking(self, parts: FloatParts) -> Sequence[str]:
        """The first layer is the one that, kept in float, leaves the least error in the image."""
        few = self._patches[:: max(1, len(self._patches) // 8)]
        errors = {
            layer.name: GraphWalk(self._plan(parts.keeping("", layer.name)), few.numpy(), correct=False).error()
            for layer in self._plan(parts).layers.values()
        }
        return sorted(errors, key=lambda name: errors[name])

    def _plan(self, parts: FloatParts) -> QuantisationPlan:
        return make_plan(self._graph, self._rules, parts)


def quantise(plan: QuantisationPlan, patches: torch.Tensor, context: Context = QUIET) -> onnx.ModelProto:
    return QdqWriter(plan, GraphWalk(plan, patches.numpy(), context).run()).write()


def graph_quality(model: onnx.ModelProto, photos: QualityPhotos, flavour: Flavour) -> QualityDrop:
    """The quality of a graph's images of the photos, in ONNX Runtime."""
    session = _session(model, flavour)
    return photos.measure(lambda lr: _run(session, lr))


def _layers(graph: FloatGraph, flavour: Flavour) -> LayerNames:
    plan = make_plan(graph, flavour)
    before_shuffles = frozenset(
        layer.name
        for index, layer in graph.layers.items()
        if (user := graph.sole_user(graph.nodes[index].output[0])) is not None
        and graph.nodes[user].op_type == "DepthToSpace"
    )
    names = tuple(layer.name for _, layer in sorted(graph.layers.items()))
    return LayerNames(names, before_shuffles, has_sums=len(plan.integer) > len(plan.layers))


def _session(model: onnx.ModelProto, flavour: Flavour = CPU) -> Any:
    return cpu_session(model, threads=torch.get_num_threads(), float_on_grids=flavour.elsewhere)


def _run(session: Any, lr: torch.Tensor) -> torch.Tensor:
    (output,) = session.run(None, {session.get_inputs()[0].name: lr.numpy()})
    return torch.from_numpy(np.asarray(output))
