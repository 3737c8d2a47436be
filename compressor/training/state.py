"""Everything that must survive a run's death, and nothing else."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.atomic import atomic_path
from compressor.errors import SrkdError
from compressor.networks.base import Network
from compressor.training.ema import EMA
from compressor.training.stage import Stage


@dataclass
class State:
    """Student, auxiliary modules, optimiser, average, how many steps are done, and the best validation in dB."""

    student: Network
    modules: nn.ModuleDict
    optimiser: torch.optim.Adam
    ema: EMA
    done: int = 0
    best_psnr_y: float = float("-inf")

    @classmethod
    def fresh(cls, student: Network, teacher: Network | None, stage: Stage) -> State:
        """A state before the first step; the methods' own modules are made here."""
        modules = nn.ModuleDict()
        for method in stage.methods:
            modules[method.name] = method.modules(teacher, student)
        student.train().requires_grad_(True)
        parameters = [*student.parameters(), *modules.parameters()]
        optimiser = torch.optim.Adam(
            parameters, lr=stage.schedule.rate, betas=stage.optimiser.betas, eps=stage.optimiser.eps, foreach=True
        )
        return cls(student, modules, optimiser, EMA(student, decay=stage.average.decay, warmup=stage.average.warmup))

    def save(self, path: Path) -> None:
        parts: dict[str, Any] = {
            "student": self.student.state_dict(),
            "modules": self.modules.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state_dict(),
            "done": self.done,
            "best_psnr_y": self.best_psnr_y,
        }
        with atomic_path(path) as temporary:
            torch.save(parts, temporary)

    def load(self, path: Path) -> None:
        try:
            parts = torch.load(path, weights_only=True, map_location="cpu")
            self._take(parts)
        except (RuntimeError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
            told = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise SrkdError(f"{path} does not fit this run: {told}") from error

    def _take(self, parts: dict[str, Any]) -> None:
        self.student.load_state_dict(parts["student"])
        self.modules.load_state_dict(parts["modules"])
        self.optimiser.load_state_dict(parts["optimiser"])
        self.ema.load_state_dict(parts["ema"])
        self.done = int(parts["done"])
        self.best_psnr_y = float(parts["best_psnr_y"])
