"""Shapes of a teacher, their measurement, and files for another device, whose timings are read back."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.base import Descriptor, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.cost import cost
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.students.students import parse_student, student_text
from export.formats.table import find_format
from export.plan import runner
from export.plan.candidates import list_candidates, spread_out
from export.plan.emit import DeviceTimings, emit, read_measured
from export.plan.measure import Bench, Environment, _of_looks, measure_file
from export.plan.quality import FittedQuality
from export.plan.search import CandidateShape, Targets
from export.timing.turns import CallTimes

SIZE = (24, 16)
TORCH = Environment("torch", "fp32", SIZE, threads=1)
FOR_ANY = {"compact", "plain"}
"""Networks whose shapes suit any teacher."""
ORT = Environment("onnxruntime", "fp32", SIZE, threads=1)


def shape(spec: CompactSpec | EDSRSpec, *, fits: bool = False) -> CandidateShape:
    count = cost(spec, SIZE)
    return CandidateShape(spec.arch, spec.width, spec.depth, count.params, count.macs, student_text(spec), fits)


SMALL, LARGE = shape(CompactSpec(2, width=8, depth=1)), shape(CompactSpec(2, width=32, depth=8))


@pytest.mark.ci
@pytest.mark.parametrize(
    "spec",
    [
        RCANSpec(scale=2, width=32, groups=2, depth=4),
        CARNSpec(scale=3, width=24),
        SwinIRSpec(scale=2, width=24, depths=(2, 2), heads=(4, 4)),
    ],
    ids=lambda spec: spec.arch,
)
def test_shapes_are_those_of_the_teacher_and_for_any_and_never_larger(spec: Spec) -> None:
    rows = list_candidates(Descriptor(spec.scale, 3), spec, (32, 24))
    whole = cost(spec, (32, 24))
    assert {candidate.kind for candidate in rows} == {spec.arch, *FOR_ANY}
    assert rows[0].kind in FOR_ANY, "what is quick to export comes first and leaves its time to the teacher's kind"
    assert len({candidate.student for candidate in rows}) == len(rows)
    assert all(candidate.params <= whole.params and candidate.macs <= whole.macs for candidate in rows)
    assert student_text(spec) in [candidate.student for candidate in rows], "the teacher's own shape is the largest"
    for candidate in rows[:: max(1, len(rows) // 7)]:
        counted = cost(parse_student(candidate.student), (32, 24))
        assert (counted.params, counted.macs) == (candidate.params, candidate.macs), candidate.name
        assert parse_student(candidate.student).scale == spec.scale
    if not isinstance(spec, SwinIRSpec):
        assert all(candidate.width % 8 == 0 for candidate in rows)


def test_a_foreign_teacher_has_shapes_for_any_and_a_scale_without_them_none() -> None:
    assert {candidate.kind for candidate in list_candidates(Descriptor(4, 3), None, SIZE)} == FOR_ANY
    assert list_candidates(Descriptor(16, 3), None, SIZE) == ()


@pytest.mark.ci
def test_a_bench_measures_beside_its_reference_and_a_failure_is_one_line(tmp_path: Path) -> None:
    bench = Bench(TORCH, tmp_path, seconds=0.05)
    small, large, again = (bench.measure(candidate) for candidate in (SMALL, LARGE, SMALL))
    assert small.low <= small.ms <= small.high and small.megabytes < large.megabytes
    assert large.ms > small.ms and 0.2 < again.ms / small.ms < 5
    assert bench.drift >= 1 and len(bench.files) == 2, "a file is written once"
    with pytest.raises(SrkdError, match="not a multiple"):
        bench.measure(replace(SMALL, student="swinir:width=7"))
    assert bench.measure(LARGE).ms > 0


def test_a_second_time_forgets_the_first_and_a_third_adds_to_the_second(tmp_path: Path) -> None:
    bench, figures = Bench(TORCH, tmp_path, seconds=0.05), []
    for look in range(4):
        figures.append(bench.measure(SMALL))
        assert len(bench.looks[SMALL]) == look
    medians = [look.percentile(50) for look in bench.looks[SMALL]]
    assert (figures[3].low, figures[3].high) == (min(medians), max(medians))
    assert figures[3].low <= figures[3].ms <= figures[3].high and len(bench.reference_ms) == 1


def test_of_many_looks_one_at_each_end_does_not_count() -> None:
    looks = [CallTimes(((ms, ms, ms),)) for ms in (10.0, 11.0, 10.5, 10.2, 31.0, 10.1, 9.0, 10.3)]
    of_all, of_few = _of_looks(looks, 1.0), _of_looks(looks[:5], 1.0)
    assert (of_all.low, of_all.high) == (10.0, 11.0) and 10 < of_all.ms < 11
    assert (of_few.low, of_few.high) == (10.0, 31.0)


def test_what_takes_far_too_long_is_timed_once(tmp_path: Path) -> None:
    bench = Bench(TORCH, tmp_path, seconds=100.0, longest_ms=1e-6)
    figures = bench.measure(SMALL)
    assert (figures.low, figures.high) == (figures.ms / 2, figures.ms * 2) and not bench.reference_ms


@pytest.mark.ci
def test_files_of_onnx_runtime_in_float_and_in_int8(tmp_path: Path) -> None:
    for name in ("fp32", "int8"):
        (tmp_path / name).mkdir()
        bench = Bench(replace(ORT, precision=name), tmp_path / name, seconds=0.05)
        assert bench.measure(SMALL).ms > 0
        (file,) = bench.files.values()
        assert file.name == f"compact-8x1{find_format('onnxruntime', name).suffix}"
        assert measure_file(file, bench.environment, seconds=0.05).megabytes == file.stat().st_size / 1e6
        assert list(file.parent.iterdir()) == [file], "what it was calibrated on is gone"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (replace(TORCH, precision="int8"), "--precision int8: torch computes in float"),
        (replace(ORT, device="mps"), "--device mps: onnxruntime runs on cpu"),
        (Environment("ncnn", "int8"), "--(precision int8|runtime ncnn)"),
    ],
)
def test_an_environment_that_cannot_be_had_is_refused(environment: Environment, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        environment.format()


def test_the_quality_of_a_finalist_is_that_of_its_fit() -> None:
    teacher = build(CompactSpec(2, width=16, depth=3), seed=2)
    quality = FittedQuality(teacher, most=2)
    whole = quality(shape(CompactSpec(2, width=16, depth=3), fits=True))
    assert whole is not None and whole.psnr_y == pytest.approx(quality.score(teacher).psnr_y, abs=0.05)
    assert quality(SMALL) is None, "another kind is not solved for"
    assert quality(shape(CompactSpec(2, width=8, depth=1), fits=True)) is not None
    assert quality(shape(CompactSpec(2, width=8, depth=2), fits=True)) is None, "two at most"


def test_another_device_measures_and_the_plan_reads_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, folder = Targets(fps=1), tmp_path / "phone"
    emitted = emit([SMALL, replace(SMALL, width=7, student="swinir:width=7")], targets, ORT, "abc", 3, folder)
    assert list(emitted.shapes) == ["compact 8x1"] and "not a multiple" in emitted.failed["compact 7x1"]
    assert sorted(path.name for path in folder.iterdir()) == ["compact-8x1.onnx", "plan.json", "run.py"]
    monkeypatch.setattr(runner, "__file__", str(folder / "run.py"))
    monkeypatch.setattr(sys, "argv", ["run.py", "--seconds", "0.05", "--threads", "1"])
    runner.main()
    again, timings = read_measured(folder / "measured.json", None, "abc")
    assert again == emitted
    figures = timings.measurement(emitted.shapes["compact 8x1"])
    assert figures.low <= figures.ms <= figures.high and timings.threads == 1
    with pytest.raises(UsageError, match="another teacher"):
        read_measured(folder / "measured.json", None, "abd")


def test_timings_that_are_not_those_of_the_files_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "phone"
    emitted = emit([SMALL], Targets(ms=5), ORT, "abc", 3, folder)
    good = {"schema": "srkd.plan-measured/1", "plan": emitted.id, "rows": {"compact 8x1": {"ms": 2.5}}}

    def read(**changes: object) -> DeviceTimings:
        (tmp_path / "own.json").write_text(json.dumps({**good, **changes}))
        return read_measured(tmp_path / "own.json", folder, "abc")[1]

    assert read(provider="WebGPU", threads=None).measurement(emitted.shapes["compact 8x1"]).low == 2.5
    with pytest.raises(SrkdError, match="no time"):
        read(rows={"compact 8x1": {}}).measurement(emitted.shapes["compact 8x1"])
    changes: dict[str, object]
    for words, changes in (
        ("of another emit", {"plan": "0123"}),
        ("rows", {"rows": {}}),
        ("rows.compact 8x1.ms", {"rows": {"compact 8x1": {"ms": -1}}}),
        ("not among the files", {"rows": {"compact 9x9": {"ms": 1}}}),
        ("schema", {"schema": "other"}),
    ):
        with pytest.raises(UsageError, match=words) as error:
            read(**changes)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="is not empty"):
        emit([SMALL], Targets(ms=5), ORT, "abc", 3, folder)
    with pytest.raises(UsageError, match="--runtime torch"):
        emit([SMALL], Targets(ms=5), TORCH, "abc", 3, tmp_path / "other")


def test_shapes_for_another_device_cover_all_sizes_of_each_kind() -> None:
    candidates = list_candidates(Descriptor(2, 3), EDSRSpec(scale=2, width=32, depth=8), SIZE)
    some = spread_out(candidates, Targets(fps=30), per_kind=5)
    assert {candidate.kind for candidate in some} == {"edsr", *FOR_ANY} and len(some) <= 15
    for kind in ("edsr", *FOR_ANY):
        macs, all_macs = ([candidate.macs for candidate in of if candidate.kind == kind] for of in (some, candidates))
        assert min(macs) == min(all_macs) and max(macs) == max(all_macs)
