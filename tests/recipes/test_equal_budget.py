"""Comparisons at equal budget: stored runs, rows from preset files, and tables computed by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import equal_budget, methods_compared
from benchmarks.equal_budget import Budget, Contender, compare, preset_contender, trained
from recipes.config.reading import load_preset

TINY = ("batch=2", "lr_patch=8", "precision=fp32", "compile=off")
ONE = Contender("mine", "scratch", student="edsr:width=4,depth=1,scale=2")


@pytest.fixture
def budget(tmp_path: Path, photos: Path) -> Budget:
    return Budget(photos, 1, tmp_path / "runs", seeds=1, settings=TINY)


@pytest.fixture
def sets(tmp_path: Path, budget: Budget) -> Path:
    assert budget.train is not None
    for name in equal_budget.SETS:
        folder = tmp_path / "sets" / name / "HR"
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes((budget.train / "0.png").read_bytes())
    return tmp_path / "sets"


def test_a_finished_run_is_neither_trained_nor_evaluated_again(
    budget: Budget, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compare([ONE], budget, sets)
    assert set(first["mine"][0]) == set(equal_budget.SETS)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(equal_budget, "compress", forbidden)
    monkeypatch.setattr(equal_budget.srkd, "evaluate", forbidden)
    assert compare([ONE], budget, sets) == first
    with pytest.raises(AssertionError, match="made again"):
        compare([ONE], replace(budget, seeds=2), sets)


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


def test_an_interrupted_run_is_taken_up(budget: Budget) -> None:
    folder = trained(ONE, 10, budget)
    facts = {key: value for key, value in equal_budget.facts_of(folder).items() if key != "result"}
    (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    trained(ONE, 10, budget)
    assert "result" in equal_budget.facts_of(folder)


def test_a_wrong_folder_of_sets_is_refused_before_any_training(budget: Budget, tmp_path: Path) -> None:
    (tmp_path / "sets" / "Set5").mkdir(parents=True)
    with pytest.raises(SystemExit, match="no folder Set14"):
        compare([ONE], budget, tmp_path / "sets")
    assert not budget.out.exists()


def test_a_set_can_be_added_to_finished_runs(budget: Budget, sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compare([ONE], replace(budget, sets=("Set5", "Set14")), sets)["mine"][0]
    measured = []
    evaluate = equal_budget.srkd.evaluate
    monkeypatch.setattr(
        equal_budget.srkd, "evaluate", lambda *runs, data: measured.append(data.name) or evaluate(*runs, data=data)
    )
    after = compare([ONE], budget, sets)["mine"][0]
    assert measured == ["B100"] and {name: after[name] for name in before} == before
    assert equal_budget.means([after]) == [pytest.approx(sum(after.values()) / 3)]


def test_students_of_another_kind_are_of_one_shape_and_rows_that_cannot_be_say_why(tmp_path: Path) -> None:
    student = "compact:width=24,depth=8,scale=4"
    parser = methods_compared.parser_with_methods("", out="runs/x")
    options = parser.parse_args(["--data", "sets", "--student", student])
    contenders = methods_compared.contenders_of(options)
    assert {(one.student, one.width) for one in contenders} == {(student, None)}
    assert "optimiser=soap" in methods_compared.budget_from(options).settings
    slices = [one for one in contenders if one.name in ("inherit", "csd")]
    can, reasons = equal_budget.possible(slices, Budget(None, 1, tmp_path, settings=TINY))
    assert can == [] and len(reasons) == 2
    assert all("of edsr" in reason and reason.startswith(("inherit", "csd")) for reason in reasons)


def test_a_composition_is_a_row_under_its_files_name(tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    text = "title: Both\nsource: ours\nweights: {pixel: 5}\nmethods: [{name: dukd}, {name: csd-lite}]\n"
    file.write_text(text + "student: {init: inherit}\n", encoding="utf-8")
    contender = preset_contender(file, methods_compared.OPTIONS, width=0.5)
    assert (contender.name, contender.label, contender.width, contender.init) == ("both", "Both", 0.5, None)
    assert contender.settings == ("csd-lite.phi=teacher",)
    rules = load_preset(contender.recipe, contender.settings).methods
    assert [rule.name for rule in rules] == ["dukd", "csd-lite"] and rules[1].options == {"phi": "teacher"}
    changed_text = text.replace("{name: csd-lite}", "{name: csd-lite, options: {phi: vgg19}}")
    file.write_text(changed_text, encoding="utf-8")
    assert preset_contender(file, methods_compared.OPTIONS, width=0.5).settings == ()
    names = [one.name for one in methods_compared.all_contenders(["scratch", "dukd"], [file])]
    assert names == ["scratch", "dukd", "both"]
