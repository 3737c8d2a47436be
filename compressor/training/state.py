"""Everything that must survive a run's death, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.errors import SrkdError
from compressor.networks.base import Network
from compressor.training.checkpoint_file import read_parts, write_parts
from compressor.training.ema import EMA
from compressor.training.guard import Guard
from compressor.training.stage import Stage


@dataclass
class State:
    """Student, auxiliary modules, optimiser, average, guard, how far the run is, and the best validation in dB.

    `done` counts the steps of all stages; `stage` is the index of the present one, which began after `began` steps.
    """

    student: Network
    modules: nn.ModuleDict
    optimiser: torch.optim.Adam
    ema: EMA
    guard: Guard = field(default_factory=Guard)
    done: int = 0
    stage: int = 0
    began: int = 0
    best_psnr_y: float = float("-inf")

    @classmethod
    def fresh(cls, student: Network, teacher: Network | None, stage: Stage) -> State:
        """A state before the first step; the methods' own modules are made here."""
        modules = nn.ModuleDict()
        return cls(student, modules, *_begin(stage, student, modules, teacher))

    def enter(self, stage: Stage, teacher: Network | None) -> None:
        """Go on to the next stage: the student stays; optimiser, average and guard begin anew.

        Modules of earlier stages are kept, and trained where a method of this stage has their name.
        """
        self.optimiser, self.ema = _begin(stage, self.student, self.modules, teacher)
        self.guard = Guard()
        self.stage, self.began = self.stage + 1, self.done

    def save(self, path: Path) -> None:
        write_parts(path, self.parts())

    def parts(self) -> dict[str, Any]:
        """All of it, as plain values and tensors."""
        return {
            "student": self.student.state_dict(),
            "modules": self.modules.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state_dict(),
            "guard": self.guard.state_dict(),
            "done": self.done,
            "stage": self.stage,
            "began": self.began,
            "best_psnr_y": self.best_psnr_y,
        }

    def load(self, path: Path, stages: Sequence[Stage] = (), teacher: Network | None = None) -> None:
        """Become what was saved. A fresh state walks through `stages` up to the one the file was saved in."""
        parts = read_parts(path)
        try:
            self.become(parts, stages, teacher)
        except (RuntimeError, ValueError, KeyError) as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise SrkdError(f"{path} does not fit this run: {told}") from error

    def become(self, parts: dict[str, Any], stages: Sequence[Stage], teacher: Network | None) -> None:
        for stage in stages[1 : int(parts["stage"]) + 1]:
            self.enter(stage, teacher)
        self.student.load_state_dict(parts["student"])
        self.modules.load_state_dict(parts["modules"])
        self.optimiser.load_state_dict(parts["optimiser"])
        self.ema.load_state_dict(parts["ema"])
        self.guard.load_state_dict(parts["guard"])
        self.done, self.stage, self.began = int(parts["done"]), int(parts["stage"]), int(parts["began"])
        self.best_psnr_y = float(parts["best_psnr_y"])


def _begin(
    stage: Stage, student: Network, modules: nn.ModuleDict, teacher: Network | None
) -> tuple[torch.optim.Adam, EMA]:
    """Make the modules that `stage` needs and has not got; an optimiser over the student and them, and an average."""
    for method in stage.methods:
        if method.name not in modules:
            modules[method.name] = method.modules(teacher, student)
    student.train().requires_grad_(True)
    own = [parameter for method in stage.methods for parameter in modules[method.name].parameters()]
    optimiser = torch.optim.Adam(
        [*student.parameters(), *own],
        lr=stage.schedule.rate,
        betas=stage.optimiser.betas,
        eps=stage.optimiser.eps,
        # One kernel for all: a third of the time of foreach on CPU, and one launch on a GPU.
        fused=True,
    )
    return optimiser, EMA(student, decay=stage.average.decay, warmup=stage.average.warmup)
