"""A folder with every kind of picture file, read into one store with the correct pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.data.batches import Batches
from compressor.data.decode import decode_all
from compressor.data.prepare import DataChoice, ValidationFolder, prepare_data
from compressor.images.files import Picture, write_picture
from compressor.images.sets import find_sets

HEIGHT, WIDTH = 32, 44
Pixels = np.ndarray


def photo() -> Pixels:
    """Return a smooth photo, so that lossy formats stay close, different in each corner and channel."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([rows * 7, columns * 5, 255 - 2 * rows - 3 * columns], axis=-1).astype(np.uint8)


def turned(path: Path, orientation: int, **options: object) -> Pixels:
    """Return a photo stored on its side with its orientation tag, and the upright one that must be read."""
    upright = photo()
    stored = {3: upright[::-1, ::-1], 6: np.rot90(upright, 1), 8: np.rot90(upright, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif.tobytes(), **options)
    return upright


def write_all(folder: Path) -> dict[str, tuple[Pixels, int]]:
    """Write files of every kind; return for each name its pixels and the tolerance of a lossy file."""
    folder.mkdir()
    rgb = photo()
    grey = rgb[..., 0]
    grey3 = np.repeat(grey[..., None], 3, axis=2)
    image = Image.fromarray(rgb)
    expected: dict[str, tuple[Pixels, int]] = {}
    for suffix, options, within in (
        ("png", {}, 0),
        ("bmp", {}, 0),
        ("tif", {"compression": "tiff_lzw"}, 0),
        ("tiff", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("jpg", {"quality": 98, "subsampling": 0}, 6),
        ("JPEG", {"quality": 98, "subsampling": 0}, 6),
    ):
        image.save(folder / f"rgb-{suffix}.{suffix}", **options)
        expected[f"rgb-{suffix}"] = rgb, within
    for suffix in ("png", "jpg", "tif", "bmp"):
        Image.fromarray(grey).save(folder / f"grey-{suffix}.{suffix}")
        expected[f"grey-{suffix}"] = grey3, 6 if suffix == "jpg" else 0
    for suffix in ("png", "webp", "tif"):
        clear = np.dstack([rgb, np.full((HEIGHT, WIDTH), 90, np.uint8)])
        Image.fromarray(clear).save(
            folder / f"alpha-{suffix}.{suffix}", **({"lossless": True} if suffix == "webp" else {})
        )
        expected[f"alpha-{suffix}"] = rgb, 0
    image.quantize(256).save(folder / "palette.png")
    for suffix in ("gif", "avif"):
        image.quantize(256).convert("RGB").save(folder / f"{suffix}.{suffix}", quality=100)
        expected[suffix] = np.array(image.quantize(256).convert("RGB")), 0 if suffix == "gif" else 16
    expected["palette"] = np.array(image.quantize(256).convert("RGB")), 0
    deep = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1) / 255
    for suffix in ("png", "tif"):
        write_picture(Picture(deep, bits=16), folder / f"deep-{suffix}.{suffix}")
        expected[f"deep-{suffix}"] = rgb, 0
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep-grey.png")
    expected["deep-grey"] = grey3, 0
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=98, subsampling=0)
    image.convert("CMYK").save(folder / "cmyk-tif.tif")
    expected["cmyk"] = rgb, 8
    expected["cmyk-tif"] = rgb, 0
    expected["turned-6"] = turned(folder / "turned-6.jpg", 6, quality=98, subsampling=0), 6
    expected["turned-8"] = turned(folder / "turned-8.png", 8), 0
    expected["turned-3"] = turned(folder / "turned-3.webp", 3, lossless=True), 0
    return expected


def test_every_format_and_kind_of_pixel_in_one_folder(tmp_path):
    expected = write_all(tmp_path / "mixed")
    (image_set,) = find_sets(tmp_path / "mixed", scale=2)
    store = decode_all(image_set.pairs, scale=2).select(lr_patch=8)
    assert not store.skipped and set(store.names) == set(expected)
    for index, name in enumerate(store.names):
        pixels, within = expected[name]
        actual = store.hr.image(index).permute(1, 2, 0).numpy().astype(int)
        assert actual.shape == pixels.shape, name
        assert np.abs(actual - pixels).max() <= within, (name, np.abs(actual - pixels).max())
    batch = Batches.for_store(store, batch=64, lr_patch=8, seed=0).at(0)
    assert batch.hr is not None and tuple(batch.hr.shape) == (64, 3, 16, 16)


def own_pairs(folder: Path, size: tuple[int, int] = (24, 16)) -> None:
    """Write HR images, and LR images of noise, which no bicubic makes."""
    rng = np.random.default_rng(3)
    for part, (width, height) in (("HR", (48, 32)), ("LR", size)):
        (folder / part).mkdir(parents=True)
        for name in ("a", "b"):
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            suffix = "" if part == "HR" else "x2"
            Image.fromarray(pixels).save(folder / part / f"{name}{suffix}.png")


def test_ones_own_lr_images_are_left_as_they_are(tmp_path):
    own_pairs(tmp_path)
    store = prepare_data(DataChoice(data=tmp_path / "HR", lr=tmp_path / "LR"), scale=2, lr_patch=8).train
    assert store.names == ("a", "b")
    for index, name in enumerate(store.names):
        stored = torch.from_numpy(np.array(Image.open(tmp_path / "LR" / f"{name}x2.png"))).permute(2, 0, 1)
        assert torch.equal(store.lr.image(index), stored)


@pytest.mark.parametrize("size, message_size", [((25, 16), "25x16"), ((24, 15), "24x15"), ((48, 32), "48x32")])
def test_lr_images_of_another_ratio_are_named_with_what_they_should_be(size, message_size, tmp_path):
    own_pairs(tmp_path, size)
    with pytest.raises(SrkdError) as caught:
        prepare_data(DataChoice(data=tmp_path / "HR", lr=tmp_path / "LR"), scale=2, lr_patch=8)
    message = str(caught.value)
    assert "ax2.png" in message and message_size in message and "a.png needs 24x16 at x2" in message


def test_a_large_folder_gives_some_images_to_validation(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(25):
        Image.fromarray(np.full((16, 16, 3), index, np.uint8)).save(folder / f"{index}.png")
    data = prepare_data(DataChoice(data=folder), scale=2, lr_patch=4)
    assert data.validation_names == ("10",) and data.validation[0].name == "held out"
    assert len(data.train) == 24 and "10" not in data.train.names
    (image,) = data.validation[0].images
    assert image.hr is not None and float(image.hr.float().mean()) == 10
    (folder / "10.png").write_bytes(b"no picture")
    data = prepare_data(DataChoice(data=folder), scale=2, lr_patch=4)
    assert len(data.train) == 23 and len(data.validation_names) == 1, "held out are those that can be read"
    assert [image.path.name for image in data.skipped] == ["10.png"]


def test_the_images_that_validate_are_named(tmp_path: Path) -> None:
    def last_line(name: str, count: int, val: tuple[ValidationFolder, ...] = ()) -> str:
        for index in range(count):
            write_picture(Picture(torch.from_numpy(photo()).permute(2, 0, 1)), tmp_path / name / f"{index:02d}.png")
        lines: list[str] = []
        choice = DataChoice(data=tmp_path / name, val=val, cache_size=0)
        prepare_data(choice, scale=2, lr_patch=16, context=Context(note=lines.append))
        return lines[-1]

    assert last_line("few", 2) == "validating on 2 embedded photos: astronaut, chelsea"
    assert last_line("many", 31) == "validating on 2 images of --data that are not trained on: 10, 30"
    line = last_line("few", 2, (ValidationFolder(tmp_path / "many"),))
    assert line.startswith(f"validating on 31 images of {tmp_path / 'many'}: 00, 01, 02, 03, 04 and 26 more")
