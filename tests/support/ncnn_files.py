"""Small ncnn files, written from the grammar of .param and the order of values in .bin, and random changes of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compressor.base.errors import SrkdError
from compressor.models.checkpoints.load import load_checkpoint

FP16_TAG = (0x01306B47).to_bytes(4, "little")


@dataclass
class NcnnFile:
    """Layers in order, each with one output; a blob of several uses gets a Split."""

    fp16: bool = False
    layers: list[tuple[str, list[int], str]] = field(default_factory=lambda: [("Input", [], "")])
    weights: bytes = b""

    def add(self, kind: str, inputs: list[int], params: str = "", weights: bytes = b"") -> int:
        self.layers.append((kind, inputs, params))
        self.weights += weights
        return len(self.layers) - 1

    def conv(self, x: int, state: Mapping[str, Tensor], name: str, params: str = "") -> int:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        size = weight.shape[2]
        tagged = bytes(4) + raw(weight)
        if self.fp16:
            half = weight.half().numpy().astype("<f2").tobytes()
            tagged = FP16_TAG + half + bytes(-len(half) % 4)
        shape = f"0={weight.shape[0]} 1={size} 4={size // 2} 5=1 6={weight.numel()} {params}"
        return self.add("Convolution", [x], shape, tagged + raw(bias))

    def write(self, folder: Path, name: str = "net") -> Path:
        """Write both files; return the .param."""
        uses = Counter(x for _, inputs, _ in self.layers for x in inputs)
        left, lines, blobs = uses.copy(), [], 0
        for number, (kind, inputs, params) in enumerate(self.layers):
            taken = []
            for x in inputs:
                left[x] -= 1
                taken.append(f"b{x}" if uses[x] == 1 else f"b{x}_{left[x]}")
            out = "data" if number == 0 else "output" if number == len(self.layers) - 1 else f"b{number}"
            if number == 0 and uses[0] == 1:
                taken_name = "b0"
                lines.append(f"Input in 0 1 {out}")
                lines.append(f"Split s0 1 1 data {taken_name}")
                blobs += 2
                continue
            lines.append(f"{kind} l{number} {len(inputs)} 1 {' '.join([*taken, out])} {params}".rstrip())
            blobs += 1
            if uses[number] > 1:
                split = " ".join(f"b{number}_{index}" for index in range(uses[number]))
                lines.append(f"Split s{number} 1 {uses[number]} {out} {split}")
                blobs += uses[number]
        path = folder / f"{name}.param"
        path.write_text("\n".join(["7767517", f"{len(lines)} {blobs}", *lines, ""]))
        path.with_suffix(".bin").write_bytes(self.weights)
        return path


def raw(tensor: Tensor) -> bytes:
    return tensor.detach().numpy().astype("<f4").tobytes()


def run_ncnn(path: Path, image: Tensor, output: str = "output") -> Tensor:
    """Return the blob that ncnn makes of an image (C, h, w), in fp32."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    assert net.load_param(str(path)) == 0 and net.load_model(str(path.with_suffix(".bin"))) == 0
    array = np.ascontiguousarray(image.numpy())
    extractor = net.create_extractor()
    extractor.input(net.input_names()[0], ncnn.Mat(array).clone())
    code, out = extractor.extract(output)
    assert code == 0
    return torch.from_numpy(np.array(out))


def compact_file(
    state: Mapping[str, Tensor], scale: int, activation: str | None = None, *, fp16: bool = False
) -> NcnnFile:
    """The file of a Compact by BasicSR's names; `activation` is that of each convolution, in place of PReLU."""
    file, last = NcnnFile(fp16), max(int(name.split(".")[1]) for name in state)
    x = 0
    for index in range(0, last, 2):
        x = file.conv(x, state, f"body.{index}", activation or "")
        if activation is None:
            slope = state[f"body.{index + 1}.weight"]
            x = file.add("PReLU", [x], f"0={slope.numel()}", raw(slope))
    x = file.add("PixelShuffle", [file.conv(x, state, f"body.{last}")], f"0={scale}")
    file.add("BinaryOp", [x, file.add("Interp", [0], f"0=1 1={scale}.0 2={scale}.0")], "0=0")
    return file


def span_file(state: Mapping[str, Tensor], scale: int, mean: Tensor | None, *, fp16: bool = False) -> NcnnFile:
    """The file of a SPAN by its collapsed official names."""
    file, x = NcnnFile(fp16), 0
    if mean is not None:
        memory = file.add("MemoryData", [], "0=1 1=1 2=3", raw(mean))
        x = file.add("BinaryOp", [file.add("BinaryOp", [x, memory], "0=1")], "0=2 1=1 2=255.0")
    outputs = [file.conv(x, state, "conv_1.eval_conv")]
    first = outputs[0]
    for block in range(1, 1 + sum(name.endswith("c1_r.eval_conv.weight") for name in state)):
        first = file.add("Swish", [file.conv(outputs[-1], state, f"block_{block}.c1_r.eval_conv")])
        second = file.add("Swish", [file.conv(first, state, f"block_{block}.c2_r.eval_conv")])
        third = file.conv(second, state, f"block_{block}.c3_r.eval_conv")
        gate = file.add("BinaryOp", [file.add("Sigmoid", [third])], "0=1 1=1 2=0.5")
        outputs.append(file.add("BinaryOp", [file.add("BinaryOp", [third, outputs[-1]], "0=0"), gate], "0=2"))
    end = file.conv(outputs[-1], state, "conv_2.eval_conv")
    joined = file.add("Concat", [outputs[0], end, outputs[1], first], "0=0")
    x = file.conv(file.conv(joined, state, "conv_cat"), state, "upsampler.0")
    file.add("PixelShuffle", [x], f"0={scale}")
    return file


def rrdbnet_file(state: Mapping[str, Tensor], ups: int, *, eltwise: bool, unshuffle: int = 1) -> NcnnFile:
    """The file of an RRDBNet by BasicSR's names, as one of two converters writes sums with a factor."""
    file, leaky = NcnnFile(), "9=2 -23310=1,2.000000e-01"

    def part(branch: int, skip: int) -> int:
        if eltwise:
            return file.add("Eltwise", [branch, skip], "0=1 -23301=2,2.000000e-01,1.000000e+00")
        return file.add("BinaryOp", [file.add("BinaryOp", [branch], "0=2 1=1 2=0.2"), skip], "0=0")

    x = file.add("Reorg", [0], f"0={unshuffle} 1=0") if unshuffle > 1 else 0
    x = first = file.conv(x, state, "conv_first")
    for block in range(sum(name.endswith("rdb1.conv1.weight") for name in state)):
        before = x
        for index in (1, 2, 3):
            features, name = [x], f"body.{block}.rdb{index}"
            for k in range(1, 5):
                joined = features[0] if k == 1 else file.add("Concat", list(features), "0=0")
                features.append(file.conv(joined, state, f"{name}.conv{k}", leaky))
            x = part(file.conv(file.add("Concat", features, "0=0"), state, f"{name}.conv5"), x)
        x = part(x, before)
    x = file.add("BinaryOp", [file.conv(x, state, "conv_body"), first], "0=0")
    for index in range(1, ups + 1):
        x = file.conv(file.add("Interp", [x], "0=1 1=2.0 2=2.0"), state, f"conv_up{index}", leaky)
    file.conv(file.conv(x, state, "conv_hr", leaky), state, "conv_last")
    return file


VALUES = (
    "-1 0 1 2 3 4 5 6 8 12 27 255 -233 4294967297 0.0 0.1 0.2 0.25 0.5 1.0 2.0 4.0 255.0 2 +2 2e0 1e-7 1e39 nan 2_0 "
    "0.2000000000 2.0000000001 4294967298.0 2.00000000000000001 0,1 0.5,0.5"
)


@dataclass
class Mutant:
    """The words of each layer's line, and the weights."""

    lines: list[list[str]]
    weights: bytes

    def write(self, path: Path) -> Path:
        blobs = sum(int(line[3]) for line in self.lines)
        text = [f"{len(self.lines)} {blobs + 3}", *map(" ".join, self.lines), ""]
        path.write_text("\n".join(["7767517", *text]))
        path.with_suffix(".bin").write_bytes(self.weights)
        return path


def blobs_of(line: Sequence[str]) -> tuple[int, int, int]:
    """Return where a line's inputs begin, its outputs begin, and its parameters begin."""
    return 4, 4 + int(line[2]), 4 + int(line[2]) + int(line[3])


def change_parameter(mutant: Mutant, draw: random.Random) -> None:
    line = draw.choice(mutant.lines)
    begin, value = blobs_of(line)[2], draw.choice(VALUES.split())
    key = draw.choice([draw.choice(line[begin:]).split("=")[0] if line[begin:] else "0", str(draw.randrange(20))])
    if int(key) <= -23300 or draw.random() < 0.1:
        key, value = str(min(int(key), -23300 - int(key))), f"{draw.choice([1, 1, 2])},{value}"
    line[begin:] = [word for word in line[begin:] if word.split("=")[0] != key] + [f"{key}={value}"]


def exchange_inputs(mutant: Mutant, draw: random.Random) -> None:
    places = [(line, at) for line in mutant.lines for at in range(4, blobs_of(line)[1])]
    (line, at), (other, there) = draw.choice(places), draw.choice(places)
    line[at], other[there] = other[there], line[at]


def redirect_input(mutant: Mutant, draw: random.Random) -> None:
    line = draw.choice([line for line in mutant.lines if int(line[2])])
    source = draw.choice(mutant.lines)
    line[draw.randrange(4, blobs_of(line)[1])] = source[draw.randrange(blobs_of(source)[1], blobs_of(source)[2])]


def add_source(mutant: Mutant, draw: random.Random) -> None:
    """Add a constant or an input first or last, with its weights."""
    kind, at_start = draw.choice(["MemoryData", "Input"]), draw.random() < 0.5
    line = [kind, f"more{len(mutant.lines)}", "0", "1", f"more{len(mutant.lines)}"]
    values = torch.full((3,), 0.25).numpy().tobytes() if kind == "MemoryData" else b""
    mutant.lines.insert(0 if at_start else len(mutant.lines), [*line, *(["0=1", "1=1", "2=3"] if values else [])])
    mutant.weights = values + mutant.weights if at_start else mutant.weights + values


def add_layer(mutant: Mutant, draw: random.Random) -> None:
    """Put a layer behind another one's output."""
    at = draw.randrange(len(mutant.lines))
    source = mutant.lines[at]
    blob = draw.randrange(blobs_of(source)[1], blobs_of(source)[2])
    name, kind = source[blob], draw.choice(["Interp", "Interp", "BinaryOp", "ReLU", "Split", "PixelShuffle"])
    source[blob] = f"before{len(mutant.lines)}"
    line = [kind, source[blob], "1", "1", source[blob], name]
    scales = draw.choice(["1=0.5 2=0.5", "1=0.5 2=0.25", "1=0.5 2=0.5 3=4", "1=1.0 2=1.0", ""]).split()
    mutant.lines.insert(at + 1, [*line, *([f"0={draw.choice([1, 3])}", *scales] if kind == "Interp" else [])])


CHANGES: tuple[Callable[[Mutant, random.Random], None], ...] = (
    *[change_parameter] * 6,
    *(exchange_inputs, redirect_input, add_source, add_layer),
)


def mutants(path: Path, count: int, folder: Path) -> Iterator[Path]:
    """Yield files with one to three changes, the same ones each time."""
    draw = random.Random(path.name)
    lines = [line.split() for line in path.read_text().splitlines()[2:]]
    for number in range(count):
        mutant = Mutant([list(line) for line in lines], path.with_suffix(".bin").read_bytes())
        for change in draw.choices(CHANGES, k=draw.choice([1, 1, 2, 3])):
            change(mutant, draw)
        yield mutant.write(folder / f"{number}.param")


def misread(paths: Iterator[Path], image: torch.Tensor) -> tuple[int, list[str]]:
    """Return how many of the files are read, and a line for each that ncnn computes otherwise.

    ncnn runs in a process of its own: it may crash on a file that it does not refuse.
    """
    read, wrong = 0, []
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        for path in paths:
            try:
                loaded = load_checkpoint(path)
            except SrkdError as error:
                if len(str(error).splitlines()) != 1:
                    wrong.append(f"{path}: {error}")
                continue
            read += 1
            with torch.no_grad():
                expected = loaded.network(image[None])[0]
            last = path.read_text().splitlines()[-1].split()
            blob = last[4 if loaded.notes else blobs_of(last)[1]]  # what a reduction reads, for it is left out
            actual = pool.submit(run_ncnn, path, image, blob).result()
            if actual.shape != expected.shape or not torch.allclose(actual, expected, 1e-4, 1e-4):
                wrong.append(f"{path}: {tuple(expected.shape)} is {tuple(actual.shape)} in ncnn, or differs")
    return read, wrong
