"""OpenVINO's .xml and .bin in int8, by NNCF, from the network with spread streams; images as in float.

Our own ONNX in eight bits, read by OpenVINO, is as accurate but a tenth slower: NNCF knows which operations this
runtime fuses. NNCF's defaults lose more quality. So here a value's range covers all patches, without 0.01 % at each
end, and weights of the first layer have eight bits, too, if the processor supports it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.base.child import run_in_child
from compressor.base.context import Progress
from compressor.base.errors import one_line
from compressor.base.machine import has_integer_products, installed_version
from compressor.runtimes.openvino_runtime import OpenVinoRuntime
from export.convert import to_onnx
from export.formats.conversion import Conversion
from export.int8.float_parts import FloatParts, LayerNames
from export.int8.search import Search, Tool
from export.int8.task import Int8Task

LAYERS = ("Convolution", "GroupConvolution", "MatMul")
SUMS = ("Add", "Subtract", "Multiply", "Concat")
OUTSIDE = 1e-4
"""Share of a value's numbers that may lie beyond each end of its range."""
WITHOUT_REPORTS = {"NNCF_CI": "1"}
"""Environment variable without which NNCF reports its use to the vendor."""


def convert(job: Conversion) -> Mapping[str, object]:
    import openvino

    task = Int8Task.of(job)
    with tempfile.TemporaryDirectory(prefix="srkd-") as temporary:
        search = Search(Nncf(task, Path(temporary)), task)
        result = search.run()
        quant = search.facts(result)
        model = openvino.Core().read_model(result.file)
        model.set_friendly_name(job.path.stem)
        model.set_rt_info(json.dumps(quant, sort_keys=True), ["srkd.quant"])
        openvino.save_model(model, job.path, compress_to_fp16=False)
    return {
        "openvino": openvino.__version__.split("-")[0],
        "nncf": installed_version("nncf"),
        "operations": len(model.get_ops()),
        "weights": job.path.with_suffix(".bin").name,
        **quant,
    }


class Nncf(Tool[Path]):
    """NNCF quantises in a child process, because it prints and changes the process that imports it; each file is
    measured in OpenVINO. Files lie in `folder`, which is empty at first."""

    name = "NNCF"
    flavour = "openvino"

    def __init__(self, task: Int8Task, folder: Path) -> None:
        import openvino

        job = task.job
        self._job, self._folder = job, folder
        self._onnx, self._patches = folder / f"{job.path.stem}.onnx", folder / "patches.npy"
        to_onnx.convert(replace(job, network=task.spread, path=self._onnx))
        np.save(self._patches, _as_images(task.calibration.patches, job.options.io))
        with one_line(f"OpenVINO cannot convert {job.network.spec.arch}"):
            graph = openvino.Core().read_model(self._onnx)
        self.layers, self._sums = _layers(graph), tuple(_sums(graph))
        self.weight_bits = 8 if has_integer_products() else 7

    def write(self, parts: FloatParts) -> Path:
        path = self._folder / f"{len(list(self._folder.iterdir()))}.xml"
        run_in_child(
            f"{__name__}:quantise_file",
            {
                "onnx": str(self._onnx),
                "patches": str(self._patches),
                "path": str(path),
                "in_float": [*sorted(parts.layers), *(self._sums if parts.sums else ())],
                "whole_ranges": parts.variant,
                "weight_bits": self.weight_bits,
                "metadata": dict(self._job.metadata),
            },
            what=f"{self.name} on {self._job.network.spec.arch}",
            environment=WITHOUT_REPORTS,
        )
        return path

    def open(self, file: Path) -> OpenVinoRuntime:
        return OpenVinoRuntime(file)


def _as_images(patches: torch.Tensor, io: str) -> NDArray[Any]:
    """Patches in the form of the file's images."""
    if io == "uint8":
        patches = patches.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return patches.contiguous().numpy()


def _layers(graph: Any) -> LayerNames:
    """The layers of an OpenVINO model."""
    nodes = [node for node in graph.get_ordered_ops() if _is_layer(node)]
    shuffled = {_source(node) for node in graph.get_ordered_ops() if node.get_type_name() == "DepthToSpace"}
    names = tuple(node.get_friendly_name() for node in nodes)
    return LayerNames(names, frozenset(shuffled & set(names)), has_sums=any(_sums(graph)))


def _is_layer(node: Any) -> bool:
    return node.get_type_name() in LAYERS and _is_stored(node.input_value(1).get_node())


def _is_stored(node: Any) -> bool:
    """Whether a value is a constant, possibly reshaped or converted."""
    if node.get_type_name() in ("Convert", "Reshape"):
        return _is_stored(node.input_value(0).get_node())
    return bool(node.get_type_name() == "Constant")


def _source(node: Any) -> str:
    """The name of the node whose result a node rearranges, before any bias and activation."""
    before = node.input_value(0).get_node()
    while before.get_type_name() in ("Add", "Relu", "PRelu") and all(
        _is_stored(value.get_node()) for value in before.input_values()[1:]
    ):
        before = before.input_value(0).get_node()
    name: str = before.get_friendly_name()
    return name


def _sums(graph: Any) -> Iterator[str]:
    """Yield the names of sums and products of two values, without those with a constant such as a bias."""
    for node in graph.get_ordered_ops():
        values = [value.get_node() for value in node.input_values()]
        if node.get_type_name() in SUMS and not any(map(_is_stored, values)):
            yield node.get_friendly_name()


def quantise_file(
    progress: Progress,
    *,
    onnx: str,
    patches: str,
    path: str,
    in_float: Sequence[str],
    whole_ranges: bool,
    weight_bits: int,
    metadata: Mapping[str, str],
) -> None:
    """Quantise a model by NNCF on patches, and write it; runs in a child process."""
    import nncf
    import openvino
    from nncf.quantization import advanced_parameters, range_estimator

    kinds, across = range_estimator.StatisticsType, range_estimator.AggregatorType
    ends = (
        range_estimator.StatisticsCollectorParameters(
            statistics_type=kind if whole_ranges else kinds.QUANTILE,
            aggregator_type=aggregator,
            quantile_outlier_prob=OUTSIDE,
        )
        for kind, aggregator in ((kinds.MIN, across.MIN), (kinds.MAX, across.MAX))
    )
    fix = advanced_parameters.OverflowFix
    images = np.load(patches)
    model = openvino.Core().read_model(onnx)
    attention = any(node.get_type_name() == "Softmax" for node in model.get_ops())
    with one_line(f"{Nncf.name} failed"):
        quantised = nncf.quantize(
            model,
            nncf.Dataset([image[None] for image in images]),
            subset_size=len(images),
            model_type=nncf.ModelType.TRANSFORMER if attention else None,
            ignored_scope=nncf.IgnoredScope(names=list(in_float)) if in_float else None,
            advanced_parameters=advanced_parameters.AdvancedQuantizationParameters(
                overflow_fix=fix.DISABLE if weight_bits == 8 else fix.ENABLE,
                activations_range_estimator_params=range_estimator.RangeEstimatorParameters(*ends),
            ),
        )
    for key, value in sorted(metadata.items()):
        quantised.set_rt_info(value, [key])
    openvino.save_model(quantised, path, compress_to_fp16=False)
