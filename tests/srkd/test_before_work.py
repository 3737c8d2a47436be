"""Mistakes that a verb can detect before its work (folder, device, sizes) end it at once with exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compressor.data import decode
from compressor.inference import upscale
from srkd.cli.main import run


@pytest.fixture(autouse=True)
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse to decode images: the checks here must come before."""

    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(decode, "read_rgb_u8", decoded)
    monkeypatch.setattr(upscale, "read_picture", decoded)


def last_error(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """Run a verb that must end with exit code 2, and return its last line."""
    assert run(words) == 2
    return capfd.readouterr().err.strip().splitlines()[-1]


def words_of(verb: str, teacher: Path, photos: Path) -> list[str]:
    models = {
        "compress": ["--teacher", str(teacher), "--data", str(photos), "--steps", "1"],
        "evaluate": [str(teacher), "--data", str(photos)],
        "upscale": [str(teacher), str(photos)],
        "profile": [str(teacher)],
        "export": [str(teacher), "--onnx"],
        "convert": [str(teacher), "--to", "basicsr"],
        "demo": [str(teacher)],
        "plot": [str(photos)],
    }
    return [verb, *models[verb]]


@pytest.mark.parametrize("verb", ["compress", "upscale", "profile"])
def test_a_device_that_is_not_there(verb, teacher, photos, tmp_path, capfd):
    """Every verb says it in the same words."""
    words = words_of(verb, teacher, photos)
    words += ["--out", str(tmp_path / "run")] if verb == "compress" else []
    assert "cuda:7" in last_error([*words, "--device", "cuda:7"], capfd)
    assert not (tmp_path / "run").exists()
    if not torch.backends.mps.is_available():
        line = last_error([*words, "--device", "mps"], capfd)
        assert line == "srkd: device 'mps': torch sees 0 of its kind here; use --device cpu"


@pytest.mark.parametrize("where", ["file/inside", "/proc/nothing"])
@pytest.mark.parametrize("verb, name", [("compress", ""), ("upscale", ""), ("convert", "x.pth"), ("plot", "x.png")])
def test_a_folder_that_cannot_be_written(verb, name, where, teacher, photos, tmp_path, capfd):
    (tmp_path / "file").touch()
    out = tmp_path / where
    line = last_error([*words_of(verb, teacher, photos), "--out", str(out / name)], capfd)
    assert f" {out} cannot be written: " in line and "choose another folder" in line


@pytest.mark.parametrize("where", ["file/inside", "/proc/nothing"])
def test_a_copy_of_a_recipe_and_a_site_that_cannot_be_written(where, teacher, photos, tmp_path, capfd):
    (tmp_path / "file").touch()
    culprit = str(tmp_path / "file" if "file" in where else "/proc")
    assert culprit in last_error(["recipes", "cp", "logits", str(tmp_path / where / "x.yaml")], capfd)
    line = last_error([*words_of("demo", teacher, photos), "--build", str(tmp_path / where)], capfd)
    assert "--build " in line and culprit in line


def test_a_file_in_the_place_of_the_run_folder(teacher, photos, tmp_path, capfd):
    (tmp_path / "file").touch()
    line = last_error([*words_of("compress", teacher, photos), "--out", str(tmp_path / "file")], capfd)
    assert "file exists and is not empty: choose another folder" in line


@pytest.mark.parametrize(
    "verb, words, part",
    [
        ("compress", ["--set", "schedule.lr_patch=200"], "--lr-patch 20 or less"),
        ("evaluate", ["--border", "4000"], "border of 4000"),
        ("profile", ["--lr-size", "60000x60000"], "60000x60000 takes "),
        ("profile", ["--lr-size", "20000x20000", "--batch", "500"], "batch of 500"),
        ("export", ["--static", "90000x90000"], "--static 90000x90000"),
    ],
)
def test_an_impossible_size(verb, words, part, teacher, photos, tmp_path, capfd):
    out = ["--out", str(tmp_path / "out")] if verb in ("compress", "export") else []
    assert part in last_error([*words_of(verb, teacher, photos), *out, *words], capfd)
    assert not (tmp_path / "out").exists()
