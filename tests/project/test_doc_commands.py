"""The commands of the documentation: each is parsed by its program, and those that can run here are run.

They run in order, in a folder with the files that a reader of the page would have, on tiny networks and photos.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import io
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import click
import pytest
import torch
from PIL import Image

import srkd
from benchmarks.__main__ import VERBS
from compressor.models.networks.base import Spec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.networks.rrdbnet import RRDBNetSpec
from compressor.models.networks.swinir import SwinIRSpec
from srkd.cli.main import cli, run
from srkd.cli.verb import VerbCommand
from srkd.options.command_line import from_command_line
from tests.support.commands import ROOT
from tests.support.films import make_film, picture
from tests.support.pages import COMMAND, FENCE, INDENTED
from tests.support.small_runs import save_photos

pytestmark = pytest.mark.ci

PAGES = sorted([ROOT / "CONTRIBUTING.md", ROOT / "demo" / "README.md", *ROOT.glob("docs/**/*.md")])
"""Pages with commands; test_readme.py runs those of the README and of reference.md."""
ELSEWHERE = {
    r"(--|--for )(trt|coreml|ncnn|litert|openvino|upscayl|all)\b": "needs an optional library: tests/export",
    r"\.(param|tflite|pte|engine)\b|openvino|ncnn": "needs an optional library: tests/runtimes",
    r"^srkd demo": "serves until it is stopped: tests/demo",
    r"--resume": "needs a run that was interrupted: tests/training/test_resume.py",
    r"--spec": "goes alone, and these commands get fewer steps: tests/srkd/test_trials.py",
    r"runs/film --for mpv": "needs a shader player: tests/hosts/test_strangers.py",
    r"hf://|--push": "needs the Hugging Face hub: tests/hosts/test_huggingface.py",
    r"--device cuda": "needs a GPU",
    r"--on ray": "needs Ray: tests/srkd/test_on_ray.py",
    r"charbonnier|plain\.pt": "needs an installed package: tests/recipes/test_recipe_packages.py and its like",
    r"--runtime all": "takes a minute: tests/export/test_profile.py",
    r"--measured": "needs the times of another device: tests/srkd/test_plan.py",
    r"^srkd doctor": "tests/srkd/test_doctor.py",
    r"--target.*int8": "writes many int8 files: tests/export/test_plan_measure.py",
    r"int8": "tests/export/test_export_int8.py",
    r"runs/looks .*--strength": "needs a run of enough steps: tests/srkd/test_perceptual_runs.py",
}
"""Patterns of commands that are parsed but not run here, with the reason."""

SHORTER = {
    "compress": ["--steps", "2", "--seeds", "1", "--batch", "2", "--lr-patch", "8"],
    "plan": ["--seconds", "0.02", "--lr-size", "12x10", "--target-fps", "0.5", "--target-ms", "2000", "--no-quality"],
    "profile": ["--seconds", "0.1", "--lr-size", "12x10", "--no-memory"],
}
"""Options that shorten commands; the last of a repeated option counts, of lists this one alone."""
THROUGH_PHI = ("clsd", "csd", "csd-lite", "dckd")
NETWORKS: dict[str, tuple[str, Spec]] = {
    "edsr.pt": ("edsr-pytorch", EDSRSpec(scale=4, width=8, depth=2)),
    "rcan.pt": ("rcan", RCANSpec(scale=4, width=8, groups=2, depth=2, hidden=2)),
    "swinir.pt": ("swinir", SwinIRSpec(scale=4, width=12, depths=(2,), heads=(2,), features=8)),
    "carn_m.pth": ("carn", CARNMSpec(scale=4, width=16)),
    "realesr-general-x4v3.pth": ("srvgg", CompactSpec(scale=4, width=8, depth=1)),
    "esrgan.pth": ("esrgan-old", RRDBNetSpec(scale=4, width=8, depth=1, growth=4)),
}


@dataclass(frozen=True)
class Line:
    """A command, without its comment."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Line:
        """Parse a line of a page; a comment follows two spaces or a #, and > redirects to a file."""
        return cls(tuple(shlex.split(re.split(r"\s{2,}|\s[#>]", text.strip())[0])))

    @property
    def program(self) -> str:
        return self.words[0]

    def __str__(self) -> str:
        return shlex.join(self.words)


def lines(page: Path) -> Iterator[Line]:
    """Yield the commands in the code blocks of a page, without outputs (`text`) and the usages of the reference.

    `...` at the end of a command stands for more arguments of the last option.
    """
    text = page.read_text(encoding="utf-8")
    blocks = [body for language, body in FENCE.findall(text) if language in ("", "sh")]
    blocks += INDENTED.findall(FENCE.sub("", text))
    for line in re.sub(r"\s*\\\n\s*", " ", "\n".join(blocks)).splitlines():
        if COMMAND.match(line.strip()) and "[OPTIONS]" not in line:
            command = Line.of(line.removesuffix(" ..."))
            if len(command.words) > 1:
                yield command


def with_commands(*programs: str) -> list[Path]:
    return [page for page in PAGES if any(line.program in programs for line in lines(page))]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_most_pages_have_commands() -> None:
    assert len(with_commands("srkd")) > 25 and sum(len(list(lines(page))) for page in PAGES) > 120


def test_no_command_has_a_gap() -> None:
    assert [str(line) for page in PAGES for line in lines(page) if any("..." in word for word in line.words)] == []


def test_commands_in_running_text_have_options_that_exist() -> None:
    """They are parts of commands, so only the names of their options can be checked."""
    pages = (page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *PAGES))
    texts = "\n".join(INDENTED.sub("\n", FENCE.sub("", page)) for page in pages)
    for span in re.findall(r"`((?:srkd|python -m benchmarks) [^`]+)`", texts):
        words = span.replace("\\|", "|").split()
        flags = {word.split("=")[0].strip("[]") for word in words if word.strip("[").startswith("--")}
        known = flags_of(words[3]) if words[0] == "python" and words[3] not in VERBS else options_of(words)
        assert flags - INVENTED <= known, span


INVENTED = {"--toy"}
"""Options of the example packages."""


def options_of(words: list[str]) -> set[str]:
    """Return the options of the verb that a command of srkd begins with, and those of srkd itself."""
    command: click.Command = cli
    known = {"--help"}
    with click.Context(cli, info_name="srkd") as context:
        for name in words[1:]:
            known |= {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
            step = command.get_command(context, name) if isinstance(command, click.Group) else None
            if step is None:
                break
            command = step
        known |= {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    return known


def test_the_command_line_reads_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("srkd.options.values.pull", lambda address: tmp_path)  # else a word of hf:// asks the hub
    for line in (line for page in PAGES for line in lines(page)):
        words = list(line.words)
        if "srkd" in words and line.program in ("srkd", "torchrun"):
            read(words[words.index("srkd") + 1 :])


def read(words: list[str]) -> None:
    """Parse a command line and build its options, as before a run; click reports mistakes."""
    command: click.Command = cli
    with click.Context(cli, info_name="srkd") as context:
        while isinstance(command, click.Group):
            name = words.pop(0)
            step = command.get_command(context, name)
            assert step is not None, f"{name} is no verb"
            command = step
        if isinstance(command, VerbCommand):
            with command.make_context(command.name, words, parent=context) as own:
                if command.options is not None:
                    from_command_line(command.options, dict(own.params))


def test_benchmarks_and_targets_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in (line for page in PAGES for line in lines(page)):
        if line.program == "make":
            targets = [word for word in line.words[1:] if "=" not in word]
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), str(line)
        if line.program == "python":
            name, options = line.words[2].removeprefix("benchmarks."), line.words[3:]
            name = options[0] if name == "benchmarks" else name
            if name not in VERBS:
                assert {word for word in options if word.startswith("--")} <= flags_of(name), str(line)


@functools.cache
def flags_of(name: str) -> set[str]:
    """Return the options in a benchmark's own --help."""
    main, words = importlib.import_module(f"benchmarks.{name}").main, [name, "--help"]
    with redirect_stdout(io.StringIO()) as text, mock.patch.object(sys, "argv", words), pytest.raises(SystemExit):
        main()
    return set(re.findall(r"--[\w-]+", text.getvalue()))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create the files that the pages name: teachers, photos, benchmark sets, a student, a finished run."""
    folder = tmp_path_factory.mktemp("files")
    for name, (code_base, spec) in NETWORKS.items():
        srkd.convert(build(spec, seed=1), to=code_base, out=folder / name)
    shutil.copy(folder / "edsr.pt", folder / "teacher.pt")
    student = build(EDSRSpec(scale=4, width=8, depth=1), seed=2)
    for name in ("student", "half"):
        srkd.save(student, folder / f"{name}.safetensors")
    for name in ("photos", "other-photos", "BSDS400", "CLIC2025-valid", "DIV2K_train_HR", "sets/Set5/HR"):
        save_photos(folder / name, times=2)
    shutil.copy(ROOT / "tests" / "example_recipes" / "mine.py", folder)
    (folder / "frames").mkdir()
    for photo in (folder / "photos").glob("*.png"):
        image = Image.open(photo)
        image.resize((image.width // 4, image.height // 4)).save(folder / "frames" / photo.name)
    if importlib.util.find_spec("av") is not None:
        make_film(folder / "film.mp4", [picture(number) for number in range(12)], codec="h264", sound_seconds=0.5)
    for suffix in ("jpg", "png"):
        Image.open(folder / "frames" / "0.png").save(folder / f"photo.{suffix}")
    assert run(["export", str(folder / "student.safetensors"), "--onnx", "-q"]) == 0
    shutil.copy(folder / "student.onnx", folder / "other.onnx")
    words = ["compress", "--teacher", str(folder / "edsr.pt"), "--data", str(folder / "photos"), *SHORTER["compress"]]
    assert run([*words, "--out", str(folder / "run"), "-q"]) == 0
    return folder


@pytest.mark.parametrize("page", [page for page in with_commands("srkd") if page.name != "reference.md"], ids=named)
def test_every_command_runs_that_can_run_here(
    page: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    desk = tmp_path / "desk"
    shutil.copytree(files, desk)
    monkeypatch.chdir(desk)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    commands = [line for line in lines(page) if line.program == "srkd" and reason_not_to_run(line) is None]
    prepare(desk, page, commands)
    for line in commands:
        assert run(shortened(line)) == 0, f"{line}\n{capfd.readouterr().err}"
        torch.manual_seed(0)


def reason_not_to_run(line: Line) -> str | None:
    if "film.mp4" in line.words and importlib.util.find_spec("av") is None:
        return "needs srkd[video]: tests/inference/test_films.py"
    return next((why for pattern, why in ELSEWHERE.items() if re.search(pattern, str(line))), None)


def shortened(line: Line) -> list[str]:
    verb, words = line.words[1], list(line.words[1:])
    if "--lr-size" in words and verb == "profile":
        del words[(at := words.index("--lr-size")) : at + 2]
    words += SHORTER.get(verb, [])
    if verb == "compress":
        words += ["--set", "phi=teacher"] if set(THROUGH_PHI) & set(words) else []
        # The embedded teacher takes half a minute to fit; test_packaging.py trains with it.
        words += [] if {"--teacher", "--student"} & set(words) else ["--teacher", "edsr.pt"]
    if verb == "plan" and "--emit" not in words:
        words += ["--runtime", "torch"]
    return words


def prepare(desk: Path, page: Path, commands: list[Line]) -> None:
    """Prepare a page's folder with the runs that commands read and no earlier command writes."""
    if page.name == "data.md":
        (desk / "photos" / "HR").mkdir()
        for photo in (desk / "photos").glob("*.png"):
            photo.rename(desk / "photos" / "HR" / photo.name)
        shutil.copytree(desk / "frames", desk / "photos" / "LR")
    if page.name == "int8.md":
        # The real file has three scales, of which the page takes x2.
        srkd.convert(build(CARNMSpec(scale=2, width=16), seed=1), to="carn", out=desk / "x2.pth")
        (desk / "x2.pth").replace(desk / "carn_m.pth")
    if page.name == "recipes.md":
        (desk / "my.yaml").unlink(missing_ok=True)
    written: set[str] = set()
    for line in commands:
        words = list(line.words)
        out = words[words.index("--out") + 1] if "--out" in words and line.words[1] == "compress" else None
        for word in words:
            name = "/".join(word.split("/")[:2])
            if name.startswith("runs/") and word != out and name not in written and not (desk / name).exists():
                shutil.copytree(desk / "run", desk / name)
        written |= {out} if out is not None else set()


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_program() -> None:
    """`…` stands for values."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    sources = [path for name in ("compressor", "recipes", "export", "srkd") for path in (ROOT / name).rglob("*.py")]
    code = "\n".join(strings_of(path.read_text(encoding="utf-8")) for path in sources)
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(messages) > 30
    for message in messages:
        assert message in code, message


def strings_of(source: str) -> str:
    """Return all strings of a file, one per line, with … for inserted values."""
    texts = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))  # type: ignore[misc]
    return "\n".join(texts)
