"""ONNX in int8: QuantizeLinear and DequantizeLinear around operations, which runtimes compute with integers.

    int8       for CPUs: values in bytes with a zero point, weights signed, one scale per channel
    int8-trt   for TensorRT: all signed, no zero points, biases in float
    qnn-w8a8   for Qualcomm's NPUs: as for CPUs, one size, nothing in float
    qnn-w8a16  the same with values of sixteen bits

A float network is calibrated; one that was trained quantised at 8 bits brings its ranges (`learnt_graph.py`).
Images stay float32, so that an app changes only the file's name; outputs are clipped to [0,1].
docs/design/quantisation.md describes the parts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from hashlib import sha256

import onnx

from compressor.base.machine import integer_products
from compressor.models.networks.base import tensor_bytes
from compressor.models.quantisation.description import KEY
from export.convert.to_onnx import write_graph
from export.formats.conversion import CannotConvert, Conversion, needs_fixed_size
from export.graph.onnx_graph import OPSET, build_graph, network_key
from export.int8.learnt_graph import build_learnt_graph
from export.int8.quantise.ends import meet_image
from export.int8.quantise.equalise import equalise_channels
from export.int8.quantise.grids import S7, U8
from export.int8.quantise.last_rows import widen_last_rows
from export.int8.quantise.plan import CPU, QNN, QNN16, TENSORRT, Flavour, FloatGraph
from export.int8.quantise.tool import OwnQuantiser, graph_quality
from export.int8.search import Search
from export.int8.task import Int8Task, describe_file
from export.proof.quality import QualityPhotos

LEARNT = "learnt in training"
FLAVOURS = {"int8-trt": TENSORRT, QNN.name: QNN, QNN16.name: QNN16}
"""The flavour of each format that is not for this processor."""


def convert(job: Conversion) -> Mapping[str, object]:
    flavour = FLAVOURS.get(job.format) or cpu_flavour(learnt=job.network.quantisation is not None)
    if flavour.everything and job.options.lr_size is None:
        raise CannotConvert("Qualcomm's NPUs run one size only: name it, as in --static 256x256")
    if flavour.everything and needs_fixed_size(job.network):
        raise CannotConvert(
            f"Qualcomm's NPUs run no windows of {job.network.spec.arch}: --student compact-s runs there"
        )
    if flavour.everything and job.network.quantisation is not None:
        raise CannotConvert("a network that was trained quantised leaves parts in float: export its float network")
    graph, quant = _learnt(job, flavour) if job.network.quantisation is not None else _calibrated(job, flavour)
    described = replace(job, metadata={**job.metadata, KEY: json.dumps(quant, sort_keys=True)})
    return {**write_graph(described, graph), **quant}


def cpu_flavour(*, learnt: bool) -> Flavour:
    """The flavour for this processor.

    Without VNNI, two products of a byte and a signed byte are added in 16 bits, where they overflow. Weights of seven
    bits are fast there. Learnt weights have eight, so they are bytes: products of two bytes are exact, and slower.
    """
    if integer_products():
        return CPU
    return replace(CPU, weights=U8 if learnt else S7)


def _learnt(job: Conversion, flavour: Flavour) -> tuple[onnx.ModelProto, dict[str, object]]:
    """The graph of a network that was trained quantised, with its learnt ranges, and the facts of the file."""
    quantisation, lr_size = job.network.quantisation, job.options.lr_size
    assert quantisation is not None
    graph = build_learnt_graph(job.network, lr_size, OPSET, flavour)
    photos = QualityPhotos.of(job.network, job.options.int8, lr_size, context=job.context)
    quality = graph_quality(graph, photos, flavour)
    more = {"in_float": "all but the blocks"} if quantisation.placement == "paper" else {}
    described = describe_file(flavour.name, (flavour.weights.bits, 8), LEARNT, quality, **more)
    return graph, {**asdict(quantisation), **described}


def _calibrated(job: Conversion, flavour: Flavour) -> tuple[onnx.ModelProto, dict[str, object]]:
    """The graph of a float network, quantised as far as the bound allows, and the facts of the file."""
    task = Int8Task.of(job)
    patches_key = sha256(tensor_bytes(task.calibration.patches)).digest()
    key = ("prepared", *network_key(job.network), patches_key, job.options.lr_size)
    graph = job.context.once(*key, read=lambda: _prepare(task))
    search = Search(OwnQuantiser(graph if flavour.elsewhere else widen_last_rows(graph), flavour, task), task)
    result = search.run()
    return result.file, search.facts(result)


def _prepare(task: Int8Task) -> FloatGraph:
    """The float graph as it is quantised for every flavour."""
    model = build_graph(task.spread, task.job.options.lr_size, OPSET)
    return equalise_channels(meet_image(model), task.calibration.patches)
