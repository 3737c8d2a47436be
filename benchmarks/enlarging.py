"""Pictures and films enlarged by srkd and by other ways: `python -m benchmarks enlarging --model MODEL`.

Each way reads a file, enlarges, and writes a file, with the same number of threads, in turns: a picture of 960x540 as
PNG, and a film of 320x180 (H.264 in and out, x264's constant quality 18). The other ways are what a user writes in
twenty lines: eager PyTorch, ONNX Runtime, OpenVINO and ncnn on the whole picture, frames one after the other. `apart`
is the largest difference of the picture to that of eager PyTorch, in levels of 255.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import srkd
from benchmarks.embedded_student import embedded_student
from benchmarks.evidence import Benchmark, Column, Row, Table, add_variant_option, save
from compressor.base.machine import machine_facts
from compressor.images.sets import embedded_photos
from compressor.models.checkpoints.load import load_checkpoint

BENCHMARK = Benchmark(
    "Is srkd upscale as fast as other ways to enlarge pictures and films?",
    minutes=15,
    arguments=("--model", "{checkpoints}/realesr-animevideov3_rezipped.pth"),
    small=("--picture", "64x48", "--film", "32x24", "--frames", "3", "--rounds", "1"),
)

COLUMNS = (
    Column("way", ""),
    Column("seconds", "seconds", ".2f"),
    Column("ratio", "times as fast as eager PyTorch", ".2f"),
    Column("apart", "apart", ".0f"),
)
Pixels: TypeAlias = NDArray[np.uint8]
Enlarge: TypeAlias = Callable[[Pixels], Pixels]
Way: TypeAlias = Callable[[Path], object]
"""Writes the enlarged picture or film to a path."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=embedded_student(), help="default: the embedded student")
    parser.add_argument("--picture", default="960x540", metavar="WxH")
    parser.add_argument("--film", default="320x180", metavar="WxH")
    parser.add_argument("--frames", type=int, default=48, help="of the film")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    add_variant_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        srkd.save(srkd.load(options.model), folder / "model.safetensors")
        srkd.export(folder / "model.safetensors", formats=["onnx", "openvino", "ncnn"], out=folder)
        picture, film = folder / "picture.png", folder / "film.mp4"
        Image.fromarray(photo(options.picture)).save(picture)
        write_film(film, (photo(options.film, shift) for shift in range(options.frames)))
        tables = {
            "picture": table(pictures(folder, picture, options.threads), options.rounds, ".png"),
            "film": table(films(folder, film, options.threads), options.rounds, ".mp4"),
        }
    where = f"{machine_facts()['cpu']}, {options.threads} thread(s); medians of {options.rounds} rounds in turns"
    captions = {"picture": f"A picture of {options.picture}", "film": f"{options.frames} frames of {options.film}"}
    named = f"by {options.model.stem}"
    save(
        "enlarging",
        {key: Table(COLUMNS, rows, f"{captions[key]} {named}; {where}.") for key, rows in tables.items()},
        variant=options.variant,
    )


def photo(size: str, shift: int = 0) -> Pixels:
    """Return a part of an embedded photo, repeated to the size and moved by `shift` pixels."""
    width, height = map(int, size.split("x"))
    source = np.asarray(Image.open(next(iter(embedded_photos("val").values()))).convert("RGB"))
    rows, columns = np.arange(height) % source.shape[0], (np.arange(width) + shift) % source.shape[1]
    return np.ascontiguousarray(source[rows][:, columns])


def table(ways: Mapping[str, Way], rounds: int, suffix: str) -> list[Row]:
    """Time the ways in turns; the first is what the others, and their pictures, are compared with."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    written: dict[str, NDArray[np.int16]] = {}
    for number in range(rounds):
        for way, run in ways.items():
            with tempfile.TemporaryDirectory() as place:
                out = Path(place, f"out{suffix}")
                began = time.monotonic()
                run(out)
                seconds[way].append(time.monotonic() - began)
                if suffix == ".png" and number == 0:
                    written[way] = np.asarray(Image.open(out)).astype(np.int16)
            print(f"{way}: {seconds[way][-1]:.2f} s", file=sys.stderr, flush=True)
    first = next(iter(ways))
    return [
        {
            "way": way,
            "seconds": statistics.median(times),
            "ratio": statistics.median(ours / own for ours, own in zip(seconds[first], times, strict=True)),
            "apart": float(np.abs(written[way] - written[first]).max()) if way in written else None,
        }
        for way, times in seconds.items()
    ]


def pictures(folder: Path, picture: Path, threads: int) -> dict[str, Way]:
    model = folder / "model.safetensors"
    others: dict[str, Way] = {
        way: partial(enlarge_picture, picture, opened) for way, opened in engines(folder, threads).items()
    }
    return others | {
        "`srkd upscale`": lambda out: srkd.upscale(model, picture, out=out),
        "`srkd upscale --exact`": lambda out: srkd.upscale(model, picture, out=out, exact=True),
    }


def films(folder: Path, film: Path, threads: int) -> dict[str, Way]:
    model = folder / "model.safetensors"
    others: dict[str, Way] = {
        way: partial(enlarge_film, film, opened) for way, opened in engines(folder, threads).items()
    }
    return others | {
        "`srkd upscale`": lambda out: srkd.upscale(model, film, out=out, codec="h264", crf=18),
    }


def engines(folder: Path, threads: int) -> dict[str, Callable[[], Enlarge]]:
    return {
        "eager PyTorch": lambda: by_torch(folder / "model.safetensors"),
        "ONNX Runtime": lambda: by_onnx_runtime(folder / "model.onnx", threads),
        "OpenVINO": lambda: by_openvino(folder / "model.openvino.xml", threads),
        "ncnn": lambda: by_ncnn(folder / "model.param", threads),
    }


def by_torch(file: Path) -> Enlarge:
    network = load_checkpoint(file).network.eval()

    def enlarge(lr_u8: Pixels) -> Pixels:
        with torch.inference_mode():
            return _bytes(network(torch.from_numpy(_planes(lr_u8))).numpy())

    return enlarge


def by_onnx_runtime(file: Path, threads: int) -> Enlarge:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda lr_u8: _bytes(session.run(None, {session.get_inputs()[0].name: _planes(lr_u8)})[0])


def by_openvino(file: Path, threads: int) -> Enlarge:
    import openvino

    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_NUM_THREADS": threads})
    return lambda lr_u8: _bytes(compiled(_planes(lr_u8))[0])


def by_ncnn(file: Path, threads: int) -> Enlarge:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.load_param(str(file))
    net.load_model(str(file.with_suffix(".bin")))

    def enlarge(lr_u8: Pixels) -> Pixels:
        extractor, (planes,) = net.create_extractor(), _planes(lr_u8)  # planes live until ncnn has its copy
        extractor.input(net.input_names()[0], ncnn.Mat(planes).clone())
        _, sr = extractor.extract(net.output_names()[0])
        return _bytes(np.array(sr)[None])

    return enlarge


def enlarge_picture(picture: Path, opened: Callable[[], Enlarge], out: Path) -> None:
    Image.fromarray(opened()(np.asarray(Image.open(picture).convert("RGB")))).save(out)


def enlarge_film(film: Path, opened: Callable[[], Enlarge], out: Path) -> None:
    import av

    enlarge = opened()
    with av.open(str(film)) as source:
        write_film(
            out, (enlarge(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)) for frame in source.decode(video=0))
        )


def write_film(path: Path, frames: Iterator[Pixels]) -> None:
    import av

    with av.open(str(path), "w") as target:
        stream: Any = target.add_stream("libx264", rate=24, options={"crf": "18"})
        stream.pix_fmt = "yuv420p"
        for number, pixels in enumerate(frames):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
            target.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        target.mux(stream.encode())


def _planes(image_u8: Pixels) -> NDArray[np.float32]:
    planes: NDArray[np.float32] = np.ascontiguousarray(image_u8.transpose(2, 0, 1)[None], np.float32)
    return np.divide(planes, 255, dtype=np.float32)


def _bytes(image: NDArray[np.float32]) -> Pixels:
    return np.ascontiguousarray((image[0].clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))
