"""`--recipe perceptual` as a command: its stages, what it writes, and when other recipes propose it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import srkd
from compressor.base.context import QUIET
from compressor.models.checkpoints.header import FAITHFUL, TEXTURED
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.registry import build
from recipes.catalogue import FOR_LOOKS
from srkd.api.demonstration import demo_models
from srkd.cli.main import run
from srkd.options.verbs import DemoOptions
from tests.support.commands import ROOT
from tests.support.run_files import read_metrics
from tests.support.small_runs import save_photos

WHICH_METHOD = ROOT / "docs" / "which-method.md"
PROPOSAL = "--recipe perceptual makes one that looks like it"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, and a teacher that hardly does more than repeat pixels, so that bicubic is nearer to the originals."""
    folder = tmp_path_factory.mktemp("inputs")
    save_photos(folder / "photos")
    teacher = build(CompactSpec(scale=2, width=8, depth=1), seed=0)
    with torch.no_grad():
        for parameter in list(teacher.parameters())[-2:]:
            parameter.mul_(0.1)
    save_network(teacher, folder / "teacher.safetensors", metadata={})
    return folder


def compress(inputs: Path, out: Path, *more: str) -> int:
    return run(
        [
            *("compress", "--teacher", str(inputs / "teacher.safetensors"), "--width", "0.5"),
            *("--data", str(inputs / "photos"), "--val", str(inputs / "photos"), "--out", str(out)),
            *("--batch", "8", "--lr-patch", "12", "--label-margin", "0", *more),
        ]
    )


def test_it_is_the_recipe_for_such_a_teacher_and_others_propose_it(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*recipe: str) -> str:
        capsys.readouterr()
        assert compress(inputs, tmp_path / "run", *recipe, "--dry-run") == 0
        return "".join(capsys.readouterr())

    assert "recipe perceptual: the teacher is trained for looks" in told()
    by_pixels = "recipe logits compares pixels, so its student will be softer than this teacher"
    assert f"{by_pixels}: {PROPOSAL}" in told("--recipe", "logits")
    # A student that learns the originals has no use for the teacher's texture.
    assert "recipe perceptual" not in told("--labels", "original")
    row = next(line for line in WHICH_METHOD.read_text().splitlines() if "trained for looks" in line)
    assert f"[`{FOR_LOOKS}`]" in row


def test_a_run_keeps_both_ends_and_the_strength_between_them(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert compress(inputs, out, "--recipe", "perceptual", "--steps", "20") == 0
    printed = "".join(capsys.readouterr())
    assert PROPOSAL not in printed and "strength " in printed
    trained = [row for row in read_metrics(out) if row["kind"] == "train"]
    assert "raw/wavelets" in trained[0] and "raw/wavelets" not in trained[-1] and "raw/flat" in trained[-1]
    result = json.loads((out / "run.json").read_text())["result"]
    assert result["strength"] in [row["strength"] for row in result["strengths"]] and len(result["strengths"]) == 9
    student, *ends = (load_checkpoint(out / name).network for name in ("student.safetensors", FAITHFUL, TEXTURED))
    assert sum(value.numel() for value in student.state_dict().values()) < 2000
    for own, first, last in zip(*(network.parameters() for network in (student, *ends)), strict=True):
        torch.testing.assert_close(own, torch.lerp(first, last, result["strength"]))
    blended = tmp_path / "blended.safetensors"
    assert run(["blend", str(out), "--strength", "0.6", "-o", str(blended)]) == 0
    assert load_checkpoint(blended).header["srkd.strength"] == "0.6"
    assert run(["blend", str(inputs / "teacher.safetensors"), "--strength", "0.6", "-o", str(blended)]) == 2
    assert run(["blend", str(out), "--strength", "0.6", "-o", str(out / FAITHFUL)]) == 2, "one of its ends"
    picture = next((inputs / "photos").glob("*.png"))
    ends = [srkd.upscale(model, Image.open(picture), exact=True) for model in (out / FAITHFUL, out / TEXTURED)]
    own = [srkd.upscale(out, Image.open(picture), exact=True, strength=strength) for strength in (0, 1)]
    assert ends[0] != ends[1] and ends == own
    judged = {"against": inputs / "teacher.safetensors", "data": inputs / "photos", "metrics": ["psnr"]}
    scores = [srkd.evaluate(model, strength=of, **judged) for model, of in ((out, 0.0), (out / FAITHFUL, None))]
    assert len({str(list(score.networks.values())) for score in scores}) == 1, "the teacher has one strength"
    to_itself = srkd.evaluate(out, strength=0.0, **{**judged, "against": out})
    assert len(to_itself.models) == 4, "bicubic, Lanczos, the run as its own teacher, and at another strength"
    shown = demo_models(DemoOptions((out,)), QUIET)
    assert [model.role for model in shown] == ["student", "student", "teacher"]
    assert (shown[0].textured, shown[0].strength, shown[1].textured) == (shown[1].name, result["strength"], None)
    assert run(["report", str(out)]) == 0
    assert 'data-strengths="strength 0,strength 0.25,' in (out / "report.html").read_text()
    exported = tmp_path / "exported"
    assert run(["export", str(out), "--strength", "0.3,2", "-o", str(exported)]) == 2 and not exported.exists()
    words = ["--onnx", "--for", "spandrel", "--strength", "0,0.6", "-o", str(exported)]
    assert run(["export", str(out), *words]) == 0
    names = {file.relative_to(exported).as_posix() for file in exported.rglob("*.onnx")}
    assert names == {"student-strength-0.onnx", "student-strength-0.6.onnx"}
    files = [file.name for file in (exported / "spandrel").iterdir() if file.suffix == ".pth"]
    assert sorted(files) == ["2x-run-strength-0.6.pth", "2x-run-strength-0.pth"]
    assert run(["export", str(exported / "student-strength-0.onnx"), "--strength", "1"]) == 2
    assert all(row["clean_overshoot"] == row["overshoot"] for row in result["strengths"])
    for noise, is_clean in (("0..0", True), ("40", False)):
        out, lattice = tmp_path / noise, "--set=lattice=0"
        assert compress(inputs, out, "--recipe=perceptual", lattice, "--steps=20", f"--degrade=noise={noise}") == 0
        rows = json.loads((out / "run.json").read_text())["result"]["strengths"]
        alike = [row["overshoot"] == pytest.approx(row["clean_overshoot"], rel=0.1) for row in rows]
        assert alike == [is_clean] * len(rows)


@pytest.mark.ci
def test_the_report_shows_teacher_student_and_control_and_measures_them_beside_lanczos(
    inputs: Path, tmp_path: Path
) -> None:
    """In columns and in a table; the inputs suffer what the training images did."""
    out = tmp_path / "run"
    more = ("--steps", "3", "--baselines", "scratch", "--degrade", "noise=0..10")
    assert compress(inputs, out, "--recipe", "logits", *more) == 0
    assert run(["report", str(out)]) == 0
    text = (out / "report.html").read_text()
    assert [name for name in ("teacher", "student", "control", "lanczos") if f"<b>{name}</b>" not in text] == []
    (table,) = re.findall(r"<h2>Looks</h2>\s*<.*?</table>", text, re.DOTALL)
    words = re.sub(r"<[^>]*>", " ", table).split()
    assert {"student", "control", "bicubic", "lanczos", "sharpness", "spectrum"} <= set(words)
    assert "degraded (noise=0..10)" in " ".join(words)
