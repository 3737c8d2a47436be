"""Loss and speed-up of eight bits: `python -m benchmarks int8_quality --data SETS [--calibrate PHOTOS] [--model FILE]`.

Each model is quantised by ONNX Runtime's own static quantisation (QDQ, min-max, one scale per output channel) on the
same patches, and by `--int8` and `--int8-trt` without a bound, so that everything is in eight bits. Rows have the drop
of Y-PSNR on each set, the PSNR to the network's images, and the ratio of CPU times to the float file on one thread, in
turns. That ratio is of ONNX Runtime, for which the TensorRT file is not meant.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from benchmarks.embedded_student import embedded_student
from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, add_variant_option, save
from benchmarks.turns import in_turns
from compressor.assets import embedded_teacher
from compressor.base.machine import integer_products
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import luma_of, psnr, to_u8
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.sets import find_sets
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from compressor.models.students.spread import spread_streams
from compressor.runtimes.onnx_runtime import cpu_session
from export.graph.onnx_graph import build_graph
from export.int8.calibration import COUNT, calibration_patches
from export.int8.float_parts import NOTHING, FloatParts
from export.int8.quantise.ends import meet_image
from export.int8.quantise.equalise import equalise_channels
from export.int8.quantise.plan import TENSORRT, Flavour, make_plan
from export.int8.quantise.qdq import QdqWriter
from export.int8.quantise.walk import GraphWalk
from export.int8.to_int8 import cpu_flavour

BENCHMARK = Benchmark(
    "What do eight bits lose and gain on different networks?",
    minutes=45,
    arguments=(
        *("--data", "{sets}", "--calibrate", "{photos}", "--sets", "Set5", "Set14", "B100", "Urban100-20"),
        *("--model", str(embedded_student()), str(embedded_teacher())),
        *("{checkpoints}/carn_m.pth", "{checkpoints}/realesr-animevideov3_rezipped.pth"),
    ),
    small=("--data", "{sets}", "--sets", "Set5", "--patches", "8"),
)

OPSET = 18
SCALE = 4
ROUNDS = 15
SIDE = 128

Build = Callable[[Network, onnx.ModelProto, torch.Tensor], onnx.ModelProto]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="benchmark sets")
    parser.add_argument("--sets", nargs="+", default=["Set5", "Set14"])
    parser.add_argument("--calibrate", type=Path, help="photos; none: the embedded ones")
    parser.add_argument("--model", type=Path, nargs="+", default=[embedded_student()])
    parser.add_argument("--scale", type=int, default=SCALE, help="of the models")
    parser.add_argument("--patches", type=int, default=COUNT, help="to calibrate on")
    add_variant_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured: list[Row] = []
    for path in options.model:
        network = load_checkpoint(path, scale=options.scale).network
        patches = calibration_patches(network.descriptor, options.calibrate, count=options.patches).patches
        for row in rows(network, options.data, options.sets, patches):
            measured.append({"network": f"{network.architecture} {path.stem}", **row})
            print(measured[-1], file=sys.stderr, flush=True)
    columns = [
        Column("network", "network"),
        Column("file", "file"),
        *(Column(name, name, "+.3f") for name in options.sets),
        Column("db", "dB to the network's images", ".1f"),
        Column("times_as_fast", "times as fast as float", ".2f"),
    ]
    caption = (
        f"Changes of Y-PSNR, dB, x{options.scale}, all in eight bits; {options.patches} patches; ONNX Runtime, "
        f"one thread, LR {SIDE}x{SIDE}, times of the processor in turns."
    )
    save("int8_quality", Table(columns, measured, caption), variant=options.variant)


def rows(network: Network, data: Path, names: list[str], patches: torch.Tensor) -> Iterator[dict[str, Cell]]:
    """Yield a row of the table for each way of quantising."""
    plain = build_graph(network, None, OPSET)
    reference = cpu_session(plain, threads=1)
    scale = network.spec.scale
    images = {name: list(pairs(data / name, scale)) for name in names}
    expected = {name: [run(reference, lr) for lr, _ in images[name]] for name in names}
    for words, build in BUILDS.items():
        session = cpu_session(build(network, plain, patches), threads=1)
        drops, squares, values = dict[str, Cell](), 0.0, 0
        for name in names:
            outputs = [run(session, lr) for lr, _ in images[name]]
            scores = [
                score(one, hr, scale) - score(other, hr, scale)
                for one, other, (_, hr) in zip(outputs, expected[name], images[name], strict=True)
            ]
            drops[name] = statistics.mean(scores)
            for one, other in zip(outputs, expected[name], strict=True):
                squares += float((to_u8(one).double() - to_u8(other).double()).square().sum())
                values += one.numel()
        db = float(10 * np.log10(255**2 * values / squares))
        yield {"file": words, **drops, "db": db, "times_as_fast": speed_up(reference, session)}


def pairs(folder: Path, scale: int = SCALE) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield LR in [0,1] and HR in bytes; without LR images of this scale, HR images are downscaled bicubically."""
    (image_set,) = find_sets(folder, scale=scale)
    for pair in image_set.pairs:
        hr_u8 = mod_crop(read_rgb_u8(pair.hr), scale)
        lr_u8 = downscale_u8(hr_u8, scale) if pair.lr is None else read_rgb_u8(pair.lr)
        yield lr_u8[None].float().div(255), hr_u8


def score(sr: torch.Tensor, hr_u8: torch.Tensor, scale: int = SCALE) -> float:
    return float(psnr(luma_of(to_u8(sr)), luma_of(hr_u8[None]), border=scale))


def run(session: Any, lr: torch.Tensor) -> torch.Tensor:
    (sr,) = session.run(None, {session.get_inputs()[0].name: lr.numpy()})
    return torch.from_numpy(np.asarray(sr))


def cpu_times(reference: Any, session: Any) -> list[tuple[float, float]]:
    """Return pairs of CPU times in seconds, taken in turns."""
    lr = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    ways = {"float": partial(run, reference, lr), "file": partial(run, session, lr)}
    times = in_turns(ways, ROUNDS, clock=time.process_time)
    return list(zip(times["float"], times["file"], strict=True))


def speed_up(reference: Any, session: Any) -> float:
    """Return the median of the ratios of CPU times."""
    return statistics.median(one / other for one, other in cpu_times(reference, session))


def by_onnx_runtime(network: Network, plain: onnx.ModelProto, patches: torch.Tensor) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(patches[:-1].numpy())  # without the patch of flat colours, which only srkd uses

        def get_next(self) -> dict[str, Any] | None:
            patch = next(self.left, None)
            return None if patch is None else {plain.graph.input[0].name: patch[None]}

    with tempfile.TemporaryDirectory() as folder:
        source, result = f"{folder}/float.onnx", f"{folder}/int8.onnx"
        onnx.save(plain, source)
        quantize_static(
            source,
            result,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=not integer_products(),
        )
        return onnx.load(result)


def ours(flavour: Flavour, parts: FloatParts = NOTHING) -> Build:
    def build(network: Network, plain: onnx.ModelProto, patches: torch.Tensor) -> onnx.ModelProto:
        graph = meet_image(build_graph(spread_streams(network, patches), None, OPSET))
        plan = make_plan(equalise_channels(graph, patches), flavour, parts)
        return QdqWriter(plan, GraphWalk(plan, patches.numpy()).run()).write()

    return build


BUILDS: dict[str, Build] = {
    "`quantize_static` of ONNX Runtime": by_onnx_runtime,
    "`--int8`": ours(cpu_flavour(learnt=False)),
    "`--int8`, sums in float": ours(cpu_flavour(learnt=False), FloatParts(sums=True)),
    "`--int8`, weights solved again": ours(cpu_flavour(learnt=False), FloatParts(variant=True)),
    "`--int8-trt`": ours(TENSORRT),
}
"""Functions that build a quantised graph from the network, its float graph and the patches, by table row."""
