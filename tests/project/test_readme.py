"""The commands and the Python of the README and of the reference run, in order, in one folder with a reader's files."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import srkd
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from recipes.catalogue import METHODS
from srkd.cli.main import VERBS
from srkd.cli.main import run as run_verb
from tests.support.commands import ROOT, python
from tests.support.demo_app import write_app
from tests.support.small_runs import save_photos

pytestmark = pytest.mark.ci

README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")

SHORTER = {
    "compress": ["--steps", "2", "--set", "schedule.batch=1", "--set", "schedule.lr_patch=8"],
    "demo": ["--app", "app", "--build", "site"],
    "plan": ["--seconds", "0.02", "--lr-size", "12x10", "--target-fps", "0.5", "--runtime", "torch", "--no-quality"],
    "profile": ["--seconds", "0.1", "--lr-size", "12x10", "--no-memory"],
}
"""Options that a test adds to a command so that it ends soon; click takes the last of a repeated option."""

SHORTER_PYTHON = {"steps=1000": "steps=2", 'lr_size="64x64"': 'lr_size="12x10", seconds=0.1, memory=False'}
"""Replacements that shorten the lines of Python."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    lines = [line.partition(" #")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Create a reader's folder: edsr.pt with the names of EDSR-PyTorch, photos/, and `srkd` on the path."""
    folder = tmp_path_factory.mktemp("desk")
    save_photos(folder / "photos", times=2)
    write_app(folder / "app")
    srkd.convert(build(EDSRSpec(scale=2, width=8, depth=2), seed=3), to="edsr-pytorch", out=folder / "edsr.pt")
    (folder / "bin").mkdir()
    program = folder / "bin" / "srkd"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m srkd "$@"\n')
    program.chmod(0o755)
    yield folder


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def shortened(line: str) -> str:
    words = shlex.split(line)
    return shlex.join([*words, *SHORTER.get(words[1], [])])


def test_the_readme_is_one_screen() -> None:
    assert len(README.splitlines()) <= 60


def test_the_recipes_of_the_readme_exist() -> None:
    named = re.findall(r"\[`([\w-]+)`\]\(docs/(?:methods/)?([\w-]+)\.md\)", README)
    assert len(named) > 10 and {recipe for recipe, _ in named} <= {"fit", *METHODS}
    assert all(recipe == page for recipe, page in named)


def test_the_reference_begins_with_every_verb() -> None:
    assert commands(REFERENCE)[:3] == [line for line in commands(README) if line.startswith("srkd ")]
    assert {words[1] for line in commands(REFERENCE) if (words := line.split())[0] == "srkd"} == set(VERBS)


def test_every_file_named_exists() -> None:
    names = re.findall(r"`([\w./-]+\.(?:md|txt|py|toml))`", README + (ROOT / "CONTRIBUTING.md").read_text())
    pages = ("README.md", "CONTRIBUTING.md")
    links = re.findall(r"\[`[\w.]+`\]\([^)]+\)", "".join((ROOT / page).read_text() for page in pages))  # test_docs.py
    linked = {link.split("`")[1] for link in links}
    is_example = re.compile(r"(^|/|_)(tiny|echo)[\w-]*\.").search  # a network, a method and a format that do not exist
    assert [n for n in names if not (ROOT / n).exists() and n not in linked and not is_example(n)] == []


def test_every_srkd_command_runs(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """They run in this process, which has imported torch; completion and lines of Python have other tests."""
    monkeypatch.chdir(desk)
    lines = [line for line in commands(REFERENCE) if line.startswith("srkd ")]
    assert len(lines) >= len(VERBS)
    for line in lines:
        assert run_verb(shlex.split(shortened(line))[1:]) == 0, f"{line}\n{capfd.readouterr().err}"
    for file in ("runs/edsr/student.safetensors", "runs/edsr/student.onnx", "large.png"):
        assert (desk / file).is_file()


def test_the_completion_line_runs(desk: Path) -> None:
    (line,) = (line for line in commands(REFERENCE) if line.startswith("eval "))
    done = run(f"{line} && complete -p srkd", desk)
    assert done.returncode == 0 and "srkd" in done.stdout, done.stderr


def test_the_ten_python_lines_run(desk: Path) -> None:
    """They run with fewer steps and a profile of small images, otherwise unchanged."""
    (program,) = blocks(REFERENCE, "python")
    assert len([line for line in program.splitlines() if line]) == 10
    for full, short in SHORTER_PYTHON.items():
        assert program.count(full) == 1
        program = program.replace(full, short)
    done = python("-c", program, cwd=desk)
    assert done.code == 0, done.err
    for text in ("Cost(params=", "\nedsr, photos ", "\nsmall, photos ", "small-teacher torch ", "small onnxruntime "):
        assert text in done.out
    assert max(map(len, done.out.splitlines())) < 200
    with Image.open(desk / "enlarged.png") as enlarged, Image.open(desk / "photos" / "0.png") as photo:
        assert enlarged.size == (2 * photo.width, 2 * photo.height)
    assert (desk / "runs" / "small" / "student.onnx").is_file()


def test_the_make_commands_are_targets_and_quickstart_is_srkd_commands(desk: Path) -> None:
    targets = [line.split()[1] for line in commands(README) if line.startswith("make ")]
    assert targets == ["env", "quickstart", "test"]
    steps = quickstart_lines(*targets)
    assert [shlex.split(step)[1] for step in steps] == ["compress", "compress", "export", "profile", "report"]


@pytest.mark.slow
def test_quickstart_runs_on_the_embedded_teacher_and_photos(desk: Path) -> None:
    shutil.rmtree(desk / "runs" / "quickstart", ignore_errors=True)
    printed = ""
    for step in quickstart_lines("quickstart"):
        done = run(shortened(step), desk)
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
        printed += done.stdout
    for word in ("params", "GMAC", "FPS", "PSNR-Y", "teacher", "quickstart"):
        assert word in printed
    assert "runs/quickstart/report.html" in printed.strip().splitlines()[-1]


def quickstart_lines(*targets: str) -> list[str]:
    """Return the srkd commands of a dry run of make, without the environment's folder."""
    command = ["make", "-n", f"PYTHON={sys.executable}", *targets]
    dry_run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = re.findall(r"^\S*/bin/(srkd .*)$", dry_run.stdout, flags=re.MULTILINE)
    assert lines
    return lines
