"""Exponential moving average of the trained weights.

Everything that must survive a run's death, and nothing else.

Every process trains a copy of the same state: they begin alike, and are held to stay so.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.base.errors import SrkdError
from compressor.base.processes import Processes
from compressor.base.randomness import drawn
from compressor.models.networks.axes import Segments
from compressor.models.networks.base import ImageModel, Network, tensor_bytes
from compressor.models.students import student_of_spec
from compressor.training.calibration import Calibration
from compressor.training.guard import Guard
from compressor.training.stage import Role, Stage
from compressor.training.state_file import pack, read_parts, unpack, write_parts


class EMA:
    """θ_ema ← d·θ_ema + (1 - d)·θ after each step, d = min(decay, (1 + n)/(10 + n)) with warm-up, else decay."""

    def __init__(self, network: Network, *, decay: float, warmup: bool) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay, self.warmup, self.updates = decay, warmup, 0

    @torch.no_grad()
    def update(self, network: Network) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        averaged: list[torch.Tensor] = list(self.network.parameters())
        current: list[torch.Tensor] = list(network.parameters())
        torch._foreach_lerp_(averaged, current, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def state_dict(self) -> dict[str, object]:
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.network.load_state_dict(state["network"])  # type: ignore[arg-type]
        self.updates = int(state["updates"])  # type: ignore[call-overload]


@dataclass
class State:
    """Networks by their role, auxiliary modules, optimiser, average, guard, calibration, how far the run is, and the
    best validation in dB.

    `done` counts the steps of all stages; `stage` is the index of the present one, which began after `began` steps.
    """

    networks: dict[Role, Network]
    modules: nn.ModuleDict
    optimiser: torch.optim.Adam
    ema: EMA
    role: Role = "student"
    segments: Segments = "each"
    guard: Guard = field(default_factory=Guard)
    calibration: Calibration = field(default_factory=Calibration)
    done: int = 0
    stage: int = 0
    began: int = 0
    best_psnr_y: float = float("-inf")
    seed: int = 0

    @classmethod
    def fresh(cls, student: Network, teacher: Network | None, stage: Stage, seed: int = 0) -> State:
        """A state before the first step; the methods' own modules are made here."""
        networks: dict[Role, Network] = {"student": student}
        modules = nn.ModuleDict()
        begun = _begin(stage, networks, modules, teacher, seed)
        return cls(networks, modules, *begun, role=stage.role, segments=stage.segments, seed=seed)

    @property
    def student(self) -> Network:
        """The student as a network of its own: what is trained, unless it is trained inside the teacher."""
        return self.networks["student"]

    @property
    def trained(self) -> Network:
        return self.networks[self.role]

    def averaged(self) -> Network:
        """The student of the averaged weights; in a stage that trains the teacher, the averaged teacher."""
        if self.role != "joint":
            return self.ema.network
        cut = student_of_spec(self.ema.network, self.student.spec, segments=self.segments)
        return cut.eval().requires_grad_(False)

    def teaching(self, teacher: ImageModel | None) -> ImageModel | None:
        """Who teaches in this stage: the copy that an earlier stage tuned, or the teacher as it came.

        A copy that is being tuned learns from the images; where they have no labels, the teacher as it came gives them.
        """
        if self.role == "student":
            return self.networks.get("teacher", teacher)
        return teacher if self.role == "teacher" else self.networks["joint"]

    def enter(self, stage: Stage, teacher: Network | None) -> None:
        """Go on to the next stage: networks stay; optimiser, average, guard and calibration begin anew.

        Modules of earlier stages are kept, and trained where a method of this stage has their name.
        """
        self.trained.eval().requires_grad_(False)
        self.role, self.segments = stage.role, stage.segments
        self.optimiser, self.ema = _begin(stage, self.networks, self.modules, teacher, self.seed)
        self.guard, self.calibration = Guard(), Calibration()
        self.stage, self.began = self.stage + 1, self.done

    def save(self, path: Path) -> None:
        write_parts(path, self.parts())

    def parts(self) -> dict[str, Any]:
        """All of it, as plain values and tensors."""
        return {
            "networks": {role: network.state_dict() for role, network in self.networks.items()},
            "modules": self.modules.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state_dict(),
            "guard": self.guard.state_dict(),
            "calibration": self.calibration.state_dict(),
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
        for role, weights in parts["networks"].items():
            self.networks[role].load_state_dict(weights)
        self.modules.load_state_dict(parts["modules"])
        self.optimiser.load_state_dict(parts["optimiser"])
        self.ema.load_state_dict(parts["ema"])
        self.guard.load_state_dict(parts["guard"])
        self.calibration.load_state_dict(parts["calibration"])
        self.done, self.stage, self.began = int(parts["done"]), int(parts["stage"]), int(parts["began"])
        self.best_psnr_y = float(parts["best_psnr_y"])


def _begin(
    stage: Stage, networks: dict[Role, Network], modules: nn.ModuleDict, teacher: Network | None, seed: int
) -> tuple[torch.optim.Adam, EMA]:
    """Make what `stage` needs and has not got: the network in its role, and modules; an optimiser and an average."""
    if stage.role not in networks:
        if teacher is None:
            raise SrkdError(f"stage {stage.name!r} trains a copy of the teacher, and there is none: add --teacher FILE")
        networks[stage.role] = copy.deepcopy(teacher)
    trained = networks[stage.role].train().requires_grad_(True)
    device = next(trained.parameters()).device
    for method in stage.methods:
        if method.name not in modules:
            with drawn(f"modules of {method.name}", seed):
                modules[method.name] = method.modules(teacher, networks["student"]).to(device)
    own = [parameter for method in stage.methods for parameter in modules[method.name].parameters()]
    optimiser = torch.optim.Adam(
        [*trained.parameters(), *own],
        lr=stage.schedule.rate,
        betas=stage.optimiser.betas,
        eps=stage.optimiser.eps,
        # One kernel for all: a third of the time of foreach on CPU, and one launch on a GPU.
        fused=True,
    )
    return optimiser, EMA(trained, decay=stage.average.decay, warmup=stage.average.warmup)


def follow_leader(
    state: State, processes: Processes, stages: Sequence[Stage] = (), teacher: Network | None = None
) -> None:
    """Take the leading process's state: what was drawn is drawn once, and other machines need not see the run folder.

    Through `stages` a fresh state walks up to the stage the leader stands in.
    """
    if processes.is_single:
        return
    packed = processes.broadcast(pack(state.parts()) if processes.is_leader else None)
    if not processes.is_leader:
        state.become(unpack(packed), stages, teacher)


def require_equal_weights(state: State, processes: Processes) -> None:
    """Refuse to go on when what is trained is no longer the same everywhere."""
    if processes.is_single:
        return
    hashed = hashlib.blake2b(digest_size=16)
    for group in state.optimiser.param_groups:
        for parameter in group["params"]:
            hashed.update(tensor_bytes(parameter))
    wrong = f"has other weights than rank 0 after step {state.done}: a fault of the machine or of the recipe"
    processes.require_equal(hashed.hexdigest(), wrong)
