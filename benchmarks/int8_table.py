"""One student in every precision: `python -m benchmarks int8_table --data SETS --train PHOTOS`.

Float, fp16, what can be done after training, and students trained quantised at 8 and 4 bits (PAMS, PACT), which start
from it and have --steps more; `float, trained on` has as many without quantisation. SETS holds Set5, Set14 and B100.
Columns: Y-PSNR, megabytes (of 4 bits counted, as no file has them), ms and the ratio to float of one thread's CPU time,
in turns, and the nodes that ONNX Runtime computes in integers.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import torch

from benchmarks.equal_budget import FIRST_SEED, SETS, Contender, budget_of, parser_of, scored, trained
from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, save
from benchmarks.int8_quality import SIDE, by_onnx_runtime, cpu_times, pairs, run, score
from benchmarks.quantised_students import CONTROL, SETTINGS, contenders
from compressor.assets import embedded_student
from compressor.inference.open import open_model
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from compressor.models.quantisation.quantisers import quantised_bytes
from compressor.models.students.spread import spread_streams
from compressor.runtimes.onnx_runtime import cpu_session
from export.formats.table import FORMATS
from export.graph.onnx_graph import OPSET, build_graph
from export.int8.calibration import calibration_patches
from export.int8.float_parts import FloatParts
from export.int8.quantise.ends import Ends, meet_image
from export.int8.quantise.equalise import equalise_channels
from export.int8.quantise.plan import CPU, TENSORRT, Flavour, make_plan
from export.int8.quantise.tool import quantise
from export.proof.integer_nodes import count_integer_nodes
from export.writing.exporting import Source, convert_to

BENCHMARK = Benchmark(
    "What does each precision of one student lose, weigh and gain?",
    minutes=90,
    arguments=("--data", "{sets}", "--train", "{photos}", "--calibrate", "{photos}"),
    small=("--data", "{sets}", "--train", "{photos}", "--calibrate", "{photos}", "--steps", "2"),
)

FILES: Mapping[str, tuple[Flavour, Callable[[Ends], FloatParts]]] = {
    "int8": (CPU, lambda ends: FloatParts()),
    "int8, weights solved again": (CPU, lambda ends: FloatParts(variant=True)),
    "int8, sums in float": (CPU, lambda ends: FloatParts(sums=True)),
    "int8, first and last layer in float": (
        CPU,
        lambda ends: FloatParts(layers=frozenset(_names(ends)[at] for at in (0, -1))),
    ),
    "int8-trt": (TENSORRT, lambda ends: FloatParts()),
}


def main() -> None:
    parser = parser_of(__doc__, out="runs/quantised-students", steps=300)
    parser.add_argument("--calibrate", type=Path, help="photos to calibrate on; none: the embedded ones")
    options = parser.parse_args()
    torch.set_num_threads(1)
    budget = budget_of(options, SETTINGS)
    runs = {one.name: (one, trained(one, FIRST_SEED, budget)) for one in contenders()}
    with tempfile.TemporaryDirectory() as folder:
        rows = list(_rows(options.data, options.calibrate, runs, Path(folder)))
    save("int8_table", table(rows, budget.steps), seeds=(FIRST_SEED,))


def _rows(data: Path, photos: Path | None, runs: Mapping[str, tuple[Contender, Path]], folder: Path) -> Iterator[Row]:
    network = load_checkpoint(embedded_student()).network
    files = [(FORMATS[name].precision, _converted(name, network, folder)) for name in ("onnx", "fp16")]
    patches = calibration_patches(network.descriptor, photos).patches
    static = folder / "static.onnx"
    onnx.save(by_onnx_runtime(network, build_graph(network, None, OPSET).model, patches), static)
    files.append(("int8 by ONNX Runtime's `quantize_static`", static))
    ends = equalise_channels(meet_image(build_graph(spread_streams(network, patches), None, OPSET).model), patches)
    for name, (flavour, parts) in FILES.items():
        path = folder / f"{len(files)}.onnx"
        onnx.save(quantise(make_plan(ends.graph, flavour, parts(ends), ends.images), patches), path)
        files.append((name, path))
    for one, run_folder in runs.values():
        if "-8-" in one.name:
            files.append((one.label, _converted("int8", load_checkpoint(run_folder).network, folder, one.name)))
    measure = _Measure(data, files[0][1])
    for name, path in files:
        yield measure.row(name, path, timed="trt" not in name)
    for one, run_folder in runs.values():
        if "-4-" in one.name or one.name == CONTROL:
            size = quantised_bytes(load_checkpoint(run_folder).network) / 1e6
            yield {"name": one.label, **scored(run_folder, data), "megabytes": size}


def _names(ends: Ends) -> list[str]:
    return [layer.name for _, layer in sorted(ends.graph.layers.items())]


def _converted(name: str, network: Network, folder: Path, stem: str = "student") -> Path:
    path = folder / f"{stem}{FORMATS[name].suffix}"
    convert_to(FORMATS[name], network, Source(stem), path)
    return path


class _Measure:
    def __init__(self, data: Path, reference: Path) -> None:
        self.images = {name: list(pairs(data / name)) for name in SETS}
        self.reference = cpu_session(reference, threads=1)

    def row(self, name: str, path: Path, *, timed: bool) -> Row:
        session = cpu_session(path, threads=1)
        row: dict[str, Cell] = {"name": name, "megabytes": path.stat().st_size / 1e6}
        for set_name, images in self.images.items():
            row[set_name] = statistics.mean(score(run(session, lr), hr) for lr, hr in images)
        if not timed:  # the file is for another runtime
            return row
        times = cpu_times(self.reference, session)
        row["ms"] = 1000 * statistics.median(one for _, one in times)
        row["times_as_fast"] = statistics.median(float_s / s for float_s, s in times)
        counted = count_integer_nodes(open_model(path), path)
        row["nodes"] = None if counted is None else f"{counted.nodes_in_int8} of {counted.nodes}"
        return row


def table(rows: Sequence[Row], steps: int) -> Table:
    columns = [
        Column("name", ""),
        *(Column(name, name, ".3f") for name in SETS),
        Column("megabytes", "MB", ".3f"),
        Column("ms", "ms", ".1f"),
        Column("times_as_fast", "times as fast as float", ".2f"),
        Column("nodes", "nodes in int8"),
    ]
    caption = f"ONNX Runtime, one thread, LR {SIDE}x{SIDE}, times of the processor in turns; {steps} steps."
    return Table(columns, rows, caption)
