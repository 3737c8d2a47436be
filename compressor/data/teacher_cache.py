"""Images in half precision in an entry of the cache folder that grows, found by the key of what each was made from.

outputs.fp16 holds the values, image after image; outputs.jsonl has a line for each, written after its values: key,
place, size and checksum. So a process that dies leaves whole images behind, and at worst some bytes that no line names.
An image whose checksum is wrong counts as absent and is made again. One process writes at a time.

A teacher's outputs, made once for whole images and cropped ever after by the sampler of the training images.

Two approximations make it an option and not the rule: an output of the whole image has no patch borders, which the
teacher of a patch sees, and the output of a mirrored patch is taken to be the mirrored output; `difference` measures
both. Values are unclamped, in half precision. Views: `whole` is the LR image; `zoom-out` is that image shrunk once more
by the scale, for methods that label what nobody has labelled (DUKD).
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import torch

from compressor.base.cache_folder import CacheFolder, mapped, told
from compressor.base.context import Note, Progress, no_note, no_progress
from compressor.base.errors import SrkdError, UsageError
from compressor.base.precision import Precision, autocast
from compressor.data.batches import Batches, Labels, View
from compressor.data.store import ImageStore, Plane, has_room
from compressor.images.metrics import PEAK, psnr
from compressor.images.resize import imresize
from compressor.inference.tiling import run_tiled
from compressor.runtimes.torch_runtime import tf32_off
from compressor.teachers.teacher import Teacher

BYTES = 2
HEADER = b"srkd: outputs of a teacher, fp16".ljust(64)
"""So that a new file too has something to map, and by that is in use."""


@runtime_checkable
class HasTeacherViews(Protocol):
    """A method that says for which inputs it wants the teacher's output alone, so that a cache may give it."""

    @property
    def teacher_views(self) -> Sequence[View]: ...


def teacher_views(methods: Iterable[object]) -> tuple[View, ...]:
    """Return the views that the methods want outputs of, each once."""
    views = [view for method in methods if isinstance(method, HasTeacherViews) for view in method.teacher_views]
    return tuple(dict.fromkeys(views))


@dataclass(frozen=True)
class Entry:
    """Where an image lies, counted in values; C,H,W with three channels."""

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
    """The entry of one name in a cache folder."""

    folder: CacheFolder
    name: str

    @property
    def data(self) -> Path:
        return self.folder.path / self.name / "outputs.fp16"

    @property
    def index(self) -> Path:
        return self.folder.path / self.name / "outputs.jsonl"

    @contextmanager
    def held(self, announce: Note) -> Iterator[None]:
        """Nobody else writes the entry meanwhile, which may just be making what is wanted here, nor removes it."""
        with self.folder.growing(self.name, announce):
            with _one_line(self.data), open(self.data, "a+b") as file:
                if not file.seek(0, 2):
                    file.write(HEADER)
                    file.flush()
                hold = mapped(file)
            try:
                yield
            finally:
                hold.close()

    def sound(self, keys: Sequence[str], progress: Progress) -> dict[str, Entry]:
        """The entries among `keys` whose values are what was written."""
        known = self._listed()
        present = [known[key] for key in dict.fromkeys(keys) if key in known]
        if not present:
            return {}
        sound = {}
        values = self._values().numpy()
        for done, entry in enumerate(present, start=1):
            if zlib.crc32(values[entry.offset : entry.offset + entry.values].data) == entry.crc32:
                sound[entry.key] = entry
            progress("checking the teacher cache", done, len(present))
        return sound

    def append(self, key: str, image: torch.Tensor) -> Entry:
        """Write (3,H,W) in half precision behind everything else: first the values, then their line."""
        values = image.to(torch.float16).contiguous().cpu().numpy().data
        _, height, width = image.shape
        with _one_line(self.data), open(self.data, "ab") as data, open(self.index, "a+b") as index:
            start = data.seek(0, 2)
            start += data.write(bytes(-start % BYTES))
            entry = Entry(key, start // BYTES, height, width, zlib.crc32(values))
            try:
                data.write(values.cast("B"))
                data.flush()
            except OSError:
                data.truncate(start)
                raise
            index.write(_newline_if_cut(index) + json.dumps(asdict(entry)).encode() + b"\n")
        return entry

    def plane(self, entries: Mapping[str, Entry], keys: Sequence[str]) -> Plane:
        """The images of `keys`, in their order, in the memory-mapped file."""
        ordered = [entries[key] for key in keys]
        return Plane(
            self._values(),
            torch.tensor([entry.offset for entry in ordered]),
            torch.tensor([entry.height for entry in ordered]),
            torch.tensor([entry.width for entry in ordered]),
        )

    def _values(self) -> torch.Tensor:
        """The whole file, memory-mapped; in use as long as the tensor lives."""
        with open(self.data, "rb") as file:
            whole = mapped(file)
        return torch.frombuffer(whole, dtype=torch.float16, count=len(whole) // BYTES)

    def _listed(self) -> dict[str, Entry]:
        """What the index names and the file is long enough for; a line that a crash cut short is passed over."""
        size = self.data.stat().st_size // BYTES if self.data.is_file() else 0
        entries: dict[str, Entry] = {}
        for line in self.index.read_bytes().splitlines() if self.index.is_file() else []:
            try:
                entry = Entry(**json.loads(line))
                fits = entry.offset >= 0 and entry.values > 0 and entry.offset + entry.values <= size
            except (ValueError, TypeError):
                continue
            if fits:
                entries[entry.key] = entry
        return entries


def _newline_if_cut(index: BinaryIO) -> bytes:
    """A line that a crash cut short is ended before the next one."""
    if index.seek(0, 2) == 0:
        return b""
    index.seek(-1, 2)
    return b"" if index.read(1) == b"\n" else b"\n"


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SrkdError(f"cannot write the teacher cache {path}: {error.strerror or error}") from error


FORMAT = 1
"""Part of every key: outputs made in another way have another number."""
LARGEST = torch.finfo(torch.float16).max
MEASURED_PATCHES = 4


@dataclass(frozen=True)
class CachedView:
    """One view of every image of a store: what the teacher is shown, and where and under which keys its outputs lie."""

    view: View
    shown: Plane
    shrink: int
    file: OutputFile
    keys: tuple[str, ...]


@dataclass(frozen=True)
class TeacherCache:
    """Everything decided about a cache before the teacher runs."""

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
        """Name the file and the keys of every view; nothing runs and nothing is written."""
        scale = store.scale
        if "zoom-out" in views and lr_patch % scale:
            raise UsageError(
                f"schedule.lr_patch={lr_patch}: a cache of zoom-out outputs at x{scale} needs patches that are a "
                f"multiple of {scale}: --set schedule.lr_patch={lr_patch // scale * scale or scale}"
            )
        who = teacher_key(teacher)
        planned = []
        for view in dict.fromkeys(views):
            shown, shrink = (store.lr, 1) if view == "whole" else (zoomed_out(store.lr, scale), scale)
            name = _hash(json.dumps([FORMAT, who, view, precision]).encode())
            keys = tuple(image_key(shown.image(index)) for index in range(len(store.names)))
            planned.append(CachedView(view, shown, shrink, OutputFile(folder, f"teacher-{name}"), keys))
        return cls(store.names, scale, precision, tuple(planned))

    @property
    def bytes(self) -> int:
        return sum(self._bytes(one, range(len(one.keys))) for one in self.views)

    def _bytes(self, one: CachedView, indices: Iterable[int]) -> int:
        """What the outputs for these images take."""
        shown = one.shown
        return sum(BYTES * 3 * self.scale**2 * int(shown.heights[i]) * int(shown.widths[i]) for i in indices)

    def facts(self) -> dict[str, Any]:
        """What run.json keeps: a resumed run must find the same."""
        return {
            "precision": self.precision,
            "storage": "fp16, unclamped",
            "views": {
                one.view: {
                    "entry": one.file.name,
                    "images": _hash("".join(one.keys).encode()),
                    "bytes": self._bytes(one, range(len(one.keys))),
                }
                for one in self.views
            },
        }

    def filled(
        self, teacher: Teacher, progress: Progress = no_progress, announce: Note = no_note
    ) -> dict[View, Labels]:
        """Run the teacher where an image has no sound output yet, and map what there is then."""
        return {
            one.view: Labels(
                self._fill(one, teacher, progress, announce),
                self.scale,
                None if one.shrink == 1 else one.shown,
                one.shrink,
            )
            for one in self.views
        }

    def serve(self, labels: Mapping[View, Labels], teacher: Teacher, batches: Batches, announce: Note) -> Batches:
        """The batches with what was kept, and a line on how far that is from the teacher's own outputs."""
        device = batches.device or torch.device("cpu")
        if device.type != "cpu" and has_room(self.bytes, "the teacher's outputs", device, announce):
            moved: dict[View, Labels] = {view: one.to(device) for view, one in labels.items()}
            labels = moved
        served = batches.labelled(labels)
        announce(difference_line(difference(teacher, served, self.precision)))
        return served

    def _fill(self, one: CachedView, teacher: Teacher, progress: Progress, announce: Note) -> Plane:
        with one.file.held(announce):
            entries = one.file.sound(one.keys, progress)
            missing = {key: index for index, key in enumerate(one.keys) if key not in entries}
            one.file.folder.require_room(self._bytes(one, missing.values()), "--teacher-cache")
            seam = 0.0
            for done, (key, index) in enumerate(missing.items(), start=1):
                image, difference = self._output(teacher, one, index)
                entries[key] = one.file.append(key, image)
                seam = max(seam, difference)
                progress(f"teacher on {one.view} images", done, len(missing))
            announce(
                f"teacher cache: {len(one.keys)} {one.view} images, {len(missing)} of them made now, "
                f"{told(self._bytes(one, range(len(one.keys))))} in {one.file.data.parent}"
            )
            if seam:
                announce(f"teacher cache: tiles of this teacher are not exact; largest seam {255 * seam:.2f} of 255")
            return one.file.plane(entries, one.keys)

    def _output(self, teacher: Teacher, one: CachedView, index: int) -> tuple[torch.Tensor, float]:
        """The unclamped output for one image in half precision, and the seam where tiles are not exact."""
        model = teacher.descriptor
        with _arithmetic(teacher.device, self.precision):
            tiled = run_tiled(
                lambda lr: teacher(lr).float(),
                _unit(one.shown.image(index))[None].to(teacher.device),
                scale=model.scale,
                radius=model.receptive_radius,
                size_multiple=model.size_multiple,
                min_size=model.min_size,
            )
        largest = float(tiled.sr.abs().max())
        if not largest <= LARGEST:
            raise SrkdError(
                f"image {self.names[index]}: the teacher's output reaches {largest:g}, and half precision ends at "
                f"{LARGEST:g}: leave out --teacher-cache"
            )
        return tiled.sr[0].half(), tiled.seam or 0.0


def teacher_key(teacher: Teacher) -> str:
    """A hash of everything that decides what a teacher gives."""
    file = "" if teacher.network is not None or teacher.origin is None else teacher.origin.sha256
    return _hash(json.dumps([teacher.backend, teacher.fingerprint(), file, teacher.img_range]).encode())


def image_key(image: torch.Tensor) -> str:
    """A hash of an image's size and values."""
    return _hash(f"{image.dtype} {tuple(image.shape)} ".encode() + image.cpu().contiguous().numpy().tobytes())


def zoomed_out(plane: Plane, scale: int) -> Plane:
    """Every image shrunk by the scale, neither rounded to 8 bit nor clipped; in half precision, as they are shown."""
    images = [imresize(_unit(plane.image(index)), 1 / scale).half() for index in range(len(plane.offsets))]
    sizes = torch.tensor([image.numel() for image in images])
    return Plane(
        torch.cat([image.reshape(-1) for image in images]),
        torch.cumsum(sizes, 0) - sizes,
        torch.tensor([image.shape[1] for image in images]),
        torch.tensor([image.shape[2] for image in images]),
    )


def difference(teacher: Teacher, batches: Batches, precision: Precision = "fp32") -> dict[View, float]:
    """PSNR in dB between cached outputs and those of the teacher for the very patches: the first few of step 0."""
    few = replace(batches, samples=range(MEASURED_PATCHES)).at(0)
    figures = {}
    for view, known in few.labels.items():
        with _arithmetic(teacher.device, precision):
            direct = teacher(known.lr).float()
        figures[view] = float(psnr(PEAK * known.sr, PEAK * direct).mean())
    return figures


def difference_line(figures: Mapping[View, float]) -> str:
    """The figures as one line for a person."""
    told = ", ".join(f"{view} {db:.1f} dB" for view, db in figures.items())
    return f"teacher cache: PSNR between cached and direct targets on {MEASURED_PATCHES} patches: {told}"


def _unit(image: torch.Tensor) -> torch.Tensor:
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
