"""OpenVINO: names and weights in the file, and the chosen precision; test_formats.py has what holds for all formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compressor.base.context import QUIET
from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import open_model
from compressor.models.networks.base import Network
from compressor.runtimes.table import OpenOptions
from export.profile.models import open_models
from export.profile.settings import ProfileSettings
from export.writing.exporting import export_model
from tests.support.commands import python
from tests.support.exports import SOURCE, export_file
from tests.support.extras import extra
from tests.support.onnx_files import enlarger

openvino = extra("openvino")
pytestmark = [pytest.mark.extras, pytest.mark.usefixtures("quick_int8")]


@pytest.fixture(scope="module")
def good(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = export_file(network, "openvino", tmp_path_factory.mktemp("good"))
    assert file.verdict == "passed" and file.path is not None, file.reason
    return file.path


def test_names_and_weights_are_the_networks(network: Network, good: Path) -> None:
    model = openvino.Core().read_model(good)
    assert (model.inputs[0].any_name, model.outputs[0].any_name) == ("input", "output")
    assert model.get_friendly_name() == good.stem
    assert any("blocks.0.conv1" in operation.friendly_name for operation in model.get_ops())
    # The weights equal the network's bit for bit: nothing was converted to half precision.
    weight = network.state_dict()["blocks.0.conv1.weight"].numpy().tobytes()
    assert good.with_suffix(".bin").read_bytes().count(weight) == 1


def test_precision_is_what_was_asked_for(network: Network, good: Path) -> None:
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    lr = torch.rand(1, 3, 24, 24)
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
    with pytest.raises(UsageError, match="precision 'int3' is not one of fp32"):
        open_model(good, OpenOptions(precision="int3"))
    with pytest.raises(SrkdError, match="device 'cuda': runtime openvino runs on cpu, openvino"):
        open_model(good, OpenOptions(device="cuda"))
    assert open_model(good, OpenOptions(device="openvino:CPU")).device == "cpu"


def test_it_runs_the_file_of_int8_with_integers(network: Network, tmp_path: Path) -> None:
    path = export_model(network, SOURCE, ["int8"], tmp_path).files[0].path
    usual, here = open_model(path), open_model(path, OpenOptions(runtime="openvino"))
    assert (here.name, here.precision, here.spec) == ("openvino", "int8", network.spec)
    assert here.metadata == usual.metadata and here.descriptor == usual.descriptor
    lr = torch.rand(2, 3, 24, 20)
    difference = (here.run(lr) - usual.run(lr)).abs()
    assert float(difference.mean()) < 0.2 / 255 and float(difference.max()) < 3 / 255
    with pytest.raises(UsageError, match="in int8, not bf16"):
        open_model(path, OpenOptions(runtime="openvino", precision="bf16"))
    settings = ProfileSettings(runtimes=("onnxruntime", "openvino"))
    with open_models([path], None, settings, QUIET) as (opened, _):
        assert [entry.facts.runtime for entry in opened] == ["onnxruntime", "openvino"]


def test_foreign_onnx_files_are_not_opened(tmp_path: Path) -> None:
    """A foreign file is first tried in a process of its own, which ONNX Runtime's module does."""
    with pytest.raises(SrkdError, match="not of srkd"):
        open_model(enlarger(tmp_path / "foreign.onnx"), OpenOptions(runtime="openvino"))


def test_a_profile_takes_the_file_unless_other_runtimes_were_named(good: Path) -> None:
    with open_models([good], None, ProfileSettings(), QUIET) as ((entry,), notes):
        assert (entry.facts.runtime, entry.facts.precision, notes) == ("openvino", "fp32", [])
    with (
        pytest.raises(SrkdError, match=r"small\.openvino\.xml"),
        open_models([good], None, ProfileSettings(runtimes=("onnxruntime",)), QUIET),
    ):
        pass
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with open_models([good], None, ProfileSettings(precisions=("fp32", "bf16")), QUIET) as (opened, _):
            assert [entry.facts.precision for entry in opened] == ["fp32", "bf16"]


def test_a_signal_is_handled_after_networks_have_come_and_gone(good: Path) -> None:
    script = (
        "import signal, sys; from pathlib import Path\n"
        "from compressor.runtimes.openvino_runtime import OpenVinoRuntime as Opened\n"
        "first, second = (Opened(Path(sys.argv[1])) for _ in range(2)); del first; del second\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled')); signal.raise_signal(signal.SIGTERM)\n"
    )
    assert python("-c", script, good).out.strip() == "handled"
