"""The code that runs in a row's child process: it opens a model and times it in turns.

`process.py` calls everything here by name, with JSON values.
"""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from compressor.base.choices import Goal
from compressor.base.context import Progress
from compressor.base.errors import SrkdError, one_line
from compressor.base.memory import keep_freed_memory
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import to_u8
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.scores import Scores
from compressor.images.sets import embedded_pairs
from compressor.inference.evaluate import run_exactly
from compressor.inference.numbers import numbers_of
from compressor.inference.open import open_model
from compressor.inference.super_resolve import Enlargement
from compressor.runtimes.table import OpenOptions
from export.profile.memory import PeakMemory
from export.proof.integer_nodes import IntegerNodes, count_integer_nodes
from export.proof.quality import psnr_of
from export.timing.stopwatch import image_for, timer_for
from export.timing.turns import Call, TurnTimes, no_garbage_collection


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
    """An open model, with the images of each workload (width, height, images per batch). `libraries` are imported
    before its memory is measured. Results are JSON values: those of the named classes, as dicts."""

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
        """The `ModelFacts`."""
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

    def quality(self, *, folder: str, is_teacher: bool) -> dict[str, Any]:
        """The `PhotoScores` on the embedded validation photos. The teacher writes its images into the folder, and later
        models are compared with those that are there.
        """
        scale, own, bicubic = self._runtime.descriptor.scale, list[Scores](), list[Scores]()
        with _failures_in_one_line("scoring it"):
            for pair in embedded_pairs("val"):
                hr_u8 = mod_crop(read_rgb_u8(pair.hr), scale)
                lr = downscale_u8(hr_u8, scale)[None].float() / 255
                sr_u8, enlarged_u8 = (
                    to_u8(run_exactly(model, lr, None, False, pair.hr)) for model in (self._runtime, Enlargement(scale))
                )
                file, teacher_u8 = Path(folder, f"{pair.stem}-x{scale}.pt"), None
                if is_teacher:
                    torch.save(sr_u8, file)
                elif file.is_file():
                    teacher_u8 = torch.load(file, weights_only=True)
                for scores, image_u8 in ((own, sr_u8), (bicubic, enlarged_u8)):
                    to_teacher = None if teacher_u8 is None else psnr_of(image_u8, teacher_u8, scale)
                    scores.append(Scores(psnr_y=psnr_of(image_u8, hr_u8[None], scale), psnr_y_teacher=to_teacher))
        return asdict(PhotoScores(_mean(own), _mean(bicubic)))

    def _call(self, workload: Sequence[int]) -> Call:
        """A call with the batch, which is already on the device from which the runtime reads it."""
        width, height, batch = workload
        if (width, height, batch) not in self._images:
            self._images[width, height, batch] = image_for(self._runtime, width, height, batch)
        return partial(self._runtime.run, self._images[width, height, batch])


def _mean(of_images: Sequence[Scores]) -> Scores:
    def mean(goal: Goal) -> float | None:
        values = [scores.by(goal) for scores in of_images]
        return None if None in values else sum(filter(None, values)) / len(values)

    return Scores(psnr_y=mean("original"), psnr_y_teacher=mean("teacher"))


def _described(workload: Sequence[int]) -> str:
    width, height, batch = workload
    return f"running {width}x{height}{f' in a batch of {batch}' if batch > 1 else ''}"


@contextmanager
def _failures_in_one_line(doing: str) -> Iterator[None]:
    """Turn any failure, also out of memory, into a one-line error: the process stays alive for other workloads."""
    try:
        with one_line(f"{doing} failed"):
            yield
    except SrkdError:
        raise
    except Exception as error:  # `one_line` lets out of memory pass
        raise SrkdError(f"{doing} takes more memory than there is") from error
