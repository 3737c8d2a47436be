"""The students that come with srkd: what they hold is what their facts say, and their names are models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import srkd
from compressor.assets.shipped import STUDENTS, shipped_names, shipped_student
from compressor.models.checkpoints.header import FAITHFUL, TEXTURED
from compressor.models.checkpoints.licence import commercial_warning
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.students.shipped import unpack_student
from compressor.models.students.students import parse_student
from srkd.cli.main import cli
from srkd.options.compress import StudentOptions, TeacherOptions
from tests.support.small_runs import save_photos


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_all_together_are_at_most_8_megabytes() -> None:
    assert sum(file.stat().st_size for file in STUDENTS.rglob("*") if file.is_file()) <= 8_000_000


@pytest.mark.parametrize("name", shipped_names())
def test_facts_are_those_of_the_files(name: str) -> None:
    facts, folder = shipped_student(name), unpack_student(name)
    ends = [load_checkpoint(STUDENTS / name / end) for end in (FAITHFUL, TEXTURED)]
    student = load_checkpoint(folder)
    assert student.network.spec == ends[0].network.spec == ends[1].network.spec == parse_student(facts.student)
    assert (facts.name, facts.params, facts.scale) == (name, student.network.params, student.network.descriptor.scale)
    assert student.header["srkd.strength"] == f"{facts.strength:g}"
    # The scores are those of the whole scale.
    assert "srkd.scores" in student.header and "srkd.scores" not in load_checkpoint(folder, scale=1).header
    weights = [dict(loaded.network.state_dict()) for loaded in (*ends, student)]
    for key, middle in weights[2].items():
        torch.testing.assert_close(middle, weights[0][key].lerp(weights[1][key], facts.strength))
    origins = {(loaded.header["srkd.license"], loaded.header["srkd.teacher"]) for loaded in (*ends, student)}
    assert origins == {(facts.licence, facts.teacher)}
    assert not commercial_warning(facts.licence) and facts.teacher_macs > 10 * facts.macs
    card = (STUDENTS / name / "README.md").read_text(encoding="utf-8")
    assert facts.licence in card and facts.command in card and f"{facts.params:,}" in card and facts.images in card
    assert facts.licence in (STUDENTS / "LICENSES.md").read_text(encoding="utf-8")


def test_a_name_is_a_model_wherever_one_is_taken(tmp_path: Path) -> None:
    photos = save_photos(tmp_path / "photos")
    srkd.upscale("general-x2", photos / "0.png", out=tmp_path / "large.png", strength=0.25)
    with Image.open(tmp_path / "large.png") as large:
        assert large.size == (80, 96)
    assert srkd.inspect("general-x2").architecture == "compact"
    assert srkd.evaluate("general-x2", against="general-x2", metrics="psnr", data=photos).models
    assert srkd.load("general-x2").descriptor.scale == srkd.blend("general-x2", "general-x2", 0.5).descriptor.scale == 2
    assert srkd.export("general-x2", formats="onnx").files[0].path == Path("general-x2/student.onnx")
    assert "a student of realesr-general-x4v3" in (card := Path("general-x2/student.md").read_text("utf-8"))
    assert "# general-x2\n" in card and "| this network | 31.695 |" in card
    assert srkd.convert("general-x2", to="basicsr").path == Path("general-x2/student_basicsr.pth")
    assert StudentOptions(init_from="general-x2").init_from == TeacherOptions(teacher="general-x2").teacher
    with pytest.raises(srkd.SrkdError, match="a folder without student"):
        srkd.load("./general-x2")


@pytest.mark.extras
@pytest.mark.parametrize("name", shipped_names())
def test_formats_and_programs_take_it_at_several_strengths(name: str, tmp_path: Path) -> None:
    words = {"formats": ("onnx", "fp16", "ncnn", "openvino"), "hosts": ("upscayl", "vapoursynth", "web")}
    report = srkd.export(name, strength=(0, 1), out=tmp_path, **words)
    assert {file.verdict for file in report.files} == {"passed"} and len(report.files) == 2 * 4
    assert len(report.hosts) == 2 * 3
    files = [Path(str(file.path)).name for host in report.hosts if host.host != "web" for file in host.files]
    assert all(f"{name.rpartition('-')[0]}-strength-" in file for file in files)


def test_the_list_names_each_with_its_time_here() -> None:
    row = json.loads(CliRunner().invoke(cli, ["students", "--seconds", "0.01", "--json"]).stdout)["students"][0]
    assert row["facts"]["name"] == shipped_names()[0] and row["ms"] > 0
    assert row["runtime"] in ("torch", "openvino") and row["precision"] in ("fp32", "bf16")
    untimed = srkd.students(seconds=0)
    assert [row.facts.name for row in untimed.students] == list(shipped_names()) and untimed.students[0].ms is None
