"""OpenVINO in eight bits: what is in integers; test_formats_int8.py has what holds for all int8 formats."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from compressor.models.networks.base import Network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from export.writing.exporting import FileReport
from tests.support.exports import export_file
from tests.support.extras import extra

openvino = extra("openvino")
extra("nncf")
to_openvino_int8 = pytest.importorskip("export.int8.to_openvino_int8")
pytestmark = pytest.mark.extras

EDSR = EDSRSpec(width=8, depth=1, scale=4)


def test_weights_are_bytes(int8_file: Callable[[str], tuple[FileReport, list[str]]], small_edsr: Network) -> None:
    model = openvino.Core().read_model(int8_file("openvino-int8")[0].path)
    stored: Counter[str] = Counter()
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            stored[node.get_element_type().get_type_name()] += int(node.data.size)
    weights = sum(weight.numel() for name, weight in small_edsr.named_parameters() if weight.ndim == 4)
    assert stored["i8"] == weights, "every weight of a convolution"


def test_what_can_stay_in_float(tmp_path: Path) -> None:
    """The layers and sums of our networks are found in the graph; biases are no sums."""
    for spec, upsampler, sums in (
        (EDSR, {"upsampler.convs.0", "upsampler.convs.1"}, 2),
        (CompactSpec(width=8, depth=2, scale=4), set(), 1),
    ):
        network = build(spec, seed=0)
        file = export_file(network, "openvino", tmp_path / spec.arch)
        graph = openvino.Core().read_model(file.path)
        layers = to_openvino_int8._layers(graph)
        assert len(layers.names) == sum(weight.ndim == 4 for weight in network.parameters())
        assert {name.partition("/")[0] for name in layers.upsampler} == upsampler
        assert len(list(to_openvino_int8._sums(graph))) == sums


def test_nncf_reports_to_nobody() -> None:
    program = "from nncf.telemetry.wrapper import telemetry; print(type(telemetry).__name__)"
    environment = {**os.environ, **to_openvino_int8.WITHOUT_REPORTS}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "MagicMock"
