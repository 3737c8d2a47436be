"""Poor training images are reported before a run, good photos are not, and the validation images are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from compressor.base.context import Context
from compressor.data.doubts import is_enlarged, is_screenshot
from compressor.data.prepare import DataChoice, ValidationFolder, prepare_data
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import to_u8
from compressor.images.resize import downscale_u8, mod_crop, upscale_bicubic
from compressor.images.sets import embedded_pairs

PHOTOS = {pair.stem: pair.hr for part in ("train", "val") for pair in embedded_pairs(part)}


def enlarged(photo: torch.Tensor, factor: int) -> torch.Tensor:
    small = downscale_u8(mod_crop(photo, factor), factor)
    return to_u8(upscale_bicubic(small[None].float() / 255, factor))[0]


def by_lanczos(photo: torch.Tensor) -> torch.Tensor:
    image = Image.fromarray(photo.permute(1, 2, 0).numpy())
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    large = small.resize(image.size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(large)).permute(2, 0, 1)


def screenshot(side: int = 256) -> torch.Tensor:
    image = Image.new("RGB", (side, side), "white")
    for line in range(12, side - 12, 18):
        ImageDraw.Draw(image).text((10, line), f"line {line} of some window", fill="black")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_are_taken_for_photos_and_enlarged_ones_for_enlarged(name):
    photo = read_rgb_u8(PHOTOS[name])
    assert not is_enlarged(photo) and not is_screenshot(photo)
    assert not is_enlarged(downscale_u8(mod_crop(photo, 2), 2))
    for doubtful in (enlarged(photo, 2), enlarged(photo, 4), by_lanczos(photo)):
        assert is_enlarged(doubtful) and not is_screenshot(doubtful)


def test_a_window_full_of_small_text_is_a_screenshot():
    window = Image.new("RGB", (400, 300), (245, 245, 248))
    draw = ImageDraw.Draw(window)
    draw.rectangle((0, 0, 400, 30), fill=(40, 80, 160))
    for row in range(18):
        draw.text((12, 36 + 14 * row), f"{row} Lorem ipsum dolor sit amet, consectetur " * 2, fill=(20, 20, 20))
    assert is_screenshot(torch.from_numpy(np.array(window)).permute(2, 0, 1))


def test_screenshots_and_images_that_say_nothing():
    assert is_screenshot(screenshot()) and not is_enlarged(screenshot())
    ramp = torch.linspace(0, 255, 200).to(torch.uint8).expand(3, 100, 200)
    assert not is_enlarged(ramp) and not is_enlarged(torch.zeros(3, 8, 8, dtype=torch.uint8))


def notes_about(folder: Path, images: list[torch.Tensor]) -> list[str]:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:02d}.png")
    lines: list[str] = []
    prepare_data(DataChoice(data=folder, cache_size=0), scale=2, lr_patch=16, context=Context(note=lines.append))
    return lines


def about(lines: list[str]) -> list[str]:
    return [line.removeprefix("about these images: ") for line in lines if line.startswith("about these images: ")]


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return read_rgb_u8(PHOTOS["coffee"])[:, :128, :128].contiguous()


def test_doubts_are_said_before_the_run(tmp_path, photo):
    shot = screenshot(128)
    cases: dict[str, tuple[list[torch.Tensor], Callable[[list[str]], bool]]] = {
        "one": ([photo], lambda lines: len(lines) == 1 and lines[0].startswith("one training image: ")),
        "few": ([photo] * 3, lambda lines: len(lines) == 1 and lines[0].startswith("only 3 training images: ")),
        "many": ([photo] * 24, lambda lines: lines == []),
        "odd": ([photo] * 22 + [shot], lambda lines: lines == []),
        "shots": (
            [photo, shot] * 12,
            lambda lines: len(lines) == 1 and "look like screenshots or drawings" in lines[0],
        ),
        "large": (
            [enlarged(photo, 2)] * 24,
            lambda lines: len(lines) == 1 and lines[0].startswith("12 of 12 examined images (00, ...) look as if"),
        ),
    }
    for name, (images, expected) in cases.items():
        lines = about(notes_about(tmp_path / name, images))
        assert expected(lines), (name, lines)


def test_the_images_that_validate_are_named(tmp_path, photo):
    assert notes_about(tmp_path / "few", [photo] * 2)[-1] == "validating on 2 embedded photos: astronaut, chelsea"
    line = notes_about(tmp_path / "many", [photo] * 31)[-1]
    assert line == "validating on 2 images of --data that are not trained on: 10, 30"
    notes: list[str] = []
    choice = DataChoice(data=tmp_path / "few", val=(ValidationFolder(tmp_path / "many"),), cache_size=0)
    prepare_data(choice, scale=2, lr_patch=16, context=Context(note=notes.append))
    assert notes[-1].startswith(f"validating on 31 images of {tmp_path / 'many'}: 00, 01, 02, 03, 04 and 26 more")
