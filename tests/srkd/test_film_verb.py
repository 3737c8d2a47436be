"""`srkd upscale film.mp4`: lines, JSON and exit codes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch

import srkd
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from srkd.cli.main import run
from tests.support.films import frames_of, make_film, picture, require_av

require_av()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network of scale 2 and a film of five frames, of which two are equal."""
    monkeypatch.chdir(tmp_path)
    srkd.save(build(EDSRSpec(scale=2, width=8, depth=1), seed=1), tmp_path / "student.safetensors")
    make_film(tmp_path / "film.mkv", [picture(number) for number in (1, 2, 2, 3, 4)], sound_seconds=0.2)
    return tmp_path


def test_lines_about_a_film(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["upscale", "student.safetensors", "film.mkv", "-o", "large.mp4"]) == 0
    # On a busy machine there are lines of progress before.
    lines = [line for line in capfd.readouterr().out.splitlines() if not line.startswith("film.mkv ")]
    assert lines[0].startswith("large.mp4  64x48 -> 128x96, 5 frames, 1 equal to the one before, ")
    assert lines[0].endswith(" fps (torch, fp32), h264 yuv420p") and lines[1] == "copied: audio stream 1 (aac, fin)"
    assert len(frames_of(desk / "large.mp4")) == 5
    assert run(["upscale", "student.safetensors", "film.mkv", "-o", "large.mp4"]) == 1
    assert "large.mp4 exists: --overwrite replaces it" in capfd.readouterr().err


def test_a_film_in_json(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["upscale", "student.safetensors", "film.mkv", "--codec", "ffv1", "--json"]) == 0
    (film,) = json.loads(capfd.readouterr().out)["films"]
    assert (film["source"], film["output"]) == ("film.mkv", "film_x2.mkv")
    assert (film["lr_size"], film["sr_size"]) == ("64x48", "128x96")
    assert (film["frames"], film["reused"], film["resumed"]) == (5, 1, 0)
    assert (film["codec"], film["pixel_format"], film["precisions"]) == ("ffv1", "yuv420p", ["fp32"])
    assert film["copied"] == ["audio stream 1 (aac, fin)"] and film["notes"] == [] and film["fps"] > 0


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["film.mkv", "--codec", "divx"], 2, "'divx' is not one of 'h264', 'hevc', 'vp9', 'ffv1'"),
        (["film.mkv", "--codec", "vp9", "-o", "large.mov"], 1, "--codec vp9: .mov does not hold it"),
        (["film.mkv", "-o", "large.avi"], 2, "large.avi: .avi is not written, choose one of .mp4"),
        (["text.mp4"], 1, "text.mp4 cannot be read as a film"),
    ],
)
def test_mistakes_are_one_line_each(
    desk: Path, words: list[str], code: int, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (desk / "text.mp4").write_text("no film")
    assert run(["upscale", "student.safetensors", *words]) == code
    assert len([error for error in capfd.readouterr().err.splitlines() if line in error]) == 1
    assert not list(desk.glob("*.part"))


def test_flicker_of_a_film(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Grain over a picture that stands still: the change stands in the tables, in grey levels and in CSV."""
    grain = torch.Generator().manual_seed(3)
    make_film(desk / "still.mkv", [picture(1) + 0.01 * torch.randn((1, 3, 48, 64), generator=grain) for _ in range(4)])
    words = ["evaluate", "--against", "student.safetensors", "--data", "still.mkv", "--metrics", "psnr,flicker"]
    assert run(words) == 0
    lines = capfd.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("flicker on still.mkv: 3 of 4 pairs of frames, where ")]
    assert "stands still; mean change in grey levels: bicubic " in line
    (row,) = [line.split() for line in lines if line.startswith("student ")]
    assert row[1:] == ["inf", "1.000"]
    assert run([*words, "--csv"]) == 0
    bicubic, *_ = csv.DictReader(io.StringIO(capfd.readouterr().out))
    assert "flicker_teacher" in bicubic and 0 < float(bicubic["flicker"]) < 3
