"""The code that runs in a row's child process: it opens a model and times it in turns.

`process.py` calls everything here by name, with JSON values.
"""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from compressor.base.context import Progress
from compressor.base.errors import SrkdError, is_out_of_memory, reason_of
from compressor.base.memory import keep_freed_memory
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import PEAK, psnr_y, to_u8
from compressor.images.protocol import Protocol
from compressor.images.resize import mod_crop
from compressor.images.scores import EQUAL_DB, Scores
from compressor.images.sets import embedded_pairs
from compressor.inference.evaluate import run_exactly
from compressor.inference.evaluated_images import make_lr
from compressor.inference.numbers import numbers_of
from compressor.inference.open import open_model
from compressor.inference.super_resolve import Bicubic
from compressor.runtimes.table import OpenOptions, torch_device_for
from export.profile.layers import measure_layers
from export.profile.matrix_rate import matrix_rate
from export.profile.memory import PeakMemory
from export.proof.integer_nodes import IntegerNodes, count_integer_nodes
from export.timing.stopwatch import image_for, timer_for
from export.timing.turns import Call, TurnTimes, no_garbage_collection


@dataclass(frozen=True)
class MeasuredJob:
    """A model to open. `libraries` are imported before its memory is measured."""

    path: str
    options: OpenOptions = field(default_factory=OpenOptions)
    libraries: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFacts:
    """Facts of an open model; `numbers` is a line about the quantisation of a quantised one."""

    runtime: str
    device: str
    precision: str
    layout: str
    scale: int
    channels: int
    spec: Mapping[str, Any] | None
    metadata: Mapping[str, str]
    emulated: bool = False
    numbers: str | None = None
    integer_nodes: IntegerNodes | None = None
    integer_nodes_missing: str | None = None
    """Reason why the runtime of an int8 file does not show its integer nodes."""


@dataclass(frozen=True)
class FirstCall:
    """The time of a workload's first call, in which some runtimes compile, and the model's peak memory."""

    first_ms: float
    memory_mb: float | None = None
    """Megabytes; None if they were not asked for or are unknown."""
    memory_missing: str | None = None
    """Reason why the memory is unknown."""


@dataclass(frozen=True)
class PhotoScores:
    """Mean scores on the embedded validation photos, of a model and of bicubic."""

    own: Scores
    bicubic: Scores


class MeasuredModel:
    """An open model, with the images of each workload (width, height, images per batch)."""

    def __init__(self, progress: Progress, *, path: str, options: Mapping[str, Any], libraries: Sequence[str]) -> None:
        for library in libraries:
            importlib.import_module(library)
        self._threads = options["threads"] or 1
        torch.set_num_threads(self._threads)
        self._path = Path(path)
        with _failures_in_one_line("opening it"):
            self._memory = PeakMemory()
            self._runtime = open_model(path, OpenOptions(**options))
        self._time = timer_for(self._runtime.device)
        self._images: dict[tuple[int, int, int], torch.Tensor] = {}
        # Garbage collection would slow a turn at random; freeze what exists by now.
        gc.collect()
        gc.freeze()

    def facts(self) -> dict[str, Any]:
        """Return `ModelFacts`, as a dict: all results of this class cross the process boundary as JSON."""
        runtime = self._runtime
        nodes, missing = None, None
        if runtime.precision == "int8":
            try:
                nodes = count_integer_nodes(runtime, self._path)
            except SrkdError as error:
                missing = str(error)
        return asdict(
            ModelFacts(
                runtime=runtime.name,
                device=runtime.device,
                precision=runtime.precision,
                layout=runtime.layout,
                scale=runtime.descriptor.scale,
                channels=runtime.descriptor.channels,
                spec=None if runtime.spec is None else runtime.spec.to_dict(),
                metadata=dict(runtime.metadata),
                emulated=runtime.emulated,
                numbers=numbers_of(runtime).line(),
                integer_nodes=nodes,
                integer_nodes_missing=missing,
            )
        )

    def prepare(self, *, workload: Sequence[int], memory: bool) -> dict[str, Any]:
        """Run a workload and return the `FirstCall`. With `memory`, run it again and also measure the peak memory."""
        call = self._call(workload)
        with _failures_in_one_line(_described(workload)):
            if not memory:
                return asdict(FirstCall(self._time(call, 1)[0]))
            self._memory.reset(self._runtime)
            (first,) = self._time(call, 1)
            call()
            try:
                return asdict(FirstCall(first, memory_mb=self._memory.megabytes(self._runtime)))
            except SrkdError as error:
                return asdict(FirstCall(first, memory_missing=str(error)))

    def keep_memory(self) -> None:
        """Do not return freed memory to the system from now on, as in every command of srkd."""
        keep_freed_memory()

    def turn(self, *, workload: Sequence[int], calls: int) -> dict[str, Any]:
        """The `TurnTimes` of that many calls."""
        with no_garbage_collection(), _failures_in_one_line(_described(workload)):
            started = time.process_time()
            milliseconds = self._time(self._call(workload), calls)
            ran = calls + (calls > 1)  # with several calls an untimed one runs first
            cpu_ms = 1000 * (time.process_time() - started) / ran
        # CPU time is meaningless for several threads, which spin while they wait, and for the work of a GPU.
        is_alone = self._threads == 1 and self._runtime.device == "cpu"
        return asdict(TurnTimes(milliseconds, cpu_ms if is_alone else None))

    def layers(self, *, workload: Sequence[int]) -> list[dict[str, Any]] | None:
        with _failures_in_one_line("timing its layers"):
            rows = measure_layers(self._runtime, self._path, self._image(workload))
        return None if rows is None else [asdict(row) for row in rows]

    def matrix_rate(self, *, precision: str) -> dict[str, Any] | None:
        rate = matrix_rate(torch_device_for(self._runtime.device), precision)
        return None if rate is None else asdict(rate)

    def quality(self, *, folder: str, is_teacher: bool) -> dict[str, Any]:
        """The `PhotoScores` on the embedded validation photos. The teacher writes its images into the folder, and later
        models are compared with those that are there.
        """
        scale, scores = self._runtime.descriptor.scale, []
        with _failures_in_one_line("scoring it"):
            for pair in embedded_pairs("val"):
                hr_u8 = mod_crop(read_rgb_u8(pair.hr), scale)
                lr = make_lr(hr_u8, scale, Protocol())[None].float() / 255
                images = [
                    to_u8(run_exactly(model, lr, None, False, pair.hr)) for model in (self._runtime, Bicubic(scale))
                ]
                file, teacher_u8 = Path(folder, f"{pair.stem}-x{scale}.pt"), None
                if is_teacher:
                    torch.save(images[0], file)
                elif file.is_file():
                    teacher_u8 = torch.load(file, weights_only=True)
                scores.append([_scores_of(sr_u8, hr_u8[None], teacher_u8, scale) for sr_u8 in images])
        own, bicubic = (_mean(of_images) for of_images in zip(*scores, strict=True))
        return asdict(PhotoScores(own, bicubic))

    def _call(self, workload: Sequence[int]) -> Call:
        return partial(self._runtime.run, self._image(workload))

    def _image(self, workload: Sequence[int]) -> torch.Tensor:
        """The batch, already on the device from which the runtime reads it."""
        width, height, batch = workload
        if (width, height, batch) not in self._images:
            self._images[width, height, batch] = image_for(self._runtime, width, height, batch)
        return self._images[width, height, batch]


def _scores_of(
    sr_u8: torch.Tensor, hr_u8: torch.Tensor, teacher_u8: torch.Tensor | None, scale: int
) -> Sequence[float | None]:
    """Y-PSNR in dB of an image to the original and to the teacher's."""
    planes = [None if image is None else image.double() / PEAK for image in (hr_u8, teacher_u8)]
    sr = sr_u8.double() / PEAK
    return [None if plane is None else min(EQUAL_DB, float(psnr_y(sr, plane, border=scale))) for plane in planes]


def _mean(of_images: Sequence[Sequence[float | None]]) -> Scores:
    to_original, to_teacher = (
        None if None in column else sum(value or 0.0 for value in column) / len(column)
        for column in zip(*of_images, strict=True)
    )
    return Scores(psnr_y=to_original, psnr_y_teacher=to_teacher)


def _described(workload: Sequence[int]) -> str:
    width, height, batch = workload
    return f"running {width}x{height}{f' in a batch of {batch}' if batch > 1 else ''}"


@contextmanager
def _failures_in_one_line(doing: str) -> Iterator[None]:
    """Turn any failure, also out of memory, into a one-line error: the process stays alive for other workloads."""
    try:
        yield
    except SrkdError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise SrkdError(f"{doing} takes more memory than there is") from error
        raise SrkdError(f"{doing} failed: {reason_of(error)}") from error
