"""Every int8 format of another library: close to the network at any size, told with its figures, refused if it loses
too much."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from compressor.base.errors import UsageError
from compressor.inference.open import open_model
from compressor.models.networks.base import Network
from compressor.models.networks.registry import build
from compressor.runtimes.table import OpenOptions
from export.formats.conversion import FileOptions, Int8Options
from export.formats.table import FORMATS
from export.int8 import search
from export.writing.exporting import FileReport
from tests.support.exports import export_file
from tests.support.formats_table import WINDOWS

pytestmark = [pytest.mark.extras, pytest.mark.usefixtures("quick_int8")]


@dataclass(frozen=True)
class Int8Case:
    name: str
    runtime: str
    flavour: str
    files: tuple[str, ...]
    tool: str


CASES = (
    Int8Case("openvino-int8", "openvino", "openvino", ("small.int8.openvino.bin", "small.int8.openvino.xml"), "NNCF"),
    Int8Case("litert-int8", "litert", "litert", ("small.int8.tflite",), "ai-edge-quantizer"),
)


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Int8Case:
    value: Int8Case = request.param
    missing = FORMATS[value.name].missing_requirement()
    if missing is not None:
        pytest.skip(missing)
    return value


@pytest.fixture
def good(case: Int8Case, int8_file: Callable[[str], tuple[FileReport, list[str]]]) -> FileReport:
    return int8_file(case.name)[0]


def test_it_is_near_the_network_and_timed_against_float(case: Int8Case, good: FileReport) -> None:
    assert good.path is not None and good.quality is not None and good.speed is not None
    assert tuple(sorted(part.name for part in good.path.parent.iterdir())) == case.files
    assert good.quality.drop <= 0.1 and good.quality.psnr_to_source is not None and good.quality.psnr_to_source > 40
    assert good.speed.runtime == case.runtime and good.speed.ms > 0


def test_the_file_says_what_it_is(case: Int8Case, good: FileReport, small_edsr: Network) -> None:
    assert good.path is not None and good.quality is not None
    runtime = open_model(good.path)
    assert (runtime.name, runtime.precision, runtime.spec) == (case.runtime, "int8", small_edsr.spec)
    assert runtime.descriptor == small_edsr.descriptor
    assert runtime.metadata["srkd.source_sha256"] == "ab" * 32
    quant = json.loads(runtime.metadata["srkd.quant"])
    assert (quant["flavour"], quant["bits"], quant["in_float"]) == (case.flavour, 8, "nothing")
    assert quant["calibration"] == "8 patches of embedded photos, flat colours"
    assert quant["drop_db"] == pytest.approx(good.quality.drop, abs=0.01)
    assert open_model(good.path, OpenOptions(precision="int8")).precision == "int8"
    with pytest.raises(UsageError, match="in int8, not bf16"):
        open_model(good.path, OpenOptions(precision="bf16"))


@pytest.mark.slow
def test_windows_at_one_size(case: Int8Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network = build(WINDOWS, seed=3)
    file = export_file(network, case.name, tmp_path, FileOptions(lr_size=(24, 16), io="uint8"))
    assert file.verdict == "passed" and file.path is not None, file.reason
    assert file.path.name == f"small-24x16-uint8{FORMATS[case.name].suffix}"
    runtime = open_model(file.path)
    assert runtime.precision == "int8" and runtime.descriptor.fixed_size == (24, 16)
    lr = torch.rand(1, 3, 16, 24).mul(255).round().div(255)
    with torch.no_grad():
        expected = network(lr).clamp(0, 1)
    assert float((runtime.run(lr) - expected).square().mean()) < 1e-3
    with pytest.raises(UsageError, match="24x16 only"):
        runtime.run(torch.rand(1, 3, 8, 9))
    assert capfd.readouterr() == ("", "")


def test_too_much_loss_is_refused_with_its_figures(
    case: Int8Case, small_edsr: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "ends_of", lambda layers: iter(()))
    options = FileOptions(int8=Int8Options(max_drop=-1.0))  # no file gains a dB
    file = export_file(small_edsr, case.name, tmp_path, options)
    assert file.verdict == "unavailable" and file.reason is not None
    assert file.reason.startswith(f"in int8 ({case.tool}) it loses ") and "on 2 photos" in file.reason
    assert list(tmp_path.iterdir()) == []
