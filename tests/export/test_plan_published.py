"""The rough guide to a device that one does not have: ranges from published figures, marked, never a measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import srkd
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.cost import cost
from compressor.models.networks.registry import NETWORKS, is_chain
from export.plan.published import MARK, PUBLISHED, SPREAD, NumberFormat, RoughTime, between, docs_table, guess
from srkd.cli.main import run
from srkd.runs.planning import PlanGuess

DEVICE = PUBLISHED["galaxy-s25-npu"]
STACKS = sorted((row for row in DEVICE.rows if row.macs is not None), key=lambda row: row.macs or 0)
WORDS = ("plan", "--device", DEVICE.name, "--lr-size", "128x128", "--target-ms", "1")


def test_the_page_shows_the_figures_that_the_plan_reads() -> None:
    page = (Path(__file__).parents[2] / "docs" / "use" / "plan.md").read_text(encoding="utf-8")
    for device in PUBLISHED.values():
        assert docs_table(device) in page and device.name in page and MARK in page


def test_the_published_compact_counts_as_ours_does() -> None:
    count = cost(CompactSpec(4, width=64, depth=32), (128, 128))
    assert STACKS[-1].macs == pytest.approx(count.macs, rel=0.01)


@pytest.mark.parametrize("number_format", ["float", "w8a8"])
def test_a_guess_meets_each_published_stack_and_a_stack_left_out_lies_in_its_range(number_format: NumberFormat) -> None:
    for row in STACKS:
        rough = guess(DEVICE, row.macs or 0, number_format)
        assert isinstance(rough, RoughTime) and rough.ms == pytest.approx(row.ms(number_format))
        assert rough.low < rough.ms < rough.high
    for left, row, right in zip(STACKS, STACKS[1:], STACKS[2:], strict=False):
        points = [(other.macs or 0, other.ms(number_format)) for other in (left, right)]
        ratio = between(points, row.macs or 0) / row.ms(number_format)
        assert 1 / SPREAD < ratio < SPREAD


def test_nothing_is_guessed_for_other_kinds_or_beyond_the_figures() -> None:
    least, most = DEVICE.span()
    assert {kind for kind in NETWORKS if is_chain(kind)} == {"compact", "plain"}
    for macs in (least - 1, most + 1):
        assert "outside of the figures" in str(guess(DEVICE, macs, "float"))


def test_a_guess_ranks_and_marks_and_holds_no_measured_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*WORDS]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert MARK in out and "aihub.qualcomm.com" in out and "ms (rough guide)" in out and "chosen" not in out
    assert run([*WORDS, "--csv"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert "rough_ms_low" in header and {"ms", "fps"}.isdisjoint(header.split(",")) and all(MARK in row for row in rows)
    assert run([*WORDS, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["mark"] == MARK and values["source"] and "chosen" not in values and "measured_on" not in values
    assert all("ms" not in row and "fps" not in row for row in values["rows"])
    rough = [row["rough_ms"]["ms"] for row in values["rows"] if row["rough_ms"] is not None]
    assert rough == sorted(rough, reverse=True) and len(rough) > 10


def test_words_say_where_the_range_lies_and_eight_bits_are_faster() -> None:
    exact = srkd.plan(device=DEVICE.name, lr_size="128x128", target_ms=1)
    eight = srkd.plan(device=DEVICE.name, lr_size="128x128", target_ms=1, precision="int8")
    assert isinstance(exact, PlanGuess) and isinstance(eight, PlanGuess)
    assert {"likely", "open", "unknown"} <= {row.guess for row in exact.rows}
    for row in exact.rows:
        if row.guess == "likely":
            assert row.rough_ms is not None and row.rough_ms.high <= 1
        if row.guess == "unlikely":
            assert row.rough_ms is not None and row.rough_ms.low > 1
    by_name = {row.name: row.rough_ms for row in exact.rows}
    for row in eight.rows:
        before = by_name[row.name]
        assert (row.rough_ms is None) == (before is None)
        assert row.rough_ms is None or (before is not None and row.rough_ms.ms < before.ms)
    largest = max((row for row in exact.rows if row.guess == "likely"), key=lambda row: (row.params, row.macs))
    assert exact.largest_likely == largest.student


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--emit", "phone"), "--emit does not go with --device galaxy-s25-npu"),
        (("--runtime", "onnxruntime"), "--runtime does not go with"),
        (("--target-mb", "1"), "--target-mb does not go with"),
        (("-o", "plan.png"), "--out does not go with"),
        (("--precision", "bf16"), "in float and int8"),
        (("--device", "galaxy-s3"), "'galaxy-s3' is not a device"),
    ],
)
def test_what_figures_cannot_answer_is_refused_in_one_line(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*WORDS, *words, "-q"]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and "\n" not in err


def test_a_guess_needs_a_target_of_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--device", DEVICE.name, "--target-macs", "1e9", "-q"]) == 2
    assert "give --target-fps or --target-ms" in capsys.readouterr().err
