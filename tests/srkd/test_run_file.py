"""run.json as a typed model: written and read without loss, refused in one line if wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import srkd
from compressor.base.errors import SrkdError
from srkd.record.measurements import read_exports, read_profile
from srkd.record.reading import printable
from srkd.record.run_file import find_run_file, read_for_display, read_run_file, read_spec_file, write_run_file
from srkd.reports.contents import read_contents
from srkd.reports.curves import Metrics
from srkd.reports.methods import trained_runs
from tests.support.run_files import RESULT, RUN, assert_read_as_written, read_json, save_run_file
from tests.support.small_runs import SMALL


@pytest.fixture(scope="module")
def runs(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with runs of several kinds."""
    folder, photos, teacher = tmp_path_factory.mktemp("runs"), ground / "photos", ground / "teacher.safetensors"
    words: dict[str, Any] = {"data": photos, "width": 0.5, "steps": 2, "settings": SMALL, "threads": 1}
    srkd.compress(teacher, recipe="logits", teacher_cache=True, out=folder / "cached", **words)
    started = {**words, "init_from": folder / "cached" / "student.safetensors"}
    srkd.compress(teacher, recipe="scratch", out=folder / "from", **started)
    joint = {**words, "settings": (*SMALL, "phi=teacher", "negatives=2")}
    srkd.compress(teacher, recipe="csd", out=folder / "csd", **joint)
    return folder


def test_a_run_is_read_as_it_was_written(runs: Path) -> None:
    for name in ("cached", "from", "csd"):
        assert_read_as_written(runs / name)
    cached, copied, joint = (read_run_file(runs / name) for name in ("cached", "from", "csd"))
    assert cached.teacher_cache is not None and cached.teacher_cache.bytes > 0
    assert cached.untrained is not None and cached.result is not None
    assert cached.result.untrained == cached.untrained
    assert "head.weight" in copied.start.init_from.copied
    assert joint.phi is not None and joint.phi.kind == "teacher"
    assert joint.result is not None and joint.result.teacher_joint is not None


def test_runs_that_learned_other_labels_are_no_seeds_of_one_method(runs: Path) -> None:
    (one,) = trained_runs([read_contents(runs / "from")])
    other = one.file.model_copy(update={"data": one.file.data.model_copy(update={"labels": "teacher"})})
    assert {key for key, _ in one.settings.items() ^ replace(one, file=other).settings.items()} == {"data.labels"}


def test_a_spec_is_the_file_that_was_named(tmp_path: Path) -> None:
    save_run_file(tmp_path, seed=1)
    (tmp_path / "chosen.json").write_text(json.dumps({**RUN, "seed": 2}))
    assert (read_spec_file(tmp_path).seed, read_spec_file(tmp_path / "chosen.json").seed) == (1, 2)
    with pytest.raises(SrkdError, match=r"absent\.json"):
        read_spec_file(tmp_path / "absent.json")


# Wrong contents.


def changed(contents: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy with another value at a path such as `result.student.psnr_y`; `...` removes it."""
    copy: dict[str, Any] = json.loads(json.dumps(contents))
    *parents, last = path.split(".")
    place = copy
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("schema", "srkd.compress/9", "its schema is 'srkd.compress/9', not srkd.compress/3"),
        ("schema", ..., "'None'"),
        ("seed", "10", "seed='10': expected a whole number"),
        ("seed", 10**400, "seed=1000"),
        ("machine", ..., "machine: is missing"),
        ("data.used", 2.5, "data.used=2.5: expected"),
        ("data.validation", "a", "data.validation='a': expected a list"),
        ("data.colour", "red", "data.colour: unknown key: another version of srkd wrote it"),
        ("execution_mode", {"precision": "fp8", "layout": "channels_last"}, "execution_mode.precision='fp8': expected"),
        ("preset.schedule", {"steps": 0}, "preset.schedule.steps=0: expected at least 1"),
        ("quantisation", {"method": "magic"}, "quantisation.method='magic': expected 'pams' or 'pact'"),
        (
            "trials",
            {"runs": [{"name": "../other", "title": "t", "variant": "v", "spec": None}]},
            "trials.runs.0.name='../other': expected the name of a folder in this one",
        ),
        ("result.student.psnr_y", "high", "result.student.psnr_y='high': expected a number"),
        ("result.student.psnr_y", math.nan, "result.student.psnr_y=nan"),
        ("result.student.cost.params", 1e400, "result.student.cost.params=inf"),
        ("result.flags", [None], "result.flags.0=null: expected text"),
        ("options.rate", math.inf, "options.rate=inf"),
    ],
)
def test_a_wrong_value_is_one_line_with_file_and_key(path: str, value: Any, words: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_run_file(run, **changed({**RUN, "result": RESULT}, path, value))
    if value is ... and "." not in path:
        (run / "run.json").write_text(json.dumps(changed({**RUN, "result": RESULT}, path, value)))
    with pytest.raises(SrkdError) as error:
        read_run_file(run)
    assert str(error.value).startswith(f"{run / 'run.json'}") and words in str(error.value), str(error.value)
    assert len(str(error.value)) < len(str(run)) + 300


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b"9" * 5000],
    ids=["empty", "list", "not UTF-8", "deep list", "digits"],
)
def test_a_file_that_is_no_object_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(SrkdError, match=r"run\.json (is damaged: |cannot be read: its schema)"):
        read_run_file(tmp_path)


def test_a_folder_without_run_json_is_named(tmp_path: Path) -> None:
    assert find_run_file(tmp_path) is None
    (tmp_path / "file").write_text("")
    for path, words in ((tmp_path, "it has no run.json"), (tmp_path / "file", "it is a file")):
        with pytest.raises(SrkdError, match=words):
            read_run_file(path)


def test_infinite_scores_and_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    skipped = {"photos/caf\udce9.png": "damaged"}
    outcome = {"run": "a", "variant": "logits", "seed": 10, "psnr_y": None, "seconds": 1.0}
    gain = {"over": "scratch", "differences": [None], "mean": None, "sd": None, "verdict": "not settled"}
    rows = [{"name": "logits", "psnr_y": [None], "mean": None, "sd": None}]
    trials = {"seeds": [10], "rows": rows, "gains": [gain], "chosen": outcome, "runs": [outcome], "batches": []}
    result = {**changed(RESULT, "student.psnr_y", None), "trials": trials}
    contents = read_run_file(save_run_file(tmp_path, result=result, data={**RUN["data"], "skipped": skipped}))
    assert contents.result is not None and contents.result.student.psnr_y is None
    assert contents.result.trials is not None and contents.result.trials.rows[0].mean == math.inf
    assert contents.data is not None and contents.data.skipped == skipped
    write_run_file(tmp_path, contents)
    assert_read_as_written(tmp_path)
    assert read_json(tmp_path)["result"]["student"]["psnr_y"] is None


def test_texts_are_shown_as_printable_lines_of_bounded_length(tmp_path: Path) -> None:
    evil = "\x1b[2J\nname" + "x" * 5000
    save_run_file(tmp_path, recipe=evil, data={**RUN["data"], "validation": [evil]})
    assert read_run_file(tmp_path).recipe == evil
    shown = read_for_display(tmp_path)
    assert shown.recipe is not None and shown.recipe.startswith("[2J name") and len(shown.recipe) <= 2000
    assert shown.data is not None and shown.data.validation == (shown.recipe,)
    for entries in ({"trials": {"runs": ["..\x01"]}}, {"preset": {**RUN["preset"], "title": "\x01"}}):
        with pytest.raises(SrkdError, match=r"run\.json: (trials\.runs\.0='\.\.'|preset\.title='')"):
            read_for_display(save_run_file(tmp_path, **entries))
    assert printable({"a\n": ["\t", 1, None]}) == {"a": ["", 1, None]}


# The other files of a folder.


def test_rows_of_metrics_hold_numbers_that_can_be_drawn(tmp_path: Path) -> None:
    rows = [
        {"kind": "train", "step": 2, "loss": 1.5, "why": "text", "terms": [1], "flag": True, "none": None},
        {"kind": "train", "step": 1, "loss": math.nan, "rate": 10**400, "weighted/\x1b": 1},
        {"kind": "train", "step": 10**30, "loss": 1.0},
        {"kind": ["train"], "step": 3},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    metrics = Metrics.read(tmp_path)
    first, second, third = metrics.rows
    assert (first.step, first.numbers) == (1, {"step": 1, "weighted/": 1})
    assert (second.kind, second.numbers) == ("train", {"step": 2, "loss": 1.5})
    assert third.kind != "train"


ROW = {"model": "s", "runtime": "torch", "device": "cpu", "precision": "fp32", "lr_size": "64x64"}
PROFILE = {"student_sha256": "0", "rows": [{**ROW, "latency_ms": {"p50": 2.0}}]}
EXPORTED = {"format": "onnx", "precision": "fp32", "bytes": 10, "sha256": "0", "source_sha256": None, "machine": {}}
EXPORTED |= {"verdict": "passed", "reason": None, "parity": {"max_abs": 0.0, "psnr": None}}
EXPORTED |= {"quality": None, "speed": None}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("profile.json", changed(PROFILE, "rows", 3), "rows=3: expected a list"),
        ("profile.json", changed(PROFILE, "rows", [{**ROW, "latency_ms": {"p50": "2"}}]), "rows.0.latency_ms.p50='2'"),
        ("profile.json", changed(PROFILE, "student_sha256", ...), "student_sha256: is missing"),
        ("exports.json", {"files": {"a.onnx": changed(EXPORTED, "bytes", -math.inf)}}, "files.a.onnx.bytes=-inf"),
        ("exports.json", {"files": {"a.onnx": changed(EXPORTED, "parity", {"psnr": 1.0})}}, "max_abs: is missing"),
    ],
)
def test_a_wrong_measurement_is_one_line_with_a_remedy(
    name: str, content: Mapping[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(SrkdError) as error:
        read_profile(tmp_path, "0") if name == "profile.json" else read_exports(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / name}") and words in str(error.value), str(error.value)
    assert f"; remove it, and {name.removesuffix('s.json').removesuffix('.json')} again" in str(error.value)


def test_measurements_are_read_without_what_is_not_shown(tmp_path: Path) -> None:
    assert read_profile(tmp_path, "0") is None and read_exports(tmp_path) == {}
    (tmp_path / "profile.json").write_text(json.dumps({**PROFILE, "later": 1}))
    files = dict.fromkeys(("b.onnx", "a.onnx", "../c.onnx"), EXPORTED)
    (tmp_path / "exports.json").write_text(json.dumps({"schema": "srkd.exports/1", "files": files}))
    profile = read_profile(tmp_path, "0")
    assert profile is not None and profile.rows[0].ms == 2.0 and read_profile(tmp_path, "1") is None
    assert list(read_exports(tmp_path)) == ["a.onnx", "b.onnx"]
