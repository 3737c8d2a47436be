"""Networks in ncnn's layers: each layer must be one of the network that the graph as a whole resembles.

The file's layers and those of the network become expressions: an operation, its constants, and the expressions that it
takes. Equal ones have one number, however a converter ordered and fused them, and with it the tensors get the names of
the code base: BasicSR's for Compact and RRDBNet, the official collapsed ones for SPAN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

import torch

from compressor.base.errors import SrkdError
from compressor.models.checkpoints.ncnn_graph import NcnnLayer, memory_shape, read_layers, read_weights

READ = (
    "ncnn files of Compact, RRDBNet and SPAN are read; another network can be a teacher as ONNX or TorchScript, and a "
    "file of `srkd export` runs with its NAME.param.json beside it"
)
NEAREST, BICUBIC = 1, 3
LEAKY_SLOPES = {0.0: "relu", 0.1: "leakyrelu"}
BINARY, MULTIPLY = {0: "add", 1: "sub", 2: "mul"}, 2
RELU, LEAKY_RELU = 1, 2
ONCE = ("Input", "MemoryData", "Convolution", "PReLU")
"""Layers of which no two are the same: what they hold is not in their parameters."""

Constants = tuple[float, ...]


@dataclass
class Expressions:
    """Numbered expressions; sums and products do not depend on the order."""

    numbers: dict[tuple[str, Constants, tuple[int, ...]], int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    """The names of layers with weights, given by the network's own graph."""

    def __call__(self, kind: str, *inputs: int, constants: Constants = (), name: str = "") -> int:
        taken = tuple(sorted(inputs)) if kind in ("add", "mul") else inputs
        key = (kind, tuple(round(value, 6) for value in constants), taken)
        number = self.numbers.setdefault(key, len(self.numbers))
        if name:
            self.names[number] = name
        return number

    def conv(self, name: str, x: int, size: int = 3) -> int:
        return self("conv", x, constants=(size, size, 1, 1, 1, 1, *[size // 2] * 4, 0, 0), name=name)

    def enlarged(self, x: int, scale: int) -> int:
        return self("interp", x, constants=(NEAREST, scale, scale, 0, 0, 0, 0))

    def leaky(self, x: int, slope: float) -> int:
        return self("relu", x, constants=(slope,))


def read_network(param: bytes, handle: IO[bytes], size_bytes: int) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Return the tensors of a file by the code base's names, and fields of the spec that they do not tell."""
    layers = read_layers(param)
    names, fields = _recognise(layers)
    weights = read_weights(layers, handle, size_bytes)
    tensors = {
        f"{name}.{kind}": tensor for index, name in sorted(names.items()) for kind, tensor in weights[index].items()
    }
    convs = [weights[index]["weight"].shape for index in sorted(names) if layers[index].kind == "Convolution"]
    if convs[0][1] * _factor(layers, "PixelShuffle") ** 2 != convs[-1][0] * _factor(layers, "Reorg") ** 2:
        raise SrkdError(
            f"its first convolution takes {convs[0][1]} channels and its last gives {convs[-1][0]}: input and output "
            "are not images of one number of channels"
        )
    for layer, values in zip(layers, weights, strict=True):
        if layer.kind == "MemoryData":
            if memory_shape(layer) != (3, 1, 1):
                raise SrkdError(f"layer {layer.name[:60]!r} holds {memory_shape(layer)} values: a mean has (3, 1, 1)")
            fields["mean"] = mean = tuple(round(value, 7) for value in values["weight"].flatten().tolist())
            if not all(map(math.isfinite, mean)):
                raise SrkdError(f"layer {layer.name[:60]!r} holds NaN or infinity, not a mean")
    return tensors, fields


def _recognise(layers: Sequence[NcnnLayer]) -> tuple[dict[int, str], dict[str, object]]:
    """Return the names of the layers with weights, by their number in the file, and fields of the spec.

    The first layer that does not belong to the network is refused by its name.
    """
    expressions = Expressions()
    numbers = _number(layers, expressions)
    kinds = {layer.kind for layer in layers}
    draw = _span if "Swish" in kinds else _rrdbnet if "Concat" in kinds else _compact
    label = {_span: "SPAN", _rrdbnet: "RRDBNet", _compact: "Compact"}[draw]
    last, scale, fields = draw(layers, expressions)
    resize = layers[-1]
    share = resize.number(1) if resize.kind == "Interp" and resize.integer(0) == BICUBIC else 1
    if 0 < share < 1 and float(scale * share).is_integer():
        last = expressions("interp", last, constants=(BICUBIC, share, share, 0, 0, 0, 0))
        fields["image_scale"] = round(scale * share)
    expected = _with_inputs(last, expressions)
    first: dict[int, int] = {}
    for index, layer in enumerate(layers):
        is_second = layer.kind in ONCE and first.setdefault(numbers[index][0], index) != index
        if is_second or not expected.issuperset(numbers[index]):
            raise SrkdError(f"layer {layer.name[:60]!r} ({layer.kind[:40]!r}) is not one of {label}: {READ}")
    if numbers[-1][-1] != last:
        raise SrkdError(f"it ends too early for {label}, with layer {layers[-1].name[:60]!r}: {READ}")
    names = expressions.names
    named = {index: names[number] for number, index in first.items() if number in names}
    return named, {"scale": scale, **fields}


def _of(layers: Sequence[NcnnLayer], kind: str) -> list[NcnnLayer]:
    return [layer for layer in layers if layer.kind == kind]


def _factor(layers: Sequence[NcnnLayer], kind: str) -> int:
    """Return the factor of the first pixel shuffle, or of its inverse; 1: there is none."""
    return max(1, next((layer.integer(0, 1) for layer in _of(layers, kind)), 1))


def _slope(layers: Sequence[NcnnLayer]) -> float | None:
    """Return the slope of the first activation; None: PReLU."""
    for layer in layers:
        if layer.kind == "ReLU":
            return layer.number(0)
        if layer.kind == "Convolution" and layer.integer(9) in (RELU, LEAKY_RELU):
            return (*layer.numbers(10), 0.0)[0]
    return None


def _with_inputs(last: int, expressions: Expressions) -> set[int]:
    """Return the numbers of an expression and of all that it is computed from."""
    taken = {number: inputs for (_, _, inputs), number in expressions.numbers.items()}
    found, open_ = set[int](), [last]
    while open_:
        number = open_.pop()
        if number not in found:
            found.add(number)
            open_ += taken[number]
    return found


def _compact(layers: Sequence[NcnnLayer], of: Expressions) -> tuple[int, int, dict[str, object]]:
    x = of("input")
    image, slope, scale = x, _slope(layers), _factor(layers, "PixelShuffle")
    last = 2 * (len(_of(layers, "Convolution")) - 1)
    for index in range(0, last, 2):
        x = of.conv(f"body.{index}", x)
        x = of("prelu", x, name=f"body.{index + 1}") if slope is None else of.leaky(x, slope)
    x = of.conv(f"body.{last}", x)
    if _of(layers, "PixelShuffle"):
        x = of("shuffle", x, constants=(scale, 0))
    adds = bool(_of(layers, "Eltwise") or _of(layers, "BinaryOp"))
    if adds:
        x = of("add", x, image if scale == 1 else of.enlarged(image, scale))
    act = "prelu" if slope is None else LEAKY_SLOPES.get(round(slope, 6))
    if act is None:
        raise SrkdError(f"its LeakyReLU has slope {slope:g}: Compact has 0.1")
    return x, scale, {"act": act, "residual": adds}


def _rrdbnet(layers: Sequence[NcnnLayer], of: Expressions) -> tuple[int, int, dict[str, object]]:
    def dense(x: int, name: str) -> int:
        features = [x]
        for index in range(1, 5):
            joined = features[0] if index == 1 else of("concat", *features, constants=(0,))
            features.append(of.leaky(of.conv(f"{name}.conv{index}", joined), 0.2))
        return part(of.conv(f"{name}.conv5", of("concat", *features, constants=(0,))), x)

    def part(branch: int, skip: int) -> int:
        return of("add", of("mul", branch, constants=(0.2,)), skip)

    x, unshuffle = of("input"), _factor(layers, "Reorg")
    ups = sum(layer.integer(0) == NEAREST for layer in _of(layers, "Interp"))
    if unshuffle > 1:
        x = of("unshuffle", x, constants=(unshuffle, 0))
    x = first = of.conv("conv_first", x)
    for block in range((len(_of(layers, "Convolution")) - 4 - ups) // 15):
        before = x
        for index in (1, 2, 3):
            x = dense(x, f"body.{block}.rdb{index}")
        x = part(x, before)
    x = of("add", of.conv("conv_body", x), first)
    for index in range(ups):
        x = of.leaky(of.conv(f"conv_up{index + 1}", of.enlarged(x, 2)), 0.2)
    x = of.leaky(of.conv("conv_hr", x), 0.2)
    return of.conv("conv_last", x), 2**ups // unshuffle, {}


def _span(layers: Sequence[NcnnLayer], of: Expressions) -> tuple[int, int, dict[str, object]]:
    x, convs, scale = of("input"), _of(layers, "Convolution"), _factor(layers, "PixelShuffle")
    if _of(layers, "MemoryData"):
        x = of("sub", x, of("memory"))
    before = _of(layers[: layers.index(convs[0])] if convs else (), "BinaryOp")
    img_range = next((layer.number(2) for layer in before if layer.integer(0) == MULTIPLY), 1.0)
    if img_range != 1:
        x = of("mul", x, constants=(img_range,))
    outputs = [of.conv("conv_1.eval_conv", x)]
    activated = outputs[0]
    for block in range(1, (len(convs) - 4) // 3 + 1):
        activated = of("swish", of.conv(f"block_{block}.c1_r.eval_conv", outputs[-1]))
        second = of("swish", of.conv(f"block_{block}.c2_r.eval_conv", activated))
        third = of.conv(f"block_{block}.c3_r.eval_conv", second)
        gate = of("sub", of("sigmoid", third), constants=(0.5,))
        outputs.append(of("mul", of("add", third, outputs[-1]), gate))
    end = of.conv("conv_2.eval_conv", outputs[-1])
    x = of("concat", outputs[0], end, outputs[min(1, len(outputs) - 1)], activated, constants=(0,))
    x = of.conv("upsampler.0", of.conv("conv_cat", x, 1))
    if _of(layers, "PixelShuffle"):
        x = of("shuffle", x, constants=(scale, 0))
    return x, scale, {"img_range": img_range, "mean": (0.0, 0.0, 0.0)}


def _number(layers: Sequence[NcnnLayer], of: Expressions) -> list[tuple[int, ...]]:
    """Return the numbers of each layer's expressions; a fused activation is a second one."""
    blobs: dict[str, int] = {}
    numbers: list[tuple[int, ...]] = []
    for layer in layers:
        missing = next((blob for blob in layer.inputs if blob not in blobs), None)
        if missing is not None:
            raise SrkdError(f"layer {layer.name[:60]!r} takes {missing[:60]!r}, which no layer before it writes")
        inputs = [blobs[blob] for blob in layer.inputs]
        keys, make = _LAYERS.get(layer.kind, (layer.params, _unknown))
        foreign = next((key for key in layer.params if key not in keys), None)
        if foreign is not None:
            raise SrkdError(f"layer {layer.name[:60]!r}: parameter {foreign} of {layer.kind} is not read: {READ}")
        makes_one = layer.kind == "Split" or len(layer.outputs) == 1
        numbers.append((make if makes_one else _unknown)(layer, inputs, of))
        blobs |= dict.fromkeys(layer.outputs, numbers[-1][-1])
    return numbers


def _unknown(layer: NcnnLayer, inputs: list[int], of: Expressions) -> tuple[int, ...]:
    return (of(f"unknown {layer.kind}", *inputs),)


def _split(layer: NcnnLayer, inputs: list[int], of: Expressions) -> tuple[int, ...]:
    return (inputs[0],) if len(inputs) == 1 and layer.outputs else _unknown(layer, inputs, of)


def _convolution(layer: NcnnLayer, inputs: list[int], of: Expressions) -> tuple[int, ...]:
    if layer.integer(8):
        raise SrkdError(f"layer {layer.name[:60]!r} computes in int8: only fp32 and fp16 are read")
    width, left, dilation, stride = layer.integer(1), layer.integer(4), layer.integer(2, 1), layer.integer(3, 1)
    top = layer.integer(14, left)
    sizes = (width, layer.integer(11, width), dilation, layer.integer(12, dilation), stride, layer.integer(13, stride))
    pads = (left, top, layer.integer(15, left), layer.integer(16, top))
    conv = of("conv", *inputs, constants=(*sizes, *pads, layer.number(18), layer.integer(19)))
    activation, slopes = layer.integer(9), layer.numbers(10)
    if not activation and not slopes:
        return (conv,)
    if (activation, len(slopes)) in ((RELU, 0), (LEAKY_RELU, 1)):
        return conv, of.leaky(conv, *(slopes or (0.0,)))
    return conv, *_unknown(layer, [conv], of)


def _binary(layer: NcnnLayer, inputs: list[int], of: Expressions) -> tuple[int, ...]:
    kind = BINARY.get(layer.integer(0), "unknown")
    return (of(kind, *inputs, constants=(layer.number(2),) if layer.integer(1) else ()),)


def _eltwise(layer: NcnnLayer, inputs: list[int], of: Expressions) -> tuple[int, ...]:
    """A sum with factors is one of products; a factor 1 is none."""
    factors = layer.numbers(1) or (1.0,) * len(inputs)
    if layer.integer(0) != 1 or len(factors) != len(inputs):
        return _unknown(layer, inputs, of)
    terms = [x if factor == 1 else of("mul", x, constants=(factor,)) for x, factor in zip(inputs, factors, strict=True)]
    return (of("add", *terms),)


def _interp(layer: NcnnLayer, inputs: list[int], of: Expressions) -> tuple[int, ...]:
    fixed = (layer.integer(key) for key in (3, 4, 5, 6))
    return (of("interp", *inputs, constants=(layer.integer(0), layer.number(1, 1.0), layer.number(2, 1.0), *fixed)),)


Maker = Callable[[NcnnLayer, list[int], Expressions], tuple[int, ...]]


def _plain(kind: str, *defaults: tuple[int, int]) -> Maker:
    """Return the maker of an operation with whole numbers: the keys and what they are if left out."""
    return lambda layer, inputs, of: (
        of(kind, *inputs, constants=tuple(layer.integer(key, default) for key, default in defaults)),
    )


_LAYERS: Mapping[str, tuple[Collection[int], Maker]] = {
    "Input": ((0, 1, 2, 11), _plain("input")),  # a size hint
    "MemoryData": ((0, 1, 2), _plain("memory")),
    "Convolution": ((0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19), _convolution),
    "PReLU": ((0,), _plain("prelu")),
    "ReLU": ((0,), lambda layer, inputs, of: (of("relu", *inputs, constants=(layer.number(0),)),)),
    "Swish": ((), _plain("swish")),
    "Sigmoid": ((), _plain("sigmoid")),
    "BinaryOp": ((0, 1, 2), _binary),
    "Eltwise": ((0, 1), _eltwise),
    "Concat": ((0,), _plain("concat", (0, 0))),
    "PixelShuffle": ((0, 1), _plain("shuffle", (0, 1), (1, 0))),
    "Reorg": ((0, 1), _plain("unshuffle", (0, 1), (1, 0))),
    "Interp": ((0, 1, 2, 3, 4, 5, 6), _interp),
    "Split": ((), _split),
}
"""The parameters that are read of each layer, and what makes its expressions."""
