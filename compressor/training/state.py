"""The complete state of a run, needed to resume it: networks, modules, optimiser, average, guard, progress.

Every process trains a copy of the same state: the copies start equal, and are checked to stay equal.
"""

from __future__ import annotations

import copy
import hashlib
import io
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from compressor.base.errors import SrkdError, reason_of, report_unreadable
from compressor.base.files import atomic_path, require_regular
from compressor.base.processes import Processes
from compressor.base.randomness import torch_stream
from compressor.models.networks.axes import Segments
from compressor.models.networks.base import ImageModel, Network, tensor_bytes
from compressor.models.students.students import cut_student
from compressor.training.calibration import TermCalibration
from compressor.training.guard import Guard
from compressor.training.method import Method, declares
from compressor.training.stage import Role, Stage

MAIN = "main"
"""Name of the averaged student at the end of the main stage."""
RATE_RATIO = "rate_ratio"
"""Key in a group of the optimiser's parameters: the group's rate divided by the stage's."""


class EMA:
    """The average of the weights: θ_ema ← d·θ_ema + (1 - d)·θ after each step, with d = min(decay, (1 + n)/(10 + n))
    during warm-up, else decay.
    """

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
    """Networks by role, the methods' modules, optimiser, average, guard, calibration, the number of steps done, and the
    best validation in dB.

    `done` counts the steps of all stages; `stage` is the index of the current one, which started after `began` steps.
    """

    networks: dict[Role, Network]
    modules: nn.ModuleDict
    optimiser: torch.optim.Optimizer
    ema: EMA
    role: Role = "student"
    segments: Segments = "each"
    guard: Guard = field(default_factory=Guard)
    calibration: TermCalibration = field(default_factory=TermCalibration)
    done: int = 0
    stage: int = 0
    began: int = 0
    kept: dict[str, Network] = field(default_factory=dict)
    """Averaged students by the stage whose end they are: the main one's, and those that are kept."""
    keeps: str | None = None
    """The name under which the averaged student of this stage is kept."""
    best_psnr_y: float = float("-inf")
    seed: int = 0
    seconds_before: float = 0.0
    """The seconds that the run took until this state was saved, if it was loaded from a file."""
    started: float = field(default_factory=time.monotonic)
    """When this process began its part of the run, by `time.monotonic`."""

    @classmethod
    def fresh(cls, student: Network, teacher: Network | None, stage: Stage, seed: int = 0) -> State:
        """Return a state before the first step, with new modules of the methods."""
        networks: dict[Role, Network] = {"student": student}
        modules = nn.ModuleDict()
        optimiser, ema = _prepare(stage, networks, modules, teacher, seed)
        return cls(networks, modules, optimiser, ema, role=stage.role, segments=stage.segments, seed=seed)

    @property
    def seconds(self) -> float:
        """The seconds that the run has taken, interruptions apart."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def student(self) -> Network:
        """The student as a separate network: the trained one, unless it is trained inside the teacher."""
        return self.networks["student"]

    @property
    def trained_network(self) -> Network:
        """The network whose parameters the optimiser updates."""
        return self.networks[self.role]

    def averaged_network(self) -> Network:
        """Return the student with averaged weights; in a stage that trains the teacher, the averaged teacher."""
        if self.role != "joint":
            return self.ema.network
        cut = cut_student(self.ema.network, self.student.spec, self.segments)
        return cut.eval().requires_grad_(False)

    def update_average(self, methods: Sequence[Method]) -> None:
        """Update the average after a step, then the modules of the methods that follow it."""
        self.ema.update(self.trained_network)
        for method in methods:
            if declares(method, "follow_average"):
                modules = cast(nn.ModuleDict, self.modules[method.name])
                method.follow_average(modules, self.averaged_network(), self.done - self.began)

    def choose_teacher(self, loaded: ImageModel | None) -> ImageModel | None:
        """Return the teacher of this stage: the copy tuned by an earlier stage, or the loaded one.

        A copy that is being tuned learns from the images; if they have no labels, the loaded teacher's outputs are the
        labels.
        """
        if self.role == "student":
            return self.networks.get("teacher", loaded)
        return loaded if self.role == "teacher" else self.networks["joint"]

    def enter(self, stage: Stage, teacher: Network | None) -> None:
        """Enter the next stage: networks are kept; optimiser, average, guard and calibration are reset.

        A stage after the main one begins with an averaged student. Modules of earlier stages are kept, too, and
        trained if a method of this stage has their name.
        """
        if stage.is_later:
            averaged = self.ema.network
            self.kept.setdefault(MAIN, copy.deepcopy(averaged))
            if self.keeps is not None:
                self.kept[self.keeps] = copy.deepcopy(averaged)
            begins = self.kept[MAIN] if stage.from_main else averaged
            self.trained_network.load_state_dict(begins.state_dict())
        self.keeps = stage.name if stage.kept else None
        self.trained_network.eval().requires_grad_(False)
        self.role, self.segments = stage.role, stage.segments
        self.optimiser, self.ema = _prepare(stage, self.networks, self.modules, teacher, self.seed)
        self.guard, self.calibration = Guard(), TermCalibration()
        self.stage, self.began = self.stage + 1, self.done

    def save(self, path: Path) -> None:
        """Write it atomically, through memory: torch reports a full disk in words that mean nothing to a user."""
        with atomic_path(path) as temporary:
            temporary.write_bytes(pack_state(self.state_dict()))

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values and tensors."""
        return {
            "networks": {role: network.state_dict() for role, network in self.networks.items()},
            "kept": {name: network.state_dict() for name, network in self.kept.items()},
            "modules": self.modules.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state_dict(),
            "guard": asdict(self.guard),
            "calibration": self.calibration.state_dict(),
            "done": self.done,
            "stage": self.stage,
            "began": self.began,
            "best_psnr_y": self.best_psnr_y,
            "seconds": self.seconds,
        }

    def load(self, path: Path, stages: Sequence[Stage] = (), teacher: Network | None = None) -> None:
        """Load a saved state. A fresh state first enters `stages` up to the one of the file."""
        saved = read_state_file(path)
        try:
            self.load_state_dict(saved, stages, teacher)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise SrkdError(f"{path} does not fit this run: {reason}") from error

    def load_state_dict(self, saved: dict[str, Any], stages: Sequence[Stage], teacher: Network | None) -> None:
        for stage in stages[1 : int(saved["stage"]) + 1]:
            self.enter(stage, teacher)
        for role, weights in saved["networks"].items():
            self.networks[role].load_state_dict(weights)
        for name, weights in saved["kept"].items():
            self.kept[name].load_state_dict(weights)
        self.modules.load_state_dict(saved["modules"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.ema.load_state_dict(saved["ema"])
        self.guard = Guard(**saved["guard"])
        self.calibration.load_state_dict(saved["calibration"])
        self.done, self.stage, self.began = int(saved["done"]), int(saved["stage"]), int(saved["began"])
        self.best_psnr_y = float(saved["best_psnr_y"])
        self.seconds_before = float(saved["seconds"])


def _prepare(
    stage: Stage, networks: dict[Role, Network], modules: nn.ModuleDict, teacher: Network | None, seed: int
) -> tuple[torch.optim.Optimizer, EMA]:
    """Add the missing network and modules of `stage`; return its optimiser and average."""
    if stage.role not in networks:
        if teacher is None:
            raise SrkdError(f"stage {stage.name!r} trains a copy of the teacher, and there is none: add --teacher FILE")
        networks[stage.role] = copy.deepcopy(teacher)
    network = stage.mode.lay_out(networks[stage.role]).train().requires_grad_(True)
    device = next(network.parameters()).device
    for method in stage.methods:
        if method.name not in modules:
            with torch_stream(f"modules of {method.name}", seed):
                modules[method.name] = method.modules(teacher, networks["student"]).to(device)
    optimiser = stage.optimiser.build(_parameter_groups(stage, network, modules), stage.schedule.rate)
    return optimiser, EMA(network, decay=stage.average.decay, warmup=stage.average.warmup)


def _parameter_groups(stage: Stage, network: Network, modules: nn.ModuleDict) -> list[dict[str, Any]]:
    """Return all parameters at the stage's rate, then those with rates of their own.

    `rate_ratio` is a group's rate over the stage's, by which the loop sets its rate.
    """
    own_modules = {method.name: cast(nn.ModuleDict, modules[method.name]) for method in stage.methods}
    extra = [parameter for own in own_modules.values() for parameter in own.parameters() if parameter.requires_grad]
    rates = [rate for method in stage.methods for rate in method.own_rates(network, own_modules[method.name])]
    apart = {id(parameter) for rate in rates for parameter in rate.parameters}
    rest = [parameter for parameter in (*network.parameters(), *extra) if id(parameter) not in apart]
    groups: list[dict[str, Any]] = [{"params": rest, RATE_RATIO: 1.0}]
    for own in rates:
        ratio = own.rate / stage.schedule.rate
        groups.append({"params": list(own.parameters), "weight_decay": own.weight_decay, RATE_RATIO: ratio})
    return groups


def follow_leader(
    state: State, processes: Processes, stages: Sequence[Stage] = (), teacher: Network | None = None
) -> None:
    """Load the leader's state: random weights are drawn once, and other machines need no access to the run folder.

    A fresh state first enters `stages` up to the leader's.
    """
    if processes.is_single:
        return
    packed = processes.from_leader(lambda: pack_state(state.state_dict()))
    if not processes.is_leader:
        state.load_state_dict(unpack_state(packed), stages, teacher)


def require_equal_weights(state: State, processes: Processes) -> None:
    """Raise an error if the trained parameters are no longer equal on all processes."""
    if processes.is_single:
        return
    digest = hashlib.blake2b(digest_size=16)
    for group in state.optimiser.param_groups:
        for parameter in group["params"]:
            digest.update(tensor_bytes(parameter))
    message = f"has other weights than rank 0 after step {state.done}: a fault of the machine or of the recipe"
    processes.require_equal(digest.hexdigest(), message)


class DamagedState(SrkdError):
    """A state file that differs from what was written: cut short, empty, changed, or unreadable."""


def pack_state(state: Mapping[str, Any]) -> bytes:
    """Return a state as bytes, a zip file with a checksum for each tensor."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def unpack_state(packed: bytes) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(packed), weights_only=True, map_location="cpu")
    return state


def read_state_file(path: Path) -> dict[str, Any]:
    """Return a state whose checksums are right, or raise `DamagedState`."""
    try:
        with report_unreadable(path):
            require_regular(path)
            packed = path.read_bytes()
    except SrkdError as error:
        raise DamagedState(str(error)) from error
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            state = None if archive.testzip() else unpack_state(packed)
    except Exception as error:  # a changed byte may raise any error of zipfile and of torch
        raise DamagedState(f"{path} is damaged: {reason_of(error, first=True)[:200]}") from error
    if not isinstance(state, dict):
        raise DamagedState(f"{path} is damaged: its bytes are not those that were written")
    return state
