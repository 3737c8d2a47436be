"""A recipe shortened by `--steps` gets a suitable rate, unless the user sets the rate."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.catalogue import RECIPES
from srkd.options.compress import CompressOptions
from srkd.runs.recipe import load_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """Return the file of a user's recipe with milestones, long enough to be shortened."""
    file = tmp_path / "own.yaml"
    text = "title: t\nsource: s\nmethods: [{name: logits}]\nschedule:\n"
    file.write_text(text + "  {steps: 20000, rate: 1e-4, decay: milestones, milestones: [8000, 16000]}\n")
    return str(file)


def schedule_of(recipe: str, steps: int | None, *settings: str) -> tuple[str, float, tuple[int, ...], int]:
    """Return decay, rate, milestones and the number of notes."""
    lines: list[str] = []
    rule = load_recipe(CompressOptions.of(recipe=recipe, steps=steps, settings=settings), lines.append).schedule
    return rule.decay, rule.rate, rule.milestones, len(lines)


def test_only_a_recipe_that_is_made_short_changes(recipe):
    assert schedule_of(recipe, None) == ("milestones", 1e-4, (8000, 16000), 0)
    assert schedule_of(recipe, 10_000) == ("milestones", 1e-4, (4000, 8000), 0)
    assert schedule_of(recipe, 4999) == ("cosine", 8e-4, (), 1)
    assert schedule_of(recipe, 200, "schedule.steps=400") == ("milestones", 1e-4, (4000, 8000), 0)
    assert schedule_of("srkd-best", 200) == ("cosine", 8e-4, (), 0)
    assert schedule_of("logits-paper", 200) == ("milestones", 1e-4, (80, 160), 0), "those of papers are rescaled"


def test_whoever_sets_the_rate_keeps_it(recipe):
    for setting in ("rate=1e-5", "decay=milestones", "milestones=[7]", "milestones.0=7", "factor=0.5"):
        assert schedule_of(recipe, 200, f"schedule.{setting}")[3] == 0, setting
    assert schedule_of(recipe, 200, "schedule.batch=4", "schedule.clip=10")[:2] == ("cosine", 8e-4)


def test_milestones_and_warm_up_of_the_user_are_for_the_steps_of_the_user(recipe):
    def schedule(*settings: str) -> tuple[tuple[int, ...], int]:
        rule = load_recipe(CompressOptions.of(recipe=recipe, steps=10_000, settings=settings)).schedule
        return rule.milestones, rule.warmup

    assert schedule() == ((4000, 8000), 0)
    assert schedule("schedule.milestones=[200,400]", "schedule.warmup=100") == ((200, 400), 100)
    assert schedule("schedule.milestones=[200,400]") == ((200, 400), 0)


def test_our_own_short_recipes_have_such_a_schedule_already():
    for name in (name for name in RECIPES if not name.endswith(("-paper", "-code"))):
        decay, rate, _, notes = schedule_of(name, 200)
        # A student to be quantised has been trained before, at such a rate.
        least = {"fit": 4e-4, "pams": 1e-4, "pact": 1e-4}.get(name, 8e-4)
        assert decay == "cosine" and rate >= least and notes == 0, name
