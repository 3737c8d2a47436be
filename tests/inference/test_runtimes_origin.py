"""From an exported file to its source checkpoint, without the library that would run it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from onnx import TensorProto

import srkd
from compressor.base.context import QUIET
from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.inference.open import find_source_checkpoint, read_metadata
from compressor.models.checkpoints.save import metadata_of, save_network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.runtimes.sidecar import format_sidecar, sidecar_path
from compressor.runtimes.tensorrt.engine_file import EngineHeader, Machine, write_engine
from compressor.runtimes.tensorrt.profiles import OptimizationProfile
from srkd.api.demonstration import demo_models
from srkd.options.verbs import DemoOptions
from tests.support.onnx_files import enlarger

SMALL = EDSRSpec(scale=4, width=8, depth=1)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    for name, seed in (("another", 1), ("small", 0)):
        save_network(build(SMALL, seed=seed), tmp_path / f"{name}.safetensors")
    return tmp_path / "small.safetensors"


def source_metadata(checkpoint: Path) -> dict[str, str]:
    return {**metadata_of(SMALL), "srkd.source_sha256": file_sha256(checkpoint)}


def sidecar_file(path: Path, metadata: Mapping[str, str]) -> Path:
    path.write_bytes(b"nothing that this machine could run")
    facts: Mapping[str, object] = {}
    text = format_sidecar(precision="fp32", lr_size=None, metadata=metadata, facts=facts)
    sidecar_path(path).write_text(text)
    return path


def engine_file(path: Path, metadata: Mapping[str, str]) -> Path:
    machine, size = Machine("10.16", "a GPU", "9.0", "580"), (1, 3, 64, 64)
    header = EngineHeader(machine, "fp16", OptimizationProfile(size, size, size), metadata)
    write_engine(path, header, b"plan")
    return path


def test_the_checkpoint_is_found_by_its_hash(checkpoint: Path) -> None:
    folder, metadata = checkpoint.parent, source_metadata(checkpoint)
    exported = [sidecar_file(folder / name, metadata) for name in ("a.param", "b.param")]
    exported.append(engine_file(folder / "c.engine", metadata))
    exported.append(Path(str(srkd.export(checkpoint).files[0].path)))
    for file in exported:
        assert read_metadata(file)["srkd.source_sha256"] == metadata["srkd.source_sha256"]
        assert find_source_checkpoint(file) == checkpoint
    checkpoint.unlink()
    with pytest.raises(SrkdError, match=metadata["srkd.source_sha256"][:12]):
        find_source_checkpoint(exported[0])


def test_any_exported_file_is_inspected_and_leads_to_an_export(checkpoint: Path, tmp_path: Path) -> None:
    phone = sidecar_file(tmp_path / "phone.param", source_metadata(checkpoint))
    engine = engine_file(tmp_path / "gpu.engine", source_metadata(checkpoint))
    expected = srkd.inspect(checkpoint)
    for file, kind in ((phone, "ncnn"), (engine, "tensorrt")):
        inspection = srkd.inspect(file, layers=True)
        assert (inspection.architecture, inspection.dialect, inspection.scale) == ("edsr", kind, 4)
        assert (inspection.params, inspection.macs, inspection.spec) == (expected.params, expected.macs, expected.spec)
        assert inspection.sha256 == file_sha256(file) and inspection.bytes == file.stat().st_size and inspection.layers
        with pytest.raises(SrkdError, match="--check takes a teacher"):
            srkd.inspect(file, check=True)
    elsewhere = tmp_path / "exported"
    elsewhere.mkdir()
    copy = sidecar_file(elsewhere / "phone.param", source_metadata(checkpoint))
    notes: list[str] = []
    (exported,) = srkd.export(copy, out=tmp_path / "out", announce=notes.append).files
    assert exported.verdict == "passed" and exported.path == tmp_path / "out" / "small.onnx"
    note, room = notes
    assert note == f"{copy} is an exported file: starting from {checkpoint}, which it was made from"
    assert room.startswith("fp16 safe: ") and f" {exported.facts['largest_activation']:.4g} " in room
    checkpoint.unlink()
    with pytest.raises(SrkdError, match="an export starts from"):
        srkd.export(phone)
    with pytest.raises(SrkdError, match=r"nowhere\.param: no such file"):
        srkd.export(tmp_path / "nowhere.param")


def test_what_is_alone_or_foreign_is_refused_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    phone = sidecar_file(tmp_path / "phone.param", source_metadata(checkpoint))
    foreign = enlarger(tmp_path / "bytes.onnx", kind=TensorProto.UINT8)
    checkpoint.unlink()
    with pytest.raises(SrkdError, match="name its checkpoint"):
        demo_models(DemoOptions([phone]), QUIET)
    with pytest.raises(SrkdError, match="uint8"):
        demo_models(DemoOptions([foreign]), QUIET)
