"""LiteRT in int8: close to the network, in integers, refused if it loses too much."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.base.errors import UsageError
from compressor.inference.open import open_model
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build, quantise
from compressor.models.quantisation.description import Quantisation
from compressor.runtimes.table import OpenOptions
from export.convert.litert_file import is_constant, kind_of, pack_model, read_model, text_of
from export.formats.conversion import FileOptions, Int8Options
from export.int8 import search
from export.writing.exporting import FileReport
from tests.support.exports import export_file, run_as_an_app
from tests.support.extras import extra
from tests.support.formats_table import WINDOWS

extra("litert_torch")
extra("ai_edge_quantizer")
interpreter = extra("ai_edge_litert.interpreter")
schema = extra("ai_edge_litert.schema_py_generated")
to_litert_int8 = pytest.importorskip("export.int8.to_litert_int8")
litert_quantiser = extra("export.int8.litert_quantiser")
pytestmark = [pytest.mark.extras, pytest.mark.usefixtures("quick_int8")]

SPEC = EDSRSpec(width=8, depth=1, scale=4)


@pytest.fixture(scope="module")
def good(quick_int8: None, network: Network, tmp_path_factory: pytest.TempPathFactory) -> FileReport:
    file = export_file(network, "litert-int8", tmp_path_factory.mktemp("good"))
    assert file.verdict == "passed", file.reason
    return file


def test_it_is_near_the_network_and_timed_against_float(good: FileReport) -> None:
    assert [part.name for part in good.path.parent.iterdir()] == ["small.int8.tflite"]
    assert good.quality.drop <= 0.1 and good.quality.psnr_to_source is not None and good.quality.psnr_to_source > 40
    assert good.speed.runtime == "litert" and good.speed.ms > 0


def test_the_file_says_what_it_is(good: FileReport, network: Network) -> None:
    runtime = open_model(good.path, OpenOptions(precision="int8"))
    assert (runtime.name, runtime.precision, runtime.spec) == ("litert", "int8", network.spec)
    assert runtime.descriptor == network.descriptor
    assert runtime.metadata["srkd.source_sha256"] == "ab" * 32
    quant = json.loads(runtime.metadata["srkd.quant"])
    assert (quant["flavour"], quant["bits"], quant["in_float"]) == ("litert", 8, "nothing")
    assert quant["calibration"] == "8 patches of embedded photos, flat colours"
    assert quant["drop_db"] == pytest.approx(good.quality.drop, abs=0.01)
    with pytest.raises(UsageError, match="in int8, not bf16"):
        open_model(good.path, OpenOptions(precision="bf16"))


def test_too_much_loss_is_refused_with_its_figures(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "ends_of", lambda layers: iter(()))
    options = FileOptions(int8=Int8Options(max_drop=-1.0))  # no file gains a dB
    file = export_file(network, "litert-int8", tmp_path, options)
    assert file.verdict == "unavailable" and file.reason is not None
    assert file.reason.startswith("in int8 (ai-edge-quantizer) it loses ") and "on 2 photos" in file.reason
    assert list(tmp_path.iterdir()) == []


def test_all_of_edsr_is_in_integers(good: FileReport, network: Network) -> None:
    """The mean shift, each layer, sum and shuffle are in integers; two more operations convert images."""
    facts = good.facts
    assert (facts["operations"], facts["in_int8"], facts["conversions"], facts["sizes"]) == (12, 12, 2, "any")
    model = read_model(good.path.read_bytes())
    (graph,) = model.subgraphs
    stored = [tensor for tensor in graph.tensors if len(tensor.shape) == 4 and is_constant(model, tensor)]
    weights = [tensor for tensor in stored if tensor.shape[1] == 3]
    assert {tensor.type for tensor in stored} == {schema.TensorType.INT8}
    assert sum(int(np.prod(tensor.shape)) for tensor in weights) == sum(
        weight.numel() for weight in network.parameters() if weight.ndim == 4
    )
    for tensor in weights:
        assert len(tensor.quantization.scale) == tensor.shape[0] and not np.any(tensor.quantization.zeroPoint)
    kinds = [kind_of(model, operator) for operator in graph.operators]
    assert kinds[0] == "QUANTIZE" and kinds[-1] == "DEQUANTIZE" and kinds.count("DEPTH_TO_SPACE") == 2
    for index in (graph.operators[0].outputs[0], graph.operators[-1].inputs[0]):
        image = graph.tensors[index].quantization
        assert image.scale[0] == pytest.approx(1 / 255) and image.zeroPoint[0] == -128


def test_an_app_gives_it_any_size(good: FileReport, network: Network) -> None:
    images = [np.random.default_rng(0).random(shape, dtype=np.float32) for shape in ((1, 6, 9, 3), (2, 31, 17, 3))]
    for image, actual in zip(images, run_as_an_app(interpreter, good.path, *images), strict=True):
        expected = network(torch.from_numpy(image).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).clamp(0, 1).numpy()
        assert actual.shape == expected.shape and float(np.square(actual - expected).mean()) < 1e-4


@pytest.mark.parametrize(
    ("spec", "operations", "in_int8"),
    [
        (CompactSpec(width=8, depth=1, scale=4), 9, 7),
        pytest.param(CARNMSpec(width=8, scale=2), 66, 66, marks=pytest.mark.slow),
    ],
    ids=lambda value: value.arch if isinstance(value, Spec) else None,
)
def test_prelus_alone_stay_in_float(
    spec: Spec, operations: int, in_int8: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = export_file(build(spec, seed=3), "litert-int8", tmp_path)
    out, err = capfd.readouterr()
    # Where no test did before, this one imports torch's own quantiser, which names what it lacks.
    assert out == "" and [line for line in err.splitlines() if "/torch" not in line] == []
    assert file.verdict == "passed" and file.path is not None, file.reason
    assert (file.facts["operations"], file.facts["in_int8"]) == (operations, in_int8)
    model = read_model(file.path.read_bytes())
    in_float = [
        kind_of(model, operator)
        for operator in model.subgraphs[0].operators
        if schema.TensorType.FLOAT32 in {model.subgraphs[0].tensors[index].type for index in operator.outputs}
    ]
    assert {kind for kind in in_float if kind != "DEQUANTIZE"} <= {"PRELU"}


@pytest.mark.slow
def test_windows_take_bytes_and_attend_in_float(tmp_path: Path) -> None:
    network = build(WINDOWS, seed=3)
    file = export_file(network, "litert-int8", tmp_path, FileOptions(lr_size=(24, 16), io="uint8"))
    assert file.path is not None and file.facts["sizes"] == "one", file.reason
    runtime = open_model(file.path)
    assert runtime.precision == "int8" and runtime.descriptor.fixed_size == (24, 16)
    lr = torch.rand(1, 3, 16, 24).mul(255).round().div(255)
    expected = network(lr).clamp(0, 1)
    assert (runtime.run(lr) - expected).square().mean() < 1e-3
    model = interpreter.Interpreter(str(file.path))
    for detail in (*model.get_input_details(), *model.get_output_details()):
        assert detail["dtype"] == np.uint8 and detail["quantization"] == (pytest.approx(1 / 255), 0)
    products = [operator for operator in _operators(file.path) if operator[0] in ("BATCH_MATMUL", "SOFTMAX")]
    assert products and all(schema.TensorType.INT8 not in types for _, types in products)


def _operators(path: Path) -> list[tuple[str, set[int]]]:
    model = read_model(path.read_bytes())
    (graph,) = model.subgraphs
    return [
        (kind_of(model, operator), {graph.tensors[index].type for index in (*operator.inputs, *operator.outputs)})
        for operator in graph.operators
    ]


def test_four_bits_are_no_integer_file(tmp_path: Path) -> None:
    network = quantise(build(SPEC, seed=0), Quantisation("pams", 4, "all"))
    file = export_file(network, "litert-int8", tmp_path)
    assert file.path is None and "trained at 4 bits" in (file.reason or "")


def test_what_can_stay_in_float(tmp_path: Path) -> None:
    """The layers and sums of our networks are found in the graph (mean shifts are no sums), and can stay in float."""
    for spec, upsampler, sums in (
        (SPEC, ["conv_2d_7", "conv_2d_9"], ["add_4", "add_6"]),
        (CompactSpec(width=8, depth=1, scale=4), [], ["concatenation_6", "output"]),
    ):
        network = build(spec, seed=0)
        file = export_file(network, "litert", tmp_path / spec.arch)
        model = read_model(file.path.read_bytes())
        to_litert_int8._name_values(model)
        layers = to_litert_int8._layers(model)
        assert len(layers.names) == sum(weight.ndim == 4 for weight in network.parameters())
        assert sorted(layers.upsampler) == upsampler
        assert sorted(to_litert_int8._sums(model)) == sums
        content, patches = pack_model(model), np.random.default_rng(0).random((2, 16, 16, 3), dtype=np.float32)
        ranges = litert_quantiser._ranges(content, patches, whole=False)
        path = tmp_path / f"{spec.arch}.tflite"
        in_float = [layers.names[0], *sums]
        path.write_bytes(litert_quantiser._quantise(content, ranges, in_float, bytes_at_ends=False))
        (graph,) = read_model(path.read_bytes()).subgraphs
        names = [text_of(graph.tensors[operator.outputs[0]].name) for operator in graph.operators]
        by_name = dict(zip(names, _operators(path), strict=True))
        assert all(schema.TensorType.FLOAT32 in by_name[name][1] for name in in_float)
        assert schema.TensorType.INT8 in by_name[layers.names[1]][1]


def test_ranges_leave_out_what_is_rare() -> None:
    """A single outlier in a patch is in whole ranges only, as it is not among the samples."""
    numbers = np.random.default_rng(0).normal(0, 1, 10**6).astype(np.float32)
    numbers[10], numbers[20] = -100, 100
    samples = np.stack([litert_quantiser._sample(numbers, np.random.default_rng(seed)) for seed in range(4)])
    assert litert_quantiser._range(samples, whole=True) == (-100, 100)
    low, high = litert_quantiser._range(samples, whole=False)
    assert -6 < low < -3 and 3 < high < 6
