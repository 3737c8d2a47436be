"""Baselines and seeds: equal batches, a plan that can be continued at any point, and figures from its runs."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import statistics
from pathlib import Path

import pytest
import torch

from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.interrupts import Interrupted
from compressor.data.batches import Batches, BatchHashes
from compressor.data.decode import decode_all
from compressor.images.sets import ImagePair
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.training.events import RunEvents
from recipes.config.reading import load_preset
from srkd import compress, resume
from srkd.cli.main import run
from srkd.cli.verbs.compress import show
from srkd.options.compress import CompressOptions
from srkd.record.result import CompressReport
from srkd.record.run_spec import RunSpec
from srkd.record.run_teacher import find_run_teacher
from srkd.runs.baselines import baselines
from srkd.runs.decide import decide
from srkd.runs.opened import open_run
from srkd.runs.trials import compare_batches
from srkd.terminal.console import Console
from tests.support.deaths import death_after
from tests.support.run_files import assert_read_as_written, assert_whole, change_run_file, read_json, read_metrics
from tests.support.small_runs import save_photos

SMALL = ("schedule.batch=2", "schedule.lr_patch=8", "schedule.validate_every=3", "schedule.rate=1e-3")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with teacher.safetensors, other.safetensors (its student's shape) and photos/."""
    folder = tmp_path_factory.mktemp("ground")
    save_network(build(EDSRSpec(scale=2, width=8, depth=2), seed=0), folder / "teacher.safetensors", metadata={})
    save_network(build(EDSRSpec(scale=2, width=4, depth=2), seed=5), folder / "other.safetensors", metadata={})
    save_photos(folder / "photos")
    return folder


def compressed(ground: Path, out: Path, *, steps: int = 4, **options: object) -> CompressReport:
    teacher, photos = ground / "teacher.safetensors", ground / "photos"
    # The teacher has random weights: by default its students would be judged by its images.
    defaults = {"teacher": teacher, "goal": "original", "data": photos, "settings": SMALL, "steps": steps, **options}
    return compress(out=out, **defaults)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plan(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> CompressReport:
    """Return the report of logits and its three baselines over two seeds."""
    return compressed(ground, tmp_path_factory.mktemp("plan") / "run", with_baseline=True, seeds=2)


VARIANTS = ["logits", "scratch", "inherit", "fit"]
NAMES = [f"{variant}-seed{seed}" for seed in (10, 11) for variant in VARIANTS]


@pytest.mark.ci
def test_each_trial_is_a_run_folder_and_the_best_of_the_recipe_lies_on_top(plan) -> None:
    assert sorted(path.name for path in plan.run.iterdir() if path.is_dir()) == sorted(NAMES)
    for name in NAMES:
        assert_whole(plan.run / name, steps=4)
    psnr_y = {o.run: o.psnr_y for o in plan.trials.runs if o.variant == "logits"}
    best = max(psnr_y, key=lambda name: psnr_y[name])
    assert plan.trials.chosen.run == best
    for file in ("student.safetensors", "comparison.png"):
        assert (plan.run / file).read_bytes() == (plan.run / best / file).read_bytes()
    assert load_checkpoint(plan.run).network.spec == EDSRSpec(scale=2, width=4, depth=2)
    assert plan.student.psnr_y == psnr_y[best]
    teacher = find_run_teacher(plan.run, lambda line: None)
    assert teacher is not None and (teacher.path.name, teacher.scale) == ("teacher.safetensors", 2)


@pytest.mark.ci
def test_figures_are_those_of_the_runs(plan) -> None:
    """Mean, sd and gain equal those of another library, computed from each run's run.json."""
    psnr_y = {name: read_json(plan.run / name)["result"]["student"]["psnr_y"] for name in NAMES}
    rows = {row.name: row for row in plan.trials.rows}
    assert list(rows) == VARIANTS
    for variant, row in rows.items():
        values = [psnr_y[f"{variant}-seed{seed}"] for seed in (10, 11)]
        assert list(row.psnr_y) == values
        assert row.mean == pytest.approx(statistics.mean(values)) and row.sd == pytest.approx(statistics.stdev(values))
    for gain in plan.trials.gains:
        pairs = [psnr_y[f"logits-seed{seed}"] - psnr_y[f"{gain.over}-seed{seed}"] for seed in (10, 11)]
        assert gain.mean == pytest.approx(statistics.mean(pairs)) and gain.sd == pytest.approx(statistics.stdev(pairs))
    assert_read_as_written(plan.run)
    written = read_json(plan.run)["result"]["trials"]
    assert written["gains"][0]["differences"] == list(plan.trials.gains[0].differences)
    assert written["seeds"] == [10, 11] and len(written["runs"]) == 8


@pytest.mark.ci
def test_runs_of_one_seed_see_the_same_batches_and_other_seeds_others(plan) -> None:
    first, second = plan.trials.batches
    assert (first.seed, second.seed) == (10, 11) and first.digest != second.digest
    assert first.runs == tuple(NAMES[:4]) and first.steps == 4 and first.rows == 4
    assert all("batches" in row for row in read_metrics(plan.run / NAMES[0]) if row["kind"] == "train")


@pytest.mark.ci
def test_a_baseline_differs_in_methods_and_starting_weights_alone(plan) -> None:
    recipe, scratch, inherit, solved = (read_json(plan.run / f"{name}-seed10") for name in VARIANTS)
    assert recipe["start"]["init"] == "fit"
    for other, init in ((scratch, "random"), (inherit, "inherit"), (solved, "fit")):
        for key in ("student", "teacher", "data", "seed", "device"):
            assert other[key] == recipe[key], key
        assert other["preset"]["schedule"] == recipe["preset"]["schedule"]
        assert other["start"]["init"] == init
        rows = read_metrics(plan.run / f"{other['recipe']}-seed10")
        assert {name for row in rows for name in row if name.startswith("raw/")} == {"raw/pixel"}


@pytest.mark.ci
def test_l1_from_a_fit_has_its_own_rate_unless_one_was_set(ground, plan, tmp_path) -> None:
    def schedules(run: Path) -> list[dict]:
        return [read_json(run / f"{name}-seed10")["preset"]["schedule"] for name in ("logits", "inherit", "fit")]

    recipe, inherit, solved = schedules(plan.run)
    assert recipe == inherit == solved and recipe["rate"] == 1e-3
    settings = tuple(setting for setting in SMALL if "rate" not in setting)
    recipe, inherit, solved = schedules(
        compressed(ground, tmp_path / "run", settings=settings, steps=1, with_baseline=True).run
    )
    assert recipe == inherit == {**solved, "fit_rate": None}
    assert solved["fit_rate"] == load_preset("scratch").schedule.fit_rate < recipe["rate"]


def with_baselines(ground: Path, **options: object) -> tuple[RunSpec, dict[str, RunSpec]]:
    words = {"teacher": ground / "teacher.safetensors", "data": ground / "photos", "settings": SMALL, **options}
    context = Context()
    spec = decide(CompressOptions.of(**words), context)
    return spec, baselines(spec, context)


@pytest.mark.parametrize("student", ["span:width=8,depth=1,scale=2", "edsr:width=4,depth=1,scale=2"])
def test_a_start_that_rests_on_offsets_lowers_its_own_rate_alone(ground: Path, student: str) -> None:
    """A tenth of the recipe's for the solved student, of L1's for its baseline; random weights keep the recipe's."""
    words = {"recipe": "logits", "student": student, "lr_patch": 8, "settings": ()}
    spec, others = with_baselines(ground, steps=300, **words)
    share = 0.1 if student.startswith("span") else 1.0
    logits, l1 = (load_preset(name).schedule for name in ("logits", "scratch"))
    assert spec.preset.schedule.rate_of(is_fitted=True) == pytest.approx(share * logits.rate_of(is_fitted=True))
    rates = {name: other.preset.schedule.rate_of(is_fitted=name == "fit") for name, other in others.items()}
    assert rates["scratch"] == logits.rate and rates["fit"] == pytest.approx(share * l1.rate_of(is_fitted=True))


def test_the_baseline_logits_learns_from_films_as_the_run_does(ground: Path) -> None:
    words = {"recipe": "fakd", "calm": 0.5, "settings": (*SMALL, "calm.noise=8"), "width": 0.5}
    spec, others = with_baselines(ground, **words)
    calm = [
        next(rule.options for rule in each.preset.methods if rule.name == "calm") for each in (spec, others["logits"])
    ]
    assert calm[0] == calm[1] == {"weight": 0.5, "noise": 8}
    assert all(rule.name != "calm" for name in ("scratch", "inherit") for rule in others[name].preset.methods)


def test_baselines_learn_the_originals_whatever_the_recipe_learns(ground: Path) -> None:
    spec, others = with_baselines(ground, recipe="logits", labels="teacher", width=0.5)
    assert spec.labels == "teacher" and {other.labels for other in others.values()} == {"original"}


@pytest.mark.parametrize(
    ("options", "margins"),
    [
        ({"label_margin": 2}, {"logits": 2}),
        ({}, {"logits": 4}),
        ({"degrade": "jpeg", "teacher_cache": True, "recipe": "perceptual"}, {}),
        ({"degrade": "jpeg", "degrade_once": True}, {"logits": 4}),
    ],
)
def test_a_baseline_has_the_images_of_the_run_and_its_windows(ground: Path, options: dict, margins: dict) -> None:
    """Its images are degraded as those of the recipe, and its labels come from windows of the same size."""
    spec, found = with_baselines(ground, **{"recipe": "dukd", "width": 0.5, **options})
    assert "logits" in found and "scratch" in found
    for name, own in found.items():
        opened = open_run(own, Context())
        assert opened.data.train.digest() == spec.data.digest
        assert (opened.cache is not None) == (name == "logits" and "teacher_cache" in options)
        assert (0 if own.label_margin is None else own.label_margin.pixels) == margins.get(name, 0)


def test_the_runs_of_a_plan_share_a_teacher_and_each_turns_it_for_its_student(ground: Path) -> None:
    words = {"teacher": ground / "teacher.safetensors", "data": ground / "photos", "width": 0.5, "seed": 3}
    context = Context()
    spec = decide(CompressOptions.of(recipe="csd", settings=(*SMALL, "phi=teacher"), **words), context)
    first, again = open_run(spec, context), open_run(spec.with_seed(4), context)
    loaded = load_checkpoint(ground / "teacher.safetensors").network.fingerprint()
    assert first.teacher.network.fingerprint() == again.teacher.network.fingerprint() != loaded
    assert first.student.network.fingerprint() == again.student.network.fingerprint()
    assert first.validation is again.validation, "the teacher enlarges their images once"


@pytest.mark.ci
def test_a_trial_equals_the_run_of_its_own_spec(ground, plan, tmp_path, capfd) -> None:
    """The recipe's second seed and a baseline give the same bytes when run alone."""
    alone = compressed(ground, tmp_path / "alone", seed=11)
    assert alone.student_path.read_bytes() == (plan.run / "logits-seed11" / "student.safetensors").read_bytes()
    spec, again = plan.run / "scratch-seed10", tmp_path / "again"
    assert run(["compress", "--spec", str(spec / "run.json"), "--out", str(again)]) == 0
    assert (again / "student.safetensors").read_bytes() == (spec / "student.safetensors").read_bytes()


def outcome(out: Path) -> dict[str, tuple[bytes, str]]:
    return {
        name: ((out / name / "student.safetensors").read_bytes(), (out / name / "metrics.jsonl").read_text())
        for name in NAMES
    }


@pytest.mark.ci
@pytest.mark.parametrize("deaths", [(3,), (2, 7)])
def test_a_plan_that_died_goes_on_to_the_same_bytes(ground, plan, tmp_path, deaths) -> None:
    """The process dies right after a given number of saves, anywhere in the plan."""
    out = tmp_path / "run"
    for number, saves in enumerate(deaths):
        with death_after(saves):
            resume(out) if number else compressed(ground, out, with_baseline=True, seeds=2)
        assert "result" not in read_json(out) and not (out / "student.safetensors").exists()
        assert_read_as_written(out)
    (out / NAMES[-1]).mkdir()  # A death between making a folder and writing its run.json.
    notes: list[str] = []
    report = resume(out, announce=notes.append)
    assert any("finished before" in line for line in notes)
    assert "run 8 of 8: fit, seed 11" in notes
    assert outcome(out) == outcome(plan.run)
    assert report.trials.gains == plan.trials.gains and report.trials.batches == plan.trials.batches
    with pytest.raises(SrkdError, match=r"student\.safetensors"):
        resume(out)


@pytest.mark.ci
def test_ctrl_c_in_a_run_names_the_plan_to_continue(ground, tmp_path, monkeypatch) -> None:
    on_step = RunEvents.on_step

    def interrupted(self: RunEvents, done: int, rate: float, losses: object) -> None:
        on_step(self, done, rate, losses)  # type: ignore[arg-type]
        if self.folder.path.name == "scratch-seed10" and done == 2:
            self.context.processes.stop_request.received = True

    monkeypatch.setattr(RunEvents, "on_step", interrupted)
    with pytest.raises(Interrupted) as caught:
        compressed(ground, tmp_path / "run", with_baseline=True)
    message = str(caught.value)
    assert message.startswith("run 2 of 4: interrupted and saved at step 2 of 4")
    assert message.endswith(f" --resume {tmp_path / 'run'}")
    monkeypatch.undo()
    assert len(resume(tmp_path / "run").trials.runs) == 4


@pytest.mark.ci
@pytest.mark.parametrize(("place", "saved"), [("run 1 of 4: training", ""), ("run 2 of 4: scratch", ".* step 1 of 4;")])
def test_ctrl_c_in_a_run_or_before_its_first_step_is_acknowledged_and_stops_it(ground, tmp_path, place, saved) -> None:
    """Otherwise hours of steps would follow, if only the preparation noticed the request."""
    lines: list[str] = []

    def at(words: str, done: int = 1, total: int = 1) -> None:
        if words.startswith(place) and done == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def announce(line: str) -> None:
        lines.append(line)
        at(line)

    with pytest.raises(Interrupted, match=place[:12] + saved):
        compressed(ground, tmp_path / "run", with_baseline=True, progress=at, announce=announce)
    assert sum(line.startswith("stopping: ") for line in lines) == 1


@pytest.mark.ci
def test_a_plan_on_other_images_is_refused(ground, tmp_path, monkeypatch) -> None:
    save_photos(tmp_path / "photos")
    out = tmp_path / "run"
    compressed(ground, out, data=tmp_path / "photos", seeds=2, steps=1)
    change_run_file(out, lambda facts: facts.pop("result"))
    shutil.rmtree(out / "logits-seed11")
    (tmp_path / "photos").rename(tmp_path / "before")
    save_photos(tmp_path / "photos", times=2)
    with pytest.raises(SrkdError, match=r"--resume .*/run: its data is not what it was when the run began"):
        resume(out)


@pytest.mark.ci
def test_seeds_alone_have_a_spread_and_no_gain(ground, tmp_path) -> None:
    report = compressed(ground, tmp_path / "run", seeds=2, steps=2)
    assert [row.name for row in report.trials.rows] == ["logits"] and report.trials.gains == ()
    assert report.trials.rows[0].sd is not None and report.trials.seeds == (10, 11)


def names(report: CompressReport) -> list[str]:
    return [row.name for row in report.trials.rows]


def test_baselines_that_the_recipe_itself_is_are_left_out(ground) -> None:
    def left(recipe: str, **options: object) -> list[str]:
        return list(with_baselines(ground, recipe=recipe, **options)[1])

    assert left("inherit") == ["scratch"]
    assert left("scratch", width=0.5) == ["inherit"]
    # The recipe scratch is cut from the teacher here, so its baseline starts at random and has another name.
    assert left("scratch", width=0.5, init="inherit") == ["scratch-baseline"]
    assert left("logits", init_from=ground / "other.safetensors") == ["scratch", "inherit", "init-from"]


@pytest.mark.ci
def test_what_has_no_slice_has_no_baseline_of_one_and_says_why(ground, tmp_path) -> None:
    notes: list[str] = []
    words = {"student": "compact:width=4,depth=1,scale=2", "with_baseline": True}
    report = compressed(ground, tmp_path / "run", steps=1, announce=notes.append, **words)
    assert names(report) == ["logits", "scratch", "fit"]
    assert any("--with-baseline: without inherit: " in line for line in notes)
    with pytest.raises(UsageError, match=r"--with-baseline: recipe scratch .*leave it out"):
        compressed(ground, tmp_path / "alone", teacher=None, recipe="scratch", **words)
    assert not (tmp_path / "alone").exists()


@pytest.mark.ci
def test_baselines_are_chosen_by_name(ground, tmp_path) -> None:
    """logits keeps the recipe's first weights: what is left is the method."""
    words = {"recipe": "dukd", "init": "inherit", "steps": 1, "baselines": "logits,fit"}
    report = compressed(ground, tmp_path / "run", **words)
    assert names(report) == ["dukd", "logits", "fit"]
    files = {name: read_json(report.run / f"{name}-seed10") for name in names(report)}
    assert files["logits"]["start"] == files["dukd"]["start"] != files["fit"]["start"]
    assert files["logits"]["preset"]["schedule"] == files["dukd"]["preset"]["schedule"]
    assert [rule["name"] for rule in files["logits"]["preset"]["methods"]] == ["logits"]
    for baseline, student in (("inherit", "carn:width=8,scale=2"), ("init-from", None)):
        with pytest.raises(UsageError, match=f"--baselines {baseline}: "):
            compressed(ground, tmp_path / "other", baselines=baseline, student=student, steps=1)
    assert not (tmp_path / "other").exists()


def test_a_student_of_its_own_shape_has_baselines_of_that_shape(ground, tmp_path) -> None:
    """`--init inherit` takes unnamed fields from the teacher, random weights from the network's defaults."""
    out = tmp_path / "run"
    report = compressed(ground, out, student="edsr:width=4", init="inherit", steps=1, with_baseline=True)
    assert names(report) == ["logits", "scratch", "inherit"]
    assert len({json.dumps(read_json(out / run.run)["student"]) for run in report.trials.runs}) == 1
    starts = {run.variant: read_json(out / run.run)["start"]["init"] for run in report.trials.runs}
    assert starts == {"logits": "inherit", "scratch": "random", "inherit": "inherit"}


@pytest.mark.ci
def test_other_batches_are_an_error(plan, tmp_path) -> None:
    folders = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_bytes((plan.run / NAMES[0] / "metrics.jsonl").read_bytes())
        folders.append(tmp_path / name)
    assert compare_batches(10, folders).digest == plan.trials.batches[0].digest
    text = (tmp_path / "b" / "metrics.jsonl").read_text()
    (tmp_path / "b" / "metrics.jsonl").write_bytes((plan.run / "logits-seed11" / "metrics.jsonl").read_bytes())
    with pytest.raises(SrkdError, match=r"a and b .*step 1 \(batches \w{32} and \w{32}\)"):
        compare_batches(10, folders)
    # A missing row does not count as a difference; rows that both have must agree.
    (tmp_path / "b" / "metrics.jsonl").write_text("".join(text.splitlines(keepends=True)[1:]))
    assert compare_batches(10, folders).rows == 3


def batches(ground: Path, seed: int = 1) -> Batches:
    pairs = [ImagePair(path.stem, path, None) for path in sorted((ground / "photos").iterdir())]
    return Batches.for_store(decode_all(pairs, scale=2).select(lr_patch=8), batch=2, lr_patch=8, seed=seed)


def test_the_hash_of_a_resumed_run_is_that_of_one_that_never_stopped(ground) -> None:
    whole, resumed, other = batches(ground), batches(ground), batches(ground, seed=2)
    for source in (whole, other):
        for step in range(5):
            source.at(step)
    for step in (3, 4):  # The first three were trained before the process died.
        resumed.at(step)
    hashes = whole.hashes.take(0, 5)
    assert resumed.hashes.take(0, 5) == {"batches": hashes["batches"]}
    assert other.hashes.take(0, 5) != hashes and set(hashes) == {"batches", "first_pixels"}
    assert whole.hashes.take(5, 6)["batches"] != hashes["batches"]


def test_every_column_of_a_draw_is_in_its_hash(ground) -> None:
    draw = batches(ground).sampler.draw(0, range(2))

    def digest(changed: object) -> str:
        hashes = BatchHashes(lambda step: draw)
        hashes.record(0, changed)  # type: ignore[arg-type]
        return hashes.take(0, 1)["batches"]

    digests = {digest(draw)}
    for field in dataclasses.fields(draw):
        column = getattr(draw, field.name)
        other = ~column if column.dtype == torch.bool else column + 1
        digests.add(digest(dataclasses.replace(draw, **{field.name: other})))
    assert len(digests) == 1 + len(dataclasses.fields(draw))


@pytest.mark.ci
def test_the_summary_has_rows_gains_and_one_json_object(plan, capsys) -> None:
    Console().report("compress", plan, show)
    out = capsys.readouterr().out
    table = out[out.rindex("───") :].splitlines()[1:9]
    rows = [re.split(r"  +", line.strip())[0] for line in table]
    assert rows == [*VARIANTS, "before training", "untrained slice", "teacher", "bicubic"]
    assert "gain over scratch: " in out and "student.safetensors is the best of 2 seeds by validation" in out
    Console(data="json").report("compress", plan, show)
    report = json.loads(capsys.readouterr().out)
    assert [gain["over"] for gain in report["trials"]["gains"]] == VARIANTS[1:]
    assert all(len(gain["differences"]) == 2 and gain["sd"] is not None for gain in report["trials"]["gains"])
    assert report["trials"]["batches"][0]["runs"] == NAMES[:4] and report["student"]["cost"]["params"] > 0
