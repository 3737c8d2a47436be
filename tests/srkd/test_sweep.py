"""`--sweep`: the points of a sweep, the runs of their plan, and the report about them."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from compressor.base.context import Context
from compressor.base.errors import UsageError
from compressor.models.checkpoints.load import load_checkpoint
from srkd import compress
from srkd.options.compress import CompressOptions
from srkd.options.sweep import points
from srkd.record.scores import of_role, scores_of
from srkd.runs.dry_run import dry_run
from srkd.runs.trials import plan_trials
from tests.support.run_files import assert_read_as_written, read_json
from tests.support.small_runs import SMALL


def options(ground: Path, **words: object) -> CompressOptions:
    return CompressOptions.of(**small(ground, **words))


def small(ground: Path, **words: object) -> dict[str, object]:
    """The options of a run of two steps, and others."""
    data = {"teacher": ground / "teacher.safetensors", "data": ground / "photos", "goal": "original"}
    return {**data, "settings": SMALL, "steps": 2, **words}


def test_points_are_the_product_of_all_values_in_their_order(ground) -> None:
    found = points(options(ground, sweep=("rate=1e-4,2e-4", "weights.logits=0.5,1")))
    assert [point.name for point in found] == [
        f"rate-{rate}-weights.logits-{weight}" for rate in ("1e-4", "2e-4") for weight in ("0.5", "1")
    ]
    assert found[1].label == "rate=1e-4, weights.logits=1"
    assert [point.options.training.rate for point in found] == [1e-4, 1e-4, 2e-4, 2e-4]
    assert found[2].options.training.settings == (*SMALL, "weights.logits=0.5")
    assert all(point.options.run.sweep == () for point in found)


@pytest.mark.parametrize(
    ("sweep", "values"),
    [
        ("student=edsr:width=4,depth=2,compact:width=4", ["edsr:width=4,depth=2", "compact:width=4"]),
        ("recipe=/a.py:One(a=1,b=2),scratch", ["/a.py:One(a=1, b=2)", "scratch"]),
        ("init=fit,random", ["fit", "random"]),
        ("lr-patch=8,12", [8, 12]),
        ("teacher_cache=true,false", [True, False]),
    ],
)
def test_values_are_read_as_those_of_the_option(ground, sweep, values) -> None:
    name = sweep.partition("=")[0].replace("-", "_")
    found = [point.options for point in points(options(ground, sweep=sweep, settings=()))]
    assert [getattr(o.student, name, getattr(o.training, name, None)) for o in found] == values


def test_a_list_is_one_value_and_names_are_those_of_folders(ground) -> None:
    found = points(options(ground, sweep=("schedule.milestones=[1, 2],[2, 3]", "recipe=a/b.yaml,a-b.yaml")))
    assert found[0].options.training.settings[-1] == "schedule.milestones=[1, 2]"
    names = [point.name for point in found]
    assert len(set(names)) == 4 and all(Path(name).name == name and "[" not in name for name in names)


@pytest.mark.parametrize(
    ("sweep", "words", "named"),
    [
        ("width=0.5,2", {}, "--sweep width=2: '2'"),
        ("rate=1e-3,0.001", {}, "--sweep rate=0.001: .*twice"),
        (("rate=1", "rate=2"), {}, "--sweep rate=.*twice"),
        ("seed=1,2", {}, "--seeds"),
        ("rate", {}, "--sweep rate: "),
        ("data=a,b", {}, "--sweep data=a"),
        ("rate=1e-3", {"rate": 1e-4}, "--rate 0.0001"),
        ("schedule.batch=1,2", {}, "--set schedule.batch"),
        ("wieght=1,2", {}, "wieght"),
        ("width=0.5,1", {"student": "edsr:width=4"}, "--student"),
        ("rate=1,2", {"target_fps": 30, "width": 0.5}, "--width"),
    ],
)
def test_a_mistake_at_any_point_is_refused_before_anything_is_written(ground, tmp_path, sweep, words, named) -> None:
    with pytest.raises(UsageError, match=named):
        compress(**small(ground, out=tmp_path / "run", sweep=sweep, **words))
    assert not (tmp_path / "run").exists()


def test_then_makes_one_student(ground) -> None:
    with pytest.raises(UsageError, match="--sweep"):
        options(ground, then="pams", sweep="rate=1,2")


def test_baselines_with_equal_options_are_trained_once(ground, tmp_path) -> None:
    """A weight of the recipe changes no baseline; the width of the student changes each."""

    def names(*sweep: str) -> list[str]:
        plan = options(ground, out=tmp_path / "run", baselines=("scratch",), sweep=sweep)
        return list(plan_trials(plan, Context()).run_names)

    assert names("weights.logits=0.5,1") == ["weights.logits-0.5-seed10", "scratch-seed10", "weights.logits-1-seed10"]
    assert names("width=0.25,0.5") == [
        name for width in ("0.25", "0.5") for name in (f"width-{width}-seed10", f"scratch-width-{width}-seed10")
    ]


@pytest.fixture(scope="module")
def swept(ground, tmp_path_factory):
    """Return the report of two widths and two rates, over two seeds, with a baseline."""
    words = {"sweep": ("width=0.25,0.5", "rate=1e-4,1e-2"), "baselines": "scratch", "seeds": 2}
    return compress(**small(ground, init="inherit", out=tmp_path_factory.mktemp("swept") / "run", **words))


@pytest.mark.ci
def test_a_sweep_has_a_run_for_each_point_and_seed(ground, swept, tmp_path) -> None:
    trials = swept.trials
    labels = [f"width={width}, rate={rate}" for width in ("0.25", "0.5") for rate in ("1e-4", "1e-2")]
    assert [row.name for row in trials.rows[: trials.points]] == labels and trials.points == 4
    assert len(trials.runs) == 16 and {run.seed for run in trials.runs} == {10, 11}
    for row in trials.rows:
        folders = [swept.run / run.run for run in trials.runs if run.variant == row.name]
        values = [read_json(folder)["result"]["student"]["psnr_y"] for folder in folders]
        assert row.mean == pytest.approx(statistics.mean(values)) and row.sd == pytest.approx(statistics.stdev(values))
    widths = {read_json(swept.run / f"width-{width}-rate-1e-4-seed10")["student"]["width"] for width in ("0.25", "0.5")}
    assert widths == {2, 4}
    assert_read_as_written(swept.run)
    words = {"init": "inherit", "width": 0.5, "rate": 1e-2, "seed": 11}
    alone = compress(**small(ground, out=tmp_path / "alone", **words))
    there = swept.run / "width-0.5-rate-1e-2-seed11" / "student.safetensors"
    assert alone.student_path.read_bytes() == there.read_bytes()


@pytest.mark.ci
def test_the_best_point_and_each_points_gains_are_reported(swept) -> None:
    trials = swept.trials
    means = {row.name: row.mean for row in trials.rows[: trials.points]}
    assert trials.best_point.name == max(means, key=lambda name: means[name])
    best = max((run for run in trials.runs if run.variant in means), key=lambda run: run.psnr_y)
    assert trials.chosen == best
    assert swept.student_path.read_bytes() == (swept.run / best.run / "student.safetensors").read_bytes()
    assert [(gain.point, gain.over) for gain in trials.gains] == [(name, f"scratch, {name}") for name in means]
    for gain in trials.gains:
        pairs = [
            next(run.psnr_y for run in trials.runs if (run.variant, run.seed) == (gain.point, seed))
            - next(run.psnr_y for run in trials.runs if (run.variant, run.seed) == (gain.over, seed))
            for seed in (10, 11)
        ]
        assert gain.differences == pytest.approx(pairs)
    shown = of_role(scores_of(swept), "student")
    assert (shown.name, shown.params) == (best.variant, load_checkpoint(swept.run).network.params)


def test_a_dry_run_shows_the_cost_of_each_point(ground) -> None:
    report = dry_run(options(ground, sweep="width=0.25,0.5"), Context())
    rows = dict(report.rows())
    small, large = rows["width=0.25"], rows["width=0.5"]
    assert small != large and "params" in small and report.points["width=0.5"].student.params
