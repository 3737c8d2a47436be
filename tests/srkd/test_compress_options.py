"""The options of `srkd compress`: groups, defaults, rare ones by --set, and common alternative names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import srkd
from srkd.cli.main import run
from srkd.cli.verbs.compress import command
from srkd.options.command_line import from_command_line
from srkd.options.compress import CompressOptions
from srkd.options.option import declarations
from srkd.runs.recipe import load_recipe
from tests.support.run_files import read_json
from tests.support.small_runs import SMALL

GROUPS = ["Teacher", "Student", "Target", "Data", "Training", "Run", "Output"]
WITHOUT_DEFAULT = {"out", "settings", "dry_run", "resume", "spec"}
RARE = {"teacher_cache", "phi_weights", "select", "lr_border", "cache_size", "degrade_once", "limits", "trust_code"}
RARE |= {"baselines", "calm", "target_macs", "teacher_scale", "label_margin", "labels"}
RARE |= {"on", "track", "track_images", "val_lr"}
MOST_OPTIONS = 45
"""Options in the help, those of the output included: more than that nobody reads."""


def options_of(*words: str) -> CompressOptions:
    return from_command_line(CompressOptions, command.make_context("compress", list(words)).params)


def help_text() -> str:
    return CliRunner().invoke(command, ["--help"], prog_name="srkd compress").output


def test_the_help_has_groups_in_the_order_of_a_run() -> None:
    text = help_text()
    assert re.findall(r"^(\w+) options:$", text, re.MULTILINE) == GROUPS
    sections = dict(zip(GROUPS, re.split(r"^\w+ options:$", text, flags=re.MULTILINE)[1:], strict=True))
    for group, flags in {
        "Teacher": ["--teacher", "--arch-option"],
        "Student": ["--width", "--student", "--init-from"],
        "Data": ["--data", "--lr-images", "--lr-only"],
        "Training": ["--recipe", "--steps", "--batch", "--lr-patch", "--rate", "--set"],
        "Run": ["-o, --out", "--threads", "--resume", "--dry-run"],
        "Output": ["--json", "--csv", "-q, --quiet"],
    }.items():
        for flag in flags:
            assert f"  {flag} " in sections[group] or f"  {flag}\n" in sections[group], flag
    assert max(map(len, text.partition("Examples:")[0].splitlines())) <= 80
    assert len(re.findall(r"^  -", text.partition("Rare options")[0], re.MULTILINE)) <= MOST_OPTIONS


def test_every_option_shows_its_default() -> None:
    context = command.make_context("compress", [], resilient_parsing=True)
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and not getattr(parameter, "is_flag", False) and parameter.name not in WITHOUT_DEFAULT:
            assert "[default: " in record[1], record
    text = " ".join(help_text().split())
    assert (
        "--width X Fraction of the teacher's channels that the student keeps. [default: the recipe's; x>0, x<=1]"
        in text
    )
    assert "[default: the embedded photos]" in text


def test_rare_options_are_named_alone_and_are_flags_like_others() -> None:
    text = help_text()
    assert {row.name for row in declarations(CompressOptions) if row.option.rare} == RARE
    named = " ".join(text.partition("Rare options")[2].split())
    assert all(f"--{name.replace('_', '-')}" in named for name in RARE)
    assert not any(f"  --{name.replace('_', '-')} " in text.partition("Rare options")[0] for name in RARE)
    words = ["--cache-size", "5GB", "--lr-border", "clamp", "--phi-weights", "vgg.pth", "--select", "l1"]
    by_flag = options_of(*words, "--teacher-cache", "--limits", "2", "--set", "schedule.warmup=3")
    keywords = {"cache_size": 5 * 10**9, "lr_border": "clamp", "phi_weights": "vgg.pth", "select": "l1", "limits": 2}
    by_keyword = CompressOptions.of(**keywords, teacher_cache=True, settings=["schedule.warmup=3"])
    assert by_flag.to_json() == by_keyword.to_json()


def test_batch_patch_and_rate_have_options_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    options = options_of("--recipe", "logits", "--batch", "3", "--lr-patch", "12", "--rate", "2e-4")
    schedule = load_recipe(options).schedule
    assert (schedule.batch, schedule.lr_patch, schedule.rate) == (3, 12, 2e-4)
    # This recipe states its patches in HR pixels.
    schedule = load_recipe(CompressOptions.of(recipe="csd-paper", lr_patch=12)).schedule
    assert (schedule.lr_patch, schedule.hr_patch) == (12, None)
    for words, expected in (
        (["--batch", "3", "--set", "schedule.batch=4"], "--batch 3 and --set schedule.batch=... say the same twice"),
        (["--lr-patch", "8", "--set", "schedule.hr_patch=32"], "--lr-patch 8 and --set schedule.hr_patch=... say the"),
        (["--width", "0.5", "--set", "student.width=1"], "--width 0.5 and --set student.width=... say the same twice"),
        (["--student", "plain-s", "--set", "student.depth=1"], "--student plain-s and --set student.depth=..."),
        (["--init", "fit", "--set", "student.init=random"], "--init fit and --set student.init=... say the same twice"),
        (["--select", "l1", "--set", "student.select=leading"], "--select l1 and --set student.select=..."),
        (["--target-fps", "9", "--set", "student.width=1"], "--set student.width=1: the target decides the shape"),
        (["--seed", str(2**63)], f"seed {2**63} does not fit in 64 bits"),
        (["--degrade-once"], "degrade_once: there is no --degrade"),
        (["--batch", "0"], "--batch"),
        (["--rate", "0"], "--rate"),
    ):
        assert run(["compress", *words, "--dry-run"]) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.ci
def test_threads_are_those_of_the_run_alone(teacher: Path, photos: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    threads = before + 1
    words = ["--teacher", str(teacher), "--data", str(photos), "--steps", "1", "--threads", str(threads)]
    assert run(["compress", *words, "-o", str(tmp_path / "run"), *(f"--set={text}" for text in SMALL)]) == 0
    facts = read_json(tmp_path / "run")
    assert facts["machine"]["torch_threads"] == facts["options"]["threads"] == threads
    assert torch.get_num_threads() == before


@pytest.mark.ci
def test_baselines_have_the_batch_of_the_recipe(teacher: Path, photos: Path, tmp_path: Path) -> None:
    report = srkd.compress(
        teacher, data=photos, steps=2, batch=3, lr_patch=8, rate=3e-4, with_baseline=True, out=tmp_path / "plan"
    )
    assert report.trials is not None and len(report.trials.runs) > 1
    for trial in report.trials.runs:
        schedule = read_json(tmp_path / "plan" / trial.run)["preset"]["schedule"]
        assert (schedule["batch"], schedule["lr_patch"], schedule["rate"]) == (3, 8, 3e-4)
