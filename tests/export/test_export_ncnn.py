"""ncnn files equal the network at any size, and a damaged one is reported before ncnn reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import open_model
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.runtimes.ncnn_runtime import checksum
from compressor.runtimes.sidecar import read_sidecar, sidecar_path
from compressor.runtimes.table import OpenOptions
from export.convert import to_ncnn
from export.formats.conversion import FileOptions
from export.formats.proof_inputs import proof_inputs
from export.writing.exporting import FileReport, Source, export_model
from tests.support.commands import srkd

ncnn = pytest.importorskip("ncnn")
pytest.importorskip("pnnx")
pytestmark = pytest.mark.extras

SPECS: tuple[Spec, ...] = (
    EDSRSpec(width=8, depth=2, scale=4),
    EDSRSpec(width=8, depth=1, scale=3, res_scale=0.1, mean_shift="file"),
    RCANSpec(width=8, groups=2, depth=1, hidden=2, scale=2),
    CompactSpec(width=8, depth=2, scale=4),
    CompactSpec(width=8, depth=1, scale=3, channels=1),
    CARNSpec(width=8, scale=4),
    CARNMSpec(width=8, scale=3),
)


def exported(network: Network, folder: Path, options: FileOptions | None = None) -> FileReport:
    (file,) = export_model(network, Source("small"), ["ncnn"], folder, options=options).files
    return file


@pytest.fixture(scope="module")
def network() -> Network:
    return build(EDSRSpec(width=8, depth=1, scale=2), seed=0)


@pytest.fixture(scope="module")
def good(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = exported(network, tmp_path_factory.mktemp("good"))
    assert file.path is not None, file.reason
    return file.path


@pytest.fixture
def copy_of(good: Path, tmp_path: Path) -> Path:
    for file in good.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / good.name


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch}-x{spec.scale}")
def test_a_file_does_what_the_network_does(spec: Spec, tmp_path: Path) -> None:
    network = build(spec, seed=0)
    file = exported(network, tmp_path)
    assert file.verdict == "passed" and file.path is not None and file.parity is not None, file.reason
    assert file.parity.max_abs < 2e-5
    assert {path.name for path in tmp_path.iterdir()} == {"small.param", "small.bin", "small.param.json"}
    assert file.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    layers = [line.split() for line in file.path.read_text().splitlines()[2:]]
    assert layers[0][:5] == ["Input", "data", "0", "1", "data"]
    assert [line[3 + int(line[2]) + int(line[3])] for line in layers].count("output") == 1
    runtime = open_model(file.path)
    assert runtime.descriptor == network.descriptor and runtime.spec == spec
    assert (runtime.name, runtime.precision, runtime.device) == ("ncnn", "fp32", "cpu")
    assert runtime.metadata["srkd.scale"] == str(spec.scale)


@pytest.mark.parametrize(
    "spec",
    [
        SwinIRSpec(width=12, depths=(2, 1), heads=(2, 3), window=4, features=8, scale=2),
        SwinIRSpec(width=8, depths=(2,), heads=(2,), window=4, upsampler="pixelshuffledirect", padding="testscript"),
    ],
    ids=lambda spec: spec.padding,
)
def test_window_attention_at_one_size(spec: SwinIRSpec, tmp_path: Path) -> None:
    network = build(spec, seed=0)
    file = exported(network, tmp_path, FileOptions(lr_size=(22, 17)))
    assert file.verdict == "passed" and file.path is not None and file.parity is not None, file.reason
    assert file.parity.max_abs < 2e-5
    runtime = open_model(file.path)
    assert runtime.descriptor == replace(network.descriptor, fixed_size=(22, 17))
    with pytest.raises(UsageError, match=r"22x17.*16x17"):
        runtime.run(torch.rand(1, 3, 17, 16))


def test_fp32_stays_fp32(network: Network, good: Path) -> None:
    """By default ncnn computes in 16 bit if the processor can, which gives errors of a thousandth of the range."""
    large = next(source.lr for source in proof_inputs(network.descriptor) if source.photo)
    runtime = open_model(good, OpenOptions(threads=1))
    with torch.no_grad():
        assert (runtime.run(large) - network(large)).abs().max() < 5e-6
    options = runtime._net.opt  # type: ignore[attr-defined]
    assert not any(getattr(options, name) for name in dir(options) if "fp16" in name or "bf16" in name)
    assert options.num_threads == 1


def test_a_file_runs_without_ours_in_the_way(network: Network, good: Path) -> None:
    """Common upscalers use blobs called data and output, and divide pixels of 0..255 by 255."""
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    assert net.load_param(str(good)) == 0 and net.load_model(str(good.with_suffix(".bin"))) == 0
    pixels = torch.randint(0, 256, (12, 10, 3), dtype=torch.uint8)
    source = ncnn.Mat.from_pixels(pixels.numpy(), ncnn.Mat.PixelType.PIXEL_RGB, 10, 12)
    source.substract_mean_normalize([], [1 / 255] * 3)
    extractor = net.create_extractor()
    extractor.input("data", source)
    failed, out = extractor.extract("output")
    assert failed == 0
    with torch.no_grad():
        expected = network(pixels.permute(2, 0, 1)[None] / 255.0)[0]
    torch.testing.assert_close(torch.tensor(out.numpy()), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("damage", ["weights", "short", "layers", "gone", "foreign", "sidecar"])
def test_a_damaged_file_is_one_line(copy_of: Path, damage: str) -> None:
    weights = copy_of.with_suffix(".bin")
    message = {
        "weights": "damaged or not of one export",
        "short": "damaged or not of one export",
        "layers": "damaged or not of one export",
        "gone": "its weights, small.bin, are not beside it",
        "foreign": "is not a network that this ncnn can open",
        "sidecar": "small.param.json is not beside it: copy that",
    }[damage]
    content = weights.read_bytes()
    if damage == "weights":
        weights.write_bytes(content[:500] + bytes([content[500] ^ 64]) + content[501:])
    elif damage == "short":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "layers":
        copy_of.write_text(copy_of.read_text().replace("0=8 ", "0=9 ", 1))
    elif damage == "gone":
        weights.unlink()
    elif damage == "sidecar":
        sidecar_path(copy_of).unlink()
    else:
        before = checksum(copy_of)
        copy_of.write_text("7767517\n1 1\nNoSuchLayer a 0 1 data\n")
        text = sidecar_path(copy_of).read_text()
        sidecar_path(copy_of).write_text(text.replace(before, checksum(copy_of)))
    with pytest.raises(SrkdError) as caught:
        open_model(copy_of)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", "pnnx cannot convert edsr: exit code -11"),
        ("echo starting; echo 'what():  too long' >&2; exit 3", "pnnx cannot convert edsr: too long"),
        ("exit 0", "pnnx cannot convert edsr"),
        (
            "printf '7767517\\n1 1\\nTensor.reshape a 0 1 in0\\n' > made.param; touch made.bin",
            "no ncnn layer for Tensor",
        ),
    ],
)
def test_a_pnnx_that_fails_is_one_line(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    fake = tmp_path / "pnnx"
    fake.write_text(f"#!/bin/bash\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr("pnnx.EXEC_PATH", str(fake))
    file = exported(network, tmp_path / "out")
    assert file.verdict == "unavailable" and message in str(file.reason) and "\n" not in str(file.reason)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_pnnx_that_does_not_end_is_ended(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "pnnx"
    fake.write_text("#!/bin/bash\nexec sleep 60\n")
    fake.chmod(0o755)
    monkeypatch.setattr("pnnx.EXEC_PATH", str(fake))
    monkeypatch.setattr(to_ncnn, "TIMEOUT_SECONDS", 1)
    file = exported(network, tmp_path / "out")
    assert file.verdict == "failed" and file.reason == "pnnx took over 1 s to convert edsr"


def test_a_crash_of_ncnn_is_one_line(copy_of: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to_ncnn.try_run(copy_of, ("data", "output"), [(3, 8, 9)])
    with pytest.raises(SrkdError, match=r"ncnn.*\[3, 8, 9\].*-1"):
        to_ncnn.try_run(copy_of, ("data", "nothing"), [(3, 8, 9)])
    (tmp_path / "crash").mkdir()
    (tmp_path / "crash" / "ncnn.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "crash"))
    with pytest.raises(SrkdError, match=r"ncnn.*SIGSEGV"):
        to_ncnn.try_run(copy_of, ("data", "output"), [(3, 8, 9)])


def test_waiting_threads_sleep_soon(good: Path) -> None:
    """The test needs a fresh process, as ncnn's OpenMP reads the variable once."""
    message = "import compressor.runtimes.ncnn_runtime, ncnn"
    here = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment = {**here, "OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", message], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr.count("GOMP_SPINCOUNT = '1000'") >= 2  # torch's OpenMP and ncnn's


def test_on_the_command_line(network: Network, tmp_path: Path) -> None:
    save_network(network, tmp_path / "student.safetensors")
    Image.new("RGB", (17, 9), (200, 90, 30)).save(tmp_path / "photo.png")
    file = str(tmp_path / "student.param")
    for words in (
        ("export", "--ncnn", str(tmp_path / "student.safetensors")),
        ("upscale", file, str(tmp_path / "photo.png"), "-o", str(tmp_path / "big.png")),
        ("profile", file, "--runtime", "ncnn", "--lr-size", "16x12", "--seconds", "0.1", "--no-memory", "--no-quality"),
    ):
        done = srkd(*words)
        assert done.code == 0, done.err
    assert read_sidecar(tmp_path / "student.param").facts["blobs"] == "data, output"
    assert Image.open(tmp_path / "big.png").size == (34, 18)
