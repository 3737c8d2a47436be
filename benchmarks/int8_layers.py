"""Which layers lose what in eight bits: `python -m benchmarks int8_layers --data SETS [--calibrate PHOTOS]`.

For each layer with weights, and for all sums together: the noise in the image if only it is in eight bits (its weights,
inputs and outputs), as a share of the noise if everything is; and dB to the network's images if everything else is.
Noises of different layers add up if they are independent. Images of Set5, ONNX Runtime.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch

from benchmarks.evidence import Benchmark, Column, Row, Table, save
from benchmarks.int8_quality import OPSET, SCALE, pairs, run
from compressor.assets import embedded_student
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from compressor.models.students.spread import spread_streams
from compressor.runtimes.onnx_runtime import cpu_session
from export.graph.onnx_graph import build_graph
from export.int8.calibration import calibration_patches
from export.int8.quantise.ends import meet_image
from export.int8.quantise.equalise import equalise_channels
from export.int8.quantise.plan import CPU, Scheme, make_plan
from export.int8.quantise.search import quantise

BENCHMARK = Benchmark(
    "Which layers lose what in eight bits?",
    minutes=10,
    arguments=(
        *("--data", "{sets}", "--calibrate", "{photos}", "--model", str(embedded_student())),
        "{checkpoints}/realesr-animevideov3_rezipped.pth",
    ),
    small=("--data", "{sets}", "--layers", "2"),
)

PATCHES = 12
NOTABLE = 0.05
"""Least share of the noise with which the sentence names a layer."""
MOST_NAMED = 8
SUMS = "all sums"
COLUMNS = (
    Column("layer", "layer"),
    Column("share", "share of the noise, alone", ".0%"),
    Column("db", "dB without it", ".1f"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with Set5")
    parser.add_argument("--calibrate", type=Path, help="photos; none: the embedded ones")
    parser.add_argument("--model", type=Path, nargs="+", default=[embedded_student()])
    parser.add_argument("--layers", type=int, help="at most so many; none: all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables = dict[str, Table]()
    images = [lr for lr, _ in pairs(options.data / "Set5")]
    for path in options.model:
        network = load_checkpoint(path, scale=SCALE).network
        patches = calibration_patches(network.descriptor, options.calibrate).patches[-PATCHES:]
        tables[path.stem] = table(path, network, patches, images, options.layers)
        print(tables[path.stem].render(), file=sys.stderr, flush=True)
    save("int8_layers", tables)
    return 0


def table(
    path: Path, network: Network, patches: torch.Tensor, images: list[torch.Tensor], most: int | None = None
) -> Table:
    """Return a network's table, the noisiest layer first."""
    ends = equalise_channels(meet_image(build_graph(spread_streams(network, patches), None, OPSET).model), patches)
    plain = cpu_session(build_graph(network, None, OPSET).model, threads=1)
    expected = [run(plain, lr) for lr in images]
    plan = make_plan(ends.graph, Scheme(CPU), ends.images)
    layers = [layer.name for layer in plan.layers.values()]
    names = layers[:most]

    def noise(scheme: Scheme) -> float:
        """Return the mean squared error to the network's images, in squared grey levels."""
        model = quantise(make_plan(ends.graph, scheme, ends.images), patches)
        return squared_error(model, images, expected)

    without: dict[str, Scheme] = {name: Scheme(CPU).keeping(name) for name in names}
    alone: dict[str, Scheme] = {
        name: Scheme(CPU, float_sums=True).keeping(*(one for one in layers if one != name)) for name in names
    }
    if len(plan.integer) > len(plan.layers):
        without[SUMS], alone[SUMS] = Scheme(CPU, float_sums=True), Scheme(CPU).keeping(*layers)
    whole = noise(Scheme(CPU))
    alones = {name: noise(scheme) for name, scheme in alone.items()}
    withouts = {name: noise(scheme) for name, scheme in without.items()}
    nearness = f"{decibels(whole):.1f} dB to the network's images with everything in eight bits"
    sentence = f"**`{path.name}`** ({network.architecture}, {nearness}): {summary(whole, alones, withouts)}"
    first: Row = {"name": path.stem, "layer": "everything", "share": 1.0, "sentence": sentence}
    return Table(COLUMNS, [first, *rows(whole, alones, withouts)], f"{path.name}, {nearness}.")


def squared_error(model: onnx.ModelProto, images: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    session, total, values = cpu_session(model, threads=1), 0.0, 0
    for lr, image in zip(images, expected, strict=True):
        total += float((run(session, lr).clamp(0, 1) - image.clamp(0, 1)).double().mul(255).square().sum())
        values += image.numel()
    return total / values


def rows(whole: float, alones: Mapping[str, float], withouts: Mapping[str, float]) -> Sequence[Row]:
    ranking = sorted(alones, key=lambda name: -alones[name])
    return [{"layer": f"`{name}`", "share": alones[name] / whole, "db": decibels(withouts[name])} for name in ranking]


def summary(whole: float, alones: Mapping[str, float], withouts: Mapping[str, float]) -> str:
    """Return a sentence on the noisiest layers, the others, and the most that one layer gains in float."""
    shares = {name: alones[name] / whole for name in sorted(alones, key=lambda name: -alones[name])}
    parts = [f"all sums {shares.pop(SUMS):.0%}"] if SUMS in shares else []
    notable = {name: share for name, share in shares.items() if share >= NOTABLE}
    if len(notable) > MOST_NAMED:
        parts += [f"the layers {min(shares.values()):.0%} to {max(shares.values()):.0%} each"]
    else:
        rest = [share for name, share in shares.items() if name not in notable]
        parts += [f"`{name}` {share:.0%}" for name, share in notable.items()]
        parts += [f"every other layer {max(rest):.1%} or less"] if rest else []
    gain = max(decibels(error) for name, error in withouts.items() if name != SUMS) - decibels(whole)
    return f"{', '.join(parts)}. No single layer gains more than {gain:.1f} dB if it stays in float."


def decibels(squared: float) -> float:
    return 10 * math.log10(255**2 / squared) if squared else math.inf


if __name__ == "__main__":
    sys.exit(main())
