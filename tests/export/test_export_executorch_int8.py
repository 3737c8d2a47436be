"""ExecuTorch in eight bits: close to the network at any size, computed in integers, refused if it loses too much."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import open_model
from compressor.models.networks.base import Network
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build, quantise
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.quantisation.description import Quantisation
from compressor.runtimes.table import OpenOptions
from export.convert.to_executorch import trace
from export.formats.conversion import FileOptions, Int8Options
from export.int8 import search
from export.int8.float_parts import FloatParts
from export.writing.exporting import FileReport, Source, export_model

pytest.importorskip("executorch")
pytest.importorskip("torchao")
to_executorch_int8 = pytest.importorskip("export.int8.to_executorch_int8")
pytestmark = [pytest.mark.extras, pytest.mark.usefixtures("quick_int8")]

SOURCE = Source("small", "ab" * 32, {"srkd.recipe": "logits"})
EDSR = EDSRSpec(width=8, depth=1, scale=2)


def exported(
    network: Network, folder: Path, options: FileOptions | None = None, notes: list[str] | None = None
) -> FileReport:
    context = Context(note=(notes if notes is not None else []).append)
    (file,) = export_model(network, SOURCE, ["executorch-int8"], folder, context, options=options).files
    return file


@pytest.fixture(scope="module")
def network() -> Network:
    return build(EDSR, seed=0)


NOTES: list[str] = []


@pytest.fixture(scope="module")
def good(quick_int8: None, network: Network, tmp_path_factory: pytest.TempPathFactory) -> FileReport:
    file = exported(network, tmp_path_factory.mktemp("good"), notes=NOTES)
    assert file.verdict == "passed" and file.path is not None, file.reason
    return file


def test_it_is_near_the_network_and_timed_against_float(good: FileReport) -> None:
    assert good.path is not None and good.quality is not None and good.speed is not None
    assert {part.name for part in good.path.parent.iterdir()} == {"small.int8.pte", "small.int8.pte.json"}
    assert good.quality.drop <= 0.1 and good.quality.psnr_to_source is not None and good.quality.psnr_to_source > 45
    assert good.speed.runtime == "executorch" and good.speed.ms > 0


def test_the_file_says_what_it_is(good: FileReport, network: Network) -> None:
    assert good.path is not None and good.quality is not None
    runtime = open_model(good.path)
    assert (runtime.name, runtime.precision, runtime.spec) == ("executorch", "int8", network.spec)
    assert runtime.descriptor.max_size == (512, 512)
    assert runtime.metadata["srkd.source_sha256"] == "ab" * 32
    quant = json.loads(runtime.metadata["srkd.quant"])
    assert (quant["flavour"], quant["bits"], quant["in_float"]) == ("xnnpack", 8, "nothing")
    assert quant["calibration"] == "8 patches of embedded photos, flat colours"
    assert quant["drop_db"] == pytest.approx(good.quality.drop, abs=0.01), "torch computed what XNNPACK does"
    assert "srkd.quant" not in good.facts and "srkd.quant" not in json.loads(sidecar(good).read_text())["facts"]
    assert open_model(good.path, OpenOptions(precision="int8")).precision == "int8"
    with pytest.raises(UsageError, match="in int8, not fp16"):
        open_model(good.path, OpenOptions(precision="fp16"))


def sidecar(file: FileReport) -> Path:
    assert file.path is not None
    return file.path.with_name(file.path.name + ".json")


def test_what_is_computed_with_integers_is_counted(good: FileReport) -> None:
    assert good.facts["int8_operations"] == {"convolution": 6, "add": 2, "relu": 1}
    # The mean shift at both ends, and the operations of a pixel shuffle outside XNNPACK.
    assert good.facts["float_operations"] == {"sub": 1, "mul": 1, "add": 1, "view_copy": 2}
    assert "ExecuTorch: in int8 2 add, 6 convolution, 1 relu; in float 1 add, 1 mul, 1 sub, 2 view_copy" in NOTES
    assert good.bytes is not None and good.path is not None
    assert b"quantize" not in good.path.read_bytes().replace(b"dequantize", b""), "no operator outside of XNNPACK"


def test_a_damaged_program_is_one_line(good: FileReport, tmp_path: Path) -> None:
    assert good.path is not None
    for part in good.path.parent.iterdir():
        (tmp_path / part.name).write_bytes(part.read_bytes())
    path = tmp_path / good.path.name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SrkdError, match=r"small\.int8\.pte .*again"):
        open_model(path)


@pytest.mark.slow
def test_windows_at_one_size(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network = build(SwinIRSpec(width=8, depths=(2,), heads=(2,), window=4, scale=2, features=8), seed=3)
    file = exported(network, tmp_path, FileOptions(lr_size=(24, 16)))
    assert file.verdict == "passed" and file.path is not None, file.reason
    assert file.path.name == "small-24x16.int8.pte"
    runtime = open_model(file.path)
    assert runtime.precision == "int8" and runtime.descriptor.fixed_size == (24, 16)
    lr = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        assert float((runtime.run(lr) - network(lr)).square().mean()) < 1e-3
    with pytest.raises(UsageError, match="24x16 only, got 9x8"):
        runtime.run(torch.rand(1, 3, 8, 9))
    assert capfd.readouterr() == ("", "")


def test_too_much_loss_is_refused_with_its_figures_before_anything_is_lowered(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "ends_of", lambda layers: iter(()))
    monkeypatch.setattr(to_executorch_int8, "lower", lambda program: pytest.fail("lowered"))
    file = exported(network, tmp_path, FileOptions(int8=Int8Options(max_drop=-1.0)))  # no file gains a dB
    assert file.verdict == "unavailable" and file.reason is not None
    assert file.reason.startswith("in int8 (ExecuTorch) it loses ") and "dB of Y-PSNR on 2 photos" in file.reason
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "upsampler", "sums", "floats"),
    [
        (EDSRSpec(width=8, depth=2, scale=4, res_scale=0.1), {"upsampler.convs.0", "upsampler.convs.1"}, 5, 2),
        (CompactSpec(width=8, depth=2, scale=4), set(), 0, 1),
        (RCANSpec(width=8, hidden=2, groups=1, depth=1, scale=2), {"upsampler.convs.0"}, 4, 2),
        (CARNMSpec(width=8, scale=4), None, None, 2),
    ],
    ids=lambda value: getattr(value, "arch", None),
)
def test_what_can_stay_in_float(spec: EDSRSpec, upsampler: set[str] | None, sums: int | None, floats: int) -> None:
    """The layers of our networks are found in the program, and the sums that lead to another layer.

    `floats` are sums and products that are always in float: those of the image at both ends."""
    graph = trace(build(spec, seed=0), None, 128).module().graph
    layers = to_executorch_int8._layers(graph)
    assert len(layers.names) == sum(weight.ndim == 4 for weight in build(spec, seed=0).parameters())
    if upsampler is not None:
        assert set(layers.upsampler) == upsampler

    def kept(parts: FloatParts) -> set[str]:
        summing = {node.name for node in graph.nodes if node.target in to_executorch_int8.SUMS}
        return summing & {node.name for node in to_executorch_int8._in_float(graph, parts)}

    assert len(kept(FloatParts())) == floats
    if sums is not None:
        assert len(kept(FloatParts(sums=True)) - kept(FloatParts())) == sums
    last = FloatParts(layers=frozenset(layers.names[-1:]))
    names = {node.name for node in to_executorch_int8._in_float(graph, last)}
    assert {to_executorch_int8._name(node) for node in graph.nodes if node.name in names} >= set(layers.names[-1:])


def test_layers_that_share_a_weight_are_all_in_integers() -> None:
    network = build(CARNMSpec(width=8, scale=2), seed=0)
    patches = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    module = to_executorch_int8._quantise(trace(network, None, 128).module(), patches, FloatParts())
    layers = [node for node in module.graph.nodes if node.target in to_executorch_int8.LAYERS]
    weights = [str(node.args[1].target) for node in layers]
    assert len(weights) > len(list(network.parameters())) / 2, "blocks are run several times"
    assert all(weight.startswith("quantized_decomposed.dequantize_per_channel") for weight in weights)
    # XNNPACK stores a bias as integers on the grid of one layer: for another layer it would be wrong.
    biases = [node.args[2].target for node in layers]
    assert len(set(biases)) == len(layers)
    with torch.no_grad():
        assert float((module(patches[:1]) - network(patches[:1])).square().mean()) < 1e-4


def test_gates_stay_in_float() -> None:
    """The pooled value of an image is one pixel, whose error would affect all pixels."""
    graph = trace(build(RCANSpec(width=8, hidden=2, groups=1, depth=1, scale=2), seed=0), None, 128).module().graph
    names = {to_executorch_int8._name(node) for node in to_executorch_int8._in_float(graph, FloatParts())}
    assert {name for name in to_executorch_int8._layers(graph).names if name in names} == {
        name for name in to_executorch_int8._layers(graph).names if name.endswith((".squeeze", ".expand"))
    }
    assert any(name.endswith(".squeeze") for name in names)


def test_small_weights_keep_their_bits(network: Network) -> None:
    """A layer whose weights are all below 0.03, and the next one as much larger: torchao's smallest scale would cost
    five of its eight bits."""
    first, second = network.get_parameter("blocks.0.conv1.weight"), network.get_parameter("blocks.0.conv2.weight")
    patches = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))

    def loss(factor: float) -> float:
        with torch.no_grad():
            scaled = build(EDSR, seed=0)
            scaled.get_parameter("blocks.0.conv1.weight").copy_(first * factor)
            scaled.get_parameter("blocks.0.conv1.bias").zero_()
            scaled.get_parameter("blocks.0.conv2.weight").copy_(second / factor)
            module = to_executorch_int8._quantise(trace(scaled, None, 128).module(), patches, FloatParts())
            return float((module(patches[:1]) - scaled(patches[:1])).square().mean())

    assert loss(2.0**-9) == pytest.approx(loss(1.0), rel=0.05)


def test_a_network_that_was_trained_quantised_is_refused(network: Network, tmp_path: Path) -> None:
    file = exported(quantise(network, Quantisation("pams", 8, "all")), tmp_path)
    assert file.verdict == "unavailable" and "pams, 8 bits, placement all" in str(file.reason)
    assert "only --int8 writes the ranges" in str(file.reason)
