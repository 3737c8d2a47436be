"""Untrusted programs that write files, never end, use all memory or crash: each does no harm, and becomes one line."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from compressor.base.child import Child, StartChild, Worker, children_started_by
from compressor.base.choices import Precision
from compressor.base.errors import SrkdError, is_out_of_memory
from compressor.base.isolation import USUAL_LIMITS, ResourceLimits
from compressor.base.precision import autocast
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.teachers import programs
from compressor.teachers.programs import archive_kind, open_program
from compressor.teachers.teacher import load_teacher
from srkd.cli.main import run
from tests.support.commands import ROOT, is_gone
from tests.support.foreign_models import save_export, save_torchscript, twin
from tests.support.jail import needs_jail

pytestmark = needs_jail
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
TIGHT = ResourceLimits(seconds=8, memory_mb=1500)
TIGHT_IN_A_FORK = ResourceLimits(seconds=3, memory_mb=1500)
"""Limits for a forked process, which need not import torch first."""


@pytest.fixture
def real_programs(quick_children: StartChild) -> Iterator[None]:
    """Run programs in processes as for a user, and try them in forks, which are jailed as well."""

    def start(function: str, job: Mapping[str, object], **options: Any) -> Worker:
        return (Child if function.endswith(":ProgramInChild") else quick_children)(function, job, **options)

    with children_started_by(start):
        yield


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
                content = content.replace(old.encode(), new.encode())
            archive.writestr(name, content)
    return path


class LaterPlain(Twice):
    """A model whose code for wide images is replaced: no trial image is that wide."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.size(3) > 200:
            x = x + 1
        return torch.nn.functional.interpolate(x, scale_factor=2.0)


@pytest.mark.ci
@pytest.mark.parametrize(
    "code",
    [
        'torch.add(x, 1)\n      torch.save(x, "{path}")',
        'torch.add(x, torch.sum(ops.aten.from_file("{path}", True, 16, dtype=6)))',
    ],
    ids=["save", "map"],
)
def test_a_file_is_not_written_by_what_no_trial_reaches(code: str, tmp_path: Path, real_programs: None) -> None:
    target = tmp_path / "WRITTEN"
    path = save_torchscript(LaterPlain(), tmp_path / "evil.pt")
    replaced(path, "torch.add(x, 1)", code.format(path=target))
    teacher = load_teacher(path)
    with suppress(SrkdError):  # torch.save reports no error
        teacher(torch.rand(1, 3, 8, 300))
    assert not target.exists()
    assert teacher(torch.rand(1, 3, 8, 8)).shape == (1, 3, 16, 16), "an error is not the end of its process"
    torch.jit.load(str(path))(torch.rand(1, 3, 8, 300))
    assert target.exists(), "otherwise that nothing was written would prove nothing"


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


def test_what_loading_runs_changes_nothing(tmp_path: Path, real_programs: None) -> None:
    target = tmp_path / "WRITTEN"
    path = save_torchscript(Setter(str(target)), tmp_path / "setter.pt")
    with suppress(SrkdError):  # torch.save reports no error
        load_teacher(path)(torch.rand(1, 3, 4, 4))
    assert not target.exists()
    torch.jit.load(str(path))
    assert target.exists(), "otherwise that nothing was written would prove nothing"


class Reader(Twice):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        secret = torch.from_file(self.path, False, 16, dtype=torch.float32)
        return torch.nn.functional.interpolate(x, scale_factor=2.0) + secret.sum()


def test_a_file_of_the_user_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(torch.rand(16).numpy().tobytes())
    with pytest.raises(SrkdError, match=r"reader\.pt .*unable to open file"):
        load_teacher(save_torchscript(Reader(str(tmp_path / "secret")), tmp_path / "reader.pt"))


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
@pytest.mark.parametrize(("module", "message"), [(Endless(), "over 8 s"), (Hungry(), "allocate memory|no image")])
def test_a_program_without_end_or_measure_is_one_line(
    module: nn.Module, message: str, tmp_path: Path, real_children: None
) -> None:
    path = save_torchscript(module, tmp_path / "greedy.pt")
    began = time.monotonic()
    with pytest.raises(SrkdError, match=rf"greedy\.pt.*({message})"):
        open_program("torchscript", path, TIGHT)
    assert time.monotonic() - began < 40


class Later(Twice):
    """A model that does harm with images that are wider than those of the trial, each width its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        width = x.size(3)
        if width == 202:
            number = 0
            while number >= 0:
                number = (number + 1) % 7
        if width == 203:
            x = x + torch.zeros([1000000, 1000000]).sum()
        if width == 204:
            return torch.zeros([1, 1, 1, 1]).expand(1, 3, 30000, 30000)
        return torch.nn.functional.interpolate(x, scale_factor=2.0)


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_torchscript(Later(), tmp_path_factory.mktemp("later") / "late.pt")


@pytest.mark.ci
@pytest.mark.parametrize(
    ("width", "message", "goes_on"),
    [
        (202, r"late\.pt: .*--limits 4", False),
        (203, r"late\.pt: .*allocate memory", True),
        (204, r"images of shape .* do not fit into 4 GiB of shared memory", True),
    ],
    ids=["spins", "eats memory", "answers too much"],
)
def test_harm_that_no_trial_finds_is_one_line(
    width: int, message: str, goes_on: bool, later: Path, real_programs: None
) -> None:
    program, small = open_program("torchscript", later, USUAL_LIMITS), torch.rand(1, 3, 8, 8)
    expected = program.run(small)
    program.limits = ResourceLimits(seconds=60 if goes_on else 1)
    with pytest.raises(SrkdError, match=message) as raised:
        program.run(torch.rand(1, 3, 8, width))
    assert str(raised.value).isprintable() and is_out_of_memory(raised.value) == (width == 203)
    if goes_on:
        assert torch.equal(program.run(small), expected), "a caller may retry with smaller tiles"
    else:
        with pytest.raises(SrkdError, match=r"late\.pt"):
            program.run(small)


@pytest.mark.ci
@pytest.mark.parametrize("save", [save_torchscript, save_export])
def test_the_outputs_are_those_of_the_same_process_bit_for_bit(
    save: Callable[..., Path], tmp_path: Path, real_programs: None
) -> None:
    network = build(EDSRSpec(2, 16, 2), seed=0).eval()
    path = tmp_path / "network"
    if save is save_torchscript:
        torch.jit.trace(network, torch.rand(1, 3, 9, 11)).save(str(path))
        here = torch.jit.load(str(path)).eval()
    else:
        save_export(network, path)
        here = torch.export.load(path).module()
    teacher, before = load_teacher(path), torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for layout in (torch.contiguous_format, torch.channels_last):
                for precision in PRECISIONS:
                    lr = torch.rand(3, 3, 24, 20).contiguous(memory_format=layout)
                    with torch.no_grad(), autocast(precision, lr.device):
                        expected = here(lr).float()
                        sr = teacher(lr)
                    assert torch.equal(sr, expected) and sr.stride() == expected.stride()
    finally:
        torch.set_num_threads(before)


def running_programs() -> list[psutil.Process]:
    """Return the processes that this one has started to run programs, without those of forgotten teachers."""
    gc.collect()
    started = psutil.Process().children()
    return [process for process in started if any("ProgramInChild" in word for word in process.cmdline())]


def test_its_process_starts_with_the_first_image_and_ends_with_the_teacher(tmp_path: Path, real_programs: None) -> None:
    teacher = load_teacher(save_torchscript(twin(), tmp_path / "twin.pt"))
    assert not running_programs()
    teacher(torch.rand(1, 3, 4, 4))
    (child,) = running_programs()
    assert os.getsid(child.pid) == child.pid, "Ctrl-C in the terminal does not reach it"
    del teacher
    assert not running_programs()
    assert is_gone(child.pid, seconds=10)


def test_a_process_that_is_gone_is_one_line_that_names_the_file(tmp_path: Path, real_programs: None) -> None:
    teacher = load_teacher(save_torchscript(twin(), tmp_path / "twin.pt"))
    teacher(torch.rand(1, 3, 4, 4))
    (child,) = running_programs()
    child.kill()
    for _ in range(2):
        with pytest.raises(SrkdError, match=r"twin\.pt: .*SIGKILL.*--limits 4"):
            teacher(torch.rand(1, 3, 4, 4))


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_its_process_ends_with_srkd_even_if_that_is_killed(tmp_path: Path) -> None:
    path = save_torchscript(twin(), tmp_path / "twin.pt")
    program = (
        "import sys, time, torch, psutil; from compressor.teachers.teacher import load_teacher\n"
        "teacher = load_teacher(sys.argv[1]); teacher(torch.rand(1, 3, 4, 4))\n"
        "print(psutil.Process().children()[0].pid, flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
    assert is_gone(child, seconds=10)


def test_a_program_is_refused_where_there_is_no_jail_unless_its_code_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_children: StartChild, capsys: pytest.CaptureFixture[str]
) -> None:
    jailed: list[bool] = []

    def start(*arguments: object, limits: ResourceLimits | None = None, **options: object) -> Worker:
        jailed.extend([] if limits is None else [limits.is_jailed])
        return quick_children(*arguments, limits=limits, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(programs, "jail_obstacle", lambda: "a kernel without Landlock")
    monkeypatch.setenv("SRKD_CACHE", str(tmp_path / "untried"))
    for path in (save_torchscript(twin(), tmp_path / "twin.pt"), save_export(twin(), tmp_path / "twin.pt2")):
        with children_started_by(start):
            assert run(["inspect", str(path)]) == 1 and jailed == []
            message = capsys.readouterr().err
            assert str(path) in message and "a kernel without Landlock" in message and "--trust-code" in message
            assert run(["inspect", str(path), "--trust-code"]) == 0
            load_teacher(path, trust_code=True)(torch.rand(1, 3, 4, 4))
        assert jailed and not any(jailed)
        jailed.clear()


@pytest.mark.ci
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


@pytest.mark.ci
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
    """A model that divides by zero on images below 11 pixels, as ONNX Runtime does for some pooling blocks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.interpolate(x, scale_factor=2.0)
        if x.size(2) < 11:
            size = x.size(2)
            y = y * (size // (size - size))
        return y


def test_the_smallest_size_is_learnt_and_smaller_images_are_padded(tmp_path: Path) -> None:
    teacher = load_teacher(save_torchscript(Pools(), tmp_path / "pools.pt"))
    assert archive_kind(tmp_path / "pools.pt") == "torchscript"
    assert teacher.model.facts.descriptor.min_size == 11  # type: ignore[attr-defined]
    lr = torch.rand(1, 3, 4, 30)
    assert teacher(lr).shape == (1, 3, 8, 60)
