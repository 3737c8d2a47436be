"""Opening of mutated files: `python -m tests.support.fuzz KIND[,KIND] COUNT SEED FOLDER`.

It runs in a separate process, because native code reads most of these formats: a crash must fail a test and not end it.
Jobs that srkd runs in a new process with limits run here in a fork under similar limits, which takes milliseconds. The
results of each kind are printed as one JSON object; a file that gives neither an open model nor a one-line error is
kept in FOLDER and listed under `wrong`.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from compressor.base.child import Child, ChildFailed, ResourceLimits, children_started_by, limit_memory, serve
from compressor.base.context import Progress
from compressor.base.errors import SrkdError, is_out_of_memory
from compressor.base.machine import native_silence
from compressor.images.files import image_size, read_picture, read_rgb_u8
from compressor.inference.open import open_model
from compressor.models.checkpoints.save import metadata_of
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.teachers.teacher import load_teacher
from compressor.video.reading import Film
from compressor.video.writing import other_streams
from export.convert.to_onnx import convert
from export.formats.conversion import Conversion
from recipes.config.reading import load_preset
from tests.support.commands import ROOT
from tests.support.films import make_film, picture
from tests.support.foreign_models import save_onnx, twin
from tests.support.hostile_checkpoints import damaged, peak_mb

LIMITS = ResourceLimits(seconds=3, memory_mb=2000)
"""Limits of a fork, tighter than the usual ones because thousands of files are tried."""
WILD_INTEGERS = (0, -1, 1, 2, 3, 7, 255, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
WILD_WORDS = ("", "0", "-1", "1e99", "99999999999999999999", "null", ".nan", "[", "{", '"', "é", "\u202e", "*a", "!!x")


def mutated_words(content: bytes, rng: random.Random) -> bytes:
    """Return a text with numbers and names replaced by others of the same text, or by extreme ones."""
    pieces = re.split(rb"(\w+)", content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        numbers = [index for index, piece in enumerate(pieces) if piece.isdigit()]
        at = rng.choice(numbers) if numbers and rng.random() < 0.5 else rng.randrange(len(pieces))
        wild = str(rng.choice(WILD_INTEGERS)).encode()
        pieces[at] = rng.choice((rng.choice(pieces), wild, rng.choice(WILD_WORDS).encode()))
    return b"".join(pieces)


def mutated_onnx(path: Path, rng: random.Random) -> bytes:
    """Return the file with damaged bytes, or with one to three fields of the graph changed."""
    content = path.read_bytes()
    if rng.random() < 0.4:
        return damaged(content, rng)
    model = onnx.load_model_from_string(content)
    for _ in range(rng.choice((1, 1, 3))):
        mutate_message(rng.choice(numbers_of(model)) if rng.random() < 0.4 else model, rng)
    return bytes(model.SerializeToString())


def numbers_of(model: onnx.ModelProto) -> list[Any]:
    """Return the integer tensors and the attributes of nodes, which decide the amount of computation."""
    tensors = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT64]
    return [*tensors, *(attribute for node in model.graph.node for attribute in node.attribute)]


def mutate_message(message: Any, rng: random.Random) -> None:
    """Change a random field of a protobuf message, at any depth."""
    while True:
        fields = [field for field, _ in message.ListFields()]
        if not fields:
            return
        field = rng.choice(fields)
        value = getattr(message, field.name)
        many = not isinstance(value, (str, bytes, int, float)) and hasattr(value, "__len__")
        if many and not len(value):
            return
        if many and rng.random() < 0.1:
            at = rng.randrange(len(value))
            value.append(value[at])
            return
        if many and rng.random() < 0.1:
            del value[rng.randrange(len(value))]
            return
        item = value[rng.randrange(len(value))] if many else value
        if hasattr(item, "ListFields"):
            message = item
            continue
        new = mutated_scalar(item, rng)
        try:
            if many:
                value[rng.randrange(len(value))] = new
            else:
                setattr(message, field.name, new)
        except (ValueError, TypeError):  # an integer that the field does not hold
            message.ClearField(field.name)
        return


def mutated_scalar(value: object, rng: random.Random) -> Any:
    if isinstance(value, int):
        return rng.choice(WILD_INTEGERS)
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    if isinstance(value, bytes):
        if len(value) in range(8, 72, 8) and rng.random() < 0.7:  # 64-bit numbers, such as shapes and counts
            at = 8 * rng.randrange(len(value) // 8)
            return value[:at] + rng.choice(WILD_INTEGERS).to_bytes(8, "little", signed=True) + value[at + 8 :]
        return damaged(value, rng)
    operators = ("Conv", "DepthToSpace", "Resize", "Tile", "Expand", "Loop", "If", "Pad", "MaxPool", "Identity")
    return rng.choice((*operators, *WILD_WORDS, "../../etc/passwd", "lr", "sr", "weight", "CRD", "DCR", "EXTERNAL"))


def mutated_recipe(path: Path, rng: random.Random) -> bytes:
    content = path.read_bytes()
    kind = rng.randrange(4)
    if kind == 0:
        return damaged(content, rng)
    if kind == 1:
        return mutated_words(content, rng)
    lines = content.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    if kind == 2:
        lines[at : at + 1] = [rng.choice(lines)] * rng.choice((0, 1, 2, 300))
    else:
        indent = b" " * rng.randrange(7)
        more = (b"[" * 3000, b"{a: " * 500, b"9" * 5000, b"- " * 800, b"&a x", b"? y", b"!!python/name:os.system")
        lines.insert(at, indent + b"x: " * rng.randrange(2) + rng.choice(more) + b"\n")
    return b"".join(lines)


def mutated_image(path: Path, rng: random.Random) -> bytes:
    """Return the file with changed bytes, half of them near the start, where the headers are."""
    content = bytearray(path.read_bytes())
    if rng.random() < 0.3:
        return damaged(bytes(content), rng)
    for _ in range(rng.choice((1, 1, 3, 30))):
        at = rng.randrange(min(len(content), rng.choice((80, len(content)))))
        content[at] = rng.choice((0, 255, rng.randrange(256)))
    return bytes(content)


def onnx_seeds(folder: Path) -> list[Path]:
    """Write two foreign files, one of which decides its amount of computation by numbers, and one of srkd's exports."""
    network = build(EDSRSpec(width=8, depth=1, scale=2), seed=0)
    convert(Conversion(network, folder / "own.onnx", metadata_of(network.spec)))
    return [save_onnx(twin(), folder / "twin.onnx"), save_busy_onnx(folder / "busy.onnx"), folder / "own.onnx"]


def save_busy_onnx(path: Path) -> Path:
    """Write a graph that pads, crops, repeats, resizes, and adds in a loop; return its path."""
    value, node = helper.make_tensor_value_info, helper.make_node
    body = helper.make_graph(
        [node("Identity", ["go"], ["go_on"]), node("Add", ["x", "x"], ["x_next"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, None)],
        [value("go_on", TensorProto.BOOL, []), value("x_next", TensorProto.FLOAT, None)],
    )
    numbers = {
        "pads": [0, 0, 2, 2, 0, 0, 2, 2],
        "starts": [2, 2],
        "ends": [-2, -2],
        "axes": [2, 3],
        "repeats": [1, 1, 1, 1],
        "trips": 3,
    }
    tensors = [numpy_helper.from_array(np.array(number, dtype=np.int64), name) for name, number in numbers.items()]
    tensors.append(numpy_helper.from_array(np.array([1, 1, 2, 2], dtype=np.float32), "factors"))
    tensors.append(numpy_helper.from_array(np.array(True), "true"))
    nodes = [
        node("Pad", ["lr", "pads"], ["padded"], mode="edge"),
        node("Slice", ["padded", "starts", "ends", "axes"], ["cropped"]),
        node("Tile", ["cropped", "repeats"], ["tiled"]),
        node("Resize", ["tiled", "", "factors"], ["large"], mode="nearest"),
        node("Loop", ["trips", "true", "large"], ["sr"], body=body),
    ]
    ends = [value(name, TensorProto.FLOAT, ["n", 3, None, None]) for name in ("lr", "sr")]
    graph = helper.make_graph(nodes, "busy", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def image_seeds(folder: Path) -> list[Path]:
    """Write small pictures of every format, with all its modes, a colour profile and EXIF; return their paths."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a stranger's"
    files = []
    modes = {
        ".png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        ".jpg": ("L", "RGB", "CMYK"),
        ".webp": ("RGB", "RGBA"),
        ".tif": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F"),
        ".bmp": ("1", "L", "P", "RGB"),
    }
    for suffix, names in modes.items():
        for mode in names:
            path = folder / f"{mode.replace(';', '')}{suffix}"
            if mode == "I;16":
                image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
            else:
                image = Image.fromarray(noise).convert("RGB").convert(mode)
            more = {"exif": exif.tobytes()} if suffix in (".png", ".jpg", ".webp") else {}
            image.save(path, **more)
            files.append(path)
    frames = [Image.fromarray(noise[..., :3]), Image.fromarray(noise[::-1, :, :3])]
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    (folder / "moves.webp").write_bytes(stream.getvalue())
    return [*files, folder / "moves.webp"]


def film_seeds(folder: Path) -> list[Path]:
    """Write films of two frames in each container and codec that are written; return their paths."""
    frames, files = [picture(1, (32, 24)), picture(2, (32, 24))], list[Path]()
    for name, codec in (("a.mp4", "h264"), ("b.mkv", "hevc"), ("c.webm", "vp9"), ("d.mkv", "ffv1")):
        depth = "10le" if codec == "hevc" else ""
        files.append(make_film(folder / name, frames, codec=codec, pixel_format=f"yuv420p{depth}"))
    return files


NOT_FOR_SRKD = ("moves.webp", "F.tif")
"""Pictures that are refused without mutation: several frames, and floating-point pixels."""
LR = torch.zeros(1, 3, 5, 4)


def open_program(path: Path) -> None:
    """Open and run an ONNX file as a teacher, or as a model."""
    if path.stat().st_size % 2:
        runtime = open_model(path)
        size = max(runtime.descriptor.min_size, 8)
        runtime.run(torch.zeros(1, runtime.descriptor.channels, size, size))
        return
    teacher = load_teacher(path)
    teacher(LR[:, : teacher.descriptor.channels])


def open_image(path: Path) -> None:
    image_size(path)
    read_picture(path)
    read_rgb_u8(path)


def open_film(path: Path) -> None:
    with Film(path) as film:
        for _ in film.frames():
            pass
    other_streams(path, ".mkv")


@dataclass(frozen=True)
class Kind:
    """A kind of file: functions that write good ones, mutate them and open them."""

    seeds: Callable[[Path], list[Path]]
    mutate: Callable[[Path, random.Random], bytes]
    open: Callable[[Path], object]


KINDS = {
    "ONNX": Kind(onnx_seeds, mutated_onnx, open_program),
    "recipe": Kind(
        lambda folder: sorted((ROOT / "recipes" / "presets").glob("*.yaml")),
        mutated_recipe,
        lambda path: load_preset(str(path)),
    ),
    "image": Kind(image_seeds, mutated_image, open_image),
    "film": Kind(film_seeds, mutated_image, open_film),
}


def verdict(kind: Kind, path: Path) -> str:
    """Return `opened`, `refused`, or a description of the failure."""
    try:
        kind.open(path)
        return "opened"
    except SrkdError as error:
        message = str(error)
        # A recipe names up to twenty mistakes.
        is_line = message.isprintable() and len(message) < 20 * (len(str(path)) + 250)
        return "refused" if is_line else f"not one line: {message[:300]!r}"
    except Exception as error:
        if is_out_of_memory(error):  # the command says so in one line
            return "refused"
        return traceback.format_exc(limit=-3)


def used_seconds() -> float:
    """Return the processor seconds of this process and its forks; other programs do not count."""
    rows = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(row.ru_utime + row.ru_stime for row in rows)


ENDED = {"crashed": 0, "over their time": 0}
"""Numbers of forks that did not end by themselves."""


class Forked(ForkProcess):
    def wait(self) -> int | None:
        self.join()
        return self.exitcode


class Fork(Child):
    """A child with one result that is a fork of this process, which has no threads, with the limits of this file."""

    def __init__(self, function: str, job: object, *, what: str, progress: Progress, **options: object) -> None:
        self._what, self._progress = what, progress
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the child lives
        self._pipe, end = Pipe()
        self._process = Forked(target=work, args=(function, end))  # type: ignore[assignment]
        self._process.start()  # type: ignore[attr-defined]
        end.close()
        self._pipe.send_bytes(json.dumps(job).encode())

    def result(self, timeout_seconds: float | None = None) -> Any:
        try:
            return super().result(LIMITS.seconds)
        except ChildFailed as error:
            if not error.crashed and "it took" not in error.reason:
                raise AssertionError(error.reason) from error
            ENDED["crashed" if error.crashed else "over their time"] += 1
            raise


def work(function: str, pipe: Connection) -> None:
    limit_memory(LIMITS.memory_mb)
    with native_silence():
        serve(function, pipe)


def attack(kind: Kind, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Open `count` mutated files; return the results."""
    folder.mkdir()
    rng, seeds = random.Random(seed), kind.seeds(folder)
    for path in seeds:
        outcome = verdict(kind, path)
        assert outcome == "opened" or path.name in NOT_FOR_SRKD, f"{path.name}, not mutated: {outcome}"
    start_mb, begin = peak_mb(reset=True), used_seconds()
    ENDED.update(dict.fromkeys(ENDED, 0))
    tally, wrong, slowest = {"opened": 0, "refused": 0}, [], (0.0, "")
    for number in range(count):
        source = rng.choice(seeds)
        path = folder / f"mutated{source.suffix}"
        content = kind.mutate(source, rng)
        path.write_bytes(content)
        (folder.parent / "last").write_text(f"file {number} of seed {seed}: {source.name}")
        one = used_seconds()
        outcome = verdict(kind, path)
        slowest = max(slowest, (round(used_seconds() - one, 2), f"file {number}: {source.name}"))
        if outcome in tally:
            tally[outcome] += 1
        else:
            wrong.append(f"file {number}, {source.name}: {outcome}")
            (folder / f"wrong{len(wrong)}{source.suffix}").write_bytes(content)
    return {
        **tally,
        "wrong": wrong,
        "ended": dict(ENDED),
        "growth_mb": round(peak_mb() - start_mb),
        "seconds": round(used_seconds() - begin, 1),
        "slowest": slowest,
    }


def main() -> int:
    count, seed, folder = int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # a fork has no other threads
    os.environ["SRKD_CACHE"] = str(folder / "cache")
    with children_started_by(Fork):
        report = {name: attack(KINDS[name], count, seed, folder / name) for name in sys.argv[1].split(",")}
    sys.stdout.write(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
