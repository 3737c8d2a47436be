"""The settings of a profile: runtimes, device, sizes, duration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from compressor.base.choices import GoalOption
from compressor.base.errors import UsageError
from compressor.base.machine import require_threads
from compressor.models.networks.base import Descriptor
from compressor.runtimes.base import require_memory_for
from compressor.runtimes.table import RUNTIMES, OpenOptions, torch_device_for
from export.profile.process import Workload

DEFAULT_RUNTIMES = ("torch", "onnxruntime")
DEFAULT_SIZE = (128, 128)
ALL = "all"


@dataclass(frozen=True)
class ProfileSettings:
    """The settings of a profile; the options of the verb have checked each value.

    Sizes are (width, height); `threads` None means as many as torch uses; `seconds` is the time for each row at each
    size; `scale` and `arch_options` are for checkpoints that do not state them, `teacher_options` for the teacher's
    only. `runtimes` ("all",) are those that work here. With "int8" among the precisions, checkpoints are written in
    int8 for runtimes of such files; torch and the teacher use float.
    """

    runtimes: tuple[str, ...] = DEFAULT_RUNTIMES
    device: str = "cpu"
    precisions: tuple[str, ...] = ("fp32",)
    lr_sizes: tuple[tuple[int, int], ...] = (DEFAULT_SIZE,)
    batches: tuple[int, ...] = (1,)
    threads: int | None = None
    seconds: float = 3.0
    memory: bool = True
    quality: bool = True
    goal: GoalOption = "auto"
    """What models are judged by."""
    scale: int | None = None
    arch_options: Mapping[str, object] | None = None
    teacher_options: Mapping[str, object] | None = None
    limits: float = 1.0
    """Factor on the usual limits of memory and time for the first run of an untrusted ONNX file."""
    trust_code: bool = False
    """True to open TorchScript and torch.export programs, which may run any code."""

    def __post_init__(self) -> None:
        if not (self.runtimes and self.lr_sizes and self.precisions and self.batches):
            raise UsageError("nothing to measure: at least one runtime, precision, size and batch are needed")
        require_threads(self.threads)

    @cached_property
    def selected_runtimes(self) -> tuple[str, ...]:
        """The runtimes by name; for "all", those that are installed here and run on the device."""
        if ALL not in self.runtimes:
            return self.runtimes
        kind = self.device.partition(":")[0]
        return tuple(row.name for row in RUNTIMES.values() if kind in row.devices and row.missing_requirement() is None)

    @property
    def notes(self) -> tuple[str, ...]:
        """A line about each runtime of "all" that is not installed here."""
        if ALL not in self.runtimes:
            return ()
        kind = self.device.partition(":")[0]
        missing = ((row.name, row.missing_requirement()) for row in RUNTIMES.values() if kind in row.devices)
        return tuple(f"{name} is left out: {reason}" for name, reason in missing if reason is not None)

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """Every size with every batch, in this order."""
        return tuple((width, height, batch) for (width, height), batch in product(self.lr_sizes, self.batches))

    def require_memory(self, model: Descriptor) -> None:
        """Refuse a size or batch whose images alone do not fit in this machine."""
        for width, height, batch in self.workloads:
            require_memory_for((width, height), batch, model, "--lr-size")

    def runtimes_for(self, own: str) -> tuple[str, ...]:
        """The runtimes that time exported files of `own`: this one, and selected ones that run them in another way.

        There is none if only others were selected.
        """
        selected = tuple(name for name in self.selected_runtimes if own in (name, RUNTIMES[name].alternative_to))
        return selected or ((own,) if self.runtimes == DEFAULT_RUNTIMES else ())

    def float_precisions(self, runtime: str, *, is_teacher: bool = False) -> tuple[str, ...]:
        """The precisions other than int8 in which a model is timed in `runtime`, each once.

        A runtime whose files fix the precision computes in fp32. The teacher, and torch, which has no int8 files,
        compute in fp32 instead of int8.
        """
        selection = [
            "fp32" if precision == "int8" else precision
            for precision in self.precisions
            if precision != "int8" or is_teacher or not self.has_int8(runtime)
        ]
        selects = RUNTIMES[runtime].selects_precision
        return tuple(dict.fromkeys(precision if selects else "fp32" for precision in selection))

    def has_int8(self, runtime: str) -> bool:
        return "int8" in self.precisions and not RUNTIMES[runtime].runs_checkpoints

    def for_checkpoint(self, runtime: str, precision: str, *, is_teacher: bool) -> OpenOptions:
        """The options for opening a checkpoint in `runtime`, torch or another that runs checkpoints."""
        return OpenOptions(
            scale=self.scale,
            arch_options={**(self.arch_options or {}), **((self.teacher_options or {}) if is_teacher else {})},
            device=torch_device_for(self.device),
            runtime=runtime,
            precision=precision,
            threads=self.threads or 1,
            limits=self.limits,
            trust_code=self.trust_code,
        )

    def for_file(self, runtime: str, precision: str, *, trusted: bool = False) -> OpenOptions:
        """The options for opening an exported file. An int8 file keeps its own precision."""
        selected = RUNTIMES[runtime].selects_precision and precision not in ("fp32", "int8")
        return OpenOptions(
            scale=self.scale,
            device=self.device,
            runtime=runtime,
            threads=self.threads or 1,
            precision=precision if selected else None,
            limits=self.limits,
            trusted=trusted,
        )
