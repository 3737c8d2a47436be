"""Validation: the figures of `srkd evaluate`, to the originals and to the teacher, on several sets; and the goal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import srkd
from compressor.assets import embedded_teacher
from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.data.prepare import DataChoice, ValidationFolder, ValidationImage, ValidationSet, prepare_data
from compressor.images.metrics import to_u8
from compressor.images.scores import EQUAL_DB
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.teachers.teacher import load_teacher
from compressor.training.validation import Validation, enlarge
from srkd.cli.verbs.compress import show
from srkd.options.compress import CompressOptions
from srkd.record.run_file import read_run_file
from srkd.record.run_spec import RunSpec
from srkd.reports.reproduction import given_options
from srkd.runs.decide import decide
from srkd.terminal.console import Console
from tests.support.run_files import read_json, read_metrics
from tests.support.small_runs import SMALL


def texture(height: int, width: int, seed: int) -> torch.Tensor:
    small = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return to_u8(torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1))


def save_set(folder: Path, *sizes: tuple[int, int]) -> Path:
    folder.mkdir(parents=True)
    for index, size in enumerate(sizes):
        Image.fromarray(texture(*size, seed=index)[0].permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return folder


def prepared(scale: int, *folders: ValidationFolder) -> tuple[ValidationSet, ...]:
    return prepare_data(DataChoice(val=folders, cache_size=0), scale=scale, lr_patch=8).validation


def test_whole_images_have_the_figures_of_evaluate(tmp_path: Path) -> None:
    """Larger than 480 pixels, where validation once cut the middle out; in tiles for a network that is bounded."""
    save_set(tmp_path / "A", (515, 64), (48, 600))
    network = load_teacher(embedded_teacher())
    validation = Validation(prepared(4, ValidationFolder(tmp_path / "A")), 4, "original")
    models = srkd.evaluate(embedded_teacher(), data=tmp_path / "A").models
    expected = {name: sets["A"] for name, sets in models.items()}
    for name, scores in (("bicubic", validation.reference.bicubic), ("teacher", validation.score(network))):
        assert scores.psnr_y == pytest.approx(expected[name].psnr_y, abs=1e-3)
        assert scores.ssim_y == pytest.approx(expected[name].ssim_y, abs=1e-5)


def psnr_by_hand(a: torch.Tensor, b: torch.Tensor, border: int) -> float:
    """Y-PSNR by its definition, in NumPy."""
    weights = np.array([65.481, 128.553, 24.966]) / 255
    planes = [
        np.tensordot(weights, image[0].numpy().astype(float), 1)[border:-border, border:-border] for image in (a, b)
    ]
    return float(10 * np.log10(255**2 / np.mean((planes[0] - planes[1]) ** 2)))


def test_figures_to_the_teacher_are_those_of_its_images() -> None:
    student, teacher = (build(EDSRSpec(scale=2, width=4, depth=1), seed=seed) for seed in (1, 2))
    hr = texture(48, 64, seed=3)
    lr = hr[..., ::2, ::2].contiguous()
    sets = [ValidationSet("a", (ValidationImage("x", lr, hr), ValidationImage("y", lr.flip(-1).contiguous(), None)))]
    validation = Validation(sets, 2, "teacher", teacher)
    scores = validation.score(student)
    pairs = [(enlarge(student, image.lr, 2), enlarge(teacher, image.lr, 2)) for image in sets[0].images]
    assert scores.psnr_y_teacher == pytest.approx(np.mean([psnr_by_hand(*pair, 2) for pair in pairs]))
    assert validation.judge(scores) == scores.psnr_y_teacher
    assert scores.psnr_y is None, "one image has no original"
    assert validation.reference.teacher is not None and validation.reference.teacher.psnr_y_teacher is None
    assert validation.score(teacher).psnr_y_teacher == EQUAL_DB
    assert validation.score(teacher).ssim_y_teacher == pytest.approx(1)


def test_each_set_has_its_scores_and_the_first_decides(tmp_path: Path) -> None:
    folders = [save_set(tmp_path / name, (48, 48), (64, 48)) for name in ("A", "B")]
    lr_only = save_set(tmp_path / "C", (24, 24))
    network: Network = build(EDSRSpec(scale=2, width=4, depth=1), seed=1)
    first, second = ValidationFolder(folders[0]), ValidationFolder(folders[1], "mine")
    third = ValidationFolder(lr_only, is_lr_only=True)
    validation = Validation(prepared(2, first, second, third), 2, "original", build(EDSRSpec(2, 4, 1), seed=2))
    by_set = validation.score_sets(network)
    assert list(by_set) == ["A", "mine", "C"] and validation.name == "A"
    alone = Validation(prepared(2, second), 2, "original").score(network)
    assert by_set["mine"].psnr_y == alone.psnr_y and validation.score(network) == by_set["A"]
    assert by_set["C"].psnr_y is None and by_set["C"].psnr_y_teacher is not None
    with pytest.raises(UsageError, match="two validation sets are named A"):
        prepared(2, first, ValidationFolder(folders[1], "A"))


def words(ground: Path, **others: Any) -> dict[str, Any]:
    photos = ground / "photos"
    settings = (*SMALL, "schedule.validate_every=1", "schedule.rate=1e-2")
    return {"teacher": ground / "teacher.safetensors", "data": photos, "val": photos, "settings": settings, **others}


def decided(ground: Path, **others: Any) -> RunSpec:
    return decide(CompressOptions.of(**words(ground, **others)), Context())


def test_auto_asks_whether_the_teacher_is_above_bicubic_on_originals(ground: Path) -> None:
    own = decided(ground, init="inherit")
    assert (own.goal, own.labels) == ("teacher", "teacher")
    better = decided(ground, teacher=None, student="edsr:width=8,depth=2,scale=4", init="random")
    assert (better.goal, better.labels) == ("original", "original")
    assert decided(ground, init="inherit", goal="original").labels == "original"
    assert decided(ground, init="inherit", labels="original").goal == "teacher"
    assert decided(ground, recipe="scratch").labels == "original", "a baseline stays what it is"


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"labels": "original", "lr_only": "photos", "data": None}, "--labels original"),
        ({"val": (), "val_lr": "photos", "goal": "original"}, "--goal original"),
    ],
)
def test_contradictions_are_refused(ground: Path, others: dict[str, Any], message: str) -> None:
    placed = {key: ground / value if value == "photos" else value for key, value in others.items()}
    with pytest.raises(SrkdError, match=message):
        decided(ground, init="inherit", **placed)


def test_the_best_student_is_the_nearest_to_the_teacher(ground: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lines: list[str] = []
    report = srkd.compress(**words(ground, steps=6, init="inherit", out=run), announce=lines.append)
    rows = read_metrics(run)
    curve = [row["student_psnr_y_teacher"] for row in rows if row["kind"] == "validation"]
    assert len(curve) == 6 and report.goal == "teacher" == read_json(run)["goal"]
    teacher = load_teacher(ground / "teacher.safetensors")
    validation = Validation(prepared(2, ValidationFolder(ground / "photos")), 2, "teacher", teacher)
    best = load_checkpoint(run / "checkpoints" / "best.safetensors").network
    assert validation.score(best).psnr_y_teacher == pytest.approx(max(curve), abs=0.01)
    assert "to the teacher" in lines[-1] and lines[-1].index("to the teacher") < lines[-1].index("to the original")
    assert not any("BELOW BICUBIC" in flag for flag in report.flags)
    # Label and teacher are one image, so that their gradients do not cancel.
    trained = [row for row in rows if row["kind"] == "train"]
    assert all(row["raw/pixel"] == row["raw/logits"] for row in trained)
    assert read_json(run)["data"]["labels"] == "teacher"


def test_a_start_that_training_makes_worse_stays_the_best(ground: Path, tmp_path: Path) -> None:
    settings = (*SMALL, "schedule.fit_rate=0.5", "schedule.rate=0.5", "schedule.warmup=0")
    report = srkd.compress(**words(ground, steps=3, init="fit", out=tmp_path / "run") | {"settings": settings})
    assert report.untrained is not None and report.student.psnr_y_teacher is not None
    assert read_metrics(report.run)[-1]["student_psnr_y_teacher"] < report.untrained.student
    assert any("worse than its start" in flag for flag in report.flags)
    assert report.student.psnr_y_teacher == pytest.approx(report.untrained.student, abs=0.01)
    best, student = (load_checkpoint(tmp_path / "run" / name).network for name in ("checkpoints/best.safetensors", "."))
    assert best.fingerprint() == student.fingerprint()


def test_sets_have_curves_and_lines_of_their_own(
    ground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [f"first={ground / 'photos'}", str(save_set(tmp_path / "Second", (48, 48)))]
    run = tmp_path / "run"
    sets = {"val": named, "val_lr": f"lr={ground / 'photos'}"}
    report = srkd.compress(**words(ground, steps=1, init="inherit", goal="original", out=run, **sets))
    assert list(report.student.sets) == ["first", "Second", "lr"]
    assert report.student.psnr_y == report.student.sets["first"].psnr_y
    last = read_metrics(run)[-1]
    assert last["Second/student_psnr_y"] == report.student.sets["Second"].psnr_y and "lr/student_psnr_y" not in last
    Console().report("compress", report, show)
    out = capsys.readouterr().out
    assert "Second: student " in out and "lr: student " in out
    given = dict(given_options(read_run_file(run).options))
    assert (given["--val"], given["--val-lr"]) == ("first=photos, Second", "lr=photos")
