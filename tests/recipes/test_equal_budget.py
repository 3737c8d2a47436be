"""Comparisons at equal budget: stored runs, rows from preset files, and tables computed by hand."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import equal_budget, kept_runs, methods
from benchmarks.equal_budget import Budget, Contender, preset_contender, scored, trained
from recipes.catalogue import PIXEL_ONLY
from recipes.config.reading import load_preset

TINY = ("batch=2", "lr_patch=8", "precision=fp32", "compile=off")
ONE = Contender("mine", "scratch", student="edsr:width=4,depth=1,scale=2")


@pytest.fixture
def budget(tmp_path: Path, photos: Path) -> Budget:
    return Budget(photos, 1, tmp_path / "runs", seeds=1, settings=TINY)


@pytest.fixture
def sets(tmp_path: Path, budget: Budget) -> Path:
    for name in equal_budget.SETS:
        folder = tmp_path / "sets" / name / "HR"
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes((budget.train / "0.png").read_bytes())
    return tmp_path / "sets"


def test_a_finished_run_is_neither_trained_nor_evaluated_again(
    budget: Budget, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scored(trained(ONE, 10, budget), sets)
    assert {name: len(images) for name, images in first.items()} == dict.fromkeys(equal_budget.SETS, 1)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(equal_budget, "run_compress", forbidden)
    monkeypatch.setattr(equal_budget.srkd, "evaluate", forbidden)
    assert scored(trained(ONE, 10, budget), sets) == first
    with pytest.raises(AssertionError, match="made again"):
        trained(ONE, 11, budget)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("contender", "changed", "message"),
    [
        (ONE, {"steps": 2}, r"mine-seed10: trained with schedule=.*and now it would be"),
        (ONE, {"train": None}, r"trained with data=.*photos.*now it would be null"),
        (replace(ONE, student="edsr:width=5,depth=1,scale=2"), {}, "trained with student=.*width=5"),
        (replace(ONE, recipe="inherit"), {}, "trained with methods="),
    ],
)
def test_a_run_of_another_budget_is_refused(
    budget: Budget, contender: Contender, changed: dict[str, object], message: str
) -> None:
    trained(ONE, 10, budget)
    with pytest.raises(SystemExit, match=message):
        trained(contender, 10, replace(budget, **changed))


def test_an_interrupted_run_begins_again_as_its_time_would_be_that_of_a_part(budget: Budget) -> None:
    folder = trained(ONE, 10, budget)
    facts = {key: value for key, value in equal_budget.facts_of(folder).items() if key != "result"}
    (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    trained(ONE, 10, budget)
    assert "result" in equal_budget.facts_of(folder)


def test_a_wrong_folder_of_sets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Set5").mkdir()
    with pytest.raises(SystemExit, match="no folder Set14"):
        equal_budget.require_sets(tmp_path, equal_budget.SETS)


def test_the_control_of_a_row_has_its_start_and_no_teacher() -> None:
    options = methods.parser_with_methods("", out="runs/x").parse_args(["--data", "sets", "--methods", "csd,fakd"])
    contenders = {one.name: one for one in methods.contenders_of(options)}
    assert list(contenders) == ["logits", "csd", "fakd", "fit-l1", "turned-slice-l1"]
    for row, control in (("logits", "fit-l1"), ("fakd", "fit-l1"), ("csd", "turned-slice-l1")):
        assert methods.start_of(contenders[row]) == methods.start_of(contenders[control])
        assert {rule.name for rule in load_preset(contenders[control].recipe).methods} <= PIXEL_ONLY
    assert "VGG-19" in contenders["csd"].label and "K = 4 (10)" in contenders["csd"].label


def test_a_row_has_the_time_of_logits_and_scales_what_a_short_run_cannot_hold() -> None:
    timed = methods.with_steps(Contender("dckd", "dckd"), step_seconds=0.8, seconds=48.0)
    assert timed.steps == 60 and timed.settings == ("dckd.intervals=[8]",)
    assert round(2000 * methods.INTERVAL_SHARE) == load_preset("dckd").methods[0].options["intervals"][0]


@pytest.mark.parametrize(("best", "asked"), [(2e-4, 3), (1e-4, 4), (8e-4, 5)])
def test_a_rate_is_sought_until_both_neighbours_are_worse(best: float, asked: int) -> None:
    seen: list[float] = []

    def quality(rate: float) -> float:
        seen.append(rate)
        return -abs(math.log2(rate / best))

    assert methods.best_rate(2e-4, quality) == pytest.approx(best) and len(seen) == asked


def test_all_stages_of_a_run_count_in_its_time(budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that ticks at each step, six steps of hkdsr's student take eight: two tune the teacher before."""
    monkeypatch.setattr(kept_runs, "time", SimpleNamespace(process_time=partial(next, itertools.count())))
    short = replace(budget, train=None, settings=("batch=1", "lr_patch=16", "precision=fp32", "compile=off"))
    folder = trained(Contender("hkdsr", "hkdsr", width=0.5, init="inherit", steps=6), 10, short)
    assert equal_budget.training_seconds(folder) == 8


def test_students_of_another_kind_are_of_one_shape_and_rows_that_cannot_be_say_why(tmp_path: Path) -> None:
    student = "compact:width=24,depth=8,scale=4"
    options = methods.parser_with_methods("", out="runs/x").parse_args(["--data", "sets", "--student", student])
    contenders = methods.contenders_of(options)
    assert {(one.student, one.width) for one in contenders} == {(student, None)}
    assert "optimiser=soap" in methods.budget_from(options).settings
    slices = [one for one in contenders if one.name == "csd"]
    can, reasons = equal_budget.possible(slices, Budget(None, 1, tmp_path, settings=TINY))
    assert can == [] and len(reasons) == 1
    assert all("of edsr" in reason and reason.startswith("csd") for reason in reasons)


def test_a_composition_is_a_row_under_its_files_name(tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    text = "title: Both\nsource: ours\nweights: {pixel: 5}\nmethods: [{name: dukd}, {name: csd-lite}]\n"
    file.write_text(text + "student: {init: inherit}\n", encoding="utf-8")
    contender = preset_contender(file, methods.OPTIONS, width=0.5)
    assert (contender.name, contender.label, contender.width, contender.init) == ("both", "Both", 0.5, None)
    assert contender.settings == ("csd-lite.phi=teacher",)
    rules = load_preset(contender.recipe, contender.settings).methods
    assert [rule.name for rule in rules] == ["dukd", "csd-lite"] and rules[1].options == {"phi": "teacher"}
    changed_text = text.replace("{name: csd-lite}", "{name: csd-lite, options: {phi: vgg19}}")
    file.write_text(changed_text, encoding="utf-8")
    assert preset_contender(file, methods.OPTIONS, width=0.5).settings == ()
