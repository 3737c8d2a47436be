"""`export` keeps a file only if it equals the network; every failure is one line and leaves no file."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxsim
import pytest
import torch

import srkd
from compressor.base.context import Context
from compressor.images.sets import embedded_photos
from compressor.inference.open import open_model
from compressor.models.networks.base import Descriptor, Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.runtimes.onnx_runtime import OnnxRuntime
from compressor.runtimes.torch_runtime import TorchRuntime
from demo.catalogue import read_model
from export.convert import to_onnx
from export.formats.conversion import Conversion
from export.formats.proof_inputs import ProofInput, proof_inputs
from export.formats.table import FP32, Bounds
from export.graph import onnx_graph
from export.proof.verify import verify
from export.writing.exporting import Source, export_metadata, export_model
from tests.support.exports import export_file, new_format
from tests.support.onnx_files import scaled

SOURCE = Source("small", "ab" * 32, {"srkd.recipe": "logits", "srkd.scores": "{}", "srkd.source_sha256": "teacher's"})
SPEC = EDSRSpec(width=8, depth=2, scale=4)
SPECS = (SPEC, EDSRSpec(width=8, depth=1, scale=2, res_scale=0.1, mean_shift="file"))


@pytest.fixture(scope="module")
def good(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "small.onnx"
    to_onnx.convert(Conversion(copy.deepcopy(network), path, export_metadata(network, SOURCE)))
    return path


@pytest.mark.ci
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch}x{spec.scale}{spec.mean_shift[0]}")
def test_an_edsr_exports_and_equals_itself(spec: EDSRSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network = build(spec, seed=3).train()
    report = export_model(network, SOURCE, (), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert network.training and next(network.parameters()).requires_grad
    (file,) = report.files
    assert report.ok and file.verdict == "passed" and file.reason is None and file.path == tmp_path / "small.onnx"
    assert file.parity is not None and file.parity.max_abs <= 1e-5
    assert file.bytes == file.path.stat().st_size and file.facts["opset"] == 18
    assert {path.name for path in tmp_path.iterdir()} == {"small.onnx"}
    network.eval()
    runtime = open_model(file.path)
    for batch, height, width in ((1, 1, 1), (1, 13, 7), (3, 5, 17)):
        lr = torch.rand(batch, 3, height, width)
        torch.testing.assert_close(runtime.run(lr), network(lr), atol=1e-4, rtol=0)


def test_the_file_says_what_it_is(network: Network, good: Path) -> None:
    model = onnx.load_model(str(good))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    (source,), (target,) = model.graph.input, model.graph.output
    dims = [dim.dim_param or dim.dim_value for dim in source.type.tensor_type.shape.dim]
    assert (source.name, target.name, dims) == ("input", "output", ["n", 3, "h", "w"])
    assert "RGB" in source.doc_string and "4 times larger" in target.doc_string
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    assert metadata["srkd.source_sha256"] == "ab" * 32 and metadata["srkd.recipe"] == "logits"
    assert (metadata["srkd.scale"], metadata["srkd.range"], metadata["srkd.scores"]) == ("4", "0..1", "{}")
    assert all(key.startswith("srkd.") for key in metadata)
    assert OnnxRuntime(good).spec == network.spec
    assert "blocks.0.conv1/" in " ".join(node.name for node in model.graph.node)


def test_the_file_names_no_path_and_is_the_same_twice(network: Network, good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    for word in (b"site-packages", b"/compressor/", b"stack_trace", str(Path.cwd()).encode()):
        assert word not in content
    to_onnx.convert(Conversion(copy.deepcopy(network), tmp_path / "again.onnx", export_metadata(network, SOURCE)))
    assert (tmp_path / "again.onnx").read_bytes() == content


Change = Callable[[onnx.ModelProto], None]


def shuffled_otherwise(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "mode":
                attribute.s = b"DCR"


def fixed_size(model: onnx.ModelProto) -> None:
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (64, 96), strict=True):
        dim.dim_value = size


def not_a_graph(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type = "Rule"


def black(model: onnx.ModelProto) -> None:
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["full" if name == output else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Sub", ["full", "full"], [output], name="black"))


def wrong_metadata(model: onnx.ModelProto) -> None:
    for prop in model.metadata_props:
        if prop.key == "srkd.spec":
            prop.value = prop.value.replace('"depth": 2', '"depth": 3')


def corrupting(monkeypatch: pytest.MonkeyPatch, good: Path, change: Change) -> None:
    """Add a format whose converter writes the good file with one change."""

    def convert(job: Conversion) -> Mapping[str, object]:
        model = onnx.load_model(str(good))
        change(model)
        onnx.save_model(model, str(job.path))
        return {}

    new_format(monkeypatch, convert, "corrupt")


@pytest.mark.ci
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scaled("tail.weight", 1.01), "differs from the network by"),
        (scaled("tail.bias", float("nan")), "gives nan on photo astronaut at n=0 c=0 y=0 x=0"),
        (shuffled_otherwise, "differs from the network by"),
        (fixed_size, r"describes itself as Descriptor\(scale=4"),
        (not_a_graph, "small.onnx is not a model ONNX Runtime can open"),
        (black, "differs from the network by"),
        (wrong_metadata, "describes itself as"),
    ],
    ids=["tail", "nan", "shuffle", "fixed size", "unknown operator", "black", "metadata"],
)
def test_a_wrong_file_gets_no_name(
    network: Network, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, message: str
) -> None:
    corrupting(monkeypatch, good, change)
    report = export_model(network, SOURCE, ["corrupt"], tmp_path)
    (file,) = report.files
    assert not report.ok and file.verdict == "failed" and file.path is None and file.bytes is None
    assert file.reason is not None and re.search(message, file.reason) and "\n" not in file.reason
    assert "/.small." not in file.reason and list(tmp_path.iterdir()) == []


def test_one_failure_does_not_stop_the_others(
    network: Network, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupting(monkeypatch, good, scaled("tail.weight", 1.01))
    (tmp_path / "small.onnx").write_bytes(b"older")
    report = export_model(network, SOURCE, ["corrupt", "onnx"], tmp_path)
    assert [file.verdict for file in report.files] == ["failed", "passed"] and not report.ok
    assert "of an earlier export is unchanged" in str(report.files[0].reason)
    assert OnnxRuntime(tmp_path / "small.onnx").spec == network.spec


def test_what_the_exporter_cannot_convert(network: Network, tmp_path: Path) -> None:
    class Undecided(type(network)):  # type: ignore[misc]
        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            return super().forward(lr) if float(lr.sum()) > 0 else lr

    file = export_file(Undecided(SPECS[0]).eval(), "onnx", tmp_path)
    assert file.verdict == "failed" and "torch's exporter cannot convert edsr" in str(file.reason)
    assert "\n" not in str(file.reason) and list(tmp_path.iterdir()) == []


@pytest.mark.ci
def test_a_network_that_is_constant_may_be_exported_and_one_that_is_not_finite_may_not(
    network: Network, tmp_path: Path
) -> None:
    flat, broken = copy.deepcopy(network), copy.deepcopy(network)
    for parameter in flat.parameters():
        parameter.data.zero_()
    for parameter in broken.parameters():
        parameter.data.mul_(1e20)
    assert export_model(flat, SOURCE, (), tmp_path / "flat").ok
    file = export_file(broken, "onnx", tmp_path / "broken")
    assert "the network itself gives values that are not finite" in str(file.reason)


@pytest.mark.parametrize("fails", ["larger", "raises", "unequal"])
def test_onnxsim_is_used_only_when_it_helps(
    network: Network, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def simplify(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        if fails == "raises":
            raise RuntimeError("no")
        if fails == "unequal":
            return onnx.ModelProto(), False
        larger = copy.deepcopy(model)
        larger.graph.node.append(onnx.helper.make_node("Identity", ["input"], ["unused"], name="unused"))
        return larger, True

    monkeypatch.setattr(onnxsim, "simplify", simplify)
    facts = to_onnx.convert(Conversion(copy.deepcopy(network), tmp_path / "x.onnx", {}))
    plain_nodes = len(onnx.load_model(str(tmp_path / "x.onnx")).graph.node)
    assert plain_nodes == facts["nodes"]
    assert len(onnx.load_model(str(good)).graph.node) < plain_nodes, "onnxsim takes nothing away where it works"
    assert b"stack_trace" not in (tmp_path / "x.onnx").read_bytes()


@pytest.mark.ci
@pytest.mark.parametrize("format", ["onnx", "fp16"])
def test_a_simplifier_that_damages_the_graph(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It claims that its graph is equal, but the last convolution is a fifth too strong."""
    simplify = onnxsim.simplify

    def damaged(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        simpler, equal = simplify(model)
        scaled("tail.weight", 1.2)(simpler)
        return simpler, equal

    monkeypatch.setattr(onnxsim, "simplify", damaged)
    file = export_file(build(SPECS[1], seed=0), format, tmp_path)
    assert file.verdict == "failed" and list(tmp_path.iterdir()) == []


@pytest.mark.ci
@pytest.mark.usefixtures("quick_int8")
def test_one_export_traces_a_network_once_and_its_spread_streams_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces: list[object] = []

    def trace(*args: object, **options: object) -> object:
        traces.append(args)
        return original(*args, **options)  # type: ignore[arg-type]

    original = onnx_graph.trace
    monkeypatch.setattr(onnx_graph, "trace", trace)
    report = export_model(build(SPECS[1], seed=7), Source("small"), ["onnx", "fp16", "int8"], tmp_path, Context())
    assert [file.format for file in report.files] == ["onnx", "fp16", "int8", "int8-trt"]
    assert len(traces) == 2


def test_the_inputs_are_photos_flat_colours_noise_and_odd_sizes() -> None:
    inputs = {source.name: source for source in proof_inputs(Descriptor(scale=4))}
    photos = [source for source in inputs.values() if source.photo]
    assert len(photos) == len(embedded_photos("val")) >= 1
    assert all(tuple(source.lr.shape) == (1, 3, 64, 96) and source.lr.std() > 0.02 for source in photos)
    assert inputs["black"].lr.max() == 0 and inputs["white"].lr.min() == 1
    shapes = {tuple(source.lr.shape) for source in inputs.values()}
    assert {(1, 3, 1, 1), (1, 3, 13, 7), (1, 3, 5, 17), (2, 3, 9, 11)} <= shapes
    for source in proof_inputs(Descriptor(scale=2, channels=1, size_multiple=8, min_size=16)):
        _batch, channels, height, width = source.lr.shape
        assert channels == 1 and height % 8 == width % 8 == 0 and min(height, width) >= 16


Run = Callable[[torch.Tensor], torch.Tensor]


def doctored(network: Network, change: Run) -> Run:
    return lambda lr: change(TorchRuntime(network, label="doctored").run(lr))


def test_parity_is_measured_where_it_is_worst(network: Network) -> None:
    def shift(sr: torch.Tensor) -> torch.Tensor:
        sr[0, 1, 2, 3] += 0.5
        return sr

    inputs = [ProofInput("photo p", torch.rand(1, 3, 4, 4), photo=True), ProofInput("noise", torch.rand(2, 3, 2, 2))]
    reference = doctored(network, lambda sr: sr)
    proof = verify(doctored(network, shift), reference, inputs, Bounds(1e-4))
    assert proof.parity is not None and proof.parity.max_abs == pytest.approx(0.5, abs=1e-5)
    assert proof.parity.at == (0, 1, 2, 3) and "on photo p at n=0 c=1 y=2 x=3" in str(proof.reason)
    assert proof.parity.psnr == pytest.approx(10 * np.log10(3 * 16 * 16 / 0.25), abs=1e-3)
    equal = verify(reference, reference, inputs, Bounds(1e-4))
    assert equal.reason is None and equal.parity is not None and (equal.parity.max_abs, equal.parity.psnr) == (0, None)


def test_bounds_differ_on_photos_and_elsewhere(network: Network) -> None:
    reference, near = doctored(network, lambda sr: sr), doctored(network, lambda sr: sr + 0.01)
    photo, noise = (ProofInput(name, torch.rand(1, 3, 4, 4), photo=name == "photo") for name in ("photo", "noise"))

    def reason(source: ProofInput, bounds: Bounds) -> str | None:
        return verify(near, reference, [source], bounds).reason

    assert reason(noise, Bounds(1e-4, max_abs_elsewhere=0.1)) is None
    assert reason(photo, Bounds(1e-4, max_abs_elsewhere=0.1)) is not None
    assert reason(photo, Bounds(0.1, min_psnr=39)) is None
    assert "40.0 dB from the network on photos" in str(reason(photo, Bounds(0.1, min_psnr=60)))


def test_more_is_allowed_where_the_network_itself_amplifies_rounding(network: Network) -> None:
    """Not on photos, and not where the network is calm: there a difference of 0.03 is one of the file."""
    photo, noise = (ProofInput(name, torch.rand(1, 3, 4, 4), photo=name == "photo") for name in ("photo", "noise"))

    def reason(source: ProofInput, gain: float, bounds: Bounds) -> str | None:
        reference, near = (doctored(network, lambda sr, off=off: sr * gain + off) for off in (0, 0.03))
        return verify(near, reference, [source], bounds).reason

    assert reason(noise, 1e5, FP32) is None
    assert reason(photo, 1e5, FP32) is not None
    assert reason(noise, 1e5, dataclasses.replace(FP32, rounding=0.0)) is not None
    assert reason(noise, 1, FP32) is not None


def test_what_keeps_something_from_other_images_is_caught(network: Network) -> None:
    runs = 0

    def tiring(sr: torch.Tensor) -> torch.Tensor:
        nonlocal runs
        runs += 1
        return sr if runs <= 2 else sr * 0.9

    reference = doctored(network, lambda sr: sr)
    inputs = [ProofInput("photo p", torch.rand(1, 3, 4, 4), photo=True), ProofInput("noise", torch.rand(1, 3, 4, 4))]
    proof = verify(doctored(network, tiring), reference, inputs, Bounds(1e-4))
    assert "the second time differs from the network by" in str(proof.reason) and "on photo p" in str(proof.reason)


NOW, BEFORE = ("input", "output"), ("lr", "sr")


def rename_onnx(path: Path, new: Mapping[str, str]) -> None:
    """Rename what the graph takes and returns; values inside may be named after them, which is of no account."""
    model = onnx.load_model(str(path))
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = new[value.name]
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))


def test_a_file_of_before_in_the_verbs(network: Network, tmp_path: Path) -> None:
    """Enlarged, timed and shown in a browser under its own names."""
    now = export_file(network, "onnx", tmp_path).path
    old = tmp_path / "old.onnx"
    old.write_bytes(now.read_bytes())
    rename_onnx(old, dict(zip(NOW, BEFORE, strict=True)))
    picture = torch.rand(3, 30, 41)
    enlarged = srkd.upscale(old, picture)
    assert isinstance(enlarged, torch.Tensor) and torch.equal(enlarged, srkd.upscale(now, picture))
    report = srkd.profile(old, runtime=("onnxruntime",), lr_size="24x20", seconds=0.1, memory=False)
    assert report.rows[0].runtime == "onnxruntime"
    shown = read_model(old, "old", "student")
    assert (shown.input, shown.output) == BEFORE
    session = onnxruntime.InferenceSession(shown.content)
    (sr,) = session.run([shown.output], {shown.input: picture[None].numpy()})
    assert sr.shape == (1, 3, 120, 164)
