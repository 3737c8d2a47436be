"""LiteRT's .tflite in int8, by Google's ai-edge-quantizer, from the network with spread streams.

Weights are signed with a scale per output channel, values signed with a zero point, as XNNPACK computes. The child
process in which the quantiser runs is in `litert_quantiser.py`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from compressor.base.child import run_in_child
from compressor.base.machine import installed_version
from compressor.models.networks.registry import without_quantisers
from compressor.models.quantisation.description import KEY
from compressor.runtimes.litert_runtime import LiteRtRuntime
from export.convert import to_litert
from export.convert.litert_file import is_constant, kind_of, makers_of, name_of, pack_model, read_model, set_metadata
from export.formats.conversion import Conversion, require_size
from export.int8.float_parts import FloatParts, LayerNames
from export.int8.learnt_graph import require_eight_bits
from export.int8.search import Search, Tool
from export.int8.task import Int8Task

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
SUMS = ("ADD", "SUB", "MUL", "CONCATENATION")
ACTIVATIONS = ("RELU", "PRELU")
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


def convert(job: Conversion) -> Mapping[str, object]:
    """A network that was trained quantised is calibrated again."""
    require_size(job, "LiteRT")
    if job.network.quantisation is not None:
        require_eight_bits(job.network)
    task = Int8Task.of(job, without_quantisers(job.network))
    with tempfile.TemporaryDirectory(prefix="srkd-") as temporary:
        tool = EdgeQuantizer(task, Path(temporary))
        search = Search(tool, task)
        result = search.run()
        trained = {} if job.network.quantisation is None else asdict(job.network.quantisation)
        quant = {**trained, **search.facts(result)}
        final = read_model(result.file.read_bytes())
        set_metadata(final, {KEY: json.dumps(quant, sort_keys=True)})
        job.path.write_bytes(pack_model(final))
    return {
        "litert_torch": tool.float_facts["litert_torch"],
        "ai_edge_quantizer": installed_version("ai-edge-quantizer"),
        **_count(final),
        "layout": tool.float_facts["layout"],
        "sizes": tool.float_facts["sizes"],
        **quant,
    }


class EdgeQuantizer(Tool[Path]):
    """ai-edge-quantizer quantises in a child process, because it prints and may crash; each file is measured in LiteRT.
    Files lie in `folder`, which is empty at first."""

    name = "ai-edge-quantizer"
    flavour = "litert"

    def __init__(self, task: Int8Task, folder: Path) -> None:
        job = task.job
        self._job, self._folder = job, folder
        self._plain, self._patches = folder / "float.tflite", folder / "patches.npy"
        options = replace(job.options, io="float")
        self.float_facts = to_litert.convert(replace(job, network=task.spread, path=self._plain, options=options))
        model = read_model(self._plain.read_bytes())
        _name_values(model)
        self._plain.write_bytes(pack_model(model))
        patches = task.calibration.patches.permute(0, 2, 3, 1)
        np.save(self._patches, patches.contiguous().numpy())
        self.layers, self._sums = _layers(model), tuple(_sums(model))

    def write(self, parts: FloatParts) -> Path:
        path = self._folder / f"{len(list(self._folder.iterdir()))}.tflite"
        run_in_child(
            "export.int8.litert_quantiser:quantise_file",
            {
                "model": str(self._plain),
                "patches": str(self._patches),
                "path": str(path),
                "in_float": [*sorted(parts.layers), *(self._sums if parts.sums else ())],
                "whole_ranges": parts.variant,
                "io": self._job.options.io,
                "metadata": dict(self._job.metadata),
                "free": self._job.options.lr_size is None,
            },
            what=f"{self.name} on {self._job.network.spec.arch}",
        )
        return path

    def open(self, file: Path) -> LiteRtRuntime:
        return LiteRtRuntime(file)


def _name_values(model: Any) -> None:
    """Name each value after its operation and index: the quantiser identifies operations by these names."""
    (graph,) = model.subgraphs
    ends = {*graph.inputs, *graph.outputs}
    for place, operator in enumerate(graph.operators):
        for index, output in enumerate(operator.outputs):
            if output not in ends:
                part = f"_{index}" if index else ""
                graph.tensors[output].name = f"{kind_of(model, operator).lower()}_{place}{part}"


def _layers(model: Any) -> LayerNames:
    """The layers with weights; the last layer's name is that of the output image."""
    (graph,) = model.subgraphs
    makers = makers_of(graph)
    names = tuple(name_of(graph, operator) for operator in graph.operators if kind_of(model, operator) in LAYERS)
    shuffled = set()
    for operator in graph.operators:
        if kind_of(model, operator) == "DEPTH_TO_SPACE":
            before = makers.get(int(operator.inputs[0]))
            while before is not None and kind_of(model, before) in ACTIVATIONS:
                before = makers.get(int(before.inputs[0]))
            shuffled |= set() if before is None else {name_of(graph, before)}
    return LayerNames(names, frozenset(shuffled & set(names)), has_sums=any(_sums(model)))


def _sums(model: Any) -> Iterator[str]:
    """Yield the names of sums and products of two values, without those with a constant."""
    (graph,) = model.subgraphs
    for operator in graph.operators:
        values = [graph.tensors[index] for index in operator.inputs]
        if kind_of(model, operator) in SUMS and not any(is_constant(model, value) for value in values):
            yield name_of(graph, operator)


def _count(model: Any) -> dict[str, int]:
    """The numbers of operations, of those that read and write bytes only, and of conversions."""
    from ai_edge_litert import schema_py_generated as schema

    (graph,) = model.subgraphs
    in_bytes = {schema.TensorType.INT8, schema.TensorType.INT32}
    kinds = [kind_of(model, operator) for operator in graph.operators]
    computed = [operator for operator, kind in zip(graph.operators, kinds, strict=True) if kind not in CONVERSIONS]
    types = [
        {graph.tensors[index].type for index in (*operator.inputs, *operator.outputs) if index >= 0}
        for operator in computed
    ]
    return {
        "operations": len(computed),
        "in_int8": sum(schema.TensorType.INT8 in kinds and kinds <= in_bytes for kinds in types),
        "conversions": len(kinds) - len(computed),
    }
