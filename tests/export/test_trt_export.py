"""`srkd export --trt` on a machine with a GPU (simulated by a double), and on one without."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from compressor.base.errors import UsageError
from compressor.inference.open import open_model
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network
from compressor.runtimes.tensorrt import installation
from compressor.runtimes.tensorrt.engine_file import read_engine
from export.convert import to_onnx
from export.formats.conversion import DEFAULTS, Conversion, FileOptions, tuned_and_largest
from export.formats.table import FORMATS
from export.writing.exporting import FileReport, Source, export_model
from tests.support.commands import srkd
from tests.support.nvidia import Nvidia, needs_linux

pytestmark = pytest.mark.usefixtures("quick_int8")
TRACED: dict[FileOptions, tuple[Path, dict[str, object]]] = {}


@pytest.fixture(autouse=True)
def _traced_once(network: Network, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace each variant once, as torch's exporter takes seconds."""

    def convert(job: Conversion) -> Mapping[str, object]:
        file = TRACED.get(job.options)
        if file is None:
            file = tmp_path_factory.mktemp("traced") / "small.onnx", dict(traced(job))
            shutil.copy(job.path, file[0])
            TRACED[job.options] = file
        shutil.copy(file[0], job.path)
        return file[1]

    traced = to_onnx.convert
    monkeypatch.setattr(to_onnx, "convert", convert)


def exported(network: Network, folder: Path, name: str, options: FileOptions = DEFAULTS) -> tuple[FileReport, ...]:
    return export_model(network, Source("small"), [name], folder, options=options).files


@pytest.mark.ci
@needs_linux
@pytest.mark.parametrize(
    ("name", "precision", "onnx"),
    [("trt", "fp16", "small.fp16.onnx"), ("trt-bf16", "bf16", "small.bf16.onnx")],
)
def test_an_engine_is_proved_and_named_after_its_machine(
    gpu: Nvidia, network: Network, tmp_path: Path, name: str, precision: str, onnx: str
) -> None:
    file, source = export_model(network, Source("small"), [name, precision], tmp_path / "out").files
    assert file.verdict == source.verdict == "passed" and file.path is not None, (file.reason, source.reason)
    assert file.path.name == f"small.{precision}.trt11.4.0.106-h200-sm90.engine"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {file.path.name, onnx}
    assert file.facts["built_from"] == onnx and file.facts["gpu"] == "NVIDIA H200"
    runtime = open_model(file.path)
    assert runtime.spec == network.spec and runtime.precision == precision
    assert runtime.descriptor == dataclasses.replace(network.descriptor, max_size=(512, 512))
    lr = torch.rand(2, 3, 9, 7)
    assert 1e-5 < (runtime.run(lr) - network(lr)).abs().max() < 0.05


@pytest.mark.ci
@needs_linux
def test_an_engine_in_eight_bits_is_built_from_the_file_that_tensorrt_takes(
    gpu: Nvidia, network: Network, tmp_path: Path
) -> None:
    (file,) = exported(network, tmp_path / "out", "trt-int8", FileOptions(sizes=((40, 24), (64, 48))))
    assert file.verdict == "passed" and file.path is not None, file.reason
    assert file.path.name == "small.int8.trt11.4.0.106-h200-sm90.engine"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {file.path.name, "small.int8-trt.onnx"}
    assert file.facts["built_from"] == "small.int8-trt.onnx" and file.facts["typed_by"] == "the ONNX file"
    runtime, onnx = open_model(file.path), open_model(tmp_path / "out" / "small.int8-trt.onnx")
    assert runtime.precision == "int8" and json.loads(runtime.metadata["srkd.quant"])["flavour"] == "tensorrt"
    lr = torch.rand(1, 3, 17, 30)
    assert torch.equal(runtime.run(lr), onnx.run(lr))
    assert file.quality is not None and file.quality.drop <= 0.1, "photos are cut to what the engine takes"
    assert file.speed is not None and file.speed.lr_size == (64, 48) and " fp16 in tensorrt " in str(file.speed)


@needs_linux
@pytest.mark.slow
def test_sizes_and_one_size(gpu: Nvidia, network: Network, tmp_path: Path) -> None:
    (file,) = exported(network, tmp_path, "trt", FileOptions(sizes=((40, 24), (64, 32))))
    assert file.verdict == "passed" and file.path is not None, file.reason
    header, _ = read_engine(file.path)
    assert header is not None and str(header.profile) == "1x1,40x24,64x32"
    (file,) = exported(network, tmp_path, "trt", FileOptions(lr_size=(40, 24)))
    assert file.verdict == "passed" and file.path is not None, file.reason
    assert file.path.name.startswith("small-40x24.fp16.trt") and (tmp_path / "small-40x24.fp16.onnx").is_file()
    assert open_model(file.path).descriptor.fixed_size == (40, 24)


def test_sizes_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match=r"--static.*--sizes"):
        FileOptions(lr_size=(8, 8), sizes=((40, 24), (64, 32)))
    with pytest.raises(UsageError, match="--sizes 64x32,40x24"):
        tuned_and_largest([(64, 32), (40, 24)])
    with pytest.raises(UsageError, match=r"--sizes .*\b3 sizes.*320x180,640x360"):
        tuned_and_largest([(1, 1)] * 3)
    assert tuned_and_largest([(64, 32)]) == ((64, 32), (64, 32)) and tuned_and_largest(None) is None


@pytest.mark.ci
@needs_linux
def test_an_engine_that_fails_leaves_nothing(gpu: Nvidia, network: Network, tmp_path: Path) -> None:
    gpu.is_(fault="drift")
    (file,) = exported(network, tmp_path / "out", "trt")
    assert file.verdict == "failed" and "by 0.5" in str(file.reason) and "\n" not in str(file.reason)
    assert list((tmp_path / "out").iterdir()) == []


@needs_linux
def test_no_gpu_behind_a_driver(gpu: Nvidia, network: Network, tmp_path: Path) -> None:
    gpu.is_(gpus="0")
    (file,) = exported(network, tmp_path / "out", "trt")
    assert file.verdict == "unavailable" and "No CUDA GPUs" in str(file.reason)


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "DRIVER", "libcuda-that-is-not-there.so.1")


def trtexec(reason: str) -> dict[str, str]:
    """The options of the trtexec command at the end of a line."""
    command = shlex.split(reason[reason.index("trtexec ") :])
    return dict(word.removeprefix("--").partition("=")[::2] for word in command[1:])


def test_without_nvidia_the_onnx_file_and_the_command_are_given(
    no_driver: None, network: Network, tmp_path: Path
) -> None:
    engine, onnx = exported(network, tmp_path, "trt", FileOptions(sizes=((40, 24), (64, 32))))
    assert (engine.verdict, engine.path, onnx.format, onnx.verdict) == ("unavailable", None, "fp16", "passed")
    reason = str(engine.reason)
    assert reason.startswith("no NVIDIA driver here: libcuda-that-is-not-there.so.1 cannot be loaded; wrote")
    assert "\n" not in reason and str(tmp_path / "small.fp16.onnx") in reason
    shapes = {"minShapes": "input:1x3x1x1", "optShapes": "input:1x3x24x40", "maxShapes": "input:1x3x32x64"}
    files = {"onnx": "small.fp16.onnx", "saveEngine": "small.fp16.engine"}
    assert trtexec(reason) == {**files, **shapes, "stronglyTyped": ""}
    engine, _ = exported(network, tmp_path, "trt", FileOptions(lr_size=(40, 24)))
    assert set(trtexec(str(engine.reason))) == {"onnx", "stronglyTyped", "saveEngine"}


@pytest.mark.ci
@pytest.mark.parametrize("options", [FileOptions(), FileOptions(lr_size=(40, 24))])
def test_without_nvidia_the_file_in_eight_bits_and_its_command_are_given(
    no_driver: None, network: Network, tmp_path: Path, options: FileOptions
) -> None:
    engine, onnx = exported(network, tmp_path, "trt-int8", options)
    stem = "small" if options.lr_size is None else "small-40x24"
    assert (engine.verdict, onnx.format, onnx.verdict) == ("unavailable", "int8-trt", "passed")
    words = trtexec(str(engine.reason))
    assert (words["onnx"], words["saveEngine"]) == (f"{stem}.int8-trt.onnx", f"{stem}.int8.engine")
    # Version 10 uses the file's integers only with this flag, together with which flags for float would fail.
    assert "stronglyTyped" in words and not {"int8", "fp16", "best"} & set(words)
    assert ("optShapes" in words) == (options.lr_size is None)


def test_a_choice_that_engines_have_not_leads_to_no_advice(no_driver: None, network: Network, tmp_path: Path) -> None:
    (engine,) = exported(network, tmp_path, "trt", FileOptions(io="uint8"))
    assert engine.verdict == "unavailable" and "has no --" in str(engine.reason)
    assert "trtexec" not in str(engine.reason) and list(tmp_path.iterdir()) == []


def test_what_was_asked_for_by_name_is_written_once(no_driver: None, network: Network, tmp_path: Path) -> None:
    report = export_model(network, Source("small"), ["fp16", "trt"], tmp_path)
    assert [file.format for file in report.files] == ["fp16", "trt"] and not report.ok
    assert not any(file.verdict == "failed" for file in report.files)


@pytest.mark.ci
def test_the_command_writes_what_it_can_and_exits_1(network: Network, tmp_path: Path) -> None:
    if FORMATS["trt"].missing_requirement() is None:
        pytest.skip("this machine has TensorRT and a driver")
    save_network(network, tmp_path / "small.safetensors")
    done = srkd("export", tmp_path / "small.safetensors", "--trt", "--json", "-q")
    assert done.code == 1 and done.err.strip().count("\n") == 0
    files = {file["format"]: file for file in json.loads(done.out)["files"]}
    assert files["trt"]["verdict"] == "unavailable" and files["fp16"]["verdict"] == "passed"
    assert (tmp_path / "small.fp16.onnx").is_file() and "trtexec --onnx=small.fp16.onnx" in done.err
    assert {path.name for path in tmp_path.glob("small.*")} == {"small.safetensors", "small.fp16.onnx", "small.md"}
