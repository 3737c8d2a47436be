"""Compress, export and profile warn of a student that scores below bicubic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressor.images.scores import Scores, below_bicubic
from export.profile.report import QualityRow, _note_below_bicubic
from export.writing.exporting import Source, warning_about
from srkd.cli.main import run
from srkd.record.result import CompressReport, Quality
from tests.support.run_files import read_json
from tests.support.small_runs import SET_SMALL

WORDS = ["--recipe", "scratch", "--student", "edsr:width=4,depth=1,scale=2", "--steps", "1"]


@pytest.fixture
def bad_run(photos, tmp_path):
    """Return a run of one step, whose student gives noise."""
    out = tmp_path / "run"
    assert run(["compress", *WORDS, "--data", str(photos), "--out", str(out), *SET_SMALL]) == 0
    return out


def test_compress_ends_with_it(photos, tmp_path, capfd, bad_run):
    output = capfd.readouterr()
    last = output.err.strip().splitlines()[-1]
    assert last.startswith("srkd: warning: the student is BELOW BICUBIC, ") and "--steps" in last
    assert [flag for flag in read_json(bad_run)["result"]["flags"] if "BELOW BICUBIC" in flag]
    assert "BELOW BICUBIC" in (bad_run / "log.txt").read_text()
    assert "BELOW BICUBIC" not in output.out


@pytest.mark.ci
def test_export_and_profile_say_it_too(bad_run, capfd):
    capfd.readouterr()
    assert run(["export", str(bad_run), "--onnx"]) == 0
    assert "BELOW BICUBIC" in capfd.readouterr().err
    assert run(["export", str(bad_run), "--onnx", "--json"]) == 0
    assert "BELOW BICUBIC" in json.loads(capfd.readouterr().out)["warning"]
    assert run(["export", str(bad_run), "--for", "ffmpeg", "-o", str(bad_run / "hosts")]) == 0
    assert "BELOW BICUBIC" in capfd.readouterr().err
    words = ["--runtime", "torch", "--lr-size", "16x16", "--seconds", "0.1"]
    assert run(["profile", str(bad_run / "student.safetensors"), *words]) == 0
    assert "srkd: warning: student is BELOW BICUBIC, " in capfd.readouterr().err


def test_a_good_one_is_not():
    assert all(below_bicubic("it", {"photos": (Scores(psnr), Scores(30.0))}) is None for psnr in (30.0, 30.1, None))
    rows = (QualityRow("bicubic", 2, 30.0, 0.0), QualityRow("good", 2, 31.0, 1.0), QualityRow("bad", 2, 29.0, -1.0))
    (line,) = _note_below_bicubic((*rows, QualityRow("exact", 2, None, None)), {"bad": {"srkd.recipe": "csd"}})
    assert line.startswith("bad is BELOW BICUBIC, 29.00 dB against 30.00 dB")


@pytest.mark.parametrize(
    ("goal", "clean", "figures"),
    [
        ("original", Scores(29.0, None, 41.0), "29.00 dB against 30.00 dB to the original"),
        ("teacher", Scores(31.0, None, 39.0), "39.00 dB against 40.00 dB to the teacher"),
    ],
)
def test_every_set_is_judged_by_the_goal(goal, clean, figures):
    """The degraded images, which decide, are better than bicubic, the clean ones are not."""
    sets = {"photos (jpeg)": Scores(31.0, None, 41.0), "photos": clean}
    student, plain = (Quality(cost=None, sets=s) for s in (sets, dict.fromkeys(sets, Scores(30.0, None, 40.0))))
    report = CompressReport(Path(), Path(), "", 1, 1, "", 1, {}, student, None, plain, 2, goal)
    assert f"the student is BELOW BICUBIC, {figures} on photos: enlarging" in report.below_bicubic
    header = {"srkd.goal": goal, "srkd.scores": '{"validation_psnr_y_teacher": 39, "bicubic_psnr_y_teacher": 40}'}
    assert ("39.00 dB against 40.00 dB to the" in str(warning_about(Source("a", header=header), 2))) == (
        goal == "teacher"
    )


def test_a_network_that_was_not_trained_here_gets_no_advice_on_training():
    """A published network may be trained for looks; a student with the teacher for its goal is not meant to restore."""
    rows = (QualityRow("bicubic", 4, 29.27, 0.0), QualityRow("published", 4, 27.59, -1.68))
    (line,) = _note_below_bicubic(rows, {"published": {}})
    assert "27.59 dB against 29.27 dB" in line and "trained for looks" in line
    assert "BELOW" not in line and "--steps" not in line and "is better" not in line
    (line,) = _note_below_bicubic(rows, {"published": {"srkd.goal": "teacher", "srkd.teacher": "big.pth"}})
    assert "learned the images of big.pth" in line and line.endswith("give --teacher")


def test_scores_of_others_say_nothing():
    for scores in ("", "{}", "[]", '{"Set5": 30.1}', "{", '{"validation_psnr_y": "x", "bicubic_psnr_y": 3}'):
        assert warning_about(Source("a", header={"srkd.scores": scores}), 2) is None
    scores = '{"validation_psnr_y": 20.0, "bicubic_psnr_y": 30.0}'
    assert "BELOW BICUBIC" in str(warning_about(Source("a", header={"srkd.scores": scores}), 2))
