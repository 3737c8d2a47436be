"""The common parts of all formats: options, companions, sidecars, files for one size, the table behind help."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import onnx
import pytest
import torch

import srkd
from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import open_model
from compressor.inference.super_resolve import super_resolve
from compressor.inference.tiling import fixed_spans
from compressor.models.checkpoints.save import metadata_of, save_network
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.runtimes.sidecar import format_sidecar, read_sidecar, sidecar_path
from compressor.runtimes.table import RUNTIMES
from export.convert import to_onnx
from export.formats.conversion import Conversion, FileOptions
from export.formats.proof_inputs import proof_inputs
from export.formats.table import FORMATS
from export.writing.exporting import ExportVerdict, Source, export_model
from srkd.cli.main import cli
from tests.support.exports import export_file, new_format

SPEC = EDSRSpec(width=8, depth=1, scale=2)
SOURCE = Source("small")


@pytest.mark.ci
def test_a_file_of_one_size_says_so_and_runs_any_picture(network: Network, tmp_path: Path) -> None:
    report = export_model(network, SOURCE, ["onnx"], tmp_path, options=FileOptions(lr_size=(40, 24)))
    (file,) = report.files
    assert file.verdict == "passed" and file.path == tmp_path / "small-40x24.onnx", file.reason
    assert not any("x" in name for name in report.compared_on) and len(report.compared_on) >= 4
    shape = onnx.load_model(str(file.path)).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in shape] == [1, 3, 24, 40]
    runtime = open_model(file.path)
    assert runtime.descriptor == dataclasses.replace(network.descriptor, fixed_size=(40, 24))
    lr = torch.rand(2, 3, 50, 90)
    tiled = super_resolve(runtime, lr)
    radius = network.descriptor.receptive_radius
    assert radius is not None and radius <= 24 // 4 and tiled.seam is None and tiled.tile == 40
    torch.testing.assert_close(tiled.sr, network(lr), atol=1e-5, rtol=0)
    small = super_resolve(runtime, lr[:, :, :9, :17]).sr
    # Pixels that do not depend on the padding are exact; the border is continued, not padded with zeros.
    height, width = (9 - radius) * 2, (17 - radius) * 2
    expected = network(lr[:, :, :9, :17])[..., :height, :width]
    torch.testing.assert_close(small[..., :height, :width], expected, atol=1e-5, rtol=0)


@pytest.mark.ci
def test_windows_too_small_for_the_network_tell_their_seam(network: Network, tmp_path: Path) -> None:
    deep = build(dataclasses.replace(SPEC, depth=6), seed=0)
    (file,) = export_model(deep, SOURCE, ["onnx"], tmp_path, options=FileOptions(lr_size=(16, 16))).files
    tiled = super_resolve(open_model(file.path), torch.rand(1, 3, 30, 30))
    assert tiled.seam is not None and tiled.seam > 0
    (wide,) = export_model(network, SOURCE, ["onnx"], tmp_path, options=FileOptions(lr_size=(32, 16))).files
    with pytest.raises(UsageError, match="32x16 only: the self-ensemble"):
        super_resolve(open_model(wide.path), torch.rand(1, 3, 20, 20), self_ensemble=True)


@pytest.mark.parametrize(("size", "length", "margin"), [(100, 40, 9), (41, 40, 9), (200, 16, 30), (40, 40, 9)])
def test_fixed_windows_cover_an_axis(size: int, length: int, margin: int) -> None:
    spans = fixed_spans(size, length, margin)
    assert [spans[0].start, *(span.stop for span in spans)] == [*(span.start for span in spans), size]
    for span in spans:
        assert span.length == length and span.begin >= 0 and span.begin + length <= size
        reach = min(margin, length // 4)
        assert span.start - span.begin >= min(reach, span.start)
        assert span.begin + length - span.stop >= min(reach, size - span.stop)


def test_the_inputs_of_a_fixed_size_all_have_it(network: Network) -> None:
    inputs = proof_inputs(dataclasses.replace(network.descriptor, fixed_size=(300, 20)))
    assert {tuple(source.lr.shape) for source in inputs} == {(1, 3, 20, 300)}
    assert all(source.lr.std() > 0.02 for source in inputs if source.photo or source.name == "noise")


def with_companions(job: Conversion) -> Mapping[str, object]:
    facts = to_onnx.convert(job)
    job.path.with_suffix(".bin").write_bytes(b"weights")
    (job.path.parent / "extra").mkdir()
    (job.path.parent / "extra" / "deep.txt").write_text("1")
    return facts


def test_companions_and_sidecar_arrive_with_the_file(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_format(monkeypatch, with_companions, sidecar=True)
    (tmp_path / "small.bin").write_bytes(b"older")
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "old.txt").write_text("0")
    file = export_file(network, "new", tmp_path)
    assert file.verdict == "passed" and file.path is not None
    assert {path.name for path in tmp_path.iterdir()} == {"small.onnx", "small.bin", "small.onnx.json", "extra"}
    assert (tmp_path / "small.bin").read_bytes() == b"weights"
    assert [path.name for path in (tmp_path / "extra").iterdir()] == ["deep.txt"]
    assert file.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    sidecar = read_sidecar(file.path)
    assert sidecar.spec == SPEC and sidecar.descriptor == network.descriptor and sidecar.precision == "fp32"
    assert sidecar.facts["opset"] == 18 and sidecar.metadata["srkd.scale"] == "2"


@pytest.mark.parametrize("when", ["convert", "prove"])
def test_nothing_is_half_written(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def fails(job: Conversion) -> Mapping[str, object]:
        with_companions(job)
        if when == "convert":
            raise SrkdError(f"{job.path} went wrong")
        job.path.write_bytes(b"no graph")
        return {}

    new_format(monkeypatch, fails, sidecar=True)
    (tmp_path / "small.bin").write_bytes(b"older")
    file = export_file(network, "new", tmp_path)
    assert file.verdict == "failed" and str(tmp_path / "small.onnx") in str(file.reason), file.reason
    assert "\n" not in str(file.reason)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"small.bin": b"older"}


def test_a_file_of_another_system_is_written_and_called_unproved(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = dataclasses.replace(RUNTIMES["onnxruntime"], obstacle=lambda: "such files run on amigas only")
    monkeypatch.setitem(RUNTIMES.rows, "onnxruntime", kind)
    new_format(monkeypatch, to_onnx.convert)
    report = export_model(network, SOURCE, ["new"], tmp_path)
    (file,) = report.files
    assert report.ok and file.verdict == "unproved" and file.parity is None and file.path is not None
    assert file.reason == "such files run on amigas only, so the file is not compared with the network"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda message: {**message, "schema": "other/1"}, "its schema is 'other/1'"),
        (lambda message: {**message, "lr_size": "0x4"}, "lr_size '0x4' is not a size"),
        (lambda message: {key: value for key, value in message.items() if key != "metadata"}, "no 'metadata'"),
        (lambda message: {**message, "metadata": {"srkd.spec": '{"arch": "edsr", "width": -1}'}}, "cannot be used"),
    ],
)
def test_a_sidecar_that_says_nonsense(tmp_path: Path, change: object, message: str) -> None:
    path = tmp_path / "small.onnx"
    text = format_sidecar(precision="fp32", lr_size=None, metadata=metadata_of(SPEC), facts={"opset": 18})
    sidecar_path(path).write_text(text)
    assert read_sidecar(path).spec == SPEC
    sidecar_path(path).write_text(json.dumps(change(json.loads(text))))  # type: ignore[operator]
    with pytest.raises(SrkdError) as caught:
        read_sidecar(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    sidecar_path(path).unlink()
    with pytest.raises(SrkdError, match=r"small\.onnx\.json is not beside it"):
        read_sidecar(path)


@pytest.mark.parametrize("name", ["small.bin", "SMALL/../small.bin"])
def test_the_model_is_never_written_over(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A checkpoint is recognised by its content, so it may have the name of a companion of its export."""
    (tmp_path / "SMALL").mkdir()
    save_network(network, tmp_path / "small.safetensors")
    (tmp_path / "small.safetensors").rename(tmp_path / "small.bin")
    before = (tmp_path / "small.bin").read_bytes()
    new_format(monkeypatch, with_companions)
    (file,) = srkd.export(tmp_path / name, formats=["new"]).files
    assert file.verdict == "failed" and "small.bin would be written over the model itself" in str(file.reason)
    assert (tmp_path / "small.bin").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"small.bin", "SMALL"}


def test_formats_do_not_write_over_each_other(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_format(monkeypatch, with_companions)
    other = dataclasses.replace(FORMATS["new"], name="other", suffix=".other.onnx")
    monkeypatch.setitem(FORMATS.rows, "other", other)
    first, second = export_model(network, SOURCE, ["new", "other"], tmp_path).files
    assert first.verdict == "passed" and second.verdict == "failed"
    assert "extra would be written over that of --new" in str(second.reason)
    assert {path.name for path in tmp_path.iterdir()} == {"small.onnx", "small.bin", "extra"}


def test_docs_and_help_know_every_format() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "formats" / "README.md").read_text(encoding="utf-8")
    command = cli.get_command(None, "export")  # type: ignore[arg-type]
    helped = {option: getattr(source, "help", "") for source in command.params for option in source.opts}
    for row in FORMATS.values():
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `--{row.name}` |"))
        assert f"`{row.suffix}`" in line
        for message in (line, helped[f"--{row.name}"]):
            assert ("not run by us" in message) == (not row.tested)
    for verdict in get_args(ExportVerdict):
        assert f"| {verdict} |" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"formats": "onnx", "calibrate": "photos"}, "--calibrate: only files in int8 use this"),
        ({"hosts": "vapoursynth", "data": "photos", "max_drop": 1.0}, "--data and --max-drop: only files in int8"),
        ({"hosts": "vapoursynth", "sizes": ["8x8"]}, "--sizes is for TensorRT engines, and none is asked for"),
    ],
)
def test_options_of_files_that_are_not_asked_for_are_refused(words: Any, message: str, tmp_path: Path) -> None:
    network = build(EDSRSpec(2, 4, 1), seed=0)
    with pytest.raises(UsageError, match=message):
        srkd.export(network, out=tmp_path, **words)
    assert list(tmp_path.iterdir()) == []


def test_a_size_beyond_the_memory_is_one_line_and_stops_no_other_format(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(job: Conversion) -> Mapping[str, object]:
        torch.empty(1 << 50)
        raise AssertionError("this machine has a petabyte")

    new_format(monkeypatch, too_large)
    new, plain = export_model(network, SOURCE, ["new", "onnx"], tmp_path).files
    assert (new.verdict, new.path, plain.verdict) == ("failed", None, "passed")
    assert new.reason == "its images do not fit into memory: name a smaller size"
    assert {path.name for path in tmp_path.iterdir()} == {"small.onnx"}
    huge = FileOptions(lr_size=(999_999, 999_999))
    with pytest.raises(UsageError, match="--static 999999x999999"):
        export_model(network, SOURCE, ["onnx"], tmp_path / "huge", options=huge)
    assert not (tmp_path / "huge").exists()
