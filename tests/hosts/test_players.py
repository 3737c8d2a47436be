"""`--for mpv` and `--for ffmpeg`: files that players take, and the networks that they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.runtimes.table import RUNTIMES
from export.hosts.writing import export_for_hosts
from export.writing.exporting import Source
from tests.support.hosts import STUDENTS

WINDOWS = SwinIRSpec(scale=2, width=12, depths=(1,), heads=(2,), window=4)


@pytest.mark.extras
def test_a_player_gets_shaders_that_libplacebo_has_run(tmp_path: Path) -> None:
    """The RGB ones take a minute of a CPU that stands in for a GPU: tests/export/test_export_glsl.py has them."""
    obstacle = RUNTIMES["libplacebo"].obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    (folder,) = export_for_hosts(STUDENTS["plain-luma-x2"]().eval(), Source("luma"), ["mpv"], tmp_path)
    names = [file.path.name for file in folder.files if file.path is not None]
    assert names == ["2x-luma.glsl", "2x-luma.fp16.glsl"]
    for file in folder.files:
        assert file.verdict == "passed" and file.parity is not None and file.parity.max_abs <= 1.5 / 255
    readme = (tmp_path / "mpv" / "README.md").read_text(encoding="utf-8")
    assert f'--glsl-shaders="~~/shaders/{names[0]}"' in readme


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("mpv", "swinir is not written as GLSL: plain and compact are; a student: --student plain"),
        ("ffmpeg", "swinir in ONNX takes one size only: --student compact-s"),
        ("vapoursynth", "swinir in ONNX takes one size only: --student compact-s"),
    ],
)
def test_networks_of_windows_are_refused_with_one_that_works(host: str, words: str, tmp_path: Path) -> None:
    (folder,) = export_for_hosts(build(WINDOWS, seed=0), Source("it"), [host], tmp_path)
    assert folder.verdict == "unavailable" and words in str(folder.reason)


def test_ffmpeg_gets_the_names_of_its_command(tmp_path: Path) -> None:
    (folder,) = export_for_hosts(STUDENTS["plain-luma-x2"]().eval(), Source("it"), ["ffmpeg"], tmp_path)
    readme = (tmp_path / "ffmpeg" / "README.md").read_text(encoding="utf-8")
    assert folder.files[0].path == tmp_path / "ffmpeg" / "2x-it.onnx"
    assert "model=2x-it.onnx:input=input:output=output" in readme and "format=yuv420p" in readme
