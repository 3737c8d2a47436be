"""How fast this machine trains a student: precision and memory layout are chosen by measuring them.

Candidates are fp32 and, where the processor computes it natively, bf16 autocast; each with channels last or first. In
this order each has to be a tenth faster than the best before it, so that noise does not choose.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch.nn import functional as F

from compressor.base.precision import Layout, Precision, autocast, computes_bf16, memory_format, synchronise
from compressor.models.networks.base import Network
from compressor.training.step import Compile, wants_compilation

AskedPrecision = Literal["auto", "fp32", "bf16"]

WORTH_SECONDS = 30.0
"""A run that plain fp32 finishes sooner is not worth a measurement."""
STEP_SECONDS = 0.25
"""About how long one measured step lasts in fp32; it takes as many patches as fit."""
ROUNDS = 3
MARGIN = 1.1
"""A candidate must be so many times faster than the best before it."""


@dataclass(frozen=True)
class Candidate:
    precision: Precision
    layout: Layout

    def __str__(self) -> str:
        return f"{self.precision} {self.layout}"


PLAIN = Candidate("fp32", "channels_last")


@dataclass(frozen=True)
class Asked:
    """What the preset says about speed."""

    precision: AskedPrecision = "auto"
    teacher_precision: Precision = "fp32"
    compile: Compile = "auto"


ASK_NOTHING = Asked()


@dataclass(frozen=True)
class ExecutionMode:
    """What was chosen, and the measured milliseconds a step (forward and backward of the student) it rests on."""

    precision: Precision
    layout: Layout
    teacher_precision: Precision = "fp32"
    compiled: bool = False
    patches: int = 0
    step_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def memory_format(self) -> torch.memory_format:
        return memory_format(self.layout)

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        return autocast(self.precision, device)

    def facts(self) -> dict[str, Any]:
        """For run.json; `ExecutionMode(**facts)` is the same again, so that a resumed run does not choose anew."""
        return asdict(self)

    def line(self, lr_patch: int) -> str:
        """One line for whoever watches."""
        chosen = f"{self.precision}, {self.layout.replace('_', ' ')}" + (", compiled" if self.compiled else "")
        if not self.step_ms:
            return f"training in {chosen}"
        # Where the recipe names bf16, fp32 was not measured: the plain layout is what the choice is held against.
        plain = PLAIN if str(PLAIN) in self.step_ms else Candidate(self.precision, PLAIN.layout)
        ratio = self.step_ms[str(plain)] / self.step_ms[str(Candidate(self.precision, self.layout))]
        told = ", ".join(f"{name} {ms:.1f} ms" for name, ms in self.step_ms.items())
        return (
            f"training in {chosen}: {ratio:.2f} times {plain.precision} channels last here "
            f"({told}; {self.patches} patches of {lr_patch}x{lr_patch}, {torch.get_num_threads()} threads)"
        )


PLAIN_MODE = ExecutionMode(PLAIN.precision, PLAIN.layout)


def plain_mode(asked: Asked) -> ExecutionMode:
    """What was asked for, with nothing measured: what is left open is fp32 and not compiled."""
    precision: Precision = "fp32" if asked.precision == "auto" else asked.precision
    return ExecutionMode(precision, PLAIN.layout, asked.teacher_precision, asked.compile == "on")


def choose_execution_mode(
    student: Network, *, steps: int, batch: int, lr_patch: int, device: torch.device, asked: Asked = ASK_NOTHING
) -> ExecutionMode:
    """The fastest way to train `student` (which is left as it is) on `device`, among those that were not ruled out."""
    candidates = _candidates(device, asked.precision)
    compiled = wants_compilation(asked.compile, device=device, steps=steps)
    plain = candidates[0]
    patch_seconds = _once(_Trial(student, plain, 1, lr_patch, device))
    if patch_seconds * batch * steps < WORTH_SECONDS or len(candidates) == 1:
        return ExecutionMode(plain.precision, plain.layout, asked.teacher_precision, compiled)
    patches = max(1, min(batch, int(STEP_SECONDS / patch_seconds)))
    trials = [_Trial(student, candidate, patches, lr_patch, device) for candidate in candidates]
    step_ms = _measured(trials)
    fastest = _fastest(candidates, step_ms)
    return ExecutionMode(fastest.precision, fastest.layout, asked.teacher_precision, compiled, patches, step_ms)


def _fastest(candidates: Sequence[Candidate], step_ms: Mapping[str, float]) -> Candidate:
    """Each candidate has to beat the best before it by the margin."""
    best = candidates[0]
    for candidate in candidates[1:]:
        if step_ms[str(best)] > MARGIN * step_ms[str(candidate)]:
            best = candidate
    return best


def _candidates(device: torch.device, precision: AskedPrecision) -> list[Candidate]:
    """The plain choice first."""
    able: tuple[Precision, ...] = ("fp32", "bf16") if computes_bf16(device) else ("fp32",)
    precisions = able if precision == "auto" else (precision,)
    layouts: tuple[Layout, ...] = ("channels_last", "contiguous")
    return [Candidate(one, layout) for one in precisions for layout in layouts]


class _Trial:
    """Forward and backward of a copy of the student on random patches."""

    def __init__(
        self, student: Network, candidate: Candidate, patches: int, lr_patch: int, device: torch.device
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


def _once(trial: _Trial) -> float:
    trial.run()
    return _seconds(trial)


def _measured(trials: Sequence[_Trial]) -> dict[str, float]:
    """Milliseconds by name: the median of a few rounds taken in turns, after one that warms up."""
    for trial in trials:
        trial.run()
    taken: dict[str, list[float]] = {trial.name: [] for trial in trials}
    for _ in range(ROUNDS):
        for trial in trials:
            taken[trial.name].append(_seconds(trial) * 1e3)
    return {name: round(statistics.median(figures), 3) for name, figures in taken.items()}


def _seconds(trial: _Trial) -> float:
    synchronise(trial.device)
    started = time.perf_counter()
    trial.run()
    synchronise(trial.device)
    return time.perf_counter() - started
