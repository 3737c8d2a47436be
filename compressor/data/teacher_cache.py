"""A teacher's outputs for whole images, stored on disk and cropped by the sampler of the training images.

Two approximations make this an option and not the default: an output of a whole image has no patch borders, which the
teacher of a patch sees, and the output of a mirrored patch is assumed to be the mirrored output. Values are unclamped,
in half precision.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from compressor.base.cache_folder import CacheFolder, format_bytes, map_file
from compressor.base.choices import Precision
from compressor.base.compute_device import ComputeDevice
from compressor.base.context import QUIET, Context, Note
from compressor.base.errors import SrkdError, report_unwritable
from compressor.base.files import append
from compressor.data.batches import Batches
from compressor.data.placement import fits_on_device, pack
from compressor.data.store import Extent, ImageStore, Plane, plane_of
from compressor.inference.tiling import run_tiled
from compressor.models.networks.cost import pixel_bytes
from compressor.runtimes.torch_runtime import arithmetic
from compressor.teachers.teacher import Teacher

FORMAT = 3
"""Part of every key: it changes with the way in which outputs are computed or stored."""

FP16_BYTES = 2
FP16_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class OutputFile:
    """Images in half precision in a growing entry of the cache folder, by the key of their inputs.

    outputs.fp16 holds the values, image after image; outputs.jsonl has a line for each, written after its values: its
    key and its first byte. So a process that dies leaves whole images behind, and at worst some bytes without a line.
    """

    folder: CacheFolder
    name: str

    @property
    def data(self) -> Path:
        return self.folder.path / self.name / "outputs.fp16"

    @property
    def index(self) -> Path:
        return self.folder.path / self.name / "outputs.jsonl"

    def positions(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return the first byte of each image that is there, for images by key and their sizes in bytes."""
        length = self.data.stat().st_size if self.data.is_file() else 0
        found: dict[str, int] = {}
        for line in self.index.read_bytes().splitlines() if self.index.is_file() else ():
            with suppress(ValueError, TypeError):  # a line that a crash cut short, or damage
                key, start = json.loads(line)
                if key in sizes and 0 <= start <= length - sizes[key] and start % FP16_BYTES == 0:
                    found[key] = int(start)
        return found

    def add(self, key: str, image: torch.Tensor) -> int:
        """Append a (3,H,W) image: first the values, then their line; return its first byte."""
        with report_unwritable(f"the teacher cache {self.data}"):
            start = self.data.stat().st_size if self.data.is_file() else 0
            padding = bytes(-start % FP16_BYTES)  # behind values that a crash cut short
            append(self.data, padding + image.half().contiguous().cpu().numpy().tobytes())
            # The line break comes first, and ends a line that a crash cut short.
            append(self.index, b"\n" + json.dumps([key, start + len(padding)]).encode())
        return start + len(padding)

    def plane(self, extents: Sequence[Extent]) -> Plane:
        """Return images of the file, memory-mapped: it is in use as long as the plane exists."""
        with open(self.data, "rb") as file:
            content = map_file(file)
        values = torch.frombuffer(content, dtype=torch.float16, count=len(content) // FP16_BYTES)
        return plane_of(values, extents)


@dataclass(frozen=True)
class TeacherCache:
    """The file and keys of a teacher's outputs for the LR images of a store, determined before the teacher runs."""

    names: tuple[str, ...]
    scale: int
    precision: Precision
    inputs: Plane
    file: OutputFile
    keys: tuple[str, ...]
    sizes: tuple[int, ...]
    """Size of each output in bytes."""

    @classmethod
    def plan(
        cls, teacher: Teacher, store: ImageStore, *, folder: CacheFolder, precision: Precision = "fp32"
    ) -> TeacherCache:
        """Return a cache with its file and keys; nothing is run or written."""
        name = _hash(json.dumps([FORMAT, teacher_key(teacher), precision]).encode())
        images = [store.lr.image(index) for index in range(len(store.names))]
        keys = tuple(image_key(image) for image in images)
        sizes = tuple(FP16_BYTES * store.scale**2 * image.numel() for image in images)
        file = OutputFile(folder, f"teacher-{name}")
        return cls(store.names, store.scale, precision, store.lr, file, keys, sizes)

    def facts(self) -> dict[str, Any]:
        """Return the facts for run.json, which must be the same in a resumed run."""
        return {
            "precision": self.precision,
            "storage": "fp16, unclamped",
            "entry": self.file.name,
            "images": _hash("".join(self.keys).encode()),
            "bytes": sum(self.sizes),
        }

    def attach(self, labels: Plane, batches: Batches, note: Note) -> Batches:
        """Return the batches with the labels, on the device of the batches if they fit there."""
        device = batches.device or torch.device("cpu")
        if not ComputeDevice(device).is_cpu and fits_on_device(sum(self.sizes), "the teacher's outputs", device, note):
            labels = pack(labels, device)
        return replace(batches, labels=labels)

    def fill(self, teacher: Teacher, context: Context = QUIET) -> Plane:
        """Run the teacher on images without an intact output, and return all outputs, memory-mapped."""
        file, sizes = self.file, dict(zip(self.keys, self.sizes, strict=True))
        with file.folder.growing_entry(file.name, context.note):
            positions = file.positions(sizes)
            missing = {key: index for index, key in enumerate(self.keys) if key not in positions}
            file.folder.require_space(sum(sizes[key] for key in missing), "--teacher-cache")
            largest_seam = 0.0
            for key, index in context.each("teacher on whole images", missing.items()):
                image, seam = self._output(teacher, index)
                positions[key] = file.add(key, image)
                largest_seam = max(largest_seam, seam)
            context.note(
                f"teacher cache: {len(self.keys)} images, {len(missing)} of them made now, "
                f"{format_bytes(sum(self.sizes))} in {file.data.parent}"
            )
            if largest_seam:
                context.note(
                    f"teacher cache: tiles of this teacher are not exact; largest seam {255 * largest_seam:.2f} of 255"
                )
            return file.plane(self._extents([positions[key] for key in self.keys]))

    def rehearse(self, teacher: Teacher) -> tuple[Plane, float]:
        """Zeros in place of the outputs, to try steps with, and the seconds that `fill` will take, by one image."""
        there, seconds = self.file.positions(dict(zip(self.keys, self.sizes, strict=True))), 0.0
        missing = [index for index, key in enumerate(self.keys) if key not in there]
        if missing:
            began = time.perf_counter()
            self._output(teacher, missing[0])
            share = sum(self.sizes[index] for index in missing) / self.sizes[missing[0]]
            seconds = (time.perf_counter() - began) * share
        starts = [0, *accumulate(self.sizes)]
        return plane_of(torch.zeros(starts.pop() // FP16_BYTES, dtype=torch.float16), self._extents(starts)), seconds

    def _extents(self, starts: Sequence[int]) -> list[Extent]:
        shapes = zip(starts, self.inputs.heights.tolist(), self.inputs.widths.tolist(), strict=True)
        return [Extent(start // FP16_BYTES, self.scale * h, self.scale * w) for start, h, w in shapes]

    def _output(self, teacher: Teacher, index: int) -> tuple[torch.Tensor, float]:
        """Return the unclamped output for one image in half precision, and the seam if tiles are not exact."""
        with arithmetic(teacher.device, self.precision):
            tiled = run_tiled(
                lambda lr: teacher(lr).float(),
                self.inputs.image(index)[None].to(teacher.device).float().div_(255),
                # A fixed-size teacher refuses other sizes itself, with advice.
                replace(teacher.descriptor, fixed_size=None, max_size=None),
                pixel_bytes=None if teacher.network is None else pixel_bytes(teacher.network.spec),
            )
        peak = float(tiled.sr.abs().max())
        if not peak <= FP16_MAX:
            raise SrkdError(
                f"image {self.names[index]}: the teacher's output reaches {peak:g}, and half precision ends at "
                f"{FP16_MAX:g}: leave out --teacher-cache"
            )
        return tiled.sr[0].half(), tiled.seam or 0.0


def teacher_key(teacher: Teacher) -> str:
    """Return a hash of everything that a teacher's outputs depend on."""
    file = "" if teacher.network is not None or teacher.origin is None else teacher.origin.sha256
    return _hash(json.dumps([teacher.backend, teacher.fingerprint(), file]).encode())


def image_key(image: torch.Tensor) -> str:
    return _hash(f"{image.dtype} {tuple(image.shape)} ".encode() + image.cpu().contiguous().numpy().tobytes())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
