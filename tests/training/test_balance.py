"""A recipe whose other terms outweigh the pixel loss is flagged: once, not too early, and permanently."""

from __future__ import annotations

from pathlib import Path

import torch

from compressor.training.guard import BALANCE_ROWS, BALANCE_STEPS, Balance
from compressor.training.losses import Losses
from compressor.training.run_folder import RunFolder
from tests.support.run_files import read_metrics
from tests.support.training import events_of, stage


def losses(pixel: float, logits: float, contrast: float = 0.0) -> Losses:
    """Return losses of raw terms; the contrast has a weight of a tenth."""
    terms = {"pixel": torch.tensor(pixel), "logits": torch.tensor(logits), "contrast": torch.tensor(contrast)}
    return Losses(terms, {"pixel": 1.0, "logits": 1.0, "contrast": 0.1})


def test_it_is_reported_once_after_5000_steps_and_recorded(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = RunFolder(tmp_path / "run")
    events = events_of(folder, lines, stage([], steps=10_000))
    for done in range(100, BALANCE_STEPS, 100):
        events.on_step(done, 1e-4, losses(0.1, 0.1, 2.5))
    assert lines == [] and folder.flags() == ()
    for done in range(BALANCE_STEPS, BALANCE_STEPS + 500, 100):
        events.on_step(done, 1e-4, losses(0.1, 0.1, 2.5))
    (line,) = lines
    assert line.startswith(f"step {BALANCE_STEPS}/10000: ") and "weigh 3.5 times as much as it, mostly contrast" in line
    assert "over 3 times" in line and "--set weights.contrast=" in line
    (flag,) = folder.flags()
    assert flag.startswith(f"step {BALANCE_STEPS}: ") and flag in (tmp_path / "run" / "log.txt").read_text()
    assert [row["step"] for row in read_metrics(tmp_path / "run") if row["kind"] == "flag"] == [BALANCE_STEPS]


def test_a_resumed_run_does_not_report_it_again_unless_the_flag_was_dropped(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    for forgotten, count in ((BALANCE_STEPS + 100, 0), (BALANCE_STEPS - 100, 1)):
        folder, lines = RunFolder(tmp_path / "run", resumed=True), []
        if not forgotten < BALANCE_STEPS:
            folder.flag(BALANCE_STEPS, "it was")
        folder.drop_metrics_after(forgotten)
        events = events_of(folder, lines, stage([], steps=10_000))
        for done in range(BALANCE_STEPS + 100, BALANCE_STEPS + 3000, 100):
            events.on_step(done, 1e-4, losses(0.1, 0.5))
        assert len(lines) == count


def test_what_is_not_reported() -> None:
    """Up to three times, a zero pixel loss, those of further students, few rows, and one heavy row among ten."""
    light, heavy = losses(0.1, 0.1).numbers(), losses(0.1, 0.4).numbers()
    widths = {"weighted/pixel": 0.1, "weighted/widths_pixel": 0.4, "weighted/teacher": 0.1}
    for rows in (
        *([numbers] * 30 for numbers in (losses(0.1, 0.29).numbers(), losses(0.0, 0.5).numbers(), widths)),
        [heavy] * (BALANCE_ROWS - 1),
        [light] * 5 + [heavy] + [light] * 9,
    ):
        balance = Balance()
        assert not any(balance.add(BALANCE_STEPS + step, row) for step, row in enumerate(rows))
    for step in range(BALANCE_ROWS):
        assert balance.add(step + 1, heavy) is None, "a new stage has 5,000 steps of its own"
    assert balance.add(BALANCE_STEPS, heavy)
