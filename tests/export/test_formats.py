"""Every format: its files equal the network, alone and in one folder, describe themselves, and fail in one line."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

import pytest
import torch

import srkd
from compressor.base.errors import MissingExtra, SrkdError, UsageError
from compressor.inference.open import find_source_checkpoint, open_model, read_metadata
from compressor.inference.super_resolve import super_resolve
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Descriptor, Network, Spec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.runtimes.onnx_runtime import OnnxRuntime
from compressor.runtimes.table import OpenOptions
from export.formats.conversion import FileOptions
from export.formats.table import FORMATS
from export.writing.exporting import FileReport
from tests.support.exports import export_file
from tests.support.formats_table import WINDOWS, FormatCase, cases, networks
from tests.support.networks import changed

DENORMAL = 2.0**-140


@pytest.fixture(scope="module")
def network() -> Network:
    """Return a network with denormal weights next to others that count, as trained networks have: no obstacle."""

    def put(weight: torch.Tensor) -> torch.Tensor:
        weight.view(-1)[::3] = DENORMAL
        return weight

    whole = build(EDSRSpec(width=8, depth=1, scale=2), seed=0).requires_grad_(False)
    return changed(whole, "blocks.0.conv2.weight", put)


@pytest.fixture(scope="module", params=cases())
def case(request: pytest.FixtureRequest) -> FormatCase:
    value: FormatCase = request.param
    missing = FORMATS[value.name].missing_requirement()
    if missing is not None:
        pytest.skip(missing)
    return value


@pytest.fixture(scope="module")
def good(case: FormatCase, network: Network, tmp_path_factory: pytest.TempPathFactory) -> FileReport:
    file = export_file(network, case.name, tmp_path_factory.mktemp("good"))
    assert file.path is not None, file.reason
    return file


@pytest.fixture(scope="module")
def good_file(good: FileReport) -> Path:
    return Path(str(good.path))


def test_a_file_does_what_the_network_does(case: FormatCase, good: FileReport, network: Network) -> None:
    assert (network.get_parameter("blocks.0.conv2.weight") == DENORMAL).float().mean() > 0.3
    assert good.verdict == "passed" and good.parity is not None and good.parity.max_abs < 1e-5, good.reason
    assert good.path is not None and good.path.name == f"small{FORMATS[case.name].suffix}"
    assert tuple(sorted(part.name for part in good.path.parent.iterdir())) == case.files
    assert good.bytes == sum(part.stat().st_size for part in good.path.parent.rglob("*") if part.is_file())
    runtime = open_model(good.path)
    for shape in ((1, 3, 1, 1), (2, 3, 7, 30), (1, 3, 24, 20), (2, 3, 7, 30)):
        lr = torch.rand(shape)
        torch.testing.assert_close(runtime.run(lr), network(lr), atol=1e-5, rtol=0)
    first = runtime.run(lr[:1])
    copy = first.clone()
    runtime.run(lr[1:])
    assert torch.equal(first, copy), "an output belongs to the caller"
    with pytest.raises(UsageError, match=r"\(1, 1, 8, 8\)"):
        runtime.run(torch.rand(1, 1, 8, 8))


@pytest.mark.parametrize(("case", "spec"), networks())
def test_more_networks_convert_for_any_size(
    case: FormatCase, spec: Spec, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if (missing := FORMATS[case.name].missing_requirement()) is not None:
        pytest.skip(missing)
    network = build(spec, seed=3)
    file = export_file(network, case.name, tmp_path)
    assert file.verdict == "passed" and file.parity is not None and file.parity.max_abs < case.max_abs, file.reason
    assert tuple(sorted(part.name for part in tmp_path.iterdir())) == case.files and file.path is not None
    runtime = open_model(file.path)
    assert runtime.spec == spec and runtime.metadata["srkd.scale"] == str(spec.scale)
    assert runtime.descriptor == dataclasses.replace(network.descriptor, max_size=runtime.descriptor.max_size)
    assert capfd.readouterr() == ("", "")


def test_a_file_describes_itself(case: FormatCase, good_file: Path, network: Network) -> None:
    runtime = open_model(good_file, OpenOptions(threads=1))
    label = good_file.name.rpartition(".")[0]
    assert (runtime.name, runtime.device, runtime.label) == (FORMATS[case.name].runtime, "cpu", label)
    assert (runtime.precision, runtime.layout, runtime.spec) == ("fp32", "runtime", network.spec)
    largest = runtime.descriptor.max_size
    assert runtime.descriptor == dataclasses.replace(network.descriptor, max_size=largest)
    metadata = read_metadata(good_file)
    assert runtime.metadata == metadata and metadata["srkd.source_sha256"] == "ab" * 32
    assert (metadata["srkd.scale"], metadata["srkd.scores"]) == ("2", '{"Set5 <Y>": "30 & more"}')


def test_options_that_a_file_does_not_have(case: FormatCase, good_file: Path) -> None:
    refused: list[tuple[OpenOptions, str]] = [
        (OpenOptions(scale=3), "enlarges x2, and its images can be reduced, not enlarged to x3"),
        (OpenOptions(device="mps"), f"device 'mps': runtime {FORMATS[case.name].runtime} runs on cpu"),
        (OpenOptions(runtime="torch"), "takes a checkpoint"),
    ]
    if case.name != "onnx":
        refused.append((OpenOptions(arch_options={"res_scale": 0.1}), "needs no res_scale"))
    if not case.selects_precision:
        refused.append((OpenOptions(precision="fp16"), "computes in fp32, not fp16"))
    for options, message in refused:
        with pytest.raises(SrkdError, match=message) as caught:
            open_model(good_file, options)
        assert "\n" not in str(caught.value)


@pytest.mark.ci
def test_a_file_of_one_size(case: FormatCase, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Networks with windows are included, for which most converters write files for one size only."""
    for number, spec in enumerate(case.windows):
        network, folder = build(spec, seed=1), tmp_path / str(number)
        file = export_file(network, case.name, folder, FileOptions(lr_size=(18, 14)))
        assert file.verdict == "passed" and file.parity is not None and file.parity.max_abs < 2e-5, file.reason
        assert file.path == folder / f"small-18x14{FORMATS[case.name].suffix}"
        runtime = open_model(file.path)
        assert runtime.descriptor == dataclasses.replace(network.descriptor, fixed_size=(18, 14))
        lr = torch.rand(3, 3, 14, 18)
        torch.testing.assert_close(runtime.run(lr), network(lr), atol=2e-5, rtol=0)
        with pytest.raises(UsageError, match="18x14 only, got 9x9"):
            runtime.run(torch.rand(1, 3, 9, 9))
        assert super_resolve(runtime, torch.rand(1, 3, 20, 30)).sr.shape == (1, 3, 40, 60)
        assert capfd.readouterr() == ("", "")


def test_windows_without_a_size(case: FormatCase, tmp_path: Path) -> None:
    if case.free_windows:
        pytest.skip("the format takes windows at any size")
    file = export_file(build(WINDOWS, seed=1), case.name, tmp_path)
    assert file.verdict == "unavailable" and "swinir in " in str(file.reason) and "--static 64x64" in str(file.reason)
    assert list(tmp_path.iterdir()) == []


def test_images_of_bytes(case: FormatCase, network: Network, tmp_path: Path) -> None:
    file = export_file(network, case.name, tmp_path, FileOptions(io="uint8"))
    if "io" not in FORMATS[case.name].options:
        assert file.verdict == "unavailable" and "has no --io uint8" in str(file.reason)
        return
    assert file.verdict == "passed" and file.path == tmp_path / f"small-uint8{FORMATS[case.name].suffix}", file.reason
    runtime = open_model(file.path)
    assert runtime.descriptor == network.descriptor
    levels = torch.randint(0, 256, (2, 3, 9, 14)).float()
    rounded = network(levels / 255).clamp(0, 1).mul(255).round()
    sr = runtime.run(levels / 255).mul(255)
    assert float((sr - sr.round()).abs().max()) < 1e-4 and float((sr - rounded).abs().max()) <= 1.001
    assert float((sr - rounded).abs().mean()) < 0.01


def test_a_damaged_file_is_one_line(
    case: FormatCase, good_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number, (damage, message) in enumerate(case.damages):
        path = copied(good_file, tmp_path / str(number))
        damage(path)
        with pytest.raises(SrkdError, match=message) as caught:
            open_model(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert capfd.readouterr() == ("", "")


def copied(path: Path, folder: Path) -> Path:
    """Copy a file and its companions to a folder; return its copy."""
    return shutil.copytree(path.parent, folder) / path.name


def test_a_foreign_model_is_known_by_its_shapes(
    case: FormatCase, good_file: Path, network: Network, tmp_path: Path
) -> None:
    if not case.opens_foreign:
        pytest.skip("a file without srkd's metadata does not open, or has tests of its own")
    path = copied(good_file, tmp_path / "foreign")
    path.write_bytes(path.read_bytes().replace(b"srkd.", b"acme."))
    foreign = open_model(path)
    assert foreign.spec is None and foreign.metadata == {} and foreign.descriptor == Descriptor(scale=2)
    lr = torch.rand(2, 3, 9, 13)
    torch.testing.assert_close(foreign.run(lr), network(lr), atol=1e-5, rtol=0)


def test_a_missing_package_names_the_command() -> None:
    for row in FORMATS.values():
        lacking = dataclasses.replace(row, needs=("no_such_module",), obstacle=lambda: None)
        command = MissingExtra.command(row.extra) if row.extra else "pip install --force-reinstall srkd"
        assert lacking.missing_requirement() == f"no_such_module is not installed: {command}"


@pytest.mark.parametrize(("name", "value"), [("tail.weight", math.nan), ("blocks.0.conv1.bias", -math.inf)])
def test_a_weight_that_is_not_finite(network: Network, tmp_path: Path, name: str, value: float) -> None:
    """A ReLU hides a bias of -inf from every comparison, and some runtimes treat NaN as 0."""

    def put(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[3] = value
        return tensor

    with pytest.raises(SrkdError, match=f"weight {name} .*NaN or infinity"):
        export_file(changed(network, name, put), "onnx", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ci
def test_denormal_weights_that_count_are_not_lost_in_silence(
    case: FormatCase, network: Network, tmp_path: Path
) -> None:
    """The image depends on them here. ONNX Runtime computes with them; runtimes that flush them to 0 fail."""
    first, second = "blocks.0.conv1.weight", "blocks.0.conv2.weight"
    tiny = changed(changed(network, first, lambda w: w * 2.0**119), second, lambda w: w * 2.0**-123)
    assert (tiny.state_dict()[second].abs() < torch.finfo(torch.float32).tiny).float().mean() > 0.5
    lr = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    without = changed(tiny, second, lambda w: torch.where(w.abs() < torch.finfo(w.dtype).tiny, 0.0, w))
    assert (without(lr) - tiny(lr)).abs().max() > 1e-3
    file = export_file(tiny, case.name, tmp_path)
    if file.path is None:
        assert case.name != "onnx" and file.verdict == "failed" and "differs" in str(file.reason)
        assert list(tmp_path.iterdir()) == []
    else:
        torch.testing.assert_close(open_model(file.path).run(lr), tiny(lr), atol=1e-4, rtol=0)


@pytest.mark.ci
@pytest.mark.parametrize("shape", [(2, 9, 11), (1, 64, 96)])
def test_a_runtime_that_is_wrong_at_one_size(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    """Only the last row at that size is wrong."""
    run = OnnxRuntime.run

    def wrong(runtime: OnnxRuntime, lr: torch.Tensor) -> torch.Tensor:
        sr = run(runtime, lr)
        if (len(lr), *lr.shape[2:]) == shape:
            sr[..., -1, :] += 0.01
        return sr

    monkeypatch.setattr(OnnxRuntime, "run", wrong)
    file = export_file(network, "onnx", tmp_path)
    assert file.verdict == "failed" and "by 0.01 on" in str(file.reason)
    assert list(tmp_path.iterdir()) == []


SLOW = ("litert-int8",)
"""Formats whose export tries several mixtures of precisions: it takes most of the time."""
ONE_SIZE = ("coreml-fp16", "qnn-w8a8", "qnn-w8a16")
"""Formats that need --static, which this export has not."""


@pytest.mark.extras
@pytest.mark.parametrize(
    ("order", "left_out"),
    [
        pytest.param(1, SLOW, id="but for one, as in the table"),
        pytest.param(1, (), id="as in the table", marks=pytest.mark.slow),
        pytest.param(-1, (), id="the other way", marks=pytest.mark.slow),
    ],
)
def test_every_file_of_one_folder_opens_and_is_the_network(
    tmp_path: Path, order: int, left_out: tuple[str, ...]
) -> None:
    left_out += ONE_SIZE
    rows = [row for row in FORMATS.values() if row.missing_requirement() is None and row.name not in left_out][::order]
    if len(rows) < 5:
        pytest.skip("hardly any optional library is installed: make extras")
    network = build(CompactSpec(width=8, depth=1, scale=2), seed=0).requires_grad_(False)  # shaders hold no EDSR
    checkpoint = tmp_path / "small.safetensors"
    save_network(network, checkpoint)
    report = srkd.export(checkpoint, formats=[row.name for row in rows])
    assert report.ok, [file.reason for file in report.files]
    lr = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    for row, file in zip(rows, report.files, strict=True):
        assert file.path is not None and find_source_checkpoint(file.path) == checkpoint
        if row.cannot_run_here() is None:
            expected = network(lr).clamp(0, 1) if row.bounds.clipped else network(lr)
            difference = (open_model(file.path).run(lr) - expected).abs().max()
            assert difference <= (row.bounds.max_abs_elsewhere or row.bounds.max_abs), row.name
        assert srkd.inspect(file.path).spec == network.spec.to_dict()
