"""A teacher's outputs for whole images, stored on disk and cropped by the sampler of the training images.

Two approximations make this an option and not the default: an output of a whole image has no patch borders, which the
teacher of a patch sees, and the output of a mirrored patch is assumed to be the mirrored output; `measure_difference`
measures both. Values are unclamped, in half precision. Views: `whole` is the LR image; `zoom-out` is that image
downscaled once more by the scale, for methods that need labels for images without HR originals (DUKD).
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from compressor.base.cache_folder import CacheFolder, format_bytes, map_file
from compressor.base.choices import Precision
from compressor.base.context import QUIET, Context, Note, Progress
from compressor.base.errors import SrkdError, UsageError, report_unwritable
from compressor.base.precision import autocast
from compressor.data.batches import Batches, Labels, View
from compressor.data.placement import fits_on_device
from compressor.data.store import Extent, ImageStore, Plane, plane_of
from compressor.images.metrics import PEAK, psnr
from compressor.images.resize import imresize
from compressor.inference.tiling import run_tiled
from compressor.models.networks.cost import pixel_bytes
from compressor.runtimes.torch_runtime import tf32_off
from compressor.teachers.teacher import Teacher

FORMAT = 1
"""Part of every key: it changes with the way in which outputs are computed."""

FP16_BYTES = 2
FP16_MAX = torch.finfo(torch.float16).max
MEASURED_PATCHES = 4

HEADER = b"srkd: outputs of a teacher, fp16".ljust(64)
"""File header: with it even a new file can be mapped, and so counts as in use."""


@dataclass(frozen=True)
class OutputRecord:
    """The position of one output, in values, and its size (three channels)."""

    key: str
    offset: int
    height: int
    width: int
    crc32: int

    @property
    def values(self) -> int:
        return 3 * self.height * self.width


@dataclass(frozen=True)
class OutputFile:
    """Images in half precision in a growing entry of the cache folder, by the key of their inputs.

    outputs.fp16 holds the values, image after image; outputs.jsonl has one line per image, written after its values:
    key, position, size and checksum. So a process that dies leaves whole images behind, and at worst some bytes without
    a line. An image with a wrong checksum counts as absent and is computed again. Only one process writes at a time.
    """

    folder: CacheFolder
    name: str

    @property
    def data(self) -> Path:
        return self.folder.path / self.name / "outputs.fp16"

    @property
    def index(self) -> Path:
        return self.folder.path / self.name / "outputs.jsonl"

    @contextmanager
    def lock(self, note: Note) -> Iterator[None]:
        """Prevent other processes from writing the entry (after waiting for a current writer) and from removing it."""
        with self.folder.growing_entry(self.name, note):
            with report_unwritable(f"the teacher cache {self.data}"), open(self.data, "a+b") as file:
                if not file.seek(0, 2):
                    file.write(HEADER)
                    file.flush()
                mapping = map_file(file)
            try:
                yield
            finally:
                mapping.close()

    def check(self, keys: Sequence[str], progress: Progress) -> dict[str, OutputRecord]:
        """Return the records of `keys` whose values match their checksum."""
        records = self._read_index()
        present = [records[key] for key in dict.fromkeys(keys) if key in records]
        if not present:
            return {}
        intact = {}
        values = self._values().numpy()
        for done, record in enumerate(present, start=1):
            if zlib.crc32(values[record.offset : record.offset + record.values].data) == record.crc32:
                intact[record.key] = record
            progress("checking the teacher cache", done, len(present))
        return intact

    def append(self, key: str, image: torch.Tensor) -> OutputRecord:
        """Append a (3,H,W) image in half precision: first the values, then their line."""
        values = image.to(torch.float16).contiguous().cpu().numpy().data
        _, height, width = image.shape
        with (
            report_unwritable(f"the teacher cache {self.data}"),
            open(self.data, "ab") as data,
            open(self.index, "a+b") as index,
        ):
            start = data.seek(0, 2)
            start += data.write(bytes(-start % FP16_BYTES))
            record = OutputRecord(key, start // FP16_BYTES, height, width, zlib.crc32(values))
            try:
                data.write(values.cast("B"))
                data.flush()
            except OSError:
                data.truncate(start)
                raise
            line = json.dumps(asdict(record)).encode() + b"\n"
            if index.seek(0, 2):
                index.seek(-1, 2)
                # End a line that a crash cut short.
                line = line if index.read(1) == b"\n" else b"\n" + line
            index.write(line)
        return record

    def plane(self, records: Mapping[str, OutputRecord], keys: Sequence[str]) -> Plane:
        """Return the images of `keys`, in order, in the memory-mapped file."""
        ordered = (records[key] for key in keys)
        return plane_of(self._values(), [Extent(record.offset, record.height, record.width) for record in ordered])

    def _values(self) -> torch.Tensor:
        """Return the whole file, memory-mapped; it is in use as long as the tensor exists."""
        with open(self.data, "rb") as file:
            content = map_file(file)
        return torch.frombuffer(content, dtype=torch.float16, count=len(content) // FP16_BYTES)

    def _read_index(self) -> dict[str, OutputRecord]:
        """Return the records within the length of the file; a line that a crash cut short is skipped."""
        size = self.data.stat().st_size // FP16_BYTES if self.data.is_file() else 0
        records: dict[str, OutputRecord] = {}
        for line in self.index.read_bytes().splitlines() if self.index.is_file() else []:
            try:
                record = OutputRecord(**json.loads(line))
                fits = record.offset >= 0 and record.values > 0 and record.offset + record.values <= size
            except (ValueError, TypeError):
                continue
            if fits:
                records[record.key] = record
        return records


@dataclass(frozen=True)
class CachedView:
    """One view of every image of a store: the teacher's inputs, and file and keys of its outputs."""

    view: View
    inputs: Plane
    shrink: int
    file: OutputFile
    keys: tuple[str, ...]
    output_bytes: tuple[int, ...]
    """Size of each output in bytes."""


@dataclass(frozen=True)
class TeacherCache:
    """The files and keys of a cache, determined before the teacher runs."""

    names: tuple[str, ...]
    scale: int
    precision: Precision
    views: tuple[CachedView, ...]

    @classmethod
    def plan(
        cls,
        teacher: Teacher,
        store: ImageStore,
        views: Sequence[View],
        *,
        folder: CacheFolder,
        lr_patch: int,
        precision: Precision = "fp32",
    ) -> TeacherCache:
        """Return a cache with the file and the keys of every view; nothing is run or written."""
        scale = store.scale
        if "zoom-out" in views and lr_patch % scale:
            raise UsageError(
                f"schedule.lr_patch={lr_patch}: a cache of zoom-out outputs at x{scale} needs patches that are a "
                f"multiple of {scale}: --lr-patch {lr_patch // scale * scale or scale}"
            )
        model = teacher_key(teacher)
        cached_views = []
        for view in dict.fromkeys(views):
            inputs, shrink = (store.lr, 1) if view == "whole" else (zoom_out(store.lr, scale), scale)
            name = _hash(json.dumps([FORMAT, model, view, precision]).encode())
            images = [inputs.image(index) for index in range(len(store.names))]
            keys = tuple(image_key(image) for image in images)
            output_bytes = tuple(FP16_BYTES * scale**2 * image.numel() for image in images)
            file = OutputFile(folder, f"teacher-{name}")
            cached_views.append(CachedView(view, inputs, shrink, file, keys, output_bytes))
        return cls(store.names, scale, precision, tuple(cached_views))

    def facts(self) -> dict[str, Any]:
        """Return the facts for run.json, which must be the same in a resumed run."""
        return {
            "precision": self.precision,
            "storage": "fp16, unclamped",
            "views": {
                view.view: {
                    "entry": view.file.name,
                    "images": _hash("".join(view.keys).encode()),
                    "bytes": sum(view.output_bytes),
                }
                for view in self.views
            },
        }

    def fill(self, teacher: Teacher, context: Context = QUIET) -> dict[View, Labels]:
        """Run the teacher on images without an intact output, and return all outputs, memory-mapped."""
        return {view.view: self._fill_view(view, teacher, context) for view in self.views}

    def attach(self, labels: Mapping[View, Labels], teacher: Teacher, batches: Batches, note: Note) -> Batches:
        """Return the batches with the labels; a note reports their PSNR to the teacher's direct outputs."""
        device = batches.device or torch.device("cpu")
        size = sum(sum(view.output_bytes) for view in self.views)
        if device.type != "cpu" and fits_on_device(size, "the teacher's outputs", device, note):
            labels = {view: view_labels.to(device) for view, view_labels in labels.items()}
        labelled = batches.with_labels(labels)
        psnr_db = measure_difference(teacher, labelled, self.precision)
        figures = ", ".join(f"{view} {db:.1f} dB" for view, db in psnr_db.items())
        note(f"teacher cache: PSNR between cached and direct targets on {MEASURED_PATCHES} patches: {figures}")
        return labelled

    def _fill_view(self, view: CachedView, teacher: Teacher, context: Context) -> Labels:
        file = view.file
        with file.lock(context.note):
            records = file.check(view.keys, context.progress)
            missing = {key: index for index, key in enumerate(view.keys) if key not in records}
            missing_bytes = sum(view.output_bytes[index] for index in missing.values())
            file.folder.require_space(missing_bytes, "--teacher-cache")
            largest_seam = 0.0
            for done, (key, index) in enumerate(missing.items(), start=1):
                image, seam = self._output(teacher, view, index)
                records[key] = file.append(key, image)
                largest_seam = max(largest_seam, seam)
                context.progress(f"teacher on {view.view} images", done, len(missing))
            context.note(
                f"teacher cache: {len(view.keys)} {view.view} images, {len(missing)} of them made now, "
                f"{format_bytes(sum(view.output_bytes))} in {file.data.parent}"
            )
            if largest_seam:
                context.note(
                    f"teacher cache: tiles of this teacher are not exact; largest seam {255 * largest_seam:.2f} of 255"
                )
            outputs = file.plane(records, view.keys)
        return Labels(outputs, self.scale, None if view.shrink == 1 else view.inputs, view.shrink)

    def _output(self, teacher: Teacher, view: CachedView, index: int) -> tuple[torch.Tensor, float]:
        """Return the unclamped output for one image in half precision, and the seam if tiles are not exact."""
        with _arithmetic(teacher.device, self.precision):
            tiled = run_tiled(
                lambda lr: teacher(lr).float(),
                _to_unit_range(view.inputs.image(index))[None].to(teacher.device),
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


def zoom_out(plane: Plane, scale: int) -> Plane:
    """Return every image downscaled by the scale, neither rounded to 8 bit nor clipped, in half precision."""
    images = [imresize(_to_unit_range(plane.image(index)), 1 / scale).half() for index in range(len(plane.offsets))]
    sizes = torch.tensor([image.numel() for image in images])
    return Plane(
        torch.cat([image.reshape(-1) for image in images]),
        torch.cumsum(sizes, 0) - sizes,
        torch.tensor([image.shape[1] for image in images]),
        torch.tensor([image.shape[2] for image in images]),
    )


def measure_difference(teacher: Teacher, batches: Batches, precision: Precision = "fp32") -> dict[View, float]:
    """Return the PSNR in dB between cached and direct outputs, on the first patches of step 0."""
    batch = replace(batches, samples=range(MEASURED_PATCHES)).at(0)
    psnr_db = {}
    for view, cached in batch.labels.items():
        with _arithmetic(teacher.device, precision):
            direct = teacher(cached.lr).float()
        psnr_db[view] = float(psnr(PEAK * cached.sr, PEAK * direct).mean())
    return psnr_db


def _to_unit_range(image: torch.Tensor) -> torch.Tensor:
    return image.float().div_(255) if image.dtype == torch.uint8 else image.float()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


@contextmanager
def _arithmetic(device: torch.device, precision: Precision) -> Iterator[None]:
    with ExitStack() as stack:
        if device.type == "cuda" and precision == "fp32":
            stack.enter_context(tf32_off())
        stack.enter_context(autocast(precision, device))
        yield
