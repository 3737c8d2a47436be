"""A recipe that `--steps` makes short gets a rate that suits it; whoever sets the rate keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from srkd.compression import compress
from srkd.config import load_recipe
from srkd.verb_options import CompressOptions


def schedule_of(steps: int | None, *settings: str, recipe: str = "logits") -> tuple[str, float, tuple[int, ...], int]:
    """Return decay, rate, milestones and the number of notes."""
    lines: list[str] = []
    rule = load_recipe(CompressOptions(recipe=recipe, steps=steps, settings=settings), lines.append).schedule
    return rule.decay, rule.rate, rule.milestones, len(lines)


def test_only_a_recipe_that_is_made_short_changes():
    before = load_recipe(CompressOptions(recipe="clsd")).schedule
    assert schedule_of(None, recipe="clsd") == ("milestones", before.rate, before.milestones, 0)
    assert schedule_of(before.steps // 2, recipe="clsd")[0] == "milestones"
    assert schedule_of(4999, recipe="clsd") == ("cosine", 8e-4, (), 1)
    assert schedule_of(200, recipe="srkd-best") == ("cosine", 1e-3, (), 0)


@pytest.mark.parametrize(
    "setting", ["rate=1e-5", "decay=milestones", "milestones=[7]", "milestones.0=7", "factor=0.5", "decay=constant"]
)
def test_whoever_sets_the_rate_keeps_it(setting):
    assert schedule_of(200, f"schedule.{setting}", recipe="clsd")[3] == 0
    assert schedule_of(200, "schedule.batch=4", "schedule.clip=10", recipe="clsd")[:2] == ("cosine", 8e-4)


def test_published_schedules_are_only_rescaled():
    assert schedule_of(200, recipe="logits-paper") == ("milestones", 1e-4, (80, 160), 0)


def test_a_file_is_a_recipe_like_any_other(tmp_path):
    text = "title: t\nsource: s\nmethods: [{name: scratch}]\n"
    text += "schedule: {steps: %d, decay: milestones, milestones: [9]}\n"
    for steps, decay in ((20_000, "cosine"), (3000, "milestones")):
        file = tmp_path / f"own-{steps}.yaml"
        file.write_text(text % steps)
        assert schedule_of(100, recipe=str(file))[0] == decay


@pytest.mark.slow
def test_a_student_of_200_steps_ends_above_where_milestones_left_it(tmp_path: Path):
    """The embedded teacher on the embedded photos, small patches: minutes, and several dB."""

    def score(name: str, *settings: str) -> tuple[float, float]:
        small = ("schedule.batch=4", "schedule.lr_patch=24", "schedule.precision=fp32")
        report = compress(recipe="logits", steps=200, settings=(*small, *settings), out=tmp_path / name)
        return report.student.psnr_y, report.bicubic.psnr_y

    suited, bicubic = score("suited")
    milestones, _ = score("milestones", "schedule.decay=milestones")
    assert suited > milestones + 3 and suited > bicubic - 0.5
