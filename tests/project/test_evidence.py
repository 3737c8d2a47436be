"""The results in the docs: written once, and rendered from their JSON."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from pathlib import Path

import pytest

from benchmarks import __main__ as entry
from benchmarks import evidence
from benchmarks.__main__ import main, part_of
from benchmarks.evidence import (
    Benchmark,
    Column,
    Result,
    Rows,
    Table,
    benchmarks,
    module_names,
    results_folder,
    results_of,
    save,
    without_private,
)
from benchmarks.pages import FILLED, MARK, README, filled, index, pages, question_of, rendered, with_results

TABLE = Table(
    [Column("name", ""), Column("db", "dB", "+.2f"), Column("fits", "fits"), Column("ms", "ms", ".1f")],
    [{"name": "one", "db": -0.126, "fits": True, "ms": None}, {"name": "two", "db": 3, "fits": False, "ms": 7.25}],
    "Of two networks.",
)
RENDERED = """Of two networks.

|  | dB | fits | ms |
| --- | --- | --- | --- |
| one | -0.13 | yes |  |
| two | +3.00 | no | 7.2 |"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the results folder, with a benchmark that exists only in the test."""
    monkeypatch.setenv(evidence.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(evidence, "benchmark_of", {"tiny": Benchmark("Is two larger?", 1)}.get)
    monkeypatch.setattr("sys.argv", ["benchmarks tiny", "--data", "/home/somebody/Set5", "--rounds", "3"])
    return tmp_path


def test_a_result_holds_how_it_came_about_and_is_read_back_as_it_was(folder: Path) -> None:
    file = save("tiny", TABLE, seeds=(10, 11))
    assert TABLE.render() == RENDERED
    result = Result.read(file)
    assert result.tables[""].render() == RENDERED
    assert result.command == "python -m benchmarks tiny --data Set5 --rounds 3"
    assert result.machine["cpu"] and result.versions["torch"] and list(result.seeds) == [10, 11]
    page = result.page()
    assert page.startswith("# Is two larger?") and page.endswith(RENDERED) and "seeds 10, 11." in page
    assert "somebody" not in page + file.read_text()
    assert "thread(s) in torch" in page
    without = dataclasses.replace(result, machine={**result.machine, "torch_threads": None})
    assert "thread(s) in torch" not in without.page()


def test_a_recorded_command_says_nothing_of_where_its_runs_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--data", "sets/Set5", "--out", "fr2", "--steps", "3", "--rows", "/tmp/plans2.json"]
    monkeypatch.setattr("sys.argv", ["benchmarks tiny", *words])
    assert Result.read(save("tiny", TABLE)).command == "python -m benchmarks tiny --data Set5 --steps 3"
    assert without_private(["--out=a/b", "--busy", "--rows=x.json", "--rows", "2"]) == ["--busy", "--rows", "2"]
    assert without_private(["--rows=2", "--out"]) == ["--rows=2"]
    assert without_private([]) == [] and without_private(["--only=x", "--busy"], ("--only",)) == ["--busy"]


def test_a_page_shows_what_the_json_says_and_what_has_not_been_run(folder: Path) -> None:
    save("tiny", {"first": TABLE, "second-half": Table(TABLE.columns, TABLE.rows[1:])})
    table = "|  | dB | fits | ms |\n| --- | --- | --- | --- |\n| two | +3.00 | no | 7.2 |"
    page = "Before\n\n[result: tiny.second-half](../results/tiny.json)\n\nafter [result: tiny](tiny.json)\n"
    assert with_results(page, folder) == f"Before\n\n{table}\n\nafter [result: tiny](tiny.json)\n"
    new = filled("Before\n<!-- result: tiny.second-half -->\nold\n<!-- end of result -->\nafter\n", folder)
    assert new == f"Before\n<!-- result: tiny.second-half -->\n{table}\n<!-- end of result -->\nafter\n"
    assert filled(new, folder) == new
    assert with_results("[result: other]", folder) == "*Not run yet: `python -m benchmarks other`.*"
    assert with_results("[result: training_speed-gpu-dukd]", folder) == "*Not run yet: `make evidence-gpu`.*"


def test_a_page_shows_the_sentences_of_a_row_by_its_name(folder: Path) -> None:
    one, two = ({**row, "sentence": f"{row['name']} is measured."} for row in TABLE.rows)
    save("tiny", {"first": Table(TABLE.columns, [one, two]), "second": Table(TABLE.columns, [two])})
    assert with_results("[result: tiny/two](tiny.json)", folder) == "- two is measured.\n- two is measured."
    assert "is measured" not in Result.read(folder / "tiny.json").page(), "a sentence has no column"
    with pytest.raises(KeyError, match="no row with a sentence is named three"):
        with_results("[result: tiny/three](tiny.json)", folder)


SPREAD, EXAMPLE = r"\d\.\d{3} ± \d\.\d{3}", re.compile(r"^ {4}.*$", re.MULTILINE)
"""A mean with its spread, and a line of an example."""


def test_a_spread_that_is_typed_into_a_page_is_one_of_the_results() -> None:
    results = "".join(result.page() for _, result in results_of(results_folder()).values())
    for page in (README, *pages()):
        typed = EXAMPLE.sub("", FILLED.sub("", page.read_text(encoding="utf-8")))
        assert [spread for spread in re.findall(SPREAD, typed) if spread not in results] == [], page.name


def test_rows_are_kept_so_that_a_command_goes_on(tmp_path: Path) -> None:
    measured: list[str] = []

    def row(name: str) -> dict[str, float]:
        measured.append(name)
        return {"ms": 1.5}

    file = tmp_path / "rows.json"
    Rows(file).get("a", lambda: row("a"))
    again = Rows(file)
    assert again.get("a", lambda: row("a")) == {"ms": 1.5} and again.get("b", lambda: row("b")) == {"ms": 1.5}
    assert measured == ["a", "b"] and set(json.loads(file.read_text())) == {"a", "b"}


def test_the_readme_has_the_figures_of_its_results() -> None:
    text = README.read_text(encoding="utf-8")
    assert filled(text, results_folder()) == text, "run `python -m benchmarks docs`"
    assert len(FILLED.findall(text)) == 1


def test_every_mark_of_a_page_is_a_result_and_has_its_link_once_it_is_measured() -> None:
    marks = [(page, match) for page in pages() for match in MARK.finditer(page.read_text(encoding="utf-8"))]
    measured = results_of(results_folder())
    assert len(marks) > 60
    for page, match in marks:
        shown, link = rendered(*match.groups(), results_folder()), re.search(r"\((.*)\)$", match[0])
        assert shown.strip() and (link is None) == shown.startswith("*Not run yet"), f"{page}: {match[0]}"
        assert link is None or (page.parent / link[1]).resolve() == measured[match[1]][0], f"{page}: {match[0]}"


def test_every_result_has_a_benchmark_or_is_settled_with_an_answer() -> None:
    text = (results_folder() / "README.md").read_text(encoding="utf-8")
    rows = text.partition("\n## Settled")[2].partition("\nThe second tables")[0]
    settled = {name for row in rows.splitlines() for name in re.findall(r"`([\w-]+)`", row.partition(" | ")[0])}
    measured = results_of(results_folder())
    of_benchmarks = {name for name in measured if question_of(name) in benchmarks()}
    assert settled == measured.keys() - of_benchmarks and len(settled) > 15
    assert {measured[name][0].name for name in settled} == {"settled.json"}
    rows = index(results_folder())
    assert all(f"]({name}.json) | `python -m benchmarks " in rows for name in of_benchmarks)


def test_every_question_is_listed_with_its_command_and_duration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls"]) == 0
    listed = capsys.readouterr().out
    for name, benchmark in benchmarks().items():
        assert benchmark.question.endswith("?") and 0 < benchmark.minutes < 60 * 24
        assert f"{name}: {benchmark.question}\n    python -m benchmarks {name}" in listed


MAKERS = {"embedded_student", "embedded_teacher", "gpu_evidence", "student_images"}
"""Commands without a question: they make files, or run other benchmarks."""


def test_every_command_asks_a_question() -> None:
    commands = {name for name in module_names() if hasattr(importlib.import_module(f"benchmarks.{name}"), "main")}
    assert commands - benchmarks().keys() == MAKERS


def test_a_folder_that_was_not_given_is_named(tmp_path: Path) -> None:
    one = Benchmark(
        "?", 90, ("--data", "{sets}", "--model", "{checkpoints}/a.pth"), ("--data", "{sets}", "--steps", "1")
    )
    folders = {"sets": tmp_path, "photos": None, "checkpoints": None}
    assert part_of("one", one, folders, small=False).needs == "--checkpoints"
    small = part_of("one", one, folders, small=True)
    assert small.needs == "" and small.command == ("benchmarks", "one", "--data", str(tmp_path), "--steps", "1")
    assert small.minutes == entry.SMALL_MINUTES


def test_a_small_form_has_the_first_images_of_each_set_and_their_lr(tmp_path: Path) -> None:
    for folder in ("Set5/HR", "Set5/LRbicX4", "B100/HR"):
        (tmp_path / "all" / folder).mkdir(parents=True)
        for name in "cab":
            (tmp_path / "all" / folder / f"{name}.png").write_bytes(name.encode())
    sample = entry.sample_of(tmp_path / "all", tmp_path / "few")
    assert sorted(str(path.relative_to(sample)) for path in sample.rglob("*.png")) == [
        f"{folder}/{name}.png" for folder in ("B100/HR", "Set5/HR", "Set5/LRbicX4") for name in "ab"
    ]
    assert (sample / "Set5" / "HR" / "a.png").read_bytes() == b"a"


def test_a_folder_that_is_missing_is_refused_before_the_first_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["all", "--small", "--sets", str(tmp_path / "no"), "--out", str(tmp_path / "out")])
    assert f"--sets {tmp_path / 'no'}: is no folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_wrong_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["int8_quallity"]) == 2
    assert capsys.readouterr().err == "benchmarks: no benchmark is called 'int8_quallity': did you mean int8_quality?\n"
    assert main([]) == 2
