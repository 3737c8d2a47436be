"""LiteRT: files equal the network at any size, describe themselves, and a damaged one gives a one-line error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.base.context import no_progress
from compressor.base.errors import SrkdError
from compressor.inference.open import open_model
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Descriptor, Network, Spec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.runtimes.table import OpenOptions
from export.convert import to_litert
from export.formats.conversion import FileOptions
from export.writing.exporting import FileReport, Source, export_model

pytest.importorskip("litert_torch")
interpreter = pytest.importorskip("ai_edge_litert.interpreter")
pytestmark = pytest.mark.extras

SOURCE = Source("small", "ab" * 32, {"srkd.recipe": "logits", "srkd.scores": '{"Set5 ×2": "30"}'})
EDSR = EDSRSpec(width=8, depth=1, scale=2)
SWINIR = SwinIRSpec(width=8, depths=(2,), heads=(2,), window=4, scale=2, features=8)
SPECS = (
    RCANSpec(width=8, hidden=2, groups=1, depth=1, scale=3),
    CARNMSpec(width=8, scale=2),
    CompactSpec(width=8, depth=1, scale=4, channels=1),
)


def exported(network: Network, folder: Path, options: FileOptions | None = None) -> FileReport:
    (file,) = export_model(network, SOURCE, ["litert"], folder, options=options).files
    return file


@pytest.fixture(scope="module")
def network() -> Network:
    return build(EDSR, seed=0)


@pytest.fixture(scope="module")
def good(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = exported(network, tmp_path_factory.mktemp("good"))
    assert file.verdict == "passed" and file.path is not None, file.reason
    assert file.parity is not None and file.parity.max_abs < 1e-5
    assert (file.facts["layout"], file.facts["sizes"]) == ("NHWC", "any")
    assert file.facts["operations"] == 10, "each convolution, addition and shuffle one operation, and the mean"
    return file.path


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch}x{spec.scale}")
def test_networks_convert_with_free_sizes(spec: Spec, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = exported(build(spec, seed=3), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert file.verdict == "passed" and file.parity is not None and file.parity.max_abs < 1e-5, file.reason
    assert {part.name for part in tmp_path.iterdir()} == {"small.tflite"}


def test_the_file_says_what_it_is_and_takes_any_size(
    network: Network, good: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runtime = open_model(good, OpenOptions(threads=2))
    assert (runtime.name, runtime.device, runtime.precision, runtime.label) == ("litert", "cpu", "fp32", "small")
    assert runtime.spec == network.spec and runtime.descriptor == network.descriptor
    assert runtime.metadata["srkd.scores"] == '{"Set5 ×2": "30"}'
    for shape in ((1, 3, 1, 1), (2, 3, 7, 30), (1, 3, 24, 20), (2, 3, 7, 30)):
        lr = torch.rand(shape)
        with torch.no_grad():
            torch.testing.assert_close(runtime.run(lr), network(lr), atol=1e-5, rtol=0)
    assert capfd.readouterr() == ("", "")


def test_an_app_sees_an_image_as_it_has_it(network: Network, good: Path) -> None:
    """An app uses it without srkd: N,H,W,C, resized by the library's own call."""
    model = interpreter.Interpreter(str(good))
    (source,), (output,) = model.get_input_details(), model.get_output_details()
    assert (source["name"], output["name"]) == ("lr", "sr") and list(source["shape_signature"]) == [-1, -1, -1, 3]
    image = np.random.default_rng(0).random((1, 6, 9, 3), dtype=np.float32)
    model.resize_tensor_input(source["index"], image.shape)
    model.allocate_tensors()
    model.set_tensor(source["index"], image)
    model.invoke()
    with torch.no_grad():
        expected = network(torch.from_numpy(image).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(model.get_tensor(output["index"]), expected.numpy(), atol=1e-5)


def test_a_damaged_file_is_one_line(good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = good.read_bytes()
    cases = {
        "cut": (content[: len(content) // 2], "is not a model LiteRT can open"),
        "page": (b"<html>404</html>", "is not a LiteRT model: it does not begin as one"),
        "empty": (b"", "is not a LiteRT model"),
        "spec": (content.replace(b'"edsr"', b'"esdr"'), r"spec: its srkd\.spec cannot be used: .*esdr"),
        "torn": (content[:8] + bytes(200) + content[208:], "is not a model LiteRT can open"),
    }
    for name, (damaged, message) in cases.items():
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(damaged)
        with pytest.raises(SrkdError, match=message) as caught:
            open_model(path)
        assert "\n" not in str(caught.value), name
    assert capfd.readouterr() == ("", "")


def test_a_foreign_model_is_known_by_its_shapes(good: Path, tmp_path: Path, network: Network) -> None:
    path = tmp_path / "foreign.tflite"
    path.write_bytes(good.read_bytes().replace(b"srkd.", b"acme."))
    foreign = open_model(path)
    assert foreign.spec is None and foreign.descriptor == Descriptor(scale=2)
    lr = torch.rand(1, 3, 9, 13)
    with torch.no_grad():
        torch.testing.assert_close(foreign.run(lr), network(lr), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", "LiteRT's converter on edsr: its process crashed (SIGSEGV)"),
        (
            "import sys; sys.exit('no space left')",
            "LiteRT's converter on edsr: its process ended with exit code 1: SystemExit: no space left",
        ),
    ],
)
def test_a_converter_that_dies_is_one_line(
    program: str, reason: str, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "litert_torch.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    file = exported(network, tmp_path / "out")
    assert file.verdict == "failed" and file.reason is not None and file.reason.startswith(reason), file.reason
    assert not list((tmp_path / "out").iterdir())


def test_an_error_of_the_converter_is_one_line(
    network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> bytes:
        raise AssertionError("float32[1,?]")

    weights = tmp_path / "weights.safetensors"
    save_network(network, weights)
    monkeypatch.setattr(to_litert, "_convert_module", fail)
    with pytest.raises(SrkdError, match=r"cannot convert edsr: AssertionError: float32\[1,\?\]"):
        to_litert.convert_checkpoint(
            no_progress, weights=str(weights), path=str(tmp_path / "x.tflite"), lr_size=None, io="float", metadata={}
        )
