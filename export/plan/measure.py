"""The measurement of a plan: an untrained shape is exported to its runtime and timed in turns with a reference.

Neither the weights nor the calibration data of an int8 file change its time: one small photo is enough.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from compressor.base.errors import SrkdError, UsageError
from compressor.base.machine import count_threads
from compressor.images.sets import embedded_photos
from compressor.inference.open import open_model
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.registry import build
from compressor.models.students.students import parse_student
from compressor.runtimes.base import Runtime
from compressor.runtimes.table import RUNTIMES, OpenOptions, torch_device_for
from export.formats.conversion import CannotConvert, FileOptions, Int8Options
from export.formats.table import Format, find_format
from export.plan.search import CandidateShape, ShapeMeasurement
from export.timing.stopwatch import image_for
from export.timing.turns import Call, CallTimes, compare, no_garbage_collection, take_turns, time_calls
from export.writing.exporting import Source, convert_to

ONCE = 4.0
"""A shape that takes more than this many times the target time is timed once, as it cannot be chosen."""
FILE_LOOKS = 8
"""Number of times that a finished file is measured, with pauses between."""
MANY_LOOKS = 8
"""From this number of measurements on, the interval leaves out the fastest and the slowest."""
CALIBRATION_SIDE = 48
"""Side in LR pixels of the photo on which an int8 file is calibrated."""


@dataclass(frozen=True)
class Environment:
    """The environment of a student: runtime, precision, LR size (width, height), device and CPU threads."""

    runtime: str = "onnxruntime"
    precision: str = "fp32"
    lr_size: tuple[int, int] = (320, 180)
    device: str = "cpu"
    threads: int | None = None

    def format(self) -> Format | None:
        """The format of the files; None for a checkpoint, which torch runs. Refuse unavailable combinations."""
        entry = RUNTIMES.find(self.runtime)
        missing = entry.missing_requirement()
        if missing is not None:
            raise UsageError(f"--runtime {self.runtime}: {missing}")
        if self.device.partition(":")[0] not in entry.devices:
            raise UsageError(f"--device {self.device}: {self.runtime} runs on {', '.join(entry.devices)}")
        if self.is_torch:
            if self.precision == "int8":
                raise UsageError(f"--precision int8: {self.runtime} computes in float; take --runtime onnxruntime")
            return None
        of_file = "fp32" if entry.selects_precision and self.precision != "int8" else self.precision
        try:
            return find_format(self.runtime, of_file)
        except SrkdError as error:
            raise UsageError(f"--precision {self.precision}: {error}") from error

    @property
    def is_torch(self) -> bool:
        return RUNTIMES[self.runtime].runs_checkpoints

    def open_options(self) -> OpenOptions:
        selects = RUNTIMES[self.runtime].selects_precision and self.precision != "int8"
        return OpenOptions(
            device=torch_device_for(self.device) if self.is_torch else self.device,
            runtime=self.runtime,
            precision=self.precision if selects else None,
            threads=self.threads,
            trusted=True,
        )

    def call(self, runtime: Runtime) -> Call:
        """A function that runs one image of this size."""
        return partial(runtime.run, image_for(runtime, *self.lr_size))

    def __str__(self) -> str:
        threads = self.threads or torch.get_num_threads()
        size = "{}x{}".format(*self.lr_size)
        return f"{size}, {self.runtime} {self.precision}, {self.device}, {count_threads(threads)}"


def write_untrained(candidate: CandidateShape, environment: Environment, folder: Path) -> Path:
    """Write a candidate with random weights as a file for that environment, int8 by one small photo: its path."""
    network = build(parse_student(candidate.student), seed=0)
    stem = f"{candidate.kind}-{candidate.width}x{candidate.depth}"
    row = environment.format()
    if row is None:
        file = folder / f"{stem}.safetensors"
        save_network(network, file)
        return file
    file = folder / f"{stem}{row.suffix}"
    with tempfile.TemporaryDirectory(prefix="srkd-photo-") as photos:
        options = FileOptions()
        if row.precision == "int8":
            _write_photo(Path(photos), network.descriptor.scale)
            options = replace(options, int8=Int8Options(calibrate=Path(photos), data=Path(photos), max_drop=None))
        try:
            convert_to(row, network, Source(stem), file, options)
        except CannotConvert:
            if "static" not in row.options:
                raise
            # A network with windows, in a format that then takes one size only.
            convert_to(row, network, Source(stem), file, FileOptions(lr_size=environment.lr_size, int8=options.int8))
    return file


def _write_photo(folder: Path, scale: int) -> None:
    """Write the middle of an embedded photo, large enough for one patch."""
    side = CALIBRATION_SIDE * scale
    with Image.open(next(iter(embedded_photos("calibration").values()))) as photo:
        left, top = ((length - side) // 2 for length in photo.size)
        photo.convert("RGB").crop((left, top, left + side, top + side)).save(folder / "photo.png")


def megabytes_of(file: Path) -> float:
    """The size of a file with its companions (a .bin, a sidecar), in 10⁶ bytes."""
    stem = file.name.partition(".")[0]
    companions = [file] if file.suffix == ".onnx" else [*file.parent.glob(f"{stem}.*")]
    files = (inner for path in companions for inner in (path, *path.rglob("*")) if inner.is_file())
    return sum(inner.stat().st_size for inner in files) / 1e6


@dataclass(eq=False)
class Bench:
    """Measurements of candidates in one environment.

    The first measurement of a candidate is quick: it takes turns with the reference (the first of all candidates), so
    that a slow second of the machine slows both. Later measurements time the candidate alone; as they are seconds
    apart, they show how much the machine's speed varies. A candidate slower than `longest_ms` is timed once.
    """

    environment: Environment
    folder: Path
    seconds: float = 1.0
    longest_ms: float = math.inf
    reference: Call | None = None
    reference_ms: list[float] = field(default_factory=list)
    """Median of the reference in each first measurement of a candidate, in ms."""
    files: dict[CandidateShape, Path] = field(default_factory=dict)
    looks: dict[CandidateShape, list[CallTimes]] = field(default_factory=dict)
    """Later measurements of each candidate; empty after its first one."""
    calls: dict[CandidateShape, Call] = field(default_factory=dict)
    """Calls of the candidates that were measured again: their files stay open."""

    def measure(self, candidate: CandidateShape) -> ShapeMeasurement:
        """Measure a candidate, whose file is written the first time; later results are of all later measurements."""
        if candidate in self.looks:
            if candidate not in self.calls:
                self.calls[candidate] = self.environment.call(self.open(candidate))
            self.looks[candidate].append(_time_once(self.calls[candidate], self.seconds))
            return _of_looks(self.looks[candidate], megabytes_of(self.files[candidate]))
        call = self.environment.call(self.open(candidate))
        megabytes = megabytes_of(self.files[candidate])
        self.reference = self.reference or call
        call()  # which may include preparation
        (warm,) = time_calls(call, 1)
        if warm > self.longest_ms:
            return ShapeMeasurement(warm, warm / 2, warm * 2, megabytes)
        self.looks[candidate] = []
        reference, own = take_turns([self.reference, call], seconds_each=self.seconds)
        return self.relative(reference, own, megabytes)

    def relative(self, reference: CallTimes, own: CallTimes, megabytes: float) -> ShapeMeasurement:
        """A time: the ratio to the reference, multiplied by the reference's median time so far."""
        self.reference_ms.append(reference.percentile(50))
        ratio, unit = compare(own, reference), float(np.median(self.reference_ms))
        return ShapeMeasurement(ratio.speedup * unit, ratio.low * unit, ratio.high * unit, megabytes)

    def open(self, candidate: CandidateShape) -> Runtime:
        """A candidate opened in its runtime; its file is written the first time."""
        if candidate not in self.files:
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            self.files[candidate] = write_untrained(candidate, self.environment, folder)
        return open_model(self.files[candidate], self.environment.open_options())

    @property
    def drift(self) -> float:
        """The reference's 90th percentile of time divided by its 10th: how much the machine's speed varied."""
        low, high = np.percentile(self.reference_ms, (10, 90))
        return float(high / low)


def _time_once(call: Call, seconds: float) -> CallTimes:
    """Time at least two calls after one that warms up the caches."""
    times: list[float] = []
    with no_garbage_collection():
        call()
        until = time.perf_counter() + seconds
        while len(times) < 2 or time.perf_counter() < until:
            times += time_calls(call, 1)
    return CallTimes((tuple(times),))


def _of_looks(looks: Sequence[CallTimes], megabytes: float) -> ShapeMeasurement:
    """The median of all calls, with the fastest and slowest medians of single measurements as the interval.

    Of many measurements the fastest and slowest are left out: another program may have disturbed them.
    """
    medians = sorted(look.percentile(50) for look in looks)
    if len(medians) >= MANY_LOOKS:
        medians = medians[1:-1]
    ms = float(np.median([ms for look in looks for ms in look.samples]))
    return ShapeMeasurement(ms, medians[0], medians[-1], megabytes)


def measure_file(file: Path, environment: Environment, *, seconds: float) -> ShapeMeasurement:
    """Time a finished file in an environment, several times with pauses between.

    A machine that is shared with other programs changes its speed from second to second: one measurement says little.
    """
    call = environment.call(open_model(file, environment.open_options()))
    call()
    looks: list[CallTimes] = []
    for look in range(FILE_LOOKS):
        if look > 0:
            time.sleep(seconds / FILE_LOOKS / 2)
        looks.append(_time_once(call, seconds / FILE_LOOKS))
    return _of_looks(looks, megabytes_of(file))
