"""Programs of torch, which contain code: they open for a user who trusts them, and a damaged one is one line."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.base.errors import SrkdError
from compressor.teachers.teacher import load_teacher
from srkd.cli.main import run
from tests.support.foreign_models import save_all, save_torchscript, twin


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_all(tmp_path_factory.mktemp("foreign"))


class Setter(nn.Module):
    """A model that writes a file while it is opened."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(x, scale_factor=2.0)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state
        if len(self.path) > 0:
            torch.save(torch.zeros(1), self.path)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def evil_script(good: Path, folder: Path) -> Path:
    return save_torchscript(Setter(str(folder / "RAN")), folder / "evil.pt")


def evil_export(good: Path, folder: Path) -> Path:
    """Put an object into the example inputs, which torch unpickles."""
    pickled = BytesIO()
    torch.save(Touch(folder / "RAN"), pickled)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(folder / "evil.pt2", "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled.getvalue() if "sample_inputs" in name else old.read(name))
    return folder / "evil.pt2"


@pytest.mark.parametrize("make", [evil_script, evil_export])
def test_no_code_of_a_program_runs_unless_it_is_trusted(
    make: Callable[[Path, Path], Path], files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(files["torch.export"], tmp_path)
    for verb in (["inspect"], ["evaluate", "--data", str(tmp_path)], ["upscale", str(tmp_path)]):
        assert run([verb[0], str(path), *verb[1:]]) != 0
        message = capsys.readouterr().err
        assert str(path) in message and "--trust-code" in message and len(message.splitlines()) == 1
    assert not (tmp_path / "RAN").exists()
    with suppress(SrkdError):  # the example inputs of the second file are none
        load_teacher(path, trust_code=True)
    assert (tmp_path / "RAN").exists(), "otherwise that nothing ran would prove nothing"


@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
def test_a_trusted_program_is_opened_by_every_verb(kind: str, files: dict[str, Path], photos: Path) -> None:
    for verb in (["inspect"], ["evaluate", "--data", str(photos)]):
        assert run([verb[0], str(files[kind]), *verb[1:], "--trust-code"]) == 0


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def altered(content: bytes) -> bytes:
    """Change a byte of the longest record that is not compressed."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        stored = [member for member in archive.infolist() if member.compress_type == zipfile.ZIP_STORED]
        value = archive.read(max(stored, key=lambda member: member.file_size))
    at = content.index(value)
    return content[:at] + bytes([value[0] ^ 255]) + content[at + 1 :]


@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
@pytest.mark.parametrize("damage", [cut, altered])
def test_a_damaged_archive_is_one_line(
    kind: str, damage: Callable[[bytes], bytes], files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / files[kind].name
    path.write_bytes(damage(files[kind].read_bytes()))
    with pytest.raises(SrkdError, match=r"twin\.pt2?: (.*damaged.* again|.*torch\.save)"):
        load_teacher(path, trust_code=True)


def test_a_whole_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(twin(), tmp_path / "whole.pth")
    with pytest.raises(SrkdError, match=r"state_dict\(\).*export the model to ONNX"):
        load_teacher(tmp_path / "whole.pth")
