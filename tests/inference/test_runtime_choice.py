"""bf16 or OpenVINO for a picture: only if its samples agree, and never if exact figures are requested."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from compressor.base.compute_device import ComputeDevice
from compressor.images.files import Picture, read_picture, write_picture
from compressor.images.in_memory import read_planes
from compressor.images.metrics import to_u8
from compressor.inference import runtime_choice
from compressor.inference import upscale as upscaling
from compressor.inference.films import FRAMES_OF_A_CHOICE
from compressor.inference.runtime_choice import RuntimeChoice, fits_openvino, sample_patches
from compressor.inference.upscale import upscale, upscale_image
from compressor.inference.upscale_outputs import UpscaleSettings
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.runtimes.torch_runtime import TorchCompiledRuntime, TorchRuntime
from srkd.api.upscale import _upscale_settings
from srkd.options.verbs import UpscaleOptions
from tests.support.fakes import nearest_model
from tests.support.films import make_film, picture, require_av
from tests.support.networks import tiny


@pytest.fixture(autouse=True)
def device_with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ComputeDevice, "computes_bf16", True)
    monkeypatch.setattr(runtime_choice, "LEAST_LR_PIXELS", 128 * 128)


@pytest.fixture(scope="module")
def student() -> TorchRuntime:
    """A small network: on a processor without bf16 one of its convolutions in bf16 is slow."""
    return TorchRuntime(build(EDSRSpec(4, width=8, depth=1), seed=0).eval(), label="small")


def photo(size: int = 128) -> Tensor:
    """Return a photo of waves of all lengths up to two pixels, and a flat sky."""
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    waves = torch.sin(200 * x * y) * y.clamp(max=0.5)
    return torch.stack([0.5 + 0.4 * waves, 0.3 + 0.5 * y * (1 + waves) / 2, 0.6 - 0.2 * x])[None]


def amplified(runtime: TorchRuntime, spread: float) -> TorchRuntime:
    """Return a student whose weights cancel: bf16's rounding is `spread` times as large relative to the rest."""
    network = runtime.in_bf16().network
    weight = network.get_parameter("head.weight")
    with torch.no_grad():
        weight[:, :, 0, 0] += spread
        weight[:, :, 0, 1] -= spread
    return TorchRuntime(network, label="amplified")


def test_a_picture_that_agrees_is_computed_in_bf16(student: TorchRuntime) -> None:
    selected = RuntimeChoice(student).select(photo())
    assert selected.runtime.precision == "bf16"
    assert selected.psnr_to_exact is not None and 50 <= selected.psnr_to_exact < 80
    whole, exact = to_u8(selected.runtime.run(photo())), to_u8(student.run(photo()))
    assert not torch.equal(whole, exact) and int((whole.int() - exact.int()).abs().max()) <= 4


def test_each_bound_alone_refuses(student: TorchRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    assert RuntimeChoice(student).select(photo(), max_levels=0).runtime is student
    monkeypatch.setattr(runtime_choice, "MIN_PSNR_DB", 90.0)
    assert RuntimeChoice(student).select(photo()).runtime is student


def test_a_network_that_bf16_damages_stays_in_fp32(student: TorchRuntime) -> None:
    damaged = amplified(student, 100.0)
    difference = to_u8(damaged.run(photo())).int() - to_u8(damaged.in_bf16().run(photo())).int()
    assert int(difference.abs().max()) > 4
    assert RuntimeChoice(damaged).select(photo()).runtime is damaged


def test_what_is_never_lowered(student: TorchRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    bf16 = student.in_bf16()
    assert RuntimeChoice(student, exact=True).select(photo()).runtime is student
    assert RuntimeChoice(student).select(photo(), bits=16).runtime is student
    assert RuntimeChoice(student).select(photo(127)).runtime is student
    assert RuntimeChoice(bf16).select(photo()).runtime is bf16
    other = nearest_model(4)
    assert RuntimeChoice(other).select(photo()).runtime is other
    monkeypatch.setattr(ComputeDevice, "computes_bf16", False)
    assert RuntimeChoice(student).select(photo()).runtime is student


@pytest.mark.parametrize(("is_first", "pictures"), [("openvino", "pictures"), ("torch", "ahead")])
def test_openvino_goes_on_where_it_is_faster_if_pictures_take_longer_than_it_takes_to_open(
    student: TorchRuntime, monkeypatch: pytest.MonkeyPatch, is_first: str, pictures: str
) -> None:
    pytest.importorskip("openvino")
    choice = RuntimeChoice(student)
    assert choice.select(photo()).runtime.name == "torch"
    monkeypatch.setattr(runtime_choice, "_seconds", lambda way, samples, runs=3: 1.0 + (way.name != is_first))
    selected = choice.select(photo(), **{pictures: 1000})  # type: ignore[arg-type]
    assert (selected.runtime.name, selected.runtime.precision) == (is_first, "bf16")
    assert selected.psnr_to_exact is not None and selected.psnr_to_exact >= runtime_choice.MIN_PSNR_DB
    # Where bf16 is refused, OpenVINO's fp32 goes on: its trace holds at any size, and agrees to the last digits. On a
    # processor without bf16, OpenVINO computes that in fp32, too.
    monkeypatch.setattr(runtime_choice, "MIN_PSNR_DB", 90.0)
    exact = choice.select(photo()).runtime
    assert exact.name == is_first and (exact.precision == "fp32" or exact is selected.runtime)
    assert all(float((exact.run(photo(n)) - student.run(photo(n))).abs().max()) < 1e-5 for n in (17, 61))


def test_a_network_of_one_channel_is_tried_on_its_own_plane() -> None:
    pytest.importorskip("openvino")
    luma = TorchRuntime(build(CompactSpec(2, width=4, depth=2, channels=1), seed=0).eval(), label="luma")
    assert RuntimeChoice(luma).select(photo(), pictures=1000).runtime.descriptor.channels == 1


def test_windows_and_no_openvino_stay_in_torch(student: TorchRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = TorchRuntime(build(tiny("swinir", 2), seed=0).eval(), label="windows")
    assert not fits_openvino(windows)
    assert not fits_openvino(TorchCompiledRuntime(student.network, label="compiled")), "it was asked for by name"
    monkeypatch.setattr(runtime_choice, "missing_modules", lambda names: names)
    assert not fits_openvino(student)


def test_a_frame_of_a_film_decides_for_those_behind_it(student: TorchRuntime, tmp_path: Path) -> None:
    require_av()
    frames = [picture(number, (64, 64)) for number in range(2 * FRAMES_OF_A_CHOICE + 1)]
    film = make_film(tmp_path / "film.mkv", frames)
    (written,) = upscale([film], student, UpscaleSettings(codec="h264")).films
    assert written.precisions == ("bf16",) and written.psnr_to_exact is not None
    (exact,) = upscale([film], student, UpscaleSettings(exact=True, suffix="-exact")).films
    assert exact.precisions == ("fp32",) and exact.psnr_to_exact is None


def test_a_named_precision_is_exact() -> None:
    def is_exact(**options: object) -> bool:
        return _upscale_settings(UpscaleOptions(model="a.pt", inputs="a.png", **options)).exact  # type: ignore[arg-type]

    assert [is_exact(), is_exact(exact=True), is_exact(precision="fp32")] == [False, True, True]


def test_images_of_floats_and_16_bit_are_exact(student: TorchRuntime, tmp_path: Path) -> None:
    floats = photo()
    exact = student.run(floats).clamp(0, 1)
    enlarged = upscale_image(floats, student)
    assert isinstance(enlarged, Tensor) and torch.equal(enlarged, exact)
    assert read_planes(floats.mul(255).byte()).bits == 8
    assert read_planes((floats[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)).bits == 8
    for bits in (8, 16):
        write_picture(Picture(floats[0], bits=bits), tmp_path / f"{bits}.png")  # type: ignore[arg-type]
    report = upscale([tmp_path / "8.png", tmp_path / "16.png"], student)
    assert [(done.precision, done.psnr_to_exact is None) for done in report.done] == [("bf16", False), ("fp32", True)]
    (exact_too,) = upscale([tmp_path / "8.png"], student, UpscaleSettings(exact=True, suffix="-exact")).done
    assert exact_too.precision == "fp32"


def test_samples_span_flat_and_textured_cells() -> None:
    lr = torch.zeros(1, 3, 200, 200)  # 3 x 3 whole cells
    strengths = torch.tensor([5, 0, 3, 8, 1, 7, 2, 6, 4])
    noise = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    for cell, strength in enumerate(strengths.tolist()):
        row, column = divmod(cell, 3)
        lr[..., 64 * row : 64 * row + 64, 64 * column : 64 * column + 64] = strength / 8 * noise
    samples = sample_patches(lr)
    assert samples.shape == (4, 3, 64, 64)
    assert [round(float(sample.max()) * 8) for sample in samples] == [0, 2, 5, 8]


def test_reading_enlarging_and_writing_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write_picture(Picture(photo(16)[0]), tmp_path / f"{name}.png")
    read, written = {name: threading.Event() for name in "abc"}, {name: threading.Event() for name in "abc"}

    def reading(path: Path) -> Picture:
        read[path.stem].set()
        return read_picture(path)

    def writing(picture: Picture, path: Path) -> None:
        write_picture(picture, path)
        written[path.stem[0]].set()

    monkeypatch.setattr(upscaling, "read_picture", reading)
    monkeypatch.setattr(upscaling, "write_picture", writing)
    # If reading, running and writing took turns, these waits would never end.
    awaited = iter([[read["b"]], [read["c"], written["a"]], [written["b"]]])
    model = nearest_model(2)
    enlarge = model.function

    def run(lr: Tensor) -> Tensor:
        assert all(event.wait(timeout=30) for event in next(awaited))
        return enlarge(lr)

    model.function = run
    report = upscale([tmp_path / f"{name}.png" for name in "abc"], model)
    assert [done.source.stem for done in report.done] == ["a", "b", "c"]
    assert not report.failed


def test_a_picture_that_cannot_be_written_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write_picture(Picture(photo(16)[0]), tmp_path / f"{name}.png")

    def writing(picture: Picture, path: Path) -> None:
        if path.stem == "b_x2":
            raise OSError("no space left on device")
        write_picture(picture, path)

    monkeypatch.setattr(upscaling, "write_picture", writing)
    report = upscale([tmp_path / f"{name}.png" for name in "abc"], nearest_model(2))
    assert [done.output.name for done in report.done] == ["a_x2.png", "c_x2.png"]
    assert [(failed.source.name, failed.reason) for failed in report.failed] == [("b.png", "no space left on device")]
