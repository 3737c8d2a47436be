"""Core ML packages for the neural engine: pictures, types, operations and weights, read back; none runs here."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from compressor.inference.open import open_model
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.registry import build
from compressor.models.networks.span import SPANSpec
from compressor.models.networks.swinir import SwinIRSpec
from export.convert import to_coreml_images
from export.convert.coreml_program import OPERATIONS, run_program
from export.convert.to_coreml import read_back
from export.formats.conversion import Conversion, FileOptions
from export.writing.exporting import FileReport, Source
from tests.support.exports import export_file, play_core_ml
from tests.support.extras import extra
from tests.support.hosts import export_for_hosts

coremltools = extra("coremltools")
pytestmark = [pytest.mark.extras, pytest.mark.filterwarnings("ignore")]

SIZE = (32, 24)
SPECS = (
    CompactSpec(4, width=8, depth=2),
    CompactSpec(3, width=8, depth=1, channels=1),
    EDSRSpec(width=8, depth=1, scale=2),
    SPANSpec(2, width=8),
    PlainSpec(2, width=8, depth=1),
)


def trained(spec: Spec) -> Network:
    """Return a network whose PReLU slopes differ, as only those of untrained ones are equal."""
    network = build(spec, seed=1)
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            module.weight.data = torch.linspace(0.05, 0.4, module.weight.numel())
    return network.eval()


def exported(network: Network, folder: Path, size: tuple[int, int] | None = SIZE) -> FileReport:
    return export_file(network, "coreml-fp16", folder, FileOptions(lr_size=size))


@pytest.fixture(scope="module", params=SPECS, ids=lambda spec: f"{spec.arch}-{spec.scale}")
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path]:
    network = trained(request.param)
    file = exported(network, tmp_path_factory.mktemp("package"))
    assert file.path is not None, file.reason
    if sys.platform != "darwin":
        assert file.verdict == "unproved" and file.parity is None
    return network, file.path


def test_it_takes_and_gives_a_picture_of_one_size(package: tuple[Network, Path]) -> None:
    """FeatureTypes.proto: ImageFeatureType holds width, height and the space of colours."""
    network, path = package
    program, spec = read_back(path)
    (source,), (target,) = spec.description.input, spec.description.output
    assert (source.name, target.name, path.name) == ("input", "output", "small-32x24.fp16.mlpackage")
    scale = network.descriptor.scale
    for value, factor in ((source, 1), (target, scale)):
        picture = value.type.imageType
        assert value.type.WhichOneof("Type") == "imageType" and picture.WhichOneof("SizeFlexibility") is None
        assert (picture.width, picture.height) == (SIZE[0] * factor, SIZE[1] * factor)
        space = picture.ColorSpace.Name(picture.colorSpace)
        assert space == {3: "RGB", 1: "GRAYSCALE"}[network.descriptor.channels]
    assert spec.description.metadata.userDefined["srkd.scale"] == str(scale)
    assert program.functions["main"].opset_version.name == "iOS16"


def test_all_between_the_pictures_is_fp16_of_four_axes(package: tuple[Network, Path]) -> None:
    program, _ = read_back(package[1])
    operations = [one for one in program.functions["main"].operations if one.op_type != "const"]
    assert [one.op_type for one in (operations[0], operations[-1])] == ["cast", "cast"]
    for one in operations[1:-1]:
        assert one.op_type in OPERATIONS
        for value in one.outputs:
            assert value.dtype is coremltools.converters.mil.mil.types.fp16 and len(value.shape) == 4


def test_its_weights_are_the_networks_in_fp16(package: tuple[Network, Path]) -> None:
    network, path = package
    program, _ = read_back(path)
    stored = [one.outputs[0].val for one in program.functions["main"].operations if one.op_type == "const"]
    arrays = [value for value in stored if isinstance(value, np.ndarray) and value.ndim == 4]
    kernels = [m.weight for m in network.deployed().modules() if isinstance(m, nn.Conv2d)]
    assert kernels
    for kernel in kernels:
        rounded = kernel.detach().half().numpy()
        assert any(value.dtype == np.float16 and np.array_equal(value, rounded) for value in arrays)


def test_its_program_gives_the_networks_picture(package: tuple[Network, Path]) -> None:
    network, path = package
    program, _ = read_back(path)
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (1, network.descriptor.channels, SIZE[1], SIZE[0]), generator=generator).float()
    expected = network(picture / 255).clamp(0, 1) * 255
    actual = run_program(program, picture)
    assert (actual - expected).abs().max() < 0.5, "half a grey level"
    assert (actual >= 0).all() and (actual <= 255).all()


def test_a_size_is_needed(tmp_path: Path) -> None:
    file = exported(trained(SPECS[2]), tmp_path, None)
    assert file.verdict == "unavailable" and "--static 256x256" in str(file.reason)


def test_windows_leave_the_engine(tmp_path: Path) -> None:
    spec = SwinIRSpec(width=4, depths=(2,), heads=(2,), window=4, scale=2, features=4)
    file = exported(build(spec, seed=1), tmp_path)
    assert file.verdict == "unavailable" and "leaves the neural engine" in str(file.reason)
    (host,) = export_for_hosts(build(spec, seed=1), Source("it"), ["coreml"], tmp_path)
    assert host.folder is None and "--student compact-s" in str(host.reason)


@pytest.mark.parametrize("changed", ["weight", "slope"])
def test_another_networks_program_is_noticed(changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of convolutions are compared one by one, PReLU's slopes by what comes out."""
    write = to_coreml_images.write_package

    def other(job: Conversion, source: nn.Module, *rest: Any) -> Any:
        made = write(job, source, *rest)
        for module in source.modules():
            if isinstance(module, nn.PReLU if changed == "slope" else nn.Conv2d):
                module.weight.data.add_(0.5 if changed == "slope" else 0.01)
        return made

    monkeypatch.setattr(to_coreml_images, "write_package", other)
    file = exported(trained(SPECS[0]), tmp_path)
    assert file.verdict == "failed" and ("its program" if changed == "slope" else "differs") in str(file.reason)
    assert list(tmp_path.iterdir()) == []


def test_what_leaves_the_range_of_fp16_is_not_kept(tmp_path: Path) -> None:
    network = trained(PlainSpec(2, width=8, depth=1))
    first, *_, last = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.weight.data.mul_(3e5)
    last.weight.data.div_(3e5)
    file = exported(network, tmp_path)
    assert file.path is None and file.verdict == "failed"


@pytest.mark.skipif(sys.platform == "darwin", reason="there it is the real thing")
def test_the_runtime_gives_core_ml_pictures(package: tuple[Network, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The network stands in for `predict`, which takes and gives PIL images; Core ML's have an alpha channel."""
    network, path = package
    channels = network.descriptor.channels

    def predict(source: dict[str, Image.Image]) -> dict[str, Image.Image]:
        picture = np.array(source["input"]).reshape(SIZE[1], SIZE[0], channels)
        with torch.no_grad():
            large = network(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255).clamp(0, 1) * 255
        bytes_ = large.round().byte()[0].permute(1, 2, 0).numpy()
        return {"output": Image.fromarray(bytes_).convert("RGBA") if channels == 3 else Image.fromarray(bytes_[..., 0])}

    play_core_ml(monkeypatch, coremltools, predict)
    runtime = open_model(path)
    assert runtime.precision == "fp16" and runtime.descriptor == replace(network.descriptor, fixed_size=SIZE)
    lr = torch.randint(0, 256, (2, channels, SIZE[1], SIZE[0]), generator=torch.Generator().manual_seed(1)) / 255
    torch.testing.assert_close(runtime.run(lr), network(lr).clamp(0, 1), atol=0.51 / 255, rtol=0)


def test_the_folder_for_apps(tmp_path: Path) -> None:
    (host,) = export_for_hosts(
        trained(SPECS[2]), Source("net"), ["coreml"], tmp_path, options=FileOptions(lr_size=(32, 24))
    )
    assert host.folder is not None, host.reason
    names = {file.path.name for file in host.files if file.path is not None}
    assert names == {"2x-net-32x24.fp16.mlpackage"}
    assert "Xcode" in (host.folder / "README.md").read_text(encoding="utf-8")
