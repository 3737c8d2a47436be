"""The execution mode of training on this machine: precision, memory layout and compilation.

It is decided by facts, never by timing, so that the same seed gives the same run on the same machine, however busy it
is: bf16 autocast if the processor computes bf16 natively and the run is not short, else fp32; channels last, except in
fp32 on a processor without AVX-512. A frozen teacher computes in the student's precision, if it is one of srkd's
networks.

Only if the preset asks for it (`precision: measure`), a measurement decides. The candidates are then fp32 and, if
native, bf16, each with channels last or first. In this order each must be a tenth faster than the best before it, so
that noise does not decide.

On CUDA long runs compile the networks. The mode is `reduce-overhead`: kernels are fused, and each forward and backward
pass is recorded once as a CUDA graph and replayed, so that small convolutions no longer wait for Python. On a CPU
compilation does not speed up a training step of these networks (measured: 1.0 times), so it is done only on request.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.choices import CompileOption, Layout, Precision, PrecisionOption, TeacherPrecisionOption
from compressor.base.context import Note
from compressor.base.errors import reason_of
from compressor.base.machine import count_threads
from compressor.base.precision import autocast, computes_bf16, memory_format, synchronise, training_layout
from compressor.models.networks.base import Network
from compressor.models.networks.cost import cost

M = TypeVar("M", bound=nn.Module)

SHORT_RUN_MACS = 1.5e12
"""Multiply-accumulates of the student, forward and backward, below which a run trains in fp32: half a minute on two
threads of a processor of 2020 to 2024, too short to be worth accelerating."""
PASSES_OF_A_STEP = 3
"""Forward passes per training step: a backward pass costs about two."""
STEP_SECONDS = 0.25
"""Approximate duration of a measured step in fp32, in seconds; the number of patches is chosen for it."""
ROUNDS = 3
MARGIN = 1.1
"""A candidate must be faster than the best before it by this factor."""
MIN_COMPILED_STEPS = 2000
"""Fewest steps for compilation, which takes about a minute: shorter runs end sooner without it."""


@dataclass(frozen=True)
class PrecisionAndLayout:
    """A candidate precision and memory layout of training."""

    precision: Precision
    layout: Layout

    def __str__(self) -> str:
        return f"{self.precision} {self.layout}"


PLAIN = PrecisionAndLayout("fp32", "channels_last")


@dataclass(frozen=True)
class SpeedOptions:
    """The choices of a preset; "auto" leaves a choice to the facts of machine and run."""

    precision: PrecisionOption = "auto"
    teacher_precision: TeacherPrecisionOption = "auto"
    """The teacher's precision; auto: the student's."""
    compile: CompileOption = "auto"

    def of_teacher(self, student: Precision) -> Precision:
        return student if self.teacher_precision == "auto" else self.teacher_precision


@dataclass(frozen=True)
class ExecutionMode:
    """The chosen mode and its reason; if measured, the milliseconds per step (forward and backward of the student).

    run.json stores its fields, so that a resumed run trains in the same mode.
    """

    precision: Precision
    layout: Layout
    teacher_precision: Precision = "fp32"
    compiled: bool = False
    patches: int = 0
    step_ms: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""

    def lay_out(self, module: M, *, frozen: bool = False) -> M:
        """Return a module with its tensors converted in place to the mode's memory layout.

        A frozen one computes no gradients of weights: it is faster with channels last, unless a measurement decided.
        """
        layout = PLAIN.layout if frozen and not self.step_ms else self.layout
        return module.to(memory_format=memory_format(layout))  # type: ignore[call-overload, no-any-return]

    def line(self, lr_patch: int) -> str:
        """Return the choice as one line."""
        mode = f"{self.precision}, {self.layout.replace('_', ' ')}" + (", compiled" if self.compiled else "")
        if not self.step_ms:
            return f"training in {mode}" + (f": {self.reason}" if self.reason else "")
        ratio = self.step_ms[str(PLAIN)] / self.step_ms[str(PrecisionAndLayout(self.precision, self.layout))]
        times = ", ".join(f"{name} {ms:.1f} ms" for name, ms in self.step_ms.items())
        return (
            f"training in {mode}: {ratio:.2f} times fp32 channels last here "
            f"({times}; {self.patches} patches of {lr_patch}x{lr_patch}, {count_threads(torch.get_num_threads())})"
        )


PLAIN_MODE = ExecutionMode(PLAIN.precision, PLAIN.layout)


def plain_mode(options: SpeedOptions) -> ExecutionMode:
    """Return the mode independently of a machine: open options become fp32 and not compiled."""
    precision: Precision = "bf16" if options.precision == "bf16" else "fp32"
    return ExecutionMode(precision, PLAIN.layout, options.of_teacher(precision), options.compile == "on")


def choose_execution_mode(
    student: Network,
    *,
    steps: int,
    batch: int,
    lr_patch: int,
    device: torch.device,
    options: SpeedOptions = SpeedOptions(),
) -> ExecutionMode:
    """Return the mode to train `student` on `device`; `batch` is that of all processes. The student is not changed."""
    compiled = should_compile(options.compile, device=device, steps=steps)
    if options.precision == "measure":
        return _measured_mode(student, batch, lr_patch, device, options, compiled)
    precision, reason = _precision_by_facts(student, steps * batch, lr_patch, device, options.precision)
    layout = training_layout(device, precision)
    return ExecutionMode(precision, layout, options.of_teacher(precision), compiled, reason=reason)


def _precision_by_facts(
    student: Network, patches: int, lr_patch: int, device: torch.device, option: TeacherPrecisionOption
) -> tuple[Precision, str]:
    """Return the precision for this total number of patches, and the reason."""
    if option != "auto":
        return option, "the recipe or --set names it"
    if not computes_bf16(device):
        return "fp32", f"{device.type} has no arithmetic for bf16 here"
    macs = PASSES_OF_A_STEP * cost(student, (lr_patch, lr_patch)).macs * patches
    if macs < SHORT_RUN_MACS:
        return "fp32", "a short run"
    return "bf16", f"{device.type} computes bf16 natively here"


def _measured_mode(
    student: Network, batch: int, lr_patch: int, device: torch.device, options: SpeedOptions, compiled: bool
) -> ExecutionMode:
    """Return the fastest mode by a short measurement."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if computes_bf16(device) else ("fp32",)
    layouts: tuple[Layout, ...] = ("channels_last", "contiguous")
    plain, *others = candidates = [
        PrecisionAndLayout(precision, layout) for precision in precisions for layout in layouts
    ]
    trial = _Trial(student, plain, 1, lr_patch, device)
    trial.run()
    patches = max(1, min(batch, int(STEP_SECONDS / trial.seconds())))
    trials = [_Trial(student, candidate, patches, lr_patch, device) for candidate in candidates]
    step_ms = _measure(trials)
    best = plain
    for candidate in others:
        if step_ms[str(best)] > MARGIN * step_ms[str(candidate)]:
            best = candidate
    teacher = options.of_teacher(best.precision)
    return ExecutionMode(best.precision, best.layout, teacher, compiled, patches, step_ms)


class _Trial:
    """A timed forward and backward pass of a copy of the student on random patches."""

    def __init__(
        self, student: Network, candidate: PrecisionAndLayout, patches: int, lr_patch: int, device: torch.device
    ) -> None:
        self.name, self.device = str(candidate), device
        self.precision: Precision = candidate.precision
        copied = copy.deepcopy(student).to(device)
        self.network = copied.to(memory_format=memory_format(candidate.layout)).train()  # type: ignore[call-overload]
        noise = torch.Generator().manual_seed(0)
        self.lr = torch.rand(patches, 3, lr_patch, lr_patch, generator=noise).to(device)

    def run(self) -> None:
        self.network.zero_grad(set_to_none=True)
        with autocast(self.precision, self.device):
            sr = self.network(self.lr)
        torch.autograd.backward(F.l1_loss(sr.float(), torch.zeros_like(sr, dtype=torch.float32)))

    def seconds(self) -> float:
        """Return the duration of one run in seconds."""
        synchronise(self.device)
        began = time.perf_counter()
        self.run()
        synchronise(self.device)
        return time.perf_counter() - began


def _measure(trials: Sequence[_Trial]) -> dict[str, float]:
    """Return milliseconds by name: the median of a few interleaved rounds after a warm-up."""
    for trial in trials:
        trial.run()
    times: dict[str, list[float]] = {trial.name: [] for trial in trials}
    for _ in range(ROUNDS):
        for trial in trials:
            times[trial.name].append(trial.seconds() * 1e3)
    return {name: round(statistics.median(figures), 3) for name, figures in times.items()}


def should_compile(option: CompileOption, *, device: torch.device, steps: int) -> bool:
    if option == "auto":
        return device.type == "cuda" and steps >= MIN_COMPILED_STEPS
    return option == "on"


class CompiledForward:
    """A network's forward pass, compiled at the first call; if that fails, it stays eager and one line reports it."""

    def __init__(self, network: Network, *, trains: bool, note: Note) -> None:
        self.network, self.trains, self.note = network, trains, note
        self._forward: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        if self._forward is None:
            self._forward = self._compile(lr)
        return self._forward(lr)

    def _compile(self, lr: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the compiled forward pass, after a trial with its backward pass in the caller's precision."""
        mode = "reduce-overhead" if lr.device.type == "cuda" else "default"
        forward = cast(Callable[[torch.Tensor], torch.Tensor], torch.compile(self.network, mode=mode, dynamic=False))
        try:
            sr = forward(lr)
            if self.trains:
                torch.autograd.backward(sr.float().mean())
                self.network.zero_grad(set_to_none=True)
        except Exception as error:  # noqa: BLE001 - a compiler may raise any error of its back ends; eager always works
            self.note(f"torch.compile failed, so training goes on without it: {reason_of(error, first=True)[:160]}")
            torch.compiler.reset()
            return self.network
        return forward


def begin_compiled_step() -> None:
    """Tell CUDA graphs that the outputs of the last step may be overwritten."""
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
