"""Degradations as a whole: Real-ESRGAN's chain stage by stage, its population, purity, and what is refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from compressor.base.errors import MissingExtra, UsageError
from compressor.degradation.chain import NAMED, Degradation, names, read_degradation
from compressor.degradation.filters import bell_kernel, correlate, sharpen
from compressor.degradation.names import absolute_degradation
from compressor.degradation.steps import STEPS, Draws, Mode, interpolate, interpolate_by
from compressor.images.files import read_rgb_u8
from compressor.images.resize import downscale_u8
from compressor.images.sets import embedded_photos
from srkd.record.run_spec import DegradationSteps
from tests.support.shared import golden_of, needs_shared

WITHOUT_EXTRA = tuple(name for name in names() if name != "h264")


def photo(height: int = 96, width: int = 112) -> Tensor:
    whole = read_rgb_u8(next(iter(embedded_photos("val").values())))
    return whole[:, 40 : 40 + height, 60 : 60 + width].float() / 255


@needs_shared
@pytest.mark.parametrize("case", ["realesrgan_chain_order1", "realesrgan_chain_order2"])
def test_the_chain_of_real_esrgan_stage_by_stage(case: str) -> None:
    meta, *arrays = golden_of(f"losses/{case}")
    draws, (given, made) = meta["draws"], ({key: value[0] for key, value in each.items()} for each in arrays)

    def close(ours: Tensor, stage: str) -> Tensor:
        assert float((ours - made[stage]).abs().max()) <= 1e-4, stage
        return made[stage]

    first: Mode = draws["m1"]
    second: Mode = draws["m2"]
    scale, (height, width) = draws["scale"], given["gt"].shape[-2:]
    image = close(sharpen(given["gt"]), "a_usm")
    image = close(correlate(image, bell_kernel(*draws["k1"]).float()), "b_blur1")
    image = close(interpolate_by(image, draws["s1"], first), "c_resize1")
    image = close((image + given["unit_noise1"] * draws["sig1"] / 255).clamp(0, 1), "d_noise1")
    image = made["e_jpeg1"]  # its JPEG is another one than libjpeg
    size, sigma_x, sigma_y, angle, beta = draws["k2"]
    kinds = ("generalized", "plateau")
    blurred = [correlate(image, bell_kernel(size, sigma_x, sigma_y, angle, kind, beta).float()) for kind in kinds]
    assert min(float((each - made["f_blur2"]).abs().max()) for each in blurred) < 1e-5
    image = made["f_blur2"]
    lr = (int(height / scale * draws["s2"]), int(width / scale * draws["s2"]))
    image = close(interpolate(image, lr, second), "g_resize2")
    close((image + given["unit_noise2_gray"] * draws["sig2"] / 255).clamp(0, 1), "h_noise2")


def test_kernels_are_drawn_as_in_real_esrgan() -> None:
    blur = read_degradation("realesrgan").steps[1]
    numbers = np.random.default_rng(0).random((4_000, 9))
    kernels = [blur.kernel(row, 4) for row in numbers]
    sizes = Counter(kernel.shape[0] for kernel in kernels)
    assert sorted(sizes) == [7, 9, 11, 13, 15, 17, 19, 21]
    assert all(abs(count - 500) < 4 * 21 for count in sizes.values())  # σ = sqrt(4000 · 1/8 · 7/8) = 20.9
    low_passes = sum(bool((kernel < 0).any()) for kernel in kernels)
    assert abs(low_passes - 400) < 4 * 19 + 10  # without a few whose cutoff is near π
    assert all(abs(float(kernel.sum()) - 1) < 1e-9 for kernel in kernels)


@pytest.mark.ci
@needs_shared
def test_the_population_of_kernels_is_that_of_basicsr() -> None:
    _, _, made = golden_of("losses/realesrgan_kernel_population")
    blur = read_degradation("realesrgan").steps[1]
    kernels = [blur.kernel(row, 4) for row in np.random.default_rng(1).random((20_000, 9))]
    sizes = np.array([kernel.shape[0] for kernel in kernels])
    np.testing.assert_allclose([sizes.mean(), sizes.std()], made["size_mean_std"], rtol=0.02)
    peaks = np.array([float(kernel.max()) for kernel in kernels])
    quantiles = {5: (0.05, 0.25, 0.5, 0.75, 0.95)}[len(made["peak_quantiles"])]
    np.testing.assert_allclose(np.quantile(peaks, quantiles), made["peak_quantiles"], rtol=0.06)


@pytest.mark.parametrize("name", WITHOUT_EXTRA)
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_an_image_depends_on_seed_step_and_sample_alone(name: str, scale: int) -> None:
    degradation = read_degradation(name)
    image = photo()
    first = degradation.apply(image, scale, Draws(3, 5, 7))
    assert first.dtype == torch.uint8 and first.shape == (3, 96 // scale, 112 // scale)
    for draws in (Draws(3, 5, 8), Draws(3, 6, 7), Draws(4, 5, 7)):
        degradation.apply(image, scale, draws)
    assert torch.equal(degradation.apply(image, scale, Draws(3, 5, 7)), first)
    others = [degradation.apply(image, scale, Draws(3, 5, sample)) for sample in range(8, 20)]
    assert sum(not torch.equal(other, first) for other in others) >= 10


@pytest.mark.parametrize("name", WITHOUT_EXTRA)
def test_threads_change_no_byte(name: str) -> None:
    degradation, image, before = read_degradation(name), photo(), torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append([degradation.apply(image, 4, Draws(0, 0, sample)) for sample in range(12)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*made, strict=True))


def test_a_skipped_step_changes_no_other_draw(tmp_path: Path) -> None:
    text = "title: t\nsteps:\n- noise: {{gaussian: {}, sigma: 0, poisson: 0}}\n- shrink:\n- noise: {{sigma: 8}}\n"
    made = []
    for share in (0, 1):  # noise of no strength, of either kind
        file = tmp_path / f"noise{share}.yaml"
        file.write_text(text.format(share))
        made.append(read_degradation(str(file)).apply(photo(), 2, Draws(0, 0, 0)))
    assert torch.equal(*made)


def test_a_line_of_steps_is_what_it_says() -> None:
    image = photo()
    clean = downscale_u8((image * 255).round().to(torch.uint8), 4)
    nothing = read_degradation("noise=0")
    # MATLAB's bicubic once, without its rounding to 8 bit between rows and columns.
    assert int((nothing.apply(image, 4, Draws(0, 0, 0)).int() - clean.int()).abs().max()) <= 1
    noisy = read_degradation("noise=10")
    fields = [noisy.apply(image, 4, Draws(0, 0, sample)).float() - clean for sample in range(40)]
    assert float(torch.stack(fields).std()) == pytest.approx(10, rel=0.05)
    blurred = read_degradation("blur=1.5")
    steps = [made.float().diff(dim=-1).square().mean() for made in (blurred.apply(image, 4, Draws(0, 0, 0)), clean)]
    assert float(steps[0]) < 0.4 * float(steps[1])
    chain = read_degradation("jpeg=40..60,blur=0..1,noise=3")
    assert [step.name for step in chain.steps] == ["blur", "shrink", "noise", "jpeg"]


def test_a_share_of_the_images_stays_clean_and_the_others_are_as_without_it(tmp_path: Path) -> None:
    image = photo()
    clean, noisy = read_degradation("noise=0"), read_degradation("noise=9")
    both = read_degradation("noise=9,clean=0.25")
    assert both.label == "noise=9,clean=0.25" and Degradation.from_json(json.loads(json.dumps(both.to_json()))) == both
    file = tmp_path / "mine.yaml"
    assert DegradationSteps.model_validate_json(json.dumps(both.to_json())).clean == 0.25  # as run.json has it
    file.write_text("steps: [shrink, noise: {gaussian: 1, sigma: 9}]\nclean: 0.25\n")
    assert read_degradation(str(file)).clean == 0.25 and "clean" not in noisy.to_json()
    labels = [read_degradation(f"{file}{share}").label for share in ("", ",clean=0.5")]
    assert re.fullmatch("mine.yaml [0-9a-f]{8} mine.yaml,clean=0.5 [0-9a-f]{8}", " ".join(labels))
    assert absolute_degradation("mine.yaml,clean=0.5") == f"{Path.cwd()}/mine.yaml,clean=0.5"
    kinds = []
    for sample in range(200):
        draws = Draws(0, 0, sample)
        made = both.apply(image, 2, draws)
        kinds.append(torch.equal(made, clean.apply(image, 2, draws)))
        assert kinds[-1] or torch.equal(made, noisy.apply(image, 2, draws))
    assert sum(kinds) == pytest.approx(50, abs=20)
    assert (
        read_degradation("realesrgan,clean=1")
        .apply(image, 2, Draws(0, 0, 0))
        .equal(clean.apply(image, 2, Draws(0, 0, 0)))
    )


def test_every_named_one_is_a_file_and_survives_json() -> None:
    assert set(names()) >= {"jpeg", "noise", "blur", "video", "h264", "realesrgan", "realesrgan1"}
    assert {name for name, step in STEPS.items() if step.short} == {"blur", "noise", "blocks", "h264", "jpeg"}
    for name in names():
        degradation = read_degradation(name)
        assert replace(read_degradation(str(NAMED / f"{name}.yaml")), name=name) == degradation
        assert Degradation.from_json(json.loads(json.dumps(degradation.to_json()))) == degradation
    assert read_degradation("none") is None
    assert {step.name for name in names() for step in read_degradation(name).steps} == set(STEPS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jpg", "'jpg' is no file .* no name: did you mean 'jpeg'"),
        ("jpeg=", "write jpeg=NUMBER or jpeg=LOW..HIGH"),
        ("jpeg=50..20", "the range 50..20 begins above its end"),
        ("noise=-3", "write noise=NUMBER"),
        ("noise=5000", "expected at most 255"),
        ("jpeg=0..50", "expected at least 1"),
        ("jpeg=50..101", "expected at most 100"),
        ("h264=60", "expected at most 51"),
        ("blur=200", "expected at most 64"),
        ("jpgs=3", "the steps are blur, noise"),
        ("jpeg=3,jpeg=4", "jpeg stands twice"),
        ("missing.yaml", "missing.yaml: No such file"),
        ("jpeg=50,clean=2", "the steps are blur, noise"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_degradation(text)
    assert "\n" not in str(caught.value)


def test_all_mistakes_of_a_file_are_said_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("steps:\n- jpg:\n- jpeg: {qualty: 3}\n- blur: {sigma: abc, size: 8}\nmore: 1\n")
    with pytest.raises(UsageError) as caught:
        read_degradation(str(file))
    for words in (
        "mine.yaml:2: steps.0.jpg: unknown step: did you mean 'jpeg'",
        "qualty: unknown key, did you mean q",
        "mine.yaml:4: steps.2.blur.sigma='abc': expected a number, or two",
        "expected odd whole numbers",
        "mine.yaml:5: more",
    ):
        assert words in str(caught.value), words
    file.write_text("steps:\n- resize: {up: 0.6, down: 0.6}\n")
    with pytest.raises(UsageError, match=r"up=0.6 and down=0.6 are more than all images"):
        read_degradation(str(file))
    file.write_text("steps: 3\n")
    with pytest.raises(UsageError, match="expected a list of steps"):
        read_degradation(str(file))


def test_the_real_codec_names_its_extra() -> None:
    degradation = read_degradation("h264=30")
    image = photo()
    try:
        made = degradation.apply(image, 1, Draws(0, 0, 0))
    except MissingExtra as error:
        assert "srkd[video]" in str(error)
        return
    assert torch.equal(degradation.apply(image, 1, Draws(0, 0, 0)), made)
    assert 1 < float((made.float() / 255 - image).abs().mean()) * 255 < 12
