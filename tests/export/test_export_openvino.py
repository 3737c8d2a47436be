"""OpenVINO: files equal the network, describe themselves, and have the chosen precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compressor.base.context import QUIET
from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import open_model
from compressor.models.networks.base import Descriptor, Network, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.runtimes.table import OpenOptions
from export.formats.conversion import FileOptions
from export.profile.models import open_models
from export.profile.settings import ProfileSettings
from export.writing.exporting import FileReport, Source, export_model

openvino = pytest.importorskip("openvino")
pytestmark = pytest.mark.extras

SOURCE = Source("small", "ab" * 32, {"srkd.recipe": "logits", "srkd.scores": '{"Set5 <Y>": "30 & more"}'})
EDSR = EDSRSpec(width=8, depth=1, scale=2)
SPECS = (
    RCANSpec(width=8, hidden=2, groups=1, depth=1, scale=3),
    CARNSpec(width=8, scale=4),
    CARNMSpec(width=8, scale=2),
    CompactSpec(width=8, depth=2, scale=4),
    CompactSpec(width=8, depth=1, scale=3, channels=1),
    SwinIRSpec(width=8, depths=(2,), heads=(2,), window=4, scale=2, features=8),
)


def exported(network: Network, folder: Path, options: FileOptions | None = None) -> FileReport:
    (file,) = export_model(network, SOURCE, ["openvino"], folder, options=options).files
    return file


@pytest.fixture(scope="module")
def network() -> Network:
    return build(EDSR, seed=0)


@pytest.fixture(scope="module")
def good(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = exported(network, tmp_path_factory.mktemp("good"))
    assert file.verdict == "passed" and file.path is not None, file.reason
    assert file.parity is not None and file.parity.max_abs < 1e-5
    assert file.bytes == sum(part.stat().st_size for part in file.path.parent.iterdir())
    return file.path


@pytest.fixture
def copied(good: Path, tmp_path: Path) -> Path:
    """Return a copy of the model that a test may damage."""
    for part in good.parent.iterdir():
        (tmp_path / part.name).write_bytes(part.read_bytes())
    return tmp_path / good.name


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch}x{spec.scale}")
def test_every_network_converts_with_free_sizes(spec: Spec, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = exported(build(spec, seed=3), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert file.verdict == "passed" and file.parity is not None and file.parity.max_abs < 1e-5, file.reason
    assert {part.name for part in tmp_path.iterdir()} == {"small.openvino.xml", "small.openvino.bin"}


def test_the_model_in_the_file_is_called_like_the_file(good: Path) -> None:
    assert openvino.Core().read_model(good).get_friendly_name() == good.stem


def test_the_file_says_what_it_is(network: Network, good: Path) -> None:
    runtime = open_model(good)
    assert (runtime.name, runtime.device, runtime.precision, runtime.label) == (
        "openvino",
        "cpu",
        "fp32",
        "small.openvino",
    )
    assert runtime.spec == network.spec and runtime.descriptor == network.descriptor
    assert runtime.metadata["srkd.scores"] == '{"Set5 <Y>": "30 & more"}'
    assert runtime.metadata["srkd.source_sha256"] == "ab" * 32
    model = openvino.Core().read_model(good)
    assert (model.inputs[0].any_name, model.outputs[0].any_name) == ("lr", "sr")
    assert any("blocks.0.conv1" in operation.friendly_name for operation in model.get_ops())
    # The weights equal the network's bit for bit: nothing was converted to half precision.
    weight = network.state_dict()["blocks.0.conv1.weight"].numpy().tobytes()
    assert good.with_suffix(".bin").read_bytes().count(weight) == 1
    with pytest.raises(UsageError, match="is for scale 2, not 4"):
        open_model(good, OpenOptions(scale=4))
    with pytest.raises(UsageError, match=r"small\.openvino\.xml.*res_scale"):
        open_model(good, OpenOptions(arch_options={"res_scale": 0.1}))


def test_precision_is_what_was_asked_for(network: Network, good: Path) -> None:
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    lr = torch.rand(1, 3, 24, 24)
    with torch.no_grad():
        expected = network(lr)
    first = open_model(good)
    stored = first.run(lr)
    first.run(torch.zeros_like(lr))
    assert float((stored - expected).abs().max()) < 1e-5, "an output changed with the next run"
    for precision, word in (("bf16", "BF16"), ("fp16", "FP16")):
        if word in able:
            half = open_model(good, OpenOptions(precision=precision, threads=1))
            assert half.precision == precision and 1e-5 < float((half.run(lr) - expected).abs().max()) < 0.1
        else:
            with pytest.raises(UsageError, match=rf"precision {precision}: OpenVINO has fp32.* on this CPU"):
                open_model(good, OpenOptions(precision=precision))
    with pytest.raises(UsageError, match="'int3' is not one of fp32, bf16, fp16"):
        open_model(good, OpenOptions(precision="int3"))
    with pytest.raises(SrkdError, match="device 'cuda': OpenVINO runs on cpu"):
        open_model(good, OpenOptions(device="cuda"))
    assert open_model(good, OpenOptions(device="openvino:CPU")).device == "cpu"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def no_weights(path: Path) -> None:
    path.with_suffix(".bin").unlink()


def short_weights(path: Path) -> None:
    path.with_suffix(".bin").write_bytes(b"abc")


def no_model(path: Path) -> None:
    path.write_bytes(b"<html><body>404</body></html>")


def other_spec(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"edsr", b"esdr"))


def unknown_operation(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'type="Convolution"', b'type="Folding"', 1))


DAMAGE = (
    (cut, "small.openvino.xml is not a model OpenVINO can open: "),
    (no_weights, r"keeps its weights in small\.openvino\.bin, which is not beside it"),
    (short_weights, "is not a model OpenVINO can open: Incorrect weights in bin file"),
    (no_model, "is not an OpenVINO model: no <net> at its beginning"),
    (other_spec, r"small\.openvino: its srkd\.spec cannot be used: .*esdr"),
    (unknown_operation, "is not a model OpenVINO can open: .*Folding"),
)


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=lambda value: getattr(value, "__name__", ""))
def test_a_damaged_file_is_one_line(
    damage: object, message: str, copied: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert callable(damage)
    damage(copied)
    with pytest.raises(SrkdError, match=message) as caught:
        open_model(copied)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert capfd.readouterr() == ("", "")


def test_a_foreign_model_is_known_by_its_shapes(copied: Path, network: Network) -> None:
    copied.write_bytes(copied.read_bytes().replace(b"srkd.", b"acme."))
    foreign = open_model(copied)
    assert foreign.spec is None and foreign.metadata == {} and foreign.descriptor == Descriptor(scale=2)
    lr = torch.rand(2, 3, 9, 13)
    with torch.no_grad():
        torch.testing.assert_close(foreign.run(lr), network(lr), atol=1e-5, rtol=0)


def test_a_profile_takes_the_file_unless_other_runtimes_were_named(good: Path, tmp_path: Path) -> None:
    with open_models([good], None, ProfileSettings(), tmp_path, QUIET) as opened:
        (entry,) = opened.models
        assert (entry.facts.runtime, entry.facts.precision, opened.notes) == ("openvino", "fp32", [])
        assert entry.process.job.libraries == ("openvino",), "the modules that running needs, not those of writing"
    with pytest.raises(
        SrkdError,
        match=r"small\.openvino\.xml runs under openvino, which is not among the runtimes",
    ):
        open_models([good], None, ProfileSettings(runtimes=("onnxruntime",)), tmp_path, QUIET)
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with open_models([good], None, ProfileSettings(precisions=("fp32", "bf16")), tmp_path, QUIET) as opened:
            assert [entry.facts.precision for entry in opened.models] == ["fp32", "bf16"]
