"""`--then`: a student is distilled, then trained quantised, in one folder that can be continued at any point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import srkd
from compressor.base.errors import SrkdError, UsageError
from compressor.base.interrupts import Interrupted
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.registry import quantise
from compressor.models.quantisation.description import Quantisation
from compressor.training.events import RunEvents
from compressor.training.state import State
from srkd import compress, resume
from srkd.options.compress import CompressOptions
from srkd.record.result import CompressReport
from srkd.record.run_teacher import find_run_teacher
from srkd.record.scores import scores_of
from srkd.runs.second import second_options
from tests.support.deaths import death_after
from tests.support.run_files import assert_read_as_written, read_json
from tests.support.small_runs import SMALL

SETTINGS = (*SMALL, "then.bits=4", "then.schedule.batch=2", "then.schedule.lr_patch=8")


def compressed(ground: Path, out: Path, **options: Any) -> CompressReport:
    defaults = {"recipe": "logits", "init": "inherit", "then": "pams", "settings": SETTINGS, "steps": 6}
    return compress(ground / "teacher.safetensors", data=ground / "photos", out=out, **{**defaults, **options})


@pytest.fixture(scope="module")
def both(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> CompressReport:
    return compressed(ground, tmp_path_factory.mktemp("both") / "run")


def test_the_second_training_takes_over_what_it_can_use() -> None:
    options = CompressOptions.of(teacher="x4.pth", scale=2, teacher_scale=4, phi_weights="v.h", then="pams", out="r")
    second = second_options(Path("student.safetensors"), options, "teacher")
    assert (second.teacher.scale, second.teacher.teacher_scale, second.training.phi_weights) == (None, None, None)


def test_both_students_lie_in_the_folder(both: CompressReport) -> None:
    quantised = load_checkpoint(both.student_path).network
    plain = load_checkpoint(both.run / "student-float.safetensors").network
    assert quantised.quantisation == Quantisation("pams", 4) and plain.quantisation is None
    assert quantised.spec == plain.spec and load_checkpoint(both.run).network.fingerprint() == quantised.fingerprint()
    for name, source in (("student", "2-pams"), ("student-float", "1-logits")):
        copied, original = both.run / f"{name}.safetensors", both.run / source / "student.safetensors"
        assert copied.read_bytes() == original.read_bytes()
    # Its header names the recipes of both, and the teacher of the first.
    header = load_checkpoint(both.student_path).header
    assert header["srkd.recipe"] == "logits, then pams"
    assert header["srkd.source_sha256"] == read_json(both.run)["teacher"]["sha256"]
    assert len(both.flags) == len(set(both.flags))
    # The quantised student started from the final float one.
    second = read_json(both.run / "2-pams")
    assert second["teacher"]["path"] == str((both.run / "1-logits" / "student.safetensors").resolve())
    assert second["quantisation"] == {"method": "pams", "bits": 4, "placement": "paper", "compat": ""}
    assert read_json(both.run / "1-logits")["quantisation"] is None
    assert_read_as_written(both.run)


def test_the_report_has_a_row_for_each(both: CompressReport) -> None:
    rows = {score.name: score.to_original.mean for score in scores_of(both) if score.to_original is not None}
    assert list(rows) == ["student, pams, 4 bits, placement paper", "float student", "teacher", "bicubic"]
    runs = [read_json(both.run / name)["result"] for name in ("1-logits", "2-pams")]
    assert rows["float student"] == runs[0]["student"]["psnr_y"]
    # The quantised student is judged by the teacher of the float one.
    assert runs[1]["teacher"]["psnr_y"] == runs[0]["teacher"]["psnr_y"]
    assert runs[1]["student"]["psnr_y_teacher"] is not None
    assert rows["student, pams, 4 bits, placement paper"] == runs[1]["student"]["psnr_y"]
    assert rows["teacher"] == runs[0]["teacher"]["psnr_y"]
    assert both.recipe == "logits, then pams" and both.steps == sum(row["steps"] for row in runs) == 6 + 1 + 6
    teacher = find_run_teacher(both.run, lambda line: None)
    assert teacher is not None and teacher.path.name == "teacher.safetensors", "of the whole, not of the second run"


def test_every_verb_takes_the_folder(both: CompressReport, ground: Path) -> None:
    size = srkd.inspect(both.run).quantisation
    assert size is not None and size.bits == 4
    assert srkd.plot(both.run).runs == (both.run / "1-logits", both.run / "2-pams")
    assert next(iter(srkd.evaluate([both.run], data=ground / "photos").models.values()))


@pytest.mark.ci
@pytest.mark.parametrize("saves", [1, 2, 3])
def test_a_run_that_died_goes_on_to_the_same_bytes(
    ground: Path, both: CompressReport, tmp_path: Path, saves: int
) -> None:
    """The process dies after the first run, in the second's calibration, or later."""
    out = tmp_path / "run"
    with death_after(saves):
        compressed(ground, out)
    assert "result" not in read_json(out) and not (out / "student.safetensors").exists()
    assert_read_as_written(out)
    report = resume(out)
    for name in ("student.safetensors", "student-float.safetensors"):
        assert (out / name).read_bytes() == (both.run / name).read_bytes()
    assert report.student == both.student and report.float_student == both.float_student
    with pytest.raises(SrkdError, match="finished"):
        resume(out)


def test_ctrl_c_at_the_border_stops_there(ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validate = RunEvents.validate

    def interrupted(self: RunEvents, done: int, state: State) -> None:
        validate(self, done, state)
        self.context.processes.stop_request.received = True

    monkeypatch.setattr(RunEvents, "validate", interrupted)
    with pytest.raises(Interrupted, match="--resume"):
        compressed(ground, tmp_path / "run")
    monkeypatch.undo()
    assert not (tmp_path / "run" / "student.safetensors").exists()
    assert resume(tmp_path / "run").quantisation == "pams, 4 bits, placement paper"


def test_pact_and_every_layer(ground: Path, tmp_path: Path) -> None:
    report = compressed(
        ground, tmp_path / "run", then="pact", settings=(*SETTINGS, "then.bits=8", "then.placement=all")
    )
    assert load_checkpoint(report.student_path).network.quantisation == Quantisation("pact", 8, "all")


def test_alone_it_quantises_its_teacher(ground: Path, tmp_path: Path) -> None:
    report = compressed(ground, tmp_path / "run", recipe="pams", then=None, init=None, settings=SMALL)
    student = load_checkpoint(report.student_path).network
    teacher = load_checkpoint(ground / "teacher.safetensors").network
    assert student.spec == teacher.spec and student.quantisation == Quantisation("pams", 8)
    assert report.float_student is None and report.quantisation == "pams, 8 bits, placement paper"
    lr = torch.rand(1, 3, 12, 12)
    with torch.no_grad():
        assert float((student(lr) - teacher(lr)).abs().max()) < 0.1, "it starts from the teacher's weights"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"then": "fakd"}, "--then fakd: it does not quantise its student; pams and pact do"),
        ({"then": "nothing"}, "--then nothing: .*nothing"),
        ({"recipe": "pams"}, "--then pams: recipe pams quantises the student already"),
        ({"settings": (*SMALL, "then.bits=99")}, "--then pams: .*bits"),
        ({"seeds": 2}, "--then makes one student: leave out --with-baseline, --baselines, --seeds and --sweep"),
        ({"then": None, "settings": ("then.bits=4",)}, r"--set then\.bits=4: there is no second recipe"),
        (
            {"student": "compact:width=8,depth=2,scale=2", "init": None, "settings": (*SMALL, "bits=4")},
            "bits is an option",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(
    ground: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises((UsageError, SrkdError), match=words) as caught:
        compressed(ground, tmp_path / "run", **options)
    assert not (tmp_path / "run" / "1-logits").exists() and "\n" not in str(caught.value).strip()


def test_a_quantised_teacher_is_refused(ground: Path, tmp_path: Path) -> None:
    plain = load_checkpoint(ground / "teacher.safetensors").network
    path = tmp_path / "quantised.safetensors"
    srkd.convert(quantise(plain, Quantisation("pams", 8)), to="srkd", out=path)
    with pytest.raises(UsageError, match=r"the teacher is quantised itself \(pams, 8 bits, placement paper\)"):
        compress(path, data=ground / "photos", recipe="pams", settings=SMALL, steps=2, out=tmp_path / "run")
