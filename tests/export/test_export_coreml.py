"""Core ML: checks of a package that cannot run here: its form, its weights and its metadata."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import open_model
from compressor.models.networks.base import Network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.runtimes.table import OpenOptions
from export.convert import to_coreml
from export.formats.conversion import Conversion, FileOptions
from tests.support.exports import export_file, play_core_ml
from tests.support.extras import extra

coremltools = extra("coremltools")
pytestmark = [
    pytest.mark.extras,
    pytest.mark.filterwarnings("ignore"),  # torch's tracer warns of sizes that are constants in the copies for one size
]

SPEC = EDSRSpec(width=4, depth=1, scale=2)
SWINIR = SwinIRSpec(width=4, depths=(2,), heads=(2,), window=4, scale=2, features=4)


def package(path: Path) -> Any:
    return coremltools.models.MLModel(str(path), skip_model_load=True)


@pytest.fixture(scope="module")
def good(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = export_file(network, "coreml", tmp_path_factory.mktemp("good"))
    assert file.path is not None, file.reason
    if sys.platform != "darwin":
        assert file.verdict == "unproved" and file.parity is None and "run on macOS only" in str(file.reason)
    assert file.facts["weights_equal"] == "12 tensors"
    assert file.bytes == sum(part.stat().st_size for part in file.path.rglob("*") if part.is_file())
    return file.path


def test_a_package_for_any_size(good: Path) -> None:
    message = package(good).get_spec().description
    (source,), (target,) = message.input, message.output
    assert (source.name, target.name) == ("input", "output")
    ranges = [(size.lowerBound, size.upperBound) for size in source.type.multiArrayType.shapeRange.sizeRanges]
    assert ranges == [(1, 1), (3, 3), (1, 2048), (1, 2048)]
    assert message.metadata.userDefined["srkd.scale"] == "2"
    assert message.metadata.userDefined["srkd.source_sha256"] == "ab" * 32
    assert "not clamped" in target.shortDescription


@pytest.mark.parametrize(
    "spec", [SWINIR, replace(SWINIR, channels=1, upsampler="pixelshuffledirect")], ids=["three", "one"]
)
def test_networks_of_windows_at_one_size(spec: SwinIRSpec, tmp_path: Path) -> None:
    file = export_file(build(spec, seed=1), "coreml", tmp_path, FileOptions(lr_size=(11, 6)))
    assert file.path is not None and file.path.name == "small-11x6.mlpackage", file.reason
    message = package(file.path).get_spec().description
    assert list(message.input[0].type.multiArrayType.shape) == [1, spec.channels, 6, 11]
    assert not message.input[0].type.multiArrayType.shapeRange.sizeRanges
    assert file.facts["target"] == "iOS 16, macOS 13"
    assert list(message.output[0].type.multiArrayType.shape) == [1, spec.channels, 12, 22]
    free = export_file(build(spec, seed=1), "coreml", tmp_path)
    assert free.verdict == "unavailable" and "--static 64x64" in str(free.reason)
    assert [item.name for item in tmp_path.iterdir()] == [file.path.name]


def test_one_channel_and_nothing_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = export_file(build(CompactSpec(width=4, depth=1, scale=3, channels=1), seed=0), "coreml", tmp_path)
    assert file.path is not None, file.reason
    assert capfd.readouterr() == ("", "")
    assert list(package(file.path).get_spec().description.input[0].type.multiArrayType.shape)[:2] == [1, 1]


def test_weights_that_are_not_the_networks_are_noticed(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = to_coreml.write_package

    def other(job: Conversion, source: Network, *rest: Any) -> Any:
        made = write(job, source, *rest)
        source.get_submodule("tail").weight.data.mul_(1.0001)  # type: ignore[union-attr, operator]
        return made

    monkeypatch.setattr(to_coreml, "write_package", other)
    file = export_file(network, "coreml", tmp_path)
    assert file.verdict == "failed" and "tail.weight" in str(file.reason)
    assert list(tmp_path.iterdir()) == []


def test_fusing_would_change_the_weights(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_coreml, "SKIPPED_PASSES", ())
    assert "in the package differs from the network" in str(export_file(network, "coreml", tmp_path).reason)


@pytest.mark.skipif(sys.platform == "darwin", reason="here it runs")
def test_where_it_cannot_be_run_one_line_says_so(good: Path) -> None:
    with pytest.raises(SrkdError, match=r"good.*macOS"):
        open_model(good)


@pytest.mark.skipif(sys.platform == "darwin", reason="there it is the real thing")
def test_the_runtime_asks_core_ml_as_it_is_to_be_asked(
    network: Network, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network stands in for `predict`."""

    def predict(source: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        (lr,) = source.values()
        assert list(source) == ["input"] and lr.dtype == np.float32 and len(lr) == 1
        return {"output": network(torch.from_numpy(lr)).numpy()}

    opened = play_core_ml(monkeypatch, coremltools, predict)
    runtime = open_model(good)
    assert opened == [coremltools.ComputeUnit.CPU_ONLY] and runtime.label == "small"
    assert runtime.spec == SPEC and runtime.descriptor == replace(network.descriptor, max_size=(2048, 2048))
    lr = torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(runtime.run(lr), network(lr), atol=1e-6, rtol=0)
    with pytest.raises(UsageError, match="cpu, coreml"):
        open_model(good, OpenOptions(device="cuda"))
    with pytest.raises(UsageError, match="fp16"):
        open_model(good, OpenOptions(precision="fp16"))
