"""ExecuTorch in int8, by torchao's quantisation of exported programs, as XNNPACK computes with integers.

Weights are signed bytes with a scale per output channel, values signed bytes with a zero point, biases and images
float32. A pixel shuffle only moves values: it stays in float between two layers in bytes, without loss. The same parts
stay in float as in our own quantiser (`quantise/plan.py`): gates of a pooled image, operations on the image before the
first layer, and sums that lead to no layer, whose result is the image itself. Choices are tried in torch, which gives
the same results as the program, because lowering to XNNPACK takes a minute; the final program is measured itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from compressor.base.machine import installed_version
from compressor.models.quantisation.description import KEY
from export.convert.to_executorch import lower, max_side, retrace, trace, write
from export.formats.conversion import CannotConvert, Conversion, refusals_of, require_size
from export.int8.float_parts import FloatParts, LayerNames
from export.int8.search import Search, Tool, Unwritten
from export.int8.task import Int8Task

ATEN = torch.ops.aten
LAYERS = (ATEN.conv2d.default, ATEN.linear.default)
SUMS = (ATEN.add.Tensor, ATEN.mul.Tensor, ATEN.cat.default)
POOLS = (ATEN.adaptive_avg_pool2d.default, ATEN.mean.dim)
ACTIVATIONS = (ATEN.relu.default, ATEN.prelu.default, ATEN.leaky_relu.default)

SMALLEST_SCALE = 2.0**-24
"""Smallest scale. With torchao's own, 2⁻¹², all channels with weights below 0.03 would share it and lose bits."""

INTEGER = ("convolution", "linear", "add", "mul", "cat", "relu")
"""Operations that XNNPACK computes with integers if their values are bytes."""
FUSED_BEFORE_RELU = ("convolution", "linear", "add", "mul")
COUNTED = (*INTEGER, "sub", "prelu", "leaky_relu", "gelu", "softmax", "bmm", "native_layer_norm", "view_copy")


def convert(job: Conversion) -> Mapping[str, object]:
    """Quantise as far as the bound allows, lower and write the program; return its facts."""
    require_size(job, "ExecuTorch")
    network, size = job.network, job.options.lr_size
    if network.quantisation is not None:
        raise CannotConvert(
            f"the network was trained quantised ({network.quantisation.line()}), and only --int8 writes the ranges "
            "that it learnt: export the float network that it was made from"
        )
    side = None if size is not None else max_side(network)
    task = Int8Task.of(job, max_size=None if side is None else (side, side))
    search = Search(Torchao(task, side), task)
    result = search.run()
    with refusals_of(Torchao.name, network):
        lowered = lower(retrace(result.file, network, size, side))
        int8, other = _count(lowered.exported_program().graph_module)
        facts = write(job, lowered, side)
    job.context.note(f"{Torchao.name}: in int8 {_words(int8)}; in float {_words(other)}")
    quant = search.facts(result)
    return {
        **facts,
        "torchao": installed_version("torchao"),
        "int8_operations": dict(int8),
        "float_operations": dict(other),
        **quant,
        KEY: json.dumps(quant, sort_keys=True),
    }


class Torchao(Tool[nn.Module]):
    """torchao quantises the exported program; a file is the program before lowering, computed one image at a time."""

    name = "ExecuTorch"
    flavour = "xnnpack"

    def __init__(self, task: Int8Task, side: int | None) -> None:
        self._task, network = task, task.job.network
        with refusals_of(Torchao.name, network):
            self._program = trace(task.spread, task.job.options.lr_size, side)
            self.layers = _layers(self._program.module().graph)

    def write(self, parts: FloatParts) -> nn.Module:
        with refusals_of(self.name, self._task.job.network):
            return _quantise(self._program.module(), self._task.calibration.patches, parts)

    def open(self, file: nn.Module) -> Unwritten:
        def run(lr: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return torch.cat([file(image[None].contiguous()) for image in lr])

        return Unwritten("executorch", self._task.descriptor, run)


def _quantise(module: nn.Module, patches: torch.Tensor, parts: FloatParts) -> nn.Module:
    """The program with quantisation and dequantisation around the operations computed with integers."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer
    from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationConfig, QuantizationSpec

    ranges = MinMaxObserver if parts.variant else HistogramObserver
    values = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
        is_dynamic=False,
        observer_or_fake_quant_ctr=ranges.with_args(eps=SMALLEST_SCALE),
    )
    weights = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        is_dynamic=False,
        observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=SMALLEST_SCALE),
    )
    in_float = {node.name for node in _in_float(module.graph, parts)}
    quantiser = XNNPACKQuantizer().set_global(QuantizationConfig(values, values, weights, None))
    quantiser.set_filter_function(lambda node: node.name not in in_float)
    _separate_layers(module)
    with torch.no_grad():
        prepared = prepare_pt2e(module, quantiser)
        for patch in patches:
            prepared(patch[None])
        quantised: nn.Module = convert_pt2e(prepared)
    return quantised


def _separate_layers(module: nn.Module) -> None:
    """Give each layer its own weights and biases if several layers share them, as in CARN-M.

    torchao quantises a shared weight for the first layer only, and XNNPACK uses a shared bias, whose integers are on
    the grid of one layer's input, for all of them."""
    graph: Any = module.graph
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        for index, user in enumerate([user for user in node.users if user.target in LAYERS][1:]):
            name = f"{node.target.replace('.', '_')}_again{index}"
            value = attrgetter(node.target)(module)
            assert isinstance(value, torch.Tensor)
            module.register_parameter(name, nn.Parameter(value.detach().clone(), requires_grad=False))
            with graph.inserting_before(user):
                copy = graph.get_attr(name)
            copy.meta = dict(node.meta)
            user.replace_input_with(node, copy)


def _in_float(graph: Any, parts: FloatParts) -> Iterator[Any]:
    """Yield the nodes of a program that stay in float, some of them twice."""
    stored: set[Any] = set()
    pooled: set[Any] = set()
    images: set[Any] = set()
    leads_on: set[Any] = set()
    for node in graph.nodes:
        inputs = [value for value in node.all_input_nodes if value not in stored]
        if node.op == "placeholder":
            images.add(node)
        elif not inputs:
            stored.add(node)
        elif node.target in POOLS or pooled.issuperset(inputs):
            pooled.add(node)
            yield node
        elif node.target not in LAYERS and images.issuperset(inputs):
            images.add(node)
            yield node
        elif node.target == ATEN.tanh.default:  # of bytes the lowered program computes another tanh than torch
            yield from inputs
    for node in reversed(graph.nodes):
        goes_on = node in leads_on
        if goes_on or node.target in LAYERS:
            leads_on.update(node.all_input_nodes)
        if node.target in SUMS and (parts.sums or not goes_on):
            yield node
        if node.target in LAYERS and (not _is_stored(node) or _name(node) in parts.layers):
            yield node


def _layers(graph: Any) -> LayerNames:
    """The layers of a program, named after the network's modules."""
    nodes = [node for node in graph.nodes if node.target in LAYERS and _is_stored(node)]
    shuffled = {_name(_source(node)) for node in graph.nodes if node.target == ATEN.pixel_shuffle.default}
    names = tuple(dict.fromkeys(map(_name, nodes)))
    return LayerNames(names, frozenset(shuffled & set(names)))


def _is_stored(node: Any) -> bool:
    """Whether a layer's weight is a parameter; that of a mean shift is not in some files."""
    weight = node.args[1]
    return weight.op == "get_attr" and isinstance(attrgetter(weight.target)(node.graph.owning_module), nn.Parameter)


def _name(node: Any) -> str:
    """The name of a layer's module; for other nodes the node's name."""
    if node.target not in LAYERS:
        return str(node.name)
    return str(node.args[1].target).removesuffix(".weight")


def _source(node: Any) -> Any:
    """The node whose result is rearranged, before any activation."""
    before = node.args[0]
    while before.target in ACTIVATIONS:
        before = before.args[0]
    return before


def _count(module: Any) -> tuple[Counter[str], Counter[str]]:
    """How many operations of each kind a lowered program computes in integers, and in float."""
    int8: Counter[str] = Counter()
    other: Counter[str] = Counter()
    lowered = [child.original_module.graph_module for child in module.children() if hasattr(child, "backend_id")]
    for node in (node for graph_module in (module, *lowered) for node in graph_module.graph.nodes):
        kind = _kind(node)
        if kind in COUNTED:
            (int8 if _in_integers(node) else other)[kind] += 1
    return int8, other


def _kind(node: Any) -> str:
    """Return `add` for aten.add.Tensor."""
    name = getattr(node.target, "name", None) if node.op == "call_function" else None
    return str(name()).split("::")[-1].split(".")[0] if callable(name) else ""


def _in_integers(node: Any) -> bool:
    """Whether XNNPACK reads and writes bytes here: all inputs are dequantised and the result is quantised."""
    if _kind(node) not in INTEGER:
        return False
    if _kind(node) == "relu" and _kind(node.args[0]) in FUSED_BEFORE_RELU:
        return _in_integers(node.args[0])
    reads = [value for value in node.all_input_nodes if value.op == "call_function"]
    users = list(node.users)
    if len(users) == 1 and _kind(users[0]) == "relu":
        users = list(users[0].users)
    quantised = all(_kind(user).startswith("quantize") for user in users)
    return bool(reads and users) and quantised and all(_kind(value).startswith("dequantize") for value in reads)


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "nothing"
