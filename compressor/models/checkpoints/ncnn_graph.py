"""ncnn files: the layers in a text (.param), and the place of their weights in the file beside it (.bin).

The .bin has neither header nor names: the weights follow each other in the order of the layers. Sizes are compared with
the file before anything is read. Followed: ncnn's wiki, "param and model file structure", and src/modelbin.cpp.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import torch

from compressor.base.errors import SrkdError
from compressor.models.checkpoints.header import AGAIN, NCNN_MAGIC

TEXT_BYTES_LIMIT = 4 * 2**20
FP16_TAG = 0x01306B47
FIRST_LIST = -23300

WORD_CHARACTERS, VALUE_CHARACTERS, KEYS, NUMBER_LIMIT = 255, 15, 32, 2**31
NUMBER = re.compile(r"[+-]?([0-9]+|[0-9]{0,9}(\.[0-9]{0,9})?([eE][+-]?[0-9]{1,2})?)")
"""What ncnn takes as a number: it counts each run of digits in 32 bits, and cuts longer words (src/paramdict.cpp)."""

Number = int | float
Value = Number | tuple[Number, ...]


@dataclass(frozen=True)
class NcnnLayer:
    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[int, Value]

    def integer(self, key: int, default: int = 0) -> int:
        value = self.params.get(key, default)
        if not isinstance(value, int):
            raise SrkdError(f"layer {self.name[:60]!r}: parameter {key} is {str(value)[:40]}, not a whole number")
        return value

    def number(self, key: int, default: float = 0.0) -> float:
        return self._real(key, self.params.get(key, default))

    def numbers(self, key: int) -> tuple[float, ...]:
        values = self.params.get(key, ())
        if not isinstance(values, tuple):
            raise SrkdError(f"layer {self.name[:60]!r}: parameter {key} is {values}, not a list")
        return tuple(self._real(key, value) for value in values)

    def _real(self, key: int, value: Value) -> float:
        """ncnn takes the bits of a whole number as a float: 2 would be 3e-45."""
        if isinstance(value, float) or (isinstance(value, int) and value == 0):
            return float(value)
        raise SrkdError(f"layer {self.name[:60]!r}: parameter {key} is {str(value)[:40]}, not a number with a point")


def read_layers(content: bytes) -> list[NcnnLayer]:
    """Return the layers of a .param text; each blob is written once and read once, but for the last layer's."""
    lines = [line.split() for line in content.decode("utf-8", "replace").splitlines() if line.strip()]
    if not lines or lines[0] != [NCNN_MAGIC.decode()]:
        start = " ".join(lines[0])[:20] if lines else ""
        raise SrkdError(f"not a .param text of ncnn: it begins with {start!r} in place of {NCNN_MAGIC.decode()}")
    try:
        layer_count, blob_count = map(_whole, lines[1])
        if layer_count != len(lines) - 2:
            raise SrkdError(f"it has {len(lines) - 2} layers and claims {layer_count}: {AGAIN}")
        layers = [_read_layer(words) for words in lines[2:]]
    except (ValueError, IndexError) as error:
        raise SrkdError(f"its .param is damaged ({str(error)[:80]}): {AGAIN}") from error
    blobs = [blob for layer in layers for blob in layer.outputs]
    if len(set(blobs)) != len(blobs) or len(blobs) > blob_count:
        raise SrkdError(f"its layers write {len(blobs)} blobs of {len(set(blobs))} names, and it claims {blob_count}")
    reads = Counter(blob for layer in layers for blob in layer.inputs)
    for layer in layers:
        for blob in layer.outputs:
            if reads[blob] != (layer is not layers[-1]):
                raise SrkdError(
                    f"layer {layer.name[:60]!r}: {reads[blob]} layers take its {blob[:60]!r}, ncnn gives a blob to one "
                    "(a Split makes several), and that of the last layer is the image"
                )
    return layers


def _read_layer(words: Sequence[str]) -> NcnnLayer:
    kind, name, inputs, outputs = words[0], words[1], _whole(words[2]), _whole(words[3])
    first_output, end = 4 + inputs, 4 + inputs + outputs
    if min(inputs, outputs) < 0 or len(words) < end:
        raise ValueError(f"layer {name[:60]!r} names fewer blobs than it claims")
    if max(map(len, words)) > WORD_CHARACTERS:
        raise ValueError(f"layer {name[:60]!r} has a word of over {WORD_CHARACTERS} characters")
    params: dict[int, Value] = {}
    for word in words[end:]:
        left, _, value = word.partition("=")
        key = _whole(left)
        is_list = key <= FIRST_LIST
        if is_list:
            key = FIRST_LIST - key
        if key in params or not 0 <= key < KEYS:
            raise ValueError(f"layer {name[:60]!r}: {word[:40]!r} is a second value of {key}, or one of no parameter")
        if is_list:
            count, *values = value.split(",")
            if _whole(count) != len(values):
                raise ValueError(f"layer {name[:60]!r}: {word[:40]!r} is a list of another length")
            params[key] = tuple(map(_number, values))
        else:
            params[key] = _number(value)
    return NcnnLayer(kind, name, tuple(words[4:first_output]), tuple(words[first_output:end]), params)


def _whole(word: str) -> int:
    number = _number(word)
    if isinstance(number, int):
        return number
    raise ValueError(f"{word[:40]!r} is not a whole number")


def _number(word: str) -> Number:
    number = float(word) if set(word) & set(".eE") else int(word)
    if NUMBER.fullmatch(word) and len(word) <= VALUE_CHARACTERS and abs(number) < NUMBER_LIMIT:
        return number
    raise ValueError(f"{word[:40]!r} is not a number that ncnn reads")


def read_weights(layers: Sequence[NcnnLayer], handle: IO[bytes], size_bytes: int) -> list[dict[str, torch.Tensor]]:
    """Return the tensors of each layer (`weight`, `bias`); they must use up the .bin exactly."""
    weights, at = [], 0

    def take(layer: NcnnLayer, shape: tuple[int, ...], *, tagged: bool = False) -> torch.Tensor:
        nonlocal at
        dtype = torch.float32
        if tagged:
            handle.seek(at)
            tag = int.from_bytes(handle.read(4), "little")
            if tag not in (0, FP16_TAG):
                raise SrkdError(
                    f"layer {layer.name[:60]!r} has int8 or packed weights ({tag:#x}): only fp32 and fp16 are read"
                )
            dtype = torch.float16 if tag == FP16_TAG else torch.float32
            at += 4
        begin, count = at, math.prod(shape)
        at += -(-count * dtype.itemsize // 4) * 4
        if at > size_bytes:
            raise SrkdError(f"its .bin of {size_bytes:,} bytes ends within layer {layer.name[:60]!r}: {AGAIN}")
        handle.seek(begin)
        return torch.frombuffer(bytearray(handle.read(count * dtype.itemsize)), dtype=dtype).reshape(shape)

    for layer in layers:
        tensors = {}
        if layer.kind == "Convolution":
            tensors["weight"] = take(layer, _kernel_shape(layer), tagged=True)
            if layer.integer(5):
                tensors["bias"] = take(layer, (layer.integer(0),))
        elif layer.kind == "PReLU":
            tensors["weight"] = take(layer, (_positive(layer, 0),))
        elif layer.kind == "MemoryData":
            tensors["weight"] = take(layer, memory_shape(layer))
        weights.append(tensors)
    if at != size_bytes:
        raise SrkdError(f"its .bin has {size_bytes - at:,} bytes more than its layers take: {AGAIN}")
    return weights


def memory_shape(layer: NcnnLayer) -> tuple[int, ...]:
    """Return the channels, height and width of constant data."""
    return tuple(_positive(layer, key) for key in (2, 1, 0) if layer.integer(key))


def _kernel_shape(layer: NcnnLayer) -> tuple[int, ...]:
    outputs, width = _positive(layer, 0), _positive(layer, 1)
    height, count = layer.integer(11, width), _positive(layer, 6)
    if height < 1 or count % (outputs * height * width):
        raise SrkdError(
            f"layer {layer.name[:60]!r}: {count} weights fit no {outputs} kernels of {width}x{height}: {AGAIN}"
        )
    return (outputs, count // (outputs * height * width), height, width)


def _positive(layer: NcnnLayer, key: int) -> int:
    value = layer.integer(key)
    if value < 1:
        raise SrkdError(f"layer {layer.name[:60]!r}: parameter {key} is {str(value)[:40]}, a size is 1 or more")
    return value
