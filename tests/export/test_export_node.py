"""The first differing node of a wrong file is named, and if it is unknown the verdict is the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest

import export.graph.divergence
from compressor.base.errors import SrkdError
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from export.convert import to_onnx
from export.formats.conversion import Conversion
from export.graph import onnx_graph
from export.graph.recent import Recent
from export.writing.exporting import FileReport
from tests.support.exports import export_file
from tests.support.onnx_files import scaled


@pytest.fixture
def louder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the converter write files whose last convolution is a fifth too strong."""
    plain = to_onnx.convert

    def convert(job: Conversion) -> Mapping[str, object]:
        facts = plain(job)
        model = onnx.load_model(str(job.path))
        scaled("tail.weight", 1.2)(model)
        onnx.save_model(model, str(job.path))
        return facts

    monkeypatch.setattr(to_onnx, "convert", convert)


def exported(spec: EDSRSpec | SwinIRSpec, folder: Path) -> FileReport:
    file = export_file(build(spec, seed=0), "onnx", folder)
    assert file.verdict == "failed" and file.parity is not None and list(folder.iterdir()) == []
    return file


@pytest.mark.ci
def test_the_node_is_found_in_windows_too(louder: None, tmp_path: Path) -> None:
    """With free sizes SwinIR's graph computes indices, which ONNX Runtime would optimise away."""
    file = exported(SwinIRSpec(width=8, depths=(2,), heads=(2,), window=4, scale=2, features=8), tmp_path)
    assert re.search(r"tail/conv2d_\d+ \(Conv\)", str(file.reason))


def test_where_it_begins_may_be_unknown_and_the_proof_still_counts(
    louder: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise SrkdError("larger than 2 GB")

    monkeypatch.setattr(export.graph.divergence, "first_divergence", fails)
    file = exported(EDSRSpec(width=8, depth=1, scale=2), tmp_path)
    assert re.search("where it begins is not known: larger than 2 GB", str(file.reason))


@pytest.mark.ci
@pytest.mark.parametrize("format", ["onnx", "fp16"])
def test_a_simplifier_that_damages_the_graph(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It claims that its graph is equal, but the last convolution is a fifth too strong."""
    import onnxsim

    simplify = onnxsim.simplify

    def damaged(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        simpler, equal = simplify(model)
        scaled("tail.weight", 1.2)(simpler)
        return simpler, equal

    monkeypatch.setattr(onnxsim, "simplify", damaged)
    monkeypatch.setattr(onnx_graph, "_graphs", Recent(lambda _: 0))
    network = build(EDSRSpec(width=8, depth=1, scale=2), seed=0)
    file = export_file(network, format, tmp_path)
    assert file.verdict == "failed" and list(tmp_path.iterdir()) == []
    assert "tail/conv2d" in str(file.reason), file.reason
