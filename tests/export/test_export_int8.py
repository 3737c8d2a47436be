"""`srkd export --int8`: loss bounded on photos, timed against float, and a one-line refusal of bad files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.machine import integer_products
from compressor.images.sample import sample_photo
from compressor.images.scores import EQUAL_DB
from compressor.images.sets import embedded_photos
from compressor.inference.open import open_model
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build, quantise
from compressor.models.quantisation.description import Quantisation
from compressor.models.quantisation.quantisers import following, quantisers_of
from compressor.runtimes.base import Runtime
from compressor.runtimes.onnx_runtime import OnnxRuntime
from compressor.runtimes.table import OpenOptions
from export.formats.conversion import FileOptions, Int8Options
from export.int8 import to_int8
from export.int8.calibration import COLOURS, calibration_patches
from export.proof.quality import QualityPhotos, psnr_of
from export.writing.exporting import FileReport, Source, export_model
from tests.support.exports import export_file, unproved_file

pytestmark = pytest.mark.usefixtures("quick_int8")


@pytest.fixture(scope="module")
def student() -> Network:
    """A network that repeats each pixel, slightly disturbed: as small as a random one, but it has quality to lose."""
    network = build(EDSRSpec(width=8, depth=2, scale=4), seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.1)
        for colour in range(3):
            network.get_parameter("head.weight")[colour, colour, 1, 1] += 1
            network.get_parameter("tail.weight")[colour, colour, 1, 1] += 1
            for name in ("upsampler.convs.0.weight", "upsampler.convs.1.weight"):
                network.get_parameter(name)[4 * colour : 4 * colour + 4, colour, 1, 1] += 1
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def exported(quick_int8: None, student: Network, tmp_path_factory: pytest.TempPathFactory) -> tuple[FileReport, ...]:
    source = Source("student", "0" * 64, {"srkd.recipe": "logits"})
    return export_model(student, source, ["int8"], tmp_path_factory.mktemp("int8")).files


@pytest.fixture(scope="module")
def model(exported: tuple[FileReport, ...]) -> Runtime:
    return open_model(str(exported[0].path))


@pytest.mark.ci
def test_photos_lose_little_and_the_metadata_says_how_much(exported: tuple[FileReport, ...]) -> None:
    for file in exported:
        assert file.quality.drop < 0.06 and file.quality.psnr_to_source > 44
        quant = json.loads(open_model(file.path).metadata["srkd.quant"])
        assert quant["drop_db"] == pytest.approx(file.quality.drop, abs=0.005)
        assert (quant["in_float"], quant["bits"]) == ("nothing", 8) and "8 patches" in quant["calibration"]


@pytest.mark.ci
def test_the_file_opens_as_int8_and_takes_any_size(model: Runtime, student: Network) -> None:
    assert model.precision == "int8"
    assert model.spec == student.spec
    for size in ((1, 1), (17, 5), (9, 30)):
        assert model.run(torch.rand(2, 3, *size)).shape == (2, 3, 4 * size[0], 4 * size[1])


@pytest.mark.ci
def test_a_file_for_tensorrt_is_compared_in_float_on_its_grids(exported: tuple[FileReport, ...]) -> None:
    """With a CPU's own products, its images would differ between processors."""
    path, lr = exported[1].path, sample_photo(40, 30)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    expected = torch.from_numpy(plain.run(None, {plain.get_inputs()[0].name: lr.numpy()})[0])
    compared, usual = (OnnxRuntime(path, OpenOptions(emulate_target=emulate)) for emulate in (True, False))
    # A feature between two levels may fall to the other one by the order of a sum, so single pixels may differ.
    compared_error, usual_error = (float((model.run(lr) - expected).abs().mean()) for model in (compared, usual))
    assert compared_error < 1e-4 and compared_error < 0.2 * usual_error, (compared_error, usual_error)


@pytest.mark.ci
def test_flat_colours_keep_their_colour(model: Runtime, student: Network) -> None:
    for colour in COLOURS:
        lr = torch.tensor(colour).float().view(1, 3, 1, 1).expand(1, 3, 40, 40).clone()
        expected = student(lr).clamp(0, 1)
        middle = slice(40, 120)
        difference = (model.run(lr) - expected)[..., middle, middle].mean((0, 2, 3))
        assert float(difference.abs().max()) < 2.5 / 255, colour


@pytest.mark.ci
def test_dark_photos_keep_their_mean(model: Runtime, student: Network) -> None:
    """The mean changes by at most half a grey level per channel: users complain about int8 files with dark output.

    A processor whose sums of byte products overflow gets weights of seven bits, with twice the steps.
    """
    limit = 0.5 if integer_products() else 1.0
    for light in (0.05, 0.2):
        lr = calibration_patches(student.descriptor, next(iter(embedded_photos("val").values())).parent).patches[:8]
        dark = lr.mul(255 * light).round().div(255)
        expected = student(dark).clamp(0, 1)
        shift = (model.run(dark).clamp(0, 1) - expected).mean((2, 3)).abs() * 255
        assert float(shift.max()) < limit, light


@pytest.mark.ci
def test_greys_are_no_more_coloured_than_in_float(model: Runtime, student: Network) -> None:
    """On a ramp from black to white the mean difference between channels changes by at most one grey level."""

    def tint(sr: torch.Tensor) -> torch.Tensor:
        levels = sr.clamp(0, 1).mean(2)[0] * 255  # of each column
        return (levels.amax(0) - levels.amin(0)).unfold(0, 16, 16).mean(1)

    ramp = torch.linspace(0, 1, 64).mul(255).round().div(255).expand(1, 3, 48, 64).contiguous()
    expected = tint(student(ramp))
    assert float((tint(model.run(ramp)) - expected).max()) < 1


@pytest.mark.ci
def test_the_speed_is_told_against_float_in_the_same_runtime(exported: tuple[FileReport, ...]) -> None:
    measured = exported[0].speed
    assert measured is not None and measured.runtime == "onnxruntime" and measured.ms > 0
    # Nine convolutions, the sums of two blocks and that of the body.
    assert measured.integer_nodes is not None and measured.integer_nodes.nodes_in_int8 == 9 + 3
    assert exported[1].speed is None  # TensorRT's file is not for this runtime


@pytest.mark.slow
def test_int8_gives_bytes_to_an_app_that_wants_bytes(student: Network, tmp_path: Path) -> None:
    file = export_file(student, "int8-trt", tmp_path, FileOptions(lr_size=(40, 32), io="uint8"))
    assert file.verdict == "passed" and file.path is not None, file.reason
    assert onnx.load(file.path).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.mark.ci
def test_a_bound_that_cannot_be_met_is_refused_with_the_figures(tmp_path: Path) -> None:
    network, notes = build(EDSRSpec(width=4, depth=1, scale=2), seed=0), list[str]()
    options = FileOptions(lr_size=(40, 32), int8=Int8Options(max_drop=-10.0))
    file = export_file(network, "int8-trt", tmp_path, options, Context(note=notes.append))
    assert file.verdict == "unavailable" and "--max-drop -10" in str(file.reason)
    assert not list(tmp_path.iterdir())
    tries = [note for note in notes if note.startswith("tensorrt, in float")]
    assert tries[0].startswith("tensorrt, in float nothing") and all(" ms for " in note for note in tries)
    assert all(any(words in note for note in tries) for words in ("solved weights", "last layer"))


def test_photos_of_the_bound_are_others_than_those_of_the_calibration() -> None:
    assert not set(embedded_photos("val")) & {*embedded_photos("train"), *embedded_photos("calibration")}


def test_equal_images_lose_nothing(student: Network) -> None:
    measured = QualityPhotos.of(student, Int8Options()).measure(student)
    assert (measured.drop, measured.psnr_to_source, measured.reason(0.0)) == (0, None, None)
    white = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    assert psnr_of(white, white, 2) == EQUAL_DB, "a drop from infinity to infinity is no number"
    darker = QualityPhotos.of(student, Int8Options()).measure(lambda lr: student(lr) - 4 / 255)
    assert darker.psnr_to_source == pytest.approx(36.1, abs=0.3)  # 20 log10(255 / 4)
    assert "needed" in (replace(darker, psnr_y=darker.psnr_y_source).reason(0.1) or "")
    assert "--max-drop 0.1 is allowed" in (darker.reason(0.1) or "")


def test_calibration_patches_are_of_the_size_and_say_where_they_come_from(student: Network) -> None:
    calibration = calibration_patches(student.descriptor)
    assert calibration.patches.shape == (33, 3, 48, 48)
    assert 0 <= float(calibration.patches.min()) <= float(calibration.patches.max()) <= 1
    assert calibration.source == "32 patches of embedded photos, flat colours"
    assert torch.equal(calibration.patches, calibration_patches(student.descriptor).patches)


def test_a_file_of_one_large_size_is_calibrated_on_photos_that_go_on_by_reflection(student: Network) -> None:
    """No embedded photo has 1280x720 pixels, which the patches of 320x180 need at x4: fewer and mirrored ones do."""
    calibration = calibration_patches(replace(student.descriptor, fixed_size=(320, 180)))
    assert calibration.patches.shape == (5, 3, 180, 320)
    photo = calibration.patches[0]
    width = next(side for side in range(48, 320) if torch.equal(photo[..., side], photo[..., side - 1]))
    mirrored = min(width, 320 - width)
    assert torch.equal(photo[..., width : width + mirrored], photo[..., width - mirrored : width].flip(-1))


def test_calibration_takes_a_folder_of_photos_and_refuses_others(student: Network, tmp_path: Path) -> None:
    photos = next(iter(embedded_photos("val").values())).parent
    assert f"photos of {photos.name}" in calibration_patches(student.descriptor, photos).source
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, words in ((tmp_path / "no", "/no"), (empty, "empty")):
        with pytest.raises(UsageError, match=words):
            calibration_patches(student.descriptor, folder)


@pytest.mark.parametrize(
    ("name", "pixels", "words"),
    [
        ("flat.png", np.full((256, 256, 3), 90, np.uint8), "flat.*give photos"),
        ("small.png", np.arange(48 * 48 * 3).reshape(48, 48, 3).astype(np.uint8), "192x192 pixels: give larger ones"),
    ],
    ids=["one flat image", "images in the size of another scale's LR"],
)
def test_images_that_say_nothing_are_refused_in_one_line(
    student: Network, tmp_path: Path, name: str, pixels: np.ndarray, words: str
) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    with pytest.raises(SrkdError, match=words) as error:
        calibration_patches(student.descriptor, tmp_path)
    assert "\n" not in str(error.value)


def written(name: str, network: Network, folder: Path) -> tuple[Mapping[str, object], list[np.ndarray]]:
    """The facts of a file that was written without a bound, and its integer weights."""
    path, facts = unproved_file(network, name, folder, FileOptions(int8=Int8Options(max_drop=None)))
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    return facts, [values for values in stored if values.ndim == 4 and values.dtype != np.float32]


@pytest.mark.ci
def test_weights_have_seven_bits_where_the_processor_overflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_int8, "integer_products", lambda: ())
    facts, weights = written("int8", build(EDSRSpec(width=4, depth=1, scale=2), seed=0), tmp_path)
    assert facts["weight_bits"] == 7 and {weight.dtype for weight in weights} == {np.dtype(np.int8)}
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) <= 63


@pytest.mark.ci
def test_a_network_that_was_trained_quantised_brings_its_ranges(student: Network, tmp_path: Path) -> None:
    network = quantise(student, Quantisation("pams", 8, "all"))
    patches = calibration_patches(student.descriptor, count=8).patches
    with torch.no_grad(), following(network, lambda _, peaks: peaks.max()) as followed:
        network(patches)
    with torch.no_grad():
        for alpha, peak in followed.items():
            alpha.copy_(peak)
    files = export_model(network.eval(), Source("student"), ["int8"], tmp_path).files
    assert [file.verdict for file in files] == ["passed", "passed"], [file.reason for file in files]
    for file in files:
        quant = json.loads(open_model(file.path).metadata["srkd.quant"])
        assert (quant["method"], quant["calibration"]) == ("pams", "learnt in training")
        assert (file.quality.psnr_to_source or 100) > 45  # to the fake-quantised network


@pytest.mark.ci
def test_learnt_weights_are_bytes_where_the_processor_overflows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stay in int8: the network was trained with them."""
    monkeypatch.setattr(to_int8, "integer_products", lambda: ())
    network = quantise(build(EDSRSpec(width=4, depth=1, scale=2), seed=0), Quantisation("pams", 8, "all"))
    with torch.no_grad():
        for quantiser in quantisers_of(network).values():
            quantiser.alpha.fill_(2.0)
    for name, kind in (("int8", np.uint8), ("int8-trt", np.int8)):
        facts, weights = written(name, network.eval(), tmp_path)
        assert facts["weight_bits"] == 8 and {weight.dtype for weight in weights} == {np.dtype(kind)}
