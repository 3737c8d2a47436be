"""The Python of the documentation: every block runs here as it stands, on tiny networks.

Other tests run the README's and that of the example packages; the reference has only signatures.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import srkd
from compressor.models.networks.base import Descriptor
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.runtimes.tensorrt.engine_file import EngineHeader, Machine, write_engine
from compressor.runtimes.tensorrt.profiles import dynamic_profile
from srkd.cli.main import run
from tests.support.commands import ROOT
from tests.support.pages import COMMAND, FENCE, INDENTED

pytestmark = pytest.mark.ci

ELSEWHERE = {"write-a-method.md", "add-a-network.md", "add-a-format.md", "reference.md"}
"""Pages of the example packages (test_docs.py), and the reference (test_reference.py)."""
PAGES = {
    str(page.relative_to(ROOT / "docs")): page.read_text(encoding="utf-8")
    for page in sorted(ROOT.glob("docs/**/*.md"))
    if page.name not in ELSEWHERE
}
BEGINS = re.compile(r"^(?:import|from \w[\w.]* import) ", re.MULTILINE)


def programs(text: str) -> list[str]:
    """Return the Python of a page: fenced blocks, and what follows the first import of an indented block."""
    found = [body for language, body in FENCE.findall(text) if language == "python"]
    for block in INDENTED.findall(FENCE.sub("", text)):
        lines = textwrap.dedent(block)
        if begins := BEGINS.search(lines):
            rest = lines[begins.start() :].splitlines()
            ends = next((index for index, line in enumerate(rest) if COMMAND.match(line)), len(rest))
            found.append("\n".join(rest[:ends]))
    return found


def program_of(page: str) -> str:
    (program,) = programs(PAGES[page])
    return program


def test_every_program_is_run_by_a_test() -> None:
    """By one below, and that of formats/hosts.md by tests/hosts/test_huggingface.py."""
    assert {page for page, text in PAGES.items() if programs(text)} == {
        *("formats/hosts.md", "formats/onnx.md", "formats/openvino.md", "formats/tensorrt.md", "methods/csd.md"),
        "use/evaluate.md",
    }


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that the programs run in, with a student and a photo of 12×10 pixels."""
    monkeypatch.chdir(tmp_path)
    srkd.save(build(EDSRSpec(scale=4, width=8, depth=1), seed=2), "student.safetensors")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)).save("photo.jpg")
    return tmp_path


def test_a_program_with_bytes_in_onnx_runtime(desk: Path) -> None:
    assert run(["export", "student.safetensors", "--io", "uint8", "-q"]) == 0
    exec(program_of("formats/onnx.md"), {})
    with Image.open("photo-x4.png") as picture, Image.open("photo.jpg") as photo:
        assert picture.size == (48, 40)
        ours = srkd.upscale("student.safetensors", photo)
        assert isinstance(ours, Image.Image)
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(ours)).max() <= 1


def test_a_program_in_openvino(desk: Path) -> None:
    pytest.importorskip("openvino")
    assert run(["export", "student.safetensors", "--openvino", "-q"]) == 0
    names: dict[str, np.ndarray] = {"lr": np.full((1, 3, 10, 12), 0.5, dtype=np.float32)}
    exec(program_of("formats/openvino.md"), names)
    assert names["sr"].shape == (1, 3, 40, 48) and 0 <= names["sr"].min() <= names["sr"].max() <= 1


def test_scores_to_the_original_and_to_the_teacher(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("runs/small/student.safetensors", "edsr.pt"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        srkd.save(build(EDSRSpec(scale=4, width=8, depth=1), seed=3), Path(path).with_suffix(".safetensors"))
    Path("edsr.safetensors").rename("edsr.pt")
    Path("photos").mkdir()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save("photos/a.png")
    exec(program_of("use/evaluate.md"))
    assert capsys.readouterr().out.split()[1:] == ["inf", "1.0"], "the student is the teacher"


def test_a_narrower_student_cut_from_a_teacher_of_csd(desk: Path) -> None:
    Path("runs/csd").mkdir(parents=True)
    srkd.save(build(EDSRSpec(scale=4, width=8, depth=1), seed=3), "runs/csd/teacher_joint.safetensors")
    exec(program_of("methods/csd.md"), {})
    half = srkd.load("half.safetensors").network
    assert half is not None and half.spec == EDSRSpec(scale=4, width=4, depth=1)


def test_a_program_in_tensorrt_gives_the_plan_to_its_runtime(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT itself is a stand-in; it cannot be installed here."""
    machine = Machine("11.4.0.106", "NVIDIA H200", "9.0", "13.0 (580.65.06)")
    header = EngineHeader(machine, "fp16", dynamic_profile(Descriptor(4)))
    path = Path("student.engine")
    write_engine(path, header, b"plan of TensorRT")
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: plan)
    double = SimpleNamespace(Logger=object, Runtime=lambda logger: runtime)
    monkeypatch.setitem(sys.modules, "tensorrt", double)
    names: dict[str, object] = {"path": path}
    exec(program_of("formats/tensorrt.md"), names)
    assert names["engine"] == b"plan of TensorRT"


def calls() -> list[str]:
    texts = [*PAGES.values(), (ROOT / "README.md").read_text(encoding="utf-8")]
    return sorted({call for text in texts for call in re.findall(r"`(srkd\.\w+\([^`]*\))[^`]*`", text)})


@pytest.mark.parametrize("call", calls())
def test_calls_in_running_text_have_arguments_that_exist(call: str) -> None:
    expression = ast.parse(call, mode="eval").body
    assert isinstance(expression, ast.Call) and isinstance(expression.func, ast.Attribute)
    signature = inspect.signature(getattr(srkd, expression.func.attr))
    signature.bind(*expression.args, **{str(keyword.arg): keyword.value for keyword in expression.keywords})
