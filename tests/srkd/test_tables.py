"""Tables fit the width of a line, and nothing is cut."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import srkd
from srkd.cli.main import run
from srkd.terminal.tables import Table, csv_text

WORD = st.text("abxyz019.,+-%", min_size=0, max_size=14)
TEXT = st.lists(WORD, max_size=8).map(" ".join)


@example([[""], [""]])
@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine too
@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(TEXT, min_size=n, max_size=n), min_size=2, max_size=6)))
def test_nothing_of_a_table_is_cut(rows: list[list[str]]) -> None:
    headings, *cells = rows
    text = " ".join(" ".join(Table(headings, cells).lines(40)).split())
    for row in rows:
        assert all(word in text for cell in row for word in cell.split())


def test_texts_wrap_and_numbers_do_not() -> None:
    rows = [["onnx", "any batch and any size of image", "0.88 MB"], ["trt", "one machine", "12.31 MB"]]
    lines = Table(["format", "what it holds", "size"], rows).lines(36)
    assert lines == [
        "format  what it holds           size",
        "────────────────────────────────────",
        "onnx    any batch and any    0.88 MB",
        "        size of image",
        "trt     one machine         12.31 MB",
    ]


def test_a_column_is_never_narrower_than_its_longest_word() -> None:
    """rich alone would cut the long name here, as it narrows the two columns to equal widths."""
    name = "a-very-long-name-of-a-model-file.safetensors"
    rows = [["any student fp32 cpu, onnx", "any size of image"], ["b", f"of {name}"]]
    lines = Table(["one", "other"], rows).lines(64)
    assert any(name in line for line in lines) and max(map(len, lines)) <= 64


def test_what_does_not_fit_becomes_several_tables() -> None:
    rows = [["bicubic", *["28.423"] * 10], ["student", *["32.240"] * 10]]
    lines = Table(["model", *[f"Set{number} PSNR" for number in range(10)]], rows).lines(60)
    assert max(map(len, lines)) <= 60
    assert sum(line.startswith("student") for line in lines) == sum(line.startswith("──") for line in lines) > 1
    assert [f"Set{number}" in " ".join(lines) for number in range(10)] == [True] * 10


def test_csv_reads_back() -> None:
    records = [
        {"a": 'with "quotes", and\nlines', "b": None, "c": {"d": 0.1, "e": None}, "f": [1, 2.5]},
        {"a": "", "b": 2, "c": None, "f": []},
    ]
    rows = list(csv.DictReader(io.StringIO(csv_text(records))))
    assert rows == [
        {"a": records[0]["a"], "b": "", "c.d": "0.1", "c.e": "", "f": "1 2.5"},
        {"a": "", "b": "2", "c.d": "", "c.e": "", "f": ""},
    ]
    assert csv_text([]) == ""


PROFILE = ("--lr-size", "12x10,8x8", "--seconds", "0.1", "--no-memory", "--no-quality", "--threads", "1")


@pytest.mark.ci
def test_every_verb_with_a_table_has_csv(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--set", "schedule.batch=2", "--set", "schedule.lr_patch=8", "--student", "edsr:width=4,depth=2"]
    commands: dict[str, tuple[list[str], int, set[str]]] = {
        "profile": ([str(model), "--teacher", str(model), *PROFILE], 8, {"macs", "latency_ms.p50", "fps"}),
        "evaluate": ([str(model), "--data", str(photos), "--per-image"], 8, {"psnr_y", "ssim_y", "image"}),
        "export": ([str(model), "-o", str(tmp_path)], 1, {"format", "path", "parity.max_abs"}),
        "inspect": ([str(model), "--layers"], 7, {"name", "params", "macs"}),
        "doctor": ([], 8, {"group", "ready", "command"}),
        "recipes": (["ls"], 20, {"name", "methods", "steps"}),
        "compress": (
            ["--teacher", str(model), "--data", str(photos), "--steps", "2", "--out", str(tmp_path / "run"), *small],
            3,
            {"name", "params", "macs", "to_original.mean"},
        ),
    }
    for verb, (arguments, count, names) in commands.items():
        assert run([verb, *arguments, "--csv"]) == 0, verb
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert len(rows) >= count and names <= set(rows[0]), verb
        assert all(None not in row.values() and None not in row for row in rows), verb
    assert run(["recipes", "ls", "--csv", "--json"]) == 2
    assert "--json and --csv both" in capsys.readouterr().err
    assert run(["inspect", str(model), "--csv"]) == 2


def test_macs_of_every_table_are_of_one_size(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    macs = f"{srkd.cost(srkd.load(model), (256, 256)).macs / 1e9:.2f}"
    assert run(["profile", str(model), *PROFILE]) == 0
    output = capsys.readouterr().out
    assert len(re.findall(rf"^small +[\d,]+ +{re.escape(macs)} ", output, re.MULTILINE)) == 1
    assert "GMAC at 256x256" in output and "LR 12x10" in output and "LR 8x8" in output


def test_tables_of_the_verbs_fit_80_columns(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only texts and commands may have longer lines."""
    for arguments in (
        ["profile", str(model), "--teacher", str(model), *PROFILE],
        ["evaluate", str(model), str(model), "--data", str(photos), "--per-image"],
        ["export", str(model), "--onnx", "-o", str(tmp_path)],
        ["recipes", "ls"],
        ["doctor"],
    ):
        assert run(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        rules = [index for index, line in enumerate(lines) if line and set(line) == {"─"}]
        assert rules, arguments
        for index in rules:
            block = [lines[index - 1], *lines[index : index + 2]]
            assert max(map(len, block)) <= 80, block
