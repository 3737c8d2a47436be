"""Networks in ncnn's layers: each layer must be one of the network that the graph as a whole resembles.

The file's layers and those of the network become expressions: an operation, its constants, and the expressions that it
takes. Equal ones have one number, however a converter ordered and fused them, and with it the tensors get the names of
the code base: BasicSR's for Compact and RRDBNet, the official collapsed ones for SPAN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
BINARY = {0: "add", 1: "sub", 2: "mul", 3: "div"}
FUSED = {1: "relu", 3: "clip", 4: "sigmoid", 5: "mish", 6: "hardswish"}

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
        return self("conv", x, constants=(size, size, 1, 1, *[size // 2] * 4), name=name)

    def leaky(self, x: int, slope: float) -> int:
        return self("relu", x, constants=(slope,))


@dataclass(frozen=True)
class _Facts:
    """What is counted in a file to draw the graph that it should have."""

    convs: int
    slope: float | None
    """Slope of the first activation; None: PReLU."""
    nearest: int
    shuffle: int
    """Factor of the pixel shuffle; 0: none."""
    unshuffle: int
    adds: bool
    mean: bool
    img_range: float


def read_network(
    param: bytes, handle: IO[bytes], size_bytes: int
) -> tuple[dict[str, torch.Tensor], dict[str, object], tuple[str, ...]]:
    """Return the tensors of a file by the code base's names, fields of the spec that they do not tell, and notes."""
    layers = read_layers(param)
    facts = _facts(layers)
    names, fields, notes = _recognise(layers, facts)
    weights = read_weights(layers, handle, size_bytes)
    tensors = {
        f"{name}.{kind}": tensor for index, name in sorted(names.items()) for kind, tensor in weights[index].items()
    }
    convs = [weights[index]["weight"].shape for index in sorted(names) if layers[index].kind == "Convolution"]
    if convs[0][1] * max(facts.shuffle, 1) ** 2 != convs[-1][0] * facts.unshuffle**2:
        raise SrkdError(
            f"its first convolution takes {convs[0][1]} channels and its last gives {convs[-1][0]}: input and output "
            "are not images of one number of channels"
        )
    for layer, values in zip(layers, weights, strict=True):
        if layer.kind == "MemoryData":
            if memory_shape(layer) != (3, 1, 1):
                raise SrkdError(f"layer {layer.name[:60]!r} holds {memory_shape(layer)} values: a mean has (3, 1, 1)")
            fields["mean"] = tuple(round(value, 7) for value in values["weight"].flatten().tolist())
    return tensors, fields, notes


def _recognise(layers: Sequence[NcnnLayer], facts: _Facts) -> tuple[dict[int, str], dict[str, object], tuple[str, ...]]:
    """Return the names of the layers with weights, by their number in the file, fields of the spec, and notes.

    The first layer that does not belong to the network is refused by its name.
    """
    expressions = Expressions()
    numbers = _number(layers, expressions)
    kinds = {layer.kind for layer in layers}
    draw = _span if "Swish" in kinds else _rrdbnet if "Concat" in kinds else _compact
    label = {_span: "SPAN", _rrdbnet: "RRDBNet", _compact: "Compact"}[draw]
    seen = len(expressions.numbers)
    last, fields = draw(facts, expressions)
    notes: tuple[str, ...] = ()
    resize = layers[-1]
    if resize.kind == "Interp" and resize.integer(0) == BICUBIC and resize.number(1) < 1:
        last = expressions("interp", last, constants=_interp(resize))
        notes = (f"its last layer shrinks the image bicubically to {resize.number(1):g} of it: left out",)
    expected = _with_inputs(last, expressions)
    weighted: dict[int, int] = {}
    for index, layer in enumerate(layers):
        wrong = next((number for number in numbers[index] if number not in expected), None)
        if wrong is None and layer.kind in ("Convolution", "PReLU") and numbers[index][0] in weighted:
            wrong = numbers[index][0]
        if wrong is not None:
            raise SrkdError(f"layer {layer.name[:60]!r} ({layer.kind[:40]!r}) is not one of {label}: {READ}")
        if layer.kind in ("Convolution", "PReLU"):
            weighted[numbers[index][0]] = index
    if last >= seen:
        raise SrkdError(f"it ends too early for {label}, with layer {layers[-1].name[:60]!r}: {READ}")
    return {index: expressions.names[number] for number, index in weighted.items()}, fields, notes


def _facts(layers: Sequence[NcnnLayer]) -> _Facts:
    def of(kind: str) -> list[NcnnLayer]:
        return [layer for layer in layers if layer.kind == kind]

    convs = of("Convolution")
    fused = next((layer for layer in convs if layer.integer(9) in (1, 2)), None)
    separate = next(iter(of("ReLU")), None)
    if fused is not None:
        slope: float | None = (fused.numbers(10) or (0.0,))[0] if fused.integer(9) == 2 else 0.0
    else:
        slope = separate.number(0) if separate is not None else None
    before_conv = layers[: layers.index(convs[0])] if convs else []
    ranges = [layer.number(2) for layer in before_conv if layer.kind == "BinaryOp" and layer.integer(0) == 2]
    return _Facts(
        convs=len(convs),
        slope=slope,
        nearest=sum(layer.integer(0) == NEAREST for layer in of("Interp")),
        shuffle=next((layer.integer(0, 1) for layer in of("PixelShuffle")), 0),
        unshuffle=next((layer.integer(0, 1) for layer in of("Reorg")), 1),
        adds=any(layer.kind == "Eltwise" or (layer.kind == "BinaryOp" and layer.integer(0) == 0) for layer in layers),
        mean=bool(of("MemoryData")),
        img_range=ranges[0] if ranges else 1.0,
    )


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


def _compact(facts: _Facts, of: Expressions) -> tuple[int, dict[str, object]]:
    x = of("input")
    image, last = x, 2 * (facts.convs - 1)
    for index in range(0, last, 2):
        x = of.conv(f"body.{index}", x)
        x = of("prelu", x, name=f"body.{index + 1}") if facts.slope is None else of.leaky(x, facts.slope)
    x = of.conv(f"body.{last}", x)
    scale = max(facts.shuffle, 1)
    if facts.shuffle:
        x = of("shuffle", x, constants=(scale, 0))
    if facts.adds:
        x = of("add", x, of("interp", image, constants=(NEAREST, scale, scale, 0)) if facts.nearest else image)
    act = "prelu" if facts.slope is None else LEAKY_SLOPES.get(round(facts.slope, 6))
    if act is None:
        raise SrkdError(f"its LeakyReLU has slope {facts.slope:g}: Compact has 0.1")
    return x, {"act": act, "residual": facts.adds, "scale": scale}


def _rrdbnet(facts: _Facts, of: Expressions) -> tuple[int, dict[str, object]]:
    def dense(x: int, name: str) -> int:
        features = [x]
        for index in range(1, 5):
            joined = features[0] if index == 1 else of("concat", *features, constants=(0,))
            features.append(of.leaky(of.conv(f"{name}.conv{index}", joined), 0.2))
        return part(of.conv(f"{name}.conv5", of("concat", *features, constants=(0,))), x)

    def part(branch: int, skip: int) -> int:
        return of("add", of("mul", branch, constants=(0.2,)), skip)

    x = of("input")
    if facts.unshuffle > 1:
        x = of("unshuffle", x, constants=(facts.unshuffle, 0))
    x = first = of.conv("conv_first", x)
    for block in range((facts.convs - 4 - facts.nearest) // 15):
        before = x
        for index in (1, 2, 3):
            x = dense(x, f"body.{block}.rdb{index}")
        x = part(x, before)
    x = of("add", of.conv("conv_body", x), first)
    for index in range(facts.nearest):
        x = of("interp", x, constants=(NEAREST, 2, 2, 0))
        x = of.leaky(of.conv(f"conv_up{index + 1}", x), 0.2)
    x = of.leaky(of.conv("conv_hr", x), 0.2)
    return of.conv("conv_last", x), {}


def _span(facts: _Facts, of: Expressions) -> tuple[int, dict[str, object]]:
    x = of("input")
    if facts.mean:
        x = of("sub", x, of("memory"))
    if facts.img_range != 1:
        x = of("mul", x, constants=(facts.img_range,))
    outputs = [of.conv("conv_1.eval_conv", x)]
    activated = outputs[0]
    for block in range(1, (facts.convs - 4) // 3 + 1):
        activated = of("swish", of.conv(f"block_{block}.c1_r.eval_conv", outputs[-1]))
        second = of("swish", of.conv(f"block_{block}.c2_r.eval_conv", activated))
        third = of.conv(f"block_{block}.c3_r.eval_conv", second)
        gate = of("sub", of("sigmoid", third), constants=(0.5,))
        outputs.append(of("mul", of("add", third, outputs[-1]), gate))
    end = of.conv("conv_2.eval_conv", outputs[-1])
    x = of("concat", outputs[0], end, outputs[min(1, len(outputs) - 1)], activated, constants=(0,))
    x = of.conv("upsampler.0", of.conv("conv_cat", x, 1))
    scale = max(facts.shuffle, 1)
    if facts.shuffle:
        x = of("shuffle", x, constants=(scale, 0))
    return x, {"img_range": facts.img_range, "mean": (0.0, 0.0, 0.0), "scale": scale}


def _number(layers: Sequence[NcnnLayer], of: Expressions) -> list[tuple[int, ...]]:
    """Return the numbers of each layer's expressions; a fused activation is a second one."""
    blobs: dict[str, int] = {}
    numbers: list[tuple[int, ...]] = []
    for layer in layers:
        missing = next((blob for blob in layer.inputs if blob not in blobs), None)
        if missing is not None:
            raise SrkdError(f"layer {layer.name[:60]!r} takes {missing[:60]!r}, which no layer before it writes")
        inputs = [blobs[blob] for blob in layer.inputs]
        if layer.kind == "Split" and len(inputs) == 1:
            numbers.append(())
            blobs |= dict.fromkeys(layer.outputs, inputs[0])
            continue
        make = _MAKERS.get(layer.kind) if len(layer.outputs) == 1 else None
        numbers.append(make(layer, inputs, of) if make else (_unknown(layer, inputs, of),))
        blobs |= dict.fromkeys(layer.outputs, numbers[-1][-1])
    return numbers


def _unknown(layer: NcnnLayer, inputs: list[int], of: Expressions) -> int:
    return of(f"unknown {layer.kind}", *inputs)


def _convolution(layer: NcnnLayer, inputs: list[int], of: Expressions) -> tuple[int, ...]:
    if layer.integer(8):
        raise SrkdError(f"layer {layer.name[:60]!r} computes in int8: only fp32 and fp16 are read")
    width, left, dilation, stride = layer.integer(1), layer.integer(4), layer.integer(2, 1), layer.integer(3, 1)
    top = layer.integer(14, left)
    pads = (left, top, layer.integer(15, left), layer.integer(16, top))
    square = layer.integer(12, dilation) == dilation and layer.integer(13, stride) == stride
    if not square or layer.number(18) or layer.integer(19):
        return (_unknown(layer, inputs, of),)
    conv = of("conv", *inputs, constants=(width, layer.integer(11, width), dilation, stride, *pads))
    activation, constants = layer.integer(9), layer.numbers(10)
    if not activation:
        return (conv,)
    if activation == 2:
        return conv, of("relu", conv, constants=constants)
    return conv, of(FUSED.get(activation, "unknown"), conv, constants=(0.0,) if activation == 1 else constants)


def _binary(layer: NcnnLayer, inputs: list[int], of: Expressions) -> tuple[int, ...]:
    kind = BINARY.get(layer.integer(0), "unknown")
    return (of(kind, *inputs, constants=(layer.number(2),) if layer.integer(1) else ()),)


def _eltwise(layer: NcnnLayer, inputs: list[int], of: Expressions) -> tuple[int, ...]:
    """A sum with factors is one of products; a factor 1 is none."""
    factors = layer.numbers(1) or (1.0,) * len(inputs)
    if layer.integer(0) != 1 or len(factors) != len(inputs):
        return (_unknown(layer, inputs, of),)
    terms = [x if factor == 1 else of("mul", x, constants=(factor,)) for x, factor in zip(inputs, factors, strict=True)]
    return (of("add", *terms),)


def _interp(layer: NcnnLayer) -> Constants:
    return (
        layer.integer(0),
        layer.number(1),
        layer.number(2),
        layer.integer(6),
        *(layer.integer(k) for k in (3, 4, 5) if layer.integer(k)),
    )


def _plain(kind: str, *keys: tuple[int, float]) -> Callable[[NcnnLayer, list[int], Expressions], tuple[int, ...]]:
    """Return the maker of an operation with numbers: the keys and what they are if left out."""
    return lambda layer, inputs, of: (
        of(kind, *inputs, constants=tuple(layer.number(key, default) for key, default in keys)),
    )


_MAKERS: Mapping[str, Callable[[NcnnLayer, list[int], Expressions], tuple[int, ...]]] = {
    "Input": _plain("input"),
    "MemoryData": _plain("memory"),
    "Convolution": _convolution,
    "PReLU": _plain("prelu"),
    "ReLU": _plain("relu", (0, 0.0)),
    "Swish": _plain("swish"),
    "Sigmoid": _plain("sigmoid"),
    "BinaryOp": _binary,
    "Eltwise": _eltwise,
    "Concat": _plain("concat", (0, 0.0)),
    "PixelShuffle": _plain("shuffle", (0, 1.0), (1, 0.0)),
    "Reorg": _plain("unshuffle", (0, 1.0), (1, 0.0)),
    "Interp": lambda layer, inputs, of: (of("interp", *inputs, constants=_interp(layer)),),
}
