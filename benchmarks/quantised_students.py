"""Students quantised during training, beside the float one they start from:
`python -m benchmarks quantised_students --data DIR --train PHOTOS`.

DIR holds Set5, Set14 and B100. Every run starts from the embedded student's weights and has the same steps and, for one
seed, the same batches. `float, trained on` is the control: the same steps without quantisation. The second table has
the `--int8` files of the 8-bit students of the first seed: how far their images of Set5 are from the network's.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

import srkd
from benchmarks.equal_budget import (
    SETS,
    Contender,
    Scores,
    budget_of,
    cells_of,
    compare,
    conditions,
    gain,
    parser_of,
    seeds_of,
)
from benchmarks.evidence import Benchmark, Column, Row, Table, save
from benchmarks.int8_quality import pairs, run, score
from compressor.assets import embedded_student
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.quantisation.quantisers import quantised_bytes
from compressor.runtimes.onnx_runtime import cpu_session

BENCHMARK = Benchmark(
    "What do students lose that are quantised while they train?",
    minutes=60,
    arguments=("--data", "{sets}", "--train", "{photos}"),
    small=("--data", "{sets}", "--steps", "2", "--seeds", "1", "--only", "pams-8-all", "--out", "runs/small/quantised"),
)

SETTINGS = ("batch=8", "lr_patch=24", "rate=1e-4", "decay=cosine", "precision=fp32")
CONTROL = "float"


FILE_COLUMNS = (
    Column("row", ""),
    Column("fp64", "the network in fp64"),
    Column("nodes", "the file, node by node"),
    Column("runtime", "the file in ONNX Runtime"),
    Column("network_db", "network, dB", ".3f"),
    Column("file_db", "file, dB", ".3f"),
)
FILE_CAPTION = (
    "Against the network in fp32, on Set5: the largest difference of a value in grey levels, and dB over all images. "
    "The last columns are the Y-PSNR of both. Node by node: without the fusions of ONNX Runtime. First seed."
)


def contenders() -> list[Contender]:
    student = embedded_student()
    rows = [Contender(CONTROL, "inherit", "float, trained on", width=1.0, init="inherit", teacher=student)]
    for recipe in ("pams", "pact"):
        for bits in (8, 4):
            for placement in ("paper", "all"):
                settings = (f"bits={bits}", f"placement={placement}")
                title = f"{recipe}, {bits} bits, {placement}"
                rows.append(
                    Contender(f"{recipe}-{bits}-{placement}", recipe, title, teacher=student, settings=settings)
                )
    return rows


def main() -> None:
    parser = parser_of(__doc__, out="runs/quantised-students", steps=300)
    parser.add_argument("--only", default="", help="contenders by name, with commas between")
    options = parser.parse_args()
    budget = budget_of(options, SETTINGS)
    chosen = [one for one in contenders() if not options.only or one.name in (CONTROL, *options.only.split(","))]
    scores = compare(chosen, budget, options.data)
    start = {
        name: srkd.evaluate([embedded_student()], data=options.data / name).models["student"][name].psnr_y
        for name in SETS
    }
    sizes = {one.name: quantised_bytes(load_checkpoint(budget.folder(one.name)).network) for one in chosen}
    folder = budget.folder(CONTROL)
    seeds = f"{budget.seeds} seeds" if budget.seeds > 1 else "1 seed"
    tables = {"": table(chosen, scores, start, sizes, f"{conditions(folder)} {seeds}.")}
    in_eight_bits = [one for one in chosen if "bits=8" in one.settings]
    rows = [{"row": one.label, **file_row(budget.folder(one.name), options.data / "Set5")} for one in in_eight_bits]
    tables["files"] = Table(FILE_COLUMNS, rows, FILE_CAPTION)
    save("quantised_students", tables, seeds=seeds_of(budget), variant=options.variant)


def table(
    chosen: Sequence[Contender],
    scores: Scores,
    start: Mapping[str, float],
    sizes: Mapping[str, int],
    caption: str,
) -> Table:
    """Return a row per contender: scores, also by seed, gain over the control, and MB with weights at their bits."""
    columns = [
        Column("row", ""),
        *(Column(name, name) for name in SETS),
        Column("gain", "over the float student trained on"),
        Column("megabytes", "MB", ".3f"),
    ]
    rows: list[Row] = [{"row": "the student they start from", **{name: f"{start[name]:.3f}" for name in SETS}}]
    for one in chosen:
        over = None if one.name == CONTROL else gain(scores, one.name, CONTROL)
        rows.append({"row": one.label, **cells_of(scores[one.name]), "gain": over, "megabytes": sizes[one.name] / 1e6})
    return Table(columns, rows, caption)


def file_row(folder: Path, images: Path) -> Row:
    """Return how far images of a student's `--int8` file, and of the network in fp64, are from the network's."""
    network = load_checkpoint(folder).network
    exact = copy.deepcopy(network).double()
    with tempfile.TemporaryDirectory() as temporary:
        # No bound: the row shows what a file loses.
        report = srkd.export(
            folder, formats=["int8"], out=Path(temporary) / "student", max_drop=math.inf, progress=False
        )
        (file,) = (entry.path for entry in report.files if entry.format == "int8" and entry.path is not None)
        fused, unfused = cpu_session(file), cpu_session(file, optimised=False)
    calls: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "fp64": lambda lr: exact(lr.double()).float(),
        "nodes": lambda lr: run(unfused, lr),
        "runtime": lambda lr: run(fused, lr),
    }
    differences: dict[str, list[torch.Tensor]] = {name: [] for name in calls}
    network_scores, file_scores = [], []
    with torch.inference_mode():
        for lr, hr_u8 in pairs(images):
            sr_01 = network(lr).clamp(0, 1)
            for name, call in calls.items():
                differences[name].append((call(lr).clamp(0, 1) - sr_01).double().flatten())
            network_scores.append(score(sr_01, hr_u8))
            file_scores.append(score(run(fused, lr), hr_u8))
    return {
        **{name: distance(torch.cat(values)) for name, values in differences.items()},
        "network_db": sum(network_scores) / len(network_scores),
        "file_db": sum(file_scores) / len(file_scores),
    }


def distance(difference: torch.Tensor) -> str:
    """Return the largest difference in grey levels and PSNR in dB, of values in [0,1]."""
    return f"{255 * float(difference.abs().max()):.1f}, {-10 * math.log10(float(difference.square().mean())):.0f} dB"
