"""ncnn files with a few random changes, and those that a reader takes for another network than ncnn does."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from compressor.base.errors import SrkdError
from compressor.models.checkpoints.load import load_checkpoint
from tests.support.ncnn_files import run_ncnn

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
