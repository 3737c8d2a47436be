"""ncnn: precision, blobs and a converter that fails; test_formats.py has what holds for all formats."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.inference.open import open_model
from compressor.models.networks.base import Network
from compressor.runtimes.ncnn_runtime import checksum
from compressor.runtimes.sidecar import sidecar_path
from compressor.runtimes.table import OpenOptions
from export.convert import to_ncnn
from export.formats.proof_inputs import proof_inputs
from tests.support.commands import python
from tests.support.exports import export_file
from tests.support.extras import extra

ncnn = extra("ncnn")
extra("pnnx")
pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def good(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = export_file(network, "ncnn", tmp_path_factory.mktemp("good"))
    assert file.path is not None, file.reason
    return file.path


@pytest.fixture
def copy_of(good: Path, tmp_path: Path) -> Path:
    for file in good.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / good.name


def test_blobs_have_the_usual_names(good: Path) -> None:
    layers = [line.split() for line in good.read_text().splitlines()[2:]]
    assert layers[0][:5] == ["Input", "data", "0", "1", "data"]
    assert [line[3 + int(line[2]) + int(line[3])] for line in layers].count("output") == 1


def test_fp32_stays_fp32(network: Network, good: Path) -> None:
    """By default ncnn computes in 16 bit if the processor can, which gives errors of a thousandth of the range."""
    large = next(source.lr for source in proof_inputs(network.descriptor) if source.photo)
    runtime = open_model(good, OpenOptions(threads=1))
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
    expected = network(pixels.permute(2, 0, 1)[None] / 255.0)[0]
    torch.testing.assert_close(torch.tensor(out.numpy()), expected, atol=1e-5, rtol=0)


def test_a_layer_that_ncnn_does_not_have_is_one_line(copy_of: Path) -> None:
    before = checksum(copy_of)
    copy_of.write_text("7767517\n1 1\nNoSuchLayer a 0 1 data\n")
    text = sidecar_path(copy_of).read_text()
    sidecar_path(copy_of).write_text(text.replace(before, checksum(copy_of)))
    with pytest.raises(SrkdError, match="is not a network that this ncnn can open") as caught:
        open_model(copy_of)
    assert "\n" not in str(caught.value)


def stand_in_for_pnnx(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "pnnx"
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(import_module("pnnx"), "EXEC_PATH", str(program))


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
    stand_in_for_pnnx(script, tmp_path, monkeypatch)
    file = export_file(network, "ncnn", tmp_path / "out")
    assert file.verdict == "unavailable" and message in str(file.reason) and "\n" not in str(file.reason)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_pnnx_that_does_not_end_is_ended(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_pnnx("exec sleep 60", tmp_path, monkeypatch)
    monkeypatch.setattr(to_ncnn, "TIMEOUT_SECONDS", 1)
    file = export_file(network, "ncnn", tmp_path / "out")
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


def test_waiting_threads_sleep_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test needs a fresh process, as ncnn's OpenMP reads the variable once."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    done = python("-c", "import compressor.runtimes.ncnn_runtime, ncnn", OMP_DISPLAY_ENV="VERBOSE")
    assert done.code == 0 and done.err.count("GOMP_SPINCOUNT = '1000'") >= 2, done.err  # torch's OpenMP and ncnn's
