"""The execution mode of training on this machine: precision, memory layout and compilation (docs/use/speed.md).

It is decided by facts, never by timing, so that the same seed gives the same run on the same machine, however busy it
is: bf16 autocast if the processor computes bf16 natively and the run is not short, else fp32; channels last, except in
fp32 on a processor without AVX-512; compiled in long runs on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch

from compressor.base.choices import CompileOption, Precision, PrecisionOption
from compressor.base.compute_device import ComputeDevice
from compressor.base.context import Note
from compressor.base.decided import ExecutionMode, SpeedOptions
from compressor.base.errors import reason_of
from compressor.base.precision import training_layout
from compressor.models.networks.base import Network
from compressor.models.networks.cost import cost

SHORT_RUN_MACS = 1.5e12
"""Multiply-accumulates of student and teacher, forward and backward, below which a run trains in fp32: half a minute on
two threads of a processor of 2020 to 2024, too short to be worth accelerating."""
PASSES_OF_A_STEP = 3
"""Forward passes per training step: a backward pass costs about two."""
MIN_COMPILED_STEPS = 2000
"""Fewest steps for compilation, which takes about a minute: shorter runs end sooner without it."""


def choose_execution_mode(
    student: Network,
    *,
    steps: int,
    batch: int,
    lr_patch: int,
    device: torch.device,
    options: SpeedOptions,
    teacher_macs: int = 0,
) -> ExecutionMode:
    """Return the mode to train `student` on `device`; `batch` is that of all processes. The student is not changed.

    `teacher_macs` are those of the teacher for each patch, as far as they follow the student's precision.
    """
    compiled = should_compile(options.compile, device=device, steps=steps)
    macs = PASSES_OF_A_STEP * cost(student, (lr_patch, lr_patch)).macs + teacher_macs
    precision, reason = _precision_by_facts(macs * steps * batch, device, options.precision)
    layout = training_layout(device, precision)
    return ExecutionMode(precision, layout, options.of_teacher(precision), compiled, reason=reason)


def _precision_by_facts(macs: int, device: torch.device, option: PrecisionOption) -> tuple[Precision, str]:
    """Return the precision for this number of multiply-accumulates, and the reason."""
    if option != "auto":
        return option, "the recipe or --set names it"
    if not ComputeDevice(device).computes_bf16:
        return "fp32", f"{device.type} has no arithmetic for bf16 here"
    if macs < SHORT_RUN_MACS:
        return "fp32", "a short run"
    return "bf16", f"{device.type} computes bf16 natively here"


def should_compile(option: CompileOption, *, device: torch.device, steps: int) -> bool:
    if option == "auto":
        return ComputeDevice(device).records_graphs and steps >= MIN_COMPILED_STEPS
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
        # CUDA graphs: small convolutions no longer wait for Python.
        mode = "reduce-overhead" if ComputeDevice(lr.device).records_graphs else "default"
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
