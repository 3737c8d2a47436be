"""Networks of scale 1 (denoise, dejpeg) in every verb: they are compared with their input, which stands for bicubic."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import srkd
from compressor.inference.teacher_check import check_teacher
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.registry import build
from compressor.models.networks.rrdbnet import RRDBNetSpec
from compressor.models.networks.span import SPANSpec
from compressor.models.networks.spanf3 import SPANF3Spec
from compressor.models.networks.swinir import SwinIRSpec
from compressor.teachers.teacher import load_teacher
from srkd.cli.main import run
from srkd.runs.planning import PlanReport
from tests.support.demo_app import write_app
from tests.support.foreign_models import save_torchscript
from tests.support.run_files import read_json, read_metrics
from tests.support.small_runs import SET_SMALL

HEIGHT, WIDTH = 40, 48
SPECS: dict[str, Spec] = {
    "plain": PlainSpec(scale=1, width=8, depth=2),
    "span": SPANSpec(scale=1, width=8, depth=2),
    "spanf3 unshuffled": SPANF3Spec(scale=1, width=8, depth=3, unshuffle=4),
    "rrdbnet unshuffled": RRDBNetSpec(scale=1, width=8, growth=4, depth=1, unshuffle=4),
    "swinir": SwinIRSpec(scale=1, width=12, depths=(1, 1), heads=(2, 2), window=4, upsampler="none"),
}


def denoiser() -> Network:
    """A Compact of scale 1 that computes the mean of 3×3 pixels."""
    network = build(CompactSpec(scale=1, width=6, depth=1, residual=False), seed=0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.dirac_(module.weight)
            torch.nn.init.zeros_(module.bias)
        if isinstance(module, torch.nn.PReLU):
            torch.nn.init.ones_(module.weight)
    mean = network.get_parameter("head.conv.weight")
    with torch.no_grad():
        mean.copy_(mean.amax((2, 3), keepdim=True).expand_as(mean) / 9)
    return network


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with teacher.safetensors, and pairs/: three smooth images and their noisy ones of one size."""
    folder = tmp_path_factory.mktemp("x1")
    save_network(denoiser(), folder / "teacher.safetensors")
    random = np.random.default_rng(0)
    for index in range(3):
        along = np.linspace(20, 220, WIDTH)[None, :, None] * np.ones((HEIGHT, 1, 3)) * [1, 0.5 + index / 6, 0.3]
        for kind, image in (("HR", along), ("LRnoiseX1", along + random.normal(0, 15, along.shape))):
            (folder / "pairs" / kind).mkdir(parents=True, exist_ok=True)
            pixels = image.round().clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pairs" / kind / f"{index}.png")
    return folder


def words(ground: Path, *more: object) -> list[str]:
    own = ["--teacher", ground / "teacher.safetensors", "--recipe", "logits", "--steps", 1, "--width", 0.5, *SET_SMALL]
    return ["compress", *map(str, (*own, *more))]


@pytest.fixture(scope="module")
def trained(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a student of the teacher, on the pairs."""
    out = tmp_path_factory.mktemp("runs") / "run"
    data = ground / "pairs"
    assert run(words(ground, "--data", data, "--val", data, "--out", out)) == 0
    return out


def mean_psnr(first: Path, second: Path) -> float:
    """Mean Y-PSNR in dB of the images of two folders, without a border of one pixel, by its formula."""

    def luma(path: Path) -> np.ndarray:
        return 16 + np.asarray(Image.open(path), np.float64)[1:-1, 1:-1] @ [65.481, 128.553, 24.966] / 255

    errors = [np.mean((luma(path) - luma(second / path.name)) ** 2) for path in first.iterdir()]
    return float(np.mean([10 * math.log10(255**2 / error) for error in errors]))


def test_the_inputs_figure_is_its_psnr(ground: Path, trained: Path, tmp_path: Path) -> None:
    """To the originals and to the teacher's images, in all that a run and an evaluation write."""
    pairs, teacher = ground / "pairs", ground / "teacher.safetensors"
    srkd.upscale(teacher, pairs / "LRnoiseX1", out=tmp_path / "sr", suffix="")
    to_original = pytest.approx(mean_psnr(pairs / "HR", pairs / "LRnoiseX1"), abs=1e-3)
    to_teacher = pytest.approx(mean_psnr(tmp_path / "sr", pairs / "LRnoiseX1"), abs=1e-3)
    for data, lr_images in ((pairs, None), (pairs / "HR", pairs / "LRnoiseX1")):
        evaluation = srkd.evaluate([trained], against=teacher, data=data, lr_images=lr_images)
        (score,) = evaluation.models["input"].values()
        assert (score.psnr_y, score.psnr_y_teacher, score.lr) == (to_original, to_teacher, "stored")
        assert list(evaluation.models) == ["input", "teacher", "run"] and evaluation.references[0] == "original"
    result = read_json(trained)["result"]
    assert (result["bicubic"]["psnr_y"], result["bicubic"]["psnr_y_teacher"]) == (to_original, to_teacher)
    last = read_metrics(trained)[-1]
    assert (last["input_psnr_y"], last["input_psnr_y_teacher"]) == (to_original, to_teacher)
    scores = json.loads(srkd.inspect(trained).metadata["srkd.scores"])
    assert (scores["input_psnr_y"], scores["input_psnr_y_teacher"]) == (to_original, to_teacher)


VERBS: dict[str, list[str]] = {
    "evaluate": ["evaluate", "RUN", "--data", "PAIRS"],
    "compare": ["compare", "RUN"],
    "compare on sets": ["compare", "RUN", "--data", "PAIRS"],
    "profile": ["profile", "RUN", "--runtime", "torch", "--lr-size", "8x8", "--seconds", "0.1"],
    "card": ["export", "RUN", "-o", "OUT"],
    "report": ["report", "RUN", "--data", "PAIRS", "-o", "OUT/report.html"],
}


@pytest.mark.ci
def test_it_is_named_in_every_verb(
    ground: Path, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = {"RUN": trained, "PAIRS": ground / "pairs"}
    for verb, words in VERBS.items():
        out = tmp_path / verb
        assert run([str(names.get(word, word)).replace("OUT", str(out)) for word in words]) == 0
        files = [path.read_text() for path in (*out.glob("*.md"), *out.glob("*.html"))]
        text = re.sub(r"bicubic=matlab|data:[^\"]*", "", "\n".join([capfd.readouterr().out, *files]))
        assert re.search(r"\binput\b", text) and "bicubic" not in text.lower(), verb


def test_a_run_with_pairs_is_judged_by_the_originals(ground: Path, tmp_path: Path, capfd: Any) -> None:
    """Without stored pairs the input would be the original: then the teacher's images decide, and a line says why."""
    data = ground / "pairs"
    assert run(words(ground, "--data", data, "--val", data, "--out", tmp_path / "pairs")) == 0
    first = capfd.readouterr().out
    assert "goal original" in first and "input 29.640" in first and "bicubic " not in first
    assert run(words(ground, "--data", data / "HR", "--val", data / "HR", "--out", tmp_path / "clean")) == 0
    second = capfd.readouterr().out
    assert "goal teacher" in second and "is its own input" in second and "BELOW" not in second


def test_a_student_below_its_input(ground: Path, tmp_path: Path, capfd: Any) -> None:
    own = ["--recipe", "scratch", "--student", "compact:width=4,depth=1,scale=1,residual=False", "--steps", "1"]
    data = str(ground / "pairs")
    assert run(["compress", *own, "--data", data, "--val", data, "--out", str(tmp_path / "run"), *SET_SMALL]) == 0
    assert "BELOW INPUT" in capfd.readouterr().err


def test_pictures_keep_their_size(ground: Path, trained: Path, tmp_path: Path) -> None:
    report = srkd.upscale(trained, ground / "pairs" / "LRnoiseX1", out=tmp_path)
    assert [done.output.name for done in report.done] == ["0_x1.png", "1_x1.png", "2_x1.png"]
    assert {Image.open(done.output).size for done in report.done} == {(WIDTH, HEIGHT)}


@pytest.mark.ci
def test_a_plan_and_the_demo_take_them(ground: Path, trained: Path, tmp_path: Path) -> None:
    plan = srkd.plan(ground / "teacher.safetensors", target_fps=1, lr_size="16x16", seconds=0.05)
    assert isinstance(plan, PlanReport) and "scale=1" in plan.chosen.student and plan.goal == "teacher"
    write_app(tmp_path / "app")
    assert run(["demo", str(trained), "--app", str(tmp_path / "app"), "--build", str(tmp_path / "site")]) == 0
    catalogue = json.loads((tmp_path / "site" / "api" / "models.json").read_text())
    assert {model["scale"] for model in catalogue["models"]} == {1} and len(catalogue["models"]) > 1


@pytest.mark.ci
@pytest.mark.parametrize("name", SPECS)
def test_students_are_solved_for(name: str, ground: Path, tmp_path: Path) -> None:
    """Of every kind that has scale 1, and half of it is nearer to its teacher than its input is."""
    save_network(build(SPECS[name], seed=1), tmp_path / "teacher.safetensors")
    data = ground / "pairs"
    training = {"recipe": "fit", "steps": 1, "width": 0.5, "batch": 2, "lr_patch": 16, "goal": "teacher"}
    report = srkd.compress(
        tmp_path / "teacher.safetensors", data=data, val=data, out=tmp_path / "run", init="fit", **training
    )
    assert report.untrained.student > report.bicubic.psnr_y_teacher


@pytest.mark.ci
@pytest.mark.parametrize("recipe", ["ds", "fakd"])
def test_features_of_an_unshuffled_image_are_compared(recipe: str, ground: Path, tmp_path: Path) -> None:
    """They are smaller than the image. The teacher sees no margin, of which they have no exact crop."""
    save_network(build(SPECS["spanf3 unshuffled"], seed=1), tmp_path / "teacher.safetensors")
    own = ["--recipe", recipe, "--init", "inherit", "--teacher", str(tmp_path / "teacher.safetensors"), "--steps", "1"]
    own += ["--batch", "2", "--lr-patch", "16", "--width", "0.5", "--data", str(ground / "pairs")]
    assert run(["compress", *own, "--out", str(tmp_path / "run")]) == 0
    if recipe != "ds":
        assert run(["compress", *own, "--label-margin", "4", "--out", str(tmp_path / "margin")]) == 2


class Ripple(torch.nn.Module):
    """A foreign network of scale 1 that changes a clean photo visibly, and hardly does with values up to 255."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.05 * torch.sin(20 * x)


def test_a_clean_photo_is_no_reason_to_change_a_teacher(tmp_path: Path) -> None:
    """Settings that hide what a network does come nearer to its input, and so to a clean photo."""
    teacher = load_teacher(save_torchscript(Ripple(), tmp_path / "foreign.pt"), trust_code=True)
    check = check_teacher(teacher)
    assert check.is_clean and check.goal == "teacher" and check.suggestion == {}
