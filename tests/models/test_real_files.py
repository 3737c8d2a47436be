"""Published files of Compact, RRDBNet and SPAN: scored, narrowed, exported, sent home."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import srkd
from compressor.models.checkpoints.convert import convert_file
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.fitting.patches import embedded_patches
from compressor.models.networks.cost import cost
from compressor.models.students.students import build_student
from compressor.teachers import spandrel_teacher
from tests.support.exports import export_file
from tests.support.shared import benchmarks, needs_shared, shared

FILES = ("realesr-general-x4v3.param", "realesrgan-x4plus-anime.param", "spanx4_ch48.param", "team00_SPAN.pth")

pytestmark = needs_shared


def real(name: str) -> Path:
    path = shared() / "data" / "checkpoints" / name
    if not path.is_file():
        pytest.skip(f"no {name} in the shared folder")
    return path


def crop(side: int = 24) -> torch.Tensor:
    return torch.rand(1, 3, side, side - 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.ci
@pytest.mark.parametrize(("name", "psnr_y"), [("spanx4_ch48.param", 32.203), ("spanx2_ch48.param", 38.070)])
def test_ncnn_files_score_on_set5_what_their_authors_files_score(name: str, psnr_y: float) -> None:
    path = real(name)
    scores = srkd.evaluate(path, data=benchmarks() / "Set5").models[path.stem]["Set5"]
    assert scores.psnr_y == pytest.approx(psnr_y, abs=0.001)


@pytest.mark.ci
@pytest.mark.skipif(not spandrel_teacher.is_spandrel_installed(), reason="spandrel is not installed: make extras")
@pytest.mark.parametrize(
    ("name", "to", "there"),
    [
        ("realesr-general-x4v3.param", "srvgg", "RealESRGAN Compact"),
        ("realesrgan-x4plus-anime.param", "real-esrgan", "ESRGAN"),
        ("realesrgan-x4plus-anime.param", "basicsr", "ESRGAN"),
        ("realesrgan-x4plus-anime.param", "esrgan-old", "ESRGAN"),
        ("spanx4_ch48.param", "span", "SPAN"),
        ("spanx2_ch48.param", "span", "SPAN"),
        ("team00_SPAN.pth", "span", "SPAN"),
    ],
)
def test_spandrel_gives_the_same_image_on_the_way_home(name: str, to: str, there: str, tmp_path: Path) -> None:
    home = convert_file(real(name), to, tmp_path / "home.pth").path
    model = spandrel_teacher.import_spandrel().ModelLoader().load_from_file(home)
    network = load_checkpoint(real(name)).network
    assert (model.architecture.name, model.scale) == (there, network.spec.scale)
    assert (model(crop()) - network(crop()).clamp(0, 1)).abs().max() < 1e-5


@pytest.mark.ci
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("width", "depth"), [(0.5, 1.0), pytest.param(1.0, 0.5, marks=pytest.mark.slow)])
def test_a_half_of_a_file_is_smaller_and_goes_to_onnx(name: str, width: float, depth: float, tmp_path: Path) -> None:
    teacher = load_checkpoint(real(name)).network
    # Of a SPAN with blocks left out, a slice amplifies rounding beyond what an export allows.
    student = build_student(teacher, width=width, depth=depth, init="inherit" if depth == 1 else "fit")
    assert cost(student).params < 0.75 * cost(teacher).params
    report = export_file(student, "onnx", tmp_path)
    expected = student(crop()).detach()
    assert (srkd.load(report.path)(crop()) - expected).abs().max() < 1e-4 * max(1, expected.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["realesr-general-x4v3.param", "spanx4_ch48.param"])
def test_a_half_that_is_solved_for_is_nearer_to_the_file_than_a_slice(name: str) -> None:
    teacher = load_checkpoint(real(name)).network
    lr = embedded_patches(teacher.spec.scale, 3)[:2]
    wanted = teacher(lr)
    fitted, slice_ = (build_student(teacher, width=0.5, init=start)(lr) for start in ("fit", "inherit"))
    assert (fitted - wanted).square().mean() < 0.5 * (slice_ - wanted).square().mean()
