"""Rows of benchmarks from their measurements: medians, spreads, and no columns for missing values."""

from __future__ import annotations

import dataclasses
import re

import pytest

from benchmarks import method_costs, methods, network_sizes, profile_everywhere, quickstart
from benchmarks.evidence import Result, results_folder, results_of
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.students.students import parse_student
from tests.support import published_counts
from tests.support.commands import ROOT


def test_sizes_of_networks_are_those_of_the_papers() -> None:
    rows = [network_sizes.row(shape) for shapes in network_sizes.SHAPES.values() for shape in shapes]
    published = {row["name"]: (row["comparable"], row["published"]) for row in rows if row["published"] is not None}
    assert len(published) == 8
    for name, (counted, printed) in published.items():
        assert counted == pytest.approx(printed, abs=0.05), name


def test_the_quickstart_that_is_measured_is_that_of_the_makefile() -> None:
    verbs = [words[1] for words in quickstart.commands(["STEPS=7"]) if words[0] != "rm"]
    assert verbs == ["compress", "compress", "export", "profile", "report"]
    assert "7" in next(words for words in quickstart.commands(["STEPS=7"]) if "logits" in words)
    row = {"model": "quickstart", "runtime": "torch", "latency_ms.p50": "50.0", "spread_percent": "2", "fps": "20"}
    row |= {"peak_memory_mb": "", "speedup_same_runtime": "2.5", "speedup_vs_teacher_eager": "2.5"}
    row |= {"lr_size": "128x128", "precision": "fp32", "device": "cpu", "threads": "2"}
    timing = quickstart.timing(row)
    assert timing["ms"] == 50 and timing["peak_memory_mb"] is None
    assert str(timing["sentence"]).startswith("In torch the student takes 50.0 ms (20.0 FPS): 2.50 times as fast")


def test_whatever_is_called_published_has_a_source_outside_of_srkd() -> None:
    sources = re.compile(r"(CARN|CLSD|CSD|DUKD|FAKD|RCAN)('s)?\b")
    for name, (_, result) in results_of(results_folder()).items():
        for table in result.tables.values():
            titles = [f"{column.title} {table.caption}" for column in table.columns if column.key == "published"]
            cells = [row["published"] for row in table.rows if titles and row.get("published")]
            assert all(sources.search(f"{titles[0]} {cell}") for cell in cells), (name, table.caption)
    compared = results_of(results_folder())["metrics_and_lr"][1].tables
    set5 = {row["figure"]: (round(row["measured"], 2), row["published"]) for row in compared["carn"].rows}
    page = (ROOT / "docs" / "use" / "reproduce.md").read_text(encoding="utf-8")
    for column in (0, 1):
        assert " / ".join(str(set5[f"CARN-M Set5 x{scale} PSNR (stored)"][column]) for scale in (2, 3, 4)) in page
    ours = sum(len(compared[name].rows) for name in ("bicubic", "carn"))
    theirs = sum(row["tolerance"] is not None for table in compared.values() for row in table.rows) - ours
    text = (results_folder() / "README.md").read_text(encoding="utf-8")
    assert (
        f"{theirs} figures are compared with" in text and f"; {ours}, of bicubic and CARN-M, agree with our own" in text
    )


def published_cells(name: str, table: str, key: str) -> dict[object, object]:
    """Return the published figures of a committed result by another of its columns."""
    shown = Result.read(results_folder() / f"{name}.json").tables[table]
    assert "published" in {column.key for column in shown.columns}
    return {row[key]: row["published"] for row in shown.rows if row.get("published")}


def test_published_figures_of_the_results_are_those_of_the_code() -> None:
    hours = {methods.TITLES.get(name, name): hours for name, hours in method_costs.PUBLISHED.items()}
    assert published_cells("method_costs", "", "method") == hours
    assert published_cells("methods", "", "name") == {key: str(gain) for key, gain in methods.PUBLISHED.items()}
    teacher, student = (f"edsr:width={width},depth=32,scale=4,res_scale=0.1" for width in (256, 64))
    speed = profile_everywhere.published_speed(teacher, student)
    assert published_cells("profile_everywhere", "", "runtime") == {"eager torch": speed.text}
    assert profile_everywhere.published_speed(teacher, teacher) is None
    assert profile_everywhere.published_speed(teacher, student.replace("32", "16")) is None


def test_published_speeds_are_of_networks_whose_sizes_are_published() -> None:
    counted = {entry.at(4) for entry in published_counts.COUNTED}
    counted |= {dataclasses.replace(spec, res_scale=1.0) for spec in counted if isinstance(spec, EDSRSpec)}
    for row in profile_everywhere.PUBLISHED:
        assert {parse_student(row.teacher), parse_student(row.student)} <= counted
        ratio, *fps = map(float, re.findall(r"[\d.]+", row.text))
        assert not fps or ratio == round(fps[1] / fps[0], 1)
