"""Exported files call their images `input` and `output`; files of before, with `lr` and `sr`, run as they did."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

import srkd
from compressor.inference.open import open_model
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from demo.catalogue import read_model
from export.convert.litert_file import pack_model
from export.convert.litert_file import read_model as read_litert
from export.formats.conversion import FileOptions
from export.formats.table import FORMATS
from export.writing.exporting import FileReport
from tests.support.exports import export_file

NOW, BEFORE = ("input", "output"), ("lr", "sr")
Names = tuple[str, str]


@pytest.fixture(scope="module")
def network() -> Network:
    return build(EDSRSpec(width=8, depth=1, scale=2), seed=0)


def names_in_onnx(path: Path) -> Names:
    graph = onnx.load_model(str(path)).graph
    return graph.input[0].name, graph.output[0].name


def rename_onnx(path: Path, new: Mapping[str, str]) -> None:
    """Rename what the graph takes and returns; values inside may be named after them, which is of no account."""
    model = onnx.load_model(str(path))
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = new[value.name]
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))


def names_in_openvino(path: Path) -> Names:
    import openvino

    model = openvino.Core().read_model(path)
    return model.inputs[0].any_name, model.outputs[0].any_name


def rename_openvino(path: Path, new: Mapping[str, str]) -> None:
    """Rename the tensors in the .xml, where ports name them."""
    text = re.sub(r'names="(\w+)"', lambda found: f'names="{new.get(found[1], found[1])}"', path.read_text())
    path.write_text(text)


def names_in_litert(path: Path) -> Names:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    return interpreter.get_input_details()[0]["name"], interpreter.get_output_details()[0]["name"]


def rename_litert(path: Path, new: Mapping[str, str]) -> None:
    model = read_litert(path.read_bytes())
    (graph,) = model.subgraphs
    for index in (graph.inputs[0], graph.outputs[0]):
        graph.tensors[index].name = new[graph.tensors[index].name.decode()]
    path.write_bytes(pack_model(model))


Tools = tuple[Callable[[Path], Names], Callable[[Path, Mapping[str, str]], None]]
ONNX: Tools = (names_in_onnx, rename_onnx)
TOOLS: dict[str, Tools] = {
    "onnx": ONNX,
    "fp16": ONNX,
    "bf16": ONNX,
    "int8-trt": ONNX,
    "openvino": (names_in_openvino, rename_openvino),
    "litert": (names_in_litert, rename_litert),
    "litert-int8": (names_in_litert, rename_litert),
}
PARAMETERS = [
    pytest.param(name, id=name, marks=[] if FORMATS[name].extra is None else [pytest.mark.extras]) for name in TOOLS
]


def a_file(
    name: str, network: Network, int8_file: Callable[[str], tuple[FileReport, list[str]]], folder: Path
) -> tuple[Path, Network | None]:
    """A file of a format in a folder of its own, with its network if it has the network's numbers."""
    if (missing := FORMATS[name].missing_requirement()) is not None:
        pytest.skip(missing)
    if FORMATS[name].precision != "int8":
        file = export_file(network, name, folder)
        assert file.path is not None, file.reason
        return file.path, network
    source = int8_file(name)[0].path
    assert source is not None
    copy = folder / source.name
    copy.write_bytes(source.read_bytes())
    if (weights := source.with_suffix(".bin")).exists():
        copy.with_suffix(".bin").write_bytes(weights.read_bytes())
    return copy, None


@pytest.mark.ci
@pytest.mark.parametrize("name", PARAMETERS)
def test_every_file_has_the_names_that_programs_expect_and_runs_under_those_of_before(
    name: str, network: Network, int8_file: Callable[[str], tuple[FileReport, list[str]]], tmp_path: Path
) -> None:
    path, source = a_file(name, network, int8_file, tmp_path)
    names, rename = TOOLS[name]
    assert names(path) == NOW
    picture = torch.rand(1, 3, 20, 24)
    before = open_model(path).run(picture)
    rename(path, dict(zip(NOW, BEFORE, strict=True)))
    assert names(path) == BEFORE
    after = open_model(path)
    assert torch.equal(after.run(picture), before)
    if source is not None:
        assert after.spec == source.spec, "it still says what it is"


@pytest.mark.parametrize("name", [pytest.param("coreml", marks=pytest.mark.extras)])
def test_the_names_in_a_package_of_core_ml(name: str, network: Network, tmp_path: Path) -> None:
    ct = pytest.importorskip("coremltools")
    file = export_file(network, name, tmp_path)
    description = ct.utils.load_spec(str(file.path)).description
    assert (description.input[0].name, description.output[0].name) == NOW


def test_a_file_of_before_in_the_verbs(network: Network, tmp_path: Path) -> None:
    """Enlarged, timed and shown in a browser under its own names."""
    now = export_file(network, "onnx", tmp_path).path
    assert now is not None
    old = tmp_path / "old.onnx"
    old.write_bytes(now.read_bytes())
    rename_onnx(old, dict(zip(NOW, BEFORE, strict=True)))
    picture = torch.rand(3, 30, 41)
    enlarged = srkd.upscale(old, picture)
    assert isinstance(enlarged, torch.Tensor) and torch.equal(enlarged, srkd.upscale(now, picture))
    report = srkd.profile(old, runtime=("onnxruntime",), lr_size="24x20", seconds=0.1, memory=False)
    assert report.rows[0].runtime == "onnxruntime"
    shown = read_model(old, "old", "student")
    assert (shown.input, shown.output) == BEFORE
    session = onnxruntime.InferenceSession(shown.content)
    (sr,) = session.run([shown.output], {shown.input: picture[None].numpy()})
    assert sr.shape == (1, 3, 60, 82)


def test_bytes_have_the_same_names(network: Network, tmp_path: Path) -> None:
    path = export_file(network, "onnx", tmp_path, FileOptions(io="uint8")).path
    assert path is not None and names_in_onnx(path) == NOW
