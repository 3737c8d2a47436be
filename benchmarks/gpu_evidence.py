"""All that only a GPU can show, in about 40 minutes: `python -m benchmarks.gpu_evidence [--only PART] [--data SETS]`.

Each part is a separate command; its output, exit code, time and machine are written to one JSON file as soon as it
ends, the most valuable part first. A part that succeeded, according to its file, is not repeated: the command can be
stopped and restarted. `--data` names a folder with Set5, Set14 and B100, without which the comparison of methods is
left out, --train one of photographs (the embedded ones, if it is not given), and `--baseline` the file of team 00's
SPAN (a network of its shape, if it is not given).

`--tiny --device cpu` runs every part in a small form, to see that the commands work; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from benchmarks.embedded_student import embedded_student
from benchmarks.equal_budget import SETS
from benchmarks.evidence import FOLDER_VARIABLE
from benchmarks.parts import Part, answer_all
from compressor.images.files import read_rgb_u8
from compressor.images.sets import embedded_photos
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.registry import build
from compressor.models.networks.rrdbnet import RRDBNetSpec

LARGE = ("--teacher", "edsr:width=256,depth=32,scale=4,res_scale=0.1")
PUBLISHED_STUDENT = ("--student", "edsr:width=64,depth=32,scale=4")
SMALL_STUDENT = ("--student", "edsr:width=16,depth=32,scale=4")
MIDDLE = ("--teacher", "edsr:width=64,depth=32,scale=4")
TINY = ("--batch", "1", "--lr-patch", "16", "--rounds", "1", "--steps", "1")
TINY_NETWORKS = ("--teacher", "edsr:width=16,depth=2,scale=4", "--student", "edsr:width=8,depth=2,scale=4")
ESRGAN = "esrgan.safetensors"
PHI = ("--set", "dckd.phi=teacher")
TIMED = ("--recipes", "scratch,logits,fakd,csd")
"""Of the eleven methods whose steps are timed on a CPU, as many as fit into the minutes of a GPU."""
LEADING = "fakd,hkdsr"
"""Methods that learn features and images of features, beside L1 from the fit."""


def parts(
    device: str, *, tiny: bool, data: Path | None, train: Path | None, runs: Path, baseline: Path | None = None
) -> list[Part]:
    """Return the parts, the most valuable first."""
    on = ("--device", device)

    def speed(variant: str, *words: str) -> tuple[str, ...]:
        shape = (*TINY, *TINY_NETWORKS) if tiny else ("--steps", "20")
        return ("benchmarks", "training_speed", "--variant", variant, *on, *words, *shape)

    runtimes = "torch,onnxruntime" if tiny else "torch,torch-compiled,onnxruntime"
    size = (
        ("--lr-size", "16x16", "--seconds", "0.1", "--rounds", "1", *TINY_NETWORKS)
        if tiny
        else ("--lr-size", "256x256")
    )
    engines = ("--trt", "--trt-bf16", "--trt-int8")
    profile = ("--variant", "gpu", *on, "--runtimes", runtimes, "--precisions", "fp32,bf16", *size)
    methods, steps = ("fakd", "4") if tiny else (LEADING, "1500")
    compared = (*on, "--sets", *SETS, "--seeds", "1", "--methods", methods, "--out", str(runs), "--steps", steps)
    student = "compact:width=8,depth=1" if tiny else "compact:width=64,depth=16"
    photos = () if train is None else ("--data", str(train))

    pictures: tuple[str, ...] = ("--side", "24", "--repeats", "1") if tiny else ()
    pictures += () if baseline is None else ("--baseline", str(baseline))
    slices = ("--init", "inherit") if tiny else ()  # no fit of a minute on a CPU

    def compress(name: str, steps: int, *words: str) -> tuple[str, ...]:
        shape = ("--steps", "2", "--batch", "2", "--lr-patch", "16") if tiny else ("--steps", str(steps))
        folder = runs / f"{name}-{datetime.now():%H%M%S}"  # a folder of a part that failed is not written to again
        return ("srkd", "compress", *words, *on, *photos, *shape, "--out", str(folder), "--json")

    folders: tuple[str, ...] = () if data is None else ("--data", str(data))
    folders += () if train is None else ("--train", str(train))
    return [
        Part("environment", "what is this machine, and what does srkd find on it?", 0.2, ("srkd", "doctor", "--json")),
        Part("tests", "does everything that runs on a device run on this one?", 4, ("pytest", "-q", "tests/device")),
        Part(
            "training-published",
            "steps of EDSR 32/256 -> 32/64, beside the field's loops",
            8,
            speed("gpu-published", *TIMED, *LARGE, *PUBLISHED_STUDENT),
        ),
        Part(
            "training-dukd",
            "steps of DUKD 32/64 -> 32/16 with all its operations on data (goal: 140 a second on an H200)",
            2,
            speed("gpu-dukd", "--recipes", "dukd", *MIDDLE, *SMALL_STUDENT),
        ),
        Part(
            "fit",
            "a Compact solved for on the device under an EDSR, then 200 steps",
            1,
            compress("fit", 200, "--recipe", "fit", "--student", student),
        ),
        Part(
            "perceptual",
            "an ESRGAN (random weights) and both ends of a student, on degraded photos",
            3,
            compress(
                *("perceptual", 400, "--recipe", "perceptual", "--teacher", str(runs.parent / ESRGAN)),
                *("--goal", "teacher", "--degrade", "realesrgan", "--student", student, "--init", "random"),
            ),
        ),
        Part("dckd", "contrast with a following copy", 2, compress("dckd", 200, "--recipe", "dckd", *PHI, *slices)),
        Part(
            "ray",
            "two runs on Ray, which lends the GPU to one after the other",
            1,
            compress("ray", 200, "--recipe", "inherit", "--width", "0.5", "--seeds", "2", "--on", "ray"),
            needs="" if find_spec("ray") else "Ray (pip install srkd[ray])",
        ),
        Part(
            "profile",
            "EDSR 32/64 beside 32/256 in fp32 and bf16: plain, compiled with graphs, and in ONNX Runtime",
            5,
            ("benchmarks", "profile_everywhere", *profile),
        ),
        Part(
            "ntire",
            "sizes of srkd as NTIRE's organisers time networks, beside team 00's SPAN",
            2,
            ("benchmarks", "ntire_timing", "--variant", "gpu", *on, *pictures),
        ),
        Part(
            "tensorrt",
            "TensorRT: engines of the embedded student in fp16, bf16 and int8, each compared, the last timed",
            5,
            ("srkd", "export", str(embedded_student()), *engines, "--json", "-o", str(runs / "engines")),
            needs="" if find_spec("tensorrt") else "TensorRT (pip install srkd[tensorrt])",
        ),
        Part(
            "methods",
            f"logits,{LEADING} beside L1 from the fit, in the time of 1,500 steps of logits",
            6,
            ("benchmarks", "methods", "--variant", "gpu", *compared, *folders),
            needs="--data" if data is None else "",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small forms of all parts: do the commands work?")
    parser.add_argument("--only", help="names of parts, separated by commas")
    parser.add_argument("--data", type=Path, help="folder with Set5, Set14 and B100")
    parser.add_argument("--train", type=Path, help="photographs to train on")
    parser.add_argument("--baseline", type=Path, help="file of team 00's SPAN, which NTIRE's timing is relative to")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-evidence"), help="folder of the JSON files")
    options = parser.parse_args(arguments)
    data = save_tiny_sets(options.out / "tiny-sets") if options.tiny and options.data is None else options.data
    runs = options.out / "methods-runs"
    save_esrgan(options.out / ESRGAN, tiny=options.tiny)
    every = parts(
        options.device, tiny=options.tiny, data=data, train=options.train, runs=runs, baseline=options.baseline
    )
    chosen = [part for part in every if options.only is None or part.name in options.only.split(",")]
    if not chosen:
        parser.error(f"--only {options.only}: the parts are {', '.join(part.name for part in every)}")
    results = {FOLDER_VARIABLE: str((options.out / "results").resolve())} if options.tiny else {}
    return answer_all(chosen, options.out, {"SRKD_TEST_DEVICE": options.device, **results})


def save_esrgan(file: Path, *, tiny: bool) -> None:
    """Write an ESRGAN with random weights: a step costs what it would with others."""
    spec = RRDBNetSpec(4, width=8, depth=1, growth=4) if tiny else RRDBNetSpec(4)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        save_network(build(spec, seed=0), file, metadata={})


def save_tiny_sets(folder: Path) -> Path:
    """Write one small photo under the name of each benchmark set."""
    photo = read_rgb_u8(next(iter(embedded_photos("val").values())))[:, :96, :96]
    for name in SETS:
        (folder / name / "HR").mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo.permute(1, 2, 0).contiguous().numpy()).save(folder / name / "HR" / "photo.png")
    return folder


if __name__ == "__main__":
    sys.exit(main())
