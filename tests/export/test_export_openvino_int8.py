"""OpenVINO in eight bits: close to the network at any size, computed in integers, refused if it loses too much."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from compressor.base.errors import UsageError
from compressor.inference.open import open_model
from compressor.models.networks.base import Network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.runtimes.table import OpenOptions
from export.formats.conversion import FileOptions, Int8Options
from export.int8 import search
from export.writing.exporting import FileReport, Source, export_model

openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")
to_openvino_int8 = pytest.importorskip("export.int8.to_openvino_int8")
pytestmark = [pytest.mark.extras, pytest.mark.usefixtures("quick_int8")]

SOURCE = Source("small", "ab" * 32, {"srkd.recipe": "logits"})
EDSR = EDSRSpec(width=8, depth=1, scale=4)


def exported(network: Network, folder: Path, options: FileOptions | None = None) -> FileReport:
    (file,) = export_model(network, SOURCE, ["openvino-int8"], folder, options=options).files
    return file


@pytest.fixture(scope="module")
def network() -> Network:
    return build(EDSR, seed=0)


@pytest.fixture(scope="module")
def good(quick_int8: None, network: Network, tmp_path_factory: pytest.TempPathFactory) -> FileReport:
    file = exported(network, tmp_path_factory.mktemp("good"))
    assert file.verdict == "passed" and file.path is not None, file.reason
    return file


def test_it_is_near_the_network_and_timed_against_float(good: FileReport) -> None:
    assert good.path is not None and good.quality is not None and good.speed is not None
    assert {part.name for part in good.path.parent.iterdir()} == {"small.int8.openvino.xml", "small.int8.openvino.bin"}
    assert good.quality.drop <= 0.1 and good.quality.psnr_to_source is not None and good.quality.psnr_to_source > 40
    assert good.speed.runtime == "openvino" and good.speed.ms > 0


def test_the_file_says_what_it_is(good: FileReport, network: Network) -> None:
    assert good.path is not None and good.quality is not None
    runtime = open_model(good.path)
    assert (runtime.name, runtime.precision, runtime.spec) == ("openvino", "int8", network.spec)
    assert runtime.descriptor == network.descriptor
    quant = json.loads(runtime.metadata["srkd.quant"])
    assert (quant["flavour"], quant["bits"], quant["in_float"]) == ("openvino", 8, "nothing")
    assert quant["calibration"] == "8 patches of embedded photos, flat colours"
    assert quant["drop_db"] == pytest.approx(good.quality.drop, abs=1e-3)
    assert open_model(good.path, OpenOptions(precision="int8")).precision == "int8"
    with pytest.raises(UsageError, match="in int8, not bf16"):
        open_model(good.path, OpenOptions(precision="bf16"))


def test_weights_are_bytes(good: FileReport, network: Network) -> None:
    model = openvino.Core().read_model(good.path)
    stored: Counter[str] = Counter()
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            stored[node.get_element_type().get_type_name()] += int(node.data.size)
    weights = sum(weight.numel() for name, weight in network.named_parameters() if weight.ndim == 4)
    assert stored["i8"] == weights, "every weight of a convolution"


@pytest.mark.parametrize("spec", [SwinIRSpec(width=8, depths=(2,), heads=(2,), window=4, scale=2, features=8)])
@pytest.mark.slow
def test_windows_in_bytes_at_one_size(spec: SwinIRSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network = build(spec, seed=3)
    file = exported(network, tmp_path, FileOptions(lr_size=(24, 16), io="uint8"))
    assert file.verdict == "passed" and file.path is not None, file.reason
    assert file.path.name == "small-24x16-uint8.int8.openvino.xml"
    runtime = open_model(file.path)
    assert runtime.precision == "int8" and runtime.descriptor.fixed_size == (24, 16)
    lr = torch.rand(1, 3, 16, 24).mul(255).round().div(255)
    with torch.no_grad():
        expected = network(lr).clamp(0, 1)
    assert float((runtime.run(lr) - expected).square().mean()) < 1e-3
    with pytest.raises(UsageError, match="24x16 only, got 9x8"):
        runtime.run(torch.rand(1, 3, 8, 9))
    assert capfd.readouterr() == ("", "")


def test_too_much_loss_is_refused_with_its_figures(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "ends_of", lambda layers: iter(()))
    file = exported(network, tmp_path, FileOptions(int8=Int8Options(max_drop=-1.0)))  # no file gains a dB
    assert file.verdict == "unavailable" and file.reason is not None
    assert file.reason.startswith("in int8 (NNCF) it loses ") and "dB of Y-PSNR on 2 photos" in file.reason
    assert list(tmp_path.iterdir()) == []


def test_what_can_stay_in_float(tmp_path: Path) -> None:
    """The layers and sums of our networks are found in the graph; biases are no sums."""
    for spec, upsampler, sums in (
        (EDSR, {"upsampler.convs.0", "upsampler.convs.1"}, 2),
        (CompactSpec(width=8, depth=2, scale=4), set(), 1),
    ):
        network = build(spec, seed=0)
        (file,) = export_model(network, SOURCE, ["openvino"], tmp_path / spec.arch).files
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
