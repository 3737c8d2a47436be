"""Untrusted programs that write files, never end, use all memory or crash: each becomes one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.base.errors import SrkdError
from compressor.base.isolation import ResourceLimits
from compressor.teachers.archives import archive_kind
from compressor.teachers.programs import open_program
from compressor.teachers.teacher import load_teacher
from tests.support.commands import ROOT, is_gone
from tests.support.foreign_models import save_export, save_torchscript, twin

TIGHT = ResourceLimits(seconds=8, memory_mb=1500)
TIGHT_IN_A_FORK = ResourceLimits(seconds=3, memory_mb=1500)
"""Limits for a forked process, which need not import torch first."""


class Twice(nn.Module):
    """A model that enlarges twice; subclasses additionally do something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(x, scale_factor=2.0)


def replaced(path: Path, old: str, new: str) -> Path:
    """Change the code of a TorchScript file manually, like an attacker."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            if "/code/" in name and name.endswith(".py"):
                assert old.encode() in content, content
                content = content.replace(old.encode(), new.encode())
            archive.writestr(name, content)
    return path


class Plain(Twice):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


SAVES = [
    'torch.save(x, "{path}")',
    'torch.save (x, "{path}")',
    'torch.save\\\n(x, "{path}")',
    'ops.aten.save(x, "{path}")',
    'ops.aten . save(x, "{path}")',
]


@pytest.mark.parametrize("call", SAVES)
def test_a_file_is_not_written_however_the_call_is_spelt(call: str, tmp_path: Path) -> None:
    target = tmp_path / "WRITTEN"
    path = save_torchscript(Plain(), tmp_path / "evil.pt")
    replaced(path, "return torch.add(x, 1)", f"_0 = {call.format(path=target)}\n    return torch.add(x, 1)")
    with pytest.raises(SrkdError, match=r"evil\.pt.*(refused|can open)"):
        load_teacher(path)
    assert not target.exists()


class Setter(Twice):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state
        if len(self.path) > 0:
            torch.save(torch.zeros(1), self.path)


def test_what_loading_runs_is_refused_and_changes_nothing(tmp_path: Path, real_children: None) -> None:
    target = tmp_path / "WRITTEN"
    path = save_torchscript(Setter(str(target)), tmp_path / "setter.pt")
    with pytest.raises(SrkdError, match=r"setter\.pt"):
        load_teacher(path)
    assert not target.exists()
    torch.jit.load(str(path))
    assert target.exists(), "otherwise that nothing was written would prove nothing"


def test_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    path = save_torchscript(Twice(), tmp_path / "case.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(archive.namelist()[0].partition("/")[0] + "/DATA.PKL", b"x")
    with pytest.raises(SrkdError, match=r"DATA\.PKL.*refused"):
        load_teacher(path)


class Endless(Twice):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        number = 0
        while number >= 0:
            number = (number + 1) % 7
        return x


class Hungry(Twice):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros([100000, 100000]).add(1.0)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("module", "message"), [(Endless(), "over 8 s"), (Hungry(), "allocate memory|enlarges no image")]
)
def test_a_program_without_end_or_measure_is_one_line(
    module: nn.Module, message: str, tmp_path: Path, real_children: None
) -> None:
    path = save_torchscript(module, tmp_path / "greedy.pt")
    began = time.monotonic()
    with pytest.raises(SrkdError, match=rf"greedy\.pt.*({message})"):
        open_program("torchscript", path, TIGHT)
    assert time.monotonic() - began < 40


def test_sigterm_ends_srkd_while_a_program_runs_for_ever(tmp_path: Path) -> None:
    path = save_torchscript(Endless(), tmp_path / "endless.pt")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "srkd", "inspect", str(path)], env=environment, stderr=subprocess.PIPE, text=True
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and not (children.exists() and children.read_text().strip()):
        time.sleep(0.05)
    child = int(children.read_text().split()[0])
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    # If the signal comes before the child has its job, the child finds none and ends.
    assert is_gone(child, seconds=30)


def test_sizes_that_take_for_ever_to_compute_are_one_line(tmp_path: Path) -> None:
    good, bad = save_export(twin(), tmp_path / "good.pt2"), tmp_path / "power.pt2"
    power = b"Mul(Pow(Integer(9), Pow(Integer(9), Pow(Integer(9), Integer(9)))), Integer(2)"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(bad, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if "/models/" in name:
                assert b"Mul(Integer(2)" in content
                content = content.replace(b"Mul(Integer(2)", power)
            new.writestr(name, content)
    with pytest.raises(SrkdError, match=r"power\.pt2"):
        open_program("export", bad, TIGHT_IN_A_FORK)


class Pools(Twice):
    """A model that ends the process on images below 11 pixels, as ONNX Runtime does for some pooling blocks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.interpolate(x, scale_factor=2.0)
        if x.size(2) < 11:
            size = x.size(2)
            y = y * (size // (size - size))
        return y


def test_the_smallest_size_is_learnt_and_smaller_images_are_padded(tmp_path: Path, real_children: None) -> None:
    teacher = load_teacher(save_torchscript(Pools(), tmp_path / "pools.pt"))
    assert archive_kind(tmp_path / "pools.pt") == "torchscript"
    assert teacher.model.facts.descriptor.min_size == 11  # type: ignore[attr-defined]
    lr = torch.rand(1, 3, 4, 30)
    assert teacher(lr).shape == (1, 3, 8, 60)
